"""Events as the tool shows them: cells, one line for any type, and the pieces of statements."""

from __future__ import annotations

import csv
import json
from io import StringIO

import click
import pytest

from eddy_mesh.api import Event
from eddy_mesh.batch import Kind, Producer
from eddy_mesh.cer import EventClass, Stage, Value
from eddy_mesh.cli.event_output import CsvEvents, JsonEvents, TableEvents
from eddy_mesh.cli.event_view import EventView, summary, value_cell
from eddy_mesh.cli.parameters import Duration, moment_text, period, search_condition
from eddy_mesh.cli.ranking import Ranking
from eddy_mesh.cli.search import Search
from eddy_mesh.cli.stored import in_time_order, late_arrivals
from eddy_mesh.errors import StatementError, UsageError
from eddy_mesh.rows import batch_of
from eddy_mesh.selection import Plan, compile_statement, matcher, render

NOW_NS = 1_795_295_801_878_150_278
FLOW: dict[str, Value] = {
    "type": "netflow.v9",
    "occurred": NOW_NS,
    "network.transport": "tcp",
    "source.ip": "10.0.0.1",
    "source.port": 40000,
    "destination.ip": "2001:db8::1",
    "destination.port": 443,
    "network.bytes": 123456,
    "network.packets": 12,
    "event.duration": 1_250_000_000,
}


def plan_of(statement: str) -> Plan:
    """The plan of a statement."""
    return compile_statement(statement, now_ns=NOW_NS)


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (FLOW, "tcp 10.0.0.1:40000 → [2001:db8::1]:443 12 packets, 123 kB, 1.25 s"),
        (
            FLOW | {"network.packets": 1, "network.bytes": 44, "event.duration": 0},
            "tcp 10.0.0.1:40000 → [2001:db8::1]:443 1 packet, 44 B",
        ),
        ({"process.name": "sshd", "process.pid": 22, "message": "hello"}, "sshd[22]: hello"),
        ({"log.syslog.appname": "%LINK-3-UPDOWN", "message": "down"}, "%LINK-3-UPDOWN: down"),
        (
            {"type": "host.connection", "process.name": "x", "process.pid": 1, "message": "x[1]: tcp a -> b opened"},
            "x[1]: tcp a → b opened",
        ),
        ({"diagnosis.hypothesis": "a scan", "message": "m"}, "a scan"),
        ({"diagnosis.hypothesis": "3 logins in 0.0 ms: x", "event.type": "start"}, "began: 3 logins: x"),
        ({"diagnosis.hypothesis": "3 logins in 10.0 ms", "event.type": "end"}, "ended: 3 logins in 10.0 ms"),
        (
            {"type": "netflow.gap", "observer.ip": "192.0.2.1", "netflow.lost": 3}
            | {"netflow.expected_sequence": 7, "netflow.sequence": 10},
            "3 lost on the way from 192.0.2.1: sequence number 7 expected, 10 came",
        ),
        (
            {"type": "netflow.template_unknown", "host_address": "192.0.2.1", "netflow.template": 256},
            "data of 192.0.2.1 were given up: template 256 never came",
        ),
        (
            {"type": "netflow.options", "host_address": "192.0.2.1", "netflow.template": 260, "netflow.sampling": 100},
            "192.0.2.1 says: sampling 100",
        ),
        ({"event.original": b"<13>raw line"}, "<13>raw line"),
        ({"event.original": b"\x00\x09\x00\x01"}, "4 octets: 00090001"),
        (
            {"event.action": "exec", "process.name": "ls", "process.pid": 7, "process.command_line": "ls -l"},
            "exec ls[7] ls -l",
        ),
        ({"type": "sflow.counter", "sflow.x": 1, "occurred": 5}, "sflow.x=1"),
        ({}, ""),
    ],
)
def test_any_event_has_one_line_that_says_what_happened(row: dict[str, Value], text: str) -> None:
    """Flows, log lines, diagnoses, raw payloads, processes and whatever else there is are each said in one line."""
    assert summary(row).text == text


def test_the_line_has_the_colour_of_the_level() -> None:
    """An error looks like one, an event without level looks plain."""
    assert summary({"message": "m", "level": 3}).style == "bad"
    assert summary({"message": "m", "level": 7}).style == "quiet"
    assert summary({"message": "m"}).style == ""


def test_values_are_shown_with_their_units() -> None:
    """Levels have names, sizes and durations units, counts groups of digits, and ports neither."""
    assert value_cell("level", 4, NOW_NS).text == "warning"
    assert value_cell("network.bytes", 5_000_000, NOW_NS).text == "5 MB"
    assert value_cell("event.duration", 2_000_000, NOW_NS).text == "2 ms"
    assert value_cell("destination.port", 40000, NOW_NS).text == "40000"
    assert value_cell("count(*)", 40000, NOW_NS, "").text == "40,000"
    assert value_cell("message", None, NOW_NS).text == "-"


def test_columns_follow_the_projection() -> None:
    """A named projection has its columns, numbers to the right; * has time, host, type and the line."""
    view = EventView(plan_of("SELECT source.ip, sum(network.bytes) AS octets GROUP BY source.ip"))
    assert [(column.title, column.right) for column in view.columns] == [("source.ip", False), ("octets", True)]
    assert [cell.text for cell in view.cells({"source.ip": "::1", "octets": 2000}, NOW_NS)] == ["::1", "2 kB"]
    star = EventView(plan_of("SELECT *"))
    assert len(star.columns) == len(star.cells(FLOW, NOW_NS)) == 4


def test_windows_are_told_apart() -> None:
    """Rows of a live aggregate show where their window ends, on a terminal and in CSV."""
    plan = plan_of("SELECT host, count(*) GROUP BY host EVERY 10s")
    row: dict[str, Value] = {"window.start": NOW_NS, "window.end": NOW_NS, "host": "a", "count(*)": 3}
    assert len(EventView(plan).cells(row, NOW_NS)) == 3
    assert len(EventView(plan, windows=False).cells(row, NOW_NS)) == 2
    out = StringIO()
    CsvEvents(out, plan, live=False).write(Event(row))
    assert out.getvalue().splitlines()[0] == "window.start,window.end,host,count(*)"


def test_csv_reads_back() -> None:
    """What CSV says of text with quotes, commas and line ends is what the event says."""
    out = StringIO()
    writer = CsvEvents(out, plan_of("SELECT message, source.port, syslog.repair"), live=True)
    writer.write(Event({"message": 'a "b",\nc', "source.port": 5, "syslog.repair": ["year"]}))
    writer.write(Event({}))
    assert list(csv.reader(StringIO(out.getvalue()))) == [
        ["message", "source.port", "syslog.repair"],
        ['a "b",\nc', "5", '["year"]'],
        ["", "", ""],
    ]


def test_csv_needs_named_columns() -> None:
    """SELECT * has no columns that CSV could name, and the refusal says what to write."""
    with pytest.raises(UsageError, match="SELECT occurred"):
        CsvEvents(StringIO(), plan_of("SELECT *"), live=False)


def test_json_is_one_object_a_line() -> None:
    """NDJSON has RFC 3339 times and one line for each event."""
    out = StringIO()
    writer = JsonEvents(out, live=True)
    writer.write(Event({"occurred": 0, "message": "a\nb"}))
    writer.flush()
    assert json.loads(out.getvalue()) == {"occurred": "1970-01-01T00:00:00.000000000Z", "message": "a\nb"}
    assert out.getvalue().count("\n") == 1


def test_tables_of_stored_events_fit_their_columns() -> None:
    """Rows that are complete soon are held back until the columns are known."""
    out = StringIO()
    writer = TableEvents(out, plan_of("SELECT user.name, message"), colour=False, live=False)
    writer.write(Event({"user.name": "a", "message": "x"}))
    assert out.getvalue() == ""
    writer.write(Event({"user.name": "a longer name", "message": "y"}))
    writer.flush()
    assert out.getvalue().splitlines()[1:] == ["a              x", "a longer name  y"]


# --- arguments ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "seconds"), [("10", 10), ("1.5", 1.5), ("250ms", 0.25), ("5m", 300), ("1h", 3600)])
def test_durations_are_taken_with_and_without_unit(text: str, seconds: float) -> None:
    """A bare number is seconds."""
    assert Duration().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["0", "x", "10 parsecs", "-5s", "3MB", ""])
def test_what_is_no_duration_is_refused(text: str) -> None:
    """The refusal is a usage error of the command."""
    with pytest.raises(click.BadParameter):
        Duration().convert(text, None, None)


def test_an_age_is_a_time_in_the_past() -> None:
    """--since 1h and --since=-1h are the same; times are left alone."""
    assert moment_text("1h") == moment_text("-1h") == "-1h"
    assert period("2026-11-21T10:00Z", "10m") == "SINCE '2026-11-21T10:00Z' UNTIL '-10m'"
    assert period("", "") == ""


@pytest.mark.parametrize("text", ["20y", "yesterday", "10:00", "64KiB", "5"])
def test_what_is_no_time_is_told_of_the_option(text: str) -> None:
    """The text and the option as they were written, not the statement that was made of them."""
    with pytest.raises(UsageError, match=f"^--until '{text}' is no time: write 10m, ") as caught:
        period("1h", text)
    assert "SELECT" not in str(caught.value)


@pytest.mark.parametrize(
    ("pattern", "names"),
    [("it's", ()), ("10.0.0.0/8", ()), ("22", ("destination.port",)), ("x", ("json.a", "process.name")), ("::1", ())],
)
def test_every_search_is_a_statement(pattern: str, names: tuple[str, ...]) -> None:
    """Patterns with quotes, addresses, numbers and open fields all compile, also inverted and for counting."""
    for invert in (False, True):
        for counts in (False, True):
            plan_of(Search(pattern=pattern, names=names, invert=invert, counts=counts, ignore_case=True).statement)


def test_a_search_for_an_address_looks_at_addresses() -> None:
    """A pattern that is an address or a network is looked for in both ends of flows; a word is not."""
    assert "source.ip IN CIDR" in search_condition("192.0.2.7", (), ignore_case=False, invert=False)
    assert "source.ip" not in search_condition("sshd", (), ignore_case=False, invert=False)


def test_a_search_does_not_find_the_command_itself() -> None:
    """Processes called eddy are left out, and python that runs it; asked for by name they are found."""
    statement = Search(pattern="x").statement
    assert "process.command_line ~" not in statement
    match = matcher(plan_of("SELECT *" + statement.removeprefix("SELECT *").partition(" SINCE")[0]))
    kind = Kind(Stage.COOKED, EventClass.SYSTEM, "host.process")
    rows: list[dict[str, Value]] = [
        {"message": "x", "process.name": "eddy", "process.command_line": "/bin/python3 /bin/eddy grep x"},
        {"message": "x", "process.name": "python3", "process.command_line": "/usr/bin/python3.11 -I /opt/bin/eddy tap"},
        {"message": "x", "process.name": "python3", "process.command_line": "/usr/bin/python3 eddy.py x"},
        {"message": "x", "process.name": "sshd"},
        {"message": "x"},
    ]
    batch = batch_of(kind, "hub", Producer(0, 0), 0, 0, rows)
    assert match(batch).tolist() == [False, False, True, True, True]
    assert "eddy" not in Search(pattern="x", names=("process.name",)).statement


def test_searches_and_rankings_are_restricted() -> None:
    """A type stands for those below it as well, and a condition is joined by AND however it is written."""
    for made in (
        Search(pattern="x", kind="net_flow", where="level < 4 OR level = 7").statement,
        Ranking(names=("host",), kind="net_flow", where="level < 4 OR level = 7").statement,
    ):
        text = plan_of(made).text
        assert r"(type = 'net_flow' OR type LIKE 'net\_flow.%')" in text
        assert "(level < error OR level = debug)" in text or "(level < warning OR level = debug)" in text


def test_a_field_without_its_first_word_is_answered_with_that_of_the_event() -> None:
    """``bytes`` is first of all ``network.bytes``."""
    with pytest.raises(UsageError, match=r"did you mean network\.bytes or "):
        _ = Ranking(names=("host",), by="bytes").statement


def test_stored_events_come_in_time_order() -> None:
    """A statement without an order of its own gets one; groups and other orders are left alone."""
    assert in_time_order(plan_of("SELECT message LIMIT 3")).order_by == plan_of("SELECT * ORDER BY occurred").order_by
    for statement in ("SELECT count(*)", "SELECT * ORDER BY host"):
        plan = plan_of(statement)
        assert in_time_order(plan) is plan


def test_late_arrivals_are_what_was_observed_since_and_occurred_before() -> None:
    """The statement that counts them keeps source and condition, and compiles."""
    plan = late_arrivals(plan_of("SELECT host FROM system.syslog WHERE level < 4 SINCE '2026-11-21' LIMIT 5"))
    assert plan_of(render(plan)).text == (
        "SELECT count(*), min(occurred) FROM system.syslog WHERE level < warning"
        " AND observed >= '2026-11-21T00:00:00.000000000Z' AND occurred < '2026-11-21T00:00:00.000000000Z'"
    )


def test_a_search_of_the_past_has_a_beginning() -> None:
    """Stored events are searched for the last hour, files and live flows without a limit."""
    assert "SINCE '-1h'" in Search(pattern="x").statement
    assert "SINCE" not in Search(pattern="x", live=True).statement
    assert "SINCE" not in Search(pattern="x", file=StringIO()).statement  # type: ignore[arg-type]  # never read


def test_a_wrong_field_is_answered_with_the_nearest() -> None:
    """A misspelt field names the one that was meant."""
    with pytest.raises(UsageError, match=r"did you mean source\.ip"):
        _ = Search(pattern="x", names=("sorce.ip",)).statement


def test_live_counts_are_refused() -> None:
    """Counting has no end on a live flow; the refusal names what does it."""
    with pytest.raises(UsageError, match="top --watch"):
        Search(pattern="x", live=True, counts=True)


@pytest.mark.parametrize("by", ["count", "sum(network.bytes)", "network.bytes", "count(DISTINCT destination.ip)"])
@pytest.mark.parametrize("watch", [False, True])
def test_every_ranking_is_a_statement(by: str, watch: bool) -> None:
    """Each form of --by compiles, stored and live."""
    statement = Ranking(names=("source.ip", "type"), by=by, where="level < 4 OR level = 7", watch=watch).statement
    assert plan_of(statement).limit == 10


def test_rankings_say_what_is_wrong() -> None:
    """A field that is no number can not be summed, and the past can not be watched."""
    with pytest.raises(StatementError, match="sum wants numbers"):
        plan_of(Ranking(names=("source.ip",), by="message").statement)
    with pytest.raises(UsageError, match="--watch"):
        _ = Ranking(names=("source.ip",), watch=True, since="1h").statement
