"""Carrying out a change: what to ask of which host process next, given what was answered. Pure.

What may live here: the one sequence of steps, as a generator that takes answers and gives rounds of calls. All calls
of a round are made at the same time. Every call can be made again, so whoever takes a change over begins at its top.

| step | to whom | a failure while ``applying`` | a failure while ``rolling-back`` |
|---|---|---|---|
| prepare | hosts whose part changes, parents before the children that they start | ``abort``, refused; on the way of \
another manager: unhealthy | that host is left alone |
| activate | all hosts | unhealthy | told |
| fences, retire | wave by wave | unhealthy | told |
| settle | all hosts that go on | unhealthy | told |
| observe | hosts of the agents that were started or changed | unhealthy | not done |

A host that is not there is no failure where its part stays the same or is nothing.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Mapping
from enum import StrEnum

import msgspec

from eddy_mesh.topology import health
from eddy_mesh.topology.record import Record, RecordState
from eddy_mesh.topology.steps import (
    Retiring,
    changed_agents,
    hosts_of,
    hosts_to_prepare,
    parent_of,
    part_of,
    part_tables,
    retire_waves,
    servings,
)
from eddy_mesh.topology.transitions import finish, refuse, roll_back

CHILD_S = 60.0
"""How long a host process that was just started may take until it answers, s."""
LOOK_S = 0.5
"""Time between two looks at the agents, s."""


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One query to the agent-manager of a host process.

    Attributes:
        host: name of the host process.
        verb: of the query channel.
        request: of it.
        agent: agent that it is about, or "".
        wait_s: ask again for so long while nobody answers, s.
    """

    host: str
    verb: str
    request: dict[str, object]
    agent: str = ""
    wait_s: float = 0.0


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a call.

    Attributes:
        call: the call.
        rows: the answer.
        error: why it failed, or "".
        is_absent: nobody was there who could have answered.
    """

    call: Call
    rows: tuple[Mapping[str, object], ...] = ()
    error: str = ""
    is_absent: bool = False


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """Calls that are made at the same time.

    Attributes:
        calls: the calls.
        pause_s: wait before them, s.
        step: name of the step where the round is told as a whole; "" where each call is.
        told: what is told then.
    """

    calls: tuple[Call, ...]
    pause_s: float = 0.0
    step: str = ""
    told: str = ""


class Outcome(StrEnum):
    """How carrying out ends."""

    DONE = "done"
    REFUSED = "refused"
    UNHEALTHY = "unhealthy"


class End(msgspec.Struct, frozen=True):
    """How it ended, and why where it is not done."""

    outcome: Outcome
    why: str = ""


Asking = Generator[Round, list[Answered], list[str]]


def carry_out(
    record: Record, *, is_first: bool, look_s: float = LOOK_S
) -> Generator[Round | End, list[Answered], None]:
    """Give round after round for a change under way, take the answers to each, and give last how it ended.

    Args:
        record: the change; ``applying`` or ``rolling-back``.
        is_first: no other manager, nor this one before a restart, has begun to carry it out.
        look_s: time between two looks at the agents, s.
    """
    yield (yield from _Way(record).end(look_s, is_first=is_first))


def following(record: Record, end: End, *, manager: str, now_ns: int) -> Record:
    """Return what becomes of record when carrying out has ended; see `eddy_mesh.topology.transitions`."""
    if end.outcome is Outcome.DONE:
        return finish(record, manager=manager, now_ns=now_ns)
    change = refuse if end.outcome is Outcome.REFUSED else roll_back
    return change(record, end.why, manager=manager, now_ns=now_ns)


class _Way:
    """The steps of one change; each returns a line for every failure that matters."""

    def __init__(self, record: Record) -> None:
        self.is_strict = record.state is RecordState.APPLYING
        self._record = record
        self._before, self._after = record.before, record.placement
        self._left_alone = set(record.terms.without)
        self._started: set[str] = set()

    def end(self, look_s: float, *, is_first: bool) -> Generator[Round, list[Answered], End]:
        failures = yield from self.prepare()
        if failures and self.is_strict:
            if is_first:
                yield from self.abort()
            return End(Outcome.REFUSED if is_first else Outcome.UNHEALTHY, "; ".join(failures))
        for step in (self.activate, self.retire, self.settle):
            failures = yield from step()
            if failures and self.is_strict:
                return End(Outcome.UNHEALTHY, "; ".join(failures))
        failures = yield from self.observe(look_s)
        return End(Outcome.UNHEALTHY, "; ".join(failures)) if failures else End(Outcome.DONE)

    def prepare(self) -> Asking:
        hosts, children = self._told()
        going = [child for child in children if child not in self._after.hosts]
        failures = self._failures((yield self._prepare([*hosts, *going])))
        if failures and self.is_strict:
            return failures
        coming = [child for child in children if child not in going and self._parent(child) not in self._left_alone]
        if not self._there(coming):
            return failures
        calls = (Call(host=host, verb="inventory", request={}, wait_s=CHILD_S) for host in self._there(coming))
        answers = yield Round(calls=tuple(calls), step="wait", told=f"for {', '.join(self._there(coming))}")
        failures += self._failures(answers)
        if failures and self.is_strict:
            return failures
        return failures + self._failures((yield self._prepare(coming)))

    def _told(self) -> tuple[list[str], list[str]]:
        """Return the hosts whose part changes, or that run what no placement names, and the children."""
        hosts, children = hosts_to_prepare(self._before, self._after)
        return sorted({*hosts, *self._record.strays}), children

    def _prepare(self, hosts: Iterable[str]) -> Round:
        revision = self._record.revision
        calls = [
            Call(host=host, verb="prepare", request={"revision": revision, **part_tables(self._after, host)})
            for host in self._there(hosts)
        ]
        return Round(calls=tuple(calls))

    def abort(self) -> Asking:
        hosts, children = self._told()
        yield self._round("abort", self._there([*hosts, *children]), {})
        return []

    def activate(self) -> Asking:
        answers = yield self._round("activate", self._there(hosts_of(self._before, self._after)), self._edges())
        return self._failures(answers)

    def retire(self) -> Asking:
        failures: list[str] = []
        for wave in retire_waves(self._before, self._after, self._record.strays):
            told = [agent for agent in wave if agent.host not in self._left_alone]
            fences: dict[str, dict[str, object]] = {}
            asked = [self._fences(agent, host) for agent in told for host in self._there(agent.sources)]
            if asked:
                answers = yield Round(calls=tuple(asked))
                failures += self._failures(answers)
                if failures and self.is_strict:
                    return failures
                fences = _merged(answers)
            answers = yield Round(calls=tuple(self._retire(agent, fences.get(_path(agent), {})) for agent in told))
            failures += self._failures(answers)
            if failures and self.is_strict:
                return failures
        return failures

    def _fences(self, agent: Retiring, host: str) -> Call:
        return Call(host=host, verb="fences", request={"edges": list(agent.edges)}, agent=_path(agent))

    def _retire(self, agent: Retiring, fences: Mapping[str, object]) -> Call:
        request: dict[str, object] = {"revision": self._record.revision, "agent": agent.agent, "fences": dict(fences)}
        return Call(host=agent.host, verb="retire", request=request, agent=_path(agent))

    def settle(self) -> Asking:
        # A child that is to go is ended by its parent, which knows from prepare that it is not wanted any more.
        hosts = [h for h in hosts_of(self._before, self._after) if h in self._after.hosts or not self._parent(h)]
        answers = yield self._round("settle", self._there(hosts), self._edges())
        return self._failures(answers)

    def observe(self, look_s: float) -> Asking:
        """Look at the agents that were started or changed until the observation is over, or one does not do well."""
        paths = changed_agents(self._before, self._after)
        concerned = {path for path in paths if path.rpartition("/")[0] not in self._left_alone}
        if not (self.is_strict and self._record.terms.observe_s and concerned):
            return []
        hosts = sorted({path.rpartition("/")[0] for path in concerned})
        calls = tuple(Call(host=host, verb="inventory", request={}) for host in hosts)
        restarts = dict.fromkeys(self._started & concerned, 0)
        for look in range(math.ceil(self._record.terms.observe_s / look_s) + 1):
            told = f"{min(look * look_s, self._record.terms.observe_s):.1f} of {self._record.terms.observe_s:g} s"
            answers = yield Round(calls=calls, pause_s=look_s if look else 0.0, step="observe", told=told)
            if failures := self._failures(answers):
                return failures
            now = {p: agent for a in answers for p, agent in health.agents_of(a.call.host, a.rows).items()}
            restarts = {path: agent.restarts for path, agent in now.items()} | restarts
            if failures := health.complaints(concerned, restarts, now, self._record.terms.watermark_s):
                return failures
        return []

    def _edges(self) -> dict[str, object]:
        return {"edges": msgspec.to_builtins(servings(self._after))}

    def _round(self, verb: str, hosts: Iterable[str], request: dict[str, object]) -> Round:
        told = {"revision": self._record.revision, **request}
        return Round(calls=tuple(Call(host=host, verb=verb, request=told) for host in hosts))

    def _there(self, hosts: Iterable[str]) -> list[str]:
        return [host for host in hosts if host not in self._left_alone]

    def _parent(self, host: str) -> str:
        return parent_of(self._before, self._after, host)

    def _failures(self, answers: Iterable[Answered]) -> list[str]:
        """Return a line for each call that failed; hosts that could not be told are left alone from then on."""
        lines: list[str] = []
        for answer in answers:
            call = answer.call
            if answer.error:
                is_needless = answer.is_absent and self._is_as_it_was(call.host)
                if not is_needless:
                    lines.append(f"{call.host}: {call.verb}: {answer.error}")
                if is_needless or (not self.is_strict and (answer.is_absent or call.verb == "prepare")):
                    self._left_alone.add(call.host)
            for row in answer.rows if call.verb == "prepare" else ():
                started = row.get("started")
                self._started |= {f"{call.host}/{name}" for name in (started if isinstance(started, list) else ())}
        return lines

    def _is_as_it_was(self, host: str) -> bool:
        """Whether a host that is gone runs all that it should: nothing, or what it takes up again when it comes."""
        part = part_of(self._after, host)
        return part == part_of(self._before, host) or not (part.agents or part.children)


def _path(agent: Retiring) -> str:
    return f"{agent.host}/{agent.agent}"


def _merged(answers: Iterable[Answered]) -> dict[str, dict[str, object]]:
    """Return for each agent that is to retire the fence of each flow at each host: agent → flow → host → fence."""
    merged: dict[str, dict[str, object]] = {}
    for answer in answers:
        for row in answer.rows:
            flows = row.get("flows")
            for flow, fence in (flows if isinstance(flows, dict) else {}).items():
                of_flow = merged.setdefault(answer.call.agent, {}).setdefault(flow, {})
                assert isinstance(of_flow, dict)
                of_flow[answer.call.host] = fence
    return merged
