"""What every bus must do; the same suite for memory and for a real nats-server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

import pytest

from eddy_mesh.bus import (
    Message,
    NoResponders,
    RequestTimeout,
)
from eddy_mesh.errors import BusError

if TYPE_CHECKING:
    from eddy_mesh.bus import Bus


class Broker(Protocol):
    """What a test may do to the other end of the bus; see conftest."""

    async def connect(self) -> Bus:
        """Return a new client."""

    async def go_away(self) -> None:
        """Take the server away."""

    async def come_back(self) -> None:
        """Bring the server back, with its streams and buckets."""


class Inbox:
    """A callback that keeps what it gets and can be waited for."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[Message] = asyncio.Queue()

    def __call__(self, message: Message) -> None:
        """Keep it."""
        self.messages.put_nowait(message)

    async def next(self) -> Message:
        """Return the next message."""
        async with asyncio.timeout(5):
            return await self.messages.get()

    async def take(self, count: int) -> list[bytes]:
        """Return the next payloads."""
        return [(await self.next()).data for _ in range(count)]


async def settled(bus: Bus) -> None:
    """Return when what was published before has reached the callbacks of the same client."""
    inbox = Inbox()
    subscription = await bus.subscribe("settled", inbox)
    await bus.publish("settled", b"")
    await inbox.next()
    await subscription.unsubscribe()


# ---------------------------------------------------------------------------------------------- messages


@pytest.mark.parametrize(
    ("pattern", "subject", "expected"),
    [
        ("a.b", "a.b", True),
        ("a.b", "a.b.c", False),
        ("a.*.c", "a.b.c", True),
        ("a.*", "a.b.c", False),
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        (">", "a.b.c", True),
        ("*.b.>", "a.b.c.d", True),
    ],
)
async def test_wildcards(bus: Bus, pattern: str, subject: str, expected: bool) -> None:
    """A star stands for one token and a last angle bracket for one or more."""
    inbox = Inbox()
    await bus.subscribe(pattern, inbox)
    await bus.publish(subject, b"x")
    await settled(bus)
    found = [inbox.messages.get_nowait().subject for _ in range(inbox.messages.qsize())]
    assert (subject in found) is expected


async def test_message_arrives_whole(bus: Bus) -> None:
    """Subject, payload, headers and reply arrive as they were published."""
    inbox = Inbox()
    await bus.subscribe("eddy.*", inbox)
    await bus.publish("eddy.one", b"\x00\xff", headers={"Count": "2", "Text": "größe"}, reply="answer.here")
    assert await inbox.next() == Message("eddy.one", b"\x00\xff", {"Count": "2", "Text": "größe"}, "answer.here")


async def test_order_of_one_subscription(bus: Bus) -> None:
    """Callbacks of one subscription run one after the other in the order of publication, also when they wait."""
    order: list[bytes] = []
    running = 0

    async def receive(message: Message) -> None:
        nonlocal running
        running += 1
        assert running == 1
        await asyncio.sleep(0)
        order.append(message.data)
        running -= 1

    subscription = await bus.subscribe("order", receive)
    expected = [str(number).encode() for number in range(500)]
    for data in expected:
        await bus.publish("order", data)
    await bus.flush()
    await subscription.drain()
    assert order == expected


async def test_queue_group_shares(broker: Broker) -> None:
    """Each message goes to exactly one member of a queue group, and to everybody outside of it."""
    one, two = await broker.connect(), await broker.connect()
    inboxes = [Inbox(), Inbox(), Inbox()]
    await one.subscribe("work", inboxes[0], queue="team")
    await two.subscribe("work", inboxes[1], queue="team")
    await two.subscribe("work", inboxes[2])
    await one.flush()
    await two.flush()
    for number in range(100):
        await one.publish("work", str(number).encode())
    await inboxes[2].take(100)
    await settled(one)
    await settled(two)
    assert inboxes[0].messages.qsize() + inboxes[1].messages.qsize() == 100
    assert inboxes[0].messages.qsize() > 0
    assert inboxes[1].messages.qsize() > 0


async def test_large_payload(bus: Bus) -> None:
    """A batch of 512 KiB passes unchanged, and many of them one after the other."""
    inbox = Inbox()
    await bus.subscribe("batch", inbox)
    batches = [bytes([number]) * 524_288 for number in range(20)]
    for batch in batches:
        await bus.publish("batch", batch)
    assert await inbox.take(20) == batches


async def test_too_large_payload_is_refused(bus: Bus) -> None:
    """A payload over the server's limit is refused where it is published, for good."""
    with pytest.raises(BusError) as caught:
        await bus.publish("batch", bytes(bus.max_payload + 1))
    assert not caught.value.retryable


@pytest.mark.parametrize("subject", ["", "a b", "a\r\nPUB x 0"])
async def test_bad_subject_is_refused(bus: Bus, subject: str) -> None:
    """A subject that would break the wire protocol is refused."""
    with pytest.raises(BusError, match="invalid subject"):
        await bus.publish(subject, b"")


@pytest.mark.parametrize("pattern", ["", "a..b", "a.>.b", "a*", "a.b>"])
async def test_bad_wildcard_is_refused(bus: Bus, pattern: str) -> None:
    """A wildcard that no server takes is refused where it is subscribed."""
    with pytest.raises(BusError, match="invalid subject"):
        await bus.subscribe(pattern, Inbox())


async def test_failing_callback_is_counted_and_told(bus: Bus) -> None:
    """A callback that raises does not end its subscription; it is counted and told."""
    told: list[str] = []
    bus.on_state(lambda state, text: told.append(f"{state.value}: {text}"))
    inbox = Inbox()

    def receive(message: Message) -> None:
        if message.data == b"bad":
            raise ValueError("bad one")
        inbox(message)

    await bus.subscribe("cb", receive)
    await bus.publish("cb", b"bad")
    await bus.publish("cb", b"good")
    assert (await inbox.next()).data == b"good"
    assert bus.stats.errors["receive"] == 1
    assert "bad one" in told[0]


async def test_slow_consumer_counts_every_loss(bus: Bus) -> None:
    """What a full subscription throws away is counted to the message; the rest arrives in order."""
    gate = asyncio.Event()
    order: list[bytes] = []

    async def receive(message: Message) -> None:
        await gate.wait()
        order.append(message.data)

    subscription = await bus.subscribe("slow", receive, pending_messages=10)
    for number in range(100):
        await bus.publish("slow", str(number).encode())
    await settled(bus)
    waiting = subscription.pending
    gate.set()
    await subscription.drain()
    assert 9 <= waiting <= 10  # one may be with the callback
    assert len(order) + subscription.dropped == 100
    assert bus.stats.errors["slow_consumer"] == subscription.dropped > 0
    assert order == sorted(order, key=int)


async def test_unsubscribed_gets_nothing(bus: Bus) -> None:
    """After unsubscribe nothing is delivered, and a second unsubscribe is no error."""
    inbox = Inbox()
    subscription = await bus.subscribe("gone", inbox)
    await subscription.unsubscribe()
    await subscription.unsubscribe()
    await bus.publish("gone", b"")
    await settled(bus)
    assert inbox.messages.empty()


# ---------------------------------------------------------------------------------------------- requests


async def answer(bus: Bus, subject: str, data: bytes) -> None:
    async def receive(message: Message) -> None:
        await bus.publish(message.reply, data + message.data)

    await bus.subscribe(subject, receive)
    await bus.flush()


async def test_request_is_answered(broker: Broker) -> None:
    """A request of one client is answered by another."""
    asking, answering = await broker.connect(), await broker.connect()
    await answer(answering, "echo", b"re: ")
    assert (await asking.request("echo", b"hello", timeout_s=5)).data == b"re: hello"


async def test_request_without_responders(bus: Bus) -> None:
    """A request that nobody listens to fails at once, as no responders and not as a time-out."""
    with pytest.raises(NoResponders):
        await bus.request("nobody", b"", timeout_s=20)


async def test_request_times_out(bus: Bus) -> None:
    """A request that is taken but not answered fails as a time-out."""
    await bus.subscribe("silent", Inbox())
    with pytest.raises(RequestTimeout):
        await bus.request("silent", b"", timeout_s=0.05)


async def test_cancelled_request_leaves_the_bus_usable(bus: Bus) -> None:
    """A request that is cancelled while it waits leaves nothing behind that disturbs the next one."""
    inbox = Inbox()
    await bus.subscribe("held", inbox)
    await answer(bus, "echo", b"")
    waiting = asyncio.create_task(bus.request("held", b"", timeout_s=20))
    late = await inbox.next()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await bus.publish(late.reply, b"too late")
    assert (await bus.request("echo", b"next", timeout_s=5)).data == b"next"


async def test_many_requests_at_once(bus: Bus) -> None:
    """Answers find their requests when many are under way."""
    await answer(bus, "echo", b"")
    answers = await asyncio.gather(*(bus.request("echo", str(n).encode(), timeout_s=5) for n in range(200)))
    assert [int(found.data) for found in answers] == list(range(200))


async def test_gather_collects_everybody(broker: Broker) -> None:
    """One question collects the answers of everybody who listens."""
    asking = await broker.connect()
    for name in (b"a", b"b", b"c"):
        await answer(await broker.connect(), "who", name)
    found = await asking.gather("who", b"", timeout_s=5, at_most=3)
    assert sorted(message.data for message in found) == [b"a", b"b", b"c"]


async def test_gather_ends_when_it_is_quiet(bus: Bus) -> None:
    """Without a known number of answers, gathering ends when none came for a while."""
    await answer(bus, "who", b"a")
    found = await bus.gather("who", b"", timeout_s=20, idle_s=0.05)
    assert [message.data for message in found] == [b"a"]


async def test_gather_of_nobody_is_empty(bus: Bus) -> None:
    """A question that nobody listens to gathers an empty list at once."""
    assert await bus.gather("nobody", b"", timeout_s=20) == []


# ---------------------------------------------------------------------------------------------- server away


async def test_drain_handles_what_waits(bus: Bus) -> None:
    """Drain runs the callbacks of everything that has arrived, then closes."""
    order: list[bytes] = []

    async def receive(message: Message) -> None:
        await asyncio.sleep(0)
        order.append(message.data)

    await bus.subscribe("last", receive)
    for number in range(50):
        await bus.publish("last", str(number).encode())
    await bus.drain()
    assert len(order) == 50
    assert not bus.connected


async def test_closed_bus_says_so(bus: Bus) -> None:
    """A closed bus refuses work with an error that will not go away, and closes twice without one."""
    await bus.close()
    await bus.close()
    for doing in (bus.publish("a", b""), bus.subscribe("a", Inbox()), bus.flush()):
        with pytest.raises(BusError):
            await doing
