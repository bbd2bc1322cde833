"""What every source keeps: it runs in a host process, ends in time when it is told to, and leaves nothing open."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path
from types import ModuleType

import msgspec

from eddy_mesh.cer import Stage
from eddy_mesh.commands import Command, State
from eddy_mesh.runtime.host import Host

END_S = 3.0
"""Longest time that a source may take to end."""
ENDPOINT = re.compile(r"(\*|[\d.]+|\[[\da-f:]+\]):\d+")
DESCRIPTORS = Path("/proc/self/fd")


def settings(source: ModuleType) -> dict[str, object]:
    """Return settings with which a source disturbs nobody: every endpoint is a free port of the loopback address."""
    changed: dict[str, object] = {}
    for member in msgspec.structs.fields(source.Config):
        value = getattr(source.Config(), member.name)
        if isinstance(value, tuple) and value and all(ENDPOINT.fullmatch(str(text)) for text in value):
            changed[member.encode_name] = ["127.0.0.1:0"]
    return changed


async def launched(host: Host, source: ModuleType) -> State:
    """Start a source and return its state once it has one other than ``starting``."""
    name = source.__name__.rsplit(".", 1)[-1]
    agent = {"type": "normalizer", "source": name, "config": settings(source)}
    await host.configure({"in": agent})
    cell = host.cells["in"]
    while cell.state_now is State.STARTING:
        await host.status_changed.wait()
        host.status_changed.clear()
    for _ in range(20):  # its first steps, in which it opens what it needs
        await asyncio.sleep(0)
    return cell.state_now


def open_descriptors() -> set[str]:
    """Return what this process has open, by number and target; nothing where the system does not say."""
    if not DESCRIPTORS.is_dir():
        return set()
    found = set()
    for path in DESCRIPTORS.iterdir():
        try:
            found.add(f"{path.name} {path.readlink()}")
        except FileNotFoundError:
            continue  # that of the listing itself
    return {text for text in found if not text.endswith(f"/{os.getpid()}/fd")}


def test_gives_raw_events(source: ModuleType) -> None:
    """A source says which raw events it gives."""
    assert source.OUTPUT.stage is Stage.RAW
    assert re.fullmatch(r"[a-z0-9_]+(\.[a-z0-9_]+)*", source.OUTPUT.type)


async def test_ends_when_told_and_leaves_nothing_open(source: ModuleType, host: Host) -> None:
    """On free ports a source starts or says which setting it needs; drained, it ends in time and has nothing open."""
    before = open_descriptors()
    state = await launched(host, source)
    cell = host.cells["in"]
    if state is State.FAILED:
        assert cell.reason
        assert cell.restarts == 0, "what can not work here is not tried again: raise ConfigError"
    else:
        async with asyncio.timeout(END_S):
            await cell.command(Command.DRAIN)
        assert cell.state_now is State.STOPPED
    assert open_descriptors() <= before
    assert all(ledger.balanced for ledger in cell.ledgers())
