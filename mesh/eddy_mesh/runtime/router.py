"""Routes: which edges of this host process take the events of an agent.

What may live here: the table of local edges and the census of what this host produces. Edges in one process are
calls; what leaves the process goes through `eddy_mesh.runtime.demand`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from eddy_mesh.actor.cell import Cell
from eddy_mesh.actor.edge import Edge
from eddy_mesh.actor.work import Work
from eddy_mesh.batch import Batch, Kind


class Line(NamedTuple):
    """Which generation of which edge of the topology a route is, and which agents of this host process are on it."""

    edge: str
    generation: int
    producers: frozenset[str]


class Route(NamedTuple):
    """One edge and the agent at its end; ``line`` is None for an agent's own subscription."""

    edge: Edge
    consumer: Cell
    line: Line | None


@dataclass(slots=True)
class Seen:
    """What the census knows of one kind of one agent; at most `MAX_FIELDS` names of fields."""

    events: int
    first_ns: int
    last_ns: int
    fields: set[str]


MAX_KINDS, MAX_FIELDS = 2048, 256
"""JSON logs with ids as keys bring any number of names; the census is told in every heartbeat."""

MAX_THROUGH = 64
"""Left edges that are kept for each producer to be settled: there are more only where nobody settles."""


class Router:
    """The local edges of a host process.

    Attributes:
        version: counts the changes of edges.
    """

    def __init__(self) -> None:
        self.routes: list[Route] = []
        self.census: dict[tuple[str, Kind], Seen] = {}
        self.version = 0
        self._cache: dict[tuple[str, Kind, str], list[Route]] = {}
        self._took: dict[str, dict[Edge, Cell]] = {}  # outlives a change of edges: what waits is still to be settled

    def join(self, edge: Edge, consumer: Cell, line: Line | None = None) -> None:
        """Add an edge that ends at an agent."""
        self.routes.append(Route(edge, consumer, line))
        consumer.edges.append(edge)
        self._changed()

    def part(self, consumer: Cell) -> None:
        """Offer an agent nothing more; what waits for it stays."""
        self._leave([route.edge for route in self.routes if route.consumer is consumer])

    def leave(self, edge: Edge) -> None:
        """Offer nothing more along one edge; what waits at its end stays."""
        self._leave([edge])

    def _leave(self, edges: list[Edge]) -> None:
        for edge in edges:
            edge.is_left = True
        self.routes = [route for route in self.routes if not route.edge.is_left]
        for took in self._took.values():
            for edge in [edge for edge in took if edge.is_through][:-MAX_THROUGH]:
                del took[edge]
        self._changed()

    def forget(self, consumer: Cell) -> None:
        """Wait no more for what an agent has not handled: it has ended for good, and what its spools keep is on disk.

        What it made is waited for as before.
        """
        for edge in consumer.edges:
            edge.end()

    def _changed(self) -> None:
        self.version += 1
        self._cache.clear()

    def wants(self, producer: Work, kinds: Iterable[Kind], origin: str) -> bool:
        """Whether an edge takes events of one of these kinds from an agent."""
        return any(self.takers(producer, kind, origin) for kind in kinds)

    def takers(self, producer: Work, kind: Kind, origin: str) -> list[Route]:
        """Return the edges that take events of that kind from an agent; an agent never takes its own."""
        key = (producer.name, kind, origin)
        routes = self._cache.get(key)
        if routes is None:
            routes = [
                route
                for route in self.routes
                if route.consumer is not producer
                and (route.line is None or producer.name in route.line.producers)
                and route.edge.wants(kind, origin)
            ]
            self._cache[key] = routes
            self._took.setdefault(producer.name, {}).update({route.edge: route.consumer for route in routes})
        return routes

    def downstream(self, producer: Work) -> list[tuple[Edge, Cell]]:
        """Return the edges that take events of an agent, or took some that nobody has settled yet.

        With each edge comes the agent at its end.
        """
        took = self._took.get(producer.name, {})
        for edge in [edge for edge in took if edge.is_settled]:
            del took[edge]
        return list(took.items())

    def producers_first(self, cells: Iterable[Cell]) -> list[Cell]:
        """Return agents in such an order that each stands before those that took its events; else as they were."""
        wanted = list(cells)
        seen: set[Cell] = set()
        order: list[Cell] = []

        def visit(cell: Cell) -> None:
            if cell not in seen:
                seen.add(cell)
                for _, consumer in self.downstream(cell):
                    visit(consumer)
                order.append(cell)

        for cell in reversed(wanted):
            visit(cell)
        return [cell for cell in reversed(order) if cell in wanted]

    def leads_to(self, start: Work, goal: Work) -> bool:
        """Whether events of ``start`` come, over any number of agents, to ``goal``."""
        seen: set[Work] = {start}
        ahead = [start]
        while ahead:
            for edge, consumer in self.downstream(ahead.pop()):
                if edge.is_left or consumer in seen:
                    continue
                if consumer is goal:
                    return True
                seen.add(consumer)
                ahead.append(consumer)
        return False

    def note(self, producer: Work, batch: Batch, now_ns: int) -> None:
        """Enter a batch that an agent made here in the census."""
        seen = self.census.get((producer.name, batch.kind))
        if seen is None:
            if len(self.census) >= MAX_KINDS:
                return
            seen = self.census[producer.name, batch.kind] = Seen(0, now_ns, now_ns, set())
        seen.events += batch.count
        seen.last_ns = now_ns
        if len(seen.fields) < MAX_FIELDS and not batch.columns.keys() <= seen.fields:
            seen.fields.update(list(batch.columns)[:MAX_FIELDS])
