"""Laws of the codec: round trips, and any bytes give a batch or a WireError."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from ipaddress import IPv6Address, ip_address
from itertools import accumulate

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from eddy_mesh import codec, rows
from eddy_mesh.batch import Batch, Kind, Producer
from eddy_mesh.cer import EventClass, Stage
from eddy_mesh.columns import Words
from eddy_mesh.errors import WireError

KIND = Kind(Stage.COOKED, EventClass.APPLICATION, "json")
scalars = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary()
)
addresses = st.ip_addresses().map(str)
events = st.lists(
    st.fixed_dictionaries(
        {"occurred": st.integers(0, 2**62), "observed": st.integers(0, 2**62)},
        optional={
            "source.ip": addresses | scalars,
            "source.port": st.integers(0, 65535) | scalars,
            "message": st.text() | st.none(),
            "json.x": scalars | st.lists(st.integers(0, 9)),
            "event.original": st.binary(),
            "level": st.integers(0, 7),
        },
    ),
    max_size=12,
)


def batch_of(items: list[dict[str, object]]) -> Batch:
    """Return a batch of generated events."""
    return rows.batch_of(KIND, "h", Producer(3, 4), 7, 10**12, items)  # type: ignore[arg-type]


@given(events)
@example([{"occurred": 0, "observed": 0}, {"occurred": 0, "observed": 0, "source.ip": "::ffff:0:0"}])
@settings(max_examples=150)
def test_rows_survive_the_wire(items: list[dict[str, object]]) -> None:
    """What goes in comes out, whatever the values are."""
    batch = batch_of(items)
    again = codec.decode(codec.encode(batch), KIND, "h")
    assert list(rows.flat_rows(again)) == list(rows.flat_rows(batch))
    wanted = [{name: value for name, value in item.items() if value is not None} for item in items]
    mapped = [{name: row[name] for name in item} for item, row in zip(wanted, rows.flat_rows(again), strict=True)]
    assert [_canonical(row) for row in mapped] == [_canonical(row) for row in wanted]


def _canonical(row: Mapping[str, object]) -> dict[str, object]:
    """The row as it comes out: an address in its canonical text, an IPv4-mapped one as IPv4."""
    text = str(row["source.ip"]) if "source.ip" in row else ""
    with contextlib.suppress(ValueError):
        address = ip_address(text)
        text = str(address.ipv4_mapped or address) if isinstance(address, IPv6Address) else str(address)
    return {**row, "source.ip": text} if "source.ip" in row else dict(row)


@given(events.filter(len), st.data())
@settings(max_examples=150)
def test_selections_encoded_together_are_what_each_gives_by_itself(
    items: list[dict[str, object]], data: st.DataObject
) -> None:
    """Taking and encoding several selections of a batch at once gives the bytes of each, octet for octet."""
    batch = batch_of(items)
    if data.draw(st.booleans()):
        batch = batch.take(np.array(data.draw(_selections(batch.count)), np.intp))
    chosen = data.draw(st.lists(_selections(batch.count), min_size=1, max_size=5))
    together = np.array([row for rows_of in chosen for row in rows_of], np.intp)
    bounds = [0, *accumulate(map(len, chosen))]
    alone = [codec.encode(batch.take(np.array(rows_of, np.intp))) for rows_of in chosen]
    assert codec.encode_runs(batch, together, bounds) == alone


@given(st.data(), st.booleans())
def test_a_large_dictionary_is_cut_to_what_a_selection_has(data: st.DataObject, with_nulls: bool) -> None:
    """A few events of a batch with many different texts do not carry all of these, and read as before."""
    values = tuple(f"host {number} {'x' * 20}" for number in range(300))
    chosen = data.draw(st.lists(_selections(300), min_size=1, max_size=4))
    nulls = np.arange(300) % 3 == 0 if with_nulls else None
    batch = Batch(
        KIND, "h", Producer(3, 4), 7, 10**12, 300, {"host": Words(np.arange(300).astype("<u2"), values, nulls)}
    )
    bounds = [0, *accumulate(map(len, chosen))]
    messages = codec.encode_runs(batch, np.array([row for one in chosen for row in one], np.intp), bounds)
    for one, message in zip(chosen, messages, strict=True):
        again = codec.decode(message, KIND, "h")
        assert list(rows.flat_rows(again)) == list(rows.flat_rows(batch.take(np.array(one, np.intp))))
        assert len(message) <= 100 + 45 * len(one)


def _selections(count: int) -> st.SearchStrategy[list[int]]:
    return st.sets(st.integers(0, count - 1), min_size=1).map(sorted)


@given(events)
def test_the_estimate_is_near_the_encoded_size(items: list[dict[str, object]]) -> None:
    """Bytes saved are counted from an estimate: it is never far from what encoding gives."""
    batch = batch_of(items)
    size = len(codec.encode(batch))
    text = sum(len(str(item.get("json.x"))) + 4 * len(str(item.get("message"))) for item in items)
    assert abs(codec.estimated_bytes(batch) - size) <= 32 * (len(batch.columns) + 1) + 4 * text


@given(st.binary(max_size=200))
@settings(max_examples=200)
def test_any_bytes_are_a_batch_or_a_wire_error(data: bytes) -> None:
    """No other exception, and what was decoded can be looked at."""
    with contextlib.suppress(WireError):
        list(rows.json_rows(codec.decode(data, KIND, "h")))


@given(events, st.integers(0, 10**6), st.binary(min_size=1, max_size=4))
@settings(max_examples=150)
def test_a_damaged_message_is_a_batch_or_a_wire_error(
    items: list[dict[str, object]], place: int, damage: bytes
) -> None:
    """Flipped bytes anywhere do no more harm than that."""
    data = bytearray(codec.encode(batch_of(items)))
    at = place % len(data)
    data[at : at + len(damage)] = damage
    with contextlib.suppress(WireError):
        list(rows.json_rows(codec.decode(bytes(data), KIND, "h")))
