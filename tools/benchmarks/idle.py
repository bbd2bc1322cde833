"""A host process that has nothing to do: one normalizer (syslog) and one transformer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import psutil
import rsyslog
from measurement import Goal, Measurement, Peer
from rig import cpu_s, free_port, running

MEMORY = Goal(70, 50, more_is_better=False)
PROCESSOR = Goal(1, 0.3, more_is_better=False)
LEAST_S = 20.0
WARM_UP_S = 3.0
AGENTS = """
[agents.in]
type = "normalizer"
source = "syslog"
[agents.in.config]
listen_udp = ["127.0.0.1:%d"]
listen_tcp = ["127.0.0.1:%d"]

[agents.cook]
type = "transformer"
cooking = "syslog"
"""


async def run(seconds: float) -> AsyncIterator[Measurement]:
    """Measure resident memory and the share of a core, over 20 s at least."""
    seconds = max(seconds, LEAST_S)
    async with running(AGENTS % (free_port(), free_port())) as rig:
        await asyncio.sleep(WARM_UP_S)
        before = cpu_s(rig.host.pid)
        await asyncio.sleep(seconds)
        share = (cpu_s(rig.host.pid) - before) / seconds * 100
        memory = psutil.Process(rig.host.pid).memory_info().rss / 1e6
    peers = await rsyslog.idle(seconds) if rsyslog.is_installed() else None
    note = "one input, no bus, no select"
    yield Measurement("idle memory", memory, "MB", MEMORY, [Peer(rsyslog.NAME, peers[0], note)] if peers else [])
    yield Measurement("idle CPU", share, "% of a core", PROCESSOR, [Peer(rsyslog.NAME, peers[1])] if peers else [])
