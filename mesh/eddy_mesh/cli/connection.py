"""From a command to a connected `Mesh`.

What may live here: the event loop of one command, and how it ends.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import click

from eddy_mesh.cli.output import tell
from eddy_mesh.cli.settings import Settings
from eddy_mesh.local import Whereabouts, find, running

if TYPE_CHECKING:
    from eddy_mesh.api import Mesh

T = TypeVar("T")
OWNER = "eddy"
SIGNALED = 128
"""Exit status of a command that a signal ended: this plus the number of the signal."""


def with_mesh(settings: Settings, work: Callable[[Mesh], Awaitable[T]]) -> T:
    """Connect, do the work, and return what it returns. Ctrl-C, SIGTERM and SIGHUP end it after it has cleaned up.

    Raises:
        UsageError: no backplane was found.
        BusError: the server can not be reached.
    """
    from eddy_mesh.api import connect  # noqa: PLC0415  # quick --help

    async def connected() -> T:
        place = chosen_place(settings)
        async with connect(backplane=settings.backplane, owner=OWNER, where=place) as mesh:
            return await work(mesh)

    return run(connected())


def chosen_place(settings: Settings) -> Whereabouts:
    """Return the backplane to ask; where several `up` run here, say on standard error which one it is.

    Raises:
        UsageError: no backplane was found.
    """
    here = running()
    named = settings.server or ("" if settings.context else os.environ.get("EDDY_SERVER", ""))
    for up in here:
        if named and named in up.servers:
            return up  # its note has the token as well
    place = find(settings.server, settings.context)
    if len(here) > 1 and place in here:
        others = " or ".join(server for up in here if up != place for server in up.servers)
        asked = f"asking process {place.pid} ({place.state})"
        tell(f"{len(here)} eddy-agent up run here; {asked}; name another with --server: {others}")
    return place


def run(work: Awaitable[T]) -> T:
    """Run asynchronous work to its end in a loop of its own; SIGTERM and SIGHUP cancel it."""
    ended_by: list[signal.Signals] = []

    def end(number: signal.Signals, task: asyncio.Task[T]) -> None:
        ended_by.append(number)
        task.cancel()

    async def guarded() -> T:
        task = asyncio.current_task()
        if sys.platform != "win32" and task is not None:
            for number in (signal.SIGTERM, signal.SIGHUP):
                asyncio.get_running_loop().add_signal_handler(number, end, number, task)
        return await work

    try:
        return asyncio.run(guarded())
    except asyncio.CancelledError:
        if not ended_by:
            raise
        raise click.exceptions.Exit(SIGNALED + ended_by[0]) from None


async def bursts(items: AsyncIterator[T], pause_s: float) -> AsyncGenerator[list[T]]:
    """Yield items in lists: what came with no longer pause than ``pause_s`` between two of them."""
    held: list[T] = []
    coming = asyncio.ensure_future(anext(items))
    try:
        while True:
            await asyncio.wait({coming}, timeout=pause_s if held else None)
            if not coming.done():
                yield held
                held = []
                continue
            try:
                held.append(coming.result())
            except StopAsyncIteration:
                break
            coming = asyncio.ensure_future(anext(items))
    finally:
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)
    if held:
        yield held
