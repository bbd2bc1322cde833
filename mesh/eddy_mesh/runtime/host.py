"""A host process: its agents, joined to each other and to the backplane.

What may live here: the start, change and end of everything that one process runs. What a cell needs of its
surroundings is here; the lanes (control, query, status) are in `eddy_mesh.runtime.lanes`.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import msgspec
import structlog

from eddy_mesh import codec, subjects
from eddy_mesh.actor.cell import Cell
from eddy_mesh.actor.edge import Edge, Mailbox, Overload
from eddy_mesh.actor.numbering import Numbering
from eddy_mesh.agent import Draft, draft_of
from eddy_mesh.batch import Batch, Kind
from eddy_mesh.bus import Bus, BusState
from eddy_mesh.cer import EventClass, Stage, Value
from eddy_mesh.commands import Command, State, after, command_of
from eddy_mesh.config import AgentConfig, HostConfig, convert
from eddy_mesh.conservation import Ledger
from eddy_mesh.discovery import Blueprint, blueprint
from eddy_mesh.errors import BusError, ConfigError, UsageError
from eddy_mesh.flows import FlowReceiver
from eddy_mesh.runtime.demand import Demand
from eddy_mesh.runtime.router import Route, Router
from eddy_mesh.runtime.spill import Spill
from eddy_mesh.selection import compile_statement

RECENT_NOTICES = 32
RETIRED = 256
"""Accounts of ended agents that are kept."""

MANAGERS = frozenset({"agent_manager", "backplane_manager"})
"""Agent types that a new configuration of the host leaves alone unless it names them."""


class Host:
    """One host process.

    Args:
        config: its configuration, already checked.
        bus: connected bus; `Host` does not close it.
        state: directory for everything that survives a restart.
        now_ns: the clock, ns since 1970 UTC.
        address: address of this host for raw events, or None.
    """

    def __init__(
        self,
        config: HostConfig,
        bus: Bus,
        state: Path,
        now_ns: Callable[[], int] = time.time_ns,
        address: str | None = None,
    ) -> None:
        self.config = config
        self.host = config.name
        self.backplane = config.backplane
        self.bus = bus
        self.now_ns = now_ns
        self.epoch = now_ns() // 1_000_000_000
        self.started_ns = now_ns()
        self.router = Router()
        self.cells: dict[str, Cell] = {}
        self.blueprints: dict[str, Blueprint] = {}
        self.agents: dict[str, AgentConfig] = {}
        self.demands: dict[str, Demand] = {self.backplane: Demand(bus, self.backplane, self.host)}
        self.status_changed = asyncio.Event()
        self.recent_notices: deque[tuple[str, str]] = deque(maxlen=RECENT_NOTICES)
        self._state = state
        self._address = address
        self._receivers: dict[str, list[FlowReceiver]] = {}
        self._spills: dict[str, list[Spill]] = {}
        self._notices: asyncio.Queue[tuple[Cell, Draft]] = asyncio.Queue(10_000)
        self._changing = asyncio.Lock()
        self._retired: deque[Ledger] = deque(maxlen=RETIRED)
        self._log = structlog.get_logger().bind(host=self.host)
        self._unlisten = bus.on_state(self._bus_changed)
        self._reconnected = asyncio.Event()

    # --- start and end

    async def start(self) -> None:
        """Start every agent of the configuration: sinks first, sources last, so that nothing is made for nobody.

        Raises:
            ConfigError: every mistake in the configuration; nothing was started.
        """
        await self.demands[self.backplane].read_leases(self.now_ns())
        await self.configure(dict(self.config.agents))

    async def run(self) -> None:
        """Do what a host process does beside its agents, until cancelled: notices, leases, reconnections."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._pass_notices(), name="notices")
            group.create_task(self._expire_leases(), name="leases")
            group.create_task(self._after_reconnect(), name="reconnect")

    async def drain(self) -> None:
        """End every agent, sources first, with everything that waits handled."""
        for cell in self._in_order(sources_first=True):
            for receiver in self._receivers.pop(cell.name, []):
                await receiver.stop()
            if cell.state_now is State.FAILED:
                await self._keep_spooled(cell)
            await cell.drain()
        self._unlisten()

    async def stop(self) -> None:
        """End every agent now; what waits is counted as dropped."""
        for cell in self._in_order(sources_first=True):
            for receiver in self._receivers.pop(cell.name, []):
                await receiver.stop()
            await self._keep_spooled(cell)
            await cell.stop()
        self._unlisten()

    async def _keep_spooled(self, cell: Cell) -> None:
        """End an agent, and leave what waits for it in its spool on disk, for the next run."""
        await cell.halt()
        for spill in self._spills.pop(cell.name, []):
            spill.close()

    def _in_order(self, *, sources_first: bool) -> list[Cell]:
        order = ("normalizer", "transformer", "anonymizer", "analysis")
        rank = {kind: index for index, kind in enumerate(order)}
        cells = sorted(self.cells.values(), key=lambda cell: rank.get(cell.kind, len(order)))
        return cells if sources_first else cells[::-1]

    # --- configuration

    def check(self, agents: Mapping[str, AgentConfig]) -> dict[str, Blueprint]:
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

    async def configure(self, agents: Mapping[str, AgentConfig | Mapping[str, object]]) -> dict[str, object]:
        """Make exactly these agents run; see `HostControl.configure`."""
        wanted = {
            name: agent if isinstance(agent, AgentConfig) else convert(agent, AgentConfig, f"agents.{name}")
            for name, agent in agents.items()
        }
        plans = self.check(wanted)
        async with self._changing:
            gone = [n for n, cell in self.cells.items() if n not in wanted and cell.kind not in MANAGERS]
            changed = [n for n in wanted if n in self.agents and self.agents[n] != wanted[n]]
            for cell in [c for c in self._in_order(sources_first=True) if c.name in {*gone, *changed}]:
                await self._remove(cell)
            fresh = [name for name in wanted if name not in self.cells]
            for name in fresh:
                self._add(name, wanted[name], plans[name])
            for cell in [c for c in self._in_order(sources_first=False) if c.name in fresh]:
                cell.start()
            for name in fresh:
                await self._receive_from_others(name)
        return {"started": sorted(fresh), "stopped": sorted(gone), "changed": sorted(changed)}

    def _add(self, name: str, agent: AgentConfig, plan: Blueprint) -> None:
        backplane = agent.backplane or self.backplane
        if backplane not in self.demands:
            self.demands[backplane] = Demand(self.bus, backplane, self.host)
        numbering = Numbering(f"{backplane}/{self.host}/{name}", self.host, self.epoch, self._address)
        mailbox = Mailbox(agent.mailbox_events)
        cell = self.cells[name] = Cell(name, agent.type, plan.build, self, numbering, mailbox)
        self.agents[name], self.blueprints[name] = agent, plan
        for number, statement in enumerate(plan.subscribe):
            label = f"{self.host} > {name}" if len(plan.subscribe) == 1 else f"{self.host} > {name}.{number}"
            self.router.join(self._edge(label, statement, agent, mailbox, name), cell)

    def _edge(self, label: str, statement: str, agent: AgentConfig, mailbox: Mailbox, name: str) -> Edge:
        overload = Overload(agent.overload)
        spill = None
        if overload is Overload.SPOOL:
            directory = self.state_of(name) / "spool" / str(len(self._spills.get(name, [])))
            spill = Spill(directory, agent.spool_bytes, mailbox)
            self._spills.setdefault(name, []).append(spill)
        plan = compile_statement(statement, now_ns=self.now_ns())
        edge = Edge(label, plan, mailbox, overload, spill)
        if spill is not None:
            spill.recover(edge)
        return edge

    async def _receive_from_others(self, name: str) -> None:
        plan = self.blueprints[name]
        if plan.scope != "backplane":
            return
        cell = self.cells[name]
        for number, statement in enumerate(plan.subscribe):
            select = compile_statement(statement, now_ns=self.now_ns())
            edge = self._edge(f"* > {name}.{number}", statement, self.agents[name], cell.mailbox, name)
            cell.edges.append(edge)
            deliver = _offering(edge, self.now_ns)
            receiver = FlowReceiver(self.bus, self.backplane, select, f"{self.host}/{name}", deliver, edge.ledger)
            try:
                await receiver.start(0.5)
            except BusError as error:
                self._log.warning("subscription waits for the server", agent=name, reason=str(error))
            self._receivers.setdefault(name, []).append(receiver)

    async def _remove(self, cell: Cell) -> None:
        for receiver in self._receivers.pop(cell.name, []):
            await receiver.stop()
        self.router.part(cell)
        await cell.drain()
        await self._keep_spooled(cell)
        self._retire(cell)
        del self.cells[cell.name], self.agents[cell.name], self.blueprints[cell.name]

    def _retire(self, cell: Cell) -> None:
        """Keep the accounts of an agent that is gone: what it lost stays visible."""
        for ledger in cell.ledgers():
            ledger.edge = f"{ledger.edge} (ended)"
            self._retired.append(ledger)

    # --- HostControl

    @property
    def control(self) -> Host:
        """The host process, for managers."""
        return self

    def statuses(self) -> list[dict[str, object]]:
        """Return the status of every agent, as in the heartbeat."""
        return [cell.status() for cell in self.cells.values()]

    async def command(self, agent: str, verb: str, arguments: Mapping[str, object]) -> dict[str, object]:
        """Give an agent a lifecycle command and return its answer.

        Args:
            agent: name of the agent.
            verb: a `Command`.
            arguments: for ``reload``, ``config`` may hold new settings.

        Raises:
            UsageError: no such agent or command, or not possible in its state.
            ConfigError: the new settings have mistakes; the agent goes on with the old ones.
        """
        cell = self.cells.get(agent)
        if cell is None:
            raise UsageError(f"{self.host} has no agent {agent!r}: it has {', '.join(sorted(self.cells))}")
        command = command_of(verb)
        after(cell.state_now, command)  # refused before any setting is changed
        if command is Command.RELOAD and isinstance(arguments.get("config"), dict):
            self._reconfigure(agent, arguments["config"])  # type: ignore[arg-type]
        await cell.command(command)
        answer: dict[str, object] = {"host": self.host, "agent": agent, "state": str(cell.state_now)}
        if command in {Command.INFO, Command.STATS}:
            answer |= cell.status()
        if command is Command.INFO:
            answer["subscribe"] = self.blueprints[agent].subscribe
            answer["config"] = self.blueprints[agent].config
        return answer

    def _reconfigure(self, name: str, config: dict[str, object]) -> None:
        agent = msgspec.structs.replace(self.agents[name], config=config)
        plan = blueprint(agent, f"agents.{name}")
        self.agents[name], self.blueprints[name] = agent, plan
        self.cells[name].build = plan.build

    # --- Surroundings

    def state_of(self, agent: str) -> Path:
        """Return the directory of an agent, made if it is not there."""
        directory = self._state / "agents" / subjects.escape(agent)
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    async def room(self, cell: Cell, kind: Kind, origin: str, events: int) -> None:
        """Wait until every edge that takes such events of a cell can take so many."""
        while full := [r.edge for r in self._routes_of(cell, kind, origin) if self._must_wait(cell, r, events)]:
            await full[0].room(events)

    def _must_wait(self, cell: Cell, route: Route, events: int) -> bool:
        """Whether an edge is full; one that leads back to its producer is not waited for, or both would for ever."""
        return not route.edge.has_room(events) and not self.router.leads_to(route.consumer, cell)

    def _routes_of(self, cell: Cell, kind: Kind, origin: str) -> list[Route]:
        if cell.name not in self.agents or (self.agents[cell.name].backplane or self.backplane) != self.backplane:
            return []
        return [route for route in self.router.takers(cell, kind, origin) if self._is_asked(route.consumer)]

    async def route(self, cell: Cell, batch: Batch) -> None:
        """Pass events on to everybody who asked for them: agents of this process, then subscribers elsewhere."""
        now_ns = self.now_ns()
        self.router.note(cell, batch, now_ns)
        backplane = self.agents[cell.name].backplane or self.backplane
        for edge, consumer in self._routes_of(cell, batch.kind, batch.origin):
            if not edge.has_room(batch.count) and self.router.leads_to(consumer, cell):
                edge.refuse(batch, "cycle")
            else:
                edge.offer(batch, now_ns)
        demand = self.demands[backplane]
        if demand.flows:
            await demand.publish(batch)
        if self.blueprints[cell.name].emit == "always":
            await self._publish(backplane, batch, cell)

    def _is_asked(self, consumer: Cell) -> bool:
        """Whether anybody wants what an agent for another backplane would make."""
        other = self.agents[consumer.name].backplane
        if not other or other == self.backplane or self.blueprints[consumer.name].emit == "always":
            return True
        return bool(self.demands[other].flows)

    async def _publish(self, backplane: str, batch: Batch, cell: Cell) -> None:
        address = subjects.Address(backplane, batch.kind.stage, batch.kind.event_class, batch.kind.type, batch.origin)
        subject = subjects.event(address)
        for part, data in codec.split(batch):
            ledger = cell.published
            ledger.offered += part.count
            try:
                await self.bus.publish(subject, data, headers={"Eddy-Count": str(part.count)})
                ledger.out += part.count
            except BusError:
                ledger.drop("disconnected", part.count)

    def downstream(self, cell: Cell) -> list[tuple[Edge, Cell]]:
        """Return the edges of this host that took events of a cell, with the cells at their ends."""
        return self.router.downstream(cell)

    async def bury(self, cell: Cell, batch: Batch, reason: str, detail: str) -> None:
        """Send events that an agent could not take to the dead letters."""
        self._log.warning("events refused", agent=cell.name, reason=reason, detail=detail, events=batch.count)
        kind = f"{batch.kind.stage}.{batch.kind.event_class}.{batch.kind.type}"
        headers = {
            "Eddy-Kind": kind,
            "Eddy-Origin": batch.origin,
            "Eddy-Reason": reason,
            "Eddy-Detail": _one_line(detail),
        }
        for part, data in codec.split(batch):
            try:
                subject = subjects.dead(self.backplane, f"{self.host}/{cell.name}")
                await self.bus.publish(subject, data, headers={**headers, "Eddy-Count": str(part.count)})
            except BusError:
                self._log.warning("dead letters not sent", agent=cell.name, events=part.count)

    def changed(self, cell: Cell) -> None:
        """Take note of a change of state."""
        self._log.info("agent state", agent=cell.name, state=str(cell.state_now), reason=cell.reason)
        self.status_changed.set()

    def notice(self, cell: Cell, event: str, fields: Mapping[str, Value]) -> None:
        """Log at the level that the fields give (by default warning), keep, and emit as an event of the mesh."""
        shown = {name: value for name, value in fields.items() if name != "level" and value is not None and value != ""}
        said = self._log.info if fields.get("level", 4) in {5, 6, 7} else self._log.warning
        said(event, agent=cell.name, **shown)
        self.recent_notices.append((cell.name, f"{event.replace('_', ' ')}: {_told(shown)}"))
        row: dict[str, Value] = {"message": event.replace("_", " "), "level": 4, "host": self.host, **fields}
        row.setdefault("agent.name", cell.name)
        kind = Kind(Stage.COOKED, EventClass.DERIVED, f"mesh.{event}")
        try:
            self._notices.put_nowait((cell, draft_of(kind, [row])))
        except asyncio.QueueFull:
            self._log.error("notices are full", agent=cell.name, notice=event)

    # --- beside the agents

    async def _pass_notices(self) -> None:
        while True:
            cell, draft = await self._notices.get()
            if self.cells.get(cell.name) is cell:
                await self.route(cell, cell.numbered(draft))

    async def _expire_leases(self) -> None:
        while True:
            await asyncio.sleep(1)
            for demand in self.demands.values():
                demand.expire(self.now_ns())

    def _bus_changed(self, state: BusState, text: str) -> None:
        if state is BusState.CONNECTED:
            self._reconnected.set()
        elif state is BusState.ERROR:
            self._log.warning("bus error", reason=text)
        else:
            self._log.warning("bus state", state=state.value, reason=text)

    async def _after_reconnect(self) -> None:
        while True:
            await self._reconnected.wait()
            self._reconnected.clear()
            for demand in self.demands.values():
                await demand.read_leases(self.now_ns())

    def ledgers(self) -> list[Ledger]:
        """Return the accounts of every edge of this host process."""
        held = [ledger for cell in self.cells.values() for ledger in cell.ledgers()]
        held += self._retired
        held += [cell.published for cell in self.cells.values() if cell.published.offered]
        return held + [flow.ledger for demand in self.demands.values() for flow in demand.flows.values()]

    @property
    def ready(self) -> bool:
        """Whether every agent has left the state ``starting``."""
        return all(cell.state_now is not State.STARTING for cell in self.cells.values())


def _offering(edge: Edge, now_ns: Callable[[], int]) -> Callable[[Batch], Awaitable[None]]:
    async def deliver(batch: Batch) -> None:
        await edge.room(batch.count)
        edge.offer(batch, now_ns())

    return deliver


def _told(fields: Mapping[str, Value]) -> str:
    return ", ".join(f"{name.rsplit('.', 1)[-1]} {value!s}" for name, value in fields.items())


def _one_line(text: str) -> str:
    return " ".join(text.split())[:500].encode("ascii", "replace").decode()
