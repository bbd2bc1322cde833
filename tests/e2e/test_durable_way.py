"""From one durable edge to the next: the stream before an agent has an event until the stream behind it has it too."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from eddy_mesh import subjects
from eddy_mesh.agent import draft_of
from eddy_mesh.batch import Kind
from eddy_mesh.bus_memory import MemoryBroker
from eddy_mesh.cer import EventClass, Stage
from eddy_mesh.config import HostConfig, Serving, convert
from eddy_mesh.runtime.host import Host
from eddy_mesh.topology.checks import checked
from eddy_mesh.topology.placement import HostThere, place

pytestmark = pytest.mark.e2e

KIND = Kind(Stage.COOKED, EventClass.NETWORK, "netflow.v9")
PASS = {"type": "transformer", "cooking": "split", "host": "a"}
MANIFEST = {
    "hosts": {"a": {}},
    "agents": {"x": {**PASS, "subscribe": ["SELECT * FROM system.never"]}, "y": PASS, "z": PASS},
    "edges": {
        "first": {"from": "x", "to": "y", "delivery": "durable", "statement": "SELECT *"},
        "second": {"from": "y", "to": "z", "delivery": "durable", "statement": "SELECT *"},
    },
}


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

    async def held(edge: str) -> int:
        status = await bus.stream_status(subjects.edge_stream("eddy", edge))
        return status.messages if status is not None else 0

    host = Host(convert({"name": "a"}, HostConfig, "test"), bus, tmp_path)
    await host.start()
    placement = place(checked(dict(MANIFEST), "test"), [HostThere(name="a")])
    edges = {name: Serving(edge.generation, edge.producers) for name, edge in placement.edges.items()}
    await host.prepare({name: msgspec.to_builtins(agent) for name, agent in placement.hosts["a"].agents.items()})
    await host.activate(edges)
    host.settle(edges)
    await host.cells["x"].emit(draft_of(KIND, [{"source.port": 1}]))
    async with asyncio.timeout(15):
        await is_waiting.wait()
        for _ in range(40):  # longer than a group of acknowledgements gathers
            await asyncio.sleep(0.02)
            assert await held("first") == 1
        may_store.set()
        while await held("first") or await held("second"):  # noqa: ASYNC110  # streams tell nobody
            await asyncio.sleep(0.02)
    await host.stop()
    await bus.close()
