"""Subscriptions: the edges of agents that ask for events themselves, outside of the edges of a topology.

What may live here: those edges, their receivers and spools, from the first to the last event. Edges of a topology are
in `eddy_mesh.runtime.wiring`.
"""

from __future__ import annotations

from functools import partial

import structlog

from eddy_mesh.actor.cell import Cell
from eddy_mesh.actor.edge import Edge, Overload
from eddy_mesh.actor.surroundings import Surroundings
from eddy_mesh.config import AgentConfig
from eddy_mesh.conservation import Ledger
from eddy_mesh.discovery import Blueprint
from eddy_mesh.errors import BusError
from eddy_mesh.receiving import FlowReceiver
from eddy_mesh.runtime.ends import offering
from eddy_mesh.runtime.router import Router
from eddy_mesh.runtime.spill import Spill
from eddy_mesh.selection import compile_statement


class Subscriptions:
    """What the agents of one host process ask for themselves.

    Args:
        around: the host process.
        router: edges from agents of this process are entered there.
    """

    def __init__(self, around: Surroundings, router: Router) -> None:
        self._around = around
        self._router = router
        self._receivers: dict[str, list[FlowReceiver]] = {}
        self._spills: dict[str, list[Spill]] = {}
        self._edges: dict[str, list[Edge]] = {}
        self._left: list[tuple[Cell, Edge]] = []
        self._log = structlog.get_logger().bind(host=around.host)

    def join(self, cell: Cell, agent: AgentConfig, plan: Blueprint) -> None:
        """Enter the edges from agents of this process."""
        host = self._around.host
        for number, statement in enumerate(plan.subscribe):
            label = f"{host} > {cell.name}" if len(plan.subscribe) == 1 else f"{host} > {cell.name}.{number}"
            self._router.join(self._edge(label, statement, agent, cell), cell)

    async def change(self, cell: Cell, agent: AgentConfig, plan: Blueprint) -> None:
        """Ask for something else from the next batch on; what came so far is still handled."""
        for edge in self._edges.pop(cell.name, []):
            self._router.leave(edge)
            self._left.append((cell, edge))
        self.join(cell, agent, plan)
        await self.end(cell)
        await self.receive(cell, agent, plan)

    def sweep(self) -> list[Ledger]:
        """Let go of edges that were left and of which nothing waits any more; return their accounts."""
        over = [held for held in self._left if not held[1].ledger.queued]
        for held in over:
            self._left.remove(held)
            held[0].edges.remove(held[1])
        return [edge.ledger for _, edge in over]

    async def receive(self, cell: Cell, agent: AgentConfig, plan: Blueprint) -> None:
        """Ask other host processes, where the agent takes events of the whole backplane."""
        if plan.scope != "backplane":
            return
        around = self._around
        for number, statement in enumerate(plan.subscribe):
            select = compile_statement(statement, now_ns=around.now_ns())
            edge = self._edge(f"* > {cell.name}.{number}", statement, agent, cell)
            cell.edges.append(edge)
            receiver = FlowReceiver(
                around.bus,
                around.backplane,
                select,
                f"{around.host}/{cell.name}",
                offering(edge, around.now_ns),
                edge.ledger,
                give_up=partial(edge.close, "stopped"),
            )
            self._receivers.setdefault(cell.name, []).append(receiver)
            try:
                await receiver.start(0.5)
            except BusError as error:
                self._log.warning("subscription waits for the server", agent=cell.name, reason=str(error))

    def _edge(self, label: str, statement: str, agent: AgentConfig, cell: Cell) -> Edge:
        overload = Overload(agent.overload)
        spill = None
        if overload is Overload.SPOOL:
            directory = self._around.state_of(cell.name) / "spool" / str(len(self._spills.get(cell.name, [])))
            spill = Spill(directory, agent.spool_bytes, cell.mailbox)
            self._spills.setdefault(cell.name, []).append(spill)
        plan = compile_statement(statement, now_ns=self._around.now_ns())
        edge = Edge(label, plan, cell.mailbox, overload, spill)
        if spill is not None:
            spill.recover(edge)
        self._edges.setdefault(cell.name, []).append(edge)
        return edge

    async def end(self, cell: Cell) -> None:
        """Give the leases of an agent on flows of other hosts back."""
        for receiver in self._receivers.pop(cell.name, []):
            await receiver.stop()

    def close(self, cell: Cell) -> None:
        """Leave what waits in the spools of an agent that has ended there, for its next life."""
        self._edges.pop(cell.name, None)
        self._left = [held for held in self._left if held[0] is not cell]
        for spill in self._spills.pop(cell.name, []):
            spill.close()
