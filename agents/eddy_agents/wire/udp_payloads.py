"""What UDP carries in a capture: payloads with sender and ports, IP fragments put together.

What may live here: `UdpPayloads`, which keeps fragments between calls, `udp_payloads` for a capture that is held whole,
and `unwrap`, which makes raw events of them, so that a capture of exports is the same as the exports themselves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Final, NamedTuple

import numpy as np

from eddy_agents.wire.fragments import Defragmenter
from eddy_agents.wire.packet import Headers, decode
from eddy_agents.wire.pcap import Packet
from eddy_mesh.agent import Draft
from eddy_mesh.batch import Kind
from eddy_mesh.cer import EventClass, Stage
from eddy_mesh.columnize import column_of
from eddy_mesh.columns import Bytes, Column, Constant, Numbers, address_text, pack
from eddy_mesh.fields import FieldType

_UDP: Final = 17
_HEADER_BYTES: Final = 8
_CHUNK: Final = 1024
"""Packets that `udp_payloads` decodes together."""

RAW_KINDS: Final = {
    "netflow": (Kind(Stage.RAW, EventClass.NETWORK, "netflow"), "application/octet-stream"),
    "sflow": (Kind(Stage.RAW, EventClass.NETWORK, "sflow"), "application/octet-stream"),
    "syslog": (Kind(Stage.RAW, EventClass.SYSTEM, "syslog"), "text/plain"),
}
"""Raw types that a UDP payload can be, with the kind and media type of their events."""


class UdpPayload(NamedTuple):
    """One UDP datagram.

    Attributes:
        timestamp_ns: ns since 1970 UTC of the packet that completed it.
        source_ip: canonical text.
        source_port, destination_port: 0-65535.
        payload: what follows the UDP header; shorter than it was where the capture cut the packet.
    """

    timestamp_ns: int
    source_ip: str
    source_port: int
    destination_port: int
    payload: bytes


class Found(NamedTuple):
    """A datagram and the packet that completed it.

    Attributes:
        row: offset of that packet in what was given.
        is_whole: whether that packet alone is the datagram; False for the last of its fragments.
        datagram: the datagram.
    """

    row: int
    is_whole: bool
    datagram: UdpPayload


class UdpPayloads:
    """Finds UDP datagrams in packets that come in pieces."""

    def __init__(self, ports: Iterable[int] | None = None) -> None:
        """Args: ports: destination ports that are wanted, None for all."""
        self._ports = None if ports is None else np.array(sorted(ports), np.int64)
        self._fragments = Defragmenter()

    @property
    def lost(self) -> Counter[str]:
        """Return how many datagrams could not be put together, by reason."""
        return self._fragments.lost

    def feed(self, packets: Sequence[Packet]) -> list[Found]:
        """Return the wanted datagrams that ``packets`` complete, in order."""
        offsets, data = pack([packet.captured for packet in packets])
        link_types = np.fromiter((packet.link_type for packet in packets), np.int64, len(packets))
        lengths = np.fromiter((packet.length for packet in packets), np.int64, len(packets))
        headers = decode(data, offsets.astype(np.int64), link_types, lengths)
        is_piece = headers.is_fragment
        wanted = is_piece | (headers.source_port >= 0)
        if self._ports is not None:
            wanted &= is_piece | np.isin(headers.destination_port, self._ports)
        found = []
        for row in np.flatnonzero(wanted & (headers.protocol == _UDP)).tolist():
            body: bytes = data[int(headers.payload[row]) : int(headers.payload_end[row])]
            if is_piece[row]:
                key = _fragment_key(headers, row)
                place = int(headers.fragment_offset[row])
                more = bool(headers.more_fragments[row] == 1)
                body = self._fragments.add(key, packets[row].timestamp_ns, place, body, more=more)
            datagram = _datagram(headers, row, packets[row].timestamp_ns, body)
            if datagram is not None and (self._ports is None or datagram.destination_port in self._ports):
                found.append(Found(row, not is_piece[row], datagram))
        return found

    def close(self) -> None:
        """Count datagrams whose fragments did not all come as lost."""
        self._fragments.close()


def _fragment_key(headers: Headers, row: int) -> bytes:
    """Return what the fragments of one datagram share. Source: RFC 791 section 3.2, RFC 8200 section 4.5."""
    identification = int(headers.identification[row]).to_bytes(4, "big")
    ends: bytes = headers.source_ip[row].tobytes() + headers.destination_ip[row].tobytes()
    return ends + identification


def _datagram(headers: Headers, row: int, timestamp_ns: int, body: bytes) -> UdpPayload | None:
    """Return the datagram that an IP payload is; None where not even the UDP header is there."""
    if len(body) < _HEADER_BYTES:
        return None
    size = int.from_bytes(body[4:6], "big")
    end = size if size >= _HEADER_BYTES else len(body)  # 0: a jumbogram, RFC 2675 section 4
    source_ip = address_text(int(headers.source_ip[row, 0]), int(headers.source_ip[row, 1]))
    source_port, destination_port = int.from_bytes(body[0:2], "big"), int.from_bytes(body[2:4], "big")
    return UdpPayload(timestamp_ns, source_ip, source_port, destination_port, body[_HEADER_BYTES:end])


def udp_payloads(packets: Iterable[Packet]) -> Iterator[UdpPayload]:
    """Yield every UDP datagram of a capture, in order; a datagram whose fragments are not all there is left out.

    Args:
        packets: in the order of the capture; read as they are needed.
    """
    reader = UdpPayloads()
    source = iter(packets)
    while chunk := list(islice(source, _CHUNK)):
        for found in reader.feed(chunk):
            yield found.datagram


def unwrap(packets: Iterable[Packet], ports: Mapping[int, str]) -> list[Draft]:
    """Return raw events of the exports in a capture, one draft for each type.

    Args:
        packets: in the order of the capture.
        ports: UDP destination port to raw type, one of `RAW_KINDS`.
    """
    wanted = (datagram for datagram in udp_payloads(packets) if datagram.destination_port in ports)
    return drafts_of(list(wanted), ports)


def drafts_of(datagrams: Sequence[UdpPayload], ports: Mapping[int, str]) -> list[Draft]:
    """Return raw events of datagrams, their senders as hosts, one draft for each type.

    Args:
        datagrams: each with a destination port that is in ``ports``.
        ports: UDP destination port to raw type, one of `RAW_KINDS`.
    """
    by_type: dict[str, list[UdpPayload]] = {}
    for datagram in datagrams:
        by_type.setdefault(ports[datagram.destination_port], []).append(datagram)
    return [_draft(name, members) for name, members in by_type.items()]


def _draft(name: str, datagrams: Sequence[UdpPayload]) -> Draft:
    kind, media_type = RAW_KINDS[name]
    count = len(datagrams)
    times = Numbers(np.fromiter((datagram.timestamp_ns for datagram in datagrams), np.int64, count))
    senders = column_of(FieldType.ADDRESS, [datagram.source_ip for datagram in datagrams])
    columns: dict[str, Column] = {
        "event.original": Bytes(*pack([datagram.payload for datagram in datagrams])),
        "raw.media_type": Constant(media_type, count),
        "observed": times,
        "occurred": times,
        "host_address": senders,
        "source.ip": senders,
        "source.port": Numbers(np.fromiter((datagram.source_port for datagram in datagrams), np.uint16, count)),
        "destination.port": Numbers(
            np.fromiter((datagram.destination_port for datagram in datagrams), np.uint16, count)
        ),
    }
    return Draft(kind, count, columns)
