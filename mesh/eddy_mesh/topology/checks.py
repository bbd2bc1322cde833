"""Checks of a manifest: every mistake at once, with its key and the nearest right name.

What may live here: what can be said of a manifest without knowing which hosts there are. Edges are looked at in
`eddy_mesh.topology.edge_checks`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from ipaddress import ip_address

import msgspec

from eddy_mesh.config import AgentConfig, mistakes_in, parse_toml
from eddy_mesh.discovery import Blueprint, blueprint
from eddy_mesh.errors import ConfigError
from eddy_mesh.topology.edge_checks import UNSAID, edge_mistakes, fed_blueprint, meant, partition_mistakes
from eddy_mesh.topology.manifest import (
    AgentEntry,
    EdgeEntry,
    HostEntry,
    Manifest,
    Wanted,
    config_of,
    labels_of,
    wanted,
)

_NAME = re.compile(r"[a-z0-9_-]{1,64}")
_HOST_NAME = re.compile(r"[^\s/*>?\[\]\x00-\x1f]{1,128}")
_TAKEN_NAMES = frozenset({"all", "any", "host"})
"""Tokens that have a meaning of their own in control and query subjects."""
_ENDPOINT = re.compile(r"(?:\*|[\w.-]+|\[[\da-fA-F:]+\]):(\d+)")

_SYNONYMS = {"select": "statement", "project": "statement"}
"""Keys that people write for others that no likeness leads to."""
_JUDGED_BY = frozenset({"type", "source", "cooking", "detector", "host", "label", "subscribe"})
"""Keys of an agent without which it would seem to lack what was only written wrong."""

TABLES: dict[str, type[msgspec.Struct]] = {"agents": AgentEntry, "edges": EdgeEntry, "hosts": HostEntry}
"""Tables of tables of a manifest."""


def read(text: str, file: str) -> Manifest:
    """Return the manifest of a TOML text.

    Raises:
        ConfigError: every mistake.
    """
    return checked(parse_toml(text, file), file)


def checked(tables: Mapping[str, object], file: str) -> Manifest:
    """Return the manifest of tables as TOML or JSON gives them.

    Args:
        tables: the whole manifest.
        file: its name, for messages.

    Raises:
        ConfigError: every mistake.
    """
    mistakes = mistakes_in_manifest(tables, file)
    if mistakes:
        raise ConfigError(mistakes)
    return msgspec.convert(tables, Manifest)


def mistakes_in_manifest(tables: Mapping[str, object], file: str) -> list[str]:
    """Return a line for each mistake; a table of a wrong form does not keep the others from being looked at."""
    mistakes = mistakes_in(tables, Manifest, file)
    manifest = msgspec.convert(_sound(tables), Manifest)
    agents = wanted(manifest)
    mistakes += _name_mistakes(tables, file)
    blueprints: dict[str, Blueprint] = {}
    known = {*_members(tables, "agents"), *(name for host in _hosts(tables) for name in _members(host, "agents"))}
    # An edge to a name with a slip is meant for the nearest: that agent must not be told that it has none.
    ended_at = {meant(edge.to, known) or edge.to for edge in manifest.edges.values()}
    for agent in agents:
        found, plan = agent_mistakes(agent, file, is_fed=agent.name in ended_at)
        mistakes += found
        if plan is not None:
            blueprints[agent.name] = plan
    return mistakes + edge_mistakes(manifest, blueprints, known, file)


def agent_mistakes(agent: Wanted, file: str, *, is_fed: bool) -> tuple[list[str], Blueprint | None]:
    """Return what is wrong with an agent, and what it stands for where that can be told.

    Args:
        agent: the agent.
        file: for messages.
        is_fed: whether an edge ends at it.
    """
    place, entry = f"{file}: {agent.table}", agent.entry
    mistakes = [*_position_mistakes(entry, place), *partition_mistakes(entry.partition, place)]
    mistakes += [
        f"{place}: {key} can not be written: the placement makes it from the table edges"
        for key in ("in_edges", "out_edges")
        if getattr(entry, key)
    ]
    try:
        config = msgspec.structs.replace(config_of(entry), in_edges=(), out_edges=())
        plan = fed_blueprint(config, place) if is_fed else blueprint(config, place)
    except ConfigError as error:
        return [*mistakes, *error.mistakes], None
    mistakes += endpoint_mistakes(plan, place)
    fixed = fixed_endpoints(plan)
    if entry.count > 1 and entry.host and fixed:
        mistakes.append(
            f"{place}: count: {entry.count} of it on {entry.host} would all listen on {fixed[0]}: set reuse_port = true"
            " in its config where it has that, or give a label and each = true"
        )
    return mistakes, plan


def _position_mistakes(entry: AgentEntry, place: str) -> list[str]:
    mistakes: list[str] = []
    if entry.host and entry.label:
        mistakes.append(f"{place}: host and label are both given: keep the one that says where it runs")
    if not entry.host and not entry.label:
        mistakes.append(f'{place}: says nowhere to run: give host = "NAME", or label = "KEY=VALUE"')
    if entry.each and not entry.label:
        mistakes.append(f"{place}: each is for hosts with a label: give one, or leave each out")
    if entry.each and entry.count > 1:
        mistakes.append(f"{place}: each and count are both given: each host has one, count splits the events of one")
    if entry.label:
        try:
            labels_of(entry.label, place)
        except ConfigError as error:
            mistakes += error.mistakes
    return mistakes


def endpoint_mistakes(plan: Blueprint, place: str) -> list[str]:
    """Return a line for each text of a source's ``listen…`` that is no endpoint, as `eddy_mesh.listening` takes it."""
    if plan.kind != "normalizer":
        return []
    found = {name: getattr(plan.config, name) for name in plan.config.__struct_fields__ if name.startswith("listen")}
    return [
        f"{place}.config: {name}: {text!r} is no endpoint: write ADDRESS:PORT, [IPv6]:PORT, or *:PORT for all addresses"
        for name, texts in found.items()
        for text in (texts if isinstance(texts, tuple) else ())
        if isinstance(text, str) and not _is_endpoint(text)
    ]


def _is_endpoint(text: str) -> bool:
    host, colon, port = text.strip().rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        return False
    bare = host.removeprefix("[").removesuffix("]")
    try:
        return bare in {"", "*", "localhost"} or bool(ip_address(bare))
    except ValueError:
        return False


def fixed_endpoints(plan: Blueprint) -> list[str]:
    """Return the endpoints that only one agent of a host can listen on: those with a port, where it is not shared."""
    if plan.kind != "normalizer" or getattr(plan.config, "reuse_port", False):
        return []
    values = (getattr(plan.config, name) for name in plan.config.__struct_fields__)
    texts = [text for value in values if isinstance(value, tuple) for text in value if isinstance(text, str)]
    found = [(text, _ENDPOINT.fullmatch(text)) for text in texts]
    return [text for text, endpoint in found if endpoint and int(endpoint[1])]


# --- names, and what of a manifest has the right form ---------------------------------------------------------------


def _name_mistakes(tables: Mapping[str, object], file: str) -> list[str]:
    hosts = _members(tables, "hosts")
    mistakes = [
        f"{file}: hosts.{name}: {name!r} can not name a host: leave out spaces, / * > ? [ ], and the word all"
        for name in hosts
        if not _HOST_NAME.fullmatch(name) or name == "all"
    ]
    named = [(f"{table}.{name}", name) for table in ("agents", "edges") for name in _members(tables, table)]
    named += [(f"hosts.{host}.agents.{name}", name) for host in hosts for name in _members(hosts[host], "agents")]
    for place, name in named:
        if name in _TAKEN_NAMES:
            mistakes.append(f"{file}: {place}: the name {name!r} has a meaning in subjects: take another")
        elif not _NAME.fullmatch(name):
            mistakes.append(
                f"{file}: {place}: {name!r} can not be a token of subjects: use 1 to 64 of a-z, 0-9, _ and -"
            )
    return mistakes + [
        f"{file}: hosts.{host}.agents.{name}: there is agents.{name} too: give one of them another name"
        for host in hosts
        for name in _members(hosts[host], "agents")
        if name in _members(tables, "agents")
    ]


def _members(table: object, key: str) -> dict[str, object]:
    found = table.get(key) if isinstance(table, Mapping) else None
    return found if isinstance(found, dict) else {}


def _hosts(tables: Mapping[str, object]) -> list[object]:
    return list(_members(tables, "hosts").values())


def _sound(tables: Mapping[str, object]) -> dict[str, object]:
    """Return what of the tables has the right form: what is wrong with the rest was told."""
    sound = {key: value for key, value in tables.items() if not mistakes_in({key: value}, Manifest, "")}
    for key, struct in TABLES.items():
        sound[key] = _sound_members(_members(tables, key), struct)
    return sound


def _sound_members(members: Mapping[str, object], struct: type[msgspec.Struct]) -> dict[str, object]:
    kept: dict[str, object] = {}
    for name, member in members.items():
        if not isinstance(member, dict):
            continue
        whole = _repaired(member, struct)
        if struct is HostEntry:
            whole = {
                "labels": member.get("labels", {}),
                "agents": _sound_members(_members(member, "agents"), AgentConfig),
            }
        if not mistakes_in(whole, struct, ""):
            kept[name] = whole
    return kept


def _repaired(table: Mapping[str, object], struct: type[msgspec.Struct]) -> dict[str, object]:
    """Return a table as it is meant, so that what else is wrong with it can be told.

    A key with a slip stands for the nearest; a value that does not fit is left out, and an end of an edge that is then
    not said is an agent of `UNSAID`. What an agent can not be judged without stays as it is, and the table is refused.
    """
    fields = {member.encode_name for member in msgspec.structs.fields(struct)}
    named: dict[str, object] = {}
    for key, value in table.items():
        right = key if key in fields else (_synonym(key, fields) or meant(key, fields - table.keys()))
        if right:
            named.setdefault(right, value)
    required = {key: UNSAID[key] for key in UNSAID if struct is EdgeEntry}
    wrong = {key for key, value in named.items() if _is_wrong(key, value, struct)} - _JUDGED_BY
    return required | {key: value for key, value in named.items() if key not in wrong}


def _synonym(key: str, fields: Collection[str]) -> str:
    name = _SYNONYMS.get(key, "")
    return name if name in fields else ""


def _is_wrong(key: str, value: object, struct: type[msgspec.Struct]) -> bool:
    """Whether a value of a known key does not fit; that others are missing is not its fault."""
    missing = mistakes_in({}, struct, "")
    return any(line not in missing for line in mistakes_in({key: value}, struct, ""))
