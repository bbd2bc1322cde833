"""Transitions: who may change the record of a topology when. Pure: time comes in.

What may live here: the table of states and what makes one of another. Whoever writes the result does so by
compare-and-set, so of two that change the same record one is told.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from eddy_mesh.errors import UsageError
from eddy_mesh.topology.claims import own
from eddy_mesh.topology.placement import Placement, renumbered
from eddy_mesh.topology.record import Change, Claim, Ending, Record, RecordState, Source, describe


class Happening(StrEnum):
    """What changes the record."""

    BEGUN = "begun"
    FINISHED = "finished"
    REFUSED = "refused"
    UNHEALTHY = "unhealthy"


TRANSITIONS: dict[tuple[RecordState, Happening], RecordState] = {
    (RecordState.APPLIED, Happening.BEGUN): RecordState.APPLYING,
    (RecordState.APPLYING, Happening.FINISHED): RecordState.APPLIED,
    (RecordState.APPLYING, Happening.REFUSED): RecordState.APPLIED,
    (RecordState.APPLYING, Happening.UNHEALTHY): RecordState.ROLLING_BACK,
    (RecordState.ROLLING_BACK, Happening.FINISHED): RecordState.APPLIED,
}


def begin(current: Record | None, change: Change, *, who: str, why: str, manager: str, now_ns: int) -> Record:
    """Return the record of a change that begins.

    Args:
        current: record that there is, or None.
        change: the change.
        who: the person or program that wants it.
        why: the reason, or "".
        manager: ``<host>/<agent>`` that carries it out.
        now_ns: ns since 1970 UTC.

    Raises:
        UsageError: another change is under way, or the placement was made for another record.
    """
    placement = change.placement
    held = current.placement if current is not None else Placement(backplane=placement.backplane)
    if current is not None:
        _after(current, Happening.BEGUN)
    if placement.revision <= held.revision:
        raise UsageError(
            f"revision {placement.revision} comes too late: revision {held.revision} is of record; plan again"
        )
    return Record(
        revision=placement.revision,
        state=RecordState.APPLYING,
        who=who,
        when_ns=now_ns,
        why=why,
        source=change.source,
        placement=placement,
        before=held,
        source_before=current.source if current is not None else Source(),
        claim=Claim(manager=manager),
        terms=change.terms,
        strays=change.strays,
        labels=change.labels,
    )


def finish(record: Record, left: str = "", *, manager: str, now_ns: int) -> Record:
    """Return the record of a change, or of a rollback, that is carried out and healthy.

    Args:
        record: of a change or rollback under way.
        left: what of a rollback could not be done, or "".
        manager: ``<host>/<agent>`` that carries it out.
        now_ns: ns since 1970 UTC.

    Raises:
        UsageError: nothing is under way, or another manager carries it out.
    """
    own(record, manager)
    state = _after(record, Happening.FINISHED)
    why = f"{record.why}; not done on the way back: {left}" if left else record.why
    ending = Ending.APPLIED if record.state is RecordState.APPLYING else Ending.ROLLED_BACK
    return msgspec.structs.replace(record, state=state, why=why, claim=None, settled_ns=now_ns, ending=ending)


def refuse(record: Record, why: str, *, manager: str, now_ns: int) -> Record:
    """Return the record of a change that could not be prepared: the placement before, which still runs.

    It gets a number of its own, so that no number stands for two placements.

    Args:
        record: of a change under way of which nothing was activated.
        why: what stood against it.
        manager: ``<host>/<agent>`` that carries it out.
        now_ns: ns since 1970 UTC.

    Raises:
        UsageError: no change is under way, it is a rollback, or another manager carries it out.
    """
    own(record, manager)
    revision = record.revision + 1
    return Record(
        revision=revision,
        state=_after(record, Happening.REFUSED),
        who=record.who,
        when_ns=now_ns,
        why=f"revision {record.revision} refused: {why}",
        source=record.source_before,
        placement=msgspec.structs.replace(record.before, revision=revision),
        before=record.placement,
        source_before=record.source,
        labels=record.labels,
        settled_ns=now_ns,
        ending=Ending.REFUSED,
    )


def roll_back(record: Record, why: str, *, manager: str, now_ns: int) -> Record:
    """Return the record of the way back: the placement before, as a new revision, with the reason.

    Args:
        record: of a change under way.
        why: what was unhealthy.
        manager: ``<host>/<agent>`` that carries it out.
        now_ns: ns since 1970 UTC.

    Raises:
        UsageError: no change is under way, it is a rollback itself, or another manager carries it out.
    """
    own(record, manager)
    state = _after(record, Happening.UNHEALTHY)
    revision = record.revision + 1
    back = renumbered(record.before, record.placement, revision)
    return Record(
        revision=revision,
        state=state,
        who=record.who,
        when_ns=now_ns,
        why=f"revision {record.revision} rolled back: {why}",
        source=record.source_before,
        placement=back,
        before=record.placement,
        source_before=record.source,
        labels=record.labels,
        claim=Claim(manager=manager),
        terms=record.terms,
    )


def _after(record: Record, happening: Happening) -> RecordState:
    following = TRANSITIONS.get((record.state, happening))
    if following is None:
        raise UsageError(f"{describe(record)}: it can not be {happening} now; wait for its end")
    return following
