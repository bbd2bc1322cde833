"""The doctor's findings: each is true, and says what to do."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner

from eddy_mesh.bus import ConnectOptions
from eddy_mesh.cli import host_findings
from eddy_mesh.cli.agent import main
from eddy_mesh.cli.doctor import line
from eddy_mesh.cli.findings import Finding, Verdict, installation_findings, requirement_mistake
from eddy_mesh.cli.host_findings import Port
from eddy_mesh.cli.server_findings import address_findings, greeting_findings, tls_finding
from eddy_mesh.nats_servers import Greeting, parse_servers

NOBODY: frozenset[str] = frozenset()
ROOT = frozenset(host_findings.CAPABILITIES)


@pytest.fixture
def taken() -> Iterator[Port]:
    """A UDP port that this process has."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as held:
        held.bind(("", 0))
        yield Port("udp", held.getsockname()[1], "syslog")


def test_the_installation_under_test_is_right() -> None:
    """Python and every library are new enough here."""
    assert {finding.verdict for finding in installation_findings()} <= {Verdict.OK, Verdict.WARNING}


@pytest.mark.parametrize(
    ("requirement", "mistake"),
    [
        ("msgspec>=0.1", ""),
        ("msgspec>=99.1", "is older than 99.1"),
        ("eddy-no-such-library>=1", "is missing"),
        ("eddy-no-such-library>=1; sys_platform == 'beos'", ""),
        (f"eddy-no-such-library>=1; sys_platform != '{sys.platform}'", ""),
        ('eddy-no-such-library>=1; sys_platform != "beos"', "is missing"),
        ("eddy-no-such-library>=1; extra == 'etc'", ""),
    ],
)
def test_requirements_are_held_against_what_is_installed(requirement: str, mistake: str) -> None:
    """A missing or old library is named; one for another platform or an extra is not missed."""
    found = requirement_mistake(requirement)
    assert mistake in found
    assert bool(mistake) == bool(found)


def test_a_taken_port_names_its_owner(taken: Port) -> None:
    """The process is named, and it is a warning only."""
    finding = host_findings.port_finding(taken)
    assert finding.verdict is Verdict.WARNING
    assert "process" in finding.text
    assert "syslog" in finding.advice


def test_a_free_port_is_ok(taken: Port) -> None:
    """TCP and UDP have ports of their own: the one is free where the other is taken."""
    assert host_findings.port_finding(taken._replace(transport="tcp")).verdict is Verdict.OK


def test_capabilities_are_read_as_the_kernel_writes_them() -> None:
    """Bits 12 and 13 of CapEff count."""
    assert host_findings.capabilities("CapInh:\tff\nCapEff:\t0000000000003000\n") == ROOT
    assert host_findings.capabilities("CapEff:\t0000000000001000\n") == {"CAP_NET_ADMIN"}
    assert host_findings.capabilities("CapEff:\t0000000000000000\n") == NOBODY


def test_missing_privileges_come_with_the_command_that_gives_them() -> None:
    """Without CAP_NET_ADMIN it is said what is missed."""
    finding = host_findings.privilege_finding(NOBODY)
    assert "setcap cap_net_admin,cap_net_raw+ep" in finding.advice
    assert "short-lived" in finding.text
    assert host_findings.privilege_finding(ROOT).verdict is Verdict.OK


def test_small_buffers_come_with_the_sysctl_line() -> None:
    """A privileged process passes the limit, so that it needs none."""
    small = host_findings.buffer_finding(212_992, NOBODY)
    assert (small.verdict, "sysctl -w net.core.rmem_max=" in small.advice) == (Verdict.WARNING, True)
    assert host_findings.buffer_finding(212_992, ROOT).verdict is Verdict.OK
    assert host_findings.buffer_finding(2**30, NOBODY).verdict is Verdict.OK


def test_open_files() -> None:
    """The usual limit of 1024 is a warning; no limit is ok."""
    verdicts = [host_findings.files_finding(limit).verdict for limit in (1024, 65_536, -1)]
    assert verdicts == [Verdict.WARNING, Verdict.OK, Verdict.OK]


def test_a_state_directory_that_does_not_exist_yet_is_judged_by_its_parent(tmp_path: Path) -> None:
    """Its disk is the one of the nearest folder that exists."""
    finding = host_findings.disk_finding(tmp_path / "a" / "b")
    assert str(tmp_path / "a" / "b") in finding.text


def test_a_clock_before_the_installation_is_a_problem() -> None:
    """1970 can not be now."""
    assert host_findings.clock_finding(0.0).verdict is Verdict.PROBLEM


def test_logs_are_counted(tmp_path: Path) -> None:
    """Readable logs, also below folders."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.log").write_text("")
    (tmp_path / "syslog").write_text("")
    assert host_findings.logs_finding(tmp_path).text.startswith("2 logs")


def test_root_is_not_told_to_join_a_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without journal, without journalctl, and with files that it can not read, root is told what is the case."""
    monkeypatch.setattr(host_findings, "JOURNALS", (tmp_path,))
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/journalctl")
    none_kept = host_findings.journal_finding(is_root=True)
    assert "no journal of the system is kept on this host" in none_kept.text
    assert none_kept.advice.startswith("start systemd-journald")
    assert "usermod" in host_findings.journal_finding(is_root=False).advice
    for name in ("m/system.journal", "a.log"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert host_findings.journal_finding(is_root=True).verdict is Verdict.OK
    monkeypatch.setattr(os, "access", lambda *_: False)
    for look in (host_findings.journal_finding, partial(host_findings.logs_finding, tmp_path)):
        assert "what confines this process" in look(is_root=True).advice
        assert "usermod" in look(is_root=False).advice
    monkeypatch.setattr(shutil, "which", lambda _: None)
    finding = host_findings.journal_finding(is_root=True)
    assert finding.text.startswith("no journalctl")
    assert "usermod" not in finding.advice


def test_a_greeting_is_judged() -> None:
    """Old, without JetStream and with small payloads: three problems; a good one: none."""
    bad = greeting_findings("server x", Greeting(version="2.9.1", max_payload=1000))
    assert [finding.verdict for finding in bad] == [Verdict.PROBLEM] * 3
    assert all(finding.advice for finding in bad)
    good = greeting_findings("server x", Greeting(version="2.15.1-RC.1", max_payload=2**20, jetstream=True))
    assert {finding.verdict for finding in good} == {Verdict.OK}


async def test_a_server_that_is_not_there_is_one_problem() -> None:
    """Nothing else is asked of it."""
    (address,) = parse_servers(["nats://127.0.0.1:1"])
    (finding,) = await address_findings(address, ConnectOptions())
    assert finding.verdict is Verdict.PROBLEM
    assert finding.advice


async def test_a_failing_tls_handshake_says_why() -> None:
    """A server that announces TLS and then talks something else is told from one that is not there."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"tls_required": true}\r\n')
        await reader.read(1)
        writer.write(b"no TLS at all")
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        (address,) = parse_servers([f"tls://127.0.0.1:{server.sockets[0].getsockname()[1]}"])
        finding = await asyncio.to_thread(tls_finding, "server", address, ConnectOptions())
    assert finding.verdict is Verdict.PROBLEM
    assert "TLS handshake fails" in finding.text


def test_the_command_fails_where_there_is_a_problem() -> None:
    """Status 1 and one JSON object for each finding."""
    result = CliRunner().invoke(main, ["doctor", "--json", "--server", "nats://127.0.0.1:1"])
    found = [json.loads(told) for told in result.stdout.splitlines()]
    assert result.exit_code == 1
    assert [told["subject"] for told in found if told["verdict"] == "problem"].count("server 127.0.0.1:1") == 1
    assert {"python", "libraries", "nats-server", "disk", "clock"} <= {told["subject"] for told in found}


def test_a_finding_is_one_safe_line() -> None:
    """Verdict, subject, text and advice; control characters can not reach the terminal."""
    text = line(Finding("disk", Verdict.WARNING, "full\x1b[2J", "free some"), colour=False)
    assert text == "warning  disk: full\\x1b[2J; free some"
