"""An outlet that keeps what it is given: for the tests of sources, here and in other packages.

What may live here: `MemoryOutlet`, which stands in for the runtime, and `running`, which runs a source against it.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from eddy_mesh.agent import Draft, Source
from eddy_mesh.cer import Value

_STOP_WAIT_S = 5.0


class MemoryOutlet:
    """Keeps drafts, losses and notices.

    Attributes:
        name: of the agent.
        state: directory for checkpoints.
        drafts: all that were emitted.
        rows: each event of them, as a dict of dotted names.
        losses: events lost, by reason.
        notices: name and fields of each.
        settlements: how often a source has waited until its events were taken.
        gate: cleared, it is a full edge: ``emit`` and ``settled`` wait.
        offered: set when a draft arrives at the gate.
    """

    def __init__(self, state: Path, name: str = "memory") -> None:
        self.name = name
        self.state = state
        self.drafts: list[Draft] = []
        self.rows: list[dict[str, Value]] = []
        self.losses: Counter[str] = Counter()
        self.notices: list[tuple[str, dict[str, Value]]] = []
        self.settlements = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.offered = asyncio.Event()
        self._changed = asyncio.Event()

    def now_ns(self) -> int:
        """Return ns since 1970 UTC."""
        return time.time_ns()

    async def emit(self, draft: Draft) -> None:
        """Keep a draft, once the gate is open.

        Raises:
            ValueError: a column is not as long as the draft.
        """
        self.offered.set()
        await self.gate.wait()
        odd = [name for name, column in draft.columns.items() if len(column) != draft.count]
        if odd:
            raise ValueError(f"columns {odd} do not have {draft.count} rows: make all columns of a draft equally long")
        self.drafts.append(draft)
        self.rows += [{name: column.at(row) for name, column in draft.columns.items()} for row in range(draft.count)]
        self._changed.set()

    async def settled(self) -> None:
        """Return once the gate is open."""
        await self.gate.wait()
        self.settlements += 1
        self._changed.set()

    def lost(self, reason: str, count: int) -> None:
        """Count lost events."""
        self.losses[reason] += count
        self._changed.set()

    def notice(self, event: str, **fields: Value) -> None:
        """Keep a notice."""
        self.notices.append((event, fields))
        self._changed.set()

    @property
    def payloads(self) -> list[Value]:
        """The payload of each event, in order."""
        return [row.get("event.original") for row in self.rows]

    def told(self, event: str) -> list[dict[str, Value]]:
        """Return the fields of each notice of a name."""
        return [fields for name, fields in self.notices if name == event]

    async def until(self, holds: Callable[[], object]) -> None:
        """Wait until a condition holds; it is looked at after each change."""
        while not holds():
            self._changed.clear()
            await self._changed.wait()

    async def port(self, transport: str) -> int:
        """Wait for the first listener of a transport (``udp`` or ``tcp``) that asked for port 0; return its port."""
        await self.until(lambda: self._chosen(transport))
        return self._chosen(transport)[0]

    def _chosen(self, transport: str) -> list[int]:
        return [int(str(told["using"])) for told in self.told("port_chosen") if told["network.transport"] == transport]


@asynccontextmanager
async def running(source: Source, outlet: MemoryOutlet) -> AsyncIterator[None]:
    """Run a source within the block, then stop it.

    Raises:
        TimeoutError: it does not stop within some seconds.
        Exception: what it raised.
    """
    task = asyncio.create_task(source.run(outlet))
    try:
        yield
    finally:
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=_STOP_WAIT_S)
        if not done:
            raise TimeoutError(f"the source has not stopped after {_STOP_WAIT_S} s: let cancellation end it")
        if not task.cancelled() and (error := task.exception()):
            raise error
