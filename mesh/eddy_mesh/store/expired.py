"""What the local store has dropped: up to when the events of each producer are gone, and when they went.

What may live here: the bounded table, and its bytes. No file, no clock.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import NamedTuple

import msgspec

MAX_PRODUCERS = 1024
"""The producers whose events went longest ago are forgotten first; each restart of a host process makes new ones."""
MAX_STEPS = 32
"""Times kept of one producer. Of events older than the first it is only known that they were gone by then."""


class Step(NamedTuple):
    """Events made up to ``stamp_ms`` (ms since 1970 UTC) were gone at ``expired_ns`` (ns since 1970 UTC)."""

    stamp_ms: int
    expired_ns: int


class Expired:
    """The table: `eddy_mesh.store.local_segment.key_of` → steps, ascending in both members."""

    def __init__(self) -> None:
        self._steps: dict[int, list[Step]] = {}

    def add(self, key: int, stamp_ms: int, expired_ns: int) -> None:
        """Enter that the events that a producer made up to a moment are gone."""
        steps = self._steps.pop(key, [])
        if not steps or stamp_ms > steps[-1].stamp_ms:
            steps.append(Step(stamp_ms, expired_ns))
        self._steps[key] = steps[-MAX_STEPS:]  # at the end: lately changed
        while len(self._steps) > MAX_PRODUCERS:
            del self._steps[next(iter(self._steps))]

    def when(self, key: int, stamp_ms: int) -> int | None:
        """Return when an event that is not held any more went, ns since 1970 UTC, or None where that is not known.

        Args:
            key: who made it.
            stamp_ms: when it was made, ms since 1970 UTC, as its id says. Sequence numbers would not do: their 32 bits
                wrap within an hour or two where a million events come each second.
        """
        steps = self._steps.get(key, [])
        position = bisect_left(steps, (stamp_ms, 0))
        return steps[position].expired_ns if position < len(steps) else None

    def encode(self) -> bytes:
        """Return the table as bytes."""
        return msgspec.msgpack.encode(self._steps)

    @classmethod
    def decode(cls, data: bytes) -> Expired:
        """Return the table that `encode` made bytes of; an empty one where they are none of that."""
        table = cls()
        try:
            told = msgspec.msgpack.decode(data, type=dict[int, list[Step]])
        except msgspec.MsgspecError:
            return table
        for key, steps in told.items():
            for step in steps:
                table.add(key, *step)
        return table
