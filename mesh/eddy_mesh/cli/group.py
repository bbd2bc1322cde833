"""A group of commands that starts quickly and ends quietly.

What may live here: `QuietGroup`, which loads a command when it is used, and turns every way a command can end into an
exit status: 0, 1 for an error, 2 for wrong usage, 130 for Ctrl-C, 141 for a reader that went away.
"""

from __future__ import annotations

import contextlib
import os
import sys
from difflib import get_close_matches
from importlib import import_module
from typing import NamedTuple

import click
from rich_click import RichCommand, RichGroup

from eddy_mesh.cli.folding import say
from eddy_mesh.errors import ConfigError, EddyError, UsageError

FAILED = 1
WRONG_USAGE = 2
INTERRUPTED = 130
PIPE_CLOSED = 141


class Entry(NamedTuple):
    """One command that is loaded when it is used.

    Attributes:
        target: ``module:attribute`` of the click command.
        summary: the first line of its help, so that a list of commands loads none of them.
    """

    target: str
    summary: str


class LazyCommand(RichCommand):
    """Stands for a command in lists; loads it when its arguments are to be read."""

    def __init__(self, name: str, entry: Entry) -> None:
        super().__init__(name=name, help=entry.summary, short_help=entry.summary)
        self._target = entry.target

    def load(self) -> click.Command:
        """Return the command itself.

        Raises:
            UsageError: it is not part of this installation.
        """
        module, _, attribute = self._target.partition(":")
        try:
            command = getattr(import_module(module), attribute)
        except ModuleNotFoundError as error:
            reason = f"eddy {self.name} needs the module {error.name}, which is not installed: install eddy-mesh again"
            raise UsageError(reason) from None
        assert isinstance(command, click.Command)
        return command

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: object
    ) -> click.Context:
        """Read the arguments of the command itself."""
        return self.load().make_context(info_name, args, parent, **extra)


class QuietGroup(RichGroup):
    """A click group whose commands are named in a table, and which shows an `EddyError` as one plain line."""

    def add_entries(self, entries: dict[str, Entry]) -> None:
        """Add commands that are loaded when they are used."""
        for name, entry in entries.items():
            self.add_command(LazyCommand(name, entry), name)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the names in the order of the table, most used first."""
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the arguments name; an unknown one is answered with the nearest."""
        name = args[0]
        if name not in self.commands and not name.startswith("-"):
            close = get_close_matches(name, self.commands, n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(self.list_commands(ctx))}"
            ctx.fail(f"there is no command {name}; {hint}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        """Run the command and say plainly how it ended."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except EddyError as error:
            say(error_text(str(self.name), error), err=True)
            raise click.exceptions.Exit(
                WRONG_USAGE if isinstance(error, UsageError | ConfigError) else FAILED
            ) from None
        except click.UsageError as error:
            where = error.ctx.command_path if error.ctx is not None else self.name
            say(f"{self.name}: {_lower(error.format_message())}; see {where} --help", err=True)
            raise click.exceptions.Exit(WRONG_USAGE) from None
        except KeyboardInterrupt:
            raise click.exceptions.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            _silence_stdout()
            raise click.exceptions.Exit(PIPE_CLOSED) from None
        return result


def error_text(program: str, error: EddyError) -> str:
    """Return what a person is shown of an error: the program's name, then the text as it is."""
    return f"{program}: {error}"


def _lower(text: str) -> str:
    """Return a message of click in the form of ours: no capital first, no full stop last."""
    return (text[:1].lower() + text[1:]).removesuffix(".")


def _silence_stdout() -> None:
    """Let the flush at the end of the interpreter go nowhere: the reader has gone."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
