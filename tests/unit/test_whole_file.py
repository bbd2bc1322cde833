"""Files that are whole or not there: after an error, beside a leftover, and at a power failure."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest

from eddy_mesh.whole_file import write_whole


def test_what_was_there_stands_when_the_new_can_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails half-way leaves the old file, and no piece of the new one that takes room."""
    path = tmp_path / "held.json"
    write_whole(path, b"old", synced=False)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, b"new", synced=True)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_must_outlive_the_power_is_on_disk_before_its_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The content is synced while the name still is that of the old file, and then the name; else nothing is."""
    path = tmp_path / "held.json"
    path.write_bytes(b"old")
    seen: list[tuple[bool, bytes]] = []

    def look(descriptor: int) -> None:
        seen.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), path.read_bytes()))

    monkeypatch.setattr(os, "fsync", look)
    write_whole(path, b"new", synced=True)
    assert seen == [(False, b"old"), *([(True, b"new")] if sys.platform != "win32" else [])]
    write_whole(path, b"newer", synced=False)
    assert len(seen) <= 2
    assert path.read_bytes() == b"newer"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such rights")
def test_a_leftover_of_a_crash_gives_its_rights_to_nobody(tmp_path: Path) -> None:
    """A secret is never written into a file that others may read, whoever has left that."""
    path = tmp_path / "held.json"
    leftover = path.with_suffix(".part")
    leftover.write_bytes(b"a longer text than the new one")
    leftover.chmod(0o666)
    write_whole(path, b"secret", synced=False, mode=0o600)
    assert path.read_bytes() == b"secret"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
