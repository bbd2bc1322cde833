"""What a source remembers over restarts."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import msgspec
import pytest

from eddy_mesh.checkpoint import CheckpointFile
from eddy_mesh.memory_outlet import MemoryOutlet


class Place(msgspec.Struct, frozen=True):
    """A place in some input."""

    offset: int


@pytest.fixture
async def outlet(tmp_path: Path) -> MemoryOutlet:
    return MemoryOutlet(tmp_path)


def found(outlet: MemoryOutlet) -> Place | None:
    """Return what the next run finds."""
    return CheckpointFile(outlet, Place).found


async def test_the_next_run_finds_what_was_kept(outlet: MemoryOutlet) -> None:
    """The last value is there, and the file that it was written to first is not."""
    file = CheckpointFile(outlet, Place)
    assert file.found is None
    await file.keep(Place(1))
    await file.keep(Place(2))
    assert found(outlet) == Place(2)
    assert [path.name for path in outlet.state.iterdir()] == ["checkpoint.json"]


@pytest.mark.parametrize("damaged", [b"", b"{}", b"[1]", b"\xff", b'{"offset":1', b"\0" * 20, b"[" * 100_000])
async def test_a_damaged_file_is_told_and_begins_anew(damaged: bytes, outlet: MemoryOutlet) -> None:
    """Whatever is in the file: the source starts as if it had none, the operator is told, and the next one is whole."""
    (outlet.state / "checkpoint.json").write_bytes(damaged)
    file = CheckpointFile(outlet, Place)
    assert file.found is None
    (told,) = outlet.told("checkpoint_unreadable")
    assert told == {"file.path": str(outlet.state / "checkpoint.json"), "error.message": told["error.message"]}
    assert told["error.message"]
    await file.keep(Place(1))
    assert found(outlet) == Place(1)


async def test_it_is_written_after_what_it_covers_was_taken(outlet: MemoryOutlet) -> None:
    """While events wait there is no new checkpoint; what is written already is not written again."""
    file = CheckpointFile(outlet, Place)
    outlet.gate.clear()
    keeping = asyncio.create_task(file.keep(Place(1)))
    await asyncio.sleep(0)
    assert found(outlet) is None
    outlet.gate.set()
    await keeping
    assert (found(outlet), outlet.settlements) == (Place(1), 1)
    await file.keep(Place(1))
    await CheckpointFile(outlet, Place).keep(Place(1))
    assert outlet.settlements == 1


async def test_a_write_that_was_broken_off_ends_before_the_next(
    outlet: MemoryOutlet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop during a write and the last checkpoint after it do not write into one file at the same time."""
    may_sync, fsync = threading.Event(), os.fsync

    def slow(descriptor: int) -> None:
        may_sync.wait(10)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    file = CheckpointFile(outlet, Place)
    first = asyncio.create_task(file.keep(Place(1)))
    await outlet.until(lambda: outlet.settlements)
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    last = asyncio.create_task(file.keep(Place(2)))
    await asyncio.sleep(0)
    assert outlet.settlements == 1  # it waits for the first
    may_sync.set()
    await last
    assert found(outlet) == Place(2)
