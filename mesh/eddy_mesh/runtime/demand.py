"""Demand: who asked this host process for what, and the publishing of just that.

What may live here: the table of leases with their compiled statements, and the publishing of flows. All statements are
one index, of which each batch is asked once; what they find is taken and encoded together where it is little.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import accumulate
from typing import TypeAlias

import msgspec
import numpy as np

from eddy_mesh import codec, flows, subjects
from eddy_mesh.batch import Batch, Kind
from eddy_mesh.bus import Bus
from eddy_mesh.conservation import Ledger
from eddy_mesh.errors import BusError, EddyError, UsageError
from eddy_mesh.flows import Lease
from eddy_mesh.partition import part_of
from eddy_mesh.rows import json_rows
from eddy_mesh.selection import Index, Plan, compile_statement, matches_kind, project
from eddy_mesh.selection.index import Table
from eddy_mesh.selection.keys import Rows

Served: TypeAlias = Callable[[str, str], int]
MAX_FLOWS = 2048
MAX_ENDED = 64
MAX_STATEMENT = 65_536
MAX_NAME = 256
"""Bounds of what others can make this host process hold and tell in its heartbeat: flows, and characters."""
MAX_LEASE_S = 3600.0
MAX_OFFERS = 1024
FEW_ROWS = 1024
"""Selections of so few events are taken and encoded together with others of the same projection."""
MANY_ROWS = 16_384
"""Events that are taken at once at most: a bound on memory."""


class Flow:
    """One statement that somebody subscribed to.

    Args:
        lease: what was asked.
        plan: its statement, compiled.
        subject: where it is published.
        epoch: second since 1970 UTC at which the flow began.
        host: name of this host process.
        settle: brings the counters of all flows up to date.

    Attributes:
        gaps: events that did not arrive, as each owner tells.
        position: events published or dropped since then.
        bytes_moved: octets of the messages published.
        matched: events that the statement selected.
        projection: equal for plans with the same projection.
    """

    def __init__(
        self, lease: Lease, plan: Plan, subject: str, epoch: int, host: str, settle: Callable[[], None]
    ) -> None:
        self.id = lease.id
        self.subject = subject
        self.form = lease.form
        self.of = lease.of
        self.part = part_of(lease.of.edge.partition) if lease.of.edge else None
        self.statement = lease.statement
        self.plan = plan
        self.projection = "" if plan.is_aggregate else repr(plan.items)
        self.owners: dict[str, int] = {}
        self.gaps: dict[str, int] = {}
        self.epoch = epoch
        self.position = 0
        self.bytes_moved = 0
        self.matched = 0
        self._offered_bytes = 0
        self._settle = settle
        self._ledger = Ledger(f"{host} > flow {lease.id}", policy="drop")

    def asks_of(self, agent: str, side: flows.Side, served: Served) -> bool:
        """Whether it asks for the events of an agent, and not only for some of what all produce.

        Args:
            agent: ``<host>/<agent>`` that gives the events out, or takes them in.
            side: which of both.
            served: edge and agent → the generation of the edge that the agent serves.
        """
        of = self.of
        if side != of.side or (of.agents and agent not in of.agents):
            return False
        return of.edge is None or served(of.edge.name, agent) == of.edge.generation

    @property
    def ledger(self) -> Ledger:
        """The edge, up to date."""
        self._settle()
        self._ledger.filtered = self._ledger.offered - self.matched
        self._ledger.queued = self.matched - self._ledger.out - self._ledger.lost
        return self._ledger

    @property
    def offered_bytes(self) -> int:
        """Octets of the batches that it was asked of, as they would be encoded whole: an estimate."""
        self._settle()
        return self._offered_bytes

    def offer(self, events: int, octets: int) -> None:
        """Count events of which the statement was asked."""
        self._ledger.offered += events
        self._offered_bytes += octets

    def sent(self, events: int, octets: int) -> None:
        """Count events that were published."""
        self._ledger.out += events
        self.bytes_moved += octets

    def lost(self, events: int) -> None:
        """Count events that could not be published."""
        self._ledger.drop("disconnected", events)


class Demand:
    """The leases of one backplane, as one host process knows them.

    Args:
        bus: connected bus.
        backplane: name of the mesh.
        host: name of this host process.

    Attributes:
        flows: by their ids.
        is_watched: whether anybody asks for what agents take in.
        version: counts the changes of what is asked for.
    """

    def __init__(self, bus: Bus, backplane: str, host: str) -> None:
        self.flows: dict[str, Flow] = {}
        self._bus = bus
        self._backplane = backplane
        self._host = host
        self._ended: dict[str, Flow] = {}
        self.is_watched = False
        self._listed: tuple[Flow, ...] = ()
        self._index: Index | None = None
        self.version = 0
        self._offers: defaultdict[Table, list[int]] = defaultdict(lambda: [0, 0])

    def subscribe(self, data: bytes, now_ns: int) -> Flow | None:
        """Take or renew a lease.

        Returns:
            The flow that this host publishes for it; None for a lease of its own, or on agents of other hosts.

        Raises:
            UsageError: not a lease, or its statement can not be compiled.
        """
        lease = _lease(data)
        if lease.owner.startswith(f"{self._host}/"):
            return None
        if lease.of.agents and not any(agent.startswith(f"{self._host}/") for agent in lease.of.agents):
            return None
        flow = self.flows.get(lease.id)
        if flow is None:
            if len(self.flows) >= MAX_FLOWS:
                raise UsageError(f"{self._host} publishes {MAX_FLOWS} flows already: end one, or share a statement")
            plan = compile_statement(lease.statement, now_ns=now_ns)
            subject, epoch = subjects.flow(self._backplane, lease.id), now_ns // 1_000_000_000
            flow = self.flows[lease.id] = Flow(lease, plan, subject, epoch, self._host, self._settle)
            self._changed()
        elif (flow.statement, flow.form) != (lease.statement, lease.form):
            raise UsageError(f"flow {lease.id} is of another statement: use an id of your own, or that statement")
        flow.gaps[lease.owner] = lease.gap
        flow.owners[lease.owner] = now_ns + int(min(max(lease.lease_s, 0.0), MAX_LEASE_S) * 1e9)
        return flow

    def unsubscribe(self, data: bytes) -> Flow | None:
        """End a lease and return its flow, also when it is asked again; None for one that was never held.

        Raises:
            UsageError: not a lease.
        """
        lease = _lease(data)
        flow = self.flows.get(lease.id)
        if flow is not None:
            flow.owners.pop(lease.owner, None)
            flow.gaps.pop(lease.owner, None)
            if not flow.owners:
                self._end(flow)
        return flow or self._ended.get(lease.id)

    def _end(self, flow: Flow) -> None:
        del self.flows[flow.id]
        self._ended[flow.id] = flow  # who gave it back may ask again where it ended
        while len(self._ended) > MAX_ENDED:
            del self._ended[next(iter(self._ended))]
        self._changed()

    def expire(self, now_ns: int) -> None:
        """End the leases that nobody renewed."""
        for flow in list(self.flows.values()):
            flow.owners = {owner: until for owner, until in flow.owners.items() if until > now_ns}
            if not flow.owners:
                self._end(flow)

    async def read_leases(self, now_ns: int) -> None:
        """Take the leases that are on record: at the start and after a lost connection."""
        try:
            record = await self._bus.key_value(flows.bucket(self._backplane), ttl_s=flows.LEASE_S * 2, memory=True)
            for key in await record.keys():
                entry = await record.get(key)
                if entry is not None:
                    with suppress(UsageError):  # it makes no sense, and whoever renews it is told so
                        self.subscribe(entry.value, now_ns)
        except EddyError:
            return  # no JetStream: renewals tell us

    def wants(self, agent: str, kinds: Iterable[Kind]) -> bool:
        """Whether anybody asks for events of one of these kinds of an agent, or watches what it takes in.

        Args:
            agent: ``<host>/<agent>``.
            kinds: what it makes.
        """
        named = [flow for flow in self.flows.values() if not flow.of.agents or agent in flow.of.agents]
        return any(
            flow.of.side == "in" or any(matches_kind(flow.plan, kind, self._host) for kind in kinds) for flow in named
        )

    def _changed(self) -> None:
        """Have the index made anew before the next batch."""
        self._settle()
        self.version += 1
        self.is_watched = any(flow.of.side == "in" for flow in self.flows.values())
        self._index = None

    def _asked(self) -> tuple[Index, tuple[Flow, ...]]:
        if self._index is None:
            self._listed = tuple(self.flows.values())
            self._index = Index([flow.plan for flow in self._listed])
        return self._index, self._listed

    def _settle(self) -> None:
        """Count for each flow what was offered to the statements of a table together."""
        for table, (events, octets) in self._offers.items():
            for number in table.wanted:
                self._listed[number].offer(events, octets)
        self._offers.clear()

    # --- publishing

    async def publish(
        self, batch: Batch, agent: str = "", side: flows.Side = "out", served: Served = lambda *_: 0
    ) -> None:
        """Publish what the flows select of a batch; the arguments are those of `Flow.asks_of`."""
        index, listed = self._asked()
        table = index.table(batch.kind, batch.origin)
        if not table.wanted or not batch.count:
            return
        if len(self._offers) >= MAX_OFFERS:
            self._settle()
        offer = self._offers[table]
        offer[0] += batch.count
        offer[1] += codec.estimated_bytes(batch)
        matched = [(listed[number], rows) for number, rows in table.matches(batch)]
        asked = [(flow, _own(flow, batch, rows)) for flow, rows in matched if flow.asks_of(agent, side, served)]
        found = [(flow, rows) for flow, rows in asked if len(rows)]
        for flow, rows in found:
            flow.matched += len(rows)
        told = flows.headers(batch, self._host, 0, 0)
        for flow, count, data in _messages(batch, found):
            await self._send(flow, told, count, data)

    async def _send(self, flow: Flow, told: dict[str, str], count: int, data: bytes) -> None:
        headers = {**told, "Eddy-Count": str(count), "Eddy-Position": f"{flow.epoch}:{flow.position}"}
        flow.position += count
        try:
            await self._bus.publish(flow.subject, data, headers=headers)
        except BusError:
            flow.lost(count)
        else:
            flow.sent(count, len(data))


def _own(flow: Flow, batch: Batch, rows: Rows) -> Rows:
    """Return those of the rows that belong to the flow's part of its edge."""
    return rows if flow.part is None else rows[flow.part(batch)[rows]]


def _messages(batch: Batch, found: list[tuple[Flow, Rows]]) -> Iterator[tuple[Flow, int, bytes]]:
    """Yield the messages of each flow: its number of events and its bytes."""
    together: defaultdict[str, list[tuple[Flow, Rows]]] = defaultdict(list)
    for flow, rows in found:
        if flow.form == "columns" and len(rows) <= FEW_ROWS:
            together[flow.projection].append((flow, rows))
        else:
            yield from _parts(flow, project(flow.plan, batch).take(rows))
    for same in together.values():
        projected = project(same[0][0].plan, batch)
        if len(same) == 1:  # nothing to share
            flow, rows = same[0]
            yield from _parts(flow, projected.take(rows))
            continue
        for some in _chunks(same):
            bounds = [0, *accumulate(len(rows) for _, rows in some)]
            messages = codec.encode_runs(projected, np.concatenate([rows for _, rows in some]), bounds)
            for (flow, rows), data in zip(some, messages, strict=True):
                if len(data) <= codec.MAX_MESSAGE_BYTES:
                    yield flow, len(rows), data
                else:
                    yield from _parts(flow, projected.take(rows))


def _parts(flow: Flow, batch: Batch) -> Iterator[tuple[Flow, int, bytes]]:
    parts = codec.split(batch) if flow.form == "columns" else _json_parts(batch)
    return ((flow, part.count, data) for part, data in parts)


def _chunks(found: list[tuple[Flow, Rows]]) -> Iterator[list[tuple[Flow, Rows]]]:
    some: list[tuple[Flow, Rows]] = []
    held = 0
    for flow, rows in found:
        if held + len(rows) > MANY_ROWS:
            yield some
            some, held = [], 0
        some.append((flow, rows))
        held += len(rows)
    if some:
        yield some


def _json_parts(batch: Batch) -> list[tuple[Batch, bytes]]:
    lines = b"\n".join(json_rows(batch))
    if len(lines) <= codec.MAX_MESSAGE_BYTES or batch.count == 1:
        return [(batch, lines)]
    half = batch.count // 2
    return _json_parts(batch.slice(0, half)) + _json_parts(batch.slice(half, batch.count))


def _lease(data: bytes) -> Lease:
    try:
        lease = msgspec.json.decode(data, type=Lease)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"not a lease ({error}): send id, statement and owner as JSON") from None
    if not lease.id or max(len(lease.id), len(lease.owner)) > MAX_NAME or len(lease.statement) > MAX_STATEMENT:
        raise UsageError(
            f"not a lease: id and owner have 1 to {MAX_NAME} characters, a statement {MAX_STATEMENT} at most"
        )
    return lease
