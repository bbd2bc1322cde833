"""Cells: supervision, dead letters, commands; on the public in-memory bus, with a clock of the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import ClassVar

import pytest

from eddy_mesh import rows
from eddy_mesh.actor.cell import Cell
from eddy_mesh.actor.edge import Edge
from eddy_mesh.agent import Outlet, Result, draft_of
from eddy_mesh.batch import Batch, Kind, Producer
from eddy_mesh.bus import Message
from eddy_mesh.bus_memory import MemoryBroker
from eddy_mesh.cer import EventClass, Stage
from eddy_mesh.commands import Command, State
from eddy_mesh.config import AgentConfig, HostConfig, convert
from eddy_mesh.discovery import blueprints
from eddy_mesh.errors import ConfigError, StoreError, UsageError
from eddy_mesh.runtime.host import Host

KIND = Kind(Stage.COOKED, EventClass.SYSTEM, "syslog")


class Picky:
    """An agent that raises on level 3 and takes the rest."""

    seen: ClassVar[list[int]] = []

    def on_batch(self, batch: Batch, now_ns: int) -> Result:
        """Take a batch."""
        levels = [row["level"] for row in rows.flat_rows(batch)]
        if 3 in levels:
            raise ValueError("three")
        self.seen.extend(levels)  # type: ignore[arg-type]
        return Result()

    def on_tick(self, now_ns: int) -> Result:
        """Nothing is due."""
        return Result()


class FullDisk(Picky):
    """An agent whose disk is full the first time."""

    tries: ClassVar[list[int]] = []

    def on_batch(self, batch: Batch, now_ns: int) -> Result:
        """Refuse once."""
        self.tries.append(batch.count)
        if len(self.tries) == 1:
            raise StoreError("no room on disk")
        return Result()


class Ends:
    """A source that ends or raises as told."""

    def __init__(self, error: Exception | None) -> None:
        self._error = error

    async def run(self, outlet: Outlet) -> None:
        """Emit one event, then end."""
        await outlet.emit(draft_of(Kind(Stage.RAW, EventClass.SYSTEM, "syslog"), [{"event.original": b"x"}]))
        if self._error:
            raise self._error


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    """Return a host process without agents on the in-memory bus."""
    bus = MemoryBroker().connect()
    host = Host(convert({"name": "h1", "agents": {}}, HostConfig, "test"), bus, tmp_path, now_ns=lambda: 10**18)
    await host.start()
    yield host
    await host.stop()
    await bus.close()


def add(host: Host, agent: object, kind: str = "analysis") -> Cell:
    """Put an agent of the test into the host."""
    spec = convert({"type": "directory"}, AgentConfig, "test")
    host.roster.add("probe", spec, blueprints({"probe": spec})["probe"])
    cell = host.cells["probe"]
    cell.kind = kind
    cell.build = lambda: agent  # type: ignore[assignment, return-value]
    return cell


def events(count: int) -> Batch:
    """Return events with levels 0, 1, 2 ..."""
    return rows.batch_of(KIND, "h1", Producer(1, 1), 0, 0, [{"level": row} for row in range(count)])


async def test_a_poisoned_event_goes_to_the_dead_letters_and_the_rest_is_taken(host: Host) -> None:
    """One event that makes the agent raise costs that event only, with its reason, and the edge balances."""
    Picky.seen.clear()
    buried: list[Message] = []
    await host.bus.subscribe("eddy.dead.>", buried.append)
    cell = add(host, Picky())
    edge = Edge("t > probe", None, cell.mailbox)
    cell.edges.append(edge)
    cell.start()
    edge.offer(events(6), 0)
    await edge.until_completed(6)
    await host.bus.flush()
    assert Picky.seen == [0, 1, 2, 4, 5]
    assert edge.ledger.failed == 1
    assert edge.ledger.balanced
    await cell.stop()
    assert [message.headers["Eddy-Reason"] for message in buried] == ["agent_error"]
    assert "three" in buried[0].headers["Eddy-Detail"]


async def test_a_full_disk_is_waited_for_and_nothing_is_lost(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A retryable error of a store makes the runtime offer the same batch again."""
    monkeypatch.setattr("eddy_mesh.actor.work.RETRY_S", 0)
    cell = add(host, FullDisk())
    edge = Edge("t > probe", None, cell.mailbox)
    cell.edges.append(edge)
    cell.start()
    edge.offer(events(4), 0)
    await edge.until_completed(4)
    assert FullDisk.tries == [4, 4]
    assert edge.ledger.out == 4
    await cell.stop()


async def test_a_crashing_source_uses_up_its_budget_and_says_why(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Restarts with back-off, then failed, with the reason in the status; resume starts it again."""
    monkeypatch.setattr("eddy_mesh.actor.life.BACKOFF_S", (0, 0, 0))
    monkeypatch.setattr("eddy_mesh.actor.life.CRASH_BUDGET", 3)
    cell = add(host, Ends(OSError("no such device")), "normalizer")
    cell.start()
    await cell.failed_or_stopped()
    assert cell.state_now is State.FAILED
    assert cell.restarts == 3
    assert "no such device" in cell.reason
    assert cell.intake.balanced
    await cell.command(Command.RESUME)
    await cell.failed_or_stopped()
    await cell.stop()


async def test_a_configuration_that_can_not_work_is_not_retried(host: Host) -> None:
    """A ConfigError at the start fails the agent at once."""
    cell = add(host, Ends(ConfigError(["the port is taken: choose another"])), "normalizer")
    cell.start()
    await cell.failed_or_stopped()
    assert (cell.state_now, cell.restarts) == (State.FAILED, 0)
    await cell.stop()


async def test_pause_holds_events_and_resume_lets_them_through(host: Host) -> None:
    """A paused agent answers commands, takes nothing, loses nothing."""
    Picky.seen.clear()
    cell = add(host, Picky())
    edge = Edge("t > probe", None, cell.mailbox)
    cell.edges.append(edge)
    cell.start()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    answer = await host.command("probe", "pause", {})
    assert answer["state"] == "paused"
    edge.offer(events(3), 0)
    for _ in range(5):
        await asyncio.sleep(0)
    assert edge.ledger.queued == 3
    await host.command("probe", "resume", {})
    await edge.until_completed(3)
    assert edge.ledger.out == 3
    await cell.stop()


async def test_stop_counts_what_waited_as_dropped(host: Host) -> None:
    """Nothing that was accepted disappears from the accounts."""
    cell = add(host, Picky())
    edge = Edge("t > probe", None, cell.mailbox)
    cell.edges.append(edge)
    edge.offer(events(3), 0)
    await cell.stop()
    assert edge.ledger.dropped == {"stopped": 3}
    assert edge.ledger.balanced


async def test_unknown_agents_and_commands_are_refused_with_what_there_is(host: Host) -> None:
    """The text names the agents, or the commands."""
    add(host, Picky())
    with pytest.raises(UsageError, match="it has probe"):
        await host.command("nobody", "ping", {})
    with pytest.raises(UsageError, match="use one of"):
        await host.command("probe", "explode", {})


async def test_events_for_a_failed_agent_are_counted_and_do_not_wait(host: Host) -> None:
    """What waits for an agent that will not come back is dropped with the reason, and so is what comes."""
    cell = add(host, Ends(ConfigError(["can not work here"])))
    edge = Edge("t > probe", None, cell.mailbox)
    cell.edges.append(edge)
    edge.offer(events(3), 0)
    cell.start()
    await cell.failed_or_stopped()
    edge.offer(events(4), 0)
    assert edge.ledger.dropped == {"failed": 7}
    assert edge.ledger.balanced


async def test_one_poisoned_event_among_many_is_found_by_halves(host: Host) -> None:
    """The others are taken, each once."""
    Picky.seen.clear()
    cell = add(host, Picky())
    edge = Edge("t > probe", None, cell.mailbox)
    cell.edges.append(edge)
    cell.start()
    edge.offer(events(500), 0)
    await edge.until_completed(500)
    assert sorted(Picky.seen) == [level for level in range(500) if level != 3]
    assert edge.ledger.failed == 1
    await cell.stop()


async def test_agents_that_feed_each_other_do_not_wait_for_each_other(host: Host) -> None:
    """A full mailbox on the way round drops with the reason ``cycle`` instead of standing still for ever."""
    first, second = add(host, Picky()), None
    second = Cell("second", "analysis", lambda: Picky(), host, first._numbering, first.mailbox)  # noqa: PLW0108
    host.cells["second"], host.agents["second"] = second, host.agents["probe"]
    host.blueprints["second"] = host.blueprints["probe"]
    for producer, consumer in ((first, second), (second, first)):
        host.router.join(Edge(f"{producer.name} > {consumer.name}", None, consumer.mailbox), consumer)
    first.mailbox.capacity = second.mailbox.capacity = 5
    for producer in (first, second, first, second):
        async with asyncio.timeout(5):
            await host.room(producer, KIND, "h1", 4)
            await host.route(producer, events(4))
    ledgers = [edge.ledger for cell in (first, second) for edge in cell.edges]
    assert all(ledger.balanced for ledger in ledgers)
    assert sum(ledger.dropped.get("cycle", 0) for ledger in ledgers) > 0
    del host.cells["second"], host.agents["second"], host.blueprints["second"]
