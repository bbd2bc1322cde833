"""Times as log lines write them → ns since 1970 UTC.

What may live here: one conversion for each form, and `Clock`, which remembers the seconds that it has converted, since
thousands of lines share one. The year and the zone that a line leaves out are supplied here.

Source: RFC 3164 section 4.1.2, RFC 5424 section 6.2.3, RFC 3339.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from eddy_mesh.errors import ConfigError

SECOND_NS = 1_000_000_000
DAY_NS = 86_400 * SECOND_NS
UNREADABLE = -(1 << 63)
"""What a time that is none (30 February) is converted to."""

MONTHS = {name: number for number, name in enumerate(b"jan feb mar apr may jun jul aug sep oct nov dec".split(), 1)}
_MOST_REMEMBERED = 65_536
_LEAP_YEARS_BACK = 8
"""Two 29 February are at most eight years apart (1896 and 1904, 2096 and 2104)."""
_FIRST_YEAR, _LAST_YEAR = 1678, 2261
"""Years that 64 bits of ns can hold."""


_ISO = re.compile(rb"(\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d)(?:[.,](\d{1,9}))?(Z|[+-]\d\d:?\d\d)?")
_ZONED = re.compile(rb"(.*\d) (Z|[+-](?:[01]\d|2[0-3]):?[0-5]\d)")


def zone_of(name: str) -> tzinfo:
    """Return the zone of an IANA name.

    Raises:
        ConfigError: there is no such zone on this machine.
    """
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (ValueError, LookupError, OSError) as error:
        mistake = f"timezone: {name!r} is no zone that this machine knows; write an IANA name such as 'Europe/Vienna'"
        raise ConfigError([mistake]) from error


class Clock:
    """Converts the times of one source.

    Args:
        zone: zone of times that do not say theirs.
    """

    def __init__(self, zone: tzinfo) -> None:
        self._zone = zone
        self._bsd: dict[bytes | None, int] = {}
        self._bsd_day = -1
        self._iso: dict[bytes, int] = {}

    def bsd(self, texts: Sequence[bytes | None], observed_ns: int) -> npt.NDArray[np.int64]:
        """Return the times of ``Mmm dd hh:mm:ss`` texts; a time that is none gives `UNREADABLE`.

        The year is the latest in which the time is not more than a day after it was observed: a December line read in
        January belongs to the year before, a January line read on New Year's Eve (clocks differ) to the year after.

        Args:
            texts: as in the lines.
            observed_ns: when they were taken in, ns since 1970 UTC.
        """
        day = observed_ns // DAY_NS
        if day != self._bsd_day or len(self._bsd) > _MOST_REMEMBERED:
            self._bsd_day, self._bsd = day, {}
        known = self._bsd
        for text in dict.fromkeys(texts):
            if text not in known:
                known[text] = UNREADABLE if text is None else bsd_ns(text, observed_ns, self._zone)
        return np.fromiter(map(known.__getitem__, texts), np.int64, len(texts))

    def bsd_seconds(
        self,
        minutes: Sequence[bytes],
        minute_of: npt.NDArray[np.intp],
        seconds: npt.NDArray[np.int64],
        observed_ns: int,
    ) -> npt.NDArray[np.int64]:
        """Return times as `bsd` does, converting each minute once.

        Args:
            minutes: ``Mmm dd hh:mm`` texts.
            minute_of: for each time an offset into ``minutes``.
            seconds: 0-99, for each time.
            observed_ns: when they were taken in, ns since 1970 UTC.
        """
        firsts = self.bsd([minute + b":00" for minute in minutes], observed_ns)
        lasts = self.bsd([minute + b":59" for minute in minutes], observed_ns)
        times = firsts[minute_of] + seconds * SECOND_NS
        is_plain = lasts - firsts == 59 * SECOND_NS  # else it is none, or the year changes within it
        others = np.flatnonzero(~is_plain[minute_of] | (seconds > 60))
        texts = [b"%s:%02d" % (minutes[minute_of[row]], seconds[row]) for row in others.tolist()]
        times[others] = self.bsd(texts, observed_ns)
        return times

    def iso(
        self, seconds: Sequence[bytes | None], fractions: Sequence[bytes | None], zones: Sequence[bytes | None]
    ) -> npt.NDArray[np.int64]:
        """Return the times of ``yyyy-mm-ddThh:mm:ss`` texts; a time that is none gives `UNREADABLE`.

        Args:
            seconds: date and time.
            fractions: up to nine digits each, or None.
            zones: ``Z``, ``+hh:mm``, ``+hhmm``, or None for the zone of the source.
        """
        different = dict.fromkeys(zones)
        if len(different) == 1:
            whole = self._seconds(seconds, next(iter(different)))
        else:
            whole = np.fromiter(
                (self._second(second, zone) for second, zone in zip(seconds, zones, strict=True)),
                np.int64,
                len(seconds),
            )
        readable = whole != UNREADABLE
        return np.where(readable, whole + fractions_ns(fractions), UNREADABLE)

    def _seconds(self, seconds: Sequence[bytes | None], zone: bytes | None) -> npt.NDArray[np.int64]:
        known = {second: self._second(second, zone) for second in dict.fromkeys(seconds)}
        return np.fromiter(map(known.__getitem__, seconds), np.int64, len(seconds))

    def _second(self, second: bytes | None, zone: bytes | None) -> int:
        if second is None:
            return UNREADABLE
        key = second + zone if zone else second
        found = self._iso.get(key)
        if found is None:
            if len(self._iso) > _MOST_REMEMBERED:
                self._iso.clear()
            found = self._iso[key] = iso_ns(second, zone or b"", self._zone)
        return found

    def one(self, text: bytes, observed_ns: int) -> tuple[int, bool, bool]:
        """Return the time of a text in any of the forms that syslog knows.

        Args:
            text: as in the line.
            observed_ns: when it was taken in, ns since 1970 UTC.

        Returns:
            ns since 1970 UTC or `UNREADABLE`, whether the year was supplied, whether the zone was.
        """
        iso = _ISO.fullmatch(text)
        if iso is None:
            return self._named(text, observed_ns)
        whole = self._second(iso[1], iso[3])
        return whole if whole == UNREADABLE else whole + _fraction_ns(iso[2] or b""), False, not iso[3]

    def _named(self, text: bytes, observed_ns: int) -> tuple[int, bool, bool]:
        """Do what `one` does for a text with a month's name; a zone may follow it."""
        stated = _ZONED.fullmatch(text)
        time, zone = (stated[1], _offset(stated[2])) if stated else (text, self._zone)
        return bsd_ns(time.replace(b",", b"."), observed_ns, zone), len(time.split()) < 4, stated is None


def bsd_ns(text: bytes, observed_ns: int, zone: tzinfo) -> int:
    """Return the time of ``Mmm dd [yyyy] hh:mm:ss[.fff]``, or `UNREADABLE`; see `Clock.bsd` for the year.

    Source: RFC 3164 section 4.1.2; the year is what some Cisco devices add.
    """
    parts = text.split()
    month = MONTHS.get(parts[0].lower()) if parts else None
    if month is None or len(parts) not in {3, 4}:
        return UNREADABLE
    clock, _, fraction = parts[-1].partition(b".")
    try:
        day, (hour, minute, second) = int(parts[1]), map(int, clock.split(b":"))
        years = [int(parts[2])] if len(parts) == 4 else _years_before(observed_ns)
    except ValueError:
        return UNREADABLE
    for year in years:
        when = _local_ns((year, month, day, hour, minute, second), zone)
        if when != UNREADABLE and (len(years) == 1 or when <= observed_ns + DAY_NS):
            return when + _fraction_ns(fraction)
    return UNREADABLE


def _years_before(observed_ns: int) -> list[int]:
    latest = datetime.fromtimestamp(observed_ns // SECOND_NS, UTC).year + 1
    return list(range(latest, latest - _LEAP_YEARS_BACK - 2, -1))


def iso_ns(second: bytes, zone: bytes, supplied: tzinfo) -> int:
    """Return the time of ``yyyy-mm-dd hh:mm:ss`` (any separators) in a zone, or `UNREADABLE`.

    Args:
        second: 19 characters.
        zone: ``Z``, ``+hh:mm``, ``+hhmm``, or b"" for ``supplied``.
        supplied: zone of times that do not say theirs.
    """
    try:
        offset = _offset(zone) if zone else supplied
        parts = [int(second[a:b]) for a, b in ((0, 4), (5, 7), (8, 10), (11, 13), (14, 16), (17, 19))]
    except ValueError:
        return UNREADABLE
    return _local_ns((parts[0], parts[1], parts[2], parts[3], parts[4], parts[5]), offset)


def _offset(zone: bytes) -> tzinfo:
    if zone in {b"Z", b"UTC"}:
        return UTC
    digits = zone[1:].replace(b":", b"")
    hours, minutes = int(digits[:2]), int(digits[2:4])
    if hours > 23 or minutes > 59:
        raise ValueError(f"{zone!r} is no offset from UTC")
    offset = timedelta(hours=hours, minutes=minutes)
    return timezone(-offset if zone[:1] == b"-" else offset)


def _local_ns(parts: tuple[int, int, int, int, int, int], zone: tzinfo) -> int:
    year, month, day, hour, minute, second = parts
    if not _FIRST_YEAR <= year <= _LAST_YEAR or second > 60:
        return UNREADABLE
    leap = second == 60  # a leap second is the first of the next minute
    try:
        when = datetime(year, month, day, hour, minute, second - leap, tzinfo=zone)
    except ValueError:
        return UNREADABLE
    return (int(when.timestamp()) + leap) * SECOND_NS


def _fraction_ns(digits: bytes | None) -> int:
    return int(digits[:9].ljust(9, b"0")) if digits and digits.isdigit() else 0


def fractions_ns(fractions: Sequence[bytes | None]) -> npt.NDArray[np.int64]:
    """Return ns of decimal fractions of a second, up to nine digits each; None is 0."""
    count = len(fractions)
    if fractions.count(None) == count:
        return np.zeros(count, np.int64)
    if None in fractions or len(set(map(len, fractions))) > 1:  # type: ignore[arg-type]  # None was asked for first
        return np.fromiter(map(_fraction_ns, fractions), np.int64, count)
    width = len(fractions[0] or b"")
    digits = np.frombuffer(b"".join(fractions), np.uint8).reshape(count, width) - np.uint8(48)  # type: ignore[arg-type]
    return digits @ 10 ** np.arange(8, 8 - width, -1, dtype=np.int64)
