"""Literals of a statement: text of the language → the value that the field's type compares with.

What may live here: one conversion for each type. They raise ValueError with a text that says what is wanted; the
checker adds the position.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from eddy_mesh.cer import id_from_text
from eddy_mesh.columns import V4_MAPPED, address_halves
from eddy_mesh.fields import LEVEL_NAMES, Field, FieldType, level_number
from eddy_mesh.rows import time_ns
from eddy_mesh.selection.plan import Literal, Network

WANTED = {
    FieldType.BOOL: "TRUE or FALSE",
    FieldType.INT: "an integer",
    FieldType.FLOAT: "a number",
    FieldType.TEXT: "a text in single quotes",
    FieldType.LIST: "the JSON text of a list in single quotes",
    FieldType.ADDRESS: "an IPv4 or IPv6 address in single quotes",
    FieldType.TIME: "a time such as '2026-11-21T10:00Z' or '-1h'",
    FieldType.LEVEL: "a level: " + ", ".join(LEVEL_NAMES) + " or 0 to 7",
    FieldType.BYTES: "a text in single quotes",
    FieldType.ID: "an event id (UUID text) in single quotes",
    FieldType.ANY: "a text, a number, TRUE or FALSE",
}
"""What a literal for a field of each type looks like, for messages."""

DURATIONS_NS = {
    "ns": 1,
    "us": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
    "d": 86_400_000_000_000,
}
SIZES = {"B": 1} | {f"{letter}B": 1000**n for n, letter in enumerate("kMGT", 1)}
SIZES |= {f"{letter}iB": 1024**n for n, letter in enumerate("KMGT", 1)}

_UNITS_NS = {"ns": 1, "nanoseconds": 1, "microseconds": 1_000, "milliseconds": 1_000_000, "seconds": 1_000_000_000}
_QUANTITY = re.compile(r"(?P<whole>-?\d+)(?:\.(?P<part>\d+))?(?P<unit>[A-Za-z]+)", re.ASCII)
INT64 = range(-(1 << 63), 1 << 63)
_INT = range(-(1 << 63), 1 << 64)


def quantity(text: str) -> tuple[int, bool]:
    """Return the number of ns or octets that ``10s`` or ``64KiB`` stands for, and whether it is a time.

    Raises:
        ValueError: the unit is not known, or the number is not whole in ns or octets.
    """
    matched = _QUANTITY.fullmatch(text)
    unit = matched["unit"] if matched else ""
    factor = DURATIONS_NS.get(unit) or SIZES.get(unit)
    if matched is None or factor is None:
        raise ValueError(f"{text} has no unit of time or size: write 10s, 5m, 1h, 2d or 64KiB")
    part = matched["part"] or ""
    number = int(matched["whole"] + part) * factor
    scaled, rest = divmod(number, 10 ** len(part))
    if rest:
        raise ValueError(f"{text} is not a whole number of {'ns' if unit in DURATIONS_NS else 'octets'}")
    return scaled, unit in DURATIONS_NS


def moment(text: str, now_ns: int) -> int:
    """Return the time that RFC 3339 text, ``now`` or an offset from now such as ``-1h`` stands for.

    Args:
        text: the time.
        now_ns: what relative times count from, ns since 1970 UTC.

    Raises:
        ValueError: ``text`` is none of them, or is outside the years 1678 to 2261.
    """
    stripped = text.strip()
    if stripped == "now":
        return now_ns
    if _QUANTITY.fullmatch(stripped):
        offset, is_time = quantity(stripped)
        if not is_time:
            raise ValueError(f"{text!r} is a size: write a time such as '-1h'")
        result = now_ns + offset
    else:
        result = _rfc3339(stripped)
    if result not in INT64:
        raise ValueError(f"{text!r} is outside the years 1678 to 2261")
    return result


def _rfc3339(text: str) -> int:
    try:
        return time_ns(text)
    except ValueError as error:
        raise ValueError(f"{error}; or '-4h' for four hours ago, '2026-11-21' for the begin of a day") from None


def integer(text: str) -> int:
    """Return the integer that a number such as ``22`` or ``1e6`` stands for.

    Raises:
        ValueError: it is not whole, or needs more than 64 bits.
    """
    try:
        value = int(text)
    except ValueError:
        value = _whole(text)
    if value not in _INT:
        raise ValueError(f"{text} needs more than 64 bits")
    return value


def _whole(text: str) -> int:
    number = float(text)
    if not number.is_integer():  # also true of an overflow to infinity
        raise ValueError(f"{text} is not a whole number")
    return int(number)


def measure(text: str, unit: str) -> int:
    """Return a quantity in the unit of a field.

    Raises:
        ValueError: the field has no such unit.
    """
    value, is_time = quantity(text)
    if is_time and unit in _UNITS_NS:
        scaled, rest = divmod(value, _UNITS_NS[unit])
        if rest:
            raise ValueError(f"{text} is not a whole number of {unit}")
        return integer(str(scaled))
    if not is_time and unit == "octets":
        return integer(str(value))
    raise ValueError(f"{text} is a {'time' if is_time else 'size'}, the field is in {unit or 'plain numbers'}")


def literal(known: Field, kind: str, text: str, now_ns: int) -> Literal:
    """Return the value that a literal has for a field.

    Args:
        known: the field; its type is not ANY.
        kind: terminal of the grammar: STRING, NUMBER, QUANTITY, TRUE, FALSE or NAME (a bare word).
        text: the literal, a STRING without its quotes.
        now_ns: what relative times count from.

    Raises:
        ValueError: the literal is not of the field's type.
    """
    wrong = ValueError(f"{known.name} wants {WANTED[known.type]}")
    if known.type is FieldType.LEVEL and kind in {"STRING", "NUMBER", "NAME"}:
        level = level_number(text) if text.isascii() else None
        if level is None:
            raise wrong
        return level
    if kind in {"TRUE", "FALSE"} and known.type is FieldType.BOOL:
        return kind == "TRUE"
    if kind in {"NUMBER", "QUANTITY"}:
        return _number(known, kind, text, now_ns, wrong)
    if kind == "STRING" and known.type not in {FieldType.BOOL, FieldType.INT, FieldType.FLOAT}:
        return _string(known.type, text, now_ns)
    raise wrong


def _number(known: Field, kind: str, text: str, now_ns: int, wrong: ValueError) -> Literal:
    if known.type is FieldType.TIME:
        return moment(text, now_ns) if kind == "QUANTITY" else _time(integer(text))
    if known.type not in {FieldType.INT, FieldType.FLOAT}:
        raise wrong
    if kind == "QUANTITY":
        value = measure(text, known.unit)
        return float(value) if known.type is FieldType.FLOAT else value
    return finite(text) if known.type is FieldType.FLOAT else integer(text)


def _time(time: int) -> int:
    if time not in INT64:
        raise ValueError(f"{time} ns is outside the years 1678 to 2261")
    return time


def finite(text: str) -> float:
    """Return a number as a double.

    Raises:
        ValueError: it is too large for one.
    """
    number = float(text)
    if number in {float("inf"), float("-inf")}:
        raise ValueError(f"{text} is too large for a double")
    return number + 0.0  # -0.0 and 0 are written alike


def _string(kind: FieldType, text: str, now_ns: int) -> Literal:
    if kind is FieldType.TIME:
        return moment(text, now_ns)
    if kind is FieldType.ADDRESS:
        return address(text)
    if kind is FieldType.ID:
        return int.from_bytes(id_from_text(text), "big")
    return text.encode() if kind is FieldType.BYTES else text


def address(text: str) -> int:
    """Return an address as 128 bits, IPv4 mapped.

    Raises:
        ValueError: ``text`` is not an address.
    """
    if "/" in text:
        raise ValueError(f"{text!r} is a network: write IN CIDR {text!r}")
    if "%" in text:
        raise ValueError(f"{text!r} has a zone: leave out what follows the %")
    try:
        ip_address(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an IPv4 or IPv6 address") from None
    high, low = address_halves(text)
    return high << 64 | low


_V4_FIRST, _V4_LAST = V4_MAPPED, V4_MAPPED | 0xFFFF_FFFF


def network(text: str) -> Network:
    """Return a block of addresses. IPv4 and IPv6 do not mix: ``::/0`` holds no IPv4 address.

    Args:
        text: ``10.0.0.0/8``; bits behind the prefix are cleared, no prefix means one address.

    Raises:
        ValueError: ``text`` is not a block.

    Source: RFC 4632 section 3.1, RFC 4291 section 2.3.
    """
    try:
        block: IPv4Network | IPv6Network = ip_network(text.partition("%")[0], strict=False)
    except ValueError:
        raise ValueError(f"{text!r} is not a network: write 10.0.0.0/8 or 2001:db8::/32") from None
    if isinstance(block, IPv4Network):
        return Network(str(block), ((V4_MAPPED + int(block[0]), V4_MAPPED + int(block[-1])),))
    first, last = int(block[0]), int(block[-1])
    if first <= _V4_FIRST and last >= _V4_LAST and block.prefixlen < 96:
        return Network(str(block), ((first, _V4_FIRST - 1), (_V4_LAST + 1, last)))
    return Network(str(block), ((first, last),))
