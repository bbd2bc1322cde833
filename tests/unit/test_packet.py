"""Packet headers: every link layer, both IPs, what is cut, and the cooking that names the fields."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from eddy_agents.transformers.packet import EXAMPLES, Config, Cooking
from eddy_agents.wire.packet import Headers, decode
from eddy_mesh.agent import Draft
from eddy_mesh.batch import Batch, Kind, Producer
from eddy_mesh.cer import EventClass, Stage, Value
from eddy_mesh.columns import pack
from eddy_mesh.rows import batch_of, flat_rows

RAW = Kind(Stage.RAW, EventClass.NETWORK, "packet")
V4_ENDS = bytes([10, 0, 0, 1, 10, 0, 0, 2])
V6_ENDS = bytes.fromhex("20010db800000000000000000000000120010db8000000000000000000000002")
MACS = bytes.fromhex("0200000000b20200000000a1")
TCP_SYN = struct.pack(">HHIIHHHH", 50000, 443, 1, 0, 0x5002, 1024, 0, 0)


def ipv4(body: bytes = TCP_SYN, protocol: int = 6, *, options: bytes = b"", total: int = -1, offset: int = 0) -> bytes:
    """An IPv4 packet."""
    size = 20 + len(options) + len(body) if total < 0 else total
    version = 0x40 | 5 + len(options) // 4
    return struct.pack(">BBHHHBBH", version, 0, size, 7, offset // 8, 64, protocol, 0) + V4_ENDS + options + body


def ipv6(body: bytes = TCP_SYN, next_header: int = 6) -> bytes:
    """An IPv6 packet."""
    return struct.pack(">IHBB", 6 << 28, len(body), next_header, 64) + V6_ENDS + body


def ethernet(ethertype: int, body: bytes) -> bytes:
    """An Ethernet frame."""
    return MACS + struct.pack(">H", ethertype) + body


def headers(packets: Sequence[tuple[int, bytes]], lengths: Sequence[int] = ()) -> Headers:
    """The headers of packets given with their link types."""
    offsets, data = pack([captured for _, captured in packets])
    link_types = np.array([link_type for link_type, _ in packets], np.int64)
    on_wire = np.array(lengths or [len(captured) for _, captured in packets], np.int64)
    return decode(data, offsets.astype(np.int64), link_types, on_wire)


def cooked(rows: Sequence[Mapping[str, Value]]) -> list[dict[str, Value]]:
    """The rows that cooking raw rows gives."""
    batch = batch_of(RAW, "h", Producer(1, 1), 0, 1000, rows)
    drafts = [draft for draft in Cooking(Config()).on_batch(batch, 0).outputs if isinstance(draft, Draft)]
    batches = [Batch(draft.kind, "h", Producer(2, 1), 0, 1000, draft.count, draft.columns) for draft in drafts]
    return [row for one in batches for row in flat_rows(one)]


LINKS = {
    "null little": (0, struct.pack("<I", 2) + ipv4()),
    "null big ipv6": (0, struct.pack(">I", 30) + ipv6()),
    "ethernet": (1, ethernet(0x0800, ipv4())),
    "802.3 snap": (1, ethernet(100, bytes.fromhex("aaaa030000000800") + ipv4())),
    "vlan": (1, ethernet(0x8100, b"\x20\x64\x08\x00" + ipv4())),
    "qinq": (1, ethernet(0x88A8, b"\x00\x64\x81\x00\x00\x65\x86\xdd" + ipv6())),
    "mpls": (1, ethernet(0x8847, b"\x00\x01\x00\x40\x00\x02\x01\x40" + ipv4())),
    "pppoe": (1, ethernet(0x8864, b"\x11\x00\x00\x01\x00\x2a\x00\x21" + ipv4())),
    "ppp": (9, b"\xff\x03\x00\x21" + ipv4()),
    "ppp compressed": (9, b"\x21" + ipv4()),
    "ppp ipv6": (50, b"\xff\x03\x00\x57" + ipv6()),
    "raw": (101, ipv6()),
    "raw bsd": (12, ipv4()),
    "hdlc": (104, b"\x0f\x00\x08\x00" + ipv4()),
    "frame relay": (107, b"\x48\xd1\x03\xcc" + ipv4()),
    "frame relay cisco": (107, b"\x48\xd0\x00\xd1\x86\xdd" + ipv6()),
    "frame relay snap": (107, b"\x48\xd1\x03\x00\x80\x00\x00\x00\x08\x00" + ipv4()),
    "loop": (108, struct.pack(">I", 2) + ipv4()),
    "sll": (113, struct.pack(">HHH8sH", 0, 1, 6, bytes.fromhex("0200000000a1"), 0x0800) + ipv4()),
    "sll2": (276, struct.pack(">HHIHBB8s", 0x86DD, 0, 1, 1, 0, 6, bytes.fromhex("0200000000a1")) + ipv6()),
    "mpls only": (219, b"\x00\x01\x01\x40" + ipv4()),
    "ipv4": (228, ipv4(options=bytes(8))),
    "ipv6": (229, ipv6()),
}


@pytest.mark.parametrize("name", LINKS)
def test_each_link_layer_leads_to_the_same_packet(name: str) -> None:
    """Whatever lies around it, the TCP packet inside has the same ends, ports and flags."""
    link_type, captured = LINKS[name]
    one = headers([(link_type, captured)])
    assert one.known.all()
    assert one.version[0] in {4, 6}
    assert (one.source_port[0], one.destination_port[0], one.tcp_flags[0]) == (50000, 443, 2)
    assert one.ip_bytes[0] == {4: 40 + (8 if name == "ipv4" else 0), 6: 60}[int(one.version[0])]


def test_packets_of_all_links_together() -> None:
    """A batch of mixed packets is read as each alone."""
    together = headers(list(LINKS.values()))
    assert (together.destination_port == 443).all()
    assert together.vlan.tolist() == [100 if name in {"vlan", "qinq"} else -1 for name in LINKS]
    assert together.inner_vlan.tolist() == [101 if name == "qinq" else -1 for name in LINKS]
    with_mac = {"ethernet", "802.3 snap", "vlan", "qinq", "mpls", "pppoe", "sll", "sll2"}
    assert [mac == 0x0200000000A1 for mac in together.source_mac.tolist()] == [name in with_mac for name in LINKS]


def test_extension_headers_of_ipv6() -> None:
    """Options, routing and authentication headers are stepped over; the protocol is the last one."""
    options = bytes([43, 1]) + bytes(14)
    routing = bytes([51, 0]) + bytes(6)
    authentication = bytes([6, 4]) + bytes(22)
    one = headers([(229, ipv6(options + routing + authentication + TCP_SYN, 0))])
    assert (one.protocol[0], one.destination_port[0]) == (6, 443)


def test_endless_extension_headers_end() -> None:
    """A chain of extension headers longer than any real one stops without ports."""
    one = headers([(229, ipv6(bytes([0, 0, 0, 0, 0, 0, 0, 0]) * 100, 0))])
    assert (one.protocol[0], one.destination_port[0]) == (0, -1)


def test_later_fragments_have_no_ports() -> None:
    """Only the first piece of a datagram has a transport header; the others' bytes are not taken for one."""
    one = headers([(228, ipv4(offset=1480)), (229, ipv6(bytes([6, 0, 5, 200, 0, 0, 0, 9]) + TCP_SYN, 44))])
    assert one.source_port.tolist() == [-1, -1]
    assert one.is_fragment.all()
    assert one.fragment_offset.tolist() == [1480, 1480]
    assert one.identification.tolist() == [7, 9]


@pytest.mark.parametrize(("total", "expected"), [(0, 40), (19, 40), (41, 40), (39, 39)])
def test_lengths_that_can_not_be_true(total: int, expected: int) -> None:
    """An IP length of 0 (segmentation off-load), below its header or above the frame is that of the frame."""
    assert headers([(228, ipv4(total=total))]).ip_bytes[0] == expected


def test_snap_length_cuts_fields_not_packets() -> None:
    """Of a packet that was cut the fields that are there are named, and the length on the wire is kept."""
    whole = ethernet(0x0800, ipv4())
    cuts = [headers([(1, whole[:size])], [1514]) for size in (13, 33, 34, 38, 48, 54)]
    assert [cut.source_mac[0] > 0 for cut in cuts] == [False, True, True, True, True, True]
    assert [cut.version[0] > 0 for cut in cuts] == [False, False, True, True, True, True]
    assert [int(cut.destination_port[0]) for cut in cuts] == [-1, -1, -1, 443, 443, 443]
    assert [int(cut.tcp_flags[0]) for cut in cuts] == [-1, -1, -1, -1, 2, 2]


def test_ports_do_not_come_from_padding() -> None:
    """What lies behind the end of the IP packet is padding of the frame, not a transport header."""
    frame = ethernet(0x0800, ipv4(b"", 17) + b"\x00\x35\x00\x35" + bytes(22))
    assert headers([(1, frame)]).source_port[0] == -1


def test_no_packets() -> None:
    """An empty batch, and one of empty packets, are fine."""
    assert len(headers([]).version) == 0
    assert headers([(1, b""), (101, b"")]).version.tolist() == [-1, -1]


def test_examples_hold() -> None:
    """The examples in the file are what the cooking does."""
    for example in EXAMPLES:
        rows = cooked([{"event.original": payload} for payload in example.given if isinstance(payload, bytes)])
        assert len(rows) == len(example.expected)
        for row, expected in zip(rows, example.expected, strict=True):
            assert expected.items() <= row.items()


def test_cooked_packet_is_complete() -> None:
    """A cooked packet has every field of its headers, its raw event as parent, and its times."""
    raw: dict[str, Value] = {
        "event.original": LINKS["qinq"][1],
        "packet.link_type": 1,
        "packet.length": 90,
        "occurred": 5,
        "observed": 6,
        "tags.site": "a",
    }
    (row,) = cooked([raw])
    parents = row.pop("parents")
    assert isinstance(parents, list)
    assert len(parents) == 1
    assert {name: value for name, value in row.items() if name not in {"id", "version"}} == {
        "type": "packet",
        "event_class": "network",
        "stage": "cooked",
        "occurred": 5,
        "observed": 6,
        "tags.site": "a",
        "source.ip": "2001:db8::1",
        "source.port": 50000,
        "source.mac": "02:00:00:00:00:a1",
        "destination.ip": "2001:db8::2",
        "destination.port": 443,
        "destination.mac": "02:00:00:00:00:b2",
        "network.iana_number": 6,
        "network.transport": "tcp",
        "network.type": "ipv6",
        "network.vlan.id": "100",
        "network.inner.vlan.id": "101",
        "network.bytes": 60,
        "network.packets": 1,
        "netflow.tcpControlBits": 2,
    }


def test_other_protocols_stay_packets() -> None:
    """ARP has no addresses of IP, yet is an event with its kind, hardware addresses and the length of its frame."""
    rows = cooked([{"event.original": ethernet(0x0806, bytes(46))}, {"event.original": LINKS["ethernet"][1]}])
    assert (rows[0]["network.type"], rows[0]["network.bytes"]) == ("arp", 60)
    assert "source.ip" not in rows[0]
    assert rows[1]["source.ip"] == "10.0.0.1"


def test_icmp_is_told_apart_by_version() -> None:
    """Type and code are in the field of their protocol, as flows have it."""
    rows = cooked(
        [
            {"event.original": ethernet(0x0800, ipv4(b"\x03\x01" + bytes(6), 1))},
            {"event.original": ethernet(0x86DD, ipv6(b"\x80\x00" + bytes(6), 58))},
        ]
    )
    assert [row.get("netflow.icmpTypeCodeIPv4") for row in rows] == [769, None]
    assert [row.get("netflow.icmpTypeCodeIPv6") for row in rows] == [None, 32768]


def test_unknown_link_types_are_refused() -> None:
    """A packet of a link layer that can not be decoded is refused with its number; the others are cooked."""
    rows: list[Mapping[str, Value]] = [
        {"event.original": b"?", "packet.link_type": 147},
        {"event.original": ipv4(), "packet.link_type": 101},
    ]
    result = Cooking(Config()).on_batch(batch_of(RAW, "h", Producer(1, 1), 0, 1000, rows), 0)
    (refusal,) = result.refusals
    assert (list(refusal.rows), refusal.reason) == ([0], "unknown_link_type")
    assert "link type 147" in refusal.detail
    assert [draft.count for draft in result.outputs if isinstance(draft, Draft)] == [1]
    assert Cooking(Config()).on_tick(0).outputs == ()
