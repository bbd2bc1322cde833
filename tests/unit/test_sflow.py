"""sFlow datagrams: samples in both forms, every record, gaps, and what is not known."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest

from eddy_agents.transformers.sflow import EXAMPLES, Config, Cooking
from eddy_agents.wire.sflow import Datagram, decode
from eddy_agents.wire.sflow_counters import counter_fields
from eddy_agents.wire.sflow_sequence import Sequences
from eddy_mesh.agent import Draft, Result
from eddy_mesh.batch import Batch, Kind, Producer
from eddy_mesh.cer import EventClass, Stage, Value
from eddy_mesh.errors import WireError
from eddy_mesh.rows import batch_of, flat_rows

RAW = Kind(Stage.RAW, EventClass.NETWORK, "sflow")
SECOND = 1_000_000_000
V4_ENDS = bytes([10, 0, 0, 1, 10, 0, 0, 2])
UDP_PACKET = struct.pack(">BBHHHBBH", 0x45, 0, 28, 1, 0, 64, 17, 0) + V4_ENDS + struct.pack(">HHHH", 53, 5353, 8, 0)


def words(*numbers: int) -> bytes:
    """XDR numbers."""
    return struct.pack(f">{len(numbers)}I", *numbers)


def opaque(data: bytes) -> bytes:
    """XDR opaque data with its length."""
    return words(len(data)) + data + bytes(-len(data) % 4)


def record(number: int, body: bytes) -> bytes:
    """A record, or a sample."""
    return words(number) + opaque(body)


def flow(*records: bytes, way_in: int = 3, way_out: int = 4) -> bytes:
    """A flow sample in the compact form."""
    return record(1, words(11, 0x0200_0005, 512, 10240, 1, way_in, way_out, len(records)) + b"".join(records))


def datagram(*samples: bytes, sequence: int = 7, sub_agent: int = 2, uptime_ms: int = 1000) -> bytes:
    """A datagram of agent 192.0.2.1."""
    head = words(5, 1, 0xC0000201, sub_agent, sequence, uptime_ms, len(samples))
    return head + b"".join(samples)


def header(protocol: int, captured: bytes, length: int = 64) -> bytes:
    """A sampled header record."""
    return record(1, words(protocol, length, 0) + opaque(captured))


def rows_of(result: Result) -> list[dict[str, Value]]:
    """All rows that came out."""
    drafts = [draft for draft in result.outputs if isinstance(draft, Draft)]
    batches = [Batch(draft.kind, "h", Producer(2, 1), 0, 1000, draft.count, draft.columns) for draft in drafts]
    return [row for batch in batches for row in flat_rows(batch)]


def cooked(payloads: Sequence[bytes], cooking: Cooking | None = None) -> Result:
    """What cooking datagrams gives."""
    rows: list[dict[str, Value]] = [
        {"event.original": payload, "occurred": 5 + row} for row, payload in enumerate(payloads)
    ]
    return (cooking or Cooking(Config())).on_batch(batch_of(RAW, "h", Producer(1, 1), 0, 1000, rows), 0)


def fields_of(number: int, body: bytes) -> dict[str, Value]:
    """The fields of one flow record."""
    return decode(datagram(flow(record(number, body)))).flows[0].fields


def test_examples_hold() -> None:
    """The examples in the file are what the cooking does."""
    for example in EXAMPLES:
        rows = rows_of(cooked([payload for payload in example.given if isinstance(payload, bytes)]))
        assert len(rows) == len(example.expected)
        for row, expected in zip(rows, example.expected, strict=True):
            assert expected.items() <= row.items()


def test_compact_and_expanded_samples_say_the_same() -> None:
    """Both forms of a flow sample and of a counter sample give the same values."""
    compact = decode(datagram(flow(way_in=3, way_out=0x4000_0102)))
    expanded = decode(datagram(record(3, words(11, 2, 5, 512, 10240, 1, 0, 3, 1, 0x102, 0))))
    assert compact.flows == expanded.flows
    processor = record(1001, words(1, 2, 3, 0, 4096, 0, 1024))
    small = decode(datagram(record(2, words(9, 0x0100_0003, 1) + processor)))
    large = decode(datagram(record(4, words(9, 1, 3, 1) + processor)))
    assert small.counters == large.counters
    assert small.counters[0].fields["sflow.total_memory"] == 4096


@pytest.mark.parametrize("protocol", [1, 7, 11, 14])
def test_headers_of_each_protocol(protocol: int) -> None:
    """Ethernet, PPP, bare IP and PPP over SONET lead to the same packet."""
    around = {1: bytes(12) + b"\x08\x00", 7: b"\x00\x21", 11: b"", 14: b"\xff\x03\x00\x21"}[protocol]
    (row,) = rows_of(cooked([datagram(flow(header(protocol, around + UDP_PACKET)))]))
    expected = {"source.ip": "10.0.0.1", "destination.port": 5353, "network.transport": "udp", "network.bytes": 64}
    assert expected.items() <= row.items()


def test_sampled_ip_stands_in_for_a_header() -> None:
    """An agent that sends fields in place of a header gives the same names; a header is believed before them."""
    sampled = record(3, words(40, 6, 0xC6336401, 0xC6336402, 1024, 80, 0x12, 8))
    only, both = rows_of(cooked([datagram(flow(sampled), flow(header(11, UDP_PACKET), sampled))]))
    expected = {
        "source.ip": "198.51.100.1",
        "source.port": 1024,
        "destination.ip": "198.51.100.2",
        "destination.port": 80,
        "network.transport": "tcp",
        "network.bytes": 40,
        "netflow.tcpControlBits": 0x12,
    }
    assert expected.items() <= only.items()
    assert (both["source.ip"], both["destination.port"], both["network.bytes"]) == ("10.0.0.1", 5353, 64)


def test_interfaces() -> None:
    """An interface number is one only in format 0, and 0 and the agent itself are none."""
    ways = [(3, 4), (0, 0x3FFF_FFFF), (5, 0x8000_0002)]
    rows = rows_of(cooked([datagram(*(flow(way_in=way_in, way_out=way_out) for way_in, way_out in ways))]))
    assert [row.get("observer.ingress.interface.id") for row in rows] == ["3", None, "5"]
    assert [row.get("observer.egress.interface.id") for row in rows] == ["4", None, None]
    assert (rows[2]["sflow.output_format"], rows[2]["sflow.output_value"]) == (2, 2)


V6 = bytes.fromhex("20010db8000000000000000000000001")
RECORDS: dict[str, tuple[int, bytes, dict[str, Value]]] = {
    "ethernet": (
        2,
        words(64) + bytes(5) + b"\x01\0\0" + bytes(5) + b"\x02\0\0" + words(0x0800),
        {
            "network.bytes": 64,
            "source.mac": "00:00:00:00:00:01",
            "destination.mac": "00:00:00:00:00:02",
            "sflow.type": 0x0800,
        },
    ),
    "ipv6": (
        4,
        words(60, 58) + V6 + V6 + words(0, 0, 0, 4),
        {
            "network.type": "ipv6",
            "network.bytes": 60,
            "network.iana_number": 58,
            "network.transport": "ipv6-icmp",
            "netflow.ipClassOfService": 4,
            "source.ip": "2001:db8::1",
            "destination.ip": "2001:db8::1",
        },
    ),
    "switch": (
        1001,
        words(10, 1, 20, 2),
        {
            "network.vlan.id": "10",
            "sflow.src_vlan": 10,
            "sflow.src_priority": 1,
            "sflow.dst_vlan": 20,
            "sflow.dst_priority": 2,
        },
    ),
    "router": (
        1002,
        words(2) + V6 + words(24, 16),
        {"sflow.nexthop": "2001:db8::1", "sflow.src_mask_len": 24, "sflow.dst_mask_len": 16},
    ),
    "gateway": (
        1003,
        words(1, 0xC0000202, 64500, 64501, 64502, 2, 2, 2, 64503, 64504, 1, 1, 64505, 1, 0xFC0000FF, 100),
        {
            "sflow.gateway_nexthop": "192.0.2.2",
            "sflow.as": 64500,
            "source.as.number": 64501,
            "sflow.src_peer_as": 64502,
            "sflow.dst_as_path": [64503, 64504, 64505],
            "destination.as.number": 64505,
            "sflow.communities": [0xFC0000FF],
            "sflow.localpref": 100,
        },
    ),
    "user": (
        1004,
        words(106) + opaque(b"alice") + words(106) + opaque(b""),
        {"source.user.name": "alice"},
    ),
    "url": (
        1005,
        words(1) + opaque(b"/a?b") + opaque(b"example.net"),
        {"sflow.direction": 1, "url.original": "/a?b", "url.domain": "example.net"},
    ),
    "mpls": (
        1006,
        words(1, 0xC0000202, 2, 16, 17, 0),
        {"sflow.mpls_nexthop": "192.0.2.2", "sflow.in_stack": [16, 17]},
    ),
    "nat": (
        1007,
        words(1, 0x0A000001, 0),
        {"source.nat.ip": "10.0.0.1"},
    ),
    "vlan tunnel": (1012, words(1, 0x8100_0064), {"sflow.vlan_stack": [0x8100_0064]}),
    "nat port": (1020, words(1024, 80), {"source.nat.port": 1024, "destination.nat.port": 80}),
}


@pytest.mark.parametrize("name", RECORDS)
def test_each_flow_record(name: str) -> None:
    """Each structure of the specification gives its members, and all of them."""
    number, body, expected = RECORDS[name]
    assert fields_of(number, body) == expected


def test_what_is_not_known_is_kept() -> None:
    """Unknown and malformed records, longer structures and unknown samples are kept as hexadecimal text."""
    assert fields_of(4413 << 12 | 3, b"abcd") == {"sflow.4413_3": "61626364"}
    assert fields_of(1001, b"abcd") == {"sflow.0_1001": "61626364"}
    assert fields_of(1020, words(1024, 80, 9))["sflow.0_1020"] == "00000009"
    endless = words(0, 1, 1, 1, 1, 2, 0xFFFF_FFFF)
    assert fields_of(1003, endless) == {"sflow.0_1003": endless.hex()}
    assert fields_of(1, words(1, 64, 0, 99)) == {"sflow.0_1": words(1, 64, 0, 99).hex()}
    assert counter_fields(0, 1, b"short") == {"sflow.0_1": b"short".hex()}
    assert counter_fields(0, 5, bytes(28) + b"more")["sflow.0_5"] == b"more".hex()
    (row,) = rows_of(cooked([datagram(record(6, b"what"))]))
    assert (row["type"], row["sflow.0_6"]) == ("sflow.unknown", b"what".hex())


def test_discarded_packets() -> None:
    """A discard has its packet, the interfaces as far as it came, the reason, and how many were not told."""
    first = record(5, words(9, 0, 3, 4, 3, 0, 258, 1) + header(11, UDP_PACKET))
    (row,) = rows_of(cooked([datagram(first, record(5, b"cut"))]))
    expected: dict[str, Value] = {
        "type": "sflow.discard",
        "sflow.sample_sequence": 9,
        "sflow.source_id": 3,
        "sflow.drops": 4,
        "sflow.reason": 258,
        "observer.ingress.interface.id": "3",
        "source.ip": "10.0.0.1",
        "destination.port": 5353,
        "network.bytes": 64,
        "observer.ip": "192.0.2.1",
        "occurred": 5,
    }
    assert expected.items() <= row.items()
    assert "observer.egress.interface.id" not in row


def test_whole_samples_of_a_cut_datagram_are_kept() -> None:
    """What came whole is cooked, the datagram is refused once, and it is not missing besides."""
    sample = flow(header(11, UDP_PACKET))
    torn = record(1, words(11, 5, 512, 1, 0, 3, 4, 1) + words(1, 999))  # a record longer than its sample
    cooking = Cooking(Config())
    payloads = [
        datagram(sequence=6),
        datagram(sample, torn, sample, sample)[:-4],
        datagram(sample, sequence=8)[:-1],
        datagram(sequence=9),
    ]
    result = cooked(payloads, cooking)
    assert [(row["type"], row["occurred"]) for row in rows_of(result)] == [("sflow.flow", 6), ("sflow.flow", 6)]
    assert [(list(refusal.rows), refusal.reason) for refusal in result.refusals] == [([1, 2], "malformed")]
    assert rows_of(cooking.on_tick(60 * SECOND)) == []


def test_versions_and_cuts_are_refused() -> None:
    """An older version is refused with what to do; a cut datagram takes none of its neighbours with it."""
    with pytest.raises(WireError, match="version 4 is not supported; set the agent to sFlow version 5"):
        decode(words(4) + bytes(100))
    whole = datagram(flow(header(11, UDP_PACKET)))
    result = cooked([whole, whole[:-1], b"", whole])
    assert [(list(refusal.rows), refusal.reason) for refusal in result.refusals] == [([1, 2], "malformed")]
    rows = rows_of(result)
    assert [row["occurred"] for row in rows] == [5, 8]
    assert rows[0]["parents"] != rows[1]["parents"]


def test_gaps_become_events() -> None:
    """Datagrams that did not come are an event with the one that showed it as parent; each sub-agent counts alone."""
    cooking = Cooking(Config())
    numbers = [(1, 2), (2, 2), (90, 3), (6, 2), (4, 2), (91, 3), (7, 2)]
    payloads = [datagram(sequence=sequence, sub_agent=sub_agent) for sequence, sub_agent in numbers]
    assert rows_of(cooked(payloads, cooking)) == []
    assert rows_of(cooking.on_tick(SECOND)) == []
    rows = rows_of(cooking.on_tick(6 * SECOND))
    expected: dict[str, Value] = {
        "type": "sflow.gap",
        "event_class": "derived",
        "observer.ip": "192.0.2.1",
        "sflow.sub_agent": 2,
        "sflow.sequence": 6,
        "sflow.lost": 1,
        "occurred": 8,
    }
    assert [expected.items() <= row.items() for row in rows] == [True, True]
    assert [row["sflow.expected_sequence"] for row in rows] == [3, 5]
    assert rows[0]["parents"] == rows[1]["parents"]
    assert rows_of(cooking.on_tick(60 * SECOND)) == []


def test_gaps_wait_for_a_number_of_datagrams() -> None:
    """When the clock stands still, as with a file, a gap is told after enough further datagrams."""
    cooking = Cooking(Config(late_datagrams=2))
    rows = rows_of(cooked([datagram(sequence=sequence) for sequence in (1, 5, 6, 7)], cooking))
    assert [(row["sflow.expected_sequence"], row["sflow.lost"]) for row in rows] == [(2, 3)]


def lost(numbers: Sequence[tuple[int, int]]) -> list[int]:
    """How many datagrams are missing before each, given number and uptime."""
    sequences = Sequences(4, 8)
    gaps = [sequences.take(Datagram("a", 0, number, uptime_ms, [], [], [], [], []), 0) for number, uptime_ms in numbers]
    return [0 if gap is None else gap.lost for gap in gaps]


def test_restarts_are_no_gaps() -> None:
    """An agent that begins anew is known by its uptime or by a number far behind; a wrap of the number is neither."""
    assert lost([(5, 900_000), (1, 10), (2, 20), (4, 30)]) == [0, 0, 0, 1]
    assert lost([(500_000, 50), (3, 60), (4, 70), (6, 80)]) == [0, 0, 0, 1]
    assert lost([(2**32 - 1, 50), (0, 60), (2, 70)]) == [0, 0, 1]
    assert lost([(5, 50), (5, 50), (4, 40), (6, 60)]) == [0, 0, 0, 0]


def test_agents_and_gaps_are_bounded() -> None:
    """Beyond the limits the agent silent for longest is forgotten and the oldest gap is told; no gap is lost."""
    sequences = Sequences(2, 1000)
    for number in range(0, 80, 2):
        sequences.take(Datagram("a", 0, number, 0, [], [], [], [], []), 0)
    assert len(sequences.due(-1)) == 39 - 16
    for agent in ("b", "c"):
        sequences.take(Datagram(agent, 0, 1, 0, [], [], [], [], []), 0)
    assert len(sequences.due(-1)) == 16
    assert sequences.take(Datagram("a", 0, 500, 0, [], [], [], [], []), 0) is None
