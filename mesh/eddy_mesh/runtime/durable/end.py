"""The consuming end of a durable edge at an agent: a receiver, begun when whoever took before has ended.

What may live here: `DurableEnd`. The receiver itself is in `eddy_mesh.runtime.durable.receiver`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

import msgspec
import numpy as np
import numpy.typing as npt

from eddy_mesh.actor.cell import Cell
from eddy_mesh.actor.edge import Edge
from eddy_mesh.actor.surroundings import Surroundings
from eddy_mesh.batch import Batch
from eddy_mesh.cer import Value
from eddy_mesh.commands import State
from eddy_mesh.config import InEdge, Partition, Retention
from eddy_mesh.errors import BusError
from eddy_mesh.runtime.durable.edge import DurableEdge, Share
from eddy_mesh.runtime.durable.intake import GivenUp, Intake
from eddy_mesh.runtime.durable.receiver import DurableReceiver
from eddy_mesh.runtime.ends import FENCE_S, Fences
from eddy_mesh.task import Task

RETRY_S = 0.5
STOP_S = 15.0
"""Longest wait for what is in hand: broken off, it comes again, and another shape of the edge waits for that."""
LOOK_S = 0.1
"""Time between two looks whether a stream that ends is empty."""

SHAPE = ("partition", "instance", "instances")
"""What of its table an end is made of; it does not care who fills the stream, and takes up a new size as it is."""

GONE = frozenset({State.FAILED, State.STOPPED})
"""States in which an agent has nothing in hand."""
DEAF = GONE | {State.PAUSED}
"""States in which an agent takes nothing: its stream will not get empty."""

Known = Callable[[Batch], Awaitable[npt.NDArray[np.bool_]]]


class _FromStream(Edge):
    """An edge of whose events the stream knows: what the agent gives up is no loss, it comes again.

    Attributes:
        broken_at: how many events, in the order in which they came, were settled before the first that was given up
            since somebody set it to None.
        receiver: what takes the events from the stream; None while nothing does.
        problem: why the last receiver ended; "" where it goes on.
    """

    broken_at: int | None = None
    receiver: DurableReceiver | None = None
    problem: str = ""

    def told(self) -> Mapping[str, object]:
        """Return the status of the receiver."""
        if self.receiver is None:
            return {}
        status = self.receiver.status()
        return {**status, "problem": self.problem or status["problem"]}

    def discard(self, batch: Batch, reason: str) -> None:  # noqa: ARG002  # none is lost
        """Settle a batch as if it had never been offered."""
        if self.broken_at is None:
            self.broken_at = self.completed
        self.ledger.offered -= batch.count
        self.ledger.queued -= batch.count
        self._settle(batch)


class DurableEnd:
    """The consuming end of a durable edge: takes from the edge's stream and acknowledges what was handled.

    Args:
        spec: the edge.
        cell: the agent.
        around: the host process.
    """

    def __init__(self, spec: InEdge, cell: Cell, around: Surroundings) -> None:
        self.spec = spec
        self._cell = cell
        self._around = around
        self._edge = _FromStream(f"{spec.name}@{spec.generation} (stream) > {cell.name}", None, cell.mailbox)
        self._running: asyncio.Task[None] | None = None
        self._begin = 0  # events that were accepted before this receiver's first
        self._is_ending = False
        self._finishing = False

    @property
    def flow(self) -> str:
        """A durable edge has none."""
        return ""

    @property
    def edges(self) -> list[Edge]:
        """Edges of the agent that belong to it."""
        return [self._edge]

    @property
    def _durable(self) -> DurableEdge:
        spec = self.spec
        return durable_edge(self._around.backplane, spec.name, spec.partition, spec.retention)

    def goes_on(self, wanted: InEdge) -> bool:
        """Whether it is the end that a table asks for."""
        is_same = all(getattr(self.spec, key) == getattr(wanted, key) for key in ("name", "delivery", *SHAPE))
        return is_same and not self._is_ending

    def adopt(self, wanted: InEdge) -> None:
        """Go on by a table for which it `goes_on`."""
        self.spec = wanted
        if self._edge.receiver is not None:
            self._edge.receiver.change(self._durable)

    async def begin(self) -> None:
        """Be an edge of the agent; nothing is taken before `take`."""
        self._cell.edges.append(self._edge)

    def take(self) -> None:
        """Begin to take, now that whoever took before has ended: the stream has held what came meanwhile."""
        if self._running is None and not self._finishing:
            self._running = asyncio.get_running_loop().create_task(self._run(), name=f"edge {self.spec.name}")

    async def _run(self) -> None:
        cell, around, told = self._cell, self._around, ""
        while not self._finishing:
            spec = self.spec
            self._give_back()
            self._begin, self._edge.broken_at = self._edge.accepted, None
            intake = Intake(self._deliver, self._handled, cell.notice, self._settle, known=self._known)
            folder = around.state_of(cell.name) / "received"
            receiver = DurableReceiver(around.bus, self._durable, share_of(spec), folder, intake, self._edge.ledger)
            self._edge.receiver = receiver
            try:
                await receiver.run()
            except Exception as error:  # noqa: BLE001  # nothing was acknowledged: it comes again
                self._edge.problem = str(error)
                if receiver.counts["acknowledged"] or told != str(error):  # else nothing has changed since
                    cell.notice("edge_waits", **{"edge.name": spec.name, "error.message": str(error)})
                told = str(error)
                await asyncio.sleep(RETRY_S)

    async def _deliver(self, batch: Batch) -> None:
        while True:
            # Until the agent is back it stays in the stream.
            while self._cell.state_now in GONE or self._edge.closed:  # noqa: ASYNC110
                await asyncio.sleep(RETRY_S)
            await self._edge.room(batch.count)
            if not self._edge.closed:
                break
        self._edge.offer(batch, self._around.now_ns())

    async def _handled(self) -> None:
        edge = self._edge
        await edge.until_completed(edge.accepted)
        if edge.broken_at is not None:
            text = f"agent {self._cell.name} gave up events of edge {self.spec.name}; they are delivered again"
            raise GivenUp(text, edge.broken_at - self._begin)
        edge.problem = ""

    def _give_back(self) -> None:
        """Take back what waits in the mailbox and was not acknowledged: it is delivered again."""
        for batch in self._cell.mailbox.withdraw(self._edge):
            self._edge.discard(batch, "given_back")

    async def _settle(self) -> None:
        # The stream must not forget what the agent was given before what it made of that is in the streams behind it.
        await self._cell.settled()
        if isinstance(self._cell.agent, Task):
            await self._cell.agent.settle()

    async def _known(self, batch: Batch) -> npt.NDArray[np.bool_]:
        while self._cell.state_now is State.STARTING:  # noqa: ASYNC110  # a store opens, with what a crash left in it
            await asyncio.sleep(RETRY_S)
        known: Known | None = getattr(self._cell.agent, "known", None)
        return np.zeros(batch.count, np.bool_) if known is None else await known(batch)

    # --- the end

    async def finish(self, fences: Fences, rest_until_s: float | None = None) -> None:  # noqa: ARG002  # the stream is the fence
        """Have what was taken handled and acknowledged; the rest is for whoever consumes next.

        Args:
            fences: not needed.
            rest_until_s: nobody consumes next: until then, in the loop's time, the rest is taken as well, and when
                nothing is left the stream is deleted; else it stays and an operator is told.
        """
        self._is_ending = True
        if rest_until_s is not None and not self._finishing:
            self.take()
            await self._take_rest(rest_until_s)
        self._finishing = True
        try:
            may_stop = self._running is not None and not self._running.done() and self._cell.state_now not in GONE
            if self._edge.receiver is not None and may_stop:
                with suppress(TimeoutError):
                    async with asyncio.timeout(FENCE_S if self._cell.state_now is State.PAUSED else STOP_S):
                        await self._edge.receiver.stop()
        finally:
            self.close()
        if self._running is not None:
            await asyncio.gather(self._running, return_exceptions=True)
        self._edge.receiver = None
        self._give_back()
        if rest_until_s is not None:
            await self._end_stream()

    def close(self) -> None:
        """Break off; what was not acknowledged is delivered again."""
        if self._running is not None:
            self._running.cancel()

    async def _take_rest(self, until_s: float) -> None:
        loop = asyncio.get_running_loop()
        while loop.time() < until_s and self._cell.state_now not in DEAF and await self._left() != 0:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_S)

    async def _left(self) -> int | None:
        """Return how many messages the stream holds, those in hand included; None where the server does not say."""
        try:
            status = await self._around.bus.stream_status(self._durable.stream)
        except BusError:
            return None
        return 0 if status is None else status.messages

    async def _end_stream(self) -> None:
        # With several instances each comes here, and the last one finds what is left of all.
        left, stream = await self._left(), self._durable.stream
        if left == 0:
            with suppress(BusError):  # it stays, empty
                await self._around.bus.delete_stream(stream)
            return
        told: dict[str, Value] = {"edge.name": self.spec.name, "edge.stream": stream, "edge.messages": left}
        self._cell.notice("edge_leftover", **told)


def durable_edge(backplane: str, name: str, partition: Partition, retention: Retention) -> DurableEdge:
    """Return an edge as its sender and receivers see it."""
    edge = DurableEdge(backplane=backplane, name=name, field=partition.field, partitions=partition.of)
    return msgspec.structs.replace(edge, max_bytes=retention.max_bytes) if retention.max_bytes else edge


def share_of(spec: InEdge) -> Share:
    """Return which part of its stream an end takes."""
    return Share(spec.instance, spec.instances, partitioned=bool(spec.partition.field))
