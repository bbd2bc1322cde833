"""Instances: which hosts could run an agent, and which of them does.

What may live here: the hosts with their labels, the instances of a manifest's agents at their places, and what keeps
them from being placed. How instances are balanced among hosts is in `eddy_mesh.topology.spreading`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from difflib import get_close_matches

from eddy_mesh.config import unknown_name
from eddy_mesh.topology.checks import fixed_endpoints
from eddy_mesh.topology.compiling import Instance
from eddy_mesh.topology.edge_checks import fed_blueprint
from eddy_mesh.topology.manifest import Manifest, Wanted, config_of, has_labels, labels_of, wanted
from eddy_mesh.topology.spreading import spread


class Hosts:
    """The host processes that there are and those that a manifest declares, with their labels.

    Args:
        manifest: what it says of a host's labels wins.
        told: labels by name of the host processes that answer, children left out.
        file: name of the manifest, for messages.
    """

    def __init__(self, manifest: Manifest, told: Mapping[str, Mapping[str, str]], file: str) -> None:
        self.file = file
        self.there = set(told)
        self.labels: dict[str, dict[str, str]] = {
            name: {**told.get(name, {}), **(manifest.hosts[name].labels if name in manifest.hosts else {})}
            for name in sorted({*manifest.hosts, *told})
        }

    def with_labels(self, asked: Mapping[str, str]) -> list[str]:
        """Return the hosts that have all these labels, sorted."""
        return [name for name, labels in self.labels.items() if has_labels(labels, asked)]

    def candidates(self, asked: Mapping[str, str]) -> list[str]:
        """Return the hosts that could run an agent: those that are there, else those that are declared."""
        found = self.with_labels(asked)
        return [name for name in found if name in self.there] or found

    def missing(self, agent: Wanted, asked: Mapping[str, str]) -> str:
        """Return the line for labels that no host has."""
        known = sorted({f"{key}={value}" for labels in self.labels.values() for key, value in labels.items()})
        wrong = [pair for pair in (f"{key}={value}" for key, value in asked.items()) if pair not in known]
        near = get_close_matches(wrong[0], known, n=1, cutoff=0.7) if wrong else []
        hint = f"labels that there are: {', '.join(known)}" if known else "no host has any label"
        hint = f"did you mean {near[0]}?" if near else hint
        hint = hint if wrong else "some have one of them, none has all"
        return f"{self.file}: {agent.table}: label: no host has {agent.entry.label!r}; {hint}"

    def unknown(self, agent: Wanted) -> str:
        """Return the line for a host that is not there and not declared."""
        known = list(self.labels) or ["none is there"]
        return unknown_name(f"{self.file}: {agent.table}", "host", agent.entry.host, known)

    def clashes(self, instances: Iterable[Instance]) -> list[str]:
        """Return the lines for processes of agents that have the name of another host."""
        return [
            f"{self.file}: agents.{found.agent}: a process of its own would be named {found.process!r}, which is a"
            " host: rename one"
            for found in instances
            if found.process != found.base and found.process in self.labels
        ]


def instances_of(manifest: Manifest, hosts: Hosts, previous: Mapping[str, str], mistakes: list[str]) -> list[Instance]:
    """Return every instance of a manifest's agents at its place.

    Args:
        manifest: without mistakes.
        hosts: that could run them.
        previous: where each agent was, by name: its host, or the host whose agent-manager started its process.
        mistakes: gets a line for each agent that can not be placed.
    """
    agents = wanted(manifest)
    names = {name for agent in agents if not agent.is_local for name in _names(agent)}
    held = {name: host for name, host in previous.items() if name in names}
    found: list[Instance] = []
    for agent in agents:
        for name, base in _positions(agent, hosts, held, mistakes):
            process = f"{base}.{name}" if agent.entry.process == "own" else base
            found.append(Instance(agent.name, name, base, process, config_of(agent.entry), agent.is_local))
            held[f"{base}/{name}" if agent.is_local else name] = base
    mistakes += _crowding(found, hosts.file) + hosts.clashes(found)
    return found


def _positions(agent: Wanted, hosts: Hosts, held: Mapping[str, str], mistakes: list[str]) -> list[tuple[str, str]]:
    """Return the instances of an agent, each with the host that runs it or whose agent-manager starts its process."""
    names, entry = _names(agent), agent.entry
    if entry.host:
        if entry.host not in hosts.labels:
            mistakes.append(hosts.unknown(agent))
        return [(name, entry.host) for name in names]
    asked = labels_of(entry.label, agent.table)
    candidates = hosts.with_labels(asked) if entry.each else hosts.candidates(asked)
    if not candidates:
        mistakes.append(hosts.missing(agent, asked))
        return []
    if entry.each:
        return [(agent.name, host) for host in candidates]
    load = Counter(host for name, host in held.items() if name not in names)
    placed = spread(names, candidates, held, load)
    return [(name, placed[name]) for name in names]


def _names(agent: Wanted) -> list[str]:
    count = agent.entry.count
    return [agent.name] if count == 1 else [f"{agent.name}.{index}" for index in range(count)]


def _crowding(instances: Iterable[Instance], file: str) -> list[str]:
    """Return the lines for instances of one agent on one host that would listen on the same port."""
    crowds: dict[tuple[str, str], list[Instance]] = {}
    for found in instances:
        crowds.setdefault((found.agent, found.base), []).append(found)
    lines: list[str] = []
    for (agent, host), crowd in sorted(crowds.items()):
        fixed = fixed_endpoints(fed_blueprint(crowd[0].config, f"agents.{agent}")) if len(crowd) > 1 else []
        if fixed:
            lines.append(
                f"{file}: agents.{agent}: count: {len(crowd)} of it would listen on {fixed[0]} of {host}: set"
                " reuse_port = true in its config where it has that, or lower count to the number of hosts"
            )
    return lines
