"""A table that is shown again and again in the same place.

What may live here: the live display of commands with ``--watch``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Show = Callable[[str, str], None]


@contextmanager
def screen(*, colour: bool) -> Iterator[Show]:
    """Give a function that shows a heading and lines (ANSI colours) in place of those before; both are safe text."""
    from rich.console import Console, Group  # noqa: PLC0415  # quick --help
    from rich.live import Live  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console(no_color=not colour, highlight=False)

    def show(heading: str, lines: str) -> None:
        head = Text(heading, style="dim")
        body = (Text.from_ansi(line, no_wrap=True, overflow="ellipsis") for line in lines.splitlines())
        live.update(Group(head, *body), refresh=True)

    with Live(Text("waiting ...", style="dim"), console=console, auto_refresh=False) as live:
        yield show
