"""Ends of edges: what joins one agent of this host process to one generation of an edge of the topology.

What may live here: the beginning and the end of each kind of end. Which ends there are is in
`eddy_mesh.runtime.wiring`, which generation is served in `eddy_mesh.runtime.generations`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from eddy_mesh.actor.cell import Cell
from eddy_mesh.actor.edge import Edge, Overload
from eddy_mesh.actor.surroundings import Surroundings
from eddy_mesh.batch import Batch
from eddy_mesh.commands import State
from eddy_mesh.config import InEdge, OutEdge, Partition, Retention
from eddy_mesh.errors import BusError
from eddy_mesh.flows import EdgeEnd, FlowReceiver, Of, Position
from eddy_mesh.partition import part_of
from eddy_mesh.runtime.durable.edge import DurableEdge, Share
from eddy_mesh.runtime.durable.intake import Intake
from eddy_mesh.runtime.durable.receiver import DurableReceiver
from eddy_mesh.runtime.router import Line, Router
from eddy_mesh.runtime.spill import Spill, take_over
from eddy_mesh.selection import compile_statement
from eddy_mesh.task import Task

FENCE_S = 5.0
"""Longest wait for what comes before a fence; what does not come by then is lost, and counted."""
RETRY_S = 0.5
HERE = "here"

Known = Callable[[Batch], Awaitable[npt.NDArray[np.bool_]]]
Fences = Mapping[str, Mapping[str, Position]]
"""Flow → host process → where it stopped serving the flow."""


class End(Protocol):
    """One end of one generation of an edge."""

    spec: InEdge

    @property
    def flow(self) -> str:
        """Name of the flow that feeds it from other host processes; "" for none."""
        ...

    @property
    def edges(self) -> list[Edge]:
        """Edges of the agent that belong to it."""
        ...

    async def begin(self) -> None:
        """Be ready for what comes."""
        ...

    async def finish(self, fences: Fences) -> None:
        """Take what still comes up to the fences, and no more."""
        ...

    def close(self) -> None:
        """Let go of what is on disk; called when nothing of it waits any more, or the agent has ended."""
        ...


class LiveEnd:
    """The consuming end of a live edge: calls from agents of this process, a flow from all others.

    Args:
        spec: the edge.
        cell: the agent.
        around: the host process.
        router: local edges are entered there.
        takes_over: whether it goes on with what an earlier life of the agent left in the spool of the edge.
    """

    def __init__(
        self, spec: InEdge, cell: Cell, around: Surroundings, router: Router, *, takes_over: bool = False
    ) -> None:
        self.spec = spec
        self._takes_over = takes_over
        self._cell = cell
        self._around = around
        self._router = router
        self._local: Edge | None = None
        self._remote: Edge | None = None
        self._receiver: FlowReceiver | None = None
        self._spills: list[Spill] = []

    @property
    def flow(self) -> str:
        """Name of the flow that feeds it from other host processes; "" for none."""
        return self._receiver.lease.id if self._receiver else ""

    @property
    def edges(self) -> list[Edge]:
        """Edges of the agent that belong to it."""
        return [edge for edge in (self._local, self._remote) if edge is not None]

    async def begin(self) -> None:
        """Enter the local edge; ask other host processes, which serve it from its activation on."""
        prefix = f"{self._around.host}/"
        own = frozenset(path.removeprefix(prefix) for path in self.spec.producers if path.startswith(prefix))
        if own:
            self._local = self._edge(HERE)
            line = Line(self.spec.name, self.spec.generation, own)
            self._router.join(self._local, self._cell, line)
        if len(own) < len(self.spec.producers):
            self._remote = edge = self._edge("elsewhere")
            self._cell.edges.append(edge)
            await self._receive(edge)

    def _edge(self, where: str) -> Edge:
        spec, cell = self.spec, self._cell
        plan = compile_statement(spec.statement, now_ns=self._around.now_ns())
        name = f"{spec.name}@{spec.generation} ({where}) > {cell.name}"
        folder = spool_folder(self._around.state_of(cell.name), f"{spec.name}.{where}", spec, alone=self._takes_over)
        spill = None if folder is None else Spill(folder, spec.spool_bytes, cell.mailbox)
        if spill is not None:
            self._spills.append(spill)
        part = part_of(spec.partition) if where == HERE else None  # what comes from elsewhere is that part only
        edge = Edge(name, plan, cell.mailbox, Overload(spec.overload), spill, part)
        if spill is not None:
            spill.recover(edge)
        return edge

    async def _receive(self, edge: Edge) -> None:
        around, spec = self._around, self.spec
        of = Of(EdgeEnd(spec.name, spec.generation, spec.partition), spec.producers)
        plan = compile_statement(spec.statement, now_ns=around.now_ns())
        owner = f"{around.host}/{self._cell.name}"
        deliver = offering(edge, around.now_ns)
        self._receiver = FlowReceiver(
            around.bus, around.backplane, plan, owner, deliver, edge.ledger, of, lambda: edge.close("stopped")
        )
        with suppress(BusError):  # the server is away: the lease is renewed when it is back
            await self._receiver.start(1.0)

    async def finish(self, fences: Fences) -> None:
        """Take what other host processes sent before they changed over; local producers have changed over already."""
        if self._local is not None:
            self._router.leave(self._local)
        if self._receiver is not None:
            await self._receiver.finish(fences.get(self._receiver.lease.id, {}), FENCE_S)

    def close(self) -> None:
        """Close the spools."""
        for spill in self._spills:
            spill.close()


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
        self._edge = Edge(f"{spec.name}@{spec.generation} (stream) > {cell.name}", None, cell.mailbox)
        self._receiver: DurableReceiver | None = None
        self._running: asyncio.Task[None] | None = None
        self._finishing = False
        self._given_up = 0

    @property
    def flow(self) -> str:
        """A durable edge has none."""
        return ""

    @property
    def edges(self) -> list[Edge]:
        """Edges of the agent that belong to it."""
        return [self._edge]

    async def begin(self) -> None:
        """Be an edge of the agent; nothing is taken before `take`."""
        self._cell.edges.append(self._edge)

    def take(self) -> None:
        """Begin to take, now that whoever took before has ended: the stream has held what came meanwhile."""
        if self._running is None and not self._finishing:
            self._running = asyncio.get_running_loop().create_task(self._run(), name=f"edge {self.spec.name}")

    async def _run(self) -> None:
        spec, cell, around = self.spec, self._cell, self._around
        edge = durable_edge(around.backplane, spec.name, spec.partition, spec.retention)
        while not self._finishing:
            intake = Intake(self._deliver, self._handled, cell.notice, self._settle, known=self._known)
            folder = around.state_of(cell.name) / "received"
            self._receiver = DurableReceiver(around.bus, edge, share_of(spec), folder, intake, self._edge.ledger)
            try:
                await self._receiver.run()
            except Exception as error:  # noqa: BLE001  # nothing was acknowledged: it comes again
                cell.notice("edge_waits", **{"edge.name": spec.name, "error.message": str(error)})
                await asyncio.sleep(RETRY_S)

    async def _deliver(self, batch: Batch) -> None:
        # Until the agent is back it stays in the stream.
        while self._cell.state_now in {State.FAILED, State.STOPPED}:  # noqa: ASYNC110
            await asyncio.sleep(RETRY_S)
        await self._edge.room(batch.count)
        self._edge.offer(batch, self._around.now_ns())

    async def _handled(self) -> None:
        """Return when what was delivered is handled.

        Raises:
            BusError: the agent gave some of it up; it comes again.
        """
        await self._edge.until_completed(self._edge.accepted)
        ledger = self._edge.ledger
        given_up = ledger.lost - ledger.dropped.get("not_decoded", 0)
        if given_up > self._given_up:
            self._given_up = given_up
            raise BusError(f"agent {self._cell.name} gave up events of edge {self.spec.name}; they are delivered again")

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

    async def finish(self, fences: Fences) -> None:  # noqa: ARG002  # the stream is the fence
        """Have what was taken handled and acknowledged; the rest is for whoever consumes next."""
        self._finishing = True
        if self._receiver is not None and self._running is not None and not self._running.done():
            with suppress(TimeoutError):
                async with asyncio.timeout(FENCE_S):
                    await self._receiver.stop()
        self.close()
        if self._running is not None:
            await asyncio.gather(self._running, return_exceptions=True)

    def close(self) -> None:
        """Break off; what was not acknowledged is delivered again."""
        if self._running is not None:
            self._running.cancel()


def durable_edge(backplane: str, name: str, partition: Partition, retention: Retention) -> DurableEdge:
    """Return an edge as its sender and receivers see it."""
    edge = DurableEdge(backplane=backplane, name=name, field=partition.field, partitions=partition.of)
    return msgspec.structs.replace(edge, max_bytes=retention.max_bytes) if retention.max_bytes else edge


def share_of(spec: InEdge) -> Share:
    """Return which part of its stream an end takes."""
    return Share(spec.instance, spec.instances, partitioned=bool(spec.partition.field))


def offering(edge: Edge, now_ns: Callable[[], int]) -> Callable[[Batch], Awaitable[None]]:
    """Return what passes batches along an edge, with waiting for room."""

    async def deliver(batch: Batch) -> None:
        await edge.room(batch.count)
        edge.offer(batch, now_ns())

    return deliver


def spool_folder(state: Path, name: str, spec: InEdge | OutEdge, *, alone: bool) -> Path | None:
    """Return the folder of the spool of an end, each generation has its own; None where it needs none.

    Args:
        state: folder of the agent.
        name: of the edge and its side.
        spec: the edge; with another policy than ``spool``, what an earlier life left is still gone on with.
        alone: whether no other generation is open: then what an earlier life left is this one's.
    """
    wanted = state / "spool" / f"{name}.{spec.generation}"
    is_left = alone and take_over(wanted.parent, name, wanted)
    return wanted if is_left or spec.overload == "spool" else None
