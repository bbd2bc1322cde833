"""Numbers, addresses and texts cut out of one long text."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address

import numpy as np
import pytest

from eddy_agents.wire.log_spans import (
    Offsets,
    addresses_at,
    digits_folded,
    numbers_at,
    packed,
    padded,
    spliced,
    texts_at,
)

NUMBERS = [b"0", b"7", b"65535", b"00012", b"12345678", b"123456789", b"", b"1x", b"/", b":", b"\xff1", b" 1", b"9"]
ADDRESSES = [
    *(b"192.0.2.7", b"0.0.0.0", b"255.255.255.255", b"256.1.1.1", b"01.2.3.4", b"1.2.3", b"1.2.3.4.5", b"1..2.3"),
    *(b".1.2.3", b"1.2.3.", b"a.b.c.d", b"", b"::1", b"1.2.3.4 ", b"1234.1.1.1", b"8.8.8.8"),
]


def laid(pieces: Sequence[bytes]) -> tuple[Offsets, Offsets]:
    """Begins and ends of pieces that lie end to end."""
    ends = np.cumsum([len(piece) for piece in pieces])
    return ends - [len(piece) for piece in pieces], ends


def test_numbers_are_decimal_digits_only() -> None:
    """One to eight digits are a number; anything else is said to be none, whatever stands beside it."""
    values, fits = numbers_at(padded(b"".join(NUMBERS)), *laid(NUMBERS))
    assert fits.tolist() == [piece.isdigit() and len(piece) <= 8 for piece in NUMBERS]
    assert values[fits].tolist() == [int(piece) for piece in NUMBERS if piece.isdigit() and len(piece) <= 8]


def test_addresses_are_those_of_the_standard_library() -> None:
    """A dotted text is an address exactly where ipaddress takes it, with the same value."""
    values, fits = addresses_at(padded(b"".join(ADDRESSES)), *laid(ADDRESSES))
    found = [value if is_address else None for value, is_address in zip(values.tolist(), fits.tolist(), strict=True)]
    assert found == [_address(piece) for piece in ADDRESSES]


def _address(piece: bytes) -> int | None:
    try:
        return int(IPv4Address(piece.decode()))
    except ValueError:
        return None


@pytest.mark.parametrize("pieces", [[b"", b""], [b"ab", b"", b"c"], [b"a\0", b"b"], [b"x" * 200, b"y"]])
def test_texts_come_out_as_they_are(pieces: list[bytes]) -> None:
    """Empty pieces, pieces that end in NUL and pieces longer than a window are all exact."""
    assert texts_at(padded(b"".join(pieces)), *laid(pieces)) == pieces


def test_pieces_apart_are_laid_end_to_end() -> None:
    """What lies between pieces is left out, and a replaced piece moves those after it."""
    offsets, data = packed(padded(b"..ab..c.."), np.array([2, 5, 6]), np.array([4, 5, 7]))
    assert (offsets.tolist(), data.tobytes()) == ([0, 2, 2, 3], b"abc")
    offsets, text = spliced(offsets, data.tobytes(), {1: b"12", 2: b""})
    assert (offsets.tolist(), text) == ([0, 2, 4, 4], b"ab12")


def test_a_run_of_digits_ends_with_its_line() -> None:
    """Runs become one digit and keep their place, and a run at the beginning of a line is a run of its own."""
    text = b"a12b3" + b"45"
    folded, where = digits_folded(padded(text), np.array([0, 5, 7]))
    assert folded == b"a0b00"
    assert where.tolist() == [0, 1, 3, 4, 5, 7]
