"""Backplane-manager: makes the host processes of a backplane run what a topology file declares.

In: queries on ``<backplane>.query.backplane_manager.<agent>.<verb>``: ``apply`` (a topology as JSON), ``topology`` (the
one that was applied last). Out: ``configure`` to the agent-manager of each host process that the topology names. The
store of record is the key ``topology`` of the bucket ``<backplane>_topology``, changed by compare-and-set only.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping

import msgspec

from eddy_mesh import queries, subjects
from eddy_mesh.agent import Result
from eddy_mesh.batch import Batch
from eddy_mesh.bus import KeyValue
from eddy_mesh.config import AgentConfig, mistakes_in
from eddy_mesh.errors import BusError, ConfigError, EddyError, UsageError
from eddy_mesh.task import Answer, Context

SCOPE = "host"
EMIT = "demand"
INPUT: tuple[str, ...] = ()
KEY = "topology"
HISTORY = 64


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of a backplane-manager."""

    timeout_s: float = 10.0
    """longest time for one host process to take its part, s"""


class HostPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one host process is to run; table ``[hosts.<name>]``."""

    agents: dict[str, AgentConfig] = {}


class Topology(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A topology file."""

    backplane: str = "eddy"
    """name of the mesh"""
    hosts: dict[str, HostPart] = {}


class Agent:
    """The backplane-manager; see the module."""

    queries = frozenset({"apply", "topology"})

    def __init__(self, config: Config) -> None:
        self._config = config
        self._context: Context | None = None
        self._record: KeyValue | None = None
        self._revision = 0
        self._applying = asyncio.Lock()

    @property
    def _here(self) -> Context:
        if self._context is None:
            raise UsageError("the backplane-manager has not started yet: ask again")
        return self._context

    async def start(self, context: Context) -> None:
        """Remember where it is; the store of record is opened when it is first needed."""
        self._context = context

    async def stop(self) -> None:
        """Nothing to close."""

    async def on_batch(self, batch: Batch, now_ns: int) -> Result:  # noqa: ARG002
        """Take nothing: a backplane-manager has no edges."""
        return Result(filtered=batch.count)

    async def on_tick(self, now_ns: int) -> Result:  # noqa: ARG002
        """Nothing is due by time."""
        return Result()

    async def settle(self) -> None:
        """The store of record is on the server."""

    def status(self) -> Answer:
        """Return the revision of the topology that this manager saw last."""
        return {"revision": self._revision}

    async def query(self, verb: str, request: Mapping[str, object]) -> AsyncGenerator[Answer, None]:
        """Answer ``topology`` with the one of record, ``apply`` with what each host process did.

        Args:
            verb: ``apply`` or ``topology``.
            request: for ``apply``: ``topology``, as the tables of the file.

        Raises:
            ConfigError: every mistake in the topology; nothing was changed.
            UsageError: there is no topology of record; or a host process is not there.
            RevisionConflict: another manager applied one at the same time.
        """
        record = await self._open()
        entry = await record.get(KEY)
        if verb == "topology":
            if entry is None:
                raise UsageError("no topology was applied on this backplane yet")
            yield {"revision": entry.revision, "topology": msgspec.json.decode(entry.value)}
            return
        topology = _checked(request.get("topology"), self._here.backplane)
        data = msgspec.json.encode(topology)
        async with self._applying:  # the hosts of one topology are told before those of the next
            if entry is None:
                self._revision = await record.create(KEY, data)
            else:
                self._revision = await record.update(KEY, data, entry.revision)
            for host, part in topology.hosts.items():
                yield await self._configure(host, part)

    async def _open(self) -> KeyValue:
        if self._record is None:
            bucket = f"{subjects.escape(self._here.backplane).replace('=', '-')}_topology"
            self._record = await self._here.bus.key_value(bucket, history=HISTORY)
        return self._record

    async def _configure(self, host: str, part: HostPart) -> Answer:
        """Tell one host process; return what it did, or why it did not."""
        manager = await self._manager_of(host)
        if manager is None:
            return {
                "host": host,
                "error": "not there: start it with eddy-agent run; it is told when it is applied again",
            }
        subject = subjects.query(self._here.backplane, "agent_manager", f"{host}/{manager}", "configure")
        agents = {name: msgspec.to_builtins(agent) for name, agent in part.agents.items()}
        try:
            request = {"revision": self._revision, "agents": agents}
            async for row in queries.ask(self._here.bus, subject, request, timeout_s=self._config.timeout_s):
                return row
        except EddyError as error:
            return {"host": host, "error": str(error)}
        return {"host": host, "error": "its agent-manager gave no answer"}

    async def _manager_of(self, host: str) -> str | None:
        subject = subjects.control(self._here.backplane, host, "host", "stats")
        try:
            answer = await self._here.bus.request(subject, b"{}", timeout_s=self._config.timeout_s)
            agents = msgspec.json.decode(answer.data, type=dict[str, object]).get("agents")
        except (BusError, msgspec.MsgspecError):
            return None
        rows = agents if isinstance(agents, list) else []
        return next((str(row["agent"]) for row in rows if row.get("type") == "agent_manager"), None)


def _checked(tables: object, backplane: str) -> Topology:
    if not isinstance(tables, dict):
        raise UsageError("apply needs a topology, as the tables of its file")
    mistakes = mistakes_in(tables, Topology, "topology")
    if not mistakes and tables.get("backplane", "eddy") != backplane:
        mistakes = [f"topology: it is for backplane {tables.get('backplane', 'eddy')!r}, this one is {backplane!r}"]
    if mistakes:
        raise ConfigError(mistakes)
    return msgspec.convert(tables, Topology)
