"""Generations: which generation of an edge a producing agent serves.

What may live here: the table of generations that were activated, and the change from one table to the next between
two batches. See ``docs/decisions/0005-live-topology.md``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import contextmanager

from msgspec import structs

from eddy_mesh.config import Serving


class Table:
    """The generations of each edge that were activated, newest first; never changed."""

    def __init__(self, edges: Mapping[str, tuple[Serving, ...]]) -> None:
        self.edges = edges
        self._served: dict[tuple[str, str], int] = {}
        self._users = 0
        self._left = asyncio.Event()
        self._left.set()

    def served(self, edge: str, producer: str) -> int:
        """Return the generation of an edge that a producing agent serves: the newest that names it; 0 for none."""
        known = self._served.get((edge, producer))
        if known is None:
            known = next((held.generation for held in self.edges.get(edge, ()) if producer in held.producers), 0)
            self._served[edge, producer] = known
        return known

    def enter(self) -> None:
        """A batch begins its way by this table."""
        self._users += 1
        self._left.clear()

    def leave(self) -> None:
        """A batch has ended its way by this table."""
        self._users -= 1
        if not self._users:
            self._left.set()

    async def left(self) -> None:
        """Wait until no batch is on its way by this table."""
        await self._left.wait()


class Generations:
    """What a host process serves, in all its backplanes."""

    def __init__(self) -> None:
        self.now = Table({})
        self._current: Mapping[str, Serving] = {}
        self._turns: list[asyncio.Event] = []

    def is_over(self, edge: str, generation: int) -> bool:
        """Whether a generation of an edge was superseded, or the edge is there no more."""
        current = self._current.get(edge)
        return current is None or generation < current.generation

    def is_current(self, edge: str, generation: int) -> bool:
        """Whether a generation of an edge is the newest that was activated."""
        current = self._current.get(edge)
        return current is not None and current.generation == generation

    def next_turn(self) -> asyncio.Event:
        """Return what is set at the next activation."""
        turn = asyncio.Event()
        self._turns.append(turn)
        return turn

    def has_stream(self, edge: str) -> bool:
        """Whether there is a durable edge of that name."""
        current = self._current.get(edge)
        return current is not None and current.delivery == "durable"

    @contextmanager
    def routing(self) -> Iterator[Table]:
        """Hold on to one table for the whole way of a batch: no change falls into the middle of it."""
        table = self.now
        table.enter()
        try:
            yield table
        finally:
            table.leave()

    async def activate(self, edges: Mapping[str, Serving], staying: AbstractSet[str]) -> None:
        """Serve these generations from the next batch on; return when all batches before have gone their way.

        Args:
            edges: every edge of the topology.
            staying: agents of this host process that go on, each ``<host>/<agent>``: they serve these generations only.
                Those that are about to go serve what they served until `settle`.
        """
        before = self.now
        self._current = dict(edges)
        held: dict[str, tuple[Serving, ...]] = {name: (serving,) for name, serving in edges.items()}
        for name, known in before.edges.items():
            newest = held.get(name, ())
            going = [_without(old, staying) for old in known if not newest or old.generation < newest[0].generation]
            held[name] = (*newest, *(old for old in going if old.producers))
        self.now = Table({name: kept for name, kept in held.items() if kept})
        for turn in self._turns:
            turn.set()
        self._turns.clear()
        await before.left()

    def settle(self, edges: Mapping[str, Serving]) -> None:
        """Forget older generations: the agents that served them have gone."""
        self.now = Table({name: (serving,) for name, serving in edges.items()})


def _without(serving: Serving, producers: AbstractSet[str]) -> Serving:
    return structs.replace(serving, producers=tuple(name for name in serving.producers if name not in producers))
