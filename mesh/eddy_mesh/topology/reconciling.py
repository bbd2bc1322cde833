"""Reconciling: what an agent-manager does when it is told a step of a revision, or reads the record. Pure.

What may live here: what an agent-manager is told, what its host process holds, the table of verbs, and what the record
means for one host process. The agent-manager carries out what is decided here, one decision after the other.

A step is for the part of a host process: its agents, the names of its children, the tags. ``Fits`` is what was prepared
for that revision, or what is applied where nothing was prepared, if it is that part by its digest. A step for any other
part was meant for what is gone: its host process was started again meanwhile, or was away when others were prepared.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, NamedTuple

import msgspec

from eddy_mesh.config import Serving
from eddy_mesh.errors import UsageError
from eddy_mesh.topology.applied import Applied, Tables
from eddy_mesh.topology.record import Record, RecordState
from eddy_mesh.topology.steps import part_digest, part_tables, servings

MAX_REVISION = 1 << 53
"""What every JSON parser reads exactly."""


class Verb(StrEnum):
    """What changes a host process."""

    CONFIGURE = "configure"
    PREPARE = "prepare"
    ACTIVATE = "activate"
    RETIRE = "retire"
    SETTLE = "settle"
    ABORT = "abort"


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What ``abort`` is told with."""

    revision: Annotated[int, msgspec.Meta(ge=0, le=MAX_REVISION)]


class Configuration(Step, frozen=True, kw_only=True):
    """What ``prepare`` and ``configure`` are told with."""

    agents: Tables
    children: Tables | None = None
    """host processes that the agent-manager is to start below this one, ``<host>.<agent>``; None: as they are"""
    tags: tuple[str, ...] | None = None
    """names of the tags that events may carry; None: as they are"""


class Change(Step, frozen=True, kw_only=True):
    """What ``activate`` and ``settle`` are told with."""

    part: str
    """digest of what this host process is to run"""
    edges: dict[str, Serving] = {}


class Retirement(Step, frozen=True, kw_only=True):
    """What ``retire`` is told with."""

    part: str
    """digest of what this host process is to run"""
    agent: str
    fences: dict[str, dict[str, tuple[int, int]]] = {}


class Ends(msgspec.Struct, frozen=True):
    """What ``fences`` is asked with."""

    edges: tuple[str, ...]


# --- what is decided -------------------------------------------------------------------------------------------------


class Action(StrEnum):
    """What is done."""

    DO = "do"
    NOTHING = "nothing"
    GO_BACK = "go-back"
    REFUSE = "refuse"


class Row(NamedTuple):
    """What is done where the part fits, and where it does not."""

    fits: Action
    otherwise: Action


ACTIONS: dict[Verb, Row] = {  # for a revision that is not older than the newest that was seen; an older one is refused
    Verb.CONFIGURE: Row(Action.DO, Action.DO),
    Verb.PREPARE: Row(Action.DO, Action.DO),
    Verb.ACTIVATE: Row(Action.DO, Action.REFUSE),
    Verb.RETIRE: Row(Action.DO, Action.REFUSE),
    Verb.SETTLE: Row(Action.DO, Action.REFUSE),
    Verb.ABORT: Row(Action.GO_BACK, Action.NOTHING),
}


class Holding(msgspec.Struct, frozen=True, kw_only=True):
    """What a host process holds.

    Attributes:
        applied: what was settled last; None where nothing was.
        pending: what was prepared and not settled yet, so that some of it may run.
        seen: highest revision of which a step was taken.
    """

    applied: Applied | None = None
    pending: Applied | None = None
    seen: int = 0

    @property
    def revision(self) -> int:
        """The revision that was settled last, 0 where none was."""
        return self.applied.revision if self.applied is not None else 0

    @property
    def newest(self) -> int:
        """The highest revision that this host process knows of."""
        return max(self.seen, self.revision)

    def wanted(self, told: Configuration) -> Applied:
        """Return what is to run; what is left out stays as it was settled last."""
        held = self.applied or Applied(0, {})
        children = held.children if told.children is None else told.children
        return Applied(told.revision, told.agents, children, tags=held.tags if told.tags is None else told.tags)

    def after(self, revision: int) -> Holding:
        """Return this with a step of that revision taken."""
        return msgspec.structs.replace(self, seen=max(self.seen, revision))

    def prepared(self, pending: Applied | None) -> Holding:
        """Return this with something else prepared, or nothing."""
        return msgspec.structs.replace(self, pending=pending)

    def settled(self, applied: Applied) -> Holding:
        """Return this with something applied, and nothing prepared any more."""
        return Holding(applied=applied, seen=self.seen)


def decide(verb: Verb, holding: Holding, revision: int, part: str | None = None) -> Action:
    """Return what is done when a step is told.

    Args:
        verb: the step.
        holding: what the host process holds.
        revision: of the step.
        part: digest of the part that the step is for; None for verbs that name none.

    Raises:
        UsageError: the step is of an older revision, or for another part than this host process has.
    """
    if revision < holding.newest:
        raise UsageError(
            f"revision {revision} is over: this host has seen {holding.newest}; plan again from the topology of record"
        )
    row = ACTIONS[verb]
    action = row.fits if _fits(holding, revision, part) else row.otherwise
    if action is Action.REFUSE:
        raise UsageError(
            f"what was prepared for revision {revision} is gone, {holding.revision} runs here: apply again"
        )
    return action


def _fits(holding: Holding, revision: int, part: str | None) -> bool:
    if holding.pending is not None:
        return holding.pending.revision == revision and part in {None, digest(holding.pending)}
    return holding.applied is not None and part == digest(holding.applied)


def digest(applied: Applied) -> str:
    """Return the digest of a part as `part_digest` gives it for what a manager tells; children count by name."""
    tags = None if applied.tags is None else list(applied.tags)
    children: Tables = {name: {"agents": {}} for name in applied.children}
    return part_digest({"agents": applied.agents, "children": children, "tags": tags})


def decide_following(holding: Holding, record: Record, host: str) -> Action:
    """Return what is done about the record: take its part, go back to what was settled last, or nothing.

    Args:
        holding: what the host process holds.
        record: the topology of record; while a manager carries it out, that manager tells the steps itself.
        host: name of the host process.
    """
    if record.state is not RecordState.APPLIED or record.revision < holding.newest:
        return Action.NOTHING
    if record.revision == holding.revision and holding.pending is None:
        return Action.NOTHING
    if host in record.placement.hosts or holding.revision:  # one that was taken out while it was away ends what it ran
        return Action.DO
    return Action.NOTHING if holding.pending is None else Action.GO_BACK


def of_record(record: Record, host: str) -> Applied:
    """Return what a host process is to run of the record."""
    tables = part_tables(record.placement, host)
    return msgspec.convert(
        {"revision": record.revision, "edges": msgspec.to_builtins(servings(record.placement)), **tables}, Applied
    )
