"""Joining columns end to end.

What may live here: `concatenate` and one case for each kind of column.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from eddy_mesh.columnize import column_of
from eddy_mesh.columns import Addresses, Column, Constant, Ids, Numbers, Packed, Words, nulls_of
from eddy_mesh.fields import FieldType


def concatenate(columns: Sequence[Column], field_type: FieldType) -> Column:
    """Return one column with the rows of all, in order. Columns of different kinds are brought to one that holds both.

    Args:
        columns: at least one; all of the same field.
        field_type: type of that field; says what columns of different kinds become.
    """
    if len(columns) == 1:
        return columns[0]
    total = sum(map(len, columns))
    if all(isinstance(c, Constant) for c in columns):
        values = [c.value for c in columns if isinstance(c, Constant)]
        if all(type(v) is type(values[0]) and v == values[0] for v in values):
            return Constant(values[0], total)
    present = [c for c in columns if not (isinstance(c, Constant) and c.value is None)]
    kinds = {type(c) for c in present}
    nulls = _joined_nulls(columns)
    if kinds == {Numbers} and not {c.values.dtype.kind for c in present if isinstance(c, Numbers)} >= {"u", "i"}:
        return _join_numbers(columns, nulls)
    if kinds == {Addresses}:
        return _join_addresses(columns, nulls)
    if kinds == {Words}:
        return _join_words(columns, nulls)
    if kinds == {Ids}:
        return _join_ids(columns, nulls)
    if len(kinds) == 1 and issubclass(next(iter(kinds)), Packed):
        return _join_packed(next(iter(kinds)), columns, nulls)  # type: ignore[arg-type]
    return column_of(field_type, [column.at(row) for column in columns for row in range(len(column))])


def _joined_nulls(columns: Sequence[Column]) -> npt.NDArray[np.bool_] | None:
    if not any((c.value is None) if isinstance(c, Constant) else (c.nulls is not None) for c in columns):
        return None
    joined = np.concatenate([nulls_of(c) for c in columns])
    return joined if joined.any() else None


def _join_numbers(columns: Sequence[Column], nulls: npt.NDArray[np.bool_] | None) -> Numbers:
    parts = [c.values if isinstance(c, Numbers) else np.zeros(len(c), np.uint8) for c in columns]
    wanted = np.result_type(*(c.values.dtype for c in columns if isinstance(c, Numbers)))
    return Numbers(np.concatenate([part.astype(wanted, copy=False) for part in parts]), nulls)


def _join_addresses(columns: Sequence[Column], nulls: npt.NDArray[np.bool_] | None) -> Addresses:
    if all(c.is_v4 for c in columns if isinstance(c, Addresses)):
        narrow = [c.values if isinstance(c, Addresses) else np.zeros(len(c), ">u4") for c in columns]
        return Addresses(np.concatenate(narrow), nulls)
    wide = [c.wide().values if isinstance(c, Addresses) else np.zeros((len(c), 2), ">u8") for c in columns]
    return Addresses(np.concatenate(wide), nulls)


def _join_words(columns: Sequence[Column], nulls: npt.NDArray[np.bool_] | None) -> Words:
    codes_of: dict[str, int] = {}
    parts = []
    for column in columns:
        if isinstance(column, Words):
            mapping = np.array([codes_of.setdefault(v, len(codes_of)) for v in column.values] or [0], np.uint32)
            parts.append(mapping[column.codes])
        else:
            parts.append(np.zeros(len(column), np.uint32))
    width = np.min_scalar_type(max(len(codes_of) - 1, 0))
    return Words(np.concatenate(parts).astype(width), tuple(codes_of), nulls)


def _join_ids(columns: Sequence[Column], nulls: npt.NDArray[np.bool_] | None) -> Ids:
    ids = [c if isinstance(c, Ids) else Ids(0, np.zeros(len(c), np.uint64)) for c in columns]
    return Ids(np.concatenate([c.highs() for c in ids]), np.concatenate([c.low for c in ids]), nulls)


def _join_packed(kind: type[Packed], columns: Sequence[Column], nulls: npt.NDArray[np.bool_] | None) -> Column:
    offsets = [np.zeros(1, np.uint32)]
    data: list[bytes | memoryview] = []
    end = 0
    for column in columns:
        if not isinstance(column, Packed):
            offsets.append(np.full(len(column), end, np.uint32))
            continue
        start, stop = int(column.offsets[0]), int(column.offsets[-1])
        offsets.append((column.offsets[1:] - column.offsets[0] + np.uint32(end)).astype(np.uint32))
        data.append(memoryview(column.data)[start:stop])
        end += stop - start
    return kind(np.concatenate(offsets), b"".join(data), nulls)
