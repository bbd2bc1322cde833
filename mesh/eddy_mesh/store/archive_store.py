"""The storage engine of the archive: takes batches, keeps them whatever happens, answers statements about them.

What may live here: `ArchiveStore`, which joins journal, held events and sealed files. A batch goes into the journal and
is held in memory; when enough are held, or they are old enough, they become one Parquet file and the journal forgets
them.

Every call is synchronous and may come from any thread. `append`, `sync` and queries go on while `seal` or `compact`
writes a file; only one of those two runs at a time. A query sees every event that was appended before it began, once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from threading import Lock
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from eddy_mesh.batch import Batch, Kind
from eddy_mesh.cer import EventId, Value
from eddy_mesh.columns import Ids
from eddy_mesh.errors import StoreError, UsageError
from eddy_mesh.selection.plan import Plan
from eddy_mesh.store import stored_query
from eddy_mesh.store.catalogue import SealedFile, may_select
from eddy_mesh.store.config import StoreConfig, connect, copy_options
from eddy_mesh.store.disk import lock_folder, store_error
from eddy_mesh.store.gather import gather
from eddy_mesh.store.held import Held, Pending
from eddy_mesh.store.journal import Journal
from eddy_mesh.store.partition import HOUR_MS, Partition, partition_of
from eddy_mesh.store.sealed import SealedFiles
from eddy_mesh.store.stored_query import Content

__all__ = ["ArchiveStore", "StoreConfig"]

_NS = 1_000_000_000
_T = TypeVar("_T")


class Holding(NamedTuple):
    """What a store holds of one kind: events, first and last ``observed`` (ns since 1970 UTC), names of fields."""

    rows: int
    first_ns: int
    last_ns: int
    fields: set[str]


class ArchiveStore:
    """The store of one archive in one folder.

    Attributes:
        damaged: files put aside since it was opened because they could not be read.
        journal_cut_bytes: bytes of the journal that a crash had torn, cut off when it was opened.
        undecodable: frames of the journal that hold no batch; their segments are kept as ``journal/*.kept``.
        recovered: events found in the journal when it was opened.
    """

    def __init__(self, path: Path, config: StoreConfig, now_ns: int) -> None:
        """Open or make the store; what a crash left is repaired.

        Args:
            path: its folder.
            config: settings.
            now_ns: ns since 1970 UTC; the age of recovered events counts from here.

        Raises:
            StoreError: the folder is in use, can not be written, or was written by a newer version.
        """
        path = path.resolve()
        self.config = config
        self.recovered = 0
        self._lock = Lock()  # held for memory and small writes only
        self._seal_lock = Lock()  # taken before _lock, never after it
        self._held = Held()
        with ExitStack() as opened:
            opened.callback(lock_folder(path).close)
            self._connection = connect(path, config)
            opened.callback(self._connection.close)
            writer = connect(path, config, is_writer=True)
            opened.callback(writer.close)
            self._files = SealedFiles(path, self._connection, writer, copy_options(config))
            opened.callback(self._files.catalogue.close)
            sealed = self._files.sealed_through()
            self._journal = Journal(path / "journal", max(sealed.values(), default=0) + 1)
            opened.callback(self._journal.close)
            self._recover(sealed)
            self._held.due(now_ns, config.max_rows, 0)
            self._opened = opened.pop_all()

    def close(self) -> None:
        """Make everything durable and let go of the folder; events that are held stay in the journal.

        Raises:
            StoreError: the last events are not on disk.
        """
        with self._seal_lock:
            self._opened.close()

    # --- taking events -------------------------------------------------------------------------------------------

    def append(self, batches: Sequence[Batch]) -> None:
        """Take batches, all or none; queries see them at once, and they are durable after the next `sync`.

        Raises:
            StoreError: no room on disk or in memory; nothing of ``batches`` was taken.
        """
        with self._lock:
            self._append(batches)

    def append_at_once(self, batches: Sequence[Batch]) -> bool:
        """Do what `append` does, without waiting for another thread or the disk.

        Returns:
            Whether it was done; else call `append`, where waiting does no harm.

        Raises:
            StoreError: as `append`.
        """
        if self._journal.sync_due or not self._lock.acquire(blocking=False):
            return False
        try:
            self._append(batches)
        finally:
            self._lock.release()
        return True

    def _append(self, batches: Sequence[Batch]) -> None:
        if self._held.rows > self.config.max_held_rows:
            message = f"{self._held.rows:,} events wait to be sealed (max_held_rows); seal before more can be taken"
            raise StoreError(message)
        self._journal.append(batches)
        for batch in batches:
            self._held.add(batch, self._journal.segment)

    def sync(self) -> None:
        """Return when everything appended before the call is on disk: acknowledge only then.

        Raises:
            StoreError: it is not; call again.
        """
        self._journal.sync()

    def seal(self, now_ns: int, *, force: bool = False) -> int:
        """Write what is due into files; call it about once a second.

        Args:
            now_ns: ns since 1970 UTC.
            force: write everything that is held.

        Returns:
            Number of files written.

        Raises:
            StoreError: no room or no disk; what was not written is held as before, and the next call tries again.
        """
        with self._seal_lock:
            with self._lock:
                due = self._due(now_ns, force=force)
            if not due:
                return 0
            self._journal.sync()  # the long wait, while others append
            with self._lock:
                last = self._journal.rotate()
                self._held.start(due)
            try:
                for pending in due:
                    self._seal_one(pending, last)
            finally:
                with self._lock:
                    self._held.give_back()
            self._forget_journal()
            return len(due)

    def compact(self, now_ns: int) -> int:
        """Put the small files of one kind and one past hour together; a bounded amount of work.

        Args:
            now_ns: ns since 1970 UTC.

        Returns:
            Number of files that became one; 0 when there is nothing to do.

        Raises:
            StoreError: no room or no disk; the files are as they were.
        """
        with self._seal_lock:
            run = self._small_files(now_ns // (HOUR_MS * 1_000_000))
            if not run:
                return 0
            with self._files.reading():
                readable = [file for file in run if self._files.check(file)]
                if len(readable) < len(run):
                    return 0  # what was put aside breaks the run; the next call looks again
                first, last = run[0].name, run[-1].name
                batches = [self._files.load(file) for file in run]
                merged = self._files.write(batches, first.partition, first.first_segment, last.last_segment)
                with self._lock:
                    self._files.commit(merged, [file.name for file in run])
            return len(run)

    # --- asking --------------------------------------------------------------------------------------------------

    def query(self, plan: Plan) -> Iterator[dict[str, Value]]:
        """Yield the rows of a statement, each a dict of the names that its projection gives.

        Raises:
            StoreError: the statement could not be run.
        """
        if stored_query.is_stream(plan):
            for batch in self.query_batches(plan):
                yield from stored_query.rows(batch, plan)
            return
        with self._files.reading():
            content = self._content(plan)
            yield from self._asked(content, lambda: stored_query.answer(plan, self._connection, content))

    def query_batches(self, plan: Plan) -> Iterator[Batch]:
        """Yield the events that a statement selects, as batches of one kind each, projected.

        Args:
            plan: one without groups, order and limit; `query` takes those too.

        Raises:
            StoreError: the statement could not be run.
            UsageError: the plan has groups, an order or a limit.
        """
        if not stored_query.is_stream(plan):
            raise UsageError(f"{plan.text} has groups, an order or a limit: its result is rows, use query")
        with self._files.reading():
            content = self._content(plan)
            batches = stored_query.select(plan, self._connection, content)
            while (batch := self._asked(content, lambda: next(batches, None))) is not None:
                yield batch

    def fetch(self, ids: Sequence[EventId]) -> list[dict[str, Value]]:
        """Return the events with these ids, as rows, in the order of their ids; an unknown id gives no row.

        Raises:
            StoreError: a file could not be read.
        """
        wanted = sorted(set(ids))
        if not wanted:
            return []
        with self._files.reading():
            with self._lock:
                files = self._files.catalogue.with_ids(wanted[0], wanted[-1])
                held = [batch for pending in self._held.all() for batch in pending.batches]
            content = Content(self._files, files, held)
            return self._asked(content, lambda: stored_query.fetch(wanted, self._connection, content))

    def known(self, ids: Ids) -> npt.NDArray[np.bool_]:
        """Return True for each of the ids that an event of the store has.

        Raises:
            StoreError: a file could not be read.
        """
        if not len(ids):
            return np.zeros(0, np.bool_)
        wanted = sorted(identity for row in range(len(ids)) if isinstance(identity := ids.at(row), bytes))
        with self._files.reading():
            with self._lock:
                files = self._files.catalogue.with_ids(wanted[0], wanted[-1])
                held = [batch for pending in self._held.all() for batch in pending.batches]
            content = Content(self._files, files, held)
            return self._asked(content, lambda: stored_query.known(ids, self._connection, content))

    def _content(self, plan: Plan) -> Content:
        """Return what a plan is asked of: every event that was appended until now, once."""
        with self._lock:
            files = self._files.catalogue.select(plan)
            pending = [(one, list(one.batches)) for one in self._held.all()]
        wanted = [(one, batches) for one, batches in pending if may_select(plan, one.partition.kind)]
        return Content(self._files, files, [self._gathered(one, batches) for one, batches in wanted])

    def _asked(self, content: Content, question: Callable[[], _T]) -> _T:
        """Return the answer of DuckDB; when a file is the reason why there is none, put it aside and say so."""
        import duckdb  # noqa: PLC0415  # 65 MB that most processes never need

        try:
            return question()
        except duckdb.OutOfMemoryException as error:
            message = (
                f"the statement needs more than memory_bytes = {self.config.memory_bytes:,}: narrow it or raise that"
            )
            raise StoreError(message, retryable=False) from error
        except duckdb.Error as error:
            aside = [str(file.name.path) for file in content.files if not self._files.check(file)]
            if aside:
                raise StoreError(f"damaged, put aside: {', '.join(aside)}; ask again for the rest") from error
            raise StoreError(f"the statement could not be run: {error}", retryable=False) from error

    @property
    def rows(self) -> int:
        """Number of events, held ones included."""
        with self._lock:
            return self._files.catalogue.totals()[0] + self._held.rows

    @property
    def held_rows(self) -> int:
        """Number of events that are not in a file yet."""
        with self._lock:
            return self._held.rows

    @property
    def bytes(self) -> int:
        """Bytes on disk: files and journal."""
        return self._files.catalogue.totals()[1] + self._journal.size_bytes

    @property
    def oldest_ns(self) -> int | None:
        """The least ``occurred`` time of the sealed events, ns since 1970 UTC, or None where there are none."""
        return self._files.catalogue.totals()[2]

    def holdings(self) -> dict[Kind, Holding]:
        """Return what the store holds of each kind, held events included."""
        found: dict[Kind, Holding] = {}
        with self._lock:
            pending = [(one.partition.kind, one.rows) for one in self._held.all()]
        for file in self._files.catalogue.all():
            summary = file.summary
            first_ns, last_ns = summary.observed or (0, 0)
            held = found.setdefault(file.name.partition.kind, Holding(0, first_ns, last_ns, set()))
            fields = held.fields | set(summary.fields)
            first_ns, last_ns = min(held.first_ns, first_ns), max(held.last_ns, last_ns)
            found[file.name.partition.kind] = Holding(held.rows + summary.rows, first_ns, last_ns, fields)
        for kind, rows in pending:
            held = found.get(kind, Holding(0, 0, 0, set()))
            found[kind] = held._replace(rows=held.rows + rows)
        return found

    @property
    def damaged(self) -> int:
        """Number of files put aside since the store was opened."""
        return self._files.damaged

    @property
    def journal_cut_bytes(self) -> int:
        """Bytes cut off the journal when the store was opened."""
        return self._journal.cut_bytes

    @property
    def undecodable(self) -> int:
        """Frames of the journal that hold no batch."""
        return self._journal.undecodable

    # --- inside --------------------------------------------------------------------------------------------------

    def _recover(self, sealed: Mapping[Partition, int]) -> None:
        for segment, batch in self._journal.replay():
            if segment > sealed.get(partition_of(batch), 0):
                self._held.add(batch, segment)
                self.recovered += batch.count
        self._forget_journal()

    def _due(self, now_ns: int, *, force: bool) -> list[Pending]:
        due = self._held.due(now_ns, self.config.max_rows, int(self.config.max_age_s * _NS))
        if force or self._journal.size_bytes > self.config.max_journal_bytes:
            return self._held.waiting()
        return due

    def _seal_one(self, pending: Pending, last_segment: int) -> None:
        with self._lock:
            batches = list(pending.batches)  # a query may put one in the place of many while they are written
        file = self._files.write(batches, pending.partition, pending.first_segment, last_segment)
        with self._lock:
            self._files.commit(file)
            self._held.done(pending)

    def _forget_journal(self) -> None:
        with self._lock:
            least = self._held.first_segment(self._journal.segment)
        try:
            self._journal.remove_before(least)
        except OSError as error:
            raise store_error(error, Path("journal")) from error

    def _gathered(self, pending: Pending, batches: list[Batch]) -> Batch:
        """Return what is held of a partition as one batch, and hold it so: the next query has less to do."""
        joined = gather(batches)
        with self._lock:
            pending.replace_front(batches, joined)
        return joined

    def _small_files(self, current_hour: int) -> list[SealedFile]:
        """Return the first run of small neighbours in one partition of a past hour that is worth a file of its own."""
        for partition, group in groupby(self._files.catalogue.all(), key=lambda file: file.name.partition):
            if partition.hour >= current_hour:
                continue
            run: list[SealedFile] = []
            for file in group:
                fits = sum(one.summary.rows for one in run) + file.summary.rows <= self.config.max_rows
                if file.summary.rows >= self.config.compact_rows or not fits:
                    if len(run) > 1:
                        return run
                    run = []
                if file.summary.rows < self.config.compact_rows:
                    run.append(file)
            if len(run) > 1:
                return run
        return []
