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
import numpy.typing as npt

from eddy_agents.detection import contacts
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
from eddy_agents.detection.windows import EventClock, Marks, Positive, Table, eviction_notice, peak, span_text
from eddy_mesh.agent import Draft, Example, Result, draft_of
from eddy_mesh.batch import Batch, Kind
from eddy_mesh.cer import EventClass, Stage, Value
from eddy_mesh.columns import address_text
from eddy_mesh.errors import ConfigError
from eddy_mesh.rows import split_ids

INPUT: Final = contacts.INPUT
KIND: Final = Kind(Stage.ANALYZED, EventClass.SECURITY, "diagnosis.flood")

_S: Final = 1_000_000_000
_MAX_SOURCES: Final = 10_000
"""Sources counted for one flood; with forged addresses every packet has its own."""
_MARKS_MAX: Final = 250_000
"""Marks after which those of forgotten targets are taken away: a quarter of the places at most."""
_AT_ONCE: Final = 4096
"""Once a flood is found, its windows are counted again after so many events: each count sorts them all."""


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the flood detector."""

    connections: Positive = 500
    """Half-open TCP connections to one port of one target within `window_s` that make a flood."""
    packets: Positive = 50_000
    """Unanswered UDP or ICMP packets to one port of one target within `window_s` that make a flood."""
    window_s: Positive = 10
    """Length of the window, s; a flood is over when the rate stays below for as long."""
    max_keys: Positive = 50_000
    """Most targets (address, protocol, port) that are watched at once."""
    max_recent: Positive = 65_536
    """Most events of one target that are held to count its windows."""
    max_held: Positive = 500_000
    """Most events held in all, about 110 bytes each."""
    max_evidence: Positive = 100_000
    """Most event ids in one diagnosis; ``diagnosis.count`` counts all."""


Key = tuple[int, int, int, int]
"""Target (two halves), port, protocol."""


@dataclass(slots=True)
class _Target:
    """What was sent to one service."""

    key: Key
    recent: Contacts  # of the last windows, by time
    taken: Mask  # which of them are evidence already
    waiting: list[Contacts] = field(default_factory=list)  # not looked at yet
    completed: list[Rows] = field(default_factory=list)  # peers of those that came to something
    unseen: int = 0  # events in the two lists
    asked: int = 0  # weight of what is recent or waiting
    last_ns: int = 0
    above_ns: int = 0  # last time at which the rate was above the limit; 0 where it never was
    start_ns: int = 0  # first event of the evidence
    name_ns: int = 0  # start as it was when the flood was found: names the diagnosis
    end_ns: int = 0
    count: int = 0
    asked_in_all: int = 0
    ids: bytearray = field(default_factory=bytearray)
    sources: Counter[tuple[int, int]] = field(default_factory=Counter)

    @property
    def held(self) -> int:
        """Events held."""
        return self.unseen + len(self.recent) + len(self.ids) // 16

    def add(self, seen: Contacts, window_ns: int) -> None:
        """Take in requests."""
        self.waiting.append(seen)
        self.unseen += len(seen)
        self.asked += int(_weights(seen, window_ns).sum())
        self.last_ns = max(self.last_ns, int(seen.time_ns.max()))

    def complete(self, peers: Rows) -> None:
        """Take note of peers that completed what they asked for."""
        self.completed.append(peers)
        self.unseen += len(peers)

    def look(self, config: Config) -> None:
        """Count the windows; what lies in one above the limit becomes evidence, what is too old is forgotten."""
        seen = contacts.joined([self.recent, *self.waiting])
        taken = np.concatenate((self.taken, np.zeros(len(seen) - len(self.taken), np.bool_)))
        open_ones = ~contacts.among(_peers(seen), np.concatenate([*self.completed, _NO_PEERS])) | taken
        order = np.flatnonzero(open_ones)[np.argsort(seen.time_ns[open_ones], kind="stable")]
        seen, taken = seen.where(order), taken[order]
        window_ns = config.window_s * _S
        weights = _weights(seen, window_ns)
        above = peak(seen.time_ns, weights, window_ns) >= _limit(self.key, config)
        if above.any():
            burst = peak(seen.time_ns, weights, window_ns // 10) >= max(_limit(self.key, config) // 20, 2)
            dense = _within(seen.time_ns, burst, window_ns // 10)  # a stray request before a flood is no part of it
            fresh = _within(seen.time_ns, above, window_ns) & dense & ~taken
            self._take(seen.where(fresh), config.max_evidence)
            taken |= fresh
            self.above_ns = max(self.above_ns, int(seen.time_ns[above].max()))
        kept = seen.time_ns > self.last_ns - 2 * window_ns  # two windows: events come late, too
        kept[: -config.max_recent] = False
        self.recent, self.taken = seen.where(kept), taken[kept]
        self.asked = int(weights[kept].sum())
        self.waiting, self.completed, self.unseen = [], [], 0

    def _take(self, fresh: Contacts, max_evidence: int) -> None:
        if not len(fresh):
            return
        first, last = int(fresh.time_ns.min()), int(fresh.time_ns.max())
        self.start_ns = min(self.start_ns, first) if self.count else first
        self.end_ns = max(self.end_ns, last)
        requests = _requests(fresh)
        self.count += len(fresh)
        self.asked_in_all += int(requests.sum())
        self.ids += contacts.packed_ids(fresh.ids[: max(max_evidence - len(self.ids) // 16, 0)])
        sources, which = contacts.distinct(fresh.source)
        totals = np.bincount(which, requests, len(sources)).astype(np.int64)
        for (high, low), total in zip(sources.tolist(), totals.tolist(), strict=True):
            if (high, low) in self.sources or len(self.sources) < _MAX_SOURCES:
                self.sources[high, low] += total


class Detector:
    """Watches requests by target, port and protocol (form: `eddy_mesh.agent.Stateful`).

    Args:
        config: settings.

    Raises:
        ConfigError: fewer events are held than the limits ask for.
    """

    def __init__(self, config: Config) -> None:
        if max(config.connections, config.packets) > config.max_recent:
            mistake = f"max_recent: {config.max_recent} events can not reach the limits: write at least the larger one"
            raise ConfigError([mistake])
        self._config = config
        self._clock = EventClock()
        self._marks = Marks()
        self._targets: Table[Key, _Target] = Table(_new_target, config.max_keys, config.max_held)
        self._swept_ns = 0
        self._told = 0

    def on_batch(self, batch: Batch, now_ns: int) -> Result:
        """Take flows or packets; return floods that were found or have ended."""
        seen = contacts.contacts_of(batch, now_ns)
        self._clock.observe(seen.time_ns, now_ns)
        requests = seen.where(_asks(seen))
        completed = _completions(seen)
        requests = requests.where(~contacts.among(_exchange(requests), completed))
        gone = self._complete(completed)
        found, more = self._watch(requests)
        drafts = [*self._drafts(found, "start"), *self._drafts([*gone, *more], "end")]
        return Result([*drafts, *self._sweep(now_ns)])

    def on_tick(self, now_ns: int) -> Result:
        """Return the floods that have ended, and what had to be forgotten."""
        drafts = self._sweep(now_ns)
        if self._targets.evicted > self._told:
            drafts.append(eviction_notice("flood", self._targets.evicted - self._told))
            self._told = self._targets.evicted
        return Result(drafts)

    def _complete(self, completed: Rows) -> list[_Target]:
        """Take note of completed exchanges; return the targets that had to go."""
        gone: list[_Target] = []
        known = completed[self._marks.may_hold(completed[:, :4])]
        rows, which = contacts.distinct(known[:, :4])
        for row, members in zip(rows.tolist(), contacts.groups(which), strict=True):
            target = self._targets.get(_key(row))
            if target is None:
                continue
            target.complete(known[members, 4:])
            if target.unseen >= _AT_ONCE:
                target.look(self._config)
            gone += self._targets.resize(target.key)
        return gone

    def _watch(self, requests: Contacts) -> tuple[list[_Target], list[_Target]]:
        """Take in requests; return the targets of floods just found, and those that had to go."""
        services = _exchange(requests)[:, :4]
        rows, which = contacts.distinct(services)
        self._marks.add(rows)
        found: list[_Target] = []
        gone: list[_Target] = []
        for row, members in zip(rows.tolist(), contacts.groups(which), strict=True):
            target = self._targets.enter(_key(row))
            target.add(requests.where(members), self._config.window_s * _S)
            if self._due(target):
                target.look(self._config)
            if target.count and not target.name_ns:
                target.name_ns = target.start_ns
                found.append(target)
            gone += self._targets.resize(target.key)
        return found, gone

    def _due(self, target: _Target) -> bool:
        if target.unseen >= _AT_ONCE:
            return True
        return not target.name_ns and target.asked >= _limit(target.key, self._config)

    def _sweep(self, now_ns: int) -> list[Draft]:
        """End what has stayed below its limit for a window; at most once a second of the events' time."""
        time_ns = self._clock.at(now_ns)
        if abs(time_ns - self._swept_ns) < _S:
            return []
        self._swept_ns = time_ns
        window_ns = self._config.window_s * _S
        for target in self._targets:
            if target.name_ns and target.unseen:
                target.look(self._config)
                self._targets.resize(target.key)
        ended = self._targets.sweep(
            lambda target: time_ns - (target.above_ns or target.last_ns + window_ns) > window_ns
        )
        if self._marks.added > _MARKS_MAX:
            self._marks.clear()
            self._marks.add(np.array([target.key for target in self._targets], np.uint64).reshape(-1, 4))
        return self._drafts(ended, "end")

    def _drafts(self, targets: list[_Target], event_type: str) -> list[Draft]:
        rows = [_row(target, event_type, self._config) for target in targets if target.name_ns]
        return [draft_of(KIND, rows)] if rows else []


# --- what a request is -------------------------------------------------------------------------------------------


def _asks(seen: Contacts) -> Mask:
    """Return True for each request for a connection, and each packet of protocols without connections."""
    flags = seen.flags
    syn = (seen.protocol == TCP) & (flags != ABSENT) & (flags & SYN > 0) & (flags & ACK == 0)
    asks: Mask = syn | np.isin(seen.protocol, (UDP, ICMP, ICMP_V6))
    return asks


def _exchange(seen: Contacts) -> Rows:
    """Return target, port and protocol, then source and its port: what a request and its completion share."""
    ports = _ports(seen)
    middle = (ports[1], seen.protocol.astype(np.uint64))
    return np.column_stack((seen.destination, *middle, seen.source, ports[0]))


def _completions(seen: Contacts) -> Rows:
    """Return the exchanges, in the form of `_exchange`, that came to something."""
    told = (seen.protocol == TCP) & (seen.flags != ABSENT)
    completes = seen.where(told & (seen.flags & ACK > 0) & (seen.flags & RST == 0))
    answers = seen.where(np.isin(seen.protocol, (UDP, ICMP, ICMP_V6)))
    ports = _ports(answers)
    middle = (ports[0], answers.protocol.astype(np.uint64))
    backward = np.column_stack((answers.source, *middle, answers.destination, ports[1]))
    return np.concatenate((_exchange(completes), backward))


def _ports(seen: Contacts) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Return source and destination ports; 0 for ICMP, for which exporters write the type there."""
    has = np.isin(seen.protocol, (TCP, UDP))
    return np.where(has, seen.source_port, 0).astype(np.uint64), np.where(has, seen.destination_port, 0).astype(
        np.uint64
    )


def _peers(seen: Contacts) -> Rows:
    return _exchange(seen)[:, 4:]


def _requests(seen: Contacts) -> Integers:
    """Return how many requests each event stands for."""
    resets = (seen.protocol == TCP) & (seen.flags & RST > 0)  # half of the packets take the request back
    requests: Integers = np.where(resets, (seen.packets + 1) // 2, seen.packets)
    return requests


def _weights(seen: Contacts, window_ns: int) -> Integers:
    """Return how many requests of each event fall into one window; a flow may take longer than that."""
    share = window_ns / np.maximum(seen.duration_ns, window_ns)
    return np.maximum(_requests(seen) * share, 1).astype(np.int64)


def _within(times_ns: Integers, above: Mask, window_ns: int) -> Mask:
    """Return True for each event that lies in a window that ends with one of those named."""
    ends = np.flatnonzero(above)
    begins = np.searchsorted(times_ns, times_ns[ends] - window_ns, side="right")
    steps = np.zeros(len(times_ns) + 1, np.int64)
    np.add.at(steps, begins, 1)
    np.add.at(steps, ends + 1, -1)
    within: Mask = np.cumsum(steps)[:-1] > 0
    return within


def _limit(key: Key, config: Config) -> int:
    return config.connections if key[3] == TCP else config.packets


def _key(row: list[int]) -> Key:
    high, low, port, protocol = row
    return high, low, port, protocol


def _new_target(key: Key) -> _Target:
    return _Target(key, contacts.nothing(), np.zeros(0, np.bool_))


_NO_PEERS: Final = np.zeros((0, 3), np.uint64)


# --- what is said ------------------------------------------------------------------------------------------------


def _row(target: _Target, event_type: str, config: Config) -> dict[str, Value]:
    high, low, port, protocol = target.key
    address, name = address_text(high, low), contacts.transport(protocol)
    service: dict[str, Value] = {"destination.ip": address}
    place = address
    if protocol in {TCP, UDP}:
        service["destination.port"] = port
        place = f"{address} port {port}"
    what = "half-open TCP connections" if protocol == TCP else f"unanswered {name} packets"
    (source, most), *_ = target.sources.most_common(1)
    whence = f"{len(target.sources)} sources"
    if 2 * most > target.asked_in_all:
        service["source.ip"] = whence = address_text(*source)
    span = span_text(target.end_ns - target.start_ns)
    limit = _limit(target.key, config)
    return service | {
        "occurred": target.end_ns,
        "level": 3,
        "event.kind": "alert",
        "event.category": "intrusion_detection",
        "event.action": "syn_flood" if protocol == TCP else f"{name.lower()}_flood",
        "event.type": event_type,
        "event.id": f"flood:{name.lower()}:{address}:{port}:{target.name_ns}",
        "network.iana_number": protocol,
        "network.transport": name.lower(),
        "diagnosis.id": "flood",
        "diagnosis.hypothesis": f"{target.asked_in_all} {what} to {place} in {span} from {whence}: a flood "
        f"(the limit is {limit} in {config.window_s} s)",
        "diagnosis.expected": [f"completed exchanges with {place}"],
        "diagnosis.start": target.start_ns,
        "diagnosis.end": target.end_ns,
        "diagnosis.count": target.count,
        "diagnosis.evidence": split_ids(bytes(target.ids)),
    }


_REQUEST: Final[dict[str, Value]] = {
    "source.ip": "192.0.2.66",
    "destination.ip": "198.51.100.1",
    "destination.port": 80,
    "network.iana_number": TCP,
    "network.packets": 1,
    "netflow.tcpControlBits": SYN,
}
_BEGIN_NS: Final = 1_700_000_000 * _S

EXAMPLES: tuple[Example, ...] = (
    Example(
        given=[_REQUEST | {"source.port": 1024 + n, "occurred": _BEGIN_NS + n * _S // 100} for n in range(5)],
        expected=(
            {
                "event.action": "syn_flood",
                "source.ip": "192.0.2.66",
                "destination.ip": "198.51.100.1",
                "destination.port": 80,
                "diagnosis.count": 5,
            },
        ),
        config={"connections": 5},
    ),
    Example(  # completed connections are no flood
        given=[
            _REQUEST | {"source.port": 1024 + n, "occurred": _BEGIN_NS, "netflow.tcpControlBits": SYN | ACK}
            for n in range(5)
        ],
        expected=(),
        config={"connections": 5},
    ),
)
