"""A host process: its agents, joined to each other and to the backplane.

What may live here: the start and end of everything that one process runs. What a cell needs of its
surroundings is here; which agents there are is in `eddy_mesh.runtime.roster`, the lanes (control, query, status) are in
`eddy_mesh.runtime.lanes`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

import structlog

from eddy_mesh import codec, select_back, subjects
from eddy_mesh.actor.cell import Cell
from eddy_mesh.actor.edge import Edge
from eddy_mesh.actor.work import Work
from eddy_mesh.batch import Batch, Kind
from eddy_mesh.bus import Bus, BusState
from eddy_mesh.cer import EventId, Value, id_text
from eddy_mesh.commands import AGENT_MANAGER, MANAGERS, Command, State, command_of
from eddy_mesh.config import AgentConfig, HostConfig, Serving
from eddy_mesh.conservation import Ledger
from eddy_mesh.errors import BusError, ConfigError, StoreError, UsageError
from eddy_mesh.flows import Position
from eddy_mesh.runtime import keeping
from eddy_mesh.runtime.asking import Asking
from eddy_mesh.runtime.generations import Table
from eddy_mesh.runtime.notices import Notices
from eddy_mesh.runtime.roster import Roster
from eddy_mesh.runtime.router import Route
from eddy_mesh.runtime.unserved import Unserved
from eddy_mesh.runtime.wiring import fences
from eddy_mesh.store.local_store import LocalStore
from eddy_mesh.tags import TagGate
from eddy_mesh.topology import applied


class Host:
    """One host process.

    Attributes:
        began_with: revision of the topology that it was started with; 0 where that is its configuration file.

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
        self.began_with = 0
        self.status_changed = asyncio.Event()
        self.local: LocalStore | None = None
        self.tags = TagGate(config.tags)
        self._state = state
        self.roster = roster = Roster(self, address)
        self.cells, self.agents, self.blueprints = roster.cells, roster.agents, roster.blueprints
        self.router, self.generations, self.demands = roster.router, roster.generations, roster.demands
        self._unserved = Unserved(self.host, self.router)
        self._notices = Notices(self.host, self.roster)
        self.recent_notices = self._notices.recent
        self._asking = Asking(self)
        self._log = structlog.get_logger().bind(host=self.host)
        self._unlisten = bus.on_state(self._bus_changed)
        self._reconnected = asyncio.Event()

    # --- start and end

    async def start(self) -> None:
        """Start every agent, sinks first, sources last, so that nothing is made for nobody.

        What was applied last over the topology goes before the configuration file.

        Raises:
            ConfigError: every mistake in the configuration; nothing was started.
        """
        self.local = await keeping.opened(
            self._state / "local", self.config.local, self.now_ns, self._notices.tell_of_store
        )
        await self.demands[self.backplane].read_leases(self.now_ns())
        last = self._applied_last()
        managers = {name: agent for name, agent in self.config.agents.items() if agent.type in MANAGERS}
        if last is not None:
            try:
                await self.configure({**managers, **last.agents}, last.edges)
                self.declare(self.config.tags if last.tags is None else last.tags)
            except ConfigError as error:
                self._log.error("what was applied last can not run", mistakes="; ".join(error.mistakes))
            else:
                self.began_with = last.revision
                return
        await self.configure(dict(self.config.agents))

    def _applied_last(self) -> applied.Applied | None:
        for name, agent in self.config.agents.items():
            if agent.type == AGENT_MANAGER:
                try:
                    return applied.read(self.state_of(name))
                except StoreError as error:
                    self._log.error("what was applied last is not known", reason=str(error))
        return None

    async def run(self) -> None:
        """Do what a host process does beside its agents, until cancelled: notices, leases, reconnections."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._notices.run(self.route), name="notices")
            group.create_task(self._expire_leases(), name="leases")
            group.create_task(self._after_reconnect(), name="reconnect")

    async def drain(self) -> None:
        """End every agent, producers first, with everything that waits handled."""
        cells = self.roster.in_order(sources_first=True, managers_first=True)  # managers have processes to end
        for cell in self.router.producers_first(cells):
            await self.roster.receive_no_more(cell)
            if cell.state_now in {State.FAILED, State.STOPPED}:
                await self.roster.keep_spooled(cell)
            await cell.drain()
            self.router.forget(cell)
            await self.roster.wiring.retire_outs(cell.name, None)
        await self._forget()
        self._unlisten()

    async def stop(self) -> None:
        """End every agent now; what waits is counted as dropped."""
        cells = self.router.producers_first(self.roster.in_order(sources_first=True))
        for cell in cells:  # from now on nothing is acknowledged
            await self.roster.receive_no_more(cell)
        for cell in cells:
            await self.roster.keep_spooled(cell)
            await cell.stop()
        await self.roster.wiring.stop()
        await self._forget()
        self._unlisten()

    async def _forget(self) -> None:
        if self.local is not None:
            await asyncio.to_thread(self.local.close)
            self.local = None

    # --- HostControl

    async def configure(
        self, agents: Mapping[str, AgentConfig | Mapping[str, object]], edges: Mapping[str, Serving] | None = None
    ) -> dict[str, object]:
        """Make exactly these agents run; see `HostControl.configure`."""
        return await self.roster.configure(agents, edges)

    async def prepare(self, agents: Mapping[str, Mapping[str, object]]) -> Mapping[str, object]:
        """Add what a revision of the topology adds; see `HostControl.prepare`."""
        return await self.roster.prepare(agents)

    async def activate(self, edges: Mapping[str, Serving]) -> None:
        """Change over to the new generations; see `HostControl.activate`.

        A lease that did not arrive here is on record: without it the edge would be served to nobody.
        """
        for demand in self.demands.values():
            await demand.read_leases(self.now_ns(), unknown=True)
        await self.roster.activate(edges)

    def declare(self, tags: Iterable[str]) -> None:
        """Let events carry these tags from now on; see `HostControl.declare`."""
        self.tags = TagGate(tags)

    def fences(self, edges: Collection[str]) -> dict[str, Position]:
        """Tell where flows ended; see `HostControl.fences`."""
        return fences(self.demands.values(), self.generations, edges)

    async def retire(self, agent: str, fences: Mapping[str, Mapping[str, Position]]) -> None:
        """End what a revision ends of an agent; see `HostControl.retire`."""
        await self.roster.retire(agent, fences)

    async def settle(self, edges: Mapping[str, Serving]) -> None:
        """Forget what was kept of older generations; see `HostControl.settle`."""
        await self.roster.settle(edges)

    @property
    def control(self) -> Host:
        """The host process, for managers."""
        return self

    def statuses(self) -> list[dict[str, object]]:
        """Return the status of every agent, as in the heartbeat."""
        return [cell.status() for cell in self.roster.everybody]

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
        config = arguments.get("config")
        if command is Command.RELOAD and isinstance(config, dict):
            await cell.command(command, lambda: self.roster.reconfigure(agent, config))
        else:
            await cell.command(command)
        answer: dict[str, object] = {"host": self.host, "agent": agent, "state": str(cell.state_now)}
        if command in {Command.INFO, Command.STATS}:
            answer |= cell.status()
        if command is Command.INFO:
            answer["subscribe"] = self.blueprints[agent].subscribe
            answer["config"] = self.blueprints[agent].config
        return answer

    # --- Surroundings

    def state_of(self, agent: str) -> Path:
        """Return the directory of an agent, made if it is not there."""
        directory = self._state / "agents" / subjects.escape(agent)
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    async def room(self, cell: Work, kind: Kind, origin: str, events: int) -> None:
        """Wait until every edge that takes such events of a cell can take so many."""
        while full := [
            route.edge
            for route in self._routes_of(cell, kind, origin, self.generations.now)
            if self._must_wait(cell, route, events)
        ]:
            await full[0].room(events)

    def _must_wait(self, cell: Work, route: Route, events: int) -> bool:
        """Whether an edge is full; one that leads back to its producer is not waited for, or both would for ever."""
        return not route.edge.has_room(events) and not self.router.leads_to(route.consumer, cell)

    def _routes_of(self, cell: Work, kind: Kind, origin: str, table: Table) -> list[Route]:
        if cell.name not in self.agents or (self.agents[cell.name].backplane or self.backplane) != self.backplane:
            return []
        path = f"{self.host}/{cell.name}"
        return [
            route
            for route in self.router.takers(cell, kind, origin)
            if (route.line is None or table.served(route.line.edge, path) == route.line.generation)
            and self._asking.is_asked(route.consumer)
        ]

    async def route(self, cell: Work, batch: Batch) -> None:
        """Pass events on to everybody who asked for them: agents of this process, then subscribers elsewhere."""
        with self.generations.routing() as table:
            await self._route(cell, batch, table)

    async def _route(self, cell: Work, batch: Batch, table: Table) -> None:
        now_ns = self.now_ns()
        self.router.note(cell, batch, now_ns)
        backplane = self.agents[cell.name].backplane or self.backplane
        routes = self._routes_of(cell, batch.kind, batch.origin, table)
        if self.local is not None and not any(map(keeping.is_kept_whole, routes)):
            self.local.keep(batch)
        for edge, consumer, _ in routes:
            if not edge.has_room(batch.count) and self.router.leads_to(consumer, cell):
                edge.refuse(batch, "cycle")
            else:
                edge.offer(batch, now_ns)
        self._unserved.count(table, cell.name, batch.count)
        demand = self.demands[backplane]
        if demand.flows:
            await demand.publish(batch, f"{self.host}/{cell.name}", "out", table.served)
        if self.blueprints[cell.name].emit == "always":
            await self._publish(backplane, batch, cell)

    async def watched(self, cell: Work, batch: Batch) -> None:
        """Show what an agent takes in to those who watch it."""
        demand = self.demands[self.backplane]
        if demand.is_watched:
            await demand.publish(batch, f"{self.host}/{cell.name}", "in")

    async def _publish(self, backplane: str, batch: Batch, cell: Work) -> None:
        address = subjects.Address(backplane, batch.kind.stage, batch.kind.event_class, batch.kind.type, batch.origin)
        subject = subjects.event(address)
        for part, data in codec.split(batch):
            ledger = cell.published
            ledger.offered += part.count
            ledger.queued += part.count  # while the connection's buffer is full
            try:
                await self.bus.publish(subject, data, headers={codec.COUNT: str(part.count)})
            except BusError:
                ledger.drop("disconnected", part.count)
            else:
                ledger.out += part.count
            finally:
                ledger.queued -= part.count

    async def fetch(self, ids: Sequence[EventId]) -> Sequence[Mapping[str, object]]:
        """Return the whole events with these ids, as far as any host process or archive still has them."""
        fetched = await select_back.fetch(self.bus, self.backplane, map(id_text, ids))
        return list(fetched.rows.values())

    def downstream(self, cell: Work) -> list[tuple[Edge, Cell]]:
        """Return the edges of this host that took events of a cell, with the cells at their ends."""
        return self.router.downstream(cell)

    async def bury(self, cell: Work, batch: Batch, reason: str, detail: str) -> int:
        """Send events that an agent could not take to the dead letters; return how many could not be sent."""
        self._log.warning("events refused", agent=cell.name, reason=reason, detail=detail, events=batch.count)
        told = {"Eddy-Reason": reason, "Eddy-Detail": _one_line(detail)}
        unsent = 0
        for part, data in codec.split(batch):
            try:
                subject = subjects.dead(self.backplane, f"{self.host}/{cell.name}")
                await self.bus.publish(subject, data, headers={**codec.headers_of(part), **told})
            except BusError as error:
                unsent += part.count
                self._log.warning("dead letters not sent", agent=cell.name, events=part.count, cause=str(error))
        return unsent

    def changed(self, cell: Work) -> None:
        """Take note of a change of state."""
        self._log.info("agent state", agent=cell.name, state=str(cell.state_now), reason=cell.reason)
        self.status_changed.set()

    def notice(self, cell: Work, event: str, fields: Mapping[str, Value]) -> None:
        """Log at the level that the fields give (by default warning), keep, and emit as an event of the mesh."""
        self._notices.tell(cell, event, fields)

    # --- beside the agents

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
        self._reconnected.set()  # a lease may have come between the first reading and the first listening
        while True:
            await self._reconnected.wait()
            self._reconnected.clear()
            for demand in self.demands.values():
                await demand.read_leases(self.now_ns())

    def ledgers(self) -> list[Ledger]:
        """Return the accounts of every edge of this host process."""
        held = [ledger for cell in self.roster.everybody for ledger in cell.ledgers()]
        held += self.roster.retired
        held += [cell.published for cell in self.cells.values() if cell.published.offered]
        for demand in self.demands.values():
            held += [*(flow.ledger for flow in demand.flows.values()), *demand.retired]
        return held + self._unserved.ledgers

    @property
    def ready(self) -> bool:
        """Whether every agent has left the state ``starting``."""
        return all(cell.state_now is not State.STARTING for cell in self.cells.values())


def _one_line(text: str) -> str:
    return " ".join(text.split())[:500].encode("ascii", "replace").decode()
