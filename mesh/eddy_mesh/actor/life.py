"""The life of an agent: start, supervision and end, as the table in `eddy_mesh.commands` has them.

What may live here: one instance of the agent after another. What it is told to do comes from
`eddy_mesh.actor.cell`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

from eddy_mesh.actor.edge import Mailbox
from eddy_mesh.actor.numbering import Numbering
from eddy_mesh.actor.surroundings import Surroundings
from eddy_mesh.actor.work import Instance, Work
from eddy_mesh.agent import Source
from eddy_mesh.commands import Command, Happening, State, after
from eddy_mesh.errors import ConfigError, EddyError
from eddy_mesh.task import Task

BACKOFF_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
CRASH_BUDGET = len(BACKOFF_S)
CRASH_WINDOW_S = 120.0
"""More crashes than `CRASH_BUDGET` within this time and the agent stays failed until somebody resumes it."""


class Life(Work):
    """What keeps an agent alive; arguments as for `eddy_mesh.actor.cell.Cell`."""

    def __init__(
        self,
        name: str,
        build: Callable[[], Instance],
        surroundings: Surroundings,
        numbering: Numbering,
        mailbox: Mailbox,
    ) -> None:
        super().__init__(name, surroundings, numbering, mailbox)
        self.build = build
        self.started_ns = 0
        self.restarts = 0
        self._task: Task | None = None
        self._life: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._crashes: list[int] = []
        self._holds: Command | None = None  # a pause or drain, which holds on over a crash or reload
        self._waiting: asyncio.Task[object] | None = None  # what the command in progress waits for
        self._steady = asyncio.Event()  # not on the way to its next life
        self._ended = asyncio.Event()
        self._end()

    async def failed_or_stopped(self) -> None:
        """Wait until the agent does not live any more."""
        await self._ended.wait()

    async def settle(self) -> None:
        """Return when all that the agent has taken would survive a crash; a restart is waited for."""
        while not self._is_open and not self._ended.is_set():
            await self._steady.wait()
        if self._task is not None:
            await self._task.settle()

    def _start(self, holds: Command | None) -> None:
        if self._life is not None and not self._life.done():
            return
        self.reason = ""
        self._holds = holds
        for edge in self.edges:
            edge.reopen()
        self._go.clear()
        self._steady.clear()
        self._ended.clear()
        self._become(State.STARTING)
        self._life = asyncio.get_running_loop().create_task(self._live(), name=f"agent {self.name}")

    def _become(self, state: State) -> None:
        if state is not self.state_now:
            self.state_now = state
            self._around.changed(self)

    def _end(self) -> None:
        self._ended.set()
        self._steady.set()

    async def _end_life(self) -> None:
        life = self._life
        if life is None:
            return
        if self._ending is not life:  # cancelled again it could not close what it has open
            self._ending = life
            life.cancel()
        await asyncio.gather(life, return_exceptions=True)
        if self._life is life:
            self._life = None
        self._end()

    async def _live(self) -> None:
        """Run the agent; start it again after a crash, with back-off, until the crash budget is used up."""
        while True:
            try:
                await self._run_once()
            except ConfigError as error:
                self._fail(str(error))
                return
            except Exception as error:  # noqa: BLE001  # an agent may raise anything; the host process lives on
                # A defect with where it happened; what the system or an operator can mend by what it says.
                where = None if isinstance(error, OSError | EddyError) else error
                self._log.error("agent crashed", reason=_said(error), exc_info=where)
                if self._ending is self._life:
                    return  # a crash at the end is no reason to start again
                _uncancel()
                if not await self._back_off(error):
                    return
            else:
                self.reason = "has taken in all that there was"
                self._become(after(self.state_now, Happening.DRAINED))
                self._end()
                return

    async def _run_once(self) -> None:
        self._may_begin.set()
        self.agent = agent = self.build()
        self.is_source = isinstance(agent, Source)
        self.started_ns = self.now_ns()
        if isinstance(agent, Task):
            await agent.start(self)
            self._task = agent
        self._opened()
        try:
            if isinstance(agent, Source):
                await agent.run(self)
            else:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._take_batches(), name=f"work {self.name}")
                    group.create_task(self._tick(), name=f"tick {self.name}")
        except BaseExceptionGroup as group_error:
            raise group_error.exceptions[0] from None
        finally:
            self._task = None
            self._is_open = False
            self._steady.clear()
            if isinstance(agent, Task):
                await agent.stop()

    def _opened(self) -> None:
        self._is_open = True
        self._steady.set()
        if self.state_now is State.STARTING:
            state = after(self.state_now, Happening.STARTED)
            self._become(state if self._holds is None else after(state, self._holds))
        if self.state_now is not State.PAUSED:
            self._go.set()

    async def _back_off(self, error: Exception) -> bool:
        now_ns = self.now_ns()
        self._crashes = [at for at in self._crashes if now_ns - at < CRASH_WINDOW_S * 1e9] + [now_ns]
        self.reason = _said(error)
        if len(self._crashes) > CRASH_BUDGET:
            self._fail(f"{self.reason} (crashed {len(self._crashes)} times in {CRASH_WINDOW_S:.0f} s)")
            return False
        self._become(after(self.state_now, Happening.CRASHED))
        self.restarts += 1
        self.notice("agent_crashed", **{"agent.name": self.name, "error.message": self.reason})
        await asyncio.sleep(BACKOFF_S[len(self._crashes) - 1])
        self._become(after(self.state_now, Happening.RESTARTED))
        return True

    def _fail(self, reason: str) -> None:
        self.reason = reason
        self._close("failed")
        self._become(after(self.state_now, Happening.CRASHED))
        self.notice("agent_failed", **{"agent.name": self.name, "error.message": reason})
        self._end()

    # --- waiting

    async def _rest(self, limit_s: float) -> None:
        """Begin nothing more, and wait until what was begun is done; the batch in hand stays for the next instance."""
        self._may_begin.clear()
        loop = asyncio.get_running_loop()
        until_s = loop.time() + limit_s
        try:
            while self._engagements and (left_s := until_s - loop.time()) > 0:
                if not await self._patiently(self._at_rest.wait(), left_s):
                    return
        except asyncio.CancelledError:
            self._may_begin.set()
            raise

    async def _patiently(self, work: Coroutine[object, object, object], limit_s: float | None = None) -> bool:
        """Wait for work, not longer than the agent lives, nor than until it is to hurry; return whether it was done."""
        waiting = self._waiting = asyncio.ensure_future(work)
        lives = set() if self._life is None else {self._life}
        try:
            await asyncio.wait({waiting, *lives}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
            return waiting.done() and not waiting.cancelled()
        finally:
            self._waiting = None
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)

    def _hurry(self) -> None:
        """Break off what the command in progress waits for."""
        if self._waiting is not None:
            self._waiting.cancel()


def _uncancel() -> None:
    """Take back the request to cancel that a `TaskGroup` of Python 3.11 leaves behind when one of its tasks raises."""
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()


def _said(error: Exception) -> str:
    """What an error says, without the number of the system's; of a defect also its kind."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return str(error) if isinstance(error, EddyError) else f"{type(error).__name__}: {error}"
