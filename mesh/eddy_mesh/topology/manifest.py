"""Manifest: what a person writes about a backplane, as TOML.

What may live here: the structs of the tables, and one view of all agents, be they written for a host, for a label or
in the table of a host. What is wrong with a manifest is found in `eddy_mesh.topology.checks`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple

import msgspec

from eddy_mesh.config import PARTITIONS, AgentConfig, Delivery, OverloadPolicy, Retention, TagName
from eddy_mesh.errors import ConfigError
from eddy_mesh.subjects import DEFAULT_BACKPLANE


class AgentEntry(AgentConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An agent and where it runs; table ``[agents.<name>]``."""

    host: str = ""
    """host process that runs it"""
    label: str = ""
    """labels that its host must have, ``site=x`` or ``site=x,role=hub``, instead of ``host``"""
    each: bool = False
    """one on every host with the label, instead of one on any of them"""
    count: Annotated[int, msgspec.Meta(ge=1, le=PARTITIONS)] = 1
    """instances among which its events are split: ``<name>.0`` ..."""
    partition: str = ""
    """field by whose value its events are split; empty: evenly"""
    process: Literal["shared", "own"] = "shared"
    """whether it runs in its host's process or in one of its own, ``<host>.<agent>``"""


class HostEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A host process; table ``[hosts.<name>]``."""

    labels: dict[str, str] = {}
    """labels beside those that the host process itself tells"""
    agents: dict[str, AgentConfig] = {}
    """agents of this host only"""


class EdgeEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An edge; table ``[edges.<name>]``."""

    from_: str | tuple[str, ...] = msgspec.field(name="from")
    """agents whose events it carries"""
    to: str
    """agent that takes them"""
    statement: str = ""
    """what of them; empty: everything that the consumer's type takes"""
    delivery: Delivery = "live"
    """``durable``: kept in a stream until the consumer has handled it"""
    overload: Literal["", OverloadPolicy] = ""
    """what it does when the consumer can not keep up; empty: as the consumer says"""
    spool_bytes: Annotated[int, msgspec.Meta(ge=0)] = 0
    """quota on disk for the policy ``spool``, octets; 0: as the consumer says"""
    partition: str = ""
    """field by whose value instances of the consumer share; empty: as the consumer says"""

    @property
    def producers(self) -> tuple[str, ...]:
        """The agents of ``from``."""
        return (self.from_,) if isinstance(self.from_, str) else self.from_


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    backplane: str = DEFAULT_BACKPLANE
    """name of the mesh"""
    tags: tuple[TagName, ...] = ()
    """names of the tags that events may carry"""
    retention: Retention = Retention()
    """how much the stream of each durable edge holds"""
    hosts: dict[str, HostEntry] = {}
    agents: dict[str, AgentEntry] = {}
    edges: dict[str, EdgeEntry] = {}


class Wanted(NamedTuple):
    """One agent of a manifest, wherever it was written.

    Attributes:
        name: its name.
        table: its table in the manifest, for messages.
        entry: its settings and where it runs; ``host`` is set where it is from the table of a host.
        is_local: there may be one on each of several hosts: edges between such agents join those of one host.
    """

    name: str
    table: str
    entry: AgentEntry
    is_local: bool


def wanted(manifest: Manifest) -> tuple[Wanted, ...]:
    """Return every agent of a manifest, by name; one that several hosts have in their tables comes once for each."""
    on_hosts = Counter(name for host in manifest.hosts.values() for name in host.agents)
    found = [Wanted(name, f"agents.{name}", entry, entry.each) for name, entry in manifest.agents.items()]
    for host, part in manifest.hosts.items():
        for name, agent in part.agents.items():
            entry = AgentEntry(host=host, **_members(agent))  # type: ignore[arg-type]
            found.append(Wanted(name, f"hosts.{host}.agents.{name}", entry, on_hosts[name] > 1))
    return tuple(sorted(found, key=lambda agent: (agent.name, agent.entry.host)))


def config_of(entry: AgentEntry) -> AgentConfig:
    """Return an agent's settings without where it runs, as a host process takes them."""
    return AgentConfig(**_members(entry))  # type: ignore[arg-type]


def _members(agent: AgentConfig) -> dict[str, object]:
    return {name: getattr(agent, name) for name in AgentConfig.__struct_fields__}


def labels_of(text: str, place: str) -> dict[str, str]:
    """Return the labels that a text like ``site=x,role=hub`` asks for.

    Args:
        text: as written.
        place: file and table, for messages.

    Raises:
        ConfigError: it is no such text.
    """
    pairs = [pair.strip().partition("=") for pair in text.split(",")]
    if not all(key and equals and value for key, equals, value in pairs):
        raise ConfigError([f'{place}: label: {text!r} is no label: write "site=x", or "site=x,role=hub" for both'])
    return {key.strip(): value.strip() for key, _, value in pairs}


def has_labels(labels: Mapping[str, str], asked: Mapping[str, str]) -> bool:
    """Whether a host with these labels has all that are asked for."""
    return all(labels.get(key) == value for key, value in asked.items())
