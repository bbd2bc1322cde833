"""Presence: which host processes there are, told by their heartbeats. Pure: time comes in.

What may live here: what a backplane-manager remembers of heartbeats, and what follows for a placement.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from eddy_mesh.commands import AGENT_MANAGER, DEFAULT_MANAGER, MANAGERS, SENDER
from eddy_mesh.topology.placement import HostThere, Placement
from eddy_mesh.topology.steps import part_of

SILENT_S = 6.5
"""A host process that was not heard for three heartbeats is not there to be told anything."""
PLACED_S = 60.0
"""For so long after its last heartbeat agents stay where they are placed: it may just start again, s."""
UNPLACED = MANAGERS | {SENDER}
"""Types that no placement names: managers, which it leaves alone, and senders, which come and go with durable edges."""
BEAT_S = 1.0
"""All that a host process tells at one heartbeat comes within this time, s: an agent left out of the last has gone."""


class _Host(msgspec.Struct):
    """What one host process told: when it was heard, its labels, and agents with type and time by name."""

    heard_ns: int = 0
    labels: dict[str, str] = {}
    agents: dict[str, tuple[str, int]] = {}
    children: frozenset[str] = frozenset()
    is_assumed: bool = False


class Presence:
    """The host processes that were heard.

    Attributes:
        revision: highest revision that an agent-manager told, 0 where none did; not forgotten with its host.
    """

    def __init__(self) -> None:
        self.revision = 0
        self._hosts: dict[str, _Host] = {}

    def heard(self, status: Mapping[str, object], now_ns: int) -> None:
        """Take a heartbeat of a host process or of an agent, or an answer to ``stats``; others are passed over."""
        name = status.get("host")
        if not isinstance(name, str) or not name:
            return
        host = self._hosts.setdefault(name, _Host())
        host.heard_ns, host.is_assumed = now_ns, False
        if isinstance(labels := status.get("labels"), dict):
            host.labels = {str(key): str(value) for key, value in labels.items()}
        agents = status.get("agents")
        for row in agents if isinstance(agents, list) else [status]:
            if isinstance(row, dict) and isinstance(agent := row.get("agent"), str):
                host.agents[agent] = (str(row.get("type")), now_ns)
                if row.get("type") == AGENT_MANAGER and isinstance(detail := row.get("detail"), dict):
                    host.children |= _children(detail)  # those that have ended are not hosts now, either
                    self.revision = max([self.revision, *_revisions(detail)])

    def assume(self, labels: Mapping[str, Mapping[str, str]], now_ns: int) -> None:
        """Count hosts of record as heard at that time, for a placement: this manager may just have started.

        Args:
            labels: by name of the host process; those that were heard are left as they are.
            now_ns: ns since 1970 UTC.
        """
        for name, known in labels.items():
            self._hosts.setdefault(name, _Host(heard_ns=now_ns, labels=dict(known), is_assumed=True))

    def there(self, now_ns: int, placements: Iterable[Placement]) -> list[HostThere]:
        """Return the host processes that can be placed on, and the children among them, sorted; forget the others.

        Args:
            now_ns: ns since 1970 UTC.
            placements: of record: they too tell which host processes are children.
        """
        self._hosts = {name: host for name, host in self._hosts.items() if now_ns - host.heard_ns <= PLACED_S * 1e9}
        parents = {child: name for name, host in self._hosts.items() for child in host.children}
        for placement in placements:
            parents |= {name: part.parent for name, part in placement.hosts.items() if part.parent}
        return [
            HostThere(name=name, labels=host.labels, parent=parents.get(name, ""))
            for name, host in sorted(self._hosts.items())
        ]

    def is_there(self, host: str, now_ns: int) -> bool:
        """Whether a host process was heard lately."""
        known = self._hosts.get(host)
        return known is not None and not known.is_assumed and now_ns - known.heard_ns <= SILENT_S * 1e9

    def manager_of(self, host: str) -> str:
        """Return the name of the agent-manager of a host process; the usual one where it was not heard yet."""
        agents = self._hosts[host].agents if host in self._hosts else {}
        known = [(heard_ns, name) for name, (kind, heard_ns) in agents.items() if kind == AGENT_MANAGER]
        return max(known, default=(0, DEFAULT_MANAGER))[1]

    def managers_of(self, host: str) -> dict[str, str]:
        """Return the managers of a host process by name, each with its type: no placement may give their names away."""
        agents = self._hosts[host].agents if host in self._hosts else {}
        found = {name: kind for name, (kind, _) in sorted(agents.items()) if kind in MANAGERS}
        return found if AGENT_MANAGER in found.values() else {DEFAULT_MANAGER: AGENT_MANAGER, **found}

    def strays(self, after: Placement, known: Iterable[Placement]) -> dict[str, tuple[str, ...]]:
        """Return the agents by host process that run there, and that no placement names.

        Args:
            after: placement to come; host processes that it does not name, and children, are left out.
            known: placement of record and the one before it: what they name is stopped with them, or was just now.
        """
        found: dict[str, tuple[str, ...]] = {}
        for name in sorted(after.hosts.keys() & self._hosts.keys()):
            host = self._hosts[name]
            placed = {agent for placement in (after, *known) for agent in part_of(placement, name).agents}
            names = [
                agent
                for agent, (kind, heard_ns) in sorted(host.agents.items())
                if kind not in UNPLACED and agent not in placed and host.heard_ns - heard_ns <= BEAT_S * 1e9
            ]
            if names and not after.hosts[name].parent:
                found[name] = tuple(names)
        return found


def _children(detail: Mapping[str, object]) -> frozenset[str]:
    rows = detail.get("children")
    named = rows if isinstance(rows, list) else ()
    return frozenset(str(row["name"]) for row in named if isinstance(row, dict) and "name" in row)


def _revisions(detail: Mapping[str, object]) -> list[int]:
    """Return the revision that runs, and the newest of which a step was taken."""
    return [found for key in ("revision", "seen") if isinstance(found := detail.get(key, 0), int)]
