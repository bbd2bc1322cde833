"""Children of a host process: host processes of its own that it starts, supervises and ends.

What may live here: which children there are, and their configuration files. The life of one is in
`eddy_mesh.runtime.child_life`, its configuration in `child_config`, the process itself in `child_process`. To the rest
of the mesh a child is a host process like any other, with heartbeat, accounts and agent-manager of its own.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from urllib.parse import quote

import msgspec

from eddy_mesh.config import HostConfig
from eddy_mesh.discovery import blueprints
from eddy_mesh.errors import ConfigError, StoreError
from eddy_mesh.runtime.child_config import child_config, toml_text
from eddy_mesh.runtime.child_life import Child, ChildStatus, Notice, Spawn, Surroundings
from eddy_mesh.runtime.child_process import spawn
from eddy_mesh.whole_file import write_whole


class Change(msgspec.Struct, frozen=True):
    """Which children were started and ended, by name, sorted."""

    started: list[str]
    ended: list[str]


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
        self._around = Surroundings(parent.name, spawn, notice, now_ns, asyncio.Semaphore(starts or _cores()))
        self._children: dict[str, Child] = {}
        self._changing = asyncio.Lock()

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
            try:
                blueprints(config.agents, f"children.{name}: ")
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
            await _end(gone)
            for child in gone:
                del self._children[child.name]
                child.file.unlink(missing_ok=True)
            missing = [name for name in configs if name not in self._children or not self._children[name].lives]
            for name in missing:
                child = self._children.setdefault(name, Child(name, self._file(name), self._around))
                child.start()
        return Change(sorted(missing), sorted(child.name for child in gone))

    async def stop(self) -> None:
        """Drain and end all children, at the same time; in 5 s at the latest.

        Cancelled, because the host process has no more time, it leaves them to drain by themselves: they were told, and
        `end_with_parent` ends in time what hangs.
        """
        async with self._changing:
            await _end(self._children.values())

    def status(self) -> list[ChildStatus]:
        """Return how each child is, by name."""
        return [child.status() for _, child in sorted(self._children.items())]

    def _path(self, name: str) -> Path:
        """Return the state directory of a child; any name makes one that every file system takes."""
        return self._directory / quote(name, safe="")

    def _file(self, name: str) -> Path:
        path = self._path(name)
        return path.with_name(f"{path.name}.toml")


async def _end(children: Iterable[Child]) -> None:
    """End children at the same time."""
    await asyncio.gather(*(child.end() for child in children))


def _cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _write(path: Path, text: str) -> None:
    """Write a file that its owner only can read, and that is whole whenever it is there.

    Raises:
        StoreError: it can not be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_whole(path, text.encode(), synced=False, mode=0o600)  # written again at every start
    except OSError as error:
        raise StoreError(f"{path}: can not be written: {error}") from None
