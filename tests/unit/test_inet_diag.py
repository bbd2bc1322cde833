"""The kernel's socket listings and ends: what each message says, and what is refused."""

from __future__ import annotations

from socket import AF_INET, AF_INET6, inet_pton
from struct import pack

import pytest

from eddy_agents.wire.host_sockets import ESTABLISHED, HALF_OPEN, LISTEN, TIME_WAIT
from eddy_agents.wire.inet_diag import FAMILY_V4, FAMILY_V6, decode, encode_request, socket_facts, traffic
from eddy_mesh.errors import WireError

DONE = pack("=IHHIIi", 20, 3, 2, 0, 0, 0)


def attribute(kind: int, value: bytes) -> bytes:
    return pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def message(
    local: tuple[str, int],
    remote: tuple[str, int],
    *,
    state: int = ESTABLISHED,
    cookie: int = 1,
    user_id: int = 1000,
    inode: int = 77,
    attributes: bytes = b"",
) -> bytes:
    """One listed socket as the kernel writes it."""
    family = AF_INET6 if ":" in local[0] else AF_INET
    ends = pack(">HH", local[1], remote[1])
    ends += b"".join(inet_pton(family, address).ljust(16, b"\0") for address in (local[0], remote[0]))
    numbers = {AF_INET: FAMILY_V4, AF_INET6: FAMILY_V6}
    body = pack("=BBBB", numbers[family], state, 0, 0) + ends + pack("=IQ", 0, cookie)
    body += pack("=IIIII", 0, 0, 0, user_id, inode) + attributes
    return pack("=IHHII", 16 + len(body), 20, 2, 0, 0) + body


def tcp_info(*, sent: int, repeated: int, received: int) -> bytes:
    info = bytearray(232)
    info[68:72] = pack("=I", 250)
    info[100:104] = pack("=I", 3)
    info[120:136] = pack("=QQ", sent + 2, received)
    info[136:144] = pack("=II", 9, 8)
    info[200:216] = pack("=QQ", sent + repeated, repeated)
    return bytes(info)


def test_a_listing_gives_both_ends_and_who_made_the_socket() -> None:
    """Addresses of both families, ports in network order, state, user and inode are read; the end is seen."""
    first = message(("192.0.2.1", 50000), ("198.51.100.2", 443), cookie=5)
    second = message(("::1", 631), ("::", 0), state=LISTEN, cookie=6, user_id=0)
    answer = decode(first + second + DONE, 6)
    assert answer.is_done
    facts = [socket_facts(seen) for seen in answer.seen]
    assert facts[0][:8] == ("tcp", "192.0.2.1", 50000, "198.51.100.2", 443, ESTABLISHED, 77, 1000)
    assert facts[1][:5] == ("tcp", "::1", 631, "::", 0)
    assert facts[1].is_listening
    assert answer.seen[0].key != answer.seen[1].key


def test_a_mapped_address_is_ipv4() -> None:
    """A connection over IPv4 of an IPv6 socket has IPv4 addresses."""
    (seen,) = decode(message(("::ffff:192.0.2.1", 22), ("::ffff:192.0.2.9", 4711)), 6).seen
    facts = socket_facts(seen)
    assert (facts.local_address, facts.remote_address) == ("192.0.2.1", "192.0.2.9")


def test_an_end_says_its_protocol_and_what_was_carried() -> None:
    """The end of a socket has its protocol as an attribute, the counters exactly, and nobody's user id."""
    info = attribute(2, tcp_info(sent=1000, repeated=40, received=11))
    data = message(
        ("192.0.2.1", 50000), ("198.51.100.2", 443), user_id=0, inode=0, attributes=attribute(10, b"\6") + info
    )
    (seen,) = decode(data).seen
    facts = socket_facts(seen)
    assert facts.transport == "tcp"
    assert facts.user_id is None
    assert facts.traffic == (1000, 11, 9, 8, 250, 3)


def test_the_end_has_the_key_of_the_listing() -> None:
    """A socket has the same key in a listing and at its end, another protocol's with its cookie has not."""
    ends = (("192.0.2.1", 50000), ("198.51.100.2", 443))
    (listed,) = decode(message(*ends, cookie=9), 6).seen
    (ended,) = decode(message(*ends, cookie=9, state=7, attributes=attribute(10, b"\6"))).seen
    (other,) = decode(message(*ends, cookie=9), 17).seen
    assert listed.key == ended.key != other.key


def test_an_older_kernel_counts_what_was_acknowledged() -> None:
    """Without the counters of Linux 4.19 the acknowledged octets stand for those sent; without any there are none."""
    info = tcp_info(sent=1000, repeated=0, received=11)
    short = traffic(info[:192])
    assert short is not None
    assert short.sent_bytes == 1002
    assert traffic(info[:104]) is None


def test_a_refusal_has_its_number() -> None:
    """An error of the kernel is given as a positive number."""
    answer = decode(pack("=IHHIIi", 36, 2, 0, 0, 0, -2) + bytes(16), 6)
    assert (answer.is_done, answer.error) == (True, 2)


def test_damage_is_refused() -> None:
    """A message cut at any byte, and an end without a protocol, are wire errors."""
    whole = message(("192.0.2.1", 1), ("192.0.2.2", 2))
    for length in range(1, len(whole)):
        with pytest.raises(WireError):
            decode(whole[:length], 6)
    with pytest.raises(WireError, match="protocol"):
        decode(whole)


def test_a_request_leaves_out_half_open_connections() -> None:
    """The request has the kernel's size, and bits for the states that are asked for."""
    request = encode_request(FAMILY_V4, 6, with_time_wait=False, with_info=True)
    assert len(request) == 72
    assert request[16:19] == bytes((2, 6, 2))
    states = int.from_bytes(request[20:24], "little") | int.from_bytes(request[20:24], "big")
    assert states & 1 << LISTEN
    assert int.from_bytes(encode_request(FAMILY_V6, 17, with_time_wait=True, with_info=False)[18:19], "big") == 0
    wanted = pack("=I", sum(1 << state for state in range(1, 13) if state not in HALF_OPEN | {TIME_WAIT}))
    assert request[20:24] == wanted
