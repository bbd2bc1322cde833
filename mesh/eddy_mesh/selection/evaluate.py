"""The column back end: a plan's condition compiled once to closures, then asked of live batches.

What may live here: the logic of AND, OR and NOT over masks and the order in which conditions are asked. NULL needs no
mask of its own: "where is it TRUE" and "where is it FALSE" are both compiled from the condition, with NOT pushed
down to the predicates, and what is in neither is NULL.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from eddy_mesh.batch import Batch, Kind
from eddy_mesh.columns import Addresses, Column, Constant, Numbers, nulls_of
from eddy_mesh.fields import FieldType
from eddy_mesh.selection.lookup import field_column
from eddy_mesh.selection.plan import (
    And,
    Comparison,
    Condition,
    FieldComparison,
    IsNull,
    Literal,
    Not,
    Operand,
    Operator,
    Or,
    Plan,
    operands,
)
from eddy_mesh.selection.prefilter import matches_kind
from eddy_mesh.selection.questions import Mask, Question, compare_arrays, compare_values, numbers_of, question_of
from eddy_mesh.selection.values import comparable

Matcher = Callable[[Batch], npt.NDArray[np.bool_]]

_KINDS = 256
"""Kinds and origins for which a matcher remembers what FROM says."""
_NARROWING_COST = 20
"""A condition that costs more ns a row than this is asked only of the rows that are still in question."""
_NARROWING_SHARE = 4
"""... when they are fewer than one in this many."""


@dataclass(frozen=True, slots=True)
class _Compiled:
    run: Callable[[Batch], Mask]
    cost: int
    names: frozenset[str]


def matcher(plan: Plan) -> Matcher:
    """Return a function that says for each event of a batch whether the statement selects it.

    It never raises on a batch and does not write to it.

    Args:
        plan: WHERE, FROM, SINCE, UNTIL and the rule of stages are applied; the rest is not looked at.
    """
    condition = whole_condition(plan)
    compiled = None if condition is None else _compile(condition, wanted=True)

    @lru_cache(maxsize=_KINDS)
    def is_possible(kind: Kind, origin: str) -> bool:
        return matches_kind(plan, kind, origin)

    def match(batch: Batch) -> npt.NDArray[np.bool_]:
        if not is_possible(batch.kind, batch.origin):
            return np.zeros(batch.count, np.bool_)
        if compiled is None:
            return np.ones(batch.count, np.bool_)
        return _spread(compiled.run(batch), batch.count)

    return match


def whole_condition(plan: Plan) -> Condition | None:
    """Return WHERE, SINCE and UNTIL as one condition."""
    occurred = Operand("occurred", FieldType.TIME)
    parts: list[Condition] = []
    if plan.since_ns is not None:
        parts.append(Comparison(occurred, Operator.GE, plan.since_ns))
    if plan.until_ns is not None:
        parts.append(Comparison(occurred, Operator.LT, plan.until_ns))
    if plan.where is not None:
        parts.append(plan.where)
    return parts[0] if len(parts) == 1 else And(tuple(parts)) if parts else None


def truths(condition: Condition, batch: Batch) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return where a condition is TRUE and where it is FALSE; it is NULL where it is neither."""
    true = _compile(condition, wanted=True).run(batch)
    false = _compile(condition, wanted=False).run(batch)
    return _spread(true, batch.count), _spread(false, batch.count)


def condition_matcher(condition: Condition) -> Matcher:
    """Return a function that says for each event of a batch whether a condition is TRUE."""
    compiled = _compile(condition, wanted=True)
    return lambda batch: _spread(compiled.run(batch), batch.count)


class RowCondition:
    """A condition compiled once, to be asked of whole batches or of some of their rows.

    Args:
        condition: what is asked.

    Attributes:
        condition: what is asked.
        cost: about how many ns a row takes.
    """

    def __init__(self, condition: Condition) -> None:
        self.condition = condition
        self._compiled = _compile(condition, wanted=True)
        self.cost = self._compiled.cost

    def mask(self, batch: Batch) -> npt.NDArray[np.bool_]:
        """Return for each event of a batch whether the condition is TRUE."""
        return _spread(self._compiled.run(batch), batch.count)

    def among(self, batch: Batch, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        """Return those of the rows (offsets, ascending) for which the condition is TRUE."""
        if len(rows) * _NARROWING_SHARE > batch.count:
            return rows[self.mask(batch)[rows]]
        found = self._compiled.run(_of_rows(self._compiled, batch, rows))
        return rows[found] if not isinstance(found, bool) else rows if found else rows[:0]


def _spread(mask: Mask, count: int) -> npt.NDArray[np.bool_]:
    return np.full(count, mask) if isinstance(mask, bool) else mask


# --- AND, OR, NOT ------------------------------------------------------------------------------------------------


def _compile(condition: Condition, *, wanted: bool) -> _Compiled:
    """Return what finds the rows for which a condition is TRUE (``wanted``) or FALSE (not ``wanted``)."""
    if isinstance(condition, Not):
        return _compile(condition.part, wanted=not wanted)
    names = frozenset(operand.name for operand in operands(condition))
    if isinstance(condition, And | Or):
        parts = sorted((_compile(part, wanted=wanted) for part in condition.parts), key=lambda part: part.cost)
        cost = sum(part.cost for part in parts)
        every = isinstance(condition, And) is wanted
        return _Compiled(_conjunction(parts) if every else _disjunction(parts), cost, names)
    if isinstance(condition, IsNull):
        return _Compiled(_is_null(condition.operand, wanted=wanted), 1, names)
    if isinstance(condition, FieldComparison):
        return _Compiled(_two_fields(condition, wanted=wanted), 5, names)
    question = question_of(condition)
    return _Compiled(_ask(condition.operand, question, wanted=wanted), question.cost, names)


def _conjunction(parts: list[_Compiled]) -> Callable[[Batch], Mask]:
    def run(batch: Batch) -> Mask:
        mask: Mask = True
        for part in parts:
            found = _narrowed(part, batch, mask) if part.cost > _NARROWING_COST else part.run(batch)
            mask = found if mask is True else mask & found
            if mask is False or (not isinstance(mask, bool) and not mask.any()):
                return False
        return mask

    return run


def _disjunction(parts: list[_Compiled]) -> Callable[[Batch], Mask]:
    def run(batch: Batch) -> Mask:
        mask: Mask = False
        for part in parts:
            mask = mask | part.run(batch)
            if mask is True:
                return True
        return mask

    return run


def _narrowed(part: _Compiled, batch: Batch, mask: Mask) -> Mask:
    """Ask a costly condition of the rows in ``mask`` only."""
    if isinstance(mask, bool):
        return part.run(batch)
    rows = np.flatnonzero(mask)
    if len(rows) * _NARROWING_SHARE > batch.count:
        return part.run(batch)
    found = part.run(_of_rows(part, batch, rows))
    if isinstance(found, bool):
        return found
    spread = np.zeros(batch.count, np.bool_)
    spread[rows] = found
    return spread


def _of_rows(part: _Compiled, batch: Batch, rows: npt.NDArray[np.intp]) -> Batch:
    """Return some rows of the columns that a condition reads; not their numbering, which no condition sees."""
    columns = {name: field_column(batch, name).take(rows) for name in part.names}
    return Batch(batch.kind, batch.origin, batch.producer, batch.first, batch.stamp_ms, len(rows), columns)


# --- predicates --------------------------------------------------------------------------------------------------


def _ask(operand: Operand, question: Question, *, wanted: bool) -> Callable[[Batch], Mask]:
    name, kind = operand.name, operand.type

    def run(batch: Batch) -> Mask:
        column = field_column(batch, name)
        if isinstance(column, Constant):
            value = comparable(kind, column.value)
            return value is not None and question.on_value(value) is wanted
        answer = question.on_column(column)
        if answer is None:
            return _one_by_one(kind, column, question, wanted=wanted)
        if not wanted:
            answer = not answer if isinstance(answer, bool) else ~answer
        return False if answer is False else _without_nulls(column, answer)

    return run


def _one_by_one(kind: FieldType, column: Column, question: Question, *, wanted: bool) -> npt.NDArray[np.bool_]:
    values = (comparable(kind, column.at(row)) for row in range(len(column)))
    answers = (value is not None and question.on_value(value) is wanted for value in values)
    return np.fromiter(answers, np.bool_, len(column))


def _without_nulls(column: Column, answer: Mask) -> Mask:
    if isinstance(column, Numbers) and column.values.dtype.kind == "f":
        answer = answer & ~np.isnan(column.values)
    nulls = None if isinstance(column, Constant) else column.nulls
    return answer if nulls is None else answer & ~nulls


def _is_null(operand: Operand, *, wanted: bool) -> Callable[[Batch], Mask]:
    name, kind = operand.name, operand.type

    def run(batch: Batch) -> Mask:
        column = field_column(batch, name)
        nulls = null_rows(kind, column)
        return nulls if wanted else ~nulls

    return run


def null_rows(kind: FieldType, column: Column) -> npt.NDArray[np.bool_]:
    """Return True for each row that has no value of that type: those of another type count as NULL."""
    if isinstance(column, Constant):
        return np.full(column.count, value_is_null(kind, column))
    if numbers_of(kind, column) is not None or _NATIVE.get(kind) is type(column):
        return ~_spread(_without_nulls(column, answer=True), len(column))
    if kind is FieldType.IDS:
        return nulls_of(column)
    return np.fromiter((comparable(kind, column.at(row)) is None for row in range(len(column))), np.bool_, len(column))


def value_is_null(kind: FieldType, column: Constant) -> bool:
    """Return whether a constant has no value of that type."""
    return column.value is None if kind is FieldType.IDS else comparable(kind, column.value) is None


_NATIVE: dict[FieldType, type[Column]] = {FieldType.ADDRESS: Addresses}


def _two_fields(condition: FieldComparison, *, wanted: bool) -> Callable[[Batch], Mask]:
    left, right = condition.left, condition.right
    sign = condition.operator

    def run(batch: Batch) -> Mask:
        columns = field_column(batch, left.name), field_column(batch, right.name)
        answer = _compare_arrays(condition, *columns)
        if answer is not None:
            return _without_nulls(columns[0], _without_nulls(columns[1], answer if wanted else ~answer))
        pairs = zip(_compared(left.type, columns[0]), _compared(right.type, columns[1]), strict=True)
        answers = (a is not None and b is not None and compare_values(sign, a, b) is wanted for a, b in pairs)
        return np.fromiter(answers, np.bool_, batch.count)

    return run


def _compare_arrays(condition: FieldComparison, left: Column, right: Column) -> npt.NDArray[np.bool_] | None:
    if isinstance(left, Addresses) and isinstance(right, Addresses):
        if left.is_v4 and right.is_v4:
            return compare_arrays(condition.operator, left.values, right.values)
        return _compare_halves(condition.operator, left.wide().values, right.wide().values)
    types = (condition.left.type, condition.right.type)
    first, second = numbers_of(types[0], left), numbers_of(types[1], right)
    if first is None or second is None:
        return None
    if FieldType.FLOAT in types:
        first, second = first.astype(np.float64), second.astype(np.float64)
    return compare_arrays(condition.operator, first, second)


def _compare_halves(
    sign: Operator, left: npt.NDArray[np.generic], right: npt.NDArray[np.generic]
) -> npt.NDArray[np.bool_]:
    """Compare 128-bit numbers given as columns of upper and lower halves."""
    same_high = compare_arrays(Operator.EQ, left[:, 0], right[:, 0])
    if sign in {Operator.EQ, Operator.NE}:
        same = same_high & compare_arrays(Operator.EQ, left[:, 1], right[:, 1])
        return same if sign is Operator.EQ else ~same
    strict = Operator.LT if sign in {Operator.LT, Operator.LE} else Operator.GT
    return compare_arrays(strict, left[:, 0], right[:, 0]) | same_high & compare_arrays(sign, left[:, 1], right[:, 1])


def _compared(kind: FieldType, column: Column) -> list[Literal | None]:
    return [comparable(kind, column.at(row)) for row in range(len(column))]
