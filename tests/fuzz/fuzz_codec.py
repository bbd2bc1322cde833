"""Any bytes as a message of the event channel: a batch whose every row can be looked at, or a `WireError`."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["eddy_mesh"]):
    from eddy_mesh import codec
    from eddy_mesh.batch import Kind, Producer
    from eddy_mesh.cer import EventClass, Stage
    from eddy_mesh.errors import WireError
    from eddy_mesh.rows import batch_of, json_rows

KIND = Kind(Stage.COOKED, EventClass.NETWORK, "netflow.v9")
ROWS = 16

VALID = codec.encode(
    batch_of(
        KIND,
        "h",
        Producer(7, 1_793_600_000),
        5,
        1_793_700_000_000,
        [
            {"source.ip": "192.0.2.1", "source.port": 22, "message": "one", "event.original": b"\0\1", "json.a": [1]},
            {"source.ip": "2001:db8::1", "message": "two", "event.action": "x", "observed": 1, "parents": [bytes(16)]},
            {"source.port": 80, "event.action": "x", "json.a": {"b": 1.5}, "sensor.value": 0.5},
        ],
    )
)


def one_input(data: bytes) -> None:
    """Decode bytes, and a valid message in which they take the place of as many from the middle on."""
    take(data)
    if len(data) > 2:
        place = int.from_bytes(data[:2], "little") % len(VALID)
        take(VALID[:place] + data[2:] + VALID[place + len(data) - 2 :])


def take(data: bytes) -> None:
    """Decode one message; what is a batch must have rows and survive the way back."""
    try:
        batch = codec.decode(data, KIND, "h")
    except WireError:
        return
    first = batch.slice(0, ROWS)
    shown = list(json_rows(first))
    back = codec.decode(codec.encode(first), KIND, "h")
    if list(json_rows(back)) != shown:
        raise AssertionError("a batch is another one after the way through its bytes")


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
