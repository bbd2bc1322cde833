"""What a request to a service is, what completes it, and how many of them an event stands for.

What may live here: pure functions over `Contacts` about requests, and the windows that they fall into.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from eddy_agents.detection.contacts import (
    ABSENT,
    ACK,
    ICMP,
    ICMP_V6,
    RST,
    SYN,
    TCP,
    UDP,
    Contacts,
    Integers,
    Mask,
    Rows,
)


def asks(seen: Contacts, one_way_ports: tuple[int, ...]) -> Mask:
    """Return True for each request for a connection, and for unanswered packets of protocols without connections."""
    flags = seen.flags
    syn = (seen.protocol == TCP) & (flags != ABSENT) & (flags & SYN > 0) & (flags & ACK == 0)
    one_way = (seen.protocol == UDP) & np.isin(seen.destination_port, one_way_ports)
    unanswered = np.isin(seen.protocol, (UDP, ICMP, ICMP_V6)) & (seen.answered == 0) & ~one_way
    result: Mask = (syn | unanswered) & ~seen.to_many()
    return result


def exchanges(seen: Contacts) -> Rows:
    """Return target, port and protocol, then source and its port: what a request and its completion share."""
    ports = _ports(seen)
    middle = (ports[1], seen.protocol.astype(np.uint64))
    return np.column_stack((seen.destination, *middle, seen.source, ports[0]))


def completions(seen: Contacts) -> Rows:
    """Return the exchanges, in the form of `exchanges`, that came to something."""
    told = (seen.protocol == TCP) & (seen.flags != ABSENT)
    completes = seen.where(told & (seen.flags & ACK > 0) & (seen.flags & RST == 0))
    answers = seen.where(np.isin(seen.protocol, (UDP, ICMP, ICMP_V6)))
    ports = _ports(answers)
    middle = (ports[0], answers.protocol.astype(np.uint64))
    backward = np.column_stack((answers.source, *middle, answers.destination, ports[1]))
    return np.concatenate((exchanges(completes), backward))


def _ports(seen: Contacts) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Return source and destination ports; 0 for ICMP, for which exporters write the type there."""
    has = np.isin(seen.protocol, (TCP, UDP))
    source, destination = (np.where(has, port, 0) for port in (seen.source_port, seen.destination_port))
    return source.astype(np.uint64), destination.astype(np.uint64)


def peers(seen: Contacts) -> Rows:
    """Return source and its port, shape (n, 3): what tells one request to a service from another."""
    return exchanges(seen)[:, 4:]


def requests_of(seen: Contacts) -> Integers:
    """Return how many requests each event stands for."""
    resets = (seen.protocol == TCP) & (seen.flags & RST > 0)  # half of the packets take the request back
    packets = np.maximum(seen.packets, 1)
    requests: Integers = np.where(resets, (packets + 1) // 2, packets)
    return requests


def weights_of(seen: Contacts, window_ns: int) -> Integers:
    """Return how many requests of each event fall into one window of ``window_ns``; a flow may take longer."""
    share = window_ns / np.maximum(seen.duration_ns, window_ns)
    return np.maximum(requests_of(seen) * share, 1).astype(np.int64)


def within(times_ns: Integers, above: Mask, window_ns: int) -> Mask:
    """Return True for each event that lies in a window that ends with one of those named."""
    ends = np.flatnonzero(above)
    begins = np.searchsorted(times_ns, times_ns[ends] - window_ns, side="right")
    steps = np.zeros(len(times_ns) + 1, np.int64)
    np.add.at(steps, begins, 1)
    np.add.at(steps, ends + 1, -1)
    result: Mask = np.cumsum(steps)[:-1] > 0
    return result
