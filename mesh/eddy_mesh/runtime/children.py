"""Children of a host process: host processes of its own that it starts, supervises and ends.

What may live here: which children there are, and their lives. What the end of one means is in
`eddy_mesh.runtime.child_end`, its configuration in `child_config`, the process itself in `child_process`. To the rest
of the mesh a child is a host process like any other, with heartbeat, accounts and agent-manager of its own.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Protocol, runtime_checkable
from urllib.parse import quote

import msgspec
import structlog

from eddy_mesh.actor.life import BACKOFF_S, CRASH_BUDGET, CRASH_WINDOW_S
from eddy_mesh.cer import Value
from eddy_mesh.commands import State
from eddy_mesh.config import HostConfig
from eddy_mesh.discovery import blueprint
from eddy_mesh.errors import ConfigError, StoreError
from eddy_mesh.runtime.child_config import child_config, toml_text
from eddy_mesh.runtime.child_end import NO_SERVER, Budget, End, Record, after_end, read_line
from eddy_mesh.runtime.child_process import END_S, ChildProcess, spawn

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


@runtime_checkable
class Parent(Protocol):
    """What a host process shows of itself to who starts children below it."""

    @property
    def config(self) -> HostConfig:
        """Its configuration, with its name filled in."""
        ...


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


class Change(msgspec.Struct, frozen=True):
    """Which children were started and ended, by name, sorted."""

    started: list[str]
    ended: list[str]


class _Child:
    """One child, over all its lives."""

    def __init__(self, name: str, file: Path) -> None:
        self.name = name
        self.file = file
        self.state = State.STARTING
        self.since_ns = 0
        self.reason = ""
        self.restarts = 0
        self.record = Record()
        self.process: ChildProcess | None = None
        self.life: asyncio.Task[None] | None = None

    @property
    def lives(self) -> bool:
        return self.life is not None and not self.life.done()


class Children:
    """The children of one host process.

    Args:
        parent: configuration of the host process, with its name filled in.
        state: its state directory; files and state of the children are in ``children`` below it.
        notice: told of crashes.
        spawn: starts a process.
        now_ns: the clock, ns since 1970 UTC.
        starts: how many may start at a time, or None for the number of cores: a start is one second of one core.
    """

    def __init__(
        self,
        parent: HostConfig,
        state: Path,
        notice: Notice,
        *,
        spawn: Spawn = spawn,
        now_ns: Callable[[], int] = time.time_ns,
        starts: int | None = None,
    ) -> None:
        self._parent = parent
        self._directory = state.absolute() / "children"
        self._notice = notice
        self._spawn = spawn
        self._now_ns = now_ns
        self._starting = asyncio.Semaphore(starts or _cores())
        self._children: dict[str, _Child] = {}
        self._changing = asyncio.Lock()
        self._log = structlog.get_logger().bind(host=parent.name)

    def check(self, children: Mapping[str, Mapping[str, object]]) -> dict[str, HostConfig]:
        """Return the configuration of each child.

        Raises:
            ConfigError: every mistake in all of them.
        """
        configs: dict[str, HostConfig] = {}
        mistakes: list[str] = []
        for name, tables in children.items():
            try:
                configs[name] = config = child_config(name, tables, self._parent, str(self._path(name)))
            except ConfigError as error:
                mistakes += error.mistakes
                continue
            for agent, settings in config.agents.items():
                try:
                    blueprint(settings, f"children.{name}: agents.{agent}")
                except ConfigError as error:
                    mistakes += error.mistakes
        if mistakes:
            raise ConfigError(mistakes)
        return configs

    async def want(self, children: Mapping[str, Mapping[str, object]]) -> Change:
        """Make exactly these children run: end those that are not wanted, then start the missing; leave the others.

        It returns when the unwanted have ended; how far the others are is in `status`. One that runs goes on as it is:
        changed settings are for its own agent-manager. They are in force from here when it is next started, and one
        that failed, or was stopped by somebody else, is started now.

        Args:
            children: name (``<host>.<agent>``) to the tables of its configuration, see `child_config`.

        Raises:
            ConfigError: every mistake in all of them; nothing was changed.
            StoreError: a configuration can not be written; nothing was changed.
        """
        configs = self.check(children)
        async with self._changing:
            for name, config in configs.items():
                _write(self._file(name), toml_text(config))
            gone = [child for name, child in self._children.items() if name not in configs]
            await self._end(gone)
            for child in gone:
                del self._children[child.name]
                child.file.unlink(missing_ok=True)
            missing = [name for name in configs if name not in self._children or not self._children[name].lives]
            for name in missing:
                self._start(name)
        return Change(sorted(missing), sorted(child.name for child in gone))

    async def stop(self) -> None:
        """Drain and end all children, at the same time; in 5 s at the latest.

        Cancelled, because the host process has no more time, it leaves them to drain by themselves: they were told, and
        `end_with_parent` ends in time what hangs.
        """
        async with self._changing:
            await self._end(list(self._children.values()))

    def status(self) -> list[ChildStatus]:
        """Return how each child is, by name."""
        return [
            ChildStatus(
                name=child.name,
                pid=child.process.pid if child.process else 0,
                state=child.state,
                restarts=child.restarts,
                since_ns=child.since_ns,
                reason=child.reason,
                rss_bytes=child.process.rss_bytes() if child.process else 0,
            )
            for _, child in sorted(self._children.items())
        ]

    def _path(self, name: str) -> Path:
        """Return the state directory of a child; any name makes one that every file system takes."""
        return self._directory / quote(name, safe="")

    def _file(self, name: str) -> Path:
        path = self._path(name)
        return path.with_name(f"{path.name}.toml")

    # --- lives

    def _start(self, name: str) -> None:
        child = self._children.setdefault(name, _Child(name, self._file(name)))
        child.record = Record()
        self._become(child, State.STARTING)
        child.life = asyncio.get_running_loop().create_task(self._live(child), name=f"child {name}")

    async def _end(self, children: list[_Child]) -> None:
        """End children at the same time."""
        lives = [child.life for child in children if child.life is not None]
        for life in lives:
            life.cancel()
        await asyncio.gather(*lives, return_exceptions=True)

    async def _live(self, child: _Child) -> None:
        """Run a child, one process after another, until it is not wanted or may not be started again."""
        try:
            while True:
                end = await self._run_once(child)
                verdict = after_end(end, child.record, BUDGET, self._now_ns())
                child.record = verdict.record
                self._become(child, verdict.state, verdict.reason)
                self._tell(child, end, again=verdict.wait_s is not None)
                if verdict.wait_s is None:
                    return
                await asyncio.sleep(verdict.wait_s)
                child.restarts += 1
                self._become(child, State.STARTING, verdict.reason)
        except asyncio.CancelledError:
            self._become(child, State.STOPPED)
            raise
        except Exception as error:  # noqa: BLE001  # a defect here is that child's end, and is shown as such
            self._log.exception("child can not be supervised", child=child.name)
            self._become(child, State.FAILED, f"{type(error).__name__}: {error}")

    async def _run_once(self, child: _Child) -> End:
        try:
            async with self._starting:
                child.process = process = await self._spawn(child.file, partial(self._pass_on, child.name))
                with suppress(TimeoutError):
                    async with asyncio.timeout(START_S):
                        await process.started()
            if await process.started():
                child.record = child.record._replace(waits=0)
                self._become(child, State.RUNNING)
            end = await process.ended()
            child.process = None
        except OSError as error:
            return End(1, f"can not be started: {error}")
        finally:
            if child.process is not None:
                await self._put_down(child, child.process)
        return end

    async def _put_down(self, child: _Child, process: ChildProcess) -> None:
        """End a process in order; after `END_S` it is killed. Cancelled, this leaves it alone with its last seconds."""
        self._become(child, State.DRAINING)
        process.end()
        ended = asyncio.ensure_future(process.ended())
        try:
            await asyncio.wait({ended}, timeout=END_S)
            if not ended.done():
                self._log.warning("child took too long to end and is killed", child=child.name, seconds=END_S)
                process.kill()
                await ended
        finally:
            ended.cancel()
            child.process = None

    def _become(self, child: _Child, state: State, reason: str = "") -> None:
        child.state, child.reason, child.since_ns = state, reason, self._now_ns()
        self._log.info("child state", child=child.name, state=str(state), reason=reason)

    def _tell(self, child: _Child, end: End, *, again: bool) -> None:
        """Tell an operator that a child ended though it is wanted; that it waits for a server he hears elsewhere."""
        if end.status == NO_SERVER:
            return
        event = "child_crashed" if again else f"child_{child.state}"
        fields: dict[str, Value] = {"process.name": child.name, "process.exit_code": end.status}
        self._notice(event, {**fields, "error.message": child.reason})

    def _pass_on(self, name: str, line: str) -> None:
        """Write what a child says into the log of this process, at its own level."""
        read = read_line(line)
        fields = {key: value for key, value in read.fields.items() if key not in OWN}
        self._log.log(LEVELS.get(read.level, logging.WARNING), read.event, **fields, child=name)


def _cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _write(path: Path, text: str) -> None:
    """Write a file that its owner only can read, and that is whole whenever it is there.

    Raises:
        StoreError: it can not be written.
    """
    partial_path = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial_path.unlink(missing_ok=True)
        with os.fdopen(
            os.open(partial_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8"
        ) as file:
            file.write(text)
        partial_path.replace(path)
    except OSError as error:
        raise StoreError(f"{path}: can not be written: {error}") from None
