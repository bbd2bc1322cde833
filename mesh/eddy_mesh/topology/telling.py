"""Telling: what a backplane-manager says of the record, of its history, and of a change as it is carried out. Pure.

What may live here: rows of answers and names of events.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from eddy_mesh.cer import Value
from eddy_mesh.errors import UsageError
from eddy_mesh.topology.changes import compare
from eddy_mesh.topology.record import Ending, Record, RecordState
from eddy_mesh.topology.rounds import Answered

Row = dict[str, object]

TAKEN_OVER = "topology_taken_over"
EVENTS = {
    RecordState.APPLYING: "topology_applying",
    RecordState.ROLLING_BACK: "topology_unhealthy",
    Ending.APPLIED: "topology_applied",
    Ending.REFUSED: "topology_refused",
    Ending.ROLLED_BACK: "topology_rolled_back",
}
"""Name of the event of a record, by how it ended, or by its state."""
LEVELS = {
    "topology_applying": 6,
    "topology_applied": 5,
    "topology_rolled_back": 4,
    "topology_refused": 4,
    "topology_unhealthy": 3,
    TAKEN_OVER: 5,
}
"""Level of each event: of syslog, 3 is an error, 6 information."""
DONE_LISTS = ("started", "replaced", "reloaded", "rewired")
"""What ``prepare`` answers."""
GIVEN_UP = "given-up"
"""State, as it is told, of a revision that was never applied and that another one follows."""


def event_of(record: Record) -> str:
    """Return the name of the event that tells of a record."""
    ended = record.ending or Ending.APPLIED  # before there was an ending, every one was taken as applied
    return EVENTS[ended if record.state is RecordState.APPLIED else record.state]


def fields(event: str, record: Record) -> dict[str, Value]:
    """Return what an event tells of a record beside the reason."""
    return {"topology.revision": record.revision, "user.name": record.who, "level": LEVELS[event]}


def begun(record: Record) -> Row:
    """Return the row with which carrying out begins."""
    return {"step": "begin", "revision": record.revision, "state": str(record.state), "what": record.why}


def step(answer: Answered, took_ms: float) -> Row:
    """Return the row of one call that was answered, or not."""
    call = answer.call
    at, _, agent = call.agent.rpartition("/")
    is_here = at == call.host
    row: Row = {"step": call.verb, "host": call.host, "agent": agent if is_here else ""}
    done = [
        f"{name} {', '.join(map(str, names))}"
        for given in answer.rows
        for name in DONE_LISTS
        if call.verb == "prepare" and isinstance(names := given.get(name), list) and names
    ]
    if agent and not is_here:
        done.append(f"what is on its way to {call.agent}")  # fences: one host tells, for an agent of another
    row |= {"what": "; ".join(done), "took_ms": round(took_ms, 1)}
    return {**row, "error": answer.error} if answer.error else row


def ended(record: Record) -> Row:
    """Return the row with which everything ends."""
    is_over = record.state is RecordState.APPLIED
    end = (record.ending or Ending.APPLIED) if is_over else record.state
    return {"step": str(end), "revision": record.revision, "what": record.why}


def answers(verb: str, history: Sequence[Record], request: Mapping[str, object]) -> Iterator[Row]:
    """Return the rows that answer ``topology``, ``history`` or ``diff``.

    Args:
        verb: one of them.
        history: the newest record of each revision, oldest first.
        request: ``revision`` for ``topology``; ``from`` and ``to`` for ``diff``; numbers, 0 or none for the newest.

    Raises:
        UsageError: there is no such revision.
    """
    if verb == "history":
        yield from (_line(record, history) for record in reversed(history))
    elif verb == "topology":
        record = _of(history, request, "revision")
        row: Row = {**_line(record, history), "text": record.source.text, "manifest": record.source.tables}
        claim = record.claim if row["manager"] else None
        row |= {"placement": msgspec.to_builtins(record.placement), "claim": msgspec.to_builtins(claim)}
        yield {**row, "before": record.before.revision}
    else:
        after = _of(history, request, "to")
        before = _of(history, request, "from").placement if request.get("from") else after.before
        changes = compare(before, after.placement)
        lines = ["no difference"] if changes.is_nothing else changes.lines()
        yield {**msgspec.to_builtins(changes), "lines": lines}


def labels(record: Record) -> dict[str, dict[str, str]]:
    """Return what the host processes of record that run something told of themselves, by name."""
    return {
        name: record.labels.get(name, {})
        for name, part in record.placement.hosts.items()
        if not part.parent and (part.agents or part.children)
    }


def _line(record: Record, history: Sequence[Record]) -> Row:
    is_over = record is not history[-1] and record.state is not RecordState.APPLIED
    return {
        "revision": record.revision,
        "state": GIVEN_UP if is_over else str(record.state),
        "who": record.who,
        "when_ns": record.when_ns,
        "why": record.why,
        "settled_ns": record.settled_ns,
        "manager": record.claim.manager if record.claim is not None and not is_over else "",
        "agents": len(record.placement.agents()),
        "edges": len(record.placement.edges),
    }


def _of(history: Sequence[Record], request: Mapping[str, object], key: str) -> Record:
    number = request.get(key) or 0
    found = next((record for record in reversed(history) if number in {0, record.revision}), None)
    if found is None:
        known = ", ".join(str(record.revision) for record in history)
        hint = f"there are {known}" if known else "no topology was applied on this backplane yet"
        raise UsageError(f"there is no revision {number}: {hint}" if number else hint)
    return found
