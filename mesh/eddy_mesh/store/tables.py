"""Columns of a batch as a table of DuckDB, and as a Parquet file.

What may live here: how each kind of column is written. How a stored table becomes a batch again is in
`eddy_mesh.store.restore`. The form of a stored event, which queries rely on:

* A registered field is a column of its own name: text VARCHAR, integers the narrowest type that holds the values, times
  BIGINT, float DOUBLE, bool BOOLEAN, bytes and lists of ids BLOB.
* An address or an id is two UBIGINT columns, ``<name>#hi`` and ``<name>#lo``; an IPv4 address is mapped
  (``::ffff:0:0``). So is a list of ids where every event has one id.
* Everything else is in one VARCHAR column ``extra``, a JSON object (`eddy_mesh.store.extra`).
* ``stage``, ``event_class``, ``type`` and ``origin`` are columns, so that one query can read many files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeGuard

import numpy as np
import numpy.typing as npt

from eddy_mesh.batch import EXTRA, Batch
from eddy_mesh.cer import Value
from eddy_mesh.columns import (
    V4_MAPPED,
    Addresses,
    Bytes,
    Column,
    Constant,
    Ids,
    Nulls,
    Numbers,
    Text,
    Words,
    address_halves,
    pack,
)
from eddy_mesh.fields import FieldType, type_of
from eddy_mesh.store.arrow_stream import ArrowStream, Stored
from eddy_mesh.store.extra import encode_extra
from eddy_mesh.uniform import EXACT_FLOAT

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

HIGH, LOW = "#hi", "#lo"
"""Endings of the two columns of an address or id."""

MAX_ENUM = 256
"""Most different texts of a column that are written as an ENUM."""
MAX_ENUM_LETTERS = 64 * 1024
"""Most letters of all of them: they stand in the statement, and reading it takes thirty times their size."""
_INT_TYPES = frozenset({FieldType.INT, FieldType.TIME, FieldType.LEVEL})
_WHOLE = {FieldType.ADDRESS, FieldType.ID, FieldType.IDS}

Array = npt.NDArray[np.generic]


@dataclass(slots=True)
class Table:
    """What DuckDB is given for a batch.

    Attributes:
        count: number of rows.
        columns: column name to values, one for each row.
        constants: column name to the one value of every row.
    """

    count: int
    columns: dict[str, Stored] = field(default_factory=dict)
    constants: dict[str, Stored] = field(default_factory=dict)

    def select(self, view: str) -> str:
        """Return the SELECT that gives the table, its `stream` being registered as ``view``."""
        parts = [quoted(name) for name in self.columns]
        parts += [f"{literal_of(column)} AS {quoted(name)}" for name, column in self.constants.items()]
        return f"SELECT {', '.join(parts)} FROM {quoted(view)}"  # noqa: S608  # quoted

    def select_coded(self, view: str) -> str:
        """Return the same SELECT with few different texts as ENUMs: in a file they are texts, written in half the time.

        In a query they would be no good: an ENUM can not be compared with a text that is not one of its own.

        Args:
            view: where `eddy_mesh.store.tables.coded` of the columns is registered.
        """
        parts = [
            f"{_enum_of_code(quoted(name), column) if is_enum(column) else quoted(name)} AS {quoted(name)}"
            for name, column in self.columns.items()
        ]
        parts += [
            f"{_as_enum(literal_of(column), column) if is_enum(column) else literal_of(column)} AS {quoted(name)}"
            for name, column in self.constants.items()
        ]
        return f"SELECT {', '.join(parts)} FROM {quoted(view)}"  # noqa: S608  # quoted

    def stream(self) -> ArrowStream:
        """Return what is to be registered; it must live until it was read."""
        return ArrowStream(self.columns, lambda: iter([(self.count, self.columns)]))


def table_of(batch: Batch) -> Table:
    """Return the table of a batch made by `eddy_mesh.store.gather.gather`.

    Args:
        batch: at least one event; its ids and origin are columns.
    """
    table = Table(batch.count)
    untyped: dict[str, Column] = {}
    seen: set[str] = set()  # names of columns do not differ by case alone
    for name in ("stage", "event_class", "type"):
        table.constants[name] = _one_text(str(getattr(batch.kind, name)))
        seen.add(name)
    for name, column in batch.columns.items():
        if isinstance(column, Constant) and column.value is None:
            continue
        field_type = FieldType.TEXT if name == "origin" else type_of(name)
        if name.lower() in seen or not _add(table, name, column, field_type):
            untyped[name] = column
        else:
            seen.add(name.lower())
    extra = encode_extra(untyped, batch.count)
    if isinstance(extra, str):
        table.constants[EXTRA] = _one_text(extra)
    elif extra is not None:
        table.columns[EXTRA] = extra
    return table


def write_parquet(
    connection: DuckDBPyConnection,
    form: Table,
    tables: Callable[[], Iterator[Table]],
    path: str,
    options: Mapping[str, str],
    note: bytes,
) -> None:
    """Write tables of one form to a new Parquet file. DuckDB's errors, and those of ``tables``, pass through.

    Args:
        connection: used for this call only.
        form: a table with the same columns and constants as all of them, whatever its rows.
        tables: what is written, in its order; each is made when it is read.
        path: name of the file.
        options: further options of COPY.
        note: kept in the footer under the key ``eddy``.
    """
    stream = ArrowStream(
        coded(form.columns, form), lambda: ((table.count, coded(table.columns, form)) for table in tables())
    )
    connection.register("sealed", stream)
    settings = ", ".join(f"{name} {value}" for name, value in options.items())
    try:
        select = form.select_coded("sealed")
        connection.execute(
            f"COPY ({select}) TO {text_literal(path)} (FORMAT parquet, {settings}, KV_METADATA {{eddy: $1}})",
            [note],
        )
    except Exception as error:
        raise stream.error or error from error
    finally:
        connection.unregister("sealed")


# --- columns -----------------------------------------------------------------------------------------------------


def _add(table: Table, name: str, column: Column, field_type: FieldType) -> bool:
    """Add a column; return False where its values do not fit the type of the field."""
    if isinstance(column, Constant):
        return _add_constant(table, name, column.value, field_type)
    nulls = column.nulls
    if nulls is not None and bool(nulls.all()):
        return True
    if isinstance(column, Numbers):
        values = _numbers(column.values, field_type)
        if values is not None:
            table.columns[name] = Numbers(values, nulls)
        return values is not None
    if isinstance(column, Words | Text) and field_type is FieldType.TEXT:
        table.columns[name] = column if isinstance(column, Words) else _utf8(column)
        return True
    if isinstance(column, Bytes) and field_type in {FieldType.BYTES, FieldType.IDS}:
        table.columns[name] = column
        return True
    if isinstance(column, Ids) and field_type in {FieldType.ID, FieldType.IDS}:
        return _add_halves(table, name, column.highs(), column.low, nulls)
    if isinstance(column, Addresses) and field_type is FieldType.ADDRESS:
        return _add_address(table, name, column)
    return False


def _add_address(table: Table, name: str, column: Addresses) -> bool:
    if not column.is_v4:
        return _add_halves(table, name, column.values[:, 0], column.values[:, 1], column.nulls)
    low = column.values.astype(np.uint64)
    low += np.uint64(V4_MAPPED)
    table.columns[name + LOW] = Numbers(low, column.nulls)
    if column.nulls is None:
        table.constants[name + HIGH] = Numbers(np.zeros(1, np.uint64))
    else:
        table.columns[name + HIGH] = Numbers(np.zeros(len(low), np.uint64), column.nulls)
    return True


def _add_halves(table: Table, name: str, high: Array, low: Array, nulls: Nulls) -> bool:
    table.columns[name + HIGH] = Numbers(high.astype(np.uint64, copy=False), nulls)
    table.columns[name + LOW] = Numbers(low.astype(np.uint64, copy=False), nulls)
    return True


def _numbers(values: Array, field_type: FieldType) -> Array | None:
    """Return numbers in the form in which they are stored, or None where they do not fit the type."""
    form = values.dtype.kind
    if field_type in _INT_TYPES and form in "iu":
        return values.astype(np.int64, copy=False) if _is_plain_time(values, field_type) else _narrowed(values)
    if field_type is FieldType.BOOL and form == "b":
        return values
    if field_type is not FieldType.FLOAT or form not in "fiu":
        return None
    low, high = (0, 0) if form == "f" else _range(values)
    return values.astype(np.float64, copy=False) if max(-low, high) <= EXACT_FLOAT else None


def _is_plain_time(values: Array, field_type: FieldType) -> bool:
    return field_type is FieldType.TIME and (values.dtype != np.uint64 or _range(values)[1] < 1 << 63)


def _narrowed(values: Array) -> Array:
    low, high = _range(values)
    if low < 0:
        return values.astype(np.result_type(np.min_scalar_type(low), np.min_scalar_type(-1 - high)), copy=False)
    if 1 << 32 <= high < 1 << 63:
        return values.astype(np.int64, copy=False)  # unsigned beside signed in another file would need 128 bits
    return values.astype(np.min_scalar_type(high), copy=False)


def _range(values: Array) -> tuple[int, int]:
    return (int(values.min()), int(values.max())) if len(values) else (0, 0)


def _utf8(column: Text) -> Text:
    """Return texts of which each is UTF-8; what is not is replaced."""
    start, end = int(column.offsets[0]), int(column.offsets[-1])
    data = bytes(memoryview(column.data)[start:end])
    if data.isascii():
        return column
    begins = column.offsets[:-1] - column.offsets[0]
    firsts = np.frombuffer(data + b"\0", np.uint8)[begins]
    try:
        data.decode()
    except UnicodeDecodeError:
        pass
    else:
        if not ((firsts & 0xC0) == 0x80).any():  # no text begins within a character
            return column
    texts = [column.bytes_at(row).decode("utf-8", "replace").encode() for row in range(len(column))]
    return Text(*pack(texts), column.nulls)


def coded(columns: Mapping[str, Stored], form: Table) -> dict[str, Stored]:
    """Return columns with those that ``form`` has as ENUMs as the numbers of its texts."""
    return {
        name: _codes(column, wanted) if is_enum(wanted := form.columns[name]) else column
        for name, column in columns.items()
    }


def _codes(column: Stored, form: Words) -> Numbers:
    assert isinstance(column, Words)  # all tables have one form
    place = {text: number for number, text in enumerate(form.values)}
    places = np.array([place[text] for text in column.values], np.uint8)  # in each table the texts have other codes
    return Numbers(places[column.codes], column.nulls)


def is_enum(column: Stored) -> TypeGuard[Words]:
    """Return whether a column is written as an ENUM: its texts are few, short, different and plain literals."""
    if not isinstance(column, Words) or not 0 < len({*column.values}) == len(column.values) <= MAX_ENUM:
        return False
    return sum(map(len, column.values)) <= MAX_ENUM_LETTERS and all(map(str.isprintable, column.values))


def _as_enum(expression: str, column: Words) -> str:
    return f"CAST({expression} AS ENUM ({_texts(column)}))"


def _enum_of_code(code: str, column: Words) -> str:
    """The ENUM with a number; it is found in half the time that it takes by its text."""
    return f"(CAST([{_texts(column)}] AS ENUM ({_texts(column)})[]))[CAST({code} AS INTEGER) + 1]"


def _texts(column: Words) -> str:
    return ", ".join(map(text_literal, column.values))


def _clean(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


# --- constants -----------------------------------------------------------------------------------------------------


def _add_constant(table: Table, name: str, value: Value, field_type: FieldType) -> bool:
    if field_type in _WHOLE:
        return _add_constant_halves(table, name, value, field_type)
    one = _one_row(value, field_type)
    if one is not None:
        table.constants[name] = one
    return one is not None


def _add_constant_halves(table: Table, name: str, value: Value, field_type: FieldType) -> bool:
    if field_type is FieldType.IDS and isinstance(value, list) and all(isinstance(part, bytes) for part in value):
        value = b"".join(value)  # type: ignore[arg-type]
    if field_type is FieldType.ADDRESS:
        try:
            high, low = address_halves(value) if isinstance(value, str) else (-1, -1)
        except ValueError:
            return False
        if high < 0:
            return False
    elif isinstance(value, bytes) and len(value) == 16:
        high, low = int.from_bytes(value[:8], "big"), int.from_bytes(value[8:], "big")
    elif isinstance(value, bytes) and field_type is FieldType.IDS:
        table.constants[name] = Bytes(*pack([value]))
        return True
    else:
        return False
    for half, number in ((HIGH, high), (LOW, low)):
        table.constants[name + half] = Numbers(np.array([number], np.uint64))
    return True


def _one_row(value: Value, field_type: FieldType) -> Stored | None:
    if field_type is FieldType.TEXT and isinstance(value, str):
        return _one_text(_clean(value))
    if field_type is FieldType.BYTES and isinstance(value, bytes):
        return Bytes(*pack([value]))
    if field_type is FieldType.BOOL and isinstance(value, bool):
        return Numbers(np.array([value]))
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        stored = _numbers(np.array([value]), field_type)
    except OverflowError:
        return None
    return None if stored is None else Numbers(stored)


def _one_text(text: str) -> Words:
    return Words(np.zeros(1, np.uint8), (text,))


def literal_of(column: Stored) -> str:
    """Return the value of the first row of a column as an SQL literal."""
    if isinstance(column, Words):
        return text_literal(column.values[0])
    if not isinstance(column, Numbers):
        return blob_literal(column.bytes_at(0))
    value, dtype = column.values[0], column.values.dtype
    if dtype.kind == "b":
        return str(bool(value)).upper()
    if dtype.kind == "f":
        return f"'{float(value)!r}'::DOUBLE"
    return f"CAST({int(value)} AS {_SQL_TYPES[dtype.str[1:]]})"


_SQL_TYPES = {
    "i1": "TINYINT",
    "i2": "SMALLINT",
    "i4": "INTEGER",
    "i8": "BIGINT",
    "u1": "UTINYINT",
    "u2": "USMALLINT",
    "u4": "UINTEGER",
    "u8": "UBIGINT",
}


def quoted(name: str) -> str:
    """Return a name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def text_literal(text: str) -> str:
    """Return a text as an SQL literal; one with control characters by its bytes."""
    if text.isprintable():
        return "'" + text.replace("'", "''") + "'"
    return f"decode({blob_literal(text.encode('utf-8', 'replace'))})"


def blob_literal(data: bytes) -> str:
    """Return bytes as an SQL literal."""
    return "'" + "".join(f"\\x{byte:02X}" for byte in data) + "'::BLOB"
