"""From source to subscriber at 20,000 events/s: a stamped syslog line is sent, cooked, archived and tapped."""

from __future__ import annotations

from collections.abc import AsyncIterator

import plain_nats
from accounts import check
from lines import AGENTS_TCP
from measurement import Goal, Measurement, Peer
from rig import free_port, running, send, subscribed

RATE = 20_000
STATEMENT = "SELECT message WHERE process.name = 'bench'"
GOALS = {"p50": Goal(more_is_better=False), "p99": Goal(15, 4, more_is_better=False)}


async def run(seconds: float) -> AsyncIterator[Measurement]:
    """Measure p50 and p99; sender and subscriber read the same clock."""
    port = free_port()
    async with running(AGENTS_TCP % port) as rig, subscribed(rig, STATEMENT) as received:
        sent = await send("stamped", port, RATE, seconds)
        status, _ = await rig.settle()
        told = await received()
    count = int(sent["sent"])
    verdict = check(status, sent=count, events=count, event_type="syslog", received=told)
    notes = [f"{count / sent['seconds']:,.0f} events/s, slowest {told['worst_ms']:.1f} ms"]
    plain = await plain_nats.latency(RATE, seconds)
    for name, goal in GOALS.items():
        peers = [Peer(plain_nats.NAME, plain[f"{name}_ms"], "one JSON event a message; not cooked, not archived")]
        value = float(str(told[f"{name}_ms"]))
        yield Measurement(f"latency {name}", value, "ms", goal, peers, notes, [*verdict.lost, *verdict.defects])
        notes = []
