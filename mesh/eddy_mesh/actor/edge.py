"""Edges: one subscription that joins producers to an agent, with its overload policy and its ledger.

What may live here: how a batch passes an edge, and the mailbox at its end. Every event that is offered is, at every
moment, counted exactly once: waiting, taken, filtered, dropped or failed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Protocol

import numpy as np
import numpy.typing as npt

from eddy_mesh.batch import Batch, Kind
from eddy_mesh.conservation import Ledger
from eddy_mesh.selection import Plan, matcher, matches_kind, project

MAILBOX_EVENTS = 200_000
"""Events that may wait in a mailbox: about 0.4 s at 500,000 events/s."""

SAMPLE_ONE_IN = 10
"""What `Overload.SAMPLE` keeps while the mailbox is more than half full."""


class Overload(StrEnum):
    """What an edge does when the mailbox at its end is full."""

    BLOCK = "block"
    SPOOL = "spool"
    DROP_OLDEST = "drop-oldest"
    SAMPLE = "sample"


class Mailbox:
    """The bounded queue of one agent.

    Args:
        capacity: events that may wait; a single larger batch is let into an empty mailbox.
    """

    def __init__(self, capacity: int = MAILBOX_EVENTS) -> None:
        self.capacity = capacity
        self.events = 0
        self._waiting: deque[tuple[Edge, Batch, int]] = deque()
        self._arrived = asyncio.Event()
        self._left = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def oldest_ns(self) -> int | None:
        """When the batch that waits longest was offered, ns since 1970 UTC; None where none waits."""
        return self._waiting[0][2] if self._waiting else None

    def has_room(self, events: int) -> bool:
        """Whether a batch of so many events may come in."""
        return not self._waiting or self.events + events <= self.capacity

    def put(self, edge: Edge, batch: Batch) -> None:
        """Let a batch in; whether there is room is the caller's business."""
        self._waiting.append((edge, batch, edge.last_ns))
        self.events += batch.count
        self._arrived.set()

    async def arrival(self) -> None:
        """Wait until there is a batch."""
        while not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()

    def pop(self) -> tuple[Edge, Batch]:
        """Return the oldest batch; there must be one."""
        edge, batch, _ = self._waiting.popleft()
        self.events -= batch.count
        self._left.set()
        return edge, batch

    async def change(self) -> None:
        """Wait until something has left, or `wake` was called."""
        self._left.clear()
        await self._left.wait()

    def wake(self) -> None:
        """Let those who wait for room look again."""
        self._left.set()

    def withdraw(self, edge: Edge) -> list[Batch]:
        """Take out all that waits for an edge and return it, oldest first."""
        taken = [batch for owner, batch, _ in self._waiting if owner is edge]
        self._waiting = deque(held for held in self._waiting if held[0] is not edge)
        self.events -= sum(batch.count for batch in taken)
        self._left.set()
        return taken

    def evict(self, edge: Edge, events: int) -> int:
        """Throw away the oldest batches of an edge until so many events fit; return how many events were lost."""
        lost = 0
        kept: deque[tuple[Edge, Batch, int]] = deque()
        while self._waiting:
            owner, batch, arrived_ns = self._waiting.popleft()
            if owner is edge and self.events + events > self.capacity:
                lost += batch.count
                self.events -= batch.count
            else:
                kept.append((owner, batch, arrived_ns))
        self._waiting = kept
        return lost


class Spool(Protocol):
    """The disk behind an edge with policy ``spool``."""

    def keep(self, edge: Edge, batch: Batch) -> bool:
        """Keep a batch until it is settled, and put it into the mailbox in its turn; return False without room."""
        ...

    def settled(self, batch: Batch) -> None:
        """Forget a batch that came from `keep`: it was handled, or will never be."""
        ...


class Edge:
    """One edge of the mesh, as its consuming side sees it.

    Args:
        name: ``<from> > <to>``.
        plan: select/project statement, or None for everything.
        mailbox: of the agent at the end.
        overload: what happens when it is full.
        spill: for ``spool``: what keeps the batches.
        part: marks the events that are this edge's, before the statement selects; None for all.

    Attributes:
        is_left: whether nothing more will be offered along it.
        is_settled: whether, besides, all that it took survives a crash, also what was made of it.
    """

    def __init__(
        self,
        name: str,
        plan: Plan | None,
        mailbox: Mailbox,
        overload: Overload = Overload.BLOCK,
        spill: Spool | None = None,
        part: Callable[[Batch], npt.NDArray[np.bool_]] | None = None,
    ) -> None:
        self._part = part
        self.plan = plan
        self.overload = overload
        self.ledger = Ledger(name, policy=str(overload))
        self.accepted = 0
        self.completed = 0
        self.last_ns = 0
        self.closed = ""
        self.is_left = False
        self.is_settled = False
        self._has_ended = False
        self._mailbox = mailbox
        self._match = None if plan is None else matcher(plan)
        self._spill = spill
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []

    def wants(self, kind: Kind, origin: str) -> bool:
        """Whether the statement can match events of that kind and origin at all."""
        return self.plan is None or matches_kind(self.plan, kind, origin)

    def select(self, batch: Batch) -> Batch:
        """Return what the statement lets through, having counted the batch as offered and the rest as filtered."""
        chosen = batch if self._part is None else batch.filter(self._part(batch))
        if self._match is not None:
            chosen = chosen.filter(self._match(chosen))
        if self.plan is not None and chosen.count:
            chosen = project(self.plan, chosen)
        self.ledger.offered += batch.count  # not before: a statement that raises leaves the events with the caller
        self.ledger.filtered += batch.count - chosen.count
        return chosen

    def has_room(self, events: int) -> bool:
        """Whether a batch of so many events can be offered now; only an edge with policy ``block`` ever says no."""
        return bool(self.closed) or self.overload is not Overload.BLOCK or self._mailbox.has_room(events)

    async def room(self, events: int) -> None:
        """Wait until `has_room`."""
        while not self.has_room(events):
            await self._mailbox.change()

    def close(self, reason: str) -> None:
        """Let nothing more in, because the agent at the end will take nothing: it is dropped for that reason.

        An edge with policy ``spool`` goes on: its disk is there for the agent's next life.
        """
        if self.overload is not Overload.SPOOL:
            self.closed = reason
            self._mailbox.wake()

    def reopen(self) -> None:
        """Undo `close`."""
        self.closed = ""

    def refuse(self, batch: Batch, reason: str) -> None:
        """Count a batch as offered, and what the statement lets through of it as dropped."""
        self.ledger.drop(reason, self.select(batch).count)

    def offer(self, batch: Batch, now_ns: int) -> None:
        """Pass a batch along the edge. With policy ``block`` wait for `room` before, or the mailbox overflows."""
        self.last_ns = now_ns
        chosen = self.select(batch)
        if not chosen.count:
            return
        if self.closed:
            self.ledger.drop(self.closed, chosen.count)
            return
        if self.overload is Overload.SPOOL and self._spill is not None:
            self._spool(chosen)
        elif self.overload is Overload.BLOCK:
            self.accept(chosen)
        elif not self._mailbox.has_room(chosen.count):
            self._overloaded(chosen)
        else:
            self.accept(self._sampled(chosen) if self.overload is Overload.SAMPLE else chosen)

    def accept(self, batch: Batch) -> None:
        """Put a batch that was selected before into the mailbox."""
        if batch.count:
            self.ledger.queued += batch.count
            self.accepted += batch.count
            self._mailbox.put(self, batch)

    def done(self, batch: Batch, filtered: int, failed: Mapping[str, int]) -> None:
        """Settle a batch that the agent has handled; what was neither filtered nor failed was taken.

        Args:
            batch: what was handled.
            filtered: number of events that the agent left out on purpose.
            failed: number of events that it could not take, by reason.
        """
        self.ledger.queued -= batch.count
        self.ledger.filtered += filtered
        for reason, count in failed.items():
            self.ledger.fail(reason, count)
        self.ledger.out += batch.count - filtered - sum(failed.values())
        self._settle(batch)

    def discard(self, batch: Batch, reason: str) -> None:
        """Settle a batch that will never be handled."""
        self.ledger.queued -= batch.count
        self.ledger.drop(reason, batch.count)
        self._settle(batch)

    def recovered(self, events: int) -> None:
        """Count events that an earlier run of the host process left behind this edge as offered and accepted."""
        self.ledger.offered += events
        self.ledger.queued += events
        self.accepted += events

    def give_up(self, events: int, reason: str) -> None:
        """Settle so many events that were accepted and that can not be read any more."""
        self.ledger.queued -= events
        self.ledger.drop(reason, events)
        self._completed(events)

    def _settle(self, batch: Batch) -> None:
        if self._spill is not None:
            self._spill.settled(batch)
        self._completed(batch.count)

    def told(self) -> Mapping[str, object]:
        """Return what the heartbeat shows of it beside its account, ``problem`` above all; most have nothing to say."""
        return {}

    @property
    def is_through(self) -> bool:
        """Whether nothing more will be offered along it, and nothing of it waits that anybody will handle."""
        return self.is_left and (self._has_ended or not self.ledger.queued)

    def end(self) -> None:
        """Let nobody wait for what is not handled yet: the agent has ended for good."""
        self._has_ended = True
        self._completed(0)

    async def until_completed(self, mark: int) -> None:
        """Wait until so many events, counted as `accepted` is, have been handled or discarded, or the agent ended."""
        if self.completed >= mark or self._has_ended:
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append((mark, waiter))
        await waiter

    def _completed(self, events: int) -> None:
        self.completed += events
        for mark, waiter in self._waiters:
            if (self.completed >= mark or self._has_ended) and not waiter.done():
                waiter.set_result(None)
        self._waiters = [held for held in self._waiters if not held[1].done()]

    def _spool(self, batch: Batch) -> None:
        if self._spill is None or not self._spill.keep(self, batch):
            self.ledger.drop("spool_full", batch.count)
            return
        self.ledger.queued += batch.count
        self.accepted += batch.count

    def _sampled(self, batch: Batch) -> Batch:
        if self._mailbox.events * 2 <= self._mailbox.capacity:
            return batch
        kept = batch.take(np.arange(0, batch.count, SAMPLE_ONE_IN))
        self.ledger.drop("sampled", batch.count - kept.count)
        return kept

    def _overloaded(self, batch: Batch) -> None:
        if self.overload is Overload.DROP_OLDEST:
            lost = self._mailbox.evict(self, batch.count)
            self.ledger.queued -= lost
            self.ledger.drop("overload", lost)
            self._completed(lost)
        if self.overload is Overload.DROP_OLDEST and self._mailbox.has_room(batch.count):
            self.accept(batch)
        else:
            self.ledger.drop("overload", batch.count)
