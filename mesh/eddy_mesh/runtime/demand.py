"""Demand: who asked this host process for what, and the publishing of just that.

What may live here: the table of leases with their compiled statements, and the publishing of flows. All statements are
one index, of which each batch is asked once. How what they find becomes messages is in
`eddy_mesh.runtime.flow_messages`.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TypeAlias

import msgspec

from eddy_mesh import codec, flows, subjects
from eddy_mesh.batch import Batch, Kind
from eddy_mesh.bus import Bus
from eddy_mesh.conservation import Ledger
from eddy_mesh.errors import BusError, EddyError, UsageError
from eddy_mesh.flows import Lease
from eddy_mesh.partition import part_of
from eddy_mesh.runtime.flow_messages import messages
from eddy_mesh.selection import Index, Plan, compile_statement, matches_kind
from eddy_mesh.selection.index import Table
from eddy_mesh.selection.keys import Rows

Served: TypeAlias = Callable[[str, str], int]
IsCurrent: TypeAlias = Callable[[str, int], bool]
MAX_FLOWS = 2048
MAX_OWNERS = 1024
MAX_ENDED = 256
MAX_STATEMENT = 65_536
MAX_NAME = 256
"""Bounds of what others can make this host process hold and tell in its heartbeat: flows, and characters."""
MAX_LEASE_S = 3600.0
MAX_OFFERS = 1024
NOT_ASKED = "not_asked"
"""Reason of what was made for an edge while nobody held a lease on its flow."""


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
        is_given_back: whether who asked for it said that it takes nothing more.
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
        self.is_given_back = False
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

    def lost(self, events: int, reason: str = "disconnected") -> None:
        """Count events that could not be published."""
        self._ledger.drop(reason, events)

    def begin_anew(self, epoch: int) -> None:
        """Be the flow of another receiver, which knows nothing of the messages before."""
        self.epoch, self.position = max(epoch, self.epoch + 1), 0
        self.is_given_back = False


class Demand:
    """The leases of one backplane, as one host process knows them.

    Args:
        bus: connected bus.
        backplane: name of the mesh.
        host: name of this host process.
        is_current: whether a generation of an edge is the newest that is served. Its flow outlives its leases: what is
            made while its consumer is not heard is counted, not forgotten.

    Attributes:
        flows: by their ids.
        retired: accounts of flows that have ended and had lost something.
        is_watched: whether anybody asks for what agents take in.
        version: counts the changes of what is asked for.
    """

    def __init__(self, bus: Bus, backplane: str, host: str, is_current: IsCurrent = lambda *_: False) -> None:
        self.flows: dict[str, Flow] = {}
        self.retired: deque[Ledger] = deque(maxlen=MAX_ENDED)
        self._is_current = is_current
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
            flow = self._begin(lease, now_ns)
        elif (flow.statement, flow.form) != (lease.statement, lease.form):
            raise UsageError(f"flow {lease.id} is of another statement: use an id of your own, or that statement")
        elif flow.is_given_back:
            flow.begin_anew(now_ns // 1_000_000_000)
        if lease.owner not in flow.owners and len(flow.owners) >= MAX_OWNERS:
            raise UsageError(f"flow {lease.id} has {MAX_OWNERS} owners already: ask under an id of your own")
        flow.gaps[lease.owner] = lease.gap
        flow.owners[lease.owner] = now_ns + int(min(max(lease.lease_s, 0.0), MAX_LEASE_S) * 1e9)
        return flow

    def _begin(self, lease: Lease, now_ns: int) -> Flow:
        if len(self.flows) >= MAX_FLOWS:
            raise UsageError(f"{self._host} publishes {MAX_FLOWS} flows already: end one, or share a statement")
        plan = compile_statement(lease.statement, now_ns=now_ns)
        before = self._ended.pop(lease.id, None)
        epoch = max(now_ns // 1_000_000_000, before.epoch + 1 if before else 0)  # else its positions would go back
        subject = subjects.flow(self._backplane, lease.id)
        flow = self.flows[lease.id] = Flow(lease, plan, subject, epoch, self._host, self._settle)
        self._changed()
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
                flow.is_given_back = True
                if not self._goes_on(flow):
                    self._end(flow)
        return flow or self._ended.get(lease.id)

    def _goes_on(self, flow: Flow) -> bool:
        """Whether a flow is to be without leases: it is all that its edge has, and the edge is served."""
        edge = flow.of.edge
        return edge is not None and self._is_current(edge.name, edge.generation)

    @property
    def standing(self) -> list[Flow]:
        """The flows, and those that ended lately: where they ended may still be asked."""
        return list({**self._ended, **self.flows}.values())

    def _end(self, flow: Flow) -> None:
        ledger = flow.ledger
        if ledger.lost:
            ledger.edge = f"{ledger.edge} (ended)"
            self.retired.append(ledger)
        del self.flows[flow.id]
        self._ended[flow.id] = flow  # who gave it back may ask again where it ended
        while len(self._ended) > MAX_ENDED:
            del self._ended[next(iter(self._ended))]
        self._changed()

    def expire(self, now_ns: int) -> None:
        """End the leases that nobody renewed."""
        for flow in list(self.flows.values()):
            flow.owners = {owner: until for owner, until in flow.owners.items() if until > now_ns}
            flow.gaps = {owner: flow.gaps.get(owner, 0) for owner in flow.owners}
            if not flow.owners and not self._goes_on(flow):
                self._end(flow)

    async def read_leases(self, now_ns: int, *, unknown: bool = False) -> None:
        """Take the leases that are on record: at the start and after a lost connection.

        Args:
            now_ns: ns since 1970 UTC.
            unknown: only those of flows that are not published yet.
        """
        try:
            record = await self._bus.key_value(flows.bucket(self._backplane), ttl_s=flows.LEASE_S * 2, memory=True)
            for key in await record.keys():
                if unknown and key.partition(".")[0] in self.flows:
                    continue
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
        await self._publish(batch, [held for held in found if not _is_missed(*held)])

    async def _publish(self, batch: Batch, found: list[tuple[Flow, Rows]]) -> None:
        told = flows.headers(batch, self._host, 0, 0)
        left = {flow: len(rows) for flow, rows in found}
        try:
            for flow, count, data in messages(batch, found):
                left[flow] -= count
                await self._send(flow, told, count, data)
        except BaseException:  # broken off: the receivers are to see what they miss
            for flow, count in left.items():
                flow.position += count
                flow.lost(count)
            raise

    async def _send(self, flow: Flow, told: dict[str, str], count: int, data: bytes) -> None:
        headers = {**told, codec.COUNT: str(count), flows.POSITION: f"{flow.epoch}:{flow.position}"}
        flow.position += count
        try:
            await self._bus.publish(flow.subject, data, headers=headers)
        except BusError:
            flow.lost(count)
        except BaseException:
            flow.lost(count)
            raise
        else:
            flow.sent(count, len(data))


def _is_missed(flow: Flow, rows: Rows) -> bool:
    """Whether nobody is there to take what was selected: it is counted, here and in the position, and not published."""
    if flow.owners:
        return False
    flow.position += len(rows)
    flow.lost(len(rows), NOT_ASKED)
    return True


def _own(flow: Flow, batch: Batch, rows: Rows) -> Rows:
    """Return those of the rows that belong to the flow's part of its edge."""
    return rows if flow.part is None else rows[flow.part(batch)[rows]]


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
