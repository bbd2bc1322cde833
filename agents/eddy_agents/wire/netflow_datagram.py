"""Datagrams of NetFlow v1, v5, v7, v9 and IPFIX: the header, and where the flow sets of a datagram begin and end.

What may live here: reading bytes of one datagram into a `Header` and a list of `FlowSet`. No state, no templates.

Source: Cisco, NetFlow Services Solutions Guide, appendix B (v1, v5, v7); RFC 3954 section 5 (v9); RFC 7011
section 3 (IPFIX).
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple, TypeAlias

from eddy_mesh.errors import WireError

Buffer: TypeAlias = bytes | memoryview

V1: Final = 1
V5: Final = 5
V7: Final = 7
V8: Final = 8
V9: Final = 9
IPFIX: Final = 10

V9_TEMPLATES: Final = 0
V9_OPTIONS_TEMPLATES: Final = 1
IPFIX_TEMPLATES: Final = 2
IPFIX_OPTIONS_TEMPLATES: Final = 3
FIRST_DATA_SET: Final = 256
TEMPLATE_SETS: Final = {V9: (V9_TEMPLATES, V9_OPTIONS_TEMPLATES), IPFIX: (IPFIX_TEMPLATES, IPFIX_OPTIONS_TEMPLATES)}
"""Set ids of templates by version."""

_SET_HEADER_BYTES: Final = 4

_VERSION = Struct(">H")
_V1_HEADER = Struct(">HHIII")
_V5_HEADER = Struct(">HHIIIIBBH")
_V9_HEADER = Struct(">HHIIII")
_IPFIX_HEADER = Struct(">HHIII")
_SET_HEADER = Struct(">HH")


class _Fixed(NamedTuple):
    """Octets of header and record, and most records, of a version whose records are always the same."""

    header: int
    record: int
    most: int


_FIXED: Final = {V1: _Fixed(16, 52, 24), V5: _Fixed(24, 48, 30), V7: _Fixed(24, 52, 28)}


class Malformed(WireError):
    """A datagram, flow set or template that is not what its protocol says.

    Attributes:
        reason: short constant text under which it is counted: ``truncated``, ``bad_version`` ...
    """

    def __init__(self, reason: str, message: str, offset: int = -1) -> None:
        super().__init__("netflow", message, offset)
        self.reason = reason


class Header(NamedTuple):
    """What the header of a datagram says, the same for all protocols.

    Attributes:
        version: 1, 5, 7, 9 or 10.
        domain: source id (v9), observation domain (IPFIX), engine type * 256 + engine id (v5), else 0.
        sequence: of flows sent before this datagram (v5, v7), of datagrams (v9), of data records sent before (IPFIX);
            0 in v1, which has none.
        export_ns: ns since 1970 UTC at which the exporter sent it.
        uptime_ms: ms since the exporter started, wraps after 49.7 days; 0 in IPFIX, which has none.
        body: offset of the first octet after the header.
        end: offset after the last octet that belongs to the datagram.
        sampling: v5 only: 2 bits of algorithm, 14 bits of interval; else 0.
    """

    version: int
    domain: int
    sequence: int
    export_ns: int
    uptime_ms: int
    body: int
    end: int
    sampling: int = 0


FlowSet: TypeAlias = tuple[int, int, int]
"""One set of a datagram: its id, and the offsets at which its content (set header excluded) begins and ends."""


def read_header(data: Buffer, start: int, end: int) -> Header:
    """Read the header of the datagram that lies at ``data[start:end]``.

    Raises:
        Malformed: the version is not known (``bad_version``) or is 8 (``unsupported_version``), octets are missing
            (``truncated``), or a datagram of fixed records claims none or more than there can be (``bad_count``).
    """
    if end - start < 2:
        raise Malformed("truncated", f"{end - start} octets are no datagram", 0)
    (version,) = _VERSION.unpack_from(data, start)
    if version == V9:
        return _read_v9(data, start, end)
    if version == IPFIX:
        return _read_ipfix(data, start, end)
    if version in _FIXED:
        return _read_fixed(data, start, end, _FIXED[version])
    wanted = "the exporter must send NetFlow v5, v9 or IPFIX"
    if version == V8:
        raise Malformed("unsupported_version", f"version 8 has sums of flows and no flows; {wanted}", 0)
    raise Malformed("bad_version", f"version {version} is not known; {wanted}", 0)


def _read_v9(data: Buffer, start: int, end: int) -> Header:
    if end - start < _V9_HEADER.size:
        raise Malformed("truncated", f"{end - start} octets, a v9 header has {_V9_HEADER.size}", end - start)
    version, _, uptime_ms, seconds, sequence, domain = _V9_HEADER.unpack_from(data, start)
    return Header(version, domain, sequence, seconds * 1_000_000_000, uptime_ms, start + _V9_HEADER.size, end)


def _read_ipfix(data: Buffer, start: int, end: int) -> Header:
    if end - start < _IPFIX_HEADER.size:
        raise Malformed("truncated", f"{end - start} octets, an IPFIX header has {_IPFIX_HEADER.size}", end - start)
    version, length, seconds, sequence, domain = _IPFIX_HEADER.unpack_from(data, start)
    if length < _IPFIX_HEADER.size:
        raise Malformed("bad_length", f"an IPFIX message can not be {length} octets long", 2)
    # A message that was cut on its way still has whole sets at its beginning; `defect_of_length` tells of the rest.
    stop = min(start + length, end)
    return Header(version, domain, sequence, seconds * 1_000_000_000, 0, start + _IPFIX_HEADER.size, stop)


def _read_fixed(data: Buffer, start: int, end: int, sizes: _Fixed) -> Header:
    if end - start < sizes.header:
        raise Malformed("truncated", f"{end - start} octets, the header has {sizes.header}", end - start)
    version, count, uptime_ms, seconds, nanoseconds = _V1_HEADER.unpack_from(data, start)
    if not 1 <= count <= sizes.most:
        message = f"a v{version} datagram of {count} records can not be, it holds 1 to {sizes.most}"
        raise Malformed("bad_count", message, 2)
    body = start + sizes.header
    stop = min(body + count * sizes.record, end)
    domain = sequence = sampling = 0
    if version != V1:
        *_, sequence, kind, slot, sampling = _V5_HEADER.unpack_from(data, start)
        domain, sampling = (kind << 8 | slot, sampling) if version == V5 else (0, 0)
    export_ns = seconds * 1_000_000_000 + nanoseconds
    return Header(version, domain, sequence, export_ns, uptime_ms, body, stop, sampling)


def defect_of_length(data: Buffer, start: int, end: int, header: Header) -> Malformed | None:
    """Return what is wrong with the length of the datagram at ``data[start:end]``, None where it is as announced.

    Zero octets behind a datagram are padding; others are ``trailing_octets``. A datagram holds one message (RFC 7011
    section 10.3.3); files of messages end to end (RFC 5655) are taken apart before they come here.
    """
    if header.version == V9:
        return None
    (announced,) = _VERSION.unpack_from(data, start + 2)
    if header.version in _FIXED:
        sizes = _FIXED[header.version]
        announced = sizes.header + announced * sizes.record
    if announced > end - start:
        return Malformed("truncated", f"{end - start} octets of {announced} announced", end - start)
    if header.end < end and any(data[header.end : end]):
        return Malformed("trailing_octets", f"{end - header.end} octets follow the message", header.end - start)
    return None


def read_sets(data: Buffer, start: int, end: int) -> tuple[list[FlowSet], Malformed | None]:
    """Find the flow sets between ``start`` and ``end``.

    Returns:
        Every whole set in order, and what stopped the reader before the end, None where nothing did. Less than four
        octets, or zeros, at the end are padding.
    """
    sets: list[FlowSet] = []
    while end - start >= _SET_HEADER_BYTES:
        set_id, length = _SET_HEADER.unpack_from(data, start)
        stop = start + length
        if length < _SET_HEADER_BYTES or stop > end:
            if not any(data[start:end]):
                break
            reason = "bad_set_length" if length < _SET_HEADER_BYTES else "truncated"
            return sets, Malformed(reason, f"set {set_id} of {length} octets where {end - start} are left", start)
        sets.append((set_id, start + _SET_HEADER_BYTES, stop))
        start = stop
    return sets, None
