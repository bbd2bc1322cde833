"""What the text cookings share: the payloads of a batch, and the columns that stay as they are.

What may live here: reading a raw batch whose payloads are texts.
"""

from __future__ import annotations

from eddy_mesh.batch import Batch
from eddy_mesh.cer import Value
from eddy_mesh.columns import Column

CARRIED = ("observed", "host_address", "normalizer", "normalizer_address", "log.file.path", "log.offset")
"""Columns of a raw batch that its cooked events keep."""


def payload_bytes(batch: Batch) -> list[bytes]:
    """Return the payload of each raw event; b"" where there is none."""
    column = batch.column("event.original")
    values = [column.at(row) for row in range(batch.count)]
    return [value if isinstance(value, bytes) else str(value or "").encode("utf-8", "replace") for value in values]


def carried_columns(batch: Batch) -> dict[str, Column]:
    """Return the columns that cooked events keep, and ``parents``: the raw event that each was made from.

    Args:
        batch: raw events; there is one cooked event for each, in order.
    """
    kept = {name: column for name, column in batch.columns.items() if name in CARRIED or name.startswith("tags.")}
    return {**kept, "parents": batch.ids()}


def storable(value: object) -> Value:
    """Return a JSON value as an event can hold it: a number beyond 64 bits becomes its text.

    Args:
        value: what a JSON decoder gives.
    """
    if isinstance(value, dict):
        return {str(name): storable(member) for name, member in value.items()}
    if isinstance(value, list):
        return [storable(item) for item in value]
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
        return str(value)
    return value  # type: ignore[return-value]  # what else JSON can hold, a field can hold
