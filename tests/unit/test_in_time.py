"""Work that may take only so long."""

from __future__ import annotations

import asyncio
import contextlib

from eddy_mesh.listening import in_time


async def test_work_ends_with_whoever_waits_for_it() -> None:
    """Where the waiter is cancelled, the work is too: nobody else would look after it."""
    begun, ended = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    waiter = asyncio.create_task(in_time(3600, work()))
    await begun.wait()
    waiter.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiter
    assert ended.is_set()
    assert waiter.cancelled()


async def test_late_work_is_cancelled_and_said_so() -> None:
    """The answer says whether the work was done."""

    async def at_once() -> None:
        pass

    assert not await in_time(0, asyncio.Event().wait())
    assert await in_time(3600, at_once())
