"""A backplane-manager with real agent-managers in real host processes: what only both sides together hold."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

import pytest

from eddy_mesh import queries, subjects
from eddy_mesh.bus_memory import MemoryBroker, MemoryBus
from eddy_mesh.config import HostConfig, convert
from eddy_mesh.queries import Progress
from eddy_mesh.runtime import calling
from eddy_mesh.runtime.calling import Caller
from eddy_mesh.runtime.host import Host
from eddy_mesh.runtime.lanes import Lanes
from eddy_mesh.topology.rounds import Answered, Round

NAMES = ("hub", "h1", "h2")
MANAGER = {"agent-manager": {"type": "agent_manager"}}
COOK = {"type": "transformer", "cooking": "syslog", "host": "h1"}
FIND = {"type": "analysis", "detector": "brute_force"}
Rows = list[Mapping[str, object]]


def manifest(host: str, **cook: object) -> dict[str, object]:
    """Return one in which y runs on that host, and p has these settings."""
    return {
        "hosts": {name: {} for name in NAMES},
        "agents": {"p": {**COOK, **cook}, "y": {**FIND, "host": host}},
        "edges": {"raw": {"from": "p", "to": "y"}},
    }


class Mesh:
    """Three host processes with their lanes, one of them with a backplane-manager."""

    def __init__(self, bus: MemoryBus, folder: Path) -> None:
        self.bus, self.folder = bus, folder
        self.hosts: dict[str, tuple[Host, Lanes]] = {}

    async def start(self, name: str) -> None:
        """Start a host process on the state that it had."""
        extra = {"backplane-manager": {"type": "backplane_manager", "config": {"away_s": 0}}} if name == "hub" else {}
        config = convert({"name": name, "agents": {**MANAGER, **extra}}, HostConfig, "test")
        host = Host(config, self.bus, self.folder / name)
        self.hosts[name] = host, Lanes(host, self.bus, asyncio.Event())
        await host.start()
        await self.hosts[name][1].start()
        for cell in host.cells.values():
            await cell.settle()
        await self.hosts[name][1].follow_agents()

    async def stop(self, name: str) -> None:
        """Stop one."""
        host, lanes = self.hosts.pop(name)
        await lanes.stop()
        await host.stop()

    async def apply(self, host: str, without: tuple[str, ...] = (), **cook: object) -> Rows:
        """Apply a manifest."""
        subject = subjects.query("eddy", "backplane_manager", "any", "apply")
        terms = {"observe_s": 0.1, "without": without}
        request = {"manifest": manifest(host, **cook), "terms": terms, "who": "ann"}
        return [row async for row in queries.ask(self.bus, subject, request)]

    def running(self) -> dict[str, tuple[object, set[str]]]:
        """Return for each host process the revision that it has written down, and its agents but for managers."""
        found: dict[str, tuple[object, set[str]]] = {}
        for name, (host, _) in self.hosts.items():
            statuses = {str(status["agent"]): status for status in host.statuses()}
            detail = statuses["agent-manager"]["detail"]
            assert isinstance(detail, dict)
            found[name] = detail["revision"], {agent for agent in statuses if not agent.endswith("-manager")}
        return found


@pytest.fixture
async def mesh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Mesh]:
    """Three host processes that run managers only."""
    monkeypatch.setattr(calling, "AROUND_S", 0.05)
    bus = MemoryBroker().connect()
    made = Mesh(bus, tmp_path)
    for name in NAMES:
        await made.start(name)
    yield made
    for name in tuple(made.hosts):
        await made.stop(name)
    await bus.close()


def after(monkeypatch: pytest.MonkeyPatch, verb: str, act: Callable[[], Awaitable[None]]) -> None:
    """Do something once, after the first round with that verb was answered."""
    perform = Caller.perform
    is_done = False

    async def performed(
        self: Caller, asking: Round, progress: Progress, holds: Callable[[], bool]
    ) -> list[Answered]:  # fmt: skip
        nonlocal is_done
        answers = await perform(self, asking, progress, holds)
        if not is_done and verb in {call.verb for call in asking.calls}:
            is_done = True
            await act()
        return answers

    monkeypatch.setattr(Caller, "perform", performed)


async def test_a_change_is_carried_out(mesh: Mesh) -> None:
    """Both sides mean the same part of a placement; a host that runs nothing is not told."""
    assert (await mesh.apply("h1"))[-1]["step"] == "applied"
    assert mesh.running() == {"hub": (0, set()), "h1": (1, {"p", "y"}), "h2": (0, set())}
    assert (await mesh.apply("h2"))[-1]["step"] == "applied"
    assert mesh.running() == {"hub": (0, set()), "h1": (2, {"p"}), "h2": (2, {"y"})}


async def test_a_host_that_lost_what_it_prepared_is_not_stamped(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """It started again in between: it prepares once more, or would have a revision that it does not run."""
    await mesh.apply("h1")

    async def restart() -> None:
        await mesh.stop("h1")
        await mesh.start("h1")

    after(monkeypatch, "prepare", restart)
    rows = await mesh.apply("h2")
    assert [row["step"] for row in rows if row.get("host") == "h1" and "gone" in str(row.get("error"))] == ["activate"]
    assert (rows[-1]["step"], rows[-1]["revision"]) == ("applied", 2)
    assert mesh.running() == {"hub": (0, set()), "h1": (2, {"p"}), "h2": (2, {"y"})}


async def test_a_host_that_was_let_be_is_not_stamped(mesh: Mesh) -> None:
    """It comes back while something else changes: it prepares what it missed before it takes the new revision."""
    await mesh.apply("h1")
    await mesh.stop("h2")
    assert (await mesh.apply("h2", without=("h2",)))[-1]["step"] == "applied"
    assert mesh.running()["h1"] == (2, {"p"})
    await mesh.start("h2")
    assert (await mesh.apply("h2", mailbox_events=7))[-1]["step"] == "applied"
    assert mesh.running() == {"hub": (0, set()), "h1": (3, {"p"}), "h2": (3, {"y"})}


async def test_a_lost_record_is_begun_anew(mesh: Mesh) -> None:
    """Above what hosts have seen: they take the steps, and end what they should not run."""
    await mesh.apply("h1")
    await mesh.apply("h2")
    for _, lanes in mesh.hosts.values():
        await lanes._beat()
    store = await mesh.bus.key_value("eddy_topology")
    for key in await store.keys():
        await store.purge(key)
    rows = await mesh.apply("h1")
    assert (rows[-1]["step"], rows[-1]["revision"]) == ("applied", 3)
    assert mesh.running()["h1"] == (3, {"p", "y"})
    assert mesh.running()["h2"][1] == set()
