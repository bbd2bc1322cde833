"""The receiving side of a flow: what did not come is counted exactly, and an end loses nothing that has come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from eddy_mesh import codec, flows, receiving, subjects
from eddy_mesh.batch import Batch, Kind, Producer
from eddy_mesh.bus import Message, NoResponders
from eddy_mesh.bus_memory import MemoryBroker, MemoryBus
from eddy_mesh.cer import EventClass, Stage
from eddy_mesh.columns import Constant
from eddy_mesh.conservation import Ledger
from eddy_mesh.flows import ALL, EdgeEnd, Of
from eddy_mesh.receiving import FlowReceiver
from eddy_mesh.selection import compile_statement

PLAN = compile_statement("SELECT * FROM network", now_ns=0)
EDGE = Of(EdgeEnd(name="flows-to-archive", generation=2))
KIND = Kind(Stage.COOKED, EventClass.NETWORK, "netflow.v9")


class Producing:
    """A host process that publishes one flow."""

    def __init__(self, bus: MemoryBus, receiver: FlowReceiver) -> None:
        self._bus = bus
        self._subject = subjects.flow("eddy", receiver.lease.id)
        self.position = 0

    async def publish(self, count: int, *, lost: bool = False) -> None:
        """Publish one batch, or lose it on the way."""
        batch = Batch(KIND, "edge-1", Producer(1, 2), self.position, 0, count, {"host": Constant("a", count)})
        headers = flows.headers(batch, "edge-1", 7, self.position)
        self.position += count
        if not lost:
            await self._bus.publish(self._subject, codec.encode(batch), headers=headers)


@pytest.fixture
async def bus() -> AsyncIterator[MemoryBus]:
    """A bus in memory."""
    bus = MemoryBroker().connect()
    yield bus
    await bus.close()


def receiver_on(bus: MemoryBus, taken: list[int], of: Of) -> FlowReceiver:
    """A receiver that notes the size of each batch."""
    return FlowReceiver(bus, "eddy", PLAN, "hub/archive", lambda batch: taken.append(batch.count), Ledger("edge"), of)


@pytest.mark.parametrize(("of", "gap"), [(EDGE, 5), (ALL, 0)])
async def test_what_is_lost_before_the_first_message_counts_on_an_edge(bus: MemoryBus, of: Of, gap: int) -> None:
    """The flow of an edge begins with its receiver, so its first batches can be missed; any other is joined midway."""
    taken: list[int] = []
    receiver = receiver_on(bus, taken, of)
    await receiver.start(0.01)
    producing = Producing(bus, receiver)
    await producing.publish(5, lost=True)
    await producing.publish(3)
    await receiver.stop()
    assert taken == [3]
    assert receiver._ledger.dropped == ({"gap": gap} if gap else {})


async def test_the_fence_is_waited_for(bus: MemoryBus) -> None:
    """Who is told where the flow ended takes all up to there, and then ends."""
    taken: list[int] = []
    receiver = receiver_on(bus, taken, EDGE)
    await receiver.start(0.01)
    producing = Producing(bus, receiver)
    finishing = asyncio.create_task(receiver.finish({"edge-1": (7, 9)}, 5.0))
    for count in (4, 5):
        await asyncio.sleep(0)
        assert not finishing.done()
        await producing.publish(count)
    await finishing
    assert taken == [4, 5]
    assert not receiver._ledger.dropped


async def test_what_does_not_come_up_to_the_fence_is_a_gap(bus: MemoryBus) -> None:
    """The loss at the end of a flow is counted to the event, also of a host process that was never heard."""
    receiver = receiver_on(bus, [], EDGE)
    await receiver.start(0.01)
    producing = Producing(bus, receiver)
    await producing.publish(4)
    await producing.publish(5, lost=True)
    await receiver.finish({"edge-1": (7, 9), "edge-2": (8, 2)}, 0.01)
    assert receiver._ledger.dropped == {"gap": 7}


async def test_a_stop_waits_for_room_and_then_gives_up(bus: MemoryBus, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has come is delivered; where there is no room, the one who delivers is told to make an end."""
    monkeypatch.setattr(receiving, "DRAIN_S", 0.01)
    room, taken = asyncio.Event(), []

    async def deliver(batch: Batch) -> None:
        await room.wait()
        taken.append(batch.count)

    receiver = FlowReceiver(bus, "eddy", PLAN, "hub/archive", deliver, Ledger("edge"), of=EDGE, give_up=room.set)
    await receiver.start(0.01)
    producing = Producing(bus, receiver)
    await producing.publish(4)
    await producing.publish(5)
    await receiver.stop()
    assert taken == [4, 5]


async def test_what_is_lost_at_the_end_is_counted(bus: MemoryBus) -> None:
    """Who gives a lease back is told how much was sent, and counts what did not come."""

    async def answer(message: Message) -> None:
        told = {"host": "edge-1", "position": (7, 9 if message.subject.endswith(flows.UNSUBSCRIBE) else 0)}
        await bus.publish(message.reply, msgspec.json.encode(told))

    for verb in (flows.SUBSCRIBE, flows.UNSUBSCRIBE):
        await bus.subscribe(subjects.control_all("eddy", verb), answer)
    receiver = receiver_on(bus, [], ALL)
    await receiver.start(0.05)
    producing = Producing(bus, receiver)
    await producing.publish(4)
    await producing.publish(5, lost=True)
    assert await receiver.stop()
    assert receiver._ledger.dropped == {"gap": 5}


async def test_what_can_not_be_taken_is_counted_and_not_waited_for(bus: MemoryBus) -> None:
    """A batch on which the one who takes it raises is lost, in the accounts too; the flow goes on to its fence."""
    taken: list[int] = []

    async def deliver(batch: Batch) -> None:
        if batch.count == 4:
            raise OSError(28, "no space left on device")
        taken.append(batch.count)

    receiver = FlowReceiver(bus, "eddy", PLAN, "hub/archive", deliver, Ledger("edge"), EDGE)
    await receiver.start(0.01)
    producing = Producing(bus, receiver)
    for count in (5, 4):
        await producing.publish(count)
    async with asyncio.timeout(5):
        await receiver.finish({"edge-1": (7, 9)}, 60.0)
    assert taken == [5]
    assert receiver._ledger.dropped == {"not_taken": 4}
    assert receiver._ledger.offered == 4  # the others are counted by who took them


async def test_a_lease_is_asked_again_at_once_when_the_server_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that was asked for comes before host processes know of it again; the record of leases may be lost too."""
    monkeypatch.setattr(receiving, "RENEW_S", 3600.0)
    broker = MemoryBroker()
    bus, asked = broker.connect(), asyncio.Event()
    receiver = receiver_on(bus, [], EDGE)
    await receiver.start(0.01)
    record = await bus.key_value(flows.bucket("eddy"), ttl_s=60, memory=True)
    put, tries = record.put, 0

    async def lost_with_the_server(key: str, value: bytes) -> int:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise NoResponders("there is no such bucket")
        return await put(key, value)

    monkeypatch.setattr(receiver._leases, "put", lost_with_the_server)
    await bus.subscribe(subjects.control_all("eddy", flows.SUBSCRIBE), lambda _: asked.set())
    broker.disconnect()
    broker.reconnect()
    async with asyncio.timeout(5):
        await asked.wait()
    assert tries == 2
    await receiver.stop()
    await bus.close()


async def test_a_gap_is_told_soon(bus: MemoryBus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks what became of a stopped subscriber does not wait for the next renewal."""
    monkeypatch.setattr(receiving, "RENEW_S", 3600.0)
    monkeypatch.setattr(receiving, "TELL_S", 0.01)
    receiver = receiver_on(bus, [], EDGE)
    await receiver.start(0.01)
    told: asyncio.Queue[int] = asyncio.Queue()
    await bus.subscribe(
        subjects.control_all("eddy", flows.SUBSCRIBE),
        lambda message: told.put_nowait(msgspec.json.decode(message.data, type=flows.Lease).gap),
    )
    producing = Producing(bus, receiver)
    await producing.publish(2)
    await producing.publish(5, lost=True)
    await producing.publish(2)
    async with asyncio.timeout(5):
        assert await told.get() == 5
    await receiver.stop()


async def test_no_more_hosts_are_held_than_there_can_be(bus: MemoryBus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody can answer a lease with any name."""
    monkeypatch.setattr(receiving, "MAX_HOSTS", 3)

    async def answer(message: Message) -> None:
        for number in range(10):
            await bus.publish(message.reply, msgspec.json.encode({"host": f"edge-{number}", "position": (7, 0)}))

    await bus.subscribe(subjects.control_all("eddy", flows.SUBSCRIBE), answer)
    receiver = receiver_on(bus, [], EDGE)
    await receiver.start(0.05)
    assert len(receiver.hosts) == len(receiver._positions) == 3
    await receiver.stop()


@pytest.mark.parametrize(("of", "gap"), [(EDGE, 2), (ALL, 0)])
async def test_the_next_life_of_a_host_begins_its_flow_of_an_edge_anew(bus: MemoryBus, of: Of, gap: int) -> None:
    """What a host process made since it came back and that did not arrive is a gap; any other flow is joined midway."""
    receiver = receiver_on(bus, [], of)
    await receiver.start(0.01)
    producing = Producing(bus, receiver)
    await producing.publish(5)
    for epoch, position in ((8, 2), (8, 3)):
        batch = Batch(KIND, "edge-1", Producer(1, 2), position, 0, 1, {"host": Constant("a", 1)})
        headers = flows.headers(batch, "edge-1", epoch, position)
        await bus.publish(subjects.flow("eddy", receiver.lease.id), codec.encode(batch), headers=headers)
    await receiver.stop()
    assert receiver._ledger.dropped == ({"gap": gap} if gap else {})


async def test_an_end_without_fences_is_where_the_flow_stood_when_its_lease_ended(bus: MemoryBus) -> None:
    """Whoever ends while the edge goes on, because its agent is replaced, counts what it was sent and did not get."""

    async def answer(message: Message) -> None:
        told = {"host": "edge-1", "position": (7, 9 if message.subject.endswith(flows.UNSUBSCRIBE) else 0)}
        await bus.publish(message.reply, msgspec.json.encode(told))

    for verb in (flows.SUBSCRIBE, flows.UNSUBSCRIBE):
        await bus.subscribe(subjects.control_all("eddy", verb), answer)
    receiver = receiver_on(bus, [], EDGE)
    await receiver.start(0.05)
    producing = Producing(bus, receiver)
    await producing.publish(4)
    await producing.publish(5, lost=True)
    await receiver.finish({}, 5.0)
    assert receiver._ledger.dropped == {"gap": 5}
