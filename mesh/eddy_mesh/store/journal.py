"""The journal: what the store has taken and not yet sealed, on disk, so that a crash loses nothing acknowledged.

What may live here: the form of a frame, the segment files, group commit, and repair at open. The journal knows
nothing of Parquet: who seals events tells it from which segment on the frames are still needed.

A segment is ``<number>.log``: 8 bytes of magic, then frames. A frame is ``length u4, crc u4, payload``, little-endian;
the CRC-32 covers segment number, length and payload, so that neither zeros nor another segment's old blocks pass. A
payload is ``header length u2, header, batch``: the header is msgpack ``[stage, class, type, origin]``, the batch is
as in `eddy_mesh.codec`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Lock
from typing import IO, NamedTuple
from zlib import crc32

import msgspec

from eddy_mesh import codec
from eddy_mesh.batch import Batch, Kind
from eddy_mesh.cer import EventClass, Stage
from eddy_mesh.errors import StoreError, WireError
from eddy_mesh.store.disk import make_folder, store_error, sync_data
from eddy_mesh.whole_file import sync_folder

MAGIC = b"EDDYLOG1"
_FRAME = struct.Struct("<II")
_HEADER = struct.Struct("<H")
_SUFFIX = ".log"
_MAX_UNSYNCED_BYTES = 64 << 20
"""Frames are kept in memory until they are on disk; beyond this the journal syncs by itself."""


class Replayed(NamedTuple):
    """A batch that was in the journal when it was opened, and the segment that holds it."""

    segment: int
    batch: Batch


class Journal:
    """Append-only segments in one folder. Safe to use from several threads.

    Attributes:
        segment: number of the segment that is written now.
        cut_bytes: bytes cut off at open because a frame was torn.
        undecodable: frames found at open that are whole but hold no batch; their segment is kept under ``.kept``.
    """

    def __init__(self, folder: Path, least_segment: int) -> None:
        """Open the journal; segments that are there are repaired.

        Args:
            folder: where the segments are; made when absent.
            least_segment: the new segment gets at least this number (numbers must never be used twice).

        Raises:
            StoreError: the folder can not be used, or a segment is of a newer version.
        """
        self.cut_bytes = 0
        self.undecodable = 0
        self._folder = folder
        self._sync_lock = Lock()  # taken before _write_lock, never after it
        self._write_lock = Lock()
        self._unsynced: list[bytes] = []  # payloads
        self._unsynced_bytes = 0
        self._rewrite = False
        self._damaged: set[int] = set()
        try:
            make_folder(folder)
            self._old = sorted(int(path.stem) for path in folder.glob(f"*{_SUFFIX}") if path.stem.isdigit())
            for number in self._old:
                self._repair(number)
            self.segment = max([least_segment - 1, *self._old]) + 1
            self._file = self._create(self.segment)
        except OSError as error:
            raise store_error(error, folder) from error
        self._end = self._synced_end = len(MAGIC)

    @property
    def size_bytes(self) -> int:
        """Bytes of all segments."""
        paths = [self._path(number) for number in self.segments()]
        return sum(path.stat().st_size for path in paths if path.exists())

    def segments(self) -> list[int]:
        """Return the numbers of the segments that are there, ascending; the last one is written now."""
        with self._write_lock:
            return [*self._old, self.segment]

    def replay(self) -> Iterator[Replayed]:
        """Yield every batch of the segments that were there at open, in order."""
        for number in list(self._old):
            data = memoryview(self._path(number).read_bytes())
            for start, end in _frames(data, number):
                try:
                    yield Replayed(number, _batch_of(data[start:end]))
                except WireError:
                    self.undecodable += 1
                    self._damaged.add(number)

    @property
    def sync_due(self) -> bool:
        """Whether the next `append` waits for the disk, because too much is not on it yet."""
        return self._unsynced_bytes > _MAX_UNSYNCED_BYTES or self._rewrite

    def append(self, batches: Sequence[Batch]) -> None:
        """Write batches at the end: all of them or none. They are durable after the next `sync`.

        Raises:
            StoreError: no room or no disk; nothing of ``batches`` was taken.
        """
        if self._unsynced_bytes > _MAX_UNSYNCED_BYTES:
            self.sync()
        payloads = [_payload(batch) for batch in batches]
        with self._write_lock:
            self._write_again()
            self._write(payloads)
            self._unsynced += payloads
            self._unsynced_bytes += sum(map(len, payloads))

    def sync(self) -> None:
        """Return when everything appended before the call is on disk.

        Raises:
            StoreError: it is not; it is still held, and the next call writes it again to another segment.
        """
        with self._sync_lock:
            self._sync()

    def rotate(self) -> int:
        """Start a new segment and return the number of the one before; everything up to that one is on disk.

        Raises:
            StoreError: as for `sync`; the segment stays open.
        """
        with self._sync_lock:
            self._sync()
            with self._write_lock:
                try:
                    self._next_segment()
                except OSError as error:
                    raise store_error(error, self._folder) from error
                return self._old[-1]

    def remove_before(self, least_needed: int) -> None:
        """Delete the segments with a number below ``least_needed``; the one written now always stays."""
        with self._write_lock:
            gone = [number for number in self._old if number < least_needed]
            self._old = [number for number in self._old if number >= least_needed]
        for number in gone:
            path = self._path(number)
            if number in self._damaged:
                path.replace(path.with_suffix(".kept"))
            else:
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Sync and close.

        Raises:
            StoreError: the last frames are not on disk.
        """
        try:
            self.sync()
        finally:
            self._file.close()

    # --- segments ------------------------------------------------------------------------------------------------

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:012d}{_SUFFIX}"

    def _create(self, number: int) -> IO[bytes]:
        path = self._path(number)
        file = path.open("xb", buffering=0)
        try:
            _write_all(file, MAGIC)
            sync_folder(self._folder)
        except OSError:
            file.close()
            path.unlink()
            raise
        return file

    def _next_segment(self) -> None:
        file = self._create(self.segment + 1)
        self._file.close()
        self._file = file
        self._old.append(self.segment)
        self.segment += 1
        self._end = self._synced_end = len(MAGIC)

    def _repair(self, number: int) -> None:
        path = self._path(number)
        data = memoryview(path.read_bytes())
        magic = bytes(data[: len(MAGIC)])
        if magic[:-1] == MAGIC[:-1] and magic > MAGIC:
            raise StoreError(f"{path} was written by a newer version: upgrade this agent", retryable=False)
        end = 0
        if magic == MAGIC:
            end = max((stop for _, stop in _frames(data, number)), default=len(MAGIC))
        self.cut_bytes += len(data) - end
        if end < len(data):
            with path.open("r+b") as file:
                file.truncate(end)
                sync_data(file)

    # --- frames --------------------------------------------------------------------------------------------------

    def _write(self, payloads: Sequence[bytes]) -> None:
        frames = b"".join(part for payload in payloads for part in (_frame_head(payload, self.segment), payload))
        try:
            _write_all(self._file, frames)
        except OSError as error:
            self._file.truncate(self._end)  # shrinking needs no room; a torn frame would hide those after it
            self._file.seek(self._end)
            raise store_error(error, self._path(self.segment)) from error
        self._end += len(frames)

    def _sync(self) -> None:
        with self._write_lock:
            self._write_again()
            file, end, count = self._file, self._end, len(self._unsynced)
        if end == self._synced_end:
            return
        try:
            sync_data(file)
        except OSError as error:
            with self._write_lock:
                self._file.truncate(self._synced_end)  # what the kernel kept of it must not come back twice
                self._file.seek(self._synced_end)
                self._end = self._synced_end
                self._rewrite = True
            raise store_error(error, self._path(self.segment)) from error
        with self._write_lock:
            self._synced_end = end
            self._unsynced_bytes -= sum(map(len, self._unsynced[:count]))
            del self._unsynced[:count]

    def _write_again(self) -> None:
        """After a failed sync the kernel has forgotten what it could not write: write it to a fresh segment."""
        if not self._rewrite:
            return
        try:
            self._next_segment()
        except OSError as error:
            raise store_error(error, self._folder) from error
        self._write(self._unsynced)
        self._rewrite = False


def _write_all(file: IO[bytes], data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def _payload(batch: Batch) -> bytes:
    header = msgspec.msgpack.encode([*batch.kind, batch.origin])
    return b"".join((_HEADER.pack(len(header)), header, codec.encode(batch)))


def _frame_head(payload: bytes, segment: int) -> bytes:
    length = len(payload)
    return _FRAME.pack(length, crc32(payload, crc32(length.to_bytes(4, "little"), segment & 0xFFFF_FFFF)))


def _frames(data: memoryview, segment: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of the payload of each frame, up to the first one that is not whole."""
    start = len(MAGIC)
    while start + _FRAME.size <= len(data):
        length, checksum = _FRAME.unpack_from(data, start)
        start += _FRAME.size
        payload = data[start : start + length]
        expected = crc32(payload, crc32(length.to_bytes(4, "little"), segment & 0xFFFF_FFFF))
        if len(payload) != length or checksum != expected:
            return
        start += length
        yield start - length, start


def _batch_of(payload: memoryview) -> Batch:
    """Return the batch of a payload.

    Raises:
        WireError: it is none.
    """
    try:
        (size,) = _HEADER.unpack_from(payload)
        stage, event_class, kind, origin = msgspec.msgpack.decode(payload[2 : 2 + size], type=tuple[str, str, str, str])
        named = Kind(Stage(stage), EventClass(event_class), kind)
    except (struct.error, msgspec.MsgspecError, ValueError) as error:
        raise WireError("journal", f"a frame has no header ({error})") from None
    return codec.decode(payload[2 + size :], named, origin)
