"""Port scans: what is a probe, when probes are a scan, and how much is remembered."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from eddy_agents.analyses.port_scan import KIND, Config, Detector
from eddy_mesh.agent import Draft, Result
from eddy_mesh.batch import Batch, Kind, Producer
from eddy_mesh.cer import EventClass, Stage, Value
from eddy_mesh.rows import batch_of, flat_rows

S = 1_000_000_000
T0 = 1_700_000_000 * S
NOW_NS = T0 + 10**6 * S
SYN, ACK, RST, FIN = 2, 16, 4, 1
Row = dict[str, Value]


def _flow(port: int, flags: int | None = SYN, **more: Value) -> Row:
    row: Row = {
        "event.start": T0,
        "source.ip": "192.0.2.66",
        "source.port": 40_000,
        "destination.ip": "198.51.100.1",
        "destination.port": port,
        "network.iana_number": 6,
        "network.packets": 1,
    }
    if flags is not None:
        row["netflow.tcpControlBits"] = flags
    return row | {name.replace("__", "."): value for name, value in more.items()}


def _answer(row: Row, flags: int | None = RST | ACK) -> Row:
    turned = {
        "source.ip": row["destination.ip"],
        "source.port": row["destination.port"],
        "destination.ip": row["source.ip"],
        "destination.port": row["source.port"],
    }
    return row | turned | ({} if flags is None else {"netflow.tcpControlBits": flags})


def _feed(detector: Detector, rows: Sequence[Row], first: int = 0, kind: str = "netflow.v9") -> list[Row]:
    batch = batch_of(Kind(Stage.COOKED, EventClass.NETWORK, kind), "h", Producer(1, 1), first, 1, rows)
    return _rows(detector.on_batch(batch, NOW_NS))


def _rows(result: Result) -> list[Row]:
    rows: list[Row] = []
    for draft in result.outputs:
        assert isinstance(draft, Draft)
        rows += flat_rows(Batch(draft.kind, "h", Producer(2, 1), 0, 1, draft.count, draft.columns))
    return rows


def test_a_scan_is_told_when_found_and_when_over() -> None:
    """The first event comes with the threshold, the last with the quiet; both have one event.id."""
    detector = Detector(Config(ports=5))
    assert not _feed(detector, [_flow(port) for port in range(1, 5)])
    (start,) = _feed(detector, [_flow(5)], 4)
    assert start["diagnosis.count"] == 5
    assert not _feed(detector, [_flow(port, event__start=T0 + port * S) for port in (6, 7)], 5)
    assert not _rows(detector.on_tick(NOW_NS + 59 * S))
    (end,) = _rows(detector.on_tick(NOW_NS + 61 * S))
    assert (start["event.type"], end["event.type"]) == ("start", "end")
    assert start["event.id"] == end["event.id"]
    assert end["diagnosis.count"] == 7
    assert end["diagnosis.start"] == T0
    assert end["diagnosis.end"] == T0 + 7 * S
    assert end["type"] == KIND.type
    evidence = end["diagnosis.evidence"]
    assert isinstance(evidence, list)
    assert len(set(evidence)) == 7
    assert "7 ports of 198.51.100.1 over TCP in 7.0 s" in str(end["diagnosis.hypothesis"])


def test_the_target_that_answers_is_not_the_scanner() -> None:
    """Refusals and acceptances of the target, which go to one port from many, are no scan."""
    probes = [_flow(port) for port in range(1, 100)]
    rows = probes + [_answer(row, flags) for row in probes for flags in (RST | ACK, SYN | ACK)]
    found = _feed(Detector(Config()), rows)
    assert [row["source.ip"] for row in found] == ["192.0.2.66"]
    assert not _feed(Detector(Config()), rows[99:])


@pytest.mark.parametrize("flags", [SYN, SYN | RST, FIN, FIN | 8 | 32])
def test_stealthy_probes_count(flags: int) -> None:
    """SYN, half-open, FIN and XMAS probes count in flows and in packets; a NULL probe in packets."""
    for kind in ("netflow.v9", "packet"):
        assert _feed(Detector(Config()), [_flow(port, flags) for port in range(1, 20)], kind=kind)
    assert _feed(Detector(Config()), [_flow(port, 0) for port in range(1, 20)], kind="packet")


def test_completed_connections_do_not_count() -> None:
    """A client that completes its connections is silent: in flows, and in packets also when the ACK comes later."""
    assert not _feed(Detector(Config()), [_flow(port, SYN | ACK | FIN) for port in range(1, 100)])
    detector = Detector(Config())
    for port in range(1, 100):
        assert not _feed(detector, [_flow(port)], 2 * port, "packet")
        assert not _feed(detector, [_flow(port, ACK)], 2 * port + 1, "packet")


def test_answered_udp_requests_do_not_count() -> None:
    """A resolver that asks a hundred servers and gets answers is silent, the answers in the same batch or later."""
    asks = [_flow(53, None, network__iana_number=17, destination__ip=f"198.51.100.{n}") for n in range(100)]
    answers = [_answer(row, None) for row in asks]
    assert not _feed(Detector(Config()), asks + answers)
    detector = Detector(Config(targets=150))
    for start in range(0, 100, 10):
        assert not _feed(detector, asks[start : start + 10])
        assert not _feed(detector, answers[start : start + 10])
    assert not _feed(detector, [row | {"destination.ip": "203.0.113.1"} for row in asks])
    assert _feed(Detector(Config()), asks)


def test_servers_and_traceroute_are_no_scanners() -> None:
    """UDP from a low port to many high ones is a server; the ports of traceroute are left out."""
    server = [_flow(port, None, network__iana_number=17, source__port=53) for port in range(40_000, 40_100)]
    trace = [_flow(port, None, network__iana_number=17, source__port=50_000) for port in range(33_434, 33_524)]
    assert not _feed(Detector(Config()), server + trace)


def test_exporters_without_flags_are_read_by_ports_and_answers() -> None:
    """Without TCP flags few unanswered packets to lower ports are probes."""
    probes = [_flow(port, None) for port in range(1, 30)]
    assert _feed(Detector(Config()), probes)
    assert not _feed(Detector(Config()), probes + [_answer(row, None) for row in probes])


def test_a_sweep_and_a_slow_scan() -> None:
    """Many targets on one port are a sweep; ports over an hour are a slow scan, over a day nothing."""
    (sweep,) = _feed(Detector(Config()), [_flow(445, destination__ip=f"198.51.100.{n}") for n in range(10)])
    assert (sweep["event.action"], sweep["destination.port"]) == ("host_sweep", 445)
    assert "destination.ip" not in sweep
    (slow,) = _feed(Detector(Config()), [_flow(n, event__start=T0 + n * 100 * S) for n in range(1, 31)])
    assert slow["diagnosis.count"] == 30
    assert not _feed(Detector(Config()), [_flow(n, event__start=T0 + n * 2000 * S) for n in range(1, 31)])


def test_repeated_probes_of_one_port_are_no_scan() -> None:
    """A client that tries a dead service again and again is silent, and a flood after a scan is no part of it."""
    assert not _feed(Detector(Config()), [_flow(80, event__start=T0 + n * S) for n in range(500)])
    detector = Detector(Config())
    _feed(detector, [_flow(port) for port in range(1, 21)])
    _feed(detector, [_flow(7, event__start=T0 + 10 * S + n) for n in range(500)], 20)
    (end,) = _rows(detector.on_tick(NOW_NS + 100 * S))
    assert (end["diagnosis.count"], end["diagnosis.end"]) == (20, T0)


def test_any_order_of_events_and_batches_finds_the_same() -> None:
    """Exporters send flows out of order: the diagnosis is the same."""
    rows = [_flow(port, event__start=T0 + port * S // 10) for port in range(1, 41)]
    for mixed in (rows, rows[::-1], rows[1::2] + rows[::2]):
        detector = Detector(Config())
        for start in range(0, 40, 7):
            _feed(detector, mixed[start : start + 7], start)
        (end,) = _rows(detector.on_tick(NOW_NS + 100 * S))
        assert (end["diagnosis.start"], end["diagnosis.end"]) == (T0 + S // 10, T0 + 4 * S)
        assert end["diagnosis.count"] == 40


def test_memory_is_bounded_and_what_is_forgotten_is_told() -> None:
    """Beyond its limits the detector forgets the oldest, ends scans that it forgets, and says how many."""
    detector = Detector(Config(max_keys=50))
    _feed(detector, [_flow(port) for port in range(1, 21)])
    forged = [_flow(80, source__ip=f"10.0.{n // 250}.{n % 250}") for n in range(500)]
    (end,) = _feed(detector, forged, 20)
    assert (end["event.type"], end["source.ip"]) == ("end", "192.0.2.66")
    (notice,) = [row for row in _rows(detector.on_tick(NOW_NS)) if row["type"] == "mesh.notice"]
    assert isinstance(notice["edge.count"], int)
    assert notice["edge.count"] > 900
    assert not _rows(detector.on_tick(NOW_NS))


def test_evidence_is_bounded_and_the_count_is_not() -> None:
    """A diagnosis names so many events at most, and counts all."""
    detector = Detector(Config(max_evidence=30))
    _feed(detector, [_flow(port) for port in range(1, 101)])
    (end,) = _rows(detector.on_tick(NOW_NS + 100 * S))
    assert end["diagnosis.count"] == 100
    evidence = end["diagnosis.evidence"]
    assert isinstance(evidence, list)
    assert len(evidence) == 30


def test_ipv6_and_events_of_other_kinds() -> None:
    """IPv6 ends are told in canonical text; events that are no contacts are taken and ignored."""
    (row,) = _feed(
        Detector(Config()), [_flow(p, source__ip="2001:db8::66", destination__ip="2001:db8::1") for p in range(1, 20)]
    )
    assert (row["source.ip"], row["destination.ip"]) == ("2001:db8::66", "2001:db8::1")
    assert not _feed(Detector(Config()), [{"message": "x"}, {"source.ip": "x", "destination.ip": 7}])
