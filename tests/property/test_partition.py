"""Laws of partitions: equal values have one partition, whatever column, process or host holds them."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eddy_mesh import codec, rows
from eddy_mesh.batch import EXTRA, Batch, Kind, Producer
from eddy_mesh.cer import EventClass, Stage, Value
from eddy_mesh.columnize import any_column, id_column
from eddy_mesh.columns import Addresses, Bytes, Column, Constant, Numbers, Text, Words, pack
from eddy_mesh.config import PARTITIONS
from eddy_mesh.fields import FieldType
from eddy_mesh.hashing import column_hashes
from eddy_mesh.partition import NULL_PARTITION, owned, partitions_of, split_by

KIND = Kind(Stage.COOKED, EventClass.APPLICATION, "json")
values = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text()
    | st.binary()
    | st.lists(st.integers(0, 9), max_size=3)
)
addresses = st.ip_addresses().map(str)


def batch_of(name: str, column: Column) -> Batch:
    """Return a batch with one column."""
    return Batch(KIND, "h", Producer(3, 4), 7, 10**12, len(column), {name: column})


def placed(name: str, column: Column) -> list[int]:
    """Return the partition of each row of a column."""
    found: list[int] = partitions_of(batch_of(name, column), name).tolist()
    return found


@given(st.lists(values, min_size=1, max_size=8))
def test_a_row_alone_is_where_it_is_among_others(items: list[Value]) -> None:
    """The partition of a value does not depend on the column that its neighbours make, nor on the wire."""
    together = placed("json.x", any_column(items))
    assert together == [placed("json.x", Constant(item, 1))[0] for item in items]
    again = codec.decode(codec.encode(batch_of("json.x", any_column(items))), KIND, "h")
    assert partitions_of(again, "json.x").tolist() == together
    assert all((number == NULL_PARTITION) == (item is None) for number, item in zip(together, items, strict=True))
    assert max(together) < PARTITIONS


@given(st.integers(0, 127))
def test_a_number_in_any_type(number: int) -> None:
    """Octets, words, floats and a constant of the same number are together."""
    types = ("i1", "u1", "<u2", "<i8", "<u8", "<f4", "<f8")
    found = {placed("source.port", Numbers(np.array([number], dtype)))[0] for dtype in types}
    assert found == {placed("source.port", Constant(number, 1))[0]}


@given(st.text(), st.text())
def test_text_in_any_column(one: str, other: str) -> None:
    """Dictionary words, plain text and a constant of the same text are together."""
    words = placed("user.name", Words(np.array([1, 0], np.uint8), (other, one)))
    text = placed("user.name", Text(*pack([one.encode(), other.encode()])))
    assert words == text == [placed("user.name", Constant(item, 1))[0] for item in (one, other)]


@given(st.lists(addresses, min_size=1, max_size=6))
def test_addresses_in_any_width(items: list[str]) -> None:
    """An IPv4 address in four octets, mapped in sixteen, and as text of a constant or a sparse field is one."""
    sparse = rows.batch_of(KIND, "h", Producer(3, 4), 7, 0, [{"source.ip": item} for item in items])
    whole = partitions_of(sparse, "source.ip").tolist()
    assert whole == [placed("source.ip", Constant(item, 1))[0] for item in items]
    column = sparse.column("source.ip")
    if isinstance(column, Addresses):
        assert placed("source.ip", column.wide()) == whole
    maps = any_column([{"source.ip": item} for item in items])
    assert partitions_of(batch_of(EXTRA, maps), "source.ip").tolist() == whole


@pytest.mark.parametrize("kind", [FieldType.ID, FieldType.IDS])
def test_an_id_in_any_column(kind: FieldType) -> None:
    """An event id is in one partition as halves, as bytes, in a map and as a constant."""
    ids = [bytes(range(16)), bytes(range(1, 17))]
    columns: list[Column] = [id_column(ids), Bytes(*pack(ids)), any_column(ids)]
    found = {tuple(column_hashes(kind, column)[0].tolist()) for column in columns}
    assert found == {tuple(int(column_hashes(kind, Constant(one, 1))[0][0]) for one in ids)}


@given(st.lists(st.integers(0, 40) | st.none(), min_size=1, max_size=60), st.sampled_from([1, 2, 8, 64]))
def test_a_split_keeps_every_row_and_their_order(items: list[int | None], partitions: int) -> None:
    """Each row is in one part, the parts have the partition they say, and rows of one part stay in order."""
    batch = batch_of("json.x", any_column(items))
    parts = split_by(batch, "json.x", partitions)
    assert sorted(row for _, index in parts for row in index.tolist()) == list(range(len(items)))
    for number, index in parts:
        assert all(a < b for a, b in pairwise(index.tolist()))
        assert {found % partitions for found in partitions_of(batch.take(index), "json.x").tolist()} == {number}
    assert len({number for number, _ in parts}) == len(parts)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64])
def test_every_partition_has_one_owner(count: int) -> None:
    """The instances of an agent share the partitions without rest and without overlap."""
    shares = [owned(instance, count) for instance in range(count)]
    assert sorted(number for share in shares for number in share) == list(range(PARTITIONS))


def test_values_spread() -> None:
    """Neighbouring ports and addresses do not heap up: no partition has more than twice its share."""
    ports = Numbers(np.arange(6300, dtype="<u2"))
    hosts = Addresses((np.arange(6300) + 0x0A00_0000).astype(">u4"))
    for name, column in (("source.port", ports), ("source.ip", hosts)):
        counts = np.bincount(placed(name, column), minlength=PARTITIONS)
        assert counts[NULL_PARTITION] == 0
        assert 50 < counts[1:].min() <= counts.max() < 200


_PROGRAM = """
from eddy_mesh.batch import Batch, Kind, Producer
from eddy_mesh.cer import EventClass, Stage
from eddy_mesh.columnize import any_column
from eddy_mesh.partition import partitions_of
values = ["a", "é", b"a", 5, -1, 2.5, True, [1, 2], {"b": 1, "a": 2}, None, "192.0.2.1"]
kind = Kind(Stage.COOKED, EventClass.APPLICATION, "json")
batch = Batch(kind, "h", Producer(1, 1), 0, 0, len(values), {"json.x": any_column(values)})
print(partitions_of(batch, "json.x").tolist())
"""
_EXPECTED = "[28, 21, 28, 18, 51, 48, 29, 37, 44, 0, 57]"


@pytest.mark.parametrize("seed", ["0", "1"])
def test_another_process_and_version_agree(seed: str) -> None:
    """The numbers are part of the wire contract: they are these in every process, whatever seed Python hashes with."""
    answer = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.strip() == _EXPECTED
