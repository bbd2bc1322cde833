"""``eddy emit``: lines or JSON objects of a script become events."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

import msgspec
import rich_click as click

from eddy_mesh import subjects
from eddy_mesh.cli.connection import with_mesh
from eddy_mesh.cli.output import tell, write_records
from eddy_mesh.cli.settings import Settings, command
from eddy_mesh.errors import UsageError

if TYPE_CHECKING:
    from eddy_mesh.api import Mesh

READ_BYTES = 256 * 1024
NO_LINES = frozenset({"netflow", "sflow", "packet", "host"})
"""First words of the types whose payloads are datagrams, packets or observations."""
TEXT_TYPES = frozenset({"syslog", "file"})
"""Types whose lines are any text."""


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
    subjects.check_emitted_type(type_name)
    refuse_payloads(type_name)
    sent = Sent(type_name)
    with_mesh(settings, lambda mesh: _send(mesh, sent, file.fileno()))
    taken = sent.taken
    if settings.json:
        write_records([{"type": type_name, "taken": taken}])
    else:
        tell(f"{taken:,} event{'' if taken == 1 else 's'} taken")
    if sent.plain == 1:
        tell("1 line is no JSON object: kept as message")
    elif sent.plain:
        tell(f"{sent.plain:,} lines are no JSON objects: kept as message")


def refuse_payloads(type_name: str) -> None:
    """Refuse types whose payloads are no lines.

    Raises:
        UsageError: with the command that takes them.
    """
    if type_name.partition(".")[0] in NO_LINES:
        raise UsageError(
            f"{type_name} takes no lines: use eddy cook {type_name} FILE, or send to the port of its source"
        )


@dataclass(slots=True)
class Sent:
    """What was sent so far.

    Attributes:
        type_name: type of the events.
        taken: events.
        plain: lines that are no JSON objects, where objects are expected.
    """

    type_name: str
    taken: int = 0
    plain: int = 0


async def _send(mesh: Mesh, sent: Sent, descriptor: int) -> None:
    async with aclosing(_portions(descriptor)) as portions:
        async for lines in portions:
            sent.taken += await mesh.emit(sent.type_name, lines)
            if sent.type_name not in TEXT_TYPES:
                sent.plain += sum(not _is_object(line) for line in lines)


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(msgspec.json.decode(line), dict)
    except msgspec.DecodeError:
        return False


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
