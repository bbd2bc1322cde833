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
        downstream: the edges that took events of an agent so far, with the agents at their ends. One that was left is
            among them until it is settled here: what waits at its end has not come through.
    """
    waited: list[Cell] = []
    while (ahead := consumers_behind(start, downstream)) != waited:  # an agent may have found new takers meanwhile
        waited = ahead
        producers: list[Work] = [start, *ahead]
        for consumer in ahead:
            taken = {id(edge): edge for producer in producers for edge, end in downstream(producer) if end is consumer}
            for edge in taken.values():
                await edge.until_completed(edge.accepted)
    through = _through([start, *waited], waited, downstream)
    for consumer in waited:
        await consumer.settle()
    for edge in through:
        edge.is_settled = True


def _through(producers: list[Work], waited: list[Cell], downstream: Downstream) -> list[Edge]:
    """Return the edges on which nothing comes any more, and of which the agents at their ends have taken all."""
    ahead = [held for producer in producers for held in downstream(producer)]
    return [edge for edge, end in ahead if edge.is_through and end in waited]


def consumers_behind(start: Work, downstream: Downstream) -> list[Cell]:
    """Return the agents that events of ``start`` reach, each after all that feed it; a cycle is cut where it closes."""
    order: list[Cell] = []
    seen: set[Work] = {start}  # not by name: an agent that was replaced may have handed on what is still on its way

    def visit(producer: Work) -> None:
        for _, consumer in downstream(producer):
            if consumer not in seen:
                seen.add(consumer)
                visit(consumer)
                order.append(consumer)

    visit(start)
    return order[::-1]
