"""Slow subscribers: one that is stopped, one that reads slowly and one that vanishes slow nobody else down."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from contextlib import aclosing
from pathlib import Path

import pytest

from eddy_mesh.agent import Draft
from eddy_mesh.api import Mesh
from eddy_mesh.batch import Kind
from eddy_mesh.bus_nats import connect
from eddy_mesh.cer import EventClass, Stage
from eddy_mesh.columns import Column, Constant, Text, pack
from eddy_mesh.config import HostConfig, convert
from eddy_mesh.runtime.host import Host
from eddy_mesh.runtime.process import running
from eddy_mesh.server import EmbeddedServer

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(120),
    pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs signals that stop a process"),
]

KIND = Kind(Stage.COOKED, EventClass.APPLICATION, "x")
TAP = "from eddy_mesh.cli.tool import main; main()"
SLOW = """
import time, eddy_mesh.blocking
with eddy_mesh.blocking.connect({server!r}) as mesh:
    print("on", flush=True)
    for event in mesh.tap("SELECT message, event.sequence FROM application.x WHERE event.sequence > 0"):
        time.sleep(0.1)
"""
BATCHES, EVENTS = 400, 200
TEXT = b"x" * 1000  # 80 MB in all: more than the server holds back for a client that does not read


async def program(server: str, state: Path, *arguments: str) -> Process:
    """Start a Python program that talks to the backplane."""
    environment = {**os.environ, "EDDY_SERVER": server, "EDDY_STATE": str(state)}
    return await asyncio.create_subprocess_exec(
        sys.executable, *arguments, env=environment, stdin=PIPE, stdout=PIPE, stderr=PIPE
    )


async def emit(host: Host) -> None:
    """Emit all events."""
    for number in range(BATCHES):
        columns: dict[str, Column] = {
            "message": Text(*pack([TEXT] * EVENTS)),
            "event.sequence": Constant(number + 1, EVENTS),
        }
        await host.cells["p"].emit(Draft(KIND, EVENTS, columns))
        await asyncio.sleep(0)


async def asked(mesh: Mesh, flows: int) -> None:
    """Wait until so many flows are asked for."""
    while sum(len(status["subscriptions"]) for status in await mesh.hosts()) < flows:  # type: ignore[arg-type,misc]  # JSON
        pass


async def test_the_slow_do_not_slow_the_others(tmp_path: Path) -> None:
    """Who reads gets everything, the producer's accounts balance, and nobody waits for those who do not read."""
    agents = {"p": {"type": "transformer", "cooking": "split", "subscribe": ["SELECT * FROM system.never"]}}
    async with EmbeddedServer() as server:
        bus, tool = await connect(server.url, name="h1"), await connect(server.url, name="tool")
        config = convert({"name": "h1", "agents": agents}, HostConfig, "test")
        async with running(config, bus, tmp_path / "h1") as (host, _):
            mesh = Mesh(tool, "eddy")
            stopped = await program(
                server.url, tmp_path, "-c", TAP, "tap", "SELECT message FROM application.x", "--json"
            )
            slow = await program(server.url, tmp_path, "-c", SLOW.format(server=server.url))
            vanishing = await program(
                server.url, tmp_path, "-c", TAP, "tap", "SELECT host FROM application.x", "--json"
            )
            try:
                await asked(mesh, 3)
                stopped.send_signal(signal.SIGSTOP)
                vanishing.kill()
                taken = 0
                async with asyncio.timeout(60), asyncio.TaskGroup() as group:
                    tap = mesh.tap("SELECT event.sequence FROM application.x")
                    first = asyncio.ensure_future(anext(tap))
                    await asked(mesh, 4)
                    group.create_task(emit(host))
                    assert (await first)["event.sequence"] == 1
                    taken = 1
                    async with aclosing(tap):
                        async for _ in tap:
                            taken += 1
                            if taken == BATCHES * EVENTS:
                                break
                assert mesh.ledger.lost == 0
                assert all(ledger.balanced for ledger in host.ledgers())
            finally:
                for process in (stopped, slow, vanishing):
                    if process.returncode is None:
                        process.kill()
                    await process.wait()
        await bus.close()
        await tool.close()
