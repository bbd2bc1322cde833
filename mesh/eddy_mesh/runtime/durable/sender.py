"""The producing end of a durable edge: an agent that puts every batch into the edge's stream.

What may live here: `DurableSender`. It is a `Task` like any other, so mailbox, overload policy, accounts, and the
waiting for a server that is away are the runtime's. A batch is done when the server has stored all of it; a repeat of
what was stored already is known by its message id, and stored once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import NamedTuple

from eddy_mesh import codec, subjects
from eddy_mesh.agent import Refusal, Result
from eddy_mesh.batch import Batch
from eddy_mesh.bus import NoResponders, StreamFull
from eddy_mesh.cer import Value
from eddy_mesh.errors import BusError, UsageError
from eddy_mesh.partition import split_by
from eddy_mesh.runtime.durable.edge import DurableEdge, ensure_stream, message_id
from eddy_mesh.task import Answer, Context

WINDOW = 64
"""Publishes of one batch that wait for their acknowledgement at once."""

TIMEOUT_S = 5.0
HEADER_BYTES = 4096


class _Part(NamedTuple):
    partition: int
    batch: Batch
    data: bytes


class DurableSender:
    """The agent; see the module.

    Args:
        edge: the edge. Its field must be among those that the edge's statement lets through.
        timeout_s: longest wait for the acknowledgement of a publish, s; then the batch is offered again.
    """

    queries: frozenset[str] = frozenset()

    def __init__(self, edge: DurableEdge, *, timeout_s: float = TIMEOUT_S) -> None:
        self._edge = self._wanted = edge
        self._timeout_s = timeout_s
        self._context: Context | None = None
        self._window = asyncio.Semaphore(WINDOW)
        self._is_ready = False
        self._is_full = False
        self._stored: set[str] = set()  # of the batch in hand, which may be offered again
        self._events = 0
        self._messages = 0

    def change(self, edge: DurableEdge) -> None:
        """Send by another table from the next batch on; a new size of the stream holds for the batch in hand as well.

        A batch of which a part is stored is not cut anew: its other parts would get other message ids.
        """
        self._wanted = edge

    def _follow(self) -> None:
        wanted = self._wanted
        is_cut_alike = (wanted.field, wanted.partitions) == (self._edge.field, self._edge.partitions)
        if wanted != self._edge and (is_cut_alike or not self._stored):
            self._edge, self._is_ready = wanted, False

    @property
    def _started(self) -> Context:
        if self._context is None:
            raise UsageError(f"the sender of edge {self._edge.name} was not started")
        return self._context

    @property
    def _producer(self) -> str:
        """Name of the agent at the beginning of the edge, which all its instances have."""
        name = self._started.name.removesuffix(f".{self._edge.name}")
        agent, _, instance = name.rpartition(".")
        return agent if agent and instance.isdigit() else name

    async def start(self, context: Context) -> None:
        """Begin; the stream is made with the first batch, so that a server that is away does not keep it from that."""
        self._context = context

    async def on_batch(self, batch: Batch, now_ns: int) -> Result:  # noqa: ARG002  # the port's
        """Put a batch into the stream.

        Raises:
            BusError: the server is away or the stream is full; what is stored already is not stored again.
        """
        self._follow()
        lanes, refusals = self._cut(batch)
        await self._reach()
        done = await asyncio.gather(*map(self._publish_lane, lanes), return_exceptions=True)
        failed = [error for error in done if error is not None]
        if failed:
            # first what must not be offered again as it is
            worst = min(failed, key=lambda error: getattr(error, "retryable", False))
            if self._stored and isinstance(worst, BusError) and not worst.retryable:
                raise BusError(str(worst)) from worst  # halves of the batch would be stored a second time
            raise worst
        self._stored.clear()
        self._is_full = False
        self._events += batch.count - len(refusals)
        return Result(refusals=refusals)

    async def _reach(self) -> None:
        bus = self._started.bus
        if not bus.connected:
            raise BusError(f"edge {self._edge.name}: the server is away; what waits is sent when it is back")
        if not self._is_ready:
            await ensure_stream(bus, self._edge)
            self._is_ready = True

    def _cut(self, batch: Batch) -> tuple[list[list[_Part]], list[Refusal]]:
        """Return the parts of each partition in order, and the events that are too large for any message."""
        edge = self._edge
        rows = split_by(batch, edge.field, edge.partitions) if edge.field and batch.count else [(0, None)]
        most = self._started.bus.max_payload - HEADER_BYTES
        lanes, refusals = [], []
        for partition, index in rows:
            lane, begin = [], 0
            for part, data in codec.split(
                batch if index is None else batch.take(index), min(most, codec.MAX_MESSAGE_BYTES)
            ):
                if len(data) <= most:
                    lane.append(_Part(partition, part, data))
                else:
                    row = begin if index is None else int(index[begin])
                    refusals.append(Refusal((row,), "too_large", f"{len(data)} octets; a message takes {most}"))
                begin += part.count
            lanes.append(lane)
        return lanes, refusals

    async def _publish_lane(self, lane: list[_Part]) -> None:
        """Store the parts of one partition one after the other: a later one must not overtake one that failed."""
        for part in lane:
            async with self._window:
                await self._publish(part)

    async def _publish(self, part: _Part) -> None:
        edge = self._edge
        identifier = message_id(part.batch, part.partition, part.data, self._producer)
        if identifier in self._stored:
            return
        try:
            await self._started.bus.publish_durable(
                subjects.edge(edge.backplane, edge.name, part.partition),
                part.data,
                message_id=identifier,
                headers=codec.headers_of(part.batch),
                timeout_s=self._timeout_s,
            )
        except NoResponders:
            self._is_ready = False  # the stream is gone: it is made again with the next offer
            raise
        except StreamFull:
            if not self._is_full:
                self._is_full = True
                told: dict[str, Value] = {"edge.name": edge.name, "edge.max_bytes": edge.max_bytes}
                self._started.notice("edge_full", **told)
            raise
        self._stored.add(identifier)
        self._messages += 1

    async def on_tick(self, now_ns: int) -> Result:  # noqa: ARG002  # the port's
        """Do nothing: nothing is due by time."""
        return Result()

    async def settle(self) -> None:
        """Return at once: what was taken is stored."""

    async def query(self, verb: str, request: Mapping[str, object]) -> AsyncGenerator[Answer, None]:  # noqa: ARG002
        """Answer nothing.

        Raises:
            UsageError: always.
        """
        if verb not in self.queries:
            raise UsageError(f"{verb}: the sender of an edge answers no queries; ask the agent at its end")
        yield {}

    def status(self) -> Answer:
        """Return what was stored."""
        return {
            "edge": self._edge.name,
            "stream": self._edge.stream,
            "stored": self._events,
            "messages": self._messages,
            "full": self._is_full,
        }

    async def stop(self) -> None:
        """Do nothing: nothing is open."""
