"""The cookings of syslog messages and of the lines of files."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import pytest

from eddy_agents.transformers import file, journald, json, syslog
from eddy_mesh.batch import Batch, Kind, Producer
from eddy_mesh.cer import EventClass, Stage, Value
from eddy_mesh.columns import Bytes, Column, Constant, Numbers, pack
from eddy_mesh.rows import flat_row, time_ns, time_text

NOW = time_ns("2026-11-03T09:15:00Z")


def raw(lines: Sequence[bytes], **more: Column) -> Batch:
    """A raw batch of payloads from one sender."""
    columns: dict[str, Column] = {
        "event.original": Bytes(*pack(lines)),
        "observed": Numbers(np.full(len(lines), NOW)),
        "host_address": Constant("198.51.100.9", len(lines)),
        **more,
    }
    kind = Kind(Stage.RAW, EventClass.SYSTEM, "syslog")
    return Batch(kind, "origin", Producer(1, 2), 0, NOW // 1_000_000, len(lines), columns)


def cook(module: object, batch: Batch, **config: str) -> list[dict[str, Value]]:
    """The cooked rows of a raw batch; each has its parent."""
    result = module.Cooking(module.Config(**config)).on_batch(batch, NOW)  # type: ignore[attr-defined]
    (draft,) = result.outputs
    assert {len(column) for column in draft.columns.values()} == {batch.count}
    cooked = Batch(draft.kind, "origin", Producer(3, 2), 0, 0, draft.count, draft.columns)
    rows = [flat_row(cooked, row) for row in range(draft.count)]
    assert [row["parents"] for row in rows] == [[batch.ids().at(row)] for row in range(batch.count)]
    assert "event.original" not in draft.columns
    return rows


@pytest.mark.parametrize("module", [syslog, file, journald, json])
def test_examples(module: object) -> None:
    """The examples in each file hold."""
    for example in module.EXAMPLES:  # type: ignore[attr-defined]
        rows = cook(module, raw(example.given), **example.config)
        for row, expected in zip(rows, example.expected, strict=True):
            assert {name: row.get(name) for name in expected} == expected


def test_order_is_kept_when_forms_are_mixed() -> None:
    """Lines of every form in one batch come out in order, each with its own fields."""
    lines = [
        b"<13>Nov  3 09:14:07 a one: 1",
        b"<13>1 2026-11-03T09:14:07Z b two - - - 2",
        b"free text 3",
        b"<13>2026-11-03T09:14:07.5+01:00 d four: 4",
        b"<189>7: *Nov  3 09:14:07.5: %SYS-5-CONFIG_I: 5",
        b"<13>Nov  3 09:14:07 f six: 6\nsecond line",
        b"",
    ]
    rows = cook(syslog, raw(lines))
    assert [row["message"] for row in rows] == ["1", "2", "free text 3", "4", "5", "6\nsecond line", ""]
    assert [row["host"] for row in rows] == ["a", "b", "198.51.100.9", "d", "198.51.100.9", "f", "198.51.100.9"]
    assert [row["syslog.format"] for row in rows[:6]] == [
        "rfc3164",
        "rfc5424",
        "unknown",
        "rfc3164",
        "cisco",
        "rfc3164",
    ]
    assert time_text(int(str(rows[3]["occurred"]))) == "2026-11-03T08:14:07.500000000Z"


def test_what_was_supplied_is_stated() -> None:
    """Year, zone, host, time and charset that the line does not give are listed in syslog.repair."""
    lines = [
        b"<13>1 2026-11-03T09:14:07Z b two - - - 2",
        b"<13>1 - - two - - - 2",
        b"<13>Nov 31 09:14:07 a one: no such day",
        b"<13>Nov  3 09:14:07 a one: caf\xe9",
    ]
    rows = cook(syslog, raw(lines))
    expected = [None, ["host", "timestamp"], ["timestamp"], ["year", "timezone", "charset"]]
    assert [row.get("syslog.repair") for row in rows] == expected
    assert rows[2]["occurred"] == NOW
    assert rows[3]["message"] == "caf\N{LATIN SMALL LETTER E WITH ACUTE}"


def test_structured_data_becomes_fields() -> None:
    """Parameters are named by element and parameter, dense where many rows have them, and the mark is removed."""
    lines = [b'<13>1 - h a - - [m seq="%d"][e] \xef\xbb\xbftext' % number for number in range(100)]
    lines[7] = b'<13>1 - h a - - [rare x="1" x="2"]'
    rows = cook(syslog, raw(lines))
    assert rows[5]["syslog.structured_data.m.seq"] == "5"
    assert rows[5]["syslog.structured_data.e"] is True
    assert rows[5]["message"] == "text"
    assert rows[7]["syslog.structured_data.rare.x"] == ["1", "2"]


def test_a_broken_header_keeps_what_can_be_found() -> None:
    """An RFC 5424 line that ends early or is damaged keeps its priority, and the rest as message."""
    rows = cook(
        syslog, raw([b"<34>1 2026-11-03T09:14:07Z host app 1 ID [bad", b"<34>1 2003-09-31T22:14:15Z h", b"<999>x"])
    )
    assert (rows[0]["host"], rows[0]["process.name"], rows[0]["level"]) == ("host", "app", 2)
    assert rows[1]["message"] == "2003-09-31T22:14:15Z h"
    assert rows[2]["message"] == "<999>x"
    assert "level" not in rows[2]


def test_an_unknown_priority_leaves_the_rest() -> None:
    """A priority above 191 is not one, but the header after it is read."""
    (row,) = cook(syslog, raw([b"<192>Nov  3 09:14:07 gate app: text"]))
    assert (row["host"], row["message"], row.get("level")) == ("gate", "text", None)


def test_line_ends_are_no_text() -> None:
    """Line ends and NULs that a sender puts after a message do not count as text."""
    rows = cook(syslog, raw([b"<13>Nov  3 09:14:07 a one: 1\r\n", b"<13>Nov  3 09:14:07 a one: 2\0"]))
    assert [row["message"] for row in rows] == ["1", "2"]


def test_the_senders_port_is_not_the_attackers() -> None:
    """The datagram's own source does not leak into the fields of the message; the sender stays as host_address."""
    more: dict[str, Column] = {"source.ip": Constant("198.51.100.9", 1), "source.port": Constant(514, 1)}
    (row,) = cook(syslog, raw([b"<13>Nov  3 09:14:07 a one: 1"], **more))
    assert row["host_address"] == "198.51.100.9"
    assert "source.ip" not in row


def test_a_taken_batch_cooks_like_a_whole_one() -> None:
    """Payloads that are a view into a larger batch are cut at their own offsets."""
    lines = [b"<13>Nov  3 09:14:07 h%d app[%d]: text %d" % (number, number, number) for number in range(10)]
    rows = cook(syslog, raw(lines).slice(4, 7))
    assert [(row["host"], row["process.pid"], row["message"]) for row in rows] == [
        (f"h{number}", number, f"text {number}") for number in (4, 5, 6)
    ]


def test_the_zone_comes_from_the_configuration() -> None:
    """A time without a zone is in the configured one."""
    (row,) = cook(syslog, raw([b"<13>Jul  3 12:00:00 a one: 1"]), timezone="Europe/Vienna")
    assert row["occurred"] == time_ns("2026-07-03T10:00:00Z")


def test_files_are_read_by_line() -> None:
    """A file may hold syslog, web server, error log, stamped and free lines; each is read in its own form."""
    lines = [
        b"2026-11-03T09:14:07.123456+00:00 gate sudo: ann : TTY=pts/0 ; PWD=/srv ; USER=root ; COMMAND=/bin/id",
        b'www.example.net:80 192.0.2.7 - - [03/Nov/2026:10:14:07 +0100] "GET /a?b HTTP/1.1" 200 5 "-" "curl \\"x\\""',
        b"[Sun Dec 04 04:47:44 2005] [error] [client 192.0.2.8:99] no such file",
        b"2026/11/03 09:14:07 [error] 31#31: *46 not found",
        b"free text: with a colon",
    ]
    rows = cook(file, raw(lines))
    assert rows[0]["event.action"] == "sudo_command"
    assert rows[0]["process.command_line"] == "/bin/id"
    assert (rows[1]["url.domain"], rows[1]["occurred"]) == ("www.example.net", time_ns("2026-11-03T09:14:07Z"))
    assert (rows[2]["level"], rows[2]["source.ip"], rows[2]["message"]) == (3, "192.0.2.8", "no such file")
    assert (rows[3]["level"], rows[3]["message"]) == (3, "2026/11/03 09:14:07 [error] 31#31: *46 not found")
    assert rows[4]["message"] == "free text: with a colon"
    assert "process.name" not in rows[4]


def test_journal_entries_keep_every_member() -> None:
    """Known journal fields get ECS names, the others stay below journald., and what is no entry is kept."""
    entry = {
        "MESSAGE": [255, 104, 105],
        "__REALTIME_TIMESTAMP": "1793697247250000",
        "PRIORITY": "9",
        "_PID": "12",
        "_BOOT_ID": "b",
        "_UID": "0",
        "X": ["a", "b"],
        "N": None,
    }
    rows = cook(journald, raw([msgspec.json.encode(entry), b"[1]", b"\xff{", b'{"MESSAGE":null}']))
    assert rows[0]["message"] == "\N{LATIN SMALL LETTER Y WITH DIAERESIS}hi"
    assert (rows[0]["process.pid"], rows[0]["user.id"], rows[0]["host.boot.id"]) == (12, "0", "b")
    assert (rows[0]["journald.priority"], rows[0]["journald.x"]) == ("9", ["a", "b"])
    assert rows[1]["message"] == "[1]"
    assert "error.message" in rows[1]
    assert "error.message" in rows[2]
    assert "message" not in rows[3]


def test_json_members_are_typed_or_kept() -> None:
    """Registered names take values that fit their type; a value that does not fit stays below json."""
    text = (
        b'{"time":1793697247,"source.ip":"nonsense","destination":{"ip":"2001:db8::1","port":"80"},"id":7,'
        b'"level":"loud","severity":"err","process":{"pid":1.5},"a":{"b":{"c":[1,{"d":2}]}},"empty":{}}'
    )
    (row,) = cook(json, raw([text]))
    assert row["occurred"] == 1793697247000000000
    assert (row["json.source.ip"], row["destination.ip"], row["destination.port"]) == ("nonsense", "2001:db8::1", 80)
    assert (row["json.id"], row["json.level"], row["level"]) == (7, "loud", 3)
    assert (row["json.process.pid"], row["json.a.b.c"], row["json.empty"]) == (1.5, [1, {"d": 2}], {})
