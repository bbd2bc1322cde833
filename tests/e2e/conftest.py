"""Real processes for the end-to-end tests: `eddy-agent` and `eddy` as a user starts them, and a nats-server.

Everything that a `Lab` started has ended when it is closed. State is below its own folder, ports are free ones.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec
import pytest

from eddy_mesh.api import Mesh, connect
from eddy_mesh.conservation import Ledger
from eddy_mesh.discovery import _toml
from eddy_mesh.errors import BusError, UsageError
from eddy_mesh.local import Whereabouts
from eddy_mesh.server import EmbeddedServer

READY_S = 20.0
END_S = 5.0
PROGRAMS = Path(sys.executable).parent
T = TypeVar("T")


class Done(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, object]]:
        """The JSON objects on standard output."""
        lines = (line for line in self.out.splitlines() if line.startswith("{"))
        return [msgspec.json.decode(line, type=dict[str, object]) for line in lines]


class Agent:
    """A running `eddy-agent`; its standard error goes to a file, so that it never waits for this test."""

    def __init__(self, process: Process, log: Path) -> None:
        self.process = process
        self.log = log
        self.said: list[str] = []

    @property
    def complaints(self) -> str:
        """What it logged so far."""
        return self.log.read_text("utf-8", "replace")

    async def ready(self, timeout_s: float = READY_S) -> str:
        """Return the ready line."""
        assert self.process.stdout is not None
        async with asyncio.timeout(timeout_s):
            while line := (await self.process.stdout.readline()).decode():
                self.said.append(line)
                if line.startswith("ready: "):
                    return line
        raise AssertionError(f"it ended before it was ready: {self.complaints}")

    async def end(self, number: signal.Signals = signal.SIGTERM, timeout_s: float = END_S) -> int:
        """Send a signal and return the exit status; what does not end in time is killed, and that is a failure."""
        if self.process.returncode is None:
            self.process.send_signal(number)
        try:
            async with asyncio.timeout(timeout_s):
                await self.process.communicate()
        except TimeoutError:
            self.process.kill()
            await self.process.communicate()
            raise AssertionError(f"not ended {timeout_s:g} s after {number.name}: {self.complaints}") from None
        assert self.process.returncode is not None
        return self.process.returncode


async def eventually(look: Callable[[], Awaitable[T]], timeout_s: float = 15.0, *, pause_s: float = 0.05) -> T:
    """Return what ``look`` returns as soon as it is true; fail with the last of it when that takes too long."""
    last: object = None
    try:
        async with asyncio.timeout(timeout_s):
            while not (last := await look()):  # noqa: ASYNC110  # what is waited for is in another process
                await asyncio.sleep(pause_s)
            return last
    except TimeoutError:
        raise AssertionError(f"not within {timeout_s:g} s; last seen: {last!r}") from None


def free_port() -> int:
    """Return a port that is free for UDP and TCP now."""
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.socket() as tcp:
            udp.bind(("127.0.0.1", 0))
            port = int(udp.getsockname()[1])
            try:
                tcp.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def lines_of(*messages: str) -> bytes:
    """Return syslog lines (RFC 5424) of this moment."""
    now = datetime.now(UTC).isoformat()
    return "".join(f"<34>1 {now} web1 app - - - {message}\n" for message in messages).encode()


def send_tcp(port: int, *parts: bytes) -> None:
    """Send to a stream listener of this machine."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        for part in parts:
            connection.sendall(part)


def send_udp(port: int, *payloads: bytes) -> None:
    """Send datagrams to this machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for payload in payloads:
            sender.sendto(payload, ("127.0.0.1", port))


def syslog_source(port: int) -> dict[str, object]:
    """Return a syslog source on one port of the loopback address."""
    listen = [f"127.0.0.1:{port}"]
    return {"type": "normalizer", "source": "syslog", "config": {"listen_udp": listen, "listen_tcp": listen}}


async def ledgers(mesh: Mesh, host: str) -> dict[str, Ledger]:
    """Return the accounts of a host process by edge, each of which balances."""
    status = next(status for status in await mesh.hosts() if status["host"] == host)
    held = msgspec.convert(status["edges"], list[Ledger])
    assert all(ledger.balanced for ledger in held), held
    return {ledger.edge: ledger for ledger in held}


async def states(mesh: Mesh, host: str) -> dict[str, str]:
    """Return the state of each agent of a host process."""
    status = next(status for status in await mesh.hosts() if status["host"] == host)
    agents = status["agents"]
    assert isinstance(agents, list)
    return {row["agent"]: row["state"] for row in agents}


async def stored(mesh: Mesh, statement: str) -> list[dict[str, object]]:
    """Return the rows of a statement on stored events."""
    return [dict(event) async for event in mesh.query(statement)]


async def until_stored(mesh: Mesh, pattern: str, count: int, timeout_s: float = 15.0) -> None:
    """Return when so many events with a message like this are stored."""

    async def there() -> bool:
        statement = f"SELECT count(*) AS n WHERE message LIKE '{pattern}'"
        try:
            return await stored(mesh, statement) == [{"n": count}]
        except (BusError, UsageError):
            return False

    await eventually(there, timeout_s)


class Lab:
    """A place to start processes in.

    Args:
        folder: for configurations, logs and state.
    """

    eventually = staticmethod(eventually)
    free_port = staticmethod(free_port)
    lines_of = staticmethod(lines_of)
    send_tcp = staticmethod(send_tcp)
    send_udp = staticmethod(send_udp)
    syslog_source = staticmethod(syslog_source)
    ledgers = staticmethod(ledgers)
    states = staticmethod(states)
    stored = staticmethod(stored)
    until_stored = staticmethod(until_stored)

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "EDDY_STATE": str(folder / "state"), "PYTHONUNBUFFERED": "1"}
        self.environment.pop("EDDY_SERVER", None)
        self._agents: list[Agent] = []
        self._stack = AsyncExitStack()

    async def server(self) -> EmbeddedServer:
        """Return a nats-server on a free port; `eddy` finds it from now on."""
        server = await self._stack.enter_async_context(EmbeddedServer(self.folder / "nats"))
        self.environment["EDDY_SERVER"] = server.url
        return server

    async def mesh(self) -> Mesh:
        """Return a connection of this test to the server, or to the `up` that left a note."""
        url = self.environment.get("EDDY_SERVER", "")
        notes = sorted((self.folder / "state" / "running").glob("*.json"), key=lambda path: path.stat().st_mtime)
        where = None if url else msgspec.json.decode(notes[-1].read_bytes(), type=Whereabouts)
        return await self._stack.enter_async_context(connect(url, owner="test", where=where))

    async def agent(self, *arguments: str) -> Agent:
        """Return a started `eddy-agent`."""
        log = self.folder / f"agent-{len(self._agents)}.log"
        with log.open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                str(PROGRAMS / "eddy-agent"),
                *arguments,
                stdin=DEVNULL,
                stdout=PIPE,
                stderr=errors,
                env=self.environment,
                cwd=self.folder,
            )
        self._agents.append(Agent(process, log))
        return self._agents[-1]

    def config(self, name: str, agents: Mapping[str, object]) -> Path:
        """Write the configuration of a host process and return its path."""
        servers = [self.environment["EDDY_SERVER"]]
        table = {
            "name": name,
            "state": str(self.folder / f"state-{name}"),
            "nats": {"servers": servers},
            "agents": agents,
        }
        path = self.folder / f"{name}.toml"
        path.write_text("".join(f"{key} = {_toml(value)}\n" for key, value in table.items()), "utf-8")
        return path

    async def host(self, name: str, agents: Mapping[str, object]) -> Agent:
        """Return a host process that is ready."""
        agent = await self.agent("run", str(self.config(name, agents)), "--log-json")
        await agent.ready()
        return agent

    async def start(self, *arguments: str) -> Process:
        """Return a running `eddy`; the caller ends it."""
        return await asyncio.create_subprocess_exec(
            str(PROGRAMS / "eddy"), *arguments, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=self.environment
        )

    async def eddy(self, *arguments: str, stdin: bytes = b"", timeout_s: float = 20.0) -> Done:
        """Return how a command `eddy` ended."""
        process = await self.start(*arguments)
        try:
            async with asyncio.timeout(timeout_s):
                out, err = await process.communicate(stdin)
        except TimeoutError:
            process.kill()
            await process.communicate()
            raise AssertionError(f"eddy {' '.join(arguments)} took longer than {timeout_s:g} s") from None
        return Done(process.returncode or 0, out.decode(), err.decode())

    async def close(self) -> None:
        """End everything."""
        for agent in reversed(self._agents):
            if agent.process.returncode is None:
                agent.process.kill()
            await agent.process.communicate()
        await self._stack.aclose()


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    """A place to start processes in, for one test."""
    made = Lab(tmp_path)
    try:
        yield made
    finally:
        await made.close()


@pytest.fixture(scope="session")
def make_lab() -> type[Lab]:
    """What makes a `Lab`, for modules whose tests share one."""
    return Lab
