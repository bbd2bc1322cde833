"""Compiling: the edges of a manifest joined to the instances of its agents.

What may live here: which instances an edge joins, and what of an edge its consumer says. Generations are given in
`eddy_mesh.topology.wiring`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from eddy_mesh.config import PARTITIONS, AgentConfig, Retention
from eddy_mesh.topology.edge_checks import fed_blueprint, statement_of
from eddy_mesh.topology.manifest import EdgeEntry, Manifest
from eddy_mesh.topology.wiring import PlacedEdge

DURABLE_PARTS = 16
"""Each part of a batch is a message of its own in the stream of a durable edge; more only for more instances."""


class Instance(NamedTuple):
    """One agent at its place.

    Attributes:
        agent: name in the manifest.
        name: name of the instance: with ``.<index>`` where there are several.
        base: host that runs it, or whose agent-manager starts its process.
        process: host process that runs it.
        config: its table, without edges.
        is_local: there may be one on each of several hosts.
    """

    agent: str
    name: str
    base: str
    process: str
    config: AgentConfig
    is_local: bool

    @property
    def path(self) -> str:
        """``<host>/<agent>``."""
        return f"{self.process}/{self.name}"


def compile_edges(manifest: Manifest, instances: Sequence[Instance]) -> list[PlacedEdge]:
    """Return the edges of a manifest, not yet with generations.

    An edge between agents of which each of several hosts has one joins those of one host. An edge from any others to
    such an agent gives each of them all events.

    Args:
        manifest: without mistakes.
        instances: its agents at their places.
    """
    of_agent: dict[str, list[Instance]] = {}
    for found in instances:
        of_agent.setdefault(found.agent, []).append(found)
    edges: list[PlacedEdge] = []
    for name, entry in manifest.edges.items():
        producers = [found for agent in entry.producers for found in of_agent.get(agent, ())]
        consumers = of_agent.get(entry.to, [])
        if not consumers:
            continue
        model = _model(name, entry, consumers[0].config, manifest)
        if not consumers[0].is_local:
            edges.append(_joined(model, name, producers, consumers))
            continue
        near = _by_host(producers)
        for consumer in consumers:
            alike = consumer.config == consumers[0].config  # tables of hosts may differ
            own = model if alike else _model(name, entry, consumer.config, manifest)
            sources = [*near.get("", ()), *near.get(consumer.base, ())]
            edges.append(_joined(own, f"{name}.{consumer.base}", sources, [consumer]))
    return edges


def _by_host(producers: Iterable[Instance]) -> dict[str, list[Instance]]:
    """Return local producers by their host, all others under ""."""
    near: dict[str, list[Instance]] = {}
    for found in producers:
        near.setdefault(found.base if found.is_local else "", []).append(found)
    return near


def _joined(model: PlacedEdge, name: str, producers: Iterable[Instance], consumers: Sequence[Instance]) -> PlacedEdge:
    return msgspec.structs.replace(
        model,
        name=name,
        of=_parts(model, len(consumers)),
        producers=tuple(sorted(found.path for found in producers)),
        consumers=tuple(found.path for found in consumers),
    )


def _parts(edge: PlacedEdge, consumers: int) -> int:
    """Return into how many parts the events of an edge are split; a divisor of `PARTITIONS`."""
    if edge.delivery == "live":
        return PARTITIONS
    if not edge.field:
        return 1  # instances share one consumer of the stream: nothing tells their events apart
    return max(DURABLE_PARTS, 1 << (consumers - 1).bit_length())  # else some of the instances would get none


def _model(name: str, entry: EdgeEntry, consumer: AgentConfig, manifest: Manifest) -> PlacedEdge:
    """Return an edge without its ends, and not yet split."""
    agent = manifest.agents.get(entry.to)
    field = entry.partition or (agent.partition if agent is not None else "")
    return PlacedEdge(
        name=name,
        entry=name,
        statement=statement_of(entry, fed_blueprint(consumer, f"agents.{entry.to}")),
        delivery=entry.delivery,
        field=field,
        overload=entry.overload or consumer.overload,
        spool_bytes=entry.spool_bytes or consumer.spool_bytes,
        retention=manifest.retention if entry.delivery == "durable" else Retention(),
    )
