"""From source to subscriber at 20,000 events/s: a stamped syslog line is sent, cooked, archived and tapped.

Runs alternate with the peer's, and of each the median counts: what else the machine does moves a 99th percentile more
than any program here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from statistics import median

import plain_nats
from accounts import Verdict, check
from lines import AGENTS_TCP
from measurement import Goal, Measurement, Peer
from rig import BenchError, free_port, running, send, subscribed

RATE = 20_000
RUNS = 5
STATEMENT = "SELECT message WHERE process.name = 'bench'"
GOALS = {"p50": Goal(more_is_better=False), "p99": Goal(15, 4, more_is_better=False)}


async def run(seconds: float) -> AsyncIterator[Measurement]:
    """Measure p50 and p99; sender and subscriber read the same clock."""
    ours, plain, defects = [], [], []
    for _ in range(RUNS):
        told, verdict = await _run_once(seconds)
        ours.append(told)
        defects += [*verdict.lost, *verdict.defects]
        plain.append(await plain_nats.latency(RATE, seconds))
    for name, goal in GOALS.items():
        key = f"{name}_ms"
        peers = [Peer(plain_nats.NAME, _median(plain, key), f"{_runs(plain, key)}; not cooked, not archived")]
        notes = [f"median of {RUNS} runs of {seconds:g} s at {RATE:,} events/s: {_runs(ours, key)}"]
        yield Measurement(f"latency {name}", _median(ours, key), "ms", goal, peers, notes, defects)


async def _run_once(seconds: float) -> tuple[Mapping[str, float], Verdict]:
    port = free_port()
    async with running(AGENTS_TCP % port) as rig, subscribed(rig, STATEMENT) as received:
        sent = await send("stamped", port, RATE, seconds)
        status, _ = await rig.settle()
        told = await received()
    count = int(sent["sent"])
    if "p50_ms" not in told:  # the subscriber leaves out what came in the first second
        raise BenchError(f"no stamped event came after the first second; let it run longer than {seconds:g} s")
    percentiles = {name: float(str(told[name])) for name in ("p50_ms", "p99_ms")}
    return percentiles, check(status, sent=count, events=count, event_type="syslog", received=told)


def _median(runs: Sequence[Mapping[str, float]], key: str) -> float:
    return median(one[key] for one in runs)


def _runs(runs: Sequence[Mapping[str, float]], key: str) -> str:
    return ", ".join(f"{one[key]:.1f}" for one in runs)
