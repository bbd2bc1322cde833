"""NetFlow v9 on UDP, cooked, archived, and selected for one live subscriber: the highest rate without loss."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import nfcapd
import plain_nats
from accounts import Verdict, archived, check
from measurement import Goal, Measurement, Peer
from rig import REPOSITORY, free_port, running, send, subscribed

RATES = (100_000, 200_000, 300_000, 400_000, 500_000, 550_000, 600_000, 700_000, 850_000, 1_000_000, 1_200_000,
         1_400_000, 1_700_000, 2_000_000, 2_500_000)  # fmt: skip
"""Flows/s that are tried in turn."""
GOAL = Goal(500_000, 2_000_000)
STATEMENT = "SELECT source.ip, destination.ip, network.bytes WHERE destination.port = 22"
MAX_DRAIN_S = 2.0
"""Something still moves so long after the last flow was sent: the rate was not sustained but put off."""
LEAST_SHARE = 0.97
"""Of the wanted rate; below it the sender, not the mesh, is what is measured."""
AGENTS = """
[agents.in]
type = "normalizer"
source = "netflow"
[agents.in.config]
listen = ["127.0.0.1:%d"]
port_taken = "fail"

[agents.cook]
type = "transformer"
cooking = "netflow"

[agents.archive]
type = "archive"
[agents.archive.config.store]
max_held_rows = 3_000_000  # three files' worth: an archive that falls behind is seen in a short run
"""


@dataclass(frozen=True)
class Step:
    """One rate that was tried."""

    wanted: float
    rate: float
    verdict: Verdict
    shares: str


async def run(seconds: float) -> AsyncIterator[Measurement]:
    """Measure synthetic flows, then a real export where there is one."""
    peers = [await plain_nats.flows(seconds)]
    yield await _measure("flows", seconds, "", peers)
    capture = capture_file()
    if capture is not None:
        yield await _measure("flows, softflowd export", seconds, str(capture), [])


def capture_file() -> Path | None:
    """Return the capture of a real export in the corpus, or None where it is absent."""
    corpus = Path(os.environ.get("EDDY_CORPUS", REPOSITORY.parent / "shared" / "data"))
    found = corpus / "detection" / "scan-dos-run" / "flow_v9_export.pcap"
    return found if found.is_file() else None


async def _measure(name: str, seconds: float, capture: str, peers: list[Peer]) -> Measurement:
    best, failed = await _climb(seconds, capture)
    notes: list[str] = []
    defects: list[str] = []
    if best is not None:
        notes.append(f"at {best.rate:,.0f} flows/s for {seconds:g} s: {best.shares}")
    if failed is not None:
        notes.append(
            f"not sustained at {failed.wanted:,.0f} flows/s: {'; '.join(failed.verdict.lost) or 'see defects'}"
        )
        defects += failed.verdict.defects
    if nfcapd.is_installed():
        peers = [await _peer(seconds, capture), *peers]
    return Measurement(name, best.rate if best else 0.0, "flows/s", GOAL, peers, notes, defects)


async def _climb(seconds: float, capture: str) -> tuple[Step | None, Step | None]:
    """Return the highest rate that was sustained, and the first that was not, twice."""
    best: Step | None = None
    for wanted in RATES:
        step = await _try(wanted, seconds, capture)
        if not step.verdict.is_clean:
            step = await _try(wanted, seconds, capture)  # once may be another program's doing
        if not step.verdict.is_clean:
            return best, step
        best = step
    return best, None


async def _try(wanted: float, seconds: float, capture: str) -> Step:
    port = free_port(socket.SOCK_DGRAM)
    async with running(AGENTS % port) as rig, subscribed(rig, STATEMENT) as received:
        rig.begin()
        sent = await send("flows", port, wanted, seconds, *([capture] if capture else []))
        status, drain_s = await rig.settle()
        spent, window_s = rig.spent(), rig.window_s()
        told = await received()
    events, rate = int(sent["events"]), sent["events"] / sent["seconds"]
    verdict = check(status, sent=int(sent["sent"]), events=events, event_type="netflow.v9", received=told)
    if drain_s > MAX_DRAIN_S:
        verdict.lost.append(f"it took {drain_s:.1f} s more to take in what was sent")
    if rate < LEAST_SHARE * wanted:
        verdict.lost.append(f"the sender reached {rate:,.0f} flows/s only")
    rows, _ = archived(status)
    if verdict.is_clean and rows < events:
        verdict.defects.append(f"the archive holds {rows:,} of {events:,} flows")
    spent |= {"subscriber": float(str(told["cpu_s"])), "sender": sent["cpu_s"]}
    shares = ", ".join(f"{who} {cpu / window_s:.0%}" for who, cpu in spent.items())
    costs = ", ".join(f"{who} {cpu / events * 1e6:.2f}" for who, cpu in spent.items())
    text = f"of a core over {window_s:.1f} s: {shares}; CPU s a million flows: {costs}; drained in {drain_s:.1f} s"
    return Step(wanted, rate, verdict, text)


async def _peer(seconds: float, capture: str) -> Peer:
    """Return the highest rate that nfcapd stores without loss; it selects nothing and serves no subscriber."""
    best = 0.0
    note = "lost flows at the lowest rate"
    for wanted in RATES:
        with tempfile.TemporaryDirectory(prefix="eddy-bench-") as folder:
            done = await nfcapd.collect(Path(folder) / "flows", wanted, seconds, capture)
        if done.stored < done.sent or done.rate < LEAST_SHARE * wanted:
            break
        best, note = done.rate, f"no select, no subscriber; {done.cpu_s / done.sent * 1e6:.2f} CPU s a million flows"
        await asyncio.sleep(0)
    return Peer(nfcapd.NAME, best, note)
