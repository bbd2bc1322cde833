"""Configuration: TOML tables to frozen structs, every mistake named at once.

What may live here: the checker, which works for any msgspec Struct, and the structs of a host process. Nothing here
reads a file: text comes in, structs or a `ConfigError` go out.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from enum import StrEnum
from typing import Annotated, Literal, TypeVar, get_args, get_origin

import msgspec

from eddy_mesh.errors import ConfigError

S = TypeVar("S", bound=msgspec.Struct)

TagName = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^(?!tags\.)[A-Za-z][A-Za-z0-9_]*(\.[A-Za-z0-9_]+)*$",
        max_length=64,
        description="write the name as it follows tags. in a statement: site, room.number",
    ),
]
"""Name of a tag, without ``tags.``."""


class NatsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to reach the NATS servers; table ``[nats]``. Secrets only by file or environment name."""

    servers: tuple[str, ...] = ("nats://127.0.0.1:4222",)
    """URLs, tried in order."""
    creds_file: str = ""
    """credentials file as ``nsc`` writes it"""
    nkey_seed_file: str = ""
    """file that holds an nkey user seed"""
    user: str = ""
    """user name"""
    password_env: str = ""
    """name of the environment variable that holds the password"""
    token_file: str = ""
    """file that holds an authorization token"""
    tls_ca_file: str = ""
    """PEM file of the authorities that may sign the server's certificate"""
    tls_certificate_file: str = ""
    """PEM file of this client's certificate"""
    tls_key_file: str = ""
    """PEM file of its key"""


PARTITIONS = 64
"""Parts into which the events of an edge can be split."""

Delivery = Literal["live", "durable"]
OverloadPolicy = Literal["block", "spool", "drop-oldest", "sample"]


class Partition(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which part of an edge's events one consumer takes."""

    field: str = ""
    """field whose value's hash decides; empty: the event's sequence number"""
    of: Annotated[int, msgspec.Meta(ge=1, le=PARTITIONS)] = PARTITIONS
    """number of parts"""
    indexes: tuple[Annotated[int, msgspec.Meta(ge=0, lt=PARTITIONS)], ...] = ()
    """the parts, 0 to ``of`` - 1; none given: all"""


class Retention(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How much the stream of a durable edge holds; table ``[retention]``. It lets nothing go that was not taken."""

    max_bytes: Annotated[int, msgspec.Meta(ge=0)] = 0
    """size at which its senders wait, octets; 0: the default"""


class InEdge(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """An edge that ends at an agent, as a placement makes it."""

    name: str
    generation: Annotated[int, msgspec.Meta(ge=0)] = 0
    """revision in which it last changed"""
    producers: tuple[str, ...] = ()
    """``<host>/<agent>`` of everybody who feeds it"""
    statement: str = "SELECT *"
    delivery: Delivery = "live"
    overload: OverloadPolicy = "block"
    spool_bytes: int = 256 * 1024 * 1024
    """quota on disk for the policy ``spool``, octets"""
    partition: Partition = Partition()
    instance: int = 0
    """number of the consuming instance, from 0"""
    instances: int = 1
    """how many there are"""
    retention: Retention = Retention()
    """bounds of the stream of a durable edge"""


class OutEdge(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A durable edge that begins at an agent, as a placement makes it: what its sender puts into the stream."""

    name: str
    generation: Annotated[int, msgspec.Meta(ge=0)] = 0
    """revision in which it last changed"""
    statement: str = "SELECT *"
    overload: OverloadPolicy = "block"
    spool_bytes: int = 256 * 1024 * 1024
    """quota on disk for the policy ``spool``, octets"""
    partition: Partition = Partition()
    """``of`` is the number of subjects of the stream"""
    retention: Retention = Retention()


class Serving(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One generation of an edge, as its producers see it."""

    generation: int
    """revision of the topology in which the edge last changed"""
    producers: tuple[str, ...] = ()
    """agents at its beginning, each ``<host>/<agent>``"""
    delivery: Delivery = "live"
    """how the edge hands its events over; the consumers of a durable one that is durable no more take what its stream
    holds first"""


class AgentConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One agent; table ``[agents.<name>]``."""

    type: str
    """agent type: ``normalizer``, ``transformer`` ... (`eddy-agent list`)"""
    source: str = ""
    """for a normalizer: which source"""
    cooking: str = ""
    """for a transformer: which cooking"""
    detector: str = ""
    """for an analysis: which detector"""
    subscribe: tuple[str, ...] = ()
    """select/project statements that feed the agent; empty: the default of its type"""
    scope: Literal["", "host", "backplane"] = ""
    """whether it takes events of this host process only, or of the whole backplane; empty: the default of its type"""
    emit: Literal["", "demand", "always"] = ""
    """whether its events leave the host only when asked for, or always; empty: the default of its type"""
    overload: Literal["block", "spool", "drop-oldest", "sample"] = "block"
    """what its edges do when it can not keep up"""
    spool_bytes: int = 256 * 1024 * 1024
    """quota on disk of an edge with overload policy ``spool``, octets"""
    mailbox_events: int = 200_000
    """events that may wait for it"""
    backplane: str = ""
    """publish its events on another backplane (an anonymizer's recipients); empty: this one"""
    config: dict[str, object] = {}
    """settings of the source, cooking, detector or agent type (`eddy-agent describe`)"""
    in_edges: tuple[InEdge, ...] = ()
    """edges of a topology that end here, made by its placement; with any the agent takes nothing else"""
    out_edges: tuple[OutEdge, ...] = ()
    """durable edges of a topology that begin here, made by its placement"""


class LocalConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a host process keeps of the events that its agents made, to be selected back; table ``[local]``."""

    max_bytes: int = 256 << 20
    """most octets on disk; 0: nothing is kept"""
    max_age_s: float = 3600.0
    """longest time that an event is kept, s"""


class HostConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One host process; the whole file."""

    name: str = ""
    """name of the host process, unique in the backplane; empty: the host name"""
    backplane: str = "eddy"
    """name of the mesh"""
    state: str = ""
    """directory for checkpoints, spools and stores; empty: the user's state directory"""
    labels: dict[str, str] = {}
    """what a topology can place agents by: site, role ..."""
    tags: tuple[TagName, ...] = ()
    """names of the tags that events may carry, without ``tags.``; any other is taken away where it comes in"""
    nats: NatsConfig = NatsConfig()
    local: LocalConfig = LocalConfig()
    agents: dict[str, AgentConfig] = {}


def parse_toml(text: str, file: str) -> dict[str, object]:
    """Return the tables of a TOML text.

    Raises:
        ConfigError: not TOML; the message has the line.
    """
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError([f"{file}: {str(error)[:1].lower()}{str(error)[1:]}"]) from None


def convert(table: Mapping[str, object], struct: type[S], place: str) -> S:
    """Return a table as a struct.

    Args:
        table: as TOML or JSON gives it.
        struct: a frozen msgspec Struct.
        place: file and table, for messages.

    Raises:
        ConfigError: every mistake in the table, also in nested tables.
    """
    mistakes = mistakes_in(table, struct, place)
    if mistakes:
        raise ConfigError(mistakes)
    return msgspec.convert(table, struct, strict=True)


def mistakes_in(table: Mapping[str, object], struct: type[msgspec.Struct], place: str) -> list[str]:
    """Return a line for each mistake in a table: unknown keys with the nearest right one, missing keys, bad values."""
    known = {member.encode_name: member for member in msgspec.structs.fields(struct)}
    mistakes = [unknown_name(place, "key", key, known) for key in table if key not in known]
    for key, member in known.items():
        if key not in table:
            if member.required:
                mistakes.append(f"{place}: {key} is missing: give a value of type {type_text(member.type)}")
            continue
        mistakes += _mistakes_in_value(table[key], member.type, f"{place}: {key}")
    return mistakes


def unknown_name(place: str, what: str, name: str, known: Mapping[str, object] | list[str] | tuple[str, ...]) -> str:
    """Return the line for a name that does not exist, with the nearest that does, or all where none is near."""
    close = get_close_matches(name, list(known), n=1, cutoff=0.5)
    hint = f"did you mean {close[0]}?" if close else f"possible are {', '.join(sorted(known))}"
    return f"{place}: unknown {what} {name!r}; {hint}"


def type_text(kind: object) -> str:
    """Return a type as people read it."""
    text = getattr(kind, "__name__", None) or str(kind)
    return text.replace("typing.", "").replace("Literal", "one of ").replace("NoneType", "nothing")


def _mistakes_in_value(value: object, kind: object, place: str) -> list[str]:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and isinstance(value, dict):
        return mistakes_in(value, kind, place)
    struct = _struct_of_values(kind)
    if struct is not None and isinstance(value, dict):
        nested = []
        for name, member in value.items():
            inner = f"{place}.{name}"
            wrong = [f"{inner}: a table is wanted, not {member!r}"]
            nested += mistakes_in(member, struct, inner) if isinstance(member, dict) else wrong
        return nested
    try:
        msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as error:
        reason = _hint(value, kind) or _description(kind) or str(error).replace("`", "").split(" - at ")[0]
        shown = repr(value) if len(repr(value)) < 60 else repr(value)[:57] + "..."
        return [f"{place}: {shown} does not fit: {reason[:1].lower()}{reason[1:]}"]
    return []


def _description(kind: object) -> str:
    """What a type says of itself, "" where it says nothing."""
    for meta in getattr(kind, "__metadata__", ()):
        if isinstance(meta, msgspec.Meta) and meta.description:
            return meta.description
    return next(filter(None, map(_description, get_args(kind))), "")


def _hint(value: object, kind: object) -> str:
    """Return which texts a value may be, the nearest first; "" where its type does not list them."""
    choices = _choices(kind) if isinstance(value, str) else []
    close = get_close_matches(str(value), choices, n=1, cutoff=0.5)
    told = f"did you mean {close[0]}? " if close else ""
    return f"{told}possible are {', '.join(sorted(choices))}" if choices else ""


def _choices(kind: object) -> list[str]:
    """Return the texts that a value may be, "" left out; none where the type does not list them."""
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return [str(member) for member in kind]
    listed = get_args(kind) if get_origin(kind) is Literal else ()
    return [text for text in listed if isinstance(text, str) and text]


def _struct_of_values(kind: object) -> type[msgspec.Struct] | None:
    if get_origin(kind) is not dict:
        return None
    inner = get_args(kind)[1]
    return inner if isinstance(inner, type) and issubclass(inner, msgspec.Struct) else None
