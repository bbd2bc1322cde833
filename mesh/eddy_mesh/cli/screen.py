"""A table that is shown again and again in the same place.

What may live here: the live display of commands with ``--watch``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

Show = Callable[[str, str], None]


def fitting(lines: Sequence[str], height: int) -> tuple[Sequence[str], int]:
    """Return the lines that a screen of so many lines holds below a heading, and how many are left out."""
    room = max(height - 2, 1)  # the heading, and the line of the cursor
    return lines[:room], max(len(lines) - room, 0)


@contextmanager
def screen(*, colour: bool) -> Iterator[Show]:
    """Give a function that shows a heading and lines (ANSI colours) in place of those before; both are safe text."""
    from rich.console import Console, Group  # noqa: PLC0415  # quick --help
    from rich.live import Live  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console(no_color=not colour, highlight=False)

    def show(heading: str, lines: str) -> None:
        kept, left_out = fitting(lines.splitlines(), console.height)
        more = f"; {left_out} more rows below: a taller window shows them" if left_out else ""
        head = Text(heading + more, style="dim", no_wrap=True, overflow="ellipsis")
        body = (Text.from_ansi(line, no_wrap=True, overflow="ellipsis") for line in kept)
        live.update(Group(head, *body), refresh=True)

    with Live(Text("waiting ...", style="dim"), console=console, auto_refresh=False) as live:
        yield show
