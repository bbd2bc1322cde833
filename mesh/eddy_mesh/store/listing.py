"""All rows of a batch at once, as dicts: a large result is made column by column, not value by value.

What may live here: `listed_rows` and the list of values of each kind of column.
"""

from __future__ import annotations

from collections.abc import Iterator

from eddy_mesh.batch import EXTRA, Batch
from eddy_mesh.cer import VERSION, Value, event_id
from eddy_mesh.columns import Addresses, Column, Constant, Ids, Numbers, Words, address_text, v4_text
from eddy_mesh.fields import FieldType, type_of
from eddy_mesh.rows import split_ids

_CHUNK = 10_000
"""Rows that are made at once: a reader of the first few does not wait for all."""


def listed_rows(batch: Batch) -> Iterator[dict[str, Value]]:
    """Yield each event of a batch as a dict of dotted names; the same as `eddy_mesh.rows.flat_rows` gives."""
    for start in range(0, batch.count, _CHUNK):
        yield from _rows(batch.slice(start, start + _CHUNK))


def _rows(batch: Batch) -> Iterator[dict[str, Value]]:
    implied: dict[str, Value] = {
        "version": VERSION,
        "type": batch.kind.type,
        "event_class": str(batch.kind.event_class),
        "stage": str(batch.kind.stage),
    }
    names = ["id", *(name for name in batch.columns if name not in {"id", EXTRA})]
    values = [_values(batch.ids(), "id"), *(_values(batch.columns[name], name) for name in names[1:])]
    sparse = batch.columns.get(EXTRA)
    for row, held in enumerate(zip(*values, strict=True)):
        event = implied | {name: value for name, value in zip(names, held, strict=True) if value is not None}
        more = None if sparse is None else sparse.at(row)
        if isinstance(more, dict):
            event |= {str(name): value for name, value in more.items() if value is not None}
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
