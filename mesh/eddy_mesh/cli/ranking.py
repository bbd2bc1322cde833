"""``eddy top``: the values of a field that come most often, or make most of something."""

from __future__ import annotations

import re
import sys
from contextlib import aclosing
from dataclasses import dataclass
from shutil import get_terminal_size
from time import time_ns
from typing import TYPE_CHECKING, Any

import rich_click as click

from eddy_mesh.cli.connection import bursts, with_mesh
from eddy_mesh.cli.event_output import event_writer
from eddy_mesh.cli.event_view import EventView
from eddy_mesh.cli.events import fetch, follow
from eddy_mesh.cli.output import table_text, tell, time_of_day
from eddy_mesh.cli.parameters import Duration, field_text, period, restriction
from eddy_mesh.cli.screen import screen
from eddy_mesh.cli.settings import Settings, command
from eddy_mesh.errors import UsageError
from eddy_mesh.selection import Plan, compile_statement

if TYPE_CHECKING:
    from eddy_mesh.api import Mesh

LAST_HOUR = "-1h"
WINDOW_PAUSE_S = 0.05
"""Rows of one window come together; a pause of this length ends them."""
_AGGREGATE = re.compile(r"(count|sum|min|max|avg)\s*\(.*\)", re.IGNORECASE)


@command("top")
@click.argument("names", metavar="FIELD...", nargs=-1, required=True)
@click.option("--by", default="count", metavar="WHAT", help="count, or sum(network.bytes), max(...), avg(...).")
@click.option("--since", metavar="TIME", default="", help="From this time on: 10m, 2026-11-21T10:00Z. Else 1h.")
@click.option("--until", metavar="TIME", default="", help="Before this time.")
@click.option("--where", metavar="CONDITION", default="", help="Count only these, for example \"type = 'syslog'\".")
@click.option("--type", "kind", metavar="TYPE", default="", help="Count only this type: syslog, netflow, netflow.v9.")
@click.option("-n", "most", type=click.IntRange(1), default=10, show_default=True, help="Show so many.")
@click.option("--watch", is_flag=True, help="Show live events, refreshed; Ctrl-C ends it.")
@click.option("--every", "every_s", type=Duration(), default=2.0, metavar="TIME", help="Refresh so often. Else 2s.")
@click.option("--archive", metavar="HOST/AGENT", default="", help="Where there are several: this one counts.")
def top(settings: Settings, names: tuple[str, ...], **asked: Any) -> None:
    """Rank the values of FIELD, or of several fields together.

    Stored events are counted by one archive: where there are several, name it with --archive (eddy agents shows them).

    \b
    eddy top source.ip --by "sum(network.bytes)" --since 1d
    eddy top user.name source.ip --where "event.outcome = 'failure'"
    eddy top destination.port --watch
    """  # noqa: D301  # click's mark for lines that stay as they are
    ranking = Ranking(names=names, **asked)
    plan = compile_statement(ranking.statement, now_ns=time_ns())
    if ranking.watch and sys.stdout.isatty() and not settings.json:
        with_mesh(settings, lambda mesh: _watch(mesh, ranking.statement, plan, colour=settings.colour))
        return
    writer = event_writer(settings, plan, live=ranking.watch)
    if ranking.watch:
        with_mesh(settings, lambda mesh: follow(mesh, ranking.statement, writer))
    elif with_mesh(settings, lambda mesh: fetch(mesh, plan, writer, ranking.archive)) == 0:
        tell(f"top counts only events that have {' and '.join(names)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """What is ranked.

    Attributes:
        names: fields that make a group.
        by: ``count``, an aggregate, or a field that is summed.
        since: first time, or "" for an hour ago.
        until: end, or "".
        where: condition, or "".
        kind: type of events or its beginning up to a dot, or "" for all.
        most: rows.
        watch: live windows in place of stored events.
        every_s: length of a window, s.
        archive: ``<host>/<agent>``, or "" for the only one.
    """

    names: tuple[str, ...]
    by: str = "count"
    since: str = ""
    until: str = ""
    where: str = ""
    kind: str = ""
    most: int = 10
    watch: bool = False
    every_s: float = 2.0
    archive: str = ""

    @property
    def period(self) -> str:
        """Clauses SINCE and UNTIL; "" for live windows.

        Raises:
            UsageError: live windows of the past.
        """
        if not self.watch:
            return period(self.since or LAST_HOUR, self.until)
        if self.since or self.until:
            raise UsageError("--watch shows what happens from now on: leave out --since and --until")
        return ""

    @property
    def statement(self) -> str:
        """The statement that ranks.

        Raises:
            UsageError: there is no such field.
        """
        fields = [field_text(name) for name in self.names]
        aggregate, listed = _aggregate(self.by), ", ".join(fields)
        present = " AND ".join(f"{name} IS NOT NULL" for name in fields)
        condition = present + restriction(self.kind, self.where)
        every = f" EVERY {round(self.every_s * 1000)}ms" if self.watch else ""
        return (
            f"SELECT {listed}, {aggregate} WHERE {condition} {self.period} GROUP BY {listed} "
            f"ORDER BY {aggregate} DESC LIMIT {self.most}{every}"
        )


def _aggregate(by: str) -> str:
    if by.strip().lower() == "count":
        return "count(*)"
    return by if _AGGREGATE.fullmatch(by.strip()) else f"sum({field_text(by.strip())})"


async def _watch(mesh: Mesh, statement: str, plan: Plan, *, colour: bool) -> None:
    """Show the rows of the last window in place of those before it."""
    view = EventView(plan, windows=False)
    with screen(colour=colour) as show:
        async with aclosing(mesh.tap(statement)) as events, aclosing(bursts(events, WINDOW_PAUSE_S)) as windows:
            async for window in windows:
                now_ns = time_ns()
                rows = [view.cells(event, now_ns) for event in window]
                width, _ = get_terminal_size()
                table = table_text(view.columns, rows, colour=colour, width=width)
                show(f"until {time_of_day(now_ns, now_ns)}", table)
