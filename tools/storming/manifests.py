"""Manifests: the topology that is stormed, and what a change can make of it. Pure: randomness comes in.

    lines > cook ──durable──▶ carry ──durable──▶ kept
                 └──live────▶ pass  ──live─────▶ seen

``lines`` and ``cook`` are on each edge host; ``carry`` and ``pass`` hand events on and can be anywhere, once or thrice;
``kept`` and ``seen`` are archives. Agents on the durable way can have a process of their own, and then be killed:
what a killed process held of a live edge is lost, and nobody is left who could count it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

Tables = dict[str, object]

LABEL = "net=storm"
STATEMENTS = ("SELECT *", "SELECT * WHERE event.sequence >= 0", "SELECT * WHERE event.sequence != -1")
EDGES = {
    "raw": ("lines", "cook", "live"),
    "keep": ("cook", "carry", "durable"),
    "kept-in": ("carry", "kept", "durable"),
    "look": ("cook", "pass", "live"),
    "seen-in": ("pass", "seen", "live"),
}
"""Name to producer, consumer and delivery."""
SINKS = {"kept": "durable", "seen": "live"}
MIDDLE = ("carry", "pass")


@dataclass(frozen=True)
class Agent:
    """What can change of an agent in the middle, or of a sink.

    Attributes:
        host: host process that runs it.
        count: instances.
        cooking: how it hands events on.
        limit: a setting that it takes up as it runs.
        mailbox: a setting for which it is replaced.
        is_own: whether it has a process of its own.
    """

    host: str
    count: int = 1
    cooking: str = "split"
    limit: int = 1000
    mailbox: int = 200_000
    is_own: bool = False


@dataclass(frozen=True)
class Topology:
    """What is to run.

    Attributes:
        ports: of the source on each edge host, ``ADDRESS:PORT``.
        agents: by name.
        asked: number of the statement of each edge.
        is_read: the sinks run wherever they ever were, so that they can be asked.
    """

    ports: Mapping[str, str]
    hosts: tuple[str, ...]
    agents: Mapping[str, Agent]
    asked: Mapping[str, int]
    is_read: bool = False

    def tables(self) -> Tables:
        """Return the manifest."""
        hosts: dict[str, object] = {name: {"labels": {"net": "storm"}} for name in self.hosts}
        for name, endpoint in self.ports.items():
            source = {"type": "normalizer", "source": "json_lines"}
            source_config = {"listen": [endpoint], "port_taken": "fail"}
            cook = {"type": "transformer", "cooking": "json"}
            agents = {"lines": {**source, "config": source_config}, "cook": cook}
            hosts[name] = {"labels": {"net": "storm"}, "agents": agents}
        edges = {
            name: {"from": source, "to": sink, "delivery": delivery, "statement": STATEMENTS[self.asked[name]]}
            for name, (source, sink, delivery) in EDGES.items()
            if name != "raw"
        }
        agents = {name: self._table(name, agent) for name, agent in self.agents.items()}
        return {"hosts": hosts, "agents": agents, "edges": {**edges, "raw": {"from": "lines", "to": "cook"}}}

    def _table(self, name: str, agent: Agent) -> Tables:
        where: Tables = {"host": agent.host, "process": "own" if agent.is_own else "shared"}
        if name not in MIDDLE:
            if self.is_read and name == "seen":
                where = {"label": LABEL, "each": True}
            return {"type": "archive", **where, "mailbox_events": agent.mailbox}
        settings = {"max_members": agent.limit} if agent.cooking == "split" else {"one_in": 1, "burst": agent.limit}
        made: Tables = {"type": "transformer", "cooking": agent.cooking, "config": settings}
        return {**made, **where, "count": agent.count, "mailbox_events": agent.mailbox}


def first(ports: Mapping[str, str], hosts: tuple[str, ...], hub: str) -> Topology:
    """Return the topology to begin with."""
    agents = {
        "carry": Agent(hub, is_own=True),
        "pass": Agent(hub),
        "kept": Agent(hub, is_own=True),
        "seen": Agent(hub),
    }
    return Topology(ports, hosts, agents, dict.fromkeys(EDGES, 0))


# --- changes


def rewire(topology: Topology, draw: random.Random) -> tuple[Topology, str]:
    """Ask otherwise for the same events on one edge."""
    name = draw.choice([name for name in EDGES if name != "raw"])
    number = (topology.asked[name] + draw.randint(1, len(STATEMENTS) - 1)) % len(STATEMENTS)
    return replace(topology, asked={**topology.asked, name: number}), f"{name}: {STATEMENTS[number]}"


def move(topology: Topology, draw: random.Random) -> tuple[Topology, str]:
    """Run an agent on another host."""
    name = draw.choice([*MIDDLE, "seen"])
    host = draw.choice([host for host in topology.hosts if host != topology.agents[name].host])
    return _with(topology, name, replace(topology.agents[name], host=host)), f"{name} to {host}"


def scale(topology: Topology, draw: random.Random) -> tuple[Topology, str]:
    """Make three of one, or one of three."""
    name = draw.choice(MIDDLE)
    count = 1 if topology.agents[name].count == 3 else 3
    return _with(topology, name, replace(topology.agents[name], count=count)), f"{name} to {count}"


def reload(topology: Topology, draw: random.Random) -> tuple[Topology, str]:
    """Change a setting that an agent takes up as it runs."""
    name = draw.choice(MIDDLE)
    limit = topology.agents[name].limit + 1
    return _with(topology, name, replace(topology.agents[name], limit=limit)), f"{name} to {limit}"


def replace_agent(topology: Topology, draw: random.Random) -> tuple[Topology, str]:
    """Change a setting for which an agent is replaced, or give it another process."""
    name = draw.choice([*MIDDLE, "seen"])
    agent = topology.agents[name]
    if name == "carry" and draw.random() < 0.3:
        own = not agent.is_own
        return _with(
            topology, name, replace(agent, is_own=own)
        ), f"{name} in {'its own' if own else 'a shared'} process"
    return _with(topology, name, replace(agent, mailbox=agent.mailbox + 1000)), f"{name} with another mailbox"


def morph(topology: Topology, draw: random.Random) -> tuple[Topology, str]:
    """Make another kind of agent of one."""
    name = draw.choice(MIDDLE)
    cooking = "sample" if topology.agents[name].cooking == "split" else "split"
    return _with(topology, name, replace(topology.agents[name], cooking=cooking)), f"{name} to {cooking}"


Make = Callable[[Topology, random.Random], tuple[Topology, str]]

KINDS: dict[str, Make] = {
    "rewire": rewire,
    "move": move,
    "scale": scale,
    "reload": reload,
    "replace": replace_agent,
    "morph": morph,
}


def _with(topology: Topology, name: str, agent: Agent) -> Topology:
    return replace(topology, agents={**topology.agents, name: agent})


def order(changes: int, draw: random.Random) -> list[str]:
    """Return the kind of each change: all kinds about as often as the others, in random order."""
    rounds = [list(KINDS) for _ in range(-(-changes // len(KINDS)))]
    for kinds in rounds:
        draw.shuffle(kinds)
    return [kind for kinds in rounds for kind in kinds][:changes]
