"""Which sealed files there are and what each holds, so that a query opens only those that it needs.

What may live here: the SQLite file and the questions to it. The catalogue can be lost: each Parquet file carries its
summary in the footer, and opening the store brings the catalogue in line with the files.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import NamedTuple

import msgspec

from eddy_mesh.batch import Kind
from eddy_mesh.cer import Stage
from eddy_mesh.errors import StoreError
from eddy_mesh.selection.plan import Plan
from eddy_mesh.selection.prefilter import matches_kind
from eddy_mesh.store.disk import full_error
from eddy_mesh.store.partition import FileName, file_name
from eddy_mesh.store.summary import Summary, may_hold

_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
    path TEXT PRIMARY KEY,
    stage TEXT NOT NULL,
    event_class TEXT NOT NULL,
    type TEXT NOT NULL,
    hour INTEGER NOT NULL,
    first_segment INTEGER NOT NULL,
    row_count INTEGER NOT NULL,
    byte_count INTEGER NOT NULL,
    occurred_first INTEGER,
    occurred_last INTEGER,
    id_first BLOB NOT NULL,
    id_last BLOB NOT NULL,
    summary BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS files_by_time ON files (hour, stage, event_class, type, first_segment);
CREATE INDEX IF NOT EXISTS files_by_id ON files (id_first, id_last);
"""
_VERSION = 1


class SealedFile(NamedTuple):
    """One file of the catalogue: what its name says, its size in bytes, and what it holds."""

    name: FileName
    bytes: int
    summary: Summary


class Catalogue:
    """The files of one store. Safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        """Open the catalogue; one that can not be read is made anew, empty.

        Raises:
            StoreError: the file can not be made.
        """
        self._path = path
        self._lock = Lock()
        try:
            self._base = _open(path)
        except sqlite3.DatabaseError:
            for leftover in path.parent.glob(f"{path.name}*"):
                leftover.unlink()
            try:
                self._base = _open(path)
            except sqlite3.Error as error:
                raise StoreError(f"{path}: {error}; check the disk and the rights of this user") from error

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._base.close()

    def paths(self) -> set[str]:
        """Return the path of every file, below the root of the store."""
        return {str(path) for (path,) in self._rows("SELECT path FROM files")}

    def totals(self) -> tuple[int, int, int | None]:
        """Return the number of events and bytes, and the least ``occurred``, ns since 1970 UTC."""
        ((rows, size, oldest),) = self._rows(
            "SELECT coalesce(sum(row_count), 0), coalesce(sum(byte_count), 0), min(occurred_first) FROM files"
        )
        return int(rows), int(size), oldest  # type: ignore[call-overload, return-value]

    def change(self, added: Sequence[SealedFile], removed: Iterable[FileName] = ()) -> None:
        """Enter and remove files, all or nothing.

        Raises:
            StoreError: no room or no disk; nothing was changed.
        """
        with self._lock:
            try:
                with self._base:
                    self._base.executemany("DELETE FROM files WHERE path = ?", [(str(name.path),) for name in removed])
                    self._base.executemany(_INSERT, [_row(file) for file in added])
            except sqlite3.Error as error:
                if "full" in str(error):
                    raise full_error(self._path) from error
                raise StoreError(f"{self._path}: {error}; check the disk and the rights of this user") from error

    def select(self, plan: Plan) -> list[SealedFile]:
        """Return the files that may hold events which a plan selects, by hour, kind and arrival."""
        conditions, parameters = ["1"], []
        if not plan.every_stage:
            conditions.append("stage != 'raw'")
        if plan.since_ns is not None:
            conditions.append("occurred_last >= ?")
            parameters.append(plan.since_ns)
        if plan.until_ns is not None:
            conditions.append("occurred_first < ?")
            parameters.append(plan.until_ns)
        where = " AND ".join(conditions)
        found = self._files(f"WHERE {where} ORDER BY hour, stage, event_class, type, first_segment", parameters)
        return [
            file
            for file in found
            if may_select(plan, file.name.partition.kind, file.summary.origins) and may_hold(file.summary, plan.where)
        ]

    def with_ids(self, first: bytes, last: bytes) -> list[SealedFile]:
        """Return the files that may hold events with ids from ``first`` to ``last``."""
        return list(self._files("WHERE id_first <= ? AND id_last >= ? ORDER BY hour", [last, first]))

    def all(self) -> list[SealedFile]:
        """Return every file, by kind, hour and arrival: neighbours in a partition are neighbours here."""
        return list(self._files("ORDER BY stage, event_class, type, hour, first_segment", []))

    def _files(self, clause: str, parameters: Sequence[object]) -> Iterator[SealedFile]:
        for path, size, summary in self._rows(f"SELECT path, byte_count, summary FROM files {clause}", parameters):  # noqa: S608
            name = file_name(PurePosixPath(str(path)))
            if name is not None:
                yield SealedFile(name, int(size), msgspec.msgpack.decode(summary, type=Summary))  # type: ignore[call-overload]

    def _rows(self, statement: str, parameters: Sequence[object] = ()) -> list[tuple[object, ...]]:
        with self._lock:
            try:
                return self._base.execute(statement, parameters).fetchall()
            except sqlite3.Error as error:
                raise StoreError(
                    f"{self._path}: {error}; stop the agent and delete this file, it is made anew"
                ) from error


_INSERT = "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


def _open(path: Path) -> sqlite3.Connection:
    base = sqlite3.connect(path, check_same_thread=False)
    try:
        base.execute("PRAGMA journal_mode = WAL")
        base.execute("PRAGMA synchronous = NORMAL")  # what is lost with the power is found again in the footers
        (version,) = base.execute("PRAGMA user_version").fetchone()
        if version not in {0, _VERSION}:
            raise sqlite3.DatabaseError(f"version {version}")
        base.executescript(_SCHEMA)
        base.execute(f"PRAGMA user_version = {_VERSION}")
    except sqlite3.Error:
        base.close()
        raise
    return base


def _row(file: SealedFile) -> tuple[object, ...]:
    partition, summary = file.name.partition, file.summary
    first, last = summary.occurred or (None, None)
    return (
        str(file.name.path),
        *map(str, partition.kind),
        partition.hour,
        file.name.first_segment,
        summary.rows,
        file.bytes,
        None if first is None else min(first, _INT64_MAX),
        None if last is None else min(last, _INT64_MAX),
        *summary.ids,
        msgspec.msgpack.encode(summary),
    )


_INT64_MAX = (1 << 63) - 1


def may_select(plan: Plan, kind: Kind, origins: Sequence[str] | None = None) -> bool:
    """Return whether a plan may select events of a kind.

    Args:
        plan: its FROM, its rule of stages and what WHERE says of the kind are looked at.
        kind: stage, class and type.
        origins: host processes that they are from, or None where that is not known.
    """
    if origins is None:
        return plan.every_stage or kind.stage is not Stage.RAW
    return any(matches_kind(plan, kind, origin) for origin in origins)
