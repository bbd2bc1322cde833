"""The local store: what was made lately is found by id, bounded in size and age, whatever the disk does."""

from __future__ import annotations

import errno
from contextlib import closing
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest

from eddy_mesh.batch import Batch, Kind, Producer
from eddy_mesh.cer import EventClass, EventId, Stage
from eddy_mesh.columns import Column, Numbers, Text, pack
from eddy_mesh.config import LocalConfig
from eddy_mesh.errors import StoreError
from eddy_mesh.rows import flat_rows
from eddy_mesh.store import local_store as module
from eddy_mesh.store.expired import MAX_PRODUCERS, MAX_STEPS, Expired
from eddy_mesh.store.local_store import LocalStore

START_MS = 1_795_000_000_000
RAW = Kind(Stage.RAW, EventClass.NETWORK, "netflow")
COOKED = Kind(Stage.COOKED, EventClass.NETWORK, "netflow.v9")


def batch(first: int, count: int = 4, *, kind: Kind = COOKED, producer: int = 7, after_s: float = 0.0) -> Batch:
    """Events with a number and a text of 1,000 characters."""
    texts = [f"{first + row}".rjust(1000) for row in range(count)]
    columns: dict[str, Column] = {
        "source.port": Numbers(np.arange(count, dtype=np.uint16)),
        "message": Text(*pack([text.encode() for text in texts])),
    }
    return Batch(
        kind, "edge", Producer(producer, START_MS // 1000), first, START_MS + int(after_s * 1000), count, columns
    )


def ids_of(made: Batch) -> list[EventId]:
    """The ids of a batch as bytes."""
    ids = made.ids()
    return [EventId(bytes(ids.at(row))) for row in range(made.count)]  # type: ignore[arg-type]


class Clock:
    """Simulated time, ns since 1970 UTC."""

    def __init__(self) -> None:
        self.now = START_MS * 1_000_000

    def __call__(self) -> int:
        """Return the time."""
        return self.now

    def pass_s(self, seconds: float) -> None:
        """Let time pass."""
        self.now += int(seconds * 1e9)


class Place:
    """A folder, a clock, and what the store told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = Clock()
        self.told: list[str] = []

    def store(self, **settings: float) -> LocalStore:
        """Open the store; no thread writes it, `flush` and `fetch` do."""
        config = LocalConfig(**settings)  # type: ignore[arg-type]
        return LocalStore(self.folder, config, self.clock, self.told.append)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A place for a store."""
    return Place(tmp_path / "local")


def test_whole_events_come_back_by_id(place: Place) -> None:
    """Raw and cooked events, also one row of many and in any order of asking, exactly as they were made."""
    made = [batch(0, kind=RAW, producer=1), batch(0), batch(4), batch(8, 1)]
    with closing(place.store()) as store:
        for each in made:
            store.keep(each)
        wanted = [ids_of(made[2])[3], ids_of(made[0])[1], ids_of(made[3])[0]]
        found = store.fetch(wanted)
        rows = [row for each in found.batches for row in flat_rows(each)]
        expected = [list(flat_rows(made[2]))[3], list(flat_rows(made[0]))[1], *flat_rows(made[3])]
        assert sorted(rows, key=str) == sorted(expected, key=str)
        assert found.gone == {}
        assert {each.origin for each in found.batches} == {"edge"}
        status = store.status()
        assert (status["events"], status["missed"]) == (13, 0)


def test_what_was_selected_is_found_by_the_ids_that_it_kept(place: Place) -> None:
    """The ids of a select/project, which is what a consumer has, lead back to the whole events."""
    made = batch(100, 50)
    with closing(place.store()) as store:
        store.keep(made)
        seen = made.filter(np.arange(50) % 7 == 3).with_columns({})
        (found,) = store.fetch(ids_of(seen)).batches
        assert [row["source.port"] for row in flat_rows(found)] == [3, 10, 17, 24, 31, 38, 45]


def test_ids_that_were_never_made_are_not_known(place: Place) -> None:
    """Another producer, a number that is to come, and the same number at another time are neither found nor gone."""
    with closing(place.store()) as store:
        store.keep(batch(0))
        strange = [*ids_of(batch(0, producer=8)), *ids_of(batch(4)), *ids_of(batch(0, after_s=1))]
        assert store.fetch(strange) == ([], {})


def test_numbers_that_wrap_are_found(place: Place) -> None:
    """Ids hold 32 bits of a sequence number: batches before, across and after the wrap are told apart."""
    made = [batch((1 << 32) - 6), batch((1 << 32) - 2), batch((1 << 32) + 2)]
    with closing(place.store()) as store:
        for each in made:
            store.keep(each)
        for each in made:
            (found,) = store.fetch(ids_of(each)).batches
            assert list(flat_rows(found)) == list(flat_rows(each))


def test_a_restart_finds_what_was_kept(place: Place) -> None:
    """The index is made again from the files, and the next process writes to files of its own."""
    for first in (0, 4):
        with closing(place.store()) as store:
            store.keep(batch(first))
    with closing(place.store()) as store:
        assert len(store.fetch([*ids_of(batch(0)), *ids_of(batch(4))]).batches) == 2
        assert store.cut_bytes == 0
        assert store.status()["events"] == 8


def test_the_thread_writes_what_is_kept(place: Place) -> None:
    """A started store has written everything when it is closed."""
    store = place.store()
    store.start()
    for first in range(0, 400, 4):
        store.keep(batch(first))
    store.close()
    with closing(place.store()) as again:
        assert again.status()["events"] == 400


def test_oldest_go_first_when_it_is_full(place: Place) -> None:
    """The files stay within ``max_bytes``; what went is gone since then, also after a restart."""
    made = [batch(first, after_s=first / 4) for first in range(0, 800, 4)]
    with closing(place.store(max_bytes=400_000)) as store:
        for each in made:
            place.clock.pass_s(1)
            store.keep(each)
            store.flush()
            assert sum(path.stat().st_size for path in place.folder.glob("*.kept")) <= 400_000
        found = store.fetch([identity for each in made for identity in ids_of(each)])
        held = {identity for each in found.batches for identity in ids_of(each)}
        assert held == {identity for each in made[-len(held) // 4 :] for identity in ids_of(each)}
        assert len(held) > 250
        assert held | found.gone.keys() == {identity for each in made for identity in ids_of(each)}
        times = [found.gone[ids_of(each)[0]] for each in made if ids_of(each)[0] in found.gone]
        assert times == sorted(times)
        assert len(set(times)) > 5
        assert START_MS * 1_000_000 < times[0] < times[-1] <= place.clock.now
    with closing(place.store(max_bytes=400_000)) as again:
        assert again.fetch(ids_of(made[0])).gone == {each: found.gone[each] for each in ids_of(made[0])}


def test_old_events_go(place: Place) -> None:
    """No event is kept longer than ``max_age_s``, and the answer says when it went."""
    with closing(place.store(max_age_s=60.0)) as store:
        store.keep(batch(0))
        store.flush()
        place.clock.pass_s(40)
        store.keep(batch(4, after_s=40))
        store.flush()
        place.clock.pass_s(21)
        store.expire()
        found = store.fetch([*ids_of(batch(0)), *ids_of(batch(4, after_s=40))])
        assert [each.first for each in found.batches] == [4]
        assert found.gone == dict.fromkeys(ids_of(batch(0)), place.clock.now)
        place.clock.pass_s(40)
        store.expire()
        assert list(place.folder.glob("*.kept")) == []
        assert store.status()["holdings"] == []


def test_the_status_says_what_is_held_and_for_how_long(place: Place) -> None:
    """A row for each kind: events, oldest, newest, and when the newest is too old."""
    with closing(place.store(max_age_s=600.0)) as store:
        for each in (batch(0, kind=RAW, producer=1), batch(0), batch(4, after_s=9)):
            store.keep(each)
        store.flush()
        holdings = store.status()["holdings"]
        assert isinstance(holdings, list)
        raw, cooked = holdings
        assert (raw["stage"], raw["type"], raw["count"]) == ("raw", "netflow", 4)
        assert (cooked["stage"], cooked["count"]) == ("cooked", 8)
        assert cooked["first_ns"] == START_MS * 1_000_000
        assert cooked["last_ns"] == (START_MS + 9_000) * 1_000_000
        assert cooked["until_ns"] == (START_MS + 609_000) * 1_000_000


def test_a_torn_end_is_cut_off(place: Place) -> None:
    """After a crash whole batches are found, the rest of the file is not looked at, and new ones follow."""
    with closing(place.store()) as store:
        store.keep(batch(0))
        store.keep(batch(4))
    (path,) = place.folder.glob("*.kept")
    path.write_bytes(path.read_bytes()[:-10])
    with closing(place.store()) as store:
        assert store.cut_bytes > 4000
        store.keep(batch(8))
        found = store.fetch([identity for first in (0, 4, 8) for identity in ids_of(batch(first))])
        assert [each.first for each in found.batches] == [0, 8]
    with closing(place.store()) as store:
        assert store.cut_bytes == 0


def test_a_damaged_batch_is_not_told_as_true(place: Place) -> None:
    """An octet that changed on the disk costs that batch; others are found."""
    with closing(place.store()) as store:
        store.keep(batch(0))
        store.keep(batch(4))
    (path,) = place.folder.glob("*.kept")
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    with closing(place.store()) as store:
        found = store.fetch([*ids_of(batch(0)), *ids_of(batch(4))])
        assert [each.first for each in found.batches] == [4]


def test_files_of_something_else_are_removed(place: Place) -> None:
    """A file that is no segment, of another version for one, does not stop the host process."""
    place.folder.mkdir()
    (place.folder / "000000000007.kept").write_bytes(b"EDDYKEP9 whatever")
    (place.folder / "expired").write_bytes(b"\xff\xff")
    with closing(place.store()) as store:
        store.keep(batch(0))
        assert len(store.fetch(ids_of(batch(0))).batches) == 1
        assert [path.stem for path in place.folder.glob("*.kept")] == ["000000000008"]


class FullDisk:
    """A disk with room for so many octets in all segments; a write takes what fits, and then fails."""

    def __init__(self, folder: Path, room: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room = room
        open_file = Path.open
        disk = self

        class Limited:
            def __init__(self, file: IO[bytes]) -> None:
                self._file = file

            def write(self, data: bytes) -> int:
                left = disk.room - sum(path.stat().st_size for path in folder.glob("*.kept"))
                if left <= 0:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return self._file.write(data[:left])

            def __getattr__(self, name: str) -> Any:  # the rest of a file
                return getattr(self._file, name)

        def limited(path: Path, mode: str = "r", *more: Any, **named: Any) -> Any:
            file = open_file(path, mode, *more, **named)
            return Limited(file) if mode == "wb" and path.suffix == ".kept" else file

        monkeypatch.setattr(Path, "open", limited)


def test_a_full_disk_costs_the_oldest(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The latest events take the place of the oldest, files stay whole, and the operator is told once."""
    made = [batch(first, after_s=first / 4) for first in range(0, 800, 4)]
    FullDisk(place.folder, 150_000, monkeypatch)
    with closing(place.store(max_bytes=1 << 20)) as store:
        for each in made:
            store.keep(each)
            store.flush()
        assert len(store.fetch(ids_of(made[-1])).batches) == 1
        assert store.missed == 0
        assert store.fetch(ids_of(made[0])).gone.keys() == set(ids_of(made[0]))
        assert len(place.told) == 1
        assert "No space left" in place.told[0]
    with closing(place.store(max_bytes=1 << 20)) as store:
        assert store.cut_bytes == 0


def test_a_disk_without_any_room_is_counted_and_harms_nobody(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """What can not be kept is missed; when there is room again the store goes on."""
    disk = FullDisk(place.folder, 2_000, monkeypatch)
    with closing(place.store()) as store:
        for first in (0, 4):
            store.keep(batch(first))
            store.flush()
        assert store.missed == 8
        assert len(place.told) == 1
        assert "No space left" in str(store.status()["problem"])
        assert store.fetch(ids_of(batch(0))) == ([], {})
        disk.room = 1 << 20
        store.keep(batch(8))
        assert len(store.fetch(ids_of(batch(8))).batches) == 1
        assert store.status()["problem"] == ""


def test_keeping_never_waits_for_the_disk(place: Place) -> None:
    """While somebody holds the store, `keep` takes note all the same; beyond a bound events are missed, and told."""
    with closing(place.store()) as store:
        with store._lock:  # what a thread holds that waits for the disk
            empty = Batch(RAW, "edge", Producer(1, 1), 0, START_MS, module.MAX_WAITING_EVENTS, {})
            store.keep(empty)
            store.keep(batch(0))
            assert store.missed == 4
            assert store.status()["missed"] == 4
            assert "too slow" in str(store.status()["problem"])
            store.keep(batch(0))
            assert len(place.told) == 1
        store.flush()
        assert store.status()["problem"] == ""
        store.keep(batch(4))
        assert len(store.fetch(ids_of(batch(4))).batches) == 1


def test_a_store_of_no_size_keeps_nothing(place: Place) -> None:
    """``max_bytes = 0`` turns it off, and that is no miss."""
    with closing(place.store(max_bytes=0)) as store:
        store.keep(batch(0))
        assert store.fetch(ids_of(batch(0))) == ([], {})
        assert store.missed == 0


def test_events_with_ids_of_their_own_are_counted_as_missed(place: Place) -> None:
    """An id column says nothing of where events are: they can not be found by number, so they are not kept."""
    made = batch(0)
    with closing(place.store()) as store:
        store.keep(made.with_columns({**made.columns, "id": made.ids()}))
        assert store.missed == 4


def test_one_process_has_the_folder(place: Place) -> None:
    """A second store is refused while the first is open, and not after it."""
    with closing(place.store()), pytest.raises(StoreError, match="in use"):
        place.store()
    place.store().close()


def test_what_comes_after_the_end_is_missed(place: Place) -> None:
    """A closed store writes into a folder that another process may have by now no more."""
    store = place.store()
    store.close()
    store.keep(batch(0))
    assert store.missed == 4
    assert store.fetch(ids_of(batch(0))) == ([], {})
    assert list(place.folder.glob("*.kept")) == []


def test_memory_for_a_batch_is_small(place: Place) -> None:
    """The index has three numbers of 4 octets for each batch."""
    with closing(place.store()) as store:
        for first in range(0, 2000, 2):
            store.keep(batch(first, 1))
        store.flush()
        runs = [run for segment in store._segments.values() for run in segment.runs.values()]
        assert (
            sum(len(part) * part.itemsize for run in runs for part in (run._firsts, run._spans, run._offsets)) == 12_000
        )


# --- what expired ------------------------------------------------------------------------------------------------


def test_when_events_went_is_known_by_their_age() -> None:
    """Each step answers for the events up to it; later ones have not expired, others are not known."""
    table = Expired()
    for stamp_ms, expired_ns in ((100, 1), (200, 2), (150, 3), (300, 4)):
        table.add(5, stamp_ms, expired_ns)
    assert [table.when(5, stamp) for stamp in (0, 100, 101, 200, 201, 300, 301)] == [1, 1, 2, 2, 4, 4, None]
    assert table.when(6, 0) is None
    assert Expired.decode(table.encode()).when(5, 201) == 4


def test_the_table_is_bounded() -> None:
    """The producers that lost events longest ago are forgotten, and the oldest steps of the others."""
    table = Expired()
    for number in range(MAX_PRODUCERS + 1):
        for step in range(MAX_STEPS + 1):
            table.add(number, step, step)
    assert table.when(0, 0) is None
    assert table.when(1, 0) == 1
    assert table.when(MAX_PRODUCERS, MAX_STEPS) == MAX_STEPS
