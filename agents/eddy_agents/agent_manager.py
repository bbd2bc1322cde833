"""Agent-manager: answers for the agents of one host process, and makes it run what a topology wants of it.

In: queries on ``<backplane>.query.agent_manager.<host>/<agent>.<verb>``: ``inventory`` (every agent with its state),
``configure`` (make exactly these agents run, and exactly these child processes). The configuration that was applied
last is kept in the agent's state directory and taken up again after a restart, also while no manager is reached.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from pathlib import Path

import msgspec

from eddy_mesh.agent import Result
from eddy_mesh.batch import Batch
from eddy_mesh.errors import ConfigError, UsageError
from eddy_mesh.runtime.children import Children, Parent
from eddy_mesh.task import Answer, Context

SCOPE = "host"
EMIT = "demand"
INPUT: tuple[str, ...] = ()
FILE = "applied.json"


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of an agent-manager."""

    accept: bool = True
    """whether a backplane-manager may change the agents of this host process"""


Tables = dict[str, dict[str, object]]
"""By name of the agent or child: its tables, as in a configuration file."""


class Request(msgspec.Struct, frozen=True):
    """What ``configure`` is asked with."""

    revision: int
    agents: Tables
    children: Tables | None = None
    """host processes that the agent-manager is to start below this one, ``<host>.<agent>``; None: as they are"""


class Applied(msgspec.Struct, frozen=True):
    """What was applied last."""

    revision: int
    agents: Tables
    children: Tables = {}


class Agent:
    """The agent-manager; see the module."""

    queries = frozenset({"inventory", "configure"})

    def __init__(self, config: Config) -> None:
        self._config = config
        self._context: Context | None = None
        self._applied: Applied | None = None
        self._children: Children | None = None
        self._resumed = False

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
        if not isinstance(context.control, Parent):
            raise ConfigError(["an agent-manager works in a host process only, which shows its configuration"])
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
        """Take up, once after a start, the configuration that was applied last."""
        if not self._resumed:
            self._resumed = True
            if self._applied is not None:
                await self._configure(self._applied)
        return Result()

    async def _configure(self, applied: Applied) -> Answer:
        try:
            self._below.check(applied.children)  # a mistake there must not leave the agents changed
            done = await self._here.control.configure(applied.agents)
            return {**done, "children": msgspec.to_builtins(await self._below.want(applied.children))}
        except ConfigError as error:
            self._here.notice("configuration_refused", **{"error.message": "; ".join(error.mistakes)})
            raise

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
        """Answer ``inventory`` with the status of each agent, ``configure`` with what was done.

        Args:
            verb: ``inventory`` or ``configure``.
            request: for ``configure``: a `Request`.

        Raises:
            UsageError: the request makes no sense, or this host does not accept it.
            ConfigError: the tables have mistakes; nothing was changed.
            StoreError: the configuration of a child can not be written.
        """
        if verb == "inventory":
            for status in self._here.control.statuses():
                yield status
            return
        if not self._config.accept:
            raise UsageError(
                f"{self._here.host} does not accept configurations: set accept = true on its agent-manager"
            )
        try:
            asked = msgspec.convert(request, Request)
        except msgspec.ValidationError as error:
            raise UsageError(f"configure needs revision and agents ({error})") from None
        held = self._applied.children if self._applied else {}
        applied = Applied(asked.revision, asked.agents, held if asked.children is None else asked.children)
        done = await self._configure(applied)
        _write(self._here.state / FILE, applied)
        self._applied = applied
        yield {"host": self._here.host, "revision": applied.revision, **done}


def _read(path: Path) -> Applied | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Applied)
    except (OSError, msgspec.MsgspecError):
        return None  # none was applied, or the file is damaged: the configuration file stands


def _write(path: Path, applied: Applied) -> None:
    partial = path.with_suffix(".part")
    partial.write_bytes(msgspec.json.encode(applied))
    partial.replace(path)
