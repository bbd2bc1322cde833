"""Subjects: the only place that builds or parses one. ``subjects.md`` is rendered from `CHANNELS`.

What may live here: the table of channels, token escaping, one builder and, where receivers need it, one parser for
each channel.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from eddy_mesh.cer import EventClass, Stage
from eddy_mesh.errors import UsageError, WireError

DEFAULT_BACKPLANE = "eddy"
ALL = "all"
"""In place of a host: every host process of the backplane."""
HOST = "host"
"""In place of an agent and of its type: the host process itself."""


class Channel(NamedTuple):
    """One row of the table of channels."""

    name: str
    subject: str
    payload: str
    meaning: str


CHANNELS = (
    Channel(
        "event",
        "<backplane>.event.<stage>.<class>.<type>.<origin>",
        "batch",
        'everything that a producer with ``emit = "always"`` makes; ``<type>`` may have several tokens',
    ),
    Channel(
        "flow",
        "<backplane>.flow.<subscription>",
        "batch or JSON rows",
        "what one subscription asked for, selected and projected at the producers; headers name kind and origin",
    ),
    Channel(
        "edge",
        "<backplane>.edge.<edge>.<partition>",
        "batch",
        "a durable edge, kept in its own stream until handled; ``<partition>``: 0 to 63; headers name kind and origin",
    ),
    Channel(
        "query",
        "<backplane>.query.<agent type>.<agent>.<verb>",
        "JSON, answers as NDJSON in one or more messages",
        "ask a store or an agent; ``<agent>`` is ``<host>/<agent>`` escaped as one token, or ``any``",
    ),
    Channel(
        "control",
        "<backplane>.control.<host>.<agent>.<verb>",
        "JSON, answered with JSON",
        "command one agent; agent ``host`` is the host process itself",
    ),
    Channel(
        "control to all",
        "<backplane>.control.all.<verb>",
        "JSON, answered with JSON by every host process",
        "command every host process of the backplane",
    ),
    Channel(
        "emit",
        "<backplane>.emit.<type>",
        "lines or JSON, answered with JSON",
        "put events of a script into the mesh; one host process with an ``emit`` source takes each message",
    ),
    Channel(
        "status",
        "<backplane>.status.<host>.<agent>",
        "JSON",
        "heartbeat: state and conservation counters, every two seconds and at every change of state",
    ),
    Channel(
        "dead letters",
        "<backplane>.dead.<agent>",
        "batch",
        "events that an agent could not take; headers give reason and detail",
    ),
    Channel("discovery", "$SRV.PING|INFO|STATS[.<name>[.<id>]]", "JSON", "NATS micro-service convention (ADR-32)"),
)

_PLAIN = re.compile(r"[a-z0-9_-]+")
_ESCAPED = re.compile(r"=([0-9a-f]{2})")


def escape(text: str) -> str:
    """Return ``text`` as one lower-case subject token; every byte but a-z, 0-9, ``_`` and ``-`` becomes ``=xx``.

    The empty text becomes ``=``.
    """
    if _PLAIN.fullmatch(text):
        return text
    safe = (chr(b) if _PLAIN.match(chr(b)) else f"={b:02x}" for b in text.encode("utf-8", "surrogateescape"))
    return "".join(safe) or "="


def unescape(token: str) -> str:
    """Return the text that `escape` made a token of."""
    if "=" not in token:
        return token
    if token == "=":  # noqa: S105  # a subject token, not a secret
        return ""
    raw = _ESCAPED.sub(lambda found: chr(int(found[1], 16)), token)
    return raw.encode("latin-1", "replace").decode("utf-8", "surrogateescape")


def _tokens(subject: str, channel: str, count: int, *, or_more: bool = False) -> list[str]:
    """Return the tokens of a subject as they were before `escape`."""
    tokens = subject.split(".")
    if len(tokens) < count or (len(tokens) > count and not or_more) or tokens[1] != channel:
        raise WireError("subjects", f"{subject!r} is no {channel} subject")
    return [unescape(token) for token in tokens]


def _type_tokens(type_name: str) -> str:
    return ".".join(escape(part) for part in type_name.split("."))


class Address(NamedTuple):
    """What an event subject says of its batches."""

    backplane: str
    stage: Stage
    event_class: EventClass
    type: str
    origin: str


def event(address: Address) -> str:
    """Return the subject on which the batches of that kind and origin are published."""
    kind = f"{address.stage}.{address.event_class}.{_type_tokens(address.type)}"
    return f"{escape(address.backplane)}.event.{kind}.{escape(address.origin)}"


def parse_event(subject: str) -> Address:
    """Return what an event subject says.

    Raises:
        WireError: not an event subject.
    """
    tokens = _tokens(subject, "event", 6, or_more=True)
    try:
        stage, event_class = Stage(tokens[2]), EventClass(tokens[3])
    except ValueError:
        raise WireError("subjects", f"{subject!r} has no known stage and class") from None
    return Address(tokens[0], stage, event_class, ".".join(tokens[4:-1]), tokens[-1])


def events_of(backplane: str, stage: Stage, event_class: EventClass | None, type_name: str) -> str:
    """Return the wildcard over all origins of a kind; a class of None is every one."""
    return f"{escape(backplane)}.event.{stage}.{event_class or '*'}.{_type_tokens(type_name)}.*"


def flow(backplane: str, subscription: str) -> str:
    """Return the subject of one subscribed flow."""
    return f"{escape(backplane)}.flow.{escape(subscription)}"


def edge(backplane: str, name: str, partition: int) -> str:
    """Return the subject of one partition of a durable edge."""
    return f"{escape(backplane)}.edge.{escape(name)}.{partition}"


def edge_all(backplane: str, name: str) -> str:
    """Return the wildcard over all partitions of a durable edge."""
    return f"{escape(backplane)}.edge.{escape(name)}.*"


def bucket(backplane: str, what: str) -> str:
    """Return the name of a key-value bucket of a backplane; such names have no ``=``: it becomes ``-``."""
    return f"{escape(backplane).replace('=', '-')}_{what}"


def edge_stream(backplane: str, name: str) -> str:
    """Return the name of the stream behind a durable edge; tokens have no capitals, so no two edges share one."""
    return f"{escape(backplane)}_EDGE_{escape(name)}".replace("=", "X")


def edge_consumer(name: str, instance: int = 0, count: int = 0) -> str:
    """Return the name of the consumer of one of ``count`` instances; 0: all instances share one consumer."""
    token = escape(name).replace("=", "X")
    return f"{token}-{instance}of{count}" if count else token


def query(backplane: str, agent_type: str, agent: str, verb: str) -> str:
    """Return the subject of a query.

    Args:
        backplane: name of the mesh.
        agent_type: ``archive``, ``directory`` ...
        agent: ``<host>/<agent>``, or ``any`` for whichever answers first.
        verb: what is asked.
    """
    return f"{escape(backplane)}.query.{escape(agent_type)}.{escape(agent)}.{escape(verb)}"


def queries_of(backplane: str, agent_type: str, agent: str) -> str:
    """Return the wildcard over all queries of an agent (``<host>/<agent>``, or ``any``)."""
    return f"{escape(backplane)}.query.{escape(agent_type)}.{escape(agent)}.*"


def parse_query(subject: str) -> tuple[str, str, str]:
    """Return agent type, agent and verb of a query subject.

    Raises:
        WireError: not a query subject.
    """
    _, _, agent_type, agent, verb = _tokens(subject, "query", 5)
    return agent_type, agent, verb


def control(backplane: str, host: str, agent: str, verb: str) -> str:
    """Return the subject of a command to one agent (`HOST` for the host process itself)."""
    return f"{escape(backplane)}.control.{escape(host)}.{escape(agent)}.{escape(verb)}"


def control_all(backplane: str, verb: str) -> str:
    """Return the subject of a command to every host process."""
    return f"{escape(backplane)}.control.{ALL}.{escape(verb)}"


def controls_of(backplane: str, host: str) -> str:
    """Return the wildcard over all commands to a host process and its agents; those to every host not included."""
    return f"{escape(backplane)}.control.{escape(host)}.*.*"


def controls_all(backplane: str) -> str:
    """Return the wildcard over all commands to every host process."""
    return f"{escape(backplane)}.control.{ALL}.*"


def parse_control(subject: str) -> tuple[str, str, str]:
    """Return host, agent and verb of a control subject; host is `ALL` and agent `HOST` for a command to all.

    Raises:
        WireError: not a control subject.
    """
    if subject.split(".")[2:3] == [ALL]:
        return ALL, HOST, _tokens(subject, "control", 4)[3]
    _, _, host, agent, verb = _tokens(subject, "control", 5)
    return host, agent, verb


EMITTED_TYPE = re.compile(r"[a-z0-9_-]{1,64}(\.[a-z0-9_-]{1,64}){0,3}")
"""Types that scripts may give their events; events of another one would be stored as ``json``."""


def check_emitted_type(type_name: str) -> None:
    """Refuse a text that can be no type of a script's events.

    Raises:
        UsageError: with what a type looks like.
    """
    if EMITTED_TYPE.fullmatch(type_name):
        return
    lower = type_name.lower()
    near = f"; did you mean {lower}?" if EMITTED_TYPE.fullmatch(lower) else ""
    raise UsageError(
        f"{type_name!r} can be no type: a type is one to four words of a-z, 0-9, '_' and '-' of at most 64 characters, "
        f"with dots between them, such as backup or app.login{near}"
    )


def emit(backplane: str, type_name: str) -> str:
    """Return the subject on which scripts put events of a type into the mesh."""
    return f"{escape(backplane)}.emit.{_type_tokens(type_name)}"


def emit_all(backplane: str) -> str:
    """Return the wildcard over the events that scripts put into the mesh."""
    return f"{escape(backplane)}.emit.>"


def parse_emit(subject: str) -> str:
    """Return the type that a script gave its events.

    Raises:
        WireError: not an emit subject.
    """
    return ".".join(_tokens(subject, "emit", 3, or_more=True)[2:])


def status(backplane: str, host: str, agent: str) -> str:
    """Return the subject of an agent's heartbeat."""
    return f"{escape(backplane)}.status.{escape(host)}.{escape(agent)}"


def status_all(backplane: str) -> str:
    """Return the wildcard over all heartbeats."""
    return f"{escape(backplane)}.status.*.*"


def dead(backplane: str, agent: str) -> str:
    """Return the subject of an agent's dead letters; ``agent`` is ``<host>/<agent>``."""
    return f"{escape(backplane)}.dead.{escape(agent)}"


def channel_table() -> str:
    """Return the Markdown table of channels that ``subjects.md`` shows."""
    lines = ["| channel | subject | payload | meaning |", "|---|---|---|---|"]
    lines += [f"| {c.name} | `{c.subject.replace('|', chr(92) + '|')}` | {c.payload} | {c.meaning} |" for c in CHANNELS]
    return "\n".join(lines)
