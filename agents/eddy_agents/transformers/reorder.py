"""Gives events of many sources out in the order in which they occurred, as far as they come within a bound.

In: any cooked events: what ``subscribe`` selects. Out: ``cooked.<class>.<type>`` as it came in, or of type ``as_type``,
each type in the order of ``occurred``; events of the same time in the order in which they came.

An event waits until the events' time is `wait_s` past its own. One that comes after a later one was given out is late:
it is passed on at once with ``rework.late``, out of order, or left out and counted as filtered. The events' time is
that of the latest event, never ahead of the clock of this host; when nothing comes it goes on with that clock.

State: `max_held` events. Where more wait, the earliest half is given out before its time, and told with a notice.

Source: Akidau et al., "The Dataflow Model" (2015), section 2 (watermarks).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from eddy_agents.detection.windows import EventClock
from eddy_agents.reworking.passing import (
    BY_STATEMENT,
    NS,
    Bounds,
    Count,
    Rest,
    Seconds,
    TypeName,
    admitted,
    kind_of,
    passed,
    times_of,
)
from eddy_mesh.agent import Example, Output, Result
from eddy_mesh.batch import Batch, Kind, join
from eddy_mesh.columns import Constant

INPUT: Final = BY_STATEMENT

_ADVICE: Final = {"held_too_many": "events were given out before their time: raise max_held or lower wait_s"}


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of reordering."""

    wait_s: Seconds = 5
    """How long to wait for earlier events, s of the events' time."""
    late: Rest = Rest.PASS
    """What becomes of an event that comes after a later one was given out."""
    max_held: Count = 500_000
    """Most events that wait."""
    as_type: TypeName = ""
    """Type of what goes out; empty: as it came in."""


@dataclass(frozen=True, slots=True)
class _Held:
    """Events of one batch that wait, and when they occurred."""

    batch: Batch
    times_ns: npt.NDArray[np.int64]

    def where(self, mask: npt.NDArray[np.bool_]) -> _Held:
        """Return the events for which a mask is True."""
        return _Held(self.batch.filter(mask), self.times_ns[mask])


class Cooking:
    """Events → the same in order."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._wait_ns = round(config.wait_s * NS)
        self._clock = EventClock()
        self._held: list[_Held] = []
        self._count = 0
        self._given_ns = -1  # everything up to then was given out
        self._bounds = Bounds("reorder", _ADVICE)

    def on_batch(self, batch: Batch, now_ns: int) -> Result:
        """Take in events; return those that are due, and those that are late."""
        taken, refusals = admitted(batch)
        if not taken.count:
            return Result((), refusals)
        times = np.minimum(times_of(taken, now_ns), now_ns)
        self._clock.observe(times, now_ns)
        is_late = times <= self._given_ns
        outputs, filtered = self._late(taken, is_late)
        if not is_late.all():
            self._held.append(_Held(taken, times).where(~is_late))
            self._count += int((~is_late).sum())
        until_ns = self._clock.at(now_ns) - self._wait_ns
        if self._count > self._config.max_held:
            waiting = np.sort(np.concatenate([held.times_ns for held in self._held]))
            until_ns = max(int(waiting[len(waiting) // 2]), until_ns)
            self._bounds.add("held_too_many", int(np.searchsorted(waiting, until_ns, "right")))
        elif until_ns < self._given_ns + self._wait_ns // 8:  # looking at all that waits costs more than a batch
            return Result(outputs, refusals, filtered)
        return Result([*outputs, *self._due(until_ns)], refusals, filtered)

    def on_tick(self, now_ns: int) -> Result:
        """Return the events that are due; tell which could not wait."""
        return Result([*self._due(self._clock.at(now_ns) - self._wait_ns), *self._bounds.notices()])

    def _late(self, batch: Batch, mask: npt.NDArray[np.bool_]) -> tuple[list[Output], int]:
        index = np.flatnonzero(mask)
        if not len(index):
            return [], 0
        if self._config.late is Rest.DROP:
            return [], len(index)
        return [passed(batch, index, self._config.as_type, {"rework.late": Constant(True, len(index))})], 0

    def _due(self, until_ns: int) -> list[Output]:
        """Return the events up to a time, in order, a draft for each type."""
        if until_ns <= self._given_ns:
            return []
        self._given_ns = until_ns
        due: dict[Kind, list[_Held]] = {}
        remaining: list[_Held] = []
        for held in self._held:
            mask = held.times_ns <= until_ns
            if mask.any():
                due.setdefault(kind_of(held.batch.kind, self._config.as_type), []).append(held.where(mask))
            if not mask.all():
                remaining.append(held.where(~mask))
        self._held, self._count = remaining, sum(held.batch.count for held in remaining)
        outputs: list[Output] = []
        for parts in due.values():
            order = np.argsort(np.concatenate([part.times_ns for part in parts]), kind="stable")
            outputs.append(passed(join([part.batch for part in parts]), order, self._config.as_type, {}))
        return outputs


EXAMPLES: tuple[Example, ...] = (
    Example(
        given=(
            {"message": "second", "occurred": 1_793_697_247 * NS + 2},
            {"message": "third", "occurred": 1_793_697_248 * NS},
            {"message": "first", "occurred": 1_793_697_247 * NS + 1},
        ),
        expected=({"message": "first", "rework.late": None}, {"message": "second"}, {"message": "third"}),
    ),
)
