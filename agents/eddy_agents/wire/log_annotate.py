"""Applying the table of message patterns to a chunk of messages.

What may live here: `annotate` and its form for rows. A pattern is found by the first four characters of the message
where these are always the same, else by a text that it must contain; its regular expression then runs once over all
messages of the chunk that qualify, joined to one text.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from eddy_agents.wire.log_columns import ALL, Codes, FieldSet, address_or_none, groups_of
from eddy_agents.wire.log_patterns import GROUPS, Pattern, patterns_of
from eddy_mesh.cer import Value

MAX_MATCHED_BYTES = 4096
"""Longer messages are not looked at: no well-known program writes them, and it bounds the work on hostile ones."""

_KEY_BYTES = 4
_LOWER_CASE = frozenset({"network.transport"})


class _Compiled(NamedTuple):
    expression: re.Pattern[bytes]
    groups: tuple[str, ...]
    constants: tuple[tuple[str, bytes], ...]
    needle: bytes


class _Table(NamedTuple):
    by_key: Mapping[bytes, tuple[_Compiled, ...]]
    by_needle: tuple[_Compiled, ...]


def _compile(pattern: Pattern) -> _Compiled:
    # The marker is the line end: it takes part exactly where the pattern fits. Every match takes one line.
    text = pattern.text.replace("[^", "[^\n")  # all messages of a chunk are one text: nothing may reach the next line
    whole = f"(?:{text}(\n)|.*\n)"
    expression = re.compile(whole.encode())
    names = sorted(expression.groupindex, key=lambda name: expression.groupindex[name])
    constants = {
        "event.action": pattern.action,
        "event.category": pattern.category,
        "event.outcome": pattern.outcome,
        "event.type": pattern.type,
    }
    encoded = tuple((name, value.encode()) for name, value in constants.items() if value)
    return _Compiled(expression, tuple(GROUPS[name] for name in names), encoded, pattern.needle.encode())


@cache
def _table(patterns: tuple[Pattern, ...]) -> _Table:
    by_key: defaultdict[bytes, list[_Compiled]] = defaultdict(list)
    by_needle = []
    for pattern in patterns:
        if pattern.needle:
            by_needle.append(_compile(pattern))
        else:
            key = pattern.text.replace("\\", "")[:_KEY_BYTES].encode()
            by_key[key].append(_compile(pattern))
    return _Table({key: tuple(found) for key, found in by_key.items()}, tuple(by_needle))


def annotate(fields: FieldSet, programs: Codes, messages: Sequence[bytes]) -> None:
    """Put what is known about the messages of a chunk into ``fields``.

    Args:
        fields: of the chunk; event.action, user.name, source.ip ... are added.
        programs: tag of each row.
        messages: UTF-8 text of each row.
    """
    wanted: defaultdict[tuple[Pattern, ...], list[int]] = defaultdict(list)
    for code, program in enumerate(programs.texts()):
        patterns = patterns_of(program.decode("utf-8", "replace"))
        if patterns:
            wanted[patterns].append(code)
    for patterns, codes in wanted.items():
        rows = np.flatnonzero(np.isin(programs.codes, codes))
        if len(rows):
            whole = len(rows) == len(messages)
            texts = list(messages) if whole else [messages[row] for row in rows.tolist()]
            _annotate(fields, rows, texts, _table(patterns))


def _annotate(fields: FieldSet, rows: npt.NDArray[np.intp], texts: list[bytes], table: _Table) -> None:
    if max(map(len, texts)) > MAX_MATCHED_BYTES:
        texts = [text if len(text) <= MAX_MATCHED_BYTES else b"" for text in texts]
    if table.by_needle:
        rows, texts = _by_needle(fields, rows, texts, table.by_needle)
    if not table.by_key or not texts:
        return
    keys: defaultdict[bytes, int] = defaultdict()
    keys.default_factory = keys.__len__
    codes = np.fromiter(map(keys.__getitem__, [text[:_KEY_BYTES] for text in texts]), np.int32, len(texts))
    for key, patterns in table.by_key.items():
        if key not in keys:
            continue
        own = np.flatnonzero(codes == keys[key])
        left, left_texts = rows[own], [texts[row] for row in own.tolist()]
        for pattern in patterns:
            left, left_texts = _apply(fields, left, left_texts, pattern)


def _by_needle(
    fields: FieldSet, rows: npt.NDArray[np.intp], texts: list[bytes], patterns: Sequence[_Compiled]
) -> tuple[npt.NDArray[np.intp], list[bytes]]:
    for pattern in patterns:
        held = np.fromiter((pattern.needle in text for text in texts), np.bool_, len(texts))
        if not held.any():
            continue
        own = np.flatnonzero(held)
        left, left_texts = _apply(fields, rows[own], [texts[row] for row in own.tolist()], pattern)
        rest = np.flatnonzero(~held)
        rows, texts = np.concatenate([rows[rest], left]), [*[texts[row] for row in rest.tolist()], *left_texts]
    return rows, texts


def _apply(
    fields: FieldSet, rows: npt.NDArray[np.intp], texts: list[bytes], pattern: _Compiled
) -> tuple[npt.NDArray[np.intp], list[bytes]]:
    """Apply one pattern; return the rows and messages that it does not match."""
    if not texts:
        return rows, texts
    joined = b"\n".join(texts) + b"\n"
    if joined.count(b"\n") != len(texts):
        joined = b"".join([text.partition(b"\n")[0] + b"\n" for text in texts])
    columns = groups_of(pattern.expression, joined)
    marker = columns.pop()
    missed: list[int] = []
    matched = rows
    if None in marker:
        missed = [row for row, held in enumerate(marker) if held is None]
        kept = [row for row, held in enumerate(marker) if held is not None]
        if not kept:
            return rows, texts
        matched, columns = rows[kept], [[column[row] for row in kept] for column in columns]
    for name, values in zip(pattern.groups, columns, strict=True):
        fields.put(name, matched, [value and value.lower() for value in values] if name in _LOWER_CASE else values)
    for name, value in pattern.constants:
        fields.put_same(name, matched, value)
    return rows[missed], [texts[row] for row in missed]


def split_addresses(fields: FieldSet) -> None:
    """Move what is an address from source.address to source.ip; a name stays."""
    if not fields.has("source.address"):
        return
    named = fields.codes("source.address")
    texts = named.texts()
    is_address = np.array([address_or_none(text) is not None for text in texts] + [False])
    rows = np.flatnonzero(is_address[named.codes])
    fields.put("source.ip", rows, [texts[code] for code in named.codes[rows].tolist()])
    named.codes[rows] = -1


def annotated_rows(programs: Sequence[str], messages: Sequence[str]) -> list[dict[str, Value]]:
    """Return what is known about each message, for cookings that work by row.

    Args:
        programs: tag of each row, "" where it has none.
        messages: text of each row, "" where it has none.
    """
    fields, names = FieldSet(len(messages)), Codes(len(messages))
    names.put(ALL, [program.encode("utf-8", "replace") for program in programs])
    annotate(fields, names, [message.encode("utf-8", "replace") for message in messages])
    split_addresses(fields)
    return fields.rows()
