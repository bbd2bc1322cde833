"""A cell: one agent with its mailbox, its life and its accounts.

What may live here: the loop that hands batches to an agent and settles them, and the life of the agent as the table
in `eddy_mesh.commands` has it. What surrounds a cell (routes, bus, files) comes in as `Surroundings`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import structlog

from eddy_mesh.actor.edge import Edge, Mailbox
from eddy_mesh.actor.numbering import Numbering
from eddy_mesh.agent import Draft, Refusal, Result, Source, Stateful
from eddy_mesh.batch import Batch, Kind
from eddy_mesh.bus import Bus
from eddy_mesh.cer import Value
from eddy_mesh.commands import Command, Happening, State, after
from eddy_mesh.conservation import Ledger
from eddy_mesh.errors import BusError, ConfigError, StoreError
from eddy_mesh.task import HostControl, Task

TICK_S = 1.0
RETRY_S = 1.0
BACKOFF_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
CRASH_BUDGET = len(BACKOFF_S)
AFTERWARDS_NS = 24 * 3600 * 1_000_000_000
"""How far ahead the last tick of a drain is: every window is over then, and what is open is told whole."""
CRASH_WINDOW_S = 120.0
"""More crashes than `CRASH_BUDGET` within this time and the agent stays failed until somebody resumes it."""

Instance = Stateful | Source | Task


class Surroundings(Protocol):
    """What a cell needs of its host process."""

    @property
    def host(self) -> str:
        """Name of the host process."""
        ...

    @property
    def backplane(self) -> str:
        """Name of the mesh."""
        ...

    @property
    def bus(self) -> Bus:
        """The message bus."""
        ...

    @property
    def control(self) -> HostControl:
        """The host process, for managers."""
        ...

    def now_ns(self) -> int:
        """Return ns since 1970 UTC."""
        ...

    def state_of(self, agent: str) -> Path:
        """Return the directory of an agent, made if it is not there."""
        ...

    async def room(self, cell: Cell, kind: Kind, origin: str, events: int) -> None:
        """Wait until every edge that takes such events of a cell can take so many."""
        ...

    async def route(self, cell: Cell, batch: Batch) -> None:
        """Pass events on to everybody who asked for them."""
        ...

    def downstream(self, cell: Cell) -> list[tuple[Edge, Cell]]:
        """Return the edges of this host that take events of a cell, with the cells at their ends."""
        ...

    async def bury(self, cell: Cell, batch: Batch, reason: str, detail: str) -> None:
        """Send events that an agent could not take to the dead letters."""
        ...

    def changed(self, cell: Cell) -> None:
        """Take note of a change of state."""
        ...

    def notice(self, cell: Cell, event: str, fields: Mapping[str, Value]) -> None:
        """Log, and emit as an event of the mesh."""
        ...


class Cell:
    """One agent of a host process. It is the `Outlet` of a source and the `Context` of a task.

    Args:
        name: unique on its host.
        kind: agent type, for status.
        build: makes a new instance of the agent; called at every start.
        surroundings: the host process.
        numbering: numbers what the agent makes.
        mailbox: where its edges put batches.
    """

    def __init__(
        self,
        name: str,
        kind: str,
        build: Callable[[], Instance],
        surroundings: Surroundings,
        numbering: Numbering,
        mailbox: Mailbox,
    ) -> None:
        self.name = name
        self.kind = kind
        self.build = build
        self.state_now = State.STOPPED
        self.reason = ""
        self.started_ns = 0
        self.restarts = 0
        self.made = 0
        self.last_ns = 0
        self.edges: list[Edge] = []
        self.mailbox = mailbox
        self.intake = Ledger(f"outside > {name}")
        self.published = Ledger(f"{name} > bus", policy="drop")
        self.agent: Instance | None = None
        self.is_source = False
        self._task: Task | None = None
        self._is_open = False
        self._around = surroundings
        self._numbering = numbering
        self._go = asyncio.Event()
        self._life: asyncio.Task[None] | None = None
        self._crashes: list[int] = []
        self._is_waiting = False  # between two offers of a batch to an agent whose outside is away or full
        self._ended = asyncio.Event()
        self._ended.set()
        self._log = structlog.get_logger().bind(agent=name)

    # --- what the agent sees: Outlet and Context

    @property
    def host(self) -> str:
        """Name of the host process."""
        return self._around.host

    @property
    def backplane(self) -> str:
        """Name of the mesh."""
        return self._around.backplane

    @property
    def state(self) -> Path:
        """Directory of this agent; exists, survives restarts."""
        return self._around.state_of(self.name)

    @property
    def bus(self) -> Bus:
        """The message bus."""
        return self._around.bus

    @property
    def control(self) -> HostControl:
        """The host process, for managers."""
        return self._around.control

    def now_ns(self) -> int:
        """Return ns since 1970 UTC."""
        return self._around.now_ns()

    async def emit(self, draft: Draft) -> None:
        """Hand over events; waits while paused or while an edge with policy ``block`` is full.

        A cancellation during that wait leaves the events with the caller, not counted; after it they are handed over
        whole, and the cancellation comes with the caller's next wait. So events are neither lost nor doubled by a stop.
        """
        if not draft.count:
            return
        if not self._go.is_set() and self.state_now is State.PAUSED:
            await self._go.wait()
        await self._around.room(self, draft.kind, self.host, draft.count)
        self.last_ns = self.now_ns()
        if self.is_source:
            self.intake.offered += draft.count
            self.intake.out += draft.count
        await _whole(self._pass_on(self.numbered(draft)))

    async def settled(self) -> None:
        """Wait until every agent of this host that was handed the events emitted so far has taken them, durably."""
        await self._settle_downstream(self, {self.name})

    async def _settle_downstream(self, cell: Cell, seen: set[str]) -> None:
        for edge, consumer in self._around.downstream(cell):
            await edge.until_completed(edge.accepted)
            if consumer.name not in seen:
                seen.add(consumer.name)
                await self._settle_downstream(consumer, seen)
                if consumer._task is not None:  # noqa: SLF001  # another cell of the same class
                    await consumer._task.settle()  # noqa: SLF001

    def lost(self, reason: str, count: int) -> None:
        """Count events that the outside world offered and that were lost before they could be emitted."""
        self.intake.offered += count
        self.intake.drop(reason, count)

    def notice(self, event: str, **fields: Value) -> None:
        """Log, and emit as a ``derived`` event of the mesh, something that an operator must know."""
        self._around.notice(self, event, fields)

    # --- life

    def start(self) -> None:
        """Begin to live; a cell that already lives is left alone."""
        if self._life is not None and not self._life.done():
            return
        self.reason = ""
        for edge in self.edges:
            edge.reopen()
        self._become(State.STARTING)
        self._ended.clear()
        self._life = asyncio.get_running_loop().create_task(self._live(), name=f"agent {self.name}")

    async def command(self, command: Command) -> None:
        """Do what a command says; returns when it is done, for ``drain`` when everything that waited was handled.

        Raises:
            UsageError: the command makes no sense in the agent's state.
        """
        following = after(self.state_now, command)
        if command is Command.PAUSE:
            self._go.clear()
            self._become(following)
        elif command is Command.RESUME:
            if following is State.STARTING:
                self._crashes.clear()
                self.start()
            else:
                self._become(following)
                self._go.set()
        elif command is Command.RELOAD:
            await self._reload(following)
        elif command is Command.DRAIN:
            await self.drain()
        elif command is Command.STOP:
            await self.stop()

    async def drain(self) -> None:
        """Take no more in from outside, handle what waits, stop."""
        if self.state_now in {State.STOPPED, State.FAILED}:
            await self.stop()  # one that failed may be about to start again
            return
        self._become(State.DRAINING)
        self._go.set()
        if self.is_source:
            await self._end_life()
        else:
            for edge in self.edges:
                await edge.until_completed(edge.accepted)
            try:
                await self._tick_once(AFTERWARDS_NS)
            except Exception:  # noqa: BLE001  # a defect of one agent must not keep the others from being drained
                self._log.exception("agent could not end its windows")
            await self._end_life()
        self._close("stopped")
        self._become(State.STOPPED)

    async def halt(self) -> None:
        """End the agent, and leave what waits in the mailbox there."""
        await self._end_life()

    async def stop(self) -> None:
        """Stop now; what waits in the mailbox is counted as dropped."""
        await self._end_life()
        self._close("stopped")
        self._become(State.STOPPED)

    def _close(self, reason: str) -> None:
        """Nobody will take what waits, nor what comes: count it as dropped, and keep no producer waiting."""
        for edge in self.edges:
            edge.close(reason)
        while len(self.mailbox):
            edge, batch = self.mailbox.pop()
            edge.discard(batch, reason)

    async def failed_or_stopped(self) -> None:
        """Wait until the agent does not live any more."""
        await self._ended.wait()

    async def _reload(self, following: State) -> None:
        await self._end_life()
        self._crashes.clear()
        self.start()
        if following is State.PAUSED:
            self._go.clear()
            self._become(State.PAUSED)

    async def _end_life(self) -> None:
        life = self._life
        if life is None:
            return
        if not life.cancelling():  # of two commands at once only one cancels, and both wait for the end
            life.cancel()
        await asyncio.gather(life, return_exceptions=True)
        if self._life is life:
            self._life = None
        self._ended.set()

    def _become(self, state: State) -> None:
        if state is not self.state_now:
            self.state_now = state
            self._around.changed(self)

    async def _live(self) -> None:
        """Run the agent; start it again after a crash, with back-off, until the crash budget is used up."""
        while True:
            try:
                await self._run_once()
            except ConfigError as error:
                self._fail(str(error))
                return
            except Exception as error:  # noqa: BLE001  # an agent may raise anything; the host process lives on
                self._log.exception("agent crashed")
                if not await self._back_off(error):
                    return
            else:
                self.reason = "has taken in all that there was"
                self._become(State.STOPPED)
                self._ended.set()
                return

    async def _run_once(self) -> None:
        self.agent = agent = self.build()
        self.is_source = isinstance(agent, Source)
        self.started_ns = self.now_ns()
        if isinstance(agent, Task):
            await agent.start(self)
            self._task = agent
        self._is_open = True
        if self.state_now is not State.DRAINING:
            self._become(
                after(self.state_now, Happening.STARTED) if self.state_now is State.STARTING else State.RUNNING
            )
            self._go.set()
        try:
            if isinstance(agent, Source):
                await agent.run(self)
            else:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._work(), name=f"work {self.name}")
                    group.create_task(self._tick(), name=f"tick {self.name}")
        except BaseExceptionGroup as group_error:
            raise group_error.exceptions[0] from None
        finally:
            self._task = None
            self._is_open = False
            if isinstance(agent, Task):
                await agent.stop()

    async def _back_off(self, error: Exception) -> bool:
        now_ns = self.now_ns()
        self._crashes = [at for at in self._crashes if now_ns - at < CRASH_WINDOW_S * 1e9] + [now_ns]
        self.reason = f"{type(error).__name__}: {error}"
        if len(self._crashes) > CRASH_BUDGET:
            self._fail(f"{self.reason} (crashed {len(self._crashes)} times in {CRASH_WINDOW_S:.0f} s)")
            return False
        self._become(State.FAILED)
        self.restarts += 1
        self.notice("agent_crashed", **{"agent.name": self.name, "error.message": self.reason})
        await asyncio.sleep(BACKOFF_S[len(self._crashes) - 1])
        self._become(State.STARTING)
        return True

    def _fail(self, reason: str) -> None:
        self.reason = reason
        self._close("failed")
        self._become(State.FAILED)
        self.notice("agent_failed", **{"agent.name": self.name, "error.message": reason})
        self._ended.set()

    # --- work

    async def _work(self) -> None:
        while True:
            await self.mailbox.arrival()
            if not self._go.is_set():
                await self._go.wait()
                continue
            edge, batch = self.mailbox.pop()
            try:
                await self._handle(edge, batch)
            except asyncio.CancelledError:
                if self._is_waiting:  # the agent has taken nothing of it
                    self.mailbox.put_back(edge, batch)
                else:
                    edge.discard(batch, "cancelled")
                raise
            except BaseException:  # a defect of the runtime, or an output that can not be encoded
                edge.discard(batch, "agent_error")
                raise
            finally:
                self._is_waiting = False
            await asyncio.sleep(0)

    async def _handle(self, edge: Edge, batch: Batch) -> None:
        self.last_ns = self.now_ns()
        try:
            result = await self._offer(batch)
        except Exception as error:  # noqa: BLE001  # a defect of the agent: find the events that trigger it
            self._log.exception("agent could not take a batch", edge=edge.ledger.edge, events=batch.count)
            result = await self._isolate(batch, error)
        for refusal in result.refusals:
            await self._around.bury(self, batch.take(np.asarray(refusal.rows, np.intp)), refusal.reason, refusal.detail)
        for output in result.outputs:
            await self._put_out(output)
        failed = sum(len(refusal.rows) for refusal in result.refusals)
        edge.done(batch, result.filtered, failed)

    async def _offer(self, batch: Batch) -> Result:
        """Return what the agent says of a batch; an outside that is away or full is waited for."""
        waits_for = ""
        while True:
            self._is_waiting = False
            try:
                answer = self._taker().on_batch(batch, self.now_ns())
                result = await answer if isinstance(answer, Awaitable) else answer
            except (StoreError, BusError) as error:
                if not error.retryable:
                    raise
                waits_for = str(error)
                if self.reason != waits_for:
                    self.reason = waits_for
                    self.notice("agent_waits", **{"agent.name": self.name, "error.message": str(error)})
            else:
                if waits_for:
                    self.reason = ""
                return result
            self._is_waiting = True
            await asyncio.sleep(RETRY_S)

    def _taker(self) -> Stateful | Task:
        if self.agent is None or isinstance(self.agent, Source):
            raise TypeError(f"agent {self.name} takes no events")  # a defect of the runtime
        return self.agent

    async def _isolate(self, batch: Batch, error: Exception) -> Result:
        """Find the events that make the agent raise, by halves, and refuse them; the others are taken."""
        if batch.count == 1:
            return Result(refusals=(Refusal((0,), "agent_error", f"{type(error).__name__}: {error}"),))
        outputs: list[Draft | Batch] = []
        refusals: list[Refusal] = []
        filtered = 0
        middle = batch.count // 2
        for start, stop in ((0, middle), (middle, batch.count)):
            half = batch.take(np.arange(start, stop))
            await asyncio.sleep(0)  # commands are answered meanwhile
            try:
                result = await self._offer(half)
            except Exception as inner:  # noqa: BLE001  # the event is refused with the reason
                result = await self._isolate(half, inner)
            outputs += result.outputs
            filtered += result.filtered
            refusals += [Refusal([start + row for row in r.rows], r.reason, r.detail) for r in result.refusals]
        return Result(outputs, refusals, filtered)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            await self._go.wait()
            await self._tick_once()

    async def _tick_once(self, later_ns: int = 0) -> None:
        if self.agent is None or self.is_source or not self._is_open:
            return
        result = self._taker().on_tick(self.now_ns() + later_ns)
        for output in (await result if isinstance(result, Awaitable) else result).outputs:
            await self._put_out(output)

    async def _put_out(self, output: Draft | Batch) -> None:
        await self._pass_on(self.numbered(output) if isinstance(output, Draft) else output)

    def numbered(self, draft: Draft) -> Batch:
        """Return a draft as a batch with this agent's next numbers."""
        return self._numbering.number(draft, self.now_ns())

    async def _pass_on(self, batch: Batch) -> None:
        if batch.count:
            if not self.is_source:
                await self._around.room(self, batch.kind, batch.origin, batch.count)
            self.made += batch.count
            await self._around.route(self, batch)

    # --- status

    def ledgers(self) -> list[Ledger]:
        """Return the accounts of every edge that ends at this agent, and of the outside world for a source."""
        own = [edge.ledger for edge in self.edges]
        return [self.intake, *own] if self.is_source else own

    def _lag_ns(self) -> int:
        oldest_ns = self.mailbox.oldest_ns
        return 0 if oldest_ns is None else max(self.now_ns() - oldest_ns, 0)

    def _detail(self) -> dict[str, object]:
        if self._task is None:
            return {}
        try:
            return dict(self._task.status())
        except Exception as error:  # noqa: BLE001  # a defect of one agent must not stop the heartbeat of all
            return {"error": f"{type(error).__name__}: {error}"}

    def status(self) -> dict[str, object]:
        """Return what the heartbeat shows of this agent."""
        return {
            "agent": self.name,
            "type": self.kind,
            "host": self.host,
            "state": str(self.state_now),
            "reason": self.reason,
            "started_ns": self.started_ns,
            "restarts": self.restarts,
            "made": self.made,
            "last_ns": self.last_ns,
            "lag_ns": self._lag_ns(),
            "queued": sum(ledger.queued for ledger in self.ledgers()),
            "lost": sum(ledger.lost + ledger.failed for ledger in self.ledgers()),
            "edges": self.ledgers(),
            "detail": self._detail(),
        }


async def _whole(work: Coroutine[None, None, None]) -> None:
    """Do work to its end; a cancellation that comes meanwhile comes again with the caller's next wait."""
    task = asyncio.ensure_future(work)
    cancelled = 0
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            cancelled += 1
            if cancelled > 1:  # whoever cancels twice does not want to wait for a server that is away
                task.cancel()
    current = asyncio.current_task()
    if cancelled and current is not None:
        current.cancel()
    task.result()
