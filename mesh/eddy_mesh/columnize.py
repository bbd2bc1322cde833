"""Columns of Python values: how an event function's rows and a source's texts become columns.

What may live here: `column_of`, which picks the smallest kind of column that holds the values of a field.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from eddy_mesh.cer import Value
from eddy_mesh.columns import Addresses, Bytes, Column, Constant, Ids, Maps, Numbers, Text, Words, address_halves, pack
from eddy_mesh.fields import FieldType

_DICTIONARY_MAX = 65_536
"""Most different texts in a dictionary: codes stay in two bytes."""

_INT_TYPES = frozenset({FieldType.INT, FieldType.TIME, FieldType.LEVEL})


def column_of(field_type: FieldType, values: Sequence[Value]) -> Column:
    """Return a column of ``values`` for a field of that type.

    A value that does not fit the type (a text in an address field) does not raise: the column becomes one of `Maps`,
    which holds any value, so that nothing is lost.

    Args:
        field_type: type of the field.
        values: one for each row, None where the row does not have the field.
    """
    if not values:
        return Constant(None, 0)
    first = values[0]
    if first is None and all(value is None for value in values):
        return Constant(None, len(values))
    if field_type is not FieldType.ID and all(
        value is first or (type(value) is type(first) and value == first) for value in values
    ):
        return Constant(speakable(first), len(values))
    try:
        return _typed(field_type, values)
    except (TypeError, ValueError, OverflowError, AttributeError):
        return any_column(values)


def _typed(field_type: FieldType, values: Sequence[Value]) -> Column:
    if field_type in _INT_TYPES:
        return _integers(values)
    if field_type is FieldType.FLOAT:
        return _numbers(values, np.dtype(np.float64), (int, float))
    if field_type is FieldType.BOOL:
        return _numbers(values, np.dtype(np.bool_), (bool,))
    if field_type is FieldType.TEXT:
        return text_column(values)
    if field_type is FieldType.ADDRESS:
        return address_column(values)
    if field_type is FieldType.BYTES:
        return Bytes(*pack([b"" if value is None else _bytes(value) for value in values]), _nulls(values))
    if field_type is FieldType.ID:
        return id_column(values)
    return any_column(values)


def text_column(values: Sequence[Value]) -> Words | Text:
    """Return texts as a dictionary where half of them or more repeat, else as plain text.

    Raises:
        TypeError: a value is neither str nor None.
    """
    codes_of: dict[str, int] = {}
    codes = []
    limit = min(len(values) // 2 + 1, _DICTIONARY_MAX)
    for value in values:
        if value is None:
            codes.append(0)
            continue
        if not isinstance(value, str):
            raise TypeError(f"{value!r} is not a text")
        codes.append(codes_of.setdefault(value, len(codes_of)))
        if len(codes_of) > limit:
            break
    if len(codes_of) > limit:
        encoded = [b"" if value is None else _text(value).encode("utf-8", "replace") for value in values]
        return Text(*pack(encoded), _nulls(values))
    width = np.min_scalar_type(max(len(codes_of) - 1, 0))
    words = tuple(str(speakable(value)) for value in codes_of) or ("",)
    return Words(np.array(codes, width), words, _nulls(values))


def address_column(values: Sequence[Value]) -> Addresses:
    """Return addresses given as text.

    Raises:
        ValueError: a value is not an address.
    """
    halves = [(0, 0xFFFF_0000_0000) if value is None else address_halves(_text(value)) for value in values]
    if all(high == 0 and low >> 32 == 0xFFFF for high, low in halves):
        return Addresses(np.array([low & 0xFFFF_FFFF for _, low in halves], ">u4"), _nulls(values))
    return Addresses(np.array(halves, ">u8"), _nulls(values))


def id_column(values: Sequence[Value]) -> Ids:
    """Return ids given as 16 bytes each.

    Raises:
        ValueError: a value is not 16 bytes long.
    """
    joined = b"".join(bytes(16) if value is None else _bytes(value) for value in values)
    if len(joined) != 16 * len(values):
        raise ValueError("an event id has 16 bytes")
    halves = np.frombuffer(joined, ">u8").reshape(-1, 2).astype(np.uint64)
    return Ids(halves[:, 0], halves[:, 1], _nulls(values))


def any_column(values: Sequence[Value]) -> Maps:
    """Return values of any type, one msgpack value a row."""
    encoded = [b"" if value is None else _any_encoded(value) for value in values]
    return Maps(*pack(encoded), _nulls(values))


def _any_encoded(value: Value) -> bytes:
    try:
        return msgspec.msgpack.encode(value)
    except UnicodeEncodeError:
        return msgspec.msgpack.encode(speakable(value))


def speakable(value: Value) -> Value:
    """Return a value whose texts are UTF-8: halves of surrogate pairs, which no encoding has, become ``?``."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, list):
        return [speakable(member) for member in value]  # type: ignore[arg-type]  # members are values
    if isinstance(value, dict):
        return {str(speakable(name)): speakable(member) for name, member in value.items()}  # type: ignore[arg-type]
    return value


def _integers(values: Sequence[Value]) -> Numbers:
    plain = [0 if value is None else value for value in values]
    if not all(type(value) is int for value in plain):
        raise TypeError("not every value is an integer")
    low, high = min(plain), max(plain)  # type: ignore[type-var]
    if high >= 1 << 64:  # type: ignore[operator]
        raise OverflowError("an integer of more than 64 bits")
    if low >= 0:  # type: ignore[operator]
        return Numbers(np.array(plain, np.min_scalar_type(high)), _nulls(values))  # type: ignore[arg-type]
    return Numbers(np.array(plain, np.int64), _nulls(values))


def _numbers(values: Sequence[Value], dtype: np.dtype[np.generic], accepted: tuple[type, ...]) -> Numbers:
    if not all(
        value is None or (isinstance(value, accepted) and (bool in accepted or type(value) is not bool))
        for value in values
    ):
        raise TypeError(f"not every value is of type {dtype}")
    return Numbers(np.array([0 if value is None else value for value in values], dtype), _nulls(values))


def _nulls(values: Sequence[Value]) -> npt.NDArray[np.bool_] | None:
    nulls = np.fromiter((value is None for value in values), np.bool_, len(values))
    return nulls if nulls.any() else None


def _text(value: Value) -> str:
    if isinstance(value, str):
        return value
    raise TypeError(f"{value!r} is not a text")


def _bytes(value: Value) -> bytes:
    if isinstance(value, bytes):
        return value
    raise TypeError(f"{value!r} is not bytes")
