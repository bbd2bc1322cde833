"""Columns of one field in one form: what makes joining batches quick.

What may live here: `uniform` and the widening of one column. `eddy_mesh.concatenate` joins columns of one form without
a look at the rows, and any others row by row in Python; an exporter's address is a constant in each batch and another
one in the next, so that without this file a million rows would be looked at one by one.
"""

from __future__ import annotations

import numpy as np

from eddy_mesh.columnize import any_column, column_of
from eddy_mesh.columns import (
    Addresses,
    Bytes,
    Column,
    Constant,
    Ids,
    Maps,
    Numbers,
    Text,
    Words,
    address_halves,
    pack,
)
from eddy_mesh.fields import FieldType

EXACT_FLOAT = 2**53
"""Every integer up to this one is also a float."""

_INT64_MAX = np.iinfo(np.int64).max


def uniform(columns: list[Column | None], field_type: FieldType) -> list[Column | None]:
    """Return columns of one field in one form where `concatenate` would otherwise look at each row.

    Args:
        columns: one for each batch, None where a batch does not have the field.
        field_type: type of that field.
    """
    kinds = {type(column) for column in columns if column is not None}
    if kinds == {Constant}:
        values = [c.value for c in columns if isinstance(c, Constant)]
        if len(values) == len(columns) and all(type(v) is type(values[0]) and v == values[0] for v in values):
            return columns
        if all(value is None for value in values):
            return columns
    widened = [spread(column, field_type) for column in columns]
    kinds = {type(column) for column in widened if column is not None and not isinstance(column, Constant)}
    if kinds == {Words, Text}:
        return [_as_text(column) if isinstance(column, Words) else column for column in widened]
    if kinds == {Ids, Bytes}:
        return [_as_bytes(column) if isinstance(column, Ids) else column for column in widened]
    if len(kinds) > 1 and Maps in kinds:
        return [_as_maps(column) for column in widened]
    if kinds == {Numbers}:
        return _one_form(widened, field_type)
    return widened


def spread(column: Column | None, field_type: FieldType) -> Column | None:
    """Return a constant as a column of the form that its field usually has; None where no row has a value.

    Args:
        column: any; one that is no constant is returned as it is.
        field_type: type of the field.
    """
    if not isinstance(column, Constant):
        return column
    value, count = column.value, column.count
    if value is None:
        return None
    if field_type is FieldType.ADDRESS and isinstance(value, str):
        return _spread_address(value, count)
    if isinstance(value, str) and field_type in {FieldType.TEXT, FieldType.ANY}:
        return Words(np.zeros(count, np.uint8), (value,))
    if isinstance(value, bytes) and len(value) == 16 and field_type in {FieldType.ID, FieldType.IDS}:
        high, low = int.from_bytes(value[:8], "big"), int.from_bytes(value[8:], "big")
        return Ids(high, np.full(count, low, np.uint64))
    one = column_of(field_type, [value, None])  # two different values, so that it is not a constant again
    return one.take(np.zeros(count, np.intp))


def _spread_address(text: str, count: int) -> Column:
    try:
        high, low = address_halves(text)
    except ValueError:
        return any_column([text]).take(np.zeros(count, np.intp))
    if high == 0 and low >> 32 == 0xFFFF:
        return Addresses(np.full(count, low & 0xFFFF_FFFF, ">u4"))
    return Addresses(np.tile(np.array([[high, low]], ">u8"), (count, 1)))


def _as_text(column: Words) -> Text:
    texts = [value.encode("utf-8", "replace") for value in column.values]
    return Text(*pack([texts[code] for code in column.codes.tolist()]), column.nulls)


def _as_bytes(column: Ids) -> Bytes:
    """Return single ids as lists of ids are held: end to end."""
    halves = np.stack((column.highs(), column.low), axis=1).astype(">u8")
    ends = np.arange(len(column) + 1, dtype=np.uint32) * np.uint32(16)
    return Bytes(ends, halves.tobytes(), column.nulls)


def _as_maps(column: Column | None) -> Column | None:
    if column is None or isinstance(column, Maps):
        return column
    return any_column([column.at(row) for row in range(len(column))])


def _one_form(columns: list[Column | None], field_type: FieldType) -> list[Column | None]:
    """Return numbers in one form: joined as they are, a large integer beside a float or a sign would be rounded."""
    numbers = [column for column in columns if isinstance(column, Numbers)]
    forms = {column.values.dtype.kind for column in numbers}
    if len(forms) == 1:
        return columns
    if field_type is FieldType.FLOAT and "b" not in forms and all(_is_exact_float(column) for column in numbers):
        return [_cast(column, np.float64) for column in columns]
    if forms == {"u", "i"} and all(_fits_int64(column) for column in numbers):
        return [_cast(column, np.int64) for column in columns]
    return [_as_maps(column) for column in columns]


def _cast(column: Column | None, dtype: type[np.float64 | np.int64]) -> Column | None:
    if not isinstance(column, Numbers):
        return column
    return Numbers(column.values.astype(dtype, copy=False), column.nulls)


def _fits_int64(column: Numbers) -> bool:
    values = column.values
    return values.dtype != np.uint64 or len(values) == 0 or int(values.max()) <= _INT64_MAX


def _is_exact_float(column: Numbers) -> bool:
    values = column.values
    if values.dtype.kind == "f" or len(values) == 0:
        return True
    return int(values.max()) <= EXACT_FLOAT and int(values.min()) >= -EXACT_FLOAT
