"""One predicate on one column: how each kind of column answers each kind of question, all rows at once.

What may live here: `Question`, which is a question about single values with fast ways to ask it of a whole column, and
one maker for each predicate of the plan. A fast way must give what the single values would.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from eddy_mesh.columns import V4_MAPPED, Addresses, Bytes, Column, Ids, Numbers, Packed, Text, Words, pack
from eddy_mesh.fields import FieldType
from eddy_mesh.selection import patterns
from eddy_mesh.selection.plan import (
    Among,
    Comparison,
    InNetworks,
    Like,
    Literal,
    Matches,
    Operator,
)

Mask: TypeAlias = "npt.NDArray[np.bool_] | bool"
"""One truth for each row, or one for all."""

_COMPARE: dict[Operator, Callable[[Any, Any], object]] = {
    Operator.EQ: operator.eq,
    Operator.NE: operator.ne,
    Operator.LT: operator.lt,
    Operator.LE: operator.le,
    Operator.GT: operator.gt,
    Operator.GE: operator.ge,
}
_LOW_HALF = 0xFFFF_FFFF_FFFF_FFFF
_V4_LAST = V4_MAPPED | 0xFFFF_FFFF
_FEW = 4
"""Up to so many values one comparison each is faster than a set operation."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question about the values of one field.

    Attributes:
        on_value: the answer for one value in its compared form (`eddy_mesh.selection.values.comparable`).
        on_column: the answer for each row of a column, whatever it says for nulls; None where that kind of column
            has no fast way.
        cost: about how many ns a row takes; cheap questions go first.
    """

    on_value: Callable[[Literal], bool]
    on_column: Callable[[Column], Mask | None]
    cost: int


def question_of(predicate: Comparison | Among | InNetworks | Like | Matches) -> Question:
    """Return the question that a predicate asks of its field."""
    if isinstance(predicate, Comparison):
        return _comparison(predicate)
    if isinstance(predicate, Among):
        return _among(predicate)
    if isinstance(predicate, InNetworks):
        return _in_networks(predicate)
    if isinstance(predicate, Like):
        return _pattern(patterns.like_regex(predicate.pattern))
    return _pattern(predicate.pattern)


def compare_values(sign: Operator, left: Literal, right: Literal) -> bool:
    """Return whether two values of types that compare do so."""
    return bool(_COMPARE[sign](left, right))


def compare_arrays(
    sign: Operator, left: npt.NDArray[np.generic], right: npt.NDArray[np.generic] | Literal
) -> npt.NDArray[np.bool_]:
    """Return for each row whether two values compare; integers of any width and sign compare exactly."""
    return cast("npt.NDArray[np.bool_]", _COMPARE[sign](left, right))


# --- numbers -----------------------------------------------------------------------------------------------------

_WHOLE = frozenset({FieldType.INT, FieldType.TIME, FieldType.LEVEL})
_DTYPE_KINDS = {FieldType.FLOAT: "iuf", FieldType.BOOL: "b"} | dict.fromkeys(_WHOLE, "iu")


def numbers_of(kind: FieldType, column: Column) -> npt.NDArray[np.generic] | None:
    """Return the array of a column of numbers when its values are of that type, else None."""
    if not isinstance(column, Numbers) or column.values.dtype.kind not in _DTYPE_KINDS.get(kind, ""):
        return None
    if kind is FieldType.FLOAT and column.values.dtype != np.float64:
        return column.values.astype(np.float64)
    return column.values


def _comparison(predicate: Comparison) -> Question:
    kind, value = predicate.operand.type, predicate.value
    sign = predicate.operator

    def on_value(held: Literal) -> bool:
        return compare_values(sign, held, value)

    if kind in _DTYPE_KINDS:

        def on_numbers(column: Column) -> Mask | None:
            values = numbers_of(kind, column)
            return None if values is None else compare_arrays(sign, values, value)

        return Question(on_value, on_numbers, 1)
    if kind is FieldType.ADDRESS and isinstance(value, int):
        return Question(on_value, _address_comparison(sign, value), 2)
    if kind is FieldType.ID and isinstance(value, int):
        return Question(on_value, lambda column: _id_comparison(column, sign, value), 2)
    if sign in {Operator.EQ, Operator.NE} and isinstance(value, str | bytes):
        return Question(on_value, _equality(on_value, value, wanted=sign is Operator.EQ), 3)
    return Question(on_value, lambda column: _by_dictionary(column, on_value), 20)


def _among(predicate: Among) -> Question:
    kind, values = predicate.operand.type, predicate.values
    members = frozenset(values)

    def on_value(held: Literal) -> bool:
        return held in members

    if kind in _DTYPE_KINDS:
        return Question(on_value, lambda column: _among_numbers(numbers_of(kind, column), values), 2)
    if len(values) > _FEW or kind not in {FieldType.ADDRESS, FieldType.ID, FieldType.TEXT}:
        return Question(on_value, lambda column: _among_column(column, members, on_value), 10)
    each = [_comparison(Comparison(predicate.operand, Operator.EQ, value)) for value in values]
    return Question(on_value, lambda column: _either([question.on_column(column) for question in each]), 2 * len(each))


def _among_numbers(held: npt.NDArray[np.generic] | None, values: Sequence[Literal]) -> Mask | None:
    if held is None:
        return None
    if len(values) <= _FEW or held.dtype.kind == "b":
        return _either([held == value for value in values])
    if held.dtype.kind == "f":
        return np.isin(held, np.array(values, held.dtype))
    limits = np.iinfo(held.dtype)  # type: ignore[type-var]
    fitting = [value for value in values if limits.min <= value <= limits.max]  # type: ignore[operator]
    return np.isin(held, np.array(fitting, held.dtype))


def _among_column(column: Column, members: frozenset[Literal], on_value: Callable[[Literal], bool]) -> Mask | None:
    if isinstance(column, Addresses) and column.is_v4:
        narrow = [value & 0xFFFF_FFFF for value in members if isinstance(value, int) and V4_MAPPED <= value <= _V4_LAST]
        return np.isin(column.values, np.array(narrow, ">u4"))
    return _by_dictionary(column, on_value)


def _either(masks: Sequence[Mask | None]) -> Mask | None:
    result: Mask = False
    for mask in masks:
        if mask is None:
            return None
        result = mask | result
    return result


# --- addresses and ids ---------------------------------------------------------------------------------------------


def _address_comparison(sign: Operator, value: int) -> Callable[[Column], Mask | None]:
    top = (1 << 128) - 1
    ranges = {
        Operator.EQ: (value, value),
        Operator.NE: (value, value),
        Operator.LT: (0, value - 1),
        Operator.LE: (0, value),
        Operator.GT: (value + 1, top),
        Operator.GE: (value, top),
    }
    first, last = ranges[sign]

    def on_column(column: Column) -> Mask | None:
        if not isinstance(column, Addresses):
            return None
        inside = _in_range(column, first, last)
        return _inverse(inside) if sign is Operator.NE else inside

    return on_column


def _in_networks(predicate: InNetworks) -> Question:
    ranges = [each for block in predicate.networks for each in block.ranges]

    def on_value(held: Literal) -> bool:
        return any(first <= held <= last for first, last in ranges)  # type: ignore[operator]

    def on_column(column: Column) -> Mask | None:
        if not isinstance(column, Addresses):
            return None
        return _either([_in_range(column, first, last) for first, last in ranges])

    return Question(on_value, on_column, 2 * len(ranges))


def _in_range(column: Addresses, first: int, last: int) -> Mask:
    if column.is_v4:
        return _v4_in_range(column.values, max(first, V4_MAPPED), min(last, _V4_LAST))
    high, low = column.values[:, 0], column.values[:, 1]
    size = last - first + 1
    if size & (size - 1) == 0 and 0 < size < 1 << 128 and first % size == 0:
        mask = (1 << 128) - size
        upper = _masked(high, mask >> 64, first >> 64, ">u8")
        return upper if mask & _LOW_HALF == 0 else upper & _masked(low, mask & _LOW_HALF, first & _LOW_HALF, ">u8")
    return _at_least(high, low, first) & ~_at_least(high, low, last + 1)


def _v4_in_range(values: npt.NDArray[np.unsignedinteger], first: int, last: int) -> Mask:
    if first > last:
        return False
    if first == V4_MAPPED and last == _V4_LAST:
        return True
    size = last - first + 1
    if size & (size - 1) == 0 and first % size == 0:
        return _masked(values, 0xFFFF_FFFF ^ (size - 1), first & 0xFFFF_FFFF, ">u4")
    native = values.astype(np.uint32)
    return (native >= first & 0xFFFF_FFFF) & (native <= last & 0xFFFF_FFFF)


def _masked(held: npt.NDArray[np.unsignedinteger], mask: int, wanted: int, dtype: str) -> npt.NDArray[np.bool_]:
    """Return where ``held & mask == wanted``, with the bytes as they lie: turning those of every address costs more."""
    lying = dtype.replace(">", "<")
    masks, values = np.array([mask, wanted], dtype).view(lying)
    as_lies = held.view(lying)
    everything = mask == (1 << 8 * held.dtype.itemsize) - 1
    return compare_arrays(Operator.EQ, as_lies if everything else as_lies & masks, values)


def _at_least(
    high: npt.NDArray[np.unsignedinteger], low: npt.NDArray[np.unsignedinteger], value: int
) -> npt.NDArray[np.bool_]:
    """Return where a 128-bit number given as halves is ``value`` or more; ``value`` may be one too large."""
    if value >> 128:
        return np.zeros(len(low), np.bool_)
    upper, lower = value >> 64, value & _LOW_HALF
    same_high = compare_arrays(Operator.EQ, high, upper) & compare_arrays(Operator.GE, low, lower)
    return compare_arrays(Operator.GT, high, upper) | same_high


def _id_comparison(column: Column, sign: Operator, value: int) -> Mask | None:
    if not isinstance(column, Ids):
        return None
    high, low = column.highs(), column.low
    if sign in {Operator.EQ, Operator.NE}:
        same: Mask = (low == value & _LOW_HALF) & (high == value >> 64)
        return same if sign is Operator.EQ else _inverse(same)
    reached = _at_least(high, low, value + 1 if sign in {Operator.GT, Operator.LE} else value)
    return reached if sign in {Operator.GT, Operator.GE} else _inverse(reached)


def _inverse(mask: Mask) -> Mask:
    return not mask if isinstance(mask, bool) else ~mask


# --- texts -----------------------------------------------------------------------------------------------------------


def _by_dictionary(column: Column, on_value: Callable[[Literal], bool]) -> Mask | None:
    if not isinstance(column, Words):
        return None
    table = np.fromiter(map(on_value, column.values), np.bool_, len(column.values))
    return table[column.codes] if table.any() else False


def _equality(
    on_value: Callable[[Literal], bool], value: str | bytes, *, wanted: bool
) -> Callable[[Column], Mask | None]:
    encoded = value.encode("utf-8", "replace") if isinstance(value, str) else value
    kind = Text if isinstance(value, str) else Bytes

    def on_column(column: Column) -> Mask | None:
        if isinstance(column, Words) and isinstance(value, str):
            if len(column.values) == len(set(column.values)):
                return _code_is(column, value, wanted=wanted)
            return _by_dictionary(column, on_value)
        if not isinstance(column, kind):
            return None
        clean = column if kind is Bytes else valid_text(column)
        same = _rows_equal(clean, encoded)
        return same if wanted else ~same

    return on_column


def _code_is(column: Words, value: str, *, wanted: bool) -> Mask:
    if value not in column.values:
        return not wanted
    code = column.values.index(value)
    return compare_arrays(Operator.EQ if wanted else Operator.NE, column.codes, code)


def _rows_equal(column: Packed, value: bytes) -> npt.NDArray[np.bool_]:
    starts = column.offsets[:-1]
    hits: npt.NDArray[np.bool_] = (column.offsets[1:] - starts) == len(value)
    data = memoryview(column.data)
    for row in np.flatnonzero(hits).tolist():
        start = int(starts[row])
        hits[row] = data[start : start + len(value)] == value
    return hits


def _pattern(pattern: str) -> Question:
    search = patterns.regex(pattern).search
    needle = patterns.literal_of(pattern)

    def on_value(held: Literal) -> bool:
        return search(str(held).encode("utf-8", "replace")) is not None

    def on_column(column: Column) -> Mask | None:
        if not isinstance(column, Text):
            return _by_dictionary(column, on_value)
        clean = valid_text(column)
        return patterns.rows_with(needle, clean) if needle else patterns.rows_matching(pattern, clean)

    return Question(on_value, on_column, 200)


def valid_text(column: Packed) -> Packed:
    """Return a column of texts as valid UTF-8: what is not becomes U+FFFD, as in `Text.at`."""
    data = memoryview(column.data)[int(column.offsets[0]) : int(column.offsets[-1])]
    try:
        str(data, "utf-8")
    except UnicodeDecodeError:
        rows = [column.bytes_at(row).decode("utf-8", "replace").encode() for row in range(len(column))]
        return Text(*pack(rows), column.nulls)
    return column
