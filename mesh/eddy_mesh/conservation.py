"""Conservation: for every edge, ``in = out + filtered + dropped + failed + queued``, always.

What may live here: the counters of an edge and the check. The runtime counts; an agent's author can not forget to.
"""

from __future__ import annotations

import msgspec

UNSENT = "_unsent"
"""Ends the reason of events whose dead letter could not be sent: they are kept nowhere."""


class Ledger(msgspec.Struct):
    """Counters of one edge since its host process started, in events.

    Attributes:
        edge: ``<from> > <to>``; ``outside`` stands for the world beyond the mesh.
        offered: in: events that reached the edge.
        out: events that the agent at its end has taken.
        filtered: events that the edge's statement, or the agent on purpose, left out.
        dropped: events lost where policy allows it, by reason.
        failed: events that the agent at its end could not take, and that were sent to the dead letters.
        queued: events that wait or are being handled now.
        policy: overload policy of the edge.
        failures: the same events as ``failed``, by reason; a reason that ends in `UNSENT` is of those whose dead letter
            could not be sent.
    """

    edge: str
    offered: int = 0
    out: int = 0
    filtered: int = 0
    dropped: dict[str, int] = {}
    failed: int = 0
    queued: int = 0
    policy: str = "block"
    failures: dict[str, int] = {}

    def drop(self, reason: str, count: int) -> None:
        """Count events lost for a reason."""
        if count:
            self.dropped[reason] = self.dropped.get(reason, 0) + count

    def fail(self, reason: str, count: int) -> None:
        """Count events that the agent could not take for a reason."""
        if count:
            self.failed += count
            self.failures[reason] = self.failures.get(reason, 0) + count

    @property
    def lost(self) -> int:
        """Events dropped for any reason."""
        return sum(self.dropped.values())

    @property
    def difference(self) -> int:
        """Events that are not accounted for; 0 where the edge balances, negative where more came out than went in."""
        return self.offered - self.out - self.filtered - self.lost - self.failed - self.queued

    @property
    def balanced(self) -> bool:
        """Whether every event that reached the edge is accounted for."""
        return self.difference == 0
