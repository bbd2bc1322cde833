"""Pieces of one long text by their offsets: what a chunk of lines is cut into without an object for each piece.

What may live here: operations on ``data`` (the text as bytes, with `PADDING` more at its end), ``begins`` and ``ends``
(offsets of the first byte of each piece and of the one after its last; int64, of one length).
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Data: TypeAlias = npt.NDArray[np.uint8]
Offsets: TypeAlias = npt.NDArray[np.int64]

PADDING = 64
"""A window of so many bytes may be read at every offset of the text."""


def padded(text: bytes) -> Data:
    """Return a text as an array with `PADDING` zeros at its end."""
    return np.frombuffer(text + bytes(PADDING), np.uint8)


def windows(data: Data, begins: Offsets, width: int) -> Data:
    """Return the ``width`` bytes (at most `PADDING`) from each offset on: shape (n, width)."""
    every = np.ndarray((len(data) - width + 1,), f"V{width}", buffer=data, strides=(1,))
    return every[begins].view(np.uint8).reshape(-1, width)


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


def digits_folded(data: Data, begins: Offsets) -> tuple[bytes, Offsets]:
    """Return a text with each run of digits as one ``0``, and for each byte of it where its run or byte was.

    Args:
        data: the text.
        begins: offsets at which a run of digits that goes on begins anew.

    Returns:
        The text, and one offset more than it has bytes: the last is the length of ``data`` without padding.
    """
    is_digit = (data - np.uint8(ord("0"))) < 10
    is_kept = np.ones(len(data), np.bool_)
    np.logical_and(is_digit[1:], is_digit[:-1], out=is_kept[1:])
    np.logical_not(is_kept[1:], out=is_kept[1:])
    is_kept[begins] = True
    is_kept[len(data) - PADDING + 1 :] = False
    where = np.flatnonzero(is_kept)
    folded = data[where[:-1]]
    folded[is_digit[where[:-1]]] = ord("0")
    return folded.tobytes(), where
