"""The field registry: type, unit, meaning and origin of every field name.

What may live here: the definition of a field and look-ups by name. Documentation, statement checking, column
encodings, SQL types and JSON output all ask this file; nothing else defines a field. The rows are data:
``registry/fields.tsv`` (envelope and Elastic Common Schema) and ``registry/ipfix.tsv`` (IANA elements).
"""

from __future__ import annotations

from difflib import get_close_matches
from enum import StrEnum
from functools import cache, lru_cache
from importlib.resources import files

import msgspec

from eddy_mesh.registry import ipfix


class FieldType(StrEnum):
    """What the values of a field are, in every back end."""

    BOOL = "bool"
    INT = "int"  # signed or unsigned, up to 64 bits
    FLOAT = "float"
    TEXT = "text"
    ADDRESS = "address"  # IPv4 or IPv6; canonical text in every public interface
    TIME = "time"  # int, ns since 1970 UTC; RFC 3339 text in JSON
    LEVEL = "level"  # int 0-7, syslog severity (RFC 5424 section 6.2.1)
    BYTES = "bytes"
    ID = "id"  # 16 bytes, UUID text in JSON
    IDS = "ids"  # any number of ids
    LIST = "list"  # list of texts or ints; kept whole, compared as its JSON text
    ANY = "any"  # typed by each value: a name in an open namespace


class Field(msgspec.Struct, frozen=True):
    """One row of the registry.

    Attributes:
        name: dotted name, Elastic Common Schema where it has one.
        type: see `FieldType`.
        unit: SI or IANA unit, "" where there is none.
        meaning: one sentence.
        origin: who defines it: ``eddy``, ``ecs``, or ``iana`` with the element number.
    """

    name: str
    type: FieldType
    unit: str = ""
    meaning: str = ""
    origin: str = "eddy"


OPEN_NAMESPACES = {
    "tags.": "a tag declared by the backplane",
    "json.": "a member of a JSON object that has no field of its own",
    "labels.": "a label that the source attached",
    "syslog.structured_data.": "an RFC 5424 structured data parameter",
    "netflow.enterprise_": "an enterprise information element without a registered name",
    "netflow.element_": "an information element without a registered name",
    "journald.": "a journald field that has no field of its own",
    "sflow.": "an sFlow counter or flow record member",
}
"""Prefixes below which any name is a field of type ANY."""

LEVEL_NAMES = ("emergency", "alert", "critical", "error", "warning", "notice", "informational", "debug")
"""Index is the numeric level. Source: RFC 5424 section 6.2.1."""

_IPFIX_TYPES = {
    "boolean": FieldType.BOOL,
    "float32": FieldType.FLOAT,
    "float64": FieldType.FLOAT,
    "macAddress": FieldType.TEXT,
    "string": FieldType.TEXT,
    "octetArray": FieldType.TEXT,
    "ipv4Address": FieldType.ADDRESS,
    "ipv6Address": FieldType.ADDRESS,
    "dateTimeSeconds": FieldType.TIME,
    "dateTimeMilliseconds": FieldType.TIME,
    "dateTimeMicroseconds": FieldType.TIME,
    "dateTimeNanoseconds": FieldType.TIME,
    "basicList": FieldType.LIST,
    "subTemplateList": FieldType.LIST,
    "subTemplateMultiList": FieldType.LIST,
}


@cache
def registry() -> dict[str, Field]:
    """Return every named field, by name, in the order of the documentation."""
    rows = files("eddy_mesh.registry").joinpath("fields.tsv").read_text("utf-8").splitlines()[1:]
    named: dict[str, Field] = {}
    for row in rows:
        name, kind, unit, origin, meaning = row.split("\t")
        named[name] = Field(name, FieldType(kind), unit, meaning, origin)
    for element in ipfix.elements():
        kind_of = _IPFIX_TYPES.get(str(element.data_type), FieldType.INT)
        meaning = f"information element {element.name}"
        origin = f"iana {element.id}" if element.enterprise == 0 else f"enterprise {element.enterprise}/{element.id}"
        named.setdefault(element.field, Field(element.field, kind_of, element.unit, meaning, origin))
    return named


def field(name: str) -> Field | None:
    """Return the field of that name, or None when no field can have it.

    Args:
        name: dotted name; a name below one of `OPEN_NAMESPACES` is a field of type ANY.
    """
    known = registry().get(name)
    if known is not None:
        return known
    for prefix, meaning in OPEN_NAMESPACES.items():
        if name.startswith(prefix) and len(name) > len(prefix):
            return Field(name, FieldType.ANY, "", meaning)
    return None


@lru_cache(maxsize=8192)  # names come from outside
def type_of(name: str) -> FieldType:
    """Return the type of a field; ANY for a name that is not registered (it still survives a round trip)."""
    known = field(name)
    return FieldType.ANY if known is None else known.type


def nearest(name: str) -> str:
    """Return the registered name most like ``name``, or "" when nothing is near."""
    lower = name.lower()
    tail = [known for known in registry() if known.lower().endswith("." + lower)]
    if tail:
        return tail[0]
    close = get_close_matches(name, registry(), n=1, cutoff=0.6)
    return close[0] if close else ""


def level_number(text: str) -> int | None:
    """Return 0-7 for a severity name, its usual short form (``err``, ``warn``, ``info`` ...) or digit, else None."""
    lowered = text.strip().lower()
    if lowered.isascii() and lowered.isdigit() and len(lowered) < 4 and int(lowered) <= 7:
        return int(lowered)
    short = {"panic": 0, "emerg": 0, "crit": 2, "err": 3, "warn": 4, "info": 6}
    if lowered in short:
        return short[lowered]
    return LEVEL_NAMES.index(lowered) if lowered in LEVEL_NAMES else None
