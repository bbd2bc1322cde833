"""Bytes of a batch: what one NATS message on the event channel carries.

What may live here: the wire structs, encode, decode and the split of a large batch. The form is msgpack; arrays are
little-endian (addresses network order) and are read in place, without a copy. It is described in ``subjects.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from eddy_mesh.batch import Batch, Kind, Producer
from eddy_mesh.columns import (
    Addresses,
    Bytes,
    Column,
    Constant,
    Ids,
    Maps,
    Nulls,
    Numbers,
    Packed,
    Text,
    Words,
    is_value,
)
from eddy_mesh.errors import WireError

WIRE_VERSION = 1
MAX_MESSAGE_BYTES = 512 * 1024
"""Largest message on the event channel; NATS itself refuses more than 1 MiB by default."""

KIND, ORIGIN, COUNT = "Eddy-Kind", "Eddy-Origin", "Eddy-Count"
"""Headers of a message with a batch, where its subject does not say what it is."""

_DTYPES = frozenset({"|b1", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f4", "<f8"})
_MAX_COUNT = 1 << 20
_MAX_EXPANDED_BYTES = 1 << 28
"""A message of 512 KiB that repeats one text is less than that: 500 octets in each of 500,000 events."""

_MANY_VALUES = 64
"""A dictionary of more values is cut to those that a selection has; fewer take less time to send than to cut."""
_HEAD_BYTES = 24
_SAMPLE = 32
"""For estimates: octets of a column's name, form and lengths, and values that are looked at."""

Buffer: TypeAlias = memoryview


class _Constant(msgspec.Struct, array_like=True, tag=0, frozen=True, gc=False):
    value: object  # any `eddy_mesh.cer.Value`


class _Numbers(msgspec.Struct, array_like=True, tag=1, frozen=True, gc=False):
    dtype: str
    data: Buffer
    nulls: Buffer | None = None


class _Addresses(msgspec.Struct, array_like=True, tag=2, frozen=True, gc=False):
    width: int
    data: Buffer
    nulls: Buffer | None = None


class _Words(msgspec.Struct, array_like=True, tag=3, frozen=True, gc=False):
    dtype: str
    codes: Buffer
    values: tuple[str, ...]
    nulls: Buffer | None = None


class _Packed(msgspec.Struct, array_like=True, tag=4, frozen=True, gc=False):
    form: str
    offsets: Buffer
    data: Buffer
    nulls: Buffer | None = None


class _Ids(msgspec.Struct, array_like=True, tag=5, frozen=True, gc=False):
    high: int | Buffer
    low: Buffer
    nulls: Buffer | None = None


_Column: TypeAlias = _Constant | _Numbers | _Addresses | _Words | _Packed | _Ids


class _Batch(msgspec.Struct, array_like=True, frozen=True, gc=False):
    version: int
    producer: int
    epoch: int
    first: int
    stamp_ms: int
    count: int
    span: int
    kept: Buffer | None
    columns: dict[str, _Column]


_FORMS: dict[str, type[Bytes | Text | Maps]] = {"b": Bytes, "t": Text, "m": Maps}
_FORM_OF: dict[type[Packed], str] = {cls: form for form, cls in _FORMS.items()}
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Batch)


def headers_of(batch: Batch) -> dict[str, str]:
    """Return what the bytes of a batch do not say, as headers of a message."""
    return {KIND: batch.kind.text, ORIGIN: batch.origin, COUNT: str(batch.count)}


def named(headers: Mapping[str, str], subject: str) -> tuple[Kind, str]:
    """Return kind and origin of the batch in a message, which `decode` needs.

    Args:
        headers: of the message.
        subject: on which it came.

    Raises:
        WireError: a header is missing or makes no sense.
    """
    try:
        return Kind.parse(headers[KIND]), headers[ORIGIN]
    except (KeyError, ValueError) as error:
        raise WireError("codec", f"headers of a message on {subject} make no sense ({error})") from None


def encode(batch: Batch) -> bytes:
    """Return the bytes of a batch. Kind and origin are not among them: they are the subject."""
    kept = None if batch.kept is None else _raw(batch.kept.astype("<u4", copy=False))
    columns = {name: _encode_column(column) for name, column in batch.columns.items()}
    producer = batch.producer
    return _encoder.encode(
        _Batch(
            WIRE_VERSION,
            producer.number,
            producer.epoch,
            batch.first,
            batch.stamp_ms,
            batch.count,
            batch.span,
            kept,
            columns,
        )
    )


def encode_runs(batch: Batch, rows: npt.NDArray[np.intp], bounds: Sequence[int]) -> list[bytes]:
    """Return what `encode` gives for each of several selections of a batch; their columns are taken all at once.

    Large dictionaries are cut to the values that a selection has.

    Args:
        batch: events.
        rows: offsets of the selected events, selection after selection; ascending in each.
        bounds: where each selection starts in ``rows``, and where the last one ends; none is empty.
    """
    numbers = rows.astype("<u4") if batch.kept is None else batch.kept[rows].astype("<u4", copy=False)
    kept = _raw(numbers)
    cutters = [(name, _cutter(column.take(rows))) for name, column in batch.columns.items()]
    producer = batch.producer
    head = (WIRE_VERSION, producer.number, producer.epoch, batch.first, batch.stamp_ms)
    messages: list[bytes] = []
    for start, stop in pairwise(bounds):
        count = stop - start
        own = None if batch.kept is None and count == batch.count else kept[4 * start : 4 * stop]
        columns = {name: cut(start, stop) for name, cut in cutters}
        messages.append(_encoder.encode(_Batch(*head, count, batch.span, own, columns)))
    return messages


def _cutter(column: Column) -> Callable[[int, int], _Column]:
    """Return a function that encodes the rows from one to another: slices of the whole where its form allows it."""
    if isinstance(column, Constant):
        constant = _Constant(column.value)
        return lambda start, stop: constant  # noqa: ARG005  # as the others are called
    if column.nulls is not None or isinstance(column, Packed | Ids):
        return lambda start, stop: _encode_column(_trimmed(column.take(np.arange(start, stop))))
    if isinstance(column, Words) and len(column.values) > _MANY_VALUES:
        return lambda start, stop: _encode_column(_trimmed(Words(column.codes[start:stop], column.values)))
    whole = _encode_column(column)
    if isinstance(whole, _Addresses):
        width, octets = whole.width, whole.data
        return lambda start, stop: _Addresses(width, octets[start * width : stop * width])
    assert isinstance(whole, _Numbers | _Words)
    dtype, size = whole.dtype, np.dtype(whole.dtype).itemsize
    if isinstance(whole, _Numbers):
        numbers = whole.data
        return lambda start, stop: _Numbers(dtype, numbers[start * size : stop * size])
    codes, values = whole.codes, whole.values
    return lambda start, stop: _Words(dtype, codes[start * size : stop * size], values)


def _trimmed(column: Column) -> Column:
    """Return dictionary-coded text without the many values that its few rows do not have."""
    if not isinstance(column, Words) or len(column.values) <= max(_MANY_VALUES, len(column)):
        return column
    used, codes = np.unique(column.codes, return_inverse=True)
    values = tuple(column.values[code] for code in used.tolist())
    return Words(codes.astype(np.min_scalar_type(len(values))), values, column.nulls)


def estimated_bytes(batch: Batch) -> int:
    """Return about how many octets `encode` gives, from the sizes of the arrays, without encoding.

    The length of dictionary values is that of the first few, and heads and lengths count a few octets a column.
    """
    return _HEAD_BYTES + sum(_estimated(column) for column in batch.columns.values())


def _estimated(column: Column) -> int:
    if isinstance(column, Constant):
        return _HEAD_BYTES + (len(column.value) if isinstance(column.value, str | bytes) else 0)
    size = _HEAD_BYTES + (0 if column.nulls is None else len(column) // 8)
    if isinstance(column, Numbers | Addresses):
        return size + column.values.nbytes
    if isinstance(column, Words):
        some = column.values[:_SAMPLE]
        return size + column.codes.nbytes + len(column.values) * (sum(map(len, some)) // max(len(some), 1) + 1)
    if isinstance(column, Ids):
        return size + len(column) * (8 if isinstance(column.high, int) else 16)
    return size + 4 * len(column) + int(column.offsets[-1]) - int(column.offsets[0])


def decode(data: bytes | memoryview, kind: Kind, origin: str) -> Batch:
    """Return the batch that ``data`` carries; its arrays are views of ``data``.

    Args:
        data: one message of the event channel.
        kind: stage, class and type, from the subject.
        origin: host process, from the subject.

    Raises:
        WireError: ``data`` is not a batch, or of a newer version, or a column does not fit the count.
    """
    try:
        wire = _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WireError("codec", f"not a batch ({error}); the sender must speak wire version {WIRE_VERSION}") from None
    if wire.version > WIRE_VERSION:
        raise WireError("codec", f"wire version {wire.version} is newer than {WIRE_VERSION}: upgrade this receiver")
    if not 0 <= wire.count <= wire.span or wire.count > _MAX_COUNT or wire.first < 0 or wire.stamp_ms < 0:
        raise WireError("codec", f"a batch of {wire.count} events over {wire.span} numbers can not be")
    columns = {name: _decode_column(name, column, wire.count) for name, column in wire.columns.items()}
    _refuse_expansion(columns, wire.count)
    kept = None
    if wire.kept is not None:
        kept = _array(wire.kept, "<u4", wire.count, "kept").astype(np.uint32, copy=False)
        if wire.count and (int(kept[-1]) >= wire.span or (kept[1:] <= kept[:-1]).any()):
            raise WireError("codec", "kept offsets are not ascending inside the span")
    producer = Producer(wire.producer, wire.epoch)
    return Batch(kind, origin, producer, wire.first, wire.stamp_ms, wire.count, columns, kept, wire.span)


def _refuse_expansion(columns: Mapping[str, Column], count: int) -> None:
    """Refuse a small message that stands for so much that joining it, or making rows of it, would fill the memory."""
    expanded = 0
    for column in columns.values():
        if isinstance(column, Constant) and isinstance(column.value, str | bytes | list | dict):
            expanded += count * len(msgspec.msgpack.encode(column.value))
        elif isinstance(column, Words) and len(column.values):
            expanded += count * max(map(len, column.values))
    if expanded > _MAX_EXPANDED_BYTES:
        raise WireError(
            "codec", f"{count} events would take {expanded} octets; at most {_MAX_EXPANDED_BYTES} are taken"
        )


def split(batch: Batch, max_bytes: int = MAX_MESSAGE_BYTES) -> Iterator[tuple[Batch, bytes]]:
    """Yield the batch, or its parts, with the bytes of each, none larger than ``max_bytes`` unless it has one event."""
    data = encode(batch)
    if len(data) <= max_bytes or batch.count <= 1:
        yield batch, data
        return
    parts = min(len(data) // max_bytes + 1, batch.count)
    step = -(-batch.count // max(parts, 2))
    for start in range(0, batch.count, step):
        yield from split(batch.slice(start, start + step), max_bytes)


def _encode_column(column: Column) -> _Column:
    if isinstance(column, Constant):
        return _Constant(column.value)
    nulls = None if column.nulls is None else np.packbits(column.nulls).data
    if isinstance(column, Numbers):
        values = column.values.astype(column.values.dtype.newbyteorder("<"), copy=False)
        return _Numbers(values.dtype.str, _raw(values), nulls)
    if isinstance(column, Addresses):
        width, dtype = (4, ">u4") if column.is_v4 else (16, ">u8")
        return _Addresses(width, _raw(column.values.astype(dtype, copy=False)), nulls)
    if isinstance(column, Words):
        codes = column.codes.astype(column.codes.dtype.newbyteorder("<"), copy=False)
        return _Words(codes.dtype.str, _raw(codes), column.values, nulls)
    if isinstance(column, Ids):
        high = column.high if isinstance(column.high, int) else _raw(column.high.astype("<u8", copy=False))
        return _Ids(high, _raw(column.low.astype("<u8", copy=False)), nulls)
    start, stop = (int(column.offsets[0]), int(column.offsets[-1])) if len(column.offsets) else (0, 0)
    offsets = (column.offsets - column.offsets[:1]).astype("<u4", copy=False)
    return _Packed(_FORM_OF[type(column)], _raw(offsets), memoryview(column.data)[start:stop], nulls)


def _raw(values: npt.NDArray[np.generic]) -> Buffer:
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8).data if values.size else memoryview(b"")


def _decode_column(name: str, column: _Column, count: int) -> Column:
    if isinstance(column, _Constant):
        if not is_value(column.value):
            raise WireError("codec", f"column {name}: a constant of type {type(column.value).__name__} is not a value")
        return Constant(column.value, count)  # type: ignore[arg-type]  # msgpack holds nothing else that a Value can not
    nulls = _decode_nulls(name, column.nulls, count)
    if isinstance(column, _Numbers):
        if column.dtype not in _DTYPES:
            raise WireError("codec", f"column {name}: numbers of type {column.dtype!r} are not known")
        return Numbers(_array(column.data, column.dtype, count, name), nulls)
    if isinstance(column, _Addresses):
        if column.width == 4:
            return Addresses(_array(column.data, ">u4", count, name), nulls)
        return Addresses(_array(column.data, ">u8", 2 * count, name).reshape(-1, 2), nulls)
    if isinstance(column, _Words):
        return _decode_words(name, column, count, nulls)
    if isinstance(column, _Ids):
        return _decode_ids(name, column, count, nulls)
    return _decode_packed(name, column, count, nulls)


def _decode_words(name: str, column: _Words, count: int, nulls: Nulls) -> Words:
    if column.dtype not in {"|u1", "<u2", "<u4"}:
        raise WireError("codec", f"column {name}: codes of type {column.dtype!r} are not known")
    codes = _array(column.codes, column.dtype, count, name)
    if count and int(codes.max()) >= len(column.values):
        raise WireError("codec", f"column {name}: a code is outside its dictionary")
    return Words(codes, column.values, nulls)


def _decode_ids(name: str, column: _Ids, count: int, nulls: Nulls) -> Ids:
    high = column.high if isinstance(column.high, int) else _array(column.high, "<u8", count, name)
    if isinstance(high, int) and not 0 <= high < 1 << 64:
        raise WireError("codec", f"column {name}: the upper half of an id has 64 bits")
    return Ids(high, _array(column.low, "<u8", count, name), nulls)


def _decode_packed(name: str, column: _Packed, count: int, nulls: Nulls) -> Packed:
    offsets = _array(column.offsets, "<u4", count + 1, name)
    form = _FORMS.get(column.form)
    if form is None:
        raise WireError("codec", f"column {name}: form {column.form!r} is not known")
    if int(offsets[-1]) > len(column.data) or (offsets[1:] < offsets[:-1]).any():
        raise WireError("codec", f"column {name}: offsets do not ascend inside the data")
    return form(offsets, column.data, nulls)


def _decode_nulls(name: str, packed: Buffer | None, count: int) -> Nulls:
    if packed is None:
        return None
    bits = np.frombuffer(packed, np.uint8)
    if len(bits) != (count + 7) // 8:
        raise WireError("codec", f"column {name}: the null mask has {len(bits)} bytes for {count} events")
    return np.unpackbits(bits, count=count).astype(np.bool_) if count else np.zeros(0, np.bool_)


def _array(data: Buffer, dtype: str, count: int, name: str) -> npt.NDArray[np.unsignedinteger]:
    wanted = count * np.dtype(dtype).itemsize
    if len(data) != wanted:
        raise WireError("codec", f"column {name}: {len(data)} bytes for {count} values of {dtype}, expected {wanted}")
    return np.frombuffer(data, dtype)
