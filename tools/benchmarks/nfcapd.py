"""The peer for flows: nfcapd writes them, nfdump reads them (Debian package nfdump)."""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from rig import cpu_s, free_port, program, send

NAME = "nfcapd"
BUFFER_BYTES = 32 * 1024 * 1024
SETTLE_S = 2.0


def is_installed() -> bool:
    """Whether both programs are on the path."""
    return bool(shutil.which("nfcapd") and shutil.which("nfdump"))


@dataclass(frozen=True)
class Collected:
    """What one run gave.

    Attributes:
        sent: flows that were sent.
        stored: flows that its files hold.
        rate: flows/s that were sent.
        cpu_s: processor time that nfcapd used.
        size: bytes of its files.
    """

    sent: int
    stored: int
    rate: float
    cpu_s: float
    size: int


@asynccontextmanager
async def collecting(folder: Path) -> AsyncIterator[tuple[int, asyncio.subprocess.Process]]:
    """Run nfcapd; yields its port and process. It writes its last file when it ends."""
    folder.mkdir()  # noqa: ASYNC240  # nothing else waits
    port = free_port(socket.SOCK_DGRAM)
    options = ("-b", "127.0.0.1", "-p", str(port), "-w", str(folder), "-t", "3600", "-B", str(BUFFER_BYTES), "-y")
    async with program("nfcapd", *options, is_quiet=True) as process:
        await asyncio.sleep(0.5)  # it does not say when it listens
        yield port, process


async def collect(folder: Path, rate: float, seconds: float, capture: str = "") -> Collected:
    """Send flows to nfcapd and return what became of them."""
    async with collecting(folder) as (port, process):
        sent = await send("flows", port, rate, seconds, *([capture] if capture else []))
        await asyncio.sleep(SETTLE_S)
        used = cpu_s(process.pid)
    size = sum(file.stat().st_size for file in folder.iterdir())  # noqa: ASYNC240  # the same
    return Collected(int(sent["events"]), stored(folder), sent["events"] / sent["seconds"], used, size)


def stored(folder: Path) -> int:
    """Return the number of flows in the files of a folder."""
    told = subprocess.run(["nfdump", "-R", str(folder), "-I"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"^Flows: (\d+)", told, re.MULTILINE)
    return int(found[1]) if found else 0
