"""Joining many batches of one kind for a file, with the origin of each event kept.

What may live here: `gather`.
"""

from __future__ import annotations

from collections.abc import Sequence

from eddy_mesh.batch import Batch, join
from eddy_mesh.columns import Constant

ORIGIN = "origin"
"""Column that holds the origin of each event, since a joined batch has one origin only."""


def gather(batches: Sequence[Batch]) -> Batch:
    """Return one batch with the events of all, in order, with their ids and their origin as columns.

    Args:
        batches: at least one, all of one kind.
    """
    named = [_with_origin(batch) for batch in batches]
    if len(named) == 1:
        (batch,) = named
        return batch.with_columns({**batch.columns, "id": batch.ids()})
    return join(named)


def _with_origin(batch: Batch) -> Batch:
    if ORIGIN in batch.columns:
        return batch
    return batch.with_columns({**batch.columns, ORIGIN: Constant(batch.origin, batch.count)})
