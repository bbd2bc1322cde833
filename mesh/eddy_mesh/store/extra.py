"""The JSON column of a stored event: fields without a type of their own, few-row fields, and values that fit no type.

What may live here: the form of that column, both ways. It is one JSON object of field name to value; what JSON can not
say is an object of one member: bytes ``{"base64": text}``, a float that is no number ``{"float": "nan"}``.
"""

from __future__ import annotations

import math
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from eddy_mesh.batch import EXTRA
from eddy_mesh.cer import Value
from eddy_mesh.columnize import any_column
from eddy_mesh.columns import Column, Constant, Maps, Text, Words, pack

_encode = msgspec.json.Encoder().encode


def encode_extra(columns: Mapping[str, Column], count: int) -> Text | Words | str | None:
    """Return the JSON of each row; one value where all rows have the same.

    Args:
        columns: those that are stored as JSON, by field name; the column of maps, `EXTRA`, among them.
        count: number of rows.
    """
    if not columns:
        return None
    if all(isinstance(column, Constant) for column in columns.values()):
        return _json(_row(columns, 0)) if count else None
    only = next(iter(columns.items())) if len(columns) == 1 else None
    if only is not None and isinstance(only[1], Words) and only[1].nulls is None:
        return Words(only[1].codes, tuple(_json({only[0]: text}) or "" for text in only[1].values))
    rows = [_json(_row(columns, row)) for row in range(count)]
    nulls = np.array([row is None for row in rows], np.bool_)
    return Text(*pack([(row or "").encode() for row in rows]), nulls if nulls.any() else None)


def decode_extra(texts: Sequence[str | None]) -> Column | None:
    """Return the column of maps of JSON texts, or None when no row has any; what is no JSON is kept as text."""
    maps: list[Value] = [None if text is None else _decoded(text) for text in texts]
    return None if all(value is None for value in maps) else any_column(maps)


def _row(columns: Mapping[str, Column], row: int) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for name, column in columns.items():
        value = column.at(row)
        if name == EXTRA and isinstance(value, dict):
            values |= value  # type: ignore[arg-type]  # msgpack holds nothing that a Value can not
        elif value is not None:
            values[name] = value
        elif isinstance(column, Maps) and (column.nulls is None or not column.nulls[row]):
            values[name] = column.bytes_at(row)  # it does not decode: kept as bytes
    return values


def _json(values: Mapping[str, Value]) -> str | None:
    if not values:
        return None
    try:
        return _encode({name: _plain(value) for name, value in values.items()}).decode("utf-8", "replace")
    except (UnicodeEncodeError, RecursionError):  # a lone surrogate: kept as the bytes that it stands for
        return _encode(
            {
                _clean(name): {"base64": _base64(repr(value).encode("utf-8", "surrogatepass"))}
                for name, value in values.items()
            }
        ).decode()


def _clean(name: str) -> str:
    return name.encode("utf-8", "replace").decode()


def _plain(value: object) -> object:
    if isinstance(value, bytes | bytearray | memoryview):
        return {"base64": _base64(bytes(value))}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if isinstance(value, list | tuple):
        return [_plain(member) for member in value]
    if isinstance(value, dict):
        return {str(name): _plain(member) for name, member in value.items()}
    return value


def _base64(value: bytes) -> str:
    return b64encode(value).decode()


def _decoded(text: str) -> Value:
    try:
        values = msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError):
        return {"extra": text}
    return _unplain(values)  # type: ignore[return-value]


def _unplain(value: object) -> object:
    if isinstance(value, list):
        return [_unplain(member) for member in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"base64"}:
        return _or_itself(value, lambda text: b64decode(text, validate=True))
    if value.keys() == {"float"}:
        return _or_itself(value, float)
    return {name: _unplain(member) for name, member in value.items()}


def _or_itself(value: dict[str, object], convert: object) -> object:
    (text,) = value.values()
    try:
        return convert(text) if isinstance(text, str) else value  # type: ignore[operator]
    except ValueError:
        return value
