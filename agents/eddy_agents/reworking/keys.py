"""Keys of events: one 64-bit number for the values that an event has in some fields.

What may live here: `hashes` and one case for each kind of column. Equal values have equal numbers whatever column holds
them, in every process and at every time; different ones have the same number once in 2**64, unless somebody who
chooses the values wants them to.

Source: Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators" (2014), section 5 (mix64 variant 13); RFC
7693 (BLAKE2) for texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from eddy_mesh.batch import Batch
from eddy_mesh.columns import V4_MAPPED, Addresses, Column, Constant, Ids, Numbers, Words, address_halves, nulls_of
from eddy_mesh.fields import FieldType, type_of
from eddy_mesh.selection.lookup import field_column

Hashes = npt.NDArray[np.uint64]

FLOW: Final = ("source.ip", "destination.ip", "source.port", "destination.port", "network.iana_number")
"""The 5-tuple. Its two directions have different keys. Source: RFC 7011 section 2."""

_NULL: Final = 0x6E75_6C6C
_MASK: Final = (1 << 64) - 1
_STEP: Final = np.uint64(0x9E37_79B9_7F4A_7C15)


def hashes(batch: Batch, names: Sequence[str], seed: int = 0) -> Hashes:
    """Return one number for each event, equal where all the named fields are equal; no value equals no value.

    Args:
        batch: events.
        names: dotted field names, in order; ``id`` is the event's own.
        seed: another one gives numbers that have nothing to do with these.
    """
    found = np.full(batch.count, seed & _MASK, np.uint64)
    for name in names:
        found = mixed((found + _STEP) ^ _column(type_of(name), field_column(batch, name)))
    return found


def among(keys: Hashes, others: Hashes) -> npt.NDArray[np.bool_]:
    """Return True for each key that is one of the others, which are ascending."""
    if not len(others):
        return np.zeros(len(keys), np.bool_)
    places = np.minimum(np.searchsorted(others, keys), len(others) - 1)
    found: npt.NDArray[np.bool_] = others[places] == keys
    return found


def mixed(values: Hashes) -> Hashes:
    """Return numbers every bit of which depends on every bit of the values; one to one."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58_476D_1CE4_E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D0_49BB_1331_11EB)
    return values ^ (values >> np.uint64(31))


def _column(kind: FieldType, column: Column) -> Hashes:
    if isinstance(column, Constant):
        return np.full(column.count, _value(kind, column.value), np.uint64)
    if isinstance(column, Numbers):
        found = _numbers(column.values)
    elif isinstance(column, Addresses):
        found = _addresses(column)
    elif isinstance(column, Words):
        found = np.array([_value(kind, word) for word in column.values] or [0], np.uint64)[column.codes]
    elif isinstance(column, Ids):
        found = _pair(column.highs(), column.low)
    else:
        return np.fromiter((_value(kind, column.at(row)) for row in range(len(column))), np.uint64, len(column))
    return np.where(nulls_of(column), np.uint64(_NULL), found) if column.nulls is not None else found


def _numbers(values: npt.NDArray[np.generic]) -> Hashes:
    if values.dtype.kind != "f":
        return mixed(values.astype(np.int64).view(np.uint64) if values.dtype.kind == "i" else values.astype(np.uint64))
    return mixed((values.astype(np.float64) + 0.0).view(np.uint64))  # -0.0 equals 0.0


def _addresses(column: Addresses) -> Hashes:
    if column.is_v4:
        low = column.values.astype(np.uint64) + np.uint64(V4_MAPPED)
        return _pair(np.zeros(len(low), np.uint64), low)
    return _pair(column.values[:, 0].astype(np.uint64), column.values[:, 1].astype(np.uint64))


def _pair(high: Hashes, low: Hashes) -> Hashes:
    return mixed(mixed(high + _STEP) ^ low)


def _value(kind: FieldType, value: object) -> int:
    """Return the number of one value: the same as that of an array that holds it."""
    if value is None:
        return _NULL
    if isinstance(value, int):
        return int(mixed(np.array([value & _MASK], np.uint64))[0])
    if isinstance(value, float):
        return int(_numbers(np.array([value], np.float64))[0])
    if isinstance(value, str) and kind is FieldType.ADDRESS:
        try:
            high, low = address_halves(value)
        except ValueError:
            return _text(value.encode("utf-8", "replace"))
        return int(_pair(np.array([high], np.uint64), np.array([low], np.uint64))[0])
    if isinstance(value, bytes) and len(value) == 16 and kind in {FieldType.ID, FieldType.IDS}:
        high, low = np.frombuffer(value, ">u8").astype(np.uint64)
        return int(_pair(np.array([high], np.uint64), np.array([low], np.uint64))[0])
    if isinstance(value, str):
        return _text(value.encode("utf-8", "replace"))
    return _text(value if isinstance(value, bytes) else msgspec.msgpack.encode(value, order="deterministic"))


def _text(value: bytes) -> int:
    return int.from_bytes(blake2b(value, digest_size=8).digest(), "big")
