"""Keeping: what a host process keeps of the events that its agents made, so that they can be selected back.

What may live here: opening the local store beside the event loop, and what need not be kept in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from eddy_mesh.actor.edge import Overload
from eddy_mesh.config import LocalConfig
from eddy_mesh.errors import StoreError
from eddy_mesh.runtime.router import Route
from eddy_mesh.store.local_store import LocalStore


async def opened(
    folder: Path, config: LocalConfig, now_ns: Callable[[], int], tell: Callable[[str], None]
) -> LocalStore | None:
    """Return the local store, begun; None where nothing is to be kept, or nothing can be.

    Args:
        folder: its folder.
        config: settings.
        now_ns: the clock, ns since 1970 UTC.
        tell: given, once for each reason, what an operator must know; called in the event loop.
    """
    if not config.max_bytes:
        return None
    loop = asyncio.get_running_loop()

    def told(problem: str) -> None:
        loop.call_soon_threadsafe(tell, problem)

    try:
        store = await asyncio.to_thread(LocalStore, folder, config, now_ns, told)
    except StoreError as error:
        tell(f"events can not be selected back: {error}")
        return None
    store.start()
    return store


def is_kept_whole(route: Route) -> bool:
    """Whether a route leads to an archive that takes all: what is there need not be kept here as well."""
    plan = route.edge.plan
    takes_all = plan is None or (plan.where is None and not plan.items)
    return route.consumer.kind == "archive" and takes_all and route.edge.overload is Overload.BLOCK
