"""Applying the table of message patterns to a chunk of messages.

What may live here: `Annotator`, which puts what is known about messages into fields, and its form for rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from eddy_agents.wire.log_columns import ALL, Codes, FieldSet, address_or_none
from eddy_agents.wire.log_patterns import Pattern, patterns_of
from eddy_agents.wire.log_shapes import FIELDS, LIMITS, Shapes, table_of
from eddy_agents.wire.log_spans import Data, Offsets, digits_folded, padded, texts_at
from eddy_mesh.cer import Value
from eddy_mesh.columns import Packed, Text, pack

MAX_MATCHED_BYTES = 4096
"""Longer messages are not looked at: no well-known program writes them, and it bounds the work on hostile ones."""

_CONSTANTS = {"event.action": "action", "event.category": "category", "event.outcome": "outcome", "event.type": "type"}
"""Field → attribute of `Pattern`."""
_LOWER_CASE = frozenset({"network.transport"})


class Annotator:
    """Says what messages of well-known programs say; remembers their shapes from chunk to chunk."""

    def __init__(self) -> None:
        self._shapes = Shapes()

    def annotate(self, fields: FieldSet, programs: Codes, messages: Packed) -> None:
        """Put what is known about the messages of a chunk into ``fields``.

        Args:
            fields: of the chunk; event.action, user.name, source.ip ... are added.
            programs: tag of each row.
            messages: UTF-8 text of each row.
        """
        lengths = np.diff(messages.offsets.astype(np.int64))
        wanted = _rows_by_patterns(programs, (lengths > 0) & (lengths <= MAX_MATCHED_BYTES))
        if not wanted:
            return
        chunk = _Messages(messages)
        self._shapes.make_room(sum(map(len, wanted.values())))
        numbers = np.zeros(len(messages), np.intp)
        for patterns, rows in wanted.items():
            numbers[rows] = self._shapes.numbers(patterns, chunk.shapes(rows))
        odd = self._beyond_limits(chunk, numbers)
        numbers[odd] = 0
        rows = np.flatnonzero(numbers)
        self._put(fields, chunk, rows, numbers[rows])
        for patterns, rows in wanted.items():
            for row in np.intersect1d(rows, odd).tolist():
                _put_one(fields, row, patterns, messages.bytes_at(row))

    def _beyond_limits(self, chunk: _Messages, numbers: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        """Return the rows whose shape does not say how they are read: a run of digits is longer than a group may be."""
        odd = [numbers[:0]]
        used = int(np.bitwise_or.reduce(self._shapes.uses[numbers], initial=np.uint32(0)))
        for field, most in LIMITS.items():
            if used >> field & 1:
                rows = np.flatnonzero(self._shapes.ends[field][numbers])
                begins, ends = self._places(chunk, rows, numbers[rows], field)
                odd.append(rows[ends - begins > most])
        return np.unique(np.concatenate(odd))

    def _places(
        self, chunk: _Messages, rows: npt.NDArray[np.intp], numbers: npt.NDArray[np.intp], field: int
    ) -> tuple[Offsets, Offsets]:
        """Return where a field, which all of these rows have, begins and ends in the chunk."""
        firsts = chunk.firsts[rows]
        begins, ends = self._shapes.begins[field][numbers], self._shapes.ends[field][numbers]
        return chunk.where[firsts + begins], chunk.where[firsts + ends]

    def _put(
        self, fields: FieldSet, chunk: _Messages, rows: npt.NDArray[np.intp], numbers: npt.NDArray[np.intp]
    ) -> None:
        patterns = self._shapes.pattern[numbers]
        for name, attribute in _CONSTANTS.items():
            texts = [getattr(pattern, attribute).encode() for pattern in self._shapes.patterns]
            fields.put_coded(name, rows, texts, patterns)
        used = int(np.bitwise_or.reduce(self._shapes.uses[numbers], initial=np.uint32(0)))
        for field, name in enumerate(FIELDS):
            if not used >> field & 1:
                continue
            own = np.flatnonzero(self._shapes.ends[field][numbers])
            values = texts_at(chunk.data, *self._places(chunk, rows[own], numbers[own], field))
            if name in _LOWER_CASE:
                values = [value.lower() for value in values]
            fields.put(name, rows[own], values)


class _Messages:
    """Messages of a chunk with their digits folded.

    Attributes:
        data: all messages end to end.
        firsts: offset of the first byte of each message in the folded text.
        where: for each byte of the folded text its offset in ``data``.
    """

    def __init__(self, messages: Packed) -> None:
        offsets = messages.offsets.astype(np.int64)
        self.data: Data = padded(bytes(messages.data))
        self._folded, self.where = digits_folded(self.data, offsets)
        ends = np.searchsorted(self.where, offsets)
        self.firsts: Offsets = ends[:-1]
        self._ends: Offsets = ends[1:]

    def shapes(self, rows: npt.NDArray[np.intp]) -> list[bytes]:
        """Return the shape of each of some rows."""
        folded, begins, ends = self._folded, self.firsts[rows].tolist(), self._ends[rows].tolist()
        return [folded[begin:end] for begin, end in zip(begins, ends, strict=True)]


def _rows_by_patterns(
    programs: Codes, is_read: npt.NDArray[np.bool_]
) -> dict[tuple[Pattern, ...], npt.NDArray[np.intp]]:
    """Return for the patterns of each known program the rows that it wrote."""
    codes_of: defaultdict[tuple[Pattern, ...], list[int]] = defaultdict(list)
    for code, program in enumerate(programs.texts()):
        patterns = patterns_of(program.decode("utf-8", "replace"))
        if patterns:
            codes_of[patterns].append(code)
    group_of = np.full(len(programs.index) + 1, -1, np.int16)  # the last is what code -1 picks
    for group, codes in enumerate(codes_of.values()):
        group_of[codes] = group
    groups = np.where(is_read, group_of[programs.codes], np.int16(-1))
    found = {patterns: np.flatnonzero(groups == group) for group, patterns in enumerate(codes_of)}
    return {patterns: rows for patterns, rows in found.items() if len(rows)}


def _put_one(fields: FieldSet, row: int, patterns: tuple[Pattern, ...], message: bytes) -> None:
    reading = table_of(patterns).read(message)
    if reading is None:
        return
    pattern, spans = reading
    rows = np.array([row])
    for name, attribute in _CONSTANTS.items():
        fields.put(name, rows, [getattr(pattern, attribute).encode()])
    for field, begin, end in spans:
        value = message[begin:end]
        fields.put(FIELDS[field], rows, [value.lower() if FIELDS[field] in _LOWER_CASE else value])


def split_addresses(fields: FieldSet) -> None:
    """Move what is an address from source.address to source.ip; a name stays."""
    if not fields.has("source.address"):
        return
    named = fields.codes("source.address")
    texts = named.texts()
    is_address = np.array([address_or_none(text) is not None for text in texts] + [False])
    rows = np.flatnonzero(is_address[named.codes])
    fields.put_coded("source.ip", rows, texts, named.codes[rows])
    named.codes[rows] = -1


def annotated_rows(programs: Sequence[str], messages: Sequence[str]) -> list[dict[str, Value]]:
    """Return what is known about each message, for cookings that work by row.

    Args:
        programs: tag of each row, "" where it has none.
        messages: text of each row, "" where it has none.
    """
    fields, names = FieldSet(len(messages)), Codes(len(messages))
    names.put(ALL, [program.encode("utf-8", "replace") for program in programs])
    Annotator().annotate(fields, names, Text(*pack([message.encode("utf-8", "replace") for message in messages])))
    split_addresses(fields)
    return fields.rows()
