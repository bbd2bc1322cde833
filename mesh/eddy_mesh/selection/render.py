"""Plan → canonical statement.

What may live here: `render` and one case for each part of a plan. Identical statements share one flow, so two
statements that say the same in other letters, spaces or relative times must give the same text; the text compiles
to the plan again.
"""

from __future__ import annotations

import re

from eddy_mesh.cer import id_text
from eddy_mesh.columns import address_text
from eddy_mesh.fields import LEVEL_NAMES, FieldType
from eddy_mesh.rows import time_text
from eddy_mesh.selection.literals import DURATIONS_NS
from eddy_mesh.selection.plan import (
    Aggregate,
    Among,
    And,
    Comparison,
    Condition,
    FieldComparison,
    InNetworks,
    Item,
    Key,
    Like,
    Literal,
    Matches,
    Not,
    Operand,
    Or,
    Plan,
)

_PLAIN = re.compile(r"[A-Za-z_@][\w@-]*(\.[\w@-]+)*", re.ASCII)
_KEYWORDS = frozenset(
    {"select", "as", "from", "where", "since", "until", "group", "by", "having", "order", "limit", "every", "or", "and"}
    | {"not", "between", "in", "like", "is", "null", "true", "false", "asc", "desc", "distinct", "cidr"}
)


def render(plan: Plan) -> str:
    """Return the canonical statement of a plan; ``plan.text`` is not looked at."""
    parts = ["SELECT", ", ".join(map(_item, plan.items)) or "*"]
    if plan.sources:
        parts += ["FROM", ", ".join(".".join(pattern) for pattern in plan.sources)]
    if plan.where is not None:
        parts += ["WHERE", _condition(plan.where)]
    for clause, time in (("SINCE", plan.since_ns), ("UNTIL", plan.until_ns)):
        if time is not None:
            parts += [clause, _quoted(time_text(time))]
    if plan.group_by:
        parts += ["GROUP BY", ", ".join(map(_value, plan.group_by))]
    if plan.having is not None:
        parts += ["HAVING", _condition(plan.having)]
    if plan.order_by:
        parts += ["ORDER BY", ", ".join(map(_key, plan.order_by))]
    if plan.limit is not None:
        parts += ["LIMIT", str(plan.limit)]
    if plan.every_ns is not None:
        parts += ["EVERY", duration_text(plan.every_ns)]
    return " ".join(parts)


def duration_text(duration_ns: int) -> str:
    """Return a duration in the largest unit in which it is whole."""
    unit = next(unit for unit in reversed(DURATIONS_NS) if duration_ns % DURATIONS_NS[unit] == 0)
    return f"{duration_ns // DURATIONS_NS[unit]}{unit}"


def _item(item: Item) -> str:
    return _value(item.value) if item.name == item.value.name else f"{_value(item.value)} AS {_name(item.name)}"


def _key(key: Key) -> str:
    return _value(key.value) + (" DESC" if key.descending else "")


def _value(value: Operand | Aggregate) -> str:
    if isinstance(value, Operand):
        return _name(value.name)
    if value.operand is None:
        return value.name
    return f"{value.function}({'DISTINCT ' if value.distinct else ''}{_name(value.operand.name)})"


def _name(name: str) -> str:
    return name if _PLAIN.fullmatch(name) and name.lower() not in _KEYWORDS else f'"{name}"'


def _left(operand: Operand) -> str:
    # In HAVING an operand may be an aggregate, whose name is its canonical text. No field name has a parenthesis
    # outside of quotes, and a quoted one is in an open namespace, which has a dot before it.
    function, parenthesis, inside = operand.name.partition("(")
    if not parenthesis or function not in {"count", "sum", "min", "max", "avg"}:
        return _name(operand.name)
    distinct, inside = ("DISTINCT ", inside[9:]) if inside.startswith("DISTINCT ") else ("", inside)
    argument = inside[:-1]
    return f"{function}({distinct}{argument if argument == '*' else _name(argument)})"


def _condition(condition: Condition) -> str:
    if isinstance(condition, And):
        return " AND ".join(map(_part, condition.parts))
    if isinstance(condition, Or):
        return " OR ".join(map(_part, condition.parts))
    if isinstance(condition, Not):
        return f"NOT {_part(condition.part)}"
    if isinstance(condition, FieldComparison):
        return f"{_left(condition.left)} {condition.operator} {_left(condition.right)}"
    name, kind = _left(condition.operand), condition.operand.type
    if isinstance(condition, Comparison):
        return f"{name} {condition.operator} {_literal(kind, condition.value)}"
    if isinstance(condition, Among):
        return f"{name} IN ({', '.join(_literal(kind, value) for value in condition.values)})"
    if isinstance(condition, InNetworks):
        return f"{name} IN CIDR ({', '.join(_quoted(block.text) for block in condition.networks)})"
    if isinstance(condition, Like):
        return f"{name} LIKE {_quoted(condition.pattern)}"
    return f"{name} ~ {_quoted(condition.pattern)}" if isinstance(condition, Matches) else f"{name} IS NULL"


def _part(condition: Condition) -> str:
    return f"({_condition(condition)})" if isinstance(condition, And | Or) else _condition(condition)


def _literal(kind: FieldType, value: Literal) -> str:
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, bytes):
        return _quoted(value.decode())
    if isinstance(value, str):
        return _quoted(value)
    if kind is FieldType.TIME and isinstance(value, int):
        return _quoted(time_text(value))
    if kind is FieldType.LEVEL and isinstance(value, int):
        return LEVEL_NAMES[value]
    if kind is FieldType.ADDRESS and isinstance(value, int):
        return _quoted(address_text(value >> 64, value & 0xFFFF_FFFF_FFFF_FFFF))
    if kind is FieldType.ID and isinstance(value, int):
        return _quoted(id_text(value.to_bytes(16, "big")))
    return repr(value)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
