"""The mesh under test: a NATS server, a host process and a live subscriber, each a process of its own.

What may live here: starting and ending them, reading their accounts and their processor time. No numbers are judged.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from accounts import Status, progress, settled

from eddy_mesh.api import Mesh
from eddy_mesh.bus_nats import connect
from eddy_mesh.server import EmbeddedServer

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent
START_S = 20.0
END_S = 15.0
POLL_S = 0.2
QUIET_S = 1.2
"""No edge moved for so long: what was sent has arrived or was lost, and the losses, told each second, are told."""
SETTLE_S = 60.0


class BenchError(Exception):
    """A benchmark could not be run."""


@dataclass
class Rig:
    """What `running` gives.

    Attributes:
        server: the NATS server.
        host: the process of ``eddy-agent run``.
        mesh: a client of the backplane.
        state: folder that is removed at the end.
    """

    server: EmbeddedServer
    host: asyncio.subprocess.Process
    mesh: Mesh
    state: Path
    _spent: dict[int, float] = field(default_factory=dict)
    _began: float = 0.0

    async def status(self) -> Status:
        """Return the status of the host process; a busy one may take its time."""
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            for status in await self.mesh.hosts(5.0):
                return status
        raise BenchError("the host process does not answer")

    async def settle(self) -> tuple[Status, float]:
        """Wait until nothing moves any more.

        Returns:
            The status then, and how long something still moved, s.
        """
        began = moved = time.monotonic()
        before: tuple[int, ...] = ()
        while time.monotonic() - began < SETTLE_S:
            status = await self.status()
            now = time.monotonic()
            if progress(status) != before or not settled(status):
                before, moved = progress(status), now
            elif now - moved > QUIET_S:
                return status, max(0.0, moved - began)
            await asyncio.sleep(POLL_S)
        raise BenchError(f"events still wait {SETTLE_S:.0f} s after the last was sent")

    def begin(self) -> None:
        """Begin to count processor time."""
        self._began = time.monotonic()
        self._spent = {pid: cpu_s(pid) for pid in (self.host.pid, self.server.pid)}

    def window_s(self) -> float:
        """Return how long processor time has been counted, s: the time in which nothing moves any more included."""
        return time.monotonic() - self._began

    def spent(self) -> dict[str, float]:
        """Return the processor time since `begin`, s."""
        return {
            "host process": cpu_s(self.host.pid) - self._spent[self.host.pid],
            "nats-server": cpu_s(self.server.pid) - self._spent[self.server.pid],
        }


@asynccontextmanager
async def running(agents: str) -> AsyncIterator[Rig]:
    """Start a server and a host process.

    Args:
        agents: TOML tables of its agents; ``{state}`` stands for a folder of its own.

    Raises:
        BenchError: the host process does not start, or does not end in order.
    """
    with tempfile.TemporaryDirectory(prefix="eddy-bench-", ignore_cleanup_errors=True) as name:
        state = Path(name)
        async with EmbeddedServer(state / "nats", authorization=True) as server:
            bus = await connect(server.url, name="bench", options=server.options)
            try:
                host = await _start_host(server, state, agents)
                try:
                    yield Rig(server, host, Mesh(bus, "eddy", "bench"), state)
                finally:
                    await _end(host)
            finally:
                await bus.close()


@asynccontextmanager
async def beside(rig: Rig, name: str, agents: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start one more host process on the server of a rig."""
    folder = rig.state / name
    folder.mkdir()
    host = await _start_host(rig.server, folder, agents, name)
    try:
        yield host
    finally:
        await _end(host)


async def _start_host(
    server: EmbeddedServer, state: Path, agents: str, name: str = "bench"
) -> asyncio.subprocess.Process:
    config = state / "host.toml"
    head = f'name = "{name}"\nstate = "{state}/state"\n\n[nats]\nservers = ["{server.url}"]\n'
    head += f'token_file = "{server.state_dir}/token"\n'
    config.write_text(head + agents.replace("{state}", str(state)))
    program = Path(sys.executable).with_name("eddy-agent")
    log = (state / "host.log").open("wb")
    arguments = ("run", str(config), "--log-level", "warning")
    host = await asyncio.create_subprocess_exec(program, *arguments, stdout=asyncio.subprocess.PIPE, stderr=log)
    log.close()
    assert host.stdout is not None
    line = await asyncio.wait_for(host.stdout.readline(), START_S)
    if not line.startswith(b"ready"):
        raise BenchError(f"eddy-agent run did not start: {(state / 'host.log').read_text()[-2000:]}")
    return host


async def _end(host: asyncio.subprocess.Process) -> None:
    if host.returncode is not None:
        raise BenchError(f"eddy-agent run ended with status {host.returncode} in the middle of the benchmark")
    host.send_signal(signal.SIGTERM)
    try:
        await asyncio.wait_for(host.wait(), END_S)
    except TimeoutError:
        host.kill()
        await host.wait()
        raise BenchError(f"eddy-agent run did not end within {END_S:.0f} s of SIGTERM") from None


@asynccontextmanager
async def subscribed(rig: Rig, statement: str) -> AsyncIterator[Callable[[], Awaitable[Mapping[str, object]]]]:
    """Run a live subscriber; yields what ends it and returns (awaitable) what it received."""
    arguments = (HERE / "subscriber.py", rig.server.url, rig.server.options.token, statement)
    async with program(sys.executable, *map(str, arguments), is_fed=True) as process:
        assert process.stdout is not None
        if await asyncio.wait_for(process.stdout.readline(), START_S) != b"on\n":
            raise BenchError("the subscriber did not start")

        async def received() -> Mapping[str, object]:
            output, _ = await process.communicate(b"")
            return dict(json.loads(output))

        yield received


async def send(what: str, port: int, rate: float, seconds: float, *more: str) -> dict[str, float]:
    """Send load to a port of this host and return what was sent; see ``load.py``."""
    arguments = (HERE / "load.py", what, port, rate, seconds, *more)
    async with program(sys.executable, *map(str, arguments)) as process:
        output, _ = await process.communicate()
    if process.returncode:
        raise BenchError(f"load.py ended with status {process.returncode}")
    return dict(json.loads(output))


@asynccontextmanager
async def program(
    *command: str, is_fed: bool = False, is_quiet: bool = False
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a program whose output is read, or thrown away where it ``is_quiet``; it is ended if it still runs."""
    stdin = asyncio.subprocess.PIPE if is_fed else asyncio.subprocess.DEVNULL
    stdout = asyncio.subprocess.DEVNULL if is_quiet else asyncio.subprocess.PIPE
    stderr = asyncio.subprocess.DEVNULL if is_quiet else None
    process = await asyncio.create_subprocess_exec(*command, stdin=stdin, stdout=stdout, stderr=stderr)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


def cpu_s(pid: int) -> float:
    """Return the processor time that a process has used, s."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """Return a port of the loopback interface that nobody uses."""
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
