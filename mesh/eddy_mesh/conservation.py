"""Conservation: for every edge, ``in = out + filtered + dropped + failed + queued``, always.

What may live here: the counters of an edge and the check. The runtime counts; an agent's author can not forget to.
"""

from __future__ import annotations

import msgspec


class Ledger(msgspec.Struct):
    """Counters of one edge since its host process started, in events.

    Attributes:
        edge: ``<from> > <to>``; ``outside`` stands for the world beyond the mesh.
        offered: in: events that reached the edge.
        out: events that the agent at its end has taken.
        filtered: events that the edge's statement, or the agent on purpose, left out.
        dropped: events lost where policy allows it, by reason.
        failed: events sent to the dead letters.
        queued: events that wait or are being handled now.
        policy: overload policy of the edge.
    """

    edge: str
    offered: int = 0
    out: int = 0
    filtered: int = 0
    dropped: dict[str, int] = {}
    failed: int = 0
    queued: int = 0
    policy: str = "block"

    def drop(self, reason: str, count: int) -> None:
        """Count events lost for a reason."""
        if count:
            self.dropped[reason] = self.dropped.get(reason, 0) + count

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
