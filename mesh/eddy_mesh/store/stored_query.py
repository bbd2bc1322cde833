"""Statements and look-ups by id over sealed files and held events.

What may live here: which files are read together, and how each form of statement is answered. A statement that only
selects comes in chunks, by hour, so that a large result needs little memory; one that groups, orders or limits is one
DuckDB query over everything. Held events meet the same predicate as live ones, or DuckDB as a further table.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from eddy_mesh.batch import EXTRA, Batch
from eddy_mesh.cer import VERSION, EventId, Stage, Value, id_high
from eddy_mesh.columns import Ids
from eddy_mesh.fields import FieldType, type_of
from eddy_mesh.rows import flat_row, flat_rows
from eddy_mesh.selection.evaluate import Matcher, matcher
from eddy_mesh.selection.plan import Item, Operand, Plan, needed_fields
from eddy_mesh.selection.prefilter import matches_kind, source_matches
from eddy_mesh.selection.project import project
from eddy_mesh.selection.sql import DUCKDB, Form, Output, Stored, to_sql
from eddy_mesh.store.arrow_stream import ArrowStream
from eddy_mesh.store.catalogue import SealedFile
from eddy_mesh.store.gather import ORIGIN
from eddy_mesh.store.restore import fetch_arrays, restore
from eddy_mesh.store.sealed import SealedFiles
from eddy_mesh.store.tables import HIGH, LOW, quoted, table_of
from eddy_mesh.store.unfold import unfold

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_CHUNK_ROWS = 1_000_000
"""Files with up to so many events in all are read together."""

_NO_EVENTS = (
    "SELECT '' AS stage, '' AS event_class, '' AS type, '' AS origin, 0::BIGINT AS occurred, 0::BIGINT AS observed, "
    '0::UBIGINT AS "id#hi", 0::UBIGINT AS "id#lo" WHERE false'
)


class Content(NamedTuple):
    """What a statement is asked of.

    Attributes:
        sealed: reads files.
        files: those that may hold selected events, by hour, kind and arrival.
        held: events that are in no file, gathered.
    """

    sealed: SealedFiles
    files: Sequence[SealedFile]
    held: Sequence[Batch]


def is_stream(plan: Plan) -> bool:
    """Return whether a plan only selects and projects, so that its result can come in chunks."""
    return not plan.is_aggregate and not plan.order_by and plan.limit is None


# --- select and project ------------------------------------------------------------------------------------------


def select(plan: Plan, connection: DuckDBPyConnection, content: Content) -> Iterator[Batch]:
    """Yield what a plan for which `is_stream` holds selects, projected.

    Raises:
        duckdb.Error: a file can not be read.
    """
    for chunk in _chunks(content.files):
        found = _read(plan, connection, content.sealed.relation(chunk), chunk)
        if found.count:
            yield project(plan, found)
    match = matcher(plan)
    for batch in content.held:
        found = _matching(plan, match, batch)
        if found.count:
            yield project(plan, found)


def _chunks(files: Iterable[SealedFile]) -> Iterator[list[SealedFile]]:
    """Yield runs of files of one kind, in order, each with a bounded number of events."""
    chunk: list[SealedFile] = []
    rows = 0
    for file in files:
        if chunk and (
            rows + file.summary.rows > _CHUNK_ROWS or file.name.partition.kind != chunk[0].name.partition.kind
        ):
            yield chunk
            chunk, rows = [], 0
        chunk.append(file)
        rows += file.summary.rows
    if chunk:
        yield chunk


def _read(plan: Plan, connection: DuckDBPyConnection, relation: str, files: Sequence[SealedFile]) -> Batch:
    """Return the events of files of one kind that a plan selects, with the columns that its projection needs."""
    with connection.cursor() as cursor:
        names = _names(cursor, relation)
        single = _single_ids(names)
        if any(name in names or name in needed_fields(replace(plan, items=())) for name in single):
            relation, single = _with_lists(names, relation), []
            names = _names(cursor, relation)
        columns = _columns(names)
        wanted = [name for name in columns if not plan.items or name in needed_fields(plan) | {"id", EXTRA}]
        items = tuple(Item(_operand(name, is_id=name in single), name) for name in wanted if name != ORIGIN)
        query = to_sql(replace(_unchecked(plan, files), items=items), DUCKDB, relation, columns)
        cursor.execute(query.sql, query.parameters)
        held = [name for output in query.outputs for name in _stored_names(output)]
        batch = restore(fetch_arrays(cursor, held), files[0].name.partition.kind)
    origins = files[0].summary.origins
    return replace(batch, origin=origins[0]) if origins else batch


def _names(cursor: DuckDBPyConnection, relation: str) -> list[str]:
    """Return the names of the columns of a relation."""
    cursor.execute(f"SELECT * FROM {relation} LIMIT 0")  # noqa: S608  # names are quoted, paths are literals
    return [str(column[0]) for column in cursor.description or []]


def _columns(names: Sequence[str]) -> dict[str, Stored]:
    """Return the fields that columns of these names hold, and where each is."""
    fields = dict.fromkeys(name.removesuffix(HIGH) for name in names if not name.endswith(LOW))
    return {name: Stored.EXTRA if name == EXTRA else Stored.COLUMN for name in fields}


def _single_ids(names: Sequence[str]) -> list[str]:
    """Return the fields for lists of ids that are stored as one id in halves."""
    fields = [name.removesuffix(HIGH) for name in names if name.endswith(HIGH)]
    return [name for name in fields if type_of(name) is FieldType.IDS]


def _stored_names(output: Output) -> list[str]:
    """Return the names of the stored columns that an output of a query is made of."""
    return [output.name + HIGH, output.name + LOW] if output.form is Form.HALVES else [output.name]


def _operand(name: str, *, is_id: bool = False) -> Operand:
    kind = FieldType.ID if is_id else FieldType.TEXT if name == ORIGIN else type_of(name)
    return Operand(name, kind, kind is FieldType.ANY)


def _matching(plan: Plan, match: Matcher, batch: Batch) -> Batch:
    """Return the events of a gathered batch that a plan selects, without the column of origins."""
    origins = batch.columns.get(ORIGIN)
    if origins is None:
        return batch.filter(match(batch))
    columns = {name: column for name, column in batch.columns.items() if name != ORIGIN}
    named = np.array([str(origins.at(row)) for row in range(batch.count)] if plan.sources else [batch.origin])
    accepted = [name for name in np.unique(named).tolist() if matches_kind(plan, batch.kind, name)]
    batch = replace(batch, columns=columns, origin=accepted[0] if accepted else "")
    if plan.sources:
        batch = batch.filter(np.isin(named, accepted))
    return batch.filter(match(batch))


def _unchecked(plan: Plan, files: Sequence[SealedFile]) -> Plan:
    """Return a plan that does not look at kind and origin, where every event of ``files`` has one that FROM selects.

    Comparing three texts for each row costs as much as the rest of a usual statement.
    """
    sure = all(_is_selected(plan, file) for file in files)
    return replace(plan, sources=(), every_stage=True) if sure else plan


def _is_selected(plan: Plan, file: SealedFile) -> bool:
    kind, origins = file.name.partition.kind, file.summary.origins
    if not plan.every_stage and kind.stage is Stage.RAW:
        return False
    if not plan.sources:
        return True
    return origins is not None and all(
        any(source_matches(pattern, kind, origin) for pattern in plan.sources) for origin in origins
    )


# --- groups and order --------------------------------------------------------------------------------------------


def answer(plan: Plan, connection: DuckDBPyConnection, content: Content) -> list[dict[str, Value]]:
    """Return the rows of any plan, by one query over everything.

    Raises:
        duckdb.Error: a file can not be read, or there is not enough memory.
    """
    with connection.cursor() as cursor:
        tables = [f"SELECT * FROM {content.sealed.relation(content.files)}"] if content.files else []  # noqa: S608
        streams: list[ArrowStream] = []  # alive until they were read
        for number, batch in enumerate(content.held):
            table = table_of(unfold(batch))
            streams.append(table.stream())
            cursor.register(f"held{number}", streams[-1])
            tables.append(table.select(f"held{number}"))
        relation = f"({' UNION ALL BY NAME '.join(tables) or _NO_EVENTS}) AS events"
        relation = _with_lists(_names(cursor, relation), relation)
        asked = plan if content.held else _unchecked(plan, content.files)
        query = to_sql(asked, DUCKDB, relation, _columns(_names(cursor, relation)))
        cursor.execute(query.sql, query.parameters)
        found = query.rows(cursor.fetchall())
    if plan.is_aggregate:
        return found
    shown = {item.name for item in plan.items}
    implied: dict[str, Value] = {} if shown else {"version": VERSION}
    return [
        implied
        | {name: value for name, value in row.items() if value is not None and (name != ORIGIN or name in shown)}
        for row in found
    ]


def _with_lists(names: Sequence[str], relation: str) -> str:
    """Return a relation in which a single id of a list is bytes, as several are: what statements expect."""
    single = _single_ids(names)
    if not single:
        return relation
    left_out = ", ".join(quoted(name + half) for name in single for half in (HIGH, LOW))
    both = ", ".join(quoted(name) for name in single if name in names)
    joined = []
    for name in single:
        packed = f"unhex(printf('%016x%016x', {quoted(name + HIGH)}, {quoted(name + LOW)}))"
        joined.append(f"{f'coalesce({quoted(name)}, {packed})' if name in names else packed} AS {quoted(name)}")
    left_out += f", {both}" if both else ""
    return f"(SELECT * EXCLUDE ({left_out}), {', '.join(joined)} FROM {relation}) AS events"  # noqa: S608  # see above


def rows(batch: Batch, plan: Plan) -> Iterator[dict[str, Value]]:
    """Yield the events of a projected batch as rows, each with the names that the projection gives."""
    names = {item.name for item in plan.items}
    for row in flat_rows(batch):
        yield {name: value for name, value in row.items() if name in names} if names else row


# --- by id -------------------------------------------------------------------------------------------------------


def fetch(wanted: Sequence[EventId], connection: DuckDBPyConnection, content: Content) -> list[dict[str, Value]]:
    """Return the events with the ids ``wanted`` (ascending) as rows, by id.

    Raises:
        duckdb.Error: a file can not be read.
    """
    found: dict[bytes, dict[str, Value]] = {}
    for batch in [*_sealed_with(wanted, connection, content), *content.held]:
        for row in _places(wanted, batch.ids()):
            values = flat_row(batch, row)
            values.pop(ORIGIN, None)
            identity = values["id"]
            assert isinstance(identity, bytes)
            found.setdefault(identity, values)
    return [found[identity] for identity in wanted if identity in found]


def known(ids: Ids, connection: DuckDBPyConnection, content: Content) -> npt.NDArray[np.bool_]:
    """Return True for each of the ids that an event has.

    Raises:
        duckdb.Error: a file can not be read.
    """
    wanted = sorted({identity for row in range(len(ids)) if isinstance(identity := ids.at(row), bytes)})
    held = [*_sealed_with([EventId(identity) for identity in wanted], connection, content)]
    held += [batch for batch in content.held if _may_have(batch, ids)]
    found: set[Value] = set()
    for other in (batch.ids() for batch in held):
        found.update(other.at(row) for row in np.flatnonzero(np.isin(other.low, ids.low)).tolist())
    return np.fromiter((ids.at(row) in found for row in range(len(ids))), np.bool_, len(ids))


def _may_have(batch: Batch, ids: Ids) -> bool:
    """Whether a batch may hold one of the ids: two that were made at different times have none in common."""
    if "id" in batch.columns or not isinstance(ids.high, int):
        return True
    return id_high(batch.stamp_ms, batch.producer.epoch) == ids.high


def _sealed_with(wanted: Sequence[EventId], connection: DuckDBPyConnection, content: Content) -> Iterator[Batch]:
    for file in content.files:
        first, last = file.summary.ids
        inside = [identity for identity in wanted if first <= identity <= last]
        if not inside:
            continue
        highs = ", ".join(str(int.from_bytes(identity[:8], "big")) for identity in inside)
        lows = ", ".join(str(int.from_bytes(identity[8:], "big")) for identity in inside)
        where = f'"id{HIGH}" IN ({highs}) AND "id{LOW}" IN ({lows})'
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT * FROM {content.sealed.relation([file])} WHERE {where}")  # noqa: S608  # numbers
            batch = restore(fetch_arrays(cursor), file.name.partition.kind)
        if batch.count:
            yield batch


def _places(wanted: Sequence[EventId], ids: Ids) -> list[int]:
    """Return the rows with an id among ``wanted``; most rows are ruled out by their halves."""
    highs = {int.from_bytes(identity[:8], "big") for identity in wanted}
    if isinstance(ids.high, int) and ids.high not in highs:
        return []
    lows = np.array([int.from_bytes(identity[8:], "big") for identity in wanted], np.uint64)
    named = set(wanted)
    return [row for row in np.flatnonzero(np.isin(ids.low, lows)).tolist() if ids.at(row) in named]
