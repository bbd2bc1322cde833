"""What a message says, found by its shape: the message with each run of digits as one ``0``.

What may live here: the patterns of a program, applied to one message, and `Shapes`, which remembers which pattern a
shape has and where its groups are. Programs write few shapes, so that most messages cost one look into a dictionary,
and the regular expressions run once for each shape.

The shape decides how a message is read: no pattern names a digit, none tells a run of digits from a longer one except
by the `LIMITS` of its groups, and a message with a longer group than these is read by itself.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from eddy_agents.wire.log_patterns import GROUPS, PROGRAMS, Pattern

MAX_SHAPES = 16_384
MAX_SHAPE_BYTES = 4 * 1024 * 1024
"""Beyond either, everything is forgotten before the next chunk."""

FIELDS = tuple(GROUPS.values())
_NUMBER_OF = {group: number for number, group in enumerate(GROUPS)}
_BOUNDED = re.compile(r"\(\?P<(\w+)>[^()]*?\{\d,(\d+)\}")
_KEY_BYTES = 4


def _limits() -> dict[int, int]:
    texts = {pattern.text for patterns in PROGRAMS.values() for pattern in patterns}
    found = [(_NUMBER_OF[group], int(most)) for text in texts for group, most in _BOUNDED.findall(text)]
    return {number: min(most for other, most in found if other == number) for number, _ in found}


LIMITS = _limits()
"""Offset in `FIELDS` → the most bytes that every pattern lets the field have."""

Spans: TypeAlias = Sequence[tuple[int, int, int]]
"""For each field that a message has its offset in `FIELDS`, and where it begins and ends in the message."""


class _Compiled(NamedTuple):
    pattern: Pattern
    expression: re.Pattern[bytes]
    fields: tuple[int, ...]
    needle: bytes


class Table(NamedTuple):
    """The patterns of a program: by the first characters of a message, or by a text in it."""

    by_key: Mapping[bytes, tuple[_Compiled, ...]]
    by_needle: tuple[_Compiled, ...]

    def read(self, message: bytes) -> tuple[Pattern, Spans] | None:
        """Return the pattern of a message and its fields, or None where it has none; only its first line counts."""
        line = message.partition(b"\n")[0]
        for needed in (self.by_needle, self.by_key.get(line[:_KEY_BYTES], ())):
            for pattern, expression, fields, needle in needed:
                found = expression.fullmatch(line) if needle in message else None
                if found is not None:
                    spans = zip(fields, found.regs[1:], strict=True)
                    return pattern, [(number, begin, end) for number, (begin, end) in spans if end > begin]
        return None


@cache
def table_of(patterns: tuple[Pattern, ...]) -> Table:
    """Return the table of some patterns."""
    by_key: defaultdict[bytes, list[_Compiled]] = defaultdict(list)
    by_needle = []
    for pattern in patterns:
        expression = re.compile(pattern.text.encode())
        names = sorted(expression.groupindex, key=lambda name: expression.groupindex[name])
        compiled = _Compiled(pattern, expression, tuple(map(_NUMBER_OF.__getitem__, names)), pattern.needle.encode())
        if pattern.needle:
            by_needle.append(compiled)
        else:
            by_key[pattern.text.replace("\\", "")[:_KEY_BYTES].encode()].append(compiled)
    return Table({key: tuple(found) for key, found in by_key.items()}, tuple(by_needle))


class Shapes:
    """Remembers shapes. Each has a number; number 0 says that a message has no pattern.

    Attributes:
        patterns: patterns met; a shape's is given as an offset into them.
        pattern: of each shape; -1 for none.
        begins: offset in the shape at which each field (first axis) of each shape (second axis) begins.
        ends: where it ends; as it begins for a field that the shape does not have.
        uses: bit ``n`` says that some field has offset ``n`` in `FIELDS`.
    """

    def __init__(self) -> None:
        self._forget(1024)

    def _forget(self, room: int) -> None:
        self._known: defaultdict[tuple[Pattern, ...], dict[bytes, int]] = defaultdict(dict)
        self._offsets: dict[Pattern, int] = {}
        self._count, self._bytes = 1, 0
        self.patterns: list[Pattern] = []
        self.pattern = np.full(room, -1, np.int16)
        self.uses = np.zeros(room, np.uint32)
        self.begins = np.zeros((len(FIELDS), room), np.uint16)
        self.ends = np.zeros((len(FIELDS), room), np.uint16)

    def begin_chunk(self) -> None:
        """Forget everything where it has become too much; numbers given before are void."""
        if self._count > MAX_SHAPES or self._bytes > MAX_SHAPE_BYTES:
            self._forget(1024)

    def _make_room(self, count: int) -> None:
        room = len(self.pattern)
        if self._count + count <= room:
            return
        more = max(room, count)
        self.pattern = np.concatenate([self.pattern, np.full(more, -1, np.int16)])
        self.uses = np.concatenate([self.uses, np.zeros(more, np.uint32)])
        self.begins = np.concatenate([self.begins, np.zeros((len(FIELDS), more), np.uint16)], axis=1)
        self.ends = np.concatenate([self.ends, np.zeros((len(FIELDS), more), np.uint16)], axis=1)

    def numbers(self, patterns: tuple[Pattern, ...], shapes: list[bytes]) -> npt.NDArray[np.intp]:
        """Return the number of each shape.

        Args:
            patterns: of the program that wrote the messages.
            shapes: at most 65,535 bytes each.
        """
        known = self._known[patterns]
        numbers: list[int | None] = list(map(known.get, shapes))
        if None in numbers:
            table = table_of(patterns)
            new = {shape for shape, number in zip(shapes, numbers, strict=True) if number is None}
            self._make_room(len(new))
            for shape in new:
                known[shape] = self._learn(table, shape)
            numbers = list(map(known.get, shapes))
        return np.array(numbers, np.intp)

    def _learn(self, table: Table, shape: bytes) -> int:
        self._bytes += len(shape)
        reading = table.read(shape)
        if reading is None:
            return 0
        pattern, spans = reading
        number = self._count
        self._count += 1
        offset = self._offsets.setdefault(pattern, len(self.patterns))
        if offset == len(self.patterns):
            self.patterns.append(pattern)
        self.pattern[number] = offset
        self.uses[number] = sum(1 << field for field, _, _ in spans)
        for field, begin, end in spans:
            self.begins[field, number], self.ends[field, number] = begin, end
        return number
