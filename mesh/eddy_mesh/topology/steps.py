"""Steps: which host processes are told of a new placement, what each is to run, and in which order old edges end.

What may live here: what follows from the two placements alone. Host processes keep the old and the new ends of edges
side by side, so only the end of the old ones has an order: from sources to sinks along the old graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import blake2b

import msgspec

from eddy_mesh.config import AgentConfig, Serving
from eddy_mesh.topology.placement import HostPlacement, Placement
from eddy_mesh.topology.wiring import PlacedEdge


class Retiring(msgspec.Struct, frozen=True, kw_only=True):
    """An agent whose old edges end, or which goes away.

    Attributes:
        host: name of the host process.
        agent: its name.
        edges: live edges of an older generation that end at it.
        sources: host processes where these edges begin; they know the fences.
    """

    host: str
    agent: str
    edges: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()


def part_of(placement: Placement, host: str) -> HostPlacement:
    """Return what a host process runs; nothing where the placement does not name it."""
    return placement.hosts.get(host, HostPlacement())


def hosts_of(before: Placement, after: Placement) -> list[str]:
    """Return the host processes of both placements, sorted."""
    return sorted({*before.hosts, *after.hosts})


def hosts_to_prepare(before: Placement, after: Placement) -> tuple[list[str], list[str]]:
    """Return the host processes whose part changes: those that somebody starts, and the children that they start."""
    changed = [
        host
        for host in hosts_of(before, after)
        if part_of(before, host) != part_of(after, host) or before.tags != after.tags
    ]
    children = [host for host in changed if parent_of(before, after, host)]
    return [host for host in changed if host not in children], children


def parent_of(before: Placement, after: Placement, host: str) -> str:
    """Return the host process whose agent-manager starts and ends this one, or ""."""
    return part_of(after, host).parent or part_of(before, host).parent


def part_tables(placement: Placement, host: str) -> dict[str, object]:
    """Return what a host process is told to run: ``agents``, ``children`` and ``tags``, as JSON has them.

    A child begins empty: it is told its agents like any other host process, so that its sources are held back too.
    """
    part = part_of(placement, host)
    return {
        "agents": {name: msgspec.to_builtins(agent) for name, agent in part.agents.items()},
        "children": {child: {"agents": {}} for child in part.children},
        "tags": list(placement.tags),
    }


def part_digest(part: Mapping[str, object]) -> str:
    """Return in 32 hexadecimal digits which part of a topology this is: both sides of a step name it by that.

    Args:
        part: what `part_tables` gives, also after it went over the wire.

    Raises:
        msgspec.ValidationError: an agent's table has mistakes.
    """
    # Whether a table says what is so by default depends on where its values were made.
    agents = msgspec.convert(part["agents"], dict[str, AgentConfig])
    whole = _in_full({**part, "agents": agents})
    return blake2b(msgspec.json.encode(whole, order="deterministic"), digest_size=16).hexdigest()


def _in_full(value: object) -> object:
    """Return a value with every field of its structs, and numbers in one form."""
    if isinstance(value, msgspec.Struct):
        return {name: _in_full(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, Mapping):
        return {name: _in_full(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [_in_full(member) for member in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def servings(placement: Placement) -> dict[str, Serving]:
    """Return the generation, the producers and the delivery of every edge."""
    return {name: Serving(edge.generation, edge.producers, edge.delivery) for name, edge in placement.edges.items()}


def changed_agents(before: Placement, after: Placement) -> set[str]:
    """Return the agents that a placement starts or changes, as ``<host>/<agent>``."""
    old = before.agents()
    return {path for path, agent in after.agents().items() if old.get(path) != agent}


# --- what ends -------------------------------------------------------------------------------------------------------


def retire_waves(
    before: Placement, after: Placement, strays: Mapping[str, Iterable[str]]
) -> tuple[tuple[Retiring, ...], ...]:
    """Return what ends, in the order in which it must; agents of one wave do not feed each other.

    Args:
        before: placement that ran.
        after: placement to come.
        strays: agents by host process that run there and that no placement names.
    """
    ending = {name: edge for name, edge in before.edges.items() if _is_over(edge, after.edges.get(name))}
    retiring = before.agents().keys() - after.agents().keys()
    for edge in ending.values():
        retiring |= {*edge.producers, *edge.consumers}
    loose = tuple(Retiring(host=host, agent=name) for host, names in sorted(strays.items()) for name in sorted(names))
    waves = [tuple(_retiring(path, ending) for path in wave) for wave in _waves(before, retiring)]
    return ((loose,) if loose else ()) + tuple(waves)


def _is_over(old: PlacedEdge, new: PlacedEdge | None) -> bool:
    return new is None or new.generation != old.generation


def _retiring(path: str, ending: Mapping[str, PlacedEdge]) -> Retiring:
    host, _, agent = path.rpartition("/")
    edges = [edge for _, edge in sorted(ending.items()) if path in edge.consumers and edge.delivery == "live"]
    sources = {producer.rpartition("/")[0] for edge in edges for producer in edge.producers}
    return Retiring(host=host, agent=agent, edges=tuple(edge.name for edge in edges), sources=tuple(sorted(sources)))


def _waves(placement: Placement, paths: Iterable[str]) -> list[list[str]]:
    """Return agents in waves, producers before their consumers; a cycle is entered at its first name."""
    feeders: dict[str, set[str]] = {path: set() for path in paths}
    for edge in placement.edges.values():
        for consumer in set(edge.consumers) & feeders.keys():
            feeders[consumer] |= set(edge.producers) & feeders.keys() - {consumer}
    waves: list[list[str]] = []
    while feeders:
        free = sorted(path for path, first in feeders.items() if not first) or [_entry(feeders)]
        waves.append(free)
        feeders = {path: first - set(free) for path, first in feeders.items() if path not in free}
    return waves


def _entry(feeders: Mapping[str, set[str]]) -> str:
    """Return the first name of a cycle that nothing outside of it feeds, where each agent is fed by another one."""

    def above(path: str) -> set[str]:
        seen: set[str] = set()
        ahead = {path}
        while ahead:
            ahead = {feeder for known in ahead for feeder in feeders[known]} - seen
            seen |= ahead
        return seen

    # The agents above such a cycle are the cycle itself; whatever it feeds has all of them above it, and more.
    return min(feeders, key=lambda path: (len(above(path)), path))
