"""Columns of records: what the slots of a layout become, and what follows from them.

What may live here: placing decoded slots under their event fields, times that count from the exporter's start, and
the derived fields of flows (transport, IP version, flags, MPLS labels, duration).

Where two slots of a template mean the same event field (an IPv4 and an IPv6 source), the first that is not empty in a
row wins; the later slot is also kept whole under ``netflow.<element name>``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from eddy_agents.wire.netflow_counts import add_counts
from eddy_agents.wire.netflow_layout import Layout, Records, Slot
from eddy_agents.wire.netflow_values import Form, coded, native
from eddy_mesh.columnize import column_of
from eddy_mesh.columns import Addresses, Column, Constant, Maps, Numbers, Words, nulls_of
from eddy_mesh.fields import type_of
from eddy_mesh.registry.protocols import protocol_name

_PROTOCOL: Final = 4
_TCP_FLAGS: Final = 6
_IPV4_ENDS: Final = frozenset({8, 12})
_END_UPTIME: Final = 21
_START_UPTIME: Final = 22
_IPV6_ENDS: Final = frozenset({27, 28})
_IP_VERSION: Final = 60
_SYSTEM_INIT_TIME: Final = 160
_MPLS_STACK: Final = range(70, 80)
_MILLISECOND_NS: Final = 1_000_000
_FLAG_TEXTS: Final = tuple(
    "".join(letter for bit, letter in enumerate("FSRPAUEC") if flags >> bit & 1) for flags in range(256)
)


@dataclass(frozen=True, slots=True)
class Times:
    """Clocks of the exporters; each array has one entry a record.

    Attributes:
        export_ns: ns since 1970 UTC at which the datagram was sent.
        uptime_ms: ms since the exporter started, at the same moment; None in IPFIX, which does not say it.
        started_ns: ns since 1970 UTC at which an IPFIX exporter started, -1 unknown; None in v5 and v9.
    """

    export_ns: npt.NDArray[np.int64]
    uptime_ms: npt.NDArray[np.uint32] | None
    started_ns: npt.NDArray[np.int64] | None


def columns_of_records(layout: Layout, records: Records, times: Times) -> dict[str, Column]:
    """Return a column for each slot of the records, by event field.

    Args:
        layout: of the records; at least one record.
        records: their octets.
        times: clocks of their exporters.
    """
    columns: dict[str, Column] = {}
    owners: dict[str, Slot] = {}
    times = _times_of_records(layout, records, times)
    for slot in layout.slots:
        if slot.iana in {_END_UPTIME, _START_UPTIME}:
            _place_uptime(columns, owners, slot, records.column(slot), times)
        else:
            _place(columns, owners, slot, records.column(slot))
    return columns


def derive_flow_columns(layout: Layout, records: Records, columns: dict[str, Column]) -> None:
    """Add the fields of a flow that follow from others.

    Args:
        layout: of the records.
        records: their octets.
        columns: as `columns_of_records` gave them; added to.
    """
    slots: dict[int, Slot] = {}
    for slot in layout.slots:
        slots.setdefault(slot.iana, slot)
    numbers = {n: slot for n, slot in slots.items() if slot.form is Form.UNSIGNED}
    if _PROTOCOL in numbers:
        columns["network.transport"] = coded(records.values(numbers[_PROTOCOL]), protocol_name)
    if _TCP_FLAGS in numbers:
        flags = native(records.values(numbers[_TCP_FLAGS])) & 0xFF  # type: ignore[operator]  # unsigned numbers
        columns["netflow.tcp_flags"] = coded(flags, flag_letters)
    version = _network_type(slots, records, columns)
    if version is not None:
        columns["network.type"] = version
    labels = [slots[n] for n in _MPLS_STACK if n in slots and slots[n].length == 3]
    if labels:
        columns["netflow.mpls_labels"] = _mpls_labels([records.values(slot) for slot in labels])
    add_counts(columns)
    _add_duration(columns)


def flag_letters(flags: int) -> str:
    """Return TCP flags as letters, lowest bit first: F(in) S(yn) R(st) P(sh) A(ck) U(rg) E(ce) C(wr)."""
    return _FLAG_TEXTS[flags & 0xFF]


def _times_of_records(layout: Layout, records: Records, times: Times) -> Times:
    """The same clocks, with the start of the exporter as IPFIX records that carry it say it."""
    started = [slot for slot in layout.slots if slot.iana == _SYSTEM_INIT_TIME and slot.form is Form.MILLISECONDS]
    if not started or times.uptime_ms is not None:
        return times
    column = records.column(started[0])
    return replace(times, started_ns=column.values.astype(np.int64)) if isinstance(column, Numbers) else times


# --- placing -----------------------------------------------------------------------------------------------------


def _place(columns: dict[str, Column], owners: dict[str, Slot], slot: Slot, column: Column) -> None:
    name = slot.field
    if name not in columns:
        columns[name] = column
        owners[name] = slot
        return
    # The same element twice (the inner header of a tunnel) is another thing; the first stays untouched.
    if name in owners and owners[name].element != slot.element:
        columns[name] = _first_of(name, columns[name], column)
    columns[_free_name(columns, slot)] = column


def _free_name(columns: dict[str, Column], slot: Slot) -> str:
    name = f"netflow.{slot.element.name}"
    free, number = name, 2
    while free in columns:
        free = f"{name}_{number}"
        number += 1
    return free


def _first_of(name: str, first: Column, second: Column) -> Column:
    """The first value in each row that is not null, zero or empty."""
    if isinstance(first, Numbers) and isinstance(second, Numbers):
        empty = (first.values == 0) | nulls_of(first)
        if first.values.dtype.kind == second.values.dtype.kind:  # else numpy would make floats of both
            return _chosen(Numbers(np.where(empty, second.values, first.values)), empty, second)
    if isinstance(first, Addresses) and isinstance(second, Addresses):
        zero = first.values == 0
        empty = (zero if first.is_v4 else zero.all(axis=1)) | nulls_of(first)
        if first.is_v4 != second.is_v4:
            first, second = first.wide(), second.wide()
        shaped = empty if first.is_v4 else empty[:, np.newaxis]
        values = np.where(shaped, second.values, first.values).astype(first.values.dtype)
        return _chosen(Addresses(values), empty, second)
    values_of = [first.at(row) or second.at(row) for row in range(len(first))]
    return column_of(type_of(name), values_of)


def _chosen(column: Numbers | Addresses, empty: npt.NDArray[np.bool_], second: Column) -> Column:
    nulls = empty & nulls_of(second)
    return type(column)(column.values, nulls) if nulls.any() else column  # type: ignore[arg-type]


def _place_uptime(
    columns: dict[str, Column], owners: dict[str, Slot], slot: Slot, column: Column, times: Times
) -> None:
    """Put a time in ms since the exporter's start on the clock; in IPFIX keep the number too, nothing else says it."""
    own = f"netflow.{slot.element.name}"
    if not isinstance(column, Numbers) or column.values.dtype.itemsize > 4 or slot.field != _EVENT_FIELDS[slot.iana]:
        columns[_free_name(columns, slot)] = column
        return
    uptime = column.values.astype(np.uint32)
    if times.uptime_ms is not None:
        # Modulo 2**32 and then signed: right across a wrap of the counter, and for flows stamped just after the header.
        age_ms = (times.uptime_ms - uptime).view(np.int32).astype(np.int64)
        _place(columns, owners, slot, Numbers(times.export_ns - age_ms * _MILLISECOND_NS))
        return
    columns.setdefault(own, Numbers(uptime))
    if times.started_ns is not None and not (unknown := times.started_ns < 0).all():
        moments = times.started_ns + uptime.astype(np.int64) * _MILLISECOND_NS
        _place(columns, owners, slot, Numbers(moments, unknown if unknown.any() else None))


_EVENT_FIELDS: Final = {_START_UPTIME: "event.start", _END_UPTIME: "event.end"}

# --- deriving ----------------------------------------------------------------------------------------------------


def _network_type(slots: dict[int, Slot], records: Records, columns: dict[str, Column]) -> Column | None:
    has_v4, has_v6 = not _IPV4_ENDS.isdisjoint(slots), not _IPV6_ENDS.isdisjoint(slots)
    source = columns.get("source.ip")
    if has_v4 != has_v6:
        return Constant("ipv4" if has_v4 else "ipv6", records.count)
    if _IP_VERSION in slots and slots[_IP_VERSION].form is Form.UNSIGNED:
        version = records.values(slots[_IP_VERSION])
        other = (version != 4) & (version != 6)
        return Words((version == 6).astype(np.uint8), ("ipv4", "ipv6"), other if other.any() else None)
    if has_v4 and isinstance(source, Addresses) and not source.is_v4:
        is_v4 = (source.values[:, 0] == 0) & (source.values[:, 1] >> np.uint64(32) == 0xFFFF)
        return Words((~is_v4).astype(np.uint8), ("ipv4", "ipv6"))
    return None


def _mpls_labels(sections: Sequence[npt.NDArray[np.generic]]) -> Column:
    """The label values of each record's stack, top first; sections that are zero hold no label.

    Source: RFC 3032 section 2.1: 20 bits of label, 3 of experimental use, 1 bottom of stack.
    """
    stack = np.stack(sections, axis=1).astype(np.uint32)  # record, section, octet
    entries = stack[:, :, 0] << 16 | stack[:, :, 1] << 8 | stack[:, :, 2]
    distinct, which = np.unique(entries, axis=0, return_inverse=True)
    encoded = [msgspec.msgpack.encode([entry >> 4 for entry in row if entry]) for row in distinct.tolist()]
    lengths = np.array([len(value) for value in encoded], np.uint32)
    offsets = np.zeros(len(entries) + 1, np.uint32)
    which = which.reshape(-1)
    np.cumsum(lengths[which], out=offsets[1:])
    return Maps(offsets, b"".join([encoded[row] for row in which.tolist()]))


def _add_duration(columns: dict[str, Column]) -> None:
    start, end = columns.get("event.start"), columns.get("event.end")
    if not isinstance(start, Numbers) or not isinstance(end, Numbers) or "event.duration" in columns:
        return
    duration = end.values.astype(np.int64) - start.values.astype(np.int64)
    nulls = nulls_of(start) | nulls_of(end) | (duration < 0)  # some exporters take start and end for each other
    columns["event.duration"] = Numbers(duration, nulls if nulls.any() else None)
