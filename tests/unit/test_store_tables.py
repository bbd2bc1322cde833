"""Columns to Parquet and back: what every kind of column is worth after a seal."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import duckdb
import numpy as np
import pytest

from eddy_mesh.batch import Batch, Kind, Producer
from eddy_mesh.cer import EventClass, Stage, Value
from eddy_mesh.columnize import any_column
from eddy_mesh.columns import Addresses, Bytes, Column, Constant, Ids, Maps, Numbers, Text, Words, pack
from eddy_mesh.rows import flat_row, flat_rows
from eddy_mesh.selection.parse import compile_statement
from eddy_mesh.store.archive_store import ArchiveStore, StoreConfig
from eddy_mesh.store.arrow_stream import ArrowStream
from eddy_mesh.store.gather import gather
from eddy_mesh.store.unfold import unfold

KIND = Kind(Stage.COOKED, EventClass.NETWORK, "netflow.v9")
STAMP_MS = 1_790_000_000_000
NULLS = np.array([False, True, False])


def _batch(columns: dict[str, Column], first: int = 0, count: int = 3, kind: Kind = KIND) -> Batch:
    return Batch(kind, "host-1", Producer(7, 1_789_999_999), first, STAMP_MS, count, columns)


def _sealed(folder: Path, batches: list[Batch]) -> list[dict[str, Value]]:
    """Rows after the events went through a Parquet file."""
    with closing(ArchiveStore(folder, StoreConfig(threads=1), 0)) as store:
        store.append(batches)
        assert store.seal(0, force=True) == 1
        return _rows(store)


def _rows(store: ArchiveStore) -> list[dict[str, Value]]:
    """Every event, raw ones included."""
    plan = compile_statement("SELECT * FROM * WHERE stage IN ('raw', 'cooked', 'analyzed')", now_ns=0)
    return list(store.query(plan))


HALF_NULL: dict[str, tuple[str, Column]] = {
    "ints": ("source.port", Numbers(np.array([22, 0, 65535], np.uint16), NULLS)),
    "negative": ("netflow.sequence", Numbers(np.array([-(2**63), 5, 2**63 - 1]))),
    "beyond 63 bits": ("network.bytes", Numbers(np.array([0, 1, 2**64 - 1], np.uint64))),
    "time": ("event.start", Numbers(np.array([-1, 0, 2**62]), NULLS)),
    "level": ("level", Numbers(np.array([0, 3, 7], np.uint8), NULLS)),
    "float": ("sensor.value", Numbers(np.array([0.5, -0.0, np.inf]))),
    "single float": ("sensor.value", Numbers(np.array([0.5, 1.5, 2.5], np.float32), NULLS)),
    "integers in a float field": ("sensor.value", Numbers(np.array([1, 2, 2**60]))),
    "v4": ("source.ip", Addresses(np.array([1, 2, 0xFFFFFFFF], ">u4"), NULLS)),
    "v6": ("source.ip", Addresses(np.array([[0x20010DB8 << 32, 1], [0, 0], [0, 0xFFFF_0000_0001]], ">u8"), NULLS)),
    "words": ("network.transport", Words(np.array([1, 0, 1], np.uint8), ("tcp", "ü'\x00\n"), NULLS)),
    "words, one of them empty": ("network.transport", Words(np.array([1, 0, 1], np.uint8), ("", "it's"), NULLS)),
    "the same word twice": ("network.transport", Words(np.array([1, 0, 1], np.uint8), ("tcp", "tcp"))),
    "many words": ("process.name", Words(np.array([299, 0, 7], np.uint16), tuple(map(str, range(300))))),
    "text": ("message", Text(*pack([b"one", b"", "zwölf".encode()]), NULLS)),
    "part of longer text": ("message", Text(np.array([4, 5, 5, 8], np.uint32), "not aölso".encode(), NULLS)),
    "plain text": ("message", Text(*pack([b"one", b"two", b"three"]))),
    "bytes": ("event.original", Bytes(*pack([b"\x00\xff", b"", b"x"]), NULLS)),
    "parent": ("parents", Ids(5, np.array([1, 2, 3], np.uint64))),
    "parents": ("parents", Bytes(*pack([bytes(32), b"", b"\x01" * 16]), NULLS)),
    "list": ("process.args", any_column([["a", 1], None, ["b", b"\x00"]])),
    "any": ("json.a.b", any_column([{"x": [1.5, None]}, 2**64 - 1, "text"])),
    "text in a number field": ("source.port", Words(np.array([0, 1, 0], np.uint8), ("http", "ssh"))),
    "number in a text field": ("message", Numbers(np.array([1, 2, 3]))),
    "mixed": ("source.ip", any_column(["10.0.0.1", 5, "no address"])),
    "unknown name": ("Some.thing", Words(np.array([0, 1, 0], np.uint8), ("a", "b"))),
    "sparse": ("extra", any_column([{"user.name": "root", "json.x": 1}, None, {"process.pid": 5, "source.ip": "::1"}])),
    "constant text": ("network.transport", Constant("it's ü\n", 3)),
    "constant number": ("source.port", Constant(-128, 3)),
    "constant large number": ("network.bytes", Constant(2**64 - 1, 3)),
    "constant float": ("sensor.value", Constant(1.5e300, 3)),
    "constant address": ("host_address", Constant("2001:db8::1", 3)),
    "constant bytes": ("event.original", Constant(b"a'\\\x00", 3)),
    "constant parents": ("parents", Constant(bytes(range(32)), 3)),
    "constant list": ("process.args", Constant(["a", "b"], 3)),
    "constant that does not fit": ("source.ip", Constant("no address", 3)),
    "nothing": ("message", Constant(None, 3)),
    "all null": ("message", Text(*pack([b"", b"", b""]), np.array([True, True, True]))),
}


def _case(case: str) -> Batch:
    """The batch of a case; its type is the name of the case."""
    name, column = HALF_NULL[case]
    kind = Kind(Stage.COOKED, EventClass.NETWORK, case)
    return _batch({name: column, "occurred": Constant(5, 3)}, kind=kind)


@pytest.fixture(scope="module")
def sealed_cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Value]]]:
    """The rows of every case after they went through a Parquet file."""
    with closing(ArchiveStore(tmp_path_factory.mktemp("cases"), StoreConfig(threads=1), 0)) as store:
        store.append([_case(case) for case in HALF_NULL])
        assert store.seal(0, force=True) == len(HALF_NULL)
        rows = _rows(store)
    return {case: [row for row in rows if row["type"] == case] for case in HALF_NULL}


@pytest.mark.parametrize("case", HALF_NULL)
def test_every_column_comes_back_as_it_was(sealed_cases: dict[str, list[dict[str, Value]]], case: str) -> None:
    """A row read from Parquet equals the row that was appended, whatever kind of column held the value."""
    assert sealed_cases[case] == list(flat_rows(_case(case)))


def test_names_that_differ_by_case_only_are_both_kept(tmp_path: Path) -> None:
    """DuckDB has one column for both; the second one goes to the JSON column."""
    batch = _batch({"message": Constant("a", 3), "Message": Constant("b", 3)})
    assert _sealed(tmp_path, [batch]) == list(flat_rows(batch))


@pytest.mark.parametrize(
    "kind", [Kind(Stage.RAW, EventClass.SYSTEM, "syslog"), Kind(Stage.COOKED, EventClass.APPLICATION, "a/..*?[x]'%")]
)
def test_any_type_can_be_stored(tmp_path: Path, kind: Kind) -> None:
    """A type with characters that mean something to a path, to SQL or to a pattern is a kind like any other."""
    batch = _batch({"event.original": Constant(b"x", 3)}, kind=kind)
    assert _sealed(tmp_path / "it's [a] *store?", [batch]) == list(flat_rows(batch))


FORMS: dict[str, Callable[[], list[tuple[str, Column]]]] = {
    "constants": lambda: [("host_address", Constant(f"192.0.2.{n}", 3)) for n in range(3)],
    "constant beside addresses": lambda: [
        ("source.ip", Constant("::1", 3)),
        ("source.ip", Addresses(np.array([1, 2, 3], ">u4"))),
    ],
    "words beside text": lambda: [
        ("message", Words(np.array([0, 1, 0], np.uint8), ("a", "b"), NULLS)),
        ("message", Text(*pack([b"x", b"y", b"z"]))),
        ("message", Constant("w", 3)),
    ],
    "signs": lambda: [
        ("network.bytes", Numbers(np.array([1, 2, 3], np.uint8))),
        ("network.bytes", Numbers(np.array([-1, 2, 3]))),
    ],
    "signs beyond 63 bits": lambda: [
        ("network.bytes", Numbers(np.array([1, 2, 2**64 - 1], np.uint64))),
        ("network.bytes", Numbers(np.array([-1, 2, 3]))),
    ],
    "floats beside integers": lambda: [
        ("network.bytes", Numbers(np.array([0.5, 1, 2]))),
        ("network.bytes", Numbers(np.array([2**60 + 1, 2, 3]))),
    ],
    "absent": lambda: [("message", Constant(None, 3)), ("source.port", Constant(5, 3)), ("message", Constant("x", 3))],
    "one parent beside two": lambda: [
        ("parents", Ids(5, np.array([1, 2, 3], np.uint64))),
        ("parents", Bytes(*pack([bytes(32), b"", b"\x01" * 16]), NULLS)),
        ("parents", Constant(b"\x02" * 16, 3)),
    ],
    "dense beside sparse": lambda: [
        ("user.name", Words(np.array([0, 1, 0], np.uint8), ("a", "b"), NULLS)),
        ("extra", any_column([{"user.name": "root"}, None, {"user.name": "x", "json.y": None}])),
    ],
    "numbers that are constant in some": lambda: [
        ("network.bytes", Numbers(np.array([1, 2, 70_000], np.uint32), NULLS)),
        ("network.bytes", Constant(5, 3)),
        ("network.bytes", Constant(6, 3)),
        ("network.bytes", Numbers(np.array([1, 2, 3], np.uint8))),
    ],
    "different words": lambda: [
        ("network.transport", Words(np.array([0, 1, 0], np.uint8), ("tcp", "udp"))),
        ("network.transport", Constant("icmp", 3)),
        ("network.transport", Words(np.array([0, 299, 0], np.uint16), tuple(map(str, range(300))), NULLS)),
    ],
    "octets": lambda: [
        ("event.original", Constant(b"a", 3)),
        ("event.original", Bytes(*pack([b"", b"b", b"c"]))),
        ("event.original", Constant(b"", 3)),
    ],
    "v4 beside v6": lambda: [
        ("source.ip", Addresses(np.array([1, 2, 3], ">u4"), NULLS)),
        ("source.ip", Addresses(np.array([[0x20010DB8 << 32, 1], [0, 0], [0, 0xFFFF_0000_0001]], ">u8"))),
        ("source.ip", Constant("192.0.2.1", 3)),
    ],
    "anything": lambda: [
        ("json.x", any_column([1, "a", None])),
        ("json.x", Constant("b", 3)),
        ("json.x", Numbers(np.array([1, 2, 3]))),
    ],
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
@pytest.mark.parametrize(("apart", "piece_rows"), [(False, 1000), (False, 1), (True, 1)], ids=["one", "pieces", "two"])
def test_batches_of_different_form_join(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    form: Callable[[], list[tuple[str, Column]]],
    apart: bool,
    piece_rows: int,
) -> None:
    """Batches that hold a field in different kinds of column lose nothing, in one file, in its pieces or in two."""
    monkeypatch.setattr("eddy_mesh.store.pieces.PIECE_ROWS", piece_rows)
    batches = [
        _batch({name: column, "occurred": Constant(n, 3)}, first=3 * n) for n, (name, column) in enumerate(form())
    ]
    expected = [row for batch in batches for row in flat_rows(batch)]
    with closing(ArchiveStore(tmp_path, StoreConfig(threads=1), 0)) as store:
        for batch in batches:
            store.append([batch])
            if apart:
                store.seal(0, force=True)
        store.seal(0, force=True)
        assert _rows(store) == expected
        if apart:
            assert store.compact(2**62) == len(batches)
            assert _rows(store) == expected


def test_a_field_sparse_in_one_row_and_dense_in_another_is_one_column() -> None:
    """After unfolding, a registered field is in one column only, and the maps hold what has no type."""
    held = Words(np.array([0, 0, 0], np.uint8), ("a",), NULLS)
    sparse = any_column([{"json.x": 1}, {"user.name": "root"}, {"process.pid": 7}])
    batch = unfold(_batch({"user.name": held, "extra": sparse}))
    assert [batch.columns["user.name"].at(row) for row in range(3)] == ["a", "root", "a"]
    assert [batch.columns["process.pid"].at(row) for row in range(3)] == [None, None, 7]
    assert [batch.columns["extra"].at(row) for row in range(3)] == [{"json.x": 1}, None, None]


def test_joining_looks_at_no_row_where_an_exporter_is_constant() -> None:
    """Constants that differ from batch to batch become a dictionary or an array, not a row-by-row column."""
    batches = [_batch({"host_address": Constant(f"10.0.0.{n}", 3), "host": Constant(f"h{n}", 3)}) for n in range(3)]
    joined = gather(batches)
    assert isinstance(joined.columns["host_address"], Addresses)
    assert isinstance(joined.columns["host"], Words)


def test_rows_of_a_batch_are_its_single_rows() -> None:
    """Rows made column by column equal those made one by one."""
    columns = {name: column for name, column in HALF_NULL.values() if not isinstance(column, Maps)}
    batch = _batch(columns | {"extra": any_column([{"user.id": "0"}, None, {"json.x": None}])})
    assert list(flat_rows(batch)) == [flat_row(batch, row) for row in range(batch.count)]


def test_text_that_is_no_utf8_is_replaced(tmp_path: Path) -> None:
    """A text may begin within a character: then it is none, though all of them together are UTF-8."""
    halves = Text(np.array([0, 1, 2, 3], np.uint32), "öx".encode())
    rows = _sealed(tmp_path, [_batch({"message": halves, "user.name": Text(*pack([b"\xff", b"a", b""]))})])
    assert [row["message"] for row in rows] == ["\ufffd", "\ufffd", "x"]
    assert [row["user.name"] for row in rows] == ["\ufffd", "a", ""]


def test_a_stream_is_read_as_often_as_it_is_asked_for() -> None:
    """DuckDB looks at the form first, and may scan a table twice."""
    columns = {"n": Numbers(np.array([True, False, True]), NULLS)}
    stream = ArrowStream(columns, lambda: iter([(3, columns)]))
    with closing(duckdb.connect()) as connection:
        connection.register("v", stream)
        rows = connection.execute("SELECT a.n, b.n FROM v AS a POSITIONAL JOIN v AS b").fetchall()
    assert rows == [(True, True), (None, None), (True, True)]
