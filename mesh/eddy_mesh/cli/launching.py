"""``eddy-agent up`` and ``eddy-agent run``.

What may live here: the options of the two, reading the configuration file, and the logs of the process.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import rich_click as click
import structlog

from eddy_mesh.config import HostConfig, convert, parse_toml
from eddy_mesh.errors import BusError, ConfigError, UsageError
from eddy_mesh.local import note_directory, state_directory
from eddy_mesh.runtime.child_end import NO_SERVER

LEVELS = ("debug", "info", "warning", "error")


def configure_logs(level: str, *, as_json: bool) -> None:
    """Send logs to standard error: for people on a terminal, one JSON object a line otherwise or when asked."""
    person = sys.stderr.isatty() and not as_json
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if person else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def read_config(path: Path) -> HostConfig:
    """Return the configuration in a TOML file.

    Raises:
        ConfigError: the file can not be read, or every mistake in it.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: can not be read: {getattr(error, 'strerror', None) or error}"]) from None
    return convert(parse_toml(text, str(path)), HostConfig, str(path))


KEPT = ("for what is kept", "give --data DIR, or --ephemeral")
NOTED = ("for the note by which eddy finds this process", "set EDDY_STATE to a folder that can be written")


def make_folder(folder: Path, use: tuple[str, str]) -> None:
    """Make a folder that `up` writes to, where it is not there.

    Args:
        folder: where.
        use: what for, and what to do where it can not be used.

    Raises:
        UsageError: it can not be made, or not be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        reason = "" if os.access(folder, os.W_OK | os.X_OK) else "Permission denied"
    except OSError as error:
        reason = error.strerror or str(error)
    if reason:
        raise UsageError(f"{folder} can not be used {use[0]} ({reason}): {use[1]}")


@click.command(name="up")
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), help="State directory; default: the user's.")
@click.option("--ephemeral", is_flag=True, help="Leave nothing behind.")
@click.option("--name", default="", help="Name of the host process; default: the host name.")
@click.option("--backplane", default="eddy", show_default=True, help="Name of the mesh.")
@click.option(
    "--log-level", type=click.Choice(LEVELS), default="warning", show_default=True, help="Least level of logs."
)
@click.option("--log-json", is_flag=True, help="Logs as JSON, also on a terminal.")
def up_command(data: Path | None, ephemeral: bool, name: str, backplane: str, log_level: str, log_json: bool) -> None:
    """Start everything on this machine, with no configuration.

    An embedded NATS server, sources for syslog (UDP and TCP 5514), NetFlow and IPFIX (UDP 2055 and 4739), sFlow (UDP
    6343), journald, the logs below /var/log and this host's own processes and connections, and one agent of every
    other type. Ends in order at Ctrl-C.
    """
    from eddy_mesh.runtime.process import run_loop  # noqa: PLC0415  # quick --help
    from eddy_mesh.runtime.up import UpOptions, up  # noqa: PLC0415

    if data and ephemeral:
        raise click.UsageError("--data and --ephemeral exclude each other")
    if not ephemeral:
        make_folder(data or state_directory() / "up", KEPT)
    make_folder(note_directory(), NOTED)
    configure_logs(log_level, as_json=log_json)
    sys.exit(run_loop(up(UpOptions(data, ephemeral, name, backplane))))


@click.command(name="run")
@click.argument("config", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--log-level", type=click.Choice(LEVELS), default="info", show_default=True, help="Least level of logs.")
@click.option("--log-json", is_flag=True, help="Logs as JSON, also on a terminal.")
@click.option("--while-parent", is_flag=True, hidden=True, help="End when standard input ends: a child's way.")
def run_command(config: Path, log_level: str, log_json: bool, while_parent: bool) -> None:
    """Start a host process from a configuration file, against the NATS servers named there."""
    from eddy_mesh.runtime.child_process import end_with_parent  # noqa: PLC0415  # quick --help
    from eddy_mesh.runtime.process import run, run_loop  # noqa: PLC0415

    if while_parent:
        end_with_parent()
    host = read_config(config)
    configure_logs(log_level, as_json=log_json)
    try:
        status = run_loop(run(host))
    except BusError as error:
        if not (while_parent and error.retryable):
            raise
        click.echo(f"eddy-agent: {error}", err=True)
        status = NO_SERVER
    sys.exit(status)
