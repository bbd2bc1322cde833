"""Agent-manager: answers for the agents of one host process, and makes it run what a topology wants of it.

In: queries on ``<backplane>.query.agent_manager.<host>/<agent>.<verb>``: ``inventory`` (every agent with its state);
the steps of a revision, ``prepare``, ``activate``, ``fences``, ``retire``, ``settle`` and ``abort``, see
``docs/decisions/0005-live-topology.md``; ``configure`` (all of them at once). What was settled last is kept in the
agent's state directory and taken up again after a restart, also while no manager is reached; when the topology of
record is newer, the agent-manager takes that up by itself. What a step changes is decided in
`eddy_mesh.topology.reconciling`, and one change ends before the next begins.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

import msgspec

from eddy_mesh.agent import Result
from eddy_mesh.batch import Batch
from eddy_mesh.errors import BusError, ConfigError, EddyError, StoreError, UsageError
from eddy_mesh.runtime.children import Children
from eddy_mesh.task import Answer, Context
from eddy_mesh.topology import applied, reconciling
from eddy_mesh.topology.applied import Applied
from eddy_mesh.topology.keeping import Keeping
from eddy_mesh.topology.reconciling import Action, Holding, Verb

SCOPE = "host"
EMIT = "demand"
INPUT: tuple[str, ...] = ()
LOOK_EVERY = 5
"""Ticks, about a second each, between two looks at the record."""


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of an agent-manager."""

    accept: bool = True
    """whether a backplane-manager may change the agents of this host process"""


class Agent:
    """The agent-manager; see the module."""

    queries = frozenset({"inventory", "fences", *map(str, Verb)})

    def __init__(self, config: Config) -> None:
        self._config = config
        self._context: Context | None = None
        self._children: Children | None = None
        self._holds = Holding()
        self._changing = asyncio.Lock()
        self._resumed = False
        self._looks = 0
        self._complaints: dict[str, str] = {}

    @property
    def _here(self) -> Context:
        if self._context is None:
            raise UsageError("the agent-manager has not started yet: ask again")
        return self._context

    @property
    def _below(self) -> Children:
        if self._children is None:
            raise UsageError("the agent-manager has not started yet: ask again")
        return self._children

    async def start(self, context: Context) -> None:
        """Read what was applied last."""
        self._context = context
        try:
            self._holds = Holding(applied=applied.read(context.state))
        except StoreError as error:
            context.notice("applied_unreadable", **{"error.message": str(error)})
        state = context.state.parent.parent  # of the host process: <state>/agents/<agent> is that of an agent
        self._children = Children(context.control.config, state, lambda event, told: context.notice(event, **told))

    async def stop(self) -> None:
        """End the child processes; the agents go on."""
        if self._children is not None:
            await self._children.stop()

    async def on_batch(self, batch: Batch, now_ns: int) -> Result:  # noqa: ARG002
        """Take nothing: an agent-manager has no edges."""
        return Result(filtered=batch.count)

    async def settle(self) -> None:
        """What was applied was written before it was answered."""

    def status(self) -> Answer:
        """Return the revision that was applied last, the newest that was seen (0: none), and how the children are."""
        children = self._children.status() if self._children is not None else []
        return {
            "revision": self._holds.revision,
            "seen": self._holds.newest,
            "accepts": self._config.accept,
            "children": msgspec.to_builtins(children),
        }

    # --- by itself

    async def on_tick(self, now_ns: int) -> Result:  # noqa: ARG002
        """Take up, once after a start, the children of what was settled last; now and then look at the record."""
        self._looks += 1
        if (self._looks - 1) % LOOK_EVERY:
            return Result()
        for about, work in (("children", self._resume), ("topology", self._follow_record)):
            if not self._changing.locked():  # a step may itself wait for this tick; the next look comes soon enough
                async with self._changing:
                    await self._try(about, work)
        return Result()

    async def _try(self, about: str, work: Callable[[], Awaitable[None]]) -> None:
        """Do work; what stands against it is told once, and the next look tries again."""
        complaint = ""
        try:
            await work()
        except (EddyError, OSError) as error:
            complaint = str(error)
        if complaint and complaint != self._complaints.get(about):
            self._here.notice(f"{about}_not_taken_up", **{"error.message": complaint})
        self._complaints[about] = complaint

    async def _resume(self) -> None:
        """The agents of what was settled last have been started by the host process, its children have not."""
        if not self._resumed and self._holds.applied is not None and self._holds.pending is None:
            await self._below.want(self._holds.applied.children)
        self._resumed = True

    async def _follow_record(self) -> None:
        """Take up a record that no manager is carrying out; one that does tells us itself."""
        here = self._here
        if not (self._config.accept and here.bus.connected):
            return
        try:
            record = (await Keeping(here.bus, here.backplane).read()).record
        except BusError:
            return  # the server is away
        if record is None:
            return
        action = reconciling.decide_following(self._holds, record, here.host)
        if action is Action.GO_BACK:
            await self._go_back()
        elif action is Action.DO:
            await self._take(reconciling.of_record(record, here.host))
            here.notice("topology_followed", **{"topology.revision": record.revision, "level": 5})

    # --- queries

    async def query(self, verb: str, request: Mapping[str, object]) -> AsyncGenerator[Answer, None]:
        """Answer ``inventory`` with the status of each agent, any other verb with what was done.

        Args:
            verb: one of `queries`.
            request: a `Configuration`, `Change`, `Retirement`, `Step` or `Ends`.

        Raises:
            UsageError: the request makes no sense, is over or meant for what is gone, or this host does not accept it.
            ConfigError: the tables have mistakes; nothing was changed.
            StoreError: what is to run can not be written.
        """
        if verb == "inventory":
            for status in self._here.control.statuses():
                yield status
            return
        try:
            done = self._fences(request) if verb == "fences" else await self._step(Verb(verb), request)
        except msgspec.ValidationError as error:
            raise UsageError(f"{verb}: {error}: see subjects.md for what it needs") from None
        yield {"host": self._here.host, **done}

    def _fences(self, request: Mapping[str, object]) -> Answer:
        return {"flows": dict(self._here.control.fences(msgspec.convert(request, reconciling.Ends).edges))}

    async def _step(self, verb: Verb, request: Mapping[str, object]) -> Answer:
        if not self._config.accept:
            raise UsageError(
                f"{self._here.host} does not accept configurations: set accept = true on its agent-manager"
            )
        steps = {
            Verb.CONFIGURE: self._configure,
            Verb.PREPARE: self._prepare,
            Verb.ACTIVATE: self._activate,
            Verb.RETIRE: self._retire,
            Verb.SETTLE: self._settle,
            Verb.ABORT: self._abort,
        }
        async with self._changing:
            return await steps[verb](request)

    def _decide(self, verb: Verb, revision: int, part: str | None = None) -> Action:
        action = reconciling.decide(verb, self._holds, revision, part)
        if action is not Action.NOTHING:
            self._holds = self._holds.after(revision)
        return action

    # --- the steps of a revision

    async def _configure(self, request: Mapping[str, object]) -> Answer:
        wanted = self._holds.wanted(msgspec.convert(request, reconciling.Configuration))
        self._decide(Verb.CONFIGURE, wanted.revision)
        try:
            return {"revision": wanted.revision, **await self._take(wanted)}
        except ConfigError as error:
            self._here.notice("configuration_refused", **{"error.message": "; ".join(error.mistakes)})
            raise

    async def _prepare(self, request: Mapping[str, object]) -> Answer:
        pending = self._holds.wanted(msgspec.convert(request, reconciling.Configuration))
        self._decide(Verb.PREPARE, pending.revision)
        before = self._holds
        children = {**(before.applied.children if before.applied else {}), **pending.children}
        self._below.check(children)
        self._holds = before.prepared(pending)  # first: whatever ends this half-way, abort goes back
        try:
            done = await self._here.control.prepare(pending.agents)
        except ConfigError:
            self._holds = before  # nothing was changed
            raise
        self._declare(pending)
        await self._below.want(children)
        return {"revision": pending.revision, **done}

    async def _activate(self, request: Mapping[str, object]) -> Answer:
        change = msgspec.convert(request, reconciling.Change)
        self._decide(Verb.ACTIVATE, change.revision, change.part)
        await self._here.control.activate(change.edges)
        return {"revision": change.revision}

    async def _retire(self, request: Mapping[str, object]) -> Answer:
        asked = msgspec.convert(request, reconciling.Retirement)
        self._decide(Verb.RETIRE, asked.revision, asked.part)
        await self._here.control.retire(asked.agent, asked.fences)
        return {"revision": asked.revision, "agent": asked.agent}

    async def _settle(self, request: Mapping[str, object]) -> Answer:
        change = msgspec.convert(request, reconciling.Change)
        self._decide(Verb.SETTLE, change.revision, change.part)
        await self._here.control.settle(change.edges)
        if self._holds.pending is not None:
            await self._below.want(self._holds.pending.children)
        if held := self._holds.pending or self._holds.applied:
            self._keep(msgspec.structs.replace(held, revision=change.revision, edges=change.edges))
        return {"revision": change.revision}

    async def _abort(self, request: Mapping[str, object]) -> Answer:
        revision = msgspec.convert(request, reconciling.Step).revision
        if self._decide(Verb.ABORT, revision) is Action.GO_BACK:
            await self._go_back()
        return {"revision": revision}

    # --- what they come to

    async def _take(self, wanted: Applied) -> Answer:
        """Run exactly this, all steps at once, and write it down."""
        done = await self._run(wanted)
        self._keep(wanted)
        return done

    async def _go_back(self) -> None:
        """Run what was settled last, or what the configuration file says where nothing was."""
        begun = Applied(0, msgspec.to_builtins(self._here.control.config.agents))
        await self._run(self._holds.applied or begun)
        self._holds = self._holds.prepared(None)

    async def _run(self, wanted: Applied) -> Answer:
        self._below.check(wanted.children)  # a mistake there must not leave the agents changed
        done = await self._here.control.configure(wanted.agents, wanted.edges)
        self._declare(wanted)
        return {**done, "children": msgspec.to_builtins(await self._below.want(wanted.children))}

    def _declare(self, wanted: Applied) -> None:
        control = self._here.control
        control.declare(control.config.tags if wanted.tags is None else wanted.tags)

    def _keep(self, settled: Applied) -> None:
        applied.write(self._here.state, settled)
        self._holds = self._holds.settled(settled)
