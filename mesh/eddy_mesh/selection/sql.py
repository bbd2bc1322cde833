"""The store back end: a plan as one parameterised SELECT for SQLite or DuckDB, and its result as rows.

What may live here: the clauses around the conditions, and the decoding of what comes back. The store executes; nothing
here imports a database.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

import msgspec

from eddy_mesh.batch import EXTRA
from eddy_mesh.cer import Value
from eddy_mesh.fields import FieldType, type_of
from eddy_mesh.rows import split_ids
from eddy_mesh.selection.evaluate import whole_condition
from eddy_mesh.selection.plan import Aggregate, Function, Item, Key, Operand, Plan
from eddy_mesh.selection.sql_conditions import condition_sql, source_sql
from eddy_mesh.selection.sql_fields import (
    DUCKDB,
    SQLITE,
    WIDE,
    Columns,
    Dialect,
    Place,
    Sql,
    Stored,
    joined,
    member_json,
    place,
    quoted,
    sql,
    whole,
)
from eddy_mesh.selection.values import public

__all__ = ["DUCKDB", "SQLITE", "WINDOW_END", "WINDOW_START", "Dialect", "Output", "Query", "Stored", "to_sql"]

WINDOW_START, WINDOW_END = "window.start", "window.end"
"""Names under which a row of an EVERY statement says which window it is of: first ns, first ns after it."""


class Form(Enum):
    """How a value comes back from the store."""

    PLAIN = "plain"
    HALVES = "halves"  # two columns
    NUMBER = "number"  # a 128-bit integer
    BLOB = "blob"  # the same in 16 bytes
    JSON = "json"  # JSON text
    SPARSE = "sparse"  # the JSON object of sparse fields: its members become fields of the row


@dataclass(frozen=True, slots=True)
class Output:
    """One value of a result row.

    Attributes:
        name: its name in the row.
        type: type of the field.
        form: how the store gives it.
    """

    name: str
    type: FieldType
    form: Form = Form.PLAIN


@dataclass(frozen=True, slots=True)
class Query:
    """A statement for a store.

    Attributes:
        sql: text with ``?`` for each parameter.
        parameters: their values.
        outputs: what the columns of the result are, in order; a value in halves has two columns.
        every_ns: length of the windows when rows belong to windows.
    """

    sql: str
    parameters: tuple[Value, ...]
    outputs: tuple[Output, ...]
    every_ns: int | None = None

    def rows(self, fetched: Iterable[Sequence[Value]]) -> list[dict[str, Value]]:
        """Return what the store gave as rows: dotted names to public values, NULL left out except in aggregates.

        Args:
            fetched: tuples as ``fetchall`` gives them.
        """
        return [self._row(values) for values in fetched]

    def _row(self, values: Sequence[Value]) -> dict[str, Value]:
        row: dict[str, Value] = {}
        column = iter(values)
        for output in self.outputs:
            held = next(column)
            if output.form is Form.HALVES:
                low = next(column)
                held = None if held is None or low is None else held << 64 | low  # type: ignore[operator]
            value = _decoded(output, held)
            if output.form is Form.SPARSE:
                row |= value if isinstance(value, dict) else {}  # type: ignore[arg-type]
            else:
                row[output.name] = value
        start = row.get(WINDOW_START)
        if self.every_ns is not None and isinstance(start, int):
            row[WINDOW_END] = start + self.every_ns
        return row


def _decoded(output: Output, held: Value) -> Value:
    if held is None:
        return None
    if output.form in {Form.JSON, Form.SPARSE}:
        return msgspec.json.decode(held) if isinstance(held, str) else None
    if output.form is Form.BLOB and isinstance(held, bytes):
        return public(output.type, int.from_bytes(held, "big"))
    if output.type is FieldType.BOOL:
        return bool(held)
    if output.type is FieldType.IDS and isinstance(held, bytes):
        return split_ids(held)
    return public(output.type, held) if isinstance(held, int) else held


def to_sql(plan: Plan, dialect: Dialect, table: str, columns: Columns) -> Query:
    """Return a plan as SQL.

    Without ORDER BY, rows have no order unless LIMIT is given: then they come by id. Equal keys are ordered by id, or
    by the group, so that a LIMIT always cuts at the same place.

    Args:
        plan: a checked statement.
        dialect: `DUCKDB` or `SQLITE`.
        table: SQL text of what follows FROM, written by the store: a quoted name, or ``read_parquet([...])``.
        columns: where the store holds each field. ``event_class``, ``type``, ``stage`` and ``origin`` must be columns.

    Raises:
        ValueError: ``columns`` says that an address, an id or bytes are in JSON.
    """
    builder = _Aggregates(plan, dialect, columns) if plan.is_aggregate else _Rows(plan, dialect, columns)
    text, parameters = builder.query(table)
    return Query(text, parameters, builder.outputs(), plan.every_ns)


class _Builder(ABC):
    """What both shapes of statement share."""

    def __init__(self, plan: Plan, dialect: Dialect, columns: Columns) -> None:
        self._plan = plan
        self._dialect = dialect
        self._columns = columns

    @abstractmethod
    def query(self, table: str) -> Sql:
        """Return the whole statement."""

    @abstractmethod
    def outputs(self) -> tuple[Output, ...]:
        """Return what the columns of the result are."""

    def _place(self, operand: Operand) -> Place:
        return place(self._dialect, self._columns, operand)

    def _where(self) -> Sql:
        parts = []
        if not self._plan.every_stage:
            parts.append(Sql("\"stage\" IN ('cooked', 'analyzed')"))
        if self._plan.sources:
            matched = [source_sql(pattern, self._dialect) for pattern in self._plan.sources]
            parts.append(sql("({})", joined(" OR ", matched)))
        condition = whole_condition(self._plan)
        if condition is not None:
            parts.append(condition_sql(condition, self._dialect, self._place))
        return sql(" WHERE {}", joined(" AND ", parts)) if parts else Sql("")

    def _limit(self) -> Sql:
        return Sql("") if self._plan.limit is None else Sql(" LIMIT ?", (self._plan.limit,))


class _Rows(_Builder):
    """One row an event."""

    def query(self, table: str) -> Sql:
        values = joined(", ", [part for each in self._selected() for part in self._values(*each)])
        return joined("", [sql("SELECT {} FROM {}", values, Sql(table)), self._where(), self._order(), self._limit()])

    def outputs(self) -> tuple[Output, ...]:
        return tuple(output for output, _ in self._selected())

    def _values(self, output: Output, operand: Operand) -> list[Sql]:
        if output.form is Form.SPARSE:
            return [Sql(quoted(EXTRA))]
        if output.form is Form.JSON:
            return [member_json(self._dialect, operand.name)]
        held = self._place(operand)
        if output.form is Form.HALVES and held.high is not None and held.low is not None:
            return [held.high, held.low]
        return [held.scalar]

    def _selected(self) -> list[tuple[Output, Operand]]:
        items = self._plan.items or tuple(Item(_operand(name), name) for name in self._columns)
        operands = {item.name: item.value for item in items if isinstance(item.value, Operand)}
        if "id" in self._columns:
            operands = {"id": _operand("id")} | operands
        return [(Output(name, operand.type, self._form(operand)), operand) for name, operand in operands.items()]

    def _form(self, operand: Operand) -> Form:
        if operand.name == EXTRA:
            return Form.SPARSE
        if operand.type in WIDE:
            return Form.HALVES if self._dialect.has_halves else Form.BLOB
        if EXTRA not in self._columns or self._columns.get(operand.name) is Stored.COLUMN:
            return Form.PLAIN
        is_member = operand.type in {FieldType.ANY, FieldType.LIST} or self._columns.get(operand.name) is Stored.EXTRA
        return Form.JSON if is_member else Form.PLAIN

    def _order(self) -> Sql:
        if not self._plan.order_by and self._plan.limit is None:
            return Sql("")
        keys = self._plan.order_by
        if "id" in self._columns:
            keys = (*keys, Key(_operand("id")))
        parts = [part for key in keys for part in self._key(key)]
        return sql(" ORDER BY {}", joined(", ", parts)) if parts else Sql("")

    def _key(self, key: Key) -> list[Sql]:
        assert isinstance(key.value, Operand)
        direction = " DESC NULLS LAST" if key.descending else " NULLS LAST"
        held = self._place(key.value)
        values = [held.scalar] if held.high is None or held.low is None else [held.high, held.low]
        if key.value.type is FieldType.ANY:  # numbers by size, then texts
            values.insert(0, self._place(Operand(key.value.name, FieldType.FLOAT, is_open=True)).scalar)
        return [sql("{}" + direction, each) for each in values]


class _Aggregates(_Builder):
    """One row a group: grouped in an inner SELECT whose columns are k0, k1 ... and a0, a1 ..."""

    def query(self, table: str) -> Sql:
        keys = [sql(f"{{}} AS k{number}", key) for number, key in enumerate(self._keys())]
        values = [sql(f"{{}} AS a{number}", self._aggregate(each)) for number, each in enumerate(self._plan.aggregates)]
        inner = sql("SELECT {} FROM {}{}", joined(", ", keys + values), Sql(table), self._where())
        if keys:
            inner = sql("{} GROUP BY " + ", ".join(str(number + 1) for number in range(len(keys))), inner)
        having = Sql("")
        if self._plan.having is not None:
            having = sql(" WHERE {}", condition_sql(self._plan.having, self._dialect, self._outer))
        shown = ", ".join(self._shown())
        if self._plan.every_ns is None or self._plan.limit is None:
            order = Sql(self._order(self._with_window()))
            whole_rows = sql("SELECT {} FROM ({}) AS g", Sql(shown), inner)
            return joined("", [whole_rows, having, order, self._limit()])
        place_in_window = Sql(f"row_number() OVER (PARTITION BY k0{self._order([])}) AS place")
        ranked = sql("SELECT *, {} FROM ({}) AS g{}", place_in_window, inner, having)
        limit = Sql("?", (self._plan.limit,))
        return sql("SELECT {} FROM ({}) AS r WHERE place <= {} ORDER BY k0, place", Sql(shown), ranked, limit)

    def outputs(self) -> tuple[Output, ...]:
        outputs = [Output(WINDOW_START, FieldType.TIME)] if self._plan.every_ns is not None else []
        outputs += [Output(item.name, item.value.type, self._form(item.value)) for item in self._plan.items]
        return tuple(outputs)

    def _keys(self) -> list[Sql]:
        keys = []
        if self._plan.every_ns is not None:
            observed = self._place(_operand("observed")).scalar
            every = Sql("?", (self._plan.every_ns,))
            keys.append(sql("({} - {} % {})", observed, observed, every))
        for operand in self._plan.group_by:
            held = self._place(operand)
            keys += [held.scalar] if held.high is None or held.low is None else [held.high, held.low]
        return keys

    def _with_window(self) -> list[str]:
        return ["k0"] if self._plan.every_ns is not None else []

    def _outer(self, operand: Operand) -> Place:
        """Return where a group field or an aggregate is in the outer SELECT."""
        names = [aggregate.name for aggregate in self._plan.aggregates]
        if operand.name in names:
            column = f"a{names.index(operand.name)}"
            is_whole = operand.type in WIDE and self._dialect.has_halves
            return whole(column) if is_whole else Place(Sql(column))
        number = len(self._with_window())
        for each in self._plan.group_by:
            width = 2 if each.type in WIDE and self._dialect.has_halves else 1
            if each.name == operand.name:
                if width == 2:
                    return Place(Sql(f"k{number}"), Sql(f"k{number}"), Sql(f"k{number + 1}"))
                return Place(Sql(f"k{number}"))
            number += width
        raise ValueError(f"{operand.name} is neither grouped by nor an aggregate")

    def _shown(self) -> list[str]:
        shown = self._with_window()
        for item in self._plan.items:
            held = self._outer(_as_operand(item.value))
            is_halves = self._form(item.value) is Form.HALVES and held.high is not None and held.low is not None
            shown += [held.high.text, held.low.text] if is_halves else [held.scalar.text]  # type: ignore[union-attr]
        return shown

    def _form(self, value: Operand | Aggregate) -> Form:
        if value.type not in WIDE:
            return Form.PLAIN
        if not self._dialect.has_halves:
            return Form.BLOB
        return Form.HALVES if isinstance(value, Operand) else Form.NUMBER

    def _order(self, first: list[str]) -> str:
        keys = [(_as_operand(key.value), key.descending) for key in self._plan.order_by]
        keys += [(operand, False) for operand in self._plan.group_by]
        parts = [f"{column} NULLS LAST" for column in first]
        for operand, descending in keys:
            held = self._outer(operand)
            names = [held.scalar.text] if held.high is None or held.low is None else [held.high.text, held.low.text]
            parts += [f"{name}{' DESC' if descending else ''} NULLS LAST" for name in names]
        return f" ORDER BY {', '.join(parts)}" if parts else ""

    def _aggregate(self, aggregate: Aggregate) -> Sql:
        if aggregate.operand is None:
            return Sql("count(*)")
        held = self._place(aggregate.operand)
        if aggregate.function is Function.COUNT and not aggregate.distinct:
            return sql("count({})", held.low or held.scalar)
        if aggregate.function is Function.AVG:  # the sum is exact for integers; one rounding, as in `LiveAggregate`
            real = "DOUBLE" if self._dialect.has_halves else "REAL"
            return sql(f"(CAST(sum({{}}) AS {real}) / count({{}}))", held.scalar, held.scalar)
        return sql(f"{aggregate.function}({'DISTINCT ' if aggregate.distinct else ''}{{}})", held.scalar)


def _operand(name: str) -> Operand:
    kind = type_of(name)
    return Operand(name, kind, kind is FieldType.ANY)


def _as_operand(value: Operand | Aggregate) -> Operand:
    return value if isinstance(value, Operand) else Operand(value.name, value.type)
