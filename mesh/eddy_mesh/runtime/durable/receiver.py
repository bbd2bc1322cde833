"""The consuming end of a durable edge: takes messages from the edge's stream to the agent, each once.

What may live here: `DurableReceiver`. A message passes four stations, each a loop of its own: fetched, delivered to
the agent, handled and entered in the state file, acknowledged. Until the last the server has it; whatever dies in
between, it comes again, and is known again by the state file (see `eddy_mesh.runtime.durable.received`) or, where that
died with the host, by the ids in a store.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import structlog

from eddy_mesh.batch import Batch
from eddy_mesh.bus import Bus, DurableConsumer, DurableMessage, NoResponders, RequestTimeout
from eddy_mesh.cer import Value
from eddy_mesh.conservation import Ledger
from eddy_mesh.errors import BusError, StoreError, WireError
from eddy_mesh.runtime.durable.acknowledging import Held, acknowledge, is_gone, keep_in_hand
from eddy_mesh.runtime.durable.binding import InUse, Others, bind, leave
from eddy_mesh.runtime.durable.edge import DurableEdge, Share, consumer_name, read_message, told_count
from eddy_mesh.runtime.durable.intake import GivenUp, Intake, Pace
from eddy_mesh.runtime.durable.patience import Patience
from eddy_mesh.runtime.durable.received import Received

LOOK_EVERY = 10
"""Fetches without a message after which the receiver looks whether its consumer is still there: nobody tells it."""


class DurableReceiver:
    """The receiver; see the module. `run` is its life; ending that by force loses nothing.

    Args:
        bus: the bus.
        edge: the edge.
        share: which part of it.
        folder: where its state file is; made if it is not there, and survives the host process.
        intake: the agent.
        ledger: of the agent's edge: messages that can not be decoded are counted in it.
        pace: how fast.
    """

    def __init__(
        self,
        bus: Bus,
        edge: DurableEdge,
        share: Share,
        folder: Path,
        intake: Intake,
        ledger: Ledger,
        *,
        pace: Pace = Pace(),  # noqa: B008  # frozen
    ) -> None:
        self.counts = {"delivered": 0, "acknowledged": 0, "repeats": 0, "known": 0, "not_decoded": 0}
        self._bus = bus
        self._edge = edge
        self._share = share
        folder.mkdir(parents=True, exist_ok=True)
        self._name = consumer_name(edge, share)
        self._path = folder / f"{self._name}.received"
        self._intake = intake
        self._ledger = ledger
        self._pace = pace
        self._received = Received()
        self._held: dict[tuple[int, int], Held] = {}
        self._held_bytes = 0
        self._typical_bytes = 64 * 1024
        self._events = 0  # that were delivered
        self._empty = 0  # fetches in a row that found nothing
        self._fetched: asyncio.Queue[Held | None] = asyncio.Queue()
        self._delivered: list[Held] = []
        self._given_back: list[DurableMessage] = []  # fetched, and not delivered before the stop
        self._all_delivered = False
        self._arrived = asyncio.Event()  # something was delivered, or all was
        self._left = asyncio.Event()  # something was acknowledged
        self._stopping = asyncio.Event()
        self._ended = asyncio.Event()
        self._running = False
        self._connection = 0  # number of the bus's connection with which the consumer was bound
        self._patience = Patience(edge.name, intake.notice, pace.retry_s)
        self._log = structlog.get_logger().bind(edge=edge.name, consumer=self._name)

    async def run(self) -> None:
        """Take messages until `stop`; a server that is away is waited for.

        Raises:
            BusError: the bus was closed.
            Exception: what the agent's ``handled`` or ``settle`` raised; what was not acknowledged comes again.
        """
        self._running = True
        try:
            self._received = Received.load(self._path)
            consumer = await self._bind()
            if consumer is not None:
                await self._take_all(consumer)
                self._received.is_open = False
                await self._record()
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        finally:
            self._ended.set()

    async def stop(self) -> None:
        """Fetch nothing more, let the agent handle what it was given, acknowledge that, and return.

        What was fetched and not delivered goes to the next consumer. Waits for an agent that is paused and for a server
        that is away; who does not want to wait cancels `run` as well.
        """
        self._stopping.set()
        self._left.set()
        if self._running:
            await self._ended.wait()

    def change(self, edge: DurableEdge) -> None:
        """Take up another size of the stream, when it is bound the next time; all else of the edge is as it was."""
        self._edge = edge

    def status(self) -> dict[str, object]:
        """Return what its agent's heartbeat shows: messages in hand, what is waited for ("" for nothing), counts."""
        return {
            "edge": self._edge.name,
            "consumer": self._name,
            "in_hand": len(self._held),
            "problem": self._patience.problem,
            **self.counts,
        }

    async def _take_all(self, consumer: DurableConsumer) -> None:
        async with asyncio.TaskGroup() as group:
            keeping = group.create_task(keep_in_hand(self._held, self._pace.ack_wait_s))
            group.create_task(self._fetch(consumer))
            group.create_task(self._deliver())
            await self._settle()
            await self._leave()
            keeping.cancel()

    # --- fetching

    async def _bind(self) -> DurableConsumer | None:
        """Return the consumer, or None when it was told to stop before there was one."""
        others, clock = Others(), asyncio.get_running_loop().time
        way, ack_wait_s = (self._received, self._path), self._pace.ack_wait_s
        while not self._stopping.is_set():
            connection = self._bus.stats.reconnects
            try:
                consumer = await bind(self._bus, self._edge, self._share, *way, ack_wait_s, others)
            except (BusError, OSError) as error:
                if isinstance(error, InUse) and others.look(error.consumers, clock(), ack_wait_s):
                    told: dict[str, Value] = {"edge.name": self._edge.name, "edge.messages": others.messages}
                    self._intake.notice("edge_taken_over", **told)
                    continue
                self._patience.waits("consumer", error)
                await self._rest()
            else:
                self._patience.waits("consumer", None)
                self._connection = connection
                return consumer
        return None

    async def _fetch(self, consumer: DurableConsumer) -> None:
        bound: DurableConsumer | None = consumer
        try:
            while bound is not None and not self._stopping.is_set():
                count = self._room()
                if not count:
                    self._left.clear()
                    await self._left.wait()
                elif not self._bus.connected:
                    await self._rest()
                elif self._has_gap:
                    bound = await self._renew(bound)
                else:
                    bound = await self._fetch_from(bound, count)
        finally:
            late = await bound.stop() if bound is not None else []
        for message in late:
            self._take(message)
        self._fetched.put_nowait(None)

    async def _fetch_from(self, consumer: DurableConsumer, count: int) -> DurableConsumer | None:
        """Fetch once; return the consumer to go on with, a new one where this one is gone."""
        try:
            # One fetch at a time: the server deals messages out to several in turn, and their order would be lost.
            messages = await consumer.fetch(count, self._pace.fetch_s)
        except BusError as error:
            self._patience.waits("fetch", error)
            await self._rest()
            await consumer.stop()
            return await self._bind()
        self._patience.waits("fetch", None)
        if self._has_gap:  # these may be newer than what was lost on the way: all come again, in order
            return consumer
        for message in messages:
            self._take(message)
        if messages:
            self._empty = 0
            self._typical_bytes = 1 + sum(len(message.data) for message in messages) // len(messages)
            return consumer
        self._empty += 1
        if self._empty % LOOK_EVERY or not await is_gone(self._bus, self._edge.stream, self._name):
            return consumer
        await consumer.stop()
        return await self._bind()

    @property
    def _has_gap(self) -> bool:
        """Whether messages may have been lost on the way with a connection, and nobody else can have them."""
        return self._share.is_sole and self._bus.stats.reconnects != self._connection

    async def _renew(self, consumer: DurableConsumer) -> DurableConsumer | None:
        """Return a new consumer once all in hand is acknowledged: it begins with what was lost on the way."""
        await consumer.stop()
        while self._held:
            self._left.clear()
            await self._left.wait()
        return await self._bind()

    def _room(self) -> int:
        """Return how many messages to fetch."""
        by_count = self._pace.held_messages - len(self._held)
        by_size = (self._pace.held_bytes - self._held_bytes) // self._typical_bytes
        return max(0, min(by_count, max(by_size, not self._held), self._pace.fetch_messages))

    def _take(self, message: DurableMessage) -> None:
        key = (message.sequence, message.stored_ns)
        held = self._held.get(key)
        if held is not None:  # its acknowledgement wait has ended while it was in hand
            held.message = message
            self.counts["repeats"] += 1
            return
        held = Held(message, is_repeat=self._received.has(*key))
        self.counts["repeats"] += held.is_repeat
        self._held[key] = held
        self._held_bytes += len(message.data)
        self._fetched.put_nowait(held)

    # --- delivering

    async def _deliver(self) -> None:
        while (held := await self._fetched.get()) is not None:
            if not held.is_repeat:
                if self._stopping.is_set():
                    self._given_back.append(held.message)
                    self._forget(held)
                    continue
                await self._deliver_one(held)
            held.mark = self._events
            self._delivered.append(held)
            self._arrived.set()
        self._all_delivered = True
        self._arrived.set()

    async def _deliver_one(self, held: Held) -> None:
        message = held.message
        try:
            batch = read_message(message)
        except WireError as error:
            held.is_undecodable = True
            self.counts["not_decoded"] += 1
            count = told_count(message)
            self._ledger.offered += count
            self._ledger.drop("not_decoded", count)
            self._log.warning("message not decoded", subject=message.subject, reason=str(error))
            return
        if message.deliveries > 1 or message.sequence <= self._received.suspect:
            batch = await self._unknown(batch)
        if batch.count:
            await self._intake.deliver(batch)
            self._events += batch.count
            self.counts["delivered"] += batch.count

    async def _unknown(self, batch: Batch) -> Batch:
        known = self._intake.known
        if known is None:
            return batch
        mask = await self._patience.through("store", lambda: known(batch), StoreError, BusError)
        self.counts["known"] += int(mask.sum())
        return batch.filter(~mask)

    # --- settling and acknowledging

    async def _settle(self) -> None:
        while True:
            await self._arrived.wait()
            await self._gather()
            group, self._delivered = self._delivered, []
            self._arrived.clear()
            if group:
                await self._finish(group)
            if self._all_delivered and not self._delivered:
                return

    async def _gather(self) -> None:
        """Let a group gather: state file, store and server are asked once for many messages."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._pace.group_s):
                while len(self._delivered) < self._pace.group_messages and not self._all_delivered:
                    self._arrived.clear()
                    await self._arrived.wait()

    async def _finish(self, group: list[Held]) -> None:
        given_up: GivenUp | None = None
        try:
            await self._intake.handled()
        except GivenUp as error:
            given_up = error
            group = [held for held in group if held.mark <= error.handled]
        if group:
            await self._put_down(group)
        if given_up is not None:
            raise given_up

    async def _put_down(self, group: list[Held]) -> None:
        if self._intake.settle is not None:
            await self._patience.through("store", self._intake.settle, StoreError, BusError)
        for held in group:
            self._received.add(held.message.sequence, held.message.stored_ns)
        await self._record()
        await self._acknowledge(group)
        self.counts["acknowledged"] += len(group)
        for held in group:
            self._forget(held)

    def _forget(self, held: Held) -> None:
        if self._held.pop((held.message.sequence, held.message.stored_ns), None) is not None:
            self._held_bytes -= len(held.message.data)
        self._left.set()

    async def _record(self) -> None:
        """Write the state file; a disk that is full is waited for, because nothing may be acknowledged before."""

        async def save() -> None:
            self._received.save(self._path)

        await self._patience.through("state file", save, OSError)

    async def _acknowledge(self, group: list[Held]) -> None:
        """Return when the server has taken the acknowledgement of each message, or has no such consumer any more."""
        confirmed = True
        while True:
            try:
                await acknowledge(self._bus, group, self._pace.confirm_s, confirmed=confirmed)
            except RequestTimeout as error:
                confirmed = False  # the server answers no acknowledgement that it had taken before
                self._patience.waits("acknowledgement", error)
            except BusError as error:
                if not error.retryable:
                    raise
                if isinstance(error, NoResponders) and await is_gone(self._bus, self._edge.stream, self._name):
                    self._intake.notice("edge_consumer_gone", **{"edge.name": self._edge.name})
                    return
                self._patience.waits("acknowledgement", error)
                await asyncio.sleep(self._pace.retry_s)
            else:
                self._patience.waits("acknowledgement", None)
                return

    async def _leave(self) -> None:
        """Give back what was not delivered, and end a consumer that nobody else uses.

        A work queue needs no consumer to remember its position. Without one, whoever comes next gets what is left in
        order, and an edge of another shape can begin.
        """

        async def go() -> None:
            await leave(self._bus, self._edge, self._share, self._given_back, has_gap=self._has_gap)

        await self._patience.through("leave", go, BusError)

    # --- waiting

    async def _rest(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._pace.retry_s):
                await self._stopping.wait()
