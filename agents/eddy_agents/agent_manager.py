"""Agent-manager: answers for the agents of one host process, and makes it run what a topology wants of it.

In: queries on ``<backplane>.query.agent_manager.<host>/<agent>.<verb>``: ``inventory`` (every agent with its state);
the steps of a revision, ``prepare``, ``activate``, ``fences``, ``retire``, ``settle`` and ``abort``, see
``docs/decisions/0005-live-topology.md``; ``configure`` (all of them at once). What was settled last is kept in the
agent's state directory and taken up again after a restart, also while no manager is reached; when the topology of
record is newer, the agent-manager takes that up by itself.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from eddy_mesh import subjects
from eddy_mesh.agent import Result
from eddy_mesh.batch import Batch
from eddy_mesh.config import Serving
from eddy_mesh.errors import BusError, ConfigError, UsageError, WireError
from eddy_mesh.runtime.children import Children
from eddy_mesh.task import Answer, Context
from eddy_mesh.topology import record
from eddy_mesh.topology.applied import FILE, Applied, Tables, decode
from eddy_mesh.topology.placement import HostPlacement

SCOPE = "host"
EMIT = "demand"
INPUT: tuple[str, ...] = ()
HISTORY = 64
LOOK_EVERY = 5
"""Ticks, about a second each, between two looks at the record."""


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of an agent-manager."""

    accept: bool = True
    """whether a backplane-manager may change the agents of this host process"""


class Request(msgspec.Struct, frozen=True):
    """What ``prepare`` and ``configure`` are asked with."""

    revision: int
    agents: Tables
    children: Tables | None = None
    """host processes that the agent-manager is to start below this one, ``<host>.<agent>``; None: as they are"""
    tags: tuple[str, ...] | None = None
    """names of the tags that events may carry; None: as they are"""


class Change(msgspec.Struct, frozen=True):
    """What ``activate`` and ``settle`` are asked with."""

    revision: int
    edges: dict[str, Serving] = {}


class Retirement(msgspec.Struct, frozen=True):
    """What ``retire`` is asked with."""

    revision: int
    agent: str
    fences: dict[str, dict[str, tuple[int, int]]] = {}


class Ends(msgspec.Struct, frozen=True):
    """What ``fences`` is asked with."""

    edges: tuple[str, ...]


class Agent:
    """The agent-manager; see the module."""

    queries = frozenset({"inventory", "configure", "prepare", "activate", "fences", "retire", "settle", "abort"})

    def __init__(self, config: Config) -> None:
        self._config = config
        self._context: Context | None = None
        self._applied: Applied | None = None
        self._children: Children | None = None
        self._pending: Applied | None = None
        self._resumed = False
        self._looks = 0

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
        self._applied = _read(context.state / FILE)
        state = context.state.parent.parent  # of the host process: <state>/agents/<agent> is that of an agent
        self._children = Children(context.control.config, state, lambda event, told: context.notice(event, **told))

    async def stop(self) -> None:
        """End the child processes; the agents go on."""
        if self._children is not None:
            await self._children.stop()

    async def on_batch(self, batch: Batch, now_ns: int) -> Result:  # noqa: ARG002
        """Take nothing: an agent-manager has no edges."""
        return Result(filtered=batch.count)

    async def on_tick(self, now_ns: int) -> Result:  # noqa: ARG002
        """Take up, once after a start, what was settled last; now and then look whether the record is newer."""
        if not self._resumed:  # the agents of what was settled last have been started by the host process
            self._resumed = True
            if self._applied is not None and self._pending is None:
                with suppress(ConfigError):
                    await self._below.want(self._applied.children)
        may_look = self._config.accept and self._pending is None and self._here.bus.connected
        if self._looks % LOOK_EVERY == 0 and may_look:
            with suppress(BusError, WireError, ConfigError):
                await self._follow_record()
        self._looks += 1
        return Result()

    async def _follow_record(self) -> None:
        """Take up a newer record that no manager is carrying out; one that does tells us itself."""
        bucket = f"{subjects.escape(self._here.backplane).replace('=', '-')}_topology"
        entry = await (await self._here.bus.key_value(bucket, history=HISTORY)).get(record.KEY)
        if entry is None:
            return
        held = record.decode(entry.value)
        part = held.placement.hosts.get(self._here.host)
        known = self._applied.revision if self._applied else 0
        is_of_record = part is not None or known > 0  # one that was taken out while it was away ends what it ran
        if held.state is not record.RecordState.APPLIED or not is_of_record or held.revision <= known:
            return
        part = part or HostPlacement()
        children: Tables = {name: {"agents": _tables(held.placement.hosts[name])} for name in part.children}
        edges = {name: Serving(edge.generation, edge.producers) for name, edge in held.placement.edges.items()}
        await self._take(Applied(held.revision, _tables(part), children, edges, held.placement.tags))
        self._here.notice("topology_followed", **{"topology.revision": held.revision, "level": 5})

    async def _take(self, applied: Applied) -> Answer:
        done = await self._configure(applied)
        _write(self._here.state / FILE, applied)
        self._applied, self._pending = applied, None
        return done

    async def _configure(self, applied: Applied) -> Answer:
        try:
            self._below.check(applied.children)  # a mistake there must not leave the agents changed
            done = await self._here.control.configure(applied.agents, applied.edges)
            self._declare(applied)
            return {**done, "children": msgspec.to_builtins(await self._below.want(applied.children))}
        except ConfigError as error:
            self._here.notice("configuration_refused", **{"error.message": "; ".join(error.mistakes)})
            raise

    def _declare(self, applied: Applied) -> None:
        if applied.tags is not None:
            self._here.control.declare(applied.tags)

    async def settle(self) -> None:
        """What was applied was written before it was answered."""

    def status(self) -> Answer:
        """Return the revision that was applied last, 0 where none was, and how the child processes are."""
        children = self._children.status() if self._children is not None else []
        return {
            "revision": self._applied.revision if self._applied else 0,
            "accepts": self._config.accept,
            "children": msgspec.to_builtins(children),
        }

    async def query(self, verb: str, request: Mapping[str, object]) -> AsyncGenerator[Answer, None]:
        """Answer ``inventory`` with the status of each agent, any other verb with what was done.

        Args:
            verb: one of `queries`.
            request: a `Request`, `Change`, `Retirement` or `Ends`.

        Raises:
            UsageError: the request makes no sense, or this host does not accept it.
            ConfigError: the tables have mistakes; nothing was changed.
            StoreError: the configuration of a child can not be written.
        """
        if verb == "inventory":
            for status in self._here.control.statuses():
                yield status
            return
        if not self._config.accept and verb != "fences":
            raise UsageError(
                f"{self._here.host} does not accept configurations: set accept = true on its agent-manager"
            )
        try:
            done = await self._steps[verb](request)
        except msgspec.ValidationError as error:
            raise UsageError(f"{verb}: {error}: see subjects.md for what it needs") from None
        yield {"host": self._here.host, **done}

    @property
    def _steps(self) -> dict[str, Callable[[Mapping[str, object]], Awaitable[Answer]]]:
        return {
            "configure": self._at_once,
            "prepare": self._prepare,
            "activate": self._activate,
            "fences": self._fences,
            "retire": self._retire,
            "settle": self._settle,
            "abort": self._abort,
        }

    # --- the steps of a revision

    def _asked(self, request: Mapping[str, object]) -> Applied:
        asked = msgspec.convert(request, Request)
        held = self._applied.children if self._applied else {}
        tags = self._applied.tags if self._applied and asked.tags is None else asked.tags
        return Applied(asked.revision, asked.agents, held if asked.children is None else asked.children, tags=tags)

    async def _at_once(self, request: Mapping[str, object]) -> Answer:
        applied = self._asked(request)
        return {"revision": applied.revision, **await self._take(applied)}

    async def _prepare(self, request: Mapping[str, object]) -> Answer:
        pending = self._asked(request)
        if self._applied is not None and pending.revision < self._applied.revision:
            raise UsageError(
                f"{self._here.host} runs revision {self._applied.revision} already, which is newer than "
                f"{pending.revision}: plan again from the topology of record"
            )
        children = {**(self._applied.children if self._applied else {}), **pending.children}
        self._below.check(children)
        done = await self._here.control.prepare(pending.agents)
        self._declare(pending)
        await self._below.want(children)
        self._pending = pending
        return {"revision": pending.revision, **done}

    async def _activate(self, request: Mapping[str, object]) -> Answer:
        change = msgspec.convert(request, Change)
        await self._here.control.activate(change.edges)
        return {"revision": change.revision}

    async def _fences(self, request: Mapping[str, object]) -> Answer:
        return {"flows": dict(self._here.control.fences(msgspec.convert(request, Ends).edges))}

    async def _retire(self, request: Mapping[str, object]) -> Answer:
        asked = msgspec.convert(request, Retirement)
        await self._here.control.retire(asked.agent, asked.fences)
        return {"revision": asked.revision, "agent": asked.agent}

    async def _settle(self, request: Mapping[str, object]) -> Answer:
        change = msgspec.convert(request, Change)
        self._here.control.settle(change.edges)
        pending = self._pending
        if pending is not None and pending.revision == change.revision:
            applied = msgspec.structs.replace(pending, edges=change.edges)
            await self._below.want(applied.children)
            _write(self._here.state / FILE, applied)
            self._applied, self._pending = applied, None
        elif self._applied is not None:
            self._applied = msgspec.structs.replace(self._applied, revision=change.revision, edges=change.edges)
            _write(self._here.state / FILE, self._applied)
        return {"revision": change.revision}

    async def _abort(self, request: Mapping[str, object]) -> Answer:
        """Go back to what was settled last, or to the configuration file where nothing was."""
        revision = msgspec.convert(request, Change).revision
        if self._pending is None or self._pending.revision != revision:
            return {"revision": revision}
        begun = Applied(0, msgspec.to_builtins(self._here.control.config.agents))
        await self._configure(self._applied or begun)
        self._pending = None
        return {"revision": revision}


def _tables(part: HostPlacement) -> Tables:
    return {name: msgspec.to_builtins(agent) for name, agent in part.agents.items()}


def _read(path: Path) -> Applied | None:
    try:
        return decode(path.read_bytes())
    except OSError:
        return None  # none was applied


def _write(path: Path, applied: Applied) -> None:
    partial = path.with_suffix(".part")
    partial.write_bytes(msgspec.json.encode(applied))
    partial.replace(path)
