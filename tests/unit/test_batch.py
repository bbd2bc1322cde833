"""Batches: numbering, cutting, joining, rows."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from eddy_mesh import codec, rows
from eddy_mesh.batch import EXTRA, Batch, Kind, Producer, join
from eddy_mesh.cer import Cer, EventClass, Stage, Value, from_flat, id_from_text, id_text
from eddy_mesh.columns import Addresses, Column, Constant, Maps, Numbers, Text, Words, pack
from eddy_mesh.concatenate import concatenate
from eddy_mesh.errors import WireError
from eddy_mesh.fields import FieldType

KIND = Kind(Stage.COOKED, EventClass.NETWORK, "netflow.v9")


def make(count: int, first: int = 100) -> Batch:
    """Return a batch with a column of every form."""
    events: list[dict[str, Value]] = [
        {
            "occurred": 10**18 + row,
            "observed": 10**18,
            "source.ip": f"10.0.0.{row}" if row % 2 else f"2001:db8::{row}",
            "destination.ip": f"192.0.2.{row}",
            "source.port": row,
            "message": f"line {row} é",
            "network.transport": "tcp" if row % 3 else "udp",
            "network.bytes": None if row % 3 else row,
            "json.inner": {"a": [1, 2]} if row == 4 else None,
            "parents": [bytes([row] * 16)],
        }
        for row in range(count)
    ]
    return rows.batch_of(KIND, "h1", Producer(5, 6), first, 10**12, events)


def test_ids_sort_by_sequence_and_are_uuid_version_7() -> None:
    """Fresh ids ascend with the numbering and carry version 7 and variant 10."""
    ids = [str(row["id"].hex()) for row in rows.flat_rows(make(5))]  # type: ignore[union-attr]
    assert ids == sorted(ids)
    assert all(text[12] == "7" and text[16] in "89ab" for text in ids)


def test_a_select_keeps_the_ids_of_what_it_keeps() -> None:
    """After a filter, and a slice of it, each event has the id that it had before."""
    batch = make(9)
    before = {row["source.port"]: row["id"] for row in rows.flat_rows(batch)}
    cut = batch.filter(np.arange(9) % 2 == 0).slice(1, 4)
    assert {row["source.port"]: row["id"] for row in rows.flat_rows(cut)} == {n: before[n] for n in (2, 4, 6)}


def test_spans_of_slices_cover_the_batch_without_gap() -> None:
    """The slices of a filtered batch stand for consecutive sequence numbers, so receivers see no gap."""
    batch = make(10).filter(np.array([0, 1, 1, 0, 0, 1, 0, 0, 1, 0], bool))
    parts = [batch.slice(start, start + 2) for start in range(0, 4, 2)]
    assert parts[0].first == 100
    assert parts[1].first == parts[0].first + parts[0].span
    assert parts[1].first + parts[1].span == 110


@pytest.mark.parametrize("name", ["source.ip", "source.port", "message", "network.transport", "network.bytes"])
def test_join_keeps_every_value_in_order(name: str) -> None:
    """A joined batch has the rows of its parts, also where one part lacks the field."""
    whole = make(6)
    lacking = whole.with_columns({n: c for n, c in whole.columns.items() if n != name})
    joined = join([whole, lacking, whole])
    values = [whole.column(name).at(row) for row in range(6)]
    assert [joined.column(name).at(row) for row in range(18)] == values + [None] * 6 + values


def test_join_of_different_columns_gives_one_that_holds_both() -> None:
    """A number column and a text column of one open field become a column of any values."""
    parts: list[Column] = [Numbers(np.array([1, 2])), Words(np.array([0], np.uint8), ("x",)), Constant(None, 1)]
    joined = concatenate(parts, FieldType.ANY)
    assert isinstance(joined, Maps)
    assert [joined.at(row) for row in range(4)] == [1, 2, "x", None]


def test_ipv4_and_ipv6_join_in_one_column() -> None:
    """IPv4 addresses stay IPv4 in canonical text beside IPv6 ones."""
    narrow = Addresses(np.array([0x0A000001], ">u4"))
    wide = Addresses(np.array([[0x20010DB8 << 32, 1]], ">u8"))
    joined = concatenate([narrow, wide], FieldType.ADDRESS)
    assert [joined.at(0), joined.at(1)] == ["10.0.0.1", "2001:db8::1"]


def test_codec_round_trip_keeps_every_row() -> None:
    """Encode and decode give the same rows, for whole, filtered and empty batches."""
    batch = make(7)
    for part in (batch, batch.filter(np.arange(7) > 3), batch.filter(np.zeros(7, bool)), join([batch, batch])):
        again = codec.decode(codec.encode(part), part.kind, part.origin)
        assert list(rows.flat_rows(again)) == list(rows.flat_rows(part))
        assert (again.first, again.span, again.stamp_ms) == (part.first, part.span, part.stamp_ms)


def test_split_gives_messages_below_the_limit_that_make_up_the_batch() -> None:
    """No message is larger than asked, and together they hold every event once."""
    batch = make(100)
    parts = list(codec.split(batch, 2000))
    assert len(parts) > 1
    assert all(len(data) <= 2000 for _, data in parts)
    ids = [row["id"] for _, data in parts for row in rows.flat_rows(codec.decode(data, KIND, "h1"))]
    assert ids == [row["id"] for row in rows.flat_rows(batch)]


def test_decode_refuses_a_truncated_message_at_every_offset() -> None:
    """A cut message is a WireError, never another exception."""
    data = codec.encode(make(3))
    for length in range(len(data)):
        with pytest.raises(WireError):
            codec.decode(data[:length], KIND, "h1")


def test_a_cer_survives_its_flat_form() -> None:
    """A row as a Cer and back is the same row."""
    event = rows.cer(make(5), 4)
    assert isinstance(event, Cer)
    assert from_flat(event.flat()) == event
    assert event.correlation.values["source.port"] == 4
    assert event.get("destination.ip") == "192.0.2.4"


def test_json_has_times_ids_and_bytes_as_people_read_them() -> None:
    """RFC 3339 with nanoseconds, UUID text, payload as text, and base64 where it is no text."""
    assert rows.json_value("occurred", 1_500_000_000_000_000_001) == "2017-07-14T02:40:00.000000001Z"
    assert rows.json_value("event.original", b"plain") == "plain"
    assert rows.json_value("event.original", b"\xff") == {"base64": "/w=="}
    identity = bytes(range(16))
    assert id_from_text(id_text(identity)) == identity


@pytest.mark.parametrize("name", ["occurred", "id", "parents", "event.original", "source.port"])
def test_json_values_come_back(name: str) -> None:
    """`value_of_json` is the inverse of `json_value`."""
    samples: dict[str, Value] = {
        "occurred": 1_700_000_000_123_456_789,
        "id": bytes(range(16)),
        "parents": [bytes(range(16)), bytes(16)],
        "event.original": b"\x00\xff",
        "source.port": 22,
    }
    assert rows.value_of_json(name, rows.json_value(name, samples[name])) == samples[name]


def test_lines_of_json_are_the_rows_value_by_value() -> None:
    """What is made a column at a time equals what is made a value at a time, for every form of column."""
    batch = make(9)
    batch = batch.with_columns({**batch.columns, EXTRA: Maps(*pack([msgspec.msgpack.encode({"user.id": 5})] * 9))})
    wanted = [{n: rows.json_value(n, v) for n, v in rows.flat_row(batch, row).items()} for row in range(9)]
    assert [msgspec.json.decode(line) for line in rows.json_rows(batch)] == wanted


def test_a_value_that_does_not_fit_its_field_is_kept() -> None:
    """A text in an address field and a number in a text field survive."""
    events: list[dict[str, Value]] = [
        {"source.ip": "not an address", "message": 5},
        {"source.ip": "10.0.0.1", "message": "x"},
    ]
    batch = rows.batch_of(KIND, "h", Producer(1, 1), 0, 0, events)
    again = codec.decode(codec.encode(batch), KIND, "h")
    assert [row["source.ip"] for row in rows.flat_rows(again)] == ["not an address", "10.0.0.1"]
    assert [row["message"] for row in rows.flat_rows(again)] == [5, "x"]


def test_rare_fields_go_to_the_column_of_maps_and_come_back() -> None:
    """A field of one event in a hundred takes no column of its own."""
    events: list[dict[str, Value]] = [{"source.port": row} for row in range(100)]
    events[7]["user.name"] = "root"
    batch = rows.batch_of(KIND, "h", Producer(1, 1), 0, 0, events)
    assert "user.name" not in batch.columns
    assert rows.flat_row(batch, 7)["user.name"] == "root"


def test_plain_text_columns_take_rows_in_any_order() -> None:
    """Taking rows that do not lie together copies just those."""
    column = Text(np.array([0, 1, 3, 6], np.uint32), b"abbccc")
    assert [column.take(np.array([2, 0])).at(row) for row in range(2)] == ["ccc", "a"]
