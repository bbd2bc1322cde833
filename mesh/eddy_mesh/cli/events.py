"""``eddy tap`` and ``eddy query``: events of a statement, as they happen and as they are stored."""

from __future__ import annotations

import asyncio
import re
import sys
from contextlib import aclosing
from time import monotonic, time_ns
from typing import TYPE_CHECKING

import rich_click as click

from eddy_mesh.bus import BusState
from eddy_mesh.cli.connection import with_mesh
from eddy_mesh.cli.event_output import EventWriter, event_writer
from eddy_mesh.cli.output import duration_text, tell
from eddy_mesh.cli.parameters import Duration
from eddy_mesh.cli.settings import Settings, command
from eddy_mesh.cli.stored import stored, tell_nothing
from eddy_mesh.errors import UsageError
from eddy_mesh.selection import Plan, compile_statement

if TYPE_CHECKING:
    from eddy_mesh.api import Mesh

EVERYTHING = "SELECT *"
EVERY_STAGE = "SELECT * WHERE stage IN ('raw', 'cooked', 'analyzed')"
AGENT_SIDE = re.compile(r"[^\s'\"]+:(in|out)")
IDLE_S = 1.0
"""After so long without an event a person is told that the command waits."""


@command("tap")
@click.argument("words", nargs=-1, metavar="[AGENT:in|AGENT:out] [STATEMENT]")
@click.option("--csv", "as_csv", is_flag=True, help="Write CSV; the statement names the columns.")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after so many events.")
@click.option("--for", "for_s", type=Duration(), metavar="TIME", help="End after this time, for example 10s.")
def tap(settings: Settings, words: tuple[str, ...], as_csv: bool, count: int | None, for_s: float | None) -> None:
    """Show events as they happen.

    STATEMENT selects and projects; without one everything is shown. With SINCE the stored events come first and the
    live ones follow without a gap. On a terminal it is a table, in a pipe NDJSON. With AGENT:in or AGENT:out only what
    that agent takes in or gives out is shown, raw events too; the agent is not disturbed. All instances of an agent of
    the manifest are shown together, and followed where a change of the topology takes them.

    \b
    eddy tap "SELECT source.ip, destination.port FROM network.netflow"
    eddy tap "SELECT * WHERE level <= warning SINCE '-10m'"
    eddy tap "SELECT host, count(*) GROUP BY host EVERY 10s"
    eddy tap cook-syslog:in --count 5
    """  # noqa: D301  # click's mark for lines that stay as they are
    watch, statement = _watch_and_statement(words)
    plan = compile_statement(statement, now_ns=time_ns())
    writer = event_writer(settings, plan, as_csv=as_csv, live=True)
    with_mesh(settings, lambda mesh: follow(mesh, statement, writer, count, for_s, watch=watch))


def _watch_and_statement(words: tuple[str, ...]) -> tuple[str, str]:
    watch = words[0] if words and AGENT_SIDE.fullmatch(words[0]) else ""
    rest = words[1:] if watch else words
    if len(rest) > 1:
        raise UsageError(f"{rest[1]!r} is one word too many: write the statement in quotation marks")
    return watch, rest[0] if rest else EVERY_STAGE if watch else EVERYTHING


async def follow(
    mesh: Mesh,
    statement: str,
    writer: EventWriter,
    most: int | None = None,
    for_s: float | None = None,
    *,
    watch: str = "",
) -> None:
    """Write the events of a statement as they happen, and say at the end how many there were and what was lost.

    Args:
        mesh: connected.
        statement: select/project statement.
        writer: where they go.
        most: end after so many, or None.
        for_s: end after so long, s, or None.
        watch: ``AGENT:in`` or ``AGENT:out``, or "" for everybody's events.
    """
    began, shown = monotonic(), 0
    end = asyncio.timeout(for_s)
    idle = asyncio.get_running_loop().call_later(IDLE_S, _tell_listening)
    unlisten = mesh.bus.on_state(_tell_state)
    try:
        async with end, aclosing(mesh.tap(statement, watch=watch, on_change=tell)) as events:
            async for event in events:
                idle.cancel()
                writer.write(event)
                shown += 1
                if shown == most:
                    break
    except TimeoutError:
        if not end.expired():
            raise
    finally:
        idle.cancel()
        unlisten()
        lost = lost_on_the_way(mesh)
        loss = f"{lost:,} events were lost on the way here" if lost else "none lost on the way here"
        if not mesh.is_sure:
            loss += " as far as is known: not every host process could say what it sent"
        tell(f"{shown:,} event{'' if shown == 1 else 's'} in {duration_text((monotonic() - began) * 1e9)}, {loss}")
    writer.flush()


def _tell_listening() -> None:
    if sys.stdout.isatty():
        tell("listening; Ctrl-C ends")


def _tell_state(state: BusState, text: str) -> None:
    """Say that nothing comes for want of a server, not for want of events; and when that is over."""
    if state is BusState.DISCONNECTED:
        tell(f"{text}; what happens meanwhile is not shown")
    elif state is BusState.CONNECTED:
        tell(text)


def lost_on_the_way(mesh: Mesh) -> int:
    """Return the events that the network lost between the producers and this command."""
    return mesh.ledger.lost


@command("query")
@click.argument("statement")
@click.option("--archive", metavar="HOST/AGENT", default="", help="Ask this archive; else every one is asked.")
@click.option("--csv", "as_csv", is_flag=True, help="Write CSV; the statement names the columns.")
def query(settings: Settings, statement: str, archive: str, as_csv: bool) -> None:
    """Show stored events.

    STATEMENT selects and projects, or aggregates. Events come in the order in which they occurred, each once though
    several archives hold it. Groups are made by one archive: where there are several, name it with --archive.

    \b
    eddy query "SELECT * WHERE user.name = 'root' SINCE '-1h'"
    eddy query "SELECT source.ip, count(*) SINCE '-1d' GROUP BY source.ip"
    """  # noqa: D301  # click's mark for lines that stay as they are
    plan = compile_statement(statement, now_ns=time_ns())
    writer = event_writer(settings, plan, as_csv=as_csv)
    with_mesh(settings, lambda mesh: fetch(mesh, plan, writer, archive))


async def fetch(mesh: Mesh, plan: Plan, writer: EventWriter, archive: str = "") -> int:
    """Write the stored events of a plan in time order, say so where there are none, and return how many there were."""
    shown = 0
    try:
        async with aclosing(stored(mesh, plan, archive)) as events:
            async for event in events:
                writer.write(event)
                shown += 1
    finally:
        writer.flush()
    if not shown:
        await tell_nothing(mesh, plan, archive)
    return shown
