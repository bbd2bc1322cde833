"""The information elements of NetFlow v9 and IPFIX: which number means what, and which event field carries it.

What may live here: the element type, the rules by which a number finds its name, the loader of ``ipfix.tsv``.
How bytes become values is the decoder's concern. Pure.

One table serves both protocols: IANA keeps elements 1-127 compatible with NetFlow v9 field types (RFC 7012 section 4),
and exporters of v9 use IANA's numbers above that. What v9 exporters add has numbers of 32768 and more, which IPFIX can
not express without an enterprise number, so they can not be confused.
"""

from __future__ import annotations

from enum import StrEnum
from functools import cache, lru_cache
from importlib import resources
from typing import Final

import msgspec

IANA: Final = 0
CISCO: Final = 9
CERT: Final = 6871
REVERSE: Final = 29305
NTOP: Final = 35632

# A v9 field type has no enterprise number: Cisco sets the top bit of its own numbers, nProbe adds this to its own.
_CISCO_V9_BASE: Final = 0x8000
_NTOP_V9_BASE: Final = 57472

# CERT (yaf, SiLK) marks the reverse of its own elements with this bit, as RFC 5103 section 6.2 proposes to vendors.
_CERT_REVERSE_BIT: Final = 0x4000

# About the exporter or the record, not about packets of one direction. Source: RFC 5103 section 6.1.
_NOT_REVERSIBLE: Final = frozenset(
    {40, 41, 42, 130, 131, 137, 145, 148, 149, *range(163, 169), 173, *range(210, 218), 239}
)

# Scope field types of v9 options templates. Source: RFC 3954 section 6.1.
_V9_SCOPES: Final = {1: "scopeSystem", 2: "scopeInterface", 3: "scopeLineCard", 4: "scopeCache", 5: "scopeTemplate"}

# Enterprise and number come from the network; what a deployment really uses is far less.
_MAX_CACHED: Final = 4096


class DataType(StrEnum):
    """Abstract data type of an element: how its bytes are to be read.

    Source: RFC 7012 section 3.1; the lists are from RFC 6313, ``unsigned256`` from RFC 9740 section 8.3.1.
    """

    OCTET_ARRAY = "octetArray"
    UNSIGNED8 = "unsigned8"
    UNSIGNED16 = "unsigned16"
    UNSIGNED32 = "unsigned32"
    UNSIGNED64 = "unsigned64"
    UNSIGNED256 = "unsigned256"
    SIGNED8 = "signed8"
    SIGNED16 = "signed16"
    SIGNED32 = "signed32"
    SIGNED64 = "signed64"
    FLOAT32 = "float32"
    FLOAT64 = "float64"
    BOOLEAN = "boolean"
    MAC_ADDRESS = "macAddress"
    STRING = "string"
    DATE_TIME_SECONDS = "dateTimeSeconds"
    DATE_TIME_MILLISECONDS = "dateTimeMilliseconds"
    DATE_TIME_MICROSECONDS = "dateTimeMicroseconds"
    DATE_TIME_NANOSECONDS = "dateTimeNanoseconds"
    IPV4_ADDRESS = "ipv4Address"
    IPV6_ADDRESS = "ipv6Address"
    BASIC_LIST = "basicList"
    SUB_TEMPLATE_LIST = "subTemplateList"
    SUB_TEMPLATE_MULTI_LIST = "subTemplateMultiList"


class Element(msgspec.Struct, frozen=True):
    """One information element.

    Attributes:
        enterprise: private enterprise number of who defined it, 0 for IANA and for raw NetFlow v9 numbers.
        id: number within the enterprise, 0-65535 (0-32767 in IPFIX).
        name: lower camel case; an enterprise's name stands in front of the names that it gave.
        data_type: how to read a value of full length; exporters may send fewer bytes (RFC 7011 section 6.2).
        unit: plural as IANA writes it (``octets``, ``milliseconds``), "" where there is none.
        field: the event field that carries it: an ECS name, or ``netflow.<name>``.
        semantics: IANA's word for what the number is (``deltaCounter``, ``identifier`` ...), "" where unknown.
    """

    enterprise: int
    id: int
    name: str
    data_type: DataType
    unit: str
    field: str
    semantics: str = ""


@lru_cache(maxsize=_MAX_CACHED)
def element(enterprise: int, id: int) -> Element:  # noqa: A002 - the word of RFC 7012
    """Find the element that a template names; total, because templates come from the network.

    Args:
        enterprise: private enterprise number, 0 when the template has none (always so in NetFlow v9).
        id: element number without the enterprise bit (IPFIX), or the whole field type (NetFlow v9); 0-65535.

    Returns:
        The registered element, found also under the number that its enterprise uses in v9; for enterprise 29305 the
        reverse of IANA's (RFC 5103); else one named after its numbers, ``netflow.element_<id>`` or
        ``netflow.enterprise_<enterprise>.<id>``, of type ``octetArray``.
    """
    table = _table()
    found = table.get((enterprise, id))
    if found is None and enterprise == IANA:
        found = table.get((NTOP, id - _NTOP_V9_BASE)) or table.get((CISCO, id - _CISCO_V9_BASE))
    if found is None and enterprise == CERT and id & _CERT_REVERSE_BIT:
        found = _reversed(table.get((CERT, id ^ _CERT_REVERSE_BIT)), enterprise, id)
    if enterprise == REVERSE and id not in _NOT_REVERSIBLE:
        found = _reversed(table.get((IANA, id)), enterprise, id)
    return found or _unknown(enterprise, id)


def elements() -> tuple[Element, ...]:
    """Every registered element, by enterprise and number; without reverse elements, which :func:`element` derives."""
    return tuple(_table().values())


def scope_element(id: int) -> Element:  # noqa: A002 - as above
    """Find what a scope field of a NetFlow v9 options template stands for; scope types have numbers of their own.

    Args:
        id: scope field type, 0-65535. In IPFIX scopes are plain elements: use :func:`element`.

    Returns:
        An element named ``scopeSystem``, ``scopeInterface`` ..., or ``scope_<id>`` where RFC 3954 knows none.
        Source: RFC 3954 section 6.1.
    """
    name = _V9_SCOPES.get(id, f"scope_{id}")
    return Element(IANA, id, name, DataType.UNSIGNED32, "", f"netflow.{name}", "identifier")


def _reversed(forward: Element | None, enterprise: int, id: int) -> Element | None:  # noqa: A002 - as above
    """The same quantity of the opposite direction. Source: RFC 5103 section 6.1."""
    if forward is None:
        return None
    name = f"reverse{forward.name[0].upper()}{forward.name[1:]}"
    return Element(enterprise, id, name, forward.data_type, forward.unit, f"netflow.{name}", forward.semantics)


def _unknown(enterprise: int, id: int) -> Element:  # noqa: A002 - as above
    name = f"element_{id}" if enterprise == IANA else f"enterprise_{enterprise}.{id}"
    return Element(enterprise, id, name, DataType.OCTET_ARRAY, "", f"netflow.{name}")


@cache
def _table() -> dict[tuple[int, int], Element]:
    text = resources.files(__package__).joinpath("ipfix.tsv").read_text(encoding="utf-8")
    rows = (line.split("\t") for line in text.splitlines()[1:])
    return {
        (int(enterprise), int(id_)): Element(
            int(enterprise), int(id_), name, DataType(data_type), unit, ecs or f"netflow.{name}", semantics
        )
        for enterprise, id_, name, data_type, unit, semantics, ecs in rows
    }
