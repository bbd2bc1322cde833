"""The engine: nothing twice, nothing lost, whatever step a crash falls on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from eddy_mesh.batch import Batch, Kind, Producer, join
from eddy_mesh.cer import EventClass, EventId, Stage, Value
from eddy_mesh.columns import Addresses, Column, Constant, Numbers, Text, Words
from eddy_mesh.errors import StoreError, UsageError
from eddy_mesh.rows import flat_rows
from eddy_mesh.selection.parse import compile_statement
from eddy_mesh.store.archive_store import ArchiveStore, StoreConfig
from eddy_mesh.store.gather import gather

FLOW = Kind(Stage.COOKED, EventClass.NETWORK, "netflow.v9")
LINE = Kind(Stage.COOKED, EventClass.SYSTEM, "syslog")
HOUR_MS = 3_600_000
T0_MS = 1_790_002_800_000 // HOUR_MS * HOUR_MS
SECOND = 1_000_000_000
CONFIG = StoreConfig(threads=1, max_rows=100, max_age_s=60, compact_rows=50)


def _flows(number: int, count: int = 10, *, kind: Kind = FLOW, origin: str = "host-1", hour: int = 0) -> Batch:
    """``count`` events; their source addresses end in 0, 1, 2 ..., their ports are 1000 * number + row."""
    stamp_ms = T0_MS + hour * HOUR_MS + number
    columns: dict[str, Column] = {
        "occurred": Numbers(np.full(count, stamp_ms * 1_000_000) + np.arange(count)),
        "host_address": Constant(f"192.0.2.{number}", count),
        "source.ip": Addresses((np.arange(count) + 0x0A000000).astype(">u4")),
        "source.port": Numbers((np.arange(count) + 1000 * number).astype(np.uint16)),
        "network.transport": Words((np.arange(count) % 2).astype(np.uint8), ("tcp", "udp")),
        "network.bytes": Numbers(np.full(count, 2**62)),
    }
    return Batch(kind, origin, Producer(7, 100), 1000 * number, stamp_ms, count, columns)


def _ask(store: ArchiveStore, statement: str) -> list[dict[str, Value]]:
    return list(store.query(compile_statement(statement, now_ns=T0_MS * 1_000_000)))


def _expected(*batches: Batch) -> list[dict[str, Value]]:
    return [row for batch in batches for row in flat_rows(batch)]


def _crashed(store: ArchiveStore, folder: Path, tmp_path: Path) -> Path:
    """A copy of the folder as a crash at this moment leaves it: the store is not closed."""
    store.sync()
    copy = tmp_path / f"copy{len(list(tmp_path.iterdir()))}"
    shutil.copytree(folder, copy)
    return copy


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the store is."""
    return tmp_path / "store"


@pytest.fixture
def store(folder: Path) -> Iterator[ArchiveStore]:
    """An empty store."""
    with closing(ArchiveStore(folder, CONFIG, 0)) as opened:
        yield opened


def test_append_at_once_never_waits(store: ArchiveStore) -> None:
    """Where another thread works on the store nothing is taken, and the caller is told; else it is as `append`."""
    assert store.append_at_once([_flows(1)])
    with store._lock:
        assert not store.append_at_once([_flows(2)])
    assert _ask(store, "SELECT * FROM network") == _expected(_flows(1))


def test_events_are_seen_once_held_sealed_or_both(store: ArchiveStore) -> None:
    """A query sees what is held and what is sealed, in every form of statement."""
    batches = [_flows(1), _flows(2, origin="host-2"), _flows(3)]
    for seal in (False, True, False):
        store.append([batches.pop(0)])
        if seal:
            assert store.seal(0, force=True) == 1
    sent = [_flows(1), _flows(2, origin="host-2"), _flows(3)]
    assert _ask(store, "SELECT * FROM network") == _expected(*sent)
    assert _ask(store, "SELECT * FROM network ORDER BY id LIMIT 25") == _expected(*sent)[:25]
    assert _ask(store, "SELECT count(*) AS n, sum(network.bytes) AS b FROM network") == [{"n": 30, "b": 30 * 2**62}]
    assert _ask(store, "SELECT source.port FROM network.netflow.*.host-2 WHERE source.ip = '10.0.0.3'") == [
        {"source.port": 2003}
    ]
    assert _ask(store, "SELECT count(*) AS n FROM network WHERE network.transport = 'udp' AND source.port > 2999") == [
        {"n": 5}
    ]
    assert _ask(
        store, "SELECT source.ip, count(*) AS n FROM * GROUP BY source.ip ORDER BY count(*) DESC, source.ip LIMIT 1"
    ) == [{"source.ip": "10.0.0.0", "n": 3}]
    assert _ask(store, "SELECT count(*) AS n FROM security") == [{"n": 0}]
    assert store.rows == 30
    assert store.oldest_ns == (T0_MS + 1) * 1_000_000


def test_batches_keep_their_kind_and_columns(store: ArchiveStore) -> None:
    """The columnar result has one kind a batch; a statement with groups has no such result."""
    store.append([_flows(1), _flows(2, kind=LINE)])
    store.seal(0, force=True)
    plan = compile_statement("SELECT source.ip AS ip FROM *", now_ns=0)
    batches = list(store.query_batches(plan))
    assert {batch.kind for batch in batches} == {FLOW, LINE}
    assert all(set(batch.columns) == {"ip", "id"} for batch in batches)
    with pytest.raises(UsageError, match="use query"):
        next(store.query_batches(compile_statement("SELECT count(*) FROM *", now_ns=0)))


def test_sealing_waits_for_rows_or_age(store: ArchiveStore, folder: Path) -> None:
    """Few young events are held; many, or old ones, are sealed, one file for each kind and hour."""
    store.append([_flows(1, 99)])
    assert store.seal(5 * SECOND) == 0
    store.append([_flows(2, 1)])
    assert store.seal(6 * SECOND) == 1
    store.append([_flows(3), _flows(4, kind=LINE), _flows(5, hour=1)])
    assert store.seal(10 * SECOND) == 0
    assert store.seal(69 * SECOND) == 0
    assert store.seal(70 * SECOND) == 3
    assert store.held_rows == 0
    assert [path.name for path in (folder / "journal").iterdir()] == ["000000000003.log"]


def test_a_crash_loses_nothing_and_doubles_nothing(store: ArchiveStore, folder: Path, tmp_path: Path) -> None:
    """Synced events are recovered from the journal, and sealed ones are not taken from there again."""
    held, sealed, both = [_flows(1), _flows(2, kind=LINE)], [_flows(1), _flows(2, kind=LINE)], _flows(3)
    store.append(held)
    copies = [(_crashed(store, folder, tmp_path), held, 20)]
    store.seal(0, force=True)
    copies.append((_crashed(store, folder, tmp_path), sealed, 0))
    store.append([both])
    copies.append((_crashed(store, folder, tmp_path), [*sealed, both], 10))
    for copy, batches, recovered in copies:
        with closing(ArchiveStore(copy, CONFIG, 0)) as again:
            assert again.recovered == recovered
            assert _ask(again, "SELECT * FROM * ORDER BY id LIMIT 100") == sorted(_expected(*batches), key=_id)


def _id(row: dict[str, Value]) -> bytes:
    assert isinstance(row["id"], bytes)
    return row["id"]


def test_a_crash_between_file_and_journal_doubles_nothing(store: ArchiveStore, folder: Path, tmp_path: Path) -> None:
    """With the sealed file there and its segments too, as when the power goes between, each event is there once."""
    store.append([_flows(1)])
    before = _crashed(store, folder, tmp_path)
    store.append([_flows(2, kind=LINE)])
    store.seal(0, force=True)
    after = _crashed(store, folder, tmp_path)
    for segment in (before / "journal").iterdir():
        shutil.copy(segment, after / "journal" / segment.name)
    with closing(ArchiveStore(after, CONFIG, 0)) as again:
        assert again.recovered == 0
        assert again.rows == 20


@pytest.mark.parametrize("lost", ["", "catalogue.sqlite"])
def test_the_catalogue_follows_the_files(folder: Path, lost: str) -> None:
    """A catalogue that is lost, damaged or behind is made of the files' footers."""
    with closing(ArchiveStore(folder, CONFIG, 0)) as store:
        store.append([_flows(1)])
        store.seal(0, force=True)
    if lost:
        (folder / lost).unlink()
    else:
        (folder / "catalogue.sqlite").write_bytes(b"nonsense" * 1000)
    with closing(ArchiveStore(folder, CONFIG, 0)) as store:
        assert _ask(store, "SELECT * FROM *") == _expected(_flows(1))


def test_compaction_keeps_every_event_once(store: ArchiveStore, folder: Path, tmp_path: Path) -> None:
    """Small files of a past hour become one; a crash that leaves the old ones beside it doubles nothing."""
    sent = [_flows(number) for number in range(4)]
    for batch in sent:
        store.append([batch])
        store.seal(0, force=True)
    assert store.compact(T0_MS * 1_000_000) == 0, "the hour is not over"
    before = _crashed(store, folder, tmp_path)
    assert store.compact((T0_MS + HOUR_MS) * 1_000_000) == 4
    assert _ask(store, "SELECT * FROM *") == _expected(*sent)
    assert len(list((folder / "cooked").rglob("*.parquet"))) == 1
    assert store.compact((T0_MS + HOUR_MS) * 1_000_000) == 0
    after = _crashed(store, folder, tmp_path)
    shutil.copytree(before / "cooked", after / "cooked", dirs_exist_ok=True)
    with closing(ArchiveStore(after, CONFIG, 0)) as again:
        assert _ask(again, "SELECT * FROM *") == _expected(*sent)


def test_files_stay_while_a_query_reads_them(store: ArchiveStore, folder: Path) -> None:
    """Compaction under a running query takes nothing away from it."""
    for number in range(2):
        store.append([_flows(number), _flows(number, kind=LINE)])
        store.seal(0, force=True)
    batches = store.query_batches(compile_statement("SELECT * FROM *", now_ns=0))
    first = next(batches)
    assert store.compact((T0_MS + HOUR_MS) * 1_000_000) == 2
    assert store.compact((T0_MS + HOUR_MS) * 1_000_000) == 2
    assert first.count + sum(batch.count for batch in batches) == 40
    assert len(list((folder / "cooked").rglob("*.parquet"))) == 2


@pytest.mark.parametrize("damage", ["cut", "footer", "gone"])
def test_a_damaged_file_is_put_aside(store: ArchiveStore, folder: Path, damage: str) -> None:
    """A file that can not be read is moved away and counted; the rest goes on."""
    store.append([_flows(1), _flows(2, kind=LINE)])
    store.seal(0, force=True)
    (path,) = (folder / "cooked" / "network").rglob("*.parquet")
    if damage == "gone":
        path.unlink()
    else:
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2] if damage == "cut" else content[:-20] + bytes(20))
    with pytest.raises(StoreError, match="put aside"):
        _ask(store, "SELECT * FROM *")
    assert _ask(store, "SELECT * FROM *") == _expected(_flows(2, kind=LINE))
    assert store.damaged == 1
    assert len(list((folder / "damaged").rglob("*.parquet"))) == (damage != "gone")


def test_events_are_fetched_by_id(store: ArchiveStore) -> None:
    """Held and sealed events are found by id, in order; an unknown id gives nothing."""
    store.append([_flows(1)])
    store.seal(0, force=True)
    store.append([_flows(2)])
    rows = _expected(_flows(1), _flows(2))
    ids = [EventId(row["id"]) for row in rows if isinstance(row["id"], bytes)]
    assert store.fetch([ids[15], ids[3], EventId(bytes(16)), ids[3]]) == [rows[3], rows[15]]
    assert store.fetch([]) == []


def test_ids_are_known_held_or_sealed_and_after_a_crash(store: ArchiveStore, folder: Path, tmp_path: Path) -> None:
    """What was appended is known by its id, and nothing else is; also where a select left holes in the numbers."""
    sealed, held, never = _flows(1), _flows(2), _flows(3)
    odd = np.arange(10) % 2 == 1
    store.append([sealed])
    store.seal(0, force=True)
    store.append([held.filter(odd)])
    with closing(ArchiveStore(_crashed(store, folder, tmp_path), CONFIG, 0)) as again:
        for one in (store, again):
            assert one.known(sealed.ids()).all()
            assert one.known(held.ids()).tolist() == odd.tolist()
            assert not one.known(never.ids()).any()
            assert one.known(join([never, held]).ids()).tolist() == [False] * 10 + odd.tolist()


def test_a_query_while_a_file_is_written_takes_nothing_from_it(
    store: ArchiveStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A query joins what is held to one batch; the file that is just made of it has all events nevertheless."""

    def asked_meanwhile(batches: Sequence[Batch]) -> Batch:
        going = iter(batches)
        begun = next(going)
        assert len(_ask(store, "SELECT *")) == 30
        return gather([begun, *going])

    store.append([_flows(1), _flows(2), _flows(3)])
    monkeypatch.setattr("eddy_mesh.store.pieces.gather", asked_meanwhile)
    store.seal(0, force=True)
    assert (store.held_rows, len(_ask(store, "SELECT *"))) == (0, 30)


def test_long_texts_are_sealed_in_little_memory(folder: Path) -> None:
    """A row group of long texts is smaller than one of flows: else no seal would ever find its memory again."""
    count, length = 20_000, 2_000
    letters = np.random.default_rng(1).integers(97, 123, count * length, np.uint8).tobytes()
    message = Text(np.arange(count + 1, dtype=np.uint32) * np.uint32(length), letters)
    batch = Batch(FLOW, "host-1", Producer(7, 0), 0, 1, count, {"message": message, "occurred": Constant(5, count)})
    with closing(ArchiveStore(folder, StoreConfig(memory_bytes=50_000_000), 0)) as store:
        store.append([batch])
        assert store.seal(0, force=True) == 1
        rows = _ask(store, "SELECT message FROM *")
    assert sorted(str(row["message"]) for row in rows) == sorted(str(message.at(row)) for row in range(count))


def test_two_stores_can_not_share_a_folder(store: ArchiveStore, folder: Path) -> None:
    """The second one is told so, and what to do."""
    with pytest.raises(StoreError, match="in use by another store"):
        ArchiveStore(folder, CONFIG, 0)


def test_too_many_held_events_are_refused(folder: Path) -> None:
    """Memory is bounded: the store refuses, retryably, until something was sealed; what it took is there."""
    with closing(ArchiveStore(folder, StoreConfig(threads=1, max_held_rows=15), 0)) as store:
        store.append([_flows(1), _flows(2)])
        with pytest.raises(StoreError, match="max_held_rows") as refused:
            store.append([_flows(3)])
        assert refused.value.retryable
        store.seal(0, force=True)
        store.append([_flows(3)])
        assert _ask(store, "SELECT * FROM *") == _expected(_flows(1), _flows(2), _flows(3))


@pytest.mark.parametrize(
    ("statement", "files"),
    [
        ("SELECT * FROM *", 4),
        ("SELECT * FROM system", 2),
        ("SELECT * FROM network.netflow.*.host-9", 0),
        ("SELECT * FROM * SINCE '@hour'", 2),
        ("SELECT * FROM * WHERE source.ip = '10.0.0.1'", 4),
        ("SELECT * FROM * WHERE host_address = '192.0.2.3' AND source.port >= 0", 2),
        ("SELECT * FROM network WHERE host_address IN ('192.0.2.1', '192.0.2.9')", 1),
        ("SELECT * FROM network WHERE source.port < 1000 OR source.port = 3005", 1),
        ("SELECT * FROM network WHERE source.port > 3009", 0),
        ("SELECT * FROM network WHERE network.transport = 'icmp'", 0),
        ("SELECT * FROM network WHERE user.name = 'root'", 0),
        ("SELECT * FROM network WHERE NOT user.name = 'root'", 2),
    ],
)
def test_a_query_opens_only_the_files_that_it_needs(store: ArchiveStore, statement: str, files: int) -> None:
    """Time, class, type, origin, host and descriptor rule files out, and never one that holds an answer."""
    for number, hour in ((1, 0), (3, 1)):
        store.append([_flows(number, hour=hour), _flows(number, kind=LINE, hour=hour)])
        store.seal(0, force=True)
    moment = f"{np.datetime64(T0_MS + HOUR_MS, 'ms')}Z"
    plan = compile_statement(statement.replace("@hour", moment), now_ns=0)
    assert len(store._files.catalogue.select(plan)) == files
