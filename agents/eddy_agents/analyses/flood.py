"""Finds floods: more requests to one service than it can be meant to answer, that come to nothing.

In: cooked flows (``network.netflow.*``) and packets (``network.packet``). Out: ``security.diagnosis.flood``: one event
when the rate is crossed, and one with the same ``event.id`` and the complete evidence when it is over.

What is counted, by target address, protocol and port:

* TCP: connections asked for (SYN without ACK) and not completed by their source. Answers of the target do not count.
* UDP and ICMP: packets that the other end does not answer, told by the same record (biflows) or another. Groups
  (multicast), broadcast and ports of protocols without answers (syslog, traps, flow export) are left out.

The answer, or the rest of the connection, may come in a later batch: a request counts once it has waited for
``grace_s`` or ``answer_s``.

Not found: floods of completed requests (a matter for the log of the service), and floods in sampled flows, where one
packet of many does not tell whether a connection was completed.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

import msgspec
import numpy as np

from eddy_agents.detection import contacts
from eddy_agents.detection.contacts import ACK, SYN, TCP, UDP, Contacts, Mask, Rows
from eddy_agents.detection.requests import asks, completions, exchanges, peers, requests_of, weights_of, within
from eddy_agents.detection.windows import EventClock, Grace, Marks, Positive, Table, eviction_notice, peak, span_text
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
    grace_s: Grace = 3
    """How long a connection may take to be completed before it counts, s."""
    answer_s: Grace = 10
    """How long a UDP or ICMP packet, or a flow of them, may wait for something to come back before it counts, s."""
    one_way_ports: tuple[int, ...] = (162, 514, 2055, 4739, 6343, 9995, 9996)
    """UDP ports that are not watched, since nothing answers there: SNMP traps, syslog, NetFlow, IPFIX, sFlow."""
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
    seen_ns: int = 0  # when the last request came
    above_ns: int = 0  # when the last request of those above the limit came; 0 where the rate never was above
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

    def add(self, seen: Contacts, weight: int, time_ns: int) -> None:
        """Take in requests that came at a time, and for how many they stand within a window."""
        self.waiting.append(seen)
        self.unseen += len(seen)
        self.asked += weight
        self.seen_ns = time_ns

    def complete(self, peers: Rows) -> None:
        """Take note of peers that completed what they asked for."""
        self.completed.append(peers)
        self.unseen += len(peers)

    def look(self, config: Config, time_ns: int) -> None:
        """Count the windows; what lies in one above the limit becomes evidence, what is too old is forgotten."""
        seen = contacts.joined([self.recent, *self.waiting])
        taken = np.concatenate((self.taken, np.zeros(len(seen) - len(self.taken), np.bool_)))
        open_ones = ~contacts.among(peers(seen), np.concatenate([*self.completed, _NO_PEERS])) | taken
        order = np.flatnonzero(open_ones)[np.argsort(seen.time_ns[open_ones], kind="stable")]
        seen, taken = seen.where(order), taken[order]
        window_ns, grace_ns = config.window_s * _S, _grace_ns(self.key, config)
        waited = seen.seen_ns <= time_ns - grace_ns
        waited[: -config.max_recent] = True  # there is no room to wait longer
        taken[waited] |= self._count(seen.where(waited), taken[waited], config)
        kept = seen.seen_ns > self.seen_ns - 2 * window_ns - grace_ns  # two windows: events come late, too
        kept[: -config.max_recent] = False
        self.recent, self.taken = seen.where(kept), taken[kept]
        self.asked = int(weights_of(self.recent, window_ns).sum())
        self.waiting, self.completed, self.unseen = [], [], 0

    def _count(self, seen: Contacts, taken: Mask, config: Config) -> Mask:
        """Take as evidence what lies in a window above the limit and is not taken yet; return which that is."""
        limit, window_ns = _limit(self.key, config), config.window_s * _S
        weights = weights_of(seen, window_ns)
        above = peak(seen.time_ns, weights, window_ns) >= limit
        if not above.any():
            return above
        burst = peak(seen.time_ns, weights, window_ns // 10) >= max(limit // 20, 2)
        dense = within(seen.time_ns, burst, window_ns // 10)  # a stray request before a flood is no part of it
        fresh: Mask = within(seen.time_ns, above, window_ns) & dense & ~taken
        self._take(seen.where(fresh), config.max_evidence)
        self.above_ns = max(self.above_ns, int(seen.seen_ns[above].max()))
        return fresh

    def _take(self, fresh: Contacts, max_evidence: int) -> None:
        if not len(fresh):
            return
        first, last = int(fresh.time_ns.min()), int((fresh.time_ns + fresh.duration_ns).max())
        self.start_ns = min(self.start_ns, first) if self.count else first
        self.end_ns = max(self.end_ns, last)
        requests = requests_of(fresh)
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
        seen = seen.seen_at(self._clock.observe(seen.time_ns, now_ns))
        requests = seen.where(asks(seen, self._config.one_way_ports))
        completed = completions(seen)
        requests = requests.where(~contacts.among(exchanges(requests), completed))
        gone = [*self._complete(completed, now_ns), *self._watch(requests, now_ns)]
        return Result(self._told_of(gone, now_ns))

    def on_tick(self, now_ns: int) -> Result:
        """Return the floods that were found or have ended, and what had to be forgotten."""
        drafts = self._told_of([], now_ns)
        if self._targets.evicted > self._told:
            drafts.append(eviction_notice("flood", self._targets.evicted - self._told))
            self._told = self._targets.evicted
        return Result(drafts)

    def _complete(self, completed: Rows, now_ns: int) -> list[_Target]:
        """Take note of completed exchanges; return the targets that had to go."""
        gone: list[_Target] = []
        known = completed[self._marks.may_hold(completed[:, :4])]
        rows, which = contacts.distinct(known[:, :4])
        for row, members in zip(rows.tolist(), contacts.groups(which), strict=True):
            target = self._targets.get(_key(row))
            if target is not None:
                target.complete(known[members, 4:])
                gone += self._settle(target, now_ns)
        return gone

    def _watch(self, requests: Contacts, now_ns: int) -> list[_Target]:
        """Take in requests; return the targets that had to go."""
        rows, which = contacts.distinct(exchanges(requests)[:, :4])
        self._marks.add(rows)
        weights = np.bincount(which, weights_of(requests, self._config.window_s * _S), len(rows))
        gone: list[_Target] = []
        groups = zip(rows.tolist(), contacts.groups(which), weights.tolist(), strict=True)
        for row, members, weight in groups:
            target = self._targets.enter(_key(row))
            target.add(requests.where(members), int(weight), self._clock.at(now_ns))
            gone += self._settle(target, now_ns)
        return gone

    def _settle(self, target: _Target, now_ns: int) -> list[_Target]:
        """Look at a target that holds much that is not looked at; return the targets that had to go."""
        if target.unseen >= _AT_ONCE:
            target.look(self._config, self._clock.at(now_ns))
        return self._targets.resize(target.key)

    def _told_of(self, gone: list[_Target], now_ns: int) -> list[Draft]:
        """Look at what may be a flood, end what is over; at most once a second of the events' time."""
        time_ns = self._clock.at(now_ns)
        for target in gone:
            if target.count:  # it can not wait any longer for what may come
                target.look(self._config, time_ns + _grace_ns(target.key, self._config))
        if abs(time_ns - self._swept_ns) < _S:
            return self._drafts(gone, "end")
        self._swept_ns = time_ns
        found: list[_Target] = []
        suspects = [t for t in self._targets if t.name_ns or t.asked >= _limit(t.key, self._config)]
        for target in suspects:
            target.look(self._config, time_ns)
            if target.count and not target.name_ns:
                found.append(target)
        started = self._drafts(found, "start")
        for target in suspects:
            gone += self._targets.resize(target.key) if self._targets.get(target.key) is not None else []
        gone += self._targets.sweep(lambda target: self._over(target, time_ns))
        if self._marks.added > _MARKS_MAX:
            self._marks.clear()
            self._marks.add(np.array([target.key for target in self._targets], np.uint64).reshape(-1, 4))
        return [*started, *self._drafts(gone, "end")]

    def _over(self, target: _Target, time_ns: int) -> bool:
        """Return whether a target has been below its limit for a window, and nothing of it waits any more."""
        window_ns = self._config.window_s * _S
        since_ns = target.above_ns or target.seen_ns + window_ns
        return time_ns - since_ns > window_ns + _grace_ns(target.key, self._config)

    def _drafts(self, targets: list[_Target], event_type: str) -> list[Draft]:
        floods = [target for target in targets if target.count]
        for target in floods:
            target.name_ns = target.name_ns or target.start_ns
        return [draft_of(KIND, [_row(target, event_type, self._config) for target in floods])] if floods else []


# --- limits and keys -------------------------------------------------------------------------------------------------


def _limit(key: Key, config: Config) -> int:
    return config.connections if key[3] == TCP else config.packets


def _grace_ns(key: Key, config: Config) -> int:
    return (config.grace_s if key[3] == TCP else config.answer_s) * _S


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
        config={"connections": 5, "grace_s": 0},
    ),
    Example(  # completed connections are no flood
        given=[
            _REQUEST | {"source.port": 1024 + n, "occurred": _BEGIN_NS, "netflow.tcpControlBits": SYN | ACK}
            for n in range(5)
        ],
        expected=(),
        config={"connections": 5, "grace_s": 0},
    ),
)
