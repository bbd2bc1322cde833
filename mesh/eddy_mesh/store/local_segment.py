"""Segments of the local store: the form of a frame on disk, and where in a file the events of an id are.

What may live here: one segment, its index, reading it, and its repair. Which segments there are is decided in
`eddy_mesh.store.local_store`.

A segment is ``<number>.kept``: 8 bytes of magic, then frames. A frame is a head, a name and a batch. The head says who
numbered the batch and how long name and batch are; it has a CRC of its own over segment number, head and name, so that
the index is made again from the heads alone. The name is msgpack ``[stage, class, type, origin]``, the batch is as in
`eddy_mesh.codec`.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple
from zlib import crc32

import msgspec

from eddy_mesh import codec
from eddy_mesh.batch import Batch, Kind
from eddy_mesh.cer import EventClass, Stage, epoch_in, producer_in, sequence_in, stamp_in
from eddy_mesh.errors import WireError

MAGIC = b"EDDYKEP1"
SUFFIX = ".kept"
_CRC = struct.Struct("<I")
_HEAD = struct.Struct(
    "<IIHIQQQII"
)  # batch length, its CRC, name length, producer, epoch, first, stamp_ms, span, events
_HEAD_BYTES = _CRC.size + _HEAD.size
_WRAP = 0xFFFF_FFFF
_Name = tuple[str, str, str, str]


def key_of(producer: int, epoch: int) -> int:
    """Return what an id says of who made it, as one number: 30 bits of producer, 12 bits of epoch."""
    return (producer & 0x3FFF_FFFF) << 12 | epoch & 0xFFF


def place_in_id(identity: bytes) -> tuple[int, int, int]:
    """Return key, sequence number (32 bits) and ms since 1970 UTC that an id holds; see `eddy_mesh.cer`."""
    return key_of(producer_in(identity), epoch_in(identity)), sequence_in(identity), stamp_in(identity)


class Head(NamedTuple):
    """What the head of a frame says of its batch; `name_bytes` and `batch_bytes` are lengths."""

    batch_bytes: int
    batch_crc: int
    name_bytes: int
    producer: int
    epoch: int
    first: int
    stamp_ms: int
    span: int
    events: int

    @property
    def size(self) -> int:
        """Octets of the frame."""
        return _HEAD_BYTES + self.name_bytes + self.batch_bytes


class Frame(NamedTuple):
    """A batch as it is written: its head, its kind, and all of its octets."""

    head: Head
    kind: Kind
    data: bytes


def frame_of(batch: Batch, encoded: bytes, segment: int) -> Frame:
    """Return the frame of a batch, which belongs into the segment of that number."""
    name = msgspec.msgpack.encode([*batch.kind, batch.origin])
    producer = batch.producer
    head = Head(
        len(encoded),
        crc32(encoded),
        len(name),
        producer.number,
        producer.epoch,
        batch.first,
        batch.stamp_ms,
        batch.span,
        batch.count,
    )
    packed = _HEAD.pack(*head)
    return Frame(head, batch.kind, b"".join((_CRC.pack(_head_crc(packed, name, segment)), packed, name, encoded)))


def _head_crc(packed: bytes, name: bytes, segment: int) -> int:
    return crc32(name, crc32(packed, segment & _WRAP))


def read_batch(file: IO[bytes], segment: int, offset: int) -> Batch:
    """Return the batch of the frame at an offset.

    Raises:
        WireError: there is no whole frame.
        OSError: the file could not be read.
    """
    found = _read_head(file, segment, offset)
    if found is None:
        raise WireError("local store", f"segment {segment} has no frame", offset)
    head, name = found
    encoded = file.read(head.batch_bytes)
    if len(encoded) != head.batch_bytes or crc32(encoded) != head.batch_crc:
        raise WireError("local store", f"segment {segment} has a damaged batch", offset)
    return codec.decode(encoded, _kind(name), name[3])


def _read_head(file: IO[bytes], segment: int, offset: int) -> tuple[Head, _Name] | None:
    """Return head and name of the frame at an offset, or None where none is whole; the batch follows in the file."""
    file.seek(offset)
    data = file.read(_HEAD_BYTES)
    if len(data) != _HEAD_BYTES:
        return None
    packed = data[_CRC.size :]
    head = Head(*_HEAD.unpack(packed))
    name = file.read(head.name_bytes)
    if _CRC.unpack_from(data)[0] != _head_crc(packed, name, segment):
        return None
    try:
        return head, msgspec.msgpack.decode(name, type=_Name)
    except msgspec.MsgspecError:
        return None


def _kind(name: _Name) -> Kind:
    try:
        return Kind(Stage(name[0]), EventClass(name[1]), name[2])
    except ValueError as error:
        raise WireError("local store", f"{'.'.join(name[:3])} is no kind of event ({error})") from None


class Run:
    """The batches of one producer and epoch in one segment: 12 octets each, ascending by their first number.

    Attributes:
        last_ms: when the latest of them was made, ms since 1970 UTC.
    """

    __slots__ = ("_firsts", "_offsets", "_spans", "last_ms")

    def __init__(self) -> None:
        self._firsts, self._spans, self._offsets = array("I"), array("I"), array("I")
        self.last_ms = 0

    def add(self, first: int, span: int, offset: int, stamp_ms: int) -> None:
        """Enter a batch; only the lower 32 bits of ``first`` are in ids."""
        first &= _WRAP
        position = bisect_right(self._firsts, first)
        self._firsts.insert(position, first)
        self._spans.insert(position, span)
        self._offsets.insert(position, offset)
        self.last_ms = max(self.last_ms, stamp_ms)

    def offset(self, sequence: int) -> int | None:
        """Return where the batch with that number is, or None.

        A number below the first of all may belong to a batch that began before numbers wrapped: that is the last one.
        """
        if not self._firsts:
            return None
        position = bisect_right(self._firsts, sequence) - 1
        inside = (sequence - self._firsts[position]) & _WRAP
        return self._offsets[position] if inside < self._spans[position] else None


@dataclass(slots=True)
class Held:
    """How many events of one kind there are, and when the first and the last were made, ms since 1970 UTC."""

    count: int
    first_ms: int
    last_ms: int


@dataclass(slots=True)
class Segment:
    """One file and its index.

    Attributes:
        number: ascending with age; part of the file's name.
        path: the file.
        size: octets in it that are in order.
        runs: `key_of` → the batches of that producer.
        kinds: what is held of each kind.
    """

    number: int
    path: Path
    size: int = len(MAGIC)
    runs: dict[int, Run] = field(default_factory=dict)
    kinds: dict[Kind, Held] = field(default_factory=dict)

    @property
    def first_ms(self) -> int:
        """When the oldest event was made, ms since 1970 UTC; 0 where there is none."""
        return min((held.first_ms for held in self.kinds.values()), default=0)

    def enter(self, head: Head, kind: Kind) -> None:
        """Take note of a frame that was written at the end."""
        run = self.runs.get(key_of(head.producer, head.epoch))
        if run is None:
            run = self.runs[key_of(head.producer, head.epoch)] = Run()
        run.add(head.first, head.span, self.size, head.stamp_ms)
        held = self.kinds.setdefault(kind, Held(0, head.stamp_ms, head.stamp_ms))
        held.count += head.events
        held.first_ms, held.last_ms = min(held.first_ms, head.stamp_ms), max(held.last_ms, head.stamp_ms)
        self.size += head.size


def segment_path(folder: Path, number: int) -> Path:
    """Return the file of a segment."""
    return folder / f"{number:012d}{SUFFIX}"


def opened(folder: Path, number: int) -> tuple[Segment, int]:
    """Return a segment that an earlier process wrote, with its index, and the octets of a torn end that were cut off.

    Only heads are read: a batch is checked when somebody asks for it.

    Raises:
        OSError: the file can not be read or cut.
    """
    segment = Segment(number, segment_path(folder, number))
    with segment.path.open("r+b") as file:
        length = file.seek(0, 2)
        file.seek(0)
        if file.read(len(MAGIC)) != MAGIC:
            segment.size = 0
        else:
            for head, kind in _heads(file, number, length):
                segment.enter(head, kind)
        file.truncate(segment.size)
    return segment, length - segment.size


def _heads(file: IO[bytes], segment: int, length: int) -> Iterator[tuple[Head, Kind]]:
    offset = len(MAGIC)
    while (found := _read_head(file, segment, offset)) is not None:
        head, name = found
        offset += head.size
        if offset > length:
            return
        try:
            yield head, _kind(name)
        except WireError:
            return
