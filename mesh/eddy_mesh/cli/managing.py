"""Asking a backplane-manager.

What may live here: what ``eddy plan``, ``apply``, ``rollback`` and ``topology`` share: the manifest file, the query,
and how changes and steps are shown.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from eddy_mesh import queries, subjects
from eddy_mesh.bus import NoResponders
from eddy_mesh.cli.folding import fold, line_width
from eddy_mesh.cli.output import STYLES, printable, write_records
from eddy_mesh.cli.settings import Settings
from eddy_mesh.commands import BACKPLANE_MANAGER
from eddy_mesh.config import parse_toml
from eddy_mesh.errors import ConfigError, EddyError, UsageError
from eddy_mesh.task import Answer

if TYPE_CHECKING:
    from eddy_mesh.api import Mesh

ANSWER_S = 10.0
"""Longest wait for the next message: while a step takes long, a manager shows each second that it lives, s."""
MARK_STYLES = {"+": "good", "-": "warning", ">": "notable", "~": "notable"}
ENDS = {"applied": "good", "refused": "warning", "rolled_back": "warning", "nothing": "quiet"}
WENT_BACK = frozenset({"refused", "rolled_back"})
"""Steps that end a change which was not carried out."""


def manifest_of(path: Path) -> dict[str, object]:
    """Return the request for the manifest in a file.

    Raises:
        ConfigError: it can not be read, or every mistake in it.
    """
    from eddy_mesh.topology.checks import checked  # noqa: PLC0415  # quick --help: agents are loaded for it

    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: can not be read: {getattr(error, 'strerror', None) or error}"]) from None
    tables = parse_toml(text, str(path))
    checked(tables, str(path))
    return {"manifest": tables, "text": text, "file": str(path)}


async def ask(mesh: Mesh, verb: str, request: Mapping[str, object]) -> AsyncGenerator[Answer, None]:
    """Yield the rows that a backplane-manager answers.

    Raises:
        UsageError: none is there, or it refused; its reason is the text.
        BusError: no answer came in time.
    """
    subject = subjects.query(mesh.backplane, BACKPLANE_MANAGER, "any", verb)
    try:
        async for row in queries.ask(mesh.bus, subject, request, timeout_s=ANSWER_S):
            yield row
    except NoResponders:
        raise UsageError(
            f"no backplane-manager answers on backplane {mesh.backplane}: add an agent of type {BACKPLANE_MANAGER} to"
            " one of its host processes"
        ) from None


async def ask_one(mesh: Mesh, verb: str, request: Mapping[str, object]) -> Answer:
    """Return the only row of an answer.

    Raises:
        EddyError: there is none; see `ask` for others.
    """
    rows = [row async for row in ask(mesh, verb, request)]
    if len(rows) != 1:
        raise EddyError(f"{verb} was answered with {len(rows)} rows instead of 1: is the version the same everywhere?")
    return rows[0]


def texts_of(row: Answer, key: str) -> list[str]:
    """Return a list of texts in a row."""
    found = row.get(key)
    return [str(text) for text in found] if isinstance(found, list) else []


def show_lines(lines: Sequence[str], *, colour: bool) -> None:
    """Write the lines of a difference, each coloured by its mark."""
    width = line_width(sys.stdout)
    for line in lines:
        style = MARK_STYLES.get(line[:1], "") if colour else ""
        for part in fold(printable(line), width).split("\n"):
            click.echo(_styled(part, style))


class Steps:
    """The steps of a change, one line each as they are done; the observation stays on one line of a terminal.

    Attributes:
        went_back: the last row said that the change was refused or rolled back.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._is_open = False
        self.went_back = False

    def show(self, row: Answer) -> None:
        """Write one row."""
        self.went_back = row.get("step") in WENT_BACK
        if self._settings.json:
            write_records([row])
            return
        line = _step_text({**row, "what": ""} if self.went_back else row)  # the reason is told as the error
        is_passing = row.get("step") == "observe"
        if not is_passing:
            line = fold(line, line_width(sys.stdout))
        if is_passing and not sys.stdout.isatty():
            return
        end = "\r" if self._is_open else ""
        if self._is_open and not is_passing:
            end = "\n"
        style = "bad" if row.get("error") else ENDS.get(str(row.get("step")), "")
        click.echo(end + _styled(line, style if self._settings.colour else ""), nl=not is_passing)
        self._is_open = is_passing


def _step_text(row: Answer) -> str:
    where = "/".join(str(row[key]) for key in ("host", "agent") if row.get(key))
    if "revision" in row:
        where = f"revision {row['revision']}"
    took = f"{row['took_ms']} ms" if "took_ms" in row else ""
    parts = (f"{row.get('step', '')!s:<10}", where, str(row.get("what") or ""), took, str(row.get("error") or ""))
    return printable("  ".join(part for part in parts if part))


def _styled(text: str, style: str) -> str:
    return click.style(text, **STYLES[style]) if style else text  # type: ignore[arg-type]
