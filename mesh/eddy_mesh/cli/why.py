"""``eddy why``: a diagnosis, the events that led to it, and what was expected and did not appear."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from time import time_ns

import msgspec
import rich_click as click
from click.exceptions import Exit

from eddy_mesh.api import Event, Mesh
from eddy_mesh.cer import Value, id_text
from eddy_mesh.cli.connection import with_mesh
from eddy_mesh.cli.event_view import EventView, level_cell, readable, summary
from eddy_mesh.cli.folding import line_width, say
from eddy_mesh.cli.output import Cell, Column, json_line, printable, tell, time_of_day, write_table, zone
from eddy_mesh.cli.settings import Settings, command
from eddy_mesh.cli.stored import archives
from eddy_mesh.errors import UsageError
from eddy_mesh.rows import json_value, split_ids, value_of_json
from eddy_mesh.selection import compile_statement

FIRST_SHOWN = 20
"""Events of the evidence that are shown where not all are asked for."""
CHOICE = 20
"""Newest diagnoses to choose from."""
IDS_OF_A_FETCH = 5_000
"""36 characters each: well inside one message."""
ID_DIGITS = 32
ID_CHARACTERS = 36
"""Digits and dashes."""
TIME_CHARACTERS = 12
"""Of the clock to the ms, and more than of the day."""
IDS_NAMED = 10
LEAST_DIGITS = 8
DIAGNOSED = "SELECT id, occurred, level, type, source.ip, event.type, diagnosis.hypothesis"
PROPERTIES = ("diagnosis.id", "level", "host", "source.ip", "destination.ip", "user.name", "normalizer", "id")
NAMES_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Explanation:
    """A diagnosis and what is known of why it was made.

    Attributes:
        diagnosis: the analyzed event.
        evidence: the stored events that it names, in time order.
        missing: ids (UUID texts) of those that are not stored any more.
    """

    diagnosis: Event
    evidence: tuple[Event, ...]
    missing: tuple[str, ...]

    @property
    def expected(self) -> list[str]:
        """What was expected and did not appear."""
        told = self.diagnosis.get("diagnosis.expected")
        return [str(each) for each in told] if isinstance(told, list) else []


@command("why")
@click.argument("identity", metavar="[ID]", default="")
@click.option(
    "--all", "everything", is_flag=True, help=f"Show all of the evidence, not the first {FIRST_SHOWN} events."
)
@click.option("--archive", metavar="HOST/AGENT", default="", help="Ask this archive; else every one is asked.")
def why(settings: Settings, identity: str, everything: bool, archive: str) -> None:
    """Show the diagnosis ID with the events that led to it, and what was expected and did not appear.

    ID is that of the event, or its first digits (8 or more). Without one, the newest diagnoses are shown to choose
    from.

    \b
    eddy why
    eddy why 01a2002d
    eddy why 01a2002d-e4c7 --all
    """  # noqa: D301  # click's mark for lines that stay as they are
    if not identity:
        _show_choice(settings, with_mesh(settings, lambda mesh: _choice(mesh, archive)))
        return
    condition = named(identity)
    found = with_mesh(settings, lambda mesh: _explained(mesh, condition, archive))
    if isinstance(found, Explanation):
        _show(settings, found, everything=everything)
        return
    if not found:
        raise UsageError(f"no diagnosis {identity} is stored: eddy why shows the newest")
    _show_choice(settings, found)
    tell(several(identity, [_id(event) for event in found]))
    raise Exit(2)


def several(identity: str, ids: Sequence[str]) -> str:
    """Return that digits say too little, and the first of the ids that begin so, each whole on a line."""
    least = "at least " if len(ids) == CHOICE else ""  # no more are asked for
    left_out = len(ids) - IDS_NAMED
    more = [f"  and {left_out} more"] if left_out > 0 else []
    named_ids = [f"  {each}" for each in ids[:IDS_NAMED]]
    return "\n".join([f"{least}{len(ids):,} diagnoses begin with {identity}: give more digits", *named_ids, *more])


def named(identity: str) -> str:
    """Return the condition that an event has an id, or one that begins so.

    Args:
        identity: hexadecimal digits, with dashes or without.

    Raises:
        UsageError: it is not the beginning of an id.
    """
    digits = identity.replace("-", "").lower()
    if not LEAST_DIGITS <= len(digits) <= ID_DIGITS or set(digits) - set("0123456789abcdef"):
        raise UsageError(f"{identity} is no id: give {LEAST_DIGITS} or more of its first digits; eddy why shows some")
    first, last = (id_text(bytes.fromhex(digits.ljust(ID_DIGITS, end))) for end in "0f")
    return f"id BETWEEN '{first}' AND '{last}'"


# --- asking ------------------------------------------------------------------------------------------------------


async def _choice(mesh: Mesh, archive: str) -> list[Event]:
    return await _newest(mesh, await archives(mesh, archive))


async def _newest(mesh: Mesh, places: list[str], condition: str = "") -> list[Event]:
    """Return the newest diagnoses that archives hold, newest first."""
    more = f" AND {condition}" if condition else ""
    statement = f"{DIAGNOSED} WHERE stage = 'analyzed'{more} ORDER BY occurred DESC LIMIT {CHOICE}"
    found: list[Event] = []
    for place in places:
        async with aclosing(mesh.query(statement, archive=place)) as events:
            found += [event async for event in events]
    return sorted(_once(found), key=_age, reverse=True)[:CHOICE]


async def _explained(mesh: Mesh, condition: str, archive: str) -> Explanation | list[Event]:
    """Return the one diagnosis with its evidence; where there are none or several, these."""
    places = await archives(mesh, archive)
    found = await _newest(mesh, places, condition)
    if len(found) != 1:
        return found
    statement = f"SELECT * WHERE stage = 'analyzed' AND {named(_id(found[0]))}"
    for place in places:
        async with aclosing(mesh.query(statement, archive=place)) as events:
            async for diagnosis in events:
                return await _with_evidence(mesh, diagnosis, places)
    return []


async def _with_evidence(mesh: Mesh, diagnosis: Event, places: list[str]) -> Explanation:
    wanted = evidence_ids(diagnosis)
    held: list[Event] = []
    for place in places:
        for start in range(0, len(wanted), IDS_OF_A_FETCH):
            request = {"ids": wanted[start : start + IDS_OF_A_FETCH]}
            async with aclosing(mesh.ask("archive", "fetch", request, agent=place)) as rows:
                held += [_event(row) async for row in rows]
    evidence = tuple(sorted(_once(held), key=_age))
    there = {_id(event) for event in evidence}
    return Explanation(diagnosis, evidence, tuple(identity for identity in wanted if identity not in there))


def evidence_ids(diagnosis: Mapping[str, Value]) -> list[str]:
    """Return the ids (UUID texts) of the events that a diagnosis names, each once."""
    told = diagnosis.get("diagnosis.evidence")
    ids: list[object] = split_ids(told) if isinstance(told, bytes) else list(told) if isinstance(told, list) else []
    return list(dict.fromkeys(id_text(each) if isinstance(each, bytes) else str(each) for each in ids))


def _event(row: Mapping[str, object]) -> Event:
    return Event({name: value_of_json(name, value) for name, value in row.items() if name != "#id"})


def _id(event: Event) -> str:
    return str(json_value("id", event.get("id")))


def _occurred(event: Event) -> int:
    occurred = event.get("occurred", event.get("observed"))
    return occurred if isinstance(occurred, int) else 0


def _age(event: Event) -> tuple[int, str]:
    return _occurred(event), _id(event)


def _once(events: list[Event]) -> list[Event]:
    """Return events of several archives, each once."""
    return list({_id(event): event for event in events}.values())


# --- showing -----------------------------------------------------------------------------------------------------


def _show_choice(settings: Settings, found: list[Event]) -> None:
    if settings.json:
        for event in found:
            sys.stdout.write(json_line(event.json()).decode() + "\n")
        return
    if not found:
        tell("no diagnosis is stored yet")
        return
    now_ns = time_ns()
    rows = [choice_cells(event, now_ns) for event in found]
    write_table(choice_columns(), rows, colour=settings.colour)
    tell(f"eddy why {_id(found[0])} shows what led to the newest")


def choice_columns() -> list[Column]:
    """Return the columns of diagnoses to choose from: ids are whole, and day and clock fold on a short line."""
    time = Column(f"time {zone()}", folds=TIME_CHARACTERS)
    return [Column("id", least=ID_CHARACTERS), time, Column("level"), Column("diagnosis")]


def choice_cells(event: Event, now_ns: int) -> list[Cell]:
    """Return the row of a diagnosis; a time of another day than ``now_ns`` has the day."""
    time = Cell(_time(event, now_ns), wraps=True)
    return [Cell(_id(event), "notable"), time, _level(event), summary(event)._replace(wraps=True)]


def _show(settings: Settings, explanation: Explanation, *, everything: bool) -> None:
    if settings.json:
        sys.stdout.write(json_line(explanation_json(explanation)).decode() + "\n")
        return
    now_ns = time_ns()
    for line in heading(explanation, now_ns, line_width(sys.stdout)):
        click.echo(printable(line))
    shown = explanation.evidence if everything else explanation.evidence[:FIRST_SHOWN]
    view = EventView(compile_statement("SELECT *", now_ns=now_ns))
    click.echo()
    if shown:
        write_table(view.columns, [view.cells(event, now_ns) for event in shown], colour=settings.colour)
    for line in closing(explanation, len(shown)):
        say(printable(line))


def explanation_json(explanation: Explanation) -> bytes:
    """Return diagnosis, evidence and the ids of what is missing as one JSON object."""
    return msgspec.json.encode(
        {
            "diagnosis": msgspec.Raw(explanation.diagnosis.json()),
            "evidence": [msgspec.Raw(event.json()) for event in explanation.evidence],
            "not_stored": explanation.missing,
        }
    )


def heading(explanation: Explanation, now_ns: int, width: int) -> list[str]:
    """Return what the diagnosis says: hypothesis, when, level, source, and what did not appear.

    Args:
        explanation: the diagnosis.
        now_ns: times of another day than this one are shown with the day.
        width: characters of a line; 0 stands for any number.
    """
    diagnosis = explanation.diagnosis
    lines = [readable(diagnosis), f"  {'when':<14}  {_span(diagnosis, now_ns)}"]
    for name in PROPERTIES:
        if name in diagnosis:
            level = diagnosis[name] if name == "level" else None
            text = level_cell(level).text if isinstance(level, int) and level in range(8) else None
            lines.append(f"  {name:<14}  {text or json_value(name, diagnosis[name])}")
    if explanation.expected:
        lines += ["expected, and did not appear:", *(f"  {each}" for each in explanation.expected)]
    if not width:
        return lines
    return [part for line in lines for part in textwrap.wrap(line, width, subsequent_indent="  ") or [""]]


def closing(explanation: Explanation, shown: int) -> list[str]:
    """Return how much of the evidence there is, and what is not stored any more."""
    named_count = len(explanation.evidence) + len(explanation.missing)
    contributed = explanation.diagnosis.get("diagnosis.count")
    total = contributed if isinstance(contributed, int) else named_count
    lines = [f"{total:,} event{'' if total == 1 else 's'} contributed"]
    if total > named_count:
        lines[0] += f"; the diagnosis names {named_count:,} of them"
    if shown < len(explanation.evidence):
        lines[0] += f"; the first {shown:,} are shown, --all shows {len(explanation.evidence):,}"
    if explanation.missing:
        some = ", ".join(explanation.missing[:NAMES_SHOWN]) + (" ..." if len(explanation.missing) > NAMES_SHOWN else "")
        verb = "is" if len(explanation.missing) == 1 else "are"
        lines.append(f"{len(explanation.missing):,} of the named {verb} not stored any more: {some}")
    return lines


def _span(diagnosis: Event, now_ns: int) -> str:
    """Return when it happened: the first and last event that contributed, else when it was found."""
    start, end = diagnosis.get("diagnosis.start"), diagnosis.get("diagnosis.end")
    if not isinstance(start, int) or not isinstance(end, int):
        return f"{_time(diagnosis, now_ns)} {zone()}"
    until = f" to {time_of_day(end, now_ns)}" if end != start else ""
    return f"{time_of_day(start, now_ns)}{until} {zone()}"


def _time(event: Event, now_ns: int) -> str:
    return time_of_day(_occurred(event), now_ns)


def _level(event: Event) -> Cell:
    level = event.get("level")
    return level_cell(level) if isinstance(level, int) and level in range(8) else Cell("-", "quiet")
