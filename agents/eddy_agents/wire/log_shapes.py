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
from typing import NamedTuple

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


class Reading(NamedTuple):
    """What one message says.

    Attributes:
        constants: of its pattern, as in `CONSTANTS`; b"" where that does not say.
        spans: for each field that the message has its offset in `FIELDS`, and where it begins and ends in the message.
    """

    constants: tuple[bytes, ...]
    spans: Sequence[tuple[int, int, int]]


class _Compiled(NamedTuple):
    constants: tuple[bytes, ...]
    expression: re.Pattern[bytes]
    fields: tuple[int, ...]
    needle: bytes


class Table(NamedTuple):
    """The patterns of a program: by the first characters of a message, or by a text in it."""

    by_key: Mapping[bytes, tuple[_Compiled, ...]]
    by_needle: tuple[_Compiled, ...]

    def read(self, message: bytes) -> Reading | None:
        """Return what a message says, or None where it has no pattern; only its first line counts."""
        line = message.partition(b"\n")[0]
        for needed in (self.by_needle, self.by_key.get(line[:_KEY_BYTES], ())):
            for constants, expression, fields, needle in needed:
                found = expression.fullmatch(line) if needle in message else None
                if found is not None:
                    spans = zip(fields, found.regs[1:], strict=True)
                    return Reading(constants, [(number, *span) for number, span in spans if span[1] > span[0]])
        return None


@cache
def table_of(patterns: tuple[Pattern, ...]) -> Table:
    """Return the table of some patterns."""
    by_key: defaultdict[bytes, list[_Compiled]] = defaultdict(list)
    by_needle = []
    for pattern in patterns:
        expression = re.compile(pattern.text.encode())
        names = sorted(expression.groupindex, key=lambda name: expression.groupindex[name])
        constants = tuple(getattr(pattern, attribute).encode() for attribute in CONSTANTS.values())
        compiled = _Compiled(constants, expression, tuple(map(_NUMBER_OF.__getitem__, names)), pattern.needle.encode())
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
        self._count, self._met, self._bytes = 1, 0, 0
        self._code_of: list[dict[bytes, int]] = [{b"": 0} for _ in NAMES]
        self.texts: list[list[bytes]] = [[b""] for _ in NAMES]
        self.codes = np.zeros((len(NAMES), _LEAST_ROOM), np.int32)
        self.begins = np.zeros((len(FIELDS), _LEAST_ROOM), np.uint16)
        self.ends = np.zeros((len(FIELDS), _LEAST_ROOM), np.uint16)
        self.has_codes = np.zeros(_LEAST_ROOM, np.uint64)
        self.has_span = np.zeros(_LEAST_ROOM, np.uint64)

    def begin_chunk(self) -> None:
        """Forget everything where it has become too much; numbers given before are void."""
        if self._met > MAX_SHAPES or self._bytes > MAX_SHAPE_BYTES:
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
            self._learn(known, {shape: table.read(shape) for shape in new})
            numbers = list(map(known.get, shapes))
        return np.array(numbers, np.intp)

    def _learn(self, known: dict[bytes, int], readings: Mapping[bytes, Reading | None]) -> None:
        self._met += len(readings)
        self._bytes += sum(map(len, readings))
        first = self._count
        codes: list[tuple[int, int, int]] = []
        places: list[tuple[int, int, int, int]] = []
        for shape, reading in readings.items():
            known[shape] = 0
            if reading is None:
                continue
            number = known[shape] = self._count
            self._count += 1
            named = [*enumerate(reading.constants, len(FIELDS))]
            for field, begin, end in reading.spans:
                text = shape[begin:end]
                if _DIGIT in text:
                    places.append((field, number, begin, end))
                else:
                    named.append((field, text.lower() if FIELDS[field] in LOWER_CASE else text))
            codes += [(name, number, self._code(name, text)) for name, text in named if text]
        names, numbers, values = np.array(codes, np.int64).reshape(-1, 3).T
        self.codes[names, numbers] = values
        fields, numbers, begins, ends = np.array(places, np.int64).reshape(-1, 4).T
        self.begins[fields, numbers], self.ends[fields, numbers] = begins, ends
        new = slice(first, self._count)
        self.has_codes[new] = _bits(self.codes[:, new] > 0)
        self.has_span[new] = _bits(self.ends[:, new] > 0)

    def _code(self, name: int, text: bytes) -> int:
        texts = self.texts[name]
        code = self._code_of[name].setdefault(text, len(texts))
        if code == len(texts):
            texts.append(text)
        return code


def _bits(held: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint64]:
    """Return for each column the number whose bits are its rows."""
    return (np.uint64(1) << np.arange(len(held), dtype=np.uint64)) @ held.astype(np.uint64)
