"""Columns filled by many patterns, each for some of the rows.

What may live here: `FieldSet`, which collects dictionary-coded values of any number of fields and gives the smallest
columns that hold them. A field that few rows have goes to the column of maps.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import compress
from typing import TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from eddy_agents.wire.log_spans import spliced
from eddy_mesh.batch import EXTRA
from eddy_mesh.cer import Value
from eddy_mesh.columnize import address_column
from eddy_mesh.columns import (
    Addresses,
    Column,
    Constant,
    Maps,
    Numbers,
    Text,
    Words,
    address_halves,
    nulls_of,
    pack,
    v4_text,
)
from eddy_mesh.fields import FieldType, type_of
from eddy_mesh.rows import SPARSE_SHARE

Rows: TypeAlias = slice | npt.NDArray[np.intp]
"""Which rows of the chunk: all (`ALL`) or ascending offsets."""

ALL = slice(None)
MAX_DIGITS = 18
"""A decimal number of at most so many digits fits 64 bits."""

_NUMERIC = frozenset({FieldType.INT, FieldType.LEVEL})


class Codes:
    """Values of one field, dictionary-coded: ``codes[row]`` is the number of a text in ``index``, or -1."""

    __slots__ = ("codes", "index")

    def __init__(self, count: int) -> None:
        self.codes = np.full(count, -1, np.int32)
        self.index: defaultdict[bytes | None, int] = defaultdict()
        self.index.default_factory = self.index.__len__

    def put(self, rows: Rows, values: Sequence[bytes | None]) -> None:
        """Set the values of some rows; None or b"" says that the row does not have the field."""
        self.codes[rows] = np.fromiter(map(self.index.__getitem__, values), np.int32, len(values))

    def put_same(self, rows: Rows, value: bytes) -> None:
        """Set one value in some rows."""
        self.codes[rows] = self.index[value]

    def copy(self) -> Codes:
        """Return the same values, independent of these."""
        twin = Codes(0)
        twin.codes = self.codes.copy()
        twin.index.update(self.index)
        return twin

    def missing(self) -> npt.NDArray[np.bool_]:
        """Return True for each row that does not have the field."""
        missing = self.codes < 0
        for absent in (None, b""):
            code = self.index.get(absent)
            if code is not None:
                missing |= self.codes == code
        return missing

    def same_in_all(self) -> bytes | None:
        """Return the text that every row has, or None where they differ or where other texts were put before."""
        if len(self.index) != 1 or not len(self.codes) or np.count_nonzero(self.codes):  # the only text has code 0
            return None
        return next(iter(self.index)) or None

    def texts_of(self, rows: npt.NDArray[np.intp]) -> list[bytes]:
        """Return the text of each of some rows, b"" for none."""
        texts = [*self.texts(), b""]
        return [texts[code] for code in self.codes[rows].tolist()]

    def texts(self) -> list[bytes]:
        """Return the different texts, b"" for none; a code is an offset into them."""
        return [text or b"" for text in self.index]


class FieldSet:
    """Values of any number of fields for a chunk of ``count`` rows."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._fields: dict[str, Codes] = {}
        self._dense: dict[str, tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]] = {}
        self._texts: dict[str, Text] = {}
        self._sparse: dict[int, dict[str, Value]] = {}

    def codes(self, name: str) -> Codes:
        """Return the codes of a field, made where nothing was put yet."""
        held = self._fields.get(name)
        if held is None:
            held = self._fields[name] = Codes(self.count)
            if name in self._dense:
                values, is_present = self._dense.pop(name)
                held.put(np.flatnonzero(is_present), _dense_texts(type_of(name), values[is_present]))
            if name in self._texts:
                column = self._texts.pop(name)
                held.put(ALL, [column.bytes_at(row) for row in range(self.count)])
        return held

    def has(self, name: str) -> bool:
        """Return whether something was put into a field."""
        return name in self._fields or name in self._dense or name in self._texts

    def put_text(self, name: str, column: Text) -> None:
        """Set a field of all rows, to which nothing was put yet, to texts that seldom repeat."""
        self._texts[name] = column

    def put_numbers(self, name: str, rows: npt.NDArray[np.intp], values: npt.NDArray[np.int64]) -> None:
        """Set a field of some rows that holds numbers or IPv4 addresses, these as 32-bit numbers."""
        if not len(rows):
            return
        if name in self._fields:
            self.put(name, rows, _dense_texts(type_of(name), values))
            return
        if name not in self._dense:
            self._dense[name] = np.zeros(self.count, np.int64), np.zeros(self.count, np.bool_)
        held, is_present = self._dense[name]
        held[rows] = values
        is_present[rows] = True

    def put(self, name: str, rows: Rows, values: Sequence[bytes | None]) -> None:
        """Set a field of some rows: UTF-8 text, decimal digits or an address; None or b"" for none."""
        held = self._texts.get(name)
        if held is None or isinstance(rows, slice):
            self.codes(name).put(rows, values)
            return
        missing = nulls_of(held).copy()
        missing[rows] = [not value for value in values]
        pieces = {row: value or b"" for row, value in zip(rows.tolist(), values, strict=True)}
        offsets, text = spliced(held.offsets, bytes(held.data), pieces)
        self._texts[name] = Text(offsets, text, missing if missing.any() else None)

    def put_same(self, name: str, rows: Rows, value: bytes) -> None:
        """Set a field of some rows to one value."""
        self.codes(name).put_same(rows, value)

    def put_coded(
        self, name: str, rows: npt.NDArray[np.intp], texts: Sequence[bytes], codes: npt.NDArray[np.signedinteger]
    ) -> None:
        """Set a field of some rows to ``texts[code]``; b"" for none.

        Args:
            name: field to set.
            rows: offsets.
            texts: may hold texts that no row has; all are different.
            codes: for each of the rows an offset into ``texts``.
        """
        if not len(rows):
            return
        held = self.codes(name)
        table = np.full(len(texts), -1, np.int32)
        for code in np.flatnonzero(np.bincount(codes)).tolist():
            table[code] = held.index[texts[code]] if texts[code] else -1
        held.codes[rows] = table[codes]

    def put_row(self, row: int, values: Mapping[str, Value]) -> None:
        """Add fields of one row that go to the column of maps as they are."""
        self._sparse.setdefault(row, {}).update(values)

    def copy(self, source: str, target: str) -> None:
        """Set ``target`` to ``source`` in every row that has it."""
        if not self.has(target):
            if self.has(source):
                self._fields[target] = self.codes(source).copy()
            return
        present = self._dense[target][1] if target in self._dense else ~self.codes(target).missing()
        rows = np.flatnonzero(~present)
        column = self._texts.get(source)
        if column is not None:
            rows = rows[~nulls_of(column)[rows]]
            texts = [column.bytes_at(row) for row in rows.tolist()]
        elif source in self._fields:
            texts = self._fields[source].texts_of(rows)
        else:
            return
        is_number = np.array([_number(text) is not None for text in texts], np.bool_)
        if target in self._dense and is_number.any():
            self.put_numbers(target, rows[is_number], np.array([int(text) for text in compress(texts, is_number)]))
        elif target not in self._dense:
            self.put(target, rows, texts)

    def derive(self, source: str, target: str, function: Callable[[bytes], bytes]) -> None:
        """Set ``target`` in each row to ``function`` of the value of ``source``, called once for each different value.

        Args:
            source: field to read; rows without it are left as they are.
            target: field to set.
            function: gives b"" for a value that says nothing about ``target``.
        """
        if source in self._fields:
            self.put_derived(target, self._fields[source], function)

    def put_derived(self, target: str, source: Codes, function: Callable[[bytes], bytes]) -> None:
        """Do what `derive` does with values that are no field themselves."""
        only = source.same_in_all()
        if only is not None:
            value = function(only)
            if value:
                self.put_same(target, ALL, value)
            return
        result = self.codes(target) if self.has(target) else Codes(0)
        values = [function(text) if text else b"" for text in source.texts()]
        table = np.array([result.index[value] if value else -1 for value in values] + [-1], np.int32)
        mapped = table[source.codes]
        if self.has(target):
            np.copyto(result.codes, mapped, where=mapped >= 0)
        else:
            result.codes = mapped
            self._fields[target] = result

    def columns(self) -> dict[str, Column]:
        """Return a column for each field that at least one row has."""
        columns: dict[str, Column] = dict(self._texts)
        least = SPARSE_SHARE * self.count
        for name, (values, is_present) in self._dense.items():
            present = int(np.count_nonzero(is_present))
            if present >= least:
                columns[name] = _dense_column(type_of(name), values, None if present == self.count else ~is_present)
        for name in [name for name in self._dense if name not in columns]:
            self.codes(name)  # which few rows have
        for name, codes in self._fields.items():
            kind, only = type_of(name), codes.same_in_all()
            value = None if only is None or kind is FieldType.ADDRESS else _value(kind, only)
            if value is not None:
                columns[name] = Constant(value, self.count)
                continue
            missing = codes.missing()
            present = self.count - int(np.count_nonzero(missing))
            if present == 0:
                continue
            if present < least:
                self._to_sparse(name, codes, np.flatnonzero(~missing))
                continue
            column = column_of_codes(kind, codes, missing if present < self.count else None)
            if column is not None:
                columns[name] = column
        if self._sparse:
            columns[EXTRA] = sparse_column(self.count, self._sparse)
        return columns

    def rows(self) -> list[dict[str, Value]]:
        """Return the fields of each row as dicts of dotted names, for cookings that work by row."""
        rows: list[dict[str, Value]] = [dict(self._sparse.get(row, {})) for row in range(self.count)]
        for name in [*self._dense, *self._texts]:
            self.codes(name)
        for name, codes in self._fields.items():
            texts, kind = codes.texts(), type_of(name)
            present = np.flatnonzero(~codes.missing())
            for row, code in zip(present.tolist(), codes.codes[present].tolist(), strict=True):
                value = _value(kind, texts[code])
                if value is not None:
                    rows[row][name] = value
        return rows

    def _to_sparse(self, name: str, codes: Codes, present: npt.NDArray[np.intp]) -> None:
        texts, kind = codes.texts(), type_of(name)
        for row, code in zip(present.tolist(), codes.codes[present].tolist(), strict=True):
            value = _value(kind, texts[code])
            if value is not None:
                self._sparse.setdefault(row, {})[name] = value


def _dense_texts(kind: FieldType, values: npt.NDArray[np.int64]) -> list[bytes]:
    if kind is FieldType.ADDRESS:
        return [v4_text(value).encode() for value in values.tolist()]
    return [b"%d" % value for value in values.tolist()]


def _dense_column(
    kind: FieldType, values: npt.NDArray[np.int64], missing: npt.NDArray[np.bool_] | None
) -> Numbers | Addresses | Constant:
    if kind is FieldType.ADDRESS:
        return Addresses(values.astype(">u4"), missing)
    most = int(values.max())
    if missing is None and most == int(values.min()):
        return Constant(most, len(values))
    return Numbers(values.astype(np.min_scalar_type(most)), missing)


def column_of_codes(kind: FieldType, codes: Codes, missing: npt.NDArray[np.bool_] | None) -> Column | None:
    """Return the smallest column of coded values, or None where no row has a value that fits.

    Args:
        kind: type of the field. Texts that do not fit it (not a number, not an address) become null.
        codes: the values.
        missing: True for each row without the field, or None when every row has it.
    """
    if kind in _NUMERIC:
        return _number_column(codes, missing)
    if kind is FieldType.ADDRESS:
        return _address_column(codes, missing)
    return _text_column(codes, missing)


def _text_column(codes: Codes, missing: npt.NDArray[np.bool_] | None) -> Column:
    texts = codes.texts()
    used = codes.codes if missing is None else np.where(missing, 0, codes.codes)
    if len(texts) == 1 and missing is None:
        return Constant(texts[0].decode("utf-8", "replace"), len(used))
    if len(texts) > len(used) // 2 + 1:
        texts.append(b"")  # what code -1 picks
        return Text(*pack([texts[code] for code in codes.codes.tolist()]), missing)
    width = np.min_scalar_type(len(texts) - 1)
    return Words(used.astype(width), _decoded(texts), missing)


def _decoded(texts: list[bytes]) -> tuple[str, ...]:
    together = tuple(b"\n".join(texts).decode("utf-8", "replace").split("\n"))
    if len(together) == len(texts):
        return together
    return tuple(text.decode("utf-8", "replace") for text in texts)  # one of them holds a line end


def _number_column(codes: Codes, missing: npt.NDArray[np.bool_] | None) -> Column | None:
    texts = codes.texts()
    if b"".join(texts).isdigit() and max(map(len, texts)) <= MAX_DIGITS:
        unfit = np.zeros(len(texts), np.bool_)
        table = np.array([int(text or b"0") for text in texts], np.uint64)
    else:
        numbers = [_number(text) for text in texts]
        unfit = np.array([number is None for number in numbers], np.bool_)
        table = np.array([number or 0 for number in numbers], np.uint64)
    values, nulls = _spread(codes, missing, table, unfit)
    if nulls is not None and nulls.all():
        return None
    if nulls is None and len(table) == 1:
        return Constant(int(table[0]), len(values))
    return Numbers(values.astype(np.min_scalar_type(int(table.max()))), nulls)


def _address_column(codes: Codes, missing: npt.NDArray[np.bool_] | None) -> Column | None:
    texts: list[str | None] = [address_or_none(text) for text in codes.texts()]
    unfit = np.array([text is None for text in texts], np.bool_)
    table = address_column(texts)
    values, nulls = _spread(codes, missing, table.values, unfit)
    if nulls is not None and nulls.all():
        return None
    return Addresses(values, nulls)


def _spread(
    codes: Codes, missing: npt.NDArray[np.bool_] | None, table: npt.NDArray[np.generic], unfit: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.unsignedinteger], npt.NDArray[np.bool_] | None]:
    used = codes.codes if missing is None else np.where(missing, 0, codes.codes)
    nulls = missing
    if unfit.any():
        nulls = unfit[used] if missing is None else unfit[used] | missing
    return table[used], nulls  # type: ignore[return-value]


def sparse_column(count: int, rows: Mapping[int, Mapping[str, Value]]) -> Maps:
    """Return the column of maps with the fields that few rows have.

    Args:
        count: number of rows of the chunk.
        rows: row → its fields.
    """
    encoded = [msgspec.msgpack.encode(rows[row]) for row in sorted(rows)]
    lengths = np.zeros(count, np.int64)
    lengths[sorted(rows)] = [len(text) for text in encoded]
    offsets = np.zeros(count + 1, np.uint32)
    np.cumsum(lengths, out=offsets[1:])
    return Maps(offsets, b"".join(encoded), lengths == 0 if len(rows) < count else None)


def address_or_none(text: bytes) -> str | None:
    """Return an address as text that `eddy_mesh.columns.address_halves` takes, or None where it is none."""
    try:
        decoded = text.decode("ascii")
        address_halves(decoded)
    except ValueError:
        return None
    return decoded


def _number(text: bytes) -> int | None:
    return int(text) if text.isdigit() and len(text) <= MAX_DIGITS else None


def _value(kind: FieldType, text: bytes) -> Value:
    if kind in _NUMERIC:
        return _number(text)
    if kind is FieldType.ADDRESS:
        return address_or_none(text)
    return text.decode("utf-8", "replace")
