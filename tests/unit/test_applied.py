"""What was settled last, as a file: read as it was written, told from none and from a damaged one, and durable."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from eddy_mesh.config import Serving
from eddy_mesh.errors import StoreError
from eddy_mesh.topology.applied import FILE, Applied, read, write

APPLIED = Applied(3, {"cook": {"type": "transformer"}}, {"a.x": {}}, {"e": Serving(3, ("a/cook",))}, ("site",))


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    """None where nothing was applied; then the newest."""
    assert read(tmp_path) is None
    write(tmp_path, Applied(2, {}))
    write(tmp_path, APPLIED)
    assert read(tmp_path) == APPLIED


@pytest.mark.parametrize("damaged", [b"", b"{}", b"\xff", b'{"revision":1', b"[" * 100_000])
def test_a_damaged_one_is_not_taken_for_none(damaged: bytes, tmp_path: Path) -> None:
    """Else a host process would run its configuration file again and nobody would know."""
    (tmp_path / FILE).write_bytes(damaged)
    with pytest.raises(StoreError, match="can not be read"):
        read(tmp_path)


def test_it_outlives_a_power_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is on the disk before its name is: a rename alone may come there first, and leave an empty file."""
    synced: list[bool] = []
    monkeypatch.setattr(os, "fsync", lambda _: synced.append((tmp_path / FILE).exists()))
    write(tmp_path, APPLIED)
    assert synced[0] is False


def test_what_can_not_be_written_says_where(tmp_path: Path) -> None:
    """The step is tried again; what stood before stands."""
    write(tmp_path, APPLIED)
    (tmp_path / FILE).with_suffix(".part").mkdir()
    with pytest.raises(StoreError, match="make room"):
        write(tmp_path, Applied(4, {}))
    assert read(tmp_path) == APPLIED
