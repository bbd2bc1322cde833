"""The producing end of a durable edge at an agent: the cell that puts events into the stream, and the ways into it.

What may live here: `Sender`. What its cell does with a batch is in `eddy_mesh.runtime.durable.sender`.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from eddy_mesh.actor.cell import Cell
from eddy_mesh.actor.edge import Edge, Mailbox, Overload
from eddy_mesh.actor.numbering import Numbering
from eddy_mesh.actor.surroundings import Surroundings
from eddy_mesh.commands import SENDER
from eddy_mesh.config import OutEdge
from eddy_mesh.conservation import Ledger
from eddy_mesh.runtime.durable.end import durable_edge
from eddy_mesh.runtime.durable.sender import DurableSender
from eddy_mesh.runtime.ends import spool_folder
from eddy_mesh.runtime.router import Line, Router
from eddy_mesh.runtime.spill import Spill
from eddy_mesh.selection import compile_statement


class Sender:
    """The producing end of a durable edge at one agent; it outlives generations of the edge.

    Args:
        producer: name of the agent.
        spec: the edge.
        around: the host process.
        router: the ways into the stream are entered there.

    Attributes:
        cell: what puts events into the stream.
    """

    def __init__(self, producer: str, spec: OutEdge, around: Surroundings, router: Router) -> None:
        self._producer = producer
        self._around = around
        self._router = router
        self._edge = durable_edge(around.backplane, spec.name, spec.partition, spec.retention)
        self._open: dict[int, Edge] = {}
        self._left: list[Edge] = []
        self._spills: dict[Edge, Spill] = {}
        name = f"{producer}.{spec.name}"
        numbering = Numbering(name, around.host, 0)  # it makes no events
        self.cell = Cell(name, SENDER, lambda: DurableSender(self._edge), around, numbering, Mailbox())
        self.cell.start()

    @property
    def is_done(self) -> bool:
        """Whether nothing leads to it any more, and all that came is stored."""
        return not self._open and not any(edge.ledger.queued for edge in self.cell.edges)

    def serve(self, spec: OutEdge) -> None:
        """Open a way for a generation of the edge, and send as its table says from the next batch on."""
        self._edge = durable_edge(self._around.backplane, spec.name, spec.partition, spec.retention)
        if isinstance(self.cell.agent, DurableSender):
            self.cell.agent.change(self._edge)
        if spec.generation in self._open:
            return
        plan = compile_statement(spec.statement, now_ns=self._around.now_ns())
        name = f"{spec.name}@{spec.generation} {self._producer} > stream"
        state = self._around.state_of(self.cell.name)
        folder = spool_folder(state, spec.name, spec, alone=not (self._open or self._left))
        spill = (
            None
            if folder is None
            else Spill(folder, spec.spool_bytes, self.cell.mailbox, lambda: self._around.bus.connected)
        )
        edge = Edge(name, plan, self.cell.mailbox, Overload(spec.overload), spill)
        self._open[spec.generation] = edge
        self._router.join(edge, self.cell, Line(spec.name, spec.generation, frozenset({self._producer})))
        if spill is not None:
            self._spills[edge] = spill
            spill.recover(edge)

    def leave(self, kept: int | None) -> None:
        """Close the ways of all generations but one; what waits in them is still sent."""
        for generation in [generation for generation in self._open if generation != kept]:
            edge = self._open.pop(generation)
            self._router.leave(edge)
            self._left.append(edge)

    async def sent(self, until_s: float) -> None:
        """Return when all that came is stored, or at ``until_s`` in the loop's time."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until_s):
                for edge in tuple(self.cell.edges):
                    await edge.until_completed(edge.accepted)

    def sweep(self) -> list[Ledger]:
        """Let go of ways that were left and of which nothing waits any more; return their accounts."""
        over = [edge for edge in self._left if not edge.ledger.queued]
        for edge in over:
            self._left.remove(edge)
            self.cell.edges.remove(edge)
            if edge in self._spills:
                self._spills.pop(edge).close()
        return [edge.ledger for edge in over]

    def close(self) -> None:
        """Leave what waits in the spools there, for the next life."""
        for spill in self._spills.values():
            spill.close()
