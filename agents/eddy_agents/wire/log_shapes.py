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
CONSTANTS = {"event.action": "action", "event.category": "category", "event.outcome": "outcome", "event.type": "type"}
"""Field → attribute of `Pattern`."""
NAMES = (*FIELDS, *CONSTANTS)
LOWER_CASE = frozenset({"network.transport"})
_NUMBER_OF = {group: number for number, group in enumerate(GROUPS)}
_BOUNDED = re.compile(r"\(\?P<(\w+)>[^()]*?\{\d,(\d+)\}")
_KEY_BYTES = 4
_DIGIT = b"0"
_LEAST_ROOM = 1024


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

    A field whose text holds no digit has that text in every message of the shape.

    Attributes:
        texts: for each of `NAMES` the different texts that shapes have; the first is b"" for none.
        codes: for each of `NAMES` (first axis) and each shape (second axis) an offset into its texts.
        begins: for each of `FIELDS` and each shape where a text with digits begins in the shape.
        ends: where it ends; 0 for none.
        has_codes: bit ``n`` says that a shape has a code for name ``n``.
        has_span: bit ``n`` says that a shape has a text with digits for field ``n``.
    """

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self._known: defaultdict[tuple[Pattern, ...], dict[bytes, int]] = defaultdict(dict)
        self._count, self._bytes = 1, 0
        self._code_of: list[dict[bytes, int]] = [{b"": 0} for _ in NAMES]
        self.texts: list[list[bytes]] = [[b""] for _ in NAMES]
        self.codes = np.zeros((len(NAMES), _LEAST_ROOM), np.int32)
        self.begins = np.zeros((len(FIELDS), _LEAST_ROOM), np.uint16)
        self.ends = np.zeros((len(FIELDS), _LEAST_ROOM), np.uint16)
        self.has_codes = np.zeros(_LEAST_ROOM, np.uint64)
        self.has_span = np.zeros(_LEAST_ROOM, np.uint64)

    def begin_chunk(self) -> None:
        """Forget everything where it has become too much; numbers given before are void."""
        if self._count > MAX_SHAPES or self._bytes > MAX_SHAPE_BYTES:
            self._forget()

    def _make_room(self, count: int) -> None:
        room = self.codes.shape[1]
        if self._count + count > room:
            self.codes, self.begins, self.ends, self.has_codes, self.has_span = (
                np.concatenate([held, np.zeros((*held.shape[:-1], max(room, count)), held.dtype)], axis=-1)
                for held in (self.codes, self.begins, self.ends, self.has_codes, self.has_span)
            )

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
        for name, attribute in enumerate(CONSTANTS.values(), len(FIELDS)):
            self._code(number, name, getattr(pattern, attribute).encode())
        for field, begin, end in spans:
            text = shape[begin:end]
            if _DIGIT in text:
                self.begins[field, number], self.ends[field, number] = begin, end
                self.has_span[number] |= np.uint64(1 << field)
            else:
                self._code(number, field, text.lower() if FIELDS[field] in LOWER_CASE else text)
        return number

    def _code(self, number: int, name: int, text: bytes) -> None:
        if text:
            code = self._code_of[name].setdefault(text, len(self.texts[name]))
            if code == len(self.texts[name]):
                self.texts[name].append(text)
            self.codes[name, number] = code
            self.has_codes[number] |= np.uint64(1 << name)
