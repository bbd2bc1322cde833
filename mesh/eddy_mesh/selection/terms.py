"""What of a condition an index can hold: the conjuncts that ask one field for a few values.

What may live here: `Term`, and how a condition comes apart into terms and a rest. Only where a condition is TRUE
counts, so FALSE and NULL need no difference.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import inf, nextafter

from eddy_mesh.fields import FieldType
from eddy_mesh.selection.plan import (
    Among,
    And,
    Comparison,
    Condition,
    InNetworks,
    Literal,
    Operand,
    Operator,
    Or,
)

Range = tuple[int | float, int | float]
"""First value, and the first that is too large."""
WHOLE = frozenset({FieldType.INT, FieldType.TIME, FieldType.LEVEL, FieldType.ADDRESS})
"""Types whose compared values are integers."""
_NUMERIC = WHOLE | {FieldType.FLOAT}
_LOWER = {Operator.GE: False, Operator.GT: True}
_UPPER = {Operator.LT: False, Operator.LE: True}
"""Bound → whether the one beside the literal is meant."""


@dataclass(frozen=True, slots=True)
class Term:
    """TRUE for the events whose field has one of these values.

    Attributes:
        operand: the field; its type is a number, an address or a text.
        ranges: of a number or an address (128 bits): ascending, apart from each other.
        texts: of a text: different, sorted.
    """

    operand: Operand
    ranges: tuple[Range, ...] = ()
    texts: tuple[str, ...] = ()


@lru_cache(maxsize=4096)
def taken_apart(condition: Condition | None) -> tuple[tuple[Term, Condition | None], ...]:
    """Return each term of a condition with what is left without it: the condition is TRUE where both are.

    Args:
        condition: any; None has no term.
    """
    parts = _conjuncts(condition)
    terms: list[tuple[Term, tuple[Condition, ...]]] = []
    terms += [(term, (part,)) for part in parts if (term := _term(part)) is not None]
    terms += _between([part for part in parts if isinstance(part, Comparison)])
    return tuple((term, _joined([part for part in parts if part not in used])) for term, used in terms)


def _conjuncts(condition: Condition | None) -> list[Condition]:
    if condition is None:
        return []
    if isinstance(condition, And):
        return [conjunct for part in condition.parts for conjunct in _conjuncts(part)]
    return [condition]


def _joined(parts: Sequence[Condition]) -> Condition | None:
    return And(tuple(parts)) if len(parts) > 1 else parts[0] if parts else None


def _term(condition: Condition) -> Term | None:
    if isinstance(condition, Comparison) and condition.operator is Operator.EQ:
        return _of_values(condition.operand, [condition.value])
    if isinstance(condition, Among):
        return _of_values(condition.operand, condition.values)
    if isinstance(condition, InNetworks):
        blocks = [(first, last + 1) for block in condition.networks for first, last in block.ranges]
        return Term(condition.operand, ranges=merged(blocks))
    if isinstance(condition, Or):
        return _united([_term(part) for part in condition.parts])
    return None


def _of_values(operand: Operand, values: Iterable[Literal]) -> Term | None:
    if operand.type is FieldType.TEXT:
        return Term(operand, texts=tuple(sorted({value for value in values if isinstance(value, str)})))
    if operand.type in _NUMERIC:
        numbers = [value for value in values if isinstance(value, int | float)]
        return Term(operand, ranges=merged([(value, _next(operand, value)) for value in numbers]))
    return None


def _united(terms: Sequence[Term | None]) -> Term | None:
    """Return the term of an OR whose parts all ask the same field."""
    held = [term for term in terms if term is not None]
    if len(held) < len(terms) or len({term.operand for term in held}) > 1:
        return None
    ranges = merged([each for term in held for each in term.ranges])
    return Term(held[0].operand, ranges, tuple(sorted({text for term in held for text in term.texts})))


def _between(parts: Sequence[Comparison]) -> list[tuple[Term, tuple[Condition, ...]]]:
    """Return a term for each field that has a lower and an upper bound."""
    found: list[tuple[Term, tuple[Condition, ...]]] = []
    for operand in dict.fromkeys(part.operand for part in parts if part.operand.type in _NUMERIC):
        lower = next((part for part in parts if part.operand == operand and part.operator in _LOWER), None)
        upper = next((part for part in parts if part.operand == operand and part.operator in _UPPER), None)
        if lower is not None and upper is not None:
            start, stop = _bound(lower, beside=_LOWER), _bound(upper, beside=_UPPER)
            found.append((Term(operand, ranges=merged([(start, stop)])), (lower, upper)))
    return found


def _bound(part: Comparison, *, beside: dict[Operator, bool]) -> int | float:
    assert isinstance(part.value, int | float)
    return _next(part.operand, part.value) if beside[part.operator] else part.value


def _next(operand: Operand, value: float) -> int | float:
    return value + 1 if operand.type in WHOLE else nextafter(value, inf)


def merged(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """Return ranges in order, those that touch joined, without empty ones."""
    found: list[Range] = []
    for start, stop in sorted(ranges):
        if start >= stop:
            continue
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], stop))
        else:
            found.append((start, stop))
    return tuple(found)
