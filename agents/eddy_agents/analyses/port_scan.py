"""Finds port scans: one source that tries many ports of one target, or one port of many targets.

In: cooked flows (``network.netflow.*``) and packets (``network.packet``). Out: ``security.diagnosis.port_scan``: one
event when a scan is recognised, and one with the same ``event.id`` and the complete evidence when it is over.

What counts is the *probe*, a request that came to nothing:

* TCP: SYN without ACK, or none of SYN, ACK and RST (FIN, XMAS and NULL scans). In flows this is a connection that the
  source never completed; of packets the probe is forgotten when the source completes the connection. It does not
  matter whether the target refuses (RST), accepts (SYN ACK) or is silent, and the target's answers are no probes.
* UDP, and TCP of exporters that do not give flags: at most a few packets from the higher to the lower port, and no
  answer, be it told by the same record (biflows) or by another. Answers (from the lower port), traceroute, groups and
  peer-to-peer exchanges are left out, and exporters that give neither flags nor packets but for what they denied.

The answer, or the rest of the connection, may come in a later batch: a probe counts once it has waited for
``grace_s``. A sweep without flags is none while more targets answer than do not: that is a resolver.

Not found: scans with whole connections to open ports only, ACK scans, UDP scans from a port below those scanned.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import msgspec
import numpy as np

from eddy_agents.detection import contacts
from eddy_agents.detection.contacts import ACK, SYN, TCP, UDP, Contacts, Rows
from eddy_agents.detection.probes import answers, completes, is_probe, services
from eddy_agents.detection.windows import EventClock, Grace, Marks, Positive, Table, eviction_notice, span_text
from eddy_mesh.agent import Draft, Example, Result, draft_of
from eddy_mesh.batch import Batch, Kind
from eddy_mesh.cer import EventClass, Stage, Value
from eddy_mesh.columns import address_text
from eddy_mesh.rows import split_ids

INPUT: Final = contacts.INPUT
KIND: Final = Kind(Stage.ANALYZED, EventClass.SECURITY, "diagnosis.port_scan")

_S: Final = 1_000_000_000
_MARKS_MAX: Final = 250_000
"""Marks after which those of forgotten probes are taken away: a quarter of the places at most."""
_REPEATS: Final = 3
"""Probes of one port of one target that belong to a scan; scanners repeat, but more than that is something else."""
_REPEAT_NS: Final = 5 * _S
"""How long after the last new port or target a repeated probe still belongs to a scan."""
_SHOWN: Final = 10
"""Ports or targets named in the sentence."""


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the port scan detector."""

    ports: Positive = 15
    """Ports of one target tried within `window_s` that make a vertical scan."""
    targets: Positive = 10
    """Targets tried on one port within `window_s` that make a host sweep."""
    window_s: Positive = 60
    """Length of the window, s; a scan is over when its source is quiet for as long."""
    slow_ports: Positive = 30
    """Ports of one target tried within `slow_window_s`."""
    slow_targets: Positive = 30
    """Targets tried on one port within `slow_window_s`."""
    slow_window_s: Positive = 3600
    """Length of the window for slow scans, s."""
    grace_s: Grace = 3
    """How long a request may wait for its answer, or a connection for its completion, before it is a probe, s."""
    max_keys: Positive = 50_000
    """Most pairs of source and target, or of source and port, that are watched at once."""
    max_held: Positive = 500_000
    """Most event ids held in all; about 250 bytes each at worst."""
    max_evidence: Positive = 100_000
    """Most event ids in one diagnosis; ``diagnosis.count`` counts all."""


class Form(StrEnum):
    """Which way a scan goes; the value of ``event.action``."""

    VERTICAL = "vertical_scan"
    HORIZONTAL = "host_sweep"


@dataclass(slots=True)
class _Tried:
    """One port or target that a source has tried."""

    first_ns: int
    last_ns: int
    seen_ns: int  # when the first of its probes came
    count: int = 0
    ids: bytearray = field(default_factory=bytearray)


Key = tuple[Form, int, int, int, int, int]
"""Form, protocol, source (two halves), then the target's two halves, or the port and 0."""


@dataclass(slots=True)
class _Scan:
    """What one source did to one target, or on one port."""

    key: Key
    tried: dict[tuple[int, int], _Tried] = field(default_factory=dict)
    held: int = 0
    beyond: int = 0  # probes of ports or targets for which there was no room any more
    new_ns: int = 0  # last time at which a port or target was new
    last_ns: int = 0
    seen_ns: int = 0  # when the last probe came
    answered: set[tuple[int, int]] = field(default_factory=set)  # targets of a sweep that did, no more than tried
    due_ns: int = 0  # when its probes have waited for answers; 0 where they are too few for a scan
    found_ns: int = 0  # begin of the scan, once it is one
    quiet_ns: int = 0  # how long without a probe ends it

    def probe(self, target: tuple[int, int], times_ns: tuple[int, int, int], ids: bytes, room: int) -> None:
        """Take in probes of one port or target, by first and last time and when they came, and as many ids as fit."""
        first_ns, last_ns, seen_ns = times_ns
        tried = self.tried.get(target)
        if tried is not None and self.due_ns and first_ns > self.new_ns + _REPEAT_NS:
            return
        self.last_ns, self.seen_ns = max(self.last_ns, last_ns), max(self.seen_ns, seen_ns)
        left = max(room - self.held, 0)
        if tried is None:
            self.new_ns = max(self.new_ns, first_ns)
            if not left:
                self.beyond += len(ids) // 16
                return
            tried = self.tried[target] = _Tried(first_ns, last_ns, seen_ns)
        tried.first_ns, tried.last_ns = min(tried.first_ns, first_ns), max(tried.last_ns, last_ns)
        counted = min(len(ids) // 16, _REPEATS - tried.count)
        tried.count += counted
        tried.ids += ids[: 16 * min(counted, left)]
        self.held += min(counted, left)

    def forget(self, target: tuple[int, int]) -> None:
        """Take back the probes of one port or target."""
        tried = self.tried.pop(target, None)
        if tried is not None:
            self.held -= len(tried.ids) // 16
        if not self.tried:
            self.answered.clear()

    def settle(self, target: tuple[int, int]) -> None:
        """Take back the probes of what has come to something after all."""
        self.forget(target)
        if self.key[:2] == (Form.HORIZONTAL, UDP) and len(self.answered) < len(self.tried):
            self.answered.add(target)

    def forget_before(self, time_ns: int) -> None:
        """Take back what was last tried before a time."""
        for target in [target for target, tried in self.tried.items() if tried.last_ns < time_ns]:
            self.forget(target)


class Detector:
    """Watches probes by source and target, and by source and port (form: `eddy_mesh.agent.Stateful`).

    Args:
        config: settings.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._clock = EventClock()
        self._marks = Marks()
        self._scans: Table[Key, _Scan] = Table(_Scan, config.max_keys, config.max_held)
        self._waiting: dict[Key, None] = {}  # those that may be scans
        self._swept_ns = 0
        self._told = 0

    def on_batch(self, batch: Batch, now_ns: int) -> Result:
        """Take flows or packets; return scans that were recognised or have ended."""
        seen = contacts.contacts_of(batch, now_ns)
        time_ns = self._clock.observe(seen.time_ns, now_ns)
        probing = is_probe(seen)
        probes = seen.where(probing)
        settled = np.concatenate(
            (seen.where(completes(seen)).forward(), seen.where(answers(seen) & ~probing).backward())
        )
        probes = probes.where(~contacts.among(probes.forward(), settled))
        ended = self._watch(probes, time_ns)
        self._settle(settled)
        return Result(self._told_of(ended, now_ns))

    def on_tick(self, now_ns: int) -> Result:
        """Return the scans that were recognised or have ended, and what had to be forgotten."""
        drafts = self._told_of([], now_ns)
        if self._scans.evicted > self._told:
            drafts.append(eviction_notice("port_scan", self._scans.evicted - self._told))
            self._told = self._scans.evicted
        return Result(drafts)

    def _told_of(self, ended: list[_Scan], now_ns: int) -> list[Draft]:
        found = self._recognise_due(self._clock.at(now_ns))
        ended += self._sweep(now_ns)
        return _drafts(found, "start") + _drafts([scan for scan in ended if scan.found_ns], "end")

    def _settle(self, settled: Rows) -> None:
        """Forget the probes that came to something after all, of scans that are not yet recognised."""
        sweeps = self._marks.may_hold(services(settled)) & (settled[:, 5] == UDP)
        known = settled[self._marks.may_hold(settled) | sweeps]
        for row in contacts.distinct(known)[0].tolist():
            for key, target in _keys(row):
                scan = self._scans.get(key)
                if scan is not None and not scan.found_ns:
                    scan.settle(target)
                    self._scans.resize(key)

    def _watch(self, probes: Contacts, time_ns: int) -> list[_Scan]:
        """Take in probes; return the scans that had to go."""
        rows, which = contacts.distinct(probes.forward())
        self._marks.add(rows)
        self._marks.add(services(rows[rows[:, 5] == UDP]))
        gone: list[_Scan] = []
        for row, members in zip(rows.tolist(), contacts.groups(which), strict=True):
            times = int(probes.time_ns[members].min()), int(probes.time_ns[members].max()), time_ns
            ids = contacts.packed_ids(probes.ids[members])
            for key, target in _keys(row):
                scan = self._scans.enter(key)
                scan.probe(target, times, ids, self._config.max_evidence)
                gone += self._scans.resize(key)
                if not scan.due_ns and len(scan.tried) >= min(self._least(key[0])):
                    scan.due_ns = time_ns + self._config.grace_s * _S
                    self._waiting[key] = None
        return gone

    def _recognise_due(self, time_ns: int) -> list[_Scan]:
        """Return the scans that have become some, of those whose probes have waited."""
        found: list[_Scan] = []
        grace_ns = self._config.grace_s * _S
        for key in list(self._waiting):
            scan = self._scans.get(key)
            if scan is not None and scan.due_ns > time_ns:
                continue
            if scan is not None and self._recognise(scan, time_ns - grace_ns):
                found.append(scan)
            elif scan is not None:
                scan.due_ns = scan.seen_ns + grace_ns if scan.seen_ns > time_ns - grace_ns else 0
                if scan.due_ns:
                    continue
            del self._waiting[key]
        return found

    def _recognise(self, scan: _Scan, waited_ns: int) -> bool:
        """Return whether the scan has just become one, by the probes that came no later than a time."""
        least, slow_least = self._least(scan.key[0])
        scan.forget_before(scan.last_ns - self._config.slow_window_s * _S)
        self._scans.resize(scan.key)
        times = np.sort([tried.last_ns for tried in scan.tried.values() if tried.seen_ns <= waited_ns])
        if len(times) < min(least, slow_least) or len(scan.answered) >= len(times):
            return False
        begins = np.searchsorted(times, times - self._config.window_s * _S)
        fast = np.flatnonzero(np.arange(1, len(times) + 1) - begins >= least)
        if len(fast):
            scan.forget_before(int(times[begins[fast[0]]]))
            self._scans.resize(scan.key)
            scan.quiet_ns = self._config.window_s * _S
        elif len(times) >= slow_least:
            scan.quiet_ns = self._config.slow_window_s * _S
        else:
            return False
        scan.found_ns = min(tried.first_ns for tried in scan.tried.values())
        return True

    def _least(self, form: Form) -> tuple[int, int]:
        if form is Form.VERTICAL:
            return self._config.ports, self._config.slow_ports
        return self._config.targets, self._config.slow_targets

    def _sweep(self, now_ns: int) -> list[_Scan]:
        """End what has been quiet for its window; at most once a second of the events' time."""
        time_ns = self._clock.at(now_ns)
        if abs(time_ns - self._swept_ns) < _S:
            return []
        self._swept_ns = time_ns
        slow_ns = self._config.slow_window_s * _S
        ended = self._scans.sweep(lambda scan: time_ns - scan.seen_ns > (scan.quiet_ns or slow_ns))
        if self._marks.added > _MARKS_MAX:
            self._mark_again()
        return ended

    def _mark_again(self) -> None:
        """Mark what is still held; the marks of what was forgotten go."""
        self._marks.clear()
        vertical = [scan for scan in self._scans if scan.key[0] is Form.VERTICAL]
        rows = [(*scan.key[2:], port, scan.key[1]) for scan in vertical for port, _ in scan.tried]
        held = np.array(rows, np.uint64).reshape(-1, 6)
        self._marks.add(held)
        self._marks.add(services(held[held[:, 5] == UDP]))


def _keys(row: list[int]) -> tuple[tuple[Key, tuple[int, int]], tuple[Key, tuple[int, int]]]:
    """Return for source, destination, port and protocol the two keys that count them, and what is counted."""
    source_high, source_low, high, low, port, protocol = row
    vertical = (Form.VERTICAL, protocol, source_high, source_low, high, low)
    horizontal = (Form.HORIZONTAL, protocol, source_high, source_low, port, 0)
    return (vertical, (port, 0)), (horizontal, (high, low))


# --- what is said ------------------------------------------------------------------------------------------------


def _drafts(scans: list[_Scan], event_type: str) -> list[Draft]:
    return [draft_of(KIND, [_row(scan, event_type) for scan in scans])] if scans else []


def _row(scan: _Scan, event_type: str) -> dict[str, Value]:
    form, protocol, source_high, source_low, *rest = scan.key
    source = address_text(source_high, source_low)
    start_ns = min(tried.first_ns for tried in scan.tried.values())
    name = contacts.transport(protocol)
    span = span_text(scan.last_ns - start_ns)
    many = f"{len(scan.tried)} {'ports' if form is Form.VERTICAL else 'hosts'}"
    if form is Form.VERTICAL:
        target = address_text(rest[0], rest[1])
        where: dict[str, Value] = {"destination.ip": target}
        shown = ", ".join(str(port) for port, _ in sorted(scan.tried)[:_SHOWN])
        sentence = f"{source} tried {many} of {target} over {name} in {span}"
    else:
        target = str(rest[0])
        where = {"destination.port": rest[0]}
        shown = ", ".join(address_text(high, low) for high, low in sorted(scan.tried)[:_SHOWN])
        sentence = f"{source} tried {name} port {target} of {many} in {span}"
    more = ", ..." if len(scan.tried) > _SHOWN else ""
    return where | {
        "occurred": scan.last_ns,
        "level": 4,
        "event.kind": "alert",
        "event.category": "intrusion_detection",
        "event.action": str(form),
        "event.type": event_type,
        "event.id": f"port_scan:{form}:{name.lower()}:{source}:{target}:{scan.found_ns}",
        "source.ip": source,
        "network.iana_number": protocol,
        "network.transport": name.lower(),
        "diagnosis.id": "port_scan",
        "diagnosis.hypothesis": f"{sentence} and completed no exchange: a scan ({shown}{more})",
        "diagnosis.expected": [f"a completed exchange of {source} with each {name} port that it tried"],
        "diagnosis.start": start_ns,
        "diagnosis.end": scan.last_ns,
        "diagnosis.count": sum(tried.count for tried in scan.tried.values()) + scan.beyond,
        "diagnosis.evidence": split_ids(b"".join(tried.ids for tried in scan.tried.values())),
    }


_PROBE: Final[dict[str, Value]] = {
    "occurred": 1_700_000_000 * _S,
    "source.ip": "192.0.2.66",
    "source.port": 40_000,
    "destination.ip": "198.51.100.1",
    "network.iana_number": TCP,
    "network.packets": 1,
    "netflow.tcpControlBits": SYN,
}

EXAMPLES: tuple[Example, ...] = (
    Example(
        given=[_PROBE | {"destination.port": port} for port in range(1, 16)],
        expected=(
            {
                "event.action": "vertical_scan",
                "event.type": "start",
                "source.ip": "192.0.2.66",
                "destination.ip": "198.51.100.1",
                "diagnosis.count": 15,
            },
        ),
        config={"grace_s": 0},
    ),
    Example(
        given=[_PROBE | {"destination.port": 445, "destination.ip": f"198.51.100.{host}"} for host in range(1, 6)],
        expected=({"event.action": "host_sweep", "destination.port": 445, "diagnosis.count": 5},),
        config={"targets": 5, "grace_s": 0},
    ),
    Example(  # completed connections are no scan
        given=[_PROBE | {"destination.port": port, "netflow.tcpControlBits": SYN | ACK} for port in range(1, 16)],
        expected=(),
        config={"grace_s": 0},
    ),
)
