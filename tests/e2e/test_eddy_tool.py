"""The command ``eddy`` and the blocking API against a real server and a real host process."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from eddy_mesh import blocking
from eddy_mesh.bus_nats import connect
from eddy_mesh.config import AgentConfig, HostConfig
from eddy_mesh.errors import UsageError
from eddy_mesh.local import Whereabouts
from eddy_mesh.runtime.process import running
from eddy_mesh.server import EmbeddedServer

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(120),
]  # a dozen starts of `eddy`, each a second or two on a busy machine

AGENTS = {
    "in": AgentConfig(type="normalizer", source="emit"),
    "cook-json": AgentConfig(type="transformer", cooking="json"),
    "cook-syslog": AgentConfig(type="transformer", cooking="syslog"),
    "guessing": AgentConfig(type="analysis", detector="brute_force"),
    "archive": AgentConfig(type="archive"),
    "directory": AgentConfig(type="directory"),
}
TOOL = "from eddy_mesh.cli.tool import main; main()"


class Done(NamedTuple):
    """How a command ended."""

    status: int
    rows: list[dict[str, object]]
    out: str
    err: str


class Tool:
    """The command, told where the server is."""

    def __init__(self, server: str, state: Path) -> None:
        self.server = server
        self._environment = {**os.environ, "EDDY_SERVER": server, "EDDY_STATE": str(state)}

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        """Return the running command."""
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *("-c", TOOL, *arguments),
            env=self._environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def __call__(self, *arguments: str, stdin: bytes = b"") -> Done:
        """Return how the command ended."""
        process = await self.start(*arguments)
        out, err = await process.communicate(stdin)
        lines = out.splitlines()
        rows = [msgspec.json.decode(line, type=dict[str, object]) for line in lines if line.startswith(b"{")]
        return Done(process.returncode or 0, rows, out.decode(), err.decode())

    async def emit(self, *messages: str) -> None:
        """Put JSON events into the mesh, and return when every agent has them."""
        lines = b"".join(msgspec.json.encode({"message": text, "host": "db1"}) + b"\n" for text in messages)
        assert (await self("emit", "json", stdin=lines)).err == f"eddy: {len(messages)} events taken\n"
        seen = await self("tap", "SELECT message SINCE '-1h'", "--count", str(len(messages)), "--for", "20s")
        assert len(seen.rows) == len(messages)


@pytest.fixture
async def eddy(tmp_path: Path) -> AsyncIterator[Tool]:
    """The command, with a host process that takes events, cooks and stores them."""
    async with EmbeddedServer() as server:
        bus = await connect(server.url, name="hub")
        async with running(HostConfig(name="hub", agents=AGENTS), bus, tmp_path / "hub"):
            yield Tool(server.url, tmp_path)
        await bus.close()


async def test_tap_shows_stored_then_live_events_until_it_is_interrupted(eddy: Tool) -> None:
    """With SINCE both come once and in order; Ctrl-C ends it with status 130 and a sentence on standard error."""
    await eddy.emit("first", "second")
    process = await eddy.start("tap", "SELECT message SINCE '-1h'")
    assert process.stdout is not None
    stored = [await process.stdout.readline() for _ in range(2)]
    assert sorted(stored) == [b'{"message":"first"}\n', b'{"message":"second"}\n']
    await eddy("emit", "json", stdin=b'{"message": "third"}\n')
    assert await process.stdout.readline() == b'{"message":"third"}\n'
    process.send_signal(signal.SIGINT)
    out, err = await process.communicate()
    assert process.returncode == 130
    assert out == b""
    assert err.startswith(b"eddy: 3 events in ")
    assert b"none lost" in err


async def test_stored_events_are_queried_searched_and_ranked(eddy: Tool) -> None:
    """Each command has the events that were emitted, and an aggregate its rows."""
    await eddy.emit("disk full", "disk ok", "login")
    counted = await eddy("query", "SELECT host, count(*) AS events GROUP BY host")
    assert counted.rows == [{"host": "db1", "events": 3}]
    found = await eddy("grep", "^disk")
    assert sorted(str(row["message"]) for row in found.rows) == ["disk full", "disk ok"]
    assert (await eddy("grep", "disk", "-c")).rows == [{"host": "db1", "type": "json", "events": 2}]
    assert (await eddy("grep", "absent")).status == 1
    ranked = await eddy("top", "message", "-n", "1", "--where", "message = 'login'")
    assert ranked.rows == [{"message": "login", "count(*)": 1}]
    written = await eddy("query", "--csv", "SELECT message, host WHERE message LIKE 'd%'")
    assert written.out.splitlines() == ["message,host", "disk full,db1", "disk ok,db1"]


async def test_events_that_came_late_are_pointed_at(eddy: Tool) -> None:
    """What arrived since, but occurred before, is counted, and the SINCE that finds it is told."""
    old = b'{"message": "old", "host": "db1", "@timestamp": "2020-01-01T00:00:00Z"}\n'
    await eddy("emit", "json", stdin=old)
    await eddy("tap", "SELECT message SINCE '2019-01-01'", "--count", "1", "--for", "20s")
    nothing = await eddy("query", "SELECT * WHERE message = 'old' SINCE '-1h'")
    assert "1 event that arrived in that time occurred earlier" in nothing.err
    assert "SINCE '2020-01-01T00:00:00.000000000Z' finds it" in nothing.err
    nothing = await eddy("query", "SELECT * WHERE message = 'old' SINCE '2100-01-01'")
    assert nothing.err == "eddy: nothing found since 2100-01-01T00:00:00.000000000Z\n"


async def test_a_diagnosis_is_explained(eddy: Tool) -> None:
    """It is found by the beginning of its id, with its evidence in time order and what did not appear."""
    watching = await eddy.start("tap", "SELECT * WHERE stage = 'analyzed' SINCE '-1h'", "--count", "1", "--for", "25s")
    minute = f"{datetime.now(UTC) - timedelta(minutes=2):%Y-%m-%dT%H:%M}"
    guesses = "".join(
        f"<86>1 {minute}:{number:02}Z gw1 sshd {number} - - Failed password for root from 203.0.113.9 port 40000 ssh2\n"
        for number in range(30)
    ).encode()
    await eddy("emit", "syslog", stdin=guesses)
    await watching.communicate()
    (chosen, *_) = (await eddy("why", "--json")).rows
    shown = await eddy("why", str(chosen["id"]))
    assert shown.status == 0
    assert "failed logins from 203.0.113.9" in shown.out.splitlines()[0]
    assert "expected, and did not appear:" in shown.out
    assert shown.out.count("Failed password for root") == 20
    (told,) = (await eddy("why", str(chosen["id"]), "--json")).rows
    evidence = told["evidence"]
    assert isinstance(evidence, list)
    assert len(evidence) == len({event["id"] for event in evidence}) > 20
    assert [event["occurred"] for event in evidence] == sorted(event["occurred"] for event in evidence)
    assert told["not_stored"] == []
    assert (await eddy("why", "00000000")).status == 2


async def test_lines_of_a_pipe_go_out_as_they_come(eddy: Tool) -> None:
    """An event is live while the pipe that it came from is still open."""
    await eddy.emit("before", "between")
    watching = await eddy.start("tap", "SELECT message SINCE '-1h'")
    assert watching.stdout is not None
    for _ in range(2):
        await watching.stdout.readline()
    pipe = await eddy.start("emit", "json")
    assert pipe.stdin is not None
    pipe.stdin.write(b'{"message": "now"}\n')
    await pipe.stdin.drain()
    assert await watching.stdout.readline() == b'{"message":"now"}\n'
    pipe.send_signal(signal.SIGINT)
    await pipe.communicate()
    assert pipe.returncode == 130
    watching.send_signal(signal.SIGTERM)
    await watching.communicate()
    assert watching.returncode == 143


async def test_the_mesh_is_described(eddy: Tool) -> None:
    """Agents, edges, types and fields are what the configuration and the events say; everything balances."""
    await eddy.emit("one", "two")
    agents = await eddy("agents", "--json")
    assert {row["agent"]: row["state"] for row in agents.rows} == dict.fromkeys(AGENTS, "running")
    audit = await eddy("audit", "--json")
    assert audit.status == 0
    assert all(row["balanced"] for row in audit.rows)
    (taken,) = [row for row in audit.rows if row["edge"] == "outside > in"]
    assert (taken["in"], taken["out"]) == (2, 2)
    types = await eddy("types", "--json", "SELECT * FROM application.json")
    assert ("json", "cook-json", 2) in [(row["type"], row["agent"], row["count"]) for row in types.rows]
    seen = await eddy("fields", "--seen", "--json")
    assert "message" in [row["name"] for row in seen.rows]
    assert "every edge balances" in (await eddy("audit")).err


async def test_subscriptions_show_who_asks(eddy: Tool) -> None:
    """A running tap is listed with its statement until it ends."""
    await eddy.emit("one", "two")
    watching = await eddy.start("tap", "SELECT message SINCE '-1h'")
    assert watching.stdout is not None
    await watching.stdout.readline()
    statements = [row["statement"] for row in (await eddy("subscriptions", "--json")).rows]
    assert "SELECT message" in statements
    watching.send_signal(signal.SIGINT)
    await watching.communicate()
    assert (await eddy("subscriptions", "--json")).rows == []


async def test_agents_are_commanded(eddy: Tool) -> None:
    """Each lifecycle verb does what its name says, and what is wrong is answered with the nearest right name."""
    for verb, state in (("pause", "paused"), ("resume", "running"), ("stop", "stopped"), ("resume", "starting")):
        (answer,) = (await eddy("control", "hub/cook-json", verb, "--json")).rows
        assert answer["state"] in {state, "running"} if state == "starting" else answer["state"] == state
    assert (await eddy("control", "hub/archive", "ping")).out == "hub/archive: running\n"
    (told,) = (await eddy("control", "hub/archive", "info", "--json")).rows
    assert told["subscribe"] == ["SELECT *"]
    assert "did you mean archive" in (await eddy("control", "hub/archiv", "ping")).err
    refused = await eddy("control", "hub/in", "reload", "--config", "no_such_key = 1")
    assert refused.status == 2
    assert "no_such_key" in refused.err


async def test_scripts_without_asyncio_have_the_same_calls(eddy: Tool) -> None:
    """The blocking form taps, queries, emits and commands, raises the same errors, and leaves nothing behind."""
    await eddy.emit("one", "two")

    def script() -> list[object]:
        results: list[object] = []
        with blocking.connect(where=Whereabouts((eddy.server,))) as mesh:
            for event in mesh.tap("SELECT message SINCE '-1h'"):
                results.append(event["message"])
                if len(results) == 2:
                    mesh.emit("json", [b'{"message": "three"}'])
                if len(results) == 3:
                    break
            results.append(sum(1 for _ in mesh.query("SELECT *")))
            results.append(mesh.control("hub", "archive", "ping")["state"])
            with pytest.raises(UsageError, match="no agent"):
                mesh.control("hub", "nobody", "ping")
            with pytest.raises(UsageError, match="no field"):
                next(mesh.tap("SELECT nothing.there"))
            unfinished = mesh.tap("SELECT message SINCE '-1h'")
            next(unfinished)
        unfinished.close()  # type: ignore[attr-defined]  # a generator; ends quietly though its mesh is gone
        return results

    *messages, stored, state = await asyncio.to_thread(script)
    assert sorted(map(str, messages)) == ["one", "three", "two"]
    assert stored == 3
    assert state == "running"
