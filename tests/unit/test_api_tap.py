"""The end of a tap: who is waited for, and what is said of those who can not tell what they sent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

import msgspec
import pytest

from eddy_mesh import api, codec, flows, subjects
from eddy_mesh.api import Mesh
from eddy_mesh.batch import Kind, Producer
from eddy_mesh.bus import Message, Subscription
from eddy_mesh.bus_memory import MemoryBroker, MemoryBus
from eddy_mesh.cer import EventClass, Stage
from eddy_mesh.rows import batch_of

KIND = Kind(Stage.COOKED, EventClass.SYSTEM, "syslog")
EPOCH = 1_795_000_000


class Host:
    """A host process with one agent that gives out one event to whoever asks."""

    def __init__(self, bus: MemoryBus, name: str) -> None:
        self.bus = bus
        self.name = name
        self.subscriptions: list[Subscription] = []

    async def start(self) -> None:
        """Answer from now on."""
        answers = {subjects.controls_of("eddy", self.name): self._asked, subjects.controls_all("eddy"): self._asked}
        self.subscriptions = [await self.bus.subscribe(subject, answer) for subject, answer in answers.items()]

    async def stop(self) -> None:
        """End, in order or not: nobody has its subjects any more."""
        for subscription in self.subscriptions:
            await subscription.unsubscribe()

    async def _asked(self, message: Message) -> None:
        verb = message.subject.rsplit(".", 1)[-1]
        told: dict[str, object] = {"host": self.name, "agents": [{"agent": "cook"}], "position": (EPOCH, 0)}
        if verb == flows.UNSUBSCRIBE:
            told["position"] = (EPOCH, 1)
        if message.reply:
            await self.bus.publish(message.reply, msgspec.json.encode(told))
        if verb == flows.SUBSCRIBE:
            batch = batch_of(KIND, self.name, Producer(7, 100), 0, EPOCH * 1000, [{"message": self.name}])
            lease = msgspec.json.decode(message.data, type=flows.Lease)
            headers = flows.headers(batch, self.name, EPOCH, 0)
            await self.bus.publish(subjects.flow("eddy", lease.id), codec.encode(batch), headers=headers)


@pytest.fixture
async def bus() -> AsyncIterator[MemoryBus]:
    """A bus."""
    connected = MemoryBroker().connect()
    yield connected
    await connected.close()


@pytest.mark.parametrize("watch", ["", "cook:out"])
async def test_a_host_process_that_has_ended_is_not_waited_for(
    bus: MemoryBus, monkeypatch: pytest.MonkeyPatch, watch: str
) -> None:
    """The tap ends at once, and says that it is not sure; patience is for those who may come back."""
    monkeypatch.setattr(api, "RECONNECT_S", 1e6)
    stays, ends = Host(bus, "stays"), Host(bus, "ends")
    await stays.start()
    await ends.start()
    mesh = Mesh(bus, "eddy")
    async with aclosing(mesh.tap("SELECT *", watch=watch)) as events:
        assert {(await anext(events))["message"] for _ in range(2)} == {"stays", "ends"}
        await ends.stop()
    assert not mesh.is_sure
    assert mesh.ledger.lost == 0
