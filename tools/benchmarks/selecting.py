"""Select at the producer: fifty subscriptions, each of which chooses one event in a hundred."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from ipaddress import IPv4Address

import msgspec
import numpy as np

from eddy_mesh.actor.numbering import Numbering
from eddy_mesh.agent import Draft
from eddy_mesh.batch import Batch, Kind
from eddy_mesh.bus_memory import MemoryBroker
from eddy_mesh.cer import EventClass, Stage
from eddy_mesh.columns import Addresses, Numbers, Words
from eddy_mesh.flows import Lease, flow_id
from eddy_mesh.runtime.demand import Demand
from eddy_mesh.selection import compile_statement
from measurement import Goal, Measurement, Peer

GOAL = Goal(2_000_000, 10_000_000)
EVENTS = 256 * 28
"""One batch, as a full drain of NetFlow datagrams gives it."""
NOW_NS = 1_790_000_000_000_000_000
Event = dict[str, object]
PEER_EVENTS = 1000
LEAST_S = 0.5


def subscriptions() -> list[tuple[str, Callable[[Event], bool]]]:
    """Return conditions, each true for one event in a hundred of `batch`, with the same as plain Python."""
    made: list[tuple[str, Callable[[Event], bool]]] = []
    for n in range(20):
        made.append((f"destination.port = {1000 + n}", lambda event, n=n: event["destination.port"] == 1000 + n))
    for n in range(10):
        start = int(IPv4Address(f"10.0.{n}.0"))
        made.append((
            f"source.ip IN CIDR '10.0.{n}.0/24'",
            lambda event, start=start: start <= int(IPv4Address(event["source.ip"])) < start + 256,  # type: ignore[arg-type]
        ))  # fmt: skip
    for n in range(10):
        low, high = n * 10_000, n * 10_000 + 9_999
        made.append((
            f"network.bytes BETWEEN {low} AND {high}",
            lambda event, low=low, high=high: low <= event["network.bytes"] <= high,  # type: ignore[operator]
        ))  # fmt: skip
    for n in range(10):
        made.append((
            f"network.transport = 'tcp' AND destination.port IN ({2 * n + 1000}, {2 * n + 1001})",
            lambda event, n=n: event["network.transport"] == "tcp"
            and event["destination.port"] in {2 * n + 1000, 2 * n + 1001},
        ))  # fmt: skip
    return made


def batch() -> Batch:
    """Return flows whose ports, networks and sizes are evenly spread over a hundred values each."""
    draw = np.random.default_rng(7)
    kind = Kind(Stage.COOKED, EventClass.NETWORK, "netflow.v9")
    columns = {
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
