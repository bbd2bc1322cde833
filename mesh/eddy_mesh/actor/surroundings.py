"""What an agent needs of its host process.

What may live here: the one Protocol between `eddy_mesh.actor` and `eddy_mesh.runtime`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from eddy_mesh.actor.edge import Edge
from eddy_mesh.batch import Batch, Kind
from eddy_mesh.bus import Bus
from eddy_mesh.cer import EventId, Value
from eddy_mesh.tags import TagGate
from eddy_mesh.task import HostControl

if TYPE_CHECKING:
    from eddy_mesh.actor.cell import Cell
    from eddy_mesh.actor.work import Work


class Surroundings(Protocol):
    """The host process, as its agents see it."""

    @property
    def host(self) -> str:
        """Name of the host process."""
        ...

    @property
    def backplane(self) -> str:
        """Name of the mesh."""
        ...

    @property
    def bus(self) -> Bus:
        """The message bus."""
        ...

    @property
    def tags(self) -> TagGate:
        """What events may carry."""
        ...

    @property
    def control(self) -> HostControl:
        """The host process, for managers."""
        ...

    def now_ns(self) -> int:
        """Return ns since 1970 UTC."""
        ...

    def state_of(self, agent: str) -> Path:
        """Return the directory of an agent, made if it is not there."""
        ...

    async def room(self, cell: Work, kind: Kind, origin: str, events: int) -> None:
        """Wait until every edge that takes such events of an agent can take so many."""
        ...

    async def route(self, cell: Work, batch: Batch) -> None:
        """Pass events on to everybody who asked for them."""
        ...

    async def watched(self, cell: Work, batch: Batch) -> None:
        """Show events that an agent takes in to those who watch it."""
        ...

    async def fetch(self, ids: Sequence[EventId]) -> Sequence[Mapping[str, object]]:
        """Return the whole events with these ids, as far as any host process or archive still has them."""
        ...

    def downstream(self, cell: Work) -> list[tuple[Edge, Cell]]:
        """Return the edges of this host that take events of an agent, with the agents at their ends."""
        ...

    async def bury(self, cell: Work, batch: Batch, reason: str, detail: str) -> int:
        """Send events that an agent could not take to the dead letters; return how many could not be sent."""
        ...

    def changed(self, cell: Work) -> None:
        """Take note of a change of state."""
        ...

    def notice(self, cell: Work, event: str, fields: Mapping[str, Value]) -> None:
        """Log, and emit as an event of the mesh."""
        ...
