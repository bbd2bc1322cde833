"""Processes: a NATS server and a host process in each place, the load, and their ends.

What may live here: starting and ending them. What is asked of them is in `changes` and `accounts`.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from networks import Place

HERE = Path(__file__).parent
HUB = "hub"
EDGES = ("e1", "e2")
CLIENT_PORT, LEAF_PORT, LOAD_PORT = 4222, 7422, 7000
START_S = 30.0
END_S = 15.0


class StormError(Exception):
    """The storm could not be run."""


@dataclass
class Started:
    """What runs.

    Attributes:
        url: of the hub's NATS server.
        load_ports: by name of the edge host: port of its source.
        servers: NATS server processes, by name of the place.
        hosts: host processes, by name.
        state: folder of everything.
    """

    url: str
    state: Path
    load_ports: dict[str, int] = field(default_factory=dict)
    servers: dict[str, Process] = field(default_factory=dict)
    hosts: dict[str, Process] = field(default_factory=dict)

    async def cut(self, name: str) -> None:
        """Kill a NATS server, and start it again."""
        server = self.servers[name]
        assert server.stdin is not None
        server.stdin.write(b"kill\n")
        await _line(server, self.state / f"{name}.nats.log")

    def ended(self) -> list[str]:
        """Return the host processes that have ended."""
        return [name for name, process in self.hosts.items() if process.returncode is not None]


@asynccontextmanager
async def started(places: Mapping[str, Place], state: Path) -> AsyncIterator[Started]:
    """Start a server and a host process in each place; the hub's first."""
    async with AsyncExitStack() as stack:
        ports = {name: place.port(CLIENT_PORT) for name, place in places.items()}
        leaf_port = places[HUB].port(LEAF_PORT)
        hub = places[HUB]
        running = Started(f"nats://{hub.address}:{ports[HUB]}", state)
        for name in (HUB, *EDGES):
            place = places[name]
            joined = () if name == HUB else (f"{hub.address}:{leaf_port}",)
            words = (str(state / f"{name}.nats"), name, place.address, str(ports[name]), str(leaf_port), *joined)
            command = place.command(sys.executable, str(HERE / "serve.py"), *words)
            process = await stack.enter_async_context(_program(command, state / f"{name}.nats.log", is_fed=True))
            await _line(process, state / f"{name}.nats.log")
            running.servers[name] = process
        for name in EDGES:
            running.load_ports[name] = places[name].port(LOAD_PORT)
        agent = str(Path(sys.executable).with_name("eddy-agent"))
        for name in (HUB, *EDGES):
            place = places[name]
            config = state / f"{name}.toml"
            config.write_text(_config(name, f"nats://{place.address}:{ports[name]}", state))
            command = place.command(agent, "run", str(config), "--log-level", "warning")
            process = await stack.enter_async_context(_program(command, state / f"{name}.log"))
            running.hosts[name] = process
        for name, process in running.hosts.items():
            await _line(process, state / f"{name}.log")
        yield running


def _config(name: str, server: str, state: Path) -> str:
    lines = [
        f'name = "{name}"',
        f'state = "{state / name}"',
        "[nats]",
        f'servers = ["{server}"]',
        "[local]",
        "max_bytes = 0",
        "[agents.agent-manager]",
        'type = "agent_manager"',
    ]
    if name == HUB:
        lines += ["[agents.backplane-manager]", 'type = "backplane_manager"']
    return "\n".join([*lines, ""])


async def send(place: Place, port: int, rate: float, seconds: float, first: int, step: int) -> int:
    """Send numbered events to a source and return how many were sent; see ``load.py``."""
    words = (place.address, port, rate, seconds, first, step)
    process = await asyncio.create_subprocess_exec(
        *place.command(sys.executable, str(HERE / "load.py"), *map(str, words)), stdin=DEVNULL, stdout=PIPE
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise StormError(f"load.py ended with status {process.returncode}")
    return int(json.loads(output)["sent"])


@asynccontextmanager
async def _program(command: tuple[str, ...], log: Path, *, is_fed: bool = False) -> AsyncIterator[Process]:
    """Run a program with its standard error in a file; it is ended at the end, what it started with it."""
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE if is_fed else DEVNULL, stdout=PIPE, stderr=errors, start_new_session=True
        )
    try:
        yield process
    finally:
        await _end(process)


async def _end(process: Process) -> None:
    if process.stdin is not None:
        process.stdin.close()
    elif process.returncode is None:
        process.terminate()
    try:
        async with asyncio.timeout(END_S):
            await process.wait()
    except TimeoutError:
        os.killpg(process.pid, signal.SIGKILL)  # a session of its own, see `_program`
        await process.wait()


async def _line(process: Process, log: Path) -> str:
    """Return the next line that a program prints: it is ready."""
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START_S):
            line = (await process.stdout.readline()).decode()
    except TimeoutError:
        line = ""
    if not line:
        said = await asyncio.to_thread(log.read_text, "utf-8", "replace")
        raise StormError(f"{log.stem} did not start within {START_S:g} s: {said[-2000:]}")
    return line.strip()
