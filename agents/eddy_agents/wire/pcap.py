"""Capture files: pcap and pcapng, as a stream of bytes.

What may live here: `PcapReader`, which takes a capture in pieces of any size and gives its packets, and `read_pcap`
for a capture that is held whole. Sans-IO: nothing is opened here.

Source: draft-ietf-opsawg-pcap (classic, microseconds and nanoseconds) and draft-ietf-opsawg-pcapng.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from struct import Struct
from typing import Final, NamedTuple

from eddy_mesh.errors import WireError

MAX_BLOCK_BYTES: Final = 16 * 1024 * 1024
"""Longest packet or block that is believed; libpcap takes up to 256 KiB for networks, 128 MiB for D-Bus only."""

MAX_INTERFACES: Final = 65_536
"""Most interfaces in one section; simple and obsolete blocks can not name more."""

MAX_TIME_NS: Final = 2**63 - 1
"""Last moment that an event's time can hold, in the year 2262."""

_SOURCE: Final = "pcap"
_CLASSIC: Final = {
    b"\xd4\xc3\xb2\xa1": ("<", 1_000),
    b"\xa1\xb2\xc3\xd4": (">", 1_000),
    b"\x4d\x3c\xb2\xa1": ("<", 1),
    b"\xa1\xb2\x3c\x4d": (">", 1),
}
"""Magic number to byte order and ns in one unit of the fraction."""

_SECTION: Final = 0x0A0D0D0A
_INTERFACE: Final = 1
_OBSOLETE_PACKET: Final = 2
_SIMPLE_PACKET: Final = 3
_ENHANCED_PACKET: Final = 6
_OPTION_RESOLUTION: Final = 9
_OPTION_OFFSET: Final = 14


class Packet(NamedTuple):
    """One captured packet.

    Attributes:
        timestamp_ns: ns since 1970 UTC by the clock of the capturing host; 0 where the capture does not say.
        link_type: LINKTYPE number of the first header, 1 for Ethernet. Source: draft-ietf-opsawg-pcaplinktype.
        captured: the bytes that were kept, from the link-layer header on.
        length: octets that the packet had on the wire; more than ``captured`` holds where it was cut.
    """

    timestamp_ns: int
    link_type: int
    captured: bytes
    length: int


class _Form(Enum):
    UNKNOWN = auto()
    CLASSIC = auto()
    BLOCKS = auto()


@dataclass(frozen=True, slots=True)
class _Interface:
    """What an interface description block says of the packets that name it."""

    link_type: int
    snap_bytes: int  # 0: no limit
    units_per_s: int
    offset_s: int

    def time_ns(self, units: int) -> int:
        return self.offset_s * 1_000_000_000 + units * 1_000_000_000 // self.units_per_s


class PcapReader:
    """Reads one capture, given in pieces of any size.

    Damage does not take away what was read before it: packets in front of it are returned, the next call raises.
    """

    def __init__(self) -> None:
        self._held = b""
        self._consumed = 0
        self._form = _Form.UNKNOWN
        self._record = Struct("<IIII")
        self._fraction_ns = 1_000
        self._link_type = 0
        self._order = "<"
        self._interfaces: list[_Interface] = []
        self._damage: WireError | None = None

    def feed(self, data: bytes) -> list[Packet]:
        """Take the next bytes of the capture and return the packets that they complete, in order.

        Raises:
            WireError: the capture is damaged; every further call raises the same.
        """
        if self._damage is not None:
            raise self._damage
        self._held = self._held + data if self._held else bytes(data)
        packets: list[Packet] = []
        position = 0
        try:
            while (used := self._step(position, packets)) > 0:
                position += used
        except WireError as damage:
            self._damage = damage
            if not packets:
                raise
        self._held = self._held[position:]
        self._consumed += position
        return packets

    def close(self) -> None:
        """Say that the capture has ended.

        Raises:
            WireError: it is damaged, empty, or ends within a packet (the writer was stopped, or is still writing).
        """
        if self._damage is not None:
            raise self._damage
        if self._form is _Form.UNKNOWN and not self._held:
            raise WireError(_SOURCE, "the capture is empty; give a file written by tcpdump, dumpcap or wireshark", 0)
        if self._held:
            raise WireError(
                _SOURCE,
                f"the capture ends within a packet, {len(self._held)} bytes are left over; every packet before is good",
                self._consumed,
            )

    def _step(self, position: int, packets: list[Packet]) -> int:
        """Read what begins at ``position`` of the held bytes; returns its length, 0 while it is not complete."""
        if self._form is _Form.CLASSIC:
            return self._classic_packets(position, packets)
        if self._form is _Form.BLOCKS:
            return self._block(position, packets)
        if len(self._held) < 4:
            return 0
        magic = self._held[:4]
        if magic in _CLASSIC:
            return self._classic_header(magic)
        if magic == _SECTION.to_bytes(4, "big"):
            self._form = _Form.BLOCKS
            return self._block(position, packets)
        raise WireError(
            _SOURCE, f"{magic.hex()} starts neither a pcap nor a pcapng file; unpack or convert it first", 0
        )

    # --- pcap ------------------------------------------------------------------------------------------------------

    def _classic_header(self, magic: bytes) -> int:
        if len(self._held) < 24:
            return 0
        order, self._fraction_ns = _CLASSIC[magic]
        self._record = Struct(order + "IIII")
        self._link_type = self._record.unpack_from(self._held, 8)[3] & 0xFFFF  # the upper half tells of a checksum
        self._form = _Form.CLASSIC
        return 24

    def _classic_packets(self, start: int, packets: list[Packet]) -> int:
        """Read all packets that are complete; returns the length of them together."""
        held, unpack, position = self._held, self._record.unpack_from, start
        while len(held) - position >= 16:
            seconds, fraction, captured, length = unpack(held, position)
            self._check_size(captured, position)
            end = position + 16 + captured
            if end > len(held):
                break
            timestamp_ns = seconds * 1_000_000_000 + fraction * self._fraction_ns
            packets.append(Packet(timestamp_ns, self._link_type, held[position + 16 : end], max(length, captured)))
            position = end
        return position - start

    def _check_size(self, size: int, position: int) -> None:
        if size > MAX_BLOCK_BYTES:
            raise WireError(
                _SOURCE,
                f"a packet of {size} bytes is not believed; the capture is damaged here",
                self._consumed + position,
            )

    # --- pcapng ----------------------------------------------------------------------------------------------------

    def _block(self, position: int, packets: list[Packet]) -> int:
        if len(self._held) - position < 12:
            return 0
        is_section = self._held[position : position + 4] == b"\x0a\x0d\x0d\x0a"
        if is_section:
            self._order = self._section_order(position)
        kind, size = Struct(self._order + "II").unpack_from(self._held, position)
        self._check_size(size, position)
        if size < 12 or size % 4:
            raise self._damaged(f"a block of {size} bytes, which is no multiple of 4 from 12 up", position)
        if len(self._held) - position < size:
            return 0
        if Struct(self._order + "I").unpack_from(self._held, position + size - 4)[0] != size:
            raise self._damaged(f"a block whose two lengths differ, the first is {size}", position)
        if is_section:
            self._interfaces = []
            return int(size)
        body = self._held[position + 8 : position + size - 4]
        if kind == _INTERFACE:
            self._add_interface(body, position)
        elif kind in _PACKET_BLOCKS:
            packets.append(self._packet(kind, body, position))
        return int(size)

    def _section_order(self, position: int) -> str:
        magic = self._held[position + 8 : position + 12]
        orders = {b"\x1a\x2b\x3c\x4d": ">", b"\x4d\x3c\x2b\x1a": "<"}
        if magic not in orders:
            raise self._damaged(f"a section whose byte order {magic.hex()} is unknown", position)
        return orders[magic]

    def _add_interface(self, body: bytes, position: int) -> None:
        if len(body) < 8 or len(self._interfaces) >= MAX_INTERFACES:
            raise self._damaged(f"interface {len(self._interfaces)} is too short or one too many", position)
        link_type, _, snap_bytes = Struct(self._order + "HHI").unpack_from(body)
        units_per_s, offset_s = 1_000_000, 0
        for code, value in self._options(body, 8):
            if code == _OPTION_RESOLUTION and value:
                units_per_s = 2 ** (value[0] & 0x7F) if value[0] & 0x80 else 10 ** value[0]
            elif code == _OPTION_OFFSET and len(value) == 8:
                offset_s = Struct(self._order + "q").unpack(value)[0]
        self._interfaces.append(_Interface(link_type, snap_bytes, units_per_s, offset_s))

    def _options(self, body: bytes, position: int) -> list[tuple[int, bytes]]:
        """Return the options of a block; a last one that is cut off is left out."""
        options = []
        head = Struct(self._order + "HH")
        while position + 4 <= len(body):
            code, size = head.unpack_from(body, position)
            position += 4
            if code == 0 or position + size > len(body):
                break
            options.append((code, body[position : position + size]))
            position += size + (-size % 4)
        return options

    def _packet(self, kind: int, body: bytes, position: int) -> Packet:
        layout = _PACKET_BLOCKS[kind]
        head = Struct(self._order + layout)
        if len(body) < head.size:
            raise self._damaged(f"a packet block of {len(body)} bytes", position)
        number, high, low, captured, length = 0, 0, 0, 0, 0
        if kind == _SIMPLE_PACKET:  # no interface, no time, and the captured length is implied
            (length,) = head.unpack_from(body)
            interface = self._interface(0, position)
            captured = min(length, interface.snap_bytes or length)
        else:
            number, high, low, captured, length = head.unpack_from(body)
            interface = self._interface(number, position)
        if captured > len(body) - head.size:
            raise self._damaged(f"a packet of {captured} bytes in a block of {len(body)}", position)
        timestamp_ns = interface.time_ns(high << 32 | low) if kind != _SIMPLE_PACKET else 0
        if not 0 <= timestamp_ns <= MAX_TIME_NS:
            raise self._damaged(f"a packet {timestamp_ns} ns after 1970, outside the years 1970 to 2262", position)
        return Packet(timestamp_ns, interface.link_type, body[head.size : head.size + captured], max(length, captured))

    def _interface(self, number: int, position: int) -> _Interface:
        if number >= len(self._interfaces):
            raise self._damaged(f"a packet of interface {number}, which nothing before describes", position)
        return self._interfaces[number]

    def _damaged(self, what: str, position: int) -> WireError:
        return WireError(_SOURCE, f"{what}; the capture is damaged here", self._consumed + position)


_PACKET_BLOCKS: Final = {_OBSOLETE_PACKET: "HxxIIII", _SIMPLE_PACKET: "I", _ENHANCED_PACKET: "IIIII"}


def read_pcap(data: bytes) -> list[Packet]:
    """Return the packets of a capture that is held whole.

    Args:
        data: contents of a pcap or pcapng file.

    Raises:
        WireError: it is not one, is damaged, or ends within a packet. `PcapReader` gives what comes before that.
    """
    reader = PcapReader()
    packets = reader.feed(data)
    reader.close()
    return packets
