"""Times at the beginning of log lines, in the forms that devices send, rewritten as `Clock.one` reads them.

What may live here: `stamp_at`, and the table of zone names. A word after a time is a zone only if the table has it:
``NAS``, ``PDC`` or ``INFO`` may stand there as well.

Source: RFC 3164 section 4.1.2; RFC 5424 section 6.2.3; RFC 5322 section 4.3 for the zones of North America; Cisco IOS
"System Message Logging".
"""

from __future__ import annotations

import re
from typing import NamedTuple

ZONES = {
    **dict.fromkeys(("UTC", "GMT", "UCT", "WET", "Z"), "Z"),
    **dict.fromkeys(("CET", "MET", "MEZ", "BST"), "+01:00"),
    **dict.fromkeys(("CEST", "MEST", "MESZ", "EET", "SAST"), "+02:00"),
    **dict.fromkeys(("EEST", "MSK"), "+03:00"),
    **dict.fromkeys(("HKT", "SGT", "AWST"), "+08:00"),
    **dict.fromkeys(("JST", "KST"), "+09:00"),
    "PKT": "+05:00",
    "WIB": "+07:00",
    "ACST": "+09:30",
    "ACDT": "+10:30",
    "AEST": "+10:00",
    "AEDT": "+11:00",
    "NZST": "+12:00",
    "NZDT": "+13:00",
    "BRT": "-03:00",
    "NST": "-03:30",
    "NDT": "-02:30",
    "EDT": "-04:00",
    "EST": "-05:00",
    "CDT": "-05:00",
    "CST": "-06:00",
    "MDT": "-06:00",
    "MST": "-07:00",
    "PDT": "-07:00",
    "PST": "-08:00",
    "AKDT": "-08:00",
    "AKST": "-09:00",
    "HST": "-10:00",
}
"""Name → offset from UTC. Names that mean several zones are those of RFC 5322 where it has them, else left out."""

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_CLOCK = r"(?P<clock>\d\d:\d\d:\d\d)(?:[.,](?P<fraction>\d{1,9})\d{0,9})?"
_NAMED = re.compile(
    r"(?:(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun),? )?(?:(?P<first_year>\d{4}) )?"
    rf"(?P<month>{'|'.join(_MONTHS)}) {{1,2}}(?P<day>\d{{1,2}}) (?:(?P<year>\d{{4}}) )?{_CLOCK}",
    re.ASCII | re.IGNORECASE,
)
_ISO = re.compile(rf"(?P<date>\d{{4}}-\d\d-\d\d)[Tt ]{_CLOCK}(?: ?(?P<zone>[Zz]|[+-]\d\d:?\d\d)(?![\w.]))?", re.ASCII)
_ZONE = re.compile(
    r" ?(?P<offset>Z|[+-](?:0\d|1[0-4]):?[0-5]\d)(?=:? |:?$)"
    r"| (?:UTC|GMT)(?P<sign>[+-])(?P<hours>0?\d|1[0-4])(?::?(?P<minutes>[0-5]\d))?(?=:? |:$)"
    r"| (?P<name>[A-Z]{1,4})(?=:? |:$)",
    re.ASCII,
)
_LATE_YEAR = re.compile(r" ((?:19|20)\d\d)(?=:? |:?$)", re.ASCII)


class Stamp(NamedTuple):
    """A time.

    Attributes:
        text: as sent, or where it has parts in an unusual place, ISO 8601 or ``Mmm dd hh:mm:ss +hh:mm``.
        end: offset after it and its zone.
    """

    text: str
    end: int


def stamp_at(text: str, offset: int) -> Stamp | None:
    """Return the time that begins at an offset, or None where there is none.

    Args:
        text: one line.
        offset: of its first character to look at.
    """
    iso = _ISO.match(text, offset)
    if iso is not None:
        return Stamp(iso_text(iso), iso.end())
    found = _NAMED.match(text, offset)
    if found is None:
        return None
    zone, end = _zone(text, found.end())
    year = found["year"] or found["first_year"]
    late = None if year else _LATE_YEAR.match(text, end)
    if late is not None:
        year, end = late[1], late.end()
        if not zone:
            zone, end = _zone(text, end)
    return Stamp(_named_text(found, year, zone), end)


def iso_text(found: re.Match[str]) -> str:
    """Return an ISO time with ``T``, a point and an upper-case zone from the groups date, clock, fraction and zone."""
    fraction = f".{found['fraction']}" if found["fraction"] else ""
    return f"{found['date']}T{found['clock']}{fraction}{(found['zone'] or '').upper()}"


def _named_text(found: re.Match[str], year: str | None, zone: str) -> str:
    if not year and not zone:
        return found[0][found.start("month") - found.start() :]
    day, fraction = int(found["day"]), f".{found['fraction']}" if found["fraction"] else ""
    if year:
        month = _MONTHS.index(found["month"].lower()) + 1
        return f"{year}-{month:02d}-{day:02d}T{found['clock']}{fraction}{zone}"
    return f"{found['month']} {day} {found['clock']}{fraction} {zone}"


def _zone(text: str, offset: int) -> tuple[str, int]:
    """Return the zone that is stated at an offset as ISO 8601 has it ("" for none), and the offset after it."""
    found = _ZONE.match(text, offset)
    if found is None:
        return "", offset
    if found["offset"]:
        return found["offset"], found.end()
    if found["sign"]:
        return f"{found['sign']}{int(found['hours']):02d}:{found['minutes'] or '00'}", found.end()
    zone = ZONES.get(found["name"])
    return (zone, found.end()) if zone else ("", offset)
