"""Settling: input is acknowledged, and a checkpoint written, when the output is safe; also while edges change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest

from eddy_mesh import subjects
from eddy_mesh.agent import draft_of
from eddy_mesh.batch import Kind
from eddy_mesh.bus import DurableConsumer
from eddy_mesh.bus_memory import MemoryBroker, MemoryBus
from eddy_mesh.cer import EventClass, Stage
from eddy_mesh.config import HostConfig, convert
from eddy_mesh.errors import BusError
from eddy_mesh.runtime import router
from eddy_mesh.runtime.durable import end
from eddy_mesh.runtime.host import Host
from eddy_mesh.topology import steps
from eddy_mesh.topology.checks import checked
from eddy_mesh.topology.placement import HostThere, Placement, place

KIND = Kind(Stage.COOKED, EventClass.NETWORK, "netflow.v9")
PASS = {"type": "transformer", "cooking": "split", "host": "a"}
SOURCE = {**PASS, "subscribe": ["SELECT * FROM system.never"]}
EDGE = {"statement": "SELECT *"}
DURABLE = {**EDGE, "delivery": "durable"}
ROW = {"source.port": 1}
BOTH: dict[str, object] = {"x": SOURCE, "s": SOURCE, "b": PASS, "c": PASS}
KEEP: dict[str, object] = {"keep-b": {"from": "s", "to": "b", **EDGE}, "keep-c": {"from": "s", "to": "c", **EDGE}}
MANY_TURNS = 200


class Mesh:
    """A host process and the steps of a revision."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._placement = Placement()

    async def apply(self, agents: dict[str, object], edges: dict[str, object], *, retire: str = "") -> None:
        """Carry out a revision; then the old ends of one agent are retired."""
        manifest = checked({"hosts": {"a": {}}, "agents": agents, "edges": edges}, "test")
        self._placement = place(manifest, [HostThere(name="a")], self._placement)
        tables = {name: msgspec.to_builtins(agent) for name, agent in self._placement.hosts["a"].agents.items()}
        await self.host.prepare(tables)
        await self.host.activate(steps.servings(self._placement))
        if retire:
            await self.host.retire(retire, {})
        else:
            await self.host.settle(steps.servings(self._placement))

    async def emit(self, agent: str) -> None:
        """Let an agent make one event."""
        await self.host.cells[agent].emit(draft_of(KIND, [ROW]))


@pytest.fixture
async def bus() -> AsyncIterator[MemoryBus]:
    """A bus in memory."""
    bus = MemoryBroker().connect()
    yield bus
    await bus.close()


@pytest.fixture
async def mesh(bus: MemoryBus, tmp_path: Path) -> AsyncIterator[Mesh]:
    """A host process without agents."""
    host = Host(convert({"name": "a"}, HostConfig, "test"), bus, tmp_path, now_ns=lambda: 10**18)
    await host.start()
    yield Mesh(host)
    await host.stop()


async def turns() -> None:
    """Let everything happen that waits for nothing but its turn."""
    for _ in range(MANY_TURNS):
        await asyncio.sleep(0)


async def test_another_edge_of_the_process_does_not_make_forget_what_waits(
    mesh: Mesh, bus: MemoryBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an agent made waits to be stored; a change of somebody else's edges must not settle it."""
    publish, may_store, is_waiting = bus.publish_durable, asyncio.Event(), asyncio.Event()

    async def slowly(subject: str, data: bytes, **how: object) -> object:
        if ".second." in subject:
            is_waiting.set()
            await may_store.wait()
        return await publish(subject, data, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(bus, "publish_durable", slowly)
    agents: dict[str, object] = {"x": SOURCE, "y": PASS, "z": PASS}
    edges: dict[str, object] = {
        "first": {"from": "x", "to": "y", **DURABLE},
        "second": {"from": "y", "to": "z", **DURABLE},
    }
    await mesh.apply(agents, edges)
    await mesh.emit("x")
    async with asyncio.timeout(10):
        await is_waiting.wait()
    await mesh.apply({**agents, "w": PASS}, {**edges, "third": {"from": "x", "to": "w", **EDGE}})
    settled = asyncio.create_task(mesh.host.cells["y"].settled())
    await turns()
    assert not settled.done()
    status = await bus.stream_status(subjects.edge_stream("eddy", "first"))
    assert status is not None
    assert status.messages == 1  # not acknowledged
    may_store.set()
    async with asyncio.timeout(10):
        await settled


async def rewired(mesh: Mesh) -> asyncio.Task[None]:
    """Let x, which fed b, feed c, while b is paused and an event of x waits for it; return x's settling."""
    await mesh.apply(BOTH, {**KEEP, "edge": {"from": "x", "to": "b", **EDGE}})
    await mesh.host.command("b", "pause", {})
    await mesh.emit("x")
    await mesh.apply(BOTH, {**KEEP, "edge": {"from": "x", "to": "c", **EDGE}}, retire="b")
    await mesh.emit("x")
    return asyncio.create_task(mesh.host.cells["x"].settled())


async def test_what_waits_at_the_end_of_an_old_edge_is_waited_for(mesh: Mesh) -> None:
    """An edge that leads elsewhere now still has to hand over what it took before."""
    settled = await rewired(mesh)
    await turns()
    assert not settled.done()
    await mesh.host.command("b", "resume", {})
    async with asyncio.timeout(10):
        await settled


async def test_what_an_old_edge_handed_over_is_settled_once(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent at the end of an old edge makes what it took safe; then nobody waits for it again."""
    settled = await rewired(mesh)
    old, asked, may_settle = mesh.host.cells["b"], asyncio.Event(), asyncio.Event()

    async def slowly() -> None:
        asked.set()
        await may_settle.wait()

    monkeypatch.setattr(old, "settle", slowly)
    await mesh.host.command("b", "resume", {})
    async with asyncio.timeout(10):
        await asked.wait()
        assert not settled.done()
        settled.cancel()
        again = asyncio.create_task(mesh.host.cells["x"].settled())
        await turns()
        assert not again.done()  # the one before was broken off
        may_settle.set()
        await again
    assert old not in [cell for _, cell in mesh.host.downstream(mesh.host.cells["x"])]


async def test_an_agent_that_comes_again_is_not_taken_for_the_one_before(mesh: Mesh) -> None:
    """Both have one name; what the new one was handed is waited for."""
    agents: dict[str, object] = {"x": SOURCE, "b": PASS, "c": PASS}
    edge = {"from": "x", "to": "b", **EDGE}
    keep: dict[str, object] = {"keep-c": {"from": "x", "to": "c", **EDGE}}
    await mesh.apply(agents, {**keep, "edge": edge})
    await mesh.emit("x")
    await turns()
    old = mesh.host.cells["b"]
    await mesh.apply({"x": SOURCE, "c": PASS}, keep, retire="b")
    await mesh.apply(agents, {**keep, "edge": edge})
    assert mesh.host.cells["b"] is not old
    await mesh.host.command("b", "pause", {})
    await mesh.emit("x")
    settled = asyncio.create_task(mesh.host.cells["x"].settled())
    await turns()
    assert not settled.done()
    await mesh.host.command("b", "resume", {})
    async with asyncio.timeout(10):
        await settled


async def test_an_agent_that_has_ended_keeps_nobody_waiting(mesh: Mesh) -> None:
    """What is in the spool of an agent that has ended comes in its next life; nothing waits for that."""
    spooled = {**EDGE, "overload": "spool"}
    agents: dict[str, object] = {"x": SOURCE, "b": PASS}
    await mesh.apply(agents, {"edge": {"from": "x", "to": "b", **spooled}})
    await mesh.host.command("b", "stop", {})
    await mesh.emit("x")
    settled = asyncio.create_task(mesh.host.cells["x"].settled())
    await turns()
    assert not settled.done()
    async with asyncio.timeout(10):
        await mesh.host.drain()
        await settled


async def test_old_edges_that_nobody_settles_are_not_kept_for_ever(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """A producer without checkpoints remembers a bounded number of old edges."""
    monkeypatch.setattr(router, "MAX_THROUGH", 3)
    for number in range(6):
        old, new = ("b", "c") if number % 2 else ("c", "b")
        await mesh.apply(BOTH, {**KEEP, "edge": {"from": "x", "to": new, **EDGE}}, retire=old)
        await mesh.emit("x")
        await turns()
    assert len(mesh.host.downstream(mesh.host.cells["x"])) == 3 + 1


@pytest.mark.parametrize("how", ["drain", "stop"])
async def test_the_end_of_a_host_process_acknowledges_nothing_that_it_drops(
    mesh: Mesh, bus: MemoryBus, how: str
) -> None:
    """An agent ends after those that feed it, whatever their names and types: what it was given it has handled."""
    agents: dict[str, object] = {"b": PASS, "s": SOURCE, "x": PASS}
    edges: dict[str, object] = {"in": {"from": "s", "to": "x", **DURABLE}, "on": {"from": "x", "to": "b", **EDGE}}
    await mesh.apply(agents, edges)
    edge = next(edge for edge in mesh.host.cells["b"].edges if edge.ledger.edge.startswith("on@"))
    for _ in range(3):
        await mesh.emit("s")
    async with asyncio.timeout(10):
        while not edge.ledger.out:  # noqa: ASYNC110  # ledgers tell nobody
            await asyncio.sleep(0.01)
        for _ in range(20):
            await mesh.emit("s")
        await getattr(mesh.host, how)()
    status = await bus.stream_status(subjects.edge_stream("eddy", "in"))
    assert status is not None
    assert edge.ledger.out + status.messages >= 23
    assert not edge.ledger.dropped


async def test_what_a_durable_edge_waits_for_is_in_the_status_of_its_agent(
    mesh: Mesh, bus: MemoryBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator sees it as the remark of the agent, beside what is in hand; gone, it is seen no more."""
    consume = bus.consume

    async def refused(stream: str, *rest: object, **more: object) -> DurableConsumer:
        raise BusError(f"no room for {stream}")

    monkeypatch.setattr(bus, "consume", refused)
    await mesh.apply({"s": SOURCE, "b": PASS}, {"kept": {"from": "s", "to": "b", **DURABLE}})
    await until(lambda: "no room" in str(mesh.host.cells["b"].status()["reason"]))
    (told,) = durable_ends(mesh)
    assert told["edge"] == "kept"
    assert "no room" in str(told["problem"])
    assert (told["in_hand"], told["repeats"]) == (0, 0)
    monkeypatch.setattr(bus, "consume", consume)
    await mesh.emit("s")
    await until(lambda: durable_ends(mesh)[0]["acknowledged"] == 1)
    assert durable_ends(mesh)[0]["problem"] == mesh.host.cells["b"].status()["reason"] == ""
    await mesh.apply({"s": SOURCE, "b": SOURCE}, {}, retire="b")
    assert durable_ends(mesh) == []


async def test_an_agent_that_keeps_failing_is_told_of_once_for_each_reason(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its edge tries again and again; the operator is told when the reason changes, and when one comes back later."""
    monkeypatch.setattr(end, "RETRY_S", 0)
    await mesh.apply({"s": SOURCE, "b": PASS}, {"kept": {"from": "s", "to": "b", **DURABLE}})
    cell, reason, tries = mesh.host.cells["b"], "disk is broken", 0

    async def settled() -> None:
        nonlocal tries
        tries += 1
        if reason:
            raise OSError(reason)

    def told() -> list[str]:
        return [text for agent, text in mesh.host.recent_notices if agent == "b" and text.startswith("edge waits")]

    monkeypatch.setattr(cell, "settled", settled)
    await mesh.emit("s")
    await until(lambda: tries > 3)
    assert len(told()) == 1
    assert "disk is broken" in str(cell.status()["reason"])
    reason, tries = "disk is gone", 0
    await until(lambda: tries > 3)
    assert len(told()) == 2
    reason = ""
    await until(lambda: durable_ends(mesh)[0]["acknowledged"] == 1)
    reason, tries = "disk is gone", 0
    await mesh.emit("s")
    await until(lambda: tries > 3)
    assert ["broken" in text for text in told()] == [True, False, False]


def durable_ends(mesh: Mesh) -> list[dict[str, object]]:
    """Return what the heartbeat tells of the durable edges of agent b."""
    detail = mesh.host.cells["b"].status()["detail"]
    assert isinstance(detail, dict)
    ends = detail.get("durable_edges", [])
    assert isinstance(ends, list)
    return ends


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  # many conditions, no event for them
            await asyncio.sleep(0.01)
