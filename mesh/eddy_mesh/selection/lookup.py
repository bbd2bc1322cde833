"""The column of a field, also where the field sits in the column of sparse fields.

What may live here: `field_column`, `integers`, and the search in the maps of `eddy_mesh.batch.EXTRA`.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import numpy.typing as npt

from eddy_mesh.batch import EXTRA, Batch
from eddy_mesh.cer import Value
from eddy_mesh.columnize import any_column, column_of
from eddy_mesh.columns import Column, Constant, Maps, Numbers, nulls_of
from eddy_mesh.fields import FieldType, type_of

_LIMIT = 2**62


def field_column(batch: Batch, name: str) -> Column:
    """Return the column of a field; a row that has it only among its sparse fields has it there too.

    Args:
        batch: events.
        name: dotted field name; one that no event has gives a constant None.
    """
    if name == "id":
        return batch.ids()
    sparse = batch.columns.get(EXTRA)
    if sparse is None or name == EXTRA:
        return batch.column(name)
    values = _sparse_values(sparse, name)
    if values is None:
        return batch.column(name)
    held = batch.columns.get(name)
    if held is not None:
        values = [value if (dense := held.at(row)) is None else dense for row, value in enumerate(values)]
    kind = type_of(name)
    return any_column(values) if kind is FieldType.IDS else column_of(kind, values)


def integers(batch: Batch, name: str) -> npt.NDArray[np.int64]:
    """Return the integers of a field, none negative; -1 where an event has none.

    Args:
        batch: events.
        name: dotted field name. A number beyond 2**62 counts as 2**62.
    """
    column = field_column(batch, name)
    if isinstance(column, Numbers) and column.values.dtype.kind in "iu":
        limited = np.minimum(column.values, _LIMIT) if column.values.dtype.itemsize == 8 else column.values
        return np.where(nulls_of(column), -1, np.maximum(limited.astype(np.int64), -1))
    if isinstance(column, Constant):
        return np.full(batch.count, _integer(column.value), np.int64)
    if isinstance(column, Maps):
        return np.fromiter((_integer(column.at(row)) for row in range(batch.count)), np.int64, batch.count)
    return np.full(batch.count, -1, np.int64)


def _integer(value: Value) -> int:
    return max(-1, min(value, _LIMIT)) if type(value) is int else -1


def _sparse_values(sparse: Column, name: str) -> list[Value] | None:
    """Return the value of each row, or None where no row has the field."""
    if isinstance(sparse, Constant):
        value = sparse.value.get(name) if isinstance(sparse.value, dict) else None
        return None if value is None else [cast("Value", value)] * sparse.count
    if not isinstance(sparse, Maps):
        return None
    rows = _rows_naming(sparse, name.encode())
    if not rows:
        return None
    values: list[Value] = [None] * len(sparse)
    for row in rows:
        fields = sparse.at(row)
        if isinstance(fields, dict):
            values[row] = cast("Value", fields.get(name))
    return values


def _rows_naming(sparse: Maps, name: bytes) -> list[int]:
    """Return the rows whose bytes contain the name: those that may have the field, and few others."""
    data = bytes(sparse.data)
    rows = []
    position = data.find(name)
    while position >= 0:
        row = int(np.searchsorted(sparse.offsets, position, "right")) - 1
        if row >= len(sparse):
            break
        if row >= 0:
            rows.append(row)
        position = data.find(name, max(int(sparse.offsets[row + 1]), position + 1))
    return rows
