"""Steps: in which order host processes are told of a new placement, so that no event is lost or doubled on the way.

What may live here: the two phases and their order. In *prepare* nothing ends: consumers are told before their
producers, so that what a new producer makes is asked for. In *retire* what is gone ends: producers before their
consumers, so that what they still make is taken. Every step tells a host all it is to run, and can be repeated.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from eddy_mesh.config import AgentConfig, InEdge
from eddy_mesh.topology.placement import HostPlacement, Placement

Phase = Literal["prepare", "retire"]


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What one host process is told.

    Attributes:
        phase: in ``prepare`` agents that are not named go on, in ``retire`` they are drained and stopped.
        wave: steps of one phase and wave may be taken at the same time; a wave begins when the one before is done.
        host: name of the host process.
        agents: tables of everything that it is to run now, by name.
        keep: those of them that a later step of ``retire`` ends.
        children: host processes that its agent-manager is to have running.
        tags: names of the tags that events may carry.
    """

    phase: Phase
    wave: int
    host: str
    agents: dict[str, AgentConfig] = {}
    keep: tuple[str, ...] = ()
    children: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


def steps(before: Placement | None, after: Placement) -> tuple[Step, ...]:
    """Return what to tell which host process, in order. A host for which nothing changes is told nothing.

    Args:
        before: placement of record, None where there is none yet.
        after: placement to come.
    """
    before = before or Placement(backplane=after.backplane)
    old, new = before.agents(), after.agents()
    between = _between(before, after)
    retiring = old.keys() - new.keys()
    ahead = _links(after, {path for path in new if between[path] != old.get(path)}, from_end=True)
    prepare = _Telling("prepare", before, after, old, retiring)
    first = prepare.children_waves()
    waves = {path: wave + first for path, wave in _waves(ahead).items()}
    prepare.tell(waves, between)
    ends = _links(before, retiring, from_end=False) | {
        path: {end for edge in between[path].in_edges for end in edge.producers} & retiring
        for path in new
        if between[path] != new[path]
    }
    retire = _Telling("retire", before, after, between, retiring)
    retire.tell(_waves(ends), new)
    return tuple(prepare.told + retire.told)


def _between(before: Placement, after: Placement) -> dict[str, AgentConfig]:
    """Return the tables at the end of prepare: what ends is as before, what stays takes from it until then too."""
    old, new = before.agents(), after.agents()
    retiring = old.keys() - new.keys()
    tables = {path: old[path] for path in retiring}
    for path, agent in new.items():
        were = {edge.name: edge for edge in old[path].in_edges} if path in old else {}
        widened = [_widened(edge, before, retiring) for edge in agent.in_edges]
        left = [edge for edge in were.values() if _is_needed_still(edge, agent, retiring)]
        in_edges = sorted([*widened, *left], key=lambda edge: (edge.name, -edge.generation))
        tables[path] = msgspec.structs.replace(agent, in_edges=tuple(in_edges))
    return tables


def _widened(edge: InEdge, before: Placement, retiring: Iterable[str]) -> InEdge:
    """Return an edge with its producers that end in this change: they make events until they are drained."""
    held = before.edges.get(edge.name)
    ending = set(held.producers) & set(retiring) if held is not None else set()
    return msgspec.structs.replace(edge, producers=tuple(sorted({*edge.producers, *ending})))


def _is_needed_still(edge: InEdge, agent: AgentConfig, retiring: Iterable[str]) -> bool:
    """Whether events can still come on an edge that ends: from producers that end, or from its stream."""
    now = next((new for new in agent.in_edges if new.name == edge.name), None)
    if edge.delivery == "durable":
        return now is None or now.delivery != "durable"
    return now is None and bool(set(edge.producers) & set(retiring))


# --- order -----------------------------------------------------------------------------------------------------------


def _links(placement: Placement, paths: Iterable[str], *, from_end: bool) -> dict[str, set[str]]:
    """Return for each of these agents those of them that come first: its consumers (``from_end``) or its producers."""
    links: dict[str, set[str]] = {path: set() for path in paths}
    for edge in placement.edges.values():
        for producer in edge.producers:
            for consumer in edge.consumers:
                if producer in links and consumer in links and producer != consumer:
                    later, earlier = (producer, consumer) if from_end else (consumer, producer)
                    links[later].add(earlier)
    return links


def _waves(first: Mapping[str, Iterable[str]]) -> dict[str, int]:
    """Return the wave of each agent: after all that come first on other hosts; one host orders its own agents.

    Args:
        first: agents that come first, by agent; where they go round in a cycle, the order begins at its first name.
    """
    waves: dict[str, int] = {}
    under_way: set[str] = set()

    def wave_of(path: str) -> int:
        if path in waves or path in under_way:
            return waves.get(path, 0)
        under_way.add(path)
        host = path.rpartition("/")[0]
        earlier = [(wave_of(other), other) for other in sorted(first[path]) if other in first]
        waves[path] = max((wave + (other.rpartition("/")[0] != host) for wave, other in earlier), default=0)
        return waves[path]

    for path in sorted(first):
        wave_of(path)
    return waves


class _Telling:
    """The steps of one phase, as they are put together."""

    def __init__(
        self, phase: Phase, before: Placement, after: Placement, tables: Mapping[str, AgentConfig], retiring: set[str]
    ) -> None:
        self.told: list[Step] = []
        self._phase: Phase = phase
        self._before, self._after = before, after
        self._tables = dict(tables)
        self._retiring = retiring
        self._hosts = sorted({*before.hosts, *after.hosts})

    def children_waves(self) -> int:
        """Tell hosts of the processes that they are to start, and return how many waves that took."""
        parents = [host for host in self._hosts if set(self._children(host)) - set(_part(self._before, host).children)]
        for host in parents:
            self._tell(0, host)
        return 1 if parents else 0

    def tell(self, waves: Mapping[str, int], tables: Mapping[str, AgentConfig]) -> None:
        """Tell of the agents wave by wave.

        Args:
            waves: the wave of each agent whose table changes.
            tables: tables at the end of the phase; an agent that has none ends.
        """
        for wave in range(max(waves.values(), default=0) + 1):
            concerned = {path for path, its_wave in waves.items() if its_wave == wave}
            self._tables = {path: table for path, table in self._tables.items() if path not in concerned}
            self._tables |= {path: tables[path] for path in concerned if path in tables}
            hosts = {path.rpartition("/")[0] for path in concerned}
            if wave == 0:
                hosts |= self._always() - {step.host for step in self.told}
            for host in sorted(hosts):
                self._tell(wave, host)
        losing = [h for h in self._hosts if set(_part(self._before, h).children) - set(_part(self._after, h).children)]
        if self._phase == "retire" and losing:
            last = max((step.wave for step in self.told), default=-1)
            for host in losing:
                self._tell(last + 1, host, children=_part(self._after, host).children)

    def _always(self) -> set[str]:
        """Return hosts that are told in any case: of other tags; those that are new, to end what they ran before."""
        if self._phase == "prepare":
            return self._after.hosts.keys() & self._before.hosts if self._before.tags != self._after.tags else set()
        return {host for host, part in self._after.hosts.items() if host not in self._before.hosts and not part.parent}

    def _tell(self, wave: int, host: str, children: tuple[str, ...] | None = None) -> None:
        agents = {p.rpartition("/")[2]: table for p, table in self._tables.items() if p.rpartition("/")[0] == host}
        self.told.append(
            Step(
                phase=self._phase,
                wave=wave,
                host=host,
                agents=dict(sorted(agents.items())),
                keep=tuple(sorted(name for name in agents if f"{host}/{name}" in self._retiring)),
                children=self._children(host) if children is None else children,
                tags=self._after.tags,
            )
        )

    def _children(self, host: str) -> tuple[str, ...]:
        """Return the children of a host while the change is under way: those before and those after."""
        return tuple(sorted({*_part(self._before, host).children, *_part(self._after, host).children}))


def _part(placement: Placement, host: str) -> HostPlacement:
    return placement.hosts.get(host, HostPlacement())
