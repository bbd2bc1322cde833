"""The parsers of one syslog message, and the conversion of times."""

from __future__ import annotations

from datetime import UTC

import numpy as np
import pytest

from eddy_agents.wire.syslog import parse_any, parse_rfc3164, parse_rfc5424
from eddy_agents.wire.syslog_time import UNREADABLE, Clock, bsd_ns, iso_ns, zone_of
from eddy_mesh.errors import ConfigError, WireError
from eddy_mesh.rows import time_ns, time_text


def test_a_valid_message_gives_every_part() -> None:
    """A complete RFC 5424 message is split into its parts, escapes undone, byte order mark removed."""
    line = (
        '<165>1 2026-11-03T09:14:07.003Z host app 77 ID47 [a@1 x="1\\"2" y="z"][b] ' + "\N{ZERO WIDTH NO-BREAK SPACE}hi"
    )
    parts = parse_rfc5424(line.encode())
    assert (parts.priority, parts.facility, parts.severity, parts.version) == (165, 20, 5, 1)
    assert (parts.hostname, parts.appname, parts.procid, parts.msgid) == ("host", "app", "77", "ID47")
    assert parts.structured_data == {"a@1": {"x": '1"2', "y": "z"}, "b": {}}
    assert parts.message == "hi"


def test_a_repeated_parameter_keeps_all_its_values() -> None:
    """A parameter name may be repeated in an element (RFC 5424 section 6.3.3): the values become a list."""
    parts = parse_rfc5424(b'<1>1 - - - - - [o ip="1" ip="2" ip="3"]')
    assert parts.structured_data == {"o": {"ip": ["1", "2", "3"]}}


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"<192>1 - - - - - -",
        b"<01>1 - - - - - -",
        b"<1>0 - - - - - -",
        b"<1>1 2026-02-30T00:00:00Z - - - - -",
        b"<1>1 2026-01-01T24:00:00Z - - - - -",
        b"<1>1 2026-01-01T00:00:00.1234567Z - - - - -",
        b"<1>1 - - - - - [a",
        b"<1>1 - - - - - [a b=c]",
        b'<1>1 - - - - - [a b="c"]x',
        b"<1>1 - - - - - - \xff",
    ],
)
def test_an_invalid_message_is_a_wire_error_with_its_place(line: bytes) -> None:
    """What RFC 5424 does not allow is refused with the offset, and still yields something when read leniently."""
    with pytest.raises(WireError) as refused:
        parse_rfc5424(line)
    assert 0 <= refused.value.offset <= len(line)
    assert parse_any(line).message is not None


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"<13>Nov  3 09:14:07 gate app[7]: text", ("gate", "app", "7", "text")),
        (b"Nov  3 09:14:07 gate app: text", ("gate", "app", None, "text")),
        (b"<13>Nov  3 09:14:07 app[7]: no host", (None, "app", "7", "no host")),
        (b"<13>Nov  3 2026 09:14:07 gate app: year", ("gate", "app", None, "year")),
        (b"<13>Nov  3 09:14:07 2026 gate app: year last", ("gate", "app", None, "year last")),
        (b"<13>Nov  3 09:14:07 CET gate app: zone", ("gate", "app", None, "zone")),
        (b"<13>2026-11-03T09:14:07+01:00 gate app: iso", ("gate", "app", None, "iso")),
        (b"<13>app: only a tag", (None, "app", None, "only a tag")),
        (b"<13>Nov  3 09:14:07 gate no tag at all", ("gate", None, None, "no tag at all")),
        (b"Nov  3 09:14:07 gate syslogd 1.4.1: restart.", ("gate", "syslogd 1.4.1", None, "restart.")),
        (b"<13>Nov  3 09:14:07 gate audit(1.2:0): up", ("gate", "audit(1.2:0)", None, "up")),
    ],
)
def test_forms_of_practice(line: bytes, expected: tuple[str | None, ...]) -> None:
    """Host, tag, process id and text are found in what is sent in the place of RFC 3164."""
    parts = parse_rfc3164(line)
    assert (parts.hostname, parts.appname, parts.procid, parts.message) == expected


def test_cisco_counters_and_mnemonic() -> None:
    """A Cisco message gives its counter, host, mnemonic and text."""
    parts = parse_rfc3164(b"<189>12: sw1: *Mar  1 00:00:07.5: %LINEPROTO-5-UPDOWN: Line up")
    assert (parts.format, parts.message_counter, parts.hostname) == ("cisco", 12, "sw1")
    assert (parts.appname, parts.event_code, parts.message) == ("%LINEPROTO-5-UPDOWN", "UPDOWN", "Line up")


def test_a_line_without_structure_is_refused_or_kept_whole() -> None:
    """A text with neither priority, time nor tag is no RFC 3164 message; read leniently it is its own message."""
    with pytest.raises(WireError):
        parse_rfc3164(b"nothing here")
    parts = parse_any(b"nothing here")
    assert (parts.format, parts.message) == ("unknown", "nothing here")


@pytest.mark.parametrize(
    ("text", "observed", "expected"),
    [
        (b"Nov  3 09:14:07", "2026-11-03T10:00:00Z", "2026-11-03T09:14:07.000000000Z"),
        (b"Dec 31 23:59:58", "2026-01-01T00:00:03Z", "2025-12-31T23:59:58.000000000Z"),
        (b"Jan  1 00:00:01", "2025-12-31T23:59:59Z", "2026-01-01T00:00:01.000000000Z"),
        (b"Feb 29 12:00:00", "2026-03-01T00:00:00Z", "2024-02-29T12:00:00.000000000Z"),
        (b"Jun 30 23:59:60", "2026-07-01T00:00:05Z", "2026-07-01T00:00:00.000000000Z"),
        (b"Mar  1 2019 00:00:07.25", "2026-07-01T00:00:05Z", "2019-03-01T00:00:07.250000000Z"),
    ],
)
def test_the_year_is_supplied(text: bytes, observed: str, expected: str) -> None:
    """A time without a year is in the latest year in which it is at most a day after it was observed."""
    assert time_text(bsd_ns(text, time_ns(observed), UTC)) == expected


@pytest.mark.parametrize(
    "text", [b"", b"Nov", b"Foo  1 00:00:00", b"Nov 31 00:00:00", b"Nov  1 25:00:00", b"Nov 1 00:00"]
)
def test_a_time_that_is_none_is_unreadable(text: bytes) -> None:
    """What is no time of day on a real day is not guessed at."""
    assert bsd_ns(text, time_ns("2026-11-03"), UTC) == UNREADABLE


def test_zones() -> None:
    """An offset in the text counts; without one the configured zone does, with its summer time."""
    vienna = zone_of("Europe/Vienna")
    assert iso_ns(b"2026-07-01T12:00:00", b"-07:00", vienna) == time_ns("2026-07-01T19:00:00Z")
    assert iso_ns(b"2026-07-01T12:00:00", b"", vienna) == time_ns("2026-07-01T10:00:00Z")
    assert bsd_ns(b"Jan  1 12:00:00", time_ns("2026-02-01"), vienna) == time_ns("2026-01-01T11:00:00Z")
    with pytest.raises(ConfigError, match="Mars/Base"):
        zone_of("Mars/Base")


def test_columns_of_times_agree_with_single_ones() -> None:
    """A clock converts columns of texts with mixed zones, fractions and gaps as it does one text."""
    clock = Clock(UTC)
    seconds = [b"2026-11-03T09:14:07", b"2026-11-03T09:14:07", None, b"2026-99-03T09:14:07"]
    times = clock.iso(seconds, [b"25", None, None, b"1"], [b"Z", b"+01:00", None, b"Z"])
    assert times.tolist() == [
        time_ns("2026-11-03T09:14:07.25Z"),
        time_ns("2026-11-03T08:14:07Z"),
        UNREADABLE,
        UNREADABLE,
    ]


@pytest.mark.parametrize("zone", ["UTC", "Europe/Vienna"])
def test_times_by_the_minute_agree_with_single_ones(zone: str) -> None:
    """A minute that is converted once gives each of its seconds, also where the year or the zone changes, or none."""
    minutes = [b"Nov  3 09:14", b"Feb 30 10:00", b"Nov  4 09:15", b"Oct 25 02:59", b"Feb 29 23:59"]
    seconds = [0, 7, 29, 30, 59, 60, 61, 99]
    observed = time_ns("2026-11-03T09:15:30Z")
    places = np.repeat(np.arange(len(minutes)), len(seconds))
    times = Clock(zone_of(zone)).bsd_seconds(minutes, places, np.tile(seconds, len(minutes)), observed)
    texts = [b"%s:%02d" % (minute, second) for minute in minutes for second in seconds]
    assert times.tolist() == [bsd_ns(text, observed, zone_of(zone)) for text in texts]
