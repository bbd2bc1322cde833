"""What people write on a command line, made exact: durations, times, and the pieces of a statement.

What may live here: pure conversions of arguments.
"""

from __future__ import annotations

import re
from ipaddress import ip_network

import click

from eddy_mesh import fields
from eddy_mesh.errors import UsageError
from eddy_mesh.fields import FieldType
from eddy_mesh.selection.literals import moment, quantity

_QUANTITY = re.compile(r"\d+(\.\d+)?[a-z]+", re.ASCII)
_DOTTED = re.compile(r"[a-z_@][\w@-]*(\.[\w@-]+)+", re.ASCII | re.IGNORECASE)


class Duration(click.ParamType[float]):
    """``10s``, ``5m``, ``1h``; a bare number is seconds. The value is in s."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the duration in s."""
        if isinstance(value, float):
            return value
        text = str(value)
        try:
            seconds = float(text) if text.replace(".", "", 1).isdigit() else _seconds(text)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if seconds <= 0:
            self.fail(f"{text} is no time to wait: write 10s, 5m or 1h", param, ctx)
        return seconds


def _seconds(text: str) -> float:
    duration, is_time = quantity(text)
    if not is_time:
        raise ValueError(f"{text} is a size: write 10s, 5m or 1h")
    return duration / 1e9


def moment_text(text: str) -> str:
    """Return a time as a statement has it: ``1h`` means an hour ago, as ``-1h`` does; the rest is left alone."""
    stripped = text.strip()
    return f"-{stripped}" if _QUANTITY.fullmatch(stripped) else stripped


def quoted(text: str) -> str:
    """Return a text literal of the statement language."""
    return "'" + text.replace("'", "''") + "'"


def field_text(name: str) -> str:
    """Return a field name as a statement has it.

    Raises:
        UsageError: there is no such field.
    """
    if fields.field(name) is None:
        near = " or ".join(_ending(name)) or fields.nearest(name)
        hint = f"did you mean {near}?" if near else "eddy fields shows those that there are"
        raise UsageError(f"there is no field {name}; {hint}")
    return name if _DOTTED.fullmatch(name) else f'"{name}"'  # a word without a dot may be one of the language


def _ending(name: str) -> list[str]:
    """Return some fields that end in ``.name``; those of the whole event before those of one of its ends."""
    found = [known for known in fields.registry() if known.endswith(f".{name}")]
    return sorted(found, key=lambda known: (not known.startswith(("network.", "event.")), known.count(".")))[:3]


def restriction(kind: str, where: str) -> str:
    """Return the further conditions of ``--type`` and ``--where``, each with its AND.

    Args:
        kind: type of events, or its beginning up to a dot; or "".
        where: condition, or "".
    """
    parts = ""
    if kind:
        beginning = kind.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_") + ".%"
        parts += f" AND (type = {quoted(kind)} OR type LIKE {quoted(beginning)})"
    return f"{parts} AND ({where})" if where else parts


NOT_EDDY = (
    "(process.name IS NULL OR process.name != 'eddy') AND (process.command_line IS NULL"
    r" OR process.command_line !~ '^(\S*/)?python[\d.]*( -\S+)* (\S*/)?eddy( |$)')"
)
"""Condition that leaves out the command's own processes, which a search in the events of its host would find."""


def period(since: str, until: str) -> str:
    """Return the clauses SINCE and UNTIL, each where it is not "".

    Raises:
        UsageError: one of them is no time.
    """
    for option, text in (("--since", since), ("--until", until)):
        try:
            _ = moment(moment_text(text), 0) if text else 0
        except ValueError:
            hint = "write 10m, 1h or 2d for so long ago, 2026-11-21T10:00Z, or 2026-11-21 for the begin of a day"
            raise UsageError(f"{option} {text!r} is no time: {hint}") from None
    clauses = [f"{word} {quoted(moment_text(text))}" for word, text in (("SINCE", since), ("UNTIL", until)) if text]
    return " ".join(clauses)


def search_condition(pattern: str, names: tuple[str, ...], *, ignore_case: bool, invert: bool) -> str:
    """Return the condition that one of several fields has what a pattern says.

    Args:
        pattern: RE2 for fields of text; for the others a literal, or for addresses also a network.
        names: fields to look at; none stands for the texts that people read, and addresses where the pattern is one.
        ignore_case: whether upper and lower case are the same.
        invert: select the events whose fields are there and do not match.

    Raises:
        UsageError: there is no such field.
    """
    looked_at = names or (_TEXTS + _ADDRESSES if _is_network(pattern) else _TEXTS)
    parts = [_finds(name, pattern, ignore_case=ignore_case) for name in looked_at]
    if not invert:
        return parts[0] if len(parts) == 1 else f"({' OR '.join(parts)})"
    present = [f"({field_text(name)} IS NULL OR NOT {part})" for name, part in zip(looked_at, parts, strict=True)]
    some = " OR ".join(f"{field_text(name)} IS NOT NULL" for name in looked_at)
    return f"({some}) AND {' AND '.join(present)}"


_TEXTS = ("message", "diagnosis.hypothesis", "error.message", "log.syslog.appname", "event.code")
_ADDRESSES = ("source.ip", "destination.ip", "host_address")


def _finds(name: str, pattern: str, *, ignore_case: bool) -> str:
    kind, written = fields.type_of(name), field_text(name)
    if kind in {FieldType.TEXT, FieldType.LIST, FieldType.ANY}:
        return f"{written} ~ {quoted(f'(?i){pattern}' if ignore_case else pattern)}"
    if kind is FieldType.ADDRESS:
        return f"{written} IN CIDR {quoted(pattern)}"
    if kind in {FieldType.INT, FieldType.FLOAT, FieldType.BOOL, FieldType.LEVEL}:
        return f"{written} = {pattern}"
    return f"{written} = {quoted(pattern)}"


def _is_network(pattern: str) -> bool:
    try:
        ip_network(pattern, strict=False)
    except ValueError:
        return False
    return "." in pattern or ":" in pattern
