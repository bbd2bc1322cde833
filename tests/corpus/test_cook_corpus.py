"""``eddy cook`` on real payloads: as many events as other projects count."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from eddy_mesh.cli.tool import main

pytestmark = pytest.mark.corpus


def cook(*arguments: str | Path) -> tuple[list[dict[str, Any]], str]:
    """The events that come out, those about what did not come left out, and what was said."""
    result = CliRunner().invoke(main, ["cook", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    return [row for row in rows if row["event_class"] != "derived"], result.stderr


def test_logstash_cases(corpus: Path) -> None:
    """The files of each case, one datagram each, give as many events as logstash counts."""
    folder = corpus / "netflow" / "logstash-codec-netflow"
    cases = json.loads((folder / "expected.json").read_text("utf-8"))["cases"]
    counted = {case["name"]: case["expected_event_count"] for case in cases if case["expected_event_count"]}
    ours = {
        case["name"]: len(cook("netflow", *(folder / name for name in case["files"]))[0])
        for case in cases
        if case["name"] in counted
    }
    assert ours == counted
    assert len(counted) > 15


@pytest.mark.parametrize("log", ["Apache", "HDFS", "Linux", "OpenSSH", "Thunderbird"])
def test_loghub_lines(corpus: Path, log: str) -> None:
    """Each line of a log is one event, and none is refused."""
    path = corpus / "syslog" / "loghub" / log / f"{log}_2k.log"
    rows, said = cook("file", path)
    lines = [line for line in path.read_bytes().split(b"\n") if line.strip()]
    assert len(rows) == len(lines)
    assert said == f"eddy: cooked {len(lines):,} events of {len(lines):,} payloads\n"
    offsets = [row["log.offset"] for row in rows]
    assert [path.read_bytes()[offset:].split(b"\n")[0] for offset in offsets[-3:]] == lines[-3:]


@pytest.mark.parametrize("version", [5, 9, 10])
def test_captured_exports(corpus: Path, version: int) -> None:
    """A capture of exports gives as many flows as nfdump lists, whatever port they went to."""
    folder = corpus / "detection" / "scan-dos-run"
    flows = json.loads(gzip.decompress((folder / f"flow_v{version}_nfdump.json.gz").read_bytes()))
    rows, _ = cook("netflow", folder / f"flow_v{version}_export.pcap", "--select", "SELECT type, event_class")
    assert sum(row["type"] in {"netflow.v5", "netflow.v9", "netflow.ipfix"} for row in rows) == len(flows)
