"""Adds up events by the values of fields, one event for each group and window of their own time.

In: any cooked events: what ``subscribe`` selects. Out: ``cooked.<class>.<type>`` as it came in, or of type ``as_type``:
for each window of `every_s` and each group one event with the fields of `by` and those of `compute`. It ``occurred`` at
the start of its window, which is from ``event.start`` to ``event.end``. An event belongs to the window of the time at
which it occurred, or of now where that lies ahead. A window is over when the events' time is `lateness_s` past its end;
events that come later still are left out, counted as filtered and told with a notice.

An event may have very many parents: ``rework.count`` says how many they are, ``parents`` names the first
`max_parents`.

Events of different types are added up apart, unless `as_type` gives them one. State: `max_groups` groups (and values of
``count(DISTINCT ...)``) over all open windows of a type, at most 64 types; events for which there is no room are left
out, counted as filtered and told with a notice. What is computed, and what a value of another type means, is that of
the select language, whose windows these are.

Source: docs/select-language.md (GROUP BY ... EVERY); Akidau et al., "The Dataflow Model" (2015), section 2 (event
time, lateness).
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
import numpy as np
import numpy.typing as npt

from eddy_agents.detection.windows import EventClock
from eddy_agents.reworking.passing import (
    BY_STATEMENT,
    NS,
    Bounds,
    Count,
    Every,
    TypeName,
    admitted,
    kind_of,
    steps_of,
    times_of,
)
from eddy_mesh.agent import Draft, Example, Output, Result, draft_of
from eddy_mesh.batch import Batch, Kind
from eddy_mesh.cer import Value
from eddy_mesh.columns import Numbers
from eddy_mesh.errors import ConfigError, EddyError
from eddy_mesh.fields import field
from eddy_mesh.selection import LiveAggregate, Plan, compile_statement
from eddy_mesh.selection.coded import coded, combined
from eddy_mesh.selection.lookup import field_column
from eddy_mesh.selection.plan import Literal
from eddy_mesh.selection.sql import WINDOW_END, WINDOW_START
from eddy_mesh.selection.values import comparable

INPUT: Final = BY_STATEMENT

_ADVICE: Final = {"left_out": "events were left out, too late or of too many groups: raise lateness_s or max_groups"}
_MAX_KINDS: Final = 64
_VOLUMES: Final = {"network.bytes": "sum(network.bytes)", "network.packets": "sum(network.packets)"}

Key = tuple[int, tuple[Literal | None, ...]]
"""Start of the window, and the values of the group as they are compared."""


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of aggregation."""

    by: tuple[str, ...] = ("source.ip", "destination.ip")
    """Fields that make the groups; none makes one group of all."""
    compute: dict[str, str] = msgspec.field(default_factory=lambda: dict(_VOLUMES))
    """For each field of the result what it is: sum, min, max, avg of a field, count(*) or count(DISTINCT field)."""
    every_s: Every = 60
    """Length of a window, s."""
    lateness_s: Annotated[int, msgspec.Meta(ge=0, le=36_000)] = 10
    """How long after its end a window waits for events that are late, s."""
    max_groups: Count = 65_536
    """Most groups, and different values that are counted, at once."""
    max_parents: Count = 16
    """Most ids that an event names as its parents."""
    as_type: TypeName = ""
    """Type of what goes out; empty: as it came in."""


class Cooking:
    """Events → sums of them.

    Raises:
        ConfigError: a field of the result is not registered, or what it should be does not compile.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._plan = plan_of(config)
        self._clock = EventClock()
        self._sums: dict[Kind, _Sums] = {}
        self._bounds = Bounds("aggregate", _ADVICE)

    def on_batch(self, batch: Batch, now_ns: int) -> Result:
        """Take in events; return the windows that are over."""
        taken, refusals = admitted(batch)
        if not taken.count:
            return Result((), refusals)
        times = np.minimum(times_of(taken, now_ns), now_ns)
        self._clock.observe(times, now_ns)
        kind = kind_of(taken.kind, self._config.as_type)
        sums = self._sums.get(kind)
        if sums is None and len(self._sums) < _MAX_KINDS:
            sums = self._sums[kind] = _Sums(self._config, self._plan)
        left_out = taken.count if sums is None else sums.add(taken, times, now_ns)
        self._bounds.add("left_out", left_out)
        return Result(self._closed(now_ns), refusals, left_out)

    def on_tick(self, now_ns: int) -> Result:
        """Return the windows that are over; tell what was left out."""
        return Result([*self._closed(now_ns), *self._bounds.notices()])

    def _closed(self, now_ns: int) -> list[Output]:
        time_ns = self._clock.at(now_ns)
        found = [sums.closed(kind, time_ns) for kind, sums in self._sums.items()]
        return [draft for draft in found if draft is not None]


def plan_of(config: Config) -> Plan:
    """Return the statement that a configuration stands for; the last item counts the events.

    Raises:
        ConfigError: all mistakes.
    """
    mistakes = [f"aggregate: compute: there is no field {name!r}" for name in config.compute if field(name) is None]
    group = f" GROUP BY {', '.join(config.by)}" if config.by else ""
    computed = [f"{text} AS c{number}" for number, text in enumerate((*config.compute.values(), "count(*)"))]
    items = ", ".join([*config.by, *computed])
    try:
        plan = compile_statement(f"SELECT {items}{group} EVERY {config.every_s}s", now_ns=0)
    except EddyError as error:
        mistakes.append(f"aggregate: by, compute: {error}")
        raise ConfigError(mistakes) from None
    if len(plan.items) != len(config.by) + len(config.compute) + 1:
        mistakes.append("aggregate: compute: write one aggregate for each field, such as sum(network.bytes)")
    if mistakes:
        raise ConfigError(mistakes)
    return plan


class _Sums:
    """The open windows of one kind."""

    def __init__(self, config: Config, plan: Plan) -> None:
        self._config = config
        self._plan = plan
        self._every_ns = config.every_s * NS
        self._live = LiveAggregate(plan, max_groups=config.max_groups, grace_ns=config.lateness_s * NS)
        self._parents: dict[Key, list[object]] = {}
        self._steps = 0

    def add(self, batch: Batch, times: npt.NDArray[np.int64], now_ns: int) -> int:
        """Take in events; return how many had to be left out."""
        before = self._live.late + self._live.overflowed
        self._live.on_batch(batch.with_columns({**batch.columns, "observed": Numbers(times)}), now_ns)
        self._note(batch, times - times % self._every_ns)
        self._steps = max(self._steps, steps_of(batch))
        return self._live.late + self._live.overflowed - before

    def _note(self, batch: Batch, starts: npt.NDArray[np.int64]) -> None:
        """Keep the first ids of each group."""
        columns = [coded(operand.type, field_column(batch, operand.name)) for operand in self._plan.group_by]
        groups, names = combined(columns, batch.count)
        windows, window = np.unique(starts, return_inverse=True)
        both = groups * len(windows) + window
        order = np.argsort(both, kind="stable")
        begins = np.flatnonzero(np.diff(both[order], prepend=-1))
        ids = batch.ids()
        for rows in np.split(order, begins[1:]):
            key = (int(starts[rows[0]]), names[int(groups[rows[0]])])
            held = self._parents.get(key)
            if held is None:
                if len(self._parents) >= self._config.max_groups:
                    continue
                held = self._parents[key] = []
            held += [ids.at(row) for row in rows[: self._config.max_parents - len(held)].tolist()]

    def closed(self, kind: Kind, time_ns: int) -> Draft | None:
        """Return the events of the windows that are over by then."""
        rows = [self._event(row) for row in self._live.on_tick(time_ns)]
        grace_ns = self._config.lateness_s * NS
        for key in [key for key in self._parents if key[0] + self._every_ns <= time_ns - grace_ns]:
            del self._parents[key]
        return draft_of(kind, rows) if rows else None

    def _event(self, row: dict[str, Value]) -> dict[str, Value]:
        start_ns, config = row[WINDOW_START], self._config
        assert isinstance(start_ns, int)
        values = [row[item.name] for item in self._plan.items]
        group, computed, count = values[: len(config.by)], values[len(config.by) : -1], values[-1]
        compared = [comparable(one.type, value) for one, value in zip(self._plan.group_by, group, strict=True)]
        event: dict[str, Value] = dict(zip(config.by, group, strict=True))
        event |= {name: _limited(value) for name, value in zip(config.compute, computed, strict=True)}
        event |= {"occurred": start_ns, "event.start": start_ns, "event.end": row[WINDOW_END], "rework.count": count}
        return event | {
            "rework.steps": self._steps + 1,
            "parents": self._parents.get((start_ns, tuple(compared)), []),
        }


def _limited(value: Value) -> Value:
    """Return a sum as an event can hold it."""
    return max(-(2**63), min(value, 2**64 - 1)) if type(value) is int else value


_FLOW: Final[dict[str, Value]] = {"source.ip": "192.0.2.1", "destination.ip": "198.51.100.1"}
_START_NS: Final = 1_793_697_240 * NS

EXAMPLES: tuple[Example, ...] = (
    Example(
        given=(
            _FLOW | {"network.bytes": 700, "network.packets": 7, "occurred": _START_NS + 1 * NS},
            _FLOW | {"network.bytes": 10, "network.packets": 1, "occurred": _START_NS + 59 * NS},
            _FLOW | {"network.bytes": 20, "network.packets": 2, "occurred": _START_NS + 60 * NS},
        ),
        expected=(
            _FLOW | {"network.bytes": 710, "network.packets": 8, "rework.count": 2, "occurred": _START_NS},
            _FLOW | {"network.bytes": 20, "rework.count": 1, "event.end": _START_NS + 120 * NS},
        ),
    ),
    Example(
        given=({"host": "a", "level": 3}, {"host": "a", "level": 5}),
        expected=({"host": "a", "level": 3, "labels.highest": 5, "rework.count": 2},),
        config={"by": ["host"], "compute": {"level": "min(level)", "labels.highest": "max(level)"}},
    ),
)
