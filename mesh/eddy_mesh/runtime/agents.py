"""The agents of a host process, one by one: each with its edges, receivers, spools and numbers.

What may live here: adding and removing one, and what it takes to do so without a loss. Which are added and removed is
decided in `eddy_mesh.runtime.roster`; their own edges are in `eddy_mesh.runtime.subscriptions`, those of a topology in
`eddy_mesh.runtime.wiring`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable

import msgspec

from eddy_mesh.actor.cell import Cell
from eddy_mesh.actor.edge import Mailbox
from eddy_mesh.actor.numbering import Numbering
from eddy_mesh.actor.surroundings import Surroundings
from eddy_mesh.commands import State
from eddy_mesh.config import AgentConfig
from eddy_mesh.conservation import Ledger
from eddy_mesh.discovery import Blueprint, blueprint
from eddy_mesh.errors import BusError
from eddy_mesh.runtime.demand import Demand
from eddy_mesh.runtime.generations import Generations
from eddy_mesh.runtime.router import Router
from eddy_mesh.runtime.subscriptions import Subscriptions
from eddy_mesh.runtime.wiring import Wiring

RETIRED = 256
"""Accounts of ended agents that are kept."""


class Agents:
    """The agents of one host process.

    Args:
        surroundings: the host process.
        address: address of this host for raw events, or None.

    Attributes:
        router: local edges.
        generations: which generations of edges are served.
        demands: what is asked for on each backplane that an agent publishes to.
    """

    def __init__(self, surroundings: Surroundings, address: str | None) -> None:
        self._around = surroundings
        self.router = Router()
        self.generations = Generations()
        self.demands: dict[str, Demand] = {}
        self._publish_to(surroundings.backplane)
        self.cells: dict[str, Cell] = {}
        self.agents: dict[str, AgentConfig] = {}
        self.blueprints: dict[str, Blueprint] = {}
        self.retired: deque[Ledger] = deque(maxlen=RETIRED)
        self.wiring = Wiring(surroundings, self.router, self.generations, self.retired)
        self.subscriptions = Subscriptions(surroundings, self.router)
        self._epoch = surroundings.now_ns() // 1_000_000_000
        self._address = address
        self._numberings: dict[str, Numbering] = {}  # of removed agents too: one that comes again counts on

    @property
    def everybody(self) -> list[Cell]:
        """The agents, and what puts their events into the streams of durable edges."""
        return [*self.cells.values(), *(sender.cell for sender in self.wiring.senders.values())]

    def reconfigure(self, name: str, config: dict[str, object]) -> None:
        """Give an agent new settings, in force from its next start.

        Raises:
            ConfigError: every mistake in them; the old ones stay.
        """
        agent = msgspec.structs.replace(self.agents[name], config=config)
        plan = blueprint(agent, f"agents.{name}")
        self.agents[name], self.blueprints[name] = agent, plan
        self.cells[name].build = plan.build

    # --- adding

    def add(self, name: str, agent: AgentConfig, plan: Blueprint) -> None:
        """Add an agent with its local edges; it is not started."""
        backplane = agent.backplane or self._around.backplane
        self._publish_to(backplane)
        numbering = self._numbering(f"{backplane}/{self._around.host}/{name}")
        cell = Cell(name, agent.type, plan.build, self._around, numbering, Mailbox(agent.mailbox_events))
        self.cells[name], self.agents[name], self.blueprints[name] = cell, agent, plan
        self.subscriptions.join(cell, agent, plan)

    def _publish_to(self, backplane: str) -> None:
        if backplane not in self.demands:
            around = self._around
            self.demands[backplane] = Demand(around.bus, backplane, around.host, self.generations.is_current)

    def _numbering(self, agent: str) -> Numbering:
        held = self._numberings.get(agent)
        if held is None:
            held = self._numberings[agent] = Numbering(agent, self._around.host, self._epoch, self._address)
        return held

    # --- removing

    async def receive_no_more(self, cell: Cell) -> None:
        """Give the leases of an agent on flows of other hosts back."""
        await self.wiring.end(cell)
        await self.subscriptions.end(cell)

    async def keep_spooled(self, cell: Cell) -> None:
        """End an agent, and leave what waits for it in its spool on disk, for the next run."""
        await cell.halt()
        self.subscriptions.close(cell)
        self.wiring.close(cell)

    async def remove(self, cell: Cell, until_s: float) -> None:
        """End an agent when it has handled what waits for it; its accounts are kept.

        Args:
            cell: the agent.
            until_s: so long, in the loop's time, it may handle.

        Raises:
            BusError: that takes longer; the agent goes on as it was.
        """
        await self._handled(cell, until_s)
        await self.receive_no_more(cell)
        self.router.part(cell)
        await cell.drain(for_good=True)
        await self.keep_spooled(cell)
        self.router.forget(cell)
        self.keep(cell.ledgers())
        del self.cells[cell.name], self.agents[cell.name], self.blueprints[cell.name]

    async def _handled(self, cell: Cell, until_s: float) -> None:
        # A drain can not be taken back, and nothing else can change meanwhile.
        if cell.is_source or cell.state_now in {State.PAUSED, State.STOPPED, State.FAILED}:
            return
        try:
            async with asyncio.timeout_at(until_s):
                for edge in tuple(cell.edges):
                    await edge.until_completed(edge.accepted)
        except TimeoutError:
            waiting = sum(ledger.queued for ledger in cell.ledgers())
            raise BusError(
                f"agent {cell.name} has {waiting} events to handle before it can go: try again, or stop it to drop them"
            ) from None

    def keep(self, ledgers: Iterable[Ledger]) -> None:
        """Keep the accounts of what is gone: what was lost there stays visible."""
        for ledger in ledgers:
            ledger.edge = f"{ledger.edge} (ended)"
            self.retired.append(ledger)
