"""Events on their way out of a command: a table on a terminal, NDJSON in a pipe, CSV where it was asked for.

What may live here: the three writers, and the choice between them.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from time import time_ns
from typing import TYPE_CHECKING, Protocol, TextIO

import msgspec

from eddy_mesh.cli.event_view import EventView
from eddy_mesh.cli.output import Table, json_line
from eddy_mesh.cli.settings import Settings
from eddy_mesh.errors import UsageError
from eddy_mesh.rows import json_value
from eddy_mesh.selection import Plan
from eddy_mesh.selection.sql import WINDOW_END, WINDOW_START

if TYPE_CHECKING:
    from eddy_mesh.api import Event

HOLD = 200
"""Rows of an answer that is complete soon, kept back so that the columns fit them."""


class EventWriter(Protocol):
    """Takes events one by one."""

    def write(self, event: Event) -> None:
        """Write one event."""
        ...

    def flush(self) -> None:
        """Bring out what was kept back."""
        ...


class JsonEvents:
    """One JSON object a line.

    Args:
        out: where lines go.
        live: whether each line goes out at once.
    """

    def __init__(self, out: TextIO, *, live: bool) -> None:
        self._out = out
        self._live = live

    def write(self, event: Event) -> None:
        """Write one event."""
        self._out.write(json_line(event.json()).decode() + "\n")
        if self._live:
            self._out.flush()

    def flush(self) -> None:
        """Bring out what was kept back."""
        self._out.flush()


class CsvEvents:
    """Comma-separated values with a line of names (RFC 4180, line ends of the platform).

    Args:
        out: where lines go.
        plan: the statement, whose items are the columns.
        live: whether each line goes out at once.

    Raises:
        UsageError: the statement names no columns.
    """

    def __init__(self, out: TextIO, plan: Plan, *, live: bool) -> None:
        if not plan.items:
            raise UsageError("--csv needs named columns: write SELECT occurred, host, message ... in place of SELECT *")
        window = [WINDOW_START, WINDOW_END] if plan.every_ns is not None else []
        self._names = window + [item.name for item in plan.items]
        self._out = out
        self._writer = csv.writer(out, lineterminator="\n")
        self._writer.writerow(self._names)
        self._live = live

    def write(self, event: Event) -> None:
        """Write one event."""
        self._writer.writerow([_csv_value(name, event) for name in self._names])
        if self._live:
            self._out.flush()

    def flush(self) -> None:
        """Bring out what was kept back."""
        self._out.flush()


def _csv_value(name: str, event: Event) -> object:
    value = json_value(name, event.get(name))
    return msgspec.json.encode(value).decode() if isinstance(value, bool | list | dict) else value


class TableEvents:
    """A table for people.

    Args:
        out: where lines go.
        plan: the statement, which says what the columns are.
        colour: whether cells are coloured.
        live: whether each row is shown at once.
        now_ns: the clock, ns since 1970 UTC.
    """

    def __init__(
        self, out: TextIO, plan: Plan, *, colour: bool, live: bool, now_ns: Callable[[], int] = time_ns
    ) -> None:
        self._view = EventView(plan)
        self._table = Table(self._view.columns, out, colour=colour, hold=0 if live else HOLD)
        self._now_ns = now_ns

    def write(self, event: Event) -> None:
        """Write one event."""
        self._table.add(self._view.cells(event, self._now_ns()))

    def flush(self) -> None:
        """Bring out what was kept back."""
        self._table.flush()


def event_writer(settings: Settings, plan: Plan, *, as_csv: bool = False, live: bool = False) -> EventWriter:
    """Return the writer for standard output: CSV if asked for, a table on a terminal, else NDJSON.

    Args:
        settings: whether JSON was asked for, and colours.
        plan: the statement.
        as_csv: whether CSV was asked for.
        live: whether each event goes out at once.

    Raises:
        UsageError: CSV of a statement without named columns, or CSV and JSON at once.
    """
    if as_csv and settings.json:
        raise UsageError("--csv and --json contradict each other: give one of them")
    if as_csv:
        return CsvEvents(sys.stdout, plan, live=live)
    if settings.json or not sys.stdout.isatty():
        return JsonEvents(sys.stdout, live=live)
    return TableEvents(sys.stdout, plan, colour=settings.colour, live=live)
