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

    def join(self, edge: Edge, consumer: Cell, line: Line | None = None) -> None:
        """Add an edge that ends at an agent."""
        self.routes.append(Route(edge, consumer, line))
        consumer.edges.append(edge)
        self._changed()

    def part(self, consumer: Cell) -> None:
        """Offer an agent nothing more; what waits for it stays."""
        self.routes = [route for route in self.routes if route.consumer is not consumer]
        self._changed()

    def leave(self, edge: Edge) -> None:
        """Offer nothing more along one edge; what waits at its end stays."""
        self.routes = [route for route in self.routes if route.edge is not edge]
        self._changed()

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
        return routes

    def downstream(self, producer: Work) -> list[tuple[Edge, Cell]]:
        """Return the edges that took events of an agent so far, with the agents at their ends."""
        found = {
            id(r.edge): (r.edge, r.consumer)
            for (name, *_), rs in self._cache.items()
            if name == producer.name
            for r in rs
        }
        return list(found.values())

    def leads_to(self, start: Work, goal: Work) -> bool:
        """Whether events of ``start`` came, over any number of agents, to ``goal``."""
        seen = {start.name}
        ahead: list[Work] = [start]
        while ahead:
            for _, consumer in self.downstream(ahead.pop()):
                if consumer is goal:
                    return True
                if consumer.name not in seen:
                    seen.add(consumer.name)
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
