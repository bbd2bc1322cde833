"""sFlow version 5 datagrams.

What may live here: the values that a datagram holds and `decode`, which makes them of bytes. Sampled packet headers are
left as bytes, `eddy_agents.wire.packet` reads many at once; records are in ``sflow_records`` and ``sflow_counters``.

Without its header a datagram is refused. Of one that is cut, or has a sample whose lengths are not right, the other
samples are kept, and the datagram says what is wrong. A record whose contents are not what its format says is kept as
hexadecimal text and takes nothing else with it.

Source: Phaal and Lavine, sFlow version 5, July 2004; sFlow Dropped Packet Notification Structures, 2020.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

from eddy_agents.wire.sflow_counters import counter_fields
from eddy_agents.wire.sflow_records import flow_fields, unknown_name
from eddy_agents.wire.xdr import XdrReader
from eddy_mesh.cer import Value
from eddy_mesh.errors import WireError

_SOURCE: Final = "sflow"
_VERSION: Final = 5
_FLOW, _COUNTER, _FLOW_EXPANDED, _COUNTER_EXPANDED, _DISCARD = 1, 2, 3, 4, 5
_SAMPLED_HEADER: Final = 1
_LINK_TYPES: Final = {1: 1, 7: 9, 11: 228, 12: 229, 13: 219, 14: 50}
"""sFlow header_protocol to LINKTYPE: Ethernet, PPP, IPv4, IPv6, MPLS, PPP over SONET."""


class SampleHead(NamedTuple):
    """What a flow sample says of its sampling.

    Attributes:
        sequence: number of the sample at its data source.
        source_type, source_index: data source; type 0 is an interface.
        sampling_rate: one packet in this many is sampled.
        sample_pool: packets that could have been sampled so far.
        drops: samples that the agent dropped so far.
        input_format, input_value: 0 and an ifIndex, or what the specification says of other formats.
        output_format, output_value: the same for the way out; format 1 a reason to discard, 2 a number of interfaces.
    """

    sequence: int
    source_type: int
    source_index: int
    sampling_rate: int
    sample_pool: int
    drops: int
    input_format: int
    input_value: int
    output_format: int
    output_value: int


class FlowSample(NamedTuple):
    """One sampled packet.

    Attributes:
        head: how it was sampled.
        link_type: LINKTYPE of ``header``; 0xFFFF where it has none, or there is no header.
        frame_length: octets on the wire, -1 where there is no header.
        header: first bytes of the frame.
        fields: members of all other records, as event fields.
    """

    head: SampleHead
    link_type: int
    frame_length: int
    header: bytes
    fields: dict[str, Value]


class DiscardHead(NamedTuple):
    """What an agent says of a packet that it, or its hardware, did not pass on.

    Attributes:
        sequence: number of the sample at its data source.
        source_type, source_index: data source; type 0 is an interface.
        drops: discards so far that were not told, for want of resources or by a limit of rate.
        way_in, way_out: ifIndex, 0 where not known, or where the packet did not come so far.
        reason: below 256 the code of ICMP "destination unreachable" that fits, else a number of the specification.
    """

    sequence: int
    source_type: int
    source_index: int
    drops: int
    way_in: int
    way_out: int
    reason: int


class DiscardSample(NamedTuple):
    """One packet that was discarded; but for ``head`` as in `FlowSample`."""

    head: DiscardHead
    link_type: int
    frame_length: int
    header: bytes
    fields: dict[str, Value]


class CounterSample(NamedTuple):
    """Counters of one data source; ``fields`` are the members of all records, as event fields."""

    sequence: int
    source_type: int
    source_index: int
    fields: dict[str, Value]


class Datagram(NamedTuple):
    """One datagram.

    Attributes:
        agent: address of the agent, canonical text.
        sub_agent: which of its processes sent it.
        sequence: number of the datagram, counted by the sub-agent.
        uptime_ms: ms since the agent started.
        flows, counters: samples in order.
        others: samples of a format that is not known, as fields ``sflow.<enterprise>_<format>``.
        discards: samples of discarded packets.
        defects: what is wrong with it: at most one for each sample that could not be read.
    """

    agent: str
    sub_agent: int
    sequence: int
    uptime_ms: int
    flows: list[FlowSample]
    counters: list[CounterSample]
    others: list[dict[str, Value]]
    discards: list[DiscardSample]
    defects: list[WireError]


def decode(payload: bytes) -> Datagram:
    """Return what a datagram holds, and what of it could not be read.

    Raises:
        WireError: it is not sFlow version 5, or its header is cut.
    """
    reader = XdrReader(payload, 0, len(payload))
    version = reader.number()
    if version != _VERSION:
        raise WireError(_SOURCE, f"version {version} is not supported; set the agent to sFlow version 5", 0)
    agent = reader.address() or "0.0.0.0"  # noqa: S104  # an agent that does not know its address, not one to bind
    sub_agent, sequence, uptime_ms, count = reader.numbers(_FOUR)
    datagram = Datagram(agent, sub_agent, sequence, uptime_ms, [], [], [], [], [])
    for _ in range(count):
        try:
            number, size = reader.numbers(_TWO)
            start = reader.step(size)
        except WireError as defect:  # nothing says where a further sample begins
            datagram.defects.append(defect)
            break
        try:
            _add_sample(datagram, number, XdrReader(payload, start, start + size))
        except WireError as defect:
            datagram.defects.append(defect)
    return datagram


def _add_sample(datagram: Datagram, number: int, reader: XdrReader) -> None:
    if number in {_FLOW, _FLOW_EXPANDED}:
        datagram.flows.append(_flow_sample(reader, is_expanded=number == _FLOW_EXPANDED))
    elif number in {_COUNTER, _COUNTER_EXPANDED}:
        datagram.counters.append(_counter_sample(reader, is_expanded=number == _COUNTER_EXPANDED))
    elif number == _DISCARD:
        head = DiscardHead._make(reader.numbers(_DISCARD_HEAD))
        datagram.discards.append(DiscardSample(head, *_packet(reader)))
    else:
        body = reader.data[reader.position : reader.end]
        datagram.others.append({unknown_name(number): body.hex()})


def _flow_sample(reader: XdrReader, *, is_expanded: bool) -> FlowSample:
    if is_expanded:
        head = reader.numbers(_EXPANDED_FLOW)
    else:
        sequence, source, rate, pool, drops, way_in, way_out = reader.numbers(_COMPACT_FLOW)
        ways = (way_in >> 30, way_in & 0x3FFF_FFFF, way_out >> 30, way_out & 0x3FFF_FFFF)
        head = (sequence, source >> 24, source & 0xFF_FFFF, rate, pool, drops, *ways)
    return FlowSample(SampleHead._make(head), *_packet(reader))


def _packet(reader: XdrReader) -> tuple[int, int, bytes, dict[str, Value]]:
    """Return link type, frame length, header and other fields of the records about one packet."""
    link_type, frame_length, header = _NO_LINK, -1, b""
    fields: dict[str, Value] = {}
    for number, record in _records(reader):
        if number == _SAMPLED_HEADER and frame_length < 0 and (sampled := _sampled_header(record)) is not None:
            link_type, frame_length, stripped, header = sampled
            if stripped:
                fields["sflow.stripped"] = stripped
            if link_type == _NO_LINK:
                fields[unknown_name(number)] = record.data[record.position : record.end].hex()
        else:
            fields |= flow_fields(number, record)
    return link_type, frame_length, header, fields


def _counter_sample(reader: XdrReader, *, is_expanded: bool) -> CounterSample:
    if is_expanded:
        sequence, source_type, source_index = reader.numbers(_THREE)
    else:
        sequence, source = reader.numbers(_TWO)
        source_type, source_index = source >> 24, source & 0xFF_FFFF
    fields: dict[str, Value] = {}
    for number, record in _records(reader):
        fields |= counter_fields(number >> 12, number & 0xFFF, record.data[record.position : record.end])
    return CounterSample(sequence, source_type, source_index, fields)


def _records(reader: XdrReader) -> list[tuple[int, XdrReader]]:
    """Return the format number and the body of each record of a sample."""
    records = []
    for _ in range(reader.number()):
        number, size = reader.numbers(_TWO)
        start = reader.step(size)
        records.append((number, XdrReader(reader.data, start, start + size)))
        reader.position += min(-size % 4, reader.end - reader.position)
    return records


def _sampled_header(record: XdrReader) -> tuple[int, int, int, bytes] | None:
    """Return link type, frame length, stripped octets and header; None where the record is too short for them."""
    if record.end - record.position < _SAMPLED.size:
        return None
    protocol, frame_length, stripped, size = _SAMPLED.unpack_from(record.data, record.position)
    start = record.position + _SAMPLED.size
    if start + size > record.end:
        return None
    return _LINK_TYPES.get(protocol, _NO_LINK), frame_length, stripped, record.data[start : start + size]


_TWO, _THREE, _FOUR = Struct(">2I"), Struct(">3I"), Struct(">4I")
_COMPACT_FLOW: Final = Struct(">7I")
_EXPANDED_FLOW: Final = Struct(">10I")
_DISCARD_HEAD: Final = Struct(">7I")
_SAMPLED: Final = Struct(">4I")
_NO_LINK: Final = 0xFFFF
