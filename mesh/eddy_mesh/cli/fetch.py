"""``eddy fetch``: whole events by id, wherever they are, or when they went."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator
from time import time_ns
from typing import TYPE_CHECKING

import msgspec
import rich_click as click
from click.exceptions import Exit

from eddy_mesh.cli.connection import with_mesh
from eddy_mesh.cli.event_view import value_cell
from eddy_mesh.cli.output import json_line, printable, tell
from eddy_mesh.cli.parameters import Duration
from eddy_mesh.cli.settings import Settings, command
from eddy_mesh.errors import UsageError
from eddy_mesh.select_back import identities

if TYPE_CHECKING:
    from eddy_mesh.api import Event, Fetched

STDIN = "-"
DEPTH = 8
NOT_ALL = 1
"""Exit status where an event is gone or was not found."""
FIRST = ("id", "occurred", "observed", "event_class", "type", "stage", "host")
"""Fields that are shown first, so that events look alike."""


@command("fetch")
@click.argument("ids", metavar="ID...", nargs=-1)
@click.option("--parents", is_flag=True, help="Fetch the events that these were made from as well.")
@click.option(
    "--depth",
    type=click.IntRange(min=1),
    default=DEPTH,
    show_default=True,
    metavar="N",
    help="Generations of parents at most.",
)
@click.option("--wait", "wait_s", type=Duration(), default="10s", metavar="TIME", help="Longest wait for an answer.")
def fetch(settings: Settings, ids: tuple[str, ...], parents: bool, depth: int, wait_s: float) -> None:
    """Show whole events by id: from the hosts that made them, else from archives.

    With - ids are read from standard input, one a line; a line may be an event in JSON, as tap writes it. The exit
    status is 1 where an event is gone or was not found; what became of it is said on standard error.

    \b
    eddy fetch 01a2002d-e4c7-7b1c-9a31-5f0e00000007
    eddy fetch --parents 01a2002d-e4c7-7b1c-9a31-5f0e00000007
    eddy tap "SELECT id WHERE level <= error" --count 5 | eddy fetch -
    """  # noqa: D301  # click's mark for lines that stay as they are
    wanted = named(ids)
    if not wanted:
        raise UsageError("no event is named: give ids, or - to read them from standard input")
    identities(wanted)  # what is no id is refused before anybody is asked
    generations = depth if parents else 0
    found = with_mesh(settings, lambda mesh: mesh.fetch(wanted, depth=generations, timeout_s=wait_s))
    for number, event in enumerate(found.events):
        if settings.json or not sys.stdout.isatty():
            sys.stdout.write(json_line(event.json()).decode() + "\n")
            continue
        click.echo("\n" * (number > 0) + "\n".join(lines_of(event, time_ns(), shutil.get_terminal_size().columns)))
    sys.stdout.flush()
    for text in failures(found):
        tell(text)
    if found.gone or found.missing:
        raise Exit(NOT_ALL)


def named(arguments: Iterable[str]) -> list[str]:
    """Return the ids that arguments name, each once; ``-`` stands for the lines of standard input."""
    ids = (each for text in arguments for each in (ids_of(sys.stdin) if text == STDIN else [text]))
    return list(dict.fromkeys(ids))


def ids_of(lines: Iterable[str]) -> Iterator[str]:
    """Yield the ids that lines hold: each is an id, or an event in JSON with one.

    Raises:
        UsageError: a line is an event without id.
    """
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if text.startswith("{"):
            yield _id_of(text, number)
        elif text:
            yield text


def _id_of(text: str, number: int) -> str:
    try:
        event = msgspec.json.decode(text, type=dict[str, object])
    except msgspec.DecodeError:
        raise UsageError(f"line {number} is neither an id nor an event in JSON: {text[:60]}") from None
    if not isinstance(event.get("id"), str):
        raise UsageError(f"line {number} is an event without id: write SELECT id, ... where it comes from")
    return str(event["id"])


def lines_of(event: Event, now_ns: int, width: int) -> list[str]:
    """Return the fields of an event for people, one a line with what is too long for it below.

    Args:
        event: whole.
        now_ns: times of another day than this one are shown with the day.
        width: characters of a line.
    """
    names = [name for name in FIRST if name in event] + [name for name in event if name not in FIRST]
    room = max(map(len, names), default=0) + 2
    lines = []
    for name in names:
        text = printable(value_cell(name, event[name], now_ns).text)
        first, *rest = textwrap.wrap(text, max(width - room, 20)) or [""]
        lines += [printable(name).ljust(room) + first, *(" " * room + part for part in rest)]
    return lines


def failures(found: Fetched) -> list[str]:
    """Return a sentence for each event that was not fetched, and one for those who did not answer."""
    texts = [f"{gone.id}: {gone}" for gone in found.gone]
    return texts + [f"{identity}: {found.why_missing}" for identity in found.missing]
