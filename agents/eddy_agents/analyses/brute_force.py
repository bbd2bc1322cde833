"""Finds guessing of passwords: many failed logins from one source, or for one user from several sources.

In: cooked events of the category authentication, from whatever log (``system``, ``security``, ``application``). Out:
``security.diagnosis.brute_force``: one event when guessing is recognised, one each time that a login from the same
source then succeeds (level critical), and one with the complete evidence when it is over; all with one ``event.id``.

A daemon writes several lines about one attempt (sshd: "Invalid user", "Failed password", "Connection closed by
authenticating user"). So attempts are counted for each user by the most frequent ``event.action`` among the failures;
a line about repetition counts as often as it says; the evidence names all lines. A login that succeeds before guessing
is recognised clears the failures of its user: it was a person who mistyped. So it was where all failures of the source
came over the connection that then succeeds. Keys that an SSH client offers in turn (``publickey``, and ``none``, which
asks for the methods) are no attempts.

Not found: failures that name no source; connections that end without a user (a monitor that looks at the port).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import ip_address
from typing import Final, NamedTuple

import msgspec
import numpy as np

from eddy_agents.detection.contacts import started_ns
from eddy_agents.detection.windows import EventClock, Positive, Table, eviction_notice, span_text
from eddy_mesh.agent import Draft, Example, Result, draft_of
from eddy_mesh.batch import EXTRA, Batch, Kind
from eddy_mesh.cer import EventClass, Stage, Value
from eddy_mesh.selection.lookup import integers

INPUT: Final = (
    "SELECT id, occurred, observed, host, event.category, event.outcome, event.action, event.type, source.ip,"
    " source.address, source.port, user.name, ssh.method, syslog.repeated FROM system, security, application"
    " WHERE stage = 'cooked' AND event.category = 'authentication'"
)
KIND: Final = Kind(Stage.ANALYZED, EventClass.SECURITY, "diagnosis.brute_force")

_S: Final = 1_000_000_000
_NO_GUESS: Final = frozenset({"publickey", "none", "hostbased"})
"""SSH methods in which no password is tried. Source: RFC 4252 sections 5.2, 7 and 9."""
_MAX_REPEATED: Final = 2**32
_SHOWN: Final = 10
"""Users or sources named in the sentence."""
_MAX_TEXT: Final = 256
"""Characters of a user name that are kept: whoever guesses chooses them."""


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the brute force detector."""

    failures: Positive = 5
    """Failed attempts from one source within `window_s` that are guessing."""
    window_s: Positive = 60
    """Length of the window, s."""
    slow_failures: Positive = 20
    """Failed attempts from one source within `slow_window_s`."""
    slow_window_s: Positive = 3600
    """Length of the window for slow guessing and for guessing from several sources, s."""
    user_failures: Positive = 10
    """Failed attempts for one user within `slow_window_s`, if they come from several sources."""
    user_sources: Positive = 4
    """How many sources are several."""
    max_keys: Positive = 50_000
    """Most sources and users that are watched at once."""
    max_held: Positive = 500_000
    """Most failures held in all, about 200 bytes each."""
    max_evidence: Positive = 10_000
    """Most event ids in one diagnosis; ``diagnosis.count`` counts all."""


class Form(StrEnum):
    """What the failures have in common; the value of ``event.action``."""

    SOURCE = "password_guessing"
    USER = "distributed_password_guessing"


class Attempt(NamedTuple):
    """One line about a login."""

    time_ns: int
    source: str
    user: str
    action: str
    host: str
    id: bytes
    port: int = 0  # of the source; 0 where it is not known
    weight: int = 1  # how many attempts the line stands for


@dataclass(slots=True)
class _Guessing:
    """Failures of one source, or for one user."""

    key: tuple[Form, str]
    failures: list[Attempt] = field(default_factory=list)
    successes: list[Attempt] = field(default_factory=list)
    beyond: int = 0  # failures for which there was no room any more
    last_ns: int = 0
    seen_ns: int = 0  # when the last failure came
    found_ns: int = 0  # time of the first failure, once it is guessing
    quiet_ns: int = 0  # how long without a failure ends it

    @property
    def held(self) -> int:
        """Events held."""
        return len(self.failures) + len(self.successes)

    def fail(self, attempt: Attempt, seen_ns: int, room: int) -> None:
        """Take in a failure."""
        self.last_ns, self.seen_ns = max(self.last_ns, attempt.time_ns), max(self.seen_ns, seen_ns)
        if self.held < room:
            self.failures.append(attempt)
        else:
            self.beyond += 1

    def clear(self, success: Attempt) -> None:
        """Forget the failures that a success makes good: those of the same user from the same source."""
        good = (success.source, success.user)
        self.failures = [failure for failure in self.failures if (failure.source, failure.user) != good]

    def is_same_connection(self, success: Attempt) -> bool:
        """Return whether every failure of the source came over the connection over which it then succeeds."""
        ports = {failure.port for failure in self.failures if failure.source == success.source}
        return success.port > 0 and ports == {success.port}

    def recognise(self, config: Config) -> bool:
        """Return whether the failures have just become guessing; forget those that are too old for it."""
        least = min(config.failures, config.slow_failures, config.user_failures)
        if self.found_ns or sum(failure.weight for failure in self.failures) < least:
            return False
        oldest_ns = self.last_ns - config.slow_window_s * _S
        self.failures = sorted(failure for failure in self.failures if failure.time_ns >= oldest_ns)
        begin = self._begin(config)
        if begin is None:
            return False
        self.failures = self.failures[begin:]
        self.found_ns = self.failures[0].time_ns
        return True

    def _begin(self, config: Config) -> int | None:
        """Return the offset of the first failure of the first window with too many, None where there is none."""
        if self.key[0] is Form.USER:
            several = len({failure.source for failure in self.failures}) >= config.user_sources
            self.quiet_ns = config.slow_window_s * _S
            return 0 if several and attempts(self.failures) >= config.user_failures else None
        window_ns = self.quiet_ns = config.window_s * _S
        begin = lines = 0
        for end, failure in enumerate(self.failures, 1):
            lines += failure.weight
            while failure.time_ns - self.failures[begin].time_ns >= window_ns:
                lines -= self.failures[begin].weight
                begin += 1
            if lines >= config.failures and attempts(self.failures[begin:end]) >= config.failures:
                return begin
        self.quiet_ns = config.slow_window_s * _S
        return 0 if attempts(self.failures) >= config.slow_failures else None


def attempts(failures: Sequence[Attempt]) -> int:
    """Return how often a login was tried, given the lines about the failures."""
    lines: Counter[tuple[str, str]] = Counter()
    for failure in failures:
        lines[failure.user, failure.action] += failure.weight
    most: dict[str, int] = {}
    for (user, _), count in lines.items():
        most[user] = max(most.get(user, 0), count)
    unnamed = most.pop("", 0)  # perhaps other lines about the same attempts
    return max(sum(most.values()), unnamed)


class Detector:
    """Watches failed logins by source and by user (form: `eddy_mesh.agent.Stateful`).

    Args:
        config: settings.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._clock = EventClock()
        self._table: Table[tuple[Form, str], _Guessing] = Table(_Guessing, config.max_keys, config.max_held)
        self._swept_ns = 0
        self._told = 0

    def on_batch(self, batch: Batch, now_ns: int) -> Result:
        """Take events about logins; return what was recognised, has succeeded or has ended."""
        times = started_ns(batch, now_ns)
        seen_ns = self._clock.observe(times, now_ns)
        ports, repeated = integers(batch, "source.port"), integers(batch, "syslog.repeated")
        rows: list[dict[str, Value]] = []
        touched: dict[tuple[Form, str], None] = {}
        for row in np.argsort(times, kind="stable").tolist():
            attempt, outcome = _attempt(batch, row, int(times[row]))
            if attempt is None:
                continue
            weight = min(max(int(repeated[row]), 1), _MAX_REPEATED)
            attempt = attempt._replace(port=max(int(ports[row]), 0), weight=weight)
            if outcome == "success":
                rows += self._succeed(attempt)
                continue
            for key in _keys(attempt):
                self._table.enter(key).fail(attempt, seen_ns, self._config.max_evidence)
                rows += [_row(gone, "end") for gone in self._table.resize(key) if gone.found_ns]
                touched[key] = None
        for key in touched:
            rows += self._recognise(key)
        return Result(_drafts(rows + self._sweep(now_ns)))

    def on_tick(self, now_ns: int) -> Result:
        """Return what has ended, and what had to be forgotten."""
        drafts = _drafts(self._sweep(now_ns))
        if self._table.evicted > self._told:
            drafts.append(eviction_notice("brute_force", self._table.evicted - self._told))
            self._told = self._table.evicted
        return Result(drafts)

    def _recognise(self, key: tuple[Form, str]) -> list[dict[str, Value]]:
        guessing = self._table.get(key)
        if guessing is None or not guessing.recognise(self._config):
            return []
        self._table.resize(key)
        return [_row(guessing, "start")]

    def _succeed(self, attempt: Attempt) -> list[dict[str, Value]]:
        """Take in a login that succeeded: of one who guesses it is the worst news, of others the end of mistyping."""
        rows: list[dict[str, Value]] = []
        for key in _keys(attempt):
            rows += self._recognise(key)
            guessing = self._table.get(key)
            if guessing is None:
                continue
            guesses = {failure.source for failure in guessing.failures}
            if not guessing.found_ns:
                guessing.clear(attempt)
            elif (
                attempt.source in guesses
                and not guessing.is_same_connection(attempt)
                and len(guessing.successes) < self._config.max_evidence
            ):
                guessing.successes.append(attempt)
                rows.append(_row(guessing, "change"))
            rows += [_row(gone, "end") for gone in self._table.resize(key) if gone.found_ns]
        return rows

    def _sweep(self, now_ns: int) -> list[dict[str, Value]]:
        """End what has been quiet for its window; at most once a second of the events' time."""
        time_ns = self._clock.at(now_ns)
        if abs(time_ns - self._swept_ns) < _S:
            return []
        self._swept_ns = time_ns
        slow_ns = self._config.slow_window_s * _S
        ended = self._table.sweep(lambda g: time_ns - g.seen_ns > (g.quiet_ns if g.found_ns else slow_ns))
        return [_row(guessing, "end") for guessing in ended if guessing.found_ns]


def _keys(attempt: Attempt) -> list[tuple[Form, str]]:
    keys = [(Form.SOURCE, attempt.source), (Form.USER, attempt.user)]
    return keys if attempt.user else keys[:1]


def _attempt(batch: Batch, row: int, time_ns: int) -> tuple[Attempt | None, str]:
    """Return what an event says about a login, and its outcome; None where it is about no guess, or names no source."""
    extra = batch.columns[EXTRA].at(row) if EXTRA in batch.columns else None
    members = extra if isinstance(extra, dict) else {}

    def text(name: str) -> str:
        value = batch.columns[name].at(row) if name in batch.columns else members.get(name)
        return value[:_MAX_TEXT] if isinstance(value, str) else ""

    outcome = text("event.outcome")
    source, user = text("source.ip") or text("source.address"), text("user.name")
    if text("event.category") != "authentication" or outcome not in {"failure", "success"} or not source:
        return None, outcome
    is_mere_end = not user and (outcome == "success" or text("event.type") == "end")
    if is_mere_end or (outcome == "failure" and text("ssh.method") in _NO_GUESS):
        return None, outcome
    identity = batch.ids().at(row)
    event_id = identity if isinstance(identity, bytes) else bytes(16)
    return Attempt(time_ns, source, user, text("event.action"), text("host"), event_id), outcome


# --- what is said ------------------------------------------------------------------------------------------------


def _drafts(rows: list[dict[str, Value]]) -> list[Draft]:
    return [draft_of(KIND, rows)] if rows else []


def _row(guessing: _Guessing, event_type: str) -> dict[str, Value]:
    form, name = guessing.key
    start_ns = min(failure.time_ns for failure in guessing.failures)
    lines = [*guessing.failures, *guessing.successes]
    end_ns = max(line.time_ns for line in lines)
    many = f"{attempts(guessing.failures)} failed logins"
    users = _listed({failure.user for failure in guessing.failures} - {""}) or "users that are not named"
    sources = _listed({failure.source for failure in guessing.failures})
    whole = f"{many} from {name} as {users}" if form is Form.SOURCE else f"{many} as {name} from {sources}"
    sentence = f"{whole}, within {span_text(end_ns - start_ns)}: guessing of passwords"
    for success in guessing.successes[-1:]:
        sentence += f"; then a login from {success.source} as {success.user} succeeded"
    hosts = {line.host for line in lines if line.host}
    return {
        "occurred": end_ns,
        "level": 2 if guessing.successes else 4,
        "host": hosts.pop() if len(hosts) == 1 else None,
        "event.kind": "alert",
        "event.category": "intrusion_detection",
        "event.action": str(form),
        "event.type": event_type,
        "event.outcome": "success" if guessing.successes else "failure",
        "event.id": f"brute_force:{form}:{name}:{guessing.found_ns}",
        **_source({line.source for line in lines}),
        "user.name": guessing.successes[-1].user if guessing.successes else _only({line.user for line in lines} - {""}),
        "diagnosis.id": "brute_force",
        "diagnosis.hypothesis": sentence,
        "diagnosis.expected": [f"a successful login among so many from {name if form is Form.SOURCE else sources}"],
        "diagnosis.start": start_ns,
        "diagnosis.end": end_ns,
        "diagnosis.count": len(lines) + guessing.beyond,
        "diagnosis.evidence": [line.id for line in lines],
    }


def _source(names: set[str]) -> dict[str, Value]:
    only = _only(names)
    try:
        return {} if only is None else {"source.ip": str(ip_address(only))}
    except ValueError:
        return {"source.address": only}


def _only(values: set[str]) -> str | None:
    return next(iter(values)) if len(values) == 1 else None


def _listed(values: set[str]) -> str:
    shown = ", ".join(sorted(values)[:_SHOWN])
    return shown if len(values) <= _SHOWN else f"{shown} and {len(values) - _SHOWN} more"


_FAILURE: Final[dict[str, Value]] = {
    "occurred": 1_700_000_000 * _S,
    "event.category": "authentication",
    "event.action": "ssh_login",
    "event.outcome": "failure",
    "source.ip": "192.0.2.66",
    "user.name": "root",
}

EXAMPLES: tuple[Example, ...] = (
    Example(
        given=[_FAILURE] * 5,
        expected=({"source.ip": "192.0.2.66", "user.name": "root", "level": 4, "diagnosis.count": 5},),
    ),
    Example(
        given=[*[_FAILURE] * 5, _FAILURE | {"event.outcome": "success"}],
        expected=(
            {"event.type": "start", "event.outcome": "failure", "level": 4},
            {"event.type": "change", "event.outcome": "success", "level": 2},
        ),
    ),
    Example(  # a person who mistypes
        given=[*[_FAILURE] * 3, _FAILURE | {"event.outcome": "success"}, *[_FAILURE] * 3],
        expected=(),
    ),
)
