"""`eddy-agent up` as a newcomer has it: ready without configuration, one at a time, whole after a crash."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from eddy_mesh.errors import BusError, UsageError
from eddy_mesh.local import Whereabouts, leave_note
from eddy_mesh.runtime.up import _refuse_second

if TYPE_CHECKING:
    from tests.e2e.conftest import Agent, Lab

    from eddy_mesh.api import Mesh

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


async def is_stored(mesh: Mesh, text: str) -> bool:
    """Whether an event with this message is stored."""
    with suppress(BusError, UsageError):  # the archive is not back yet
        return bool([row async for row in mesh.query(f"SELECT message WHERE message = '{text}' LIMIT 1")])
    return False


async def counted(mesh: Mesh, pattern: str, count: int) -> bool:
    """Whether so many events with a message like this are stored."""
    statement = f"SELECT count(*) AS n WHERE message LIKE '{pattern}'"
    with suppress(BusError, UsageError):  # the archive is not back yet
        return [dict(row) async for row in mesh.query(statement)] == [{"n": count}]
    return False


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
    mesh = await lab.mesh()
    assert await mesh.emit("json", lines.splitlines()) == 50
    assert await lab.eventually(lambda: counted(mesh, "kept %", 50))
    await asyncio.sleep(1.5)  # an archive promises durability a second after it took an event, not at once
    agent.process.kill()
    await agent.process.wait()

    async def server_gone() -> bool:
        return is_gone(server)

    assert await lab.eventually(server_gone)
    again = await lab.agent("up", "--data", data)
    await again.ready()
    seen = await lab.mesh()
    assert await lab.eventually(lambda: counted(seen, "kept %", 50))
    audit = await lab.eddy("audit")
    assert audit.status == 0, audit.out
    assert await again.end() == 0
    assert "Traceback" not in again.complaints


def test_a_stale_note_with_the_own_process_number_is_no_second_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container the process number after a crash is often the same: it must not refuse itself."""
    monkeypatch.setenv("EDDY_STATE", str(tmp_path))
    leave_note(Whereabouts(("nats://127.0.0.1:1",), pid=os.getpid(), state=str(tmp_path / "data")))
    _refuse_second(tmp_path / "data")
    leave_note(Whereabouts(("nats://127.0.0.1:1",), pid=os.getppid(), state=str(tmp_path / "data")))
    with pytest.raises(UsageError, match="runs already"):
        _refuse_second(tmp_path / "data")


async def test_the_server_that_ended_is_started_again(lab: Lab) -> None:
    """A nats-server that is killed comes back on its port, and events flow again without a restart of the agents."""
    agent = await lab.agent("up", "--ephemeral")
    await agent.ready()
    mesh = await lab.mesh()
    server_of(agent).kill()

    async def flows() -> bool:
        with suppress(BusError, UsageError, TimeoutError):  # it is not back yet
            async with asyncio.timeout(3):
                return await mesh.emit("json", [b'{"message": "after the crash"}']) == 1
        return False

    assert await lab.eventually(flows, 25)
    assert await lab.eventually(lambda: is_stored(mesh, "after the crash"))
    assert await agent.end() == 0
