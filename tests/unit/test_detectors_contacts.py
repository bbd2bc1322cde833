"""What detectors read from batches, and how they remember it."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import numpy as np
import pytest

from eddy_agents.analyses import brute_force, flood, port_scan
from eddy_agents.detection import contacts
from eddy_agents.detection.windows import EventClock, Marks, Table, eviction_notice, peak, span_text
from eddy_mesh.batch import Batch, Kind, Producer
from eddy_mesh.cer import EventClass, Stage, Value
from eddy_mesh.columns import Column, Constant, Numbers
from eddy_mesh.rows import batch_of
from eddy_mesh.selection import compile_statement, matches_kind

FLOW = Kind(Stage.COOKED, EventClass.NETWORK, "netflow.v9")
PACKET = Kind(Stage.COOKED, EventClass.NETWORK, "packet")
NOW_NS = 10**18


def _batch(rows: list[dict[str, Value]], kind: Kind = FLOW) -> Batch:
    return batch_of(kind, "host", Producer(1, 1), 0, 1, rows)


def _flow(**more: Value) -> dict[str, Value]:
    flow: dict[str, Value] = {"source.ip": "192.0.2.1", "destination.ip": "198.51.100.1", "network.iana_number": 6}
    return flow | {name.replace("_", "."): value for name, value in more.items()}


@pytest.mark.parametrize("detector", [port_scan, flood, brute_force])
def test_a_detector_never_asks_for_its_own_diagnoses(detector: ModuleType) -> None:
    """The default statements compile, and let through what is cooked only: a diagnosis is no evidence for another."""
    plan = compile_statement(detector.INPUT, now_ns=NOW_NS)
    kinds = [FLOW, PACKET, Kind(Stage.COOKED, EventClass.SYSTEM, "syslog")]
    assert any(matches_kind(plan, kind, "host") for kind in kinds)
    refused = [other.KIND for other in (port_scan, flood, brute_force)] + [PACKET._replace(stage=Stage.RAW)]
    assert not any(matches_kind(plan, kind, "host") for kind in refused)


def test_events_without_two_ends_are_no_contacts() -> None:
    """A missing end or protocol, an address that is none, and a sampled flow are left out."""
    rows = [
        _flow(),
        _flow() | {"source.ip": None},
        _flow() | {"destination.ip": "nowhere"},
        _flow() | {"network.iana_number": None},
        _flow() | {"netflow.sampling_interval": 100},
        _flow() | {"netflow.sampling_interval": 1},
    ]
    seen = contacts.contacts_of(_batch(rows), NOW_NS)
    assert len(seen) == 2
    assert seen.ids[:, 1].tolist() == [int(_batch(rows).ids().low[row]) for row in (0, 5)]


def test_a_field_that_few_rows_have_is_read_too() -> None:
    """Fields in the column of maps count like others."""
    rows = [_flow() for _ in range(200)]
    rows[7] |= {"destination.port": 22, "netflow.tcpControlBits": 2}
    seen = contacts.contacts_of(_batch(rows), NOW_NS)
    assert seen.destination_port.tolist() == [22 if row == 7 else 0 for row in range(200)]
    assert seen.flags[7] == contacts.SYN
    assert seen.flags[8] == contacts.ABSENT


def test_no_flags_mean_not_known_in_flows_and_null_in_packets() -> None:
    """Exporters write 0 where they do not know the flags; a packet with 0 is a NULL scan."""
    rows = [_flow() | {"netflow.tcpControlBits": 0}, _flow() | {"netflow.tcpControlBits": 2}]
    assert contacts.contacts_of(_batch(rows), NOW_NS).flags.tolist() == [contacts.ABSENT, 2]
    assert contacts.contacts_of(_batch(rows, PACKET), NOW_NS).flags.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"event.start": 5, "occurred": 6, "observed": 7}, 5),
        ({"occurred": 6, "observed": 7}, 6),
        ({"observed": 7}, 7),
        ({}, NOW_NS),
        ({"occurred": NOW_NS + 1}, NOW_NS),
        ({"occurred": 2**64 - 1}, NOW_NS),
        ({"occurred": "soon"}, NOW_NS),
    ],
)
def test_the_time_of_an_event(row: dict[str, Value], expected: int) -> None:
    """The best time that an event has counts, and none later than now."""
    assert contacts.started_ns(_batch([_flow() | row]), NOW_NS).tolist() == [expected]
    assert contacts.started_ns(_batch([_flow() | row, _flow() | {"occurred": 1}]), NOW_NS).tolist() == [expected, 1]


def test_unsigned_columns_do_not_wrap() -> None:
    """Numbers that only an unsigned column can hold stay large."""
    columns: dict[str, Column] = {"network.packets": Numbers(np.array([2**64 - 1, 3], np.uint64))}
    columns |= {name: Constant(value, 2) for name, value in _flow().items()}
    seen = contacts.contacts_of(Batch(FLOW, "h", Producer(1, 1), 0, 1, 2, columns), NOW_NS)
    assert seen.packets.tolist() == [2**32, 3]


def test_what_a_record_tells_of_the_way_back() -> None:
    """Counts of the other direction and denials are read; packets that nobody counted are not one packet."""
    rows = [
        _flow(),
        _flow() | {"netflow.reversePacketDeltaCount": 1},
        _flow() | {"netflow.responderOctets": 80},
        _flow() | {"netflow.responderPackets": 0, "netflow.firewallEvent": 3},
    ]
    seen = contacts.contacts_of(_batch(rows), NOW_NS)
    assert seen.answered.tolist() == [0, 1, 1, 0]
    assert seen.denied.tolist() == [0, 0, 0, 1]
    assert seen.packets.tolist() == [contacts.ABSENT] * 4
    assert contacts.contacts_of(_batch([_flow()], PACKET), NOW_NS).packets.tolist() == [1]


def test_groups_and_broadcast_are_told_from_hosts() -> None:
    """Multicast of both families and the broadcast address are to many; others are not."""
    many = ("224.0.0.1", "239.255.255.250", "255.255.255.255", "ff02::fb")
    rows = [_flow() | {"destination.ip": name} for name in (*many, "223.255.255.255", "240.0.0.1", "fe80::1")]
    assert contacts.contacts_of(_batch(rows), NOW_NS).to_many().tolist() == [True] * 4 + [False] * 3


def test_the_end_of_a_flow_is_not_later_than_now() -> None:
    """A clock that runs ahead does not make a flow longer."""
    seen = contacts.contacts_of(_batch([_flow() | {"event.start": NOW_NS - 5, "event.end": NOW_NS + 9}]), NOW_NS)
    assert seen.duration_ns.tolist() == [5]


def test_sets_of_tuples() -> None:
    """Membership and grouping are exact, also where tuples differ in one number only."""
    rows = np.array([[1, 2], [1, 3], [1, 2], [2, 1]], np.uint64)
    assert contacts.among(rows, np.array([[1, 2], [9, 9]], np.uint64)).tolist() == [True, False, True, False]
    assert contacts.among(rows, np.zeros((0, 2), np.uint64)).tolist() == [False] * 4
    different, which = contacts.distinct(rows)
    assert {
        tuple(row): members.tolist() for row, members in zip(different.tolist(), contacts.groups(which), strict=True)
    } == {
        (1, 2): [0, 2],
        (1, 3): [1],
        (2, 1): [3],
    }


def test_the_clock_follows_the_events_and_goes_on_alone() -> None:
    """Replayed events set the time; when none come it goes on with the machine; late ones do not set it back."""
    clock = EventClock()
    assert clock.at(NOW_NS) == -1
    assert clock.observe(np.array([500, 900, 700]), NOW_NS) == 900
    assert clock.at(NOW_NS) == 900
    assert clock.at(NOW_NS + 50) == 950
    assert clock.observe(np.array([100]), NOW_NS + 60) == 960
    assert clock.at(NOW_NS + 70) == 970


@dataclass
class _Counted:
    key: int
    held: int = 0


def test_a_table_stays_within_its_limits() -> None:
    """Too many keys or events push out the ones longest not used, which are returned and counted."""
    table: Table[int, _Counted] = Table(_Counted, max_keys=3, max_held=10)
    gone = []
    for key in (1, 2, 3, 1, 4):
        table.enter(key).held = 1
        gone += table.resize(key)
    assert [state.key for state in gone] == [2]
    table.enter(4).held = 10
    assert [state.key for state in table.resize(4)] == [3, 1]
    assert table.evicted == 3
    assert [state.key for state in table] == [4]
    assert [state.key for state in table.sweep(lambda state: state.held == 10)] == [4]
    assert len(table) == 0
    assert "3 keys" in str(eviction_notice("x", 3).columns["message"].at(0))


def test_marks_never_miss() -> None:
    """What was marked may be held, for sure; what was not mostly is not."""
    marks = Marks()
    rows = np.arange(2000, dtype=np.uint64).reshape(1000, 2)
    marks.add(rows)
    assert marks.may_hold(rows).all()
    assert marks.may_hold(rows + np.uint64(10_000)).mean() < 0.05
    marks.clear()
    assert not marks.may_hold(rows).any()


def test_peak_counts_the_window_that_ends_with_each_event() -> None:
    """The window is open at its begin and closed at its end."""
    times, weights = np.array([0, 5, 10, 11, 30]), np.array([1, 2, 4, 8, 16])
    assert peak(times, weights, 10).tolist() == [1, 3, 6, 14, 16]


def test_lengths_of_time_in_sentences() -> None:
    """Each length has the unit that fits it."""
    assert [span_text(span) for span in (0, 3_700_000, 2_500_000_000, 720_000_000_000)] == [
        "0.0 ms",
        "3.7 ms",
        "2.5 s",
        "12.0 min",
    ]
