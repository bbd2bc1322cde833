"""Which sockets a host has: what one look at them shows against what was known before.

What may live here: the facts of a socket, and `SocketTable`, which turns listings and single ends into changes. Pure:
where the listings come from is the source's business.

Source: states as in Linux include/net/tcp_states.h.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from eddy_agents.wire.host_records import ProcessFacts

STATE_NAMES: Final = {
    1: "established",
    2: "syn_sent",
    3: "syn_recv",
    4: "fin_wait1",
    5: "fin_wait2",
    6: "time_wait",
    7: "closed",
    8: "close_wait",
    9: "last_ack",
    10: "listen",
    11: "closing",
    12: "new_syn_recv",
}
"""TCP states by number. A UDP socket is 1 when it is connected, 7 when it takes datagrams from anyone."""

ESTABLISHED, TIME_WAIT, CLOSED, LISTEN = 1, 6, 7, 10
_CLOSING: Final = frozenset({4, 5, 9, 11})
HALF_OPEN: Final = frozenset({3, 12})
"""States of connections that no process has accepted yet: a flood of them is not a flood of sockets."""


class Action(StrEnum):
    """What happened to a socket."""

    EXISTING = "existing"
    OPENED = "connection_opened"
    LISTENING = "listening"
    STATE = "state"
    CLOSED = "connection_closed"


class Direction(StrEnum):
    """Who opened a connection: the other end, or this host."""

    INGRESS = "ingress"
    EGRESS = "egress"


class Seen(NamedTuple):
    """A socket as a listing shows it, not decoded yet: most of them were in the last listing too.

    Attributes:
        key: the same for the same socket in each listing.
        state: number, `STATE_NAMES`.
        identity: local and remote ends, as the listing writes them.
        detail: all that the listing says of it.
    """

    key: bytes
    state: int
    identity: bytes
    detail: bytes


class Traffic(NamedTuple):
    """What a TCP connection has carried.

    Attributes:
        sent_bytes: payload sent, without repeats.
        received_bytes: sequence space received: the peer's end of stream counts as one byte.
        sent_packets: segments sent.
        received_packets: segments received.
        round_trip_us: smoothed round-trip time in us; 0 unknown.
        retransmits: segments sent again.
    """

    sent_bytes: int
    received_bytes: int
    sent_packets: int
    received_packets: int
    round_trip_us: int
    retransmits: int


class SocketFacts(NamedTuple):
    """What a listing says of a socket.

    Attributes:
        transport: ``tcp`` or ``udp``.
        local_address, local_port: this end, canonical text.
        remote_address, remote_port: other end; port 0 where there is none.
        state: number, `STATE_NAMES`.
        inode: of the socket; 0 unknown or without owner.
        user_id: who made it; None unknown.
        pid: owner, where the listing itself says it; else 0.
        traffic: counters of a TCP connection where they are known.
        is_orphan: a TCP connection that no process holds: not accepted yet, or given up.
    """

    transport: str
    local_address: str
    local_port: int
    remote_address: str
    remote_port: int
    state: int
    inode: int = 0
    user_id: int | None = None
    pid: int = 0
    traffic: Traffic | None = None
    is_orphan: bool = False

    @property
    def is_listening(self) -> bool:
        """Whether it takes connections or datagrams from anyone."""
        return not self.remote_port

    @property
    def state_name(self) -> str:
        """Name of the state; a UDP socket that is bound and not connected is ``unconnected``."""
        if self.transport == "udp" and self.state == CLOSED:
            return "unconnected"
        return STATE_NAMES.get(self.state, str(self.state))


@dataclass(slots=True)
class Tracked:
    """A socket that is there.

    Attributes:
        seen: its last listing.
        facts: of its first listing.
        direction: who opened it; None for a listening one.
        opened_ns: when it was first seen, ns since 1970 UTC; None when it was there before.
        owner: process that holds it, once found.
    """

    seen: Seen
    facts: SocketFacts
    direction: Direction | None
    opened_ns: int | None
    owner: ProcessFacts | None = None


class Change(NamedTuple):
    """Something that happened to a socket.

    Attributes:
        action: what.
        facts: as it is now; of a closed one, as it was last.
        tracked: what is known from before.
    """

    action: Action
    facts: SocketFacts
    tracked: Tracked


class SocketTable:
    """The sockets of a host.

    Args:
        decode: gives the facts of a listed socket.
        max_sockets: most to keep; further ones are only counted, in ``left_out``.
        are_ends_told: each end comes to `end`; else what lingers of a connection is all that tells of a short one.
    """

    def __init__(self, decode: Callable[[Seen], SocketFacts], max_sockets: int, *, are_ends_told: bool = False) -> None:
        self._decode = decode
        self._are_ends_told = are_ends_told
        self._max_sockets = max_sockets
        self._tracked: dict[bytes, Tracked] = {}
        self._listening: Counter[tuple[str, int]] = Counter()
        self._lingering: AbstractSet[bytes] = frozenset()
        self._unaccepted: AbstractSet[bytes] = frozenset()
        self._is_first = True
        self.left_out = 0

    def __len__(self) -> int:
        return len(self._tracked)

    def look(self, listing: Iterable[Seen], now_ns: int, gone: AbstractSet[bytes] = frozenset()) -> list[Change]:
        """Return what has changed since the last listing: ends first, then what listens, then the rest.

        Args:
            listing: every socket of the host. One in TIME_WAIT is a connection that has ended.
            now_ns: ns since 1970 UTC.
            gone: keys of sockets that ended while the listing was made.
        """
        present: set[bytes] = set()
        fresh: list[Seen] = []
        lingering: dict[bytes, Seen] = {}
        changes: list[Change] = []
        for seen in listing:
            if seen.state == TIME_WAIT:
                lingering[seen.identity] = seen
            elif seen.key not in gone and seen.key not in present:
                present.add(seen.key)
                self._compare(seen, fresh, changes)
        ended = [tracked for key, tracked in self._tracked.items() if key not in present]
        changes += [self._end(tracked, None) for tracked in ended]
        decoded = self._settled([(seen, self._decode(seen)) for seen in fresh], lingering)
        changes += self._missed(lingering, {tracked.seen.identity for tracked in ended})
        changes += self._add(decoded, now_ns)
        self._is_first = False
        return changes

    def end(self, seen: Seen) -> Change | None:
        """Return the end of a socket that was told of, or None for one that was never used.

        Args:
            seen: its last state; it may be one that no listing has shown.
        """
        facts = self._decode(seen)
        tracked = self._tracked.get(seen.key)
        if tracked is not None:
            return self._end(tracked, facts)
        if not facts.local_port:
            return None
        return Change(Action.CLOSED, facts, Tracked(seen, facts, self._direction(facts), None))

    def _compare(self, seen: Seen, fresh: list[Seen], changes: list[Change]) -> None:
        tracked = self._tracked.get(seen.key)
        if tracked is None:
            fresh.append(seen)
        elif tracked.seen.identity != seen.identity:  # a UDP socket that was connected to another end
            changes.append(self._end(tracked, None))
            fresh.append(seen)
        elif tracked.seen.state != seen.state:
            tracked.seen = seen
            changes.append(Change(Action.STATE, self._decode(seen), tracked))
        else:
            tracked.seen = seen

    def _end(self, tracked: Tracked, last: SocketFacts | None) -> Change:
        """Forget a socket; ``last`` is what the kernel said at its end, where it said it."""
        del self._tracked[tracked.seen.key]
        first = tracked.facts
        if first.is_listening:
            place = (first.transport, first.local_port)
            self._listening[place] -= 1
            if not self._listening[place]:
                del self._listening[place]
        traffic = (last or self._decode(tracked.seen)).traffic
        return Change(Action.CLOSED, first._replace(state=CLOSED, traffic=traffic), tracked)

    def _settled(
        self, fresh: list[tuple[Seen, SocketFacts]], lingering: dict[bytes, Seen]
    ) -> list[tuple[Seen, SocketFacts]]:
        """Return the new sockets that a process holds, and those that still wait for one at their second listing.

        What the kernel still does for a connection that its process has given up goes to ``lingering``.
        """
        settled = []
        unaccepted: set[bytes] = set()
        for seen, facts in fresh:
            if facts.is_orphan and facts.state in _CLOSING:
                lingering.setdefault(seen.identity, seen)
            elif facts.is_orphan and seen.key not in self._unaccepted:
                unaccepted.add(seen.key)
            else:
                settled.append((seen, facts))
        self._unaccepted = unaccepted
        return settled

    def _missed(self, lingering: dict[bytes, Seen], ended: AbstractSet[bytes]) -> list[Change]:
        """Return the ends of connections that came and went between two listings, and left only their TIME_WAIT."""
        before, self._lingering = self._lingering, lingering.keys()
        new = lingering.keys() - before - ended
        if self._is_first or self._are_ends_told or not new:
            return []
        new -= {tracked.seen.identity for tracked in self._tracked.values()}
        changes = []
        for identity in new:
            facts = self._decode(lingering[identity])
            tracked = Tracked(lingering[identity], facts, self._direction(facts), None)
            changes.append(Change(Action.CLOSED, facts._replace(user_id=None), tracked))
        return changes

    def _add(self, fresh: list[tuple[Seen, SocketFacts]], now_ns: int) -> list[Change]:
        room = max(self._max_sockets - len(self._tracked), 0)
        self.left_out = max(len(fresh) - room, 0)
        listening_first = sorted(fresh[:room], key=lambda pair: not pair[1].is_listening)  # they decide directions
        return [self._opened(seen, facts, now_ns) for seen, facts in listening_first]

    def _opened(self, seen: Seen, facts: SocketFacts, now_ns: int) -> Change:
        if facts.is_listening:
            self._listening[facts.transport, facts.local_port] += 1
        tracked = Tracked(seen, facts, self._direction(facts), None if self._is_first else now_ns)
        self._tracked[seen.key] = tracked
        if self._is_first:
            return Change(Action.EXISTING, facts, tracked)
        return Change(Action.LISTENING if facts.is_listening else Action.OPENED, facts, tracked)

    def _direction(self, facts: SocketFacts) -> Direction | None:
        if facts.is_listening:
            return None
        accepted = (facts.transport, facts.local_port) in self._listening
        return Direction.INGRESS if accepted else Direction.EGRESS
