"""The roster: which agents a host process has, and how a new configuration changes that.

What may live here: adding, removing and reconfiguring agents, with their edges, receivers, spools and numbers. What a
host process does for them while they run is in `eddy_mesh.runtime.host`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping

import msgspec
import structlog

from eddy_mesh.actor.cell import Cell
from eddy_mesh.actor.edge import Edge, Mailbox, Overload
from eddy_mesh.actor.numbering import Numbering
from eddy_mesh.actor.surroundings import Surroundings
from eddy_mesh.batch import Batch
from eddy_mesh.config import AgentConfig, convert
from eddy_mesh.conservation import Ledger
from eddy_mesh.discovery import Blueprint, blueprint
from eddy_mesh.errors import BusError, ConfigError
from eddy_mesh.flows import FlowReceiver
from eddy_mesh.runtime.demand import Demand
from eddy_mesh.runtime.router import Router
from eddy_mesh.runtime.spill import Spill
from eddy_mesh.selection import compile_statement

RETIRED = 256
"""Accounts of ended agents that are kept."""

MANAGERS = frozenset({"agent_manager", "backplane_manager"})
"""Agent types that a new configuration of the host leaves alone unless it names them."""

ORDER = ("normalizer", "transformer", "anonymizer", "analysis")
"""Agent types from sources to sinks; all others come after them."""


class Roster:
    """The agents of one host process.

    Args:
        surroundings: the host process.
        router: local edges are entered there.
        demands: what is asked for on each backplane; one that an agent publishes to is added.
        epoch: second since 1970 UTC at which the host process started.
        address: address of this host for raw events, or None.
    """

    def __init__(
        self, surroundings: Surroundings, router: Router, demands: dict[str, Demand], epoch: int, address: str | None
    ) -> None:
        self.cells: dict[str, Cell] = {}
        self.agents: dict[str, AgentConfig] = {}
        self.blueprints: dict[str, Blueprint] = {}
        self.retired: deque[Ledger] = deque(maxlen=RETIRED)
        self._around = surroundings
        self._router = router
        self._demands = demands
        self._epoch = epoch
        self._address = address
        self._numberings: dict[str, Numbering] = {}  # of removed agents too: one that comes again counts on
        self._receivers: dict[str, list[FlowReceiver]] = {}
        self._spills: dict[str, list[Spill]] = {}
        self._changing = asyncio.Lock()
        self._log = structlog.get_logger().bind(host=surroundings.host)

    def in_order(self, *, sources_first: bool) -> list[Cell]:
        """Return the agents from sources to sinks, or the other way round."""
        rank = {kind: index for index, kind in enumerate(ORDER)}
        cells = sorted(self.cells.values(), key=lambda cell: rank.get(cell.kind, len(ORDER)))
        return cells if sources_first else cells[::-1]

    async def configure(self, agents: Mapping[str, AgentConfig | Mapping[str, object]]) -> dict[str, object]:
        """Make exactly these agents run; see `HostControl.configure`.

        Raises:
            ConfigError: every mistake in all of them; nothing was changed.
        """
        wanted = {
            name: agent if isinstance(agent, AgentConfig) else convert(agent, AgentConfig, f"agents.{name}")
            for name, agent in agents.items()
        }
        plans = check(wanted)
        async with self._changing:
            gone = [n for n, cell in self.cells.items() if n not in wanted and cell.kind not in MANAGERS]
            changed = [n for n in wanted if n in self.agents and self.agents[n] != wanted[n]]
            for cell in [c for c in self.in_order(sources_first=True) if c.name in {*gone, *changed}]:
                await self._remove(cell)
            fresh = [name for name in wanted if name not in self.cells]
            for name in fresh:
                self.add(name, wanted[name], plans[name])
            for cell in [c for c in self.in_order(sources_first=False) if c.name in fresh]:
                cell.start()
            for name in fresh:
                await self._receive_from_others(name)
        return {"started": sorted(fresh), "stopped": sorted(gone), "changed": sorted(changed)}

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
        host, backplane = self._around.host, agent.backplane or self._around.backplane
        if backplane not in self._demands:
            self._demands[backplane] = Demand(self._around.bus, backplane, host)
        mailbox = Mailbox(agent.mailbox_events)
        numbering = self._numbering(f"{backplane}/{host}/{name}")
        cell = self.cells[name] = Cell(name, agent.type, plan.build, self._around, numbering, mailbox)
        self.agents[name], self.blueprints[name] = agent, plan
        for number, statement in enumerate(plan.subscribe):
            label = f"{host} > {name}" if len(plan.subscribe) == 1 else f"{host} > {name}.{number}"
            self._router.join(self._edge(label, statement, agent, mailbox, name), cell)

    def _numbering(self, agent: str) -> Numbering:
        held = self._numberings.get(agent)
        if held is None:
            held = self._numberings[agent] = Numbering(agent, self._around.host, self._epoch, self._address)
        return held

    def _edge(self, label: str, statement: str, agent: AgentConfig, mailbox: Mailbox, name: str) -> Edge:
        overload = Overload(agent.overload)
        spill = None
        if overload is Overload.SPOOL:
            directory = self._around.state_of(name) / "spool" / str(len(self._spills.get(name, [])))
            spill = Spill(directory, agent.spool_bytes, mailbox)
            self._spills.setdefault(name, []).append(spill)
        plan = compile_statement(statement, now_ns=self._around.now_ns())
        edge = Edge(label, plan, mailbox, overload, spill)
        if spill is not None:
            spill.recover(edge)
        return edge

    async def _receive_from_others(self, name: str) -> None:
        plan = self.blueprints[name]
        if plan.scope != "backplane":
            return
        around, cell = self._around, self.cells[name]
        for number, statement in enumerate(plan.subscribe):
            select = compile_statement(statement, now_ns=around.now_ns())
            edge = self._edge(f"* > {name}.{number}", statement, self.agents[name], cell.mailbox, name)
            cell.edges.append(edge)
            deliver = _offering(edge, around.now_ns)
            owner = f"{around.host}/{name}"
            receiver = FlowReceiver(around.bus, around.backplane, select, owner, deliver, edge.ledger)
            try:
                await receiver.start(0.5)
            except BusError as error:
                self._log.warning("subscription waits for the server", agent=name, reason=str(error))
            self._receivers.setdefault(name, []).append(receiver)

    # --- removing

    async def receive_no_more(self, cell: Cell) -> None:
        """Give the leases of an agent on flows of other hosts back."""
        for receiver in self._receivers.pop(cell.name, []):
            await receiver.stop()

    async def keep_spooled(self, cell: Cell) -> None:
        """End an agent, and leave what waits for it in its spool on disk, for the next run."""
        await cell.halt()
        for spill in self._spills.pop(cell.name, []):
            spill.close()

    async def _remove(self, cell: Cell) -> None:
        await self.receive_no_more(cell)
        self._router.part(cell)
        await cell.drain(for_good=True)
        await self.keep_spooled(cell)
        self._retire(cell)
        del self.cells[cell.name], self.agents[cell.name], self.blueprints[cell.name]

    def _retire(self, cell: Cell) -> None:
        """Keep the accounts of an agent that is gone: what it lost stays visible."""
        for ledger in cell.ledgers():
            ledger.edge = f"{ledger.edge} (ended)"
            self.retired.append(ledger)


def check(agents: Mapping[str, AgentConfig]) -> dict[str, Blueprint]:
    """Return the blueprint of every agent.

    Raises:
        ConfigError: every mistake in all of them.
    """
    plans: dict[str, Blueprint] = {}
    mistakes: list[str] = []
    for name, agent in agents.items():
        try:
            plans[name] = blueprint(agent, f"agents.{name}")
        except ConfigError as error:
            mistakes += error.mistakes
    if mistakes:
        raise ConfigError(mistakes)
    return plans


def _offering(edge: Edge, now_ns: Callable[[], int]) -> Callable[[Batch], Awaitable[None]]:
    async def deliver(batch: Batch) -> None:
        await edge.room(batch.count)
        edge.offer(batch, now_ns())

    return deliver
