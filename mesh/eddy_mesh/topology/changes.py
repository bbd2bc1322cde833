"""Changes: what differs between two placements, agent by agent and edge by edge, and what it costs.

What may live here: the comparison. The same structs are shown to people (`Changes.lines`) and sent as JSON.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec
from msgspec.structs import replace

from eddy_mesh.config import AgentConfig, Retention
from eddy_mesh.effects import Effect, differing, effect_of
from eddy_mesh.topology.placement import Placement
from eddy_mesh.topology.wiring import PlacedEdge

AgentVerb = Literal["start", "stop", "move", "reconfigure", "morph"]
EdgeVerb = Literal["connect", "disconnect", "rewire", "reconfigure"]

MARKS: dict[str, str] = {"start": "+", "connect": "+", "stop": "-", "disconnect": "-", "move": ">"}
"""First character of a line; ``~`` for the others."""

STATE: dict[str, str] = {
    "archive": "its store",
    "database": "its tables",
    "normalizer": "its checkpoints, how far it has read",
    "analysis": "what it remembers of earlier events",
    "application": "what it remembers of earlier diagnoses",
    "directory": "its entries, which heartbeats fill again",
}
"""What an agent of a type holds beside what waits for it."""
ON_DISK = frozenset({"archive", "database", "normalizer"})
"""Types whose state outlives them, on the host where they were."""


class AgentChange(msgspec.Struct, frozen=True, kw_only=True):
    """What happens to one agent.

    Attributes:
        verb: start, stop, move, reconfigure, or morph (it becomes one of another type, source, cooking or detector).
        agent: its name.
        host: host process where it is; for start where it will be.
        to_host: where it moves to, or "".
        what: type and part, after the change.
        was: type and part before a morph, or "".
        keys: settings that differ.
        effect: what a reconfiguration does to it, see `eddy_mesh.effects.EFFECTS`; "" for other verbs.
        pauses: edges on which events wait while it is replaced.
        cost: what happens to its state, or "".
    """

    verb: AgentVerb
    agent: str
    host: str
    to_host: str = ""
    what: str = ""
    was: str = ""
    keys: tuple[str, ...] = ()
    effect: Effect | Literal[""] = ""
    pauses: tuple[str, ...] = ()
    cost: str = ""

    def line(self) -> str:
        """Return it for people."""
        verb = self.effect or self.verb
        where = f"{self.host}/{self.agent}" + (f" -> {self.to_host}/{self.agent}" if self.to_host else "")
        details = [f"{self.was} -> {self.what}" if self.was else self.what, ", ".join(self.keys)]
        details += [f"{', '.join(self.pauses)} paused meanwhile" if self.pauses else "", self.cost]
        return _line(self.verb, verb, where, details)


class EdgeChange(msgspec.Struct, frozen=True, kw_only=True):
    """What happens to one edge.

    Attributes:
        verb: connect, disconnect, rewire (a new generation), or reconfigure (policy only).
        edge: its name.
        delivery: live or durable; after the change.
        generation: after the change; 0 for disconnect.
        differences: one text for each difference.
        cost: what it means for the events, or "".
    """

    verb: EdgeVerb
    edge: str
    delivery: str
    generation: int = 0
    differences: tuple[str, ...] = ()
    cost: str = ""

    def line(self) -> str:
        """Return it for people."""
        return _line(self.verb, self.verb, f"edge {self.edge}", [self.delivery, *self.differences, self.cost])


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """What differs between two placements.

    Attributes:
        revision_before: number of the placement of record, 0 for none.
        revision: number of the placement to come.
        agents: by name of the agent.
        edges: by name of the edge.
        settings: of the whole backplane, one text for each that differs.
    """

    revision_before: int
    revision: int
    agents: tuple[AgentChange, ...] = ()
    edges: tuple[EdgeChange, ...] = ()
    settings: tuple[str, ...] = ()

    @property
    def is_nothing(self) -> bool:
        """Whether both placements are the same but for their number."""
        return not (self.agents or self.edges or self.settings)

    def lines(self) -> list[str]:
        """Return a line for each change, for people."""
        if self.is_nothing:
            return ["nothing would change"]
        told = [_line("", "set", text, []) for text in self.settings]
        return told + [change.line() for change in self.agents] + [change.line() for change in self.edges]


def _line(verb: str, shown: str, subject: str, details: list[str]) -> str:
    tail = "; ".join(detail for detail in details if detail)
    return f"{MARKS.get(verb, '~')} {shown:<11} {subject}" + (f": {tail}" if tail else "")


def compare(before: Placement | None, after: Placement) -> Changes:
    """Return what differs.

    Args:
        before: placement of record, None where there is none yet.
        after: placement to come, made with ``before`` as the one before it.
    """
    before = before or Placement(backplane=after.backplane)
    return Changes(
        revision_before=before.revision,
        revision=after.revision,
        agents=tuple(_agent_changes(before, after)),
        edges=tuple(_edge_changes(before, after)),
        settings=tuple(_settings(before, after)),
    )


# --- agents ----------------------------------------------------------------------------------------------------------


def _agent_changes(before: Placement, after: Placement) -> Iterator[AgentChange]:
    old_hosts, new_hosts = before.hosts_of(), after.hosts_of()
    old, new = before.agents(), after.agents()
    for name in sorted({*old_hosts, *new_hosts}):
        were, will = set(old_hosts.get(name, ())), set(new_hosts.get(name, ()))
        for host in sorted(were & will):
            yield from _reconfigured(name, host, old[f"{host}/{name}"], new[f"{host}/{name}"])
        gone, come = sorted(were - will), sorted(will - were)
        if len(were) == len(will) == len(gone) == 1:
            yield _moved(name, gone[0], come[0], old[f"{gone[0]}/{name}"], new[f"{come[0]}/{name}"])
            continue
        for host in come:
            yield AgentChange(verb="start", agent=name, host=host, what=_what(new[f"{host}/{name}"]))
        for host in gone:
            agent = old[f"{host}/{name}"]
            yield AgentChange(verb="stop", agent=name, host=host, what=_what(agent), cost=_left(agent, host))


def _moved(name: str, host: str, to_host: str, old: AgentConfig, new: AgentConfig) -> AgentChange:
    keys = differing(old, new)
    was = _what(old) if effect_of(old, new) == "morph" else ""
    cost = _left(old, host)
    return AgentChange(
        verb="move", agent=name, host=host, to_host=to_host, what=_what(new), was=was, keys=keys, cost=cost
    )


def _reconfigured(name: str, host: str, old: AgentConfig, new: AgentConfig) -> Iterator[AgentChange]:
    effect, keys = effect_of(old, new), differing(old, new)
    if effect == "edges":
        return
    if bool(old.in_edges) != bool(new.in_edges):
        keys = (*keys, "in_edges")
    pauses = tuple(edge.name for edge in new.in_edges) if effect in {"morph", "replace"} else ()
    change = AgentChange(
        verb="reconfigure", agent=name, host=host, what=_what(new), keys=keys, effect=effect, pauses=pauses
    )
    if effect == "morph":
        yield replace(change, verb="morph", effect="", was=_what(old), cost=_left(old, host))
        return
    held = STATE.get(new.type, "") if new.type not in ON_DISK else ""
    yield replace(change, cost=f"{held} ends" if held and effect in {"replace", "reload"} else "")


def _what(agent: AgentConfig) -> str:
    return " ".join(part for part in (agent.type, agent.source, agent.cooking, agent.detector) if part)


def _left(agent: AgentConfig, host: str) -> str:
    """Return what becomes of the state of an agent that ends where it was."""
    held = STATE.get(agent.type, "")
    if not held:
        return ""
    if agent.type not in ON_DISK:
        return f"{held} ends with it"
    silent = ", and queries do not reach it" if agent.type in {"archive", "database"} else ""
    return f"{held} stays on {host}{silent}"


# --- edges -----------------------------------------------------------------------------------------------------------


def _edge_changes(before: Placement, after: Placement) -> Iterator[EdgeChange]:
    for name in sorted({*before.edges, *after.edges}):
        old, new = before.edges.get(name), after.edges.get(name)
        if old is None and new is not None:
            ends = f"{', '.join(new.producers) or 'nobody'} -> {', '.join(new.consumers)}"
            yield EdgeChange(
                verb="connect", edge=name, delivery=new.delivery, generation=new.generation, differences=(ends,)
            )
        elif new is None and old is not None:
            yield EdgeChange(verb="disconnect", edge=name, delivery=old.delivery, cost=_emptied(old))
        elif old is not None and new is not None:
            yield from _rewired(old, new)


def _rewired(old: PlacedEdge, new: PlacedEdge) -> Iterator[EdgeChange]:
    told = tuple(_differences(old, new))
    if not told:
        return
    is_flow = old.flow != new.flow
    yield EdgeChange(
        verb="rewire" if is_flow else "reconfigure",
        edge=new.name,
        delivery=new.delivery,
        generation=new.generation,
        differences=told,
        cost=_edge_cost(old, new) if is_flow else "",
    )


def _differences(old: PlacedEdge, new: PlacedEdge) -> Iterator[str]:
    for what, were, will in (("from", old.producers, new.producers), ("to", old.consumers, new.consumers)):
        changed = [f"+{end}" for end in will if end not in were] + [f"-{end}" for end in were if end not in will]
        if changed:
            yield f"{what} {', '.join(changed)}"
        elif were != will:
            yield f"{what} in another order: {', '.join(will)}"
    pairs = {
        "statement": (old.statement, new.statement),
        "delivery": (old.delivery, new.delivery),
        "partition": (old.field or "even", new.field or "even"),
        "partitions": (old.of, new.of if new.delivery == old.delivery else old.of),
        "overload": (old.overload, new.overload),
        "spool_bytes": (old.spool_bytes, new.spool_bytes),
        "retention": (_told(old.retention), _told(new.retention)),
    }
    yield from (f"{key} {was} -> {will}" for key, (was, will) in pairs.items() if was != will)


def _told(kept: Retention) -> str:
    """Return how much is kept, in words."""
    return f"{kept.max_bytes} octets" if kept.max_bytes else "the default size"


def _edge_cost(old: PlacedEdge, new: PlacedEdge) -> str:
    if old.delivery != new.delivery:
        return "; ".join(text for text in ("changes over between two batches", _emptied(old)) if text)
    if new.delivery == "live":
        return "changes over between two batches, nothing lost or repeated"
    if (old.consumers, old.field, old.of) != (new.consumers, new.field, new.of):
        return "pauses while its consumers change; what waits stays in its stream"
    return "goes on; what its stream holds stays as it is"


def _emptied(edge: PlacedEdge) -> str:
    """Return what becomes of the stream of an edge that is durable no more."""
    if edge.delivery != "durable":
        return ""
    return "what its stream holds is taken first; what is left after 20 s stays in its stream, and is told"


def _settings(before: Placement, after: Placement) -> Iterator[str]:
    if before.tags != after.tags:
        yield f"tags: {', '.join(before.tags) or 'none'} -> {', '.join(after.tags) or 'none'}"
    if before.retention != after.retention:
        yield f"retention: {_told(before.retention)} -> {_told(after.retention)}"
