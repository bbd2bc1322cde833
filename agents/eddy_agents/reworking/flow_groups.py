"""Which records tell of the same flow, as arrays: grouping by key and time, and what becomes of each group.

What may live here: pure functions of arrays with one entry a record, in the order in which the records came.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from eddy_mesh.columns import Index
from eddy_mesh.hashing import Hashes, mixed

Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_TIME_BITS: Final = np.int64(40)
"""Times are compared in ms after the earliest, so that flow and time fit into one number."""
_TIME_MAX: Final = (1 << 39) - 1


@dataclass(frozen=True, slots=True)
class Groups:
    """Records by flow.

    Attributes:
        order: the records, flow by flow, those of one flow in the order in which they came.
        heads: for each entry of ``order``, where in it its flow begins.
    """

    order: Index
    heads: Index


def groups_of(keys: Hashes, starts_ns: Integers, ends_ns: Integers, slack_ms: int) -> Groups:
    """Return which records belong to one flow: equal keys, times that overlap or nearly so, also by way of others.

    Args:
        keys: of the 5-tuple.
        starts_ns: when the record begins.
        ends_ns: when it ends, not before it begins.
        slack_ms: how far apart two records of one flow may be.
    """
    order = np.argsort(keys)
    ordered = keys[order]
    begins = np.ones(len(order), np.bool_)
    begins[1:] = ordered[1:] != ordered[:-1]
    shared = ~begins | ~np.append(begins[1:], np.ones(min(len(order), 1), np.bool_))
    if shared.any():  # of most flows there is one record: the times of the others alone are looked at
        places = np.flatnonzero(shared)
        rows = order[places]
        order[places], begins[places] = _by_time(
            rows, np.cumsum(begins, dtype=np.int64)[places], starts_ns, ends_ns, slack_ms
        )
    firsts = np.flatnonzero(begins)
    return Groups(order, np.repeat(firsts, np.diff(np.append(firsts, len(order)))))


def _by_time(
    rows: Index, key_no: Integers, starts_ns: Integers, ends_ns: Integers, slack_ms: int
) -> tuple[Index, Mask]:
    """Return the rows, flow by flow, and where each flow begins."""
    base = int(starts_ns[rows].min())
    starts = np.minimum((starts_ns[rows] - base) // 1_000_000, _TIME_MAX)
    ends = np.minimum((ends_ns[rows] - base) // 1_000_000 + min(slack_ms, _TIME_MAX), 2 * _TIME_MAX)
    shifted = (key_no - key_no[0]) << _TIME_BITS
    starts += shifted
    by_time = np.argsort(starts)
    reached = np.maximum.accumulate((shifted + ends)[by_time])
    begins = np.ones(len(rows), np.bool_)
    begins[1:] = starts[by_time][1:] > reached[:-1]  # so is every record of a later key: its times are beyond
    flow = np.cumsum(begins, dtype=np.int64)
    rows = rows[by_time]
    return rows[np.argsort((flow << 32) | rows)], begins


@dataclass(frozen=True, slots=True)
class Settled:
    """What becomes of the flows that are due.

    Attributes:
        sent: records that are passed on, ascending.
        counts: how many records each of them stands for.
        parents: records that become parents, those of one that is sent after those of the other; itself first.
        lengths: how many parents each of them has.
        late: True for each record that goes on waiting.
    """

    sent: Index
    counts: Integers
    parents: Index
    lengths: Integers
    late: Mask


def settled(groups: Groups, observers: Hashes, arrived_ns: Integers, until_ns: int, max_parents: int) -> Settled:
    """Return what becomes of the flows of which the first record came until a time.

    Args:
        groups: records by flow.
        observers: of each record.
        arrived_ns: when each record came.
        until_ns: the time.
        max_parents: most parents of one record.
    """
    order, heads = groups.order, groups.heads
    due = arrived_ns[order[heads]] <= until_ns
    is_first = observers[order] == observers[order[heads]]
    late, is_sent = np.zeros(len(order), np.bool_), np.zeros(len(order), np.bool_)
    late[order[~due]] = True
    is_sent[order[due & is_first]] = True
    sent = np.flatnonzero(is_sent)
    if is_first.all():
        ones = np.ones(len(sent), np.int64)
        return Settled(sent, ones, sent, ones, late)
    repeats = np.cumsum(~is_first)
    rank = np.where(is_first, 0, repeats - repeats[heads])  # of a repeat: from 1 on
    owner = np.where(is_first, order, order[heads])
    named = due & (rank < max_parents)
    by_owner = np.argsort(owner[named] * (max_parents + 1) + rank[named])
    counts = np.bincount(owner[due], minlength=len(order))[sent]
    lengths = np.bincount(owner[named], minlength=len(order))[sent]
    return Settled(sent, counts, order[named][by_owner], lengths, late)


def companies(owners: Index, observers: Integers) -> tuple[Index, list[list[int]]]:
    """Return the different sets of observers, and for each owner which of them is its.

    Args:
        owners: number of the owner of each entry, from 0, ascending.
        observers: number of the observer of each entry, from 0.
    """
    width = int(observers.max(initial=0)) + 1
    pairs = np.sort(owners * width + observers)
    owner, observer = np.divmod(pairs[np.diff(pairs, prepend=-1) != 0], width)
    marks = np.zeros(int(owner.max(initial=-1)) + 1, np.uint64)
    np.add.at(marks, owner, mixed(observer.astype(np.uint64) + np.uint64(1)))
    _, samples, which = np.unique(marks, return_index=True, return_inverse=True)
    begins, ends = np.searchsorted(owner, samples), np.searchsorted(owner, samples, "right")
    return which, [observer[a:b].tolist() for a, b in zip(begins.tolist(), ends.tolist(), strict=True)]
