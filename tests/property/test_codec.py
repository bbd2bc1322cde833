"""Laws of the codec: round trips, and any bytes give a batch or a WireError."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from hypothesis import given, settings
from hypothesis import strategies as st

from eddy_mesh import codec, rows
from eddy_mesh.batch import Batch, Kind, Producer
from eddy_mesh.cer import EventClass, Stage
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
    address = row.get("source.ip")
    if isinstance(address, str) and address.lower().startswith("::ffff:"):
        row = {**row, "source.ip": "mapped"}
    return {
        n: (str(v) if n == "source.ip" else v) for n, v in row.items() if not (n == "source.ip" and "mapped" in str(v))
    }


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
