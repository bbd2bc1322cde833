"""Backplane-manager: makes the host processes of a backplane run what a topology declares, and go on meanwhile.

In: queries on ``<backplane>.query.backplane_manager.<agent>.<verb>``: ``plan``, ``apply``, ``rollback``, ``topology``,
``history``, ``diff``; heartbeats, which tell what host processes there are. Out: the verbs of each agent-manager that
`eddy_mesh.topology.carrying` asks for; events ``mesh.topology_…`` of every change of record. What is of record is kept
by `eddy_mesh.topology.keeping`. Decided in ``docs/decisions/0005-live-topology.md``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from time import monotonic
from typing import TypeVar

import msgspec

from eddy_mesh.agent import Result
from eddy_mesh.batch import Batch
from eddy_mesh.bus import RevisionConflict
from eddy_mesh.cer import Value
from eddy_mesh.errors import BusError, EddyError, UsageError, WireError
from eddy_mesh.queries import Progress
from eddy_mesh.runtime.calling import AGAIN_S, Caller
from eddy_mesh.task import Answer, Context
from eddy_mesh.topology import claims, planning, telling, transitions
from eddy_mesh.topology.carrying import LOOK_S, carry_out, following, left_alone
from eddy_mesh.topology.keeping import Held, Keeping
from eddy_mesh.topology.record import Ending, Record, describe
from eddy_mesh.topology.rounds import End, Round
from eddy_mesh.topology.steps import hosts_of

SCOPE = "host"
EMIT = "demand"
INPUT: tuple[str, ...] = ()
Part = TypeVar("Part")


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of a backplane-manager."""

    timeout_s: float = 30.0
    """longest time for one host process to take one step, s"""
    away_s: float = 5.0
    """how long a host process that was heard lately may be away in a change, s"""
    look_s: float = LOOK_S
    """time between two looks at agents that are observed, s"""


class Agent:
    """The backplane-manager; see the module."""

    queries = frozenset({"plan", "apply", "rollback", "topology", "history", "diff"})

    def __init__(self, config: Config) -> None:
        self._config = config
        self._context: Context | None = None
        self._kept: Keeping | None = None
        self._calls: Caller | None = None
        self._watch = claims.Watch()
        self._claimed_s = 0.0
        self._told = 0
        self._work: asyncio.Task[None] | None = None
        self._record: Record | None = None
        self._beginning = asyncio.Lock()  # else a tick would take over what is just written and not begun yet

    @property
    def _here(self) -> Context:
        return _started(self._context)

    @property
    def _keeping(self) -> Keeping:
        return _started(self._kept)

    @property
    def _caller(self) -> Caller:
        return _started(self._calls)

    @property
    def _name(self) -> str:
        return f"{self._here.host}/{self._here.name}"

    @property
    def _is_working(self) -> bool:
        return self._work is not None and not self._work.done()

    def _clock_s(self) -> float:
        return monotonic()  # claims are not held by the clock on the wall, which may be set

    async def start(self, context: Context) -> None:
        """Begin to hear heartbeats; the store of record is opened when it is first needed."""
        self._context = context
        self._kept = Keeping(context.bus, context.backplane)
        self._calls = Caller(
            context.bus,
            context.backplane,
            now_ns=context.now_ns,
            clock_s=self._clock_s,
            timeout_s=self._config.timeout_s,
            away_s=self._config.away_s,
            lost=self._lost,
        )
        await self._calls.start()

    async def stop(self) -> None:
        """Leave a change under way as it is: whoever takes it over goes on with it."""
        if self._calls is not None:
            await self._calls.stop()
        while self._work is not None and not self._work.done():
            self._work.cancel()  # again: clients of the bus may swallow a cancellation
            await asyncio.wait({self._work}, timeout=AGAIN_S)

    async def on_batch(self, batch: Batch, now_ns: int) -> Result:  # noqa: ARG002
        """Take nothing: a backplane-manager has no edges."""
        return Result(filtered=batch.count)

    async def settle(self) -> None:
        """The store of record is on the server."""

    def status(self) -> Answer:
        """Return the revision of record as this manager saw it last, and whether it carries out a change."""
        record = self._record
        told = {"revision": record.revision, "state": str(record.state)} if record else {"revision": 0, "state": ""}
        return {**told, "is_working": self._is_working}

    def _lost(self) -> None:
        if self._work is not None:
            self._work.cancel()  # what it waits for may be lost: a tick begins again when the server is back

    # --- claims

    async def on_tick(self, now_ns: int) -> Result:  # noqa: ARG002  # a claim goes by another clock
        """Renew the claim of a change that it carries out, or take over one that nobody carries out."""
        if self._work is not None and self._work.done() and not self._work.cancelled():
            self._work.result()  # a defect is for the supervisor
        with suppress(BusError, WireError):  # the server is away: the next tick looks again
            await self._look()
        return Result()

    async def _look(self) -> None:
        async with self._beginning:
            held = await self._keeping.read()
            rests = self._watch.rests((held.written, held.renewed), self._clock_s())
            if self._is_working:
                await self._renew(held)
            elif held.record is not None and claims.is_over(held.record, self._name, rests=rests):
                await self._take_over(held.record, held.written)
            else:
                self._record = held.record
                if held.record is not None and rests and self._told != held.written:
                    await self._tell_late(held.record, held.written)

    async def _renew(self, held: Held) -> None:
        if held.record is None or held.record.claim is None:
            return  # it has just ended
        before_s = self._clock_s()
        try:
            await self._keeping.renew(claims.renewal(held.record, self._name), held.renewed)
            self._claimed_s = before_s
        except (RevisionConflict, UsageError):  # another manager has taken it over
            if self._work is not None:
                self._work.cancel()

    async def _tell_late(self, record: Record, written: int) -> None:
        """Tell of a change whose manager ended before it could."""
        if await self._keeping.told() < written:
            await self._tell(record, written)
        self._told = written

    async def _take_over(self, record: Record, written: int) -> None:
        await self._caller.look_around()
        taken = claims.taken_over(record, self._name)
        written = await self._write(taken, written)
        await self._tell(taken, written, telling.TAKEN_OVER, f"{describe(record)}, who answered no more")
        self._begin(Held(taken, written), Progress(), is_first=False)

    async def _write(self, record: Record, written: int) -> int:
        before_s = self._clock_s()  # with the record the claim on it is written anew
        written = await self._keeping.write(record, written)
        self._claimed_s = before_s
        return written

    def _holds(self) -> bool:
        return self._clock_s() - self._claimed_s < claims.CLAIM_S  # else another manager may have taken it over

    # --- queries

    async def query(self, verb: str, request: Mapping[str, object]) -> AsyncGenerator[Answer, None]:
        """Answer a query; see ``subjects.md``. ``apply`` and ``rollback`` give a row for each step as it is done.

        Raises:
            ConfigError: every mistake in the manifest; nothing was changed.
            UsageError: the request makes no sense; a host process is not there; another change is under way; the
                change was refused or rolled back.
        """
        if verb in {"topology", "history", "diff"}:
            history = await self._keeping.history()
            for told in telling.answers(verb, history, request):
                yield told
            return
        asked = planning.request_of(request, verb)
        planning.for_backplane(asked, self._here.backplane)
        held, plan = await self._plan(asked)
        if verb == "plan":
            yield plan.row()
            return
        if held.record is not None and held.record.claim is not None:
            raise UsageError(f"{describe(held.record)}: wait for its end")
        plan.check(held.record, asked.expected, asked.expected_placement)
        if plan.changes.is_nothing:
            yield {"step": "nothing", "what": "nothing would change"}
            return
        if self._is_working and self._record is not None and self._record.claim is None and self._work is not None:
            await asyncio.wait({self._work})  # it tells hosts that a change was refused
        async with self._beginning:
            progress = await self._apply(asked, plan, held)
        async for row in progress.follow():
            yield row
        if progress.error:
            raise UsageError(progress.error)

    async def _plan(self, asked: planning.Request) -> tuple[Held, planning.Plan]:
        await self._caller.look_around()  # heartbeats come every two seconds only
        held = await self._keeping.read()
        history = [] if asked.manifest is not None else await self._keeping.history()
        presence = self._caller.presence
        if held.record is not None:
            presence.assume(telling.labels(held.record), self._caller.since_ns)
        return held, planning.plan(asked, held.record, history, presence, self._here.now_ns())

    async def _apply(self, asked: planning.Request, plan: planning.Plan, held: Held) -> Progress:
        record = transitions.begin(
            held.record, plan.change, who=asked.who, why=asked.why, manager=self._name, now_ns=self._here.now_ns()
        )
        try:
            written = await self._write(record, held.written)
        except RevisionConflict:
            other = (await self._keeping.read()).record
            raise UsageError(f"another apply was first: {describe(other) if other else 'read the record'}") from None
        await self._tell(record, written)
        progress = Progress()
        self._begin(Held(record, written), progress, is_first=True)
        return progress

    # --- carrying out

    def _begin(self, held: Held, progress: Progress, *, is_first: bool) -> None:
        self._record = held.record
        self._work = asyncio.create_task(self._carry_on(held, progress, is_first=is_first), name="topology")
        # Also where it is cancelled before its first step.
        self._work.add_done_callback(lambda _: progress.end("the backplane-manager was stopped"))

    async def _carry_on(self, held: Held, progress: Progress, *, is_first: bool) -> None:
        """Carry a change out to its end, and what follows from that end; whoever asked may have gone."""
        why = "the backplane-manager was stopped, or another one has taken over: eddy topology show"
        record, written = held.record, held.written
        try:
            while record is not None and record.claim is not None:
                progress.tell(telling.begun(record))
                end = await self._carry(record, progress, is_first=is_first)
                after = following(record, end, manager=self._name, now_ns=self._here.now_ns())
                written = await self._write(after, written)
                record, is_first, self._record = after, False, after
                await self._tell(record, written)
                why = record.why if record.ending is not Ending.APPLIED else ""
                if end.afterwards is not None:
                    with suppress(BusError):  # who does not hear it takes up what is of record
                        await self._caller.perform(end.afterwards, progress, lambda: True)
            progress.tell(telling.ended(record) if record is not None else {})
        except EddyError as error:
            why = f"interrupted, taken up again within some seconds: {error}"
        except asyncio.CancelledError:
            if not self._here.bus.connected and self._record is not None and self._record.claim is not None:
                why = "interrupted, taken up again within some seconds: the server is away"
            raise
        finally:
            progress.end(why)

    async def _carry(self, record: Record, progress: Progress, *, is_first: bool) -> End:
        silent = self._caller.silent(hosts_of(record.before, record.placement))
        if left := left_alone(record, silent):
            what = f"not heard, and left alone as nothing changes there: {', '.join(left)}"
            progress.tell({"step": "silent", "what": what})
        way = carry_out(record, silent, is_first=is_first, look_s=self._config.look_s)
        asking = next(way)
        while isinstance(asking, Round):
            asking = way.send(await self._caller.perform(asking, progress, self._holds))
        return asking

    async def _tell(self, record: Record, written: int, event: str = "", why: str = "") -> None:
        """Make an event of a change of record, and note in the store that it was made."""
        event = event or telling.event_of(record)
        told: dict[str, Value] = {"event.reason": why or record.why, "topology.manager": self._name}
        self._here.notice(event, **telling.fields(event, record), **told)
        with suppress(BusError):
            await self._keeping.tell(written)


def _started(part: Part | None) -> Part:
    if part is None:
        raise UsageError("the backplane-manager has not started yet: ask again")
    return part
