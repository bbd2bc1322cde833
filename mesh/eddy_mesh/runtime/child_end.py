"""What the end of a child process means: start it again, when, or not, and what its last words were; pure.

What may live here: the table of exit statuses, the crash budget, and how a line of standard error is read. Who carries
it out is `eddy_mesh.runtime.children`.
"""

from __future__ import annotations

import signal
from typing import NamedTuple

import msgspec

from eddy_mesh.commands import State

REFUSED = 2
"""Exit status of `eddy-agent` when its configuration has mistakes: to try again changes nothing."""
NO_SERVER = 75
"""Exit status of a child when a NATS server greets and gives no answer: it waits, and that is no crash.

Source: sysexits.h, EX_TEMPFAIL.
"""


QUIET = frozenset({"debug", "info"})
"""Levels of log that say nothing of why a process ended."""


MAX_WORDS = 500
"""Characters of a line that are kept in a reason."""


class Said(NamedTuple):
    """A line of the standard error of a child.

    Attributes:
        level: ``debug`` to ``critical``; ``warning`` for what is no line of its log, as of the interpreter.
        event: what happened, or the line itself.
        fields: what its log says beside.
    """

    level: str
    event: str
    fields: dict[str, object]

    @property
    def words(self) -> str:
        """What a person is told of it as a reason; "" where it is none."""
        if self.level in QUIET:
            return ""
        why = self.fields.get("error.message") or self.fields.get("reason") or self.fields.get("exception") or ""
        last = str(why).rstrip().rpartition("\n")[2]  # of a traceback, the error itself
        return (f"{self.event}: {last}" if last else self.event)[:MAX_WORDS]


def read_line(line: str) -> Said:
    """Return what a line of standard error says."""
    try:
        fields = msgspec.json.decode(line, type=dict[str, object])
    except msgspec.MsgspecError:
        return Said("warning", line, {})
    level, event = str(fields.pop("level", "warning")), str(fields.pop("event", ""))
    return Said(level, event, fields)


class End(NamedTuple):
    """How a process ended.

    Attributes:
        status: exit status, negative for the number of the signal that ended it.
        said: the last lines of its standard error.
    """

    status: int
    said: str = ""


class Budget(NamedTuple):
    """How often, and how soon, a child is started again.

    Attributes:
        backoff_s: waits before each start in a row, ascending, s; the last one repeats.
        crashes: most crashes within the window.
        window_s: length of the window, s.
    """

    backoff_s: tuple[float, ...]
    crashes: int
    window_s: float


class Record(NamedTuple):
    """What is remembered of a child from one life to the next.

    Attributes:
        crashes: when it crashed within the window, ns since 1970 UTC.
        waits: how often in a row it found no server.
    """

    crashes: tuple[int, ...] = ()
    waits: int = 0


class Verdict(NamedTuple):
    """What to do.

    Attributes:
        state: where the child is now.
        reason: why, for people; "" is never given.
        wait_s: time until the next start, s; None: it is not started again by itself.
        record: what to remember.
    """

    state: State
    reason: str
    wait_s: float | None
    record: Record


def after_end(end: End, record: Record, budget: Budget, now_ns: int) -> Verdict:
    """Return what follows when a child that is wanted has ended.

    Args:
        end: how it ended.
        record: what was remembered until now.
        budget: how often it may crash.
        now_ns: when it ended, ns since 1970 UTC.
    """
    reason = f"{_ended(end.status)}: {end.said}" if end.said else _ended(end.status)
    if end.status == 0:
        return Verdict(State.STOPPED, "ended in order, on a command or signal of somebody else", None, record)
    if end.status == REFUSED:
        return Verdict(State.FAILED, reason, None, record)
    if end.status == NO_SERVER:
        return Verdict(State.FAILED, reason, _wait_s(budget, record.waits), record._replace(waits=record.waits + 1))
    recent = [at_ns for at_ns in record.crashes if now_ns - at_ns < budget.window_s * 1e9]
    crashes = (*recent, now_ns)
    if len(crashes) > budget.crashes:
        reason = f"{reason} (crashed {len(crashes)} times in {budget.window_s:.0f} s)"
        return Verdict(State.FAILED, reason, None, Record(crashes))
    return Verdict(State.FAILED, reason, _wait_s(budget, len(recent)), Record(crashes))


def _wait_s(budget: Budget, before: int) -> float:
    return budget.backoff_s[min(before, len(budget.backoff_s) - 1)]


def _ended(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"ended by signal {-status}"  # this platform has no name for it
