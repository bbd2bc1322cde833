"""Select at the producer: fifty subscriptions, each of which chooses one event in a hundred."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import msgspec
import numpy as np
from measurement import Goal, Measurement, Peer

from eddy_mesh.actor.numbering import Numbering
from eddy_mesh.agent import Draft
from eddy_mesh.batch import Batch, Kind
from eddy_mesh.bus_memory import MemoryBroker
from eddy_mesh.cer import EventClass, Stage
from eddy_mesh.columns import Addresses, Column, Numbers, Words
from eddy_mesh.flows import Lease, flow_id
from eddy_mesh.runtime.demand import Demand
from eddy_mesh.selection import compile_statement

GOAL = Goal(2_000_000, 10_000_000)
EVENTS = 256 * 28
"""One batch, as a full drain of NetFlow datagrams gives it."""
NOW_NS = 1_790_000_000_000_000_000
Event = dict[str, Any]
PEER_EVENTS = 1000
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
        "network.transport": Words(draw.integers(0, 2, EVENTS).astype(np.uint8), ("tcp", "udp")),
    }
    return Numbering("eddy/bench/cook", "bench", 1_790_000_000).number(Draft(kind, EVENTS, columns), NOW_NS)


async def run(seconds: float) -> AsyncIterator[Measurement]:
    """Measure the table of subscriptions of a host process, publishing included."""
    wanted = [f"SELECT source.ip, network.bytes WHERE {condition}" for condition, _ in subscriptions()]
    events = batch()
    demand = Demand(MemoryBroker().connect(), "eddy", "bench")
    for statement in wanted:
        plan = compile_statement(statement, now_ns=NOW_NS)
        demand.subscribe(msgspec.json.encode(Lease(flow_id(plan, "columns"), statement, "bench")), NOW_NS)
    rounds = 0
    began = time.perf_counter()
    while (took_s := time.perf_counter() - began) < seconds:
        await demand.publish(events)
        rounds += 1
    chosen = sum(flow.ledger.out for flow in demand.flows.values()) / (rounds * EVENTS * len(demand.flows))
    notes = [f"{len(demand.flows)} subscriptions, {chosen:.2%} of the events each; select, project, encode and publish"]
    defects = [] if all(f.ledger.balanced for f in demand.flows.values()) else ["an edge does not balance"]
    peer = Peer("plain Python", _plain(events), "the same conditions on dict events; select only")
    yield Measurement("select", rounds * EVENTS / took_s, "events/s", GOAL, [peer], notes, defects)


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
