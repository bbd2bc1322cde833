"""Many statements asked of one batch at once, at a cost that grows with what matches and not with their number.

What may live here: `Index` and its table for one kind of event. Statements that ask a field for a few values are found
by these values, one look-up of the field for all of them; only the rows found so are asked the rest of a statement.
Statements with the same condition are evaluated once. The result is that of `eddy_mesh.selection.evaluate.matcher`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from eddy_mesh.batch import Batch, Kind
from eddy_mesh.selection.evaluate import RowCondition, whole_condition
from eddy_mesh.selection.keys import Lookup, Rows
from eddy_mesh.selection.lookup import field_column
from eddy_mesh.selection.plan import Condition, Operand, Plan
from eddy_mesh.selection.prefilter import matches_kind
from eddy_mesh.selection.terms import Term, taken_apart

MAX_KINDS = 1024
"""Kinds and origins whose table is remembered."""
_LEAST = 4
"""Fewer statements on a field are asked faster one by one; so many with the same rest make it worth asking once."""
_SHARED_COST = 20
"""A rest that costs more ns a row is asked only of the rows that were found."""

Numbers = tuple[int, ...]
_Masks = dict[Condition, npt.NDArray[np.bool_]]


class Index:
    """Statements as an index.

    Args:
        plans: statements; the result names them by their place here.
    """

    def __init__(self, plans: Sequence[Plan]) -> None:
        self._plans = tuple(plans)
        self._tables: dict[tuple[Kind, str], Table] = {}
        self._shared: dict[Numbers, Table] = {}

    def table(self, kind: Kind, origin: str) -> Table:
        """Return what is asked of the events of one kind and origin."""
        held = self._tables.get((kind, origin))
        if held is None:
            if len(self._tables) >= MAX_KINDS:  # kinds and origins come from outside
                self._tables.clear()
                self._shared.clear()
            wanted = tuple(n for n, plan in enumerate(self._plans) if matches_kind(plan, kind, origin))
            if wanted not in self._shared:
                self._shared[wanted] = Table({number: self._plans[number] for number in wanted})
            held = self._tables[kind, origin] = self._shared[wanted]
        return held

    def matches(self, batch: Batch) -> list[tuple[int, Rows]]:
        """Return the number of each statement that selects any event of a batch, with the events that it selects."""
        return self.table(batch.kind, batch.origin).matches(batch)


@dataclass(frozen=True, slots=True)
class _Asked:
    """Statements with the same condition, and what is to be asked of the rows that their term finds."""

    plans: Numbers
    rest: RowCondition | None
    is_shared: bool = False


@dataclass(frozen=True, slots=True)
class _Field:
    """The statements that are found by the values of one field."""

    name: str
    lookup: Lookup
    asked: tuple[_Asked, ...]


class Table:
    """The statements that can select events of one kind.

    Args:
        plans: number of each statement → statement. FROM is not looked at any more.

    Attributes:
        wanted: their numbers.
    """

    def __init__(self, plans: Mapping[int, Plan]) -> None:
        self.wanted = tuple(plans)
        same: defaultdict[Condition | None, list[int]] = defaultdict(list)
        for number, plan in plans.items():
            same[whole_condition(plan)].append(number)
        chosen = _chosen([condition for condition in same if condition is not None])
        self._fields = _fields({condition: tuple(numbers) for condition, numbers in same.items()}, chosen)
        self._others = tuple(
            _Asked(tuple(numbers), None if condition is None else RowCondition(condition))
            for condition, numbers in same.items()
            if condition not in chosen
        )

    def matches(self, batch: Batch) -> list[tuple[int, Rows]]:
        """Return the number of each statement that selects any event of a batch, with these events."""
        return [(number, rows) for asked, rows in self._found(batch) if len(rows) for number in asked.plans]

    def _found(self, batch: Batch) -> Iterator[tuple[_Asked, Rows]]:
        if not batch.count:
            return
        masks: _Masks = {}
        for field in self._fields:
            for number, rows in field.lookup.rows(field_column(batch, field.name)):
                asked = field.asked[number]
                yield asked, _kept(asked, batch, rows, masks)
        for asked in self._others:
            yield asked, np.arange(batch.count) if asked.rest is None else np.flatnonzero(asked.rest.mask(batch))


def _kept(asked: _Asked, batch: Batch, rows: Rows, masks: _Masks) -> Rows:
    """Return the rows for which the rest of the statement is TRUE as well."""
    rest = asked.rest
    if rest is None:
        return rows
    if not asked.is_shared:
        return rest.among(batch, rows)
    mask = masks.get(rest.condition)
    if mask is None:
        mask = masks[rest.condition] = rest.mask(batch)
    return rows[mask[rows]]


def _chosen(conditions: Sequence[Condition]) -> dict[Condition | None, tuple[Term, Condition | None]]:
    """Return for each condition that is worth indexing the term by which it is found, and the rest.

    A field of which many values are asked tells statements apart better than one of which all ask the same.
    """
    apart = {condition: parts for condition in conditions if (parts := taken_apart(condition))}
    values = Counter(term.operand for term in {term for parts in apart.values() for term, _ in parts})
    best = {
        condition: max(parts, key=lambda part: (values[part[0].operand], part[0].operand.name))
        for condition, parts in apart.items()
    }
    held = Counter(term.operand for term, _ in best.values())
    return {condition: part for condition, part in best.items() if held[part[0].operand] >= _LEAST}


def _fields(
    plans: Mapping[Condition | None, Numbers], chosen: Mapping[Condition | None, tuple[Term, Condition | None]]
) -> tuple[_Field, ...]:
    rests = {rest: RowCondition(rest) for _, rest in chosen.values() if rest is not None}
    uses = Counter(rest for _, rest in chosen.values())
    by_field: defaultdict[Operand, list[Condition | None]] = defaultdict(list)
    for condition, (term, _) in chosen.items():
        by_field[term.operand].append(condition)
    fields: list[_Field] = []
    for operand, conditions in by_field.items():
        asked: list[_Asked] = []
        for condition in conditions:
            rest = chosen[condition][1]
            compiled = None if rest is None else rests[rest]
            is_shared = compiled is not None and uses[rest] >= _LEAST and compiled.cost <= _SHARED_COST
            asked.append(_Asked(plans[condition], compiled, is_shared))
        fields.append(_Field(operand.name, Lookup([chosen[each][0] for each in conditions]), tuple(asked)))
    return tuple(fields)
