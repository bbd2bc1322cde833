"""``eddy emit``: lines or JSON objects of a script become events."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import BinaryIO

import rich_click as click

from eddy_mesh.api import Mesh
from eddy_mesh.cli.connection import with_mesh
from eddy_mesh.cli.output import tell, write_records
from eddy_mesh.cli.settings import Settings, command

READ_BYTES = 256 * 1024


@command("emit")
@click.argument("type_name", metavar="TYPE")
@click.argument("file", type=click.File("rb"), default="-", metavar="[FILE]")
def emit(settings: Settings, type_name: str, file: BinaryIO) -> None:
    """Put the lines of FILE, or of standard input, into the mesh as events of TYPE.

    TYPE is that of a source (syslog, json ...), or a new one for JSON objects of named fields, one a line. Lines of a
    pipe go out as they come.

    \b
    tail -F app.log | eddy emit syslog
    echo '{"message": "backup done", "host": "db1"}' | eddy emit backup
    """  # noqa: D301  # click's mark for lines that stay as they are
    taken = with_mesh(settings, lambda mesh: _send(mesh, type_name, file.fileno()))
    if settings.json:
        write_records([{"type": type_name, "taken": taken}])
    else:
        tell(f"{taken:,} event{'' if taken == 1 else 's'} taken")


async def _send(mesh: Mesh, type_name: str, descriptor: int) -> int:
    taken = 0
    async with aclosing(_portions(descriptor)) as portions:
        async for lines in portions:
            taken += await mesh.emit(type_name, lines)
    return taken


async def _portions(descriptor: int) -> AsyncGenerator[list[bytes]]:
    """Yield the lines of a file or pipe as they come.

    A thread reads, since a read of standard input can not be awaited on every platform; it reads the next portion only
    when this one was sent, and as a daemon it keeps nobody from ending.
    """
    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[bytes | OSError] = asyncio.Queue()
    wanted = threading.Semaphore(1)

    def read() -> None:
        while wanted.acquire():
            try:
                data: bytes | OSError = os.read(descriptor, READ_BYTES)
            except OSError as error:
                data = error
            loop.call_soon_threadsafe(arrived.put_nowait, data)
            if not isinstance(data, bytes) or not data:
                return

    threading.Thread(target=read, name="emit reader", daemon=True).start()
    rest = b""
    while data := await arrived.get():
        if isinstance(data, OSError):
            raise data
        *lines, rest = (rest + data).split(b"\n")
        if lines:
            yield [line.removesuffix(b"\r") for line in lines if line.strip()]
        wanted.release()
    if rest.strip():
        yield [rest]
