"""The third form of agent: a task, with IO. What it offers the runtime and what the runtime offers it.

What may live here: the two Protocols. Prefer `eddy_mesh.agent.Stateful` wherever no IO is needed.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from eddy_mesh.agent import Draft, Result
from eddy_mesh.batch import Batch
from eddy_mesh.bus import Bus
from eddy_mesh.cer import EventId, Value
from eddy_mesh.config import HostConfig, Serving

Answer = Mapping[str, object]
"""One JSON object."""


class HostControl(Protocol):
    """What an agent-manager may do with the host process that it lives in."""

    def statuses(self) -> list[dict[str, object]]:
        """Return the status of every agent, as in the heartbeat."""
        ...

    async def command(self, agent: str, verb: str, arguments: Mapping[str, object]) -> Answer:
        """Give an agent a lifecycle command and return its answer.

        Raises:
            UsageError: no such agent or command, or not possible in its state.
        """
        ...

    @property
    def config(self) -> HostConfig:
        """The configuration that the host process was started with."""
        ...

    async def configure(
        self, agents: Mapping[str, Mapping[str, object]], edges: Mapping[str, Serving] | None = None
    ) -> Answer:
        """Make the named agents run with these specifications; start, replace, reload or stop as needed.

        Args:
            agents: agent name to its table as in a configuration file. Agents that are not named and are not managers
                are drained and stopped.
            edges: what is served of each edge of the topology; None: as it is.

        Raises:
            ConfigError: nothing was changed; every mistake is named.
        """
        ...

    async def prepare(self, agents: Mapping[str, Mapping[str, object]]) -> Answer:
        """Start, reload, morph and join to new ends of edges what these specifications say; nothing ends.

        Sources that feed edges wait for `activate`.

        Args:
            agents: as for `configure`.

        Raises:
            ConfigError: nothing was changed; every mistake is named.
        """
        ...

    async def activate(self, edges: Mapping[str, Serving]) -> None:
        """Serve these generations of the edges of the topology, hold sources that are to go, let new ones begin.

        Agents that are to go serve what they served until `settle`.
        """
        ...

    def declare(self, tags: Iterable[str]) -> None:
        """Let events carry these tags from now on, and no others."""
        ...

    def fences(self, edges: Collection[str]) -> Mapping[str, tuple[int, int]]:
        """Return flow → (epoch, position) of the older generations of these edges."""
        ...

    async def retire(self, agent: str, fences: Mapping[str, Mapping[str, tuple[int, int]]]) -> None:
        """End the ends of edges that an agent is not to have any more; drain and end the agent if it is to go.

        Args:
            agent: its name; one that is not here is no error.
            fences: flow → host process → (epoch, position) up to which the flow is still taken.
        """
        ...

    async def settle(self, edges: Mapping[str, Serving]) -> None:
        """Forget older generations, and let the consumers of durable edges begin."""
        ...


class Context(Protocol):
    """What a `Task` sees of the runtime."""

    @property
    def name(self) -> str:
        """Name of the agent, unique on its host."""
        ...

    @property
    def host(self) -> str:
        """Name of the host process."""
        ...

    @property
    def backplane(self) -> str:
        """Name of the mesh."""
        ...

    @property
    def state(self) -> Path:
        """Directory of this agent; exists, survives restarts."""
        ...

    @property
    def bus(self) -> Bus:
        """The message bus."""
        ...

    @property
    def control(self) -> HostControl:
        """The host process, for managers."""
        ...

    def now_ns(self) -> int:
        """Return ns since 1970 UTC."""
        ...

    async def emit(self, draft: Draft) -> None:
        """Hand over events."""
        ...

    async def fetch(self, ids: Sequence[EventId]) -> Sequence[Mapping[str, object]]:
        """Return the whole events with these ids, as far as any host process or archive still has them."""
        ...

    def notice(self, event: str, **fields: Value) -> None:
        """Log, and emit as a ``derived`` event of the mesh, something that an operator must know."""
        ...


@runtime_checkable
class Task(Protocol):
    """An agent with IO. All methods run in the event loop; blocking work belongs in a thread."""

    queries: frozenset[str]
    """Verbs of the query channel that `query` answers."""

    async def start(self, context: Context) -> None:
        """Open what is needed. Called once before anything else.

        Raises:
            ConfigError: can not work here; not retried.
        """
        ...

    async def on_batch(self, batch: Batch, now_ns: int) -> Result:
        """Take one batch. A `StoreError` or `BusError` that is retryable makes the runtime offer it again later."""
        ...

    async def on_tick(self, now_ns: int) -> Result:
        """Do what is due by time; called about once a second."""
        ...

    async def settle(self) -> None:
        """Return when every batch taken so far would survive a crash."""
        ...

    def query(self, verb: str, request: Mapping[str, object]) -> AsyncGenerator[Answer, None]:
        """Answer a query with any number of rows.

        Raises:
            UsageError: the request makes no sense; the text says what would.
        """
        ...

    def status(self) -> Answer:
        """Return what the heartbeat shows beside the counters."""
        ...

    async def stop(self) -> None:
        """Close everything. Called once, last."""
        ...
