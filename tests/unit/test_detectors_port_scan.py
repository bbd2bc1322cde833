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


def _hasty(**settings: int) -> Config:
    """Return settings with which nothing is waited for: what is found is told at once."""
    return Config(grace_s=0, **settings)


def test_a_scan_is_told_when_found_and_when_over() -> None:
    """The first event comes with the threshold, the last with the quiet; both have one event.id."""
    detector = Detector(_hasty(ports=5))
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
    found = _feed(Detector(_hasty()), rows)
    assert [row["source.ip"] for row in found] == ["192.0.2.66"]
    assert not _feed(Detector(_hasty()), rows[99:])


@pytest.mark.parametrize("flags", [SYN, SYN | RST, FIN, FIN | 8 | 32])
def test_stealthy_probes_count(flags: int) -> None:
    """SYN, half-open, FIN and XMAS probes count in flows and in packets; a NULL probe in packets."""
    for kind in ("netflow.v9", "packet"):
        assert _feed(Detector(_hasty()), [_flow(port, flags) for port in range(1, 20)], kind=kind)
    assert _feed(Detector(_hasty()), [_flow(port, 0) for port in range(1, 20)], kind="packet")


def test_completed_connections_do_not_count() -> None:
    """A client that completes its connections is silent: in flows, and in packets also when the ACK comes later."""
    assert not _feed(Detector(_hasty()), [_flow(port, SYN | ACK | FIN) for port in range(1, 100)])
    detector = Detector(_hasty())
    for port in range(1, 100):
        assert not _feed(detector, [_flow(port)], 2 * port, "packet")
        assert not _feed(detector, [_flow(port, ACK)], 2 * port + 1, "packet")


def test_answered_udp_requests_do_not_count() -> None:
    """A resolver that asks a hundred servers and gets answers is silent, the answers in the same batch or later."""
    asks = [_flow(53, None, network__iana_number=17, destination__ip=f"198.51.100.{n}") for n in range(100)]
    answers = [_answer(row, None) for row in asks]
    assert not _feed(Detector(_hasty()), asks + answers)
    detector = Detector(_hasty(targets=150))
    for start in range(0, 100, 10):
        assert not _feed(detector, asks[start : start + 10])
        assert not _feed(detector, answers[start : start + 10])
    assert not _feed(detector, [row | {"destination.ip": "203.0.113.1"} for row in asks])
    assert _feed(Detector(_hasty()), asks)


def test_servers_and_traceroute_are_no_scanners() -> None:
    """UDP from a low port to many high ones is a server; the ports of traceroute are left out."""
    server = [_flow(port, None, network__iana_number=17, source__port=53) for port in range(40_000, 40_100)]
    trace = [_flow(port, None, network__iana_number=17, source__port=50_000) for port in range(33_434, 33_524)]
    assert not _feed(Detector(_hasty()), server + trace)


def test_exporters_without_flags_are_read_by_ports_and_answers() -> None:
    """Without TCP flags few unanswered packets to lower ports are probes."""
    probes = [_flow(port, None) for port in range(1, 30)]
    assert _feed(Detector(_hasty()), probes)
    assert not _feed(Detector(_hasty()), probes + [_answer(row, None) for row in probes])


def test_a_sweep_and_a_slow_scan() -> None:
    """Many targets on one port are a sweep; ports over an hour are a slow scan, over a day nothing."""
    (sweep,) = _feed(Detector(_hasty()), [_flow(445, destination__ip=f"198.51.100.{n}") for n in range(10)])
    assert (sweep["event.action"], sweep["destination.port"]) == ("host_sweep", 445)
    assert "destination.ip" not in sweep
    (slow,) = _feed(Detector(_hasty()), [_flow(n, event__start=T0 + n * 100 * S) for n in range(1, 31)])
    assert slow["diagnosis.count"] == 30
    assert not _feed(Detector(_hasty()), [_flow(n, event__start=T0 + n * 2000 * S) for n in range(1, 31)])


def test_repeated_probes_of_one_port_are_no_scan() -> None:
    """A client that tries a dead service again and again is silent, and a flood after a scan is no part of it."""
    assert not _feed(Detector(_hasty()), [_flow(80, event__start=T0 + n * S) for n in range(500)])
    detector = Detector(_hasty())
    _feed(detector, [_flow(port) for port in range(1, 21)])
    _feed(detector, [_flow(7, event__start=T0 + 10 * S + n) for n in range(500)], 20)
    (end,) = _rows(detector.on_tick(NOW_NS + 100 * S))
    assert (end["diagnosis.count"], end["diagnosis.end"]) == (20, T0)


def test_any_order_of_events_and_batches_finds_the_same() -> None:
    """Exporters send flows out of order: the diagnosis is the same."""
    rows = [_flow(port, event__start=T0 + port * S // 10) for port in range(1, 41)]
    for mixed in (rows, rows[::-1], rows[1::2] + rows[::2]):
        detector = Detector(_hasty())
        for start in range(0, 40, 7):
            _feed(detector, mixed[start : start + 7], start)
        (end,) = _rows(detector.on_tick(NOW_NS + 100 * S))
        assert (end["diagnosis.start"], end["diagnosis.end"]) == (T0 + S // 10, T0 + 4 * S)
        assert end["diagnosis.count"] == 40


def test_memory_is_bounded_and_what_is_forgotten_is_told() -> None:
    """Beyond its limits the detector forgets the oldest, ends scans that it forgets, and says how many."""
    detector = Detector(_hasty(max_keys=50))
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
    detector = Detector(_hasty(max_evidence=30))
    _feed(detector, [_flow(port) for port in range(1, 101)])
    (end,) = _rows(detector.on_tick(NOW_NS + 100 * S))
    assert end["diagnosis.count"] == 100
    evidence = end["diagnosis.evidence"]
    assert isinstance(evidence, list)
    assert len(evidence) == 30


def test_ipv6_and_events_of_other_kinds() -> None:
    """IPv6 ends are told in canonical text; events that are no contacts are taken and ignored."""
    (row,) = _feed(
        Detector(_hasty()), [_flow(p, source__ip="2001:db8::66", destination__ip="2001:db8::1") for p in range(1, 20)]
    )
    assert (row["source.ip"], row["destination.ip"]) == ("2001:db8::66", "2001:db8::1")
    assert not _feed(Detector(_hasty()), [{"message": "x"}, {"source.ip": "x", "destination.ip": 7}])


def _dns(number: int, **more: Value) -> Row:
    row = _flow(53, None, network__iana_number=17, destination__ip=f"198.51.100.{number}")
    return row | {name.replace("__", "."): value for name, value in more.items()}


def _is_silent(detector: Detector) -> bool:
    return not any(_rows(detector.on_tick(NOW_NS + second * S)) for second in (1, 3, 4, 30, 90, 5000))


def test_a_probe_waits_for_its_answer() -> None:
    """A scan is told when its probes have waited, by a tick or by later events, and not before."""
    detector = Detector(Config())
    assert not _feed(detector, [_flow(port) for port in range(1, 20)])
    assert not _rows(detector.on_tick(NOW_NS + 2 * S))
    (start,) = _rows(detector.on_tick(NOW_NS + 3 * S))
    assert start["diagnosis.count"] == 19
    detector = Detector(Config())
    assert not _feed(detector, [_flow(port) for port in range(1, 20)])
    (start,) = _feed(detector, [_flow(80, SYN | ACK, source__ip="192.0.2.7", event__start=T0 + 4 * S)], 19)
    assert start["source.ip"] == "192.0.2.66"


def test_answers_in_the_next_batch_are_in_time() -> None:
    """A resolver's thirty questions in one batch and the answers in the next are no scan."""
    detector = Detector(Config())
    asks = [_dns(n) for n in range(30)]
    assert not _feed(detector, asks)
    assert not _feed(detector, [_answer(row, None) | {"event.start": T0 + S // 20} for row in asks], 30)
    assert _is_silent(detector)


def test_connections_completed_in_the_next_batch_are_no_sweep() -> None:
    """A browser's twelve requests in one batch of packets and what completes them in the next are no sweep."""
    detector = Detector(Config())
    asks = [_flow(443, destination__ip=f"198.51.100.{n}") for n in range(12)]
    assert not _feed(detector, asks, 0, "packet")
    assert not _feed(detector, [row | {"netflow.tcpControlBits": ACK} for row in asks], 12, "packet")
    assert _is_silent(detector)


def test_a_resolver_some_of_whose_questions_are_lost_is_no_scanner() -> None:
    """While more servers answer than do not, questions are no sweep; the same without the answers is one."""
    asks = [_dns(n) for n in range(40)]
    answers = [_answer(row, None) for row in asks[:25]]
    for batches in ([asks + answers], [asks, answers], [asks[10:], asks[:10], answers]):
        detector = Detector(Config())
        assert not any(_feed(detector, rows, 100 * n) for n, rows in enumerate(batches))
        assert _is_silent(detector)
    detector = Detector(Config())
    assert not _feed(detector, asks + answers[:10])
    assert _rows(detector.on_tick(NOW_NS + 4 * S))


def test_records_of_both_directions_need_no_second_flow() -> None:
    """Biflows of answered questions are silent; those without anything back are a scan."""
    for name in ("netflow.reversePacketDeltaCount", "netflow.reverseOctetDeltaCount", "netflow.responderOctets"):
        detector = Detector(Config())
        assert not _feed(detector, [_dns(n) | {name: 1} for n in range(30)])
        assert _is_silent(detector)
    detector = Detector(Config())
    assert not _feed(detector, [_dns(n) | {"netflow.reversePacketDeltaCount": 0} for n in range(30)])
    assert _rows(detector.on_tick(NOW_NS + 4 * S))


def test_a_refused_connection_in_a_record_of_both_directions_is_a_probe() -> None:
    """Where the flags are told, a RST that came back does not make a connection of a SYN."""
    rows = [_flow(port, netflow__reversePacketDeltaCount=1) for port in range(1, 20)]
    assert _feed(Detector(_hasty()), rows)


def test_firewalls_that_count_no_packets() -> None:
    """Without flags and packets nothing is known but what the firewall says it has denied."""
    row = _flow(443, None)
    del row["network.packets"]
    for event in (1, 2, 5, None):
        detector = Detector(Config())
        made = {} if event is None else {"netflow.firewallEvent": event}
        assert not _feed(detector, [row | made | {"destination.ip": f"198.51.100.{n}"} for n in range(12)])
        assert _is_silent(detector)
    denied = [row | {"netflow.firewallEvent": 3, "destination.ip": f"198.51.100.{n}"} for n in range(12)]
    assert _feed(Detector(_hasty()), denied)


@pytest.mark.parametrize(
    ("targets", "port"),
    [([f"198.51.100.{n}" for n in range(40)], 6881), ([f"239.1.1.{n}" for n in range(40)], 5004)],
)
def test_peers_and_groups_are_no_targets(targets: list[str], port: int) -> None:
    """Peers of a distributed hash table that are gone, and groups, do not answer: it means nothing."""
    rows = [_dns(0, destination__ip=target, destination__port=port, source__port=51_413) for target in targets]
    detector = Detector(Config())
    assert not _feed(detector, rows)
    assert _is_silent(detector)


def test_an_exporter_whose_clock_is_behind_is_watched_too() -> None:
    """A scan that a router two hours behind tells in five batches is found once, among new flows of another."""
    detector = Detector(Config())
    found: list[Row] = []
    for n in range(5):
        ahead = T0 + (7200 + n) * S
        found += _feed(detector, [_flow(443, SYN | ACK, source__ip="192.0.2.7", event__start=ahead)], 100 * n)
        found += _feed(detector, [_flow(10 * n + k, event__start=T0 + n * S) for k in range(1, 11)], 100 * n + 1)
    found += _rows(detector.on_tick(NOW_NS + 4 * S))
    assert [row["event.type"] for row in found] == ["start"]
    (end,) = _rows(detector.on_tick(NOW_NS + 100 * S))
    assert (end["event.type"], end["diagnosis.count"], end["diagnosis.start"]) == ("end", 50, T0)


def test_one_late_tick_tells_all() -> None:
    """At the end of a replay what waited is found and ended by the same tick, with the complete evidence."""
    detector = Detector(Config())
    assert not _feed(detector, [_flow(port) for port in range(1, 50)])
    start, end = _rows(detector.on_tick(NOW_NS + 10**9 * S))
    assert (start["event.type"], end["event.type"], end["diagnosis.count"]) == ("start", "end", 49)
