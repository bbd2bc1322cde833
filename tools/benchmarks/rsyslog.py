"""The peer for lines: rsyslogd writes each as JSON (Debian package rsyslog)."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
from rig import BenchError, free_port, program, send

NAME = "rsyslogd"
PROGRAM = "rsyslogd"
UNLIMITED = 1e9
WAIT_S = 60.0
HELD_LINES = 4096
"""The last lines stay in its 256 KiB buffer until it ends; a flush after each transaction would halve its rate."""
CONFIG = """
global(workDirectory="{folder}" maxMessageSize="64k")
module(load="{module}" {module_options})
template(name="json" type="list" option.jsonf="on") {{
    property(outname="@timestamp" name="timereported" dateFormat="rfc3339" format="jsonf")
    property(outname="host.name" name="hostname" format="jsonf")
    property(outname="process.name" name="programname" format="jsonf")
    property(outname="process.pid" name="procid" format="jsonf")
    property(outname="log.syslog.severity" name="syslogseverity" format="jsonf")
    property(outname="log.syslog.facility" name="syslogfacility" format="jsonf")
    property(outname="message" name="msg" format="jsonf")
}}
main_queue(queue.type="FixedArray" queue.size="200000" queue.dequeueBatchSize="4096")
{input}
action(type="omfile" file="{folder}/out.json" template="json" ioBufferSize="256k" flushOnTXEnd="off" asyncWriting="off")
"""


def is_installed() -> bool:
    """Whether the program is on the path."""
    return shutil.which(PROGRAM) is not None


async def from_tcp(seconds: float) -> float:
    """Return the lines/s that it takes in over TCP and writes."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="eddy-bench-") as name:
        source = f'input(type="imtcp" port="{port}" address="127.0.0.1")'
        async with _running(Path(name), "imtcp", "", source):
            await _until_listening(port)
            began = time.perf_counter()
            sent = await send("lines", port, UNLIMITED, seconds)
            await _until_written(Path(name) / "out.json", int(sent["sent"]))
            took_s = time.perf_counter() - began
        _check(Path(name) / "out.json", int(sent["sent"]))
        return sent["sent"] / took_s


async def from_file(folder: Path, text: bytes, count: int) -> float:
    """Return the lines/s that it reads of a file and writes."""
    (folder / "input.log").write_bytes(text)
    source = f'input(type="imfile" file="{folder}/input.log" tag="bench" readMode="0")'
    began = time.perf_counter()
    async with _running(folder, "imfile", 'mode="inotify"', source):
        await _until_written(folder / "out.json", count)
        took_s = time.perf_counter() - began
    _check(folder / "out.json", count)
    return count / took_s


async def idle(seconds: float) -> tuple[float, float]:
    """Return resident memory in MB and the share of a core in percent of one that has nothing to do."""
    with tempfile.TemporaryDirectory(prefix="eddy-bench-") as name:
        source = f'input(type="imtcp" port="{free_port()}" address="127.0.0.1")'
        async with _running(Path(name), "imtcp", "", source) as process:
            await asyncio.sleep(2)
            watched = psutil.Process(process.pid)
            watched.cpu_percent()
            await asyncio.sleep(seconds)
            return watched.memory_info().rss / 1e6, watched.cpu_percent()


@asynccontextmanager
async def _running(folder: Path, module: str, options: str, source: str) -> AsyncIterator[asyncio.subprocess.Process]:
    config = folder / "rsyslog.conf"
    config.write_text(CONFIG.format(folder=folder, module=module, module_options=options, input=source))
    arguments = ("-n", "-f", str(config), "-i", str(folder / "rsyslogd.pid"))
    async with program(PROGRAM, *arguments, is_quiet=True) as process:
        yield process


async def _until_listening(port: int) -> None:
    until = time.monotonic() + WAIT_S
    while time.monotonic() < until:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
            continue
        writer.close()
        return
    raise BenchError(f"{NAME} does not listen")


async def _until_written(path: Path, count: int) -> None:
    """Wait until a file has so many lines, but for those that are held back."""
    until = time.monotonic() + WAIT_S
    found = position = 0
    while time.monotonic() < until:
        if path.exists():  # noqa: ASYNC240  # nothing else waits
            with path.open("rb") as file:
                file.seek(position)
                while piece := file.read(1 << 20):
                    found += piece.count(b"\n")
                    position += len(piece)
        if found >= count - HELD_LINES:
            return
        await asyncio.sleep(0.05)
    raise BenchError(f"{NAME} wrote {found:,} of {count:,} lines")


def _check(path: Path, count: int) -> None:
    """Raise when a file that is complete does not have so many lines."""
    with path.open("rb") as file:
        found = sum(piece.count(b"\n") for piece in iter(lambda: file.read(1 << 20), b""))
    if found != count:
        raise BenchError(f"{NAME} wrote {found:,} of {count:,} lines")
