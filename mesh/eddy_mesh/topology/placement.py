"""Placement: what each host process of a backplane runs, compiled from a manifest and the hosts that there are.

What may live here: the structs of a placement and its making; which host runs what is said by
`eddy_mesh.topology.instances`. The same manifest, hosts and placement before always give the same placement.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from eddy_mesh.config import AgentConfig, Retention
from eddy_mesh.errors import ConfigError
from eddy_mesh.topology.compiling import Instance, compile_edges
from eddy_mesh.topology.instances import Hosts, instances_of
from eddy_mesh.topology.manifest import Manifest
from eddy_mesh.topology.wiring import PlacedEdge, generations, wired


class HostThere(msgspec.Struct, frozen=True, kw_only=True):
    """A host process that answers.

    Attributes:
        name: its name.
        labels: what it tells of itself.
        parent: host process whose agent-manager started it for an agent with ``process = "own"``; "" for all others.
    """

    name: str
    labels: dict[str, str] = {}
    parent: str = ""


class HostPlacement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What one host process runs.

    Attributes:
        agents: their tables by name, with their edges.
        children: host processes that its agent-manager starts and ends.
        parent: host process whose agent-manager starts and ends this one, or "".
    """

    agents: dict[str, AgentConfig] = {}
    children: tuple[str, ...] = ()
    parent: str = ""


class Placement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a whole backplane runs.

    Attributes:
        revision: number of this placement, ascending; 0 for none.
        backplane: name of the mesh.
        hosts: by name of the host process.
        edges: by name.
        tags: names of the tags that events may carry.
        retention: what the stream of each durable edge keeps.
    """

    revision: int = 0
    backplane: str = ""
    hosts: dict[str, HostPlacement] = {}
    edges: dict[str, PlacedEdge] = {}
    tags: tuple[str, ...] = ()
    retention: Retention = Retention()

    def agents(self) -> dict[str, AgentConfig]:
        """Return the table of every agent by ``<host>/<agent>``."""
        return {f"{host}/{name}": agent for host, part in self.hosts.items() for name, agent in part.agents.items()}

    def hosts_of(self) -> dict[str, list[str]]:
        """Return for the name of each agent the host processes that run one of that name, sorted."""
        found: dict[str, list[str]] = {}
        for host, part in sorted(self.hosts.items()):
            for name in part.agents:
                found.setdefault(name, []).append(host)
        return found


def place(
    manifest: Manifest,
    there: Iterable[HostThere],
    before: Placement | None = None,
    revision: int = 0,
    file: str = "topology",
) -> Placement:
    """Return the placement of a manifest.

    Instances with a label stay where they were while that host is there and balance allows, else they go to hosts
    that are there; where none with the label is there, to one that the manifest declares.

    Args:
        manifest: without mistakes, see `eddy_mesh.topology.checks.checked`.
        there: host processes that are there; a caller that tells of a host some time longer than it is heard keeps
            its agents from moving while it starts again.
        before: placement of record.
        revision: number of the new placement; 0: the one after ``before``.
        file: name of the manifest, for messages.

    Raises:
        ConfigError: every agent for which there is no host, and what else can not be placed.
    """
    before = before or Placement(backplane=manifest.backplane)
    revision = revision or before.revision + 1
    hosts = Hosts(manifest, {host.name: host.labels for host in there if not host.parent}, file)
    mistakes: list[str] = []
    instances = instances_of(manifest, hosts, _bases(before), mistakes)
    if mistakes:
        raise ConfigError(mistakes)
    parts = {host: HostPlacement() for host in manifest.hosts}
    for instance in sorted(instances, key=lambda found: (found.process, found.name)):
        parts[instance.process] = _with_agent(parts.get(instance.process, HostPlacement()), instance)
        if instance.process != instance.base:
            held = parts.get(instance.base, HostPlacement())
            children = tuple(sorted({*held.children, instance.process}))
            parts[instance.base] = msgspec.structs.replace(held, children=children)
    edges = {edge.name: edge for edge in compile_edges(manifest, instances)}
    made = Placement(
        backplane=manifest.backplane,
        hosts=dict(sorted(parts.items())),
        edges=edges,
        tags=manifest.tags,
        retention=manifest.retention,
    )
    return renumbered(made, before, revision)


def renumbered(placement: Placement, before: Placement, revision: int) -> Placement:
    """Return a placement as one to come after another: so a rollback applies an earlier one as a new revision.

    Args:
        placement: what is to run.
        before: placement of record, also one that was applied in part only.
        revision: number of the placement to come.
    """
    edges = generations(placement.edges.values(), before.edges, revision)
    tables = wired(placement.agents(), edges)
    hosts = {
        host: msgspec.structs.replace(part, agents={name: tables[f"{host}/{name}"] for name in part.agents})
        for host, part in placement.hosts.items()
    }
    return msgspec.structs.replace(placement, revision=revision, hosts=hosts, edges=edges)


def _with_agent(part: HostPlacement, instance: Instance) -> HostPlacement:
    parent = instance.base if instance.process != instance.base else ""
    return msgspec.structs.replace(part, agents={**part.agents, instance.name: instance.config}, parent=parent)


def _bases(before: Placement) -> dict[str, str]:
    """Return where each agent was: its host, or the host whose agent-manager started its process."""
    return {name: before.hosts[found[0]].parent or found[0] for name, found in before.hosts_of().items()}
