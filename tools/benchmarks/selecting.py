"""Select at the producer: fifty subscriptions that choose one event in a hundred each, and 500 that are mostly idle."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import msgspec
import numpy as np
import subject_filter
from measurement import Goal, Measurement, Peer

from eddy_mesh import subjects
from eddy_mesh.actor.numbering import Numbering
from eddy_mesh.agent import Draft
from eddy_mesh.batch import Batch, Kind
from eddy_mesh.bus import Bus
from eddy_mesh.bus_memory import MemoryBroker
from eddy_mesh.bus_nats import connect
from eddy_mesh.cer import EventClass, Stage
from eddy_mesh.columns import Addresses, Column, Numbers, Words
from eddy_mesh.flows import Lease, flow_id
from eddy_mesh.runtime.demand import Demand
from eddy_mesh.selection import compile_statement, matcher

GOAL = Goal(2_000_000, 10_000_000)
EVENTS = 256 * 28
"""One batch, as a full drain of NetFlow datagrams gives it."""
NOW_NS = 1_790_000_000_000_000_000
Event = dict[str, Any]
PEER_EVENTS = 1000
STANDING = 500
LEAST_S = 0.5


Condition = Callable[[Event], bool]


def subscriptions() -> list[tuple[str, Condition]]:
    """Return conditions, each true for one event in a hundred of `batch`, with the same as plain Python."""
    ports = [(f"destination.port = {1000 + n}", _port_is(1000 + n)) for n in range(20)]
    networks = [(f"source.ip IN CIDR '10.0.{n}.0/24'", _source_in(f"10.0.{n}.0/24")) for n in range(10)]
    sizes = [
        (f"network.bytes BETWEEN {low} AND {low + 9_999}", _size_in(low, low + 9_999))
        for low in range(0, 100_000, 10_000)
    ]
    pairs = [
        (f"network.transport = 'tcp' AND destination.port IN ({port}, {port + 1})", _tcp_to({port, port + 1}))
        for port in range(1000, 1020, 2)
    ]
    return [*ports, *networks, *sizes, *pairs]


def _port_is(port: int) -> Condition:
    return lambda event: event["destination.port"] == port


def _source_in(network: str) -> Condition:
    wanted = IPv4Network(network)
    low, high = int(wanted.network_address), int(wanted.broadcast_address)
    return lambda event: low <= int(IPv4Address(event["source.ip"])) <= high


def _size_in(low: int, high: int) -> Condition:
    return lambda event: low <= event["network.bytes"] <= high


def _tcp_to(ports: set[int]) -> Condition:
    return lambda event: event["network.transport"] == "tcp" and event["destination.port"] in ports


def batch() -> Batch:
    """Return flows whose ports, networks and sizes are evenly spread over a hundred values each."""
    draw = np.random.default_rng(7)
    kind = Kind(Stage.COOKED, EventClass.NETWORK, "netflow.v9")
    columns: dict[str, Column] = {
        "source.ip": Addresses((0x0A000000 + draw.integers(0, 100 * 256, EVENTS)).astype(">u4")),
        "destination.ip": Addresses((0xC0000200 + draw.integers(0, 250, EVENTS)).astype(">u4")),
        "source.port": Numbers(draw.integers(32768, 61000, EVENTS).astype(np.uint16)),
        "destination.port": Numbers((1000 + draw.integers(0, 100, EVENTS)).astype(np.uint16)),
        "network.bytes": Numbers(draw.integers(0, 1_000_000, EVENTS).astype(np.uint32)),
        "host": Words(draw.integers(0, 100, EVENTS).astype(np.uint8), tuple(f"web{n}" for n in range(100))),
        "network.transport": Words(draw.integers(0, 2, EVENTS).astype(np.uint8), ("tcp", "udp")),
    }
    return Numbering("eddy/bench/cook", "bench", 1_790_000_000).number(Draft(kind, EVENTS, columns), NOW_NS)


def standing(count: int) -> list[str]:
    """Return conditions with equality or IN on three fields; one in twelve finds any event, then one in a hundred."""
    shapes = (
        ("destination.port = {}", 1090),
        ("host = 'web{}'", 90),
        ("source.ip IN CIDR '10.{0[0]}.{0[1]}.0/24'", 90),
        ("destination.port IN ({}, 999)", 1090),
    )
    each = count // len(shapes)
    return [
        shape.format(divmod(first + n, 256) if "{0[0]}" in shape else first + n)
        for shape, first in shapes
        for n in range(each)
    ]


def _demand(bus: Bus, conditions: Sequence[str]) -> Demand:
    demand = Demand(bus, "eddy", "bench")
    for condition in conditions:
        statement = f"SELECT source.ip, network.bytes WHERE {condition}"
        plan = compile_statement(statement, now_ns=NOW_NS)
        demand.subscribe(msgspec.json.encode(Lease(flow_id(plan, "columns"), statement, "bench")), NOW_NS)
    return demand


async def run(seconds: float) -> AsyncIterator[Measurement]:
    """Measure the table of subscriptions of a host process, publishing included."""
    events = batch()
    conditions = [condition for condition, _ in subscriptions()]
    demand = _demand(MemoryBroker().connect(), conditions)
    peer = Peer("plain Python", _plain(events), "the same conditions on dict events; select only")
    yield _told("select", demand, await _rate(demand, events, seconds), [peer])
    conditions = standing(STANDING)
    demand = _demand(MemoryBroker().connect(), conditions)
    peer = Peer("one by one", _one_by_one(events, conditions), "each statement evaluated by itself; select only")
    yield _told("select, 500 standing", demand, await _rate(demand, events, seconds), [peer])
    for count in (50, STANDING):
        yield await _over_nats(events, range(1050, 1050 + count), seconds / 2)


async def _rate(demand: Demand, events: Batch, seconds: float) -> float:
    """Return events/s; the first batch, before which the index is made, is not counted."""
    await demand.publish(events)
    rounds = 0
    began = time.perf_counter()
    while (took_s := time.perf_counter() - began) < seconds:
        await demand.publish(events)
        rounds += 1
    return rounds * EVENTS / took_s


def _told(name: str, demand: Demand, rate: float, peers: Sequence[Peer]) -> Measurement:
    ledgers = [flow.ledger for flow in demand.flows.values()]
    busy = [ledger for ledger in ledgers if ledger.out]
    chosen = sum(ledger.out for ledger in busy) / sum(ledger.offered for ledger in busy)
    notes = [f"{len(ledgers)} subscriptions, {len(busy)} of them choose {chosen:.2%} of the events each"]
    defects = [] if all(ledger.balanced for ledger in ledgers) else ["an edge does not balance"]
    return Measurement(name, rate, "events/s", GOAL, peers, notes, defects)


async def _over_nats(events: Batch, ports: Sequence[int], seconds: float) -> Measurement:
    """Measure with a nats-server and a subscriber, beside the same choice by subjects of NATS."""
    held = events.columns["destination.port"]
    fields = ("source.ip", "network.bytes")
    messages = [
        (int(str(held.at(row))), msgspec.json.encode({name: events.columns[name].at(row) for name in fields}))
        for row in range(EVENTS)
    ]
    peer = await subject_filter.measure(messages, ports, seconds)
    conditions = [f"destination.port = {port}" for port in ports]
    wanted = [subjects.flow("eddy", name) for name in _demand(MemoryBroker().connect(), conditions).flows]
    async with subject_filter.server_with_subscriber(wanted) as url:
        bus = await connect(url, name="bench")
        demand = _demand(bus, conditions)
        rate = await _rate(demand, events, seconds)
        await bus.flush()
        await bus.close()
    return _told(f"select over NATS, {len(ports)}", demand, rate, [peer])


def _one_by_one(events: Batch, conditions: Sequence[str]) -> float:
    matchers = [matcher(compile_statement(f"SELECT * WHERE {each}", now_ns=NOW_NS)) for each in conditions]
    rounds = 0
    began = time.perf_counter()
    while (took_s := time.perf_counter() - began) < LEAST_S:
        for match in matchers:
            np.flatnonzero(match(events))
        rounds += 1
    return rounds * EVENTS / took_s


def _plain(events: Batch) -> float:
    names = list(events.columns)
    rows: list[Event] = [{name: events.columns[name].at(row) for name in names} for row in range(PEER_EVENTS)]
    conditions = [condition for _, condition in subscriptions()]
    rounds = 0
    began = time.perf_counter()
    while (took_s := time.perf_counter() - began) < LEAST_S:
        for event in rows:
            for condition in conditions:
                condition(event)
        rounds += 1
    return rounds * len(rows) / took_s
