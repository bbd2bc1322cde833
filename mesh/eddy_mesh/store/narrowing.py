"""The part of a condition that DuckDB can decide on stored columns, as SQL: fewer rows leave the files.

What may live here: `narrowing_sql`. What it gives is true for every row that the condition selects, and for others too:
the exact answer is that of `eddy_mesh.selection.matcher` on the rows that are left.
"""

from __future__ import annotations

from collections.abc import Container

from eddy_mesh.fields import FieldType, type_of
from eddy_mesh.selection.plan import Among, And, Comparison, Condition, InNetworks, Literal, Operand, Operator, Or
from eddy_mesh.store.tables import HIGH, LOW, quoted, text_literal

EVERYTHING = "true"
NOTHING = "false"

_INTEGERS = frozenset({FieldType.INT, FieldType.TIME, FieldType.LEVEL})
_HALVES = frozenset({FieldType.ADDRESS, FieldType.ID})
_HALF_BITS, _HALF_MASK = 64, 0xFFFF_FFFF_FFFF_FFFF


def narrowing_sql(condition: Condition | None, columns: Container[str]) -> str:
    """Return SQL that is true for every stored row for which ``condition`` is true.

    Args:
        condition: of a plan.
        columns: names of the stored columns.
    """
    if isinstance(condition, And):
        parts = [narrowing_sql(part, columns) for part in condition.parts]
        return " AND ".join(part for part in parts if part != EVERYTHING) or EVERYTHING
    if isinstance(condition, Or):
        parts = [narrowing_sql(part, columns) for part in condition.parts]
        return EVERYTHING if EVERYTHING in parts else "(" + " OR ".join(f"({part})" for part in parts) + ")"
    if isinstance(condition, Comparison):
        return _comparison(condition.operand, condition.operator, condition.value, columns)
    if isinstance(condition, Among):
        parts = [_comparison(condition.operand, Operator.EQ, value, columns) for value in condition.values]
        return EVERYTHING if EVERYTHING in parts else "(" + (" OR ".join(parts) or NOTHING) + ")"
    if isinstance(condition, InNetworks):
        ranges = [one for network in condition.networks for one in network.ranges]
        return _in_ranges(condition.operand, ranges, columns)
    return EVERYTHING


def _comparison(operand: Operand, operator: Operator, value: Literal, columns: Container[str]) -> str:
    name, kind = operand.name, operand.type
    if operand.is_open or type_of(name) is not kind:
        return EVERYTHING
    if kind in _HALVES and isinstance(value, int) and operator is Operator.EQ:
        return _in_ranges(operand, [(value, value)], columns)
    if kind in _INTEGERS and type(value) is int:
        return f"{quoted(name)} {operator} {value}" if name in columns else NOTHING
    if kind is FieldType.TEXT and isinstance(value, str) and operator is Operator.EQ:
        if name in {"stage", "event_class", "type"}:
            return EVERYTHING
        return f"{quoted(name)} = {text_literal(value)}" if name in columns else NOTHING
    return EVERYTHING


def _in_ranges(operand: Operand, ranges: list[tuple[int, int]], columns: Container[str]) -> str:
    if operand.is_open or type_of(operand.name) is not operand.type:
        return EVERYTHING
    if operand.name + HIGH not in columns:
        return NOTHING
    high, low = quoted(operand.name + HIGH), quoted(operand.name + LOW)
    parts = []
    for first, last in ranges:
        if first >> _HALF_BITS == last >> _HALF_BITS:
            parts.append(f"({high} = {first >> _HALF_BITS} AND {low} BETWEEN {first & _HALF_MASK} AND {last & _HALF_MASK})")
        else:
            parts.append(f"({high} BETWEEN {first >> _HALF_BITS} AND {last >> _HALF_BITS})")
    return "(" + (" OR ".join(parts) or NOTHING) + ")"
