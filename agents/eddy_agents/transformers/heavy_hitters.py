"""Keeps the events of the keys that weigh most, and adds up all others to one event.

In: any cooked events: what ``subscribe`` selects. Out: ``cooked.<class>.<type>`` as it came in, or of type ``as_type``,
when a window of `every_s` of the events' time is over: the events of its `top` keys, and for each type one event with
``rework.other``, which has the sums of all the others, their number in ``rework.count``, and the first `max_parents`
of them as ``parents``. So the sums over what goes out are those over what came in. An event belongs to the window that
is open when it comes.

How much a key weighs is known exactly while a window has at most `max_keys` different ones. With more, a key is
weighed too low by at most W / (`max_keys` + 1), where W is the weight of the whole window: one that weighs more than
the last of the top by so much is never missed. See `eddy_agents.reworking.misra_gries`.

State: `max_keys` counters and `max_held` events. Of more events those of the keys that weigh least so far are added to
the others before the window is over, and told with a notice, since their keys may yet come to the top.

Source: Metwally, Agrawal, El Abbadi, "Efficient computation of frequent and top-k elements in data streams" (2005).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from eddy_agents.detection.windows import EventClock
from eddy_agents.reworking.keys import among, hashes
from eddy_agents.reworking.misra_gries import Summary
from eddy_agents.reworking.passing import (
    BY_STATEMENT,
    NS,
    Bounds,
    Count,
    Every,
    TypeName,
    admitted,
    exact_sum,
    kind_of,
    passed,
    steps_of,
    times_of,
)
from eddy_mesh.agent import Example, Output, Result, draft_of
from eddy_mesh.batch import Batch, Kind
from eddy_mesh.cer import Value
from eddy_mesh.hashing import Hashes
from eddy_mesh.selection.lookup import integers

INPUT: Final = BY_STATEMENT

_ADVICE: Final = {"held_too_many": "events were added up before the window was over: raise max_held or lower every_s"}
_MAX_WEIGHT: Final = 1 << 40
"""A heavier event is not believed; sums of weights stay exact in doubles for 8,000 of them."""


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the heavy hitters."""

    by: tuple[str, ...] = ("source.ip",)
    """Fields that make the key."""
    weigh: str = "network.bytes"
    """Field that says how much an event weighs; empty: each weighs 1."""
    top: Count = 100
    """How many keys are kept."""
    sums: tuple[str, ...] = ("network.bytes", "network.packets")
    """Fields that are added up over the events of all other keys."""
    every_s: Every = 60
    """Length of a window, s."""
    max_keys: Count = 10_000
    """Most keys that are weighed at once."""
    max_held: Count = 500_000
    """Most events that wait for the end of a window."""
    max_parents: Count = 64
    """Most ids that an event names as its parents."""
    as_type: TypeName = ""
    """Type of what goes out; empty: as it came in."""


@dataclass(frozen=True, slots=True)
class _Held:
    """Events of one batch that wait."""

    batch: Batch
    keys: Hashes


@dataclass(slots=True)
class _Others:
    """What is known of the events of one kind that are not kept."""

    sums: dict[str, int]
    count: int = 0
    steps: int = 0
    ids: list[object] = field(default_factory=list)

    def add(self, batch: Batch, max_parents: int) -> None:
        """Take in events."""
        self.count += batch.count
        self.steps = max(self.steps, steps_of(batch))
        for name in self.sums:
            self.sums[name] += exact_sum(integers(batch, name))
        ids = batch.ids()
        self.ids += [ids.at(row) for row in range(min(batch.count, max_parents - len(self.ids)))]


class Cooking:
    """Events → those of the keys that weigh most, and the sum of the rest."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._every_ns = config.every_s * NS
        self._clock = EventClock()
        self._end_ns = 0
        self._bounds = Bounds("heavy_hitters", _ADVICE)
        self._begin()

    def _begin(self) -> None:
        self._summary = Summary(self._config.max_keys)
        self._held: list[_Held] = []
        self._count = 0
        self._others: dict[Kind, _Others] = {}

    def on_batch(self, batch: Batch, now_ns: int) -> Result:
        """Take in events; return those of a window that is over."""
        taken, refusals = admitted(batch)
        if not taken.count:
            return Result((), refusals)
        self._clock.observe(np.minimum(times_of(taken, now_ns), now_ns), now_ns)
        outputs = self._closed(now_ns)
        keys = hashes(taken, self._config.by)
        self._summary.add(keys, self._weights(taken))
        self._held.append(_Held(taken, keys))
        self._count += taken.count
        if self._count > self._config.max_held:
            self._compact()
        return Result(outputs, refusals)

    def on_tick(self, now_ns: int) -> Result:
        """Return the events of a window that is over; tell which were added up too early."""
        return Result([*self._closed(now_ns), *self._bounds.notices()])

    def _weights(self, batch: Batch) -> npt.NDArray[np.float64]:
        if not self._config.weigh:
            return np.ones(batch.count, np.float64)
        return np.clip(integers(batch, self._config.weigh), 0, _MAX_WEIGHT).astype(np.float64)

    def _closed(self, now_ns: int) -> list[Output]:
        time_ns = self._clock.at(now_ns)
        if time_ns < self._end_ns:
            return []
        start_ns = self._end_ns - self._every_ns
        self._end_ns = time_ns - time_ns % self._every_ns + self._every_ns
        outputs = self._keep(self._summary.top(self._config.top))
        outputs += [
            draft_of(kind, [self._row(others, start_ns)]) for kind, others in self._others.items() if others.count
        ]
        self._begin()
        return outputs

    def _keep(self, top: Hashes) -> list[Output]:
        """Return the events of the top keys; add up the others."""
        outputs: list[Output] = []
        for held in self._held:
            mask = among(held.keys, top)
            if mask.any():
                outputs.append(passed(held.batch, np.flatnonzero(mask), self._config.as_type, {}))
            self._fold(held.batch.filter(~mask))
        return outputs

    def _fold(self, batch: Batch) -> None:
        if batch.count:
            kind = kind_of(batch.kind, self._config.as_type)
            others = self._others.setdefault(kind, _Others(dict.fromkeys(self._config.sums, 0)))
            others.add(batch, self._config.max_parents)

    def _compact(self) -> None:
        """Add up the events of the keys that weigh least so far, until half of the room is free."""
        keys, counts = np.unique(np.concatenate([held.keys for held in self._held]), return_counts=True)
        places = np.minimum(np.searchsorted(self._summary.keys, keys), max(len(self._summary.keys) - 1, 0))
        known = np.zeros(len(keys), np.float64)
        if len(self._summary.keys):
            known = np.where(self._summary.keys[places] == keys, self._summary.counters[places], 0)
        heaviest = np.argsort(-known, kind="stable")
        kept = np.sort(keys[heaviest[np.cumsum(counts[heaviest]) <= self._config.max_held // 2]])
        remaining: list[_Held] = []
        for held in self._held:
            mask = among(held.keys, kept)
            self._fold(held.batch.filter(~mask))
            if mask.any():
                remaining.append(replace(held, batch=held.batch.filter(mask), keys=held.keys[mask]))
        before, self._count = self._count, sum(held.batch.count for held in remaining)
        self._held = remaining
        self._bounds.add("held_too_many", before - self._count)

    def _row(self, others: _Others, start_ns: int) -> dict[str, Value]:
        sums: dict[str, Value] = {name: min(total, 2**64 - 1) for name, total in others.sums.items()}
        return sums | {
            "occurred": start_ns,
            "event.start": start_ns,
            "event.end": start_ns + self._every_ns,
            "rework.other": True,
            "rework.count": others.count,
            "rework.steps": others.steps + 1,
            "parents": others.ids,
        }


EXAMPLES: tuple[Example, ...] = (
    Example(
        given=(
            {"source.ip": "192.0.2.1", "network.bytes": 700, "network.packets": 7},
            {"source.ip": "192.0.2.2", "network.bytes": 10, "network.packets": 1},
            {"source.ip": "192.0.2.3", "network.bytes": 20, "network.packets": 2},
            {"source.ip": "192.0.2.1", "network.bytes": 100, "network.packets": 1},
        ),
        expected=(
            {"source.ip": "192.0.2.1", "network.bytes": 700},
            {"source.ip": "192.0.2.1", "network.bytes": 100},
            {"rework.other": True, "network.bytes": 30, "network.packets": 3, "rework.count": 2, "source.ip": None},
        ),
        config={"top": 1},
    ),
)
