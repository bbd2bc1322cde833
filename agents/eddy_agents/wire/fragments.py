"""IP fragments put together, in bounded memory.

What may live here: `Defragmenter`. It knows nothing of headers: a key says which datagram a piece belongs to.

Source: RFC 791 section 3.2 (the procedure), RFC 5722 (overlapping pieces give up the datagram), RFC 8200 section 4.5.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

MAX_DATAGRAMS: Final = 1024
"""Most datagrams that wait for pieces; Linux bounds the bytes instead (``ipfrag_high_thresh``, 4 MiB)."""

MAX_DATAGRAM_BYTES: Final = 65_535
MAX_PIECES: Final = 8192
"""Pieces of 8 octets that the longest datagram can have: a bound that only an attack meets."""

TIMEOUT_NS: Final = 30_000_000_000
"""A datagram not complete after this time, by the capture's clock, is given up; as Linux (``ipfrag_time``)."""


@dataclass(slots=True)
class _Pending:
    started_ns: int
    total: int = -1  # unknown until the last piece is there
    held: int = 0
    pieces: dict[int, bytes] = field(default_factory=dict)


class Defragmenter:
    """Holds the pieces of datagrams until they are whole.

    Memory is bounded by `MAX_DATAGRAMS` times 64 KiB; beyond that the oldest datagram is given up.

    Attributes:
        lost: how many datagrams were given up, by reason: ``fragment_missing``, ``_overlap`` or ``_size``.
    """

    def __init__(self) -> None:
        self.lost: Counter[str] = Counter()
        self._pending: dict[bytes, _Pending] = {}  # in the order in which they began

    def add(self, key: bytes, timestamp_ns: int, offset: int, piece: bytes, *, more: bool) -> bytes:
        """Take one piece; returns the datagram that it completes, else b"".

        Args:
            key: what the pieces of one datagram share.
            timestamp_ns: ns since 1970 UTC by the clock of the capture.
            offset: octets from the start of the datagram, a multiple of 8.
            piece: octets of the datagram that were captured.
            more: whether another piece follows this one.
        """
        self._expire(timestamp_ns)
        pending = self._pending.get(key)
        if pending is None:
            if len(self._pending) >= MAX_DATAGRAMS:
                self._give_up(next(iter(self._pending)), "fragment_missing")
            pending = self._pending[key] = _Pending(timestamp_ns)
        if pending.pieces.get(offset) == piece:
            return b""  # captured twice
        reason = _refused(pending, offset, piece)
        if reason:
            self._give_up(key, reason)
            return b""
        pending.pieces[offset] = piece
        pending.held += len(piece)
        if not more:
            pending.total = offset + len(piece)
        return self._whole(key, pending)

    def close(self) -> None:
        """Give up every datagram that is not whole."""
        for key in list(self._pending):
            self._give_up(key, "fragment_missing")

    def _whole(self, key: bytes, pending: _Pending) -> bytes:
        """Return the datagram when its pieces lie end to end from 0 to its end."""
        if pending.total < 0 or pending.held < pending.total:
            return b""
        end, parts = 0, []
        for offset in sorted(pending.pieces):
            if offset != end:
                self._give_up(key, "fragment_overlap")
                return b""
            parts.append(pending.pieces[offset])
            end += len(pending.pieces[offset])
        if end != pending.total:
            self._give_up(key, "fragment_overlap")
            return b""
        del self._pending[key]
        return b"".join(parts)

    def _expire(self, now_ns: int) -> None:
        while self._pending:
            key, pending = next(iter(self._pending.items()))
            if now_ns - pending.started_ns <= TIMEOUT_NS:
                return  # the others began later
            self._give_up(key, "fragment_missing")

    def _give_up(self, key: bytes, reason: str) -> None:
        del self._pending[key]
        self.lost[reason] += 1


def _refused(pending: _Pending, offset: int, piece: bytes) -> str:
    """Return why a piece can not belong to a datagram, "" where it can."""
    if offset + len(piece) > MAX_DATAGRAM_BYTES or len(pending.pieces) >= MAX_PIECES or not piece:
        return "fragment_size"
    if offset in pending.pieces or pending.held + len(piece) > MAX_DATAGRAM_BYTES:
        return "fragment_overlap"
    return ""
