"""The table of subscriptions of a host process: each flow gets what its statement selects; every event is counted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

import msgspec
import numpy as np
import pytest

from eddy_mesh import codec, flows
from eddy_mesh.batch import Batch, Kind, Producer
from eddy_mesh.bus import Message
from eddy_mesh.bus_memory import MemoryBroker, MemoryBus
from eddy_mesh.cer import EventClass, Stage
from eddy_mesh.columns import Column, Numbers, Text, Words, pack
from eddy_mesh.errors import UsageError
from eddy_mesh.flows import EdgeEnd, Form, Lease, Of
from eddy_mesh.rows import json_rows
from eddy_mesh.runtime.demand import Demand
from eddy_mesh.runtime.flow_messages import FEW_ROWS, MANY_ROWS
from eddy_mesh.selection import compile_statement, matcher, project

KIND = Kind(Stage.COOKED, EventClass.NETWORK, "netflow.v9")
EVENTS = 6000
STATEMENTS = (
    "SELECT destination.port WHERE destination.port = 7",
    "SELECT destination.port WHERE destination.port = 8",
    "SELECT destination.port, host WHERE destination.port IN (9, 10, 11)",
    "SELECT destination.port WHERE destination.port = 999",
    "SELECT * WHERE host = 'a'",
    "SELECT host WHERE host = 'a' AND destination.port < 50",
    "SELECT * FROM system",
    "SELECT *",
)


def batch(first: int = 0) -> Batch:
    """Flows to a hundred ports, half of them from host a."""
    columns: dict[str, Column] = {
        "destination.port": Numbers((np.arange(EVENTS) % 100).astype(np.uint16)),
        "host": Words((np.arange(EVENTS) % 2).astype(np.uint8), ("a", "b")),
    }
    return Batch(KIND, "edge", Producer(3, 4), first, 1_700_000_000_000, EVENTS, columns)


def lease(name: str, statement: str, form: Form = "columns") -> bytes:
    """What a subscriber sends."""
    return msgspec.json.encode(Lease(name, statement, "tool", form))


@pytest.fixture
async def bus() -> AsyncIterator[MemoryBus]:
    """A connected bus."""
    bus = MemoryBroker().connect()
    yield bus
    await bus.close()


async def subscribed(bus: MemoryBus, received: dict[str, list[Message]]) -> Demand:
    """A host process with a flow for each statement, and somebody who receives all."""

    def receive(message: Message) -> None:
        received.setdefault(message.subject.rsplit(".", 1)[-1], []).append(message)

    await bus.subscribe("eddy.flow.>", receive)
    demand = Demand(bus, "eddy", "edge")
    for number, statement in enumerate(STATEMENTS):
        assert demand.subscribe(lease(f"f{number}", statement), 0)
    return demand


async def test_each_flow_gets_what_its_statement_selects(bus: MemoryBus) -> None:
    """Flows that are taken and encoded together carry the same bytes as one evaluated by itself, large ones too."""
    received: dict[str, list[Message]] = {}
    demand = await subscribed(bus, received)
    assert FEW_ROWS < EVENTS // 2
    await demand.publish(batch())
    await asyncio.sleep(0)
    for number, statement in enumerate(STATEMENTS):
        plan = compile_statement(statement, now_ns=0)
        selected = project(plan, batch()).take(np.flatnonzero(matcher(plan)(batch())))
        expected = [data for _, data in codec.split(selected)] if selected.count else []
        assert [message.data for message in received.get(f"f{number}", [])] == expected, statement
        for message in received.get(f"f{number}", []):
            told = flows.parse_headers(message)
            assert (told.kind, told.origin, told.host, told.count) == (KIND, "edge", "edge", selected.count)


async def test_every_event_offered_is_sent_or_filtered(bus: MemoryBus) -> None:
    """Counters that are kept for many flows together come out right for each, also after the table changed."""
    demand = await subscribed(bus, {})
    await demand.publish(batch())
    demand.unsubscribe(lease("f0", STATEMENTS[0]))
    demand.subscribe(lease("late", "SELECT host WHERE destination.port = 3"), 0)
    await demand.publish(batch(EVENTS))
    counted = {
        name: (flow.ledger.offered, flow.ledger.out, flow.ledger.filtered) for name, flow in demand.flows.items()
    }
    assert counted["f1"] == (2 * EVENTS, 120, 2 * EVENTS - 120)
    assert counted["f6"] == (0, 0, 0)
    assert counted["f7"] == (2 * EVENTS, 2 * EVENTS, 0)
    assert counted["late"] == (EVENTS, 60, EVENTS - 60)
    assert all(flow.ledger.balanced and flow.ledger.out == flow.position for flow in demand.flows.values())


async def test_what_was_not_moved_is_known(bus: MemoryBus) -> None:
    """The octets of the batches offered, against those moved, tell what selecting at the source saved."""
    demand = await subscribed(bus, {})
    await demand.publish(batch())
    whole = demand.flows["f7"]
    assert whole.offered_bytes == pytest.approx(whole.bytes_moved, rel=0.02)
    few = demand.flows["f0"]
    assert few.offered_bytes == whole.offered_bytes
    assert 0 < few.bytes_moved < few.offered_bytes / 40
    assert demand.flows["f6"].offered_bytes == 0


async def test_positions_go_on_from_message_to_message(bus: MemoryBus) -> None:
    """A receiver sees no gap, whatever a flow's events were sent together with."""
    received: dict[str, list[Message]] = {}
    demand = await subscribed(bus, received)
    for number in range(3):
        await demand.publish(batch(number * EVENTS))
    await asyncio.sleep(0)
    told = [flows.parse_headers(message) for message in received["f0"]]
    assert [(one.position, one.count) for one in told] == [(0, 60), (60, 60), (120, 60)]


async def test_lines_of_json_are_published_as_before(bus: MemoryBus) -> None:
    """A flow that asks for JSON gets one object a line."""
    received: dict[str, list[Message]] = {}
    demand = await subscribed(bus, received)
    demand.subscribe(lease("j", "SELECT host WHERE destination.port = 5", "json"), 0)
    await demand.publish(batch())
    await asyncio.sleep(0)
    plan = compile_statement("SELECT host WHERE destination.port = 5", now_ns=0)
    expected = project(plan, batch()).take(np.flatnonzero(matcher(plan)(batch())))
    assert received["j"][0].data == b"\n".join(json_rows(expected))


async def test_few_events_that_are_too_large_together_go_in_parts(bus: MemoryBus) -> None:
    """No message is larger than the event channel takes, though its flow shares its encoding with others."""
    received: dict[str, list[Message]] = {}
    demand = await subscribed(bus, received)
    demand.subscribe(lease("too", "SELECT * WHERE message LIKE 'x%'"), 0)
    text = Text(*pack([b"x" * 1000] * 1000))
    await demand.publish(Batch(KIND, "edge", Producer(3, 4), 0, 0, 1000, {"message": text}))
    await asyncio.sleep(0)
    for name in ("f7", "too"):
        parts = [flows.parse_headers(message).count for message in received[name]]
        assert sum(parts) == 1000
        assert len(parts) > 1
        assert max(len(message.data) for message in received[name]) <= codec.MAX_MESSAGE_BYTES


async def test_many_flows_of_many_events_are_taken_in_bounded_pieces(bus: MemoryBus) -> None:
    """More events than are taken at once reach every flow all the same."""
    demand = Demand(bus, "eddy", "edge")
    for number in range(40):
        demand.subscribe(
            lease(f"f{number}", f"SELECT host WHERE destination.port BETWEEN {number} AND {number + 15}"), 0
        )
    assert 2 * MANY_ROWS < 40 * 16 * 60
    await demand.publish(batch())
    assert [flow.ledger.out for flow in demand.flows.values()] == [16 * 60] * 40


async def test_events_that_could_not_be_sent_are_counted(bus: MemoryBus) -> None:
    """A bus that takes nothing is loss with a reason, not an imbalance."""
    demand = await subscribed(bus, {})
    await bus.close()
    await demand.publish(batch())
    flow = demand.flows["f0"]
    assert (flow.ledger.out, flow.ledger.dropped, flow.ledger.policy) == (0, {"disconnected": 60}, "drop")
    assert flow.ledger.balanced


class Full(MemoryBus):
    """A bus whose outbound buffer is full until it is told otherwise."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker)
        self.room = asyncio.Event()
        self.waits = asyncio.Event()

    async def publish(
        self, subject: str, data: bytes, *, headers: Mapping[str, str] | None = None, reply: str = ""
    ) -> None:
        """Wait for room."""
        self.waits.set()
        await self.room.wait()
        await super().publish(subject, data, headers=headers, reply=reply)


async def test_events_that_wait_for_the_bus_are_queued() -> None:
    """While the outbound buffer is full the edge balances: what was selected and not yet sent waits."""
    bus = Full(MemoryBroker())
    demand = Demand(bus, "eddy", "edge")
    demand.subscribe(lease("f", STATEMENTS[0]), 0)
    async with asyncio.TaskGroup() as group:
        group.create_task(demand.publish(batch()))
        await bus.waits.wait()
        assert (demand.flows["f"].ledger.queued, demand.flows["f"].ledger.balanced) == (60, True)
        bus.room.set()
    assert (demand.flows["f"].ledger.queued, demand.flows["f"].ledger.out) == (0, 60)


EDGE = Of(EdgeEnd(name="e", generation=3), ("edge/a",))
SECOND = 1_000_000_000


def lease_of_edge() -> bytes:
    """What the consuming end of an edge sends."""
    return msgspec.json.encode(Lease("of-edge", "SELECT *", "hub/archive", of=EDGE))


async def publish_on_edge(demand: Demand) -> None:
    """Publish a batch of the agent at the beginning of the edge."""
    await demand.publish(batch(), "edge/a", "out", lambda edge, agent: 3)


async def test_the_flow_of_an_edge_outlives_its_lease(bus: MemoryBus) -> None:
    """What is made while the consumer is not heard is counted, and its receiver sees from the position what it missed.

    When the edge is served no more the flow ends, with its accounts.
    """
    current = {("e", 3)}
    demand = Demand(bus, "eddy", "edge", lambda *edge: edge in current)
    flow = demand.subscribe(lease_of_edge(), 0)
    assert flow is not None
    await publish_on_edge(demand)
    demand.expire(60 * SECOND)
    await publish_on_edge(demand)
    assert demand.subscribe(lease_of_edge(), 60 * SECOND) is flow
    assert (flow.epoch, flow.position) == (0, 2 * EVENTS)
    assert (flow.ledger.out, flow.ledger.dropped) == (EVENTS, {"not_asked": EVENTS})
    assert flow.ledger.balanced
    current.clear()
    demand.expire(120 * SECOND)
    assert not demand.flows
    assert [held.position for held in demand.standing] == [2 * EVENTS]
    assert [ledger.dropped for ledger in demand.retired] == [{"not_asked": EVENTS}]


async def test_owners_of_a_flow_are_bounded(bus: MemoryBus, monkeypatch: pytest.MonkeyPatch) -> None:
    """All are told in each heartbeat; what those whose lease ended have missed is forgotten with them."""
    monkeypatch.setattr("eddy_mesh.runtime.demand.MAX_OWNERS", 2)
    demand = Demand(bus, "eddy", "edge")

    def asked_by(owner: str) -> bytes:
        return msgspec.json.encode(Lease("shared", "SELECT *", owner, gap=3))

    for owner in ("a", "b"):
        demand.subscribe(asked_by(owner), 0)
    with pytest.raises(UsageError, match="2 owners already"):
        demand.subscribe(asked_by("c"), 0)
    flow = demand.subscribe(asked_by("b"), 20 * SECOND)
    assert flow is not None
    demand.expire(40 * SECOND)
    assert (list(flow.owners), flow.gaps) == (["b"], {"b": 3})


async def test_who_asks_again_for_an_edge_begins_anew(bus: MemoryBus) -> None:
    """What was made after a lease was given back is counted here, and is no gap of the next receiver."""
    demand = Demand(bus, "eddy", "edge", lambda *_: True)
    flow = demand.subscribe(lease_of_edge(), 0)
    assert flow is not None
    await publish_on_edge(demand)
    assert demand.unsubscribe(lease_of_edge()) is flow
    assert flow.position == EVENTS  # its fence
    await publish_on_edge(demand)
    demand.subscribe(lease_of_edge(), 0)
    assert (flow.epoch, flow.position) == (1, 0)
    assert flow.ledger.dropped == {"not_asked": EVENTS}


async def test_a_flow_that_begins_again_within_a_second_has_another_epoch(bus: MemoryBus) -> None:
    """Else its positions would go back, and a receiver would take that for what it has already."""
    demand = await subscribed(bus, {})
    first = demand.flows["f0"].epoch
    demand.unsubscribe(lease("f0", STATEMENTS[0]))
    demand.subscribe(lease("f0", STATEMENTS[0]), 0)
    assert demand.flows["f0"].epoch > first


async def test_a_publish_that_is_broken_off_leaves_no_account_open(
    bus: MemoryBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent is stopped while the buffer of the connection is full: what is lost is lost for all flows."""
    demand = await subscribed(bus, {})
    publish, sent = bus.publish, []

    async def slowly(subject: str, data: bytes, **how: object) -> None:
        sent.append(subject)
        if len(sent) == 2:
            await asyncio.Event().wait()
        await publish(subject, data, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(bus, "publish", slowly)
    publishing = asyncio.create_task(demand.publish(batch()))
    while len(sent) < 2:  # noqa: ASYNC110  # its turn only
        await asyncio.sleep(0)
    publishing.cancel()
    await asyncio.gather(publishing, return_exceptions=True)
    flows_ = list(demand.flows.values())
    assert sum(flow.ledger.lost for flow in flows_) > 0
    assert all(flow.ledger.queued == 0 and flow.ledger.balanced for flow in flows_)
    assert all(flow.position == flow.matched for flow in flows_)


async def test_only_leases_that_are_not_known_are_read_again(bus: MemoryBus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a change is served its leases are looked up: one that did not arrive is found, the others cost nothing."""
    demand = await subscribed(bus, {})
    record = await bus.key_value(flows.bucket("eddy"), ttl_s=60, memory=True)
    await record.put("f0.tool", lease("f0", STATEMENTS[0]))
    await record.put("of-edge.hub", lease_of_edge())
    asked: list[str] = []
    get = type(record).get

    async def counted(self: object, key: str) -> object:
        asked.append(key)
        return await get(self, key)  # type: ignore[arg-type]

    monkeypatch.setattr(type(record), "get", counted)
    await demand.read_leases(0, unknown=True)
    assert asked == ["of-edge.hub"]
    assert "of-edge" in demand.flows
