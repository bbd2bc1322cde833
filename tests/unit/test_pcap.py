"""Capture files: both formats, both byte orders, both clocks, and captures that are damaged or cut."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from eddy_agents.normalizers.pcap import Config, Source
from eddy_agents.wire.fragments import MAX_DATAGRAMS, TIMEOUT_NS, Defragmenter
from eddy_agents.wire.pcap import Packet, PcapReader, read_pcap
from eddy_agents.wire.udp_payloads import UdpPayloads, udp_payloads, unwrap
from eddy_mesh.agent import Draft
from eddy_mesh.cer import Value
from eddy_mesh.errors import ConfigError, WireError

SECOND = 1_000_000_000
PORTS = {2055: "netflow", 514: "syslog"}


def classic(packets: list[Packet], order: str = "<", *, is_ns: bool = False) -> bytes:
    """A pcap file; the link type is that of the first packet."""
    magic = 0xA1B23C4D if is_ns else 0xA1B2C3D4
    unit = 1 if is_ns else 1000
    head = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 65535, packets[0].link_type if packets else 1)
    records = (
        struct.pack(
            order + "IIII", p.timestamp_ns // SECOND, p.timestamp_ns % SECOND // unit, len(p.captured), p.length
        )
        + p.captured
        for p in packets
    )
    return head + b"".join(records)


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    """A pcapng block with its padding."""
    body += bytes(-len(body) % 4)
    size = struct.pack(order + "I", len(body) + 12)
    return struct.pack(order + "I", kind) + size + body + size


def section(order: str = "<") -> bytes:
    """A section header block."""
    return block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1), order)


def interface(link_type: int, order: str = "<", *, snap: int = 0, options: bytes = b"") -> bytes:
    """An interface description block."""
    return block(1, struct.pack(order + "HHI", link_type, 0, snap) + options, order)


def enhanced(number: int, units: int, captured: bytes, length: int, order: str = "<") -> bytes:
    """An enhanced packet block."""
    head = struct.pack(order + "IIIII", number, units >> 32, units & 0xFFFFFFFF, len(captured), length)
    return block(6, head + captured + bytes(-len(captured) % 4), order)


def udp(payload: bytes, destination_port: int = 2055) -> bytes:
    """A UDP header and its payload."""
    return struct.pack(">HHHH", 50000, destination_port, 8 + len(payload), 0) + payload


def ipv4(body: bytes, *, identification: int = 1, offset: int = 0, more: bool = False, protocol: int = 17) -> bytes:
    """An IPv4 packet from 192.0.2.1 to 192.0.2.2."""
    flags = offset // 8 | (0x2000 if more else 0)
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), identification, flags, 64, protocol, 0)
    return head + bytes([192, 0, 2, 1, 192, 0, 2, 2]) + body


def raw_packet(captured: bytes, time_s: int = 1) -> Packet:
    """A packet captured without link-layer header."""
    return Packet(time_s * SECOND, 101, captured, len(captured))


TWO = [Packet(1_700_000_000_123_456_000, 1, b"abcde", 60), Packet(1_700_000_001_000_000_000, 1, b"", 4)]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("is_ns", [False, True])
def test_classic_in_each_byte_order_and_clock(order: str, is_ns: bool) -> None:
    """All four magic numbers give the same packets, with the fraction in its unit."""
    assert read_pcap(classic(TWO, order, is_ns=is_ns)) == TWO


def test_nanoseconds_are_kept() -> None:
    """A nanosecond capture loses no digit."""
    packets = [Packet(1_700_000_000_123_456_789, 1, b"x", 1)]
    assert read_pcap(classic(packets, is_ns=True)) == packets


@pytest.mark.parametrize("order", ["<", ">"])
def test_pcapng_with_many_interfaces_and_clocks(order: str) -> None:
    """Each packet has the link type, resolution and offset of its own interface; unknown blocks are skipped."""
    ns = struct.pack(order + "HH", 9, 1) + b"\x09\0\0\0" + struct.pack(order + "HHq", 14, 8, 5) + bytes(4)
    binary = struct.pack(order + "HH", 9, 1) + b"\x8a\0\0\0" + bytes(4)  # 1024 units a second
    capture = (
        section(order)
        + interface(1, order)
        + interface(101, order, options=ns)
        + interface(113, order, options=binary)
        + block(0x0BAD, b"what is this", order)
        + enhanced(1, 7, b"abc", 100, order)
        + enhanced(0, 3_000_001, b"", 0, order)
        + enhanced(2, 1536, b"1234", 4, order)
    )
    expected = [
        Packet(5 * SECOND + 7, 101, b"abc", 100),
        Packet(3_000_001_000, 1, b"", 0),
        Packet(1_500_000_000, 113, b"1234", 4),
    ]
    assert read_pcap(capture) == expected


def test_pcapng_simple_and_obsolete_packets() -> None:
    """A simple packet has no time and ends at the interface's limit; an obsolete one is read as it was."""
    simple = block(3, struct.pack("<I", 9) + b"abcd")
    obsolete = block(2, struct.pack("<HHIIII", 0, 0, 0, 2_000_000, 2, 8) + b"xy")
    packets = read_pcap(section() + interface(1, snap=4) + simple + obsolete)
    assert packets == [Packet(0, 1, b"abcd", 9), Packet(2 * SECOND, 1, b"xy", 8)]


def test_sections_of_other_byte_order_begin_anew() -> None:
    """A second section, of the other byte order, has interfaces of its own."""
    first = section() + interface(1) + enhanced(0, 1, b"a", 1)
    second = section(">") + interface(228, ">") + enhanced(0, 2, b"b", 1, ">")
    assert [packet.link_type for packet in read_pcap(first + second)] == [1, 228]
    with pytest.raises(WireError, match="interface 0, which nothing before describes"):
        read_pcap(first + section(">") + enhanced(0, 2, b"b", 1, ">"))


@pytest.mark.parametrize("capture", [classic(TWO), section() + interface(1) + enhanced(0, 1, b"abc", 3)])
def test_pieces_of_any_size_give_the_same(capture: bytes) -> None:
    """A capture read octet by octet gives the same packets as one read whole."""
    reader = PcapReader()
    packets = [packet for place in range(len(capture)) for packet in reader.feed(capture[place : place + 1])]
    reader.close()
    assert packets == read_pcap(capture)


def test_packets_before_damage_are_given() -> None:
    """Damage is told only after every packet before it was handed out, and then again and again."""
    reader = PcapReader()
    damaged = classic(TWO) + struct.pack("<IIII", 1, 1, 0x7FFFFFFF, 60)
    assert reader.feed(damaged) == TWO
    for _ in range(2):
        with pytest.raises(WireError, match="packet of 2147483647 bytes"):
            reader.feed(b"")
    with pytest.raises(WireError):
        reader.close()


def test_cut_capture_says_so() -> None:
    """A capture that ends within a packet is told apart from a whole one, with what is left over."""
    with pytest.raises(WireError, match="ends within a packet, 3 bytes are left over"):
        read_pcap(classic(TWO) + b"abc")
    with pytest.raises(WireError, match="empty"):
        read_pcap(b"")
    with pytest.raises(WireError, match="starts neither"):
        read_pcap(b"\x1f\x8b\x08\x00 gzip")


@pytest.mark.parametrize(
    ("capture", "message"),
    [
        (section() + interface(1) + enhanced(0, 1, b"abc", 3)[:-4] + bytes(4), "two lengths differ"),
        (section()[:8] + b"oops" + section()[12:], "byte order"),
        (section() + struct.pack("<II", 1, 13) + bytes(16), "block of 13 bytes"),
        (section() + block(1, b"abcd"), "interface 0 is too short"),
        (section() + interface(1) + block(6, b"abcd"), "packet block of 4 bytes"),
        (section() + interface(1) + block(6, struct.pack("<IIIII", 0, 0, 0, 99, 99)), "packet of 99 bytes"),
        (section() + interface(1) + enhanced(0, 2**63, b"", 0), "outside the years"),
    ],
)
def test_damaged_blocks_are_refused(capture: bytes, message: str) -> None:
    """Each way in which a block can contradict itself is a WireError that names it."""
    with pytest.raises(WireError, match=message):
        read_pcap(capture)


# --- UDP payloads --------------------------------------------------------------------------------------------------


def test_udp_payload_with_its_ends() -> None:
    """A datagram comes with sender, ports and time, without the padding of its frame."""
    frame = bytes(12) + b"\x08\x00" + ipv4(udp(b"export")) + bytes(10)
    (payload,) = udp_payloads([Packet(9, 1, frame, len(frame))])
    assert payload == (9, "192.0.2.1", 50000, 2055, b"export")


def test_fragments_are_put_together_in_any_order() -> None:
    """Pieces that come in another order, and twice, give the datagram once, at the time of the last piece."""
    whole = udp(bytes(range(64)))
    first = ipv4(whole[:40], more=True)
    middle = ipv4(whole[40:64], offset=40, more=True)
    last = ipv4(whole[64:], offset=64)
    other = ipv4(udp(b"alone"), identification=2)
    packets = [raw_packet(piece, time_s) for time_s, piece in enumerate([last, first, first, other, middle], 1)]
    found = UdpPayloads().feed(packets)
    assert [(one.row, one.is_whole) for one in found] == [(3, True), (4, False)]
    assert found[1].datagram.payload == bytes(range(64))
    assert found[1].datagram.timestamp_ns == 5 * SECOND


def test_fragments_of_ipv6() -> None:
    """The fragment header of IPv6 is understood, with other extension headers before it."""
    ends = bytes.fromhex("20010db8000000000000000000000001") + bytes.fromhex("20010db8000000000000000000000002")
    whole = udp(b"sixteen octets..")

    def piece(body: bytes, offset: int, more: int) -> bytes:
        options = bytes([44, 0, 1, 4, 0, 0, 0, 0])
        fragment = struct.pack(">BBHI", 17, 0, offset | more, 77)
        inner = options + fragment + body
        return struct.pack(">IHBB", 6 << 28, len(inner), 0, 64) + ends + inner

    packets = [raw_packet(piece(whole[:16], 0, 1)), raw_packet(piece(whole[16:], 16, 0))]
    (payload,) = udp_payloads(packets)
    assert payload[1:] == ("2001:db8::1", 50000, 2055, b"sixteen octets..")


def test_overlapping_pieces_give_up_the_datagram() -> None:
    """A piece that overlaps another one gives up the datagram, and is counted."""
    reader = UdpPayloads()
    whole = udp(bytes(64))
    pieces = [ipv4(whole[:40], more=True), ipv4(whole[32:], offset=32)]
    assert reader.feed([raw_packet(piece) for piece in pieces]) == []
    assert reader.lost == {"fragment_overlap": 1}


def test_missing_pieces_are_counted() -> None:
    """A datagram whose pieces do not all come is given up after its time, or at the end."""
    reader = UdpPayloads()
    part = ipv4(udp(bytes(64))[:40], more=True)
    later = ipv4(udp(bytes(64))[:40], identification=5, more=True)
    reader.feed([raw_packet(part), raw_packet(later, 2 + TIMEOUT_NS // SECOND)])
    assert reader.lost == {"fragment_missing": 1}
    reader.close()
    assert reader.lost == {"fragment_missing": 2}


def test_fragments_are_bounded() -> None:
    """However many datagrams are begun, no more than the limit are held; the oldest goes first."""
    pieces = Defragmenter()
    for number in range(MAX_DATAGRAMS + 5):
        assert pieces.add(b"%d" % number, 0, 0, b"12345678", more=True) == b""
    assert pieces.lost == {"fragment_missing": 5}
    assert pieces.add(b"%d" % MAX_DATAGRAMS, 0, 8, b"end", more=False) == b"12345678end"
    assert pieces.add(b"long", 0, 65528, b"12345678", more=False) == b""
    assert pieces.lost["fragment_size"] == 1


def test_unwrap_makes_raw_events_of_exports() -> None:
    """Exports become raw events of their type with the exporter as host; other datagrams are left out."""
    packets = [
        raw_packet(ipv4(udp(b"flows", 2055)), 1),
        raw_packet(ipv4(udp(b"<13>hello", 514)), 2),
        raw_packet(ipv4(udp(b"web", 443)), 3),
        raw_packet(ipv4(udp(b"more", 2055)), 4),
    ]
    flows, lines = unwrap(packets, PORTS)
    assert (flows.kind.type, flows.count, lines.kind.type, lines.count) == ("netflow", 2, "syslog", 1)
    assert [flows.columns["event.original"].at(row) for row in range(2)] == [b"flows", b"more"]
    assert flows.columns["host_address"].at(0) == "192.0.2.1"
    assert flows.columns["occurred"].at(1) == 4 * SECOND
    assert lines.columns["source.port"].at(0) == 50000


# --- the source ------------------------------------------------------------------------------------------------------


@dataclass
class Recorder:
    """An outlet that keeps what it is given."""

    state: Path
    name: str = "pcap"
    drafts: list[Draft] = field(default_factory=list)
    losses: dict[str, int] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)

    def now_ns(self) -> int:
        """The clock stands still."""
        return 0

    async def emit(self, draft: Draft) -> None:
        """Keep the draft."""
        self.drafts.append(draft)

    async def settled(self) -> None:
        """Nobody is behind."""

    def lost(self, reason: str, count: int) -> None:
        """Count."""
        self.losses[reason] = self.losses.get(reason, 0) + count

    def notice(self, event: str, **fields: Value) -> None:
        """Keep the name."""
        self.notices.append(f"{event} {fields['log.file.path']!r}")

    def types(self) -> list[tuple[str, int]]:
        """Type and count of each draft."""
        return [(draft.kind.type, draft.count) for draft in self.drafts]


async def test_source_emits_packets_and_exports(tmp_path: Path) -> None:
    """Packets of all matching files become events, exports among them events of their own type; times are theirs."""
    frames = [raw_packet(ipv4(udp(b"flows", 2055)), 1), raw_packet(ipv4(udp(b"web", 443)), 2)]
    (tmp_path / "one.pcap").write_bytes(classic(frames))
    (tmp_path / "two.pcap").write_bytes(classic(frames[1:]))
    outlet = Recorder(tmp_path)
    await Source(Config(paths=(str(tmp_path / "*.pcap"),))).run(outlet)
    assert outlet.types() == [("netflow", 1), ("packet", 1), ("packet", 1)]
    packet = outlet.drafts[1].columns
    assert (packet["packet.link_type"].at(0), packet["packet.length"].at(0)) == (101, len(frames[1].captured))
    assert packet["occurred"].at(0) == packet["observed"].at(0) == 2 * SECOND
    assert packet["event.original"].at(0) == frames[1].captured


async def test_source_goes_on_where_it_was(tmp_path: Path) -> None:
    """A second run takes only what was added; a new file of the same name is read from its start."""
    path = tmp_path / "growing.pcap"
    packets = [raw_packet(b"E%d" % number, number) for number in range(1, 5)]
    config = Config(paths=(str(path),))
    counts = []
    for content in (packets[:3], packets, packets, packets[1:2]):
        path.write_bytes(classic(content))
        outlet = Recorder(tmp_path)
        await Source(config).run(outlet)
        counts.append(sum(draft.count for draft in outlet.drafts))
    assert counts == [3, 1, 0, 1]


async def test_source_tells_of_damage(tmp_path: Path) -> None:
    """A cut capture gives its packets, a notice and a count; the next file is read all the same."""
    (tmp_path / "a.pcap").write_bytes(classic([raw_packet(b"E")]) + b"cut")
    (tmp_path / "b.pcap").write_bytes(classic([raw_packet(b"E")]))
    outlet = Recorder(tmp_path)
    await Source(Config(paths=(str(tmp_path / "?.pcap"),))).run(outlet)
    assert outlet.types() == [("packet", 1), ("packet", 1)]
    assert outlet.losses == {"damaged_capture": 1}
    assert outlet.notices == [f"capture_damaged {str(tmp_path / 'a.pcap')!r}"]


async def test_source_refuses_what_can_not_work(tmp_path: Path) -> None:
    """A missing file and an unknown raw type are configuration mistakes that say what to give instead."""
    with pytest.raises(ConfigError, match="no capture file"):
        await Source(Config(paths=(str(tmp_path / "none.pcap"),))).run(Recorder(tmp_path))
    with pytest.raises(ConfigError, match="no capture file is named"):
        await Source(Config()).run(Recorder(tmp_path))
    with pytest.raises(ConfigError, match="no raw type; choose of netflow, sflow, syslog"):
        Source(Config(paths=("x",), unwrap_udp_ports={"snmp": (161,)}))
