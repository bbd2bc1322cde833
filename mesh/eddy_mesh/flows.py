"""Subscribed flows: how one side asks for a select/project statement and the other side answers with batches.

What may live here: the lease, the headers of a flow message, and the receiving side (`FlowReceiver`). The producing
side is `eddy_mesh.runtime.demand`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from hashlib import blake2b
from typing import Literal

import msgspec

from eddy_mesh import codec, subjects
from eddy_mesh.batch import Batch, Kind
from eddy_mesh.bus import Bus, KeyValue, Message, Subscription
from eddy_mesh.cer import EventClass, Stage
from eddy_mesh.config import Partition
from eddy_mesh.conservation import Ledger
from eddy_mesh.errors import BusError, EddyError, WireError
from eddy_mesh.fields import type_of
from eddy_mesh.selection import Plan, needed_fields, render
from eddy_mesh.selection.plan import Item, Operand

LEASE_S = 30.0
"""A subscription that is not renewed for so long is over."""
RENEW_S = LEASE_S / 3
ANSWER_IDLE_S = 0.4
"""Quiet after which no further host process is expected to answer: a busy one takes its time."""
RETRY_S = 0.2
DRAIN_S = 1.0
"""Longest wait of a stop for what has come to find room."""
MAX_COUNT = 1 << 20
MAX_GAP = 1 << 32
"""A larger hole in the positions of a host is no loss but a lie, or a new life that its epoch does not show."""
MAX_HOSTS = 4096
SUBSCRIBE, UNSUBSCRIBE = "subscribe", "unsubscribe"
Form = Literal["columns", "json"]
Side = Literal["in", "out"]


class EdgeEnd(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The consuming end of an edge of the topology.

    Attributes:
        name: of the edge.
        generation: revision of the topology in which the edge last changed; a host process serves the newest that was
            activated.
        partition: which part of the edge's events this end takes.
    """

    name: str
    generation: int
    partition: Partition = Partition()


class Of(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whose events, before the statement selects among them.

    Attributes:
        edge: for an edge of the topology: which; None for a subscription of a tool.
        agents: each ``<host>/<agent>``; empty: all.
        side: what these agents give out, or what they take in.
    """

    edge: EdgeEnd | None = None
    agents: tuple[str, ...] = ()
    side: Side = "out"


ALL = Of()


class Lease(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a subscriber asks every host process for.

    Attributes:
        id: name of the flow; identical statements and forms share one.
        statement: select and project; aggregates, order and limit are done by the subscriber.
        owner: who asks; a host process leaves out leases whose owner begins with its own name and ``/``.
        form: batches of columns, or one JSON object a line.
        lease_s: seconds until it is over unless renewed.
        of: whose events.
        gap: events that did not arrive so far, from whichever host process.
    """

    id: str
    statement: str
    owner: str
    form: Form = "columns"
    lease_s: float = LEASE_S
    of: Of = ALL
    gap: int = 0


def flow_id(plan: Plan, form: Form, of: Of = ALL) -> str:
    """Return the name that all flows have that ask for the same; each end of an edge has one of its own."""
    told = b"" if of == ALL else msgspec.json.encode(of)
    return blake2b(f"{form} {render(plan)}".encode() + told, digest_size=10).hexdigest()


def live_plan(plan: Plan) -> Plan:
    """Return what a subscriber asks producers for: the fields that it needs, no times, aggregates, order or limit."""
    items = plan.items
    if plan.is_aggregate:
        items = tuple(Item(Operand(name, type_of(name)), name) for name in sorted(needed_fields(plan)))
    return replace(
        plan,
        items=items,
        since_ns=None,
        until_ns=None,
        group_by=(),
        aggregates=(),
        having=None,
        order_by=(),
        limit=None,
        every_ns=None,
    )


def bucket(backplane: str) -> str:
    """Return the key-value bucket that holds the leases of a backplane."""
    return f"{subjects.escape(backplane).replace('=', '-')}_subscriptions"


def headers(batch: Batch, host: str, epoch: int, position: int) -> dict[str, str]:
    """Return the headers of a flow message.

    Args:
        batch: what the message carries.
        host: host process that publishes.
        epoch: second since 1970 UTC at which it began this flow.
        position: events that it published on this flow before this message.
    """
    kind = f"{batch.kind.stage}.{batch.kind.event_class}.{batch.kind.type}"
    return {
        "Eddy-Kind": kind,
        "Eddy-Origin": batch.origin,
        "Eddy-Host": host,
        "Eddy-Count": str(batch.count),
        "Eddy-Position": f"{epoch}:{position}",
    }


class FlowMessage(msgspec.Struct, frozen=True):
    """What the headers of a flow message say."""

    kind: Kind
    origin: str
    host: str
    count: int
    epoch: int
    position: int


def parse_headers(message: Message) -> FlowMessage:
    """Return what the headers of a flow message say.

    Raises:
        WireError: a header is missing or makes no sense.
    """
    held = message.headers
    try:
        stage, event_class, type_name = held["Eddy-Kind"].split(".", 2)
        epoch, _, position = held["Eddy-Position"].partition(":")
        kind = Kind(Stage(stage), EventClass(event_class), type_name)
        told = FlowMessage(
            kind, held["Eddy-Origin"], held["Eddy-Host"], int(held["Eddy-Count"]), int(epoch), int(position)
        )
    except (KeyError, ValueError) as error:
        raise WireError("flow", f"headers of a message on {message.subject} make no sense ({error})") from None
    if not 0 < told.count <= MAX_COUNT or told.position < 0:
        raise WireError("flow", f"a message of {told.count} events at position {told.position} can not be")
    return told


def _decoded(message: Message, told: FlowMessage) -> Batch:
    batch = codec.decode(message.data, told.kind, told.origin)
    if batch.count != told.count:
        raise WireError("flow", f"the headers tell of {told.count} events, the batch has {batch.count}")
    return batch


def _told_position(answer: Message) -> tuple[str, Position] | None:
    """Return the host process that answered about a flow, and where the flow stood there."""
    try:
        told = msgspec.json.decode(answer.data, type=_Standing)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return told.host, told.position


class _Standing(msgspec.Struct):
    host: str
    position: tuple[int, int]


Deliver = Callable[[Batch], Awaitable[None] | None]
Position = tuple[int, int]
"""Epoch in which a host process began a flow, and how many events it has published there since."""


class FlowReceiver:
    """Holds a lease on a flow and delivers its batches; counts what the network lost.

    Args:
        bus: connected bus.
        backplane: name of the mesh.
        plan: what to ask for.
        owner: who asks, ``<host>/<agent>`` or a name of a tool.
        deliver: takes each batch.
        ledger: accounts of the edge; `FlowReceiver` counts what did not arrive or could not be decoded.
        of: whose events.
        give_up: called when a stop has waited `DRAIN_S` for ``deliver``; is to make it return at once.
    """

    def __init__(
        self,
        bus: Bus,
        backplane: str,
        plan: Plan,
        owner: str,
        deliver: Deliver,
        ledger: Ledger,
        of: Of = ALL,
        give_up: Callable[[], None] = lambda: None,
    ) -> None:
        self.lease = Lease(flow_id(plan, "columns", of), render(plan), owner, of=of)
        self.hosts: set[str] = set()
        self._bus = bus
        self._backplane = backplane
        self._deliver = deliver
        self._give_up = give_up
        self._ledger = ledger
        self._own_host = owner.partition("/")[0] if "/" in owner else ""
        self._asked = {agent.partition("/")[0] for agent in of.agents} - {self._own_host}
        self._positions: dict[str, Position] = {}
        self._taken: dict[str, Position] = {}
        self._advanced = asyncio.Event()
        self._subscription: Subscription | None = None
        self._leases: KeyValue | None = None
        self._renewal: asyncio.Task[None] | None = None

    async def start(self, timeout_s: float = 2.0) -> None:
        """Subscribe and ask; on return every host process that answered publishes the flow."""
        self._subscription = await self._bus.subscribe(subjects.flow(self._backplane, self.lease.id), self._receive)
        self._renewal = asyncio.get_running_loop().create_task(self._renew(), name=f"lease {self.lease.id}")
        await self._ask(timeout_s)

    async def finish(self, fences: Mapping[str, Position], timeout_s: float) -> None:
        """Take everything up to where each host process stopped serving this flow, and give the lease back.

        Args:
            fences: host process → its position then.
            timeout_s: longest wait, s; what did not come by then is counted as lost with reason ``gap``.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while any(self._missing(self._taken, host, fence) for host, fence in fences.items()):
                    self._advanced.clear()
                    await self._advanced.wait()
        await self._end_renewal()
        if self._subscription is not None:
            await self._end(self._subscription)
        self._lose_up_to(fences)
        await self._give_back()

    def _lose_up_to(self, fences: Mapping[str, Position]) -> None:
        for host, fence in fences.items():
            self._lose(self._missing(self._positions, host, fence))

    def _missing(self, reached: Mapping[str, Position], host: str, fence: Position) -> int:
        epoch, position = reached.get(host, (fence[0], self._begin(fence[1])))
        return max(0, fence[1] - position) if epoch == fence[0] else 0

    def _begin(self, position: int) -> int:
        """Where a flow begins here, if its host did not say: that of an edge is nobody else's, others are joined."""
        return 0 if self.lease.of.edge else position

    def _lose(self, events: int) -> None:
        if 0 < events <= MAX_GAP:
            self._ledger.offered += events
            self._ledger.drop("gap", events)

    async def stop(self, patience_s: float = 0.0) -> bool:
        """Give the lease back, deliver what has come, and count what has not.

        Args:
            patience_s: how long to try again when host processes do not say what they sent, s: the connection may just
                have been lost, and what was missed meanwhile can be told only when it is back.

        Returns:
            Whether all that was sent is accounted for.
        """
        await self._end_renewal()
        until = asyncio.get_running_loop().time() + patience_s
        fences = await self._give_back()
        while not self.hosts <= fences.keys() and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(RETRY_S)
            fences |= await self._give_back()
        if self._subscription is not None:
            await self._end(self._subscription)
        self._lose_up_to(fences)
        return self.hosts <= fences.keys()

    async def _end_renewal(self) -> None:
        if self._renewal is not None:
            self._renewal.cancel()
            await asyncio.gather(self._renewal, return_exceptions=True)

    async def _give_back(self) -> dict[str, Position]:
        """End the lease; return where each host process stood then. One that is away ends it by its time."""
        if not self._bus.connected:
            return {}
        subject, data = subjects.control_all(self._backplane, UNSUBSCRIBE), msgspec.json.encode(self.lease)
        try:
            if self._leases is not None:
                await self._leases.delete(self._key)
            if not self.hosts:  # nobody has answered before
                await self._bus.publish(subject, data)
                return {}
            answers = await self._bus.gather(
                subject, data, timeout_s=ANSWER_IDLE_S, at_most=len(self.hosts), idle_s=ANSWER_IDLE_S
            )
        except BusError:
            return {}
        return dict(filter(None, map(_told_position, answers)))

    async def _end(self, subscription: Subscription) -> None:
        if not self._bus.connected:
            await subscription.unsubscribe()
            return
        late = asyncio.get_running_loop().call_later(DRAIN_S, self._give_up)
        try:
            await subscription.drain()
        finally:
            late.cancel()

    @property
    def _key(self) -> str:
        return f"{self.lease.id}.{subjects.escape(self.lease.owner)}"

    async def _ask(self, timeout_s: float) -> None:
        lost = self._ledger.dropped.get("gap", 0)
        data = msgspec.json.encode(msgspec.structs.replace(self.lease, gap=lost))
        try:
            if self._leases is None:
                self._leases = await self._bus.key_value(bucket(self._backplane), ttl_s=LEASE_S * 2, memory=True)
            await self._leases.put(self._key, data)
        except BusError:
            self._leases = None  # without JetStream a host that starts later learns of the lease when it is renewed
        subject = subjects.control_all(self._backplane, SUBSCRIBE)
        expected = len(self._asked) or None  # only those answer whose agents it asks for
        for answer in await self._bus.gather(
            subject, data, timeout_s=timeout_s, at_most=expected, idle_s=ANSWER_IDLE_S
        ):
            told = _told_position(answer)
            if told is not None:  # else somebody else answers here; it does not publish the flow
                self.hosts.add(told[0])
                self._positions.setdefault(*told)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(RENEW_S)
            try:
                await self._ask(1.0)
            except EddyError:
                continue  # away; asked again after the next interval, and hosts read the leases when they are back

    async def _receive(self, message: Message) -> None:
        try:
            told = parse_headers(message)
        except WireError:
            self._refuse(1)
            return
        if told.host == self._own_host:
            return
        self._count_gap(told)
        try:
            delivered = self._deliver(_decoded(message, told))
        except WireError:
            self._refuse(told.count)
        else:
            if delivered is not None:
                await delivered
        self._taken[told.host] = (told.epoch, told.position + told.count)
        self._advanced.set()

    def _refuse(self, events: int) -> None:
        self._ledger.offered += events
        self._ledger.drop("not_decoded", events)

    def _count_gap(self, told: FlowMessage) -> None:
        """Events that a host published after its last message here and before this one did not arrive."""
        epoch, expected = self._positions.get(told.host, (told.epoch, self._begin(told.position)))
        if epoch == told.epoch:
            self._lose(told.position - expected)
        if told.host not in self._positions and len(self._positions) >= MAX_HOSTS:
            oldest = next(iter(self._positions))
            del self._positions[oldest]
            self._taken.pop(oldest, None)
        self._positions[told.host] = (told.epoch, told.position + told.count)
