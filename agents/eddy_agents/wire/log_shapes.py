"""What a message says, found by its shape: the message with each run of digits as one ``0``.

What may live here: the patterns of one program compiled, and `Shapes`, which remembers for each shape that was met
which pattern it has and where its groups are. Programs write few shapes, so nearly every message of a chunk costs one
look into a dictionary; the regular expressions run once for each new shape.

The shape decides the reading because no pattern names a digit and none tells a run of digits from a longer one, except
by the limits of `LIMITS`: a message with a longer group than these is read by itself (`Reading.of`).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from eddy_agents.wire.log_patterns import GROUPS, PROGRAMS, Pattern, patterns_of

MAX_MATCHED_BYTES = 4096
"""Longer messages are not looked at: no well-known program writes them, and it bounds the work on hostile ones."""

MAX_SHAPES = 16_384
MAX_SHAPE_BYTES = 4 * 1024 * 1024
"""With more shapes, or longer ones in all, everything is forgotten."""

FIELDS = tuple(GROUPS.values())
CONSTANTS = ("event.action", "event.category", "event.outcome", "event.type")
_NUMBER_OF = {group: number for number, group in enumerate(GROUPS)}
_BOUNDED = re.compile(r"\(\?P<(\w+)>[^()]*?\{\d,(\d+)\}")
_KEY_BYTES = 4


def _limits() -> dict[int, int]:
    texts = {pattern.text for patterns in PROGRAMS.values() for pattern in patterns}
    found = [(_NUMBER_OF[group], int(most)) for text in texts for group, most in _BOUNDED.findall(text)]
    return {number: min(most for other, most in found if other == number) for number, _ in found}


LIMITS = _limits()
"""Number of a field in `FIELDS` → the most bytes that every pattern lets it have."""


class _Compiled(NamedTuple):
    number: int
    expression: re.Pattern[bytes]
    groups: tuple[tuple[int, str], ...]
    needle: bytes


class _Table(NamedTuple):
    by_key: Mapping[bytes, tuple[_Compiled, ...]]
    by_needle: tuple[_Compiled, ...]


class Reading(NamedTuple):
    """What one message says.

    Attributes:
        pattern: the pattern that it has.
        spans: for each group that takes part, the number of its field in `FIELDS`, its begin and its end.
    """

    pattern: Pattern
    spans: list[tuple[int, int, int]]


class Programs:
    """The patterns of programs, compiled when first asked for."""

