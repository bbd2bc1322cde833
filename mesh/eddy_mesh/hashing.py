"""Hashes of columns: one 64-bit number for the value of each row.

What may live here: `column_hashes`, one case for each kind of column, and the mixing. Equal values have equal numbers
in every process, on every host and in every column encoding: ``5`` in two octets, in eight, as ``5.0`` or as a constant
is one value, and so are ``192.0.2.1`` and ``::ffff:192.0.2.1``. Different ones have the same number once in 2**64,
unless somebody who chooses the values wants them to. The partitions of durable edges are made of these numbers: they
are part of the wire contract.

Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (2014), section 5 (splitmix64: the step and
mix64 variant 13); RFC 7693 (BLAKE2) for texts and bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from eddy_mesh.cer import Value
from eddy_mesh.columns import (
    V4_MAPPED,
    Addresses,
    Column,
    Constant,
    Ids,
    Maps,
    Numbers,
    Packed,
    Words,
    address_halves,
    nulls_of,
)
from eddy_mesh.fields import FieldType

Hashes = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]

_MASK: Final = 0xFFFF_FFFF_FFFF_FFFF
_TWO_63: Final = float(1 << 63)
_BY_VALUE: Final = {FieldType.ADDRESS, FieldType.ID, FieldType.IDS}
"""Types whose values in a packed column are equal to values in columns of another kind."""
_encoder = msgspec.msgpack.Encoder(order="deterministic")


def column_hashes(kind: FieldType, column: Column) -> tuple[Hashes, Mask]:
    """Return a number for each row, equal where the values are, and True for each row that has none.

    Args:
        kind: type of the field: the text of an address is that address.
        column: of any kind. The number of a row without a value means nothing.
    """
    if isinstance(column, Maps):  # a map can hold nil, or what does not decode
        values = [column.at(row) for row in range(len(column))]
        return _of_values(values, kind), np.fromiter((value is None for value in values), np.bool_, len(values))
    return _of_column(column, kind), nulls_of(column)


def mixed(values: Hashes) -> Hashes:
    """Return numbers every bit of which depends on every bit of the values; one to one."""
    spread = values + np.uint64(0x9E37_79B9_7F4A_7C15)
    spread = (spread ^ (spread >> np.uint64(30))) * np.uint64(0xBF58_476D_1CE4_E5B9)
    spread = (spread ^ (spread >> np.uint64(27))) * np.uint64(0x94D0_49BB_1331_11EB)
    return spread ^ (spread >> np.uint64(31))


def _of_column(column: Column, kind: FieldType) -> Hashes:
    if isinstance(column, Constant):
        return np.full(column.count, _of_values([column.value], kind)[0])
    if isinstance(column, Numbers):
        return mixed(_number_bits(column.values))
    if isinstance(column, Addresses):
        return _of_addresses(column)
    if isinstance(column, Words):
        return _of_values(column.values, kind)[column.codes] if column.values else np.zeros(len(column), np.uint64)
    if isinstance(column, Ids):
        return _of_halves(column.highs(), column.low)
    return _of_packed(column, kind)


def _of_packed(column: Packed, kind: FieldType) -> Hashes:
    if kind in _BY_VALUE:
        return _of_values([column.at(row) for row in range(len(column))], kind)
    known: dict[bytes, int] = {}
    return np.fromiter((_of_bytes(column.bytes_at(row), known) for row in range(len(column))), np.uint64, len(column))


def _of_bytes(data: bytes, known: dict[bytes, int]) -> int:
    found = known.get(data)
    if found is None:
        found = known[data] = int.from_bytes(blake2b(data, digest_size=8).digest(), "little")
    return found


def _of_addresses(column: Addresses) -> Hashes:
    if column.is_v4:
        low = column.values.astype(np.uint64) + np.uint64(V4_MAPPED)
        return _of_halves(np.zeros(len(low), np.uint64), low)
    halves = column.values.astype(np.uint64)
    return _of_halves(halves[:, 0], halves[:, 1])


def _of_halves(high: Hashes, low: Hashes) -> Hashes:
    return mixed(mixed(high) ^ low)


def _number_bits(values: npt.NDArray[np.generic]) -> Hashes:
    """Return the same 64 bits for the same number, whatever type holds it."""
    if values.dtype.kind != "f":
        return values.astype(np.int64 if values.dtype.kind == "i" else np.uint64).view(np.uint64)
    exact = values.astype(np.float64)
    bits = np.where(np.isnan(exact), np.nan, exact).view(np.uint64).copy()
    whole = (exact == np.floor(exact)) & (exact >= -_TWO_63) & (exact < 2 * _TWO_63)
    small, large = whole & (exact < _TWO_63), whole & (exact >= _TWO_63)
    bits[small] = exact[small].astype(np.int64).view(np.uint64)
    bits[large] = exact[large].astype(np.uint64)
    return bits


def _of_values(values: Iterable[Value], kind: FieldType) -> Hashes:
    known: dict[bytes, int] = {}
    return np.array([_of_value(value, kind, known) for value in values], np.uint64)


def _of_value(value: Value, kind: FieldType, known: dict[bytes, int]) -> int:
    if isinstance(value, float):
        return int(mixed(_number_bits(np.array([value])))[0])
    if isinstance(value, int):  # bool as well
        return int(mixed(np.array([value & _MASK], np.uint64))[0])
    if kind is FieldType.ADDRESS and isinstance(value, str):
        try:
            high, low = address_halves(value)
        except ValueError:
            return _of_bytes(value.encode("utf-8", "surrogatepass"), known)
        return int(_of_halves(np.array([high], np.uint64), np.array([low], np.uint64))[0])
    if kind in {FieldType.ID, FieldType.IDS} and isinstance(value, bytes) and len(value) == 16:
        high, low = int.from_bytes(value[:8], "big"), int.from_bytes(value[8:], "big")
        return int(_of_halves(np.array([high], np.uint64), np.array([low], np.uint64))[0])
    if isinstance(value, str):
        return _of_bytes(value.encode("utf-8", "surrogatepass"), known)
    return _of_bytes(value if isinstance(value, bytes) else _encoder.encode(value), known)
