"""Record: the topology of record, as it lies under one key of the store, and who may change it when.

What may live here: the struct, its encoding, and its transitions, pure: time comes in. Whoever writes it does so by
compare-and-set, so of two that change the same record one is told.
"""

from __future__ import annotations

import zlib
from enum import StrEnum

import msgspec

from eddy_mesh.errors import UsageError, WireError
from eddy_mesh.topology.placement import Placement, renumbered

KEY = "topology"
CLAIM_S = 5.0
"""How long a manager answers for a change unless it renews."""
COMPRESS_BYTES = 262_144
"""Shorter records stay as text that people can read in the store."""
MAX_BYTES = 64 * 1024 * 1024
"""Longest record; placements of some 20,000 agents."""


class RecordState(StrEnum):
    """How far a topology is carried out."""

    APPLYING = "applying"
    APPLIED = "applied"
    ROLLING_BACK = "rolling-back"


class Happening(StrEnum):
    """What changes the record."""

    BEGUN = "begun"
    FINISHED = "finished"
    UNHEALTHY = "unhealthy"


TRANSITIONS: dict[tuple[RecordState, Happening], RecordState] = {
    (RecordState.APPLIED, Happening.BEGUN): RecordState.APPLYING,
    (RecordState.APPLYING, Happening.FINISHED): RecordState.APPLIED,
    (RecordState.APPLYING, Happening.UNHEALTHY): RecordState.ROLLING_BACK,
    (RecordState.ROLLING_BACK, Happening.FINISHED): RecordState.APPLIED,
}


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """Which manager carries a change out, ``<host>/<agent>``, and until when it answers for that, ns since 1970 UTC."""

    manager: str
    until_ns: int

    def holds(self, now_ns: int) -> bool:
        """Whether it has not ended."""
        return now_ns < self.until_ns


class Source(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A manifest as it was given.

    Attributes:
        text: the TOML text with its comments; "" where only tables were given.
        tables: its tables.
    """

    text: str = ""
    tables: dict[str, object] = {}


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The topology of record.

    Attributes:
        revision: number of the placement.
        state: how far it is carried out.
        who: the person or program that wanted it.
        when_ns: when it began, ns since 1970 UTC.
        why: the reason given; for a rollback what was unhealthy.
        source: the manifest.
        placement: what is to run.
        before: what ran before, from which the steps are made.
        source_before: its manifest.
        claim: who carries it out; None when it is applied.
        settled_ns: when it was applied, 0 while it is not.
    """

    revision: int
    state: RecordState
    who: str
    when_ns: int
    why: str
    source: Source
    placement: Placement
    before: Placement = Placement()
    source_before: Source = Source()
    claim: Claim | None = None
    settled_ns: int = 0


def begin(
    current: Record | None, placement: Placement, source: Source, *, who: str, why: str, manager: str, now_ns: int
) -> Record:
    """Return the record of a change that begins.

    Args:
        current: record that there is, or None.
        placement: made with ``current.placement`` as the one before it.
        source: its manifest.
        who: the person or program that wants it.
        why: the reason, or "".
        manager: ``<host>/<agent>`` that carries it out.
        now_ns: ns since 1970 UTC.

    Raises:
        UsageError: another change is under way, or the placement was made for another record.
    """
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
        source=source,
        placement=placement,
        before=held,
        source_before=current.source if current is not None else Source(),
        claim=_claim(manager, now_ns),
    )


def renew(record: Record, *, manager: str, now_ns: int) -> Record:
    """Return the record with the claim of its manager prolonged by `CLAIM_S`.

    Raises:
        UsageError: nothing is under way, or another manager carries it out.
    """
    _own(record, manager)
    return msgspec.structs.replace(record, claim=_claim(manager, now_ns))


def finish(record: Record, *, manager: str, now_ns: int) -> Record:
    """Return the record of a change, or of a rollback, that is carried out and healthy.

    Raises:
        UsageError: nothing is under way, or another manager carries it out.
    """
    _own(record, manager)
    state = _after(record, Happening.FINISHED)
    return msgspec.structs.replace(record, state=state, claim=None, settled_ns=now_ns)


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
    _own(record, manager)
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
        claim=_claim(manager, now_ns),
    )


def take_over(record: Record, *, manager: str, now_ns: int) -> Record:
    """Return the record with the claim of another manager: the one before has not renewed its own.

    Raises:
        UsageError: nothing is under way, or its manager still answers for it.
    """
    if record.claim is None:
        raise UsageError(f"revision {record.revision} is applied: there is nothing to take over")
    if record.claim.manager != manager and record.claim.holds(now_ns):
        raise UsageError(f"{describe(record)} until its claim ends in {_left_s(record.claim, now_ns):.1f} s")
    return msgspec.structs.replace(record, claim=_claim(manager, now_ns))


def needs_taking_over(record: Record, now_ns: int) -> bool:
    """Whether a change is under way for which nobody answers any more."""
    return record.claim is not None and not record.claim.holds(now_ns)


def describe(record: Record) -> str:
    """Return in words what the record says: for whoever lost a race for it."""
    told = f"revision {record.revision} of {record.who or 'nobody named'}"
    if record.claim is None:
        return f"{told} is applied"
    return f"{told} is {record.state}, carried out by {record.claim.manager}"


def encode(record: Record) -> bytes:
    """Return the record as JSON, compressed where it is long: a store takes 1 MiB under one key."""
    data = msgspec.json.encode(record)
    return zlib.compress(data) if len(data) > COMPRESS_BYTES else data


def decode(data: bytes) -> Record:
    """Return the record of its JSON.

    Raises:
        WireError: it is none.
    """
    try:
        if data[:1] != b"{":
            data = zlib.decompressobj().decompress(data, MAX_BYTES)
        return msgspec.json.decode(data, type=Record)
    except (msgspec.MsgspecError, zlib.error, UnicodeDecodeError, RecursionError) as error:
        raise WireError("topology", f"not a record of a topology ({error}): apply one again") from None


def _claim(manager: str, now_ns: int) -> Claim:
    return Claim(manager=manager, until_ns=now_ns + int(CLAIM_S * 1e9))


def _left_s(claim: Claim, now_ns: int) -> float:
    return (claim.until_ns - now_ns) / 1e9


def _own(record: Record, manager: str) -> None:
    if record.claim is None:
        raise UsageError(f"{describe(record)}: nothing is under way")
    if record.claim.manager != manager:
        raise UsageError(f"{describe(record)}, not by {manager}: read the record again")


def _after(record: Record, happening: Happening) -> RecordState:
    following = TRANSITIONS.get((record.state, happening))
    if following is None:
        raise UsageError(f"{describe(record)}: it can not be {happening} now; wait for its end")
    return following
