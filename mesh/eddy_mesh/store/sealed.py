"""The sealed files: made durable as a whole, found again after a crash, put aside when damaged.

What may live here: everything that touches a Parquet file but the query. The steps of a seal: write to ``tmp/``, sync,
enter into the catalogue, rename, sync the folder. Whatever step the power goes at, opening finds either the file or
nothing, and the journal still has the events in the second case.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import TYPE_CHECKING

import msgspec

from eddy_mesh.batch import Batch
from eddy_mesh.errors import StoreError
from eddy_mesh.store.catalogue import Catalogue, SealedFile
from eddy_mesh.store.config import escaped
from eddy_mesh.store.disk import full_error, make_folder, store_error, sync_file
from eddy_mesh.store.partition import SUFFIX, FileName, Partition, file_name
from eddy_mesh.store.pieces import Pieces
from eddy_mesh.store.restore import fetch_arrays, restore
from eddy_mesh.store.summary import Summary
from eddy_mesh.store.tables import text_literal, write_parquet
from eddy_mesh.whole_file import sync_folder

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_STAGES = ("raw", "cooked", "analyzed")


class SealedFiles:
    """The Parquet files below one root.

    Attributes:
        catalogue: what each file holds.
        damaged: number of files put aside since the store was opened.
    """

    def __init__(
        self, root: Path, connection: DuckDBPyConnection, writer: DuckDBPyConnection, options: Mapping[str, str]
    ) -> None:
        """Open the files; what a crash left behind is cleared away.

        Args:
            root: folder of the store.
            connection: DuckDB; cursors are made of it.
            writer: another one, that writes the files.
            options: further options of COPY.

        Raises:
            StoreError: the folder can not be used.
        """
        self.damaged = 0
        self._root = root
        self._connection = connection
        self._writer = writer
        self._options = options
        self._lock = Lock()
        self._readers = 0
        self._doomed: list[Path] = []
        self._temporary = root / "tmp"
        try:
            make_folder(self._temporary)
            for leftover in self._temporary.glob(f"*{SUFFIX}"):
                leftover.unlink()
            self.catalogue = Catalogue(root / "catalogue.sqlite")
            self._reconcile()
        except OSError as error:
            raise store_error(error, root) from error

    def sealed_through(self) -> dict[Partition, int]:
        """Return for each partition the last journal segment that its files cover."""
        last: dict[Partition, int] = {}
        for path in self.catalogue.paths():
            name = file_name(PurePosixPath(path))
            if name is not None:
                last[name.partition] = max(last.get(name.partition, 0), name.last_segment)
        return last

    # --- writing -------------------------------------------------------------------------------------------------

    def write(
        self, batches: Sequence[Batch], partition: Partition, first_segment: int, last_segment: int
    ) -> SealedFile:
        """Write a file where nobody looks yet; `commit` makes it one of the store.

        Raises:
            StoreError: no room or no disk; nothing is left behind.
        """
        import duckdb  # noqa: PLC0415  # 65 MB that most processes never need

        stamp_ms = min(batch.stamp_ms for batch in batches)
        pieces = Pieces(batches)
        name = FileName(partition, stamp_ms, first_segment, last_segment)
        path = self._temporary / f"{first_segment}-{last_segment}{SUFFIX}"
        try:
            with self._writer.cursor() as cursor:
                note = msgspec.msgpack.encode(pieces.summary)
                write_parquet(cursor, pieces.form, pieces.tables, str(path), self._options, note)
            sync_file(path)
            return SealedFile(name, path.stat().st_size, pieces.summary)
        except BaseException as error:
            path.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise store_error(error, path) from error
            if isinstance(error, duckdb.Error):
                raise _mapped(error, path) from error
            raise

    def commit(self, file: SealedFile, replaced: Sequence[FileName] = ()) -> None:
        """Make a written file one of the store, in place of others; those are deleted when nobody reads them.

        Raises:
            StoreError: no room or no disk; the store is as it was.
        """
        name = file.name
        path, written = self._root / name.path, self._temporary / f"{name.first_segment}-{name.last_segment}{SUFFIX}"
        before = [old for old in self.catalogue.all() if old.name in replaced] if replaced else []
        try:
            make_folder(path.parent)
            self.catalogue.change([file], replaced)
            try:
                written.replace(path)
            except OSError:
                self.catalogue.change(before, [name])
                raise
            sync_folder(path.parent)
        except OSError as error:
            raise store_error(error, path) from error
        finally:
            written.unlink(missing_ok=True)
        self._delete(self._root / old.path for old in replaced)

    def _delete(self, paths: Iterable[Path]) -> None:
        with self._lock:
            self._doomed += paths
            if self._readers == 0:
                self._delete_doomed()

    def _delete_doomed(self) -> None:
        while self._doomed:
            path = self._doomed.pop()
            with suppress(OSError):  # it is found and deleted when the store is opened again
                path.unlink(missing_ok=True)

    # --- reading -------------------------------------------------------------------------------------------------

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Keep every file that is there now until the block ends."""
        with self._lock:
            self._readers += 1
        try:
            yield
        finally:
            with self._lock:
                self._readers -= 1
                if self._readers == 0:
                    self._delete_doomed()

    def relation(self, files: Sequence[SealedFile]) -> str:
        """Return the SQL of a table of all rows of ``files``; at least one."""
        names = ", ".join(text_literal(escaped(str(self._root / file.name.path))) for file in files)
        return f"read_parquet([{names}], union_by_name = true, hive_partitioning = false)"

    def load(self, file: SealedFile) -> Batch:
        """Return all events of a file.

        Raises:
            StoreError: the file can not be read.
        """
        import duckdb  # noqa: PLC0415  # see above

        path = self._root / file.name.path
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(f"SELECT * FROM {self.relation([file])}")  # noqa: S608
                return restore(fetch_arrays(cursor), file.name.partition.kind)
        except duckdb.Error as error:
            raise StoreError(f"{path} can not be read ({error}); it will be put aside", retryable=False) from error

    def check(self, file: SealedFile) -> bool:
        """Return whether every row of a file can be read; one that can not be is put aside and counted."""
        import duckdb  # noqa: PLC0415  # see above

        path = self._root / file.name.path
        found: tuple[object, ...] | None = None
        try:
            if path.exists():
                path.open("rb").close()  # an error here is one of the system, not of the file
            with self._connection.cursor() as cursor:
                cursor.execute(f"SELECT count(*), max(hash(row)) FROM {self.relation([file])} AS row")  # noqa: S608
                found = cursor.fetchone()
        except OSError as error:
            raise store_error(error, path) from error
        except (duckdb.PermissionException, duckdb.OutOfMemoryException, duckdb.InterruptException) as error:
            raise StoreError(f"{path} can not be checked: {error}") from error
        except duckdb.Error:
            pass  # it is damaged: counted and put aside below
        if found is not None and found[0] == file.summary.rows:
            return True
        self._put_aside(path)
        self.catalogue.change([], [file.name])
        return False

    def _put_aside(self, path: Path) -> None:
        self.damaged += 1
        aside = self._root / "damaged" / path.relative_to(self._root)
        try:
            make_folder(aside.parent)
            if path.exists():
                path.replace(aside)
        except OSError as error:
            raise store_error(error, aside) from error

    # --- opening -------------------------------------------------------------------------------------------------

    def _reconcile(self) -> None:
        """Bring the catalogue in line with the files, which are right."""
        names = {name for path in self._paths() if (name := file_name(path)) is not None}
        for name in _superseded(names):
            (self._root / name.path).unlink()
            names.discard(name)
        listed = self.catalogue.paths()
        gone = [
            name for path in listed - {str(name.path) for name in names} if (name := file_name(PurePosixPath(path)))
        ]
        found = [self._described(name) for name in names if str(name.path) not in listed]
        self.catalogue.change([file for file in found if file is not None], gone)

    def _paths(self) -> Iterator[PurePosixPath]:
        for stage in _STAGES:
            for path in (self._root / stage).rglob(f"*{SUFFIX}"):
                yield PurePosixPath(path.relative_to(self._root).as_posix())

    def _described(self, name: FileName) -> SealedFile | None:
        """Return a file with the summary in its footer; one without is put aside."""
        import duckdb  # noqa: PLC0415  # see above

        path = self._root / name.path
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(
                    "SELECT value FROM parquet_kv_metadata(?) WHERE key = 'eddy'::BLOB", [escaped(str(path))]
                )
                found = cursor.fetchone()
            if found is not None:
                return SealedFile(name, path.stat().st_size, msgspec.msgpack.decode(bytes(found[0]), type=Summary))
        except (duckdb.Error, msgspec.MsgspecError):
            pass
        self._put_aside(path)
        return None


def _superseded(names: Iterable[FileName]) -> list[FileName]:
    """Return the files whose events are all in another one: compaction was cut short before it deleted them."""
    by_partition: dict[Partition, list[FileName]] = {}
    for name in names:
        by_partition.setdefault(name.partition, []).append(name)
    return [name for group in by_partition.values() for name in group if any(other.covers(name) for other in group)]


def _mapped(error: Exception, path: Path) -> StoreError:
    text = str(error)
    if any(sign in text for sign in ("No space left", "Disk quota", "File too large", "not enough space")):
        return full_error(path)
    return StoreError(f"{path} can not be written: {text}")
