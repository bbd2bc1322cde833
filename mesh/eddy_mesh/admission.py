"""Who may connect: how many connections a listener holds, how many of them one peer, and who was turned away.

What may live here: the counts and what they allow. Pure: the sockets are in `eddy_mesh.connections`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network, ip_address

from eddy_mesh.cer import Value

MAX_CONNECTIONS = 1024
"""Default for the connections of one listener that are open at a time."""

MAX_CONNECTIONS_PER_PEER = 256
"""Default for those of one peer: a relay or a proxy needs some, and four such peers fill a listener."""

FIRST_WAIT_S = 300.0
"""Default for the wait for something whole from a new connection, s. Senders connect when they start, before they have
anything to say; those that are cut see it and connect again."""

FULL = "too_many_connections"
FULL_FOR_PEER = "too_many_connections_of_peer"
IDLE = "idle_connections"
PAUSED = "accepting_paused"

_PREFIX = 64
_LEAST_SHARE = 16


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a stream listener.

    Attributes:
        read_bytes: most bytes taken from a connection at a time, see `Admission.share`.
        max_connections: connections open at a time; one more is closed at once.
        max_connections_per_peer: the same for one peer, see `peer_group`.
        first_wait_s: a connection that sent nothing whole for so long is closed; 0 is never. One that did may be quiet
            for as long as it likes: RFC 6587 and RFC 5425 senders keep theirs open for days.
        together_bytes: what is read at a time from all connections together; 0 is no bound.
    """

    read_bytes: int
    max_connections: int = MAX_CONNECTIONS
    max_connections_per_peer: int = MAX_CONNECTIONS_PER_PEER
    first_wait_s: float = FIRST_WAIT_S
    together_bytes: int = 0


def peer_group(address: str | None) -> str:
    """Return what counts as one peer: an IPv4 address, or the /64 that an IPv6 host takes its addresses from.

    Args:
        address: canonical address; None on a unix socket, whose peers are not told apart: "".
    """
    if address is None:
        return ""
    parsed = ip_address(address)
    if not isinstance(parsed, IPv6Address) or parsed.is_link_local or parsed.is_loopback:
        return address
    return str(IPv6Network((parsed, _PREFIX), strict=False))


class Admission:
    """Counts connections in and out of one listener."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._open = 0
        self._of_group: Counter[str] = Counter()

    def admit(self, group: str) -> str:
        """Count a connection in and return "", or return why it is turned away: `FULL` or `FULL_FOR_PEER`."""
        if self._open >= self._limits.max_connections:
            return FULL
        if group and self._of_group[group] >= self._limits.max_connections_per_peer:
            return FULL_FOR_PEER
        self._open += 1
        self._of_group[group] += 1
        return ""

    def share(self) -> int:
        """Return how many bytes are to be read at a time from the connection that was admitted last.

        Large reads are cooked in half the time, but a listener must not hold that much of every connection.
        """
        most, together = self._limits.read_bytes, self._limits.together_bytes
        return max(min(most, together // self._open), most // _LEAST_SHARE) if together else most

    def leave(self, group: str) -> None:
        """Count a connection out that was admitted."""
        self._open -= 1
        self._of_group[group] -= 1
        if not self._of_group[group]:
            del self._of_group[group]


class Complaints:
    """What there is to tell the operator, added up: a flood of connections is one line and not thousands."""

    def __init__(self) -> None:
        self._held: dict[str, dict[str, Value]] = {}

    def add(self, event: str, count: str, **fields: Value) -> None:
        """Count an event.

        Args:
            event: name of the notice.
            count: name of the field that tells how often it was.
            fields: further fields; those of the first time are kept.
        """
        held = self._held.setdefault(event, {count: 0, **fields})
        held[count] = int(str(held[count])) + 1

    def take(self) -> dict[str, dict[str, Value]]:
        """Return the fields of each notice, and begin anew."""
        held, self._held = self._held, {}
        return held
