"""How a store holds fields, and the SQL expression that reads one.

What may live here: fragments of SQL with their parameters, the two dialects, and `place`, which says where the values
of a field are. Names are quoted, values are always parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from eddy_mesh.batch import EXTRA
from eddy_mesh.cer import VERSION
from eddy_mesh.fields import FieldType
from eddy_mesh.selection.plan import Literal, Operand


class Stored(StrEnum):
    """Where a store holds a field."""

    COLUMN = "column"  # in a column of its own, see `Dialect`
    EXTRA = "extra"  # as a member of the JSON object in the text column ``extra``


Columns = Mapping[str, Stored]
"""Field name → where it is. ``{"extra": Stored.EXTRA}`` says that there is a column of sparse fields. A field that is
not named is in it when the registry gives it no type (ANY, LIST), and NULL otherwise."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """What differs between stores.

    Both hold INT, TIME and LEVEL as integers (TIME in ns), FLOAT as double, BOOL as boolean, TEXT as text, BYTES and
    IDS as blobs. ADDRESS (IPv4 mapped) and ID are 128 bits: two unsigned 64-bit columns ``"name#hi"`` and
    ``"name#lo"``, or one blob of 16 bytes in network order.

    Attributes:
        name: for messages.
        has_halves: whether 128 bits are two columns.
    """

    name: str
    has_halves: bool


DUCKDB = Dialect("duckdb", has_halves=True)
SQLITE = Dialect("sqlite", has_halves=False)
"""The connection must have a function ``regexp(pattern, text)``, `eddy_mesh.selection.patterns.sql_regexp`."""


class Sql(NamedTuple):
    """A piece of SQL and the values of its question marks, in order."""

    text: str
    parameters: tuple[Literal, ...] = ()


def sql(template: str, *parts: Sql) -> Sql:
    """Return ``template`` with each ``{}`` replaced by a part, in order."""
    parameters = tuple(value for part in parts for value in part.parameters)
    return Sql(template.format(*(part.text for part in parts)), parameters)


def joined(glue: str, parts: list[Sql]) -> Sql:
    """Return parts with ``glue`` between them."""
    return Sql(glue.join(part.text for part in parts), tuple(value for part in parts for value in part.parameters))


def quoted(name: str) -> str:
    """Return a name as an SQL identifier, safe in a template of `sql`."""
    escaped = name.replace('"', '""')
    return f'"{escaped}"'


def value(dialect: Dialect, literal: Literal) -> Sql:
    """Return a literal as a parameter.

    SQLite has no unsigned integers: a double compares as well there, since no column holds an integer that large.
    """
    if not dialect.has_halves and isinstance(literal, int) and literal >= 1 << 63:
        return Sql("?", (float(literal),))
    return Sql("?", (literal,))


@dataclass(frozen=True, slots=True)
class Place:
    """The expressions that read one value.

    Attributes:
        scalar: the whole value.
        high: upper 64 bits of a 128-bit value where the dialect has halves, else None.
        low: lower 64 bits.
    """

    scalar: Sql
    high: Sql | None = None
    low: Sql | None = None


WIDE = frozenset({FieldType.ADDRESS, FieldType.ID})
"""Types of 128 bits."""

_SQL_TYPES = {
    FieldType.INT: "BIGINT",
    FieldType.TIME: "BIGINT",
    FieldType.LEVEL: "BIGINT",
    FieldType.FLOAT: "DOUBLE",
    FieldType.BOOL: "BOOLEAN",
    FieldType.BYTES: "BLOB",
    FieldType.IDS: "BLOB",
}


def halves(high: str, low: str) -> Place:
    """Return the place of a 128-bit value that two expressions hold."""
    return Place(Sql(f"((CAST({high} AS UHUGEINT) << 64) | {low})"), Sql(high), Sql(low))


def whole(expression: str) -> Place:
    """Return the place of a 128-bit value that one UHUGEINT expression holds."""
    mask = "CAST(18446744073709551615 AS UHUGEINT)"
    return Place(
        Sql(expression),
        Sql(f"CAST(({expression}) >> 64 AS UBIGINT)"),
        Sql(f"CAST(({expression}) & {mask} AS UBIGINT)"),
    )


def place(dialect: Dialect, columns: Columns, operand: Operand) -> Place:
    """Return where the values of a field are.

    Raises:
        ValueError: a field of 128 bits or of bytes is said to be in JSON, which has no form for it.
    """
    stored = columns.get(operand.name)
    if stored is None and operand.name == "version":
        return Place(Sql(str(VERSION)))
    in_json = stored is Stored.EXTRA or (stored is None and (operand.is_open or operand.type is FieldType.LIST))
    if in_json and EXTRA in columns and operand.name != EXTRA:
        return Place(_member(dialect, operand))
    if stored is not Stored.COLUMN:
        return _absent(dialect, operand.type)
    name = operand.name
    if operand.type in WIDE and dialect.has_halves:
        return halves(quoted(f"{name}#hi"), quoted(f"{name}#lo"))
    column = quoted(name)
    if operand.type is FieldType.FLOAT and dialect.has_halves:  # SQLite itself makes NULL of NaN
        return Place(Sql(f"CASE WHEN isnan({column}) THEN NULL ELSE {column} END"))
    return Place(Sql(column))


def _absent(dialect: Dialect, kind: FieldType) -> Place:
    if kind in WIDE and dialect.has_halves:
        return halves("CAST(NULL AS UBIGINT)", "CAST(NULL AS UBIGINT)")
    return Place(Sql(f"CAST(NULL AS {_SQL_TYPES.get(kind, 'TEXT')})"))


# --- members of the JSON column ----------------------------------------------------------------------------------


def _path(dialect: Dialect, name: str) -> Sql:
    if dialect.has_halves:  # JSON pointer, RFC 6901 section 3
        return Sql("?", ("/" + name.replace("~", "~0").replace("/", "~1"),))
    return Sql("?", (f'$."{name}"',))


def member_json(dialect: Dialect, name: str) -> Sql:
    """Return the expression for a member's JSON text, NULL where there is none."""
    template = 'json_extract("extra", {})' if dialect.has_halves else '("extra" -> {})'
    return sql(template, _path(dialect, name))


_DUCKDB_MEMBERS = {
    FieldType.TEXT: 'CASE json_type("extra", {}) WHEN \'VARCHAR\' THEN json_extract_string("extra", {}) END',
    FieldType.LIST: 'CASE json_type("extra", {}) WHEN \'ARRAY\' THEN json_extract_string("extra", {}) END',
    FieldType.BOOL: "CASE json_type(\"extra\", {}) WHEN 'BOOLEAN' THEN json_extract_string(\"extra\", {}) = 'true' END",
    FieldType.FLOAT: "CASE WHEN json_type(\"extra\", {}) IN ('BIGINT', 'UBIGINT', 'DOUBLE') "
    'THEN TRY_CAST(json_extract_string("extra", {}) AS DOUBLE) END',
    FieldType.INT: "CASE WHEN json_type(\"extra\", {}) IN ('BIGINT', 'UBIGINT') "
    'THEN TRY_CAST(json_extract_string("extra", {}) AS HUGEINT) END',
    FieldType.ANY: 'CASE WHEN json_type("extra", {}) <> \'NULL\' THEN json_extract_string("extra", {}) END',
}
_SQLITE_MEMBERS = {
    FieldType.TEXT: 'CASE json_type("extra", {}) WHEN \'text\' THEN "extra" ->> {} END',
    FieldType.LIST: 'CASE json_type("extra", {}) WHEN \'array\' THEN "extra" -> {} END',
    FieldType.BOOL: "CASE WHEN json_type(\"extra\", {}) IN ('true', 'false') THEN \"extra\" ->> {} END",
    FieldType.FLOAT: "CASE WHEN json_type(\"extra\", {}) IN ('integer', 'real') "
    'THEN CAST("extra" ->> {} AS REAL) END',
    FieldType.INT: 'CASE json_type("extra", {}) WHEN \'integer\' THEN "extra" ->> {} END',
    FieldType.ANY: "CASE json_type(\"extra\", {}) WHEN 'null' THEN NULL WHEN 'text' THEN \"extra\" ->> {} "
    'ELSE "extra" -> {} END',
}


def _member(dialect: Dialect, operand: Operand) -> Sql:
    templates = _DUCKDB_MEMBERS if dialect.has_halves else _SQLITE_MEMBERS
    kind = FieldType.INT if operand.type in {FieldType.TIME, FieldType.LEVEL} else operand.type
    template = templates.get(kind)
    if template is None:
        raise ValueError(f"{operand.name} is {operand.type}: a store must hold it in a column")
    path = _path(dialect, operand.name)
    return sql(f"({template})", *[path] * template.count("{}"))
