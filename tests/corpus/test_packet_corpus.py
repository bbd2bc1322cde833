"""Real captures against tcpdump's own text: addresses, ports, times, and every number of sFlow counters."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from eddy_agents.wire.packet import Headers, decode
from eddy_agents.wire.pcap import Packet, PcapReader, read_pcap
from eddy_agents.wire.sflow import Datagram
from eddy_agents.wire.sflow import decode as decode_sflow
from eddy_agents.wire.udp_payloads import UdpPayloads, udp_payloads
from eddy_mesh.columns import address_text, pack
from eddy_mesh.errors import WireError

pytestmark = pytest.mark.corpus

FOLDERS = ("pcap/tcpdump", "routing/tcpdump")
PACKET_LINE = re.compile(
    r"^ *(?P<number>\d+) {2}(?P<time>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)\.(?P<fraction>\d+) (?P<text>.*)"
)
ENDS = re.compile(r"(?:^|[ :])(?P<source>[0-9a-f:.]+) > (?P<destination>[0-9a-f:.]+?)(?:[:,] | |:?$)")
IP_WORD = re.compile(r"\bIP6?\b|ethertype IPv[46] ")
LEAST_COMPARED = 1300
"""So that a test that compares nothing fails."""

NOT_DECODED = {
    "ppp_ip_udp_dns-vv": "tcpdump guesses at IP behind an unknown PPP protocol",
    "bgp-aigp": "Juniper's own link layer",
    "geneve-vni": "tcpdump was told to show a part",
    "geneve-tcp": "the same",
    "pppoes_id": "the same",
}


class Ends(NamedTuple):
    """What a line of tcpdump says of a packet; -1 for a port that it does not say."""

    source: str
    source_port: int
    destination: str
    destination_port: int


def expected_packets(text: str) -> dict[int, tuple[str, str]]:
    """Number of each packet to its time and the text of its first two lines."""
    packets: dict[int, tuple[str, str]] = {}
    lines = text.splitlines()
    for place, line in enumerate(lines):
        matched = PACKET_LINE.match(line)
        if matched is None:
            continue
        following = lines[place + 1] if place + 1 < len(lines) and not PACKET_LINE.match(lines[place + 1]) else ""
        time = f"{matched['time']}.{matched['fraction'].ljust(9, '0')}"
        packets[int(matched["number"])] = (time, f"{matched['text']}\n{following.strip()}")
    return packets


def ends_of(text: str) -> Ends | None:
    """The first ends that tcpdump names, of a packet that it says is IP."""
    if not IP_WORD.search(text):
        return None
    for matched in ENDS.finditer(text.replace("\n", " ")):
        source, destination = split(matched["source"]), split(matched["destination"])
        if source is not None and destination is not None:
            return Ends(*source, *destination)
    return None


def split(text: str) -> tuple[str, int] | None:
    """Address and port of an end as tcpdump writes it; None where it is neither."""
    address, _, port = text.rpartition(".")
    for candidate, number in ((text, -1), (address, int(port) if port.isdigit() else -1)):
        try:
            return str(ip_address(candidate)), number
        except ValueError:
            continue
    return None


def headers_of(packets: list[Packet]) -> Headers:
    """The headers of all packets."""
    offsets, data = pack([packet.captured for packet in packets])
    link_types = np.array([packet.link_type for packet in packets], np.int64)
    lengths = np.array([packet.length for packet in packets], np.int64)
    return decode(data, offsets.astype(np.int64), link_types, lengths)


def ends_at(headers: Headers, row: int, said: Ends) -> Ends:
    """The ends that were decoded, with a port only where tcpdump says one."""
    source = address_text(int(headers.source_ip[row, 0]), int(headers.source_ip[row, 1]))
    destination = address_text(int(headers.destination_ip[row, 0]), int(headers.destination_ip[row, 1]))
    source_port = int(headers.source_port[row]) if said.source_port >= 0 else -1
    destination_port = int(headers.destination_port[row]) if said.destination_port >= 0 else -1
    return Ends(source, source_port, destination, destination_port)


def time_text(timestamp_ns: int) -> str:
    """A time as tcpdump prints it, with nine digits."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=timestamp_ns // 1_000_000_000)
    return f"{moment:%Y-%m-%d %H:%M:%S}.{timestamp_ns % 1_000_000_000:09d}"


def test_packets_are_what_tcpdump_says(corpus: Path) -> None:
    """Wherever tcpdump names the ends of an IP packet, the same addresses, ports and time were decoded."""
    compared = 0
    wrong: list[str] = []
    for folder in FOLDERS:
        for case in json.loads((corpus / folder / "index.json").read_text()):
            if case["name"] in NOT_DECODED:
                continue
            packets = read_pcap((corpus / folder / case["pcap"]).read_bytes())
            headers = headers_of(packets)
            text = (corpus / folder / case["expected"]).read_text(errors="replace")
            for number, (time, lines) in expected_packets(text).items():
                said = ends_of(lines)
                if said is None:
                    continue
                compared += 1
                read = ends_at(headers, number - 1, said)
                if (read, time_text(packets[number - 1].timestamp_ns)) != (said, time):
                    wrong.append(f"{case['name']} {number}: {said} {time}, read {read}")
    assert not wrong
    assert compared >= LEAST_COMPARED


def test_every_capture_is_read(corpus: Path) -> None:
    """Every capture of the corpus is read to its end, all of its packets are decoded, and its UDP is taken out."""
    files = sorted(path for path in corpus.rglob("*") if path.suffix in {".pcap", ".pcapng"})
    assert len(files) > 200
    packets = datagrams = 0
    for path in files:
        reader = PcapReader()
        held = reader.feed(path.read_bytes())
        reader.close()
        packets += len(headers_of(held).version)
        datagrams += len(UdpPayloads().feed(held))
    assert packets > 15_000
    assert datagrams > 2_000


# --- sFlow -----------------------------------------------------------------------------------------------------------

COUNTER_LINES = {
    "ifindex": "ifIndex ifType ifSpeed ifDirection",
    "ifstatus": "ifStatus",
    "In octets": "ifInOctets ifInUcastPkts ifInMulticastPkts ifInBroadcastPkts ifInDiscards",
    "In errors": "ifInErrors ifInUnknownProtos",
    "Out octets": "ifOutOctets ifOutUcastPkts ifOutMulticastPkts ifOutBroadcastPkts ifOutDiscards",
    "Out errors": "ifOutErrors ifPromiscuousMode",
    "align errors": "dot3StatsAlignmentErrors dot3StatsFCSErrors dot3StatsSingleCollisionFrames"
    " dot3StatsMultipleCollisionFrames dot3StatsSQETestErrors",
    "deferred": "dot3StatsDeferredTransmissions dot3StatsLateCollisions dot3StatsExcessiveCollisions"
    " dot3StatsInternalMacTransmitErrors",
    "carrier error": "dot3StatsCarrierSenseErrors dot3StatsFrameTooLongs dot3StatsInternalMacReceiveErrors"
    " dot3StatsSymbolErrors",
}
"""How each line of tcpdump begins, and the members whose values it gives."""


def numbers(text: str) -> list[int]:
    """The decimal numbers that stand alone in a line."""
    return [int(word) for word in re.findall(r"(?<![\w.])\d+(?![\w.])", text)]


def decoded_lines(datagram: Datagram) -> list[tuple[str, list[int]]]:
    """What tcpdump would print of a datagram: the start of each line and its numbers."""
    count = len(datagram.flows) + len(datagram.counters) + len(datagram.others)
    lines = [("sFlowv5", [datagram.sub_agent, datagram.sequence, datagram.uptime_ms, count])]
    for sample in datagram.counters:
        lines.append(("sample", [sample.sequence, sample.source_type, sample.source_index]))
        for start, names in COUNTER_LINES.items():
            values = [sample.fields.get(f"sflow.{name}") for name in names.split()]
            known = [value for value in values if isinstance(value, int)]
            if known:
                assert len(known) == len(values)
                lines.append((start, known))
    return lines


def printed_lines(text: str) -> list[list[tuple[str, list[int]]]]:
    """What tcpdump printed of each datagram that it took for sFlow version 5."""
    datagrams: list[list[tuple[str, list[int]]]] = []
    for line in text.splitlines():
        if header := re.search(r"sFlowv5, IPv4 agent [\d.]+, (agent-id .*samples \d+)", line):
            datagrams.append([("sFlowv5", numbers(header[1]))])
        elif sample := re.search(r"counter sample \(\d\), length \d+, (seqnum .*), records", line):
            datagrams[-1].append(("sample", numbers(sample[1])))
        else:
            start = next((start for start in COUNTER_LINES if line.strip().startswith(start + " ")), "")
            if start:
                datagrams[-1].append((start, numbers(line)))
    return datagrams


def test_sflow_counters_are_what_tcpdump_says(corpus: Path) -> None:
    """Every datagram, sample and counter of the capture has the numbers that tcpdump prints; no line is left over."""
    folder = corpus / "routing" / "tcpdump"
    payloads = list(udp_payloads(read_pcap((folder / "sflow_multiple_counter_30_pdus.pcap").read_bytes())))
    decoded, refused = [], 0
    for payload in payloads:
        try:
            decoded.append(decoded_lines(decode_sflow(payload.payload)))
        except WireError:
            refused += 1
    printed = printed_lines((folder / "sflow_multiple_counter_30_pdus.out").read_text())
    assert decoded == printed
    assert (len(printed), refused, sum(map(len, printed))) == (25, 5, 25 + 144 + 142 * 9)


def test_broken_sflow_is_refused(corpus: Path) -> None:
    """The datagram that once crashed tcpdump is a WireError."""
    (payload,) = udp_payloads(read_pcap((corpus / "routing" / "tcpdump" / "sflow_print-segv.pcap").read_bytes()))
    with pytest.raises(WireError):
        decode_sflow(payload.payload)
