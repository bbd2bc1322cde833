"""The directory: what heartbeats tell of who holds what, since when and for how long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import cast

import msgspec
import pytest

from eddy_agents.directory import Agent, Config
from eddy_mesh.bus import Bus, Message
from eddy_mesh.bus_memory import MemoryBroker, MemoryBus
from eddy_mesh.task import Context

NOW_NS = 1_795_000_000_000_000_000
HELD = {"stage": "cooked", "event_class": "system", "type": "syslog", "count": 5, "first_ns": 10, "last_ns": 20}


class Surroundings:
    """What the directory uses of a `Context`."""

    backplane = "eddy"

    def __init__(self, bus: Bus) -> None:
        self.bus = bus

    def now_ns(self) -> int:
        """Return a fixed time."""
        return NOW_NS


class Directory:
    """A directory on a bus."""

    def __init__(self, bus: MemoryBus) -> None:
        self._bus = bus
        self.agent = Agent(Config())

    async def start(self) -> None:
        """Begin to listen."""
        await self.agent.start(cast("Context", Surroundings(self._bus)))

    async def beat(self, host: str, **status: object) -> None:
        """Publish the heartbeat of a host process."""
        await self._bus.publish(f"eddy.status.{host}.host", msgspec.json.encode({"host": host, **status}))
        for _ in range(3):
            await asyncio.sleep(0)  # the bus delivers in a task of its own

    async def entries(self, verb: str = "types", **request: object) -> list[Mapping[str, object]]:
        """Return what it answers."""
        return [row async for row in self.agent.query(verb, request)]


@pytest.fixture
async def directory() -> AsyncIterator[Directory]:
    """A directory that listens."""
    bus = MemoryBroker().connect()
    made = Directory(bus)
    await made.start()
    yield made
    await bus.close()


async def test_the_directory_knows_who_keeps_what_and_for_how_long(directory: Directory) -> None:
    """A host's local store is an entry of its own beside what its agents make, with the time at which it ends."""
    made = {**HELD, "agent": "cook", "fields": ["message", "user.name"], "count": 9}
    await directory.beat("edge", types=[made], local_store={"holdings": [{**HELD, "until_ns": 3600}]})
    live, kept = sorted(await directory.entries(), key=lambda row: str(row["agent"]))
    assert (live["agent"], live["count"], live["until_ns"]) == ("cook", 9, 0)
    assert (kept["holding"], kept["agent"], kept["count"]) == ("local", "host", 5)
    assert (kept["first_ns"], kept["last_ns"], kept["until_ns"]) == (10, 20, 3600)
    assert kept["fields"] == ["message", "user.name"]


async def test_what_expired_is_no_entry_any_more(directory: Directory) -> None:
    """A kind that the local store tells of no more is forgotten at once; other hosts' entries stay."""
    await directory.beat("edge", local_store={"holdings": [HELD, {**HELD, "type": "netflow"}]})
    await directory.beat("hub", local_store={"holdings": [HELD]})
    await directory.beat("edge", local_store={"holdings": [{**HELD, "type": "netflow"}]})
    assert [(row["host"], row["type"]) for row in await directory.entries()] == [("edge", "netflow"), ("hub", "syslog")]
    await directory.beat("edge", types=[])
    assert len(await directory.entries()) == 2, "a heartbeat of an older version says nothing of a local store"


async def test_a_statement_finds_who_keeps_what_it_asks_for(directory: Directory) -> None:
    """``locate`` gives the local stores too, with the fields that are missing there."""
    await directory.beat(
        "edge", local_store={"holdings": [HELD, {**HELD, "type": "netflow", "event_class": "network"}]}
    )
    (row,) = await directory.entries("locate", statement="SELECT user.name FROM system.syslog")
    assert (row["holding"], row["type"], row["missing_fields"]) == ("local", "syslog", ["user.name"])


async def test_what_makes_no_sense_is_refused_and_counted(directory: Directory) -> None:
    """An entry without a known stage or class would make every later answer fail."""
    wrong = [{**HELD, "stage": "boiled"}, {**HELD, "event_class": 7}, {"type": "x"}, "text"]
    await directory.beat("edge", local_store={"holdings": wrong}, types=[{**HELD, "agent": "cook", "stage": "x"}])
    assert await directory.entries() == []
    assert directory.agent.status() == {"entries": 0, "refused": 4}


async def test_messages_that_are_no_heartbeats_are_ignored(directory: Directory) -> None:
    """Neither bytes nor lists in place of tables harm the directory."""
    await directory.beat("edge", local_store=["x"], types="y", detail={"holdings": 3})
    directory.agent._heard(Message("eddy.status.edge.host", b"\xff"))
    assert await directory.entries() == []
