"""Events that were taken and are not yet in a sealed file, by partition, in memory.

What may live here: what is held, since when, and what is due. Nothing here is thread-safe: the engine holds its lock.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from eddy_mesh.batch import Batch
from eddy_mesh.store.partition import Partition, partition_of


@dataclass(slots=True, eq=False)
class Pending:
    """Events of one partition.

    Attributes:
        partition: what they have in common.
        first_segment: journal segment that holds the first of them.
        batches: in order of arrival.
        rows: number of events.
        since_ns: when they were first seen by a look at the clock, ns since 1970 UTC, or None.
    """

    partition: Partition
    first_segment: int
    batches: list[Batch] = field(default_factory=list)
    rows: int = 0
    since_ns: int | None = None

    def replace_front(self, front: list[Batch], joined: Batch) -> None:
        """Put one batch in the place of the first ones, if they are still those."""
        held = self.batches[: len(front)]
        if len(held) == len(front) and all(one is other for one, other in zip(held, front, strict=True)):
            self.batches[: len(front)] = [joined]


class Held:
    """Everything that is held: what waits, and what is being sealed. Both are seen by queries.

    Attributes:
        rows: number of events.
    """

    def __init__(self) -> None:
        self._waiting: dict[Partition, Pending] = {}
        self._sealing: list[Pending] = []

    @property
    def rows(self) -> int:
        """Number of events."""
        return sum(pending.rows for pending in self.all())

    def all(self) -> list[Pending]:
        """Return what is held, in order of arrival within a partition."""
        return [*self._sealing, *self._waiting.values()]

    def add(self, batch: Batch, segment: int) -> None:
        """Hold a batch that the journal has in ``segment``."""
        if batch.count == 0:
            return
        partition = partition_of(batch)
        pending = self._waiting.setdefault(partition, Pending(partition, segment))
        pending.batches.append(batch)
        pending.rows += batch.count

    def due(self, now_ns: int, max_rows: int, max_age_ns: int) -> list[Pending]:
        """Return what has enough events or is old enough; age counts from the first call that sees it."""
        found = []
        for pending in self._waiting.values():
            pending.since_ns = now_ns if pending.since_ns is None else min(pending.since_ns, now_ns)
            if pending.rows >= max_rows or now_ns - pending.since_ns >= max_age_ns:
                found.append(pending)
        return found

    def waiting(self) -> list[Pending]:
        """Return everything that waits."""
        return list(self._waiting.values())

    def start(self, taken: Iterable[Pending]) -> None:
        """Mark as being sealed: what arrives from now on is held apart."""
        for pending in taken:
            del self._waiting[pending.partition]
            self._sealing.append(pending)

    def done(self, pending: Pending) -> None:
        """Forget what is sealed."""
        self._sealing.remove(pending)

    def give_back(self) -> None:
        """Let what could not be sealed wait again, before what has arrived since."""
        for pending in self._sealing:
            later = self._waiting.get(pending.partition)
            if later is not None:
                pending.batches += later.batches
                pending.rows += later.rows
            self._waiting[pending.partition] = pending
        self._sealing.clear()

    def first_segment(self, default: int) -> int:
        """Return the first journal segment that is still needed."""
        return min((pending.first_segment for pending in self.all()), default=default)
