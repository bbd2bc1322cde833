"""Any bytes, and good bytes cut anywhere, are a value or a `WireError`: captures, packets, fragments, sFlow."""

from __future__ import annotations

import struct

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from eddy_agents.transformers import packet as packet_cooking
from eddy_agents.transformers import sflow as sflow_cooking
from eddy_agents.wire.fragments import MAX_DATAGRAM_BYTES, Defragmenter
from eddy_agents.wire.packet import decode as decode_packets
from eddy_agents.wire.pcap import Packet, PcapReader, read_pcap
from eddy_agents.wire.sflow import decode
from eddy_agents.wire.udp_payloads import UdpPayloads, udp_payloads
from eddy_mesh.agent import Draft, Result
from eddy_mesh.batch import Batch, Kind, Producer
from eddy_mesh.cer import EventClass, Stage, Value
from eddy_mesh.columns import pack
from eddy_mesh.errors import WireError
from eddy_mesh.rows import batch_of, flat_rows

EXAMPLES = settings(max_examples=150)
LINK_TYPES = (0, 1, 9, 12, 14, 50, 51, 101, 104, 108, 113, 147, 219, 228, 229, 242, 276)
SFLOW = next(payload for payload in sflow_cooking.EXAMPLES[0].given if isinstance(payload, bytes))
FRAMES = tuple(payload for payload in packet_cooking.EXAMPLES[0].given if isinstance(payload, bytes))


def block(kind: int, body: bytes) -> bytes:
    """A pcapng block."""
    body += bytes(-len(body) % 4)
    return struct.pack("<II", kind, len(body) + 12) + body + struct.pack("<I", len(body) + 12)


PCAP = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1) + b"".join(
    struct.pack("<IIII", 1, 2, len(frame), len(frame)) + frame for frame in FRAMES
)
PCAPNG = (
    block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1))
    + block(1, struct.pack("<HHI", 1, 0, 0) + struct.pack("<HHI", 9, 1, 9))
    + block(6, struct.pack("<IIIII", 0, 0, 7, len(FRAMES[0]), 99) + FRAMES[0])
    + block(3, struct.pack("<I", 4) + b"abcd")
)


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Good bytes of which a few were changed."""
    changed = bytearray(whole)
    for _ in range(draw(st.integers(1, 6))):
        changed[draw(st.integers(0, len(whole) - 1))] = draw(st.integers(0, 255))
    return bytes(changed)


frames = st.one_of(st.binary(max_size=120), *(damaged(frame) for frame in FRAMES))
packets = st.lists(st.tuples(st.sampled_from(LINK_TYPES), frames, st.integers(0, 2**32 - 1)), max_size=12)


def raw_batch(name: str, rows: list[dict[str, Value]]) -> Batch:
    """A batch of raw events."""
    return batch_of(Kind(Stage.RAW, EventClass.NETWORK, name), "h", Producer(1, 1), 0, 1000, rows)


def rows_of(result: Result) -> list[dict[str, Value]]:
    """All rows that came out; looking at each must not raise either."""
    drafts = [draft for draft in result.outputs if isinstance(draft, Draft)]
    for draft in drafts:
        assert {len(column) for column in draft.columns.values()} == {draft.count}
    batches = [Batch(draft.kind, "h", Producer(2, 1), 0, 1000, draft.count, draft.columns) for draft in drafts]
    return [row for batch in batches for row in flat_rows(batch)]


@EXAMPLES
@given(packets)
def test_any_packet_is_cooked_or_refused(given_packets: list[tuple[int, bytes, int]]) -> None:
    """Each packet, whatever its bytes, gives one event or is refused for its link type."""
    rows: list[dict[str, Value]] = [
        {"event.original": captured, "packet.link_type": link_type, "packet.length": length}
        for link_type, captured, length in given_packets
    ]
    result = packet_cooking.Cooking(packet_cooking.Config()).on_batch(raw_batch("packet", rows), 0)
    refused = sum(len(refusal.rows) for refusal in result.refusals)
    assert refused == sum(link_type == 147 for link_type, _, _ in given_packets)
    assert len(rows_of(result)) == len(rows) - refused


@EXAMPLES
@given(packets)
def test_packets_are_read_alike_alone_and_together(given_packets: list[tuple[int, bytes, int]]) -> None:
    """What a packet says does not depend on its neighbours, and no field reaches into them."""

    def ports(members: list[tuple[int, bytes, int]]) -> list[list[int]]:
        offsets, data = pack([captured for _, captured, _ in members])
        link_types = np.array([link_type for link_type, _, _ in members], np.int64)
        lengths = np.array([max(length, len(captured)) for _, captured, length in members], np.int64)
        headers = decode_packets(data, offsets.astype(np.int64), link_types, lengths)
        assert (headers.payload_end <= offsets[1:].astype(np.int64)).all()
        named = (headers.version, headers.protocol, headers.source_port, headers.destination_port, headers.tcp_flags)
        return [*np.stack([*named, headers.icmp, headers.vlan, headers.ip_bytes]).T.tolist()]

    alone = [ports([member])[0] for member in given_packets]
    assert ports(given_packets) == alone


@EXAMPLES
@given(st.one_of(st.binary(max_size=200), damaged(PCAP), damaged(PCAPNG)), st.integers(1, 40))
def test_any_capture_is_packets_or_refused(capture: bytes, step: int) -> None:
    """Any bytes are packets or a WireError, the same ones however they are cut; their UDP payloads never raise."""
    whole: list[Packet] = []
    pieces: list[Packet] = []
    for held, size in ((whole, len(capture) + 1), (pieces, step)):
        reader = PcapReader()
        try:
            for place in range(0, len(capture), size):
                held.extend(reader.feed(capture[place : place + size]))
            reader.close()
        except WireError:
            pass
    assert pieces == whole
    assert list(udp_payloads(whole)) == [found.datagram for found in UdpPayloads().feed(whole)]


def test_a_capture_cut_anywhere() -> None:
    """A capture cut at any place gives the packets before the cut, then a WireError, unless it is cut between two."""
    for whole in (PCAP, PCAPNG):
        expected = read_pcap(whole)
        for end in range(len(whole)):
            reader = PcapReader()
            found = reader.feed(whole[:end])
            assert found == expected[: len(found)]
            try:
                reader.close()
            except WireError:
                continue
            assert read_pcap(whole[:end]) == found


@EXAMPLES
@given(st.lists(st.one_of(st.binary(max_size=200), damaged(SFLOW)), max_size=4))
def test_any_datagram_is_cooked_or_refused(payloads: list[bytes]) -> None:
    """Any bytes are an sFlow datagram or a WireError; the cooking refuses exactly those, and what is not whole."""
    bad = []
    for row, payload in enumerate(payloads):
        try:
            bad += [row] if decode(payload).defects else []
        except WireError:
            bad.append(row)
    rows: list[dict[str, Value]] = [{"event.original": payload} for payload in payloads]
    result = sflow_cooking.Cooking(sflow_cooking.Config()).on_batch(raw_batch("sflow", rows), 0)
    assert [row for refusal in result.refusals for row in refusal.rows] == bad
    rows_of(result)


def test_a_datagram_cut_anywhere() -> None:
    """An sFlow datagram cut at any place is refused; the samples before the cut are those of the whole."""
    whole = list(map(_essence, rows_of(_cooked([SFLOW]))))
    for end in range(len(SFLOW)):
        result = _cooked([SFLOW[:end]])
        found = list(map(_essence, rows_of(result)))
        assert found == [row for row in whole if row in found]
        assert len(found) < len(whole)
        assert sum(len(refusal.rows) for refusal in result.refusals) == 1


def _cooked(payloads: list[bytes]) -> Result:
    rows: list[dict[str, Value]] = [{"event.original": payload} for payload in payloads]
    return sflow_cooking.Cooking(sflow_cooking.Config()).on_batch(raw_batch("sflow", rows), 0)


def _essence(row: dict[str, Value]) -> dict[str, Value]:
    """An event without its number."""
    return {name: value for name, value in row.items() if name != "id"}


@EXAMPLES
@given(st.binary(min_size=1, max_size=400), st.integers(1, 6), st.randoms(use_true_random=False))
def test_fragments_in_any_order_are_the_datagram(whole: bytes, units: int, random: object) -> None:
    """However a datagram is cut and shuffled, it comes out once and whole."""
    size = units * 8
    pieces = [(place, whole[place : place + size]) for place in range(0, len(whole), size)]
    random.shuffle(pieces)  # type: ignore[attr-defined]  # a random.Random
    defragmenter = Defragmenter()
    out = [defragmenter.add(b"k", 0, place, part, more=place + len(part) < len(whole)) for place, part in pieces]
    assert [part for part in out if part] == [whole]
    assert not defragmenter.lost


@EXAMPLES
@given(st.lists(st.tuples(st.integers(0, 8191), st.binary(max_size=40), st.booleans()), max_size=20))
def test_any_fragments_are_bounded(pieces: list[tuple[int, bytes, bool]]) -> None:
    """Pieces that contradict each other never raise, and nothing longer than a datagram comes out."""
    defragmenter = Defragmenter()
    for units, part, more in pieces:
        assert len(defragmenter.add(b"k", 0, units * 8, part, more=more)) <= MAX_DATAGRAM_BYTES
