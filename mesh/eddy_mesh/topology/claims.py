"""Claims: which manager carries a change out, and when another one may take it over. Pure: time comes in.

What may live here: the claim on a record and its renewals. Clocks of two machines are never compared. A manager renews
its claim by writing; whoever sees, for `CLAIM_S` of a clock of its own, that nothing was written may take it over, and
whoever could not write for so long stops.
"""

from __future__ import annotations

import msgspec

from eddy_mesh.errors import UsageError
from eddy_mesh.topology.record import Claim, Record, describe

CLAIM_KEY = "claim"
"""Key of the newest `Renewal`, apart from the record so that its history holds changes only."""
CLAIM_S = 5.0
"""How long a manager answers for a change unless it renews its claim."""


class Renewal(msgspec.Struct, frozen=True, kw_only=True):
    """That a manager, ``<host>/<agent>``, still carries out the change with this revision."""

    revision: int
    manager: str


class Watch:
    """What a manager sees of the record while it carries nothing out."""

    def __init__(self) -> None:
        self._mark: tuple[int, int] | None = None
        self._since_s = 0.0

    def rests(self, mark: tuple[int, int], now_s: float) -> bool:
        """Whether nothing was written for `CLAIM_S`.

        Args:
            mark: which writing of the record and which of the claim was read, by the numbers of the store.
            now_s: time of any clock that only goes forward, always the same, s.
        """
        if mark != self._mark:
            self._mark, self._since_s = mark, now_s
        return now_s - self._since_s >= CLAIM_S


def is_over(record: Record, manager: str, *, rests: bool) -> bool:
    """Whether a change is under way that nobody carries out.

    Args:
        record: the record.
        manager: ``<host>/<agent>`` that asks, and that carries nothing out: its own claim is from before a restart.
        rests: what `Watch` tells.
    """
    return record.claim is not None and (record.claim.manager == manager or rests)


def own(record: Record, manager: str) -> None:
    """Check that a manager carries a change out.

    Raises:
        UsageError: nothing is under way, or another manager carries it out.
    """
    if record.claim is None:
        raise UsageError(f"{describe(record)}: nothing is under way")
    if record.claim.manager != manager:
        raise UsageError(f"{describe(record)}, not by {manager}: read the record again")


def renewal(record: Record, manager: str) -> Renewal:
    """Return what the manager of a change writes so that nobody takes it over.

    Raises:
        UsageError: nothing is under way, or another manager carries it out.
    """
    own(record, manager)
    return Renewal(revision=record.revision, manager=manager)


def taken_over(record: Record, manager: str) -> Record:
    """Return the record of a change with the claim of another manager; to be asked where `is_over`."""
    return msgspec.structs.replace(record, claim=Claim(manager=manager))
