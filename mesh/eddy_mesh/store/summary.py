"""What a sealed file holds, in few bytes: enough to know that a query need not open it.

What may live here: making the summary of a batch, and the question whether a file may hold an event that a condition
selects. The answer may be a wrong yes, never a wrong no.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TypeAlias
from zlib import compress, decompress

import msgspec
import numpy as np
import numpy.typing as npt

from eddy_mesh.batch import Batch, Kind
from eddy_mesh.cer import DESCRIPTORS, Value
from eddy_mesh.columns import V4_MAPPED, Addresses, Column, Constant, Ids, Numbers, Text, Words, address_halves
from eddy_mesh.fields import FieldType, type_of
from eddy_mesh.selection.plan import Among, And, Comparison, Condition, Literal, Operand, Operator, Or

ENVELOPE = ("host", "host_address", "normalizer", "normalizer_address", "observer.ip")
"""Fields outside the descriptors that are summed up too."""

MAX_ORIGINS = 64
_BITS = 18
_MAX_TEXTS = 10_000
"""Plain texts are looked at one by one; with more of them than this the file is opened instead."""

Limits: TypeAlias = tuple[int, int]
"""Least and greatest."""
_ODD = np.uint64(0x9E37_79B9_7F4A_7C15)
_INT_TYPES = frozenset({FieldType.INT, FieldType.TIME, FieldType.LEVEL})
_SURE_TYPES = _INT_TYPES | {FieldType.TEXT, FieldType.ADDRESS}


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one file.

    Attributes:
        rows: number of events.
        occurred: least and greatest ``occurred``, ns since 1970 UTC, or None where no event has it.
        observed: the same for ``observed``.
        ids: least and greatest id.
        origins: host processes, or None when there are more than `MAX_ORIGINS`.
        fields: names of the registered fields that some event has.
        ranges: integer field of the descriptor to its least and greatest value.
        marks: address or text field of the descriptor to a compressed bit set; the hash of each value is marked.
    """

    rows: int
    occurred: tuple[int, int] | None
    observed: tuple[int, int] | None
    ids: tuple[bytes, bytes]
    origins: list[str] | None
    fields: list[str]
    ranges: dict[str, tuple[int, int]]
    marks: dict[str, bytes]


class Summing:
    """Sums up what is about to be sealed, piece by piece.

    Args:
        kind: of every event.
    """

    def __init__(self, kind: Kind) -> None:
        self._names = (*DESCRIPTORS[kind.event_class], *ENVELOPE)
        self._rows = 0
        self._times: dict[str, Limits] = {}
        self._ids: list[tuple[bytes, bytes]] = []
        self._origins: set[str] = set()
        self._fields: set[str] = set()
        self._ranges: dict[str, Limits] = {}
        self._marks: dict[str, npt.NDArray[np.bool_]] = {}
        self._unsure: set[str] = set()

    def add(self, batch: Batch) -> None:
        """Take in a piece.

        Args:
            batch: as stored: gathered and unfolded, at least one event.
        """
        self._rows += batch.count
        present = {name: column for name, column in batch.columns.items() if not _is_empty(column)}
        for name in self._names:
            if name in present:
                self._add_values(name, present[name])
        for name in ("occurred", "observed"):
            _widen(self._times, name, _limits(present.get(name)))
        self._ids.append(_id_limits(batch.ids()))
        self._origins.update(_texts(batch.columns.get("origin")) or [batch.origin])
        self._fields.update(name for name in present if type_of(name) in _SURE_TYPES)

    def _add_values(self, name: str, column: Column) -> None:
        kind = type_of(name)
        if kind in _INT_TYPES and (limits := _limits(column)):
            _widen(self._ranges, name, limits)
        elif (places := _hashes(column, kind)) is not None:
            self._marks.setdefault(name, np.zeros(1 << _BITS, np.bool_))[places] = True
        else:
            self._unsure.add(name)

    def summary(self) -> Summary:
        """Return the summary of all pieces, at least one."""
        unsure = self._unsure | (self._ranges.keys() & self._marks.keys())
        lows, highs = zip(*self._ids, strict=True)
        return Summary(
            rows=self._rows,
            occurred=self._times.get("occurred"),
            observed=self._times.get("observed"),
            ids=(min(lows), max(highs)),
            origins=sorted(self._origins) if len(self._origins) <= MAX_ORIGINS else None,
            fields=sorted(self._fields),
            ranges={name: limits for name, limits in self._ranges.items() if name not in unsure},
            marks={name: _packed(marks) for name, marks in self._marks.items() if name not in unsure},
        )


def _widen(known: dict[str, Limits], name: str, limits: Limits | None) -> None:
    if limits is not None:
        low, high = known.get(name, limits)
        known[name] = min(low, limits[0]), max(high, limits[1])


def may_hold(summary: Summary, condition: Condition | None) -> bool:
    """Return False only when no event of the file can make ``condition`` true."""
    if isinstance(condition, And):
        return all(may_hold(summary, part) for part in condition.parts)
    if isinstance(condition, Or):
        return any(may_hold(summary, part) for part in condition.parts)
    if isinstance(condition, Comparison) and condition.operator is not Operator.NE:
        return _may_compare(summary, condition.operand, condition.operator, (condition.value,))
    if isinstance(condition, Among):
        return _may_compare(summary, condition.operand, Operator.EQ, condition.values)
    return True


# --- asking ------------------------------------------------------------------------------------------------------


def _may_compare(summary: Summary, operand: Operand, operator: Operator, values: tuple[Literal, ...]) -> bool:
    name = operand.name
    if operand.is_open or operand.type not in _SURE_TYPES or type_of(name) is not operand.type or name in _IMPLIED:
        return True
    if name not in summary.fields:
        return False
    limits = summary.ranges.get(name)
    if limits is not None:
        return any(not isinstance(value, int) or _may_lie(limits, operator, value) for value in values)
    marks = summary.marks.get(name)
    if marks is None or operator is not Operator.EQ:
        return True
    bits = decompress(marks)
    return any(bits[place >> 3] >> (place & 7) & 1 for place in (_place(value) for value in values))


_IMPLIED = frozenset({"id", "version", "type", "event_class", "stage", "origin"})


def _may_lie(limits: tuple[int, int], operator: Operator, value: int) -> bool:
    low, high = limits
    return {
        Operator.EQ: low <= value <= high,
        Operator.LT: low < value,
        Operator.LE: low <= value,
        Operator.GT: high > value,
        Operator.GE: high >= value,
    }[operator]


def _place(value: Literal) -> int:
    if isinstance(value, str):
        return _text_place(value)
    number = int(value)
    highs, lows = np.array([number >> 64], np.uint64), np.array([number & 0xFFFF_FFFF_FFFF_FFFF], np.uint64)
    return int(_places(highs, lows)[0])


# --- summing up --------------------------------------------------------------------------------------------------


def _is_empty(column: Column) -> bool:
    if isinstance(column, Constant):
        return column.value is None
    return column.nulls is not None and bool(column.nulls.all())


def _limits(column: Column | None) -> Limits | None:
    if isinstance(column, Constant) and type(column.value) is int:
        return column.value, column.value
    if not isinstance(column, Numbers) or column.values.dtype.kind not in "iu":
        return None
    values = column.values if column.nulls is None else column.values[~column.nulls]
    return (int(values.min()), int(values.max())) if len(values) else None


def _id_limits(ids: Ids) -> tuple[bytes, bytes]:
    """Return bounds of the ids: exact in their upper half, as loose as can be in the lower one."""
    highs = ids.highs()
    return int(highs.min()).to_bytes(8, "big") + bytes(8), int(highs.max()).to_bytes(8, "big") + b"\xff" * 8


def _texts(column: Column | None) -> list[str]:
    if isinstance(column, Words):
        return sorted(set(column.values))
    return [column.value] if isinstance(column, Constant) and isinstance(column.value, str) else []


def _hashes(column: Column, field_type: FieldType) -> npt.NDArray[np.uint64] | None:
    """Return the place of each value in the bit set, or None where the column can not be summed up."""
    if isinstance(column, Addresses) and field_type is FieldType.ADDRESS:
        values = column.values if column.nulls is None else column.values[~column.nulls]
        wide = values if column.is_v4 else values[:, 1]
        low = wide.astype(np.uint64)
        low += np.uint64(V4_MAPPED if column.is_v4 else 0)
        return _places(np.zeros(1, np.uint64) if column.is_v4 else values[:, 0].astype(np.uint64), low)
    texts: list[Value] = list(_texts(column)) if field_type is FieldType.TEXT else []
    if isinstance(column, Text) and field_type is FieldType.TEXT and len(column) <= _MAX_TEXTS:
        texts = [column.at(row) for row in range(len(column))]
    if isinstance(column, Constant) and isinstance(column.value, str) and field_type is FieldType.ADDRESS:
        try:
            high, low_half = address_halves(column.value)
        except ValueError:
            return None
        return _places(np.array([high], np.uint64), np.array([low_half], np.uint64))
    return np.array([_text_place(text) for text in texts if isinstance(text, str)], np.uint64) if texts else None


def _places(high: npt.NDArray[np.uint64], low: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return the upper bits of a multiplicative hash, in the place of ``low``.

    Source: Knuth, The Art of Computer Programming 3, section 6.4.
    """
    low ^= high * _ODD
    low *= _ODD
    low >>= np.uint64(64 - _BITS)
    return low


def _text_place(text: str) -> int:
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> (64 - _BITS)


def _packed(marks: npt.NDArray[np.bool_]) -> bytes:
    return compress(np.packbits(marks, bitorder="little").tobytes(), 1)
