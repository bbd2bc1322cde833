"""The configuration file of a child process, made of its parent's configuration and what a topology wants; pure.

What may live here: the check of a child's tables, and TOML of them. A child reads the file as any host process does.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from eddy_mesh.commands import AGENT_MANAGER, DEFAULT_MANAGER
from eddy_mesh.config import AgentConfig, HostConfig, convert
from eddy_mesh.errors import ConfigError

INHERITED = ("nats", "state")
"""Keys that a child has from the host process that starts it; nobody else may give them."""


def child_config(name: str, tables: Mapping[str, object], parent: HostConfig, state: str) -> HostConfig:
    """Return the configuration of a child.

    Args:
        name: of the child, ``<parent>.<agent>``.
        tables: of its configuration file: ``agents``, and ``tags`` where they differ from the parent's. An
            agent-manager is added where there is none.
        parent: configuration of the host process that starts it, with its name filled in. Server, credentials (by file
            and environment name), backplane and tags are taken from it.
        state: the child's state directory.

    Raises:
        ConfigError: every mistake in the tables.
    """
    place = f"children.{name}"
    mistakes = [
        f"{place}: {key}: is that of the host process that starts it: leave it out"
        for key in INHERITED
        if key in tables
    ]
    if not name.removeprefix(f"{parent.name}."):
        mistakes.append(f"{place}: the name of an agent is missing: a child of {parent.name} is {parent.name}.<agent>")
    elif not name.startswith(f"{parent.name}."):
        mistakes.append(f"{place}: does not fit: a child of {parent.name} is called {parent.name}.<agent>")
    for key, value in (("name", name), ("backplane", parent.backplane)):
        if tables.get(key, value) != value:
            mistakes.append(f"{place}: {key}: {tables[key]!r} does not fit: it is {value!r}, or left out")
    mistakes += _nothings(tables, place)
    if mistakes:
        raise ConfigError(mistakes)
    inherited = msgspec.to_builtins({"backplane": parent.backplane, "tags": parent.tags, "nats": parent.nats})
    config = convert({**inherited, **tables, "name": name, "state": state}, HostConfig, place)
    if any(agent.type == AGENT_MANAGER for agent in config.agents.values()):
        return config
    if DEFAULT_MANAGER in config.agents:
        raise ConfigError([f"{place}: agents.{DEFAULT_MANAGER}: is the name of the agent-manager: take another"])
    return msgspec.structs.replace(config, agents={**config.agents, DEFAULT_MANAGER: AgentConfig(type=AGENT_MANAGER)})


def _nothings(value: object, place: str) -> list[str]:
    """Return a line for each null: JSON, in which the tables came, has it, TOML has not."""
    if value is None:
        return [f"{place}: null does not fit: leave the key out"]
    if isinstance(value, Mapping):
        return [line for key, member in value.items() for line in _nothings(member, f"{place}: {key}")]
    if isinstance(value, list | tuple):
        return [line for member in value for line in _nothings(member, place)]
    return []


def toml_text(config: HostConfig) -> str:
    """Return a configuration as the text of a TOML file; what is as by default is left out.

    Source: TOML 1.0.0; strings are basic strings, tables within tables are inline.
    """
    tables = msgspec.to_builtins(config)
    default = msgspec.to_builtins(HostConfig())
    return "".join(f"{key} = {_toml(value)}\n" for key, value in tables.items() if value != default[key])


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_string(str(key))} = {_toml(member)}" for key, member in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    raise ConfigError([f"{value!r} can not be written into a configuration file: use text, numbers, lists and tables"])


def _string(text: str) -> str:
    # JSON escapes all that TOML does, and DEL besides.
    return msgspec.json.encode(text).decode().replace("\x7f", "\\u007f")
