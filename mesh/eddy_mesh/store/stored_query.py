"""Statements and look-ups by id over sealed files and held events.

What may live here: which files are read together, and how each form of statement is answered. A statement that selects
events is narrowed by DuckDB, decided by the same code as on live flows, and comes in chunks in order of time; one that
groups or orders is one DuckDB query over everything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from eddy_mesh.batch import EXTRA, Batch
from eddy_mesh.cer import EventId, Value
from eddy_mesh.columns import Ids
from eddy_mesh.errors import StoreError
from eddy_mesh.rows import flat_row, flat_rows
from eddy_mesh.selection.evaluate import Matcher, matcher, whole_condition
from eddy_mesh.selection.plan import Operand, Plan, needed_fields
from eddy_mesh.selection.prefilter import matches_kind
from eddy_mesh.selection.project import project
from eddy_mesh.store.catalogue import SealedFile
from eddy_mesh.store.gather import ORIGIN
from eddy_mesh.store.narrowing import narrowing_sql
from eddy_mesh.store.partition import Partition
from eddy_mesh.store.restore import fetch_arrays, restore
from eddy_mesh.store.sealed import SealedFiles
from eddy_mesh.store.tables import HIGH, LOW, quoted

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_CHUNK_ROWS = 1_000_000
"""Files with up to so many events in all are read together."""


def is_of(plan: Plan, partition: Partition) -> bool:
    """Return whether events of a partition may be selected by a plan, as far as their stage says."""
    return plan.every_stage or partition.kind.stage != "raw"


def select(
    plan: Plan, connection: DuckDBPyConnection, sealed: SealedFiles, files: Sequence[SealedFile], held: Sequence[Batch]
) -> Iterator[Batch]:
    """Yield the events that a plan without groups and order selects, projected.

    Args:
        plan: its ORDER BY and GROUP BY are empty.
        connection: DuckDB.
        sealed: where the files are.
        files: those that may hold such events, by hour and kind.
        held: events that are in no file, gathered.

    Raises:
        StoreError: a file can not be read.
    """
    match = matcher(plan)
    left = plan.limit
    for batch in _candidates(plan, connection, sealed, files, held):
        found = _matching(plan, match, batch)
        if left is not None:
            found = found.slice(0, left)
            left -= found.count
        if found.count:
            yield project(plan, found)
        if left == 0:
            return


def _candidates(
    plan: Plan, connection: DuckDBPyConnection, sealed: SealedFiles, files: Sequence[SealedFile], held: Sequence[Batch]
) -> Iterator[Batch]:
    for chunk in _chunks(files):
        yield from _read(plan, connection, sealed, chunk)
    yield from held


def _chunks(files: Iterable[SealedFile]) -> Iterator[list[SealedFile]]:
    """Yield runs of files of one kind, in order, each with a bounded number of events."""
    chunk: list[SealedFile] = []
    rows = 0
    for file in files:
        if chunk and (rows + file.summary.rows > _CHUNK_ROWS or file.name.partition.kind != chunk[0].name.partition.kind):
            yield chunk
            chunk, rows = [], 0
        chunk.append(file)
        rows += file.summary.rows
    if chunk:
        yield chunk


def _read(plan: Plan, connection: DuckDBPyConnection, sealed: SealedFiles, chunk: list[SealedFile]) -> Iterator[Batch]:
    relation = sealed.relation(chunk)
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT * FROM {relation} LIMIT 0")  # noqa: S608  # names are quoted, paths are literals
        columns = [str(column[0]) for column in cursor.description or []]
        wanted = ", ".join(quoted(name) for name in columns if name in _stored_names(plan, columns))
        where = narrowing_sql(whole_condition(plan), columns)
        cursor.execute(f"SELECT {wanted} FROM {relation} WHERE {where}")  # noqa: S608  # see above
        batch = restore(fetch_arrays(cursor), chunk[0].name.partition.kind)
    if batch.count:
        yield batch


def _stored_names(plan: Plan, columns: Sequence[str]) -> set[str]:
    """Return the stored columns that a plan needs."""
    if not plan.items:
        return set(columns)
    names = needed_fields(plan) | {item.value.name for item in plan.items if isinstance(item.value, Operand)} | {"id", ORIGIN}
    stored = {form for name in names for form in (name, name + HIGH, name + LOW)}
    return stored | {EXTRA}


def _matching(plan: Plan, match: Matcher, batch: Batch) -> Batch:
    """Return the events of a batch of several origins that a plan selects, without the column of origins."""
    origins = batch.columns.get(ORIGIN)
    if origins is None:
        return batch.filter(match(batch))
    named = [str(origins.at(row)) for row in range(batch.count)] if plan.sources else []
    accepted = {name: matches_kind(plan, batch.kind, name) for name in set(named)}
    columns = {name: column for name, column in batch.columns.items() if name != ORIGIN}
    one = str(origins.at(0)) if batch.count else batch.origin
    if accepted:
        one = next((name for name, wanted in accepted.items() if wanted), one)
    batch = replace(batch, columns=columns, origin=one)
    if accepted and not all(accepted.values()):
        batch = batch.filter(np.array([accepted[name] for name in named]))
    return batch.filter(match(batch))


def rows(plan: Plan, batches: Iterable[Batch]) -> Iterator[dict[str, Value]]:
    """Yield the rows of a result, each with the names that the projection gives and without the fields that it lacks."""
    names = {item.name for item in plan.items}
    for batch in batches:
        for row in flat_rows(batch):
            yield {name: value for name, value in row.items() if name in names} if names else row


# --- by id -------------------------------------------------------------------------------------------------------


def fetch(
    wanted: Sequence[EventId],
    connection: DuckDBPyConnection,
    sealed: SealedFiles,
    files: Sequence[SealedFile],
    held: Sequence[Batch],
) -> list[dict[str, Value]]:
    """Return the events with the ids ``wanted`` (ascending) as rows, by id.

    Raises:
        StoreError: a file can not be read.
    """
    found: dict[bytes, dict[str, Value]] = {}
    for batch in [*_files_with(wanted, connection, sealed, files), *held]:
        _collect(wanted, batch, found)
    return [found[identity] for identity in wanted if identity in found]


def _files_with(
    wanted: Sequence[EventId], connection: DuckDBPyConnection, sealed: SealedFiles, files: Sequence[SealedFile]
) -> Iterator[Batch]:
    import duckdb  # noqa: PLC0415  # 65 MB that most processes never need

    for file in files:
        first, last = file.summary.ids
        inside = [identity for identity in wanted if first <= identity <= last]
        if not inside:
            continue
        highs = ", ".join(str(int.from_bytes(identity[:8], "big")) for identity in inside)
        lows = ", ".join(str(int.from_bytes(identity[8:], "big")) for identity in inside)
        where = f'"id{HIGH}" IN ({highs}) AND "id{LOW}" IN ({lows})'
        try:
            with connection.cursor() as cursor:
                cursor.execute(f"SELECT * FROM {sealed.relation([file])} WHERE {where}")  # noqa: S608  # numbers
                batch = restore(fetch_arrays(cursor), file.name.partition.kind)
        except duckdb.Error as error:
            raise StoreError(f"{file.name.path} can not be read ({error}); run verify", retryable=False) from error
        if batch.count:
            yield batch


def _collect(wanted: Sequence[EventId], batch: Batch, found: dict[bytes, dict[str, Value]]) -> None:
    ids = batch.ids()
    places = _places(wanted, ids)
    for row in places:
        values = flat_row(batch, row)
        values.pop(ORIGIN, None)
        identity = values["id"]
        if isinstance(identity, bytes) and identity in wanted:
            found.setdefault(identity, values)


def _places(wanted: Sequence[EventId], ids: Ids) -> list[int]:
    """Return the rows whose two halves are each among those of ``wanted``."""
    highs = {int.from_bytes(identity[:8], "big") for identity in wanted}
    if isinstance(ids.high, int) and ids.high not in highs:
        return []
    lows = np.array([int.from_bytes(identity[8:], "big") for identity in wanted], np.uint64)
    hits = np.isin(ids.low, lows)
    if not isinstance(ids.high, int):
        hits &= np.isin(ids.high, np.array(sorted(highs), np.uint64))
    places: list[int] = np.flatnonzero(hits).tolist()
    return places
