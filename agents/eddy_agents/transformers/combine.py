"""Combines two flows: adds to events of one the fields of those of the other that fit by key and time.

In: any cooked events: what ``subscribe`` selects, both flows. Events of the type `other`, or of one that begins with it
and a dot, give fields; all others are completed. Out: ``cooked.<class>.<type>`` of what is completed, as it came in, or
of type ``as_type``.

An event fits where its `other_keys` are equal to the `keys` and the two occurred within `within_s` of each other; of
several the nearest in time, to the millisecond. `take` names the fields that are added; they replace what is there.
A combined event has both as ``parents`` and ``rework.count`` 2. One event may complete several.

An event waits for `wait_s` at least and a second more at most, by the clock of this host; those of the other flow are
kept for `wait_s` and `within_s` together. What found nothing is passed on as it is, or left out and told with a notice.
The other flow's events are left out, counted as filtered, or passed on at once as well.

State: `max_held` events of each flow. Beyond, those to be completed wait no longer and the oldest of the other flow are
forgotten; both are told with a notice.

Source: the interval join of stream processing: Kang, Naughton, Viglas, "Evaluating window joins over unbounded streams"
(2003).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from eddy_agents.reworking.keys import FLOW, hashes
from eddy_agents.reworking.passing import (
    BY_STATEMENT,
    NS,
    Bounds,
    Count,
    Rest,
    Seconds,
    TypeName,
    admitted,
    id_rows,
    parents_column,
    passed,
    times_of,
)
from eddy_mesh.agent import Draft, Example, Output, Result
from eddy_mesh.batch import Batch
from eddy_mesh.cer import Value
from eddy_mesh.columns import Column, Index, Numbers
from eddy_mesh.errors import ConfigError
from eddy_mesh.fields import field
from eddy_mesh.hashing import Hashes
from eddy_mesh.rows import column_for
from eddy_mesh.selection.lookup import field_column

INPUT: Final = BY_STATEMENT

_ADVICE: Final = {
    "unmatched": "events found none of the other flow and were left out, as unmatched says",
    "others_forgotten": "events of the other flow were forgotten early: raise max_held or lower wait_s",
    "held_too_many": "events did not wait for the other flow: raise max_held or lower wait_s",
}
_TIME_BITS: Final = np.int64(42)
_TIME_MAX: Final = (1 << 41) - 1


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of combining."""

    other: TypeName = "packet"
    """Type of the events that give fields; ``dns`` is ``dns.reply`` too."""
    keys: tuple[str, ...] = FLOW
    """Fields of the events that are completed."""
    other_keys: tuple[str, ...] = ()
    """The fields of the other flow that are equal to them, in the same order; empty: of the same names."""
    take: dict[str, str] = {}
    """Fields that are added: their names, and which field of the other event each is."""
    within_s: Seconds = 2
    """How far apart in time two events may be that belong together, s."""
    wait_s: Seconds = 5
    """How long an event waits for one of the other flow, s."""
    unmatched: Rest = Rest.PASS
    """What becomes of events for which there was none."""
    others: Rest = Rest.DROP
    """What becomes of the events of the other flow themselves."""
    max_held: Count = 200_000
    """Most events of either flow that wait."""
    as_type: TypeName = ""
    """Type of what goes out; empty: as it came in."""


@dataclass(frozen=True, slots=True)
class _Held:
    """Events of one batch that wait."""

    batch: Batch
    arrived_ns: int
    keys: Hashes
    times_ns: npt.NDArray[np.int64]


class Cooking:
    """Events of two flows → those of one, completed.

    Raises:
        ConfigError: the keys do not fit each other, or a field to be added is not registered.
    """

    def __init__(self, config: Config) -> None:
        other_keys = config.other_keys or config.keys
        mistakes = [f"combine: take: there is no field {name!r}" for name in config.take if field(name) is None]
        if len(other_keys) != len(config.keys):
            mistakes.append(f"combine: other_keys: {len(other_keys)} for {len(config.keys)} keys: write one for each")
        if mistakes:
            raise ConfigError(mistakes)
        self._config = config
        self._other_keys = other_keys
        self._waiting: list[_Held] = []
        self._others: list[_Held] = []
        self._bounds = Bounds("combine", _ADVICE)

    def on_batch(self, batch: Batch, now_ns: int) -> Result:
        """Take in events of either flow; return what is due."""
        taken, refusals = admitted(batch)
        if not taken.count:
            return Result((), refusals)
        times, config = times_of(taken, now_ns), self._config
        if not f"{taken.kind.type}.".startswith(f"{config.other}."):
            self._waiting.append(_Held(taken, now_ns, hashes(taken, config.keys), times))
            return Result(self._due(now_ns), refusals)
        self._others.append(_Held(taken, now_ns, hashes(taken, self._other_keys), times))
        self._forget(now_ns)
        if config.others is Rest.DROP:
            return Result(self._due(now_ns), refusals, taken.count)
        also = passed(taken, np.arange(taken.count), "", {})
        return Result([also, *self._due(now_ns)], refusals)

    def on_tick(self, now_ns: int) -> Result:
        """Return what has waited long enough; tell what was left out."""
        outputs = self._due(now_ns)
        self._forget(now_ns)
        return Result([*outputs, *self._bounds.notices()])

    def _forget(self, now_ns: int) -> None:
        """Keep of the other flow what may still fit, and not too much of it."""
        kept_ns = round((self._config.wait_s + self._config.within_s) * NS) + 2 * NS
        self._others = [held for held in self._others if held.arrived_ns > now_ns - kept_ns]
        while len(self._others) > 1 and _events(self._others) > self._config.max_held:
            self._bounds.add("others_forgotten", self._others.pop(0).batch.count)

    def _due(self, now_ns: int) -> list[Output]:
        wait_ns = round(self._config.wait_s * NS)
        due = [held for held in self._waiting if held.arrived_ns <= now_ns - wait_ns]
        if _events(self._waiting) > self._config.max_held:
            self._bounds.add("held_too_many", _events(self._waiting) - _events(due))
            due = self._waiting
        elif due and not self._waiting[0].arrived_ns <= now_ns - wait_ns - NS // 2:
            return []  # once in half a second is enough
        if not due:
            return []
        self._waiting = self._waiting[len(due) :]
        fitting = self._fitting(due)
        drafts = [self._draft(held, rows) for held, rows in zip(due, fitting, strict=True)]
        return [draft for draft in drafts if draft is not None]

    def _fitting(self, due: list[_Held]) -> list[Index]:
        """Return for each event the number of the one that fits, counted over all of the other flow; -1 for none."""
        others = self._others
        if not others:
            return [np.full(held.batch.count, -1, np.intp) for held in due]
        keys = np.concatenate([held.keys for held in [*others, *due]])
        times = np.concatenate([held.times_ns for held in [*others, *due]])
        found = nearest(keys, times, _events(others), round(self._config.within_s * NS))
        return np.split(found, np.cumsum([held.batch.count for held in due])[:-1])

    def _draft(self, held: _Held, fitting: Index) -> Draft | None:
        batch, as_type = held.batch, self._config.as_type
        matched = fitting >= 0
        index = np.arange(batch.count)
        if self._config.unmatched is Rest.DROP:
            self._bounds.add("unmatched", int((~matched).sum()))
            index = np.flatnonzero(matched)
        if not len(index):
            return None
        matched, fitting = matched[index], fitting[index]
        if not matched.any():
            return passed(batch, index, as_type, {})
        own, both = id_rows(batch.ids())[index], np.repeat(np.arange(len(index)), 1 + matched)
        ids = own[both]
        is_other = np.diff(both, prepend=-1) == 0
        ids[is_other] = np.concatenate([id_rows(one.batch.ids()) for one in self._others])[fitting[matched]]
        changed: dict[str, Column] = {"rework.count": Numbers((1 + matched).astype(np.uint8))}
        for name, other_name in self._config.take.items():
            before, columns = field_column(batch, name), [field_column(one.batch, other_name) for one in self._others]
            changed[name] = column_for(name, _values(before, index, columns, fitting))
        return passed(batch, index, as_type, changed | {"parents": parents_column(ids, 1 + matched)})


def _events(held: list[_Held]) -> int:
    return sum(one.batch.count for one in held)


def _values(before: Column, index: Index, columns: list[Column], fitting: Index) -> list[Value]:
    """Return the values of a field: of the event that fits, else what was there before."""
    ends = np.cumsum([len(column) for column in columns])
    places = np.searchsorted(ends, fitting, "right")
    starts = ends - [len(column) for column in columns]
    return [
        before.at(own) if other < 0 else columns[place].at(other - int(starts[place]))
        for own, other, place in zip(index.tolist(), fitting.tolist(), places.tolist(), strict=True)
    ]


def nearest(keys: Hashes, times_ns: npt.NDArray[np.int64], others: int, within_ns: int) -> Index:
    """Return for each event the one of the other flow with the same key that is nearest in time.

    Args:
        keys: of the other flow's events, then of those that are completed.
        times_ns: likewise.
        others: how many are of the other flow, at least 1.
        within_ns: how far apart the two may be.

    Returns:
        For each event that is completed the number of the other one; -1 for none.
    """
    _, key_no = np.unique(keys, return_inverse=True)
    base = int(times_ns.min())
    places = (key_no.astype(np.int64) << _TIME_BITS) + np.minimum((times_ns - base) // 1_000_000, _TIME_MAX)
    order = np.argsort(places[:others], kind="stable")
    at = np.searchsorted(places[:others][order], places[others:])
    best, distance = np.full(len(at), -1, np.intp), np.full(len(at), within_ns, np.int64)
    for candidate in (at, at - 1):  # of two that are as near the earlier one
        chosen = order[np.clip(candidate, 0, others - 1)]
        apart = np.abs(times_ns[chosen] - times_ns[others:])
        fits = (keys[chosen] == keys[others:]) & (apart <= distance)
        best, distance = np.where(fits, chosen, best), np.where(fits, apart, distance)
    return best


_FLOW: Final[dict[str, Value]] = {"source.ip": "192.0.2.7", "occurred": 1_793_697_247 * NS}

EXAMPLES: tuple[Example, ...] = (
    Example(  # the user is that of the last login from the address
        given=(
            {"type": "login", "source.ip": "192.0.2.7", "user.name": "bob", "occurred": 1_793_697_246 * NS},
            {"type": "login", "source.ip": "192.0.2.7", "user.name": "eve", "occurred": 1_793_697_240 * NS},
            _FLOW | {"network.bytes": 10},
            _FLOW | {"source.ip": "192.0.2.8"},
        ),
        expected=(
            {"network.bytes": 10, "user.name": "bob", "rework.count": 2},
            {"source.ip": "192.0.2.8", "user.name": None, "rework.count": 1},
        ),
        config={"other": "login", "keys": ["source.ip"], "take": {"user.name": "user.name"}, "within_s": 10},
    ),
)
