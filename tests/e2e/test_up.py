"""`eddy-agent up` as a newcomer has it: ready without configuration, one at a time, ended in order, robust after a crash."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

if TYPE_CHECKING:
    from tests.e2e.conftest import Agent, Lab

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(90)]

TYPES = {
    "normalizer",
    "transformer",
    "anonymizer",
    "analysis",
    "application",
    "archive",
    "directory",
    "agent_manager",
    "backplane_manager",
}


def server_of(agent: Agent) -> psutil.Process:
    """Return the nats-server of an `up`."""
    found = [child for child in psutil.Process(agent.process.pid).children() if "nats-server" in child.name()]
    assert len(found) == 1
    return found[0]


def is_gone(process: psutil.Process) -> bool:
    """Whether a process has ended; one that only waits for its parent to look has."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def send_udp(port: int, *payloads: bytes) -> None:
    """Send datagrams to this machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for payload in payloads:
            sender.sendto(payload, ("127.0.0.1", port))


async def test_up_is_ready_and_leaves_nothing_behind(lab: Lab, tmp_path: Path) -> None:
    """An ephemeral `up` says that it is ready and what to type, runs an agent of each type, and removes its state."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    lab.environment["TMPDIR"] = str(scratch)
    agent = await lab.agent("up", "--ephemeral")
    assert "NATS at nats://127.0.0.1:" in await agent.ready()
    server = server_of(agent)
    agents = await lab.eddy("agents", "--json")
    assert {str(row["type"]) for row in agents.rows} == TYPES
    assert {row["state"] for row in agents.rows} == {"running"}
    assert list(scratch.iterdir())
    assert await agent.end() == 0, agent.complaints
    assert is_gone(server)
    assert list(scratch.iterdir()) == []
    assert not list((tmp_path / "state").rglob("*.json"))
    assert "Traceback" not in agent.complaints


async def test_a_second_up_on_the_same_state_is_refused(lab: Lab, tmp_path: Path) -> None:
    """It says which process runs, ends with status 2, and leaves the first one alone; without a note the lock tells."""
    data = str(tmp_path / "data")
    first = await lab.agent("up", "--data", data)
    await first.ready()
    second = await lab.agent("up", "--data", data)
    await second.process.communicate()
    assert second.process.returncode == 2
    assert f"runs already on {data} (process {first.process.pid})" in second.complaints
    lab.environment["EDDY_STATE"] = str(tmp_path / "elsewhere")  # the note can not be found: the lock tells
    third = await lab.agent("up", "--data", data)
    await third.process.communicate()
    assert third.process.returncode in {1, 2}
    assert f"process {first.process.pid}" in third.complaints
    assert first.process.returncode is None
    assert await first.end() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_it_in_order(lab: Lab, number: signal.Signals) -> None:
    """Within five seconds, with status 0, with its server, and with a flow and a tap open."""
    agent = await lab.agent("up", "--ephemeral")
    await agent.ready()
    server = server_of(agent)
    tap = await lab.start("tap", "--json")
    assert tap.stdout is not None
    await tap.stdout.readline()
    try:
        assert await agent.end(number) == 0, agent.complaints
    finally:
        tap.kill()
        await tap.communicate()
    assert is_gone(server)
    assert "Traceback" not in agent.complaints


async def test_events_survive_a_kill(lab: Lab, tmp_path: Path) -> None:
    """After SIGKILL the server goes too, the same state starts again, and what was stored before is still there."""
    data = str(tmp_path / "data")
    agent = await lab.agent("up", "--data", data)
    await agent.ready()
    server = server_of(agent)
    lines = b"".join(json.dumps({"message": f"kept {n}"}).encode() + b"\n" for n in range(50))
    taken = await lab.eddy("emit", "json", stdin=lines)
    assert taken.status == 0, taken.err
    statement = "SELECT count(*) AS n WHERE message LIKE 'kept %'"

    async def stored() -> bool:
        return (await lab.eddy("query", statement, "--json")).rows == [{"n": 50}]

    assert await lab.eventually(stored)
    await asyncio.sleep(1.5)  # an archive promises durability a second after it took an event, not at once
    agent.process.kill()
    await agent.process.wait()

    async def server_gone() -> bool:
        return is_gone(server)

    assert await lab.eventually(server_gone)
    again = await lab.agent("up", "--data", data)
    await again.ready()
    assert await lab.eventually(stored)
    audit = await lab.eddy("audit")
    assert audit.status == 0, audit.out
    assert await again.end() == 0
    assert "Traceback" not in again.complaints


async def test_a_stale_note_with_the_own_process_number_is_no_second_up(lab: Lab, tmp_path: Path) -> None:
    """In a container the process number after a crash is often the same: it must not refuse itself."""
    from eddy_mesh.local import Whereabouts, leave_note  # noqa: PLC0415  # reads EDDY_STATE when it is called
    from eddy_mesh.runtime.up import _refuse_second  # noqa: PLC0415

    data = tmp_path / "data"
    before = os.environ.get("EDDY_STATE")
    os.environ["EDDY_STATE"] = str(tmp_path)
    try:
        leave_note(Whereabouts(("nats://127.0.0.1:1",), pid=os.getpid(), state=str(data)))
        _refuse_second(data)
    finally:
        os.environ.pop("EDDY_STATE")
        if before is not None:
            os.environ["EDDY_STATE"] = before


async def test_the_server_that_ended_is_started_again(lab: Lab) -> None:
    """A nats-server that is killed comes back on its port, and events flow again without a restart of the agents."""
    agent = await lab.agent("up", "--ephemeral")
    await agent.ready()
    server_of(agent).kill()

    async def flows() -> bool:
        done = await lab.eddy("emit", "json", stdin=b'{"message": "after the crash"}\n')
        return done.status == 0

    assert await lab.eventually(flows, 25)

    async def stored() -> bool:
        done = await lab.eddy("query", "SELECT message WHERE message = 'after the crash' LIMIT 1", "--json")
        return bool(done.rows)

    assert await lab.eventually(stored)
    assert await agent.end() == 0
