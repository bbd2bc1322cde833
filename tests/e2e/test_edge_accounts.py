"""Edges between host processes lose nothing unseen: in a change, in an outage, and where a change went wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from eddy_mesh.actor.edge import Edge
from eddy_mesh.actor.work import Work
from eddy_mesh.agent import draft_of
from eddy_mesh.batch import Batch, Kind
from eddy_mesh.bus_memory import MemoryBroker, MemoryBus
from eddy_mesh.cer import EventClass, Stage
from eddy_mesh.config import HostConfig, Serving, convert
from eddy_mesh.runtime.host import Host
from eddy_mesh.runtime.lanes import Lanes
from eddy_mesh.topology import steps
from eddy_mesh.topology.checks import checked
from eddy_mesh.topology.placement import HostThere, Placement, place

pytestmark = pytest.mark.e2e

KIND = Kind(Stage.COOKED, EventClass.NETWORK, "netflow.v9")
PASS: dict[str, object] = {"type": "transformer", "cooking": "split"}
SOURCE: dict[str, object] = {**PASS, "subscribe": ["SELECT * FROM system.never"]}
EDGE: dict[str, object] = {"statement": "SELECT *"}
SECOND = 1_000_000_000
MANY_TURNS = 300


class Pair:
    """Two host processes, a and b, and the steps of a revision."""

    def __init__(self, bus: MemoryBus, folder: Path) -> None:
        self.now_ns = 10**18
        self.hosts = {
            name: Host(convert({"name": name}, HostConfig, "test"), bus, folder / name, now_ns=lambda: self.now_ns)
            for name in ("a", "b")
        }
        self.lanes = {name: Lanes(host, bus, asyncio.Event()) for name, host in self.hosts.items()}
        self.placement = Placement()

    async def prepare(self, agents: dict[str, object], edges: dict[str, object]) -> None:
        """Prepare a revision on both."""
        manifest = checked({"hosts": {"a": {}, "b": {}}, "agents": agents, "edges": edges}, "test")
        there = [HostThere(name=name) for name in self.hosts]
        self.placement = place(manifest, there, self.placement)
        for name, host in self.hosts.items():
            part = self.placement.hosts[name].agents
            await host.prepare({agent: msgspec.to_builtins(table) for agent, table in part.items()})

    async def activate(self, *names: str) -> None:
        """Let host processes change over, in this order."""
        for name in names:
            await self.hosts[name].activate(steps.servings(self.placement))

    async def emit(self, count: int) -> None:
        """Let x make events on host a, one batch each."""
        for number in range(count):
            await self.hosts["a"].cells["x"].emit(draft_of(KIND, [{"source.port": number}]))

    def edge_of(self, agent: str, name: str) -> Edge:
        """Return the newest edge of the topology with a name that ends at an agent of host b."""
        return [edge for edge in self.hosts["b"].cells[agent].edges if edge.ledger.edge.startswith(f"{name}@")][-1]


@asynccontextmanager
async def pair(folder: Path, *listening: str) -> AsyncIterator[Pair]:
    """Run two host processes, of which these listen for leases from the start."""
    bus = MemoryBroker().connect()
    mesh = Pair(bus, folder)
    for host in mesh.hosts.values():
        await host.start()
    for name in listening:
        await mesh.lanes[name].start()
    try:
        yield mesh
    finally:
        for host in mesh.hosts.values():
            await host.stop()
        for lanes in mesh.lanes.values():
            await lanes.stop()
        await bus.close()


async def turns() -> None:
    """Let everything happen that waits for nothing but its turn."""
    for _ in range(MANY_TURNS):
        await asyncio.sleep(0)


TWO: dict[str, object] = {"x": {**SOURCE, "host": "a"}, "y": {**PASS, "host": "b"}}
ONE_EDGE: dict[str, object] = {"first": {"from": "x", "to": "y", **EDGE}}


async def test_a_consumer_that_was_not_heard_counts_all_that_it_missed(tmp_path: Path) -> None:
    """The connection between two host processes is away for longer than a lease: the gap is exact."""
    async with pair(tmp_path, "a", "b") as mesh:
        await mesh.prepare(TWO, ONE_EDGE)
        await mesh.activate("a", "b")
        await mesh.emit(3)
        await turns()
        demand = mesh.hosts["a"].demands["eddy"]
        mesh.now_ns += 60 * SECOND
        demand.expire(mesh.now_ns)
        await mesh.emit(5)
        await demand.read_leases(mesh.now_ns)  # it is heard again
        await mesh.emit(2)
        await turns()
        ledger = mesh.edge_of("y", "first").ledger
        assert (ledger.out, ledger.dropped) == (5, {"gap": 5})
        sent = next(ledger for ledger in mesh.hosts["a"].ledgers() if "> flow" in ledger.edge)
        assert (sent.out, sent.dropped) == (5, {"not_asked": 5})


async def test_a_lease_that_did_not_arrive_is_read_before_the_edge_is_served(tmp_path: Path) -> None:
    """The producer does not listen yet when the consumer asks; its first events go to it all the same."""
    async with pair(tmp_path, "b") as mesh:
        await mesh.prepare(TWO, ONE_EDGE)
        await mesh.lanes["a"].start()
        await mesh.activate("a", "b")
        await mesh.emit(4)
        await turns()
        assert mesh.edge_of("y", "first").ledger.out == 4


async def test_a_lease_that_comes_before_anybody_listens_is_found(tmp_path: Path) -> None:
    """A host process reads leases when it starts; one that comes before it listens is not left to its renewal."""
    async with pair(tmp_path, "b") as mesh:
        await mesh.prepare(TWO, ONE_EDGE)
        host = mesh.hosts["a"]
        assert not host.demands["eddy"].flows
        await mesh.lanes["a"].start()
        running = asyncio.create_task(host.run())
        await turns()
        assert len(host.demands["eddy"].flows) == 1
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_what_comes_before_the_own_activation_goes_on_along_new_edges(tmp_path: Path) -> None:
    """An agent that stays gets an edge in and an edge out, and the host process before it changes over first."""
    s_and_z: dict[str, object] = {"s": {**SOURCE, "host": "b"}, "z": {**PASS, "host": "b"}}
    kept: dict[str, object] = {"keep-y": {"from": "s", "to": "y", **EDGE}, "keep-z": {"from": "s", "to": "z", **EDGE}}
    agents = {**TWO, **s_and_z}
    async with pair(tmp_path, "a", "b") as mesh:
        await mesh.prepare(agents, kept)
        await mesh.activate("a", "b")
        await mesh.prepare(agents, {**kept, **ONE_EDGE, "second": {"from": "y", "to": "z", **EDGE}})
        await mesh.activate("a")
        await mesh.emit(4)
        await turns()
        await mesh.activate("b")
        await turns()
        assert mesh.edge_of("y", "first").ledger.out == 4
        assert mesh.edge_of("z", "second").ledger.out == 4


async def test_an_agent_that_is_new_waits_with_what_comes_for_its_own_activation(tmp_path: Path) -> None:
    """The same for an agent that begins with the change: what it makes finds its edges served."""
    agents: dict[str, object] = {**TWO, "z": {**PASS, "host": "b"}}
    async with pair(tmp_path, "a", "b") as mesh:
        await mesh.prepare(agents, {**ONE_EDGE, "second": {"from": "y", "to": "z", **EDGE}})
        await mesh.activate("a")
        await mesh.emit(4)
        await turns()
        await mesh.activate("b")
        await turns()
        assert mesh.edge_of("z", "second").ledger.out == 4


async def test_what_is_made_for_a_stream_that_no_way_leads_to_is_counted(tmp_path: Path) -> None:
    """A change went wrong half-way: the table names a generation that this host process was never prepared for."""
    async with pair(tmp_path, "a", "b") as mesh:
        await mesh.prepare(TWO, {"first": {"from": "x", "to": "y", **EDGE, "delivery": "durable"}})
        await mesh.activate("a", "b")
        await mesh.emit(1)
        host = mesh.hosts["a"]
        assert not [ledger for ledger in host.ledgers() if "not_served" in ledger.dropped]
        await host.activate({"first": Serving(9, ("a/x",), "durable")})
        await mesh.emit(3)
        lost = [ledger for ledger in host.ledgers() if "not_served" in ledger.dropped]
        assert [(ledger.edge, ledger.lost, ledger.balanced) for ledger in lost] == [("first@9 x > nowhere", 3, True)]


async def test_a_notice_that_can_not_be_passed_on_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host process goes on with the next notice; what a sender has to tell goes out as its producer's event."""
    async with pair(tmp_path, "a", "b") as mesh:
        await mesh.prepare(TWO, {"first": {"from": "x", "to": "y", **EDGE, "delivery": "durable"}})
        await mesh.activate("a", "b")
        host, routed = mesh.hosts["a"], asyncio.Queue[tuple[str, str]]()

        async def route(cell: Work, batch: Batch) -> None:
            if batch.kind.type == "mesh.first":
                raise ValueError("can not be encoded")
            routed.put_nowait((cell.name, batch.kind.type))

        monkeypatch.setattr(host, "route", route)
        running = asyncio.create_task(host.run())
        host.cells["x"].notice("first")
        sender = next(cell for cell in host.roster.everybody if cell.name == "x.first")
        sender.notice("edge_full")
        async with asyncio.timeout(10):
            assert await routed.get() == ("x", "mesh.edge_full")
        assert not running.done()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
