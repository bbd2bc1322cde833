"""Partitions: which of the 64 parts of a durable edge an event belongs to, by the value of one field.

What may live here: the hash of a value and the split of a batch. Equal values have the same partition in every process,
on every host and in every column encoding, so that their events keep their order and reach the same instance: ``5`` in
two octets, in eight, as ``5.0`` or as a constant is one value, and so are ``192.0.2.1`` and ``::ffff:192.0.2.1``.

Source: Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014 (the mixing of splitmix64).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import blake2b

import msgspec
import numpy as np
import numpy.typing as npt

from eddy_mesh.batch import Batch
from eddy_mesh.cer import Value
from eddy_mesh.columns import (
    V4_MAPPED,
    Addresses,
    Column,
    Constant,
    Ids,
    Index,
    Maps,
    Numbers,
    Packed,
    Words,
    address_halves,
    nulls_of,
)
from eddy_mesh.config import PARTITIONS, Partition
from eddy_mesh.fields import FieldType, type_of
from eddy_mesh.selection.lookup import field_column

NULL_PARTITION = 0
"""Partition of the events that do not have the field; no value is in it."""

_U64 = npt.NDArray[np.uint64]
_MASK = 0xFFFF_FFFF_FFFF_FFFF
_TWO_63 = float(1 << 63)
_encoder = msgspec.msgpack.Encoder(order="deterministic")


def partitions_of(batch: Batch, field: str) -> npt.NDArray[np.uint8]:
    """Return the partition of each event, 0 to `PARTITIONS` - 1.

    Args:
        batch: events.
        field: dotted name of the field whose value decides.
    """
    column = field_column(batch, field)
    hashes = _hashes(column, type_of(field))
    chosen = (np.uint64(1) + (hashes >> np.uint64(32)) % np.uint64(PARTITIONS - 1)).astype(np.uint8)
    chosen[_missing(column)] = NULL_PARTITION
    return chosen


def split_by(batch: Batch, field: str, partitions: int = PARTITIONS) -> list[tuple[int, Index]]:
    """Return each partition that has events, with their offsets in order.

    Args:
        batch: at least one event.
        field: dotted name of the field whose value decides.
        partitions: a divisor of `PARTITIONS`: so many are told apart, by the rest of the partition's number.
    """
    chosen = partitions_of(batch, field) % np.uint8(partitions)
    present = np.flatnonzero(np.bincount(chosen, minlength=partitions))
    if len(present) == 1:
        return [(int(present[0]), np.arange(batch.count))]
    order = np.argsort(chosen, kind="stable")
    bounds = np.searchsorted(chosen[order], present)
    return list(zip(present.tolist(), np.split(order, bounds[1:]), strict=True))


def owned(instance: int, count: int, partitions: int = PARTITIONS) -> tuple[int, ...]:
    """Return the partitions of instance ``instance`` of ``count``; none where there are fewer than instances."""
    return tuple(range(instance, partitions, count))


def part_of(partition: Partition) -> Callable[[Batch], npt.NDArray[np.bool_]] | None:
    """Return what marks the events of a part; None where it is all.

    Args:
        partition: which part. Without a field the sequence numbers of the events decide.
    """
    if not partition.indexes:
        return None
    is_own = np.isin(np.arange(PARTITIONS) % partition.of, partition.indexes)

    def mark(batch: Batch) -> npt.NDArray[np.bool_]:
        if partition.field:
            return is_own[partitions_of(batch, partition.field)]
        return is_own[(batch.ids().low % np.uint64(PARTITIONS)).astype(np.intp)]

    return mark


def _missing(column: Column) -> npt.NDArray[np.bool_]:
    if isinstance(column, Maps):  # a map can hold nil, or what does not decode
        return np.fromiter((column.at(row) is None for row in range(len(column))), np.bool_, len(column))
    return nulls_of(column)


def _hashes(column: Column, kind: FieldType) -> _U64:
    if isinstance(column, Constant):
        return np.full(column.count, _of_values([column.value], kind)[0])
    if isinstance(column, Numbers):
        return _mixed(_number_bits(column.values))
    if isinstance(column, Addresses):
        return _of_addresses(column)
    if isinstance(column, Words):
        return _of_values(column.values, kind)[column.codes] if column.values else np.zeros(len(column), np.uint64)
    if isinstance(column, Ids):
        return _of_halves(column.highs(), column.low)
    if isinstance(column, Maps):
        return _of_values([column.at(row) for row in range(len(column))], kind)
    return _of_packed(column, kind)


def _of_packed(column: Packed, kind: FieldType) -> _U64:
    if kind is FieldType.ADDRESS:
        return _of_values([column.at(row) for row in range(len(column))], kind)
    known: dict[bytes, int] = {}
    return np.fromiter(
        (_of_bytes(column.bytes_at(row), known) for row in range(len(column))), np.uint64, count=len(column)
    )


def _of_bytes(data: bytes, known: dict[bytes, int]) -> int:
    found = known.get(data)
    if found is None:
        found = known[data] = int.from_bytes(blake2b(data, digest_size=8).digest(), "little")
    return found


def _of_addresses(column: Addresses) -> _U64:
    if column.is_v4:
        low = column.values.astype(np.uint64) + np.uint64(V4_MAPPED)
        return _of_halves(np.zeros(len(low), np.uint64), low)
    halves = column.values.astype(np.uint64)
    return _of_halves(halves[:, 0], halves[:, 1])


def _of_halves(high: _U64, low: _U64) -> _U64:
    return _mixed(_mixed(high) ^ low)


def _mixed(bits: _U64) -> _U64:
    """Spread 64-bit values: the step and the finalizer of splitmix64, modulo 2 to the 64."""
    spread = bits + np.uint64(0x9E37_79B9_7F4A_7C15)
    spread = (spread ^ (spread >> np.uint64(30))) * np.uint64(0xBF58_476D_1CE4_E5B9)
    spread = (spread ^ (spread >> np.uint64(27))) * np.uint64(0x94D0_49BB_1331_11EB)
    return spread ^ (spread >> np.uint64(31))


def _number_bits(values: npt.NDArray[np.generic]) -> _U64:
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


def _of_values(values: Iterable[Value], kind: FieldType) -> _U64:
    known: dict[bytes, int] = {}
    return np.array([_of_value(value, kind, known) for value in values], np.uint64)


def _of_value(value: Value, kind: FieldType, known: dict[bytes, int]) -> int:
    if isinstance(value, float):
        return int(_mixed(_number_bits(np.array([value])))[0])
    if isinstance(value, int):  # bool as well
        return int(_mixed(np.array([value & _MASK], np.uint64))[0])
    if kind is FieldType.ADDRESS and isinstance(value, str):
        try:
            high, low = address_halves(value)
        except ValueError:
            return _of_bytes(value.encode("utf-8", "surrogatepass"), known)
        return int(_of_halves(np.array([high], np.uint64), np.array([low], np.uint64))[0])
    if kind is FieldType.ID and isinstance(value, bytes) and len(value) == 16:
        high, low = int.from_bytes(value[:8], "big"), int.from_bytes(value[8:], "big")
        return int(_of_halves(np.array([high], np.uint64), np.array([low], np.uint64))[0])
    if isinstance(value, str):
        return _of_bytes(value.encode("utf-8", "surrogatepass"), known)
    return _of_bytes(value if isinstance(value, bytes) else _encoder.encode(value), known)
