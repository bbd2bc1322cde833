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
        self._files: list[tuple[Path, int]] = []
        self._number = 0
        self._feeding: asyncio.Task[None] | None = None

    def __call__(self, edge: Edge, batch: Batch) -> bool:
        """Keep a batch; return False when the quota or the disk is full."""
        if not self._files and self._mailbox.has_room(batch.count):
            self._mailbox.put(edge, batch)
            return True
        data = codec.encode(batch)
        frame = msgspec.msgpack.encode(_Frame(*batch.kind, batch.origin, crc32(data), data))
        if self.held_bytes + len(frame) > self._quota or not self._write(frame):
            return False
        if self._feeding is None or self._feeding.done():
            self._feeding = asyncio.get_running_loop().create_task(self._feed(edge), name=f"spill {self._directory}")
        return True

    def recover(self, edge: Edge) -> None:
        """Take up what an earlier run of the host process left; a damaged file is counted as one lost batch."""
        for path in sorted(self._directory.glob("*.batch")):
            self._number = max(self._number, int(path.stem) + 1)
            batch = _read(path)
            if batch is None:
                path.unlink()
                edge.ledger.offered += 1
                edge.ledger.drop("spool_damaged", 1)
                continue
            self._files.append((path, path.stat().st_size))
            self.held_bytes += path.stat().st_size
            edge.ledger.offered += batch.count
            edge.ledger.queued += batch.count
            edge.accepted += batch.count
        if self._files:
            self._feeding = asyncio.get_running_loop().create_task(self._feed(edge), name=f"spill {self._directory}")

    def close(self) -> None:
        """Stop feeding; what waits stays on disk."""
        if self._feeding is not None:
            self._feeding.cancel()

    def _write(self, frame: bytes) -> bool:
        path = self._directory / f"{self._number:012d}.batch"
        partial = path.with_suffix(".part")
        try:
            partial.write_bytes(frame)
            partial.rename(path)
        except OSError:
            partial.unlink(missing_ok=True)
            return False
        self._number += 1
        self._files.append((path, len(frame)))
        self.held_bytes += len(frame)
        return True

    async def _feed(self, edge: Edge) -> None:
        while self._files:
            path, size = self._files[0]
            batch = _read(path)
            if batch is not None:
                await self._mailbox.room(batch.count)
                self._mailbox.put(edge, batch)
            path.unlink(missing_ok=True)
            self._files.pop(0)
            self.held_bytes -= size


def _read(path: Path) -> Batch | None:
    try:
        frame = msgspec.msgpack.decode(path.read_bytes(), type=_Frame)
        if crc32(frame.data) != frame.crc:
            return None
        kind = Kind(Stage(frame.stage), EventClass(frame.event_class), frame.type)
        return codec.decode(frame.data, kind, frame.origin)
    except (OSError, ValueError, msgspec.MsgspecError, WireError):
        return None
