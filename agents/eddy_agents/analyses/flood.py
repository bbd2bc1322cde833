"""Finds floods: more requests to one service than it can be meant to answer, that come to nothing.

In: cooked flows (``network.netflow.*``) and packets (``network.packet``). Out: ``security.diagnosis.flood``: one event
when the rate is crossed, and one with the same ``event.id`` and the complete evidence when it is over.

What is counted, by target address, protocol and port:

* TCP: connections asked for (SYN without ACK) and not completed by their source. Answers of the target do not count.
* UDP and ICMP: packets that the other end does not answer within the window.

Not found: floods of completed requests (a matter for the log of the service), and floods in sampled flows, where one
packet of many does not tell whether a connection was completed.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

import msgspec
import numpy as np

from eddy_agents import contacts
from eddy_agents.contacts import ABSENT, ACK, ICMP, ICMP_V6, RST, SYN, TCP, UDP, Contacts, Integers, Mask, Rows
from eddy_agents.windows import EventClock, Table, eviction_notice, peak
from eddy_mesh.agent import Draft, Example, Result, draft_of
from eddy_mesh.batch import Batch, Kind
from eddy_mesh.cer import EventClass, Stage, Value
from eddy_mesh.columns import address_text
from eddy_mesh.rows import split_ids

INPUT: Final = contacts.INPUT
KIND: Final = Kind(Stage.ANALYZED, EventClass.SECURITY, "diagnosis.flood")

_S: Final = 1_000_000_000
_MAX_SOURCES: Final = 10_000
_AT_ONCE: Final = 4096
"""Once a flood is found, its windows are counted again after so many events: each count sorts them all."""


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the flood detector."""

    connections: int = 500
    """Half-open TCP connections to one port of one target within `window_s` that make a flood."""
    packets: int = 50_000
    """Unanswered UDP or ICMP packets to one port of one target within `window_s` that make a flood."""
    window_s: int = 10
    """Length of the window, s; a flood is over when the rate stays below for as long."""
    max_keys: int = 50_000
    """Most targets (address, protocol, port) that are watched at once."""
    max_recent: int = 65_536
    """Most events of one target that are held to count its windows."""
    max_held: int = 500_000
    """Most events held in all, about 80 bytes each."""
    max_evidence: int = 100_000
    """Most event ids in one diagnosis; ``diagnosis.count`` counts all."""


Key = tuple[int, int, int, int]
"""Target (two halves), port, protocol."""


def _no_rows(columns: int) -> Rows:
    return np.zeros((0, columns), np.uint64)


def _no_numbers() -> Integers:
    return np.zeros(0, np.int64)


@dataclass(slots=True)
class _Recent:
    """Events of one target within the last window, in order of time."""

    times: Integers = field(default_factory=_no_numbers)
    weights: Integers = field(default_factory=_no_numbers)
    peers: Rows = field(default_factory=lambda: _no_rows(3))  # source address and port
    ids: Rows = field(default_factory=lambda: _no_rows(2))
    taken: Mask = field(default_factory=lambda: np.zeros(0, np.bool_))

    def __len__(self) -> int:
        return len(self.times)

    def add(self, seen: Contacts) -> None:
        """Put events in their place."""
        self.times = np.concatenate((self.times, seen.time_ns))
        self.weights = np.concatenate((self.weights, _weights(seen)))
        self.peers = np.concatenate((self.peers, _peers(seen)))
        self.ids = np.concatenate((self.ids, seen.ids))
        self.taken = np.concatenate((self.taken, np.zeros(len(seen), np.bool_)))
        if len(seen) < len(self) and seen.time_ns.min() >= self.times[-len(seen) - 1] and len(seen) == 1:
            return
        self.keep(np.argsort(self.times, kind="stable"))

    def keep(self, index: Mask | npt.NDArray[np.intp]) -> None:
        """Keep the events named, in that order."""
        for name in ("times", "weights", "peers", "ids", "taken"):
            setattr(self, name, getattr(self, name)[index])
