"""The peer that a user would write in an afternoon: plain nats-py, one JSON event a message."""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import nats
import numpy as np
from load import FIELDS, FLOWS_PER_DATAGRAM, RECORD, datagrams
from measurement import Peer
from nats.aio.msg import Msg
from rig import HERE, program

from eddy_mesh.server import EmbeddedServer

NAME = "plain nats-py"
SUBJECT = "events"
HEADER_BYTES = 24
FLUSH_EVERY = 1000


async def flows(seconds: float) -> Peer:
    """Return how many flows/s one process decodes and publishes, with another one that takes and selects them."""
    async with _server() as url:
        told = await _run_pair(url, "flows", 0, seconds)
    return Peer(NAME, told["events"] / told["seconds"], "one JSON event a message, decoded with struct; no archive")


async def latency(rate: float, seconds: float) -> dict[str, float]:
    """Return percentiles of the time from publish to subscriber at a rate, in ms."""
    async with _server() as url:
        return await _run_pair(url, "stamped", rate, seconds)


@asynccontextmanager
async def _server() -> AsyncIterator[str]:
    async with EmbeddedServer() as server:
        yield server.url


async def _run_pair(url: str, what: str, rate: float, seconds: float) -> dict[str, float]:
    """Run publisher and subscriber and return what the subscriber saw."""
    own = (sys.executable, str(HERE / "plain_nats.py"))
    async with program(*own, "subscriber", url, is_fed=True) as subscriber:
        assert subscriber.stdout is not None
        await subscriber.stdout.readline()
        async with program(*own, what, url, str(rate), str(seconds)) as publisher:
            await publisher.communicate()
        output, _ = await subscriber.communicate(b"")
    return dict(json.loads(output))


async def _subscriber(url: str) -> None:
    client = await nats.connect(url)
    events = hits = 0
    began = last = 0.0
    late: list[float] = []

    async def receive(message: Msg) -> None:
        nonlocal events, hits, began, last
        event = json.loads(message.data)
        last = time.perf_counter()
        began = began or last
        events += 1
        hits += event.get("destination.port") == 22
        if "t" in event and last - began > 1:
            late.append((time.time_ns() - event["t"]) / 1e6)

    await client.subscribe(SUBJECT, cb=receive, pending_msgs_limit=-1, pending_bytes_limit=-1)
    await client.flush()
    gc.disable()  # as in subscriber.py
    print("on", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await client.drain()
    p50, p99 = np.percentile(late, (50, 99)) if late else (0.0, 0.0)
    print(json.dumps({"events": events, "seconds": last - began, "hits": hits, "p50_ms": p50, "p99_ms": p99}))


async def _publish_flows(url: str, seconds: float) -> None:
    client = await nats.connect(url)
    names = [f"f{element}" if element != 11 else "destination.port" for element, _ in FIELDS]
    payloads = datagrams(256)
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        for payload in payloads:
            end = HEADER_BYTES + RECORD.itemsize * FLOWS_PER_DATAGRAM
            for at in range(HEADER_BYTES, end, RECORD.itemsize):
                values = _values(payload[at : at + RECORD.itemsize])
                await client.publish(SUBJECT, json.dumps(dict(zip(names, values, strict=True))).encode())
            await client.flush()
    await client.close()


def _values(record: bytearray) -> list[int]:
    values: list[int] = []
    at = 0
    for _, length in FIELDS:
        values.append(int.from_bytes(record[at : at + length], "big"))
        at += length
    return values


async def _publish_stamped(url: str, rate: float, seconds: float) -> None:
    client = await nats.connect(url)
    began = time.perf_counter()
    sent = 0
    while (elapsed := time.perf_counter() - began) < seconds:
        due = int(elapsed * rate) - sent
        if due <= 0:
            await asyncio.sleep(0.0002)
            continue
        for _ in range(due):
            event = {"host": "web1", "process.name": "bench", "process.pid": 7, "t": time.time_ns()}
            await client.publish(SUBJECT, json.dumps(event).encode())
        sent += due
        if sent % FLUSH_EVERY < due:
            await client.flush()
    await client.flush()
    await client.close()


if __name__ == "__main__":
    _, role, where, *numbers = sys.argv
    if role == "subscriber":
        asyncio.run(_subscriber(where))
    elif role == "flows":
        asyncio.run(_publish_flows(where, float(numbers[1])))
    else:
        asyncio.run(_publish_stamped(where, float(numbers[0]), float(numbers[1])))
