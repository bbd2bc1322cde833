"""Cooks captured packets: link layer, IP and transport headers become named fields.

In: ``raw.network.packet``, one captured packet each, from the link-layer header on; ``packet.link_type`` says which
that is, ``packet.length`` how long the packet was on the wire. Out: ``cooked.network.packet``, one event for each.

Lengths are those of the IP packet on the wire, of the frame where it holds no IP. TCP flags and ICMP types are in the
fields that flows have, so that a detector sees packets and flows alike. Of tunnels the outermost packet is named.

Source: see `eddy_agents.wire.packet`.
"""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np

from eddy_agents.wire.packet import Integers, Mask, decode
from eddy_agents.wire.packet_columns import packet_columns
from eddy_mesh.agent import Draft, Example, Refusal, Result
from eddy_mesh.batch import Batch, Kind
from eddy_mesh.cer import EventClass, Stage
from eddy_mesh.columns import Column, Constant, Index, Numbers, Packed, pack

INPUT: tuple[str, ...] = ("packet",)
ON_DEMAND = True  # no event is needed to understand a later one

KIND: Final = Kind(Stage.COOKED, EventClass.NETWORK, "packet")
_ENVELOPE: Final = ("occurred", "observed", "host", "host_address", "normalizer", "normalizer_address")
_MAX_BYTES: Final = 0xFFFF_FFFF


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the packet cooking."""

    link_type: int = 1
    """LINKTYPE number of packets that do not say theirs; 1 is Ethernet."""


class Cooking:
    """Names the fields of packet headers; keeps nothing."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def on_batch(self, batch: Batch, now_ns: int) -> Result:  # noqa: ARG002  # reads no clock
        """Return one cooked event for each packet whose link type is known."""
        data, offsets = _payloads(batch.column("event.original"))
        captured = np.diff(offsets)
        link_types = _integers(batch.column("packet.link_type"), np.full(batch.count, self._config.link_type))
        lengths = np.clip(_integers(batch.column("packet.length"), captured), captured, _MAX_BYTES)
        headers = decode(data, offsets, link_types, lengths)
        columns = packet_columns(headers)
        columns["network.bytes"] = Numbers(np.where(headers.version > 0, headers.ip_bytes, lengths).astype(np.uint32))
        columns["network.packets"] = Constant(1, batch.count)
        refusals = _refusals(headers.known, link_types)
        index = np.flatnonzero(headers.known)
        if not len(index):
            return Result((), refusals)
        if len(index) < batch.count:
            columns = {name: column.take(index) for name, column in columns.items()}
        return Result((Draft(KIND, len(index), columns | _carried(batch, index)),), refusals)

    def on_tick(self, now_ns: int) -> Result:  # noqa: ARG002  # the same
        """Do nothing: no state."""
        return Result()


def _payloads(column: Column) -> tuple[bytes | memoryview, Integers]:
    """Return the packets end to end and where each begins; an event without payload has none."""
    if isinstance(column, Packed):
        return column.data, column.offsets.astype(np.int64)
    values = [column.at(row) for row in range(len(column))]
    offsets, data = pack([value if isinstance(value, bytes) else b"" for value in values])
    return data, offsets.astype(np.int64)


def _integers(column: Column, default: Integers) -> Integers:
    """Return the numbers of a column, and the default where it has none."""
    if isinstance(column, Numbers) and column.values.dtype.kind in "iu":
        values = column.values.astype(np.int64)
        return values if column.nulls is None else np.where(column.nulls, default, values)
    if isinstance(column, Constant) and column.value is None:
        return default
    held = [column.at(row) for row in range(len(column))]
    pairs = zip(held, default.tolist(), strict=True)
    return np.array(
        [value if isinstance(value, int) and 0 <= value <= _MAX_BYTES else other for value, other in pairs], np.int64
    )


def _refusals(known: Mask, link_types: Integers) -> tuple[Refusal, ...]:
    rows = np.flatnonzero(~known).tolist()
    if not rows:
        return ()
    detail = f"link type {link_types[rows[0]]} can not be decoded; capture on another interface or set link_type"
    return (Refusal(rows, "unknown_link_type", detail),)


def _carried(batch: Batch, index: Index) -> dict[str, Column]:
    """Return what a cooked event has from its raw one: envelope, tags, and the raw event as parent."""
    names = [name for name in batch.columns if name in _ENVELOPE or name.startswith("tags.")]
    return {name: batch.columns[name].take(index) for name in names} | {"parents": batch.ids().take(index)}


_SYN: Final = bytes.fromhex(
    "0200000000020200000000018100006408004500002800010000400600000a0000010a000002"
    "c001001600000001000000005002ffff00000000"
)
_ECHO_REQUEST: Final = bytes.fromhex(
    "02000000000202000000000186dd6000000000083a40"
    "20010db8000000000000000000000001"
    "20010db8000000000000000000000002"
    "8000000000010001"
)

EXAMPLES: tuple[Example, ...] = (
    Example(
        given=(_SYN, _ECHO_REQUEST),
        expected=(
            {
                "source.ip": "10.0.0.1",
                "source.port": 49153,
                "source.mac": "02:00:00:00:00:01",
                "destination.ip": "10.0.0.2",
                "destination.port": 22,
                "network.transport": "tcp",
                "network.type": "ipv4",
                "network.vlan.id": "100",
                "network.bytes": 40,
                "network.packets": 1,
                "netflow.tcpControlBits": 2,
            },
            {
                "source.ip": "2001:db8::1",
                "destination.ip": "2001:db8::2",
                "network.iana_number": 58,
                "network.type": "ipv6",
                "netflow.icmpTypeCodeIPv6": 32768,
            },
        ),
    ),
)
