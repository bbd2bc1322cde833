"""Octets and packets of flows: the counters that exporters have for them, as the four fields that queries add up.

What may live here: which counter fills `source.bytes`, `destination.bytes` and `network.bytes` (and the same of
packets), and when a flow was seen where it has no end. The counters themselves stay under their own names.

Source: RFC 5103 section 6 (reverse elements), RFC 5102 section 5.10 (85, 86), Cisco ASA NSEL (231, 232, 298, 299, 323).
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from eddy_mesh.columns import Column, Numbers, nulls_of


class _Counters(NamedTuple):
    """The fields of one quantity."""

    unit: str
    total: str
    initiator: str
    responder: str
    reverse_delta: str
    reverse_total: str


_QUANTITIES: Final = (
    _Counters(
        "bytes",
        "netflow.octetTotalCount",
        "netflow.initiatorOctets",
        "netflow.responderOctets",
        "netflow.reverseOctetDeltaCount",
        "netflow.reverseOctetTotalCount",
    ),
    _Counters(
        "packets",
        "netflow.packetTotalCount",
        "netflow.initiatorPackets",
        "netflow.responderPackets",
        "netflow.reversePacketDeltaCount",
        "netflow.reversePacketTotalCount",
    ),
)
_DIRECTED: Final = frozenset(field for counters in _QUANTITIES for field in counters[1:])
_OBSERVED: Final = (
    "netflow.observationTimeNanoseconds",
    "netflow.observationTimeMicroseconds",
    "netflow.observationTimeMilliseconds",
    "netflow.observationTimeSeconds",
)
_MOST: Final = np.uint64(2**64 - 1)


def add_counts(columns: dict[str, Column]) -> None:
    """Add octets and packets by direction, and their sum where a record counts both directions.

    A flow of two directions has the forward and the reverse counter, or those of initiator and responder;
    `network.bytes` is then what went either way. A flow of one has its delta count, or else its total count.

    Args:
        columns: of the flows, by event field; added to.
    """
    if _DIRECTED.isdisjoint(columns):
        return
    for counters in _QUANTITIES:
        _add_quantity(columns, counters)


def _add_quantity(columns: dict[str, Column], counters: _Counters) -> None:
    whole, source, destination = (f"{end}.{counters.unit}" for end in ("network", "source", "destination"))
    delta = _numbers(columns, whole)
    forward = delta or _numbers(columns, counters.total)
    reverse = _numbers(columns, counters.reverse_delta) or _numbers(columns, counters.reverse_total)
    initiator, responder = _numbers(columns, counters.initiator), _numbers(columns, counters.responder)
    if reverse is not None:
        _place(columns, source, forward)
        _place(columns, destination, reverse)
        columns[whole] = reverse if forward is None else _sum(forward, reverse)
        return
    _place(columns, source, initiator)
    _place(columns, destination, responder)
    if delta is not None:
        return
    if initiator is not None and responder is not None:
        columns[whole] = _sum(initiator, responder)
    else:
        _place(columns, whole, initiator or responder or forward)


def _numbers(columns: dict[str, Column], name: str) -> Numbers | None:
    column = columns.get(name)
    return column if isinstance(column, Numbers) and column.values.dtype.kind in "iu" else None


def _place(columns: dict[str, Column], name: str, column: Column | None) -> None:
    if column is not None:
        columns.setdefault(name, column)


def _sum(first: Numbers, second: Numbers) -> Numbers:
    """Both together: what is null in one counts as nothing, and a sum beyond 64 bits is the most they hold."""
    absent, other_absent = nulls_of(first), nulls_of(second)
    one = np.where(absent, 0, first.values).astype(np.uint64)
    total = one + np.where(other_absent, 0, second.values).astype(np.uint64)
    nulls = absent & other_absent
    return Numbers(np.where(total < one, _MOST, total), nulls if nulls.any() else None)


def occurred_of(columns: dict[str, Column], export_ns: npt.NDArray[np.int64]) -> Column:
    """Return when each flow ended, where the record says it, else when it was observed, else when it was exported.

    Args:
        columns: of the flows, by event field.
        export_ns: ns since 1970 UTC at which the datagram of each was sent.
    """
    end = columns.get("event.end")
    if isinstance(end, Numbers) and end.nulls is None:
        return end
    moments = export_ns
    for name in reversed(_OBSERVED):
        observed = columns.get(name)
        if isinstance(observed, Numbers):
            times = observed.values.astype(np.int64)
            moments = np.where(nulls_of(observed) | (times <= 0), moments, times)
    if isinstance(end, Numbers):
        moments = np.where(nulls_of(end), moments, end.values)
    return Numbers(moments)
