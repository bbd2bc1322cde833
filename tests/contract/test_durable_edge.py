"""Durable edges: whoever moves, dies or goes away, each event is handled once, on memory and on a real nats-server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
import pytest

from eddy_mesh import subjects
from eddy_mesh.batch import Batch, Kind, Producer
from eddy_mesh.cer import EventClass, Stage, Value
from eddy_mesh.columns import Bytes, Constant, Numbers, pack
from eddy_mesh.conservation import Ledger
from eddy_mesh.errors import BusError
from eddy_mesh.runtime.durable.edge import DurableEdge, Share, consumer_name, end_older_consumers
from eddy_mesh.runtime.durable.intake import Intake, Pace
from eddy_mesh.runtime.durable.receiver import DurableReceiver
from eddy_mesh.runtime.durable.sender import DurableSender

if TYPE_CHECKING:
    from eddy_mesh.bus import Bus
    from eddy_mesh.task import HostControl

KIND = Kind(Stage.COOKED, EventClass.NETWORK, "netflow.v9")
PLAIN = DurableEdge(backplane="eddy", name="flows to archive")
BY_PORT = DurableEdge(backplane="eddy", name="by port", field="source.port")
COARSE = DurableEdge(backplane="eddy", name="coarse", field="source.port", partitions=8)
EVENTS = 20_000
STEP = 200
ALL = Share()
KEYS = 97
QUICK = Pace(retry_s=0.02, fetch_s=0.2, group_s=0.01, held_messages=200, confirm_s=1.0)


class Broker(Protocol):
    """What a test may do to the other end of the bus; see conftest."""

    async def connect(self) -> Bus:
        """Return a new client."""

    async def go_away(self) -> None:
        """Take the server away."""

    async def come_back(self) -> None:
        """Bring the server back, with its streams."""


class Around:
    """The `Context` of a sender."""

    host, backplane = "h", "eddy"

    def __init__(self, bus: Bus, state: Path) -> None:
        self.name = "sender"
        self.bus = bus
        self.state = state
        self.notices: list[str] = []

    @property
    def control(self) -> HostControl:
        """Not used."""
        raise NotImplementedError

    def now_ns(self) -> int:
        """Return no time."""
        return 0

    async def emit(self, draft: object) -> None:
        """Not used."""

    async def fetch(self, ids: object) -> list[Mapping[str, object]]:
        """Not used."""
        raise NotImplementedError

    def notice(self, event: str, **fields: Value) -> None:
        """Keep it."""
        self.notices.append(event)


class Agent:
    """An agent that handles what it was given when asked, and what it has handled survives it.

    Between that and the state file of its receiver nothing else gets a turn.
    """

    def __init__(self) -> None:
        self.taken: list[int] = []
        self.waiting: list[Batch] = []
        self.notices: list[str] = []
        self.may_handle = asyncio.Event()
        self.may_handle.set()
        self._marks: list[tuple[int, asyncio.Event]] = []

    async def deliver(self, batch: Batch) -> None:
        """Put it into the mailbox."""
        self.waiting.append(batch)

    async def handled(self) -> None:
        """Handle what waits."""
        given, self.waiting = self.waiting, []
        await asyncio.sleep(0)
        await self.may_handle.wait()
        for batch in given:
            self.taken += numbers(batch)
        for count, reached in self._marks:
            if len(self.taken) >= count:
                reached.set()

    def crash(self) -> None:
        """Lose what was not handled."""
        self.waiting = []

    async def reached(self, count: int) -> None:
        """Wait until so many events were handled."""
        reached = asyncio.Event()
        self._marks.append((count, reached))
        if len(self.taken) < count:
            async with asyncio.timeout(25):
                await reached.wait()

    def notice(self, event: str, **fields: Value) -> None:
        """Keep it."""
        self.notices.append(event)

    def intake(
        self,
        *,
        known: Callable[[Batch], Awaitable[npt.NDArray[np.bool_]]] | None = None,
        settle: Callable[[], Awaitable[None]] | None = None,
    ) -> Intake:
        """Return the agent as a receiver sees it."""
        return Intake(self.deliver, self.handled, self.notice, settle, known)

    async def known(self, batch: Batch) -> npt.NDArray[np.bool_]:
        """Look the ids up, as an archive does."""
        return np.isin(numbers(batch), self.taken)


def numbers(batch: Batch) -> list[int]:
    """Return the sequence numbers of the events."""
    found: list[int] = (batch.ids().low & np.uint64(0xFFFF_FFFF)).tolist()
    return found


def numbered(first: int, count: int = STEP, epoch: int = 1) -> Batch:
    """Return events ``first`` and on; the key of each follows from its number."""
    keys = np.arange(first, first + count, dtype=np.uint32) * np.uint32(7919) % np.uint32(KEYS)
    return Batch(KIND, "h", Producer(5, epoch), first, 10**12, count, {"source.port": Numbers(keys.astype("<u2"))})


def batches(start: int = 0, stop: int = EVENTS) -> Iterator[Batch]:
    """Return the events in batches."""
    return (numbered(first) for first in range(start, stop, STEP))


async def send(sender: DurableSender, events: Iterator[Batch]) -> None:
    """Offer each batch until it is taken, as the runtime does."""
    for batch in events:
        while True:
            try:
                result = await sender.on_batch(batch, 0)
            except BusError as error:
                if not error.retryable:
                    raise
                await asyncio.sleep(0.01)
            else:
                assert not result.refusals
                break


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(25):
        while not condition():  # noqa: ASYNC110  # what is looked at tells nobody of its changes
            await asyncio.sleep(0.005)


async def sender_of(edge: DurableEdge, bus: Bus, path: Path) -> DurableSender:
    """Return a started sender."""
    sender = DurableSender(edge, timeout_s=1.0)
    await sender.start(Around(bus, path))
    return sender


class Running:
    """A receiver and its task."""

    def __init__(self, receiver: DurableReceiver) -> None:
        self.receiver = receiver
        self.task = asyncio.create_task(receiver.run())

    async def stop(self) -> None:
        """Stop it in order."""
        await self.receiver.stop()
        await self.task

    async def kill(self) -> None:
        """End it as a crash does."""
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task


def receive(
    bus: Bus,
    edge: DurableEdge,
    folder: Path,
    intake: Intake,
    share: Share = ALL,
    ledger: Ledger | None = None,
    pace: Pace = QUICK,
) -> Running:
    """Start a receiver."""
    return Running(DurableReceiver(bus, edge, share, folder, intake, ledger or Ledger("e"), pace=pace))


@asynccontextmanager
async def sending(sender: DurableSender, events: Iterator[Batch]) -> AsyncIterator[None]:
    """Send beside what the test does, to the end."""
    async with asyncio.TaskGroup() as group:
        group.create_task(send(sender, events))
        yield


async def test_both_ends_move_while_events_flow(broker: Broker, tmp_path: Path) -> None:
    """Another sender and another receiver on another host take over twice: every event once, in order."""
    one, two = await broker.connect(), await broker.connect()
    agent = Agent()
    running = receive(one, PLAIN, tmp_path / "a", agent.intake())
    async with sending(await sender_of(PLAIN, one, tmp_path), batches(0, EVENTS // 2)):
        await agent.reached(3000)
        await running.stop()
        running = receive(two, PLAIN, tmp_path / "b", agent.intake())
        await agent.reached(6000)
    async with sending(await sender_of(PLAIN, two, tmp_path), batches(EVENTS // 2)):
        await agent.reached(12_000)
        await running.stop()
        running = receive(one, PLAIN, tmp_path / "a", agent.intake())
        await agent.reached(EVENTS)
    await running.stop()
    assert agent.taken == list(range(EVENTS))
    status = await two.stream_status(PLAIN.stream)
    assert status is not None
    assert status.messages == 0


async def test_receivers_of_both_hosts_at_once(broker: Broker, tmp_path: Path) -> None:
    """The new receiver may begin before the old one has stopped: every event once."""
    one, two = await broker.connect(), await broker.connect()
    agents = Agent(), Agent()
    few = Pace(retry_s=0.02, fetch_s=0.2, group_s=0.01, held_messages=10)
    old = receive(one, PLAIN, tmp_path / "a", agents[0].intake(), pace=few)
    async with sending(await sender_of(PLAIN, one, tmp_path), batches()):
        await agents[0].reached(2000)
        agents[0].may_handle.clear()  # it has its hands full while the other one begins
        new = receive(two, PLAIN, tmp_path / "b", agents[1].intake())
        await agents[1].reached(1000)
        agents[0].may_handle.set()
        await old.stop()
        await agents[1].reached(EVENTS - len(agents[0].taken))
    await new.stop()
    assert sorted(agents[0].taken + agents[1].taken) == list(range(EVENTS))


async def test_killed_receiver_with_its_state_file(broker: Broker, tmp_path: Path) -> None:
    """A receiver that dies with messages in hand: the next one on that host goes on, every event once and in order."""
    bus = await broker.connect()
    agent = Agent()
    async with sending(await sender_of(PLAIN, bus, tmp_path), batches()):
        for mark in (1000, 4000, 9000):
            running = receive(bus, PLAIN, tmp_path / "a", agent.intake())
            await agent.reached(mark)
            await running.kill()
            agent.crash()
        running = receive(bus, PLAIN, tmp_path / "a", agent.intake())
        await agent.reached(EVENTS)
    await running.stop()
    assert agent.taken == list(range(EVENTS))


class NeverAcknowledges(DurableReceiver):
    """A receiver that gets no further than the state file."""

    async def _acknowledge(self, group: object) -> None:
        await asyncio.Event().wait()


async def test_handled_and_not_acknowledged(broker: Broker, tmp_path: Path) -> None:
    """What was entered in the state file and not acknowledged comes again and is not handled again."""
    bus = await broker.connect()
    agent = Agent()
    await send(await sender_of(PLAIN, bus, tmp_path), batches(0, 2000))
    few = Pace(retry_s=0.02, fetch_s=0.2, held_messages=5)
    dying = Running(NeverAcknowledges(bus, PLAIN, Share(), tmp_path / "a", agent.intake(), Ledger("e"), pace=few))
    await agent.reached(STEP)
    await dying.kill()
    agent.crash()
    running = receive(bus, PLAIN, tmp_path / "a", agent.intake())
    await agent.reached(2000)
    await running.stop()
    assert agent.taken == list(range(2000))
    assert running.receiver.counts["repeats"] >= 1


async def test_killed_with_its_host_and_a_store_that_knows_ids(broker: Broker, tmp_path: Path) -> None:
    """Where the state file is lost as well, a store that can look ids up takes each event once."""
    bus = await broker.connect()
    agent = Agent()
    pace = Pace(retry_s=0.02, fetch_s=0.2, ack_wait_s=0.3, held_messages=5)
    await send(await sender_of(PLAIN, bus, tmp_path), batches(0, 4000))
    dying = Running(NeverAcknowledges(bus, PLAIN, Share(), tmp_path / "a", agent.intake(), Ledger("e"), pace=pace))
    await agent.reached(STEP)
    await dying.kill()
    agent.crash()
    running = receive(bus, PLAIN, tmp_path / "b", agent.intake(known=agent.known), pace=pace)
    await agent.reached(4000)
    await until(lambda: running.receiver.counts["known"] >= STEP)
    await running.stop()
    assert sorted(agent.taken) == list(range(4000))


async def test_server_stopped_and_restarted(broker: Broker, tmp_path: Path) -> None:
    """A server that is killed in the middle, twice: nothing is lost and nothing comes twice."""
    one, two = await broker.connect(), await broker.connect()
    agent = Agent()
    running = receive(two, BY_PORT, tmp_path / "a", agent.intake(), Share(partitioned=True))
    async with sending(await sender_of(BY_PORT, one, tmp_path), batches(0, 8000)):
        for mark in (1000, 4000):
            await agent.reached(mark)
            await broker.go_away()
            await broker.come_back()
        await agent.reached(8000)
    await running.stop()
    assert sorted(agent.taken) == list(range(8000))
    assert_keys_in_order(agent.taken)


@pytest.mark.parametrize("edge", [BY_PORT, COARSE], ids=["64", "8"])
async def test_one_to_three_and_back(broker: Broker, edge: DurableEdge, tmp_path: Path) -> None:
    """An agent that is scaled 1, 3, 1 by a field: every event once, the order of each key kept, keys never split."""
    bus = await broker.connect()
    agents = [Agent() for _ in range(5)]

    def start(agent: int, instance: int, count: int) -> Running:
        share = Share(instance, count, partitioned=True)
        return receive(bus, edge, tmp_path / str(agent), agents[agent].intake(), share)

    async with sending(await sender_of(edge, bus, tmp_path), batches(0, 12_000)):
        alone = start(0, 0, 1)
        await agents[0].reached(2000)
        three = [start(1 + instance, instance, 3) for instance in range(3)]  # they wait for the old shape's end
        await alone.stop()
        await asyncio.gather(*(agent.reached(1000) for agent in agents[1:4]))
        await asyncio.gather(*(running.stop() for running in three))
        again = start(4, 0, 1)
        handled = sum(len(agent.taken) for agent in agents[:4])
        await agents[4].reached(12_000 - handled)
    await again.stop()
    assert sorted(number for agent in agents for number in agent.taken) == list(range(12_000))
    for agent in agents:
        assert_keys_in_order(agent.taken)
    keys = [{number * 7919 % KEYS for number in agent.taken} for agent in agents[1:4]]
    assert not keys[0] & keys[1] | keys[0] & keys[2] | keys[1] & keys[2]
    order = [number for agent in agents for number in agent.taken]
    first_of_last = {number * 7919 % KEYS: number for number in reversed(agents[4].taken)}
    assert all(number < first_of_last.get(number * 7919 % KEYS, EVENTS) for number in order[: -len(agents[4].taken)])


def assert_keys_in_order(taken: list[int]) -> None:
    """The events of each key came in the order in which they were sent."""
    newest: dict[int, int] = {}
    for number in taken:
        key = number * 7919 % KEYS
        assert newest.get(key, -1) < number
        newest[key] = number


async def test_an_older_shape_in_use_is_not_ended(broker: Broker, tmp_path: Path) -> None:
    """A consumer whose owner has messages in hand stays; when nobody hears of it, it ends, and nothing comes twice."""
    bus = await broker.connect()
    agent = Agent()
    pace = Pace(retry_s=0.02, fetch_s=0.2, group_s=0.01, ack_wait_s=1.0, held_messages=5)
    await send(await sender_of(BY_PORT, bus, tmp_path), batches(0, 2000))
    old = Share(0, 1, partitioned=True)
    dying = Running(NeverAcknowledges(bus, BY_PORT, old, tmp_path / "a", agent.intake(), Ledger("e"), pace=pace))
    await agent.reached(1)
    await dying.kill()
    agent.crash()
    held = await end_older_consumers(bus, BY_PORT, Share(0, 2, partitioned=True))
    assert [found.name for found in held] == [consumer_name(BY_PORT, old)]
    assert held[0].unacknowledged
    new = [Share(number, 2, partitioned=True) for number in range(2)]
    two = [receive(bus, BY_PORT, tmp_path / "b", agent.intake(known=agent.known), share, pace=pace) for share in new]
    await until(lambda: len(set(agent.taken)) == 2000)
    for running in two:
        await running.stop()
    assert sorted(agent.taken) == list(range(2000))
    assert "edge_taken_over" in agent.notices


async def test_nothing_comes_again_while_the_agent_is_slow(broker: Broker, tmp_path: Path) -> None:
    """The server is told of what waits in the mailbox: nobody else gets it, however long the agent takes."""
    bus = await broker.connect()
    await send(await sender_of(PLAIN, bus, tmp_path), batches(0, 1000))
    agent = Agent()
    agent.may_handle.clear()
    running = receive(bus, PLAIN, tmp_path / "a", agent.intake(), pace=Pace(ack_wait_s=0.3, fetch_s=0.1))
    await until(lambda: running.receiver.counts["delivered"] == 1000)
    other = await bus.consume(PLAIN.stream, consumer_name(PLAIN, Share()))
    assert list(await other.fetch(10, 1.0)) == []
    agent.may_handle.set()
    await running.stop()
    assert agent.taken == list(range(1000))
    assert running.receiver.counts["repeats"] == 0


async def test_a_message_that_is_no_batch(broker: Broker, tmp_path: Path) -> None:
    """It is counted, never comes again, and does not keep what is behind it."""
    bus = await broker.connect()
    sender = await sender_of(PLAIN, bus, tmp_path)
    await send(sender, batches(0, STEP))
    await bus.publish_durable(subjects.edge("eddy", PLAIN.name, 0), b"?", message_id="x", headers={"Eddy-Count": "7"})
    await send(sender, batches(STEP, 2 * STEP))
    agent, ledger = Agent(), Ledger("e")
    running = receive(bus, PLAIN, tmp_path / "a", agent.intake(), ledger=ledger)
    await agent.reached(2 * STEP)
    await running.stop()
    assert agent.taken == list(range(2 * STEP))
    assert ledger.dropped == {"not_decoded": 7}
    assert ledger.balanced
    status = await bus.stream_status(PLAIN.stream)
    assert status is not None
    assert status.messages == 0


async def test_a_store_is_settled_once_for_many_messages(broker: Broker, tmp_path: Path) -> None:
    """An agent that writes to disk is asked for groups, and nothing is acknowledged before it has answered."""
    bus = await broker.connect()
    await send(await sender_of(PLAIN, bus, tmp_path), batches(0, 4000))
    agent, unacknowledged = Agent(), list[int]()

    async def settle() -> None:
        (status,) = await bus.consumers(PLAIN.stream)
        unacknowledged.append(status.unacknowledged)

    pace = Pace(group_s=5.0, group_messages=10, fetch_s=0.1)
    running = receive(bus, PLAIN, tmp_path / "a", agent.intake(settle=settle), pace=pace)
    await agent.reached(4000)
    await running.stop()
    assert 1 <= len(unacknowledged) <= 2
    assert unacknowledged[0] == 20


async def test_an_agent_that_fails_has_nothing_acknowledged(broker: Broker, tmp_path: Path) -> None:
    """What the agent was given and will never handle stays in the stream for its next life."""
    bus = await broker.connect()
    await send(await sender_of(PLAIN, bus, tmp_path), batches(0, STEP))

    async def handled() -> None:
        raise RuntimeError("the agent has failed")

    agent = Agent()
    failing = receive(bus, PLAIN, tmp_path / "a", Intake(agent.deliver, handled, agent.notice))
    with pytest.raises(RuntimeError, match="has failed"):
        await failing.task
    agent.crash()
    running = receive(bus, PLAIN, tmp_path / "a", agent.intake())
    await agent.reached(STEP)
    await running.stop()
    assert agent.taken == list(range(STEP))


# ---------------------------------------------------------------------------------------------- sender


async def test_a_batch_that_is_stored_in_part_is_not_cut_anew(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The partition of the edge changes while a batch waits for its last message: none of it is stored twice."""
    bus = await broker.connect()
    sender = await sender_of(COARSE, bus, tmp_path)
    publish, refused = bus.publish_durable, [True]

    async def fails_once(subject: str, data: bytes, **how: object) -> int:
        if subject.endswith(".7") and refused:
            refused.clear()
            raise BusError("away")
        return await publish(subject, data, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(bus, "publish_durable", fails_once)
    first, second = batches(0, 2 * STEP)
    with pytest.raises(BusError, match="away"):
        await sender.on_batch(first, 0)
    whole = DurableEdge(backplane="eddy", name=COARSE.name)
    sender.change(whole)
    await sender.on_batch(first, 0)
    await sender.on_batch(second, 0)
    agent = Agent()
    running = receive(bus, whole, tmp_path / "a", agent.intake())
    await agent.reached(2 * STEP)
    await running.stop()
    assert sorted(agent.taken) == list(range(2 * STEP))
    assert agent.taken[STEP:] == list(range(STEP, 2 * STEP))  # one message: not cut any more


async def test_a_batch_offered_again_is_stored_once(broker: Broker, tmp_path: Path) -> None:
    """Also by another sender, which knows nothing of the first: the server knows the message ids."""
    bus = await broker.connect()
    one, two = await sender_of(BY_PORT, bus, tmp_path), await sender_of(BY_PORT, bus, tmp_path)
    await send(one, batches(0, STEP))
    before = await bus.stream_status(BY_PORT.stream)
    await send(two, batches(0, STEP))
    assert await bus.stream_status(BY_PORT.stream) == before


async def test_two_halves_of_one_batch_are_not_taken_for_repeats(broker: Broker, tmp_path: Path) -> None:
    """The parts that a select makes of a batch have one numbering; both are stored."""
    bus = await broker.connect()
    agent, batch = Agent(), numbered(0)
    even = np.arange(batch.count) % 2 == 0
    await send(await sender_of(PLAIN, bus, tmp_path), iter([batch.filter(even), batch.filter(~even)]))
    running = receive(bus, PLAIN, tmp_path / "a", agent.intake())
    await agent.reached(STEP)
    await running.stop()
    assert sorted(agent.taken) == list(range(STEP))


def made_of(batch: Batch, epoch: int, *, host: str = "h", port: int = 0) -> Batch:
    """Return what an agent makes of events in one of its lives: events of its own with the same fields."""
    columns = {**batch.columns, "parents": batch.ids(), "destination.port": Constant(port, batch.count)}
    return Batch(KIND, host, Producer(6, epoch), 77 * epoch, 10**12 + epoch, batch.count, columns)


async def test_what_is_made_again_of_the_same_events_is_stored_once(broker: Broker, tmp_path: Path) -> None:
    """An agent that was killed is given the same events again, here or elsewhere; what it makes has other numbers."""
    bus = await broker.connect()
    agent = Agent()
    for life, host in enumerate(["h", "h", "other"]):
        sender = await sender_of(PLAIN, bus, tmp_path)
        await send(sender, (made_of(numbered(first), life, host=host) for first in range(0, 3 * STEP, STEP)))
    running = receive(bus, PLAIN, tmp_path / "a", agent.intake())
    await agent.reached(3 * STEP)
    await running.stop()
    assert len(agent.taken) == 3 * STEP


async def test_a_full_stream_is_waited_for_and_told_once(broker: Broker, tmp_path: Path) -> None:
    """Nothing is thrown away: the sender says once that it waits, and goes on when the consumer has made room."""
    bus = await broker.connect()
    edge = DurableEdge(backplane="eddy", name="small", max_bytes=8192)
    sender, around = DurableSender(edge), Around(bus, tmp_path)
    await sender.start(around)
    agent = Agent()
    async with sending(sender, batches(0, 6000)):
        await until(lambda: bool(sender.status()["full"]))
        with pytest.raises(BusError) as caught:
            await sender.on_batch(numbered(10**6), 0)
        assert caught.value.retryable
        assert around.notices == ["edge_full"]
        running = receive(bus, edge, tmp_path / "a", agent.intake())
        await agent.reached(6000)
    await running.stop()
    assert [number for number in agent.taken if number < 10**6] == list(range(6000))


async def test_an_event_larger_than_any_message_is_refused(broker: Broker, tmp_path: Path) -> None:
    """It goes to the dead letters with its reason; the events beside it are stored."""
    bus = await broker.connect()
    payloads = [b"a", bytes(bus.max_payload), b"c"]
    batch = Batch(KIND, "h", Producer(5, 1), 0, 10**12, 3, {"event.original": Bytes(*pack(payloads))})
    sender = await sender_of(PLAIN, bus, tmp_path)
    (refusal,) = (await sender.on_batch(batch, 0)).refusals
    assert (list(refusal.rows), refusal.reason) == ([1], "too_large")
    agent = Agent()
    running = receive(bus, PLAIN, tmp_path / "a", agent.intake())
    await agent.reached(2)
    await running.stop()
    assert agent.taken == [0, 2]


async def test_a_stream_that_was_deleted_is_made_again(broker: Broker, tmp_path: Path) -> None:
    """Sender and receiver go on with a new stream, and do not take its first numbers for what was handled."""
    bus = await broker.connect()
    sender, agent = await sender_of(PLAIN, bus, tmp_path), Agent()
    running = receive(bus, PLAIN, tmp_path / "a", agent.intake())
    await send(sender, batches(0, 2000))
    await agent.reached(2000)
    await bus.delete_stream(PLAIN.stream)
    await send(sender, batches(2000, 3000))
    await agent.reached(3000)
    await running.stop()
    assert agent.taken == list(range(3000))
