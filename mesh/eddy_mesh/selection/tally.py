"""What one aggregate has seen of one group, and the making of one for each group of a batch.

What may live here: `Tally`. Sums of integers are exact; an average is the exact sum divided once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from eddy_mesh.selection.coded import Coded, Codes
from eddy_mesh.selection.plan import Aggregate, Function, Literal


@dataclass(slots=True)
class Tally:
    """What one aggregate has seen of one group.

    Attributes:
        function: what it computes.
        count: values that were not NULL (events for ``count(*)``).
        total: their sum.
        extreme: least or greatest of them.
        seen: the different ones, for DISTINCT; else None.
    """

    function: Function
    count: int = 0
    total: int | float = 0
    extreme: Literal | None = None
    seen: set[Literal] | None = field(default=None)

    @property
    def size(self) -> int:
        """How many values it keeps."""
        return 0 if self.seen is None else len(self.seen)

    def growth(self, other: Tally) -> int:
        """Return how many values more it keeps after `add`."""
        return 0 if self.seen is None or other.seen is None else len(other.seen - self.seen)

    def add(self, other: Tally) -> None:
        """Take in what another tally of the same aggregate and group has seen."""
        self.count += other.count
        self.total += other.total
        if self.seen is not None and other.seen is not None:
            self.seen |= other.seen
        if self.extreme is None or other.extreme is None:
            self.extreme = other.extreme if self.extreme is None else self.extreme
            return
        choose = min if self.function is Function.MIN else max
        self.extreme = choose(self.extreme, other.extreme)

    def result(self) -> Literal | None:
        """Return the value of the aggregate; None, NULL, when it has seen no value and is no count."""
        if self.function is Function.COUNT:
            return self.count if self.seen is None else len(self.seen)
        if self.function in {Function.MIN, Function.MAX}:
            return self.extreme
        if not self.count:
            return None
        return self.total if self.function is Function.SUM else float(self.total) / self.count

    @classmethod
    def of_groups(
        cls,
        aggregate: Aggregate,
        argument: Coded | None,
        groups: Codes,
        counts: np.ndarray[tuple[int], np.dtype[np.intp]],
    ) -> list[Tally]:
        """Return a tally for each group of a batch.

        Args:
            aggregate: what to compute.
            argument: its field; None for ``count(*)``.
            groups: number of the group of each row.
            counts: number of rows of each group.
        """
        function = aggregate.function
        if argument is None:
            return [cls(function, count) for count in counts.tolist()]
        present = argument.codes >= 0
        groups, codes = groups[present], argument.codes[present]
        held = np.bincount(groups, minlength=len(counts)).tolist()
        tallies = [cls(function, count) for count in held]
        if aggregate.distinct:
            _fill_seen(tallies, groups, codes, argument.values)
        elif function in {Function.SUM, Function.AVG}:
            for tally, total in zip(tallies, _sums(groups, codes, argument.values, len(counts)), strict=True):
                tally.total = total
        elif function in {Function.MIN, Function.MAX}:
            _fill_extremes(tallies, groups, codes, argument.values)
        return tallies


def _fill_seen(tallies: list[Tally], groups: Codes, codes: Codes, values: Sequence[Literal]) -> None:
    for tally in tallies:
        tally.seen = set()
    width = len(values)
    pairs = np.unique(groups * width + codes) if width else groups
    for pair in pairs.tolist():
        group, code = divmod(pair, width)
        seen = tallies[group].seen
        assert seen is not None
        seen.add(values[code])


def _fill_extremes(tallies: list[Tally], groups: Codes, codes: Codes, values: Sequence[Literal]) -> None:
    if not len(groups):
        return
    order = np.lexsort((codes, groups))
    sorted_groups = groups[order]
    starts = np.flatnonzero(np.diff(sorted_groups, prepend=-1))
    # Codes ascend with their values: the first of a group is the least, the last the greatest.
    ends = np.append(starts[1:], len(order)) - 1
    for group, first, last in zip(sorted_groups[starts].tolist(), starts.tolist(), ends.tolist(), strict=True):
        tally = tallies[group]
        row = order[first] if tally.function is Function.MIN else order[last]
        tally.extreme = values[int(codes[row])]


def _sums(groups: Codes, codes: Codes, values: Sequence[Literal], count: int) -> list[int | float]:
    if not values:
        return [0] * count
    if isinstance(values[0], float):
        return np.bincount(groups, np.array(values, np.float64)[codes], count).tolist()  # type: ignore[no-any-return]
    # Halves of 32 bits: sums of up to 2^20 of them are exact in the doubles that bincount adds.
    upper = np.array([int(value) >> 32 for value in values], np.float64)[codes]
    lower = np.array([int(value) & 0xFFFF_FFFF for value in values], np.float64)[codes]
    pairs = zip(np.bincount(groups, upper, count).tolist(), np.bincount(groups, lower, count).tolist(), strict=True)
    return [(int(high) << 32) + int(low) for high, low in pairs]
