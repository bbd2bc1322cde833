"""Text patterns: LIKE and RE2, compiled once, and applied to one text or to a whole column of them.

What may live here: the translation of LIKE, and the search of one pattern in texts that lie end to end.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from eddy_mesh.columns import Packed

if TYPE_CHECKING:
    from re2 import _Regexp as Regexp

MAX_PATTERN = 1024
"""Most characters of a pattern. Longer ones meet limits that differ between RE2 and the stores."""

_ANY_RUN, _ANY_ONE = "%", "_"
_LITERAL_ONLY = re.compile(r"[\w \-:/=,;<>@#!\"'&%~`]+")
# What sees more than one row when rows lie on lines of one text: anchors to the whole text, bytes, quoting, flags.
_NOT_BY_LINE = re.compile(r"\\[AzCQ]|\(\?[^:P<i]|\(\?i[^:)]|\n|\\n|\\x|\\0|\\[0-7]")


def like_tokens(pattern: str) -> list[str]:
    r"""Return the parts of a LIKE pattern: ``%``, ``_``, or ``=`` and one literal character.

    Raises:
        ValueError: a backslash escapes nothing, or the pattern is too long.
    """
    if len(pattern) > MAX_PATTERN:
        raise ValueError(f"the pattern has {len(pattern)} characters, at most {MAX_PATTERN} are taken")
    tokens, characters = [], iter(pattern)
    for character in characters:
        if character == "\\":
            escaped = next(characters, "")
            if not escaped:
                raise ValueError("the pattern ends in a backslash: write \\\\ for a backslash itself")
            tokens.append("=" + escaped)
        else:
            tokens.append(character if character in {_ANY_RUN, _ANY_ONE} else "=" + character)
    return tokens


def like_regex(pattern: str) -> str:
    """Return the RE2 pattern that finds what a LIKE pattern matches."""
    parts = {_ANY_RUN: "(?s:.*)", _ANY_ONE: "(?s:.)"}
    tokens = like_tokens(pattern)
    starts, ends = tokens[:1] != [_ANY_RUN], tokens[-1:] != [_ANY_RUN]
    inner = tokens[0 if starts else 1 : len(tokens) if ends or len(tokens) == 1 else -1]
    body = "".join(parts.get(token) or _escaped(token[1:]) for token in inner)
    return ("^" if starts else "") + body + ("$" if ends else "")


def like_glob(pattern: str) -> str:
    """Return the GLOB pattern of SQLite that matches what a LIKE pattern matches."""
    parts = {_ANY_RUN: "*", _ANY_ONE: "?"}
    return "".join(
        parts.get(token) or (f"[{token[1]}]" if token[1] in "*?[" else token[1]) for token in like_tokens(pattern)
    )


def _escaped(character: str) -> str:
    return character if character.isalnum() or character == "_" or character > "\x7f" else f"\\x{{{ord(character):x}}}"


@lru_cache(maxsize=256)
def regex(pattern: str) -> Regexp:
    """Return a compiled RE2 pattern; it takes UTF-8 bytes.

    Raises:
        ValueError: RE2 does not take it.
    """
    return _compiled(pattern)


@lru_cache(maxsize=256)
def _by_line(pattern: str) -> Regexp:
    """Return the pattern compiled so that it never looks past the line it starts on."""
    return _compiled(f"(?m:{pattern})", never_nl=True)


def _compiled(pattern: str, *, never_nl: bool = False) -> Regexp:
    import re2  # noqa: PLC0415  # two megabytes that most processes never need

    if len(pattern) > 8 * MAX_PATTERN:
        raise ValueError(f"the pattern has {len(pattern)} characters, at most {MAX_PATTERN} are taken")
    options = re2.Options()
    options.log_errors = False
    options.never_nl = never_nl
    options.never_capture = True  # whether there is a match is all that is asked
    try:
        return re2.compile(pattern, options)
    except (re2.error, UnicodeError) as error:
        raise ValueError(f"{pattern!r} is no RE2 pattern: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    reason = error.args[0] if error.args else error
    return reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)


def found_in(pattern: str, text: str) -> bool:
    """Return whether RE2 finds ``pattern`` in ``text``."""
    return regex(pattern).search(text.encode("utf-8", "replace")) is not None


def sql_regexp(pattern: str, text: str | None) -> bool | None:
    """What SQLite calls for ``text REGEXP pattern``: register it as ``regexp``, deterministic, with two arguments."""
    return None if text is None else found_in(pattern, text)


def literal_of(pattern: str) -> bytes | None:
    """Return what a pattern finds when it is a plain word without operators, else None."""
    return pattern.encode() if _LITERAL_ONLY.fullmatch(pattern) else None


def rows_with(needle: bytes, column: Packed) -> npt.NDArray[np.bool_]:
    """Return True for each row that contains ``needle`` (not empty), in one pass over the joined data."""
    starts, ends, data = _joined(column)
    hits = np.zeros(len(starts), np.bool_)
    position = data.find(needle)
    while position >= 0:
        row = bisect_right(starts, position) - 1
        inside = position + len(needle) <= ends[row]
        hits[row] |= inside
        position = data.find(needle, ends[row] if inside else position + 1)
    return hits


def rows_matching(pattern: str, column: Packed) -> npt.NDArray[np.bool_]:
    """Return True for each row in which RE2 finds ``pattern``; rows must be valid UTF-8.

    Rows are put on lines of one text and searched in one pass, unless a row or the pattern has to do with line ends.
    """
    starts, ends, data = _joined(column)
    rows = [data[start:end] for start, end in zip(starts, ends, strict=True)]
    if not rows or b"\n" in data or _NOT_BY_LINE.search(pattern):
        search = regex(pattern).search
        return np.fromiter((search(row) is not None for row in rows), np.bool_, len(rows))
    return _search_lines(pattern, b"\n".join(rows), [start + row for row, start in enumerate(starts)])


def _search_lines(pattern: str, text: bytes, starts: list[int]) -> npt.NDArray[np.bool_]:
    hits = np.zeros(len(starts), np.bool_)
    search = _by_line(pattern).search
    position = 0
    while (found := search(text, position)) is not None:
        row = bisect_right(starts, found.start()) - 1
        hits[row] = True
        if row + 1 == len(starts):
            break
        position = starts[row + 1]
    return hits


def _joined(column: Packed) -> tuple[list[int], list[int], bytes]:
    """Return where each row starts and ends in the bytes of all rows, and those bytes."""
    offsets = column.offsets.astype(np.int64)
    first, last = (int(offsets[0]), int(offsets[-1])) if len(offsets) else (0, 0)
    bounds = (offsets - first).tolist()
    return bounds[:-1], bounds[1:], bytes(column.data[first:last])
