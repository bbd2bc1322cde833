"""``eddy control``: a command for one agent or one host process."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import rich_click as click

from eddy_mesh.cli.connection import with_mesh
from eddy_mesh.cli.output import printable, write_records
from eddy_mesh.cli.settings import Settings, command
from eddy_mesh.cli.statuses import HostStatus, host_statuses
from eddy_mesh.commands import ASKING, Command
from eddy_mesh.config import parse_toml
from eddy_mesh.errors import UsageError

if TYPE_CHECKING:
    from eddy_mesh.api import Mesh

HOST_PROCESS = "host"
HOST_COMMANDS = (*sorted(ASKING), Command.DRAIN, Command.STOP)


def _complete_verb(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    return [verb for verb in Command if verb.startswith(incomplete)]


@command("control")
@click.argument("target", metavar="HOST[/AGENT]")
@click.argument("verb", metavar="VERB", shell_complete=_complete_verb)
@click.option("--config", metavar="TEXT", default="", help="With reload: new settings as TOML or JSON, or @FILE.")
def control(settings: Settings, target: str, verb: str, config: str) -> None:
    """Give an agent, or with HOST alone a host process, a command.

    VERB is ping, info, stats, pause, resume, reload, drain or stop. A drain ends the agent once all that waits is
    handled, a stop ends it now; resume starts it again.

    \b
    eddy control hub/archive info
    eddy control hub/syslog reload --config 'port = 514'
    eddy control hub drain
    """  # noqa: D301  # click's mark for lines that stay as they are
    host, _, agent = target.partition("/")
    order = checked_verb(verb, agent)
    arguments = {"config": settings_of(config)} if config else {}
    if arguments and order is not Command.RELOAD:
        raise UsageError(f"--config is for reload, not for {order}: leave one of them out")
    answer = with_mesh(settings, lambda mesh: _order(mesh, host, agent, order, arguments))
    if settings.json:
        write_records([answer])
    elif order in {Command.INFO, Command.STATS}:
        click.echo(msgspec.json.format(msgspec.json.encode(answer), indent=2).decode())
    else:
        click.echo(printable(f"{target}: {answer.get('state', 'there')}"))


async def _order(
    mesh: Mesh, host: str, agent: str, order: Command, arguments: Mapping[str, object]
) -> dict[str, object]:
    check_target(await host_statuses(mesh), host, agent)
    return await mesh.control(host, agent or HOST_PROCESS, order, **arguments)


def checked_verb(verb: str, agent: str) -> Command:
    """Return the command of that name.

    Args:
        verb: as it was written.
        agent: name of the agent, "" for the host process, which knows fewer commands.

    Raises:
        UsageError: there is none; the text has the nearest.
    """
    possible = list(Command) if agent else list(HOST_COMMANDS)
    if verb.lower() not in possible:
        what = "an agent" if agent else "a host process"
        raise UsageError(f"{verb!r} is not a command for {what}; {_hint(verb.lower(), possible)}")
    return Command(verb.lower())


def check_target(hosts: list[HostStatus], host: str, agent: str) -> None:
    """Check that there is such a host process, and such an agent in it.

    Raises:
        UsageError: there is not; the text has the nearest name.
    """
    names = {status.host: [held.agent for held in status.agents] for status in hosts}
    if host not in names:
        holders = [f"{other}/{host}" for other, agents in names.items() if host in agents]
        hint = f"did you mean {holders[0]}?" if holders and not agent else _hint(host, names)
        raise UsageError(f"there is no host process {host!r}; {hint}")
    if agent and agent not in names[host]:
        raise UsageError(f"{host} has no agent {agent!r}; {_hint(agent, names[host])}")


def _hint(name: str, possible: Collection[str]) -> str:
    close = get_close_matches(name, possible, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(sorted(possible))}"


def settings_of(text: str) -> dict[str, object]:
    """Return settings that were given as TOML, as a JSON object, or as ``@FILE`` with one of them.

    Raises:
        UsageError: the file can not be read, or the text is no JSON object.
        ConfigError: the text is no TOML.
    """
    place = "--config"
    if text.startswith("@"):
        place = text[1:]
        try:
            text = Path(place).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{place} can not be read: {error}") from None
    if not text.lstrip().startswith("{"):
        return parse_toml(text, place)
    try:
        return msgspec.json.decode(text.encode(), type=dict[str, object])
    except msgspec.MsgspecError as error:
        raise UsageError(f"{place} is no JSON object ({error}): write it as TOML or as JSON") from None
