"""Syslog lines over TCP and from a file, cooked, archived, and selected for one live subscriber: the highest rate."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import rsyslog
from accounts import Verdict, archived, check
from load import CHUNK_LINES, lines
from measurement import Goal, Measurement, Peer
from rig import Rig, free_port, running, send, subscribed

GOAL = Goal(200_000, 600_000)
STATEMENT = "SELECT host, message WHERE event.outcome = 'failure'"
UNLIMITED = 1e9
LINES_A_SECOND = 200_000
"""A file holds so many lines for each second that the benchmark is to last."""
SINK = """
[agents.cook]
type = "transformer"
cooking = "%s"

[agents.archive]
type = "archive"
[agents.archive.config.store]
max_held_rows = 3_000_000
"""
AGENTS_TCP = (
    """
[agents.in]
type = "normalizer"
source = "syslog"
[agents.in.config]
listen_udp = []
listen_tcp = ["127.0.0.1:%d"]
port_taken = "fail"
"""
    + SINK % "syslog"
)
AGENTS_FILE = (
    """
[agents.in]
type = "normalizer"
source = "file"
[agents.in.config]
include = ["{state}/*.log.txt"]
start = "beginning"
discover_s = 0.2
"""
    + SINK % "file"
)


async def run(seconds: float) -> AsyncIterator[Measurement]:
    """Measure TCP, then a file; the mesh holds the sender back, so one run finds the rate."""
    yield await _from_tcp(seconds)
    yield await _from_file(seconds)


async def _from_tcp(seconds: float) -> Measurement:
    port = free_port()
    async with running(AGENTS_TCP % port) as rig, subscribed(rig, STATEMENT) as received:
        rig.begin()
        sent = await send("lines", port, UNLIMITED, seconds)
        status, drain_s = await rig.settle()
        spent, window_s = rig.spent(), rig.window_s()
        count = int(sent["sent"])
        verdict = check(status, sent=count, events=count, event_type="syslog", received=await received())
    took_s = sent["seconds"] + drain_s
    peers = []
    if rsyslog.is_installed():
        peers = [Peer(rsyslog.NAME, await rsyslog.from_tcp(seconds), "the same lines to a file as JSON; no select")]
    return _measured("lines, TCP", count, took_s, spent, window_s, verdict, archived(status)[0], peers)


async def _from_file(seconds: float) -> Measurement:
    count = int(seconds * LINES_A_SECOND)
    text = b"".join(lines(CHUNK_LINES * 20)) * max(1, count // (CHUNK_LINES * 20))
    count = text.count(b"\n")
    async with running(AGENTS_FILE) as rig, subscribed(rig, STATEMENT) as received:
        rig.begin()
        began = time.perf_counter()
        _appear(rig.state / "input.log.txt", text)
        took_s = await _until_taken(rig, count, began)
        status, _ = await rig.settle()
        spent, window_s = rig.spent(), rig.window_s()
        verdict = check(status, sent=count, events=count, event_type="file", received=await received())
    peers = []
    if rsyslog.is_installed():
        with tempfile.TemporaryDirectory(prefix="eddy-bench-") as folder:
            note = "the same file to a file as JSON; no select"
            peers = [Peer(rsyslog.NAME, await rsyslog.from_file(Path(folder), text, count), note)]
    return _measured("lines, file", count, took_s, spent, window_s, verdict, archived(status)[0], peers)


def _appear(path: Path, text: bytes) -> None:
    """Let a file appear whole."""
    partial = path.with_suffix(".part")
    partial.write_bytes(text)
    partial.rename(path)


async def _until_taken(rig: Rig, count: int, began: float) -> float:
    """Return how long it took until the archive held so many events, s."""
    while archived(await rig.status())[0] < count:
        if time.perf_counter() - began > 30 + count / 10_000:
            break  # what is missing is told by the accounts
        await asyncio.sleep(0.1)
    return time.perf_counter() - began


def _measured(
    name: str,
    count: int,
    took_s: float,
    spent: dict[str, float],
    window_s: float,
    verdict: Verdict,
    rows: int,
    peers: list[Peer],
) -> Measurement:
    shares = ", ".join(f"{who} {cpu / window_s:.0%}" for who, cpu in spent.items())
    defects = [*verdict.lost, *verdict.defects]
    if rows < count:
        defects.append(f"the archive holds {rows:,} of {count:,} lines")
    return Measurement(
        name, count / took_s, "lines/s", GOAL, peers, [f"of a core over {window_s:.1f} s: {shares}"], defects
    )
