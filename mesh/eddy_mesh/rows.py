"""Rows of a batch: the view that people, event functions and foreign producers have.

What may live here: batch ↔ dicts of dotted names, batch ↔ `Cer`, and the JSON form of a row.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

import msgspec
import numpy as np

from eddy_mesh.batch import EXTRA, Batch, Kind, Producer
from eddy_mesh.cer import VERSION, Cer, Value, event_id, from_flat, id_from_text, id_text
from eddy_mesh.columnize import any_column, column_of
from eddy_mesh.columns import Addresses, Column, Constant, Ids, Numbers, Packed, Text, Words, address_text, v4_text
from eddy_mesh.fields import FieldType, type_of

CHUNK_ROWS = 10_000
"""Rows that are made at once: a reader of the first few does not wait for all."""

SPARSE_SHARE = 0.02
"""A field that fewer than this share of the rows have goes to the column of maps."""

_IMPLIED = ("id", "version", "type", "event_class", "stage")


def flat_row(batch: Batch, row: int) -> dict[str, Value]:
    """Return one event as a dict of dotted names, without the fields that it does not have."""
    values = {name: batch.column(name).at(row) for name in _IMPLIED}
    sparse: dict[str, object] = {}
    for name, column in batch.columns.items():
        value = column.at(row)
        if name == EXTRA:
            sparse = value if isinstance(value, dict) else sparse
        elif isinstance(value, bytes) and type_of(name) is FieldType.IDS:
            values[name] = split_ids(value)
        else:
            values[name] = value
    return {name: value for name, value in (sparse | values).items() if value is not None}  # type: ignore[misc]  # values of maps are Values


def flat_rows(batch: Batch) -> Iterator[dict[str, Value]]:
    """Yield each event of a batch as a dict of dotted names."""
    for start in range(0, batch.count, CHUNK_ROWS):
        yield from _rows_of(batch.slice(start, start + CHUNK_ROWS))


def _rows_of(batch: Batch) -> Iterator[dict[str, Value]]:
    names = _shown(batch)
    values = [_values(batch.column(name), name) for name in names]
    return _merged(names, values, _implied(batch), batch.columns.get(EXTRA))


def _shown(batch: Batch) -> list[str]:
    return ["id", *(name for name in batch.columns if name not in {"id", EXTRA})]


def _implied(batch: Batch) -> dict[str, Value]:
    kind = batch.kind
    return {"version": VERSION, "type": kind.type, "event_class": str(kind.event_class), "stage": str(kind.stage)}


def _merged(
    names: list[str], values: list[list[Value]], implied: dict[str, Value], sparse: Column | None
) -> Iterator[dict[str, Value]]:
    """Yield one dict a row out of lists of values, without the fields that the row does not have."""
    for row, held in enumerate(zip(*values, strict=True)):
        event = implied | {name: value for name, value in zip(names, held, strict=True) if value is not None}
        more = None if sparse is None else sparse.at(row)
        if isinstance(more, dict):
            event = {str(name): value for name, value in more.items() if value is not None} | event
        yield event


def _values(column: Column, name: str) -> list[Value]:
    """Return the value of each row, None where it has none; ids of a list are taken apart."""
    values = _plain_values(column)
    if type_of(name) is not FieldType.IDS:
        return values
    return [split_ids(value) if isinstance(value, bytes) else value for value in values]


def _plain_values(column: Column) -> list[Value]:
    if isinstance(column, Constant):
        return [column.value] * column.count
    values: list[Value]
    if isinstance(column, Numbers):
        values = column.values.tolist()
    elif isinstance(column, Words):
        values = [column.values[code] for code in column.codes.tolist()]
    elif isinstance(column, Addresses):
        numbers = column.values.tolist()
        values = [v4_text(number) for number in numbers] if column.is_v4 else [address_text(*both) for both in numbers]
    elif isinstance(column, Ids):
        values = [event_id(high, low) for high, low in zip(column.highs().tolist(), column.low.tolist(), strict=True)]
    else:
        return [column.at(row) for row in range(len(column))]
    if column.nulls is None:
        return values
    return [None if null else value for null, value in zip(column.nulls.tolist(), values, strict=True)]


def cer(batch: Batch, row: int) -> Cer:
    """Return one event as a `Cer`."""
    return from_flat(flat_row(batch, row))


def split_ids(packed: bytes) -> list[object]:
    """Return the ids that lie end to end in ``packed``, 16 bytes each; a short rest is left out."""
    return [packed[start : start + 16] for start in range(0, len(packed) - 15, 16)]


def columns_of(rows: Sequence[Mapping[str, Value]]) -> dict[str, Column]:
    """Return the columns of rows given as dicts of dotted names.

    Fields that fewer than `SPARSE_SHARE` of the rows have are put into the column `EXTRA`. The fields that the kind
    and the numbering imply (id, version, type, event_class, stage) are left out.
    """
    counts: dict[str, int] = {}
    for row in rows:
        for name in row:
            counts[name] = counts.get(name, 0) + 1
    least = max(SPARSE_SHARE * len(rows), 1)
    dense = [name for name, count in counts.items() if count >= least and name not in _IMPLIED]
    columns = {name: column_for(name, [row.get(name) for row in rows]) for name in dense}
    sparse = counts.keys() - set(dense) - set(_IMPLIED)
    if sparse:
        columns[EXTRA] = any_column([{n: row[n] for n in row if n in sparse} or None for row in rows])
    return columns


def column_for(name: str, values: Sequence[Value]) -> Column:
    """Return the column of one named field; lists of ids are laid end to end."""
    kind = type_of(name)
    if kind is not FieldType.IDS:
        return column_of(kind, values)
    if not all(value is None or _is_id_list(value) for value in values):
        return any_column(values)
    lists = [value if isinstance(value, list) else None for value in values]
    if all(held is None or len(held) == 1 for held in lists):
        return column_of(FieldType.ID, [None if held is None else held[0] for held in lists])  # type: ignore[misc]
    return column_of(FieldType.BYTES, [None if held is None else b"".join(held) for held in lists])  # type: ignore[arg-type]


def _is_id_list(value: Value) -> bool:
    return isinstance(value, list) and all(isinstance(member, bytes) and len(member) == 16 for member in value)


def batch_of(  # the numbering is part of what a batch is
    kind: Kind, origin: str, producer: Producer, first: int, stamp_ms: int, rows: Sequence[Mapping[str, Value]]
) -> Batch:
    """Return a batch of rows, numbered from ``first``; an id that a row brings is kept."""
    columns = columns_of(rows)
    if rows and all("id" in row for row in rows):
        columns["id"] = column_of(FieldType.ID, [row["id"] for row in rows])
    return Batch(kind, origin, producer, first, stamp_ms, len(rows), columns)


# --- JSON --------------------------------------------------------------------------------------------------------


def time_text(time_ns: int) -> str:
    """Return RFC 3339 text with nanoseconds, UTC. A time outside the years 1-9999 is given as ``@<seconds>``."""
    seconds, fraction = divmod(time_ns, 1_000_000_000)
    try:
        moment = datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return f"@{seconds}.{fraction:09d}"
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{fraction:09d}Z"


def json_value(name: str, value: Value) -> object:
    """Return a value as JSON has it: times in RFC 3339, ids as UUID text, bytes as text or ``{"base64": ...}``."""
    kind = type_of(name)
    if kind is FieldType.TIME and isinstance(value, int):
        return time_text(value)
    if isinstance(value, bytes):
        return id_text(value) if kind is FieldType.ID and len(value) == 16 else _bytes_json(value)
    if kind is FieldType.IDS and isinstance(value, list):
        return [id_text(identity) if isinstance(identity, bytes) else identity for identity in value]
    return value


def _bytes_json(value: bytes) -> object:
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        return {"base64": b64encode(value).decode()}
    if any(character < " " and character != "\t" for character in text):
        return {"base64": b64encode(value).decode()}
    return text


def json_rows(batch: Batch) -> Iterator[bytes]:
    """Yield each event of a batch as one line of JSON without the line end."""
    return map(_encode_json, json_events(batch))


def json_events(batch: Batch, names: Sequence[str] = ()) -> Iterator[dict[str, Value]]:
    """Yield each event of a batch as a dict of what JSON can hold.

    Args:
        batch: events.
        names: fields to show, beside ``id``, which is always there; none: all.
    """
    for start in range(0, batch.count, CHUNK_ROWS):
        part = batch.slice(start, start + CHUNK_ROWS)
        shown = ["id", *(name for name in names if name != "id")] if names else _shown(part)
        values = [_json_values(part.column(name), name) for name in shown]
        if names:
            yield from _merged(shown, values, {}, None)
        else:
            yield from _merged(shown, values, _implied(part), _json_sparse(part.columns.get(EXTRA)))


_encode_json = msgspec.json.Encoder().encode


def _json_values(column: Column, name: str) -> list[Value]:
    """Return the value of each row as JSON has it; a column at a time, since a value at a time is ten times slower."""
    kind = type_of(name)
    if isinstance(column, Constant):
        return [json_value(name, column.value)] * column.count  # type: ignore[list-item]  # JSON values are values
    if kind is FieldType.TIME and isinstance(column, Numbers) and _is_moment(column):
        texts = np.datetime_as_string(column.values.astype("M8[ns]"), unit="ns").tolist()
        return [f"{text}Z" if null is False else None for text, null in zip(texts, _null_list(column), strict=True)]
    values = _values(column, name)
    if kind in _AS_THEY_ARE and not isinstance(column, Packed | Ids):
        return values
    if kind is FieldType.TEXT and isinstance(column, Text):
        return values
    return [None if value is None else json_value(name, value) for value in values]  # type: ignore[misc]


def _is_moment(column: Numbers) -> bool:
    values = column.values
    return values.dtype.kind == "i" and not (values.dtype.itemsize == 8 and (values == np.iinfo(np.int64).min).any())


_AS_THEY_ARE = frozenset(
    {FieldType.BOOL, FieldType.INT, FieldType.FLOAT, FieldType.TEXT, FieldType.ADDRESS, FieldType.LEVEL}
)


def _null_list(column: Numbers) -> list[bool]:
    return [False] * len(column) if column.nulls is None else column.nulls.tolist()


def _json_sparse(sparse: Column | None) -> Column | None:
    """Return the column of maps with each member as JSON has it."""
    if sparse is None:
        return None
    return any_column([_json_members(sparse.at(row)) for row in range(len(sparse))])


def _json_members(members: Value) -> Value:
    if not isinstance(members, dict):
        return None
    return {name: json_value(name, value) for name, value in members.items()}  # type: ignore[arg-type]  # msgpack members are Values


def value_of_json(name: str, value: object) -> Value:
    """Return the value of a field as its JSON form says it; the inverse of `json_value`.

    A value that does not have the form of its field's type is kept as it is.
    """
    kind = type_of(name)
    if isinstance(value, dict) and value.keys() == {"base64"}:
        return _unbase64(value)
    if kind is FieldType.BYTES and isinstance(value, str):
        return value.encode()
    try:
        if kind is FieldType.TIME and isinstance(value, str):
            return time_ns(value)
        if kind is FieldType.ID and isinstance(value, str):
            return id_from_text(value)
        if kind is FieldType.IDS and isinstance(value, list):
            return [id_from_text(str(text)) for text in value]
    except ValueError:
        pass
    return value  # type: ignore[return-value]  # what JSON can hold, a field can hold


def _unbase64(value: dict[str, object]) -> Value:
    try:
        return b64decode(str(value["base64"]), validate=True)
    except ValueError:
        return {str(name): member for name, member in value.items()}


def time_ns(text: str) -> int:
    """Return ns since 1970 UTC of an RFC 3339 time with up to nine digits of fraction; no zone means UTC.

    Raises:
        ValueError: ``text`` is not such a time.
    """
    matched = _RFC3339.fullmatch(text.strip())
    if matched is None:
        raise ValueError(f"{text!r} is not an RFC 3339 time: write 2026-11-21T10:00:00.5Z")
    moment = datetime.fromisoformat(f"{matched['day']}T{matched['clock'] or '00:00:00'}{_zone(matched['zone'])}")
    fraction = (matched["fraction"] or "").ljust(9, "0")[:9]
    return int(moment.timestamp()) * 1_000_000_000 + int(fraction)


_RFC3339 = re.compile(
    r"(?P<day>\d{4}-\d\d-\d\d)"
    r"(?:[Tt ](?P<clock>\d\d:\d\d(?::\d\d)?)(?:\.(?P<fraction>\d+))?(?P<zone>[Zz]|[+-]\d\d:?\d\d)?)?",
    re.ASCII,
)


def _zone(text: str | None) -> str:
    return "+00:00" if text in {None, "Z", "z"} else str(text)
