"""Conditions of a plan as SQL.

What may live here: one case for each kind of condition, and the FROM patterns. SQL's own logic of NULL is that of the
language, so AND, OR and NOT are written as they are.
"""

from __future__ import annotations

from collections.abc import Callable

from eddy_mesh.fields import FieldType
from eddy_mesh.selection import patterns
from eddy_mesh.selection.plan import (
    Among,
    And,
    Comparison,
    Condition,
    FieldComparison,
    InNetworks,
    IsNull,
    Like,
    Matches,
    Not,
    Operand,
    Operator,
    Or,
    Pattern,
)
from eddy_mesh.selection.sql_fields import WIDE, Dialect, Place, Sql, joined, sql, value

Places = Callable[[Operand], Place]
"""Where the values of a field are."""

_TOP = 1 << 128
_LOW_HALF = 0xFFFF_FFFF_FFFF_FFFF


def condition_sql(condition: Condition, dialect: Dialect, places: Places) -> Sql:
    """Return a condition as an SQL expression in parentheses where it needs them."""
    if isinstance(condition, And | Or):
        glue = " AND " if isinstance(condition, And) else " OR "
        return sql("({})", joined(glue, [condition_sql(part, dialect, places) for part in condition.parts]))
    if isinstance(condition, Not):
        return sql("(NOT {})", condition_sql(condition.part, dialect, places))
    if isinstance(condition, FieldComparison):
        return _two_fields(condition, dialect, places)
    held = places(condition.operand)
    if isinstance(condition, IsNull):
        return sql("({} IS NULL)", held.low or held.scalar)
    if isinstance(condition, Comparison):
        if condition.operand.type in WIDE:
            return _wide_comparison(condition, dialect, held)
        return sql(f"({{}} {condition.operator} {{}})", held.scalar, value(dialect, condition.value))
    if isinstance(condition, Among):
        return _among(condition, dialect, held)
    if isinstance(condition, InNetworks):
        ranges = [each for block in condition.networks for each in block.ranges]
        return sql("({})", joined(" OR ", [_in_range(dialect, held, first, last) for first, last in ranges]))
    return _textual(condition, dialect, held)


def _two_fields(condition: FieldComparison, dialect: Dialect, places: Places) -> Sql:
    left, right = places(condition.left).scalar, places(condition.right).scalar
    types = {condition.left.type, condition.right.type}
    if FieldType.FLOAT in types and len(types) > 1:
        cast = f"CAST({{}} AS {'DOUBLE' if dialect.has_halves else 'REAL'})"
        left, right = sql(cast, left), sql(cast, right)
    return sql(f"({{}} {condition.operator} {{}})", left, right)


def _textual(condition: Like | Matches, dialect: Dialect, held: Place) -> Sql:
    if isinstance(condition, Matches):
        template = "regexp_matches({}, {})" if dialect.has_halves else "({} REGEXP {})"
        return sql(template, held.scalar, Sql("?", (condition.pattern,)))
    if not dialect.has_halves:
        return sql("({} GLOB {})", held.scalar, Sql("?", (patterns.like_glob(condition.pattern),)))
    # Without ESCAPE DuckDB has faster ways for most patterns.
    escape = " ESCAPE '\\'" if "\\" in condition.pattern else ""
    return sql(f"({{}} LIKE {{}}{escape})", held.scalar, Sql("?", (condition.pattern,)))


# --- addresses and ids: 128 bits -----------------------------------------------------------------------------------


def _blob(number: int) -> Sql:
    return Sql("?", (number.to_bytes(16, "big"),))


def _number(number: int) -> Sql:
    return Sql("?", (number,))


def _wide_comparison(condition: Comparison, dialect: Dialect, held: Place) -> Sql:
    assert isinstance(condition.value, int)
    number, sign = condition.value, condition.operator
    if not dialect.has_halves:
        return sql(f"({{}} {sign} {{}})", held.scalar, _blob(number))
    if sign in {Operator.EQ, Operator.NE}:
        same = _in_range(dialect, held, number, number)
        return same if sign is Operator.EQ else sql("(NOT {})", same)
    reached = _at_least(held, number + (sign in {Operator.GT, Operator.LE}))
    return reached if sign in {Operator.GT, Operator.GE} else sql("(NOT {})", reached)


def _in_range(dialect: Dialect, held: Place, first: int, last: int) -> Sql:
    if not dialect.has_halves or held.high is None or held.low is None:
        return sql("({} BETWEEN {} AND {})", held.scalar, _blob(first), _blob(last))
    if first >> 64 != last >> 64:
        return sql("({} AND NOT {})", _at_least(held, first), _at_least(held, last + 1))
    same_high = sql("{} = {}", held.high, _number(first >> 64))
    if first == last:
        return sql("({} AND {} = {})", same_high, held.low, _number(first & _LOW_HALF))
    low, high = _number(first & _LOW_HALF), _number(last & _LOW_HALF)
    return sql("({} AND {} BETWEEN {} AND {})", same_high, held.low, low, high)


def _at_least(held: Place, number: int) -> Sql:
    assert held.high is not None
    assert held.low is not None
    if number in {0, _TOP}:  # always or never, but NULL where there is no address
        return sql("({} >= 0)" if number == 0 else "({} < 0)", held.high)
    upper, lower = _number(number >> 64), _number(number & _LOW_HALF)
    return sql("({} > {} OR ({} = {} AND {} >= {}))", held.high, upper, held.high, upper, held.low, lower)


def _among(condition: Among, dialect: Dialect, held: Place) -> Sql:
    if condition.operand.type not in WIDE:
        return sql("({} IN ({}))", held.scalar, joined(", ", [value(dialect, each) for each in condition.values]))
    numbers = [number for number in condition.values if isinstance(number, int)]
    if not dialect.has_halves:
        return sql("({} IN ({}))", held.scalar, joined(", ", [_blob(number) for number in numbers]))
    uppers = {number >> 64 for number in numbers}
    if len(uppers) > 1 or held.high is None or held.low is None:
        listed = joined(", ", [sql("CAST({} AS UHUGEINT)", Sql("?", (str(number),))) for number in numbers])
        return sql("({} IN ({}))", held.scalar, listed)
    lowers = joined(", ", [_number(number & _LOW_HALF) for number in numbers])
    return sql("({} = {} AND {} IN ({}))", held.high, _number(uppers.pop()), held.low, lowers)


# --- FROM ------------------------------------------------------------------------------------------------------------


def source_sql(pattern: Pattern, dialect: Dialect) -> Sql:
    """Return the condition that a prefix of ``class.type.origin`` matches a pattern.

    The type may have more tokens than the pattern names, or one less: then the last token is the origin.
    """
    head, *rest = pattern
    at_class = Sql("TRUE") if head in {"*", ">"} else Sql('"event_class" = ?', (head,))
    open_end = bool(rest) and rest[-1] == ">"
    rest = rest[:-1] if open_end else rest
    if not rest:
        return at_class
    matched = _type_sql(rest, dialect, prefix=True)
    if not open_end and len(rest) > 1:
        at_type, last = _type_sql(rest[:-1], dialect, prefix=False), rest[-1]
        at_origin = Sql("TRUE") if last == "*" else Sql('"origin" = ?', (last,))
        matched = sql("({} OR ({} AND {}))", matched, at_type, at_origin)
    return sql("({} AND {})", at_class, matched)


def _type_sql(tokens: list[str], dialect: Dialect, *, prefix: bool) -> Sql:
    if "*" not in tokens:
        text = ".".join(tokens)
        exact = Sql('"type" = ?', (text,))
        if not prefix:
            return exact
        return sql("({} OR {})", exact, Sql('substr("type", 1, ?) = ?', (len(text) + 1, text + ".")))
    body = r"\.".join("[^.]+" if each == "*" else each for each in tokens)
    pattern = f"^{body}{'(?:$|[.])' if prefix else '$'}"
    return Sql('regexp_matches("type", ?)' if dialect.has_halves else '("type" REGEXP ?)', (pattern,))
