"""The roster of a host process: what a change of configuration leaves as it was."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from eddy_mesh import rows
from eddy_mesh.actor.edge import Edge
from eddy_mesh.agent import Result, draft_of
from eddy_mesh.batch import Batch, Kind, Producer
from eddy_mesh.bus_memory import MemoryBroker
from eddy_mesh.cer import EventClass, Stage
from eddy_mesh.commands import Command, State
from eddy_mesh.config import HostConfig, Serving, convert
from eddy_mesh.errors import BusError, ConfigError
from eddy_mesh.runtime.host import Host
from eddy_mesh.store import local_store
from eddy_mesh.topology.applied import FILE, Applied

KIND = Kind(Stage.COOKED, EventClass.SYSTEM, "syslog")
COOK: dict[str, object] = {"type": "transformer", "cooking": "syslog"}
SOURCE: dict[str, object] = {"type": "normalizer", "source": "emit"}


async def test_an_agent_that_comes_again_goes_on_counting(tmp_path: Path) -> None:
    """Removed and added, or changed, it never gives a number, and so an id, a second time."""
    bus = MemoryBroker().connect()
    host = Host(convert({"name": "h1", "agents": {}}, HostConfig, "test"), bus, tmp_path, now_ns=lambda: 10**18)
    await host.start()
    ids: list[object] = []
    firsts: list[int] = []
    changed = {**COOK, "mailbox_events": 10}
    for agents in ({"cook": COOK}, {}, {"cook": COOK}, {"cook": changed}):
        await host.configure(agents)
        for cell in host.cells.values():
            made = cell.numbered(draft_of(KIND, [{"level": 1}] * 3))
            firsts.append(made.first)
            ids += [row["id"] for row in rows.flat_rows(made)]
    await host.stop()
    await bus.close()
    assert firsts == [0, 3, 6]
    assert len(set(ids)) == len(ids) == 9


async def test_a_host_process_begins_with_what_was_applied_last(tmp_path: Path) -> None:
    """After a restart no source runs before its edges: the topology goes before the configuration file."""
    applied = Applied(7, {"other": COOK}, edges={"e": Serving(7, ("h1/other",))})
    folder = tmp_path / "agents" / "agent-manager"
    folder.mkdir(parents=True)
    (folder / FILE).write_bytes(msgspec.json.encode(applied))
    agents = {"agent-manager": {"type": "agent_manager"}, "cook": COOK}
    bus = MemoryBroker().connect()
    host = Host(convert({"name": "h1", "agents": agents}, HostConfig, "test"), bus, tmp_path)
    await host.start()
    assert set(host.cells) == {"agent-manager", "other"}
    assert host.generations.now.served("e", "h1/other") == 7
    await host.stop()
    await bus.close()


async def test_what_was_applied_last_and_is_damaged_is_told(tmp_path: Path) -> None:
    """The configuration file counts then, and an operator learns of it: it may be far from the topology of record."""
    folder = tmp_path / "agents" / "agent-manager"
    folder.mkdir(parents=True)
    (folder / FILE).write_bytes(b"")
    agents = {"agent-manager": {"type": "agent_manager"}, "cook": COOK}
    bus = MemoryBroker().connect()
    host = Host(convert({"name": "h1", "agents": agents}, HostConfig, "test"), bus, tmp_path)
    await host.start()
    assert set(host.cells) == {"agent-manager", "cook"}
    async with asyncio.timeout(20):
        while not any("applied unreadable" in text for _, text in host.recent_notices):  # noqa: ASYNC110  # no event for it
            await asyncio.sleep(0)
    await host.stop()
    await bus.close()


async def test_a_local_store_that_keeps_nothing_is_told_as_a_notice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events that can not be selected back later are an operator's business: it goes where notices go."""
    monkeypatch.setattr(local_store, "MAX_WAITING_EVENTS", 2)
    async with running(tmp_path) as host:
        await host.configure({"cook": COOK})
        assert host.local is not None
        with host.local._lock:  # what a thread holds that waits for the disk
            for _ in range(3):
                host.local.keep(host.cells["cook"].numbered(draft_of(KIND, [{"level": 1}] * 3)))
            await asyncio.sleep(0)
        ((teller, text),) = host.recent_notices
    assert teller == "cook"
    assert "local store problem" in text
    assert "too slow" in text


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Host]:
    """Run a host process without agents on the in-memory bus."""
    bus = MemoryBroker().connect()
    host = Host(convert({"name": "h1", "agents": {}}, HostConfig, "test"), bus, folder)
    await host.start()
    try:
        yield host
    finally:
        await host.stop()
        await bus.close()


async def test_a_source_that_was_about_to_go_goes_on_after_a_rollback(tmp_path: Path) -> None:
    """Paused by the activation of a revision that then failed, it takes events in again; an operator's pause stays."""
    async with running(tmp_path) as host:
        await host.configure({"in": SOURCE, "held": SOURCE}, {})
        async with asyncio.timeout(5):
            while {cell.state_now for cell in host.cells.values()} != {State.RUNNING}:  # noqa: ASYNC110
                await asyncio.sleep(0)
        await host.cells["held"].command(Command.PAUSE)
        for agents in ({}, {"in": SOURCE, "held": SOURCE}):
            await host.prepare(agents)
            await host.activate({})
            assert (host.cells["in"].state_now is State.PAUSED) == (not agents)
        assert {name: cell.state_now for name, cell in host.cells.items()} == {
            "in": State.RUNNING,
            "held": State.PAUSED,
        }


async def test_an_aborted_revision_starts_nothing(tmp_path: Path) -> None:
    """A source that waits for its edges is not begun by the way back, on which they are never served."""
    async with running(tmp_path) as host:
        await host.prepare({"in": SOURCE})
        cell = host.cells["in"]
        await host.prepare({"in": {**SOURCE, "config": {"max_line_bytes": 7}}})
        assert (cell.state_now, cell.started_ns) == (State.STOPPED, 0)  # nor by a change of its settings
        await host.configure({}, {})
        assert (cell.state_now, cell.started_ns) == (State.STOPPED, 0)
        assert not host.cells


@pytest.mark.parametrize("agent", [SOURCE, COOK])
async def test_what_is_new_begins_when_its_edges_are_served(agent: dict[str, object], tmp_path: Path) -> None:
    """Between the two steps it would make events that no edge takes; a prepare that is done again is no reason."""
    async with running(tmp_path) as host:
        for _ in range(2):
            await host.prepare({"new": agent})
            assert host.cells["new"].state_now is State.STOPPED
        await host.activate({})
        assert host.cells["new"].state_now is not State.STOPPED


async def test_what_a_broken_off_prepare_added_begins_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next prepare finds it there; it must not take it for running."""
    async with running(tmp_path) as host:

        async def broken(*_: object) -> None:
            raise BusError("away")

        with monkeypatch.context() as patch:
            patch.setattr(host.roster.wiring, "prepare", broken)
            with pytest.raises(BusError):
                await host.prepare({"new": COOK})
        await host.configure({"new": COOK}, {})
        assert host.cells["new"].state_now is not State.STOPPED


async def test_the_manager_of_a_host_is_not_made_something_else(tmp_path: Path) -> None:
    """A revision that gives its name away would leave a host that nobody can change."""
    async with running(tmp_path) as host:
        await host.configure({"agent-manager": {"type": "agent_manager"}})
        with pytest.raises(ConfigError, match="give the transformer another name"):
            await host.prepare({"agent-manager": COOK})
        assert host.cells["agent-manager"].kind == "agent_manager"


class Stuck:
    """An agent that takes its first batch and never answers."""

    def on_batch(self, batch: Batch, now_ns: int) -> asyncio.Future[Result]:
        """Answer never."""
        return asyncio.get_running_loop().create_future()

    def on_tick(self, now_ns: int) -> Result:
        """Do nothing."""
        return Result()


async def test_an_agent_that_can_not_be_ended_holds_nothing_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its retire fails and says why; it goes on, other steps are possible, and the next retire ends it."""
    monkeypatch.setattr("eddy_mesh.runtime.roster.RETIRE_S", 0.05)
    async with running(tmp_path) as host:
        await host.configure({"cook": COOK}, {})
        cell = host.cells["cook"]
        edge = Edge("t > cook", None, cell.mailbox)
        cell.edges.append(edge)
        cell.build = Stuck  # type: ignore[assignment]  # waits longer than a Stateful may
        await cell.command(Command.RELOAD)
        edge.offer(rows.batch_of(KIND, "h1", Producer(1, 1), 0, 0, [{"level": 1}]), 0)
        await host.prepare({})
        with pytest.raises(BusError, match="agent cook has 1 events to handle"):
            await host.retire("cook", {})
        await host.activate({})
        assert cell.state_now is State.RUNNING
        await cell.command(Command.STOP)
        await host.retire("cook", {})
        assert not host.cells
