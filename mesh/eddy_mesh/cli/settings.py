"""What every command of ``eddy`` is told: which backplane, and how to write.

What may live here: the options that are taken before and after the name of a command, and the decorator that makes a
command with them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import rich_click as click
from rich_click import RichCommand

Decorated = TypeVar("Decorated", bound=Callable[..., object])


CONTEXT: dict[str, Any] = {"help_option_names": ["-h", "--help"]}
"""What click is told of every command."""


SHARED = frozenset({"server", "context", "backplane", "json", "no_color"})


@dataclass(slots=True)
class Settings:
    """What the user said about the backplane and the output.

    Attributes:
        server: NATS URL, or "".
        context: name of a ``nats`` context, or "".
        backplane: name of the mesh, or "" for the one that is found.
        json: write NDJSON also on a terminal.
        no_color: write no colours.
    """

    server: str = ""
    context: str = ""
    backplane: str = ""
    json: bool = False
    no_color: bool = False

    @property
    def colour(self) -> bool:
        """Whether standard output gets colours: a terminal, unless the user or the environment says no."""
        plain = self.no_color or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
        return sys.stdout.isatty() and not plain


def _remember(ctx: click.Context, option: click.Parameter, value: str | bool | None) -> None:
    """Keep an option where every command finds it; the one after the command's name wins."""
    settings = ctx.find_root().ensure_object(Settings)
    if value and option.name:
        setattr(settings, option.name, value)


def _options() -> list[Callable[[Decorated], Decorated]]:
    def option(*names: str, **more: Any) -> Callable[[Decorated], Decorated]:
        return click.option(*names, expose_value=False, callback=_remember, **more)

    return [
        option("--server", metavar="URL", help="NATS server, for example nats://hub:4222. Else $EDDY_SERVER."),
        option("--context", metavar="NAME", help="Context of the nats command line with server and credentials."),
        option("--backplane", metavar="NAME", help="Name of the mesh, where it is not eddy."),
        option("--json", is_flag=True, help="Write NDJSON, one object a line."),
        option("--no-color", is_flag=True, help="Write no colours. So does $NO_COLOR."),
    ]


def shared_options(function: Decorated) -> Decorated:
    """Add the options that every command has."""
    for decorate in reversed(_options()):
        function = decorate(function)
    return function


def command(name: str) -> Callable[[Callable[..., object]], RichCommand]:
    """Return a decorator that makes a command with the shared options; it gets the `Settings` first."""

    def decorate(function: Callable[..., object]) -> RichCommand:
        takes_settings = click.make_pass_decorator(Settings, ensure=True)
        make = click.command(name, cls=RichCommand, context_settings=CONTEXT)
        made: RichCommand = make(shared_options(takes_settings(function)))
        made.params.sort(key=lambda param: param.name in SHARED)  # its own first, in the help
        return made

    return decorate
