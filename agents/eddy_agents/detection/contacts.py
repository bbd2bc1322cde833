"""Who sent what to whom: what detectors read from flows and packets alike, as arrays.

What may live here: `Contacts`, how it is read from a batch, and exact row-wise set operations on arrays of numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from eddy_agents.detection.windows import mixed
from eddy_mesh.batch import Batch
from eddy_mesh.cer import Value
from eddy_mesh.columns import Addresses, Constant, Index, address_halves, nulls_of
from eddy_mesh.fields import field as registered
from eddy_mesh.registry.protocols import protocol_name
from eddy_mesh.selection.lookup import field_column, integers

Integers = npt.NDArray[np.int64]
Rows = npt.NDArray[np.uint64]
"""Shape (n, k): n tuples of k numbers."""
Mask = npt.NDArray[np.bool_]

FIN, SYN, RST, ACK = 1, 2, 4, 16
"""Bits of ``netflow.tcpControlBits``. Source: RFC 9293 section 3.1, RFC 7125 section 3."""
ICMP, TCP, UDP, ICMP_V6 = 1, 6, 17, 58
ABSENT = -1

DENIED: Final = 3
"""Value of ``netflow.firewallEvent``. Source: IANA IPFIX registry, element 233."""

_BACK: Final = (
    "netflow.reversePacketDeltaCount",
    "netflow.reverseOctetDeltaCount",
    "netflow.responderPackets",
    "netflow.responderOctets",
)
"""What came back, where one record tells of both directions. Source: RFC 5103 section 6, Cisco NSEL."""

FIELDS: Final = (
    "id",
    "occurred",
    "observed",
    "event.start",
    "event.end",
    "source.ip",
    "source.port",
    "destination.ip",
    "destination.port",
    "network.iana_number",
    "network.packets",
    "netflow.tcpControlBits",
    "netflow.sampling_interval",
    "netflow.firewallEvent",
    *(name for name in _BACK if registered(name) is not None),
)
"""What `contacts_of` looks at."""

_FROM: Final = "FROM network.netflow.*, network.packet WHERE stage = 'cooked' AND destination.ip IS NOT NULL"
INPUT: Final = f"SELECT {', '.join(FIELDS)} {_FROM}"
"""Statement for the events that `contacts_of` understands."""

_MAX_PACKETS: Final = 2**32
"""More packets of one flow are not believed, so that sums of them can not overflow."""


@dataclass(frozen=True, slots=True)
class Contacts:
    """Flows or packets that name both ends, as arrays of equal length; `ABSENT` where an event does not say.

    Sampled flows are left out: one packet of many does not tell whether a connection was completed.

    Attributes:
        source: upper and lower half of the address, IPv4 mapped.
        destination: likewise.
        source_port: 0 where there is none.
        destination_port: likewise.
        protocol: IANA number.
        flags: TCP control bits; `ABSENT` also where an exporter of flows writes 0 for not known.
        packets: 1 or more; `ABSENT` where an exporter does not count them.
        answered: 1 where the event itself tells that something came back, else 0.
        denied: 1 where a firewall tells that it let nothing through, else 0.
        time_ns: when it began, by the source's clock, never later than now.
        duration_ns: how long it went on, until now at most; 0 where the event does not say.
        seen_ns: what the detector's `EventClock` showed when it came; 0 until `seen_at` tells.
        ids: upper and lower half of the event's id.
    """

    source: Rows
    destination: Rows
    source_port: Integers
    destination_port: Integers
    protocol: Integers
    flags: Integers
    packets: Integers
    answered: Integers
    denied: Integers
    time_ns: Integers
    duration_ns: Integers
    seen_ns: Integers
    ids: Rows

    def __len__(self) -> int:
        return len(self.time_ns)

    def where(self, mask: Mask | Index) -> Contacts:
        """Return those for which a mask is True, or those that an index names, in its order."""
        return Contacts(*(getattr(self, name)[mask] for name in _NAMES))

    def seen_at(self, clock_ns: int) -> Contacts:
        """Return the same with the time at which they came."""
        return replace(self, seen_ns=np.full(len(self), clock_ns, np.int64))

    def to_many(self) -> Mask:
        """Return True where the destination is a group or everybody: nobody answers for it.

        Source: RFC 5771 section 3, RFC 4291 section 2.7, RFC 919 section 7.
        """
        high, low = self.destination.T
        four = (high == 0) & (low >> np.uint64(32) == 0xFFFF)
        group = (low & np.uint64(0xF000_0000)) == 0xE000_0000
        everybody = (low & np.uint64(0xFFFF_FFFF)) == 0xFFFF_FFFF
        result: Mask = four & (group | everybody) | (high >> np.uint64(56) == 0xFF)
        return result

    def forward(self) -> Rows:
        """Return source, destination, destination port and protocol: whom a request goes to."""
        return self._tuples(self.source, self.destination, self.destination_port)

    def backward(self) -> Rows:
        """Return what `forward` gives for the request that this would be the answer to."""
        return self._tuples(self.destination, self.source, self.source_port)

    def _tuples(self, first: Rows, second: Rows, port: Integers) -> Rows:
        ends = (port.astype(np.uint64), self.protocol.astype(np.uint64))
        return np.column_stack((first, second, *ends))


_NAMES: Final = tuple(field.name for field in fields(Contacts))
_NO_ROWS: Final = np.zeros((0, 2), np.uint64)
_NOTHING: Final = Contacts(_NO_ROWS, _NO_ROWS, *(np.zeros(0, np.int64),) * 10, _NO_ROWS)


def contacts_of(batch: Batch, now_ns: int) -> Contacts:
    """Return the contacts of a batch of flows or packets.

    Args:
        batch: cooked flows or packets; other events give none.
        now_ns: ns since 1970 UTC.
    """
    source, has_source = _halves(batch, "source.ip")
    destination, has_destination = _halves(batch, "destination.ip")
    protocol = integers(batch, "network.iana_number")
    sampled = integers(batch, "netflow.sampling_interval") > 1
    flags = integers(batch, "netflow.tcpControlBits")
    if batch.kind.type != "packet":
        flags = np.where(flags == 0, ABSENT, flags)
    times = started_ns(batch, now_ns)
    ids = batch.ids()
    every = Contacts(
        source,
        destination,
        np.clip(integers(batch, "source.port"), 0, 0xFFFF),
        np.clip(integers(batch, "destination.port"), 0, 0xFFFF),
        protocol,
        flags,
        _packets(batch),
        np.max([integers(batch, name) for name in _BACK], axis=0).clip(0, 1),
        (integers(batch, "netflow.firewallEvent") == DENIED).astype(np.int64),
        times,
        np.maximum(np.minimum(integers(batch, "event.end"), now_ns) - times, 0),
        np.zeros(batch.count, np.int64),
        np.column_stack((ids.highs(), ids.low)),
    )
    return every.where(has_source & has_destination & ~sampled & (protocol >= 0))


def joined(parts: Sequence[Contacts]) -> Contacts:
    """Return the contacts of all parts, in order; at least one part."""
    if len(parts) == 1:
        return parts[0]
    return Contacts(*(np.concatenate([getattr(part, name) for part in parts]) for name in _NAMES))


def nothing() -> Contacts:
    """Return no contacts."""
    return _NOTHING


def started_ns(batch: Batch, now_ns: int) -> Integers:
    """Return when each event happened, ns since 1970 UTC: its start, else when it occurred or was observed, else now.

    No time is later than now: a clock that runs ahead must not close the windows of all others.
    """
    times = np.full(batch.count, ABSENT, np.int64)
    for name in ("event.start", "occurred", "observed"):
        times = np.where(times < 0, integers(batch, name), times)
    return np.where(times < 0, now_ns, np.minimum(times, now_ns))


def packed_ids(ids: Rows) -> bytes:
    """Return ids end to end, 16 bytes each."""
    return ids.astype(">u8").tobytes()


def transport(protocol: int) -> str:
    """Return the name of a protocol number in capitals, for a sentence."""
    return protocol_name(protocol).upper()


# --- sets of tuples ----------------------------------------------------------------------------------------------


def among(rows: Rows, others: Rows) -> Mask:
    """Return True for each tuple of ``rows`` that is also one of ``others``."""
    if not len(rows) or not len(others):
        return np.zeros(len(rows), np.bool_)
    others = others[np.isin(mixed(others), mixed(rows))]  # exact below; this spares sorting what is far from equal
    _, which = distinct(np.concatenate((others, rows)))
    held: Mask = np.zeros(int(which.max()) + 1, np.bool_)
    held[which[: len(others)]] = True
    return held[which[len(others) :]]


def distinct(rows: Rows) -> tuple[Rows, Index]:
    """Return each different tuple once, and for each row which of them it is."""
    if not len(rows):
        return rows, np.zeros(0, np.intp)
    order = np.lexsort(rows.T)
    ordered = rows[order]
    begins = np.ones(len(rows), np.bool_)
    begins[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    which = np.empty(len(rows), np.intp)
    which[order] = np.cumsum(begins) - 1
    return ordered[begins], which


def groups(which: Index) -> list[Index]:
    """Return the rows of each of the tuples that `distinct` found, in its order."""
    if not len(which):
        return []
    order = np.argsort(which, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(which[order])) + 1)


def _packets(batch: Batch) -> Integers:
    counts = np.minimum(integers(batch, "network.packets"), _MAX_PACKETS)
    if batch.kind.type == "packet":
        return np.maximum(counts, 1)
    return np.where(counts == 0, 1, counts)


# --- addresses of any column -----------------------------------------------------------------------------------------


def _halves(batch: Batch, name: str) -> tuple[Rows, Mask]:
    column = field_column(batch, name)
    if isinstance(column, Addresses):
        return column.wide().values.astype(np.uint64), ~nulls_of(column)
    if isinstance(column, Constant):
        halves, has = _parsed([column.value])
        return np.repeat(halves, batch.count, axis=0), np.repeat(has, batch.count)
    return _parsed([column.at(row) for row in range(batch.count)])


def _parsed(values: list[Value]) -> tuple[Rows, Mask]:
    halves = np.zeros((len(values), 2), np.uint64)
    has = np.zeros(len(values), np.bool_)
    for row, value in enumerate(values):
        try:
            halves[row] = address_halves(value) if isinstance(value, str) else (0, 0)
        except ValueError:
            continue
        has[row] = isinstance(value, str)
    return halves, has
