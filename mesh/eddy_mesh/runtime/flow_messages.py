"""Flow messages: what flows select of a batch, as the messages that carry it.

What may live here: cutting and encoding. What is little is taken and encoded together, once for each projection.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Protocol, TypeVar

import numpy as np

from eddy_mesh import codec
from eddy_mesh.batch import Batch
from eddy_mesh.flows import Form
from eddy_mesh.rows import json_rows
from eddy_mesh.selection import Plan, project
from eddy_mesh.selection.keys import Rows

FEW_ROWS = 1024
"""Selections of so few events are taken and encoded together with others of the same projection."""
MANY_ROWS = 16_384
"""Events that are taken at once at most: a bound on memory."""


class Selecting(Protocol):
    """A flow, as far as its messages need it.

    Attributes:
        form: of its messages.
        plan: its statement, compiled.
        projection: equal for plans with the same projection.
    """

    form: Form
    plan: Plan
    projection: str


F = TypeVar("F", bound=Selecting)


def messages(batch: Batch, found: Sequence[tuple[F, Rows]]) -> Iterator[tuple[F, int, bytes]]:
    """Yield the messages of each flow: its number of events and its bytes.

    Args:
        batch: what was asked of.
        found: flows with the rows of the batch that each selects, one at least.
    """
    together: defaultdict[str, list[tuple[F, Rows]]] = defaultdict(list)
    for flow, rows in found:
        if flow.form == "columns" and len(rows) <= FEW_ROWS:
            together[flow.projection].append((flow, rows))
        else:
            yield from _parts(flow, project(flow.plan, batch).take(rows))
    for same in together.values():
        projected = project(same[0][0].plan, batch)
        if len(same) == 1:  # nothing to share
            flow, rows = same[0]
            yield from _parts(flow, projected.take(rows))
            continue
        for some in _chunks(same):
            bounds = [0, *accumulate(len(rows) for _, rows in some)]
            encoded = codec.encode_runs(projected, np.concatenate([rows for _, rows in some]), bounds)
            for (flow, rows), data in zip(some, encoded, strict=True):
                if len(data) <= codec.MAX_MESSAGE_BYTES:
                    yield flow, len(rows), data
                else:
                    yield from _parts(flow, projected.take(rows))


def _parts(flow: F, batch: Batch) -> Iterator[tuple[F, int, bytes]]:
    parts = codec.split(batch) if flow.form == "columns" else _json_parts(batch)
    return ((flow, part.count, data) for part, data in parts)


def _chunks(found: list[tuple[F, Rows]]) -> Iterator[list[tuple[F, Rows]]]:
    some: list[tuple[F, Rows]] = []
    held = 0
    for flow, rows in found:
        if held + len(rows) > MANY_ROWS:
            yield some
            some, held = [], 0
        some.append((flow, rows))
        held += len(rows)
    if some:
        yield some


def _json_parts(batch: Batch) -> list[tuple[Batch, bytes]]:
    lines = b"\n".join(json_rows(batch))
    if len(lines) <= codec.MAX_MESSAGE_BYTES or batch.count == 1:
        return [(batch, lines)]
    half = batch.count // 2
    return _json_parts(batch.slice(0, half)) + _json_parts(batch.slice(half, batch.count))
