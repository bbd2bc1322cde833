"""Lines of files that others write: followed through rotation, from where the last run ended.

Takes in: text files named by glob patterns. Gives: ``event.raw.system.file``, one event a line, with
``log.file.path`` and ``log.offset``.

At least once: the checkpoint is written only after the events that it covers have been taken, so that nothing is
lost when the process is killed, and at most the lines of the last second come again, with the same path and offset.
An empty line is no event. What no follower sees: lines written to a copytruncate file between its last read and the
cut, and a file that is made and renamed between two looks, unless ``include`` names its new name too.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from contextlib import suppress
from glob import iglob
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

from eddy_agents.wire import tail
from eddy_agents.wire.framing import MAX_FRAME_BYTES, Frames, LineFramer
from eddy_agents.wire.tail import Checkpoint, FileKey, Look, Place, Start
from eddy_mesh.agent import Draft, Outlet
from eddy_mesh.batch import Kind
from eddy_mesh.cer import EventClass, Stage, Value
from eddy_mesh.checkpoint import CheckpointFile
from eddy_mesh.columns import Column, Constant, Numbers
from eddy_mesh.listening import in_time

OUTPUT = Kind(Stage.RAW, EventClass.SYSTEM, "file")
MEDIA_TYPE = "text/plain"
CHECKPOINT_S = 1.0
"""Least time between two checkpoints."""

_STOP_WAIT_S = 0.5
Seconds = Annotated[float, msgspec.Meta(gt=0)]


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the file source."""

    include: tuple[str, ...] = (
        "/var/log/**/*.log",
        "/var/log/syslog",
        "/var/log/messages",
        "/var/log/secure",
        "/var/log/maillog",
        "/var/log/cron",
        "/var/log/debug",
    )
    """Glob patterns of files to follow; ``**`` stands for any folders."""

    exclude: tuple[str, ...] = ("*.gz", "*.xz", "*.bz2", "*.zst", "*.journal", "*/journal/*")
    """Glob patterns of files to leave alone. Files that hold no text are left alone anyway."""

    start: Start = Start.END
    """Where to begin in a file that was there before anybody watched: ``end`` or ``beginning``."""

    poll_s: Seconds = 0.25
    """Least time between two looks at a file; a quiet one is looked at less often."""

    max_poll_s: Seconds = 1.0
    """Most time between two looks at a file."""

    discover_s: Seconds = 2.0
    """Time between two searches for new files."""

    flush_after_s: Seconds = 5.0
    """A last line without end is taken as it is when nothing was added for so long."""

    close_after_s: Seconds = 30.0
    """A file that was renamed or deleted is closed when nothing was added for so long."""

    max_files: Annotated[int, msgspec.Meta(ge=1)] = 1000
    """Files followed at a time; more are left alone, with a notice."""

    max_line_bytes: Annotated[int, msgspec.Meta(ge=1)] = MAX_FRAME_BYTES
    """Longest line; of a longer one the beginning is taken and the rest skipped, with a notice."""

    read_bytes: Annotated[int, msgspec.Meta(ge=4096, le=16 * 1024 * 1024)] = 1024 * 1024
    """Bytes read at a time; each read is one batch, and large ones are cooked in half the time."""


class _Tail:
    """One open file and how far it was read."""

    def __init__(self, path: str, descriptor: int, key: FileKey, max_line_bytes: int) -> None:
        self.path = path
        self.key = key
        self.is_orphan = False  # its path names another file now, or none
        self.grown_s = 0.0
        self.place = Place(path=path, device=key.device, inode=key.inode, offset=0, head_bytes=0, head_digest="")
        self._descriptor = descriptor
        self._max_line_bytes = max_line_bytes
        self._read_offset = 0
        self._framer = LineFramer(max_line_bytes)
        self._is_long = False

    def look(self) -> Look:
        status = os.fstat(self._descriptor)
        return Look(self.key, status.st_size, os.pread(self._descriptor, tail.HEAD_BYTES, 0))

    def seek(self, offset: int) -> None:
        """Go on at a line's beginning; the head is taken anew."""
        self._read_offset = offset
        self._framer = LineFramer(self._max_line_bytes, position=offset)
        head = os.pread(self._descriptor, tail.HEAD_BYTES, 0)
        self.taken(head)

    def taken(self, head: bytes | None = None) -> None:
        """Note that all frames given so far have been emitted."""
        place = msgspec.structs.replace(self.place, path=self.path, offset=self._framer.position)
        if head is None and place.head_bytes < min(tail.HEAD_BYTES, self._read_offset):
            head = os.pread(self._descriptor, tail.HEAD_BYTES, 0)
        if head is not None:
            place = msgspec.structs.replace(place, head_bytes=len(head), head_digest=tail.digest(head))
        self.place = place

    def was_replaced(self) -> bool:
        """Return whether the file was cut or written anew in place."""
        size = os.fstat(self._descriptor).st_size
        if size < self._read_offset:
            return True
        return size > self._read_offset and not tail.is_same_content(self.place, self.look())

    def read(self, count: int) -> Frames | None:
        """Return the lines that were added, None when nothing was."""
        chunk = os.pread(self._descriptor, count, self._read_offset)
        if not chunk:
            return None
        self._read_offset += len(chunk)
        if self._framer.held_bytes == 0 and (hole := tail.leading_hole(chunk)):
            self._framer.skip(hole)
            chunk = chunk[hole:]
        return self._framer.feed(chunk)

    def flush(self) -> Frames | None:
        """Return the last line, which has no end, None when there is none."""
        return self._framer.finish() if self._framer.held_bytes else None

    def is_first_long(self, frames: Frames) -> bool:
        """Return whether these hold the first line of the file that was cut."""
        is_first = bool(frames.cut) and not self._is_long
        self._is_long = self._is_long or is_first
        return is_first

    def close(self) -> None:
        os.close(self._descriptor)


class Source:
    """Follows files."""

    def __init__(self, config: Config) -> None:
        self._config = config

    async def run(self, outlet: Outlet) -> None:
        """Emit each line until cancelled. A last line without end then stays in its file for the next run.

        Raises:
            OSError: the checkpoint can not be written.
        """
        follower = _Follower(self._config, outlet)
        try:
            await follower.run()
        finally:
            await follower.stop()


class _Follower:
    """The followed files of one run, and their checkpoint."""

    def __init__(self, config: Config, outlet: Outlet) -> None:
        self._config = config
        self._outlet = outlet
        self._loop = asyncio.get_running_loop()
        self._tails: dict[FileKey, _Tail] = {}
        self._told: set[tuple[str, str]] = set()  # notices given, each once a file
        self._file = CheckpointFile(outlet, Checkpoint)
        self._earlier = self._file.found
        self._known = {place.key: place for place in self._earlier.places} if self._earlier else {}
        self._is_first_scan = True
        self._checkpoint_at_s = 0.0
        self._keeping: asyncio.Task[None] | None = None

    async def run(self) -> None:
        wait_s, discover_at_s = self._config.poll_s, 0.0
        while True:
            now_s = self._loop.time()
            if now_s >= discover_at_s:
                await self._discover()
                discover_at_s = now_s + self._config.discover_s
            was_active = await self._poll()
            self._checkpoint_now_and_then()
            config = self._config
            wait_s = tail.next_wait_s(wait_s, was_active=was_active, least_s=config.poll_s, most_s=config.max_poll_s)
            await asyncio.sleep(0 if was_active else wait_s)

    # --- finding files -----------------------------------------------------------------------------------------

    async def _discover(self) -> None:
        lost_places = self._known if self._is_first_scan else {}
        found = await asyncio.to_thread(_find, self._config.include, self._config.exclude, lost_places)
        for path, earlier_path in found:
            self._open(path, earlier_path)
        self._is_first_scan = False

    def _open(self, path: str, earlier_path: str = "") -> None:
        """Follow a file; one that was renamed while nobody watched keeps its name, and is closed after a while."""
        try:
            status = os.stat(path)  # noqa: PTH116  # a path for each file and look: Path objects cost more than the call
            followed = self._tails.get(FileKey(status.st_dev, status.st_ino))
            if followed is not None:
                if followed.is_orphan and not earlier_path:  # renamed to a name that is followed too
                    followed.path, followed.is_orphan = path, False
                return
            if len(self._tails) >= self._config.max_files:
                self._tell("too_many_files", "", limit=self._config.max_files)
                return
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        except OSError as error:
            self._tell("file_unreadable", path, **{"error.message": error.strerror or str(error)})
            return
        self._told.discard(("file_unreadable", path))
        status = os.fstat(descriptor)  # the path may name another file by now
        key = FileKey(status.st_dev, status.st_ino)
        opened = _Tail(earlier_path or path, descriptor, key, self._config.max_line_bytes)
        opened.is_orphan = bool(earlier_path)
        if key in self._tails or not self._begin(opened):
            opened.close()
            return
        self._tails[key] = opened

    def _begin(self, opened: _Tail) -> bool:
        """Set where reading begins; False when the file holds no text."""
        look = opened.look()
        if not tail.is_text(look.head):
            self._tell("file_not_text", opened.path)
            return False
        config = self._config
        offset = tail.first_offset(
            opened.path,
            look,
            known=self._known,
            earlier=self._earlier,
            start=config.start,
            is_first_scan=self._is_first_scan,
            include=config.include,
        )
        opened.seek(offset)
        opened.grown_s = self._loop.time()
        return True

    def _tell(self, event: str, path: str, **fields: str | int) -> None:
        if (event, path) not in self._told:
            self._told.add((event, path))
            self._outlet.notice(event, **({"log.file.path": path} if path else {}), **fields)

    # --- reading -----------------------------------------------------------------------------------------------

    async def _poll(self) -> bool:
        """Look at every file once; those that lost their path are read to their end before their successors."""
        for path in [followed.path for followed in self._tails.values() if self._lost_path(followed)]:
            self._open(path)
        was_active = False
        for followed in sorted(self._tails.values(), key=lambda followed: not followed.is_orphan):
            try:
                was_active |= await self._advance(followed)
            except OSError as error:  # a stale network mount: found again by the next search
                self._tell("file_unreadable", followed.path, **{"error.message": error.strerror or str(error)})
                self._drop(followed)
        return was_active

    @staticmethod
    def _lost_path(followed: _Tail) -> bool:
        """Return whether, just now, the path of a file came to name another file or none."""
        if followed.is_orphan:
            return False
        with suppress(OSError):
            status = os.stat(followed.path)  # noqa: PTH116  # as above
            followed.is_orphan = FileKey(status.st_dev, status.st_ino) != followed.key
            return followed.is_orphan
        followed.is_orphan = True
        return True

    async def _advance(self, followed: _Tail) -> bool:
        if followed.was_replaced():
            told: dict[str, Value] = {"log.file.path": followed.path, "log.offset": followed.place.offset}
            self._outlet.notice("file_truncated", **told)
            followed.seek(0)
        frames = followed.read(self._config.read_bytes)
        now_s = self._loop.time()
        if frames is None:
            return await self._rest(followed, now_s - followed.grown_s)
        followed.grown_s = now_s
        await self._emit(followed, frames)
        while followed.is_orphan and (frames := followed.read(self._config.read_bytes)) is not None:
            await self._emit(followed, frames)
        return True

    async def _rest(self, followed: _Tail, quiet_s: float) -> bool:
        """Do what is due in a file that does not grow."""
        if quiet_s >= self._config.flush_after_s and (last := followed.flush()) is not None:
            await self._emit(followed, last)
        if followed.is_orphan and quiet_s >= self._config.close_after_s:
            self._drop(followed)
        return False

    def _drop(self, followed: _Tail) -> None:
        followed.close()
        del self._tails[followed.key]
        self._known[followed.key] = followed.place  # should it be found again

    async def _emit(self, followed: _Tail, frames: Frames) -> None:
        if followed.is_first_long(frames):
            told: dict[str, Value] = {"log.file.path": followed.path, "max_line_bytes": self._config.max_line_bytes}
            self._outlet.notice("line_too_long", **told)
        if count := len(frames):
            columns: dict[str, Column] = {
                "event.original": frames.payloads,
                "raw.media_type": Constant(MEDIA_TYPE, count),
                "log.file.path": Constant(followed.path, count),
                "log.offset": Numbers(frames.starts),
                "observed": Numbers(np.full(count, self._outlet.now_ns(), np.int64)),
            }
            await self._outlet.emit(Draft(OUTPUT, count, columns))
        followed.taken()

    # --- checkpoint --------------------------------------------------------------------------------------------

    def _checkpoint_now_and_then(self) -> None:
        """Begin a checkpoint where one is due; reading goes on while what it covers is taken.

        Raises:
            OSError: the last one could not be written.
        """
        if self._keeping is not None and self._keeping.done():
            self._keeping.result()
            self._keeping = None
            self._checkpoint_at_s = self._loop.time() + CHECKPOINT_S
        if self._keeping is None and self._loop.time() >= self._checkpoint_at_s:
            self._keeping = self._loop.create_task(self._checkpoint(), name="checkpoint")

    async def _checkpoint(self) -> None:
        places = [followed.place for followed in self._tails.values()]
        places += [
            place
            for key, place in self._known.items()
            if key not in self._tails and ("file_unreadable", place.path) in self._told
        ]
        await self._file.keep(Checkpoint(include=self._config.include, places=tuple(places)))

    async def stop(self) -> None:
        """Write the last checkpoint if what it covers is taken in time, and close the files."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        try:
            await in_time(_STOP_WAIT_S, self._checkpoint())
        finally:
            for followed in self._tails.values():
                followed.close()
            self._tails.clear()


def _find(include: Sequence[str], exclude: Sequence[str], places: dict[FileKey, Place]) -> list[tuple[str, str]]:
    """Return the files that the patterns name, and before them those of ``places`` that have been renamed since.

    The file that was written to last comes last. Each is its path, and where it was seen last if that is another path.
    """
    found = {
        path
        for pattern in include
        for path in iglob(pattern, recursive=True)  # noqa: PTH207  # Path.glob knows no absolute patterns
        if not any(tail.matches(path, excluded) for excluded in exclude) and os.path.isfile(path)  # noqa: PTH113  # as above
    }
    return [*_renamed(places, found), *((path, "") for path in sorted(found, key=_modified_ns))]


def _modified_ns(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns  # noqa: PTH116  # as above
    except OSError:  # gone since
        return 0


def _renamed(places: dict[FileKey, Place], found: set[str]) -> list[tuple[str, str]]:
    """Return the files that are in the folder, but not at the path, where they were seen last."""
    renamed = []
    for folder in {Path(place.path).parent for place in places.values()}:
        with suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                if entry.path in found or not entry.is_file(follow_symlinks=False):
                    continue
                place = places.get(FileKey(entry.stat(follow_symlinks=False).st_dev, entry.inode()))
                if place is not None and entry.path != place.path:
                    renamed.append((entry.path, place.path))
    return renamed
