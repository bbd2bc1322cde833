"""Carrying out a change: what to ask of which host process next, given what was answered. Pure.

What may live here: the one sequence of steps, as a generator that takes answers and gives rounds of calls. All calls
of a round are made at the same time. Every call can be made again, so whoever takes a change over begins at its top.

| step | to whom |
|---|---|
| prepare | hosts whose part changes, parents before the children that they start |
| activate | hosts that run or are to run something; whoever refuses is prepared once more |
| fences, retire | wave by wave |
| settle | as activate, but for children that go |
| observe | hosts of the agents that were started or changed; for longer while one of them is behind |

While a child is not there yet its parent is prepared again now and then: it may have been ended, and then it starts the
child when it is back, or is named as the one that is away.

While ``applying`` the first failure ends the way: refused where it is one of the first prepare, and then ``abort`` goes
to whom was told; unhealthy in any other step, or where another manager may have activated something. While
``rolling-back`` no failure ends it: a host that can not be told is left alone, and all failures are told at its end.
A host that is not there, or silent from the start, is no failure where its part and those of its children stay the
same or are nothing: it takes up what is of record when it comes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable

import msgspec

from eddy_mesh.topology import health
from eddy_mesh.topology.record import Record, RecordState
from eddy_mesh.topology.rounds import Answered, Call, End, Outcome, Round
from eddy_mesh.topology.steps import (
    Retiring,
    changed_agents,
    hosts_of,
    hosts_to_prepare,
    parent_of,
    part_digest,
    part_of,
    part_tables,
    retire_waves,
    servings,
)
from eddy_mesh.topology.transitions import finish, refuse, roll_back

CHILD_S = 10.0
"""How long a host process that was just started is waited for until its parent is asked, s."""
CHILD_TURNS = 6
"""How often it is waited for."""
LOOK_S = 0.5
"""Time between two looks at the agents, s."""

Step = Generator[Round, list[Answered], None]


def carry_out(
    record: Record, silent: Collection[str] = (), *, is_first: bool, look_s: float = LOOK_S
) -> Generator[Round | End, list[Answered], None]:
    """Give round after round for a change under way, take the answers to each, and give last how it ended.

    Args:
        record: the change; ``applying`` or ``rolling-back``.
        silent: host processes that were not heard for long enough to be taken as gone.
        is_first: no other manager, nor this one before a restart, has begun to carry it out.
        look_s: time between two looks at the agents, s.
    """
    yield (yield from _Way(record, silent).end(look_s, is_first=is_first))


def left_alone(record: Record, silent: Iterable[str]) -> list[str]:
    """Return those of silent host processes that a change passes over; children that it starts are none of them.

    Args:
        record: the change.
        silent: host processes that were not heard for long enough to be taken as gone.
    """
    way = _Way(record, ())
    return [host for host in silent if way.is_as_it_was(host)]


def following(record: Record, end: End, *, manager: str, now_ns: int) -> Record:
    """Return what becomes of record when carrying out has ended; see `eddy_mesh.topology.transitions`."""
    if end.outcome is Outcome.DONE:
        return finish(record, end.why, manager=manager, now_ns=now_ns)
    change = refuse if end.outcome is Outcome.REFUSED else roll_back
    return change(record, end.why, manager=manager, now_ns=now_ns)


class _FailedError(Exception):
    """A step of a change failed, so that it ends."""


class _Way:
    """The steps of one change; each asks its rounds, and what failed gathers."""

    def __init__(self, record: Record, silent: Collection[str]) -> None:
        self._record = record
        self._before, self._after = record.before, record.placement
        self._is_strict = record.state is RecordState.APPLYING
        self._failures: list[str] = []
        self._started: set[str] = set()
        self._left_alone: set[str] = set()
        hosts, self._children = hosts_to_prepare(self._before, self._after)
        self._hosts = sorted({*hosts, *record.strays})
        for host in (*record.terms.without, *(host for host in silent if self.is_as_it_was(host))):
            self._leave_alone(host)

    def end(self, look_s: float, *, is_first: bool) -> Generator[Round, list[Answered], End]:
        for step, outcome in (
            (self._prepare(), Outcome.REFUSED if is_first else Outcome.UNHEALTHY),
            (self._activate(), Outcome.UNHEALTHY),
            (self._retire(), Outcome.UNHEALTHY),
            (self._settle(), Outcome.UNHEALTHY),
            (self._observe(look_s), Outcome.UNHEALTHY),
        ):
            try:
                yield from step
            except _FailedError:
                return End(outcome, "; ".join(self._failures), self._abort() if outcome is Outcome.REFUSED else None)
        return End(Outcome.DONE, "; ".join(self._failures))

    # --- steps

    def _prepare(self) -> Step:
        going = [child for child in self._children if child not in self._after.hosts]
        coming = [child for child in self._children if child in self._after.hosts]
        yield from self._ask(Round(calls=self._preparing([*self._hosts, *going])))
        yield from self._wait_for(coming)
        yield from self._ask(Round(calls=self._preparing(coming)))

    def _wait_for(self, children: list[str]) -> Step:
        late = children
        for turns_left in reversed(range(CHILD_TURNS)):
            late = self._there(late)
            calls = tuple(Call(host=host, verb="inventory", request={}, wait_s=CHILD_S) for host in late)
            asking = Round(calls=calls, step="wait", told=f"for {', '.join(late)}")
            answers = yield from self._ask(asking, asked_again=_is_absent if turns_left else None)
            late = [answer.call.host for answer in answers if answer.is_absent]
            if not late:
                return
            if turns_left:
                parents = sorted({parent_of(self._before, self._after, child) for child in late})
                self._hosts = sorted({*self._hosts, *parents})  # a refusal is told them too
                yield from self._ask(Round(calls=self._preparing(parents)))

    def _preparing(self, hosts: Iterable[str]) -> tuple[Call, ...]:
        revision = self._record.revision
        return tuple(
            Call(host=host, verb="prepare", request={"revision": revision, **part_tables(self._after, host)})
            for host in self._there(hosts)
        )

    def _abort(self) -> Round:
        request: dict[str, object] = {"revision": self._record.revision}
        hosts = self._there([*self._hosts, *self._children])
        return Round(calls=tuple(Call(host=host, verb="abort", request=request) for host in hosts))

    def _activate(self) -> Step:
        """Let everybody change over; a host that refuses, as it has lost what it prepared, is prepared once more."""
        edges = msgspec.to_builtins(servings(self._after))
        calls = {host: self._call(host, "activate", edges=edges) for host in self._there(self._concerned())}
        asking = Round(calls=tuple(calls.values()))
        answers = yield from self._ask(asking, asked_again=_is_refused)
        lost = [answer.call.host for answer in answers if answer.is_refused]
        yield from self._ask(Round(calls=self._preparing(lost)))
        yield from self._ask(Round(calls=tuple(calls[host] for host in self._there(lost))))

    def _retire(self) -> Step:
        for wave in retire_waves(self._before, self._after, self._record.strays):
            asked = [
                Call(host=host, verb="fences", request={"edges": list(agent.edges)}, agent=_path(agent))
                for agent in wave
                if self._there([agent.host])
                for host in self._there(agent.sources)
            ]
            fences = _merged((yield from self._ask(Round(calls=tuple(asked)))))
            calls = (
                self._call(agent.host, "retire", path, agent=agent.agent, fences=fences.get(path, {}))
                for agent, path in ((agent, _path(agent)) for agent in wave)
                if self._there([agent.host])
            )
            yield from self._ask(Round(calls=tuple(calls)))

    def _settle(self) -> Step:
        edges = msgspec.to_builtins(servings(self._after))
        # A child that is to go is ended by its parent, which knows from prepare that it is not wanted any more.
        hosts = [h for h in self._concerned() if h in self._after.hosts or not parent_of(self._before, self._after, h)]
        calls = (self._call(host, "settle", edges=edges) for host in self._there(hosts))
        yield from self._ask(Round(calls=tuple(calls)))

    def _observe(self, look_s: float) -> Step:
        """Look at the agents that were started or changed until the observation is over, or one does not do well."""
        terms = self._record.terms
        concerned = {path for path in changed_agents(self._before, self._after) if self._there([_host(path)])}
        if not (self._is_strict and terms.observe_s and concerned):
            return
        calls = tuple(Call(host=host, verb="inventory", request={}) for host in sorted({_host(p) for p in concerned}))
        restarts = dict.fromkeys(self._started & concerned, 0)
        watch = health.Observation(concerned, restarts, terms.observe_s, terms.watermark_s, look_s)
        pause_s = 0.0
        while not watch.is_over:
            asking = Round(calls=calls, pause_s=pause_s, step="observe", told=watch.told)
            answers = yield from self._ask(asking)
            now = {p: agent for a in answers for p, agent in health.agents_of(a.call.host, a.rows).items()}
            self._failures += watch.look(now)
            if self._failures:
                raise _FailedError
            pause_s = look_s

    # --- asking

    def _ask(
        self, asking: Round, *, asked_again: Callable[[Answered], bool] | None = None
    ) -> Generator[Round, list[Answered], list[Answered]]:
        """Ask a round if it has calls; while applying a failure ends the way, unless that host is asked again."""
        if not asking.calls:
            return []
        answers = yield asking
        for answer in answers:
            if asked_again is None or not asked_again(answer):
                self._take(answer)
        if self._failures and self._is_strict:
            raise _FailedError
        return answers

    def _take(self, answer: Answered) -> None:
        call = answer.call
        if answer.error:
            is_needless = answer.is_absent and self.is_as_it_was(call.host)
            if not is_needless:
                self._failures.append(f"{call.host}: {call.verb}: {answer.error}{self._hint(answer)}")
            if is_needless or (not self._is_strict and (answer.is_absent or call.verb == "prepare")):
                self._leave_alone(call.host)
        for row in answer.rows if call.verb == "prepare" else ():
            started = row.get("started")
            self._started |= {f"{call.host}/{name}" for name in (started if isinstance(started, list) else ())}

    def _hint(self, answer: Answered) -> str:
        parent = parent_of(self._before, self._after, answer.call.host)
        is_late = answer.is_absent and answer.call.verb == "inventory" and bool(parent)
        return f": {parent} starts it, see its log" if is_late else ""

    def _call(self, host: str, verb: str, about: str = "", **request: object) -> Call:
        """Return a call that names the part that the host process must have prepared, or run already."""
        part = part_digest(part_tables(self._after, host))
        return Call(
            host=host, verb=verb, request={"revision": self._record.revision, "part": part, **request}, agent=about
        )

    # --- hosts

    def _concerned(self) -> list[str]:
        """Return the hosts that run or ran something; one that runs nothing was never told, and has nothing to do."""
        told = {*self._hosts, *self._children}
        return [host for host in hosts_of(self._before, self._after) if host in told or self._runs(host)]

    def _there(self, hosts: Iterable[str]) -> list[str]:
        return [host for host in hosts if host not in self._left_alone]

    def _leave_alone(self, host: str) -> None:
        """Leave a host alone, and its children: it can neither start nor end one."""
        self._left_alone |= {host, *part_of(self._before, host).children, *part_of(self._after, host).children}

    def is_as_it_was(self, host: str) -> bool:
        """Whether a host that is gone runs all that it should: nothing, or what it takes up again when it comes."""
        family = {host, *part_of(self._before, host).children, *part_of(self._after, host).children}
        return all(part_of(self._after, h) == part_of(self._before, h) or not self._runs(h) for h in family)

    def _runs(self, host: str) -> bool:
        part = part_of(self._after, host)
        return bool(part.agents or part.children)


def _is_refused(answer: Answered) -> bool:
    return answer.is_refused


def _is_absent(answer: Answered) -> bool:
    return answer.is_absent


def _host(path: str) -> str:
    return path.rpartition("/")[0]


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
