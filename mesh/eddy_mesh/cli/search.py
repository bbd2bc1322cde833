"""``eddy grep``: a pattern in stored events, live events, or a file of events."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from time import time_ns
from typing import Any, BinaryIO

import rich_click as click
from click.exceptions import Exit

from eddy_mesh.api import Event
from eddy_mesh.cli.connection import with_mesh
from eddy_mesh.cli.event_files import EventFile
from eddy_mesh.cli.event_output import EventWriter, event_writer
from eddy_mesh.cli.events import fetch, follow
from eddy_mesh.cli.output import tell
from eddy_mesh.cli.parameters import NOT_EDDY, period, restriction, search_condition
from eddy_mesh.cli.settings import Settings, command
from eddy_mesh.errors import UsageError
from eddy_mesh.selection import Plan, compile_statement

LAST_HOUR = "-1h"
COUNTED = "SELECT host, type, count(*) AS events"


@command("grep")
@click.argument("pattern")
@click.option("--field", "names", multiple=True, metavar="F", help="Look at this field; may be given several times.")
@click.option(
    "--type", "kind", metavar="TYPE", default="", help="Only events of this type: syslog, netflow, netflow.v9."
)
@click.option("--where", metavar="CONDITION", default="", help='Only these, for example "level <= warning".')
@click.option("--since", metavar="TIME", default="", help="From this time on: 10m, 2026-11-21T10:00Z. Else 1h.")
@click.option("--until", metavar="TIME", default="", help="Before this time.")
@click.option("--count", "-c", "counts", is_flag=True, help="Show how many there are of each host and type.")
@click.option(
    "--file", "-f", "file", type=click.File("rb"), help="Search a file of NDJSON events; - is standard input."
)
@click.option("--ignore-case", "-i", is_flag=True, help="Upper and lower case are the same.")
@click.option(
    "--invert-match", "-v", "invert", is_flag=True, help="Show the events that have the field and do not match."
)
@click.option("--live", is_flag=True, help="Search events as they happen; with --since the stored ones first.")
@click.option(
    "--archive", metavar="HOST/AGENT", default="", help="Ask this archive. Else every one; with -c the only one."
)
def grep(settings: Settings, pattern: str, **asked: Any) -> None:
    """Find PATTERN, a regular expression (RE2), in what events say.

    Without --field it looks at the texts that people read (message, hypothesis, error, program, event code), and at
    source, destination and host address where PATTERN is an address or a network. What the eddy commands themselves do
    on a host is left out.

    \b
    eddy grep "Failed password" --since 1d -c
    eddy grep 192.0.2.0/24 --live
    eddy grep sshd --field process.name -f events.ndjson
    """  # noqa: D301  # click's mark for lines that stay as they are
    search = Search(pattern=pattern, **asked)
    plan = compile_statement(search.statement, now_ns=time_ns())
    if search.file is not None:
        _search_file(EventFile(search.file), plan, None if search.counts else event_writer(settings, plan), settings)
        return
    writer = event_writer(settings, plan, live=search.live)
    if search.live:
        with_mesh(settings, lambda mesh: follow(mesh, search.statement, writer))
    elif with_mesh(settings, lambda mesh: fetch(mesh, plan, writer, search.archive)) == 0:
        raise Exit(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What is looked for, and where.

    Attributes:
        pattern: regular expression, or literal for fields that are no text.
        names: fields; none stands for those that people read.
        kind: type of events or its beginning up to a dot, or "" for all.
        where: condition, or "".
        since: first time, or "" for an hour ago (from now on for live events, all of a file).
        until: end, or "".
        counts: count by host and type in place of showing.
        file: NDJSON, or None.
        ignore_case: upper and lower case are the same.
        invert: what does not match.
        live: as events happen.
        archive: ``<host>/<agent>``, or "" for every one.
    """

    pattern: str
    names: tuple[str, ...] = ()
    kind: str = ""
    where: str = ""
    since: str = ""
    until: str = ""
    counts: bool = False
    file: BinaryIO | None = None
    ignore_case: bool = False
    invert: bool = False
    live: bool = False
    archive: str = ""

    def __post_init__(self) -> None:
        if self.live and (self.counts or self.file is not None):
            raise UsageError("--live shows events as they come: leave out --count and --file, or use eddy top --watch")

    @property
    def period(self) -> str:
        """Clauses SINCE and UNTIL."""
        unlimited = self.live or self.file is not None
        return period(self.since or ("" if unlimited else LAST_HOUR), self.until)

    @property
    def statement(self) -> str:
        """The statement that finds, or counts.

        Raises:
            UsageError: there is no such field.
        """
        found = search_condition(self.pattern, self.names, ignore_case=self.ignore_case, invert=self.invert)
        found += restriction(self.kind, self.where)
        if "process.name" not in self.names:
            found += f" AND {NOT_EDDY}"
        if self.counts and self.file is None:
            return f"{COUNTED} WHERE {found} {self.period} GROUP BY host, type ORDER BY events DESC"
        return f"SELECT * WHERE {found} {self.period}"


def _search_file(file: EventFile, plan: Plan, writer: EventWriter | None, settings: Settings) -> None:
    found = 0
    counted: Counter[tuple[object, object]] = Counter()
    for event in file.select(plan):
        found += 1
        if writer is None:
            counted[event.get("host"), event.get("type")] += 1
        else:
            writer.write(event)
    if writer is None:
        columns = compile_statement(f"{COUNTED} GROUP BY host, type", now_ns=0)
        writer = event_writer(settings, columns)
        for (host, kind), events in counted.most_common():
            writer.write(Event({"host": host, "type": kind, "events": events}))  # type: ignore[dict-item]
    writer.flush()
    if file.refused:
        tell(f"{file.refused:,} lines are no events in JSON and were left out (first: line {file.first_refused})")
    if found == 0:
        raise Exit(1)
