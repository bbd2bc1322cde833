"""From one durable edge to the next: the stream before an agent has an event until the stream behind it has it too."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from eddy_mesh import subjects
from eddy_mesh.actor.cell import Cell
from eddy_mesh.agent import Result, draft_of
from eddy_mesh.batch import Batch, Kind
from eddy_mesh.bus import Bus, StreamFull
from eddy_mesh.bus_memory import MemoryBroker
from eddy_mesh.cer import EventClass, Stage
from eddy_mesh.commands import Command
from eddy_mesh.config import HostConfig, Serving, convert
from eddy_mesh.runtime.host import Host
from eddy_mesh.topology.checks import checked
from eddy_mesh.topology.placement import HostThere, Placement, place

pytestmark = pytest.mark.e2e

KIND = Kind(Stage.COOKED, EventClass.NETWORK, "netflow.v9")
PASS = {"type": "transformer", "cooking": "split", "host": "a"}
SOURCE = {**PASS, "subscribe": ["SELECT * FROM system.never"]}
FIRST = {"from": "x", "to": "y", "delivery": "durable", "statement": "SELECT *"}
CHAIN: dict[str, object] = {
    "hosts": {"a": {}},
    "agents": {"x": SOURCE, "y": PASS, "z": PASS},
    "edges": {"first": FIRST, "second": {**FIRST, "from": "y", "to": "z"}},
}


def spooling(overload: str) -> dict[str, object]:
    """Return the manifest of the first edge alone, with a policy."""
    return {**CHAIN, "agents": {"x": SOURCE, "y": PASS}, "edges": {"first": {**FIRST, "overload": overload}}}


async def held(bus: Bus, edge: str) -> int:
    """Return how many messages wait in the stream of an edge."""
    status = await bus.stream_status(subjects.edge_stream("eddy", edge))
    return status.messages if status is not None else 0


def spooled(folder: Path) -> int:
    """Return how many batches are on disk below a folder."""
    return len(list(folder.rglob("*.batch")))


async def changed(host: Host, manifest: dict[str, object], revision: int = 1) -> Host:
    """Return a host process, started where it was not, that runs a manifest."""
    if not host.cells:
        await host.start()
    placement = place(checked(manifest, "test"), [HostThere(name="a")], Placement(revision=revision - 1))
    edges = {name: Serving(edge.generation, edge.producers, edge.delivery) for name, edge in placement.edges.items()}
    await host.prepare({name: msgspec.to_builtins(agent) for name, agent in placement.hosts["a"].agents.items()})
    await host.activate(edges)
    await host.settle(edges)
    return host


async def test_nothing_is_acknowledged_before_it_is_stored_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent has handled events, and what it made of them waits: killed now, it must be given them again."""
    bus = MemoryBroker().connect()
    publish, may_store, is_waiting = bus.publish_durable, asyncio.Event(), asyncio.Event()

    async def slowly(subject: str, data: bytes, **how: object) -> object:
        if ".second." in subject:
            is_waiting.set()
            await may_store.wait()
        return await publish(subject, data, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(bus, "publish_durable", slowly)
    host = await changed(Host(convert({"name": "a"}, HostConfig, "test"), bus, tmp_path), CHAIN)
    await host.cells["x"].emit(draft_of(KIND, [{"source.port": 1}]))
    async with asyncio.timeout(15):
        await is_waiting.wait()
        for _ in range(40):  # longer than a group of acknowledgements gathers
            await asyncio.sleep(0.02)
            assert await held(bus, "first") == 1
        may_store.set()
        while await held(bus, "first") or await held(bus, "second"):  # noqa: ASYNC110  # streams tell nobody
            await asyncio.sleep(0.02)
    await host.stop()
    await bus.close()


async def test_what_could_not_be_sent_waits_on_disk_for_the_next_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A durable edge with policy ``spool`` keeps what the stream does not take, even where its policy changes then."""
    broker = MemoryBroker()
    bus = broker.connect()

    async def refused(*_: object, **__: object) -> object:
        raise StreamFull("full")

    monkeypatch.setattr(bus, "publish_durable", refused)
    host = await changed(Host(convert({"name": "a"}, HostConfig, "test"), bus, tmp_path), spooling("spool"))
    for port in (1, 2):
        await host.cells["x"].emit(draft_of(KIND, [{"source.port": port}]))
    await host.stop()
    assert spooled(tmp_path) == 2
    await bus.close()

    bus = broker.connect()
    host = await changed(Host(convert({"name": "a"}, HostConfig, "test"), bus, tmp_path), spooling("block"), revision=2)
    async with asyncio.timeout(15):
        while host.cells["y"].edges[0].ledger.out < 2:  # noqa: ASYNC110  # ledgers tell nobody
            await asyncio.sleep(0.02)
    await host.stop()
    assert not spooled(tmp_path)
    await bus.close()


class Halting:
    """An agent that handles so many batches and does not answer to the next."""

    def __init__(self, batches: int) -> None:
        self._left = batches

    def on_batch(self, batch: Batch, now_ns: int) -> Result | asyncio.Future[Result]:
        """Answer or not."""
        self._left -= 1
        return Result() if self._left >= 0 else asyncio.get_running_loop().create_future()

    def on_tick(self, now_ns: int) -> Result:
        """Do nothing."""
        return Result()


async def halting(cell: Cell, batches: int) -> None:
    """Let an agent handle so many batches and then no more."""
    cell.build = lambda: Halting(batches)  # type: ignore[assignment, return-value]  # waits longer than one may
    await cell.command(Command.RELOAD)


async def test_a_stopped_agent_is_given_only_what_it_had_not_handled(tmp_path: Path) -> None:
    """What it passed on before does not come again, and what comes again is not counted as lost."""
    bus = MemoryBroker().connect()
    host = await changed(Host(convert({"name": "a"}, HostConfig, "test"), bus, tmp_path), spooling("block"))
    cell = host.cells["y"]
    build, ledger = cell.build, cell.edges[0].ledger
    await halting(cell, 1)
    for port in (1, 2):
        await host.cells["x"].emit(draft_of(KIND, [{"source.port": port}]))
    async with asyncio.timeout(15):
        while (ledger.offered, ledger.out) != (2, 1):  # noqa: ASYNC110  # ledgers tell nobody
            await asyncio.sleep(0.02)
        await cell.command(Command.STOP)
        cell.build = build
        await cell.command(Command.RESUME)
        while await held(bus, "first"):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert (ledger.offered, ledger.out, ledger.lost, ledger.balanced) == (2, 2, 0, True)
    await host.stop()
    await bus.close()


async def test_a_full_stream_does_not_hold_up_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The producer has gone; what waits for the stream is sent when there is room, and only then its sender ends."""
    monkeypatch.setattr("eddy_mesh.runtime.roster.RETIRE_S", 0.05)
    bus = MemoryBroker().connect()
    publish, has_room = bus.publish_durable, False

    async def refused(*asked: object, **how: object) -> object:
        if not has_room:
            raise StreamFull("full")
        return await publish(*asked, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(bus, "publish_durable", refused)
    host = await changed(Host(convert({"name": "a"}, HostConfig, "test"), bus, tmp_path), spooling("block"))
    await host.cells["x"].emit(draft_of(KIND, [{"source.port": 1}]))
    y = msgspec.to_builtins(host.agents["y"])
    await host.prepare({"y": y})
    await host.retire("x", {})
    assert [cell.name for cell in host.roster.everybody] == ["y", "x.first"]
    has_room = True
    async with asyncio.timeout(15):
        while not host.cells["y"].edges[0].ledger.out:  # noqa: ASYNC110  # ledgers tell nobody
            await asyncio.sleep(0.02)
    edges = {"first": Serving(1, ("b/x",), "durable")}
    await host.settle(edges)
    assert [cell.name for cell in host.roster.everybody] == ["y"]
    await host.stop()
    await bus.close()


async def test_a_drain_that_is_broken_off_leaves_spools_whole(tmp_path: Path) -> None:
    """An end that does not finish keeps those behind it from finishing, not from putting what waits on disk."""
    bus = MemoryBroker().connect()
    host = Host(convert({"name": "a"}, HostConfig, "test"), bus, tmp_path)
    spool = {"from": "z", "to": "y", "overload": "spool", "statement": "SELECT *"}
    both: dict[str, object] = {
        "hosts": {"a": {}},
        "agents": {"x": SOURCE, "z": SOURCE, "y": PASS},
        "edges": {"durable": FIRST, "live": spool},
    }
    await changed(host, both)
    await halting(host.cells["y"], 0)
    await host.cells["x"].emit(draft_of(KIND, [{"source.port": 1}]))
    async with asyncio.timeout(15):
        while not sum(edge.ledger.queued for edge in host.cells["y"].edges):  # noqa: ASYNC110  # ledgers tell nobody
            await asyncio.sleep(0.02)
    await host.cells["z"].emit(draft_of(KIND, [{"source.port": 2}]))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await host.drain()
    await host.stop()
    assert spooled(tmp_path) == 1
    assert await held(bus, "durable") == 1
    await bus.close()
