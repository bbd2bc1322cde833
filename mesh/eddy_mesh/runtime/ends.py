"""Ends of edges: what joins one agent of this host process to one generation of an edge of the topology.

What may live here: what all ends have, and the live one. The durable one is in `eddy_mesh.runtime.durable.end`, which
ends there are in `eddy_mesh.runtime.wiring`, which generation is served in `eddy_mesh.runtime.generations`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from eddy_mesh.actor.cell import Cell
from eddy_mesh.actor.edge import Edge, Overload
from eddy_mesh.actor.surroundings import Surroundings
from eddy_mesh.batch import Batch
from eddy_mesh.config import InEdge, OutEdge
from eddy_mesh.errors import BusError
from eddy_mesh.flows import EdgeEnd, Of, Position
from eddy_mesh.partition import part_of
from eddy_mesh.receiving import FlowReceiver
from eddy_mesh.runtime.router import Line, Router
from eddy_mesh.runtime.spill import Spill, take_over
from eddy_mesh.selection import compile_statement

FENCE_S = 5.0
"""Longest wait for what comes before a fence; what does not come by then is lost, and counted."""
HERE = "here"

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

    def goes_on(self, wanted: InEdge) -> bool:
        """Whether it is the end that a table asks for; one that has begun to end is not."""
        ...

    def adopt(self, wanted: InEdge) -> None:
        """Go on by a table for which it `goes_on`."""
        ...

    async def begin(self) -> None:
        """Be ready for what comes."""
        ...

    async def finish(self, fences: Fences, rest_until_s: float | None = None) -> None:
        """Take what still comes up to the fences, and no more; broken off, it can be done again.

        Args:
            fences: flow → host process → position.
            rest_until_s: for a durable edge that is none any more, see `eddy_mesh.runtime.durable.end`.
        """
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
        turn: set when this host process changes over to the generation. What others send before that waits: what the
            agent made of it would not be served yet.
        takes_over: whether it goes on with what an earlier life of the agent left in the spool of the edge.
    """

    def __init__(
        self,
        spec: InEdge,
        cell: Cell,
        around: Surroundings,
        router: Router,
        turn: asyncio.Event,
        *,
        takes_over: bool = False,
    ) -> None:
        self.spec = spec
        self._turn = turn
        self._takes_over = takes_over
        self._is_open = False
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

    def goes_on(self, wanted: InEdge) -> bool:
        """Whether it is the end that a table asks for."""
        held = self.spec
        is_same = (held.name, held.delivery, held.generation) == (wanted.name, wanted.delivery, wanted.generation)
        return is_same and self._is_open

    def adopt(self, wanted: InEdge) -> None:
        """Take up nothing: whatever differs makes another generation."""

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
        self._is_open = True

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
        offer = offering(edge, around.now_ns)

        async def deliver(batch: Batch) -> None:
            await self._turn.wait()
            await offer(batch)

        def give_up() -> None:
            edge.close("stopped")
            self._turn.set()

        self._receiver = FlowReceiver(around.bus, around.backplane, plan, owner, deliver, edge.ledger, of, give_up)
        with suppress(BusError):  # the server is away: the lease is renewed when it is back
            await self._receiver.start(1.0)

    async def finish(self, fences: Fences, rest_until_s: float | None = None) -> None:  # noqa: ARG002  # has no stream
        """Take what other host processes sent before they changed over; local producers have changed over already."""
        self._is_open = False
        if self._local is not None:
            self._router.leave(self._local)
        if self._receiver is not None:
            await self._receiver.finish(fences.get(self._receiver.lease.id, {}), FENCE_S)

    def close(self) -> None:
        """Close the spools."""
        for spill in self._spills:
            spill.close()


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
