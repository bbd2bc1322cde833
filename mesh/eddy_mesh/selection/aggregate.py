"""GROUP BY ... EVERY on live batches: tumbling windows, grouped a batch at a time.

What may live here: `LiveAggregate`, its windows, and how the rows of a closed window are made. Time comes in as an
argument. Memory is bounded; what does not fit is counted.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from eddy_mesh.batch import Batch, Kind, Producer
from eddy_mesh.cer import EventClass, Stage, Value
from eddy_mesh.columnize import column_of
from eddy_mesh.errors import UsageError
from eddy_mesh.fields import FieldType
from eddy_mesh.selection.coded import Coded, coded, combined
from eddy_mesh.selection.evaluate import condition_matcher, matcher
from eddy_mesh.selection.lookup import field_column
from eddy_mesh.selection.plan import Key, Literal, Operand, Plan
from eddy_mesh.selection.sql import WINDOW_END, WINDOW_START
from eddy_mesh.selection.tally import Tally
from eddy_mesh.selection.values import public

MAX_GROUPS = 65_536
"""Most groups, and values that count(DISTINCT ...) has seen, over all open windows of one statement."""

GroupKey = tuple[Literal | None, ...]


@dataclass(slots=True)
class _Window:
    tallies: dict[GroupKey, list[Tally]] = field(default_factory=dict)


class LiveAggregate:
    """The open windows of one statement.

    A window is keyed on the time at which an event was taken in (``observed``; the batch's arrival where it has none):
    clocks of sources differ, and a window must close. A window without events gives no rows.

    Attributes:
        late: events that came after their window was closed.
        overflowed: events that were left out because there were too many groups or values to keep.
    """

    def __init__(self, plan: Plan, *, max_groups: int = MAX_GROUPS, grace_ns: int | None = None) -> None:
        """Start with no window.

        Args:
            plan: statement with EVERY.
            max_groups: most groups and DISTINCT values that are kept at once.
            grace_ns: how long after its end a window waits for events still on their way; a tenth of its length, at
                most one second, when None.

        Raises:
            UsageError: the statement has no EVERY.
        """
        if plan.every_ns is None:
            raise UsageError(f"{plan.text!r} groups live events: say how often with EVERY, such as EVERY 10s")
        self.late = 0
        self.overflowed = 0
        self._plan = plan
        self._every_ns = plan.every_ns
        self._grace_ns = min(plan.every_ns // 10, 1_000_000_000) if grace_ns is None else grace_ns
        self._matches = matcher(plan)
        self._having = None if plan.having is None else condition_matcher(plan.having)
        self._room = max_groups
        self._windows: dict[int, _Window] = {}
        self._closed_until_ns = -(1 << 63)

    def on_batch(self, batch: Batch, now_ns: int) -> int:
        """Take in the events of a batch that the statement selects.

        Args:
            batch: events.
            now_ns: ns since 1970 UTC.

        Returns:
            How many events were selected.
        """
        selected = batch.filter(self._matches(batch))
        if not selected.count:
            return 0
        starts = self._starts(selected, now_ns)
        for start in np.unique(starts).tolist():
            rows = np.flatnonzero(starts == start)
            if start + self._every_ns <= self._closed_until_ns:
                self.late += len(rows)
            else:
                self._add(start, selected.take(rows))
        return selected.count

    def on_tick(self, now_ns: int) -> list[dict[str, Value]]:
        """Close the windows that are over and return their rows, window by window.

        Args:
            now_ns: ns since 1970 UTC.
        """
        return self._close(now_ns - self._grace_ns)

    def drain(self) -> list[dict[str, Value]]:
        """Close every window, over or not, and return the rows."""
        return self._close(max(self._windows, default=0) + self._every_ns)

    def _close(self, until_ns: int) -> list[dict[str, Value]]:
        rows: list[dict[str, Value]] = []
        for start in sorted(self._windows):
            if start + self._every_ns <= until_ns:
                window = self._windows.pop(start)
                self._room += sum(1 + sum(tally.size for tally in each) for each in window.tallies.values())
                rows += self._rows(start, window)
        whole = until_ns - until_ns % self._every_ns
        self._closed_until_ns = max(self._closed_until_ns, whole)
        return rows

    def _starts(self, batch: Batch, now_ns: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        column = coded(FieldType.TIME, field_column(batch, "observed"))
        times = np.array([*column.values, now_ns], np.int64)[column.codes]  # code -1, NULL, is the last: now
        starts: np.ndarray[tuple[int], np.dtype[np.int64]] = times - times % self._every_ns
        return starts

    def _add(self, start: int, batch: Batch) -> None:
        window = self._windows.setdefault(start, _Window())
        keys = [_column(operand, batch) for operand in self._plan.group_by]
        groups, names = combined(keys, batch.count)
        counts = np.bincount(groups, minlength=len(names))
        arguments = [None if each.operand is None else _column(each.operand, batch) for each in self._plan.aggregates]
        summaries = [
            Tally.of_groups(aggregate, argument, groups, counts)
            for aggregate, argument in zip(self._plan.aggregates, arguments, strict=True)
        ]
        for number, key in enumerate(names):
            self._merge(window, key, [summary[number] for summary in summaries], int(counts[number]))

    def _merge(self, window: _Window, key: GroupKey, tallies: list[Tally], events: int) -> None:
        held = window.tallies.get(key)
        if held is None:
            needed = 1 + sum(tally.size for tally in tallies)
        else:
            needed = sum(old.growth(new) for old, new in zip(held, tallies, strict=True))
        if needed > self._room:
            self.overflowed += events
            return
        self._room -= needed
        if held is None:
            window.tallies[key] = tallies
            return
        for old, new in zip(held, tallies, strict=True):
            old.add(new)

    # --- rows of a closed window

    def _rows(self, start: int, window: _Window) -> list[dict[str, Value]]:
        if not window.tallies:
            return []
        names = [operand.name for operand in self._plan.group_by] + [each.name for each in self._plan.aggregates]
        found = [
            dict(zip(names, (*key, *(tally.result() for tally in tallies)), strict=True))
            for key, tallies in window.tallies.items()
        ]
        found = self._ordered(self._kept(found))[: self._plan.limit]
        times: dict[str, Value] = {WINDOW_START: start, WINDOW_END: start + self._every_ns}
        return [
            times | {item.name: public(item.value.type, row[item.value.name]) for item in self._plan.items}
            for row in found
        ]

    def _kept(self, found: list[dict[str, Literal | None]]) -> list[dict[str, Literal | None]]:
        if self._having is None:
            return found
        types = {operand.name: operand.type for operand in self._plan.group_by}
        types |= {aggregate.name: aggregate.type for aggregate in self._plan.aggregates}
        columns = {
            name: column_of(_text_if_any(kind), [public(kind, row[name]) for row in found])
            for name, kind in types.items()
        }
        table = Batch(_NO_KIND, "", Producer(0, 0), 0, 0, len(found), columns)
        return [row for row, kept in zip(found, self._having(table).tolist(), strict=True) if kept]

    def _ordered(self, found: list[dict[str, Literal | None]]) -> list[dict[str, Literal | None]]:
        keys = (*self._plan.order_by, *map(Key, self._plan.group_by))
        for key in reversed(keys):  # sorting is stable: the last key first
            found = _sorted(found, key)
        return found


_NO_KIND = Kind(Stage.ANALYZED, EventClass.DERIVED, "")


def _sorted(rows: list[dict[str, Literal | None]], key: Key) -> list[dict[str, Literal | None]]:
    name = key.value.name
    held = [row for row in rows if row[name] is not None]
    held.sort(key=lambda row: row[name], reverse=key.descending)  # type: ignore[arg-type, return-value]  # none is None
    return held + [row for row in rows if row[name] is None]


def _column(operand: Operand, batch: Batch) -> Coded:
    return coded(operand.type, field_column(batch, operand.name))


def _text_if_any(kind: FieldType) -> FieldType:
    return FieldType.TEXT if kind is FieldType.ANY else kind
