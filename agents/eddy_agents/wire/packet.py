"""Headers of packets: link layer, IPv4, IPv6 and the first bytes of the transport, for many packets at once.

What may live here: `decode`, which walks all packets of a buffer together, one header at a time, as numpy arrays of
positions; nothing is done per packet in Python. A header that is cut off, or not what it should be, ends the walk of
its packet; what was read before stays. Nothing here raises on any bytes.

Sources: RFC 791, 8200 (IP), 9293 (TCP), 768 (UDP), 792 and 4443 (ICMP), 9260 (SCTP), 3032 (MPLS), 2516 (PPPoE), 1661
(PPP), 2427 (frame relay), IEEE 802.1Q, 802.1ad and 802.3; link types of draft-ietf-opsawg-pcaplinktype.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt

from eddy_mesh.columns import V4_MAPPED

Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

IPV4: Final = 0x0800
IPV6: Final = 0x86DD
_MPLS: Final = (0x8847, 0x8848)
_VLAN: Final = (0x8100, 0x88A8, 0x9100)
_PPPOE_SESSION: Final = 0x8864
_PPP: Final = {0x0021: IPV4, 0x0057: IPV6, 0x0281: 0x8847}
_LEAST_ETHERTYPE: Final = 0x0600
"""A smaller number is the length of an IEEE 802.3 frame."""

MAX_SHIMS: Final = 16
"""Most tags, labels or IPv6 extension headers that are followed; twice what Linux follows."""

_TCP: Final = 6
_WITH_PORTS: Final = (_TCP, 17, 33, 132, 136)  # tcp, udp, dccp, sctp, udp-lite
_ICMP: Final = (1, 58)
_FRAGMENT: Final = 44
_AUTHENTICATION: Final = 51
_EXTENSIONS: Final = (0, 43, 60, 139, 140, _FRAGMENT, _AUTHENTICATION)
"""Hop-by-hop, routing, destination options, HIP, shim6, fragment, authentication; the mobility header ends a packet."""


def _table(size: int, members: Iterable[int]) -> Mask:
    """Return True at each of ``members``: a look-up that is faster than a search. The last place stands for -1."""
    table = np.zeros(size, np.bool_)
    table[list(members)] = True
    return table


_IS_SHIM: Final = _table(0x10000, (*_VLAN, *_MPLS, _PPPOE_SESSION))
_IS_EXTENSION: Final = _table(256, _EXTENSIONS)
_HAS_PORTS: Final = _table(256, _WITH_PORTS)
_IS_ICMP: Final = _table(256, _ICMP)


@dataclass(frozen=True, slots=True)
class Headers:
    """What the headers of n packets say: one array of length n each; -1 where a packet does not have the field.

    Attributes:
        known: whether the link type is one that can be decoded.
        ethertype: protocol after the link layer, tags and labels.
        source_mac, destination_mac: 48-bit numbers.
        vlan, inner_vlan: VLAN ids, the outer tag first, 0-4095.
        version: 4, 6, or -1 for what is not IP.
        source_ip, destination_ip: shape (n, 2), ``>u8`` halves, IPv4 mapped; 0 where not IP.
        protocol: IP protocol, after IPv6 extension headers.
        ip_bytes: octets of the IP packet on the wire.
        identification: of an IPv4 packet or of an IPv6 fragment.
        fragment_offset: octets from the start of the datagram; 0 for a first or only fragment.
        more_fragments: 1 where others follow, else 0 or -1.
        payload: position in the buffer of what follows the IP headers.
        payload_end: position where the IP packet ends, or where the captured bytes do.
        source_port, destination_port: 0-65535.
        tcp_flags: 12 bits. Source: RFC 9293 section 3.1.
        icmp: type * 256 + code, of ICMP and ICMPv6.
    """

    known: Mask
    ethertype: Integers
    source_mac: Integers
    destination_mac: Integers
    vlan: Integers
    inner_vlan: Integers
    version: Integers
    source_ip: npt.NDArray[np.uint64]
    destination_ip: npt.NDArray[np.uint64]
    protocol: Integers
    ip_bytes: Integers
    identification: Integers
    fragment_offset: Integers
    more_fragments: Integers
    payload: Integers
    payload_end: Integers
    source_port: Integers
    destination_port: Integers
    tcp_flags: Integers
    icmp: Integers

    @property
    def is_fragment(self) -> Mask:
        """Whether the packet is a piece of an IP datagram."""
        is_piece: Mask = (self.fragment_offset > 0) | (self.more_fragments == 1)
        return is_piece


class _Walk:
    """The packets of one buffer, each with the position up to which it was read."""

    def __init__(self, data: bytes | memoryview, offsets: Integers, lengths: Integers) -> None:
        size, count = len(data), len(lengths)
        if size == 0:
            data = bytes(1)  # numpy makes no view of an empty buffer; no position lies in it
        self.octet = np.frombuffer(data, np.uint8)
        # One big-endian number begins at every byte: a gather then reads a field of all packets at once.
        self.short = np.ndarray((max(size - 1, 0),), ">u2", data, strides=(1,))
        self.long = np.ndarray((max(size - 3, 0),), ">u4", data, strides=(1,))
        self.wide = np.ndarray((max(size - 15, 0), 2), ">u8", data, strides=(1, 8))
        self.position = offsets[:-1].copy()
        self.end = offsets[1:]
        self.wire_end = offsets[:-1] + lengths
        self.number = {name: np.full(count, -1, np.int64) for name in _NUMBER_FIELDS}
        self.source_ip = np.zeros((count, 2), ">u8")
        self.destination_ip = np.zeros((count, 2), ">u8")

    def fitting(self, rows: Integers, size: int) -> Integers:
        """Return those of ``rows`` that still have ``size`` captured bytes."""
        return rows[self.position[rows] + size <= self.end[rows]]

    def octets(self, rows: Integers, offset: int) -> Integers:
        return self.octet[self.position[rows] + offset].astype(np.int64)

    def shorts(self, rows: Integers, offset: int) -> Integers:
        return self.short[self.position[rows] + offset].astype(np.int64)

    def longs(self, rows: Integers, offset: int) -> Integers:
        return self.long[self.position[rows] + offset].astype(np.int64)

    def macs(self, rows: Integers, offset: int) -> Integers:
        return self.shorts(rows, offset) << 32 | self.longs(rows, offset + 2)

    def rows_with(self, ethertype: int) -> Integers:
        """Return the rows whose next header is ``ethertype``."""
        return np.flatnonzero(self.number["ethertype"] == ethertype)

    def go_on(self, rows: Integers, size: int, ethertype: Integers | int) -> None:
        """Step over a header of ``size`` bytes, after which ``ethertype`` follows."""
        self.position[rows] += size
        self.number["ethertype"][rows] = ethertype


_NUMBER_FIELDS: Final = tuple(field.name for field in fields(Headers) if field.type == "Integers")


def decode(data: bytes | memoryview, offsets: Integers, link_types: Integers, lengths: Integers) -> Headers:
    """Return the headers of packets that lie end to end in a buffer; total.

    Args:
        data: the captured bytes of all packets.
        offsets: shape (n + 1,): packet i is ``data[offsets[i]:offsets[i + 1]]``; ascending, within ``data``.
        link_types: shape (n,), LINKTYPE numbers.
        lengths: shape (n,), octets of each packet on the wire.
    """
    walk = _Walk(data, offsets.astype(np.int64), lengths.astype(np.int64))
    known = np.zeros(len(lengths), np.bool_)
    for link_type in np.unique(link_types).tolist():
        enter = _LINKS.get(link_type)
        if enter is not None:
            rows = np.flatnonzero(link_types == link_type)
            known[rows] = True
            enter(walk, rows)
    _step_over_shims(walk)
    _read_ipv4(walk)
    _read_ipv6(walk)
    _read_transport(walk)
    return Headers(known=known, source_ip=walk.source_ip, destination_ip=walk.destination_ip, **walk.number)


# --- link layers -------------------------------------------------------------------------------------------------


def _ethernet(walk: _Walk, rows: Integers) -> None:
    rows = walk.fitting(rows, 14)
    walk.number["destination_mac"][rows] = walk.macs(rows, 0)
    walk.number["source_mac"][rows] = walk.macs(rows, 6)
    walk.go_on(rows, 14, walk.shorts(rows, 12))
    _step_over_llc(walk, rows)


def _step_over_llc(walk: _Walk, rows: Integers) -> None:
    """Step over LLC and SNAP where an IEEE 802.3 length stands in place of the ethertype."""
    rows = walk.fitting(rows[walk.number["ethertype"][rows] < _LEAST_ETHERTYPE], 8)
    rows = rows[(walk.longs(rows, 0) == 0xAAAA_0300) & (walk.shorts(rows, 4) == 0)]
    walk.go_on(rows, 8, walk.shorts(rows, 6))


def _fixed(walk: _Walk, rows: Integers, *, size: int, ethertype_at: int) -> None:
    """Step over a link-layer header of ``size`` bytes with the ethertype at a fixed place."""
    rows = walk.fitting(rows, size)
    walk.go_on(rows, size, walk.shorts(rows, ethertype_at))


def _cooked_capture(
    walk: _Walk, rows: Integers, *, size: int, ethertype_at: int, mac_size_at: int, mac_at: int
) -> None:
    """Linux "any" devices: the header holds the sender's address, of any length up to 8."""
    rows = walk.fitting(rows, size)
    with_mac = rows[walk.octets(rows, mac_size_at) == 6]
    walk.number["source_mac"][with_mac] = walk.macs(with_mac, mac_at)
    walk.go_on(rows, size, walk.shorts(rows, ethertype_at))


def _family(walk: _Walk, rows: Integers) -> None:
    """BSD loopback: an address family in the byte order of the host that captured, or of the network."""
    rows = walk.fitting(rows, 4)
    family = walk.longs(rows, 0)
    family = np.where(family > 0xFFFF, family >> 24, family)  # the numbers in use fit one byte
    is_ipv6 = np.isin(family, (10, 24, 28, 30))  # Linux, NetBSD, FreeBSD, Darwin
    walk.go_on(rows, 4, np.where(family == 2, IPV4, np.where(is_ipv6, IPV6, -1)))


def _by_version(walk: _Walk, rows: Integers) -> None:
    """No header: the first half byte of the IP packet says which it is."""
    rows = walk.fitting(rows, 1)
    version = walk.octets(rows, 0) >> 4
    walk.go_on(rows, 0, np.where(version == 4, IPV4, np.where(version == 6, IPV6, -1)))


def _assumed(walk: _Walk, rows: Integers, *, ethertype: int) -> None:
    walk.go_on(rows, 0, ethertype)


def _ppp(walk: _Walk, rows: Integers) -> None:
    """PPP, with or without address and control bytes. Source: RFC 1662 section 3.1."""
    framed = walk.fitting(rows, 2)
    walk.position[framed[walk.shorts(framed, 0) == 0xFF03]] += 2
    rows = walk.fitting(rows, 1)
    compressed = rows[walk.octets(rows, 0) & 1 == 1]  # RFC 1661 section 6.5
    full = walk.fitting(rows[walk.octets(rows, 0) & 1 == 0], 2)
    walk.go_on(full, 2, _ethertype_of_ppp(walk.shorts(full, 0)))
    walk.go_on(compressed, 1, _ethertype_of_ppp(walk.octets(compressed, 0)))


def _frame_relay(walk: _Walk, rows: Integers) -> None:
    """Frame relay: an ethertype (Cisco), or an NLPID with or without SNAP. Source: RFC 2427 sections 3 and 4."""
    rows = walk.fitting(rows, 2)
    walk.position[rows] += np.where(walk.octets(rows, 1) & 1 == 1, 2, 4)  # the last octet of an address is odd
    rows = walk.fitting(rows, 2)
    start = walk.shorts(rows, 0)
    walk.go_on(rows, 2, np.where(start == 0x03CC, IPV4, np.where(start == 0x038E, IPV6, start)))
    with_snap = walk.fitting(rows[start == 0x0300], 6)
    walk.go_on(with_snap, 6, walk.shorts(with_snap, 4))


def _ethertype_of_ppp(protocols: Integers) -> Integers:
    ethertypes = np.full(len(protocols), -1, np.int64)
    for protocol, ethertype in _PPP.items():
        ethertypes[protocols == protocol] = ethertype
    return ethertypes


_LINKS: Final[dict[int, Callable[[_Walk, Integers], None]]] = {
    0: _family,
    1: _ethernet,
    9: _ppp,
    12: _by_version,
    14: _by_version,
    50: _ppp,
    51: partial(_assumed, ethertype=_PPPOE_SESSION),
    101: _by_version,
    104: partial(_fixed, size=4, ethertype_at=2),  # Cisco HDLC
    107: _frame_relay,
    108: _family,
    113: partial(_cooked_capture, size=16, ethertype_at=14, mac_size_at=5, mac_at=6),
    219: partial(_assumed, ethertype=_MPLS[0]),
    228: partial(_assumed, ethertype=IPV4),
    229: partial(_assumed, ethertype=IPV6),
    242: partial(_fixed, size=44, ethertype_at=40),  # IP over InfiniBand
    276: partial(_cooked_capture, size=20, ethertype_at=0, mac_size_at=11, mac_at=12),
}


# --- between link layer and IP -----------------------------------------------------------------------------------


def _step_over_shims(walk: _Walk) -> None:
    for _ in range(MAX_SHIMS):
        shims = np.flatnonzero(_IS_SHIM[walk.number["ethertype"]])
        if not len(shims):  # nearly always
            return
        ethertype = walk.number["ethertype"][shims]
        tagged = walk.fitting(shims[np.isin(ethertype, _VLAN)], 4)
        labelled = walk.fitting(shims[np.isin(ethertype, _MPLS)], 4)
        in_session = walk.fitting(shims[ethertype == _PPPOE_SESSION], 6)
        _step_over_tag(walk, tagged)
        _step_over_label(walk, labelled)
        walk.go_on(in_session, 6, -1)
        _ppp(walk, in_session)


def _step_over_tag(walk: _Walk, rows: Integers) -> None:
    vlan = walk.shorts(rows, 0) & 0x0FFF
    outer = walk.number["vlan"][rows] < 0
    walk.number["vlan"][rows[outer]] = vlan[outer]
    walk.number["inner_vlan"][rows[~outer]] = vlan[~outer]
    walk.go_on(rows, 4, walk.shorts(rows, 2))
    _step_over_llc(walk, rows)


def _step_over_label(walk: _Walk, rows: Integers) -> None:
    """After the last label nothing says what follows: take IP by its version. Source: RFC 3032 section 2.1."""
    is_last = walk.octets(rows, 2) & 1 == 1
    walk.position[rows] += 4
    last = rows[is_last]
    walk.number["ethertype"][last] = -1
    _by_version(walk, last)


# --- IP ----------------------------------------------------------------------------------------------------------


def _read_ipv4(walk: _Walk) -> None:
    rows = walk.fitting(walk.rows_with(IPV4), 20)
    if not len(rows):
        return
    first = walk.octets(rows, 0)
    rows = rows[(first >> 4 == 4) & (first & 15 >= 5)]
    header = (walk.octets(rows, 0) & 15) * 4
    flags = walk.shorts(rows, 6)
    number = walk.number
    number["version"][rows] = 4
    walk.source_ip[rows, 1] = walk.longs(rows, 12) + V4_MAPPED
    walk.destination_ip[rows, 1] = walk.longs(rows, 16) + V4_MAPPED
    number["protocol"][rows] = walk.octets(rows, 9)
    number["identification"][rows] = walk.shorts(rows, 4)
    number["fragment_offset"][rows] = (flags & 0x1FFF) * 8
    number["more_fragments"][rows] = flags >> 13 & 1
    _measure(walk, rows, walk.shorts(rows, 2), header)
    number["payload"][rows] = walk.position[rows] + header


def _read_ipv6(walk: _Walk) -> None:
    rows = walk.fitting(walk.rows_with(IPV6), 40)
    if not len(rows):
        return
    rows = rows[walk.octets(rows, 0) >> 4 == 6]
    walk.number["version"][rows] = 6
    walk.source_ip[rows] = walk.wide[walk.position[rows] + 8]
    walk.destination_ip[rows] = walk.wide[walk.position[rows] + 24]
    walk.number["protocol"][rows] = walk.octets(rows, 6)
    payload_bytes = walk.shorts(rows, 4)
    _measure(walk, rows, np.where(payload_bytes > 0, payload_bytes + 40, 0), np.full(len(rows), 40))
    walk.position[rows] += 40
    walk.number["payload"][rows] = walk.position[rows]
    _step_over_extensions(walk, rows)


def _measure(walk: _Walk, rows: Integers, total: Integers, header: Integers) -> None:
    """Set the length of IP packets; one that can not be true (0 with segmentation off-load) is that of the frame."""
    on_wire = walk.wire_end[rows] - walk.position[rows]
    ip_bytes = np.where((total >= header) & (total <= on_wire), total, on_wire)
    walk.number["ip_bytes"][rows] = ip_bytes
    walk.number["payload_end"][rows] = np.minimum(walk.position[rows] + ip_bytes, walk.end[rows])


def _step_over_extensions(walk: _Walk, rows: Integers) -> None:
    number = walk.number
    for _ in range(MAX_SHIMS):
        protocol = number["protocol"][rows]
        rows = rows[_IS_EXTENSION[protocol] & (number["fragment_offset"][rows] <= 0)]
        rows = walk.fitting(rows, 8)
        if not len(rows):
            return
        protocol = number["protocol"][rows]
        pieces = rows[protocol == _FRAGMENT]
        number["fragment_offset"][pieces] = walk.shorts(pieces, 2) & 0xFFF8
        number["more_fragments"][pieces] = walk.shorts(pieces, 2) & 1
        number["identification"][pieces] = walk.longs(pieces, 4)
        number["protocol"][rows] = walk.octets(rows, 0)
        units = walk.octets(rows, 1)
        size = np.where(protocol == _AUTHENTICATION, (units + 2) * 4, (units + 1) * 8)
        walk.position[rows] += np.where(protocol == _FRAGMENT, 8, size)
        number["payload"][rows] = walk.position[rows]


# --- transport ---------------------------------------------------------------------------------------------------


def _read_transport(walk: _Walk) -> None:
    """Read ports, TCP flags and ICMP type of packets that hold the start of their datagram."""
    number = walk.number
    rows = np.flatnonzero((number["version"] > 0) & (number["fragment_offset"] <= 0))
    walk.position[rows] = number["payload"][rows]
    walk.end = np.where(number["payload_end"] >= 0, number["payload_end"], walk.end)
    protocol = number["protocol"][rows]
    with_ports = walk.fitting(rows[_HAS_PORTS[protocol]], 4)
    number["source_port"][with_ports] = walk.shorts(with_ports, 0)
    number["destination_port"][with_ports] = walk.shorts(with_ports, 2)
    tcp = walk.fitting(rows[protocol == _TCP], 14)
    number["tcp_flags"][tcp] = walk.shorts(tcp, 12) & 0x0FFF
    icmp = walk.fitting(rows[_IS_ICMP[protocol]], 2)
    number["icmp"][icmp] = walk.shorts(icmp, 0)
