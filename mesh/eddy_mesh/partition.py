"""Partitions: which of the 64 parts of a durable edge an event belongs to, by the value of one field.

What may live here: the partition of a value and the split of a batch. Equal values have the same partition in every
process, on every host and in every column encoding (`eddy_mesh.hashing`), so that their events keep their order and
reach the same instance.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from eddy_mesh.batch import Batch
from eddy_mesh.columns import Index
from eddy_mesh.config import PARTITIONS, Partition
from eddy_mesh.fields import type_of
from eddy_mesh.hashing import column_hashes
from eddy_mesh.selection.lookup import field_column

NULL_PARTITION = 0
"""Partition of the events that do not have the field; no value is in it."""


def partitions_of(batch: Batch, field: str) -> npt.NDArray[np.uint8]:
    """Return the partition of each event, 0 to `PARTITIONS` - 1.

    Args:
        batch: events.
        field: dotted name of the field whose value decides.
    """
    hashes, missing = column_hashes(type_of(field), field_column(batch, field))
    chosen = (np.uint64(1) + (hashes >> np.uint64(32)) % np.uint64(PARTITIONS - 1)).astype(np.uint8)
    chosen[missing] = NULL_PARTITION
    return chosen


def split_by(batch: Batch, field: str, partitions: int = PARTITIONS) -> list[tuple[int, Index]]:
    """Return each partition that has events, with their offsets in order.

    Args:
        batch: at least one event.
        field: dotted name of the field whose value decides.
        partitions: a divisor of `PARTITIONS`: so many are told apart, by the rest of the partition's number.
    """
    chosen = partitions_of(batch, field) % np.uint8(partitions)
    present = np.flatnonzero(np.bincount(chosen, minlength=partitions))
    if len(present) == 1:
        return [(int(present[0]), np.arange(batch.count))]
    order = np.argsort(chosen, kind="stable")
    bounds = np.searchsorted(chosen[order], present)
    return list(zip(present.tolist(), np.split(order, bounds[1:]), strict=True))


def owned(instance: int, count: int, partitions: int = PARTITIONS) -> tuple[int, ...]:
    """Return the partitions of instance ``instance`` of ``count``; none where there are fewer than instances."""
    return tuple(range(instance, partitions, count))


def part_of(partition: Partition) -> Callable[[Batch], npt.NDArray[np.bool_]] | None:
    """Return what marks the events of a part; None where it is all.

    Args:
        partition: which part. Without a field the sequence numbers of the events decide.
    """
    if not partition.indexes:
        return None
    is_own = np.isin(np.arange(PARTITIONS) % partition.of, partition.indexes)

    def mark(batch: Batch) -> npt.NDArray[np.bool_]:
        if partition.field:
            return is_own[partitions_of(batch, partition.field)]
        return is_own[(batch.ids().low % np.uint64(PARTITIONS)).astype(np.intp)]

    return mark
