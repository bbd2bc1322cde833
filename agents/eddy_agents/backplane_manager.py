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

import msgspec

from eddy_mesh import queries, subjects
from eddy_mesh.agent import Result
from eddy_mesh.batch import Batch
from eddy_mesh.bus import Message, NoResponders, RevisionConflict, Subscription
from eddy_mesh.errors import BusError, EddyError, UsageError, WireError
from eddy_mesh.queries import Progress
from eddy_mesh.task import Answer, Context
from eddy_mesh.topology import planning, telling, transitions
from eddy_mesh.topology.carrying import LOOK_S, Answered, Call, End, Round, carry_out, following
from eddy_mesh.topology.keeping import Held, Keeping
from eddy_mesh.topology.presence import Presence
from eddy_mesh.topology.record import Record, describe
from eddy_mesh.wire_json import decode_object

SCOPE = "host"
EMIT = "demand"
INPUT: tuple[str, ...] = ()
AGAIN_S = 0.1
"""Time after which a host process that was just started is asked again, s."""


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of a backplane-manager."""

    timeout_s: float = 30.0
    """longest time for one host process to take one step, s"""
    look_s: float = LOOK_S
    """time between two looks at agents that are observed, s"""


class Agent:
    """The backplane-manager; see the module."""

    queries = frozenset({"plan", "apply", "rollback", "topology", "history", "diff"})

    def __init__(self, config: Config) -> None:
        self._config = config
        self._context: Context | None = None
        self._kept: Keeping | None = None
        self._presence = Presence()
        self._has_asked = False
        self._subscription: Subscription | None = None
        self._work: asyncio.Task[None] | None = None
        self._record: Record | None = None
        self._beginning = asyncio.Lock()  # else a tick would take over what is just written and not begun yet

    @property
    def _here(self) -> Context:
        if self._context is None:
            raise UsageError("the backplane-manager has not started yet: ask again")
        return self._context

    @property
    def _keeping(self) -> Keeping:
        if self._kept is None:
            raise UsageError("the backplane-manager has not started yet: ask again")
        return self._kept

    @property
    def _name(self) -> str:
        return f"{self._here.host}/{self._here.name}"

    @property
    def _is_working(self) -> bool:
        return self._work is not None and not self._work.done()

    async def start(self, context: Context) -> None:
        """Begin to hear heartbeats; the store of record is opened when it is first needed."""
        self._context = context
        self._kept = Keeping(context.bus, context.backplane)
        subject = f"{subjects.escape(context.backplane)}.status.*.*"
        self._subscription = await context.bus.subscribe(subject, self._heard)

    async def stop(self) -> None:
        """Leave a change under way as it is: whoever takes it over goes on with it."""
        if self._subscription is not None:
            await self._subscription.unsubscribe()
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

    def _heard(self, message: Message) -> None:
        with suppress(WireError):
            self._presence.heard(decode_object(message.data, "status"), self._here.now_ns())

    # --- claims

    async def on_tick(self, now_ns: int) -> Result:
        """Renew the claim of a change that it carries out, or take over one that nobody carries out."""
        if self._work is not None and self._work.done() and not self._work.cancelled():
            self._work.result()  # a defect is for the supervisor
        with suppress(BusError, WireError):  # the server is away: the next tick looks again
            await self._look(now_ns)
        return Result()

    async def _look(self, now_ns: int) -> None:
        async with self._beginning:
            held = await self._keeping.read()
            if self._is_working:
                await self._renew(held, now_ns)
            elif held.record is not None and transitions.needs_taking_over(held.record, self._name, now_ns):
                await self._take_over(held.record, held.written, now_ns)
            else:
                self._record = held.record

    async def _renew(self, held: Held, now_ns: int) -> None:
        claim = held.record.claim if held.record is not None else None
        if held.record is None or claim is None:
            return  # it has just ended
        try:
            await self._keeping.renew(transitions.renew(held.record, manager=self._name, now_ns=now_ns))
        except (RevisionConflict, UsageError):  # another manager has taken it over
            if self._work is not None:
                self._work.cancel()

    async def _take_over(self, record: Record, written: int, now_ns: int) -> None:
        if not self._has_asked:
            await self._ask_around()
        taken = transitions.take_over(record, manager=self._name, now_ns=now_ns)
        written = await self._keeping.write(taken, written)
        self._tell("topology_taken_over", taken, f"{record.claim.manager if record.claim else ''} answered no more")
        self._begin(Held(taken, written), Progress(), is_first=False)

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
        asked = planning.request_of(request)
        planning.for_backplane(asked, self._here.backplane)
        held, plan = await self._plan(asked)
        if verb == "plan":
            yield plan.row()
            return
        plan.check(held.record, asked.expected)
        if plan.changes.is_nothing:
            yield {"step": "nothing", "what": "nothing would change"}
            return
        async with self._beginning:
            progress = await self._apply(asked, plan, held)
        async for row in progress.follow():
            yield row
            yield queries.FLUSH
        if progress.error:
            raise UsageError(progress.error)

    async def _plan(self, asked: planning.Request) -> tuple[Held, planning.Plan]:
        if not self._has_asked:  # heartbeats come every two seconds only
            await self._ask_around()
        held = await self._keeping.read()
        history = [] if asked.manifest is not None else await self._keeping.history()
        return held, planning.plan(asked, held.record, history, self._presence, self._here.now_ns())

    async def _ask_around(self) -> None:
        subject = subjects.control_all(self._here.backplane, "stats")
        for message in await self._here.bus.gather(subject, b"{}", timeout_s=2.0):
            self._heard(message)
        self._has_asked = True

    async def _apply(self, asked: planning.Request, plan: planning.Plan, held: Held) -> Progress:
        record = transitions.begin(
            held.record, plan.change, who=asked.who, why=asked.why, manager=self._name, now_ns=self._here.now_ns()
        )
        try:
            written = await self._keeping.write(record, held.written)
        except RevisionConflict:
            other = (await self._keeping.read()).record
            raise UsageError(f"another apply was first: {describe(other) if other else 'read the record'}") from None
        self._tell("topology_applying", record, record.why)
        progress = Progress()
        self._begin(Held(record, written), progress, is_first=True)
        return progress

    # --- carrying out

    def _begin(self, held: Held, progress: Progress, *, is_first: bool) -> None:
        self._work = asyncio.create_task(self._carry_on(held, progress, is_first=is_first), name="topology")
        # Also where it is cancelled before its first step.
        self._work.add_done_callback(lambda _: progress.end("the backplane-manager was stopped"))

    async def _carry_on(self, held: Held, progress: Progress, *, is_first: bool) -> None:
        """Carry a change out to its end, and what follows from that end; whoever asked may have gone."""
        why = "the backplane-manager was stopped, or another one has taken over: eddy topology show"
        record, written = held
        try:
            while record is not None and record.claim is not None:
                self._record = record
                progress.tell(telling.begun(record))
                end = await self._carry(record, progress, is_first=is_first)
                after = following(record, end, manager=self._name, now_ns=self._here.now_ns())
                written = await self._keeping.write(after, written)
                event = telling.EVENTS[end.outcome, record.state]
                record, is_first = after, False
                self._tell(event, record, record.why)
                why = record.why if event != "topology_applied" else ""
            self._record = record
            progress.tell(telling.ended(record) if record is not None else {})
        except EddyError as error:
            why = f"interrupted, taken up again within some seconds: {error}"
        finally:
            progress.end(why)

    async def _carry(self, record: Record, progress: Progress, *, is_first: bool) -> End:
        way = carry_out(record, is_first=is_first, look_s=self._config.look_s)
        asking = next(way)
        while isinstance(asking, Round):
            if asking.step:
                progress.tell({"step": asking.step, "what": asking.told})
            if asking.pause_s:
                await asyncio.sleep(asking.pause_s)
            asking = way.send(await self._perform(asking, progress))
        return asking

    async def _perform(self, asking: Round, progress: Progress) -> list[Answered]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._call(call, progress)) for call in asking.calls]
        answers = [task.result() for task in tasks]
        if not self._here.bus.connected and any(answer.error for answer in answers):
            raise BusError("the server is away")  # that says nothing about the hosts
        return answers

    async def _call(self, call: Call, progress: Progress) -> Answered:
        clock = asyncio.get_running_loop().time
        began_s = clock()
        answer = await self._ask(call)
        while answer.is_absent and clock() - began_s < call.wait_s:
            await asyncio.sleep(AGAIN_S)
            answer = await self._ask(call)
        if call.verb != "inventory" or answer.error:
            progress.tell(telling.step(answer, (clock() - began_s) * 1e3))
        return answer

    async def _ask(self, call: Call) -> Answered:
        here = self._here
        agent = f"{call.host}/{self._presence.manager_of(call.host)}"
        subject = subjects.query(here.backplane, "agent_manager", agent, call.verb)
        try:
            asking = queries.ask(here.bus, subject, call.request, timeout_s=self._config.timeout_s)
            return Answered(call=call, rows=tuple([row async for row in asking]))
        except NoResponders:
            return Answered(call=call, error="not there", is_absent=True)
        except EddyError as error:
            return Answered(call=call, error=str(error))

    def _tell(self, event: str, record: Record, why: str) -> None:
        """Make an event of a change of record."""
        self._here.notice(
            event,
            revision=record.revision,
            who=record.who,
            why=why,
            manager=self._name,
            level=telling.LEVELS[event],
        )
