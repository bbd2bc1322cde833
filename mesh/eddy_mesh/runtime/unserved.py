"""Unserved: durable edges that an agent is told to feed, and to which no way leads here.

What may live here: finding them, and counting what is made for them. There are none unless a change went wrong
half-way; then the loss must be seen.
"""

from __future__ import annotations

from collections import defaultdict

from eddy_mesh.conservation import Ledger
from eddy_mesh.runtime.generations import Table
from eddy_mesh.runtime.router import Router

NOT_SERVED = "not_served"


class Unserved:
    """The accounts of one host process.

    Args:
        host: its name.
        router: has the ways into the streams of durable edges.
    """

    def __init__(self, host: str, router: Router) -> None:
        self._host = host
        self._router = router
        self._found: tuple[Table, int] | None = None
        self._missing: dict[str, list[Ledger]] = {}
        self._ledgers: dict[str, Ledger] = {}

    @property
    def ledgers(self) -> list[Ledger]:
        """What was made for edges that lead nowhere; what their statements would have left out is counted too."""
        return list(self._ledgers.values())

    def count(self, table: Table, agent: str, events: int) -> None:
        """Count what an agent made as dropped at every edge that it is to feed and that leads nowhere.

        Args:
            table: what is served.
            agent: its name.
            events: how many it made.
        """
        if self._found != (table, self._router.version):
            self._found = (table, self._router.version)
            self._missing = self._find(table)
        for ledger in self._missing.get(agent, ()):
            ledger.offered += events
            ledger.drop(NOT_SERVED, events)

    def _find(self, table: Table) -> dict[str, list[Ledger]]:
        lines = {route.line for route in self._router.routes if route.line is not None}
        there = {(line.edge, line.generation, agent) for line in lines for agent in line.producers}
        missing: defaultdict[str, list[Ledger]] = defaultdict(list)
        for edge, servings in table.edges.items():
            for path in {path for serving in servings for path in serving.producers}:
                host, _, agent = path.partition("/")
                generation = table.served(edge, path)
                is_durable = any(held.generation == generation and held.delivery == "durable" for held in servings)
                if host == self._host and is_durable and (edge, generation, agent) not in there:
                    missing[agent].append(self._ledger(f"{edge}@{generation} {agent} > nowhere"))
        return missing

    def _ledger(self, name: str) -> Ledger:
        return self._ledgers.setdefault(name, Ledger(name, policy="drop"))
