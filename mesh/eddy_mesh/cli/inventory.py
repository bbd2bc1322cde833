"""``eddy types`` and ``eddy fields``: which events there are, where, and what they can say."""

from __future__ import annotations

from collections.abc import Iterable
from time import time_ns
from typing import TYPE_CHECKING

import msgspec
import rich_click as click
from click.exceptions import Exit

from eddy_mesh.batch import Kind
from eddy_mesh.bus import NoResponders
from eddy_mesh.cer import EventClass, Stage
from eddy_mesh.cli.connection import with_mesh
from eddy_mesh.cli.output import Cell, Column, rate_text, tell, time_of_day, write_records, write_table
from eddy_mesh.cli.settings import Settings, command
from eddy_mesh.cli.statuses import HostStatus, host_statuses, rate, two_samples
from eddy_mesh.errors import BusError, UsageError
from eddy_mesh.fields import Field, nearest, registry
from eddy_mesh.rows import time_text
from eddy_mesh.selection import compile_statement, matches_kind

if TYPE_CHECKING:
    from eddy_mesh.api import Mesh

EVERYTHING = "SELECT * WHERE stage IS NOT NULL"
TYPE_COLUMNS = [
    Column("stage", spare=True),
    Column("class", spare=True),
    Column("type"),
    Column("host"),
    Column("agent"),
    Column("held"),
    Column("events", right=True),
    Column("rate/s", right=True),
    Column("last", right=True, spare=True),
    Column("first", right=True, spare=True),
]
FIELD_COLUMNS = [
    Column("field"),
    Column("type"),
    Column("unit", spare=True),
    Column("seen", spare=True),
    Column("meaning"),
]


class TypeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Events of one kind at one place.

    Attributes:
        holding: ``live`` where an agent makes them, ``stored`` where an archive holds them.
        rate: events/s now; 0 for a store.
        fields: names of the fields that they have.
        silent: nothing was heard of the host process for a while.
    """

    stage: str
    event_class: str
    type: str
    host: str
    agent: str
    holding: str = "live"
    count: int = 0
    rate: float = 0.0
    first_ns: int = 0
    last_ns: int = 0
    fields: list[str] = []
    silent: bool = False


@command("types")
@click.argument("statement", default=EVERYTHING, metavar="[STATEMENT]")
def types(settings: Settings, statement: str) -> None:
    """Show which events are where, since when and at what rate; with STATEMENT only those that it could select.

    The directory is asked; where there is none, the host processes are.
    """
    compile_statement(statement, now_ns=time_ns())
    records = with_mesh(settings, lambda mesh: located(mesh, statement))
    if settings.json:
        write_records([_json(record) for record in records])
        return
    now_ns = time_ns()
    write_table(TYPE_COLUMNS, [_type_cells(record, now_ns) for record in records], colour=settings.colour)
    if not records:
        tell("no events yet")


async def located(mesh: Mesh, statement: str) -> list[TypeRecord]:
    """Return which events that a statement could select are where.

    Raises:
        BusError: the directory answers in a form that is not known.
    """
    try:
        rows = [row async for row in mesh.ask("directory", "locate", {"statement": statement})]
    except NoResponders:
        return census(*await two_samples(mesh), statement)
    try:
        records = msgspec.convert(rows, list[TypeRecord])
    except msgspec.ValidationError as error:
        raise BusError(f"the directory answers in another form ({error}): is its version the same?") from None
    return sorted(records, key=_order)


def census(before: dict[str, HostStatus], after: list[HostStatus], statement: str) -> list[TypeRecord]:
    """Return the same from what the host processes themselves say, at two moments."""
    plan = compile_statement(statement, now_ns=time_ns())
    records = []
    for host in after:
        earlier = before.get(host.host, host)
        counts = {(seen.agent, seen.stage, seen.event_class, seen.type): seen.count for seen in earlier.types}
        for seen in host.types:
            if not matches_kind(plan, Kind(Stage(seen.stage), EventClass(seen.event_class), seen.type), host.host):
                continue
            key = (seen.agent, seen.stage, seen.event_class, seen.type)
            per_second = rate(counts.get(key, seen.count), seen.count, host.now_ns - earlier.now_ns)
            told = msgspec.to_builtins(seen)
            records.append(msgspec.convert({**told, "host": host.host, "rate": per_second}, TypeRecord))
    return sorted(records, key=_order)


def _order(record: TypeRecord) -> tuple[str, ...]:
    return (record.event_class, record.type, record.stage, record.host, record.agent, record.holding)


def _json(record: TypeRecord) -> dict[str, object]:
    told: dict[str, object] = msgspec.to_builtins(record)
    for name in ("first", "last"):
        moment = told.pop(f"{name}_ns")
        told[name] = time_text(moment) if isinstance(moment, int) and moment else None
    return told


def _type_cells(record: TypeRecord, now_ns: int) -> list[Cell]:
    times = [time_of_day(moment, now_ns) if moment else "-" for moment in (record.last_ns, record.first_ns)]
    return [
        Cell(record.stage, "quiet"),
        Cell(record.event_class),
        Cell(record.type, "notable"),
        Cell(record.host),
        Cell(record.agent),
        Cell("silent", "warning") if record.silent else Cell(record.holding),
        Cell(f"{record.count:,}"),
        Cell(rate_text(record.rate) if record.holding == "live" else "-"),
        *(Cell(text) for text in times),
    ]


# --- fields --------------------------------------------------------------------------------------------------------


@command("fields")
@click.argument("pattern", default="")
@click.option("--seen", "only_seen", is_flag=True, help="Show only those that some event of this backplane has.")
def fields(settings: Settings, pattern: str, only_seen: bool) -> None:
    """Show the fields that events can have: name, type, unit, meaning.

    PATTERN is a part of the name or of the meaning. Fields that events of the running backplane have are marked.
    """
    seen = _seen(settings)
    if only_seen and seen is None:
        raise UsageError("--seen needs a backplane, and none was found: start one with eddy-agent up, or give --server")
    known = [field for field in found_fields(pattern) if not only_seen or (seen is not None and field.name in seen)]
    if settings.json:
        write_records([_field_record(field, seen) for field in known])
    elif known:
        write_table(FIELD_COLUMNS, [_field_cells(field, seen) for field in known], colour=settings.colour)
    if not known:
        near = nearest(pattern) if pattern else ""
        tell(f"no field has {pattern!r} in its name or meaning" + (f"; did you mean {near}?" if near else ""))
        raise Exit(1)


def found_fields(pattern: str) -> list[Field]:
    """Return the fields with a text in their name or meaning, upper and lower case alike; names first."""
    wanted = pattern.lower()
    named = [field for name, field in registry().items() if wanted in name.lower()]
    meant = [field for field in registry().values() if wanted in field.meaning.lower() and field not in named]
    return named + meant


def _seen(settings: Settings) -> set[str] | None:
    """Return the names of the fields that events of the backplane have, or None where there is no backplane."""
    try:
        hosts = with_mesh(settings, host_statuses)
    except (UsageError, BusError):
        if settings.server or settings.context:
            raise
        return None  # the registry is worth showing without one
    return set(_names(hosts))


def _names(hosts: list[HostStatus]) -> Iterable[str]:
    return (name for host in hosts for seen in host.types for name in seen.fields)


def _field_record(field: Field, seen: set[str] | None) -> dict[str, object]:
    told: dict[str, object] = msgspec.to_builtins(field)
    return {**told, "seen": None if seen is None else field.name in seen}


def _field_cells(field: Field, seen: set[str] | None) -> list[Cell]:
    is_seen = seen is not None and field.name in seen
    return [
        Cell(field.name, "good" if is_seen else ""),
        Cell(str(field.type), "notable"),
        Cell(field.unit),
        Cell("yes" if is_seen else "", "good"),
        Cell(field.meaning),
    ]
