"""Columns as codes: the different values of a field and, for each row, which of them it has.

What may live here: `coded`, the one step that grouping, DISTINCT, MIN, MAX and SUM share, for every kind of column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from eddy_mesh.columns import V4_MAPPED, Addresses, Column, Constant, Numbers, Words
from eddy_mesh.fields import FieldType
from eddy_mesh.selection.plan import Literal
from eddy_mesh.selection.questions import numbers_of
from eddy_mesh.selection.values import comparable

Codes = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Coded:
    """A column as codes.

    Attributes:
        codes: index into ``values`` for each row, -1 where it is NULL.
        values: the different values in their compared form, ascending.
    """

    codes: Codes
    values: Sequence[Literal]


def coded(kind: FieldType, column: Column) -> Coded:
    """Return a column as codes; a value of another type than ``kind`` is NULL."""
    if isinstance(column, Constant):
        value = comparable(kind, column.value)
        return Coded(np.full(len(column), -1 if value is None else 0, np.int64), [] if value is None else [value])
    numbers = numbers_of(kind, column)
    if numbers is not None and isinstance(column, Numbers):
        return _unique(numbers, _nulls_with_nan(numbers, column.nulls), 0)
    if kind is FieldType.ADDRESS and isinstance(column, Addresses) and column.is_v4:
        return _unique(column.values.astype(np.uint32), column.nulls, V4_MAPPED)
    if kind is FieldType.TEXT and isinstance(column, Words):
        return _words(column)
    return _one_by_one([comparable(kind, column.at(row)) for row in range(len(column))])


def _nulls_with_nan(
    values: npt.NDArray[np.generic], nulls: npt.NDArray[np.bool_] | None
) -> npt.NDArray[np.bool_] | None:
    if values.dtype.kind != "f":
        return nulls
    nan: npt.NDArray[np.bool_] = np.isnan(values)
    return nan if nulls is None else nan | nulls


def _unique(values: npt.NDArray[np.generic], nulls: npt.NDArray[np.bool_] | None, offset: int) -> Coded:
    different, codes = np.unique(values, return_inverse=True)
    listed = different.tolist()
    codes = codes.astype(np.int64)
    if nulls is not None:
        codes[nulls] = -1
    return Coded(codes, [value + offset for value in listed] if offset else listed)


def _words(column: Words) -> Coded:
    values = sorted(set(column.values))
    code_of = {value: code for code, value in enumerate(values)}
    table = np.array([code_of[value] for value in column.values] or [0], np.int64)
    codes = table[column.codes]
    if column.nulls is not None:
        codes[column.nulls] = -1
    return Coded(codes, values)


def _one_by_one(values: list[Literal | None]) -> Coded:
    different = sorted({value for value in values if value is not None})
    code_of: dict[Literal | None, int] = {value: code for code, value in enumerate(different)}
    code_of[None] = -1
    return Coded(np.fromiter((code_of[value] for value in values), np.int64, len(values)), different)


def combined(columns: Sequence[Coded], count: int) -> tuple[Codes, list[tuple[Literal | None, ...]]]:
    """Return for each row the number of its group, and the key of each group.

    Args:
        columns: the fields that make the key; none makes one group.
        count: number of rows, at least 1.
    """
    codes = np.zeros(count, np.int64)
    firsts = np.zeros(1, np.intp)
    for column in columns:
        width = len(column.values) + 1
        # Numbered anew after each field, so that a product never passes 2^63.
        _, firsts, inverse = np.unique(codes * width + column.codes + 1, return_index=True, return_inverse=True)
        codes = inverse.astype(np.int64)
    keys = [tuple(_value(column, int(row)) for column in columns) for row in firsts]
    return codes, keys


def _value(column: Coded, row: int) -> Literal | None:
    code = int(column.codes[row])
    return None if code < 0 else column.values[code]
