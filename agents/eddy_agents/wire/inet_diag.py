"""The kernel's socket listings: inet_diag requests, and what it answers and tells of sockets that end.

What may live here: the encoder of a listing request and decoders of messages. No socket.

Source: Linux include/uapi/linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h, linux/tcp.h.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

from eddy_agents.wire.host_sockets import HALF_OPEN, STATE_NAMES, TIME_WAIT, Seen, SocketFacts, Traffic
from eddy_mesh.columns import address_text, v4_text
from eddy_mesh.errors import WireError

TRANSPORTS: Final = {6: "tcp", 17: "udp"}
"""Protocols whose sockets are listed, by IANA number."""

DESTROY_GROUPS: Final = 0b1111
"""Multicast groups (as bits) that tell of the end of TCP and UDP sockets of both families."""

FAMILY_V4, FAMILY_V6 = 2, 10

_SOURCE: Final = "inet_diag"
_BY_FAMILY = 20  # SOCK_DIAG_BY_FAMILY
_ERROR, _DONE = 2, 3
_REQUEST_DUMP = 0x301  # NLM_F_REQUEST | NLM_F_ROOT | NLM_F_MATCH
_INFO, _PROTOCOL = 2, 10  # attributes INET_DIAG_INFO, INET_DIAG_PROTOCOL

_NETLINK = Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_ERROR_NUMBER = Struct("=i")
_REQUEST = Struct("=BBBxI48x")  # inet_diag_req_v2: family, protocol, extensions, states, socket id
_HEADER_BYTES = _NETLINK.size
_STATE, _IDENTITY, _COOKIE, _END = 1, 4, 44, 72  # offsets in inet_diag_msg
_ATTRIBUTE = Struct("=HH")
_PORTS = Struct(">HH")
_USER_INODE = Struct("=II")

# offsets in tcp_info; an older kernel's is shorter
_ROUND_TRIP, _RETRANSMITS, _ACKED, _SEGMENTS, _SENT = 68, 100, 120, 136, 200
_U32, _TWO_U32, _TWO_U64 = Struct("=I"), Struct("=II"), Struct("=QQ")


class Answer(NamedTuple):
    """What one read of the socket gave.

    Attributes:
        seen: sockets listed or ended.
        is_done: whether the listing is complete.
        error: error number with which the kernel refused the request; 0 none.
    """

    seen: list[Seen]
    is_done: bool
    error: int


def encode_request(family: int, protocol: int, *, with_time_wait: bool, with_info: bool) -> bytes:
    """Return the request for a listing of all sockets, without the half-open ones.

    Args:
        family: `FAMILY_V4` or `FAMILY_V6`.
        protocol: key of `TRANSPORTS`.
        with_time_wait: list connections in TIME_WAIT too.
        with_info: ask for the counters of each TCP connection.
    """
    left_out = HALF_OPEN if with_time_wait else HALF_OPEN | {TIME_WAIT}
    states = sum(1 << state for state in STATE_NAMES if state not in left_out)
    extensions = 1 << (_INFO - 1) if with_info else 0
    body = _REQUEST.pack(family, protocol, extensions, states)
    return _NETLINK.pack(_HEADER_BYTES + len(body), _BY_FAMILY, _REQUEST_DUMP, 0, 0) + body


def decode(data: bytes, protocol: int = 0) -> Answer:
    """Return the sockets of what one read of the socket gave.

    Args:
        data: netlink messages end to end, each padded to 4 bytes, in the byte order of this host.
        protocol: of the request; 0 for messages about ended sockets, which say it themselves.

    Raises:
        WireError: a message is cut, or is not one of socket diagnosis.
    """
    seen: list[Seen] = []
    start = 0
    while start < len(data):
        if len(data) - start < _HEADER_BYTES:
            raise WireError(_SOURCE, f"{len(data) - start} bytes left, a netlink header has {_HEADER_BYTES}", start)
        length, kind, *_ = _NETLINK.unpack_from(data, start)
        if not _HEADER_BYTES <= length <= len(data) - start:
            raise WireError(_SOURCE, f"message of {length} bytes, {len(data) - start} are left", start)
        if kind == _DONE:
            return Answer(seen, is_done=True, error=0)
        if kind == _ERROR:
            return Answer(seen, is_done=True, error=_error(data, start + _HEADER_BYTES, start + length))
        if kind == _BY_FAMILY:
            seen.append(_seen(data[start + _HEADER_BYTES : start + length], protocol, start))
        start += length + -length % 4
    return Answer(seen, is_done=False, error=0)


def _error(data: bytes, start: int, end: int) -> int:
    if end - start < _ERROR_NUMBER.size:
        raise WireError(_SOURCE, "error message without a number", start)
    return abs(int(_ERROR_NUMBER.unpack_from(data, start)[0]))


def _seen(message: bytes, protocol: int, start: int) -> Seen:
    if len(message) < _END:
        raise WireError(_SOURCE, f"socket of {len(message)} bytes, {_END} needed", start)
    own = protocol or _own_protocol(message)
    return Seen(
        bytes((own,)) + message[_COOKIE : _COOKIE + 8],
        message[_STATE],
        message[_IDENTITY:_COOKIE],
        bytes((own,)) + message,
    )


def _own_protocol(message: bytes) -> int:
    value = _attributes(message).get(_PROTOCOL, b"")
    if not value or value[0] not in TRANSPORTS:
        raise WireError(_SOURCE, f"protocol {value.hex() or 'missing'}, 6 or 17 expected")
    return value[0]


def socket_facts(seen: Seen) -> SocketFacts:
    """Return the facts of a socket.

    Args:
        seen: as `decode` gave it.

    Raises:
        WireError: it is none that `decode` gave.
    """
    protocol, message = seen.detail[0], seen.detail[1:]
    if protocol not in TRANSPORTS or len(message) < _END:
        raise WireError(_SOURCE, f"{len(seen.detail)} bytes of protocol {protocol} are no socket")
    local_port, remote_port = _PORTS.unpack_from(message, 4)
    user_id, inode = _USER_INODE.unpack_from(message, 64)
    info = _attributes(message).get(_INFO, b"") if protocol == 6 else b""
    return SocketFacts(
        TRANSPORTS[protocol],
        _address(message[0], message[8:24]),
        local_port,
        _address(message[0], message[24:40]),
        remote_port,
        message[1],
        inode,
        user_id if inode else None,  # an ended or orphaned socket says 0, which is not who made it
        0,
        traffic(info) if remote_port else None,
        is_orphan=protocol == 6 and bool(remote_port) and not inode,
    )


def _address(family: int, field: bytes) -> str:
    if family == FAMILY_V4:
        return v4_text(int.from_bytes(field[:4], "big"))
    return address_text(int.from_bytes(field[:8], "big"), int.from_bytes(field[8:], "big"))


def _attributes(message: bytes) -> dict[int, bytes]:
    """Return the attributes behind the fixed part; what is behind a broken one is left out."""
    found: dict[int, bytes] = {}
    start = _END
    while start + _ATTRIBUTE.size <= len(message):
        length, kind = _ATTRIBUTE.unpack_from(message, start)
        if not _ATTRIBUTE.size <= length <= len(message) - start:
            break
        found[kind] = message[start + _ATTRIBUTE.size : start + length]
        start += length + -length % 4
    return found


def traffic(info: bytes) -> Traffic | None:
    """Return what a TCP connection has carried, or None where the kernel does not say it (before Linux 4.2).

    Args:
        info: tcp_info as the kernel wrote it; each version of Linux has made it longer.
    """
    if len(info) < _SEGMENTS + _TWO_U32.size:
        return None
    acknowledged, received = _TWO_U64.unpack_from(info, _ACKED)
    sent_packets, received_packets = _TWO_U32.unpack_from(info, _SEGMENTS)
    sent = acknowledged  # counts the begin and the end of the stream too; Linux 4.19 counts exactly
    if len(info) >= _SENT + _TWO_U64.size:
        all_sent, repeated = _TWO_U64.unpack_from(info, _SENT)
        sent = max(all_sent - repeated, 0)
    round_trip_us = _U32.unpack_from(info, _ROUND_TRIP)[0]
    retransmits = _U32.unpack_from(info, _RETRANSMITS)[0]
    return Traffic(sent, received, sent_packets, received_packets, round_trip_us, retransmits)
