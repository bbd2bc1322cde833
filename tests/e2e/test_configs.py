"""The sample configurations: `eddy-agent run` on each, against a real server, up to a clean end."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
import tomllib
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from eddy_mesh import discovery, queries, subjects
from eddy_mesh.bus_nats import connect
from eddy_mesh.config import AgentConfig, convert
from eddy_mesh.server import EmbeddedServer

pytestmark = pytest.mark.e2e

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SAMPLES = sorted(path.name for path in CONFIGS.glob("*.toml"))
ENDPOINT = re.compile(r"(\*|[\d.]+|\[[\da-f:]+\]):\d+")
READY_S = 20.0
END_S = 5.0


@pytest.fixture
async def server() -> AsyncIterator[EmbeddedServer]:
    """A nats-server on a free port."""
    async with EmbeddedServer() as started:
        yield started


def on_free_ports(table: dict[str, object]) -> dict[str, object]:
    """Return an agent of a sample that listens on free ports of the loopback address only."""
    agent = convert(table, AgentConfig, "agent")
    if agent.type != "normalizer":
        return table
    config = discovery.blueprint(agent, "agent").config
    settings = dict(agent.config)
    for member in msgspec.structs.fields(config):
        value = getattr(config, member.name)
        if isinstance(value, tuple) and value and all(ENDPOINT.fullmatch(str(text)) for text in value):
            settings[member.encode_name] = ["127.0.0.1:0"]
    return {**table, "config": settings}


def adapted(name: str, server: EmbeddedServer, folder: Path) -> Path:
    """Write a copy of a sample for this test: its own server, state and ports; nothing else is changed."""
    table = tomllib.loads((CONFIGS / name).read_text("utf-8"))
    table["nats"]["servers"] = [server.url]
    table["state"] = str(folder / "state")
    table["agents"] = {agent: on_free_ports(settings) for agent, settings in table["agents"].items()}
    path = folder / name
    path.write_text("".join(f"{key} = {discovery._toml(value)}\n" for key, value in table.items()), "utf-8")
    return path


def command(path: Path) -> list[str]:
    """Return the command line of `eddy-agent run`, with the interpreter of this test."""
    return [sys.executable, "-c", "from eddy_mesh.cli.agent import main; main()", "run", str(path)]


async def ready_line(process: asyncio.subprocess.Process) -> str:
    """Return the first line of standard output."""
    assert process.stdout is not None
    async with asyncio.timeout(READY_S):
        return (await process.stdout.readline()).decode()


async def ended(process: asyncio.subprocess.Process) -> str:
    """Send SIGTERM, wait for the end, and return what was written to standard error; kill what does not end."""
    process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(END_S):
            _, errors = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.communicate()
        raise
    return errors.decode()


@pytest.mark.parametrize("name", SAMPLES)
async def test_sample_runs_and_ends(name: str, server: EmbeddedServer, tmp_path: Path) -> None:
    """The host process says which agents run, and SIGTERM ends it within five seconds with status 0."""
    path = adapted(name, server, tmp_path)
    agents = tomllib.loads(path.read_text("utf-8"))["agents"]
    process = await asyncio.create_subprocess_exec(*command(path), stdout=PIPE, stderr=PIPE)
    try:
        line = await ready_line(process)
    finally:
        errors = await ended(process)
    assert line.startswith("ready: "), errors
    assert all(agent in line for agent in agents)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors


async def test_topology_is_applied(server: EmbeddedServer, tmp_path: Path) -> None:
    """The backplane-manager makes the host process run what the sample topology names, and nothing else."""
    path = adapted("one-machine.toml", server, tmp_path)
    topology = tomllib.loads((CONFIGS / "topologies" / "one-machine.toml").read_text("utf-8"))
    host = topology["hosts"]["one-machine"]
    host["agents"] = {agent: on_free_ports(settings) for agent, settings in host["agents"].items()}
    process = await asyncio.create_subprocess_exec(*command(path), stdout=PIPE, stderr=PIPE)
    bus = await connect(server.url, name="test")
    try:
        assert (await ready_line(process)).startswith("ready: ")
        subject = subjects.query("eddy", "backplane_manager", "one-machine/backplane-manager", "apply")
        request = {"manifest": topology, "who": "test", "terms": {"observe_s": 1}}
        answers = [row async for row in queries.ask(bus, subject, request, timeout_s=15.0)]
        inventory = subjects.query("eddy", "agent_manager", "one-machine/agent-manager", "inventory")
        rows = [row async for row in queries.ask(bus, inventory, {}, timeout_s=5.0)]
    finally:
        errors = await ended(process)
        await bus.close()
    assert {answer.get("host", "one-machine") for answer in answers} == {"one-machine"}, errors
    assert not [answer for answer in answers if "error" in answer]
    assert (answers[-1]["step"], answers[-1]["revision"]) == ("applied", 1)
    assert {row["agent"] for row in rows} == {*host["agents"], "agent-manager", "backplane-manager"}
