"""Fields that few rows have, taken out of their maps: stored, each registered field is a column.

What may live here: `unfold`. On the wire a sparse field is cheaper inside a map; at rest a null costs nothing, and a
query finds a field in one place only.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from eddy_mesh.batch import EXTRA, Batch
from eddy_mesh.cer import Value
from eddy_mesh.columnize import any_column
from eddy_mesh.columns import Column, Constant, Index, Packed, nulls_of
from eddy_mesh.concatenate import concatenate
from eddy_mesh.fields import FieldType, type_of
from eddy_mesh.rows import column_for
from eddy_mesh.uniform import spread, uniform

_OPEN = frozenset({FieldType.ANY, FieldType.LIST})


def unfold(batch: Batch) -> Batch:
    """Return the batch with every registered field of its column of maps as a column of its own.

    Fields of no type stay in the maps. Where an event has a field in a column and in its map, the column is right.
    """
    maps = batch.columns.get(EXTRA)
    if maps is None:
        return batch
    found, rest = _collect(maps)
    columns = {name: column for name, column in batch.columns.items() if name != EXTRA}
    for name, (rows, values) in found.items():
        present = spread(column_for(name, values), type_of(name)) or Constant(None, len(values))
        held = columns.get(name)
        if held is None:
            columns[name] = _scattered(present, np.array(rows), batch.count)
        else:
            columns[name] = _merged(held, present, np.array(rows), name)
    if any(value is not None for value in rest):
        columns[EXTRA] = any_column(rest)
    return replace(batch, columns=columns)


def _collect(maps: Column) -> tuple[dict[str, tuple[list[int], list[Value]]], list[Value]]:
    """Return for each typed field the rows that have it and their values, and what stays in the map of each row."""
    found: dict[str, tuple[list[int], list[Value]]] = {}
    rest: list[Value] = []
    for row in range(len(maps)):
        value = maps.at(row)
        if not isinstance(value, dict):
            rest.append(value)
            continue
        stays: dict[str, object] = {}
        for name, member in value.items():
            if member is None or type_of(name) in _OPEN:
                stays[name] = member
                continue
            rows, values = found.setdefault(name, ([], []))
            rows.append(row)
            values.append(member)  # type: ignore[arg-type]  # msgpack holds nothing that a Value can not
        rest.append(stays or None)
    return found, rest


def _scattered(present: Column, rows: Index, count: int) -> Column:
    """Return a column that is null but for ``rows``, which have the values of ``present`` in order."""
    if len(rows) == count:
        return present
    nulls = np.ones(count, np.bool_)
    nulls[rows] = False
    if isinstance(present, Packed):
        lengths = np.zeros(count, np.uint32)
        lengths[rows] = np.diff(present.offsets)
        offsets = np.zeros(count + 1, np.uint32)
        np.cumsum(lengths, out=offsets[1:])
        return type(present)(offsets, present.data, nulls)
    index = np.zeros(count, np.intp)
    index[rows] = np.arange(len(rows))
    spread_out = present.take(index)
    return spread_out if isinstance(spread_out, Constant) else replace(spread_out, nulls=nulls)


def _merged(held: Column, present: Column, rows: Index, name: str) -> Column:
    """Return ``held`` with its nulls filled from ``present``; a value that is held stays."""
    free = np.flatnonzero(nulls_of(held)[rows])
    if len(free) == 0:
        return held
    index = np.arange(len(held))
    index[rows[free]] = len(held) + free
    both = [
        Constant(None, len(column)) if one is None else one
        for column, one in zip((held, present), uniform([held, present], type_of(name)), strict=True)
    ]
    return concatenate(both, type_of(name)).take(index)
