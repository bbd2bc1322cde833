"""Which messages of a stream were handled: what keeps a message that comes again from being handled again.

What may live here: `Received` and its file. It is written before a message is acknowledged, so a receiver that was
killed in between knows the message when it comes again. Forgetting is safe: a forgotten message, which only comes again
when the server has lost its acknowledgement, is handled twice at worst; none is ever taken for handled that was not.
"""

from __future__ import annotations

from bisect import bisect_right
from pathlib import Path

import msgspec

from eddy_mesh.whole_file import write_whole

MAX_RUNS = 4096
"""Runs of sequence numbers kept; the oldest are forgotten first."""


class _File(msgspec.Struct):
    is_open: bool
    suspect: int
    newest_ns: int
    runs: list[tuple[int, int]]


class Received:
    """Sequence numbers of the handled messages of one consumer, as runs.

    Attributes:
        is_open: whether its receiver runs; found set, the last one was killed.
        suspect: messages up to this sequence number may have been delivered before, whatever their count says.
    """

    def __init__(self) -> None:
        self.is_open = False
        self.suspect = 0
        self._newest_ns = 0
        self._starts: list[int] = []
        self._ends: list[int] = []  # each the last of its run

    @classmethod
    def load(cls, path: Path) -> Received:
        """Return what a file holds; nothing where there is none, or where it is damaged.

        Raises:
            OSError: it can not be read.
        """
        received = cls()
        try:
            held = msgspec.json.decode(path.read_bytes(), type=_File)
        except (FileNotFoundError, msgspec.MsgspecError):
            return received
        received.is_open, received.suspect, received._newest_ns = held.is_open, held.suspect, held.newest_ns
        for start, end in held.runs:
            received._starts.append(start)
            received._ends.append(end)
        return received

    def save(self, path: Path) -> None:
        """Write it whole or not at all.

        Raises:
            OSError: it can not be written.
        """
        runs = list(zip(self._starts, self._ends, strict=True))
        held = _File(self.is_open, self.suspect, self._newest_ns, runs)
        write_whole(path, msgspec.json.encode(held), synced=False)  # forgetting is safe, and each group writes it

    def has(self, sequence: int, stored_ns: int) -> bool:
        """Whether a message was handled.

        A stream that was made anew, or that a power failure threw back, gives the same numbers to other messages. They
        are younger than every message that was handled: then all that was known is forgotten.

        Args:
            sequence: number in the stream, from 1.
            stored_ns: when the stream took it, ns since 1970 UTC.
        """
        if self._ends and sequence <= self._ends[-1] and stored_ns > self._newest_ns:
            self._starts, self._ends, self.suspect = [], [], 0
            return False
        place = bisect_right(self._starts, sequence) - 1
        return place >= 0 and sequence <= self._ends[place]

    def add(self, sequence: int, stored_ns: int) -> None:
        """Enter a message as handled. Arguments as in `has`."""
        self._newest_ns = max(self._newest_ns, stored_ns)
        starts, ends = self._starts, self._ends
        place = bisect_right(starts, sequence)
        if place and sequence <= ends[place - 1]:
            return
        joins_before = place > 0 and ends[place - 1] == sequence - 1
        joins_after = place < len(starts) and starts[place] == sequence + 1
        if joins_before and joins_after:
            ends[place - 1] = ends.pop(place)
            del starts[place]
        elif joins_before:
            ends[place - 1] = sequence
        elif joins_after:
            starts[place] = sequence
        else:
            starts.insert(place, sequence)
            ends.insert(place, sequence)
            if len(starts) > MAX_RUNS:
                del starts[0], ends[0]
