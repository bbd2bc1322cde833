"""Lanes of a host process: which subjects its agents answer on, when agents come, go and change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import msgspec
import pytest

from eddy_mesh import queries, subjects
from eddy_mesh.batch import Kind
from eddy_mesh.bus import Message
from eddy_mesh.bus_memory import MemoryBroker, MemoryBus
from eddy_mesh.cer import EventClass, Stage
from eddy_mesh.config import HostConfig, convert
from eddy_mesh.errors import BusError, UsageError
from eddy_mesh.runtime.fitting import fitting
from eddy_mesh.runtime.host import Host
from eddy_mesh.runtime.lanes import Lanes
from eddy_mesh.runtime.router import Seen

DIRECTORY: dict[str, object] = {"type": "directory"}
KEEP: dict[str, object] = {"type": "archive"}


class Pair:
    """Two host processes with their lanes, on one bus."""

    def __init__(self, bus: MemoryBus, folder: Path) -> None:
        self.bus = bus
        self.hosts: dict[str, Host] = {}
        self.lanes: dict[str, Lanes] = {}
        for name in ("h1", "h2"):
            host = Host(convert({"name": name, "agents": {}}, HostConfig, "test"), bus, folder / name)
            self.hosts[name], self.lanes[name] = host, Lanes(host, bus, asyncio.Event())

    async def run(self, host: str, agents: dict[str, dict[str, object]]) -> None:
        """Make a host process run these agents."""
        await self.hosts[host].configure(agents)
        for cell in self.hosts[host].cells.values():
            await cell.settle()
        await self.lanes[host].follow_agents()

    async def ask(self, kind: str, agent: str, verb: str) -> bool:
        """Return whether somebody answers."""
        try:
            subject = subjects.query("eddy", kind, agent, verb)
            async with aclosing(queries.ask(self.bus, subject, {}, timeout_s=0.2)) as rows:
                async for _ in rows:
                    pass
        except UsageError:  # it does not know what to say to that
            return True
        except BusError:
            return False
        return True


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    """Two host processes that run nothing yet."""
    bus = MemoryBroker().connect()
    made = Pair(bus, tmp_path)
    for host in made.hosts.values():
        await host.start()
    yield made
    for name, host in made.hosts.items():
        await made.lanes[name].stop()
        await host.stop()
    await bus.close()


async def test_an_agent_that_moved_is_asked_where_it_is(pair: Pair) -> None:
    """Its old host process takes no share of the questions to any: each would be left without an answer."""
    await pair.run("h1", {"who": DIRECTORY})
    await pair.run("h2", {"who": DIRECTORY})
    await pair.run("h1", {})
    assert [await pair.ask("directory", "any", "types") for _ in range(8)] == [True] * 8
    assert not await pair.ask("directory", "h1/who", "types")
    await pair.run("h2", {})
    assert not await pair.ask("directory", "any", "types")


async def test_an_agent_of_another_type_answers_as_that(pair: Pair) -> None:
    """It has the questions of its new type, and none of the old one; discovery shows the new type too."""
    await pair.run("h1", {"x": KEEP})
    assert not await pair.ask("directory", "h1/x", "types")
    await pair.run("h1", {"x": DIRECTORY})
    assert await pair.ask("directory", "h1/x", "types")
    assert not await pair.ask("archive", "h1/x", "types")
    services = await pair.bus.gather("$SRV.PING", b"", timeout_s=0.2, at_most=1)
    assert [msgspec.json.decode(message.data)["name"] for message in services] == ["eddy-directory"]


async def test_a_heartbeat_is_never_too_large(tmp_path: Path) -> None:
    """A host process that has seen very many types and fields is there for all that: it tells less of them."""
    bus = MemoryBroker(max_payload=64 * 1024).connect()
    host = Host(convert({"name": "h1", "agents": {"who": DIRECTORY}}, HostConfig, "test"), bus, tmp_path)
    for number in range(500):
        kind = Kind(Stage.COOKED, EventClass.SYSTEM, f"syslog.{number}")
        host.router.census["who", kind] = Seen(1, 1, 1, {f"field.{field}" for field in range(50)})
    lanes = Lanes(host, bus, asyncio.Event())
    heard: asyncio.Queue[Message] = asyncio.Queue()
    await bus.subscribe(subjects.status("eddy", "h1", "host"), heard.put_nowait)
    await host.start()
    beating = asyncio.create_task(lanes.run())
    told = msgspec.json.decode((await heard.get()).data)
    beating.cancel()
    await asyncio.gather(beating, return_exceptions=True)
    await lanes.stop()
    await host.stop()
    await bus.close()
    assert (told["host"], told["truncated"]) == ("h1", True)


def test_what_matters_least_is_left_out_first() -> None:
    """Fields before types before edges; what fits is whole, and does not say otherwise."""
    told = {"host": "h", "types": [{"type": "t", "fields": ["f"] * 50}], "edges": [{"edge": "e"}], "detail": {"a": 1}}
    assert msgspec.json.decode(fitting(told, 1000)) == told
    without = {**told, "types": [{"type": "t", "fields": []}], "truncated": True}
    less = {**without, "types": [], "edges": []}
    for left in (without, less, {**less, "detail": {}}):
        assert msgspec.json.decode(fitting(told, len(msgspec.json.encode(left)))) == left
    assert msgspec.json.decode(fitting(told, 0)) == {**less, "detail": {}}
