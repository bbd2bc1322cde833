"""From one durable edge to the next: the stream before an agent has an event until the stream behind it has it too."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from eddy_mesh import subjects
from eddy_mesh.agent import draft_of
from eddy_mesh.batch import Kind
from eddy_mesh.bus import Bus, StreamFull
from eddy_mesh.bus_memory import MemoryBroker
from eddy_mesh.cer import EventClass, Stage
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
    edges = {name: Serving(edge.generation, edge.producers) for name, edge in placement.edges.items()}
    await host.prepare({name: msgspec.to_builtins(agent) for name, agent in placement.hosts["a"].agents.items()})
    await host.activate(edges)
    host.settle(edges)
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
