"""Wiring: the edges of a placement, and what each agent's table says of them.

What may live here: an edge with all its ends, its generation, and the `InEdge` and `OutEdge` that follow from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from eddy_mesh.config import PARTITIONS, AgentConfig, Delivery, InEdge, OutEdge, OverloadPolicy, Partition, Retention

NAMED = ("name", "entry", "generation")
"""Fields of an edge that say which one it is."""
FLOW = ("producers", "consumers", "statement", "delivery", "field", "of", "overload", "spool_bytes")
"""Fields of an edge of which a change makes a new generation."""
POLICY = ("retention",)
"""Fields of an edge that both ends take up as they are; every field is in exactly one of these three."""


class PlacedEdge(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One edge of a placement. Several consumers are instances of one agent and share its events.

    Attributes:
        name: as in the manifest; with ``.<host>`` where the consumer is one of several, each on a host of its own.
        entry: name in the manifest.
        generation: revision in which it last changed: its ends, statement, delivery, partitions or policy.
        producers: ``<host>/<agent>`` of each, sorted.
        consumers: ``<host>/<agent>`` of each, in the order of the instances.
        statement: what it carries.
        delivery: live, or durable.
        field: field whose value decides which consumer takes an event; "": any.
        of: number of parts.
        overload: what it does when a consumer can not keep up.
        spool_bytes: quota for ``spool``, octets.
        retention: bounds of the stream of a durable one.
    """

    name: str
    entry: str
    generation: int = 0
    producers: tuple[str, ...] = ()
    consumers: tuple[str, ...] = ()
    statement: str = "SELECT *"
    delivery: Delivery = "live"
    field: str = ""
    of: int = PARTITIONS
    overload: OverloadPolicy = "block"
    spool_bytes: int = 0
    retention: Retention = Retention()

    @property
    def flow(self) -> tuple[object, ...]:
        """What makes a new generation when it changes."""
        return tuple(getattr(self, key) for key in FLOW)

    def partition(self, index: int) -> Partition:
        """Return the part of the consumer with that index; all where it is alone, or shares a durable consumer."""
        count = len(self.consumers)
        indexes = tuple(range(index, self.of, count)) if count > 1 and self.of > 1 else ()
        return Partition(field=self.field, of=self.of, indexes=indexes)


def generations(edges: Iterable[PlacedEdge], before: Mapping[str, PlacedEdge], revision: int) -> dict[str, PlacedEdge]:
    """Return edges by name, each with the generation that it had before, or the new revision where its flow changed.

    Args:
        edges: edges of the placement to come; their generations do not matter.
        before: edges of the placement of record.
        revision: number of the placement to come.
    """
    numbered: dict[str, PlacedEdge] = {}
    for edge in edges:
        old = before.get(edge.name)
        generation = old.generation if old is not None and old.flow == edge.flow else revision
        numbered[edge.name] = msgspec.structs.replace(edge, generation=generation)
    return dict(sorted(numbered.items()))


def wired(agents: Mapping[str, AgentConfig], edges: Mapping[str, PlacedEdge]) -> dict[str, AgentConfig]:
    """Return the tables of agents with the edges that end or, where durable, begin at them.

    Args:
        agents: tables by ``<host>/<agent>``; what they say of edges does not matter.
        edges: edges by name.
    """
    ending: dict[str, list[InEdge]] = {}
    beginning: dict[str, list[OutEdge]] = {}
    for _, edge in sorted(edges.items()):
        for index, consumer in enumerate(edge.consumers):
            ending.setdefault(consumer, []).append(in_edge(edge, index))
        if edge.delivery == "durable":
            for producer in edge.producers:
                beginning.setdefault(producer, []).append(out_edge(edge))
    return {
        path: msgspec.structs.replace(
            agent, in_edges=tuple(ending.get(path, ())), out_edges=tuple(beginning.get(path, ()))
        )
        for path, agent in agents.items()
    }


def in_edge(edge: PlacedEdge, index: int) -> InEdge:
    """Return an edge as the consumer of that index sees it."""
    return InEdge(
        name=edge.name,
        generation=edge.generation,
        producers=edge.producers,
        statement=edge.statement,
        delivery=edge.delivery,
        overload=edge.overload,
        spool_bytes=edge.spool_bytes,
        partition=edge.partition(index),
        instance=index,
        instances=len(edge.consumers),
        retention=edge.retention,
    )


def out_edge(edge: PlacedEdge) -> OutEdge:
    """Return a durable edge as its producers see it."""
    return OutEdge(
        name=edge.name,
        generation=edge.generation,
        statement=edge.statement,
        overload=edge.overload,
        spool_bytes=edge.spool_bytes,
        partition=Partition(field=edge.field, of=edge.of),
        retention=edge.retention,
    )
