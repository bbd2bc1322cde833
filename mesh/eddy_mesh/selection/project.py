"""Projection of a batch: only what was asked for moves.

What may live here: `project`.
"""

from __future__ import annotations

from eddy_mesh.batch import Batch
from eddy_mesh.columns import Column, Constant, Ids
from eddy_mesh.selection.lookup import field_column
from eddy_mesh.selection.plan import Operand, Plan


def project(plan: Plan, batch: Batch) -> Batch:
    """Return a batch with exactly the columns that a statement names, renamed as AS says.

    The events keep their numbering, so that their ids can still be computed; an explicit id column is kept for the same
    reason. `eddy_mesh.selection.row_names` says what a row shows.

    Args:
        plan: its projection is applied; ``*`` and aggregates leave the batch as it is.
        batch: events.
    """
    if not plan.items or plan.is_aggregate:
        return batch
    columns: dict[str, Column] = {}
    for item in plan.items:
        if not isinstance(item.value, Operand) or item.name == item.value.name == "id":
            continue
        column = field_column(batch, item.value.name)
        if not (isinstance(column, Constant) and column.value is None):
            columns[item.name] = column
    explicit = batch.columns.get("id")
    if isinstance(explicit, Ids):
        columns["id"] = explicit
    return batch.with_columns(columns)
