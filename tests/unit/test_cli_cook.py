"""Cooking without a server: what names mean, what files hold, what comes out, and what is said about the rest."""

from __future__ import annotations

import gzip
import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from eddy_agents.transformers.netflow import EXAMPLES
from eddy_mesh.cli.cook_types import raw_type
from eddy_mesh.cli.tool import main
from eddy_mesh.errors import UsageError

TEMPLATE, DATA = (bytes(payload) for payload in EXAMPLES[0].given if isinstance(payload, bytes))
(V5,) = (bytes(payload) for payload in EXAMPLES[1].given if isinstance(payload, bytes))
LINES = b"Nov  3 09:14:07 gate sshd[812]: Failed password for bob from 192.0.2.7 port 50022\r\n\nno header"


def cook(*arguments: str | Path, stdin: bytes | None = None) -> Result:
    """The result of the command."""
    return CliRunner().invoke(main, ["cook", *map(str, arguments)], input=stdin)


def rows(result: Result) -> list[dict[str, Any]]:
    """The events on standard output."""
    return [json.loads(line) for line in result.stdout.splitlines()]


def capture(datagrams: list[tuple[int, bytes]]) -> bytes:
    """A pcap of UDP datagrams from 192.0.2.9, each to a port; packet n was captured n seconds after 1,000,000,000."""
    packets = [struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101)]
    for number, (port, payload) in enumerate(datagrams):
        udp = struct.pack("!HHHH", 40000, port, 8 + len(payload), 0) + payload
        head = struct.pack(
            "!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), number, 0, 64, 17, 0, b"\xc0\0\2\x09", b"\xc0\0\2\1"
        )
        packet = head + udp
        packets.append(struct.pack("<IIII", 1_000_000_000 + number, 0, len(packet), len(packet)) + packet)
    return b"".join(packets)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with one file of each sort."""
    contents = {
        "template.dat": TEMPLATE,
        "data.dat": DATA,
        "v5.dat": V5,
        "empty.dat": b"",
        "cut.dat": V5[:40],
        "auth.log": LINES,
        "auth.log.gz": gzip.compress(LINES),
        "usual.pcap": capture([(2055, TEMPLATE), (53, b"no flows"), (2055, DATA)]),
        "unusual.pcap": capture([(9000, TEMPLATE), (9000, DATA)]),
        "torn.pcap": capture([(2055, V5), (2055, V5)])[:-10],
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


# --- names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("syslog", "syslog"),
        ("netflow.v9", "netflow"),
        ("ipfix", "netflow"),
        ("sflow.counter", "sflow"),
        ("pcap", "packet"),
        ("json_lines", "json"),
        ("host.process", "host.process"),
    ],
)
def test_raw_types_cooked_types_and_sources_are_understood(name: str, raw: str) -> None:
    """Whatever an operator calls it, the same raw type is meant."""
    assert raw_type(name).kind.type == raw


def test_an_unknown_type_is_answered_with_the_nearest() -> None:
    """The message names what was probably meant, and the status says wrong usage."""
    with pytest.raises(UsageError, match=r"did you mean netflow\?"):
        raw_type("netfow")
    assert cook("netfow").exit_code == 2
    assert "did you mean netflow?" in cook("netfow", "no such file").stderr


# --- files -------------------------------------------------------------------------------------------------------


def test_files_share_template_state_in_the_order_given(files: Path) -> None:
    """A template in the first file cooks the second; the other way round the data waits, then comes out too."""
    for names in (("template.dat", "data.dat"), ("data.dat", "template.dat")):
        result = cook("netflow", *(files / name for name in names))
        assert [row["source.ip"] for row in rows(result) if row["type"] == "netflow.v9"] == ["10.0.0.1"]
        assert result.exit_code == 0
        assert "cooked 1 event of 2 payloads" in result.stderr


def test_what_waits_in_vain_is_told_at_the_end(files: Path) -> None:
    """Data whose template never comes is an event of its own."""
    result = cook("netflow", files / "data.dat")
    assert [row["type"] for row in rows(result)] == ["netflow.template_unknown"]
    assert "cooked 0 events of 1 payload; told of 1 netflow.template_unknown" in result.stderr
    assert "flows need template 256: give its file first" in result.stderr
    assert result.exit_code == 1


def test_a_file_of_ipfix_messages_is_read_message_by_message(tmp_path: Path) -> None:
    """Messages end to end are payloads of their own, each with its offset; a cut one and what is none are told."""
    template = struct.pack(">HHHHHHHH", 2, 16, 256, 2, 8, 4, 12, 4)
    first = struct.pack(">HHIII", 10, 32, 100, 0, 0) + template
    data = struct.pack(">HHIIIHHII", 10, 28, 100, 0, 0, 256, 12, 1, 2)
    path = tmp_path / "flows.ipfix"
    path.write_bytes(first + data * 50_000)
    result = cook("netflow", path, "--select", "SELECT source.ip WHERE source.ip = '192.0.2.1'")
    assert "cooked 50,000 events of 50,001 payloads" in result.stderr
    assert rows(result) == []
    path.write_bytes(first + data + data[:-1])
    assert "1 truncated" in cook("netflow", path).stderr
    path.write_bytes(first + data + V5)
    result = cook("netflow", path)
    assert len(rows(result)) == 1
    assert "1 no_message" in result.stderr
    raw = rows(cook("netflow", path, "--stage", "raw"))
    assert [row["log.offset"] for row in raw] == [0, 32]


def test_standard_input_is_a_datagram_or_a_capture(files: Path) -> None:
    """The magic decides."""
    assert len(rows(cook("netflow", stdin=V5))) == 1
    assert len(rows(cook("netflow", "-", stdin=(files / "usual.pcap").read_bytes()))) == 1


@pytest.mark.parametrize("name", ["auth.log", "auth.log.gz"])
def test_lines_are_events_with_their_place_in_the_file(files: Path, name: str) -> None:
    """One line is one event, CR and empty lines are none, packed or not; the last line needs no end."""
    found = rows(cook("file", files / name))
    assert [row["message"] for row in found] == ["Failed password for bob from 192.0.2.7 port 50022", "no header"]
    assert [row["log.offset"] for row in found] == [0, LINES.index(b"no header")]
    assert {row["log.file.path"] for row in found} == {str(files / name)}


def test_lines_of_standard_input_are_events() -> None:
    """No file is standard input."""
    assert [row["host"] for row in rows(cook("syslog", stdin=LINES))] == ["gate", "cook"]


def test_a_capture_gives_sender_and_time(files: Path) -> None:
    """The host is the sender of the datagram, the time of observation that of the packet."""
    (row,) = rows(cook("netflow", files / "usual.pcap"))
    assert row["host_address"] == "192.0.2.9"
    assert row["observed"] == "2001-09-09T01:46:42.000000000Z"


def test_other_ports_of_a_capture(files: Path) -> None:
    """Exports on an unusual port are found without being told, which is said; --port takes just those."""
    guessed = cook("netflow", files / "unusual.pcap")
    assert len(rows(guessed)) == 1
    assert "took those to every port" in guessed.stderr
    told = cook("netflow", files / "unusual.pcap", "--port", "9000")
    assert len(rows(told)) == 1
    assert "every port" not in told.stderr
    assert rows(cook("netflow", files / "unusual.pcap", "--port", "9001")) == []


def test_each_packet_of_a_capture(files: Path) -> None:
    """As packets, everything in the capture comes out."""
    assert [row["destination.port"] for row in rows(cook("packet", files / "usual.pcap"))] == [2055, 53, 2055]


# --- output ------------------------------------------------------------------------------------------------------


def test_stages(files: Path) -> None:
    """Raw events keep their bytes, and with all of them each cooked event names the raw one before it."""
    (raw,) = rows(cook("netflow", files / "v5.dat", "--stage", "raw"))
    assert raw["stage"] == "raw"
    first, second = rows(cook("netflow", files / "v5.dat", "--stage", "all"))
    assert second["parents"] == [first["id"]]


def test_select_filters_and_projects(files: Path) -> None:
    """Only what the statement selects comes out, in its order and under its names."""
    statement = "SELECT message AS said, user.name WHERE user.name = 'bob'"
    result = cook("file", files / "auth.log", "--select", statement)
    assert list(rows(result)[0].items())[1] == ("user.name", "bob")
    assert [list(row) for row in rows(result)] == [["said", "user.name"]]
    (raw,) = rows(cook("netflow", files / "v5.dat", "--stage", "raw", "--select", "SELECT *"))
    assert raw["stage"] == "raw"
    assert cook("file", files / "auth.log", "--select", "SELECT host LIMIT 1").exit_code == 2
    assert "leave out aggregates" in cook("file", files / "auth.log", "--select", "SELECT count(*)").stderr


def test_settings_of_the_cooking(files: Path) -> None:
    """A time zone can be given; a mistake in a setting is wrong usage."""
    times = [
        rows(cook("syslog", files / "auth.log", "--config", f"timezone = '{zone}'"))[0]["occurred"][11:13]
        for zone in ("UTC", "Asia/Tokyo")
    ]
    assert times == ["09", "00"]
    wrong = cook("syslog", files / "auth.log", "--config", "timezon = 'UTC'")
    assert wrong.exit_code == 2
    assert "did you mean timezone?" in wrong.stderr


# --- complaints --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "events", "said"),
    [
        (["netflow", "v5.dat", "cut.dat"], 1, "1 truncated"),
        (["netflow", "torn.pcap"], 1, "1 damaged_capture"),
        (["packet", "v5.dat"], 0, "1 no_capture"),
        (["file", "usual.pcap"], 0, "cook it as packet"),
        (["netflow", "empty.dat"], 0, "the file is empty"),
        (["netflow", "auth.log"], 0, "looks like text"),
    ],
)
def test_what_is_refused_is_told_and_the_rest_goes_on(
    files: Path, arguments: list[str], events: int, said: str
) -> None:
    """Each refusal has its reason, its place and its count; the status is 1."""
    kind, *names = arguments
    result = cook(kind, *(files / name for name in names))
    assert result.exit_code == 1
    assert len(rows(result)) == events
    assert said in result.stderr
    assert str(files / names[-1]) in result.stderr
    assert "refused 1" in result.stderr.splitlines()[-1]


def test_oversized_input_is_told() -> None:
    """A line of more than 1 MiB is cut, a file of more than a datagram is refused, both with status 1."""
    line = cook("syslog", stdin=b"x" * 1_100_000 + b"\nshort\n")
    assert [len(row["message"]) for row in rows(line)] == [1_048_576, 5]
    assert "line_too_long" in line.stderr
    datagram = cook("netflow", stdin=bytes(70_000))
    assert "give a file for each" in datagram.stderr
    assert (line.exit_code, datagram.exit_code) == (1, 1)


def test_a_broken_gzip_file_is_told(tmp_path: Path) -> None:
    """What was readable comes out, and the damage is a complaint, not a traceback."""
    path = tmp_path / "broken.gz"
    path.write_bytes(gzip.compress(b"one\ntwo\n" * 1000)[:-9])
    result = cook("file", path)
    assert result.exit_code == 1
    assert "unreadable" in result.stderr


def test_lines_of_a_pipe_come_out_as_they_come() -> None:
    """A line is cooked while the pipe is still open."""
    code = "from eddy_mesh.cli.tool import main; main()"
    command = [sys.executable, "-c", code, "cook", "syslog"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"first\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["message"] == "first"
        said = process.communicate(timeout=20)[1]
    assert said == b"eddy: cooked 1 event of 1 payload\n"
    assert process.returncode == 0
