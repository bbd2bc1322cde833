"""The local store: what this host process made lately, whole, so that it can be fetched later by id (*select-back*).

What may live here: which segments there are, and the thread that writes them. Nothing here is promised to survive: it
is bounded in size and age, whole oldest segments go first, nothing is synced, and no event ever waits for it.

`LocalStore.keep` is called in the event loop and only takes note; a thread encodes and writes. Everything else may be
called from any thread, and may wait for the disk: from the event loop use `asyncio.to_thread`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Event, Lock, Thread
from typing import IO, NamedTuple

import numpy as np

from eddy_mesh import codec
from eddy_mesh.batch import Batch, Kind
from eddy_mesh.cer import EventId
from eddy_mesh.config import LocalConfig
from eddy_mesh.errors import WireError
from eddy_mesh.store.disk import lock_folder, store_error
from eddy_mesh.store.expired import Expired
from eddy_mesh.store.local_segment import (
    MAGIC,
    SUFFIX,
    Frame,
    Held,
    Segment,
    frame_of,
    opened,
    place_in_id,
    read_batch,
    segment_path,
)
from eddy_mesh.whole_file import write_whole

FLUSH_S = 0.04
"""Longest time that events wait in memory before they are written."""
EXPIRE_S = 30.0
"""How often age is looked at where nothing comes in."""
HURRY_EVENTS = 20_000
MAX_WAITING_EVENTS = 400_000
"""Events that may wait for a slow disk; further ones are not kept, and counted."""
MAX_FRAME_BYTES = 1 << 20
HEAD_ROOM = 4096
"""What a frame and a new file have beside the batch, at most."""
LEAST_SEGMENT_BYTES, MOST_SEGMENT_BYTES = 64 << 10, 16 << 20
SEGMENTS = 32
"""In so many segments a full store is divided: so much of it, by size or age, goes at once."""


class Found(NamedTuple):
    """What the store says of ids: the events, and when others went (ns since 1970 UTC). It does not know the rest."""

    batches: list[Batch]
    gone: dict[EventId, int]


class LocalStore:
    """The store of one host process in one folder.

    Attributes:
        cut_bytes: octets of torn frames, cut off when the store was opened.
    """

    def __init__(
        self, folder: Path, config: LocalConfig, now_ns: Callable[[], int], tell: Callable[[str], None]
    ) -> None:
        """Open or make the store; call `start` to have it written.

        Args:
            folder: its folder.
            config: settings.
            now_ns: the clock, ns since 1970 UTC; called in any thread.
            tell: given, once for each reason, what an operator must know; called in any thread.

        Raises:
            StoreError: the folder is in use or can not be written.
        """
        self.config = config
        self.cut_bytes = 0
        self._folder = folder
        self._now_ns = now_ns
        self._tell = tell
        self._problem = ""
        self._told: set[str] = set()
        self._waiting: deque[Batch] = deque()
        # Events. The first two change in the event loop only, the others under the lock: no two threads count one.
        self._taken = self._refused = self._written = self._unwritten = 0
        self._wake, self._hurry = Event(), Event()
        self._ended = False
        self._thread: Thread | None = None
        self._lock = Lock()  # for all that follows
        self._segments: dict[int, Segment] = {}
        self._file: IO[bytes] | None = None  # of the last segment, where it is written on
        self._next = 1
        self._expired = Expired()
        self._status: dict[str, object] = {}
        self._owner = lock_folder(folder)
        try:
            self._open()
        except OSError as error:
            self._owner.close()
            raise store_error(error, folder) from error
        self.expire()

    def start(self) -> None:
        """Begin to write what is kept, in a thread."""
        self._thread = Thread(target=self._run, name="local store", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what waits and let go of the folder; what is kept after that is missed. May wait for the disk."""
        self._ended = True
        self._hurry.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        self.flush()
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None
        self._owner.close()

    # --- taking events -------------------------------------------------------------------------------------------

    def keep(self, batch: Batch) -> None:
        """Take note of events that an agent of this host made. Never waits and never raises."""
        if not self.config.max_bytes:
            return
        waiting = self._taken - self._written
        is_late = waiting + batch.count > MAX_WAITING_EVENTS
        if self._ended or "id" in batch.columns or is_late:
            self._refused += batch.count
            if is_late and not self._ended:
                self._say(f"events are not kept for select-back: {self._folder}: the disk is too slow for them")
            return
        self._waiting.append(batch)
        self._taken += batch.count
        if waiting > HURRY_EVENTS:
            self._hurry.set()
        if not self._wake.is_set():
            self._wake.set()

    def flush(self) -> None:
        """Write what waits. A full disk takes the place of the oldest events; if that does not do, they are missed."""
        with self._lock:
            self._problem = "" if self._waiting else self._problem
            while self._waiting:
                batch = self._waiting.popleft()
                self._written += batch.count
                try:
                    for part, encoded in codec.split(batch, MAX_FRAME_BYTES):
                        self._keep_one(part, encoded)
                except Exception as error:  # noqa: BLE001  # a batch that has no form must not end the thread
                    self._miss(batch.count, f"a batch can not be written ({type(error).__name__})")
            self._take_status()

    def expire(self) -> None:
        """Drop the segments whose oldest event is too old."""
        with self._lock:
            horizon_ms = self._now_ns() // 1_000_000 - int(self.config.max_age_s * 1000)
            before = len(self._segments)
            while self._segments and self._oldest().first_ms < horizon_ms:
                self._drop_oldest()
            if len(self._segments) != before or not self._status:
                self._take_status()

    # --- asking --------------------------------------------------------------------------------------------------

    def fetch(self, ids: Iterable[EventId]) -> Found:
        """Return the events with these ids, or when they went.

        A batch that can not be read counts as one that this store does not know.
        """
        self.flush()
        batches: list[Batch] = []
        gone: dict[EventId, int] = {}
        with self._lock:
            wanted = sorted(set(ids))
            for (number, offset), at_place in self._placed(wanted).items():
                with suppress(WireError, OSError), self._segments[number].path.open("rb") as file:
                    batches.append(_with_ids(read_batch(file, number, offset), at_place))
            found = {bytes(identity) for batch in batches for identity in _ids(batch)}
            for identity in wanted:
                if identity not in found:
                    key, _, stamp_ms = place_in_id(identity)
                    when = self._expired.when(key, stamp_ms)
                    if when is not None:
                        gone[identity] = when
        return Found([batch for batch in batches if batch.count], gone)

    @property
    def missed(self) -> int:
        """Events that were not kept: the disk was full or too slow, or they bring ids of their own."""
        return self._refused + self._unwritten

    def status(self) -> dict[str, object]:
        """Return what is kept, as the heartbeat tells it; never waits.

        ``holdings`` has a row for each kind: how many events, when the first and the last were made, and ``until_ns``,
        when the last of them will be too old (ns since 1970 UTC); others may need the room before that. ``missed`` is
        as `missed`, since the start; ``problem`` is what was wrong when something was last written, "" for nothing.
        """
        return {**self._status, "missed": self.missed, "problem": self._problem}

    # --- inside; everything from here on holds the lock ----------------------------------------------------------

    def _open(self) -> None:
        table = self._folder / "expired"
        if table.exists():
            self._expired = Expired.decode(table.read_bytes())
        for number in sorted(int(path.stem) for path in self._folder.glob(f"*{SUFFIX}") if path.stem.isdigit()):
            segment, cut = opened(self._folder, number)
            self.cut_bytes += cut
            self._next = number + 1
            if segment.runs:
                self._segments[number] = segment
            else:
                segment.path.unlink()

    def _oldest(self) -> Segment:
        return next(iter(self._segments.values()))

    def _drop_oldest(self) -> None:
        segment = self._oldest()
        if segment.number == self._next - 1 and self._file is not None:
            self._file.close()
            self._file = None
        del self._segments[segment.number]
        for key, run in segment.runs.items():
            self._expired.add(key, run.last_ms, self._now_ns())
        with suppress(OSError):
            segment.path.unlink()  # first: on a full disk the table needs the room
        with suppress(OSError):  # then a fetch after a restart says "not found" of these
            write_whole(self._folder / "expired", self._expired.encode(), synced=False)

    def _keep_one(self, batch: Batch, encoded: bytes) -> None:
        if len(encoded) > self.config.max_bytes // 2:
            self._miss(batch.count, f"a batch is larger than half of max_bytes = {self.config.max_bytes:,}")
            return
        while True:
            room = self.config.max_bytes - len(encoded) - HEAD_ROOM
            while self._segments and self._bytes > room:
                self._drop_oldest()
            try:
                self._write(frame_of(batch, encoded, self._current(batch.stamp_ms)))
            except OSError as error:
                had_events = any(segment.runs for segment in self._segments.values())
                if self._segments:
                    self._drop_oldest()
                if not had_events:
                    self._miss(batch.count, f"{self._folder}: {error.strerror}")
                    return
                self._say(f"the oldest events make room for the latest: {self._folder}: {error.strerror}")
            else:
                return

    @property
    def _bytes(self) -> int:
        return sum(segment.size for segment in self._segments.values())

    def _current(self, stamp_ms: int) -> int:
        """Return the number of the segment to write to; a full or old one is closed before."""
        most_bytes = min(max(self.config.max_bytes // SEGMENTS, LEAST_SEGMENT_BYTES), MOST_SEGMENT_BYTES)
        last = self._segments.get(self._next - 1)
        if self._file is not None and last is not None:
            most_ms = self.config.max_age_s * 1000 / SEGMENTS
            if last.size < most_bytes and stamp_ms - last.first_ms <= most_ms:
                return last.number
            self._file.close()
            self._file = None
        return self._next

    def _write(self, frame: Frame) -> None:
        if self._file is None:
            self._begin()
        segment, file = self._segments[self._next - 1], self._file
        assert file is not None
        try:
            view = memoryview(frame.data)
            while view:
                view = view[file.write(view) :]
        except OSError:
            file.seek(segment.size)  # the next try writes over the torn frame
            raise
        segment.enter(frame.head, frame.kind)

    def _begin(self) -> None:
        path = segment_path(self._folder, self._next)
        file = path.open("wb", buffering=0)
        try:
            file.write(MAGIC)
        except OSError:
            file.close()
            path.unlink()
            raise
        self._segments[self._next] = Segment(self._next, path)
        self._file = file
        self._next += 1

    def _miss(self, events: int, reason: str) -> None:
        self._unwritten += events
        self._say(f"events are not kept for select-back: {reason}")

    def _say(self, problem: str) -> None:
        self._problem = problem
        if problem not in self._told:
            self._told.add(problem)
            self._tell(problem)

    def _placed(self, ids: Sequence[EventId]) -> dict[tuple[int, int], list[EventId]]:
        """Return the segment and offset of the batches that these ids can be in, and the ids that each may have."""
        places: dict[tuple[int, int], list[EventId]] = {}
        for identity in ids:
            key, sequence, _ = place_in_id(identity)
            for segment in self._segments.values():
                run = segment.runs.get(key)
                offset = None if run is None else run.offset(sequence)
                if offset is not None:
                    places.setdefault((segment.number, offset), []).append(identity)
        return places

    def _take_status(self) -> None:
        kinds: dict[Kind, Held] = {}
        for segment in self._segments.values():
            for kind, held in segment.kinds.items():
                total = kinds.setdefault(kind, Held(0, held.first_ms, held.last_ms))
                total.count += held.count
                total.first_ms, total.last_ms = min(total.first_ms, held.first_ms), max(total.last_ms, held.last_ms)
        self._status = {
            "max_bytes": self.config.max_bytes,
            "max_age_s": self.config.max_age_s,
            "bytes": self._bytes,
            "events": sum(held.count for held in kinds.values()),
            "holdings": [_told(kind, held, self.config.max_age_s) for kind, held in kinds.items()],
        }

    # --- the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._ended:
            self._wake.wait(EXPIRE_S if self._segments else None)
            self._hurry.wait(FLUSH_S)
            self._wake.clear()
            self._hurry.clear()
            self.flush()
            self.expire()


def _told(kind: Kind, held: Held, max_age_s: float) -> dict[str, object]:
    return {
        **kind._asdict(),
        "count": held.count,
        "first_ns": held.first_ms * 1_000_000,
        "last_ns": held.last_ms * 1_000_000,
        "until_ns": held.last_ms * 1_000_000 + int(max_age_s * 1e9),
    }


def _ids(batch: Batch) -> Iterator[bytes]:
    ids = batch.ids()
    for high, low in zip(ids.highs().tolist(), ids.low.tolist(), strict=True):
        yield high.to_bytes(8, "big") + low.to_bytes(8, "big")


def _with_ids(batch: Batch, wanted: Sequence[bytes]) -> Batch:
    """Return the events of a batch that have one of some ids."""
    ids = batch.ids()
    highs = {int.from_bytes(identity[:8], "big") for identity in wanted}
    lows = np.array([int.from_bytes(identity[8:], "big") for identity in wanted], np.uint64)
    return batch.filter(np.isin(ids.low, lows) & np.isin(ids.highs(), np.array(sorted(highs), np.uint64)))
