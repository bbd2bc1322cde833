"""Select-back against a real server: whole events by id, from the host that made them or from an archive."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from eddy_mesh.api import Mesh
from eddy_mesh.bus_nats import connect
from eddy_mesh.config import AgentConfig, HostConfig, LocalConfig
from eddy_mesh.runtime.process import running
from eddy_mesh.server import EmbeddedServer
from eddy_mesh.store.local_store import LocalStore

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

AGENTS = {
    "in": AgentConfig(type="normalizer", source="emit"),
    "cook-json": AgentConfig(type="transformer", cooking="json"),
}
ARCHIVE = {"archive": AgentConfig(type="archive", subscribe=("SELECT *", "SELECT * WHERE stage = 'raw'"))}
TOOL = "from eddy_mesh.cli.tool import main; main()"


class Done(NamedTuple):
    """How a command ended."""

    status: int
    rows: list[dict[str, object]]
    err: str


class Clock:
    """The time, or one ahead of it; ns since 1970 UTC."""

    ahead_ns = 0

    def __call__(self) -> int:
        """Return the time."""
        return time.time_ns() + self.ahead_ns


class Kept:
    """A host process ``hub`` whose events a local store keeps, and the command ``eddy``."""

    def __init__(self, mesh: Mesh, store: LocalStore, clock: Clock, server: str, folder: Path) -> None:
        self.mesh = mesh
        self.store = store
        self._clock = clock
        self._environment = {**os.environ, "EDDY_SERVER": server, "EDDY_STATE": str(folder)}

    async def eddy(self, *arguments: str, stdin: str = "") -> Done:
        """Return how a command ended."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, *("-c", TOOL, *arguments), env=self._environment, stdin=PIPE, stdout=PIPE, stderr=PIPE
        )
        out, err = await process.communicate(stdin.encode())
        rows = [msgspec.json.decode(line, type=dict[str, object]) for line in out.splitlines()]
        return Done(process.returncode or 0, rows, err.decode())

    def forget(self) -> None:
        """Let the local store drop all that it has, as when it is too old."""
        self.store.flush()
        self._clock.ahead_ns = 7200 * 1_000_000_000
        self.store.expire()
        self._clock.ahead_ns = 0

    async def projected(self, *messages: str) -> list[str]:
        """Emit JSON events, and return the lines that a tap shows of them: id and message only."""
        lines: list[str] = []

        async def tap() -> None:
            statement = "SELECT id, message FROM application.json, system.json"
            async for event in self.mesh.tap(statement):
                lines.append(event.json().decode())
                assert (await event.fetch())["user.name"] == "ann"
                if len(lines) == len(messages):
                    return

        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            group.create_task(tap())
            while not any(status["subscriptions"] for status in await self.mesh.hosts()):
                pass
            rows = [msgspec.json.encode({"message": text, "user": {"name": "ann"}}) for text in messages]
            await self.mesh.emit("json", rows)
        return lines


@asynccontextmanager
async def kept(folder: Path, agents: dict[str, AgentConfig], config: LocalConfig) -> AsyncIterator[Kept]:
    """A host process with its local store."""
    async with EmbeddedServer() as server:
        bus = await connect(server.url, name="hub")
        async with running(HostConfig(name="hub", agents=agents, local=config), bus, folder / "hub") as (host, _):
            assert host.local is not None
            clock = host.local._now_ns = Clock()
            yield Kept(Mesh(bus, "eddy"), host.local, clock, server.url, folder)
        await bus.close()


async def test_the_rest_of_an_event_is_fetched_with_what_it_was_made_from(tmp_path: Path) -> None:
    """A tap moves two fields; the command brings all, reads ids and events of a pipe, and finds the raw parents."""
    async with kept(tmp_path, AGENTS, LocalConfig()) as hub:
        lines = await hub.projected("first", "second")
        ids = [str(msgspec.json.decode(line)["id"]) for line in lines]
        one = await hub.eddy("fetch", ids[1])
        assert (one.status, one.err) == (0, "")
        assert [(row["message"], row["user.name"]) for row in one.rows] == [("second", "ann")]
        both = await hub.eddy("fetch", "-", stdin=f"{lines[1]}\n{ids[0]}\n")
        assert [row["id"] for row in both.rows] == [ids[1], ids[0]]
        made = await hub.eddy("fetch", "--parents", ids[0])
        assert [row["stage"] for row in made.rows] == ["cooked", "raw"]
        assert msgspec.json.decode(str(made.rows[1]["event.original"]))["message"] == "first"
        assert made.rows[0]["parents"] == [made.rows[1]["id"]]


async def test_what_is_gone_or_unknown_is_said(tmp_path: Path) -> None:
    """The exit status is 1, with the time and the host, or with the words that nobody who answered has it."""
    unknown = "01a2002d-e4c7-7b1c-9a31-5f0e00000007"
    async with kept(tmp_path, AGENTS, LocalConfig()) as hub:
        (line,) = await hub.projected("old")
        identity = msgspec.json.decode(line)["id"]
        hub.forget()
        done = await hub.eddy("fetch", identity, unknown)
        assert (done.status, done.rows) == (1, [])
        gone, missing = done.err.splitlines()
        assert re.fullmatch(rf"eddy: {identity}: gone: expired at 20[0-9T:.-]+Z on hub", gone)
        assert missing == f"eddy: {unknown}: not found: no host that answered has it"
        assert (await hub.eddy("fetch")).status == 2
        assert "not an event id" in (await hub.eddy("fetch", "12")).err


async def test_an_archive_has_what_the_host_dropped(tmp_path: Path) -> None:
    """One command finds an event wherever it is; a statement on stored events names ids as well, raw ones too."""
    async with kept(tmp_path, AGENTS | ARCHIVE, LocalConfig()) as hub:
        (line,) = await hub.projected("stored")
        identity = msgspec.json.decode(line)["id"]
        (whole,) = (await hub.eddy("fetch", identity)).rows
        hub.forget()
        (archived,) = (await hub.eddy("fetch", identity)).rows
        assert whole.items() <= archived.items()
        ids = f"'{identity}', '{whole['parents'][0]}'"  # type: ignore[index]  # a list in JSON
        rows = [row["stage"] async for row in hub.mesh.query(f"SELECT stage WHERE id IN ({ids}) ORDER BY stage")]
        assert rows == ["cooked", "raw"]
        (part,) = [event async for event in hub.mesh.query(f"SELECT message WHERE id = '{identity}'")]
        assert dict(part) == {"message": "stored"}
        assert (await part.fetch())["user.name"] == "ann"
