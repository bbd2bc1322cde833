"""Child processes of a host process, and what keeps them from outliving it: both ends of one pipe.

What may live here: start, end and words of one `eddy-agent run` below another one. The parent holds the writing end of
the child's standard input and never writes. It closes it to end the child, and however the parent itself ends, the
system does; the child then drains. That works alike on Linux, macOS and Windows, and for a parent that was killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol, cast

import msgspec

from eddy_mesh.listening import in_time
from eddy_mesh.local import process_start
from eddy_mesh.runtime.child_end import End, read_line

END_S = 5.0
"""Longest orderly end of a child; what has not ended then is killed."""
LAST_WORDS_S = 1.0
"""Longest wait for the rest of the standard error of a process that has ended; one below it may hold it open."""
KEPT_LINES = 5
"""Last words that are kept."""
MAX_LINE = 16_000
"""Characters of a line that are passed on: a traceback is one line of log."""
POLL_S = 0.05
READY = "ready: "
"""How the line on standard output begins that a host process writes when its agents have started."""


class ChildProcess(Protocol):
    """One process, from its start to its end."""

    @property
    def pid(self) -> int:
        """Its process number."""
        ...

    async def started(self) -> bool:
        """Return whether it is ready, as soon as that is known; False when it ended before."""
        ...

    async def ended(self) -> End:
        """Return how it ended, when it has."""
        ...

    def end(self) -> None:
        """Tell it to drain and end; it does so within `END_S`, whatever becomes of this process."""
        ...

    def kill(self) -> None:
        """End it at once."""
        ...

    def rss_bytes(self) -> int:
        """Return the memory that it holds, octets; 0 where that is not known."""
        ...


class Note(msgspec.Struct, frozen=True):
    """Which process is, or was, a child: its number, and when it started (see `process_start`)."""

    pid: int
    started: str


async def spawn(config: Path, said: Callable[[str], None]) -> ChildProcess:
    """Start a host process that ends with this one.

    One of an earlier life of this host process, which may be draining still, is waited for: two of a name would share
    a state directory. Cancelled, it leaves no process.

    Args:
        config: its configuration file; a note of the process is kept beside it.
        said: takes each line of its standard error.

    Raises:
        OSError: it can not be started.
    """
    note = config.with_suffix(".pid")
    await _end_earlier(note)
    # -P: a module in the working directory must not take the place of ours.
    program = (sys.executable, "-P", "-m", "eddy_mesh.cli.agent", "run", str(config), "--while-parent", "--log-json")
    start = partial(asyncio.get_running_loop().subprocess_exec, lambda: _Process(said), *program)
    # Ctrl-C is not for a child: its parent gets it, and ends its children in order.
    if sys.platform == "win32":
        _, protocol = await start(creationflags=subprocess.CREATE_NEW_PROCESS_GROUP)
    else:
        _, protocol = await start(start_new_session=True)
    with contextlib.suppress(OSError):  # a full disk: nobody waits for this one after a crash of ours, that is all
        note.write_bytes(msgspec.json.encode(Note(protocol.pid, process_start(protocol.pid))))
    return protocol


def _read_note(path: Path) -> Note:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Note)
    except (OSError, msgspec.MsgspecError):
        return Note(0, "")  # there was none


async def _end_earlier(note: Path) -> None:
    """Return when the process of a note is gone: it is killed after `END_S`.

    Raises:
        OSError: it goes on, and shares the state directory with none.
    """
    earlier = _read_note(note)
    if not earlier.started or await _is_gone(earlier):
        return
    import psutil  # noqa: PLC0415  # slow to import, and hardly ever needed

    with contextlib.suppress(psutil.Error):  # it ended just now
        process = psutil.Process(earlier.pid)
        if process_start(earlier.pid) == earlier.started:
            process.kill()
    if not await _is_gone(earlier):
        raise OSError(
            f"process {earlier.pid} of its earlier life was killed and has not ended: look at what it waits for"
        )


async def _is_gone(process: Note) -> bool:
    """Return whether a process has ended, as soon as it has; False after `END_S`."""
    for _ in range(round(END_S / POLL_S)):
        if process_start(process.pid) != process.started:
            return True
        await asyncio.sleep(POLL_S)
    return False


class _Process(asyncio.SubprocessProtocol):
    """A process of the event loop; `asyncio.subprocess.Process` would wait for those that its end leaves behind."""

    def __init__(self, said: Callable[[str], None]) -> None:
        self.pid = 0
        self._said = said
        self._lines = {1: _Lines(self._out), 2: _Lines(self._err)}
        self._last: deque[str] = deque(maxlen=KEPT_LINES)
        self._is_ready = False
        self._status: int | None = None
        self._known, self._exited, self._silent = asyncio.Event(), asyncio.Event(), asyncio.Event()

    # --- called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take note of the process."""
        self._transport = cast("asyncio.SubprocessTransport", transport)
        self.pid = self._transport.get_pid()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Take what it says."""
        self._lines[fd].feed(data)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:  # noqa: ARG002
        """Take note that it says no more."""
        if fd == 2:
            self._lines[fd].close()
            self._silent.set()

    def process_exited(self) -> None:
        """Take note of its end."""
        self._status = self._transport.get_returncode()
        self._exited.set()
        self._known.set()

    def _out(self, line: str) -> None:
        if line.startswith(READY):
            self._is_ready = True
            self._known.set()

    def _err(self, line: str) -> None:
        if words := read_line(line).words:
            self._last.append(words)
        self._said(line)

    # --- ChildProcess

    async def started(self) -> bool:
        """See `ChildProcess`."""
        await self._known.wait()
        return self._is_ready

    async def ended(self) -> End:
        """See `ChildProcess`."""
        await self._exited.wait()
        await in_time(LAST_WORDS_S, self._silent.wait())
        self._transport.close()
        return End(self._status or 0, "\n".join(self._last))

    def end(self) -> None:
        """See `ChildProcess`."""
        stdin = self._transport.get_pipe_transport(0)
        if stdin is not None:
            stdin.close()

    def kill(self) -> None:
        """See `ChildProcess`."""
        with contextlib.suppress(ProcessLookupError):
            self._transport.kill()

    def rss_bytes(self) -> int:
        """See `ChildProcess`."""
        import psutil  # noqa: PLC0415  # only who has children needs it

        if self._status is not None:
            return 0
        try:
            return int(psutil.Process(self.pid).memory_info().rss)
        except psutil.Error:
            return 0


class _Lines:
    """Cuts what comes in pieces into lines, none of which is longer than `MAX_LINE`."""

    def __init__(self, take: Callable[[str], None]) -> None:
        self._take = take
        self._held = b""

    def feed(self, data: bytes) -> None:
        """Take a piece."""
        *whole, self._held = (self._held + data).split(b"\n")
        for line in whole:
            self._line(line)
        self._held = self._held[: 4 * MAX_LINE]

    def close(self) -> None:
        """Take the last line, which may have no end."""
        self._line(self._held)
        self._held = b""

    def _line(self, line: bytes) -> None:
        text = line.decode("utf-8", "replace").strip("\r")[:MAX_LINE]
        if text.strip():
            self._take(text)


# --- in the child


def end_with_parent() -> None:
    """Make this process end in order when its standard input ends, and in `END_S` at the latest.

    Until the signal handlers of the host process are there it ends at once: there is nothing to drain yet. Called in
    the main thread.
    """
    if sys.platform != "win32":
        signal.signal(signal.SIGTERM, lambda number, _: os._exit(128 + number))
    threading.Thread(target=_watch_parent, name="parent", daemon=True).start()


def _watch_parent() -> None:
    # The bare descriptor: a thread that waits in sys.stdin holds a lock which the end of the interpreter needs.
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    if sys.platform == "win32":
        signal.raise_signal(signal.SIGINT)  # the one signal that the event loop hears there
    elif signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:  # else it ends already, and would be cut short
        os.kill(os.getpid(), signal.SIGTERM)  # to the process: whatever its main thread waits for is broken off
    time.sleep(END_S)
    os._exit(1)  # nobody is left who would kill it
