"""Drops repeats: one flow told by several exporters, or events that are equal in chosen fields.

In: any cooked events: what ``subscribe`` selects. Out: ``cooked.<class>.<type>`` as it came in, or of type ``as_type``.

Without `fields`, flows. Records belong to one flow where the 5-tuples are equal, in the same direction, and their times
(``event.start`` to ``event.end``) overlap or are at most `slack_s` apart, directly or by way of other records between
them. Of one flow the records of the observer that was heard first are passed on, all of them (a long flow is exported
again and again), and those of other observers are not: their ids become ``parents`` of the first record that is passed
on, their observers are in its ``observer.seen_by``. Figures are never added up: exporters count the same packets. So
two records of one observer are never repeats of each other. The answer is another flow; a biflow is one only with
biflows that were begun by the same end.
Records wait for `wait_s` at least and twice that at most; a repeat that comes later is a flow of its own.

With `fields`, repeats: an event whose values in all of them were seen within the last `wait_s` is left out and counted
as filtered; the first is passed on at once. ``["id"]`` leaves out what was delivered twice.

State: `max_held` records, or as many keys. Records beyond are passed on before their time, keys beyond are forgotten,
the oldest first; both are told with a notice.

Source: the rule of SiLK's rwdedupe (equal fields, times within a delta), with overlap in place of deltas; RFC 7011
section 2 (observation points), RFC 5103 section 3 (biflows).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import msgspec
import numpy as np

from eddy_agents.reworking.flow_groups import Integers, Mask, Settled, companies, groups_of, settled
from eddy_agents.reworking.keys import FLOW, among, hashes
from eddy_agents.reworking.passing import (
    BY_STATEMENT,
    NS,
    Bounds,
    Count,
    Seconds,
    TypeName,
    admitted,
    id_rows,
    parents_column,
    passed,
    spread,
    times_of,
)
from eddy_mesh.agent import Example, Output, Result
from eddy_mesh.batch import Batch
from eddy_mesh.cer import Value
from eddy_mesh.columnize import any_column
from eddy_mesh.columns import Column, Index, Maps, Numbers
from eddy_mesh.hashing import Hashes
from eddy_mesh.selection.lookup import field_column

INPUT: Final = BY_STATEMENT

_ADVICE: Final = {
    "forgotten_early": "keys were forgotten early, repeats of them pass: raise max_held or lower wait_s",
    "held_too_many": "records did not wait for repeats: raise max_held or lower wait_s",
}


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of deduplication."""

    fields: tuple[str, ...] = ()
    """Fields that are equal in repeats; none: flows that several exporters saw."""
    wait_s: Seconds = 5
    """How long to wait for the same flow from other exporters, or how long an event is known, s."""
    slack_s: Seconds = 1
    """How far apart two records of one flow may be: exporters' clocks and time-outs differ, s."""
    observer: str = "observer.ip"
    """Field that tells the observers of a flow apart."""
    max_held: Count = 1_000_000
    """Most records that wait, or most keys that are known."""
    max_parents: Count = 64
    """Most ids that an event names as its parents."""
    as_type: TypeName = ""
    """Type of what goes out; empty: as it came in."""


class Cooking:
    """Events → those that are no repeats."""

    def __init__(self, config: Config) -> None:
        self._bounds = Bounds("deduplicate", _ADVICE)
        self._way: _Flows | _Repeats = (_Repeats if config.fields else _Flows)(config, self._bounds)

    def on_batch(self, batch: Batch, now_ns: int) -> Result:
        """Take in events; return those that are due or are no repeats."""
        taken, refusals = admitted(batch)
        outputs, filtered = self._way.take(taken, now_ns)
        return Result(outputs, refusals, filtered)

    def on_tick(self, now_ns: int) -> Result:
        """Return flows that have waited long enough, forget what is old; tell what could not be held."""
        return Result([*self._way.settle(now_ns), *self._bounds.notices()])


# --- events that are equal in chosen fields --------------------------------------------------------------------------


class _Repeats:
    """The keys that were seen lately, and when."""

    def __init__(self, config: Config, bounds: Bounds) -> None:
        self._config = config
        self._bounds = bounds
        self._keys: Hashes = np.zeros(0, np.uint64)  # ascending
        self._seen_ns: Integers = np.zeros(0, np.int64)

    def take(self, batch: Batch, now_ns: int) -> tuple[list[Output], int]:
        """Return the events that are no repeats, and how many are."""
        keys, first = np.unique(hashes(batch, self._config.fields), return_index=True)
        held = among(keys, self._keys)
        places = np.searchsorted(self._keys, keys)
        is_new = ~held
        is_new[held] = self._seen_ns[places[held]] <= now_ns - round(self._config.wait_s * NS)
        self._seen_ns[places[held & is_new]] = now_ns
        self._keys = np.insert(self._keys, places[~held], keys[~held])
        self._seen_ns = np.insert(self._seen_ns, places[~held], now_ns)
        self._bound()
        index = np.sort(first[is_new])
        outputs: list[Output] = [passed(batch, index, self._config.as_type, {})] if len(index) else []
        return outputs, batch.count - len(index)

    def _bound(self) -> None:
        """Forget an eighth of the keys, the oldest, where there are too many."""
        count = len(self._keys)
        if count <= self._config.max_held:
            return
        newest = np.sort(np.argsort(self._seen_ns, kind="stable")[count - self._config.max_held * 7 // 8 :])
        self._keys, self._seen_ns = self._keys[newest], self._seen_ns[newest]
        self._bounds.add("forgotten_early", count - len(newest))

    def settle(self, now_ns: int) -> list[Output]:
        """Forget what is old; nothing is due."""
        recent = self._seen_ns > now_ns - round(self._config.wait_s * NS)
        self._keys, self._seen_ns = self._keys[recent], self._seen_ns[recent]
        return []


# --- flows -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Held:
    """Records that wait, of one batch; arrays have one entry a record."""

    batch: Batch
    arrived_ns: int
    keys: Hashes
    observers: Hashes
    starts_ns: Integers
    ends_ns: Integers

    def where(self, mask: Mask) -> _Held:
        """Return the records for which a mask is True."""
        keys, observers = self.keys[mask], self.observers[mask]
        return _Held(
            self.batch.filter(mask), self.arrived_ns, keys, observers, self.starts_ns[mask], self.ends_ns[mask]
        )


class _Flows:
    """Records of flows that wait for the same flow from other exporters."""

    def __init__(self, config: Config, bounds: Bounds) -> None:
        self._config = config
        self._bounds = bounds
        self._wait_ns = round(config.wait_s * NS)
        self._held: list[_Held] = []
        self._count = 0

    def take(self, batch: Batch, now_ns: int) -> tuple[list[Output], int]:
        """Take in records; return those of flows that are due, and how many records were left out at once: none."""
        if batch.count:
            starts = times_of(batch, now_ns, "event.start")
            ends = np.maximum(times_of(batch, now_ns, "event.end"), starts)
            keys, observers = hashes(batch, FLOW), hashes(batch, (self._config.observer,))
            self._held.append(_Held(batch, now_ns, keys, observers, starts, ends))
            self._count += batch.count
        if self._count > self._config.max_held:
            self._bounds.add("held_too_many", self._count)
            return self._out(now_ns), 0
        return self.settle(now_ns), 0

    def settle(self, now_ns: int) -> list[Output]:
        """Return the records of flows that are due; look at what waits once in `wait_s`: at each record twice."""
        if self._held and self._held[0].arrived_ns <= now_ns - 2 * self._wait_ns:
            return self._out(now_ns - self._wait_ns)
        return []

    def _out(self, until_ns: int) -> list[Output]:
        """Return the flows of which the first record came until then; keep the others."""
        held, counts = self._held, np.array([one.batch.count for one in self._held])
        starts_ns, ends_ns = (np.concatenate([getattr(one, name) for one in held]) for name in ("starts_ns", "ends_ns"))
        keys = np.concatenate([one.keys for one in held])
        observers = np.concatenate([one.observers for one in held])
        groups = groups_of(keys, starts_ns, ends_ns, round(self._config.slack_s * 1000))
        arrived_ns = np.repeat(np.array([one.arrived_ns for one in held], np.int64), counts)
        found = settled(groups, observers, arrived_ns, until_ns, self._config.max_parents)
        changed = self._changed(found, observers)
        ends = np.cumsum(counts)
        cuts = [0, *np.searchsorted(found.sent, ends).tolist()]
        outputs: list[Output] = []
        self._held, self._count = [], 0
        for one, end, (first, last) in zip(held, ends.tolist(), pairwise(cuts), strict=True):
            begin = end - one.batch.count
            rows = found.sent[first:last] - begin
            mine = {
                name: spread(column, which[first:last]) if isinstance(column, Maps) else column.take(which[first:last])
                for name, (column, which) in changed.items()
            }
            outputs += [passed(one.batch, rows, self._config.as_type, mine)] if len(rows) else []
            late = found.late[begin:end]
            if late.any():
                self._held.append(one.where(late))
                self._count += int(late.sum())
        return outputs

    def _changed(self, found: Settled, observers: Hashes) -> dict[str, tuple[Column, Index]]:
        """Return the columns that tell of repeats, each with its row for each record that is passed on."""
        merged = found.counts > 1
        if not merged.any():
            return {}
        ids = np.concatenate([id_rows(one.batch.ids()) for one in self._held])
        owner = np.repeat(np.arange(len(found.sent)), found.lengths)
        joint = merged[owner]
        codes, samples, code = np.unique(observers, return_index=True, return_inverse=True)
        numbers = np.cumsum(merged) - 1
        which, sets = companies(numbers[owner[joint]], code[found.parents[joint]])
        names = {one: self._observer(int(samples[one])) for one in range(len(codes))}
        lists: list[Value] = [[names[one] for one in members if names[one] is not None] for members in sets]
        shown = np.full(len(found.sent), len(lists), np.intp)
        shown[merged] = which
        each = np.arange(len(found.sent))
        return {
            "parents": (parents_column(ids[found.parents], found.lengths), each),
            "rework.count": (Numbers(found.counts.astype(np.uint32)), each),
            "observer.seen_by": (any_column([*lists, None]), shown),
        }

    def _observer(self, record: int) -> Value:
        """Return the name of the observer of a record that waits."""
        for one in self._held:
            if record < one.batch.count:
                return field_column(one.batch, self._config.observer).at(record)
            record -= one.batch.count
        return None


_FLOW: Final[dict[str, Value]] = {
    "source.ip": "192.0.2.7",
    "source.port": 50_000,
    "destination.ip": "198.51.100.1",
    "destination.port": 443,
    "network.iana_number": 6,
    "event.start": 1_793_697_247_000_000_000,
    "event.end": 1_793_697_248_000_000_000,
}

EXAMPLES: tuple[Example, ...] = (
    Example(  # two exporters saw the flow, one of them its answer too
        given=(
            _FLOW | {"observer.ip": "203.0.113.1", "network.bytes": 1000},
            _FLOW | {"observer.ip": "203.0.113.2", "network.bytes": 990},
            {
                "source.ip": "198.51.100.1",
                "source.port": 443,
                "destination.ip": "192.0.2.7",
                "destination.port": 50_000,
                "network.iana_number": 6,
                "observer.ip": "203.0.113.2",
            },
        ),
        expected=(
            {
                "observer.ip": "203.0.113.1",
                "observer.seen_by": ["203.0.113.1", "203.0.113.2"],
                "network.bytes": 1000,
                "rework.count": 2,
            },
            {"source.ip": "198.51.100.1", "observer.seen_by": None},
        ),
    ),
    Example(
        given=({"host": "a", "message": "disk full"}, {"host": "a", "message": "disk full"}, {"host": "b"}),
        expected=({"host": "a"}, {"host": "b"}),
        config={"fields": ["host", "message"], "wait_s": 60},
    ),
)
