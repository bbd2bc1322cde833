"""Spill: the disk queue behind an edge with overload policy ``spool``.

What may live here: keeping batches that do not fit into the mailbox, in order, within a quota, over a restart.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from zlib import crc32

import msgspec

from eddy_mesh import codec
from eddy_mesh.actor.edge import Edge, Mailbox
from eddy_mesh.batch import Batch, Kind
from eddy_mesh.cer import EventClass, Stage
from eddy_mesh.errors import WireError

FIRST = 1_000_000_000
"""Number of the first file; lower ones are for what is put back in front of it."""


class _Frame(msgspec.Struct, array_like=True):
    stage: str
    event_class: str
    type: str
    origin: str
    crc: int
    data: bytes


class Spill:
    """A queue of batches on disk, one file each, read back as the mailbox gets room.

    Called as ``spill(edge, batch)`` by an edge. While anything waits on disk, new batches go to disk as well: order
    is kept.

    Args:
        directory: where the files are; made if it is not there.
        quota_bytes: most octets on disk.
        mailbox: where the batches go in the end.
    """

    def __init__(self, directory: Path, quota_bytes: int, mailbox: Mailbox) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.held_bytes = 0
        self._directory = directory
        self._quota = quota_bytes
        self._mailbox = mailbox
        self._files: list[tuple[Path, int, int]] = []  # path, octets, events
        self._number = FIRST
        self._edge: Edge | None = None
        self._feeding: asyncio.Task[None] | None = None

    def __call__(self, edge: Edge, batch: Batch) -> bool:
        """Keep a batch; return False when the quota or the disk is full."""
        self._edge = edge
        if not self._files and self._mailbox.has_room(batch.count):
            self._mailbox.put(edge, batch)
            return True
        frame = _framed(batch)
        if self.held_bytes + len(frame) > self._quota or not self._write(self._number, frame):
            return False
        self._files.append((self._path(self._number), len(frame), batch.count))
        self._number += 1
        if self._feeding is None or self._feeding.done():
            self._feeding = asyncio.get_running_loop().create_task(self._feed(edge), name=f"spill {self._directory}")
        return True

    def recover(self, edge: Edge) -> None:
        """Take up what an earlier run of the host process left; a damaged file is counted as one lost batch."""
        self._edge = edge
        for path in sorted(self._directory.glob("*.batch")):
            self._number = max(self._number, int(path.stem) + 1)
            batch = _read(path)
            if batch is None:
                path.unlink()
                edge.ledger.offered += 1
                edge.ledger.drop("spool_damaged", 1)
                continue
            self._files.append((path, path.stat().st_size, batch.count))
            self.held_bytes += path.stat().st_size
            edge.ledger.offered += batch.count
            edge.ledger.queued += batch.count
            edge.accepted += batch.count
        if self._files:
            self._feeding = asyncio.get_running_loop().create_task(self._feed(edge), name=f"spill {self._directory}")

    def close(self) -> None:
        """Stop feeding. What waits stays on disk, and what was read and not handled goes back there, in front."""
        if self._feeding is not None:
            self._feeding.cancel()
        if self._edge is None:
            return
        waiting = self._mailbox.withdraw(self._edge)
        first = int(self._files[0][0].stem) if self._files else self._number
        for number, batch in enumerate(waiting, first - len(waiting)):
            if not self._write(number, _framed(batch)):
                self._edge.discard(batch, "spool_full")

    async def _room(self, events: int) -> None:
        while not self._mailbox.has_room(events):
            await self._mailbox.change()

    def _path(self, number: int) -> Path:
        return self._directory / f"{number:012d}.batch"

    def _write(self, number: int, frame: bytes) -> bool:
        path = self._path(number)
        partial = path.with_suffix(".part")
        try:
            partial.write_bytes(frame)
            partial.rename(path)
        except OSError:
            partial.unlink(missing_ok=True)
            return False
        self.held_bytes += len(frame)
        return True

    async def _feed(self, edge: Edge) -> None:
        while self._files:
            path, size, events = self._files[0]
            batch = _read(path)
            if batch is None:
                edge.give_up(events, "spool_damaged")
            else:
                await self._room(batch.count)
                self._mailbox.put(edge, batch)
            path.unlink(missing_ok=True)
            self._files.pop(0)
            self.held_bytes -= size


def _framed(batch: Batch) -> bytes:
    data = codec.encode(batch)
    return msgspec.msgpack.encode(_Frame(*batch.kind, batch.origin, crc32(data), data))


def _read(path: Path) -> Batch | None:
    try:
        frame = msgspec.msgpack.decode(path.read_bytes(), type=_Frame)
        if crc32(frame.data) != frame.crc:
            return None
        kind = Kind(Stage(frame.stage), EventClass(frame.event_class), frame.type)
        return codec.decode(frame.data, kind, frame.origin)
    except (OSError, ValueError, msgspec.MsgspecError, WireError):
        return None
