"""``eddy plan``, ``eddy apply`` and ``eddy rollback``: change what a backplane runs."""

from __future__ import annotations

import getpass
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

import rich_click as click
from click.exceptions import Exit

from eddy_mesh.cli.connection import with_mesh
from eddy_mesh.cli.folding import say
from eddy_mesh.cli.following import follow
from eddy_mesh.cli.group import FAILED, error_text
from eddy_mesh.cli.managing import Steps, ask_one, manifest_of, show_lines, texts_of
from eddy_mesh.cli.output import tell, write_records
from eddy_mesh.cli.parameters import Duration
from eddy_mesh.cli.settings import Decorated, Settings, command
from eddy_mesh.errors import EddyError, UsageError
from eddy_mesh.task import Answer

CHANGES = 2
"""Exit status of a plan that would change something."""
FILE = click.Path(path_type=Path, dir_okay=False)


def _how(function: Decorated) -> Decorated:
    """Add the options that say how a change is carried out."""
    options = (
        click.option("--observe", "observe_s", metavar="S", type=click.FloatRange(0, 3600), default=5.0,
                     show_default=True, help="Observe what was started or changed for so long; 0: not at all."),
        click.option("--watermark", "watermark_s", metavar="TIME", type=Duration(), default="3s", show_default=True,
                     help="Roll back where a batch waits longer for an agent, and it does not catch up."),
        click.option("--without", metavar="HOST", multiple=True,
                     help="Let a host be that is not there; it takes the record up when it comes."),
        click.option("--why", metavar="TEXT", default="", help="The reason, for the history."),
        click.option("--yes", is_flag=True, help="Do not ask; without a terminal nothing is asked anyway."),
    )  # fmt: skip
    for option in reversed(options):
        function = option(function)
    return function


@command("plan")
@click.argument("file", metavar="FILE", type=FILE)
def plan(settings: Settings, file: Path) -> None:
    """Show what applying a topology would do: start, stop, move, rewire, reconfigure, and what it costs.

    Nothing is changed. The exit status is 0 where nothing would change, 2 where something would, and 1 after an error.
    """
    try:
        request = manifest_of(file)
        row = with_mesh(settings, lambda mesh: ask_one(mesh, "plan", request))
    except EddyError as error:
        say(error_text("eddy", error), err=True)
        raise Exit(FAILED) from None
    _show_plan(settings, row)
    if _is_change(row):
        raise Exit(CHANGES)


@command("apply")
@click.argument("file", metavar="FILE", type=FILE)
@_how
def apply(
    settings: Settings, file: Path, observe_s: float, watermark_s: float, without: tuple[str, ...], why: str, yes: bool
) -> None:
    """Make a backplane run what a topology says, while events flow.

    The plan is shown first and, on a terminal, asked about. Each step is shown as it is done. An agent that fails,
    crashes or falls behind within the observation makes everything go back, with the reason. Ctrl-C ends the display
    only: the change is carried out by the backplane-manager.

    \b
    eddy apply configs/topologies/edge-hub.toml --why "second site"
    eddy apply site.toml --observe 30 --without edge-7
    """  # noqa: D301  # click's mark for lines that stay as they are
    request = {**manifest_of(file), **_terms(observe_s, watermark_s, without, why)}
    _change(settings, "apply", request, yes=yes)


@command("rollback")
@click.argument("revision", metavar="[REVISION]", type=click.IntRange(min=1), required=False)
@_how
def rollback(
    settings: Settings,
    revision: int | None,
    observe_s: float,
    watermark_s: float,
    without: tuple[str, ...],
    why: str,
    yes: bool,
) -> None:
    """Go back to an earlier revision of the topology; without REVISION to the one that was applied before.

    It is carried out like any other change, as a new revision. eddy topology history shows what there is.
    """
    request = {"revision": revision or 0, **_terms(observe_s, watermark_s, without, why)}
    _change(settings, "rollback", request, yes=yes)


def _terms(observe_s: float, watermark_s: float, without: tuple[str, ...], why: str) -> dict[str, object]:
    terms = {"observe_s": observe_s, "watermark_s": watermark_s, "without": list(without)}
    return {"terms": terms, "why": why, "who": who()}


def who() -> str:
    """Return ``user@host`` of whoever runs this."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container without an entry for its user
        user = "?"
    return f"{user}@{socket.gethostname()}"


def _change(settings: Settings, verb: str, request: Mapping[str, object], *, yes: bool) -> None:
    steps = Steps(settings)
    try:
        _plan_and_follow(settings, steps, verb, request, yes=yes)
    except EddyError as error:
        if settings.json and not steps.went_back:  # so that a program need not read standard error
            write_records([{"step": "failed", "error": str(error)}])
        raise


def _plan_and_follow(settings: Settings, steps: Steps, verb: str, request: Mapping[str, object], *, yes: bool) -> None:
    row = with_mesh(settings, lambda mesh: ask_one(mesh, "plan", request))
    if not settings.json:
        _show_plan(settings, row)
    if not _is_change(row):
        if settings.json:
            write_records([{"step": "nothing", "what": "nothing would change", "revision": row["revision_before"]}])
        return
    if missing := texts_of(row, "missing"):
        raise UsageError(
            f"not there: {', '.join(missing)}: start it, take it out of the manifest, or let it be with"
            f" {' '.join(f'--without {host}' for host in missing)}"
        )
    # Outside of the loop: a thread that waits for an answer could not be interrupted.
    if not yes and sys.stdin.isatty() and not click.confirm(f"{verb} this?", err=True):
        raise Exit(FAILED)
    shown = {"expected": row["revision_before"], "expected_placement": row.get("placement", "")}
    with_mesh(settings, lambda mesh: follow(mesh, steps, verb, {**request, **shown}))


def _is_change(row: Answer) -> bool:
    return any(row.get(key) for key in ("agents", "edges", "settings"))


def _show_plan(settings: Settings, row: Answer) -> None:
    if settings.json:
        write_records([row])
        return
    show_lines(texts_of(row, "lines"), colour=settings.colour)
    for warning in texts_of(row, "warnings"):
        tell(f"warning: {warning}")
    if silent := texts_of(row, "silent"):
        tell(f"not heard, and left alone: {', '.join(silent)}; they take it up when they come")
    for host in texts_of(row, "missing"):
        tell(f"{host} is not there: start it, take it out of the manifest, or let it be with --without {host}")
