"""Applying a topology to host processes that run: one edge on three hosts under load, and 200 agents on 20 hosts."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

from measurement import Goal, Measurement
from rig import BenchError, Rig, beside, free_port, running, send

RATE = 20_000
CHANGES = 10
HOSTS, AGENTS = 20, 10
MANAGED = """
[agents.agent-manager]
type = "agent_manager"
"""
MANAGING = (
    MANAGED
    + """
[agents.backplane-manager]
type = "backplane_manager"
"""
)
STATEMENTS = ("SELECT *", "SELECT * WHERE process.name = 'bench'")
"""Both let everything through that the load makes."""


async def run(seconds: float) -> AsyncIterator[Measurement]:
    """Measure both; a change is in force when the manager says that it is settled everywhere."""
    yield await _one_edge(seconds)
    yield await _many_agents()


async def _one_edge(seconds: float) -> Measurement:
    port = free_port()
    async with running(MANAGING) as rig, beside(rig, "edge-1", MANAGED), beside(rig, "edge-2", MANAGED):
        await _apply(rig, _chain(port, STATEMENTS[0]))
        loading = asyncio.create_task(send("stamped", port, RATE, max(seconds, CHANGES * 0.5)))
        took: list[float] = []
        for number in range(CHANGES):
            await asyncio.sleep(0.3)
            took.append(await _apply(rig, _chain(port, STATEMENTS[(number + 1) % 2])))
        sent = int((await loading)["sent"])
        stored = await _stored(rig, sent)
    defects = [] if stored == sent else [f"{sent:,} events were sent, {stored:,} are in the archive"]
    notes = [f"{CHANGES} changes, longest {max(took):.3f} s; {sent:,} events sent meanwhile, {stored:,} archived"]
    goal = Goal(1, more_is_better=False)
    return Measurement("apply one edge, 3 hosts", statistics.median(took), "s", goal, [], notes, defects)


def _chain(port: int, statement: str) -> dict[str, object]:
    """Return a manifest: lines into one host, cooked on the second, archived on the third."""
    listen = {"listen_tcp": [f"127.0.0.1:{port}"], "listen_udp": []}
    return {
        "agents": {
            "in": {"type": "normalizer", "source": "syslog", "host": "edge-1", "config": listen},
            "cook": {"type": "transformer", "cooking": "syslog", "host": "edge-2"},
            "store": {"type": "archive", "host": "bench"},
        },
        "edges": {
            "raw": {"from": "in", "to": "cook"},
            "cooked": {"from": "cook", "to": "store", "statement": statement},
        },
    }


async def _many_agents() -> Measurement:
    names = [f"h{number}" for number in range(HOSTS)]
    agents: dict[str, object] = {}
    edges: dict[str, object] = {}
    for host in names:
        for number in range(AGENTS):
            agent = {"type": "transformer", "cooking": "sample", "host": host}
            if number == 0:
                agent["subscribe"] = ["SELECT * FROM network"]  # type: ignore[assignment]  # TOML tables are mixed
            agents[f"{host}-{number}"] = agent
            if number:
                edges[f"e-{host}-{number}"] = {
                    "from": f"{host}-{number - 1}",
                    "to": f"{host}-{number}",
                    "statement": "SELECT *",
                }
    async with running(MANAGING) as rig, AsyncExitStack() as stack:
        for name in names:
            await stack.enter_async_context(beside(rig, name, MANAGED))
        took = await _apply(rig, {"agents": agents, "edges": edges})
    notes = [f"{HOSTS * AGENTS} agents and {len(edges)} edges on {HOSTS} host processes that ran already"]
    return Measurement("apply 200 agents, 20 hosts", took, "s", Goal(20, more_is_better=False), [], notes)


async def _apply(rig: Rig, manifest: dict[str, object]) -> float:
    """Apply and return how long that took, s."""
    began = time.perf_counter()
    request = {"manifest": manifest, "who": "bench", "terms": {"observe_s": 0}}
    last: object = None
    async for row in rig.mesh.ask("backplane_manager", "apply", request):
        last = row.get("step")
    if last != "applied":
        raise BenchError(f"the topology was not applied: it ended with {last}")
    return time.perf_counter() - began


async def _stored(rig: Rig, sent: int) -> int:
    """Return how many events are in the archive, once nothing comes any more."""
    count, until = -1, time.monotonic() + 30
    while time.monotonic() < until:
        await asyncio.sleep(1)
        rows = rig.mesh.query("SELECT count(*) FROM system.syslog SINCE '2000-01-01'")
        (row,) = [event async for event in rows]
        before, count = count, int(str(row["count(*)"]))
        if count in {sent, before}:
            return count
    return count
