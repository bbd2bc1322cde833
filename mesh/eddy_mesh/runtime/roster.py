"""The roster: which agents a host process has, and how a new configuration changes that.

What may live here: adding, removing and reconfiguring agents, with their edges, receivers, spools and numbers. What a
host process does for them while they run is in `eddy_mesh.runtime.host`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from functools import partial

import msgspec
import structlog

from eddy_mesh.actor.cell import Cell
from eddy_mesh.actor.edge import Edge, Mailbox, Overload
from eddy_mesh.actor.numbering import Numbering
from eddy_mesh.actor.surroundings import Surroundings
from eddy_mesh.commands import Command
from eddy_mesh.config import AgentConfig, Serving, convert
from eddy_mesh.conservation import Ledger
from eddy_mesh.discovery import Blueprint, blueprint
from eddy_mesh.errors import BusError, ConfigError, UsageError
from eddy_mesh.flows import FlowReceiver
from eddy_mesh.runtime.demand import Demand
from eddy_mesh.runtime.ends import Fences, offering
from eddy_mesh.runtime.generations import Generations
from eddy_mesh.runtime.router import Router
from eddy_mesh.runtime.spill import Spill
from eddy_mesh.runtime.wiring import Wiring
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
        generations: which generations of edges are served.
        demands: what is asked for on each backplane; one that an agent publishes to is added.
        address: address of this host for raw events, or None.
    """

    def __init__(
        self,
        surroundings: Surroundings,
        router: Router,
        generations: Generations,
        demands: dict[str, Demand],
        address: str | None,
    ) -> None:
        self.generations = generations
        self.cells: dict[str, Cell] = {}
        self.agents: dict[str, AgentConfig] = {}
        self.blueprints: dict[str, Blueprint] = {}
        self.retired: deque[Ledger] = deque(maxlen=RETIRED)
        self.wiring = Wiring(surroundings, router, self.retired)
        self._wanted: Mapping[str, AgentConfig] = {}
        self._held_back: set[str] = set()
        self._around = surroundings
        self._router = router
        self._demands = demands
        self._epoch = surroundings.now_ns() // 1_000_000_000
        self._address = address
        self._numberings: dict[str, Numbering] = {}  # of removed agents too: one that comes again counts on
        self._receivers: dict[str, list[FlowReceiver]] = {}
        self._spills: dict[str, list[Spill]] = {}
        self._changing = asyncio.Lock()
        self._log = structlog.get_logger().bind(host=surroundings.host)

    def in_order(self, *, sources_first: bool, managers_first: bool = False) -> list[Cell]:
        """Return the agents from sources to sinks, or the other way round.

        Args:
            sources_first: which way.
            managers_first: managers stand at the beginning, not with the sinks: they have processes to end.
        """
        rank = {kind: index for index, kind in enumerate(ORDER)}
        if managers_first:
            rank |= dict.fromkeys(MANAGERS, -1)
        cells = sorted(self.cells.values(), key=lambda cell: rank.get(cell.kind, len(ORDER)))
        return cells if sources_first else cells[::-1]

    @property
    def everybody(self) -> list[Cell]:
        """The agents, and what puts their events into the streams of durable edges."""
        return [*self.cells.values(), *(sender.cell for sender in self.wiring.senders.values())]

    async def configure(
        self, agents: Mapping[str, AgentConfig | Mapping[str, object]], edges: Mapping[str, Serving] | None = None
    ) -> dict[str, object]:
        """Make exactly these agents run, all steps at once; see `HostControl.configure`.

        Raises:
            ConfigError: every mistake in all of them; nothing was changed.
        """
        told = await self.prepare(agents)
        if edges is not None:
            await self.activate(edges)
        gone = self._gone()
        for cell in [cell for cell in self.in_order(sources_first=True) if cell.kind not in MANAGERS]:
            await self.retire(cell.name, {})
        if edges is not None:
            self.settle(edges)
        changed = sorted({*told["reloaded"], *told["replaced"]})
        return {**told, "stopped": sorted(gone), "changed": changed}

    def _gone(self) -> list[str]:
        return [name for name, cell in self.cells.items() if name not in self._wanted and cell.kind not in MANAGERS]

    # --- the steps of a revision

    async def prepare(self, agents: Mapping[str, AgentConfig | Mapping[str, object]]) -> dict[str, list[str]]:
        """Start and change what a revision starts and changes; nothing ends. See `HostControl.prepare`.

        Raises:
            ConfigError: every mistake in all of them; nothing was changed.
        """
        wanted = {
            name: agent if isinstance(agent, AgentConfig) else convert(agent, AgentConfig, f"agents.{name}")
            for name, agent in agents.items()
        }
        plans = check(wanted)
        told: dict[str, list[str]] = {"started": [], "reloaded": [], "replaced": [], "rewired": []}
        async with self._changing:
            self._wanted = wanted
            for cell in self.in_order(sources_first=True):
                if cell.name in wanted and self.agents[cell.name] != wanted[cell.name]:
                    how = await self._change(cell, wanted[cell.name], plans[cell.name])
                    told[how].append(cell.name)
            fresh = [name for name in wanted if name not in self.cells]
            told["started"] = [name for name in fresh if name not in told["replaced"]]
            for name in fresh:
                self.add(name, wanted[name], plans[name])
            for cell in [cell for cell in self.in_order(sources_first=False) if cell.name in wanted]:
                await self.wiring.prepare(cell, wanted[cell.name])
            for cell in [cell for cell in self.in_order(sources_first=False) if cell.name in fresh]:
                if self._feeds_edges(cell.name):
                    self._held_back.add(cell.name)
                else:
                    cell.start()
                await self._receive_from_others(cell.name)
        return {how: sorted(names) for how, names in told.items()}

    def _feeds_edges(self, name: str) -> bool:
        """Whether an agent is a source in a topology with edges: what it takes in before they are served is lost."""
        return self.agents[name].type == "normalizer" and bool(self.generations.now.edges or self._has_edges())

    def _has_edges(self) -> bool:
        return any(agent.in_edges or agent.out_edges for agent in self._wanted.values())

    async def _change(self, cell: Cell, wanted: AgentConfig, plan: Blueprint) -> str:
        """Bring one agent to its new specification; return how."""
        before, was = self.agents[cell.name], self.blueprints[cell.name]
        if _subscription(before, was) != _subscription(wanted, plan):
            await self._remove(cell)
            return "replaced"
        self.agents[cell.name], self.blueprints[cell.name] = wanted, plan
        cell.mailbox.capacity = wanted.mailbox_events
        if _self(before) == _self(wanted):
            return "rewired"
        cell.build, cell.kind = plan.build, wanted.type
        try:
            await cell.command(Command.RELOAD)
        except UsageError:  # it does not run
            cell.start()
        return "reloaded"

    async def activate(self, edges: Mapping[str, Serving]) -> None:
        """Change over to the generations of a revision; see `HostControl.activate`."""
        async with self._changing:
            for name in self._gone():
                if self.cells[name].is_source:
                    with suppress(UsageError):  # it does not run
                        await self.cells[name].command(Command.PAUSE)
            gone = set(self._gone())
            staying = {f"{self._around.host}/{name}" for name in self.cells if name not in gone}
            await self.generations.activate(edges, staying)
            for name in self._held_back & self.cells.keys():
                self.cells[name].start()
            self._held_back.clear()

    async def retire(self, agent: str, fences: Fences) -> None:
        """End the old ends of an agent, and the agent if it is to go; see `HostControl.retire`."""
        async with self._changing:
            cell = self.cells.get(agent)
            if cell is None:
                return
            wanted = self._wanted.get(agent) if cell.kind not in MANAGERS else self.agents[agent]
            await self.wiring.retire_ins(cell, wanted, fences)
            if wanted is None:
                await self._remove(cell)
            await self.wiring.retire_outs(agent, wanted)

    def settle(self, edges: Mapping[str, Serving]) -> None:
        """Forget what was kept of older generations; see `HostControl.settle`."""
        self.generations.settle(edges)
        self.wiring.settle()

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
            receiver = FlowReceiver(
                around.bus,
                around.backplane,
                select,
                f"{around.host}/{name}",
                offering(edge, around.now_ns),
                edge.ledger,
                give_up=partial(edge.close, "stopped"),
            )
            try:
                await receiver.start(0.5)
            except BusError as error:
                self._log.warning("subscription waits for the server", agent=name, reason=str(error))
            self._receivers.setdefault(name, []).append(receiver)

    # --- removing

    async def receive_no_more(self, cell: Cell) -> None:
        """Give the leases of an agent on flows of other hosts back."""
        await self.wiring.end(cell)
        for receiver in self._receivers.pop(cell.name, []):
            await receiver.stop()

    async def keep_spooled(self, cell: Cell) -> None:
        """End an agent, and leave what waits for it in its spool on disk, for the next run."""
        await cell.halt()
        for spill in self._spills.pop(cell.name, []):
            spill.close()
        self.wiring.close(cell)

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


def _subscription(agent: AgentConfig, plan: Blueprint) -> tuple[object, ...]:
    """Return what the agent's own edges are made of: when it changes, the agent is replaced."""
    own = (agent.overload, agent.spool_bytes) if plan.subscribe else ()
    return (plan.subscribe, plan.scope, agent.backplane, *own)


def _self(agent: AgentConfig) -> tuple[object, ...]:
    """Return what the agent itself is made of: when it changes, the agent begins anew where it is."""
    return (agent.type, agent.source, agent.cooking, agent.detector, agent.config, agent.emit)
