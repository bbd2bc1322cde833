"""The receiving side of a flow: what did not come is counted exactly, and an end loses nothing that has come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from eddy_mesh import codec, flows, subjects
from eddy_mesh.batch import Batch, Kind, Producer
from eddy_mesh.bus import Message
from eddy_mesh.bus_memory import MemoryBroker, MemoryBus
from eddy_mesh.cer import EventClass, Stage
from eddy_mesh.columns import Constant
from eddy_mesh.conservation import Ledger
from eddy_mesh.flows import ALL, EdgeEnd, FlowReceiver, Of
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
    monkeypatch.setattr(flows, "DRAIN_S", 0.01)
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
