"""What an agent's author writes against: the three forms, what they emit, and the examples that a file carries.

What may live here: the `Protocol` of each form and the values that cross it. The runtime that calls them is in
`eddy_mesh.actor`; an author needs this file, `eddy_mesh.batch` and `eddy_mesh.columns`, nothing else.

Write the weakest form that does the job:

1. *Function*: `Stateful` whose ``on_batch`` keeps nothing.
2. *Stateful*: synchronous, no IO; time comes in as an argument.
3. *Task*: `Source`, or an agent type with IO.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

from eddy_mesh.batch import Batch, Kind
from eddy_mesh.cer import Value
from eddy_mesh.columns import Column
from eddy_mesh.rows import columns_of


@dataclass(frozen=True, slots=True)
class Draft:
    """Events that an agent made and that nobody has numbered yet; the runtime makes a `Batch` of it.

    The runtime adds the columns that the draft leaves out: ``observed`` (now), ``occurred`` (as observed),
    ``normalizer`` and ``normalizer_address`` (this host; only for raw events).

    Attributes:
        kind: stage, class and type of every event.
        count: number of events.
        columns: field name to column, each of length ``count``.
    """

    kind: Kind
    count: int
    columns: Mapping[str, Column]


def draft_of(kind: Kind, rows: Sequence[Mapping[str, Value]]) -> Draft:
    """Return a draft of rows, each a dict of dotted field names; for agents that are not hot."""
    return Draft(kind, len(rows), columns_of(rows))


Output: TypeAlias = Draft | Batch
"""New events, or events that came in and go out as they were numbered (a select, a change of fields)."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Events of one batch that an agent could not take; the runtime counts them and sends them to the dead letters.

    Attributes:
        rows: offsets of the events in the batch.
        reason: short constant text, the counter's name: ``truncated``, ``not_utf8`` ...
        detail: what was wrong with the first of them.
    """

    rows: Sequence[int]
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """What an agent gives back for one batch.

    Attributes:
        outputs: new or passed-on events.
        refusals: events that it could not take; every other event counts as taken.
        filtered: number of events that it took and left out on purpose.
    """

    outputs: Sequence[Output] = ()
    refusals: Sequence[Refusal] = ()
    filtered: int = 0


class Stateful(Protocol):
    """A synchronous agent: parser, transformer, anonymizer, detector."""

    def on_batch(self, batch: Batch, now_ns: int) -> Result:
        """Take one batch.

        An exception is a defect of the agent: the runtime then offers the events one at a time, sends those that still
        raise to the dead letters, and goes on.

        Args:
            batch: events that the agent's edges let through; its arrays must not be written to.
            now_ns: ns since 1970 UTC.
        """
        ...

    def on_tick(self, now_ns: int) -> Result:
        """Do what is due by time (expire state, close windows); called about once a second and before a drain ends."""
        ...


class Outlet(Protocol):
    """What a `Source` sees of the runtime."""

    @property
    def name(self) -> str:
        """Name of the agent, unique on its host."""
        ...

    @property
    def state(self) -> Path:
        """Directory of this agent for checkpoints; exists, survives restarts."""
        ...

    def now_ns(self) -> int:
        """Return ns since 1970 UTC."""
        ...

    async def emit(self, draft: Draft) -> None:
        """Hand over events; waits while an edge with overload policy ``block`` is full."""
        ...

    async def settled(self) -> None:
        """Wait until every agent of this host that was handed the events emitted so far has taken them.

        Write a checkpoint only after this: what it covers then survives a crash of the process.
        """
        ...

    def lost(self, reason: str, count: int) -> None:
        """Count events that the outside world offered and that were lost before they could be emitted."""
        ...

    def notice(self, event: str, **fields: Value) -> None:
        """Log, and emit as a ``derived`` event of the mesh, something that an operator must know."""
        ...


@runtime_checkable
class Source(Protocol):
    """A task agent that takes events in from the outside world."""

    async def run(self, outlet: Outlet) -> None:
        """Emit raw events until cancelled. On cancellation emit what is already held and return.

        Raises:
            ConfigError: something in the configuration can not work here (no such device); not retried.
            OSError: the outside world failed; the supervisor restarts the source with back-off.
        """
        ...


@dataclass(frozen=True, slots=True)
class Example:
    """A case that documentation shows and the conformance test runs.

    Attributes:
        given: raw payloads in order for a cooking, or rows (dicts of dotted names) for other agents.
        expected: for each event that comes out, in order, fields that it must have with these values.
        config: settings that differ from the default.
    """

    given: Sequence[bytes | Mapping[str, Value]]
    expected: Sequence[Mapping[str, Value]]
    config: Mapping[str, object] = field(default_factory=dict)
