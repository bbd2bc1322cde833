"""Key-value buckets and durable streams: the same suite for memory and for a real nats-server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

import pytest

from eddy_mesh.bus import (
    BusState,
    ConsumerStatus,
    Entry,
    KeyOperation,
    Message,
    NoResponders,
    OutboundFull,
    RevisionConflict,
    StreamFull,
)
from eddy_mesh.errors import BusError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eddy_mesh.bus import Bus, DurableMessage


class Broker(Protocol):
    """What a test may do to the other end of the bus; see conftest."""

    async def connect(self) -> Bus:
        """Return a new client."""

    async def go_away(self) -> None:
        """Take the server away."""

    async def come_back(self) -> None:
        """Bring the server back, with its streams and buckets."""


async def settled(bus: Bus) -> None:
    """Return when what was published before has reached the callbacks of the same client."""
    inbox = Inbox()
    subscription = await bus.subscribe("settled", inbox)
    await bus.publish("settled", b"")
    await inbox.next()
    await subscription.unsubscribe()


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


# ---------------------------------------------------------------------------------------------- key-value


async def test_key_value_round_trip(bus: Bus) -> None:
    """What is put is found, with rising revisions and the time; what is not there is None."""
    bucket = await bus.key_value("config")
    first = await bucket.put("host.a", b"1")
    second = await bucket.put("host.b", b"2")
    found = await bucket.get("host.a")
    assert found is not None
    assert (found.key, found.value, found.revision) == ("host.a", b"1", first)
    assert found.created_ns > 1_600_000_000_000_000_000
    assert second > first
    assert await bucket.get("host.c") is None
    assert await bucket.keys() == ["host.a", "host.b"]


async def test_key_value_is_shared(broker: Broker) -> None:
    """Two clients that bind to one bucket see the same values."""
    one, two = await broker.connect(), await broker.connect()
    await (await one.key_value("config")).put("k", b"v")
    found = await (await two.key_value("config", history=5)).get("k")
    assert found is not None
    assert found.value == b"v"


async def test_create_only_when_absent(bus: Bus) -> None:
    """Create fails on a key that has a value and succeeds after it was deleted."""
    bucket = await bus.key_value("config")
    await bucket.create("k", b"1")
    with pytest.raises(RevisionConflict):
        await bucket.create("k", b"2")
    await bucket.delete("k")
    assert await bucket.get("k") is None
    assert await bucket.keys() == []
    await bucket.create("k", b"3")


async def test_compare_and_set(bus: Bus) -> None:
    """Update takes the revision that was read, once; of two writers one wins and the other learns of it."""
    bucket = await bus.key_value("config")
    revision = await bucket.put("k", b"0")
    results = await asyncio.gather(
        *(bucket.update("k", str(n).encode(), revision) for n in range(5)), return_exceptions=True
    )
    assert sum(isinstance(result, int) for result in results) == 1
    assert sum(isinstance(result, RevisionConflict) for result in results) == 4
    with pytest.raises(RevisionConflict):
        await bucket.delete("k", last_revision=revision)


async def test_history_keeps_what_was_asked(bus: Bus) -> None:
    """History gives the last revisions of a key in order, deletes included."""
    bucket = await bus.key_value("config", history=3)
    for value in (b"1", b"2", b"3"):
        await bucket.put("k", value)
    await bucket.delete("k")
    history = await bucket.history("k")
    assert [(entry.value, entry.operation) for entry in history] == [
        (b"2", KeyOperation.PUT),
        (b"3", KeyOperation.PUT),
        (b"", KeyOperation.DELETE),
    ]
    assert await bucket.history("other") == []
    await bucket.purge("k")
    assert [entry.operation for entry in await bucket.history("k")] == [KeyOperation.PURGE]


@pytest.mark.parametrize("key", ["", ".a", "a.", "a b", "a>"])
async def test_bad_key_is_refused(bus: Bus, key: str) -> None:
    """A key that the store could not hold is refused."""
    bucket = await bus.key_value("config")
    with pytest.raises(BusError):
        await bucket.put(key, b"")
    with pytest.raises(BusError):
        await bucket.get(key)


class Seen:
    """A watch callback that keeps what it gets."""

    def __init__(self) -> None:
        self.entries: asyncio.Queue[Entry | None] = asyncio.Queue()

    def __call__(self, entry: Entry | None) -> None:
        """Keep it."""
        self.entries.put_nowait(entry)

    async def take(self, count: int) -> list[tuple[str, bytes] | None]:
        """Return the next keys and values, None for the marker."""
        taken = []
        for _ in range(count):
            async with asyncio.timeout(10):
                entry = await self.entries.get()
            taken.append(None if entry is None else (entry.key, entry.value))
        return taken


async def test_watch_gives_values_marker_updates(broker: Broker) -> None:
    """A watch gives what is there, the marker once, and then every change in order."""
    one, two = await broker.connect(), await broker.connect()
    bucket, other = await one.key_value("config"), await two.key_value("config")
    await bucket.put("a", b"1")
    await bucket.put("b", b"2")
    seen = Seen()
    watch = await other.watch(seen)
    assert await seen.take(3) == [("a", b"1"), ("b", b"2"), None]
    await bucket.put("a", b"3")
    await bucket.delete("b")
    assert await seen.take(2) == [("a", b"3"), ("b", b"")]
    await watch.stop()
    await watch.stop()
    await bucket.put("a", b"4")
    await settled(two)
    assert seen.entries.empty()


async def test_watch_of_an_empty_bucket(bus: Bus) -> None:
    """A watch on a bucket without values gives the marker first."""
    bucket = await bus.key_value("config")
    seen = Seen()
    await bucket.watch(seen, keys="lease.*")
    assert await seen.take(1) == [None]
    await bucket.put("other", b"")
    await bucket.put("lease.1", b"x")
    assert await seen.take(1) == [("lease.1", b"x")]


# ---------------------------------------------------------------------------------------------- streams


async def stored(bus: Bus, count: int) -> None:
    await bus.ensure_stream("evidence", ["evidence.>"])
    for number in range(1, count + 1):
        sequence = await bus.publish_durable(f"evidence.{number % 2}", str(number).encode(), message_id=f"id{number}")
        assert sequence == number


def values(messages: Sequence[DurableMessage]) -> list[int]:
    return [int(message.data) for message in messages]


async def test_durable_fetch_and_ack(broker: Broker) -> None:
    """Stored messages are fetched in order; acknowledged ones never come again, also not to another client."""
    one, two = await broker.connect(), await broker.connect()
    await stored(one, 5)
    consumer = await one.consume("evidence", "archive")
    first = await consumer.fetch(3, 5)
    assert [(int(m.data), m.sequence, m.deliveries) for m in first] == [(1, 1, 1), (2, 2, 1), (3, 3, 1)]
    for message in first:
        await message.ack()
    await one.flush()
    await consumer.stop()
    again = await two.consume("evidence", "archive")
    assert values(await again.fetch(10, 5)) == [4, 5]


async def test_fetch_of_nothing_is_empty(bus: Bus) -> None:
    """A fetch that finds nothing in time returns an empty list."""
    await stored(bus, 0)
    consumer = await bus.consume("evidence", "archive")
    assert list(await consumer.fetch(10, 0.05)) == []


async def test_fetch_waits_for_what_comes(broker: Broker) -> None:
    """A fetch that waits gets what is published meanwhile."""
    one, two = await broker.connect(), await broker.connect()
    await stored(one, 0)
    consumer = await one.consume("evidence", "archive")
    fetching = asyncio.create_task(consumer.fetch(1, 10))
    await asyncio.sleep(0)
    await two.publish_durable("evidence.1", b"7", message_id="")
    assert values(await fetching) == [7]


async def test_redelivery_after_nak_and_not_after_term(bus: Bus) -> None:
    """A refused message comes again with its count, a terminated one does not."""
    await stored(bus, 2)
    consumer = await bus.consume("evidence", "archive")
    first, second = await consumer.fetch(2, 5)
    await first.nak()
    await second.term()
    (again,) = await consumer.fetch(2, 5)
    assert (int(again.data), again.deliveries) == (1, 2)
    await again.ack()
    assert list(await consumer.fetch(2, 0.05)) == []


async def test_redelivery_without_acknowledgement(bus: Bus) -> None:
    """A message that is never acknowledged comes again after the acknowledgement wait."""
    await stored(bus, 1)
    consumer = await bus.consume("evidence", "archive", ack_wait_s=0.1)
    assert values(await consumer.fetch(1, 5)) == [1]
    (again,) = await consumer.fetch(1, 5)
    assert (again.sequence, again.deliveries) == (1, 2)


async def test_repeated_message_id_is_stored_once(bus: Bus) -> None:
    """A message published again under its id gets the number of the first, and comes once."""
    await stored(bus, 1)
    assert await bus.publish_durable("evidence.1", b"1", message_id="id1") == 1
    assert await bus.publish_durable("evidence.1", b"2", message_id="id2", headers={"Codec": "x"}) == 2
    consumer = await bus.consume("evidence", "archive")
    found = await consumer.fetch(10, 5)
    assert values(found) == [1, 2]
    assert found[1].headers["Codec"] == "x"


async def test_filter_and_start(bus: Bus) -> None:
    """A consumer gives only its subjects, from where it was told to begin."""
    await stored(bus, 6)
    consumer = await bus.consume("evidence", "odd", filter_subject="evidence.1", start_sequence=2)
    assert values(await consumer.fetch(10, 5)) == [3, 5]


async def test_publish_durable_without_stream(bus: Bus) -> None:
    """A durable publish that no stream takes fails as no responders: nothing is thought to be safe that is not."""
    with pytest.raises(NoResponders):
        await bus.publish_durable("nowhere", b"", message_id="1")


async def test_full_stream_refuses(bus: Bus) -> None:
    """A stream told to refuse says so when it is full, and keeps what it has."""
    await bus.ensure_stream("small", ["small"], max_bytes=4096, refuse_when_full=True)
    stores = (bus.publish_durable("small", bytes(1000), message_id=str(number)) for number in range(10))
    results = await asyncio.gather(*stores, return_exceptions=True)
    refused = [result for result in results if isinstance(result, BusError)]
    assert 0 < len(refused) < 10
    consumer = await bus.consume("small", "all")
    assert (await consumer.fetch(1, 5))[0].sequence == 1


async def test_ensure_stream_changes_it(bus: Bus) -> None:
    """A stream that is there is brought to the new configuration and keeps its messages."""
    await stored(bus, 2)
    await bus.ensure_stream("evidence", ["evidence.>", "more"], max_age_s=3600)
    assert await bus.publish_durable("more", b"3", message_id="m") == 3


async def test_plain_publish_is_stored_too(bus: Bus) -> None:
    """A stream stores what is published on its subjects without acknowledgement as well."""
    await stored(bus, 0)
    await bus.publish("evidence.1", b"9")
    await bus.flush()
    consumer = await bus.consume("evidence", "archive")
    assert values(await consumer.fetch(1, 5)) == [9]


# ---------------------------------------------------------------------------------------------- work queues


async def queued(bus: Bus, count: int) -> None:
    await bus.ensure_stream("queue", ["queue.*"], work_queue=True)
    for number in range(1, count + 1):
        await bus.publish_durable(f"queue.{number % 3}", str(number).encode(), message_id=f"id{number}")


async def test_work_queue_forgets_what_is_acknowledged(bus: Bus) -> None:
    """A consumer that is made after another was deleted begins with what that one did not acknowledge."""
    await queued(bus, 5)
    consumer = await bus.consume("queue", "old")
    first = await consumer.fetch(4, 5)
    await first[0].ack()
    await first[2].term()
    await first[1].ack(confirm_s=5)
    await bus.flush()
    assert await bus.consumers("queue") == [ConsumerStatus("old", 1, 0, 4)]
    await bus.delete_consumer("queue", "old")
    await bus.delete_consumer("queue", "old")
    assert await bus.consumers("queue") == []
    found = await (await bus.consume("queue", "new")).fetch(9, 5)
    assert [(int(message.data), message.deliveries) for message in found] == [(4, 1), (5, 1)]
    status = await bus.stream_status("queue")
    assert status is not None
    assert (status.messages, status.last_sequence) == (2, 5)


async def test_work_queue_refuses_two_consumers_of_one_subject(bus: Bus) -> None:
    """Each message goes to one consumer; consumers of different subjects live beside each other, in stream order."""
    await queued(bus, 9)
    two = await bus.consume("queue", "two", filter_subjects=["queue.1", "queue.2"])
    with pytest.raises(BusError):
        await bus.consume("queue", "all")
    with pytest.raises(BusError):
        await bus.consume("queue", "overlapping", filter_subject="queue.2")
    one = await bus.consume("queue", "one", filter_subject="queue.0")
    assert values(await two.fetch(9, 5)) == [1, 2, 4, 5, 7, 8]
    assert values(await one.fetch(9, 5)) == [3, 6, 9]


async def test_filters_of_a_consumer_can_change(bus: Bus) -> None:
    """A consumer that is bound with other subjects has these from then on."""
    await queued(bus, 3)
    await bus.consume("queue", "c", filter_subjects=["queue.1", "queue.2"])
    consumer = await bus.consume("queue", "c", filter_subject="queue.0")
    assert values(await consumer.fetch(9, 5)) == [3]


async def test_stored_time_rises_and_stays(bus: Bus) -> None:
    """The time at which the stream took a message rises with its number and is the same at each delivery."""
    await queued(bus, 2)
    consumer = await bus.consume("queue", "c")
    first, second = await consumer.fetch(2, 5)
    assert 1_600_000_000_000_000_000 < first.stored_ns < second.stored_ns
    await first.nak()
    (again,) = await consumer.fetch(2, 5)
    assert (again.sequence, again.stored_ns, again.deliveries) == (1, first.stored_ns, 2)


async def test_progress_holds_redelivery_off(bus: Bus) -> None:
    """A message that is being worked on does not come again as long as the server is told so."""
    await queued(bus, 1)
    consumer = await bus.consume("queue", "c", ack_wait_s=0.4)
    (message,) = await consumer.fetch(1, 5)
    for _ in range(3):
        await message.progress()
        assert list(await consumer.fetch(9, 0.2)) == []
    assert [again.deliveries for again in await consumer.fetch(9, 5)] == [2]


async def test_acknowledgement_to_a_consumer_that_is_gone(bus: Bus) -> None:
    """Whoever asks for confirmation learns that nobody took it."""
    await queued(bus, 1)
    consumer = await bus.consume("queue", "c")
    (message,) = await consumer.fetch(1, 5)
    await bus.delete_consumer("queue", "c")
    with pytest.raises(NoResponders):
        await message.ack(confirm_s=5)


async def test_full_stream_says_so(bus: Bus) -> None:
    """A stream that refuses because it is full is told from other refusals, and takes again when there is room."""
    await bus.ensure_stream("small", ["small"], max_bytes=4096, refuse_when_full=True, work_queue=True)
    stores = (bus.publish_durable("small", bytes(1000), message_id=str(number)) for number in range(10))
    refused = [found for found in await asyncio.gather(*stores, return_exceptions=True) if not isinstance(found, int)]
    assert refused
    assert all(isinstance(error, StreamFull) and error.retryable for error in refused)
    consumer = await bus.consume("small", "c")
    for message in await consumer.fetch(10, 5):
        await message.ack(confirm_s=5)
    await bus.publish_durable("small", bytes(1000), message_id="again")


async def test_deleted_stream_is_gone(bus: Bus) -> None:
    """Nothing takes its subjects any more, and deleting it again is no error."""
    await queued(bus, 1)
    await bus.delete_stream("queue")
    await bus.delete_stream("queue")
    assert await bus.stream_status("queue") is None
    assert await bus.consumers("queue") == []
    with pytest.raises(NoResponders):
        await bus.publish_durable("queue.1", b"", message_id="1")


# ---------------------------------------------------------------------------------------------- server away


async def test_server_away_and_back(broker: Broker) -> None:
    """A server that goes away and comes back: clients say so, and subscriptions, watches and consumers live again."""
    one, two = await broker.connect(), await broker.connect()
    states: list[BusState] = []
    one.on_state(lambda state, _text: states.append(state))
    inbox, seen = Inbox(), Seen()
    await one.subscribe("flow", inbox)
    bucket = await one.key_value("config")
    await bucket.put("k", b"1")
    await bucket.watch(seen)
    assert await seen.take(2) == [("k", b"1"), None]
    await stored(one, 1)
    consumer = await one.consume("evidence", "archive")
    await one.flush()

    await broker.go_away()
    assert not one.connected
    with pytest.raises(BusError) as caught:
        await one.flush(0.05)
    assert caught.value.retryable
    await broker.come_back()

    await one.flush()  # raises when it is not connected
    await two.publish("flow", b"alive")
    assert (await inbox.next()).data == b"alive"
    assert values(await consumer.fetch(1, 5)) == [1]
    await (await two.key_value("config")).put("k", b"2")
    assert await seen.take(1) == [("k", b"2")]
    assert states == [BusState.DISCONNECTED, BusState.CONNECTED]
    assert one.stats.reconnects == 1


async def test_buffer_while_away_is_bounded_and_kept(broker: Broker) -> None:
    """What is published while the server is away is sent when it is back; over the limit it is refused, not lost."""
    bus = await broker.connect()
    await stored(bus, 0)
    await broker.go_away()
    publishes = (bus.publish("evidence.1", bytes(500_000)) for _ in range(50))
    results = await asyncio.gather(*publishes, return_exceptions=True)
    refused = [result for result in results if isinstance(result, OutboundFull)]
    taken = len(results) - len(refused)
    assert 10 < taken < 50
    assert all(error.retryable for error in refused)
    await broker.come_back()
    await bus.flush()
    consumer = await bus.consume("evidence", "archive")
    sequences: list[int] = []
    while len(sequences) < taken:
        sequences += [message.sequence for message in await consumer.fetch(100, 5)]
    assert sequences == list(range(1, taken + 1))
