"""What DuckDB reads from stored events, as columns again: the inverse of `eddy_mesh.store.tables`.

What may live here: one case for each stored form. Batches made here have no numbering; their ids are a column.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from eddy_mesh.batch import EXTRA, Batch, Kind, Producer
from eddy_mesh.cer import Value
from eddy_mesh.columnize import column_of
from eddy_mesh.columns import V4_MAPPED, Addresses, Column, Constant, Ids, Nulls, Numbers, nulls_of
from eddy_mesh.fields import FieldType, type_of
from eddy_mesh.store.extra import decode_extra
from eddy_mesh.store.tables import HIGH, LOW

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

Array = npt.NDArray[np.generic]

_KIND_FIELDS = ("stage", "event_class", "type")
_WIDE = frozenset({"HUGEINT", "UHUGEINT"})
"""Types of more than 64 bits: sums, and a column that is signed in one file and beyond 63 bits in another."""


def fetch_arrays(connection: DuckDBPyConnection, names: Sequence[str] = ()) -> dict[str, Array | list[Value]]:
    """Return the result of the statement that was executed last, by column; integers of more than 64 bits as a list.

    Args:
        connection: has a result.
        names: those of the columns, in order, where they are not those of the statement.
    """
    description = connection.description or []
    names = names or [str(column[0]) for column in description]
    if not any(str(column[1]) in _WIDE for column in description):
        return dict(zip(names, connection.fetchnumpy().values(), strict=True))
    rows = connection.fetchall()
    return {name: [row[place] for row in rows] for place, name in enumerate(names)}


def restore(arrays: Mapping[str, Array | list[Value]], kind: Kind) -> Batch:
    """Return the batch of stored columns.

    Args:
        arrays: stored columns by name, all of one length; those of the kind are not looked at.
        kind: stage, class and type of every row.
    """
    count = len(next(iter(arrays.values()))) if arrays else 0
    columns: dict[str, Column] = {}
    for name, values in arrays.items():
        if name in _KIND_FIELDS or name.endswith(HIGH):
            continue
        if name == EXTRA:
            extra = decode_extra(_plain(values))  # type: ignore[arg-type]  # the column is VARCHAR
            if extra is not None:
                columns[EXTRA] = extra
            continue
        if name.endswith(LOW):
            name = name.removesuffix(LOW)  # noqa: PLW2901
            column = _halves(arrays[name + HIGH], values, type_of(name))
        else:
            column = _column(values, FieldType.TEXT if name == "origin" else type_of(name))
        columns[name] = _either(columns[name], column) if name in columns else column
    stamp_ms, origin = _first_stamp(columns.get("id")), columns.pop("origin", Constant("", count))
    named = str(origin.at(0)) if isinstance(origin, Constant) and count else ""
    if not isinstance(origin, Constant):
        columns["origin"] = origin
    return Batch(kind, named, Producer(0, 0), 0, stamp_ms, count, columns)


def _first_stamp(ids: Column | None) -> int:
    if not isinstance(ids, Ids) or len(ids) == 0:
        return 0
    return int(ids.highs().min()) >> 16  # row groups need not be in order


def _halves(high: Array | list[Value], low: Array | list[Value], field_type: FieldType) -> Column:
    highs, nulls = _split(high)
    lows, _ = _split(low)
    if field_type is not FieldType.ADDRESS:
        return Ids(highs.astype(np.uint64), lows.astype(np.uint64), nulls)
    if nulls is not None:
        lows = np.where(nulls, np.uint64(V4_MAPPED), lows)
        highs = np.where(nulls, np.uint64(0), highs)
    if not highs.any() and bool((lows >> np.uint64(32) == np.uint64(0xFFFF)).all()):  # type: ignore[operator]
        return Addresses(lows.astype(np.uint32).astype(">u4"), nulls)
    return Addresses(np.stack((highs, lows), axis=1).astype(">u8"), nulls)


def _column(values: Array | list[Value], field_type: FieldType) -> Column:
    if isinstance(values, list):
        return column_of(field_type, values)
    if values.dtype == object:
        plain = _plain(values)
        return column_of(FieldType.BYTES if field_type is FieldType.IDS else field_type, plain)
    numbers, nulls = _split(values)
    if nulls is not None and bool(nulls.all()):
        return Constant(None, len(numbers))
    return Numbers(numbers, nulls)


def _split(values: Array | list[Value]) -> tuple[Array, Nulls]:
    if isinstance(values, list):
        return np.array([0 if value is None else value for value in values], np.uint64), np.array(
            [value is None for value in values]
        )
    if not isinstance(values, np.ma.MaskedArray):
        return values, None
    mask = np.ma.getmaskarray(values)
    return np.asarray(values.filled(0)), mask if mask.any() else None


def _plain(values: Array | list[Value]) -> list[Value]:
    """Return texts and bytes as Python has them; DuckDB gives bytes as a bytearray."""
    if isinstance(values, list):
        return values
    listed = [bytes(value) if isinstance(value, bytearray) else value for value in np.asarray(values).tolist()]
    if not isinstance(values, np.ma.MaskedArray):
        return listed
    nulls = np.ma.getmaskarray(values).tolist()
    return [None if null else value for null, value in zip(nulls, listed, strict=True)]


def _either(one: Column, other: Column) -> Column:
    """Return one column of ids of two: files hold a single parent in halves, and several end to end."""
    taken = nulls_of(one)
    return column_of(FieldType.BYTES, [other.at(row) if taken[row] else one.at(row) for row in range(len(one))])
