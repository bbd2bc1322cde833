"""Floods: what is counted, when it is a flood, and how much is remembered."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from eddy_agents.analyses.flood import Config, Detector
from eddy_mesh.agent import Draft, Result
from eddy_mesh.batch import Batch, Kind, Producer
from eddy_mesh.cer import EventClass, Stage, Value
from eddy_mesh.errors import ConfigError
from eddy_mesh.rows import batch_of, flat_rows

S = 1_000_000_000
T0 = 1_700_000_000 * S
NOW_NS = T0 + 10**6 * S
SYN, ACK, RST = 2, 16, 4
Row = dict[str, Value]


def _syn(number: int, flags: int = SYN, **more: Value) -> Row:
    row: Row = {
        "event.start": T0 + number * S // 1000,
        "source.ip": "192.0.2.66",
        "source.port": 1024 + number,
        "destination.ip": "198.51.100.1",
        "destination.port": 80,
        "network.iana_number": 6,
        "network.packets": 1,
        "netflow.tcpControlBits": flags,
    }
    return row | {name.replace("__", "."): value for name, value in more.items()}


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
    return msgspec.structs.replace(Config(grace_s=0, answer_s=0), **settings)


def test_a_flood_is_told_when_found_and_when_over() -> None:
    """The first event comes when the requests have waited, the last names them all and has the same event.id."""
    detector = Detector(Config(connections=100))
    assert not [row for n in range(0, 1000, 50) for row in _feed(detector, [_syn(n + k) for k in range(50)], n)]
    assert not _rows(detector.on_tick(NOW_NS + 2 * S))
    found = _rows(detector.on_tick(NOW_NS + 4 * S))
    assert [(row["event.type"], row["diagnosis.count"]) for row in found] == [("start", 1000)]
    assert not _rows(detector.on_tick(NOW_NS + 12 * S))
    (end,) = _rows(detector.on_tick(NOW_NS + 15 * S))
    assert (end["event.type"], end["event.id"]) == ("end", found[0]["event.id"])
    assert (end["diagnosis.count"], end["source.ip"], end["destination.port"]) == (1000, "192.0.2.66", 80)
    assert (end["diagnosis.start"], end["diagnosis.end"]) == (T0, T0 + 999 * S // 1000)
    evidence = end["diagnosis.evidence"]
    assert isinstance(evidence, list)
    assert len(set(evidence)) == 1000


def test_completed_connections_do_not_count() -> None:
    """A busy service is silent: in flows, and in packets with the ACK in the same batch or a later one."""
    assert not _feed(Detector(_hasty()), [_syn(n, SYN | ACK) for n in range(2000)])
    assert not _feed(Detector(_hasty()), [_syn(n, f) for n in range(2000) for f in (SYN, ACK)], kind="packet")
    detector = Detector(_hasty())
    for start in range(0, 4000, 400):
        assert not _feed(detector, [_syn(start + n) for n in range(400)], start, "packet")
        assert not _feed(detector, [_syn(start + n, ACK) for n in range(400)], start, "packet")


def test_answers_of_the_target_are_no_flood() -> None:
    """What the target sends back, half-open or refused, does not make its client a target."""
    turned: Row = {"source.ip": "198.51.100.1", "source.port": 80, "destination.ip": "192.0.2.66"}
    for flags in (SYN | ACK, RST | ACK, RST):
        assert not _feed(Detector(_hasty()), [_syn(n, flags) | turned | {"destination.port": 9} for n in range(2000)])


def test_forged_sources_are_counted_not_named() -> None:
    """Where no source has sent most of it, the sentence says how many there are and source.ip is absent."""
    (row,) = _feed(Detector(_hasty()), [_syn(n, source__ip=f"10.0.{n // 250}.{n % 250}") for n in range(600)])
    assert "source.ip" not in row
    assert "from 600 sources" in str(row["diagnosis.hypothesis"])


def test_the_attacker_among_others_is_named() -> None:
    """The source of most of the requests is named; completed connections of others are no evidence."""
    rows = [_syn(n) for n in range(600)] + [_syn(n, SYN | ACK, source__ip="192.0.2.7") for n in range(300)]
    (row,) = _feed(Detector(_hasty()), rows)
    assert (row["source.ip"], row["diagnosis.count"]) == ("192.0.2.66", 600)


def test_one_flow_of_many_packets_is_a_flood() -> None:
    """Requests from one port are one flow: its packets count, spread over the time that it took."""
    (row,) = _feed(Detector(_hasty()), [_syn(0, network__packets=600), _syn(1)])
    assert row["diagnosis.count"] == 2
    long = _syn(0, network__packets=600) | {"event.end": T0 + 600 * S}
    assert not _feed(Detector(_hasty()), [long])
    assert not _feed(Detector(_hasty()), [_syn(n, SYN | RST, network__packets=2) for n in range(300)])


def test_unanswered_udp_and_icmp_floods() -> None:
    """Packets of protocols without connections count unless the other end answers."""
    for protocol, name in ((17, "udp"), (1, "icmp")):
        rows = [_syn(n, network__iana_number=protocol, network__packets=100) for n in range(600)]
        back: Row = {"source.ip": "198.51.100.1", "source.port": 80, "destination.ip": "192.0.2.66"}
        answers = [row | back | {"destination.port": row["source.port"]} for row in rows]
        (found,) = _feed(Detector(_hasty()), rows)
        assert found["event.action"] == f"{name}_flood"
        assert not _feed(Detector(_hasty()), rows + answers)


def test_a_steady_trickle_is_no_flood() -> None:
    """What stays below the limit in every window is silent, however long it goes on."""
    detector = Detector(_hasty(connections=100))
    for start in range(0, 2000, 100):
        assert not _feed(detector, [_syn(0, event__start=T0 + (start + n) * S // 9) for n in range(100)], start)
    assert not _rows(detector.on_tick(NOW_NS + 10**4 * S))


def test_a_stray_request_before_the_flood_is_no_part_of_it() -> None:
    """The diagnosis begins where the rate does."""
    rows = [_syn(0), *[_syn(5000 + n) for n in range(600)]]
    (row,) = _feed(Detector(_hasty()), rows)
    assert (row["diagnosis.start"], row["diagnosis.count"]) == (T0 + 5 * S, 600)


def test_any_order_of_events_finds_the_same() -> None:
    """Exporters send flows out of order: the diagnosis is the same."""
    rows = [_syn(n) for n in range(2000)]
    for mixed in (rows, rows[::-1], rows[1::2] + rows[::2]):
        detector = Detector(_hasty())
        for start in range(0, 2000, 130):
            _feed(detector, mixed[start : start + 130], start)
        *_, end = _rows(detector.on_tick(NOW_NS + 100 * S))
        assert (end["diagnosis.start"], end["diagnosis.end"]) == (T0, T0 + 1999 * S // 1000)
        assert end["diagnosis.count"] == 2000


def test_memory_and_evidence_are_bounded() -> None:
    """The oldest targets go, with a notice; evidence stays within its limit while the count goes on."""
    detector = Detector(_hasty(max_keys=10, max_evidence=50))
    _feed(detector, [_syn(n) for n in range(600)])
    forged = [_syn(n, destination__ip=f"10.0.0.{n}") for n in range(100)]
    (end,) = _feed(detector, forged, 600)
    assert (end["event.type"], end["diagnosis.count"]) == ("end", 600)
    evidence = end["diagnosis.evidence"]
    assert isinstance(evidence, list)
    assert len(evidence) == 50
    (notice,) = [row for row in _rows(detector.on_tick(NOW_NS)) if row["type"] == "mesh.notice"]
    assert notice["edge.count"] == 91


def test_limits_that_can_not_be_reached_are_refused() -> None:
    """A limit above what is held would never be crossed: the detector does not start with it."""
    with pytest.raises(ConfigError, match="max_recent"):
        Detector(_hasty(connections=10, packets=10, max_recent=9))


def _udp(**more: Value) -> Row:
    udp = _syn(0, network__iana_number=17, network__packets=60_000)
    del udp["netflow.tcpControlBits"]
    return udp | {name.replace("__", "."): value for name, value in more.items()}


def _quiet_until(detector: Detector, end_s: int) -> bool:
    return not any(_rows(detector.on_tick(NOW_NS + second * S)) for second in range(1, end_s))


def test_connections_completed_in_the_next_batch_are_no_flood() -> None:
    """A busy server with a batch of requests, and then one of what completed them, is silent."""
    detector = Detector(Config())
    rows = [_syn(10 * n) for n in range(2000)]
    assert not _feed(detector, rows, kind="packet")
    assert not _feed(detector, [row | {"netflow.tcpControlBits": ACK} for row in rows], 2000, "packet")
    assert _quiet_until(detector, 40)


def test_a_large_flow_whose_answer_comes_in_the_next_batch_is_no_flood() -> None:
    """A download over QUIC is two flows; the second may come seconds after the first, or be told by the same record."""
    detector = Detector(Config())
    flow = _udp(source__port=443, destination__port=50_000)
    back = flow | {"source.ip": "198.51.100.1", "source.port": 50_000, "destination.port": 443}
    assert not _feed(detector, [flow])
    assert _quiet_until(detector, 9)
    assert not _feed(detector, [back | {"destination.ip": "192.0.2.66", "network.packets": 9000}], 1)
    assert _quiet_until(detector, 60)
    for name in ("netflow.reversePacketDeltaCount", "netflow.responderOctets"):
        detector = Detector(Config())
        assert not _feed(detector, [flow | {name: 9000}])
        assert _quiet_until(detector, 60)
    detector = Detector(Config())
    assert not _feed(detector, [flow])
    assert [row["event.type"] for row in _rows(detector.on_tick(NOW_NS + 11 * S))] == ["start"]


@pytest.mark.parametrize(
    ("target", "port"), [("239.1.1.1", 5004), ("ff05::1", 5004), ("255.255.255.255", 67), ("198.51.100.1", 514)]
)
def test_what_is_never_answered_is_no_flood(target: str, port: int) -> None:
    """Television sent to a group, broadcasts and syslog have no way back."""
    detector = Detector(Config())
    assert not _feed(detector, [_udp(destination__ip=target, destination__port=port)])
    assert _quiet_until(detector, 60)


def test_an_exporter_whose_clock_is_behind_is_watched_too() -> None:
    """A flood that a router two hours behind tells is found, though another one's flows are new."""
    detector = Detector(Config())
    found: list[Row] = []
    for n in range(5):
        ahead = T0 + (7200 + n) * S
        found += _feed(detector, [_syn(0, SYN | ACK, destination__ip="203.0.113.1", event__start=ahead)], n)
        found += _feed(detector, [_syn(200 * n + k) for k in range(200)], 100 + 200 * n)
    found += _rows(detector.on_tick(NOW_NS + 4 * S))
    assert [(row["event.type"], row["diagnosis.count"]) for row in found] == [("start", 1000)]


def test_more_than_can_wait_is_a_flood_at_once() -> None:
    """Requests for which there is no room to wait are counted, not forgotten."""
    detector = Detector(Config(connections=100, packets=100, max_recent=500))
    found: list[Row] = []
    for n in range(0, 12_000, 1000):
        found += _feed(detector, [_syn(n + k) for k in range(1000)], n)
    assert [row["event.type"] for row in found] == ["start"]
    (end,) = _rows(detector.on_tick(NOW_NS + 100 * S))
    assert (end["event.type"], end["diagnosis.count"]) == ("end", 12_000)


def test_one_long_flow_has_its_length() -> None:
    """The time in the sentence ends with the flow, not with its begin."""
    (row,) = _feed(Detector(_hasty()), [_syn(0, network__packets=6000) | {"event.end": T0 + 20 * S}])
    assert "in 20.0 s from" in str(row["diagnosis.hypothesis"])
    assert row["diagnosis.end"] == T0 + 20 * S


def test_one_late_tick_tells_all() -> None:
    """At the end of a replay what waited is found and ended by the same tick, with the complete evidence."""
    detector = Detector(Config())
    assert not _feed(detector, [_syn(n) for n in range(900)])
    start, end = _rows(detector.on_tick(NOW_NS + 10**9 * S))
    assert (start["event.type"], end["event.type"], end["diagnosis.count"]) == ("start", "end", 900)
