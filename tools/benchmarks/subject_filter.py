"""The peer that selects by subject alone: each event on the subject of its port, and a subscription for each port."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import nats
from measurement import Peer
from nats.aio.msg import Msg
from rig import HERE, program

from eddy_mesh.server import EmbeddedServer

FLUSH_EVERY = 2000


async def measure(events: Sequence[tuple[int, bytes]], ports: Sequence[int], seconds: float) -> Peer:
    """Return how many events/s one process publishes, with another that has a subscription for each port.

    Args:
        events: port and bytes of each event, encoded beforehand: what plain NATS would have to do first is not counted.
        ports: what is subscribed to.
        seconds: how long.
    """
    async with server_with_subscriber([f"port.{port}" for port in ports]) as url:
        client = await nats.connect(url)
        sent = 0
        began = time.perf_counter()
        while time.perf_counter() - began < seconds:
            for port, payload in events:
                await client.publish(f"port.{port}", payload)
                sent += 1
                if sent % FLUSH_EVERY == 0:
                    await client.flush()
        await client.flush()
        took_s = time.perf_counter() - began
        await client.close()
    return Peer("NATS subjects", sent / took_s, f"{len(ports)} subjects; one message an event, encoded beforehand")


@asynccontextmanager
async def server_with_subscriber(wanted: Sequence[str]) -> AsyncIterator[str]:
    """Run a server, and a process that subscribes to each of some subjects; yields the server's URL."""
    async with (
        EmbeddedServer() as server,
        program(sys.executable, str(HERE / "subject_filter.py"), server.url, *wanted, is_fed=True) as process,
    ):
        assert process.stdout is not None
        await process.stdout.readline()
        yield server.url


async def _subscribe(url: str, wanted: Sequence[str]) -> None:
    client = await nats.connect(url)

    async def receive(message: Msg) -> None:
        """Take it and do nothing with it."""

    for subject in wanted:
        await client.subscribe(subject, cb=receive, pending_msgs_limit=-1, pending_bytes_limit=-1)
    await client.flush()
    print("on", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await client.close()


if __name__ == "__main__":
    asyncio.run(_subscribe(sys.argv[1], sys.argv[2:]))
