"""The life of a child: one process after another, until it is not wanted or may not be started again.

What may live here: starting, watching and ending one child. What its end means is in `eddy_mesh.runtime.child_end`,
which children there are in `eddy_mesh.runtime.children`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec
import structlog

from eddy_mesh.actor.life import BACKOFF_S, CRASH_BUDGET, CRASH_WINDOW_S
from eddy_mesh.cer import Value
from eddy_mesh.commands import State
from eddy_mesh.runtime.child_end import NO_SERVER, Budget, End, Record, after_end, read_line
from eddy_mesh.runtime.child_process import END_S, ChildProcess

START_S = 30.0
"""Longest time for which a child that starts keeps others from starting."""
BUDGET = Budget(BACKOFF_S, CRASH_BUDGET, CRASH_WINDOW_S)
LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}
OWN = frozenset({"child", "event", "host", "level", "self", "timestamp"})
"""Names in a line of log that are those of this process when it passes the line on."""

Spawn = Callable[[Path, Callable[[str], None]], Awaitable[ChildProcess]]
"""Starts a child from its configuration file; the second argument takes each line of its standard error."""
Notice = Callable[[str, Mapping[str, Value]], None]
"""Tells an operator of an event with its fields."""


class ChildStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How a child is.

    Attributes:
        name: of the host process.
        pid: process number, 0 while there is none.
        state: ``starting`` (also while it waits for its turn), ``running``, ``failed``, ``stopped`` or ``draining``.
        restarts: how often it was started again after it ended by itself.
        since_ns: when it came into this state, ns since 1970 UTC.
        reason: why it is failed or stopped, with its last words; "" where it runs.
        rss_bytes: memory that it holds.
    """

    name: str
    pid: int
    state: State
    restarts: int
    since_ns: int
    reason: str
    rss_bytes: int


class Surroundings(NamedTuple):
    """What all children of a host process share.

    Attributes:
        host: name of the host process.
        spawn: starts a process.
        notice: told of crashes.
        now_ns: the clock, ns since 1970 UTC.
        turns: held while a child starts.
    """

    host: str
    spawn: Spawn
    notice: Notice
    now_ns: Callable[[], int]
    turns: asyncio.Semaphore


class Child:
    """One child, over all its lives.

    Args:
        name: of the host process.
        file: its configuration.
        around: what it shares with the others.
    """

    def __init__(self, name: str, file: Path, around: Surroundings) -> None:
        self.name = name
        self.file = file
        self._around = around
        self._state = State.STARTING
        self._since_ns = 0
        self._reason = ""
        self._restarts = 0
        self._record = Record()
        self._process: ChildProcess | None = None
        self._life: asyncio.Task[None] | None = None
        self._log = structlog.get_logger().bind(host=around.host, child=name)

    @property
    def lives(self) -> bool:
        """Whether it runs, or will be started again by itself."""
        return self._life is not None and not self._life.done()

    def status(self) -> ChildStatus:
        """Return how it is."""
        return ChildStatus(
            name=self.name,
            pid=self._process.pid if self._process else 0,
            state=self._state,
            restarts=self._restarts,
            since_ns=self._since_ns,
            reason=self._reason,
            rss_bytes=self._process.rss_bytes() if self._process else 0,
        )

    def start(self) -> None:
        """Begin to live, with a new budget of crashes."""
        self._record = Record()
        self._become(State.STARTING)
        self._life = asyncio.get_running_loop().create_task(self._live(), name=f"child {self.name}")

    async def end(self) -> None:
        """Drain and end, in `END_S` at the latest.

        Cancelled, this leaves it to drain by itself.
        """
        if self._life is not None:
            self._life.cancel()
            await asyncio.gather(self._life, return_exceptions=True)

    async def _live(self) -> None:
        try:
            while True:
                end = await self._run_once()
                verdict = after_end(end, self._record, BUDGET, self._around.now_ns())
                self._record = verdict.record
                self._become(verdict.state, verdict.reason)
                self._tell(end, again=verdict.wait_s is not None)
                if verdict.wait_s is None:
                    return
                await asyncio.sleep(verdict.wait_s)
                self._restarts += 1
                self._become(State.STARTING, verdict.reason)
        except asyncio.CancelledError:
            self._become(State.STOPPED)
            raise
        except Exception as error:  # noqa: BLE001  # a defect here is that child's end, and is shown as such
            self._log.exception("child can not be supervised")
            self._become(State.FAILED, f"{type(error).__name__}: {error}")

    async def _run_once(self) -> End:
        try:
            async with self._around.turns:
                self._process = process = await self._around.spawn(self.file, self._pass_on)
                with suppress(TimeoutError):
                    async with asyncio.timeout(START_S):
                        await process.started()
            if await process.started():
                self._record = self._record._replace(waits=0)
                self._become(State.RUNNING)
            end = await process.ended()
            self._process = None
        except OSError as error:
            return End(1, f"can not be started: {error}")
        finally:
            if self._process is not None:
                await self._put_down(self._process)
        return end

    async def _put_down(self, process: ChildProcess) -> None:
        """End a process in order; after `END_S` it is killed. Cancelled, this leaves it alone with its last seconds."""
        self._become(State.DRAINING)
        process.end()
        ended = asyncio.ensure_future(process.ended())
        try:
            await asyncio.wait({ended}, timeout=END_S)
            if not ended.done():
                self._log.warning("child took too long to end and is killed", seconds=END_S)
                process.kill()
                await ended
        finally:
            ended.cancel()
            self._process = None

    def _become(self, state: State, reason: str = "") -> None:
        self._state, self._reason, self._since_ns = state, reason, self._around.now_ns()
        self._log.info("child state", state=str(state), reason=reason)

    def _tell(self, end: End, *, again: bool) -> None:
        """Tell an operator that it ended though it is wanted; that it waits for a server he hears elsewhere."""
        if end.status == NO_SERVER:
            return
        event = "child_crashed" if again else f"child_{self._state}"
        fields: dict[str, Value] = {"process.name": self.name, "process.exit_code": end.status}
        self._around.notice(event, {**fields, "error.message": self._reason})

    def _pass_on(self, line: str) -> None:
        """Write what it says into the log of this process, at its own level."""
        read = read_line(line)
        fields = {key: value for key, value in read.fields.items() if key not in OWN}
        self._log.log(LEVELS.get(read.level, logging.WARNING), read.event, **fields)
