"""The text cookings against other projects' answers: go-syslog, loghub, crowdsec."""

from __future__ import annotations

import csv
import json
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from eddy_agents.transformers import file, syslog
from eddy_agents.wire.syslog import Syslog, parse_any, parse_rfc3164, parse_rfc5424
from eddy_mesh.batch import Batch, Kind, Producer
from eddy_mesh.cer import EventClass, Stage, Value
from eddy_mesh.columns import Bytes, Constant, Numbers, pack
from eddy_mesh.errors import WireError
from eddy_mesh.rows import flat_row, time_ns

pytestmark = pytest.mark.corpus

NOW = time_ns("2026-11-21T10:00:00Z")
NAMES = {"procID": "procid", "msgID": "msgid", "structuredData": "structured_data", "timestamp_no_year": "timestamp"}


def cook(module: object, lines: list[bytes]) -> list[dict[str, Value]]:
    """The cooked rows of lines."""
    columns = {
        "event.original": Bytes(*pack(lines)),
        "observed": Numbers(np.full(len(lines), NOW)),
        "host_address": Constant("198.51.100.9", len(lines)),
    }
    raw = Batch(Kind(Stage.RAW, EventClass.SYSTEM, "x"), "o", Producer(1, 2), 0, 1, len(lines), columns)  # type: ignore[arg-type]
    (draft,) = module.Cooking(module.Config()).on_batch(raw, NOW).outputs  # type: ignore[attr-defined]
    cooked = Batch(draft.kind, "o", Producer(3, 2), 0, 1, draft.count, draft.columns)
    return [flat_row(cooked, row) for row in range(cooked.count)]


# --- go-syslog -----------------------------------------------------------------------------------------------------


def _vectors(corpus: Path, name: str) -> list[dict[str, object]]:
    loaded: list[dict[str, object]] = json.loads((corpus / "syslog" / "go-syslog" / name).read_text("utf-8"))
    return loaded


def _line(vector: dict[str, object]) -> bytes:
    # JSON can not hold the bytes that are not UTF-8; the extraction wrote U+FFFD for each.
    return str(vector["input"]).encode().replace(b"\xef\xbf\xbd", b"\xff")


def _differences(parts: Syslog, expected: dict[str, object]) -> dict[str, object]:
    wrong: dict[str, object] = {}
    for name, wanted in expected.items():
        got: object = getattr(parts, NAMES.get(name, name))
        if name == "message" and isinstance(wanted, str):  # unassigned characters are left as Go's escapes
            wanted = re.sub(r"\\u([0-9a-f]{4})", lambda found: chr(int(found[1], 16)), wanted)  # noqa: PLW2901
        if name == "structuredData":
            got = got or {}
        if got != wanted:
            wrong[name] = (got, wanted)
    return wrong


def test_rfc5424_verdicts_and_fields(corpus: Path) -> None:
    """For all 80 vectors the verdict is go-syslog's, and every field of the valid ones is equal."""
    vectors = _vectors(corpus, "rfc5424_vectors.json")
    for vector in vectors:
        try:
            parts = parse_rfc5424(_line(vector))
        except WireError:
            assert not vector["valid"], vector
            continue
        assert vector["valid"], vector
        assert not _differences(parts, vector["expected"]), vector  # type: ignore[arg-type]
    assert len(vectors) == 80


def test_rfc5424_best_effort(corpus: Path) -> None:
    """Of an invalid message at least those header fields are kept that go-syslog keeps, and the rest is the message."""
    for vector in _vectors(corpus, "rfc5424_vectors.json"):
        partial = vector["best_effort_partial"]
        if not isinstance(partial, dict):
            continue
        parts = parse_any(_line(vector))
        elements = partial.pop("structuredData", {})
        partial.pop("message", None)  # go-syslog stops at the first byte that is not UTF-8, we keep them all
        assert not _differences(parts, partial), vector
        assert set(elements) <= set(parts.structured_data or {}), vector
        assert parts.message is not None


def test_cooking_keeps_what_the_parsers_find(corpus: Path) -> None:
    """Cooked as one batch, every vector has the priority, host, program, process id and message of its parse."""
    vectors = [*_vectors(corpus, "rfc5424_vectors.json"), *_vectors(corpus, "rfc3164_vectors.json")]
    lines = [_line(vector) for vector in vectors]
    for line, row in zip(lines, cook(syslog, lines), strict=True):
        parts = parse_any(line)
        expected = {
            "log.syslog.priority": parts.priority,
            "log.syslog.hostname": parts.hostname,
            "log.syslog.appname": parts.appname,
            "log.syslog.procid": parts.procid,
            "log.syslog.msgid": parts.msgid,
            "message": parts.message or "",
        }
        assert {name: row.get(name) for name in expected} == expected, line


def test_rfc3164_fields(corpus: Path) -> None:
    """Every field of the ten vectors is equal: OpenBSD without host, Cisco with counters, UniFi."""
    vectors = _vectors(corpus, "rfc3164_vectors.json")
    for vector in vectors:
        assert not _differences(parse_rfc3164(_line(vector)), vector["expected"]), vector  # type: ignore[arg-type]
    assert len(vectors) == 10


# --- loghub --------------------------------------------------------------------------------------------------------


def _loghub(corpus: Path, name: str) -> tuple[list[bytes], list[dict[str, str]]]:
    folder = corpus / "syslog" / "loghub" / name
    lines = (folder / f"{name}_2k.log").read_bytes().splitlines()
    with (folder / f"{name}_2k.log_structured.csv").open(encoding="utf-8", newline="") as table:
        return lines, list(csv.DictReader(table))


@pytest.mark.parametrize("module", [syslog, file])
@pytest.mark.parametrize(
    ("name", "month", "day", "host", "program", "pid"),
    [
        ("Linux", "Month", "Date", "Level", "Component", "PID"),
        ("OpenSSH", "Date", "Day", "Component", "", "Pid"),
    ],
)
def test_loghub_lines(
    corpus: Path, module: object, name: str, month: str, day: str, host: str, program: str, pid: str
) -> None:
    """Every one of the 2,000 lines has the time, host, program, process id and text of the labelled table."""
    lines, table = _loghub(corpus, name)
    for row, labels in zip(cook(module, lines), table, strict=True):
        number = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"].index(
            labels[month]
        )
        year = 2025 if number == 11 else 2026
        assert row["occurred"] == time_ns(f"{year}-{number + 1:02d}-{int(labels[day]):02d}T{labels['Time']}Z")
        assert row["host"] == labels[host]
        assert row["log.syslog.appname"] == (labels[program] if program else "sshd")
        assert str(row.get("process.pid", "")) == labels[pid]
        assert str(row["message"]).strip() == labels["Content"]


def test_openssh_templates_mean_one_thing(corpus: Path) -> None:
    """Each labelled template has one action and outcome; failures and logins are told apart."""
    lines, table = _loghub(corpus, "OpenSSH")
    meanings: defaultdict[str, set[tuple[Value, Value]]] = defaultdict(set)
    for row, labels in zip(cook(syslog, lines), table, strict=True):
        meanings[labels["EventId"]].add((row.get("event.action"), row.get("event.outcome")))
        if "from <*>" in labels["EventTemplate"] or "rhost=<*>" in labels["EventTemplate"]:
            assert "source.ip" in row or "source.address" in row, row["message"]
    assert meanings["E1"] == {("ssh_login", "success")}
    for template in ("E8", "E9", "E10", "E14"):
        assert meanings[template] == {("ssh_login", "failure")}
    for template in ("E12", "E13"):
        assert meanings[template] == {("ssh_invalid_user", "failure")}
    assert all(len(held) == 1 for held in meanings.values())
    assert None not in {action for held in meanings.values() for action, _ in held}


def test_thunderbird_after_its_collector_prefix(corpus: Path) -> None:
    """After the four words that Thunderbird's collector put before the line, host, program, pid and text agree.

    The table takes any text before a colon for a program (``checking TSC synchronization across 4 CPUs``), also with
    spaces; those few lines have no program here.
    """
    lines, table = _loghub(corpus, "Thunderbird")
    differing = 0
    for row, labels in zip(cook(syslog, [line.split(b" ", 4)[4] for line in lines]), table, strict=True):
        assert row["host"] == labels["Location"]
        if " " in labels["Component"]:
            differing += 1
            assert labels["Content"] in str(row["message"])
            continue
        assert row.get("log.syslog.appname", "") == labels["Component"]
        assert str(row.get("process.pid", "")) == labels["PID"]
        assert str(row["message"]).strip() == labels["Content"]
    assert differing < 20


def test_whole_lines_with_a_foreign_prefix_are_kept(corpus: Path) -> None:
    """Lines in a form that is no syslog (Thunderbird's prefix, HDFS) are their own message."""
    for name in ("Thunderbird", "HDFS"):
        lines, _ = _loghub(corpus, name)
        assert [row["message"] for row in cook(file, lines)] == [line.decode() for line in lines]


def test_apache_error_log(corpus: Path) -> None:
    """Every line of Apache's error log has the labelled time, level and text; a client is a source."""
    lines, table = _loghub(corpus, "Apache")
    for row, labels in zip(cook(file, lines), table, strict=True):
        _, month, day, clock, year = labels["Time"].split()
        assert row["occurred"] == time_ns(f"{year}-{12 if month == 'Dec' else 0}-{day}T{clock}Z")
        assert row["log.level"] == labels["Level"]
        client = f"[client {row['source.ip']!s}] " if "source.ip" in row else ""
        assert f"{client}{row['message']!s}".strip() == labels["Content"]


# --- crowdsec ------------------------------------------------------------------------------------------------------

_ASSERTION = re.compile(r'results\["s0[01][^"]*"\]\["[^"]*"\]\[(\d+)\]\.Evt\.(?:Parsed|Meta)\["(\w+)"\] == "(.*)"')

EQUIVALENT = {
    "program": ("log.syslog.appname",),
    "pid": ("process.pid",),
    "machine": ("host",),
    "message": ("message",),
    "source_ip": ("source.ip",),
    "sshd_client_ip": ("source.ip",),
    "src_ip": ("source.ip",),
    "target_user": ("user.name",),
    "sshd_invalid_user": ("user.name",),
    "sshd_auth_user": ("user.name",),
    "username": ("user.name",),
    "user": ("user.name",),
    "sshd_port": ("source.port",),
    "sshd_client_port": ("source.port",),
    "src_port": ("source.port",),
    "port": ("source.port",),
    "dst_ip": ("destination.ip",),
    "dst_port": ("destination.port",),
    "int_eth": ("observer.ingress.interface.name",),
    "ruser": ("source.user.name",),
    "tty": ("process.tty",),
    "euid": ("process.user.id",),
    "uid": ("process.real_user.id", "user.id"),
}
"""crowdsec's name → fields of which one must have the value."""

LOG_TYPES = {
    "ssh_failed-auth": ("failure", {"authentication"}),
    "ssh_bad_keyexchange": ("failure", {"network"}),
    "ssh_auth_timeout": ("failure", {"authentication"}),
    "ssh_dispatch_fatal": ("failure", {"network"}),
    "ssh_refused_conn": ("failure", {"network"}),
    "auth_success": ("success", {"authentication"}),
    "pam_user_lock": ("failure", {"authentication"}),
    "pam_failed_auth": ("failure", {"authentication"}),
}
"""crowdsec's log_type → outcome and category."""


@pytest.mark.parametrize("name", ["sshd", "sshd-success", "pam", "iptables", "syslog", "dropbear"])
def test_crowdsec_assertions(corpus: Path, name: str) -> None:
    """Every asserted value that has an ECS equivalent is in the cooked event."""
    folder = corpus / "syslog" / "crowdsec-hub" / f"{name}-logs"
    lines = [line for line in (folder / f"{name}-logs.log").read_bytes().splitlines() if line.strip()]
    if name == "dropbear":  # the file holds only the messages
        lines = [b"Nov  3 09:14:07 gate dropbear[1]: " + line for line in lines]
    rows = cook(file, lines)
    checked = 0
    for found in _ASSERTION.finditer((folder / "parser.assert").read_text("utf-8")):
        row, member, value = rows[int(found[1])], found[2], found[3].encode().decode("unicode_escape")
        if member in EQUIVALENT:
            got = {str(row.get(field, "")).strip() for field in EQUIVALENT[member]}
            assert value.strip() in got, (member, value, row)
            checked += 1
        elif member == "log_type":
            checked += 1
            if value == "iptables_drop":  # a packet logged without a verdict in its prefix is no drop to us
                assert str(row["event.action"]).startswith("firewall_")
                continue
            outcome, categories = LOG_TYPES[value]
            assert row["event.outcome"] == outcome, row
            assert row["event.category"] in categories, row
    assert checked >= 9
