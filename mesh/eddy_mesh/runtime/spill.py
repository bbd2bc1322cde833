"""Spill: the disk queue behind an edge with overload policy ``spool``.

What may live here: keeping batches that do not fit into the mailbox, in order, within a quota, over a restart. A file
goes when its batch was handled, so a crash before that offers the batch again: what is on disk comes at least once.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from zlib import crc32

import msgspec
import structlog

from eddy_mesh import codec
from eddy_mesh.actor.edge import Edge, Mailbox
from eddy_mesh.batch import Batch, Kind
from eddy_mesh.cer import EventClass, Stage
from eddy_mesh.errors import WireError
from eddy_mesh.whole_file import PARTIAL, write_whole

RETRY_S = 1.0
"""Wait before a file that could not be read (too many open files, a disk that fails) is read again."""


class _Frame(msgspec.Struct, array_like=True):
    stage: str
    event_class: str
    type: str
    origin: str
    crc: int
    data: bytes


@dataclass(eq=False, slots=True)
class _Place:
    """One place in the queue.

    Attributes:
        number: orders the places, and names the file.
        size: octets on disk; 0 for a batch that is in memory only.
        events: None where the file could not be read yet, and the accounts do not have it.
    """

    number: int
    size: int
    events: int | None


class Spill:
    """A queue of batches on disk, one file each, read back as the mailbox gets room.

    While anything waits on disk, new batches go to disk as well: order is kept.

    Args:
        directory: where the files are; made if it is not there.
        quota_bytes: most octets on disk.
        mailbox: where the batches go in the end.
        may_hold: whether batches that find room in the mailbox need no file: what takes them does so at once. While it
            is False, a crash would find all of them in memory.
    """

    def __init__(
        self, directory: Path, quota_bytes: int, mailbox: Mailbox, may_hold: Callable[[], bool] = lambda: True
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.held_bytes = 0
        self._directory = directory
        self._quota = quota_bytes
        self._mailbox = mailbox
        self._may_hold = may_hold
        self._line: deque[_Place] = deque()
        self._lent: dict[int, tuple[Batch, _Place]] = {}  # by identity: in the mailbox, or being handled
        self._number = 0
        self._edge: Edge | None = None
        self._feeding: asyncio.Task[None] | None = None
        self._complaint = ""
        self._log = structlog.get_logger().bind(spool=str(directory))

    def keep(self, edge: Edge, batch: Batch) -> bool:
        """Keep a batch until it is settled; return False when the quota or the disk is full."""
        self._edge = edge
        place = _Place(self._number, 0, batch.count)
        self._number += 1
        has_room = not self._line and self._mailbox.has_room(batch.count)
        if has_room and self._may_hold():
            self._lend(edge, batch, place)
            return True
        if has_room:
            self._secure()
        frame = _framed(batch)
        if self.held_bytes + len(frame) <= self._quota and self._write(place, frame):
            self._line.append(place)
            self._feed_on(edge)
            return True
        if has_room:  # no room on disk: better there than nowhere
            self._lend(edge, batch, place)
        return has_room

    def settled(self, batch: Batch) -> None:
        """Delete the file of a batch that was handled, or never will be."""
        _, place = self._lent.pop(id(batch), (batch, None))
        if place is not None and place.size:
            self._delete(place)

    def recover(self, edge: Edge) -> None:
        """Take up what an earlier run of the host process left; a damaged file is counted as one lost batch."""
        self._edge = edge
        for partial in self._directory.glob(f"*{PARTIAL}"):  # a crash cut it off before it was accepted
            with contextlib.suppress(OSError):
                partial.unlink()
        for path in sorted(self._directory.glob("[0-9]*.batch")):
            place = _Place(int(path.stem), 0, None)
            self._number = max(self._number, place.number + 1)
            try:
                batch = self._read(edge, place)
            except OSError as error:
                self._complain(error)
            else:
                if batch is None:
                    continue
            self._line.append(place)
        if self._line:
            self._feed_on(edge)

    def close(self) -> None:
        """Stop feeding. What waits stays on disk, and what is in memory and not handled goes there, to its place."""
        if self._feeding is not None:
            self._feeding.cancel()
        if self._edge is None:
            return
        for batch in self._mailbox.withdraw(self._edge):
            if id(batch) not in self._lent:  # it came while the edge had another policy
                self._mailbox.put(self._edge, batch)
        for batch in self._secure():
            self._edge.discard(batch, "spool_full")

    def _secure(self) -> list[Batch]:
        """Write what is in memory only; return what could not be written."""
        return [
            batch
            for batch, place in list(self._lent.values())
            if not place.size and not self._write(place, _framed(batch))
        ]

    # --- from disk to the mailbox

    def _feed_on(self, edge: Edge) -> None:
        if self._feeding is None or self._feeding.done():
            self._feeding = asyncio.get_running_loop().create_task(self._feed(edge), name=f"spill {self._directory}")

    async def _feed(self, edge: Edge) -> None:
        while self._line:
            place = self._line[0]
            try:
                batch = self._read(edge, place)
            except OSError as error:
                self._complain(error)
                await asyncio.sleep(RETRY_S)
                continue
            if batch is not None:
                await self._room(batch.count)
                self._lend(edge, batch, place)
            self._line.popleft()

    async def _room(self, events: int) -> None:
        while not self._mailbox.has_room(events):
            await self._mailbox.change()

    def _lend(self, edge: Edge, batch: Batch, place: _Place) -> None:
        self._lent[id(batch)] = (batch, place)
        self._mailbox.put(edge, batch)

    def _read(self, edge: Edge, place: _Place) -> Batch | None:
        """Return the batch of a file, entered in the accounts, or None where it is lost and counted.

        Raises:
            OSError: it can not be read now.
        """
        try:
            data = self._path(place).read_bytes()
        except FileNotFoundError:
            self._lose(edge, place, "spool_missing")
            return None
        if not place.size:
            place.size = len(data)
            self.held_bytes += place.size
        batch = _unframed(data)
        if batch is None:
            self._lose(edge, place, "spool_damaged")
        elif place.events is None:
            place.events = batch.count
            edge.recovered(batch.count)
        return batch

    def _lose(self, edge: Edge, place: _Place, reason: str) -> None:
        if place.events is None:  # how many events it had is not known
            edge.recovered(1)
        edge.give_up(place.events or 1, reason)
        self._delete(place)

    def _complain(self, error: OSError) -> None:
        if str(error) != self._complaint:
            self._complaint = str(error)
            self._log.warning("spool can not be read, tried again", reason=str(error))

    # --- files

    def _path(self, place: _Place) -> Path:
        return self._directory / f"{place.number:012d}.batch"

    def _write(self, place: _Place, frame: bytes) -> bool:
        try:
            write_whole(self._path(place), frame, synced=False)
        except OSError:
            return False
        place.size = len(frame)
        self.held_bytes += place.size
        return True

    def _delete(self, place: _Place) -> None:
        self.held_bytes -= place.size
        try:
            self._path(place).unlink(missing_ok=True)
        except OSError as error:
            self._log.warning("spool file not deleted, its events come again after a restart", reason=str(error))


def _framed(batch: Batch) -> bytes:
    data = codec.encode(batch)
    return msgspec.msgpack.encode(_Frame(*batch.kind, batch.origin, crc32(data), data))


def _unframed(data: bytes) -> Batch | None:
    """Return the batch of a file's content, or None where that is damaged."""
    try:
        frame = msgspec.msgpack.decode(data, type=_Frame)
        if crc32(frame.data) != frame.crc:
            return None
        kind = Kind(Stage(frame.stage), EventClass(frame.event_class), frame.type)
        return codec.decode(frame.data, kind, frame.origin)
    except (ValueError, msgspec.MsgspecError, WireError):
        return None


def take_over(folder: Path, name: str, wanted: Path) -> bool:
    """Make one spool of all that earlier lives left for an edge, in order; return whether there is any.

    Args:
        folder: with the spools ``<name>.<generation>``.
        name: of the edge.
        wanted: the spool's folder from now on.
    """
    folders = {path.name.removeprefix(f"{name}."): path for path in folder.glob(f"{escape(name)}.*")}
    generations = sorted((generation for generation in folders if generation.isdecimal()), key=int)
    left = [folders[generation] for generation in generations if any(folders[generation].glob("[0-9]*.batch"))]
    if not left:
        return False
    number = int(max(left[0].glob("[0-9]*.batch")).stem)
    for other in left[1:]:
        for path in sorted(other.glob("[0-9]*.batch")):
            number += 1
            path.rename(left[0] / f"{number:012d}.batch")
    for generation in generations:
        if folders[generation] != left[0]:
            shutil.rmtree(folders[generation], ignore_errors=True)
    if left[0] != wanted:
        left[0].rename(wanted)
    return True
