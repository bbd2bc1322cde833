"""``eddy-agent check``: every mistake in a configuration file at once.

What may live here: putting together what the checkers of the file, of the servers and of each agent find.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import rich_click as click

from eddy_mesh.config import AgentConfig, HostConfig, NatsConfig, mistakes_in, parse_toml
from eddy_mesh.discovery import PARTS, Blueprint, blueprint, type_module
from eddy_mesh.errors import ConfigError
from eddy_mesh.nats_servers import parse_servers

TOPOLOGY_KEEPER = "backplane_manager"
"""The agent type whose module says what a topology file is."""
CONTEXT = {"help_option_names": ["-h", "--help"]}


@click.command(name="check", context_settings=CONTEXT)
@click.argument(
    "configs", metavar="CONFIG...", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False)
)
def check(configs: tuple[Path, ...]) -> None:
    """Name every mistake in configuration files.

    Each line has the file, the key, what is wrong, and the nearest right name. Statements and the settings of sources,
    cookings and detectors are looked at too, and the files that these name. A file with the table hosts is a topology.
    Nothing is started, no server is asked.
    """
    mistakes: list[str] = []
    for config in configs:
        found = mistakes_in_file(config)
        mistakes += found
        if not found:
            click.echo(f"{config}: ok, {_contents(parse_toml(config.read_text('utf-8'), str(config)))}")
    if mistakes:
        raise ConfigError(mistakes)


def _contents(table: Mapping[str, object]) -> str:
    """Return how much a file declares."""
    hosts = _tables(table.get("hosts"))
    if "hosts" not in table:
        return _counted(len(_tables(table.get("agents"))), "agent")
    agents = sum(len(_tables(host.get("agents"))) for host in hosts.values())
    return f"{_counted(len(hosts), 'host')}, {_counted(agents, 'agent')}"


def _counted(count: int, what: str) -> str:
    return f"{count or 'no'} {what}{'' if count == 1 else 's'}"


def mistakes_in_file(path: Path) -> list[str]:
    """Return a line for each mistake in a configuration file; none where it can be used."""
    try:
        table = parse_toml(path.read_text("utf-8"), str(path))
    except ConfigError as error:
        return error.mistakes
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        return [f"{path}: can not be read: {reason}"]
    if "hosts" in table:
        return _topology_mistakes(table, str(path))
    mistakes = mistakes_in(table, HostConfig, str(path)) + _server_mistakes(table.get("nats"), str(path))
    for name, agent in _tables(table.get("agents")).items():
        mistakes += _agent_mistakes(agent, f"{path}: agents.{name}")
    return mistakes


def _topology_mistakes(table: Mapping[str, object], file: str) -> list[str]:
    """Return what is wrong with a topology: its form, and each agent of each of its hosts."""
    topology: type[msgspec.Struct] = type_module(TOPOLOGY_KEEPER).Topology
    mistakes = mistakes_in(table, topology, file)
    for host, part in _tables(table.get("hosts")).items():
        for name, agent in _tables(part.get("agents")).items():
            mistakes += _agent_mistakes(agent, f"{file}: hosts.{host}.agents.{name}")
    return mistakes


def _tables(value: object) -> dict[str, Mapping[str, object]]:
    """Return the members that are tables; what is wrong with the others was told before."""
    if not isinstance(value, dict):
        return {}
    return {name: member for name, member in value.items() if isinstance(member, dict)}


def _server_mistakes(nats: object, file: str) -> list[str]:
    if not isinstance(nats, dict) or "servers" not in nats or mistakes_in({"servers": nats["servers"]}, NatsConfig, ""):
        return []
    try:
        parse_servers(nats["servers"])
    except ConfigError as error:
        return [f"{file}: nats.{line}" for line in error.mistakes]
    return []


def _agent_mistakes(table: Mapping[str, object], place: str) -> list[str]:
    """Return what is wrong with an agent beside the form of its table; keys of a wrong form are passed over."""
    usable = {key: value for key, value in table.items() if not mistakes_in({"type": "", key: value}, AgentConfig, "")}
    if "type" not in usable:
        return []
    agent = msgspec.convert(usable, AgentConfig)
    part = PARTS.get(agent.type)
    if part and part.key in table and part.key not in usable:
        return []
    try:
        return _building_mistakes(blueprint(agent, place), place)
    except ConfigError as error:
        return error.mistakes


def _building_mistakes(plan: Blueprint, place: str) -> list[str]:
    """Return what only the agent itself finds wrong with its settings, such as a time zone that there is not."""
    try:
        plan.build()
    except ConfigError as error:
        return [f"{place}.config: {line}" for line in error.mistakes]
    return []
