"""Placement: what each host process of a backplane runs, compiled from a manifest and the hosts that there are.

What may live here: the structs of a placement and its making. The same manifest, hosts and placement before always
give the same placement.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec

from eddy_mesh.config import AgentConfig, Retention, unknown_name
from eddy_mesh.errors import ConfigError
from eddy_mesh.topology.checks import fixed_endpoints
from eddy_mesh.topology.compiling import Instance, compile_edges
from eddy_mesh.topology.edge_checks import fed_blueprint
from eddy_mesh.topology.manifest import Manifest, Wanted, config_of, has_labels, labels_of, wanted
from eddy_mesh.topology.spreading import spread
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
        retention: what archives and durable streams keep where they say nothing themselves.
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
    manifest: Manifest, there: Iterable[HostThere], before: Placement | None = None, revision: int = 0
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

    Raises:
        ConfigError: every agent for which there is no host, and what else can not be placed.
    """
    before = before or Placement(backplane=manifest.backplane)
    revision = revision or before.revision + 1
    hosts = _Hosts(manifest, there)
    mistakes: list[str] = []
    instances = _instances(manifest, hosts, before, mistakes)
    mistakes += _crowding(instances) + hosts.clashes(instances)
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


# --- hosts -----------------------------------------------------------------------------------------------------------


class _Hosts:
    """The host processes that there are and those that the manifest declares, with their labels."""

    def __init__(self, manifest: Manifest, there: Iterable[HostThere]) -> None:
        told = {host.name: host.labels for host in there if not host.parent}
        self.there = set(told)
        self.labels: dict[str, dict[str, str]] = {
            name: told.get(name, {}) | (manifest.hosts[name].labels if name in manifest.hosts else {})
            for name in sorted({*manifest.hosts, *told})
        }

    def with_labels(self, asked: Mapping[str, str]) -> list[str]:
        """Return the hosts that have all these labels, sorted."""
        return [name for name, labels in self.labels.items() if has_labels(labels, asked)]

    def candidates(self, asked: Mapping[str, str]) -> list[str]:
        """Return the hosts that could run an agent: those that are there, else those that are declared."""
        found = self.with_labels(asked)
        return [name for name in found if name in self.there] or found

    def missing(self, place: str, label: str) -> str:
        """Return the line for a label that no host has."""
        known = sorted({f"{key}={value}" for labels in self.labels.values() for key, value in labels.items()})
        hint = f"labels that there are: {', '.join(known)}" if known else "no host has any label"
        return f"{place}: label: no host has {label!r}; {hint}"

    def clashes(self, instances: Iterable[Instance]) -> list[str]:
        """Return the lines for processes of agents that have the name of another host."""
        return [
            f"agents.{found.agent}: a process of its own would be named {found.process!r}, which is a host: rename one"
            for found in instances
            if found.process != found.base and found.process in self.labels
        ]


# --- instances -------------------------------------------------------------------------------------------------------


def _instances(manifest: Manifest, hosts: _Hosts, before: Placement, mistakes: list[str]) -> list[Instance]:
    agents = wanted(manifest)
    previous = _bases(before)
    names = {name for agent in agents if not agent.is_local for name in _names(agent)}
    held = {name: host for name, host in previous.items() if name in names}
    found: list[Instance] = []
    for agent in agents:
        for name, base in _positions(agent, hosts, held, mistakes):
            process = f"{base}.{name}" if agent.entry.process == "own" else base
            config = _config(agent, manifest.retention)
            found.append(Instance(agent.name, name, base, process, config, agent.is_local))
            held[f"{base}/{name}" if agent.is_local else name] = base
    return found


def _positions(agent: Wanted, hosts: _Hosts, held: Mapping[str, str], mistakes: list[str]) -> list[tuple[str, str]]:
    """Return the instances of an agent, each with the host that runs it or whose agent-manager starts its process."""
    names, entry = _names(agent), agent.entry
    if entry.host:
        if entry.host not in hosts.labels:
            mistakes.append(unknown_name(agent.table, "host", entry.host, list(hosts.labels) or ["none is there"]))
        return [(name, entry.host) for name in names]
    asked = labels_of(entry.label, agent.table)
    candidates = hosts.with_labels(asked) if entry.each else hosts.candidates(asked)
    if not candidates:
        mistakes.append(hosts.missing(agent.table, entry.label))
        return []
    if entry.each:
        return [(agent.name, host) for host in candidates]
    load = Counter(host for name, host in held.items() if name not in names)
    placed = spread(names, candidates, held, load)
    return [(name, placed[name]) for name in names]


def _names(agent: Wanted) -> list[str]:
    count = agent.entry.count
    return [agent.name] if count == 1 else [f"{agent.name}.{index}" for index in range(count)]


def _bases(before: Placement) -> dict[str, str]:
    """Return where each agent was: its host, or the host whose agent-manager started its process."""
    return {name: before.hosts[found[0]].parent or found[0] for name, found in before.hosts_of().items()}


def _config(agent: Wanted, retention: Retention) -> AgentConfig:
    config = config_of(agent.entry)
    if config.type != "archive" or config.retention != Retention():
        return config
    return msgspec.structs.replace(config, retention=retention)


def _crowding(instances: Iterable[Instance]) -> list[str]:
    """Return the lines for instances of one agent on one host that would listen on the same port."""
    crowds: dict[tuple[str, str], list[Instance]] = {}
    for found in instances:
        crowds.setdefault((found.agent, found.base), []).append(found)
    lines: list[str] = []
    for (agent, host), crowd in sorted(crowds.items()):
        fixed = fixed_endpoints(fed_blueprint(crowd[0].config, f"agents.{agent}")) if len(crowd) > 1 else []
        if fixed:
            lines.append(
                f"agents.{agent}: count: {len(crowd)} of it would listen on {fixed[0]} of {host}: set reuse_port = true"
                " in its config where it has that, or lower count to the number of hosts"
            )
    return lines
