"""Flow records of sFlow samples: what an agent says of a sampled packet besides its header.

What may live here: one small reader for each structure, and `flow_fields`, which finds it. A field has its ECS name
where ECS has one, the name that flows use where detectors need it, else ``sflow.`` and the member's name.

Source: sFlow version 5 (July 2004) section 5.3; the catalogue of sFlow structure numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Final

from eddy_agents.wire.xdr import MAX_LIST, XdrReader
from eddy_mesh.cer import Value
from eddy_mesh.columns import v4_text
from eddy_mesh.errors import WireError
from eddy_mesh.registry.protocols import protocol_name

_WITH_PORTS: Final = (6, 17, 33, 132, 136)
_TWO, _FOUR, _EIGHT = Struct(">2I"), Struct(">4I"), Struct(">8I")


def flow_fields(number: int, record: XdrReader) -> dict[str, Value]:
    """Return the members of a flow record; one that is unknown or not what its format says as hexadecimal text."""
    name = unknown_name(number)
    start = record.position
    read = _FLOW_RECORDS.get(number)
    if read is None:
        return {name: record.data[start : record.end].hex()}
    try:
        fields: dict[str, Value] = {field: value for field, value in read(record).items() if value is not None}
    except WireError:
        return {name: record.data[start : record.end].hex()}
    if record.position < record.end:  # a structure that was extended later
        fields[name] = record.data[record.position : record.end].hex()
    return fields


def unknown_name(number: int) -> str:
    """Return the field for what has no layout: ``sflow.<enterprise>_<format>`` of a 32-bit format number."""
    return f"sflow.{number >> 12}_{number & 0xFFF}"


def _ethernet(record: XdrReader) -> dict[str, Value]:
    length = record.number()
    source, destination = record.opaque(6), record.opaque(6)
    return {
        "network.bytes": length,
        "source.mac": source.hex(":"),
        "destination.mac": destination.hex(":"),
        "sflow.type": record.number(),
    }


def _ipv4(record: XdrReader) -> dict[str, Value]:
    length, protocol, source, destination, source_port, destination_port, flags, tos = record.numbers(_EIGHT)
    fields = _sampled_ip("ipv4", length, protocol, source_port, destination_port, flags, tos)
    return fields | {"source.ip": v4_text(source), "destination.ip": v4_text(destination)}


def _ipv6(record: XdrReader) -> dict[str, Value]:
    length, protocol = record.numbers(_TWO)
    source, destination = record.v6(), record.v6()
    source_port, destination_port, flags, priority = record.numbers(_FOUR)
    fields = _sampled_ip("ipv6", length, protocol, source_port, destination_port, flags, priority)
    return fields | {"source.ip": source, "destination.ip": destination}


def _sampled_ip(
    kind: str, length: int, protocol: int, source_port: int, destination_port: int, flags: int, tos: int
) -> dict[str, Value]:
    has_ports = protocol in _WITH_PORTS
    return {
        "network.type": kind,
        "network.bytes": length,
        "network.iana_number": protocol & 0xFF,
        "network.transport": protocol_name(protocol & 0xFF),
        "source.port": source_port if has_ports else None,
        "destination.port": destination_port if has_ports else None,
        "netflow.tcpControlBits": flags if protocol == 6 else None,
        "netflow.ipClassOfService": tos,
    }


def _switch(record: XdrReader) -> dict[str, Value]:
    source_vlan, source_priority, destination_vlan, destination_priority = record.numbers(_FOUR)
    return {
        "network.vlan.id": str(source_vlan) if source_vlan else None,
        "sflow.src_vlan": source_vlan,
        "sflow.src_priority": source_priority,
        "sflow.dst_vlan": destination_vlan,
        "sflow.dst_priority": destination_priority,
    }


def _router(record: XdrReader) -> dict[str, Value]:
    return {
        "sflow.nexthop": record.address(),
        "sflow.src_mask_len": record.number(),
        "sflow.dst_mask_len": record.number(),
    }


def _gateway(record: XdrReader) -> dict[str, Value]:
    nexthop = record.address()
    own, source, source_peer, segments = record.numbers(_FOUR)
    path: list[object] = []
    for _ in range(min(segments, MAX_LIST)):
        record.number()  # ordered or a set: both are on the path
        path += record.listed()
    return {
        "sflow.gateway_nexthop": nexthop,
        "sflow.as": own,
        "source.as.number": source,
        "sflow.src_peer_as": source_peer,
        "sflow.dst_as_path": path or None,
        "destination.as.number": path[-1] if path else None,  # type: ignore[dict-item]  # `listed` reads ints
        "sflow.communities": record.listed() or None,
        "sflow.localpref": record.number(),
    }


def _user(record: XdrReader) -> dict[str, Value]:
    record.number()  # character set: UTF-8 or a subset in practice
    source = record.text()
    record.number()
    return {"source.user.name": source or None, "destination.user.name": record.text() or None}


def _url(record: XdrReader) -> dict[str, Value]:
    return {"sflow.direction": record.number(), "url.original": record.text(), "url.domain": record.text() or None}


def _mpls(record: XdrReader) -> dict[str, Value]:
    return {
        "sflow.mpls_nexthop": record.address(),
        "sflow.in_stack": record.listed() or None,
        "sflow.out_stack": record.listed() or None,
    }


def _nat(record: XdrReader) -> dict[str, Value]:
    return {"source.nat.ip": record.address(), "destination.nat.ip": record.address()}


def _nat_port(record: XdrReader) -> dict[str, Value]:
    return {"source.nat.port": record.number(), "destination.nat.port": record.number()}


def _vlan_tunnel(record: XdrReader) -> dict[str, Value]:
    return {"sflow.vlan_stack": record.listed() or None}


_FLOW_RECORDS: Final[dict[int, Callable[[XdrReader], dict[str, Value]]]] = {
    2: _ethernet,
    3: _ipv4,
    4: _ipv6,
    1001: _switch,
    1002: _router,
    1003: _gateway,
    1004: _user,
    1005: _url,
    1006: _mpls,
    1007: _nat,
    1012: _vlan_tunnel,
    1020: _nat_port,
}
"""Format number of a flow record of enterprise 0 to its reader."""
