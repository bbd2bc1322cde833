"""Any bytes on a stream, in any pieces: every framer gives frames within its limit, the same however they come."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["eddy_mesh", "eddy_agents"]):
    from eddy_agents.wire.framing import LineFramer, OctetFramer, SyslogFramer
    from eddy_mesh.errors import WireError

LIMIT_BYTES = 512
FRAMERS = (LineFramer, OctetFramer, SyslogFramer)


def frames(framer: LineFramer | OctetFramer | SyslogFramer, pieces: list[bytes]) -> list[bytes]:
    """Return the frames of a stream that comes in pieces."""
    found = []
    for part in [*(framer.feed(piece) for piece in pieces), framer.finish()]:
        found += [part.payloads.bytes_at(row) for row in range(len(part))]
    return found


def one_input(data: bytes) -> None:
    """Cut a stream where the input says and frame it."""
    chosen = atheris.FuzzedDataProvider(data)
    made = FRAMERS[chosen.ConsumeIntInRange(0, len(FRAMERS) - 1)]
    cut = chosen.ConsumeIntInRange(0, 1024)
    stream = bytes(chosen.ConsumeBytes(4096))
    try:
        in_two = frames(made(LIMIT_BYTES), [stream[:cut], stream[cut:]])
        at_once = frames(made(LIMIT_BYTES), [stream])
    except WireError:
        return
    if any(len(frame) > LIMIT_BYTES for frame in in_two):
        raise AssertionError("a frame is longer than the limit")
    if in_two != at_once:
        raise AssertionError("the frames depend on how the stream came")


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
