"""Pieces of one long text by their offsets: what a chunk of lines is cut into without an object for each piece.

What may live here: operations on ``data`` (the text as bytes, with `PADDING` more at its end), ``begins`` and ``ends``
(offsets of the first byte of each piece and of the one after its last; int64, of one length).
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain, zip_longest
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Data: TypeAlias = npt.NDArray[np.uint8]
Offsets: TypeAlias = npt.NDArray[np.int64]

PADDING = 96
"""A window of so many bytes may be read at every offset of the text."""

MAX_DIGITS = 8
MAX_ADDRESS_BYTES = 16
"""An IPv4 address, and the byte after it."""
_ZEROS, _HIGH_BITS = np.uint64(0x3030_3030_3030_3030), np.uint64(0x8080_8080_8080_8080)
_TO_HIGH_BIT = np.uint64(0x7676_7676_7676_7676)
"""Added to a byte, it sets the high bit of 10 and more."""
_EVERY_FOURTH = np.uint64(0x0000_00FF_0000_00FF)
_HIGHER, _LOWER = np.uint64(100 + (1_000_000 << 32)), np.uint64(1 + (10_000 << 32))
_OCTETS = np.array([1 << 24, 1 << 16, 1 << 8, 1])


def padded(text: bytes) -> Data:
    """Return a text as an array with `PADDING` zeros at its end."""
    return np.frombuffer(text + bytes(PADDING), np.uint8)


def windows(data: Data, begins: Offsets, width: int) -> Data:
    """Return the ``width`` bytes (at most `PADDING`) from each offset on: shape (n, width)."""
    every = np.ndarray((len(data) - width + 1,), f"V{width}", buffer=data, strides=(1,))
    return every[begins].view(np.uint8).reshape(-1, width)


def firsts_of(marks: npt.NDArray[np.bool_], count: int) -> list[npt.NDArray[np.intp]]:
    """Return where the first, second ... mark of each row is; the width of the rows where there is none.

    Args:
        marks: shape (n, width); its marks are taken away.
        count: how many to find.
    """
    every, found = np.arange(len(marks)), []
    for _ in range(count):
        place = marks.argmax(axis=1)
        found.append(np.where(marks[every, place], place, marks.shape[1]))
        marks[every, place] = False
    return found


def texts_at(data: Data, begins: Offsets, ends: Offsets) -> list[bytes]:
    """Return each piece as bytes."""
    lengths = ends - begins
    width = int(lengths.max(initial=0))
    if not width:
        return [b""] * len(begins)
    if width > PADDING or not data[ends - 1].all():  # the end of a fixed-width text can not be NUL
        whole = data.tobytes()
        return [whole[begin:end] for begin, end in zip(begins.tolist(), ends.tolist(), strict=True)]
    held = windows(data, begins, width)
    if int(lengths.min()) < width:
        held = held * (np.arange(width) < lengths[:, None])
    return held.view(f"S{width}").ravel().tolist()


def packed(data: Data, begins: Offsets, ends: Offsets) -> tuple[npt.NDArray[np.uint32], Data]:
    """Return the offsets (n + 1) and bytes of the pieces laid end to end; they must be in order and apart."""
    gaps = np.empty(2 * len(begins), np.int64)
    gaps[0::2] = begins
    gaps[2::2] -= ends[:-1]
    gaps[1::2] = ends - begins
    offsets = np.zeros(len(begins) + 1, np.uint32)
    np.cumsum(gaps[1::2], out=offsets[1:])
    is_kept = np.repeat(np.tile([False, True], len(begins)), gaps)
    return offsets, data[: len(is_kept)][is_kept]


def spliced(
    offsets: npt.NDArray[np.uint32], text: bytes, pieces: Mapping[int, bytes]
) -> tuple[npt.NDArray[np.uint32], bytes]:
    """Return pieces that lie end to end with some of them replaced.

    Args:
        offsets: of the pieces in ``text``, and its length.
        text: all pieces.
        pieces: number of a piece → what is to stand in its place.
    """
    rows = sorted(pieces)
    if not rows:
        return offsets, text
    lengths = np.diff(offsets)
    lengths[rows] = [len(pieces[row]) for row in rows]
    kept = zip([0, *offsets[1:][rows].tolist()], [*offsets[rows].tolist(), len(text)], strict=True)
    parts = [text[begin:end] for begin, end in kept]
    result = np.zeros(len(offsets), np.uint32)
    np.cumsum(lengths, out=result[1:])
    return result, b"".join(chain.from_iterable(zip_longest(parts, map(pieces.__getitem__, rows), fillvalue=b"")))


def digits_folded(data: Data, begins: Offsets) -> tuple[bytes, Offsets]:
    """Return a text with each run of digits as one ``0``, and for each byte of it where its run or byte was.

    Args:
        data: the text.
        begins: offsets at which a run of digits that goes on begins anew.

    Returns:
        The text, and one offset more than it has bytes: the last is the length of ``data`` without padding.
    """
    text = data[: len(data) - PADDING + 1]
    is_digit = (text - np.uint8(ord("0"))) < 10
    is_kept = np.empty(len(text), np.bool_)
    np.logical_and(is_digit[1:], is_digit[:-1], out=is_kept[1:])
    np.logical_not(is_kept, out=is_kept)
    is_kept[:1] = True
    is_kept[begins] = True
    where = is_kept.nonzero()[0]
    zeroed = ~(is_digit.view(np.uint8) * np.uint8(0x0F)) & text  # digits are 0x30 to 0x39
    return zeroed.take(where[:-1]).tobytes(), where


def numbers_at(data: Data, begins: Offsets, ends: Offsets) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Return the value of each piece that is 1 to `MAX_DIGITS` decimal digits, and whether it is.

    A piece is read as one 64-bit number with a digit in each byte, of which pairs, fours and eights are added up.
    """
    lengths = ends - begins
    every = np.ndarray((len(data) - MAX_DIGITS + 1,), "<u8", buffer=data, strides=(1,))
    digits = (every[begins] ^ _ZEROS) << (8 * np.maximum(MAX_DIGITS - lengths, 0)).astype(np.uint64)
    fits = (((digits + _TO_HIGH_BIT) | digits) & _HIGH_BITS == 0) & (lengths > 0) & (lengths <= MAX_DIGITS)
    pairs = digits * np.uint64(10) + (digits >> np.uint64(8))
    fours = (pairs & _EVERY_FOURTH) * _HIGHER + ((pairs >> np.uint64(16)) & _EVERY_FOURTH) * _LOWER
    return (fours >> np.uint64(32)).astype(np.int64), fits


def addresses_at(data: Data, begins: Offsets, ends: Offsets) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Return each piece that is an IPv4 address as a 32-bit number, and whether it is.

    Source: RFC 6943 section 3.1.1, strict form: four decimal numbers without leading zeros.
    """
    dots = firsts_of(windows(data, begins, MAX_ADDRESS_BYTES) == ord("."), 3)
    cuts = np.column_stack([begins - 1, *(begins + dot for dot in dots), ends])
    starts, lengths = cuts[:, :-1] + 1, np.diff(cuts) - 1
    fits = ((lengths > 0) & (lengths < 4)).all(axis=1)
    parts, are_numbers = numbers_at(data, starts.ravel(), (starts + lengths).ravel())
    are_numbers &= (parts < 256) & ((lengths.ravel() == 1) | (data[starts.ravel()] != ord("0")))
    fits = np.asarray(fits & are_numbers.reshape(-1, 4).all(axis=1))
    return parts.reshape(-1, 4) @ _OCTETS, fits
