"""Applying the table of message patterns to a chunk of messages.

What may live here: `Annotator`, which puts what is known about messages into fields, and its form for rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from eddy_agents.wire.log_columns import ALL, Codes, FieldSet, address_or_none
from eddy_agents.wire.log_patterns import Pattern, patterns_of
from eddy_agents.wire.log_shapes import CONSTANTS, FIELDS, LIMITS, LOWER_CASE, NAMES, Shapes, table_of
from eddy_agents.wire.log_spans import Data, Offsets, addresses_at, digits_folded, numbers_at, padded, texts_at
from eddy_mesh.cer import Value
from eddy_mesh.columns import Packed, Text, pack
from eddy_mesh.fields import FieldType, type_of
from eddy_mesh.registry.protocols import protocol_name

MAX_MATCHED_BYTES = 4096
"""Longer messages are not looked at: no well-known program writes them, and it bounds the work on hostile ones."""

_NAMED, _ADDRESS = "source.address", "source.ip"
_READERS = {1: numbers_at, 2: addresses_at}
_KINDS = np.array(
    [2 if name == _NAMED else {FieldType.INT: 1, FieldType.ADDRESS: 2}.get(type_of(name), 0) for name in FIELDS]
)
"""For each field its key in `_READERS`; 0 for texts."""
_READING_ORDER = np.argsort(_KINDS, kind="stable").tolist()
_LIMITS = np.array([LIMITS.get(field, MAX_MATCHED_BYTES) for field in range(len(FIELDS))])


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
        wanted = _rows_by_patterns(programs, messages)
        if not wanted:
            return
        chunk = _Messages(messages)
        self._shapes.begin_chunk()
        numbers = np.zeros(len(messages), np.intp)
        for patterns, rows in wanted.items():
            numbers[rows] = self._shapes.numbers(patterns, chunk.shapes(rows))
        pieces = self._pieces(chunk, numbers)
        is_beyond = pieces.ends - pieces.begins > _LIMITS[pieces.fields]
        odd = np.unique(pieces.rows[is_beyond]) if is_beyond.any() else pieces.rows[:0]
        if len(odd):
            numbers[odd] = 0
            pieces = pieces.only(~np.isin(pieces.rows, odd))
        self._put_coded(fields, numbers)
        _put_pieces(fields, chunk.data, pieces)
        for patterns, own in wanted.items() if len(odd) else ():
            for row in np.intersect1d(own, odd).tolist():
                _put_one(fields, row, patterns, messages.bytes_at(row))

    def _pieces(self, chunk: _Messages, numbers: npt.NDArray[np.intp]) -> _Pieces:
        """Return the fields whose texts hold digits, as the shapes say."""
        shapes = self._shapes
        uses = int(np.bitwise_or.reduce(shapes.has_span[numbers]))
        used = np.array([field for field in _READING_ORDER if uses >> field & 1], np.intp)
        places = np.ix_(used, numbers)
        ends = shapes.ends[places]
        own, rows = np.nonzero(ends)
        firsts = chunk.firsts[rows]
        begins = chunk.where[firsts + shapes.begins[places][own, rows]]
        return _Pieces(used[own], rows, begins, chunk.where[firsts + ends[own, rows]])

    def _put_coded(self, fields: FieldSet, numbers: npt.NDArray[np.intp]) -> None:
        """Set the fields that every message of a shape has alike."""
        uses = int(np.bitwise_or.reduce(self._shapes.has_codes[numbers]))
        for place, name in enumerate(NAMES):
            if uses >> place & 1:
                codes = self._shapes.codes[place][numbers]
                rows = codes.nonzero()[0]
                fields.put_coded(name, rows, self._shapes.texts[place], codes[rows])


class _Pieces(NamedTuple):
    """Pieces of messages, ordered by field: offset in `FIELDS`, row, and where each begins and ends."""

    fields: npt.NDArray[np.intp]
    rows: npt.NDArray[np.intp]
    begins: Offsets
    ends: Offsets

    def only(self, chosen: npt.NDArray[np.bool_] | slice) -> _Pieces:
        """Return some of the pieces."""
        return _Pieces(*(part[chosen] for part in self))

    def by_field(self) -> Iterator[tuple[str, slice]]:
        """Yield each field and where its pieces are."""
        bounds = [0, *(np.flatnonzero(np.diff(self.fields)) + 1).tolist(), len(self.fields)]
        for first, end in pairwise(bounds):
            if end > first:
                yield FIELDS[self.fields[first]], slice(first, end)


def _put_pieces(fields: FieldSet, data: Data, pieces: _Pieces) -> None:
    """Set the fields of all rows; numbers and IPv4 addresses are not made texts first."""
    if not len(pieces.rows):
        return
    kinds = _KINDS[pieces.fields]
    for kind, reader in _READERS.items():
        own = pieces.only(slice(*np.searchsorted(kinds, [kind, kind + 1]).tolist()))
        if not len(own.rows):
            continue
        values, fits = reader(data, own.begins, own.ends)
        for name, held in own.by_field():
            rows, is_read = own.rows[held], fits[held]
            fields.put_numbers(_ADDRESS if name == _NAMED else name, rows[is_read], values[held][is_read])
        if not fits.all():
            _put_texts(fields, data, own.only(~fits))
    _put_texts(fields, data, pieces.only(slice(0, int(np.searchsorted(kinds, 1)))))


def _put_texts(fields: FieldSet, data: Data, pieces: _Pieces) -> None:
    for name, held in pieces.by_field():
        values = texts_at(data, pieces.begins[held], pieces.ends[held])
        fields.put(name, pieces.rows[held], [value.lower() for value in values] if name in LOWER_CASE else values)


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
        ends = self.where.searchsorted(offsets)
        self.firsts: Offsets = ends[:-1]
        self._ends: Offsets = ends[1:]

    def shapes(self, rows: npt.NDArray[np.intp]) -> list[bytes]:
        """Return the shape of each of some rows."""
        folded, begins, ends = self._folded, self.firsts[rows].tolist(), self._ends[rows].tolist()
        return [folded[begin:end] for begin, end in zip(begins, ends, strict=True)]


def _rows_by_patterns(programs: Codes, messages: Packed) -> dict[tuple[Pattern, ...], npt.NDArray[np.intp]]:
    """Return for the patterns of each known program the rows that it wrote and that are to be read."""
    codes_of: defaultdict[tuple[Pattern, ...], list[int]] = defaultdict(list)
    for code, program in enumerate(programs.texts()):
        patterns = patterns_of(program.decode("utf-8", "replace"))
        if patterns:
            codes_of[patterns].append(code)
    if not codes_of:
        return {}
    group_of = np.full(len(programs.index) + 1, -1, np.int16)  # the last is what code -1 picks
    for group, codes in enumerate(codes_of.values()):
        group_of[codes] = group
    lengths = np.diff(messages.offsets.astype(np.int64))
    is_read = (lengths > 0) & (lengths <= MAX_MATCHED_BYTES)
    groups = np.where(is_read, group_of[programs.codes], np.int16(-1))
    found = {patterns: np.flatnonzero(groups == group) for group, patterns in enumerate(codes_of)}
    return {patterns: rows for patterns, rows in found.items() if len(rows)}


def _put_one(fields: FieldSet, row: int, patterns: tuple[Pattern, ...], message: bytes) -> None:
    reading = table_of(patterns).read(message)
    if reading is None:
        return
    rows = np.array([row])
    for name, constant in zip(CONSTANTS, reading.constants, strict=True):
        fields.put(name, rows, [constant])
    for field, begin, end in reading.spans:
        value = message[begin:end]
        fields.put(FIELDS[field], rows, [value.lower() if FIELDS[field] in LOWER_CASE else value])


def split_addresses(fields: FieldSet) -> None:
    """Move what is an address from source.address to source.ip; a name stays."""
    if not fields.has(_NAMED):
        return
    named = fields.codes(_NAMED)
    texts = named.texts()
    is_address = np.array([address_or_none(text) is not None for text in texts] + [False])
    rows = np.flatnonzero(is_address[named.codes])
    fields.put_coded(_ADDRESS, rows, texts, named.codes[rows])
    named.codes[rows] = -1


def name_protocols(fields: FieldSet) -> None:
    """Put the names of protocols that messages number."""
    if fields.has("network.iana_number"):
        fields.codes("network.iana_number")  # numbers become texts
        fields.derive("network.iana_number", "network.transport", lambda number: protocol_name(int(number)).encode())


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
    name_protocols(fields)
    return fields.rows()
