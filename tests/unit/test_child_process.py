"""A child process of an earlier life of its host process, which must have ended before the next one starts."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from eddy_mesh.runtime import child_process
from eddy_mesh.runtime.child_process import Note, _end_earlier, spawn


@pytest.fixture
def earlier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A process that does not end when nobody is left above it, and the note of it; nobody waits long."""
    monkeypatch.setattr(child_process, "END_S", 0.02)
    monkeypatch.setattr(child_process, "POLL_S", 0.001)
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    note = tmp_path / "edge.a.pid"
    note.write_bytes(msgspec.json.encode(Note(process.pid, "then")))
    yield process, note
    process.kill()
    process.wait()


async def test_a_killed_process_is_waited_for(
    earlier: tuple[subprocess.Popen[bytes], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else two would have one state directory for as long as the system takes to end the first."""
    process, note = earlier
    looks_after = 0

    def process_start(pid: int) -> str:
        nonlocal looks_after
        assert pid == process.pid
        if process.poll() is not None:
            looks_after += 1
        return "then" if looks_after < 4 else ""

    monkeypatch.setattr(child_process, "process_start", process_start)
    await _end_earlier(note)
    assert looks_after == 4
    await _end_earlier(note)
    assert looks_after == 5, "one that is gone is not waited for"


async def test_no_second_process_starts_beside_one_that_can_not_be_ended(
    earlier: tuple[subprocess.Popen[bytes], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is told, and tried again as any start that fails."""
    monkeypatch.setattr(child_process, "process_start", lambda _: "then")
    with pytest.raises(OSError, match="was killed and has not ended"):
        await spawn(earlier[1].with_suffix(".toml"), lambda _: None)
