"""Notices: what a host process tells an operator, in its log and as events of the mesh.

What may live here: keeping notices, numbering and passing them on. What there is to tell is everybody else's business.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping

import structlog

from eddy_mesh.actor.cell import Cell
from eddy_mesh.actor.work import Work
from eddy_mesh.agent import Draft, draft_of
from eddy_mesh.batch import Batch, Kind
from eddy_mesh.cer import EventClass, Stage, Value
from eddy_mesh.commands import MANAGERS
from eddy_mesh.runtime.roster import Roster

RECENT = 32
WAITING = 10_000
"""Notices that may wait to be passed on; further ones are in the log only."""


class Notices:
    """The notices of one host process.

    Args:
        host: its name.
        roster: its agents, in whose names notices go.

    Attributes:
        recent: the newest, as agent and text.
    """

    def __init__(self, host: str, roster: Roster) -> None:
        self.recent: deque[tuple[str, str]] = deque(maxlen=RECENT)
        self._host = host
        self._roster = roster
        self._waiting: asyncio.Queue[tuple[Work, Draft]] = asyncio.Queue(WAITING)
        self._log = structlog.get_logger().bind(host=host)

    def tell(self, cell: Work, event: str, fields: Mapping[str, Value]) -> None:
        """Log at the level that the fields give (by default warning), keep, and emit as an event of the mesh.

        Args:
            cell: who tells it.
            event: words joined by ``_``; ``mesh.<event>`` is the type.
            fields: more fields of the event.
        """
        shown = {name: value for name, value in fields.items() if name != "level" and value is not None and value != ""}
        said = self._log.info if fields.get("level", 4) in {5, 6, 7} else self._log.warning
        said(event, agent=cell.name, **shown)
        self.recent.append((cell.name, f"{event.replace('_', ' ')}: {_told(shown)}"))
        row: dict[str, Value] = {"message": event.replace("_", " "), "level": 4, "host": self._host, **fields}
        row.setdefault("agent.name", cell.name)
        kind = Kind(Stage.COOKED, EventClass.DERIVED, f"mesh.{event}")
        try:
            self._waiting.put_nowait((cell, draft_of(kind, [row])))
        except asyncio.QueueFull:
            self._log.error("notices are full", agent=cell.name, notice=event)

    def tell_of_store(self, problem: str) -> None:
        """Tell that events are not kept for select-back; the local store is no agent, so a manager tells it."""
        cells = self._roster.cells.values()
        teller = next((cell for cell in cells if cell.kind in MANAGERS), next(iter(cells), None))
        if teller is None:
            self._log.warning("local store", reason=problem)
        else:
            self.tell(teller, "local_store_problem", {"error.message": problem})

    async def run(self, route: Callable[[Cell, Batch], Awaitable[None]]) -> None:
        """Pass notices on until cancelled.

        Args:
            route: takes the events of an agent.
        """
        while True:
            told_by, draft = await self._waiting.get()
            cell = self._author(told_by)
            if cell is None:
                continue
            try:
                await route(cell, cell.numbered(draft))
            except Exception:  # noqa: BLE001  # a defect that concerns one notice must not end the host process
                self._log.exception("notice could not be passed on", agent=told_by.name, kind=draft.kind.type)

    def _author(self, told_by: Work) -> Cell | None:
        """Return the agent as whose event a notice goes: what sends for an agent has no events of its own."""
        for (agent, _), sender in self._roster.wiring.senders.items():
            if sender.cell is told_by:
                return self._roster.cells.get(agent)
        cell = self._roster.cells.get(told_by.name)
        return cell if cell is told_by else None


def _told(fields: Mapping[str, Value]) -> str:
    return ", ".join(f"{name.rsplit('.', 1)[-1]} {value!s}" for name, value in fields.items())
