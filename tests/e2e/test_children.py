"""Host processes below a host process, as `process = "own"` makes them: real processes and a real nats-server."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import psutil
import pytest

from eddy_mesh import queries, subjects
from eddy_mesh.api import Mesh
from eddy_mesh.local import process_start
from eddy_mesh.runtime.child_end import NO_SERVER

if TYPE_CHECKING:
    from tests.e2e.conftest import Agent, Lab

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(90)]

MANAGER: dict[str, object] = {"agent-manager": {"type": "agent_manager"}}
ARCHIVE: dict[str, object] = {"agents": {"archive": {"type": "archive"}}}
COOKS: dict[str, object] = {"type": "transformer", "cooking": "syslog"}
COOK: dict[str, object] = {"agents": {"cook": COOKS}}


async def configure(mesh: Mesh, host: str, agents: Mapping[str, object], children: Mapping[str, object] | None) -> None:
    """Tell the agent-manager of a host process what to run."""
    subject = subjects.query("eddy", "agent_manager", f"{host}/agent-manager", "configure")
    request = {"revision": 1, "agents": agents, **({} if children is None else {"children": children})}
    answers = [row async for row in queries.ask(mesh.bus, subject, request)]
    assert answers[0]["revision"] == 1


async def children_of(mesh: Mesh, host: str) -> dict[str, dict[str, object]]:
    """Return what the agent-manager of a host process says of its children, by name."""
    status = next((status for status in await mesh.hosts() if status["host"] == host), None)
    if status is None:
        return {}
    agents = status["agents"]
    assert isinstance(agents, list)
    rows = next(row["detail"]["children"] for row in agents if row["type"] == "agent_manager")
    return {row["name"]: row for row in rows}


async def running(lab: Lab, mesh: Mesh, host: str, *names: str) -> dict[str, dict[str, object]]:
    """Return the children of a host process when exactly these are there and run, and are heard of themselves."""

    async def there() -> dict[str, dict[str, object]]:
        children = await children_of(mesh, host)
        heard = {str(status["host"]) for status in await mesh.hosts()}
        run = {name for name, row in children.items() if row["state"] == "running"}
        return children if run == set(children) == set(names) and set(names) <= heard else {}

    return await lab.eventually(there, 30)


def processes(rows: Mapping[str, Mapping[str, object]]) -> list[psutil.Process]:
    """Return the processes of children."""
    return [psutil.Process(int(str(row["pid"]))) for row in rows.values()]


def log_of(agent: Agent) -> str:
    return agent.complaints[-3000:]


async def gone(lab: Lab, left: list[psutil.Process]) -> None:
    """Return when all have ended."""

    async def ended() -> bool:
        return not any(process_start(process.pid) for process in left if process.is_running())

    await lab.eventually(ended, 10)


async def test_a_child_is_a_host_process_of_its_own(lab: Lab) -> None:
    """It is heard of, takes events of others into accounts of its own, obeys its own agent-manager, ends when told."""
    await lab.server()
    port = lab.free_port()
    agents = {"in-syslog": lab.syslog_source(port), "cook": COOKS, **MANAGER}
    edge = await lab.host("edge", agents)
    mesh = await lab.mesh()
    before = {"edge.archive": ARCHIVE, "edge.more": COOK}
    await configure(mesh, "edge", agents, before)
    rows = await running(lab, mesh, "edge", "edge.archive", "edge.more")
    assert len({row["pid"] for row in rows.values()}) == 2
    assert all(int(str(row["rss_bytes"])) > 10_000_000 for row in rows.values())

    lab.send_tcp(port, lab.lines_of("for the child"))
    await lab.until_stored(mesh, "for the child", 1)
    taken = await lab.ledgers(mesh, "edge.archive")
    assert sum(ledger.out for edge_name, ledger in taken.items() if "archive" in edge_name) >= 1

    await configure(mesh, "edge.more", {**MANAGER}, None)
    assert set(await lab.states(mesh, "edge.more")) == {"agent-manager"}

    (dropped,) = processes({"x": rows["edge.more"]})
    await configure(mesh, "edge", agents, {"edge.archive": ARCHIVE})
    await gone(lab, [dropped])
    after = await running(lab, mesh, "edge", "edge.archive")
    assert after["edge.archive"]["pid"] == rows["edge.archive"]["pid"], "one that stays wanted is left alone"
    left = processes(after)
    assert await edge.end() == 0, log_of(edge)
    await gone(lab, left)


async def test_a_killed_child_comes_back(lab: Lab) -> None:
    """It is started again, with the reason and a count; its log is in that of its parent, the other child goes on."""
    await lab.server()
    edge = await lab.host("edge", MANAGER)
    mesh = await lab.mesh()
    await configure(mesh, "edge", MANAGER, {"edge.one": COOK, "edge.two": COOK})
    before = await running(lab, mesh, "edge", "edge.one", "edge.two")
    processes({"x": before["edge.one"]})[0].kill()

    async def back() -> dict[str, object]:
        one = (await children_of(mesh, "edge"))["edge.one"]
        return one if one["state"] == "running" and one["pid"] != before["edge.one"]["pid"] else {}

    one = await lab.eventually(back, 20)
    assert one["restarts"] == 1
    after = await running(lab, mesh, "edge", "edge.one", "edge.two")
    assert after["edge.two"]["pid"] == before["edge.two"]["pid"]
    lines = [msgspec.json.decode(line, type=dict[str, object]) for line in edge.complaints.splitlines()]
    crashed = next(line for line in lines if line["event"] == "child_crashed")
    assert "SIGKILL" in str(crashed["error.message"])
    assert {line["child"] for line in lines if line["event"] == "agent state" and "child" in line} == set(before)
    left = processes(after)
    assert await edge.end() == 0, log_of(edge)
    await gone(lab, left)


async def test_a_killed_parent_leaves_no_child_and_gets_them_back(lab: Lab) -> None:
    """Its children drain and end by themselves; started again, it starts them again, with the state that they had."""
    await lab.server()
    port = lab.free_port()
    agents = {"in-syslog": lab.syslog_source(port), "cook": COOKS, **MANAGER}
    first = await lab.host("edge", agents)
    mesh = await lab.mesh()
    await configure(mesh, "edge", agents, {"edge.archive": ARCHIVE})
    before = await running(lab, mesh, "edge", "edge.archive")
    lab.send_tcp(port, lab.lines_of("kept over the crash"))
    await lab.until_stored(mesh, "kept over the crash", 1)
    left = processes(before)
    first.process.kill()
    await first.process.wait()
    await gone(lab, left)

    second = await lab.agent("run", str(lab.folder / "edge.toml"), "--log-json")
    await second.ready()
    after = await running(lab, mesh, "edge", "edge.archive")
    assert await lab.stored(mesh, "SELECT count(*) AS n WHERE message = 'kept over the crash'") == [{"n": 1}]
    left = processes(after)
    assert await second.end() == 0, log_of(second)
    await gone(lab, left)


async def test_a_child_that_hangs_is_ended_before_the_next_of_its_name_starts(lab: Lab) -> None:
    """A frozen child outlives its killed parent, but not the first seconds of the next one: no two share a state."""
    await lab.server()
    first = await lab.host("edge", MANAGER)
    mesh = await lab.mesh()
    await configure(mesh, "edge", MANAGER, {"edge.one": COOK})
    (frozen,) = processes(await running(lab, mesh, "edge", "edge.one"))
    frozen.suspend()
    try:
        first.process.kill()
        await first.process.wait()
        second = await lab.agent("run", str(lab.folder / "edge.toml"), "--log-json")
        await second.ready()
        await gone(lab, [frozen])
        await running(lab, mesh, "edge", "edge.one")
        assert await second.end() == 0, log_of(second)
    finally:
        with suppress(psutil.NoSuchProcess):
            frozen.kill()


async def test_a_child_that_is_slow_to_end_outlives_its_parent_by_a_moment(lab: Lab) -> None:
    """The parent keeps to its own five seconds, and does not kill what is still draining then: it ends by itself."""
    await lab.server()
    edge = await lab.host("edge", MANAGER)
    mesh = await lab.mesh()
    await configure(mesh, "edge", MANAGER, {"edge.one": COOK})
    (slow,) = processes(await running(lab, mesh, "edge", "edge.one"))
    slow.suspend()
    try:
        assert await edge.end() == 0, log_of(edge)
        assert slow.is_running()
        slow.resume()
        await gone(lab, [slow])
    finally:
        with suppress(psutil.NoSuchProcess):
            slow.kill()


async def child_alone(config: Path) -> Process:
    """Start a host process as a child of this test, which holds the other end of its standard input."""
    program = [sys.executable, "-P", "-m", "eddy_mesh.cli.agent", "run", str(config), "--while-parent", "--log-json"]
    return await asyncio.create_subprocess_exec(*program, stdin=PIPE, stdout=PIPE, stderr=PIPE)


async def test_a_child_ends_in_order_with_its_standard_input(lab: Lab) -> None:
    """The end of the pipe is as good as a signal to drain: status 0, nothing complained of."""
    await lab.server()
    child = await child_alone(lab.config("edge.one", {"cook": COOKS}))
    assert child.stdout is not None
    assert (await child.stdout.readline()).startswith(b"ready: edge.one")
    _, err = await child.communicate(b"")
    assert child.returncode == 0, err
    assert b"stopped" in err
    assert b"Traceback" not in err


async def test_a_child_starts_without_a_server(lab: Lab) -> None:
    """It runs as in an outage, says which server it is, and still ends with its parent."""
    lab.environment["EDDY_SERVER"] = f"nats://127.0.0.1:{lab.free_port()}"
    child = await child_alone(lab.config("edge.one", {"cook": COOKS}))
    assert child.stdout is not None
    assert (await child.stdout.readline()).startswith(b"ready: edge.one")
    _, err = await child.communicate(b"")
    assert child.returncode == 0, err
    assert lab.environment["EDDY_SERVER"].encode().removeprefix(b"nats://") in err


async def test_a_child_of_a_server_that_says_nothing_waits(lab: Lab) -> None:
    """A server that greets and then gives no answer is no crash: the exit status says so, the last line which it is."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"version": "2.11.0", "max_payload": 1048576}\r\n')
        await reader.read()
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", lab.free_port()) as silent:
        address = f"127.0.0.1:{silent.sockets[0].getsockname()[1]}"
        lab.environment["EDDY_SERVER"] = f"nats://{address}"
        child = await child_alone(lab.config("edge.one", {"cook": COOKS}))
        assert child.stdin is not None  # held open: its end would end the child too
        assert child.stderr is not None
        err = await child.stderr.read()
        assert await child.wait() == NO_SERVER, err
        assert address.encode() in err
        child.stdin.close()


HANGS = """
import signal, threading, time, types
from eddy_mesh.runtime import child_process

told = threading.Event()
child_process.time = types.SimpleNamespace(sleep=lambda limit_s: told.wait())
child_process.end_with_parent()
signal.signal(signal.SIGTERM, lambda *_: told.set())
print("on", flush=True)
while True:
    time.sleep(1)
"""


async def test_a_child_that_does_not_end_is_ended() -> None:
    """One that was told and goes on is gone a while after its parent, though nobody is left to kill it."""
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", HANGS, stdin=PIPE, stdout=PIPE)
    assert child.stdout is not None
    assert await child.stdout.readline() == b"on\n"  # before it ignores the signal, it would end at once
    await child.communicate(b"")
    assert child.returncode == 1
