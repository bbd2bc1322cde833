"""``eddy-agent check``: every mistake in a configuration file at once.

What may live here: putting together what the checkers of the file, of the servers and of each agent find.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import rich_click as click

from eddy_mesh.config import AgentConfig, HostConfig, NatsConfig, mistakes_in, parse_toml, unknown_name
from eddy_mesh.discovery import PARTS, Blueprint, blueprint
from eddy_mesh.errors import ConfigError
from eddy_mesh.nats_servers import parse_servers
from eddy_mesh.topology.checks import endpoint_mistakes, mistakes_in_manifest
from eddy_mesh.topology.edge_checks import fed_blueprint
from eddy_mesh.topology.manifest import Manifest, config_of, wanted

OF_TOPOLOGY = frozenset({"hosts", "edges", "retention"})
"""Tables that only a topology has."""
PLACES = frozenset({"host", "label", "each", "count", "partition", "process"})
"""Keys that an agent has in a topology only."""
MOST_SHOWN = 50
"""Mistakes that are shown at once; many are often repeats of one."""
CONTEXT = {"help_option_names": ["-h", "--help"]}


@click.command(name="check", context_settings=CONTEXT)
@click.argument(
    "configs", metavar="CONFIG...", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False)
)
def check(configs: tuple[Path, ...]) -> None:
    """Name every mistake in configuration files, the first 50 where there are more.

    Each line has the file, the key, what is wrong, and the nearest right name. Statements and the settings of sources,
    cookings and detectors are looked at too, and the files that these name. A file with the table hosts or edges, or
    whose agents say where they run, is a topology; a host that its table hosts does not name is warned of. Nothing is
    started, no server is asked.
    """
    mistakes: list[str] = []
    for config in configs:
        found = mistakes_in_file(config)
        mistakes += found
        for doubt in doubts_in_file(config):
            click.echo(f"warning: {doubt}", err=True)
        if not found:
            click.echo(f"{config}: ok, {_contents(parse_toml(config.read_text('utf-8'), str(config)))}")
    if mistakes:
        raise ConfigError(_shown(mistakes))


def _shown(mistakes: list[str]) -> list[str]:
    """Return the first `MOST_SHOWN` mistakes, and a line that says how many more there are."""
    left_out = len(mistakes) - MOST_SHOWN
    if left_out <= 0:
        return mistakes
    return [*mistakes[:MOST_SHOWN], f"... and {_counted(left_out, 'more mistake')}: mend these first, and check again"]


def _contents(table: Mapping[str, object]) -> str:
    """Return how much a file declares."""
    agents = len(_tables(table.get("agents")))
    if not _is_topology(table):
        return _counted(agents, "agent")
    hosts = _tables(table.get("hosts"))
    agents += sum(len(_tables(host.get("agents"))) for host in hosts.values())
    edges = len(_tables(table.get("edges")))
    told = [_counted(len(hosts), "host"), _counted(agents, "agent"), *([_counted(edges, "edge")] if edges else [])]
    return ", ".join(told)


def _is_topology(table: Mapping[str, object]) -> bool:
    return bool(OF_TOPOLOGY & table.keys()) or any(
        PLACES & agent.keys() for agent in _tables(table.get("agents")).values()
    )


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
    if _is_topology(table):
        return _topology_mistakes(table, str(path))
    mistakes = mistakes_in(table, HostConfig, str(path)) + _server_mistakes(table.get("nats"), str(path))
    for name, agent in _tables(table.get("agents")).items():
        mistakes += _agent_mistakes(agent, f"{path}: agents.{name}")
    return mistakes


def _topology_mistakes(table: Mapping[str, object], file: str) -> list[str]:
    """Return what is wrong with a topology, and where nothing is, what its agents find wrong with their settings."""
    mistakes = mistakes_in_manifest(table, file)
    if mistakes:
        return mistakes
    for agent in wanted(msgspec.convert(table, Manifest)):
        place = f"{file}: {agent.table}"
        mistakes += _building_mistakes(fed_blueprint(config_of(agent.entry), place), place)
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
        plan = blueprint(agent, place)
        return endpoint_mistakes(plan, place) + _building_mistakes(plan, place)
    except ConfigError as error:
        return error.mistakes


def _building_mistakes(plan: Blueprint, place: str) -> list[str]:
    """Return what only the agent itself finds wrong with its settings, such as a time zone that there is not."""
    try:
        plan.build()
    except ConfigError as error:
        return [f"{place}.config: {line}" for line in error.mistakes]
    return []


def doubts_in_file(path: Path) -> list[str]:
    """Return a line for each host that agents of a topology name and its table ``hosts`` does not, with the nearest.

    No mistake: whether there is such a host, only the backplane-manager knows. None where the file has no such table.
    """
    try:
        tables = parse_toml(path.read_text("utf-8"), "")
    except (ConfigError, OSError, UnicodeDecodeError):
        return []  # a mistake, told as one
    hosts = _tables(tables.get("hosts"))
    named = [(name, agent.get("host")) for name, agent in _tables(tables.get("agents")).items()]
    return [
        unknown_name(f"{path}: agents.{name}", "host", host, hosts) + " It is right only where a host has that name."
        for name, host in named
        if hosts and isinstance(host, str) and host and host not in hosts
    ]
