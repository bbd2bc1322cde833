"""Syslog as devices and relays send it: one line each, and what has to be found in it."""

from __future__ import annotations

import pytest

from eddy_agents.transformers import syslog
from eddy_agents.wire.syslog import Syslog, cisco_severity, parse_any, parse_rfc5424
from eddy_agents.wire.syslog_cisco import device_header
from eddy_agents.wire.syslog_stamps import ZONES, stamp_at
from eddy_agents.wire.syslog_time import UNREADABLE, iso_ns, zone_of
from eddy_mesh.batch import Batch, Kind, Producer
from eddy_mesh.cer import EventClass, Stage, Value
from eddy_mesh.columns import Bytes, Column, Constant, pack
from eddy_mesh.errors import WireError
from eddy_mesh.rows import flat_row, time_ns

PLAIN = "Jan 15 10:22:33"
BSD: list[tuple[str, str | None, str | None, str | None, str | None, str]] = [
    # line, time, host, program, process id, message
    ("<30>Jan 15 10:22:33 NAS no tag message", PLAIN, "NAS", None, None, "no tag message"),
    ("<30>Jan 15 10:22:33 PDC app[foo-bar]: x", PLAIN, "PDC", "app", "foo-bar", "x"),
    ("<30>Jan 15 10:22:33 FTP myapp 1.2[55]: x", PLAIN, "FTP", "myapp 1.2", "55", "x"),
    ("<30>Jan 15 10:22:33 ESX: hi", PLAIN, None, "ESX", None, "hi"),
    ("<30>2024-01-15 10:22:33 INFO worker 12 up", "2024-01-15T10:22:33", None, None, None, "INFO worker 12 up"),
    ("<30>2024-01-15 10:22:33 UTC app: x", "2024-01-15T10:22:33", "UTC", "app", None, "x"),
    ("<30>2024-01-15T10:22:33z gate app: x", "2024-01-15T10:22:33Z", "gate", "app", None, "x"),
    ("<30>2024-01-15T10:22:33 +0100 gate app: x", "2024-01-15T10:22:33+0100", "gate", "app", None, "x"),
    ("<30>Jan 15 10:22:33 CET gate app: x", f"{PLAIN} +01:00", "gate", "app", None, "x"),
    ("<30>Jan 15 10:22:33 UTC gate app: x", f"{PLAIN} Z", "gate", "app", None, "x"),
    ("<30>Jan 15 10:22:33 GMT+1: app: x", f"{PLAIN} +01:00", None, "app", None, "x"),
    ("<30>Jan 15 10:22:33 UTC+05:30 gate app: x", f"{PLAIN} +05:30", "gate", "app", None, "x"),
    ("<30>Jan 15 2024 10:22:33 CET gate app: x", "2024-01-15T10:22:33+01:00", "gate", "app", None, "x"),
    ("<30>Jan 15 10:22:33 CET 2024 gate app: x", "2024-01-15T10:22:33+01:00", "gate", "app", None, "x"),
    ("<30>2024 Jan 15 10:22:33 gate app: x", "2024-01-15T10:22:33", "gate", "app", None, "x"),
    ("<30>Mon Jan 15 10:22:33 gate app: x", PLAIN, "gate", "app", None, "x"),
    ("<30>Mon Jan  1 10:22:33 2024 gate app: x", "2024-01-01T10:22:33", "gate", "app", None, "x"),
    ("<30>JAN 15 10:22:33 gate app: x", "JAN 15 10:22:33", "gate", "app", None, "x"),
    ("<30>jan 15 10:22:33 gate app: x", "jan 15 10:22:33", "gate", "app", None, "x"),
    (" <30>Jan 15 10:22:33 gate app: x", PLAIN, "gate", "app", None, "x"),
    ("\N{ZERO WIDTH NO-BREAK SPACE}<30>Jan 15 10:22:33 gate app: x", PLAIN, "gate", "app", None, "x"),
    ("<30> Jan 15 10:22:33 gate app: x", PLAIN, "gate", "app", None, "x"),
    ("<30>Jan 15 10:22:33 gate app[12] text", PLAIN, "gate", "app", "12", "text"),
    ("<30>Jan 15 10:22:33 gate app [123]: text", PLAIN, "gate", "app", "123", "text"),
    ("<30>Jan 15 10:22:33 app [123]: text", PLAIN, None, "app", "123", "text"),
    ("<30>Jan 15 10:22:33 gate 45: text", PLAIN, "gate", None, None, "45: text"),
    ("<30>Jan 15 10:22:33 src@gate/1.2.3.4 app: x", PLAIN, "1.2.3.4", "app", None, "x"),
    ("<30>Jan 15 10:22:33 src@gate/relay/core app: x", PLAIN, "core", "app", None, "x"),
    ("<30>Jan 15 10:22:33 gate/relay app: x", PLAIN, "gate/relay", "app", None, "x"),
    ("<30>Jan 15 10:22:33 gate CEF:0|V|P|1|2|a: b|3|", PLAIN, "gate", None, None, "CEF:0|V|P|1|2|a: b|3|"),
    ("<30>Jan 15 10:22:33 gate CEF: 0|V|P|1|2|a|3|", PLAIN, "gate", None, None, "CEF: 0|V|P|1|2|a|3|"),
    ("<30>Jan 15 10:22:33 CEF:0|V W|P|1|2|a|3|", PLAIN, None, None, None, "CEF:0|V W|P|1|2|a|3|"),
    ("<30>LEEF:1.0|V|P|1|2|a: b", None, None, None, None, "LEEF:1.0|V|P|1|2|a: b"),
    ('<30>Jan 15 10:22:33 gate @cee: {"a": 1}', PLAIN, "gate", None, None, '@cee: {"a": 1}'),
    ('<30>Jan 15 10:22:33 gate app: @cee: {"a": 1}', PLAIN, "gate", "app", None, '@cee: {"a": 1}'),
    ("<30>Jan 15 10:22:33 gate say: %FOO-3-BAR: x", PLAIN, "gate", "say", None, "%FOO-3-BAR: x"),
    ("<30>Jan 15 10:22:33 gate app: 100% sure", PLAIN, "gate", "app", None, "100% sure"),
]


@pytest.mark.parametrize(
    ("line", "time", "host", "program", "procid", "message"), BSD, ids=[case[0][:48] for case in BSD]
)
def test_bsd_dialects(
    line: str, time: str | None, host: str | None, program: str | None, procid: str | None, message: str
) -> None:
    """Zones, levels, hosts and tags are told apart in what is sent in the place of RFC 3164."""
    parts = parse_any(line.encode())
    assert parts == Syslog(
        format="rfc3164",
        priority=30,
        timestamp=time,
        hostname=host,
        appname=program,
        procid=procid,
        message=message,
    )


DEVICES: list[tuple[str, str | None, str | None, str, int | None]] = [
    # line, time, host, mnemonic, counter
    ("<189>: 2024 Jan 15 10:22:33 UTC: %ETHPORT-5-IF_DOWN_X: x", "2024-01-15T10:22:33Z", None, "IF_DOWN_X", None),
    ("<189>2024 Jan 15 10:22:33.456 n9k %ETHPORT-5-IF_UP: x", "2024-01-15T10:22:33.456", "n9k", "IF_UP", None),
    ("<166>Jan 15 2024 10:22:33 fw1 : %ASA-6-106100: x", "2024-01-15T10:22:33", "fw1", "106100", None),
    ("<166>Jan 15 2024 10:22:33: %ASA-6-106100: x", "2024-01-15T10:22:33", None, "106100", None),
    ("<166>2024-01-15T10:22:33Z fw1 : %ASA-6-106100: x", "2024-01-15T10:22:33Z", "fw1", "106100", None),
    ("<166>2024-01-15T10:22:33Z: %ASA-6-106100: x", "2024-01-15T10:22:33Z", None, "106100", None),
    ("<166>:Jan 15 10:22:33 UTC: %ASA-session-6-302014: x", f"{PLAIN} Z", None, "302014", None),
    ("<166>Jan 15 10:22:33 gate %ASA-6-302013: x", PLAIN, "gate", "302013", None),
    ("<166>%ASA-6-302013: x", None, None, "302013", None),
    ("<166>fw1 %ASA-6-302013: x", None, "fw1", "302013", None),
    ("<189>5: 10.1.1.1: Jan 15 10:22:33: %SYS-5-X: x", PLAIN, "10.1.1.1", "X", 5),
    ("<189>5: 2001:db8::1: Jan 15 10:22:33: %SYS-5-X: x", PLAIN, "2001:db8::1", "X", 5),
    ("<189>5: sw1: 000007: .Jan 15 10:22:33.123 CET: %SYS-5-X: x", f"{PLAIN}.123 +01:00", "sw1", "X", 5),
    ("<189>5: *Jan 15 10:22:33: %SYS-5-X: x", PLAIN, None, "X", 5),
    ("<189>5: 00:00:12: %SYS-5-X: x", None, None, "X", 5),
    ("<189>5: 1w2d: %SYS-5-X: x", None, None, "X", 5),
    ("<189>5: sw1: 3d04h: %SYS-5-X: x", None, "sw1", "X", 5),
    ("<189>RP/0/RSP0/CPU0:Jan 15 10:22:33.5 UTC: ifmgr[227]: %PKT-3-UPDOWN : x", f"{PLAIN}.5 Z", None, "UPDOWN", None),
    ("<189>7: xr1 RP/0/RSP0/CPU0:Jan 15 10:22:33 UTC: ifmgr[2]: %A-B-3-UPDOWN : x", f"{PLAIN} Z", "xr1", "UPDOWN", 7),
    ("<189>Jan 15 10:22:33 sw1 45: Jan 15 10:22:32.5: %LINK-3-UPDOWN: x", "Jan 15 10:22:32.5", "sw1", "UPDOWN", 45),
    ("<189>Jan 15 10:22:33 sw1 45: *Mar  1 00:00:07.5: %LINK-3-UPDOWN: x", PLAIN, "sw1", "UPDOWN", 45),
    ("<189>Jan 15 10:22:33 10.1.1.1: %SYS-5-X: x", PLAIN, "10.1.1.1", "X", None),
    ("<189>Jan 15 10:22:33 relay 10.1.1.1: %SYS-5-X: x", PLAIN, "10.1.1.1", "X", None),
    (
        "<189>Jan 15 2024 10:22:33+08:00 AR2220 %%01SHELL/5/CMDRECORD(l)[1]:x",
        "2024-01-15T10:22:33+08:00",
        "AR2220",
        "CMDRECORD",
        1,
    ),
    ("<189>2024-01-15 10:22:33 CE1 %%01IFNET/4/IF_ENABLE(l):x", "2024-01-15T10:22:33", "CE1", "IF_ENABLE", None),
]


@pytest.mark.parametrize(("line", "time", "host", "code", "counter"), DEVICES, ids=[case[0][:56] for case in DEVICES])
def test_network_devices(line: str, time: str | None, host: str | None, code: str, counter: int | None) -> None:
    """Of a network device's message the time, host, mnemonic, counter, severity and text are found."""
    parts = parse_any(line.encode())
    found = (parts.format, parts.timestamp, parts.hostname, parts.event_code, parts.message_counter, parts.message)
    assert found == ("cisco", time, host, code, counter, "x")
    assert cisco_severity((parts.appname or "").encode()) in line.encode()
    assert (parts.appname or "")[0] == "%"


@pytest.mark.parametrize(
    "line", ["", "%", "% a", "%A-9-B: x", "a b c %A-5-B: x", "1: 2: %", "5: " * 11 + "%A-5-B: x", "a: b: %A-5-B: x"]
)
def test_other_lines_are_no_device_header(line: str) -> None:
    """A percent sign alone, too many words before a mnemonic, and a severity above 7 are no device's header."""
    assert device_header(line, 0) is None


def test_a_process_of_ios_xr_keeps_its_id() -> None:
    """IOS XR names the process between time and mnemonic."""
    parts = parse_any(b"<189>RP/0/RSP0/CPU0:Jan 15 10:22:33 UTC: ifmgr[227]: %PKT-3-UPDOWN : x")
    assert (parts.appname, parts.procid) == ("%PKT-3-UPDOWN", "227")


def test_zones_are_offsets() -> None:
    """Every zone of the table is an offset that times can be read with; no zone is taken after an ISO time."""
    for name, offset in ZONES.items():
        assert iso_ns(b"2024-01-15T10:22:33", offset.encode(), zone_of("UTC")) != UNREADABLE
        assert stamp_at(f"{PLAIN} {name} gate", 0) == (f"{PLAIN} {offset}", len(PLAIN) + 1 + len(name))
        if name != "Z":  # ISO 8601's own
            assert stamp_at(f"2024-01-15T10:22:33 {name} gate", 0) == ("2024-01-15T10:22:33", 19)


STRUCTURED: list[tuple[str, dict[str, dict[str, str]], str]] = [
    (r'[a@1 Path="C:\Windows\x"] hi', {"a@1": {"Path": r"C:\Windows\x"}}, "hi"),
    (r'[a@1 x="1\"2" Path="C:\dir\"] hi', {"a@1": {"x": '1"2', "Path": "C:\\dir\\"}}, "hi"),
    ('[a@1 x="[y]" z="1"] hi', {"a@1": {"x": "[y]", "z": "1"}}, "hi"),
    ('[a@1 x="1"] [b@1 y="2"] hi', {"a@1": {"x": "1"}, "b@1": {"y": "2"}}, "hi"),
    ('[a@1 x="1"] [note] hi', {"a@1": {"x": "1"}}, "[note] hi"),
    ('[a@1 x="1" y] hi', {"a@1": {"x": "1"}}, '[a@1 x="1" y] hi'),
]


@pytest.mark.parametrize(("text", "elements", "message"), STRUCTURED)
def test_odd_structured_data(text: str, elements: dict[str, dict[str, str]], message: str) -> None:
    """A lone backslash, a bracket in a value, and a space between elements lose nothing."""
    parts = parse_any(f"<165>1 2024-01-15T10:22:33Z host app 7 ID {text}".encode())
    assert (parts.hostname, parts.structured_data, parts.message) == ("host", elements, message)


HEADERS = [
    ("2024-01-15T10:22:33+0100 host app 7 ID", "2024-01-15T10:22:33+0100"),
    ("2024-01-15T10:22:33,25Z host app 7 ID", "2024-01-15T10:22:33.25Z"),
    ("2024-01-15 10:22:33.5Z host app 7 ID", "2024-01-15T10:22:33.5Z"),
    ("2024-01-15t10:22:33z host app 7 ID", "2024-01-15T10:22:33Z"),
    ("2024-01-15T10:22:33.123456789Z host app 7 ID", "2024-01-15T10:22:33.123456789Z"),
    ("2024-01-15T10:22:33 host app 7 ID", "2024-01-15T10:22:33"),
    ("2024-01-15T10:22:33Z  host  app 7  ID", "2024-01-15T10:22:33Z"),
    (" 2024-01-15T10:22:33Z host app 7 ID", "2024-01-15T10:22:33Z"),
    ("- host  app 7 ID", None),
]


@pytest.mark.parametrize(("header", "time"), HEADERS)
def test_nearly_valid_headers(header: str, time: str | None) -> None:
    """A slightly odd time and doubled spaces are refused when strict; read leniently they cost no part."""
    line = f'<165>1 {header} [a@1 x="1"] hi'.encode()
    with pytest.raises(WireError):
        parse_rfc5424(line)
    assert parse_any(line) == Syslog(
        format="rfc5424",
        priority=165,
        version=1,
        timestamp=time,
        hostname="host",
        appname="app",
        procid="7",
        msgid="ID",
        structured_data={"a@1": {"x": "1"}},
        message="hi",
    )


def test_fortios_keys() -> None:
    """FortiOS sends keys only: host, time and zone are among them, and the message is all of it."""
    text = 'date=2024-01-15 time=10:22:33 devname="FGT1" devid="F1" eventtime=1 tz="+0100" logid="1" msg="a: b"'
    parts = parse_any(f"<189>{text}".encode())
    assert (parts.hostname, parts.timestamp) == ("FGT1", "2024-01-15T10:22:33+0100")
    assert (parts.appname, parts.message) == (None, text)


OBSERVED = time_ns("2026-11-03T10:00:00Z")


def cook(lines: list[bytes]) -> list[dict[str, Value]]:
    """The rows that the syslog cooking makes of lines."""
    columns: dict[str, Column] = {
        "event.original": Bytes(*pack(lines)),
        "observed": Constant(OBSERVED, len(lines)),
        "host_address": Constant("198.51.100.9", len(lines)),
    }
    raw = Batch(Kind(Stage.RAW, EventClass.SYSTEM, "syslog"), "o", Producer(1, 2), 0, 1, len(lines), columns)
    (draft,) = syslog.Cooking(syslog.Config(timezone="America/New_York")).on_batch(raw, OBSERVED).outputs
    cooked = Batch(draft.kind, "o", Producer(3, 2), 0, 1, draft.count, draft.columns)
    return [flat_row(cooked, row) for row in range(cooked.count)]


def test_chunks_cook_dialects_as_single_lines_do() -> None:
    """What a chunk's expressions take of the dialects is what the parser of single lines finds."""
    lines = [str(case[0]).encode() for case in (*BSD, *DEVICES)]
    for line, row in zip(lines, cook(lines), strict=True):
        parts = parse_any(line)
        expected = {
            "syslog.format": parts.format,
            "log.syslog.hostname": parts.hostname,
            "log.syslog.appname": parts.appname,
            "log.syslog.procid": parts.procid,
            "event.code": parts.event_code,
            "syslog.message_counter": parts.message_counter,
            "message": parts.message or "",
        }
        assert {name: row.get(name) for name in expected} == expected, line


TIMES = [
    ("<30>Nov  3 09:14:07 gate app: x", "2026-11-03T14:14:07Z", ["year", "timezone"]),
    ("<30>Nov  3 09:14:07 UTC gate app: x", "2026-11-03T09:14:07Z", ["year"]),
    ("<30>Nov  3 09:14:07 CET gate app: x", "2026-11-03T08:14:07Z", ["year"]),
    ("<30>Nov  3 09:14:07 CET app: x", "2026-11-03T08:14:07Z", ["year", "host"]),
    ("<30>Nov  3 2026 09:14:07 GMT+1: app: x", "2026-11-03T08:14:07Z", ["host"]),
    ("<30>2026 Nov 3 09:14:07.5 UTC: %A-5-B: x", "2026-11-03T09:14:07.5Z", ["host"]),
    ("<189>5: sw1: .Nov  3 09:14:07,5 CET: %SYS-5-X: x", "2026-11-03T08:14:07.5Z", ["year"]),
    ("<30>2026-11-03T09:14:07 gate app: x", "2026-11-03T14:14:07Z", ["timezone"]),
    ('<30>date=2026-11-03 time=09:14:07 devname="f" tz="+0100" a=b', "2026-11-03T08:14:07Z", None),
    ("<165>1 2026-11-03T09:14:07+0100 host app 7 ID - x", "2026-11-03T08:14:07Z", None),
    ("<165>1 2026-11-03 09:14:07,25z host app 7 ID - x", "2026-11-03T09:14:07.25Z", None),
]


@pytest.mark.parametrize(("line", "time", "repair"), TIMES)
def test_a_stated_zone_counts(line: str, time: str, repair: list[str] | None) -> None:
    """A stated zone is used, only a zone that is left out is supplied, and what was supplied is listed."""
    (row,) = cook([line.encode()])
    assert (row["occurred"], row.get("syslog.repair")) == (time_ns(time), repair)
