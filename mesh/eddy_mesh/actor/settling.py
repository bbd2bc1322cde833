"""Settling: waiting until all that an agent emitted was taken, durably, by every agent of this host behind it.

What may live here: the order in which that is waited for. A source writes a checkpoint after it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from eddy_mesh.actor.edge import Edge

if TYPE_CHECKING:
    from eddy_mesh.actor.cell import Cell
    from eddy_mesh.actor.work import Work

Downstream = Callable[["Work"], list[tuple[Edge, "Cell"]]]


async def settle_behind(start: Work, downstream: Downstream) -> None:
    """Wait for every agent that events of ``start`` reach, over any number of agents and edges.

    Args:
        start: the agent that emitted.
        downstream: the edges that took events of an agent so far, with the agents at their ends.
    """
    waited: list[Cell] = []
    while (ahead := consumers_behind(start, downstream)) != waited:  # an agent may have found new takers meanwhile
        waited = ahead
        producers: list[Work] = [start, *ahead]
        for consumer in ahead:
            taken = {id(edge): edge for producer in producers for edge, end in downstream(producer) if end is consumer}
            for edge in taken.values():
                await edge.until_completed(edge.accepted)
    for consumer in waited:
        await consumer.settle()


def consumers_behind(start: Work, downstream: Downstream) -> list[Cell]:
    """Return the agents that events of ``start`` reach, each after all that feed it; a cycle is cut where it closes."""
    order: list[Cell] = []
    seen = {start.name}

    def visit(producer: Work) -> None:
        for _, consumer in downstream(producer):
            if consumer.name not in seen:
                seen.add(consumer.name)
                visit(consumer)
                order.append(consumer)

    visit(start)
    return order[::-1]
