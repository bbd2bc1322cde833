"""What a probe is: a request that by itself comes to nothing, as far as flags, ports and counts tell.

What may live here: pure functions over `Contacts` that tell probes, what completes them, and answers.
"""

from __future__ import annotations

from typing import Final

from eddy_agents.detection.contacts import ABSENT, ACK, RST, SYN, TCP, UDP, Contacts, Integers, Mask, Rows

_FEW_PACKETS: Final = 3
_TRACEROUTE: Final = (33_434, 33_534)
"""Ports that traceroute counts up through, one for each probe."""
_PEERS: Final = (6881, 6889)
"""UDP ports on which BitTorrent's DHT asks many peers, of which many are gone. Source: BEP 3, BEP 5."""


def is_probe(seen: Contacts) -> Mask:
    """Return True for each flow or packet that asks for something and by itself does not get it."""
    told = (seen.protocol == TCP) & (seen.flags != ABSENT)
    half_open = told & (seen.flags & ACK == 0) & ((seen.flags & SYN > 0) | (seen.flags & RST == 0))
    udp = seen.protocol == UDP
    left_out = udp & (_between(seen.destination_port, _TRACEROUTE) | _between(seen.destination_port, _PEERS))
    few = (seen.packets >= 1) & (seen.packets <= _FEW_PACKETS) | (seen.denied > 0)
    upward = seen.source_port > seen.destination_port
    blind = _blind(seen) & few & (seen.answered == 0) & upward & ~left_out
    probing: Mask = (half_open | blind) & ~seen.to_many()
    return probing


def _between(ports: Integers, limits: tuple[int, int]) -> Mask:
    between: Mask = (ports >= limits[0]) & (ports <= limits[1])
    return between


def _blind(seen: Contacts) -> Mask:
    """Return True where nothing tells a request from an answer."""
    blind: Mask = (seen.protocol == UDP) | (seen.protocol == TCP) & (seen.flags == ABSENT)
    return blind


def completes(seen: Contacts) -> Mask:
    """Return True where the source shows that it has got an answer and goes on.

    What came back to a half-open connection may be a refusal: there the flags tell, not the count.
    """
    told = (seen.protocol == TCP) & (seen.flags != ABSENT)
    more = _blind(seen) & ((seen.packets > _FEW_PACKETS) | (seen.answered > 0))
    result: Mask = told & (seen.flags & ACK > 0) & (seen.flags & RST == 0) | more
    return result


def answers(seen: Contacts) -> Mask:
    """Return True for what by its ports is sent back by a service."""
    result: Mask = _blind(seen) & (seen.source_port < seen.destination_port)
    return result


def services(rows: Rows) -> Rows:
    """Return source, port and protocol of what `Contacts.forward` gives."""
    return rows[:, (0, 1, 4, 5)]
