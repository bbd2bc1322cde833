"""Accounts: what host processes say of every edge, looked at all the time, and what is in the sinks at the end.

What may live here: the audit while it storms, the counted losses, and the count of each number in a sink.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec
import numpy as np
import numpy.typing as npt
from manifests import EDGES

from eddy_mesh import queries, subjects
from eddy_mesh.api import Mesh
from eddy_mesh.conservation import Ledger
from eddy_mesh.errors import EddyError

LOOK_S = 1.0
READ_S = 120.0


class Status(msgspec.Struct):
    """What is read of the status of a host process."""

    host: str
    started_ns: int
    edges: list[Ledger]
    agents: list[dict[str, object]]


@dataclass
class Audit:
    """What was seen of all edges, look by look.

    Attributes:
        looks: how often.
        checked: edges checked in all looks together.
        unbalanced: a line for each edge that did not balance.
        ledgers: the newest of each edge of each life of each host process.
    """

    looks: int = 0
    checked: int = 0
    unbalanced: list[str] = field(default_factory=list)
    ledgers: dict[tuple[str, int, str], Ledger] = field(default_factory=dict)

    def look(self, statuses: Iterable[Status]) -> None:
        """Check every edge."""
        self.looks += 1
        for status in statuses:
            for ledger in status.edges:
                self.checked += 1
                if not ledger.balanced and len(self.unbalanced) < 20:
                    self.unbalanced.append(f"look {self.looks}: {status.host}: {ledger}")
                name = ledger.edge.removesuffix(" (ended)")
                key = (status.host, status.started_ns, name)
                self.ledgers[key] = ledger

    def of(self, edge: str) -> list[Ledger]:
        """Return the accounts of both ends of an edge of the topology, over all its generations."""
        return [
            ledger for (_, _, name), ledger in self.ledgers.items() if name.partition("@")[0].partition(".")[0] == edge
        ]

    def behind(self, edge: str) -> list[Ledger]:
        """Return the accounts of its consuming ends alone: a durable edge has others before its stream."""
        return [ledger for ledger in self.of(edge) if not ledger.edge.removesuffix(" (ended)").endswith("> stream")]

    def lost(self, edges: Iterable[str]) -> dict[str, int]:
        """Return what was counted as lost on these edges, by reason."""
        reasons: dict[str, int] = {}
        for edge in edges:
            for ledger in self.of(edge):
                for reason, count in [*ledger.dropped.items(), *ledger.failures.items()]:
                    reasons[reason] = reasons.get(reason, 0) + count
        return reasons


async def statuses(mesh: Mesh) -> list[Status]:
    """Return the status of every host process that answers."""
    return [msgspec.convert(status, Status) for status in await mesh.hosts(3.0)]


async def watch(mesh: Mesh, audit: Audit) -> None:
    """Look at all edges once a second, until cancelled."""
    while True:
        with suppress(EddyError):  # a server that is just away; the next look is soon
            audit.look(await statuses(mesh))
        await asyncio.sleep(LOOK_S)


def moved(found: Iterable[Status]) -> tuple[int, int]:
    """Return how many events have been taken on all edges, and how many still wait."""
    ledgers = [ledger for status in found for ledger in status.edges]
    return sum(ledger.offered + ledger.out for ledger in ledgers), sum(ledger.queued for ledger in ledgers)


async def waiting(mesh: Mesh) -> int:
    """Return how many messages wait in the streams of the durable edges."""
    held = 0
    for name, (_, _, delivery) in EDGES.items():
        if delivery == "durable":
            status = await mesh.bus.stream_status(subjects.edge_stream(mesh.backplane, name))
            held += status.messages if status is not None else 0
    return held


@dataclass(frozen=True)
class Contents:
    """Which numbers a sink has.

    Attributes:
        rows: events.
        different: numbers among those sent.
        missing: numbers that were sent and are not there.
        repeated: events beyond the first of each number.
        alien: events with a number that was never sent, or none.
        examples: some missing and some repeated numbers.
    """

    rows: int
    different: int
    missing: int
    repeated: int
    alien: int
    examples: Mapping[str, list[int]]


async def contents(mesh: Mesh, places: Iterable[str], sent: npt.NDArray[np.int64]) -> Contents:
    """Read every number in the archives at these places, ``<host>/<agent>``.

    Args:
        mesh: the backplane.
        places: archives that together are the sink.
        sent: the numbers that were sent, ascending.
    """
    found: list[int] = []
    aliens = 0
    for place in places:
        subject = subjects.query(mesh.backplane, "archive", place, "select")
        request = {"statement": "SELECT event.sequence FROM application.json"}
        async for row in queries.ask(mesh.bus, subject, request, timeout_s=READ_S):
            number = row.get("event.sequence")
            if isinstance(number, int):
                found.append(number)
            else:
                aliens += 1
    numbers, times = np.unique(np.array(found, np.int64), return_counts=True)
    known = np.isin(numbers, sent)
    missing = np.setdiff1d(sent, numbers)
    repeated = numbers[known & (times > 1)]
    examples = {"missing": missing[:8].tolist(), "repeated": repeated[:8].tolist()}
    return Contents(
        rows=len(found),
        different=int(known.sum()),
        missing=len(missing),
        repeated=int((times[known] - 1).sum()),
        alien=aliens + int(times[~known].sum()),
        examples=examples,
    )
