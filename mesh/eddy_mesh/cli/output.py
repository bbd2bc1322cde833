"""How text reaches a terminal: safe characters, units, colours, and tables whose columns keep their place.

What may live here: what knows about characters and widths, and nothing about events. Text from outside may hold control
sequences that would command the terminal; `printable` is the way for it.
"""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from datetime import datetime
from io import StringIO
from itertools import zip_longest
from typing import NamedTuple, TextIO

import click
import msgspec
from rich.cells import cell_len, set_cell_size

from eddy_mesh.cli.folding import say

GAP = "  "
NS = 1_000_000_000
LEAST = 8
"""Characters that a column keeps on a narrow terminal, where it wants so many."""
LEAST_LAST = 24
"""... and the last one, as long as others can give."""
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_C1 = re.compile("[\x7f-\x9f]")

STYLES: dict[str, dict[str, str | bool]] = {
    "": {},
    "title": {"bold": True, "underline": True},
    "quiet": {"dim": True},
    "good": {"fg": "green"},
    "notable": {"fg": "cyan"},
    "warning": {"fg": "yellow"},
    "bad": {"fg": "red"},
    "alarming": {"fg": "red", "bold": True},
    "found": {"fg": "magenta"},
}
"""Meaning of a cell → how it looks."""

LEVEL_STYLES = ("alarming", "alarming", "alarming", "bad", "warning", "notable", "", "quiet")
"""Index is the numeric level."""


class Cell(NamedTuple):
    """Text of a table and what it means, a key of `STYLES`; it may go on in further lines where it ``wraps``."""

    text: str
    style: str = ""
    wraps: bool = False


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        title: shown above it.
        right: whether its texts end at the same place, as numbers do.
        least: characters that it always has; a text that is no longer is never shortened.
        folds: characters that it has, and its texts wrap, where else too few were left for the last column; 0: it
            does not.
        spare: whether it is left out where the line is too short for all.
        middle: whether a text that is too long loses its middle, as where the end tells rows apart; else its end.
    """

    title: str
    right: bool = False
    least: int = 0
    folds: int = 0
    spare: bool = False
    middle: bool = False


# --- characters and units ----------------------------------------------------------------------------------------


def printable(text: str) -> str:
    """Return text whose control characters, which could command a terminal, are shown as escapes; tabs as spaces."""
    return _UNSAFE.sub(lambda found: " " if found[0] == "\t" else ascii(found[0])[1:-1], text)


def json_line(data: bytes) -> bytes:
    """Return a line of JSON in which no control character is left as it is."""
    return data if data.isascii() and b"\x7f" not in data else _escape_c1(data)


def _escape_c1(data: bytes) -> bytes:
    return _C1.sub(lambda found: f"\\u{ord(found[0]):04x}", data.decode("utf-8", "replace")).encode()


def time_of_day(time_ns: int, now_ns: int) -> str:
    """Return a time in the zone of this machine to the ms; with the day where it is not that of ``now_ns``."""
    try:
        moment = datetime.fromtimestamp(time_ns // NS).astimezone()
        now = datetime.fromtimestamp(now_ns // NS).astimezone()
    except (ValueError, OverflowError, OSError):
        return f"@{time_ns // NS}"
    clock = f"{moment:%H:%M:%S}.{time_ns % NS // 1_000_000:03d}"
    return clock if moment.date() == now.date() else f"{moment:%Y-%m-%d} {clock}"


def zone() -> str:
    """Return the name of the time zone of this machine."""
    return datetime.now().astimezone().strftime("%Z")


def duration_text(duration_ns: float) -> str:
    """Return a duration as people say it, with about three digits: ``1.25 s``, ``4m 12s``, ``3d 2h``."""
    for unit, factor in (("s", NS), ("ms", 1_000_000), ("us", 1_000)):
        if factor <= abs(duration_ns) < 60 * NS:
            return f"{duration_ns / factor:.3g} {unit}"
    if abs(duration_ns) < NS:
        return f"{duration_ns:.0f} ns"
    left = int(duration_ns // NS)
    parts: list[str] = []
    for unit, seconds in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, seconds)
        if count or parts:
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2])


def octets_text(octets: float) -> str:
    """Return a size with about three digits in the nearest decimal unit."""
    size = float(octets)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(size) < 999.5:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.4g} PB"


def rate_text(rate: float) -> str:
    """Return a rate in events/s: whole from 10 on, with one digit below, ``0`` where nothing moves."""
    if rate == 0:
        return "0"
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"


# --- tables ------------------------------------------------------------------------------------------------------


class Table:
    """Rows as they come, in columns that grow with what they hold. The last column has what is left of the line.

    Args:
        columns: from left to right.
        out: where lines go.
        colour: whether cells are coloured.
        hold: rows that are kept back so that the columns fit them; 0 shows each row at once.
        width: characters of a line where ``out`` is no terminal; 0 stands for any number.
    """

    def __init__(self, columns: Sequence[Column], out: TextIO, *, colour: bool, hold: int = 0, width: int = 0) -> None:
        self._columns = columns
        self._out = out
        self._colour = colour
        self._hold = hold
        self._width = width
        self._held: list[Sequence[Cell]] = []
        self._widths = [max(cell_len(column.title), column.least) for column in columns]
        self._lines = 0

    def add(self, cells: Sequence[Cell]) -> None:
        """Show a row; its texts are made safe here."""
        safe = [cell._replace(text=printable(cell.text)) for cell in cells]
        self._widths = [max(width, cell_len(cell.text)) for width, cell in zip(self._widths, safe, strict=True)]
        self._held.append(safe)
        if len(self._held) > self._hold:
            self._hold = 0
            self.flush()

    def flush(self) -> None:
        """Show the rows that were kept back."""
        width, height = shutil.get_terminal_size()
        is_terminal = self._out.isatty()
        available = width if is_terminal else self._width
        shown = chosen(self._columns, self._widths, available)
        widths = fitted(
            [self._widths[number] for number in shown], available, [self._columns[number] for number in shown]
        )
        for row in self._held:
            if self._lines == 0 or (is_terminal and self._lines % max(height - 1, 10) == 0):
                self._write([Cell(column.title, "title") for column in self._columns], shown, widths)
            self._write(row, shown, widths)
        self._held.clear()
        self._out.flush()

    def _write(self, cells: Sequence[Cell], shown: Sequence[int], widths: Sequence[int]) -> None:
        parts = [_wrapped(cells[number], width) for number, width in zip(shown, widths, strict=True)]
        for texts in zip_longest(*parts, fillvalue=""):
            line = []
            for number, width, text in zip(shown, widths, texts, strict=True):
                placed = _placed(text, width, self._columns[number], pad=number != shown[-1])
                line.append(self._styled(placed, cells[number].style if text else ""))
            self._out.write(GAP.join(line) + "\n")
            self._lines += 1

    def _styled(self, text: str, style: str) -> str:
        return click.style(text, **STYLES[style]) if self._colour and style else text  # type: ignore[arg-type]


def _wrapped(cell: Cell, width: int) -> list[str]:
    """Return the lines of a cell: one where it does not wrap, or fits."""
    if not cell.wraps or cell_len(cell.text) <= width:
        return [cell.text]
    return textwrap.wrap(cell.text, width) or [""]


def _placed(text: str, width: int, column: Column, *, pad: bool) -> str:
    length = cell_len(text)
    if length > width:
        after = max(width - 1, 0) // 2 if column.middle else 0
        return set_cell_size(text, max(width - 1 - after, 0)) + "…" + _end(text, after)
    if column.right:
        return " " * (width - length) + text
    return text + " " * (width - length) if pad else text


def _end(text: str, width: int) -> str:
    """Return the last ``width`` cells of a text."""
    return set_cell_size(text[::-1], width)[::-1]


def sparing(columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> list[Column]:
    """Return columns of which those that say nothing in any row, or 0, are spare."""
    said = [any(row[number].text not in {"", "-", "0"} for row in rows) for number in range(len(columns))]
    return [column if says else column._replace(spare=True) for column, says in zip(columns, said, strict=True)]


def chosen(columns: Sequence[Column], widths: Sequence[int], available: int) -> list[int]:
    """Return the numbers of the columns that are shown: spare ones go, the last first, until the rest fit.

    Args:
        columns: from left to right.
        widths: what they want, characters.
        available: characters of a line; 0 stands for any number.
    """
    shown = list(range(len(columns)))
    spare = [number for number in shown if columns[number].spare]
    while available and spare and sum(widths[number] + len(GAP) for number in shown) - len(GAP) > available:
        shown.remove(spare.pop())
    return shown


def fitted(widths: Sequence[int], available: int, columns: Sequence[Column] = ()) -> list[int]:
    """Return widths that fit a line: the last column, which holds the longest texts, gives first, then the widest.

    A column keeps its least width even where the line then does not fit.

    Args:
        widths: what the columns want, characters.
        available: characters of a line; 0 stands for any number.
        columns: what they are, in the same order; without them none has a least width or folds.
    """
    fit = list(widths)
    shown = columns or [Column("")] * len(fit)
    if available and sum(fit[:-1]) + len(GAP) * (len(fit) - 1) + min(fit[-1], LEAST_LAST) > available:
        fit = [min(width, column.folds or width) for width, column in zip(fit, shown, strict=True)]
    least = [max(LEAST, column.least, column.folds) for column in shown]
    excess = sum(fit) + len(GAP) * (len(fit) - 1) - available if available else 0
    given = min(max(excess, 0), max(fit[-1] - max(LEAST_LAST, least[-1]), 0))
    fit[-1] -= given
    excess -= given
    while excess > 0 and (giving := [number for number, width in enumerate(fit) if width > least[number]]):
        fit[max(giving, key=lambda number: fit[number])] -= 1
        excess -= 1
    return fit


def write_records(records: Sequence[Mapping[str, object]], out: TextIO | None = None) -> None:
    """Write JSON objects, one on each line."""
    target = out or sys.stdout
    for record in records:
        target.write(json_line(msgspec.json.encode(record)).decode() + "\n")
    target.flush()


def table_text(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], *, colour: bool, width: int = 0) -> str:
    """Return a table whose rows are all known, as lines of so many characters; 0 stands for any number."""
    out = StringIO()
    table = Table(columns, out, colour=colour, hold=len(rows), width=width)
    for row in rows:
        table.add(row)
    table.flush()
    return out.getvalue()


def write_table(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], *, colour: bool) -> None:
    """Write a table whose rows are all known to standard output."""
    table = Table(columns, sys.stdout, colour=colour, hold=len(rows))
    for row in rows:
        table.add(row)
    table.flush()


def tell(text: str) -> None:
    """Write a remark to standard error, apart from the answer."""
    say(f"eddy: {text}", err=True)
