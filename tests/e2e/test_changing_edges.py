"""Edges that change while events flow: every event arrives once, wherever its consumer has gone meanwhile."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from itertools import chain
from pathlib import Path

import msgspec
import pytest

from eddy_mesh import subjects
from eddy_mesh.actor.work import Work
from eddy_mesh.agent import draft_of
from eddy_mesh.batch import Batch, Kind
from eddy_mesh.bus import Bus
from eddy_mesh.bus_memory import MemoryBroker
from eddy_mesh.bus_nats import connect
from eddy_mesh.cer import EventClass, Stage
from eddy_mesh.config import HostConfig, Serving, convert
from eddy_mesh.flows import Position
from eddy_mesh.runtime.host import Host
from eddy_mesh.runtime.lanes import Lanes
from eddy_mesh.server import EmbeddedServer
from eddy_mesh.topology.checks import checked
from eddy_mesh.topology.placement import HostThere, Placement, place

pytestmark = pytest.mark.e2e

HOSTS = ("a", "b", "c")
KIND = Kind(Stage.COOKED, EventClass.NETWORK, "netflow.v9")
PASS = {"type": "transformer", "cooking": "split"}


class Watching(Host):
    """A host process that notes which events its agents take in."""

    def __init__(self, config: HostConfig, bus: Bus, state: Path) -> None:
        super().__init__(config, bus, state)
        self.taken: defaultdict[str, list[int]] = defaultdict(list)

    async def watched(self, cell: Work, batch: Batch) -> None:
        """Note the numbers of events."""
        if cell.name not in self.cells:
            return  # what puts events into a stream
        column = batch.column("source.port")
        self.taken[cell.name] += [int(str(column.at(row))) for row in range(batch.count)]
        await super().watched(cell, batch)


class Backplane:
    """Three host processes, and the steps of a revision as a backplane-manager takes them."""

    def __init__(self, hosts: Mapping[str, Watching]) -> None:
        self.hosts = hosts
        self.placement = Placement(backplane="eddy")

    async def apply(self, tables: Mapping[str, object], *, broken_off: bool = False) -> None:
        """Carry out a revision, or only as far as to its activation."""
        before = self.placement
        after = place(checked(dict(tables), "test"), [HostThere(name=name) for name in self.hosts], before)
        edges = {name: Serving(edge.generation, edge.producers, edge.delivery) for name, edge in after.edges.items()}
        for name, host in self.hosts.items():
            part = after.hosts[name].agents if name in after.hosts else {}
            await host.prepare({agent: msgspec.to_builtins(table) for agent, table in part.items()})
        for host in self.hosts.values():
            await host.activate(edges)
        self.placement = after
        if broken_off:
            return
        for path in sorted(before.agents(), key=lambda path: path.partition("/")[2]):  # p < y < z: along the edges
            name, _, agent = path.partition("/")
            await self.hosts[name].retire(agent, self._fences(before, path))
        for host in self.hosts.values():
            await host.settle(edges)

    def _fences(self, before: Placement, path: str) -> dict[str, dict[str, Position]]:
        ending = [edge.name for edge in before.edges.values() if path in edge.consumers]
        found: dict[str, dict[str, Position]] = {}
        for name, host in self.hosts.items():
            for flow, position in host.fences(ending).items():
                found.setdefault(flow, {})[name] = position
        return found

    def taken(self, agent: str) -> Counter[int]:
        """Return how often each event was taken in by an agent or one instance of it, on all hosts."""
        names = ((host, name) for host in self.hosts.values() for name in host.taken)
        return Counter(chain.from_iterable(host.taken[name] for host, name in names if name.startswith(agent)))

    async def emit(self, first: int, count: int = 20) -> None:
        """Emit events with these numbers from p."""
        for number in range(first, first + count, 10):
            rows = [{"source.port": row} for row in range(number, min(number + 10, first + count))]
            await self.hosts["a"].cells["p"].emit(draft_of(KIND, rows))


@asynccontextmanager
async def backplane(buses: list[Bus], folder: Path) -> AsyncIterator[Backplane]:
    """Run three host processes."""
    hosts = {
        name: Watching(convert({"name": name}, HostConfig, "test"), bus, folder / name)
        for name, bus in zip(HOSTS, buses, strict=True)
    }
    lanes = [Lanes(host, host.bus, asyncio.Event()) for host in hosts.values()]
    for host, lane in zip(hosts.values(), lanes, strict=True):
        await host.start()
        await lane.start()
    try:
        yield Backplane(hosts)
    finally:
        for host, lane in zip(hosts.values(), lanes, strict=True):
            await host.stop()
            await lane.stop()


def manifest(draw: random.Random, delivery: str) -> dict[str, object]:
    """Return a manifest: p feeds y, which feeds z; where y and z are and how they are asked differs."""
    asked = draw.choice(["SELECT *", "SELECT * WHERE source.port >= 0", "SELECT * FROM network"])
    partition = draw.choice([{}, {"partition": "source.port"}])
    edge = {"delivery": delivery, "statement": asked}
    return {
        "hosts": {name: {"labels": {"site": "x"}} for name in HOSTS},
        "agents": {
            "p": {**PASS, "host": "a", "subscribe": ["SELECT * FROM system.never"]},
            "y": {**PASS, "label": "site=x", "count": draw.randint(1, 3), **partition},
            "z": {**PASS, "host": draw.choice(HOSTS)},
        },
        "edges": {
            "raw": {"from": "p", "to": "y", **edge},
            "cooked": {"from": "y", "to": "z", **edge},
        },
    }


async def _changes(mesh: Backplane, seed: int, delivery: str, changes: int) -> int:
    """Emit while the topology changes; return how many events were emitted."""
    draw = random.Random(seed)
    await mesh.apply(manifest(draw, delivery))
    emitted = 0
    done = asyncio.Event()

    async def emit() -> None:
        nonlocal emitted
        while not done.is_set():
            rows = [{"source.port": emitted + row} for row in range(20)]
            await mesh.hosts["a"].cells["p"].emit(draft_of(KIND, rows))
            emitted += len(rows)
            await asyncio.sleep(0.001 if delivery == "live" else 0.05)  # with a partition each is up to 16 messages

    async with asyncio.TaskGroup() as group:
        group.create_task(emit())
        for _ in range(changes):
            await mesh.apply(manifest(draw, delivery))
        done.set()
    return emitted


async def _all_at(mesh: Backplane, agent: str, events: int) -> None:
    async with asyncio.timeout(15):
        while sum(mesh.taken(agent).values()) < events:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("seed", range(4))
async def test_live_edges_lose_and_repeat_nothing(seed: int, tmp_path: Path) -> None:
    """Consumers move, multiply and ask otherwise; each event is at the last agent exactly once."""
    broker = MemoryBroker()
    buses: list[Bus] = [broker.connect() for _ in HOSTS]
    async with backplane(buses, tmp_path) as mesh:
        emitted = await _changes(mesh, seed, "live", 12)
        await _all_at(mesh, "z", emitted)
        for agent in ("y", "z"):
            taken = mesh.taken(agent)
            assert taken == Counter(range(emitted)), (agent, [n for n, times in taken.items() if times > 1][:10])
        assert all(ledger.balanced for host in mesh.hosts.values() for ledger in host.ledgers())
    for bus in buses:
        await bus.close()


@pytest.mark.parametrize("delivery", ["live", "durable"])
async def test_edges_over_nats_lose_and_repeat_nothing(delivery: str, tmp_path: Path) -> None:
    """The same over a real server, for both delivery classes."""
    async with EmbeddedServer(tmp_path / "nats") as server:
        buses: list[Bus] = [await connect(server.url, name=name) for name in HOSTS]
        async with backplane(buses, tmp_path) as mesh:
            emitted = await _changes(mesh, 1, delivery, 8)
            await _all_at(mesh, "z", emitted)
            assert mesh.taken("y") == Counter(range(emitted))
            assert mesh.taken("z") == Counter(range(emitted))
        for bus in buses:
            await bus.close()


def pair(host: str, delivery: str = "live", **more: object) -> dict[str, object]:
    """Return a manifest: p on a feeds y on a host over one edge."""
    own: dict[str, object] = {key: more.pop(key) for key in ("count", "partition") if key in more}
    y = {**PASS, "host": host, **own}
    edge = {"from": "p", "to": "y", "delivery": delivery, "statement": "SELECT *"}
    return {
        "hosts": {name: {} for name in HOSTS},
        "agents": {"p": {**PASS, "host": "a", "subscribe": ["SELECT * FROM system.never"]}, "y": y},
        "edges": {"e": edge},
        **more,
    }


def alone(host: str) -> dict[str, object]:
    """Return the same manifest without the edge: y asks for something itself."""
    without = pair(host)
    never = {**PASS, "subscribe": ["SELECT * FROM system.never"]}
    return {**without, "agents": {"p": {**never, "host": "a"}, "y": {**never, "host": host}}, "edges": {}}


@asynccontextmanager
async def in_memory(folder: Path) -> AsyncIterator[Backplane]:
    """Run three host processes on the in-memory bus."""
    broker = MemoryBroker()
    buses: list[Bus] = [broker.connect() for _ in HOSTS]
    async with backplane(buses, folder) as mesh:
        yield mesh
    for bus in buses:
        await bus.close()


@pytest.mark.parametrize("delivery", ["live", "durable"])
async def test_a_way_back_leaves_no_end_behind(delivery: str, tmp_path: Path) -> None:
    """Rolled back between activation and retiring, the old end of the first revision ends, and its lease with it."""
    async with in_memory(tmp_path) as mesh:
        await mesh.apply(pair("b", delivery))
        await mesh.emit(0)
        await mesh.apply(pair("c", delivery), broken_off=True)
        await mesh.emit(20)
        await mesh.apply(pair("b", delivery))
        await mesh.emit(40)
        await _all_at(mesh, "y", 60)
        assert mesh.taken("y") == Counter(range(60))
        assert len(mesh.hosts["b"].cells["y"].edges) == 1
        assert len(mesh.hosts["a"].demands["eddy"].flows) == (delivery == "live")


async def test_a_sender_follows_the_partition_of_its_edge(tmp_path: Path) -> None:
    """It outlives generations; by the old table equal values would reach different instances, or one instance all."""
    async with in_memory(tmp_path) as mesh:
        await mesh.apply(pair("b", "durable", count=2))
        await mesh.emit(1000)  # the sender lives
        await _all_at(mesh, "y", 20)
        await mesh.apply(pair("b", "durable", count=2, partition="source.port"))
        for _ in range(5):
            await mesh.emit(0)
        await _all_at(mesh, "y", 120)
        first, second = (
            Counter({number: times for number, times in mesh.taken(name).items() if number < 1000})
            for name in ("y.0", "y.1")
        )
        assert first
        assert second
        assert not first.keys() & second.keys()
        assert set((first + second).values()) == {5}


async def test_the_size_of_a_stream_changes_in_place(tmp_path: Path) -> None:
    """Neither end is doubled, no event comes twice, and a sender that waits for room goes on with the larger stream."""
    async with in_memory(tmp_path) as mesh:
        await mesh.apply(pair("b", "durable", retention={"max_bytes": 1}))
        await mesh.emit(0)
        sender = mesh.hosts["a"].roster.wiring.senders["p", "e"].cell
        async with asyncio.timeout(10):
            while "full" not in sender.reason:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        generation = mesh.placement.edges["e"].generation
        await mesh.apply(pair("b", "durable", retention={"max_bytes": 1 << 20}))
        assert mesh.placement.edges["e"].generation == generation
        assert len(mesh.hosts["b"].cells["y"].edges) == 1
        await _all_at(mesh, "y", 20)
        assert mesh.taken("y") == Counter(range(20))


@pytest.mark.parametrize("after", ["live", "gone"])
async def test_what_a_stream_holds_is_taken_before_its_edge_ends(after: str, tmp_path: Path) -> None:
    """Disconnected, or live from now on and its consumer elsewhere: nothing stays behind in a stream nobody reads."""
    async with in_memory(tmp_path) as mesh:
        await mesh.apply(pair("b", "durable"), broken_off=True)  # before it is settled nobody takes anything
        await mesh.emit(0)
        bus, stream = mesh.hosts["a"].bus, subjects.edge_stream("eddy", "e")
        async with asyncio.timeout(10):
            while (held := await bus.stream_status(stream)) is None or not held.messages:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        await mesh.apply(alone("b") if after == "gone" else pair("c"))
        assert mesh.taken("y") == Counter(range(20))
        assert await bus.stream_status(stream) is None


async def test_what_nobody_takes_stays_in_its_stream_and_is_told(tmp_path: Path) -> None:
    """The consumer of an edge that ends is stopped: the rest is kept, an operator hears of it, and it can be had."""
    async with in_memory(tmp_path) as mesh:
        await mesh.apply(pair("b", "durable"))
        await mesh.hosts["b"].command("y", "stop", {})
        await mesh.emit(0)
        bus, stream = mesh.hosts["a"].bus, subjects.edge_stream("eddy", "e")
        await mesh.apply(alone("b"))
        assert any("edge leftover" in told for _, told in mesh.hosts["b"].recent_notices)
        held = await bus.stream_status(stream)
        assert held is not None
        assert held.messages
        await mesh.hosts["b"].command("y", "resume", {})
        await mesh.apply(pair("b", "durable"))
        await _all_at(mesh, "y", 20)
        assert mesh.taken("y") == Counter(range(20))
