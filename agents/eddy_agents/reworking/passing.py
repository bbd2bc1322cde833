"""Passing events on: what goes out of a cooking that reworks events, and what such a cooking says of itself.

What may live here: what all of them do alike to the events that they let through.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Final

import msgspec
import numpy as np
import numpy.typing as npt

from eddy_mesh.agent import Draft, Output, Refusal, draft_of
from eddy_mesh.batch import EXTRA, Batch, Kind
from eddy_mesh.cer import EventClass, Stage, Value
from eddy_mesh.columns import Bytes, Column, Ids, Index, Maps, Numbers
from eddy_mesh.selection.lookup import integers

BY_STATEMENT: Final[tuple[str, ...]] = ()
"""``INPUT`` of a cooking that takes whatever ``subscribe`` or an edge of the topology gives it."""

NOTICE: Final = Kind(Stage.COOKED, EventClass.DERIVED, "mesh.notice")
MAX_STEPS: Final = 8
"""Reworkings that an event may go through; more mean that two agents feed each other."""

Count = Annotated[int, msgspec.Meta(ge=1)]
"""A bound on how much is kept."""
Seconds = Annotated[float, msgspec.Meta(ge=0, le=36_000)]
"""A wait, s. Two of them are over when a drain lets a day pass (`eddy_mesh.actor.cell.AFTERWARDS_NS`)."""
Every = Annotated[int, msgspec.Meta(ge=1, le=36_000)]
"""Length of a window, s."""
TypeName = Annotated[str, msgspec.Meta(pattern=r"^([a-z0-9_-]{1,64}(\.[a-z0-9_-]{1,64}){0,3})?$")]
"""Type of events, or nothing."""

NS: Final = 1_000_000_000


class Rest(StrEnum):
    """What becomes of events that a cooking does not rework."""

    PASS = "pass"  # noqa: S105  # no password
    DROP = "drop"


class Bounds:
    """Which bounds of a cooking were reached: an operator is told with notices, once a tick.

    Args:
        cooking: which one.
        advice: for each name of what can happen, such as ``held_too_many``, what becomes of the events and what to do.
    """

    def __init__(self, cooking: str, advice: Mapping[str, str]) -> None:
        self._cooking = cooking
        self._advice = advice
        self._counts = dict.fromkeys(advice, 0)

    def add(self, action: str, count: int) -> None:
        """Count events that a bound concerns; ``action`` is one of those with an advice."""
        self._counts[action] += count

    def notices(self) -> list[Output]:
        """Return a notice for each bound that was reached since the last call."""
        reached = [(action, count) for action, count in self._counts.items() if count]
        self._counts = dict.fromkeys(self._advice, 0)
        return [draft_of(NOTICE, [self._row(action, count)]) for action, count in reached]

    def _row(self, action: str, count: int) -> dict[str, Value]:
        return {
            "event.action": action,
            "agent.type": self._cooking,
            "edge.reason": action,
            "edge.count": count,
            "level": 4,
            "message": f"{self._cooking}: {count} {self._advice[action]}",
        }


def kind_of(kind: Kind, as_type: str) -> Kind:
    """Return the kind of what goes out: that of what came in, or with the type that the configuration names."""
    return kind._replace(type=as_type) if as_type else kind


def admitted(batch: Batch) -> tuple[Batch, tuple[Refusal, ...]]:
    """Return the events of a batch that are not going round in circles, and a refusal of those that are."""
    if "rework.steps" not in batch.columns and EXTRA not in batch.columns:
        return batch, ()
    circling = integers(batch, "rework.steps") >= MAX_STEPS
    if not circling.any():
        return batch, ()
    detail = f"went through {MAX_STEPS} reworkings: two agents take each other's events; give what goes out an as_type"
    return batch.filter(~circling), (Refusal(np.flatnonzero(circling).tolist(), "cycle", detail),)


def passed(batch: Batch, index: Index, as_type: str, changed: Mapping[str, Column]) -> Draft:
    """Return events of a batch as new ones, each made of the one that it was.

    Args:
        batch: events that came in.
        index: which of them, in the order in which they go out.
        as_type: type of what goes out; "" for that of the batch.
        changed: columns that are added or replaced; ``parents`` too, where an event has more than one.
    """
    is_whole = len(index) == batch.count and bool((np.diff(index) == 1).all())
    columns: dict[str, Column] = {
        name: column if is_whole else column.take(index)
        for name, column in batch.columns.items()
        if name != "id" and name not in changed
    }
    steps = np.maximum(integers(batch, "rework.steps")[index], 0) + 1
    columns |= {"parents": batch.ids().take(index), "rework.steps": Numbers(steps.astype(np.uint8))}
    columns.update(changed)
    return Draft(kind_of(batch.kind, as_type), len(index), columns)


def times_of(batch: Batch, now_ns: int, name: str = "occurred") -> npt.NDArray[np.int64]:
    """Return a time of each event, ns since 1970 UTC: of that field, else when it occurred, was observed, or now."""
    times = integers(batch, name)
    for other in ("occurred", "observed"):
        if (times < 0).any():
            times = np.where(times < 0, integers(batch, other), times)
    return np.where(times < 0, now_ns, times)


def id_rows(ids: Ids) -> npt.NDArray[np.uint64]:
    """Return the halves of each id, shape (n, 2)."""
    return np.column_stack((ids.highs(), ids.low))


def parents_column(ids: npt.NDArray[np.uint64], lengths: npt.NDArray[np.integer]) -> Bytes:
    """Return lists of parents: ids end to end, so many for each event.

    Args:
        ids: shape (n, 2).
        lengths: their sum is n.
    """
    offsets = np.zeros(len(lengths) + 1, np.uint32)
    np.cumsum(lengths.astype(np.uint32) * np.uint32(16), out=offsets[1:])
    return Bytes(offsets, ids.astype(">u8").tobytes())


def spread(column: Maps, index: Index) -> Maps:
    """Return the rows that an index names, many of them the same few: what `Maps.take` gives, five times as fast."""
    starts = column.offsets[:-1][index].astype(np.int64)
    lengths = np.diff(column.offsets)[index].astype(np.int64)
    offsets = np.zeros(len(index) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    places = np.repeat(starts - offsets[:-1], lengths) + np.arange(int(offsets[-1]))
    data = np.frombuffer(column.data, np.uint8)[places].tobytes()
    nulls = None if column.nulls is None else column.nulls[index]
    return Maps(offsets.astype(np.uint32), data, nulls if nulls is not None and nulls.any() else None)


def steps_of(batch: Batch) -> int:
    """Return the most reworkings that an event of a batch went through; 0 for an empty batch."""
    return max(int(integers(batch, "rework.steps").max(initial=0)), 0)


def exact_sum(values: npt.NDArray[np.int64]) -> int:
    """Return the sum of all values that are not negative; it may be larger than 64 bits."""
    present = values[values > 0]
    return (int((present >> 32).sum()) << 32) + int((present & 0xFFFF_FFFF).sum())
