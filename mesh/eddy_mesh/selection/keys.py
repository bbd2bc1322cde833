"""One field of a batch looked up once for all that is asked of it.

What may live here: `Lookup`, which numbers the values that terms name and finds the rows of each. A column becomes one
code a row (0: nobody asks for this value); rows sorted by their code give the rows of every term as a slice.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from eddy_mesh.columns import V4_MAPPED, Addresses, Column, Constant, Numbers, Text, Words
from eddy_mesh.fields import FieldType
from eddy_mesh.selection.plan import Literal
from eddy_mesh.selection.questions import numbers_of, valid_text
from eddy_mesh.selection.terms import Term
from eddy_mesh.selection.values import comparable

Rows: TypeAlias = npt.NDArray[np.intp]
"""Offsets into a batch, ascending."""
_Codes: TypeAlias = npt.NDArray[np.unsignedinteger]

_BITS = 14
"""A table of so many bits stays in the processor's cache, and there may be one for each field, width and kind."""


class Lookup:
    """Terms of one field, to be asked of many columns.

    Args:
        terms: all of the same field and type.
    """

    def __init__(self, terms: Sequence[Term]) -> None:
        self._kind = terms[0].operand.type
        self._texts = {text: code for code, text in enumerate(sorted({text for t in terms for text in t.texts}), 1)}
        self._encoded = {text.encode("utf-8", "replace"): code for text, code in self._texts.items()}
        self._cuts = sorted({bound for term in terms for each in term.ranges for bound in each})
        entries = [(number, first, last) for number, term in enumerate(terms) for first, last in self._spans(term)]
        self._owners, self._firsts, self._ends = np.array(entries, np.intp).reshape(-1, 3).T
        self._size = max(len(self._cuts), len(self._texts)) + 2
        held = np.zeros(self._size, np.int64)
        np.add.at(held, self._firsts, 1)
        np.add.at(held, self._ends, -1)
        codes = np.arange(self._size, dtype=np.min_scalar_type(self._size))
        self._codes: _Codes = np.where(np.cumsum(held) > 0, codes, codes[0])
        self._tables: dict[str, _Table] = {}

    def _spans(self, term: Term) -> list[tuple[int, int]]:
        """Return the codes of the term's values: of each run the first, and the one behind the last."""
        if self._kind is FieldType.TEXT:
            return [(self._texts[text], self._texts[text] + 1) for text in term.texts]
        return [(bisect_left(self._cuts, a) + 1, bisect_left(self._cuts, b) + 1) for a, b in term.ranges]

    def rows(self, column: Column) -> Iterator[tuple[int, Rows]]:
        """Yield the number of each term that is TRUE for any row, with these rows.

        Args:
            column: of the terms' field, as `eddy_mesh.selection.lookup.field_column` gives it.
        """
        if not len(self._owners):
            return
        if isinstance(column, Constant):
            code = self._code(comparable(self._kind, column.value))
            everything = np.arange(column.count)
            for entry in np.flatnonzero((self._firsts <= code) & (code < self._ends)).tolist():
                yield int(self._owners[entry]), everything
            return
        codes = self._column_codes(column)
        if column.nulls is not None:
            codes[column.nulls] = 0
        asked = np.flatnonzero(codes != 0)  # of truths, which takes a tenth of the time
        if len(asked):
            yield from self._split(asked, codes[asked])

    def _split(self, asked: Rows, codes: _Codes) -> Iterator[tuple[int, Rows]]:
        rows = asked[np.argsort(codes, kind="stable")]
        before = np.zeros(self._size + 1, np.intp)
        np.cumsum(np.bincount(codes, minlength=self._size), out=before[1:])
        starts, stops = before[self._firsts], before[self._ends]
        hits = np.flatnonzero(stops > starts)
        owners = self._owners[hits]
        one_code = (self._ends[hits] - self._firsts[hits] == 1).tolist()
        pieces: list[Rows] = []
        last = len(hits) - 1
        following = owners[1:].tolist()
        for number, (owner, start, stop) in enumerate(
            zip(owners.tolist(), starts[hits].tolist(), stops[hits].tolist(), strict=True)
        ):
            pieces.append(rows[start:stop])
            if number < last and following[number] == owner:
                continue
            found = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
            yield owner, found if one_code[number] and len(pieces) == 1 else np.sort(found)
            pieces = []

    # --- codes of a column

    def _column_codes(self, column: Column) -> _Codes:
        if self._kind is FieldType.TEXT:
            if isinstance(column, Words):
                known = (self._texts.get(value, 0) for value in column.values)
                table = np.fromiter(known, self._codes.dtype, len(column.values))
                return table[column.codes] if len(table) else np.zeros(len(column), self._codes.dtype)
            if isinstance(column, Text):
                return self._text_codes(column)
        elif self._kind is FieldType.ADDRESS and isinstance(column, Addresses):
            if column.is_v4:
                return self._whole_codes(column.values.astype(np.uint32), V4_MAPPED)
            return self._wide_codes(column)
        elif isinstance(column, Numbers) and (numbers := numbers_of(self._kind, column)) is not None:
            if self._kind is FieldType.FLOAT:
                return self._codes[np.searchsorted(np.array(self._cuts, np.float64), numbers, "right")]
            return self._whole_codes(numbers, 0)
        return self._one_by_one(column)

    def _code(self, value: Literal | None) -> int:
        if isinstance(value, str):
            return self._texts.get(value, 0)
        return 0 if not isinstance(value, int | float) else int(self._codes[bisect_right(self._cuts, value)])

    def _one_by_one(self, column: Column) -> _Codes:
        codes = (self._code(comparable(self._kind, column.at(row))) for row in range(len(column)))
        return np.fromiter(codes, self._codes.dtype, len(column))

    def _text_codes(self, column: Text) -> _Codes:
        clean = valid_text(column)
        lengths = clean.offsets[1:] - clean.offsets[:-1]
        codes = np.zeros(len(column), self._codes.dtype)
        possible = np.isin(lengths, np.array(sorted({len(text) for text in self._encoded}), lengths.dtype))
        data = memoryview(clean.data)
        for row in np.flatnonzero(possible).tolist():
            start, stop = clean.offsets[row : row + 2].tolist()
            codes[row] = self._encoded.get(bytes(data[start:stop]), 0)
        return codes

    def _wide_codes(self, column: Addresses) -> _Codes:
        """Return the codes of addresses of 16 bytes, which sort as byte strings do."""
        held = np.ascontiguousarray(column.values).view("S16").reshape(-1)
        cuts = [int(cut).to_bytes(16, "big") for cut in self._cuts if cut < 1 << 128]
        return self._codes[np.searchsorted(np.array(cuts, "S16"), held, "right")]

    def _whole_codes(self, values: npt.NDArray[np.generic], offset: int) -> _Codes:
        native = values.astype(values.dtype.newbyteorder("="), copy=False)
        key = f"{native.dtype.str} {offset}"
        if key not in self._tables:
            self._tables[key] = _Table([int(cut) - offset for cut in self._cuts], native.dtype, self._codes)
        return self._tables[key].codes(native)


class _Table:
    """Codes of integers of one width: the high bits of a value tell its code, or that it must be searched.

    Args:
        cuts: where one code ends and the next begins, ascending.
        dtype: of the values.
        codes: code for the number of cuts that are not above a value; 0 behind the last cut, and one more to spare.
    """

    def __init__(self, cuts: Sequence[int], dtype: np.dtype[np.generic], codes: _Codes) -> None:
        limits = np.iinfo(dtype)  # type: ignore[type-var]
        reached = [cut for cut in cuts if cut <= limits.max]
        self._codes = codes
        self._unsigned = np.dtype(f"u{dtype.itemsize}")
        self._base = max(reached[0], limits.min) if reached else limits.max
        top = reached[-1] if len(reached) == len(cuts) else limits.max
        span = self._span = max(int(top) - int(self._base), 0)
        self._shift = max(span.bit_length() - _BITS, 0)
        self._outside = (span >> self._shift) + 1
        self._cuts = np.array([max(cut - int(self._base), 0) for cut in reached], np.uint64)
        lows = np.arange(self._outside, dtype=np.uint64) << np.uint64(self._shift)
        highs = lows + np.uint64((1 << self._shift) - 1)
        first, last = (np.searchsorted(self._cuts, edge, "right") for edge in (lows, highs))
        self._open = len(codes) - 1  # no value has the last code: it marks what must be searched
        self._table = np.zeros(self._outside + 1, codes.dtype)
        self._table[:-1] = np.where(first == last, codes[first], self._open)
        self._all_told = bool((first == last).all())

    def codes(self, values: npt.NDArray[np.generic]) -> _Codes:
        """Return the code of each value."""
        # Modulo 2^n: a value below the base becomes larger than any that is not.
        above = values.view(self._unsigned) - np.array(int(self._base) % (1 << 8 * values.itemsize), self._unsigned)
        places = above
        if self._shift:
            places = above >> self._unsigned.type(self._shift)
            places[above > self._span] = self._outside  # the last place has room for some that are below the base
        if self._outside <= np.iinfo(self._unsigned).max:
            places = np.minimum(places, self._unsigned.type(self._outside))
        codes: _Codes = self._table.take(places)
        if not self._all_told:
            searched = np.flatnonzero(codes == self._open)
            found = np.searchsorted(self._cuts, above[searched].astype(np.uint64), "right")
            codes[searched] = self._codes[found]
        return codes
