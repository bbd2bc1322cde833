"""Sequence numbers of sFlow datagrams: what an agent sent and did not arrive.

What may live here: `Sequences`, which follows the numbers of all sub-agents in bounded memory, and the `Gap` that it
finds. Every datagram counts one, by sub-agent, from any number on.

Source: sFlow version 5 (July 2004) section 5.3, ``sample_datagram_v5``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from eddy_agents.wire.sflow import Datagram
from eddy_mesh.columns import Column

_MODULUS: Final = 1 << 32
_MAX_GAPS: Final = 16
"""Most gaps of one sub-agent that are held back; the oldest is told first."""

_REPEAT: Final = 1000
"""A number at most this far behind is a repeat; one further behind says that the agent began anew."""

RESTART_MS: Final = 60_000
"""An uptime that fell by more than this says the same; that of a late datagram is a few ms older."""


@dataclass(slots=True)
class Gap:
    """Datagrams that are missing.

    Attributes:
        agent: address of the agent.
        sub_agent: which of its processes.
        expected: the first number that is missing.
        sequence: number of the datagram that showed it.
        lost: how many are missing.
        seen_ns: ns since 1970 UTC at which it was found.
        origin: the raw event of the datagram that showed it, one row of each column that is carried on.
        waited: datagrams of the sub-agent that came since.
    """

    agent: str
    sub_agent: int
    expected: int
    sequence: int
    lost: int
    seen_ns: int
    origin: Mapping[str, Column] = field(default_factory=dict)
    waited: int = 0


@dataclass(slots=True)
class _Place:
    expected: int
    uptime_ms: int
    gaps: list[Gap] = field(default_factory=list)


class Sequences:
    """The numbers of all sub-agents.

    A gap is held back until ``window`` further datagrams came, and taken back as far as late datagrams fill it.
    """

    def __init__(self, max_agents: int, window: int) -> None:
        """Args: max_agents: most sub-agents followed; the one silent for longest is forgotten. window: see above."""
        self._max_agents = max_agents
        self._window = window
        self._places: dict[tuple[str, int], _Place] = {}  # the one heard last at the end
        self._with_gaps: set[tuple[str, int]] = set()
        self._given_up: list[Gap] = []

    def take(self, datagram: Datagram, now_ns: int) -> Gap | None:
        """Take the number of one datagram in the order of arrival; returns the gap that it shows, None for none."""
        key = (datagram.agent, datagram.sub_agent)
        place = self._places.pop(key, None)
        if place is None:
            place = self._begin(datagram)
        self._places[key] = place
        for gap in place.gaps:
            gap.waited += 1
        ahead = _signed(datagram.sequence - place.expected)
        has_restarted = datagram.uptime_ms + RESTART_MS < place.uptime_ms
        if ahead < 0 and not has_restarted and (_fill(place, datagram.sequence) or ahead >= -_REPEAT):
            return None
        found = None
        if ahead > 0 and not has_restarted:
            found = Gap(*key, place.expected, datagram.sequence, ahead, now_ns)
            place.gaps.append(found)
            self._with_gaps.add(key)
            self._given_up += place.gaps[:-_MAX_GAPS]
            del place.gaps[:-_MAX_GAPS]
        place.expected, place.uptime_ms = (datagram.sequence + 1) % _MODULUS, datagram.uptime_ms
        return found

    def due(self, before_ns: int) -> list[Gap]:
        """Remove and return the gaps that nothing can fill any more: ``window`` datagrams, or seen before a time."""
        ready, self._given_up = self._given_up, []
        for key in sorted(self._with_gaps):
            place = self._places.get(key)
            held = place.gaps if place is not None else []
            waiting = [gap for gap in held if gap.waited < self._window and gap.seen_ns > before_ns]
            ready += [gap for gap in held if gap not in waiting]
            if place is not None:
                place.gaps = waiting
            if not waiting:
                self._with_gaps.discard(key)
        return ready

    def _begin(self, datagram: Datagram) -> _Place:
        if len(self._places) >= self._max_agents:
            silent = self._places.pop(next(iter(self._places)))
            self._given_up += silent.gaps
        return _Place(datagram.sequence, datagram.uptime_ms)


def _fill(place: _Place, sequence: int) -> bool:
    """Whether a late datagram is one of the missing: then its gap shrinks, or becomes two."""
    for gap in place.gaps:
        offset = (sequence - gap.expected) % _MODULUS
        if offset < gap.lost:
            place.gaps.remove(gap)
            parts = (
                replace(gap, lost=offset),
                replace(gap, expected=(sequence + 1) % _MODULUS, lost=gap.lost - offset - 1),
            )
            place.gaps += [part for part in parts if part.lost]
            return True
    return False


def _signed(difference: int) -> int:
    """The difference of two 32-bit counters that wrap, -2**31 to 2**31 - 1."""
    return (difference + 0x8000_0000) % _MODULUS - 0x8000_0000
