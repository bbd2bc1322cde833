"""The work of an agent: it takes batches and settles them, and hands over what it makes.

What may live here: what happens between a batch's arrival in the mailbox and its entry in the accounts, and what an
agent sees of the runtime. The life of the agent (start, crash, commands) is in `eddy_mesh.actor.cell`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import numpy as np
import structlog

from eddy_mesh.actor.edge import Edge, Mailbox
from eddy_mesh.actor.hand import Hand, isolate
from eddy_mesh.actor.numbering import Numbering
from eddy_mesh.actor.settling import settle_behind
from eddy_mesh.actor.surroundings import Surroundings
from eddy_mesh.agent import Draft, Output, Refusal, Result, Source, Stateful
from eddy_mesh.batch import Batch
from eddy_mesh.bus import Bus
from eddy_mesh.cer import EventId, Value
from eddy_mesh.commands import State
from eddy_mesh.conservation import UNSENT, Ledger
from eddy_mesh.errors import BusError, StoreError
from eddy_mesh.task import HostControl, Task

TICK_S = 1.0
RETRY_S = 1.0

Instance = Stateful | Source | Task


class Work:
    """What one agent takes and makes. It is the `Outlet` of a source and the `Context` of a task.

    Args:
        name: unique on its host.
        surroundings: the host process.
        numbering: numbers what the agent makes.
        mailbox: where its edges put batches.
    """

    def __init__(self, name: str, surroundings: Surroundings, numbering: Numbering, mailbox: Mailbox) -> None:
        self.name = name
        self.state_now = State.STOPPED
        self.reason = ""
        self.made = 0
        self.last_ns = 0
        self.edges: list[Edge] = []
        self.mailbox = mailbox
        self.intake = Ledger(f"outside > {name}")
        self.published = Ledger(f"{name} > bus", policy="drop")
        self.agent: Instance | None = None
        self.is_source = False
        self._around = surroundings
        self._numbering = numbering
        self._go = asyncio.Event()
        self._hand: Hand | None = None
        self._due: deque[Output] = deque()  # made by a tick and not handed over yet
        self._is_open = False
        self._may_begin = asyncio.Event()  # cleared when the instance is about to be ended
        self._may_begin.set()
        self._engagements = 0
        self._at_rest = asyncio.Event()
        self._at_rest.set()
        self._log = structlog.get_logger().bind(agent=name)

    # --- what the agent sees: Outlet and Context

    @property
    def host(self) -> str:
        """Name of the host process."""
        return self._around.host

    @property
    def backplane(self) -> str:
        """Name of the mesh."""
        return self._around.backplane

    @property
    def state(self) -> Path:
        """Directory of this agent; exists, survives restarts."""
        return self._around.state_of(self.name)

    @property
    def bus(self) -> Bus:
        """The message bus."""
        return self._around.bus

    @property
    def control(self) -> HostControl:
        """The host process, for managers."""
        return self._around.control

    def now_ns(self) -> int:
        """Return ns since 1970 UTC."""
        return self._around.now_ns()

    async def fetch(self, ids: Sequence[EventId]) -> Sequence[Mapping[str, object]]:
        """Return the whole events with these ids, as far as any host process or archive still has them."""
        return await self._around.fetch(ids)

    async def emit(self, draft: Draft) -> None:
        """Hand over events; waits while paused or while an edge with policy ``block`` is full.

        A cancellation during that wait leaves the events with the caller, not counted; after it they are handed over
        whole, and the cancellation comes with the caller's next wait. So events are neither lost nor doubled by a stop.
        """
        if not draft.count:
            return
        if not self._go.is_set() and self.state_now is State.PAUSED:
            await self._go.wait()
        await self._around.room(self, draft.kind, self.host, draft.count)
        self.last_ns = self.now_ns()
        if self.is_source:
            self.intake.offered += draft.count
            self.intake.out += draft.count
        await _whole(self._pass_on(self.numbered(draft)))

    async def settled(self) -> None:
        """Wait until every agent of this host that was handed the events emitted so far has taken them, durably."""
        await settle_behind(self, self._around.downstream)

    def lost(self, reason: str, count: int) -> None:
        """Count events that the outside world offered and that were lost before they could be emitted."""
        self.intake.offered += count
        self.intake.drop(reason, count)

    def notice(self, event: str, **fields: Value) -> None:
        """Log, and emit as a ``derived`` event of the mesh, something that an operator must know."""
        self._around.notice(self, event, fields)

    # --- batches

    @contextmanager
    def _engaged(self) -> Iterator[None]:
        """What is done inside can not be broken off without loss or repetition: `_at_rest` waits for its end."""
        self._engagements += 1
        self._at_rest.clear()
        try:
            yield
        finally:
            self._engagements -= 1
            if not self._engagements:
                self._at_rest.set()

    async def _stay(self) -> None:
        """Begin nothing in an instance that is about to be ended; part of something that was begun goes on."""
        if not self._engagements:
            await self._may_begin.wait()

    async def _take_batches(self) -> None:
        while True:
            if self._hand is None:
                await self.mailbox.arrival()
            if not self._go.is_set():
                await self._go.wait()
                continue
            await self._take(self._hand or Hand(*self.mailbox.pop()))
            await asyncio.sleep(0)

    async def _take(self, hand: Hand) -> None:
        self._hand = hand
        self.last_ns = self.now_ns()
        try:
            if not hand.is_answered:
                await self._around.watched(self, hand.batch)
                hand.answer(await self._asked(hand))
            while hand.refusals:
                await self._stay()
                await self._bury(hand, hand.refusals.popleft())
            await self._hand_over(hand.outputs)
        except Exception:  # a defect of the runtime, or an output that can not be encoded
            self._hand = None
            hand.edge.discard(hand.batch, "agent_error")
            raise
        self._hand = None  # after a cancellation it stays in hand
        hand.edge.done(hand.batch, hand.filtered, hand.failed)

    async def _asked(self, hand: Hand) -> Result:
        try:
            return await self._offer(hand.batch)
        except Exception as error:  # noqa: BLE001  # a defect of the agent: find the events that trigger it
            self._log.exception("agent could not take a batch", edge=hand.edge.ledger.edge, events=hand.batch.count)
            with self._engaged():
                return await isolate(hand.batch, error, self._offer)

    async def _offer(self, batch: Batch) -> Result:
        """Return what the agent says of a batch; an outside that is away or full is waited for."""
        waits_for = ""
        while True:
            await self._stay()
            try:
                with self._engaged():
                    answer = self._taker().on_batch(batch, self.now_ns())
                    result = await answer if isinstance(answer, Awaitable) else answer
            except (StoreError, BusError) as error:
                if not error.retryable:
                    raise
                waits_for = str(error)
                if self.reason != waits_for:
                    self.reason = waits_for
                    self.notice("agent_waits", **{"agent.name": self.name, "error.message": str(error)})
            else:
                if waits_for:
                    self.reason = ""
                return result
            await asyncio.sleep(RETRY_S)

    def _taker(self) -> Stateful | Task:
        if self.agent is None or self.is_source:  # the protocol itself is slow to ask
            raise TypeError(f"agent {self.name} takes no events")  # a defect of the runtime
        return cast("Stateful | Task", self.agent)

    async def _bury(self, hand: Hand, refusal: Refusal) -> None:
        dead = hand.batch.take(np.asarray(refusal.rows, np.intp))
        with self._engaged():
            unsent = await self._around.bury(self, dead, refusal.reason, refusal.detail)
        for reason, count in ((refusal.reason, dead.count - unsent), (refusal.reason + UNSENT, unsent)):
            if count:
                hand.failed[reason] = hand.failed.get(reason, 0) + count

    # --- ticks

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            await self._go.wait()
            await self._tick_once()

    async def _tick_once(self, later_ns: int = 0) -> None:
        if self.agent is None or self.is_source or not self._is_open:
            return
        await self._stay()
        with self._engaged():
            result = self._taker().on_tick(self.now_ns() + later_ns)
            self._due.extend((await result if isinstance(result, Awaitable) else result).outputs)
        await self._hand_over(self._due)

    # --- the way out

    async def _hand_over(self, outputs: deque[Output]) -> None:
        """Hand over what the agent made; what a cancellation keeps from it stays where it is."""
        while outputs:
            output = outputs.popleft()
            if not output.count:
                continue
            batch = self.numbered(output) if isinstance(output, Draft) else output
            try:
                await self._around.room(self, batch.kind, batch.origin, batch.count)
                await self._stay()
            except asyncio.CancelledError:
                outputs.appendleft(batch)
                raise
            await self._pass_on(batch)

    def numbered(self, draft: Draft) -> Batch:
        """Return a draft as a batch with this agent's next numbers and without undeclared tags."""
        columns, undeclared = self._around.tags.admit(draft.columns)
        for name in undeclared:
            self.notice("undeclared_tag", **{"tag.name": name})
        if columns is not draft.columns:
            draft = Draft(draft.kind, draft.count, dict(columns))
        return self._numbering.number(draft, self.now_ns())

    async def _pass_on(self, batch: Batch) -> None:
        self.made += batch.count
        with self._engaged():
            await self._around.route(self, batch)

    # --- accounts

    def _close(self, reason: str) -> None:
        """Nobody will take what waits, nor what comes: count it as dropped, and keep no producer waiting.

        What waits for an edge with policy ``spool`` is left there for the agent's next life.
        """
        for edge in self.edges:
            edge.close(reason)
            if edge.closed:
                for batch in self.mailbox.withdraw(edge):
                    edge.discard(batch, reason)
        hand = self._hand
        if hand is not None and hand.edge.closed:
            self._hand = None
            hand.edge.discard(hand.batch, "cancelled")


async def _whole(work: Coroutine[None, None, None]) -> None:
    """Do work to its end; a cancellation that comes meanwhile comes again with the caller's next wait."""
    task = asyncio.ensure_future(work)
    cancelled = 0
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            cancelled += 1
            if cancelled > 1:  # whoever cancels twice does not want to wait for a server that is away
                task.cancel()
    current = asyncio.current_task()
    if cancelled and current is not None:
        current.cancel()
    task.result()
