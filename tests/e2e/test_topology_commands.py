"""``eddy plan | apply | rollback | topology`` on three host processes and a real server."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import tomllib
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from eddy_mesh import queries, subjects
from eddy_mesh.bus import Message
from eddy_mesh.bus_nats import connect
from eddy_mesh.server import EmbeddedServer
from eddy_mesh.task import Answer

pytestmark = pytest.mark.e2e

READY_S = 20.0
END_S = 10.0
MANIFEST = """
[hosts.hub]
[hosts.e1]
[hosts.e2]
[agents.in]
type = "normalizer"
source = "syslog"
host = "e1"
config = { listen_udp = ["127.0.0.1:0"], listen_tcp = [] }
[agents.cook]
type = "transformer"
cooking = "syslog"
host = "e1"
[agents.find]
type = "analysis"
detector = "brute_force"
host = "e2"
[edges.lines]
from = "in"
to = "cook"
[edges.logins]
from = "cook"
to = "find"
"""


@asynccontextmanager
async def host(name: str, server: EmbeddedServer, folder: Path, *managers: str) -> AsyncIterator[Process]:
    """Run a host process with managers only, up to a clean end, or until a test kills it."""
    path = folder / f"{name}.toml"
    agents = "".join(f'[agents.{kind.replace("_", "-")}]\ntype = "{kind}"\n' for kind in managers)
    path.write_text(f'name = "{name}"\nstate = "{folder / name}"\n[nats]\nservers = ["{server.url}"]\n{agents}')
    code = "from eddy_mesh.cli.agent import main; main()"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, "run", str(path), stdout=PIPE, stderr=PIPE
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(READY_S):
            assert (await process.stdout.readline()).startswith(b"ready")
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(END_S):
                await process.communicate()
        except TimeoutError:
            process.kill()
            await process.communicate()
            raise


class Tool:
    """The command ``eddy``, with a manifest in a file."""

    def __init__(self, server: EmbeddedServer, folder: Path) -> None:
        self._server = server
        self.file = folder / "topology.toml"

    async def __call__(self, *arguments: str) -> tuple[int, str]:
        """Return the exit status and everything that was written."""
        code = "from eddy_mesh.cli.tool import main; main()"
        command = (sys.executable, "-c", code, "--server", self._server.url, *arguments)
        process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, stderr=PIPE)
        output, errors = await process.communicate()
        return process.returncode or 0, (output + errors).decode()

    async def change(self, verb: str, old: str = "", new: str = "", *more: str) -> tuple[int, str]:
        """Plan or apply the manifest with one text replaced."""
        assert old in MANIFEST
        self.file.write_text(MANIFEST.replace(old, new) if old else MANIFEST)
        return await self(verb, str(self.file), *more)


@pytest.fixture
async def tool(tmp_path: Path) -> AsyncIterator[Tool]:
    """Three host processes; a backplane-manager is on one of them."""
    async with EmbeddedServer() as server, AsyncExitStack() as hosts:
        await hosts.enter_async_context(host("hub", server, tmp_path, "agent_manager", "backplane_manager"))
        for name in ("e1", "e2"):
            await hosts.enter_async_context(host(name, server, tmp_path, "agent_manager"))
        yield Tool(server, tmp_path)


async def test_a_topology_is_planned_applied_shown_and_rolled_back(tool: Tool) -> None:
    """What the plan says is done; a second apply has nothing to do; the way back is a revision of its own."""
    status, said = await tool.change("plan")
    assert (status, "+ connect     edge logins: live; e1/cook -> e2/find" in said) == (2, True), said
    status, said = await tool.change("apply", "", "", "--observe", "0.5", "--why", "first")
    assert status == 0, said
    assert "applied     revision 1" in said
    assert (await tool.change("plan"))[0] == 0
    move = ('host = "e2"', 'host = "hub"\nprocess = "own"')
    status, said = await tool.change("apply", *move, "--observe", "0.5", "--json")
    rows = [json.loads(line) for line in said.splitlines()]
    assert (status, rows[-1]["step"], rows[-1]["revision"]) == (0, "applied", 2), said
    assert {"step": "wait", "what": "for hub.find"} in rows
    assert ("retire", "e2", "find") in [(row["step"], row.get("host"), row.get("agent")) for row in rows]
    status, said = await tool("topology", "show")
    assert "hub.find (started by hub)" in said
    assert "edge logins: e1/cook -> hub.find/find; live, since revision 2" in said
    status, said = await tool("rollback", "--observe", "0.5")
    assert status == 0, said
    assert "> move        hub.find/find -> e2/find" in said
    assert (await tool("topology", "diff", "1", "3"))[1] == "no difference\n"
    assert (await tool("topology", "show", "--revision", "1", "--toml"))[1] == MANIFEST
    status, said = await tool("topology", "history")
    assert [line.split()[0] for line in said.splitlines()] == ["revision", "3", "2", "1"]
    assert "@" in said
    assert "first" in said


async def test_what_fails_goes_back_and_says_why(tool: Tool) -> None:
    """An agent that can not work makes the change go back; a host that is not there is refused before anything."""
    assert (await tool.change("apply", "", "", "--observe", "0"))[0] == 0
    taken = ("127.0.0.1:0", "192.0.2.1:514")
    status, said = await tool.change("apply", *taken, "--observe", "5")
    assert status == 1, said
    assert "revision 2 rolled back: e1/in " in said
    status, said = await tool("topology", "show", "--json")
    record = json.loads(said)
    assert (record["revision"], record["state"]) == (3, "applied")
    assert record["placement"]["hosts"]["e1"]["agents"]["in"]["config"]["listen_udp"] == ["127.0.0.1:0"]
    status, said = await tool.change("apply", 'host = "e2"', 'host = "e3"')
    assert (status, "did you mean e" in said) == (2, True), said
    status, said = await tool.change("apply", "[hosts.e2]", "[hosts.e2]\n[hosts.e3]\nagents.x = { type = 'directory' }")
    assert (status, "e3 is not there" in said) == (2, True), said


async def test_a_manager_that_is_killed_is_followed_by_another(tmp_path: Path) -> None:
    """The change goes on, to its end."""
    async with EmbeddedServer() as server, AsyncExitStack() as hosts:
        both = ("agent_manager", "backplane_manager")
        hub = await hosts.enter_async_context(host("hub", server, tmp_path, *both))
        for name, managers in (("e1", both), ("e2", both[:1])):
            await hosts.enter_async_context(host(name, server, tmp_path, *managers))
        bus = await connect(server.url, name="test")
        hosts.push_async_callback(bus.close)

        def asked(manager: str, verb: str, request: Mapping[str, object]) -> AsyncGenerator[Answer, None]:
            subject = subjects.query("eddy", "backplane_manager", f"{manager}/backplane-manager", verb)
            return queries.ask(bus, subject, request, timeout_s=10.0)

        first = {"manifest": tomllib.loads(MANIFEST), "terms": {"observe_s": 0}}
        assert [row async for row in asked("e1", "apply", first)][-1]["step"] == "applied"
        moved = tomllib.loads(MANIFEST.replace('host = "e2"', 'host = "e1"'))
        rows = asked("hub", "apply", {"manifest": moved, "terms": {"observe_s": 1}})
        async for row in rows:
            if row["step"] == "activate":
                hub.kill()
                break
        await rows.aclose()
        applied = asyncio.Event()

        def heard(message: Message) -> None:
            told = json.loads(message.data)["detail"]
            if (told["revision"], told["state"], told["is_working"]) == (2, "applied", False):
                applied.set()

        await bus.subscribe(subjects.status("eddy", "e1", "backplane-manager"), heard)
        async with asyncio.timeout(15):
            await applied.wait()
        agents = [row["agent"] async for row in queries.ask(bus, inventory("e1"), {})]
        assert {"cook", "find", "in"} <= set(agents)
        assert "find" not in [row["agent"] async for row in queries.ask(bus, inventory("e2"), {})]


def inventory(name: str) -> str:
    """Return the subject on which a host process tells its agents."""
    return subjects.query("eddy", "agent_manager", f"{name}/agent-manager", "inventory")
