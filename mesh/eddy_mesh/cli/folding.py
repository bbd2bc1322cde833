"""Sentences on a terminal: folded between words, the further lines set in. In a pipe every line stays whole.

What may live here: the width of a terminal, and where a line is broken. Words (ids, paths, subjects) stay whole, so
that they can be copied.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Sequence
from typing import TextIO

import click

HANG = 2
"""Characters by which further lines are set in."""
_WORD = re.compile(r"\s*\S+")
_WRAPPED_FROM = 110
"""A line of a docstring that its next word would make longer was broken for its length only."""
_BULLET = re.compile(r"\s*([*-]|\d+\.) ")


def line_width(out: TextIO) -> int:
    """Return the characters of a line of a terminal; 0, which stands for any number, where ``out`` is none."""
    if not out.isatty():
        return 0
    try:
        own = os.get_terminal_size(out.fileno())
    except (OSError, ValueError):  # it says that it is a terminal, and knows no size
        own = os.terminal_size((80, 24))
    return shutil.get_terminal_size(own).columns


def fold(text: str, width: int, further: str = " " * HANG) -> str:
    """Return text whose lines are broken between words; a line that points into the one above stays below it.

    Args:
        text: one line or several, without colours.
        width: characters of a line; 0 stands for any number.
        further: what broken lines go on with, after the indent of the line itself.
    """
    lines = text.split("\n")
    if not width:
        return text
    pointed = 2 if len(lines) > 1 and lines[-1].strip() == "^" else 0  # a statement and the place of the mistake
    kept = lines[len(lines) - pointed :]
    return "\n".join([part for line in lines[: len(lines) - pointed] for part in _broken(line, width, further)] + kept)


def _broken(line: str, width: int, further: str) -> list[str]:
    from rich.cells import cell_len  # noqa: PLC0415  # quick --help

    words = _WORD.findall(line)
    if cell_len(line) <= width or not words:
        return [line]
    indent = line[: len(line) - len(line.lstrip())] + further
    broken = [words[0]]
    for word in words[1:]:
        if cell_len(broken[-1] + word) <= width or cell_len(indent + word.lstrip()) > width:  # too long for any line
            broken[-1] += word
        else:
            broken.append(indent + word.lstrip())
    return broken


def fold_prose(text: str, width: int) -> str:
    """Return paragraphs, which came with lines of up to 120 characters, with lines of ``width``; lists stay lists."""
    if not width:
        return text
    lines = joined(text.split("\n"))
    return "\n".join(fold(line, width, " " * HANG if _BULLET.match(line) else "") for line in lines)


def joined(lines: Sequence[str]) -> list[str]:
    """Return lines of which those that were broken for their length only are one again."""
    whole: list[str] = []
    before = 0
    for line in lines:
        first = line.split(maxsplit=1)[0] if line.strip() else ""
        if first and before + 1 + len(first) > _WRAPPED_FROM and not _BULLET.match(line):
            whole[-1] += " " + line.strip()
        else:
            whole.append(line)
        before = len(line)
    return whole


def say(text: str, *, err: bool = False) -> None:
    """Write text to standard output or standard error, folded where that is a terminal; it is safe text."""
    click.echo(fold(text, line_width(sys.stderr if err else sys.stdout)), err=err)
