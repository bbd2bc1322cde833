"""The storm, small: ``tools/storm`` as a user runs it."""

from __future__ import annotations

import asyncio
import shutil
import sys
from asyncio.subprocess import DEVNULL, PIPE
from pathlib import Path

import msgspec
import pytest

pytestmark = pytest.mark.e2e

TOOL = Path(__file__).parent.parent.parent / "tools" / "storm"
LONGEST_S = 150.0


class Sink(msgspec.Struct):
    """What is read of a sink."""

    sink: str
    sent: int
    received: int
    missing: int
    repeated: int
    counted_gap: int


class Report(msgspec.Struct):
    """What is read of the report."""

    is_proved: bool
    sinks: list[Sink]
    changes: list[dict[str, object]]
    kills: list[dict[str, object]]
    unbalanced: list[str]
    problems: list[str]


async def storm(*options: str) -> tuple[int, Report]:
    """Run the tool; return its exit status and its report."""
    process = await asyncio.create_subprocess_exec(str(TOOL), "--json", *options, stdin=DEVNULL, stdout=PIPE)
    try:
        async with asyncio.timeout(LONGEST_S):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.terminate()  # it ends all that it started
            await process.wait()
    return process.returncode or 0, msgspec.json.decode(output, type=Report)


@pytest.mark.slow
@pytest.mark.timeout(LONGEST_S + 20)
@pytest.mark.skipif(sys.platform != "linux", reason="tools/storm kills processes and makes networks as Linux has them")
@pytest.mark.skipif(shutil.which("bash") is None, reason="tools/storm is a bash script")
async def test_changes_and_kills_lose_and_double_nothing() -> None:
    """Six kinds of change and a kill while events flow: each event is in each sink once, and every edge balances."""
    options = ("--seconds", "6", "--rate", "2000", "--changes", "6", "--kills", "1", "--cuts", "0")
    status, told = await storm(*options, "--seed", "7")
    assert told.is_proved, told
    assert status == 0
    assert [(sink.sent, sink.received, sink.missing, sink.repeated) for sink in told.sinks] == [
        (12_000, 12_000, 0, 0)
    ] * 2
    assert (len(told.changes), len(told.kills)) == (6, 1)


@pytest.mark.slow
@pytest.mark.timeout(LONGEST_S + 20)
@pytest.mark.skipif(sys.platform != "linux", reason="tools/storm kills processes and makes networks as Linux has them")
@pytest.mark.skipif(shutil.which("bash") is None, reason="tools/storm is a bash script")
async def test_losses_on_live_edges_are_counted_to_the_event() -> None:
    """A leaf server is killed: durable edges lose nothing, live ones count exactly what is not there."""
    options = ("--seconds", "4", "--rate", "2000", "--changes", "0", "--kills", "0", "--cuts", "1", "--loopback")
    status, told = await storm(*options, "--seed", "7")
    assert told.is_proved, told
    assert status == 0
    kept, seen = told.sinks
    assert (kept.missing, kept.repeated) == (0, 0)
    assert (seen.missing, seen.repeated) == (seen.counted_gap, 0)
