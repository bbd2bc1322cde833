"""The labelled scan and flood run, from packets and from three kinds of flow export; and real logs of login guessing.

The run holds benign HTTP (25 completed connections), a SYN scan of 1000 ports, a UDP scan of 60 ports, a sweep of 20
hosts on port 445 (all of them answer with RST, so each has a flow), and a SYN flood of 3000 packets.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import pytest

from eddy_agents.analyses import brute_force, flood, port_scan
from eddy_agents.transformers import file, netflow, packet
from eddy_agents.wire.pcap import read_pcap
from eddy_agents.wire.udp_payloads import udp_payloads
from eddy_mesh.agent import Draft, Stateful
from eddy_mesh.batch import Batch, Kind, Producer
from eddy_mesh.cer import EventClass, Stage, Value
from eddy_mesh.columnize import column_of
from eddy_mesh.columns import Bytes, Column, Constant, Numbers, pack
from eddy_mesh.fields import FieldType
from eddy_mesh.rows import batch_of, flat_rows, time_ns

pytestmark = pytest.mark.corpus

S = 1_000_000_000
LATER_NS = time_ns("2026-11-22T00:00:00Z")
EARLY_NS = S  # clocks of the exporters differ by up to 0.25 s from that of the capture
Row = dict[str, Value]


class Truth(NamedTuple):
    """One line of truth.tsv."""

    start_ns: int
    end_ns: int
    label: str
    attacker: str
    target: str


def _truth(corpus: Path) -> list[Truth]:
    with (corpus / "detection/scan-dos-run/truth.tsv").open() as lines:
        return [
            Truth(time_ns(r["start_utc"]), time_ns(r["end_utc"]), r["label"], r["attacker"], r["target"])
            for r in csv.DictReader(lines, delimiter="\t")
        ]


def _numbered(drafts: Sequence[object], number: int) -> Iterator[Batch]:
    first = 0
    for draft in drafts:
        assert isinstance(draft, Draft)
        yield Batch(draft.kind, "test", Producer(number, 1), first, 1, draft.count, draft.columns)
        first += draft.count


def _from_packets(corpus: Path) -> Iterator[Batch]:
    packets = read_pcap((corpus / "detection/scan-dos-run/traffic.pcap").read_bytes())
    cooking = packet.Cooking(packet.Config())
    for start in range(0, len(packets), 500):
        part = packets[start : start + 500]
        columns: dict[str, Column] = {
            "event.original": Bytes(*pack([p.captured for p in part])),
            "packet.link_type": Numbers(np.array([p.link_type for p in part])),
            "packet.length": Numbers(np.array([p.length for p in part])),
            "occurred": Numbers(np.array([p.timestamp_ns for p in part])),
        }
        raw = Batch(Kind(Stage.RAW, EventClass.NETWORK, "packet"), "t", Producer(1, 1), start, 1, len(part), columns)
        for draft in cooking.on_batch(raw, LATER_NS).outputs:
            assert isinstance(draft, Draft)
            yield Batch(draft.kind, "test", Producer(2, 1), start, 1, draft.count, draft.columns)


def _from_exports(name: str) -> Callable[[Path], Iterator[Batch]]:
    def made(corpus: Path) -> Iterator[Batch]:
        packets = read_pcap((corpus / f"detection/scan-dos-run/{name}_export.pcap").read_bytes())
        datagrams = list(udp_payloads(packets))
        cooking = netflow.Cooking(netflow.Config())
        drafts: list[object] = []
        for start in range(0, len(datagrams), 10):
            part = datagrams[start : start + 10]
            columns: dict[str, Column] = {
                "event.original": Bytes(*pack([d.payload for d in part])),
                "host_address": Constant("127.0.0.1", len(part)),
                "observed": Numbers(np.array([d.timestamp_ns for d in part])),
            }
            raw = Batch(
                Kind(Stage.RAW, EventClass.NETWORK, "netflow"), "t", Producer(1, 1), start, 1, len(part), columns
            )
            drafts += [
                d for d in cooking.on_batch(raw, LATER_NS).outputs if "destination.ip" in getattr(d, "columns", ())
            ]
        yield from _numbered(drafts, 2)

    return made


FLAGS = "CEUAPRSF"


def _from_nfdump(name: str) -> Callable[[Path], Iterator[Batch]]:
    def made(corpus: Path) -> Iterator[Batch]:
        data = gzip.decompress((corpus / f"detection/scan-dos-run/{name}_nfdump.json.gz").read_bytes())
        rows = [_flow(row) for row in msgspec.json.decode(data)]
        kind = Kind(Stage.COOKED, EventClass.NETWORK, "netflow.v9")
        for start in range(0, len(rows), 300):
            yield batch_of(kind, "test", Producer(2, 1), start, 1, rows[start : start + 300])

    return made


def _flow(row: dict[str, object]) -> Row:
    flags = row.get("tcp_flags")
    bits = sum(1 << 7 - place for place, letter in enumerate(str(flags)) if letter != ".") if flags else None
    flow: Row = {
        "source.ip": str(row["src4_addr"]),
        "destination.ip": str(row["dst4_addr"]),
        "source.port": row.get("src_port"),  # type: ignore[dict-item]
        "destination.port": row.get("dst_port"),  # type: ignore[dict-item]
        "network.iana_number": row["proto"],  # type: ignore[dict-item]
        "network.packets": row["in_packets"],  # type: ignore[dict-item]
        "netflow.tcpControlBits": bits,
        "event.start": time_ns(str(row["first"])),
        "event.end": time_ns(str(row["last"])),
    }
    return {name: value for name, value in flow.items() if value is not None}


SOURCES = {
    "pcap": _from_packets,
    "v5": _from_exports("flow_v5"),
    "v9": _from_exports("flow_v9"),
    "ipfix": _from_exports("flow_v10"),
    "nfdump-v5": _from_nfdump("flow_v5"),
    "nfdump-v10": _from_nfdump("flow_v10"),
}


@cache
def _batches(source: str, corpus: Path) -> list[Batch]:
    return list(SOURCES[source](corpus))


@cache
def _by_id(source: str, corpus: Path) -> dict[object, Row]:
    return {event["id"]: event for batch in _batches(source, corpus) for event in flat_rows(batch)}


def _run(detector: Stateful, batches: Sequence[Batch], end_ns: int = LATER_NS) -> list[Row]:
    outputs = [output for batch in batches for output in detector.on_batch(batch, LATER_NS).outputs]
    outputs += detector.on_tick(LATER_NS + (end_ns - EARLY_NS)).outputs
    return [row for batch in _numbered(outputs, 3) for row in flat_rows(batch)]


@pytest.mark.parametrize("source", SOURCES)
def test_scans_are_found_and_nothing_else(corpus: Path, source: str) -> None:
    """Each labelled scan is found once, with its attacker, target, time and complete evidence; the rest is silence."""
    truth = {line.label: line for line in _truth(corpus)}
    batches = _batches(source, corpus)
    rows = _run(port_scan.Detector(port_scan.Config()), batches)
    for event_type in ("start", "end"):
        found = {_scan_label(row): row for row in rows if row["event.type"] == event_type}
        assert len(found) == len([row for row in rows if row["event.type"] == event_type])
        assert found.keys() == {"port_scan_syn", "port_scan_udp", "host_sweep_445"}
    syn, udp, sweep = found["port_scan_syn"], found["port_scan_udp"], found["host_sweep_445"]
    for label, row in found.items():
        _same_time(row, truth[label])
        assert row["source.ip"] == truth[label].attacker
    assert syn["destination.ip"] == udp["destination.ip"] == truth["port_scan_syn"].target
    assert sweep["destination.port"] == 445
    assert syn["diagnosis.count"] == 1000
    assert sweep["diagnosis.count"] == 20
    assert udp["diagnosis.count"] == (61 if source == "pcap" else 60)
    _evidence_is(
        syn, _by_id(source, corpus), lambda e: e["source.ip"] == "10.77.0.66" and e["network.iana_number"] == 6
    )
    _evidence_is(
        sweep, _by_id(source, corpus), lambda e: e["destination.port"] == 445 and e["source.ip"] == "10.77.0.12"
    )
    _evidence_is(udp, _by_id(source, corpus), lambda e: e.get("network.iana_number") == 17)


def _scan_label(row: Row) -> str:
    if row["event.action"] == "host_sweep":
        return "host_sweep_" + str(row["destination.port"])
    return "port_scan_syn" if row["network.iana_number"] == 6 else "port_scan_udp"


@pytest.mark.parametrize("source", SOURCES)
def test_the_flood_is_found_and_nothing_else(corpus: Path, source: str) -> None:
    """The labelled flood is found once, with its attacker, target, time and evidence; the rest is silence."""
    (truth,) = (line for line in _truth(corpus) if line.label == "dos_syn_flood")
    batches = _batches(source, corpus)
    rows = _run(flood.Detector(flood.Config()), batches)
    assert [row["event.type"] for row in rows] == ["start", "end"]
    start, end = rows
    assert start["event.id"] == end["event.id"]
    assert end["diagnosis.count"] == 3000
    _same_time(end, truth)
    assert end["source.ip"] == truth.attacker
    assert truth.target == ":".join((str(end["destination.ip"]), str(end["destination.port"])))
    _evidence_is(
        end, _by_id(source, corpus), lambda e: e.get("destination.port") == 80 and e["source.ip"] == truth.attacker
    )


def _same_time(row: Row, truth: Truth) -> None:
    start, end = row["diagnosis.start"], row["diagnosis.end"]
    assert isinstance(start, int)
    assert isinstance(end, int)
    assert truth.start_ns - EARLY_NS <= start <= end <= truth.end_ns + EARLY_NS


def _evidence_is(row: Row, by_id: Mapping[object, Row], belongs: Callable[[Row], bool]) -> None:
    named = row["diagnosis.evidence"]
    assert isinstance(named, list)
    assert len(set(named)) == len(named) == row["diagnosis.count"]
    assert all(belongs(by_id[identity]) for identity in named)


@pytest.mark.parametrize("source", SOURCES)
def test_benign_windows_are_silent(corpus: Path, source: str) -> None:
    """Of the benign windows alone nothing is found at thresholds far below the default."""
    windows = [line for line in _truth(corpus) if line.label == "benign_http"]
    assert windows
    batches = []
    for batch in _batches(source, corpus):
        attackers = np.array([event.get("source.port") == 80 or _benign(event, windows) for event in flat_rows(batch)])
        batches.append(batch.filter(attackers))
    assert sum(map(len, batches)) >= 50
    assert not _run(port_scan.Detector(port_scan.Config(ports=2, targets=2, slow_ports=2, slow_targets=2)), batches)
    assert not _run(flood.Detector(flood.Config(connections=2, packets=2)), batches)


def _benign(event: Row, windows: Sequence[Truth]) -> bool:
    return any(event.get("source.ip") == w.attacker for w in windows) and event.get("destination.port") == 80


@pytest.mark.parametrize("folder", ["ssh-bf"])
def test_login_guessing_in_real_logs(corpus: Path, folder: str) -> None:
    """The guessing in a real sshd log is found, with its source and every line as evidence."""
    lines = (corpus / f"detection/crowdsec-hub/{folder}/{folder}.log").read_bytes().splitlines()
    lines = [line for line in lines if line]
    columns = {
        "event.original": Bytes(*pack(lines)),
        "observed": column_of(FieldType.TIME, [time_ns("2026-02-12T15:00:00Z")] * len(lines)),
    }
    raw = Batch(Kind(Stage.RAW, EventClass.SYSTEM, "file"), "t", Producer(1, 1), 0, 1, len(lines), columns)
    drafts = file.Cooking(file.Config()).on_batch(raw, LATER_NS).outputs
    rows = _run(brute_force.Detector(brute_force.Config()), list(_numbered(drafts, 2)))
    assert [row["event.type"] for row in rows] == ["start", "end"]
    assert rows[-1]["source.ip"] == "35.188.49.176"
    assert rows[-1]["diagnosis.count"] == len(lines) == 6
