"""The systemd journal of this host, read through journalctl: one journal entry is one raw event.

Takes in: the output of ``journalctl --output=json --follow``, from the cursor where the last run ended.
Gives: ``event.raw.system.journald``, each the JSON object of one entry.

At least once: the cursor is written down only after the events up to it have been taken. A host without journalctl
or without a journal that may be read is no failure: it is said once, and tried again from time to time.

Source: journalctl(1), systemd "Journal Export Formats", section "Journal JSON Format".
"""

from __future__ import annotations

import asyncio
import shutil
from asyncio.subprocess import DEVNULL, PIPE, Process
from contextlib import suppress
from typing import Annotated

import msgspec
import numpy as np

from eddy_agents.wire.framing import Frames, LineFramer
from eddy_mesh.agent import Draft, Outlet
from eddy_mesh.batch import Kind
from eddy_mesh.cer import EventClass, Stage
from eddy_mesh.checkpoint import CheckpointFile
from eddy_mesh.columns import Constant, Numbers
from eddy_mesh.listening import Pace, first_of, in_time

OUTPUT = Kind(Stage.RAW, EventClass.SYSTEM, "journald")
MEDIA_TYPE = "application/json"
CHECKPOINT_S = 1.0
"""Least time between two checkpoints."""

_READ_BYTES = 256 * 1024
_STOP_WAIT_S = 0.3
_MAX_ERROR_BYTES = 64 * 1024


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the journald source."""

    command: str = "journalctl"
    """Name or path of journalctl."""

    arguments: tuple[str, ...] = ()
    """Further arguments for journalctl: ``--system``, ``--unit=sshd``, ``--directory=/var/log/journal`` ..."""

    start: Annotated[str, msgspec.Meta(pattern="^(end|beginning)$")] = "end"
    """Where the first run begins: ``end`` or ``beginning`` of the journal."""

    max_entry_bytes: Annotated[int, msgspec.Meta(ge=4096)] = 16 * 1024 * 1024
    """Longest entry; of a longer one the beginning is taken and the rest skipped, with a notice."""

    retry_s: Annotated[float, msgspec.Meta(gt=0)] = 5.0
    """Wait before the first new attempt when the journal can not be read; twice as long after each failure."""

    max_retry_s: Annotated[float, msgspec.Meta(gt=0)] = 300.0
    """Longest wait between two attempts."""


class Cursor(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a journal entry that says where it is; also the form of the checkpoint."""

    cursor: str = msgspec.field(name="__CURSOR")
    realtime_us: str = msgspec.field(name="__REALTIME_TIMESTAMP", default="")


class Source:
    """Follows the journal."""

    def __init__(self, config: Config) -> None:
        self._config = config

    async def run(self, outlet: Outlet) -> None:
        """Emit each entry until cancelled; journalctl is ended then.

        Raises:
            OSError: the checkpoint can not be written.
        """
        reader = _Reader(self._config, outlet)
        try:
            await reader.run()
        finally:
            await reader.stop()


class _Reader:
    """The journal, over as many runs of journalctl as it takes."""

    def __init__(self, config: Config, outlet: Outlet) -> None:
        self._config = config
        self._outlet = outlet
        self._file = CheckpointFile(outlet, Cursor)
        self._cursor = self._file.found
        self._is_cursor_refused = False
        self._has_read = False
        self._told = ""

    async def run(self) -> None:
        wait_s = self._config.retry_s
        while True:
            self._has_read = False
            reason = await self._follow()
            if self._has_read:
                wait_s, self._told = self._config.retry_s, ""
            elif self._cursor is not None and not self._is_cursor_refused:
                self._is_cursor_refused = True  # perhaps the journal was cleared: go on by time
            if reason != self._told:
                self._outlet.notice("journal_unavailable", **{"error.message": reason}, retry_s=wait_s)
                self._told = reason
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, self._config.max_retry_s)

    async def _follow(self) -> str:
        """Run journalctl until it ends; return why there is no more."""
        command = shutil.which(self._config.command)
        if command is None:
            return f"{self._config.command} is not installed: this host has no journal, or name its path in command"
        try:
            process = await asyncio.create_subprocess_exec(
                command,
                *self._arguments(),
                stdin=DEVNULL,
                stdout=PIPE,
                stderr=PIPE,
                limit=_READ_BYTES,
                start_new_session=True,  # Ctrl-C is for the host process, which then ends this one
            )
        except OSError as error:
            return f"{command} can not be started: {error.strerror}"
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            async with asyncio.TaskGroup() as group:
                complaints = group.create_task(_first_of_all(process.stderr))
                checkpoints = group.create_task(self._checkpoint_often())
                await self._forward(process.stdout)
                checkpoints.cancel()
        except* OSError as failed:
            raise first_of(failed) from failed
        finally:
            await _end(process)
        text = complaints.result().decode("utf-8", "replace").strip()
        return text.splitlines()[0] if text else f"{command} ended with status {process.returncode}"

    def _arguments(self) -> list[str]:
        return [
            "--output=json",
            "--all",  # else values of more than 4 KiB are left out
            "--follow",
            "--quiet",
            *self._config.arguments,
            *self._beginning(),
        ]

    def _beginning(self) -> list[str]:
        if self._cursor is None:
            return ["--lines=0"] if self._config.start == "end" else ["--no-tail"]
        microseconds = self._cursor.realtime_us
        if self._is_cursor_refused and microseconds.isdecimal():
            return ["--no-tail", f"--since=@{int(microseconds) // 1_000_000}"]
        return ["--no-tail", f"--after-cursor={self._cursor.cursor}"]

    async def _forward(self, output: asyncio.StreamReader) -> None:
        framer = LineFramer(self._config.max_entry_bytes)
        pace = Pace()
        while data := await output.read(_READ_BYTES):
            frames = framer.feed(data)
            if frames.cut:
                cut = {"edge.count": frames.cut}
                self._outlet.notice("entry_too_long", **cut, max_entry_bytes=self._config.max_entry_bytes)
            if len(frames):
                await self._outlet.emit(_draft(frames, self._outlet.now_ns()))
                self._remember(frames)
            await pace.wait(len(frames), full=len(data) == _READ_BYTES)

    def _remember(self, frames: Frames) -> None:
        """Note the cursor of the last entry that has one, now that it was emitted."""
        self._has_read = True
        self._is_cursor_refused = False
        for row in range(len(frames) - 1, -1, -1):
            with suppress(msgspec.DecodeError, UnicodeDecodeError):  # an entry that was cut
                self._cursor = msgspec.json.decode(frames.payloads.bytes_at(row), type=Cursor)
                return

    async def _checkpoint_often(self) -> None:
        while True:
            await asyncio.sleep(CHECKPOINT_S)
            await self._checkpoint()

    async def _checkpoint(self) -> None:
        if self._cursor is not None:
            await self._file.keep(self._cursor)

    async def stop(self) -> None:
        """Write the last checkpoint, if what it covers is taken in time."""
        await in_time(_STOP_WAIT_S, self._checkpoint())


def _draft(frames: Frames, now_ns: int) -> Draft:
    count = len(frames)
    return Draft(
        OUTPUT,
        count,
        {
            "event.original": frames.payloads,
            "raw.media_type": Constant(MEDIA_TYPE, count),
            "observed": Numbers(np.full(count, now_ns, np.int64)),
        },
    )


async def _first_of_all(errors: asyncio.StreamReader) -> bytes:
    """Read all that is written to standard error, and return its beginning."""
    kept = b""
    while data := await errors.read(_MAX_ERROR_BYTES):
        kept = (kept + data)[:_MAX_ERROR_BYTES]
    return kept


async def _end(process: Process) -> None:
    """End a process and wait for it; one that does not obey in time is killed."""
    for signal in (process.terminate, process.kill):
        if process.returncode is None:
            with suppress(ProcessLookupError):
                signal()
        if await in_time(_STOP_WAIT_S, process.wait()):
            return
