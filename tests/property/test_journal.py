"""The journal's laws: what was appended is replayed, and damage costs only what lies behind it."""

from __future__ import annotations

import tempfile
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eddy_mesh.batch import Batch, Kind, Producer
from eddy_mesh.cer import EventClass, Stage
from eddy_mesh.columns import Column, Constant, Numbers
from eddy_mesh.errors import StoreError
from eddy_mesh.rows import flat_rows
from eddy_mesh.store import journal as journal_module
from eddy_mesh.store.journal import Journal

KIND = Kind(Stage.RAW, EventClass.SYSTEM, "syslog")


def _batch(number: int, count: int = 2) -> Batch:
    columns: dict[str, Column] = {
        "log.offset": Numbers(np.arange(count) + number),
        "event.original": Constant(b"x" * (number % 50), count),
    }
    return Batch(KIND, f"host-{number}", Producer(1, 1), number * 10, 1_790_000_000_000, count, columns)


def _replayed(folder: Path) -> tuple[list[int], int]:
    """The numbers of the batches that a journal gives back, and the bytes that it cut."""
    with closing(Journal(folder, 1)) as journal:
        batches = [found.batch for found in journal.replay()]
        for batch in batches:
            number = batch.first // 10
            assert list(flat_rows(batch)) == list(flat_rows(_batch(number)))
            assert batch.origin == f"host-{number}"
        return [batch.first // 10 for batch in batches], journal.cut_bytes


@given(st.lists(st.lists(st.integers(0, 1000), max_size=4), max_size=5))
@settings(max_examples=50)
def test_what_was_appended_is_replayed_in_order(groups: list[list[int]]) -> None:
    """Batches come back as they were, over any number of appends, segments and restarts."""
    with tempfile.TemporaryDirectory() as name:
        for group in groups:
            with closing(Journal(Path(name), 1)) as journal:
                journal.append([_batch(number) for number in group])
                journal.rotate()
                journal.append([])
        assert _replayed(Path(name)) == ([number for group in groups for number in group], 0)


@given(st.integers(1, 6), st.data())
@settings(max_examples=150)
def test_damage_costs_only_what_lies_behind_it(count: int, data: st.DataObject) -> None:
    """A segment cut or altered at any byte gives back exactly the frames before that byte, and is whole afterwards."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ends = []
        with closing(Journal(folder, 1)) as journal:
            for number in range(count):
                journal.append([_batch(number)])
                ends.append(journal.size_bytes)
        path = folder / "000000000001.log"
        content = bytearray(path.read_bytes())
        place = data.draw(st.integers(0, len(content) - 1))
        if data.draw(st.booleans()):
            del content[place:]
        else:
            content[place] ^= data.draw(st.integers(1, 255))
            if place < 8 and bytes(content[:7]) == journal_module.MAGIC[:7] and content[7] > journal_module.MAGIC[7]:
                return  # that says: a newer version
        path.write_bytes(content)
        whole = 0 if place < 8 else sum(end <= place for end in ends)
        kept = 0 if place < 8 else ends[whole - 1] if whole else 8
        assert _replayed(folder) == (list(range(whole)), len(content) - kept)
        assert _replayed(folder) == (list(range(whole)), 0)


def test_a_failed_sync_is_written_again_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the disk fails to sync, nothing counts as durable; the next sync writes the frames again, not twice."""

    def fail(file: object) -> None:
        raise OSError(5, "Input/output error")

    with closing(Journal(tmp_path, 1)) as journal:
        journal.append([_batch(1)])
        journal.sync()
        journal.append([_batch(2)])
        with monkeypatch.context() as patched:
            patched.setattr(journal_module, "sync_data", fail)
            with pytest.raises(StoreError, match="Input/output error"):
                journal.sync()
        journal.append([_batch(3)])
        journal.sync()
    assert _replayed(tmp_path) == ([1, 2, 3], 0)


def test_segments_below_the_least_needed_one_are_removed(tmp_path: Path) -> None:
    """What is sealed is forgotten; the segment that is written now stays, and numbers never begin again."""
    with closing(Journal(tmp_path, 5)) as journal:
        journal.append([_batch(1)])
        assert journal.rotate() == 5
        journal.append([_batch(2)])
        journal.remove_before(100)
        assert journal.segments() == [6]
    assert _replayed(tmp_path) == ([2], 0)


def test_a_segment_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    """Downgrading does not destroy what a newer version has written."""
    (tmp_path / "000000000001.log").write_bytes(b"EDDYLOG2future")
    with pytest.raises(StoreError, match="newer version"):
        Journal(tmp_path, 1)
    assert (tmp_path / "000000000001.log").read_bytes() == b"EDDYLOG2future"


def test_a_frame_without_a_batch_keeps_its_segment(tmp_path: Path) -> None:
    """A whole frame that does not decode is counted, the others are replayed, and the segment is kept aside."""
    with closing(Journal(tmp_path, 1)) as journal:
        journal.append([_batch(1)])
        journal._write([b"\x05\x00nonsense"])
        journal.append([_batch(2)])
    with closing(Journal(tmp_path, 1)) as journal:
        assert [found.batch.first for found in journal.replay()] == [10, 20]
        assert journal.undecodable == 1
        journal.remove_before(2)
    assert [path.name for path in tmp_path.glob("*.kept")] == ["000000000001.kept"]
