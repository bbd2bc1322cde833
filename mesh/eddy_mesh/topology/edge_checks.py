"""Checks of a manifest's edges: their ends, their statements, and cycles.

What may live here: what can be wrong with an edge, and the statement that an edge without one has.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from difflib import get_close_matches

import msgspec

from eddy_mesh.config import AgentConfig, InEdge, unknown_name
from eddy_mesh.discovery import Blueprint, blueprint
from eddy_mesh.errors import ConfigError, EddyError
from eddy_mesh.fields import field, nearest
from eddy_mesh.selection import Plan, compile_statement
from eddy_mesh.topology.manifest import AgentEntry, EdgeEntry, Manifest, wanted

ALWAYS_KEPT = frozenset({"id", "stage", "event_class", "type", "origin"})
"""Fields that every batch has, whatever a statement selects."""

UNSAID = {"from": "?from", "to": "?to"}
"""Agents that stand for an end of an edge whose mistake was told before; none can have such a name."""


def edge_mistakes(
    manifest: Manifest, blueprints: Mapping[str, Blueprint], known: Collection[str], file: str
) -> list[str]:
    """Return a line for each mistake in the edges of a manifest.

    Args:
        manifest: the tables that have the right form.
        blueprints: what its agents stand for, where that can be told.
        known: names of all its agents, also of those with mistakes.
        file: for messages.
    """
    mistakes: list[str] = []
    open_edges: dict[str, EdgeEntry] = {}
    for name, edge in manifest.edges.items():
        place = f"{file}: edges.{name}"
        mistakes += _end_mistakes(edge, blueprints, known, place)
        consumer = blueprints.get(edge.to)
        try:
            plan = compile_statement(statement_of(edge, consumer), now_ns=0)
        except EddyError as error:
            mistakes.append(f"{place}: statement: {error}")
            continue
        mistakes += [f"{place}: statement: {line}" for line in _passing_mistakes(plan)]
        mistakes += partition_mistakes(edge.partition, place)
        if edge.delivery == "durable":
            shared_by = manifest.agents[edge.to].partition if edge.to in manifest.agents else ""
            mistakes += _unselected(plan, edge.partition or shared_by, place)
        if consumer is not None and takes_events(consumer) and plan.where is None and not plan.sources:
            open_edges[name] = edge
    ended_at = {edge.to for edge in manifest.edges.values()}
    for agent in wanted(manifest):
        place = f"{file}: {agent.table}"
        if agent.name in ended_at and agent.entry.subscribe:
            mistakes.append(f"{place}: subscribe has no effect on an agent with edges: write statement at its edges")
        mistakes += _sharing_mistakes(agent.entry, blueprints.get(agent.name), agent.name in ended_at, place)
        if agent.entry.backplane not in {"", manifest.backplane}:
            mistakes += [
                f"{file}: edges.{name}: {agent.name} publishes on backplane {agent.entry.backplane!r}, where no edge of"
                f" {manifest.backplane!r} begins"
                for name, edge in manifest.edges.items()
                if agent.name in edge.producers
            ]
    return mistakes + [f"{file}: edges: {line}" for line in _cycles(open_edges)]


def meant(name: str, known: Collection[str]) -> str:
    """Return the known name that a name with a slip stands for, or "" where none is near."""
    return next(iter(get_close_matches(name, list(known), n=1, cutoff=0.5)), "")


def fed_blueprint(config: AgentConfig, place: str) -> Blueprint:
    """Return what an agent stands for at which an edge ends; ``subscribe`` is empty where its type has no default.

    Raises:
        ConfigError: every mistake in its table.
    """
    try:
        return blueprint(config, place)
    except ConfigError:  # a cooking that takes what a statement gives it has one at its edge
        return blueprint(msgspec.structs.replace(config, in_edges=(InEdge(name="any"),)), place)


def takes_events(plan: Blueprint) -> bool:
    """Whether an edge can end at such an agent; a cooking without a default takes whatever a statement gives it."""
    return bool(plan.subscribe) or plan.kind == "transformer"


def statement_of(edge: EdgeEntry, consumer: Blueprint | None) -> str:
    """Return the statement of an edge: its own, or what its consumer's type takes.

    Args:
        edge: the edge.
        consumer: what its consumer stands for, None where that can not be told.
    """
    default = " ".join(consumer.subscribe[:1]) if consumer else ""
    return edge.statement or default or "SELECT *"


def _end_mistakes(
    edge: EdgeEntry, blueprints: Mapping[str, Blueprint], known: Collection[str], place: str
) -> list[str]:
    mistakes = [
        unknown_name(f"{place}: from", "agent", name, list(known))
        for name in edge.producers
        if name not in {*known, UNSAID["from"]}
    ]
    if not edge.producers:
        mistakes.append(f"{place}: from is empty: name the agents whose events it carries")
    if len(set(edge.producers)) < len(edge.producers):
        mistakes.append(f"{place}: from names an agent twice: {', '.join(edge.producers)}")
    if edge.to not in {*known, UNSAID["to"]}:
        mistakes.append(unknown_name(f"{place}: to", "agent", edge.to, list(known)))
    if edge.to in edge.producers:
        mistakes.append(f"{place}: leads from {edge.to} to itself: an agent never takes its own events")
    consumer = blueprints.get(edge.to)
    if consumer is None:
        return mistakes
    if consumer.kind == "normalizer":
        mistakes.append(f"{place}: to: {edge.to} is a normalizer, which takes its events from outside the mesh only")
    elif not takes_events(consumer):
        mistakes.append(f"{place}: to: {edge.to} is of type {consumer.kind}, which takes no events")
    elif len(consumer.subscribe) != 1 and not edge.statement:
        mistakes.append(f"{place}: statement is missing: {edge.to} has no single one of its own: say what it takes")
    return mistakes


def _sharing_mistakes(entry: AgentEntry, plan: Blueprint | None, has_edges: bool, place: str) -> list[str]:  # noqa: FBT001
    if has_edges or plan is None:
        return []
    if entry.partition:
        return [f"{place}: partition has no effect without an edge: add a table edges with to = this agent"]
    if entry.count > 1 and plan.subscribe:
        return [
            f"{place}: count: without an edge each of the {entry.count} would take every event: add one to this agent"
        ]
    return []


def _passing_mistakes(plan: Plan) -> list[str]:
    """Return why events could not be passed on one by one."""
    if plan.is_aggregate or plan.order_by or plan.limit is not None or plan.every_ns is not None:
        return [
            "an edge passes each event on: leave aggregates, GROUP BY, ORDER BY, LIMIT and EVERY to who asks a store"
        ]
    if plan.since_ns is not None or plan.until_ns is not None:
        return ["an edge has no begin and no end in time: leave SINCE and UNTIL out"]
    return []


def partition_mistakes(name: str, place: str) -> list[str]:
    """Return what is wrong with a field to split by; "" is none."""
    if not name or field(name) is not None:
        return []
    near = nearest(name)
    hint = f"did you mean {near}?" if near else "docs/fields.md has them all"
    return [f"{place}: partition: there is no field {name!r}; {hint}"]


def _unselected(plan: Plan, name: str, place: str) -> list[str]:
    """Return a line where the field that shares out the events of a durable edge is not in what its stream holds.

    All events would be in one part then: streams hold events as the statement projects them.
    """
    kept = {item.name for item in plan.items}
    if not name or not kept or name in ALWAYS_KEPT | kept or field(name) is None:
        return []
    line = f"{place}: partition: {name} is not among what the statement selects ({', '.join(sorted(kept))}), and the"
    return [f"{line} stream of a durable edge holds nothing else: add {name} to SELECT, or write SELECT *"]


def _cycles(edges: Mapping[str, EdgeEntry]) -> list[str]:
    """Return a line for each cycle of edges that pass everything on: nothing that enters it would ever leave it."""
    ahead: dict[str, list[tuple[str, str]]] = {}
    for name, edge in edges.items():
        for producer in edge.producers:
            if producer != edge.to:
                ahead.setdefault(producer, []).append((name, edge.to))
    lines: list[str] = []
    done: set[str] = set()
    for start in sorted(ahead):
        way = _way_back(start, ahead, done)
        done.add(start)
        if way:
            lines.append(
                f"the cycle {' -> '.join([start, *(agent for _, agent in way)])} has no way out: its edges"
                f" {', '.join(name for name, _ in way)} pass every event on: give one of them a statement with WHERE"
            )
    return lines


def _way_back(start: str, ahead: Mapping[str, list[tuple[str, str]]], done: set[str]) -> list[tuple[str, str]]:
    """Return the edges, each with its end, of a shortest way from an agent to itself around agents that are done."""
    ways: list[list[tuple[str, str]]] = [[]]
    seen = set(done)
    while ways:
        way = ways.pop(0)
        for step in ahead.get(way[-1][1] if way else start, []):
            if step[1] == start:
                return [*way, step]
            if step[1] not in seen:
                seen.add(step[1])
                ways.append([*way, step])
    return []
