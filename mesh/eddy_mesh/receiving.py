"""Receiving: the side of a flow that asked for it.

What may live here: `FlowReceiver`, which holds the lease, delivers what comes, and counts what does not. The lease
itself and the headers of a message are in `eddy_mesh.flows`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping

import msgspec

from eddy_mesh import codec, flows, subjects
from eddy_mesh.batch import Batch
from eddy_mesh.bus import Bus, BusState, KeyValue, Message, Subscription
from eddy_mesh.conservation import Ledger
from eddy_mesh.errors import BusError, EddyError, WireError
from eddy_mesh.flows import ALL, FlowMessage, Lease, Of, Position
from eddy_mesh.selection import Plan, render

RENEW_S = flows.LEASE_S / 3
ANSWER_IDLE_S = 0.4
"""Quiet after which no further host process is expected to answer: a busy one takes its time."""
RETRY_S = 0.2
TELL_S = 1.0
"""Least time between two renewals of a lease, s: one that misses events says so soon, and not with each message."""
DRAIN_S = 1.0
"""Longest wait of a stop for what has come to find room."""
MAX_GAP = 1 << 32
"""A larger hole in the positions of a host is no loss but a lie, or a new life that its epoch does not show."""
MAX_HOSTS = 4096
Deliver = Callable[[Batch], Awaitable[None] | None]


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
        self.lease = Lease(flows.flow_id(plan, "columns", of), render(plan), owner, of=of)
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
        self._again = asyncio.Event()
        self._unlisten: Callable[[], None] = lambda: None

    async def start(self, timeout_s: float = 2.0) -> None:
        """Subscribe and ask; on return every host process that answered publishes the flow.

        Args:
            timeout_s: longest wait for answers, s.

        Raises:
            BusError: the server is away or refuses. What was begun goes on until `stop` all the same.
        """
        self._subscription = await self._bus.subscribe(subjects.flow(self._backplane, self.lease.id), self._receive)
        self._unlisten = self._bus.on_state(self._bus_changed)
        self._renewal = asyncio.get_running_loop().create_task(self._renew(), name=f"lease {self.lease.id}")
        await self._ask(timeout_s)

    async def finish(self, fences: Mapping[str, Position], timeout_s: float) -> None:
        """Take everything up to where each host process stopped serving this flow, and give the lease back.

        Args:
            fences: host process → its position then; for others it is where they stand when the lease ends.
            timeout_s: longest wait, s; what did not come by then is counted as lost with reason ``gap``.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while any(self._missing(self._taken, host, fence) for host, fence in fences.items()):
                    self._advanced.clear()
                    await self._advanced.wait()
        await self._end_renewal()
        stood = await self._give_back()
        if self._subscription is not None:
            await self._end(self._subscription)
        self._lose_up_to({**stood, **fences})

    def _lose_up_to(self, fences: Mapping[str, Position]) -> None:
        for host, fence in fences.items():
            self._lose(self._missing(self._positions, host, fence))

    def _missing(self, reached: Mapping[str, Position], host: str, fence: Position) -> int:
        return max(0, fence[1] - self._expected(reached, host, fence))

    def _expected(self, reached: Mapping[str, Position], host: str, told: Position) -> int:
        """Return the position of what a host was to send next, in the epoch of what it told."""
        epoch, position = reached.get(host, (-1, 0))
        if epoch == told[0]:
            return position
        # The flow of an edge is nobody else's, so each life of its host began it at 0 for us; others are joined midway.
        return 0 if self.lease.of.edge and epoch < told[0] else told[1]

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
        self._unlisten()
        if self._renewal is not None:
            self._renewal.cancel()
            await asyncio.gather(self._renewal, return_exceptions=True)

    async def _give_back(self) -> dict[str, Position]:
        """End the lease; return where each host process stood then. One that is away ends it by its time."""
        if not self._bus.connected:
            return {}
        subject, data = subjects.control_all(self._backplane, flows.UNSUBSCRIBE), msgspec.json.encode(self.lease)
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
        await self._record(data)
        subject = subjects.control_all(self._backplane, flows.SUBSCRIBE)
        expected = len(self._asked) or None  # only those answer whose agents it asks for
        for answer in await self._bus.gather(
            subject, data, timeout_s=timeout_s, at_most=expected, idle_s=ANSWER_IDLE_S
        ):
            told = _told_position(answer)
            # Who tells no position answers somebody else's question; it does not publish the flow.
            if told is not None and (told[0] in self.hosts or len(self.hosts) < MAX_HOSTS):
                self.hosts.add(told[0])
                self._reach(told[0], self._positions.get(told[0], told[1]))

    async def _record(self, data: bytes) -> None:
        """Put the lease on record; without JetStream a host that starts later learns of it when it is renewed."""
        for _ in range(2 if self._leases else 1):  # a server that came back may have lost the record
            try:
                if self._leases is None:
                    name = flows.bucket(self._backplane)
                    self._leases = await self._bus.key_value(name, ttl_s=flows.LEASE_S * 2, memory=True)
                await self._leases.put(self._key, data)
            except BusError:
                self._leases = None
            else:
                return

    def _bus_changed(self, state: BusState, _: str) -> None:
        if state is BusState.CONNECTED:
            self._again.set()

    async def _renew(self) -> None:
        """Ask again and again, and soon when the server is back or events were missed."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RENEW_S):
                    await self._again.wait()
            self._again.clear()
            with contextlib.suppress(EddyError):  # away: asked again, and hosts read the leases when they are back
                await self._ask(1.0)
            await asyncio.sleep(TELL_S)

    async def _receive(self, message: Message) -> None:
        try:
            told = flows.parse_headers(message)
        except WireError:
            self._refuse(1, "not_decoded")
            return
        if told.host == self._own_host:
            return
        self._count_gap(told)
        try:
            delivered = self._deliver(_decoded(message, told))
            if delivered is not None:
                await delivered
        except WireError:
            self._refuse(told.count, "not_decoded")
        except Exception:
            self._refuse(told.count, "not_taken")
            raise  # the bus tells of it
        finally:
            self._taken[told.host] = (told.epoch, told.position + told.count)
            self._advanced.set()

    def _refuse(self, events: int, reason: str) -> None:
        self._ledger.offered += events
        self._ledger.drop(reason, events)

    def _count_gap(self, told: FlowMessage) -> None:
        """Events that a host published after its last message here and before this one did not arrive."""
        missing = told.position - self._expected(self._positions, told.host, (told.epoch, told.position))
        if missing > 0:
            self._lose(missing)
            self._again.set()  # the lease tells its hosts
        self._reach(told.host, (told.epoch, told.position + told.count))

    def _reach(self, host: str, position: Position) -> None:
        if host not in self._positions and len(self._positions) >= MAX_HOSTS:
            oldest = next(iter(self._positions))
            del self._positions[oldest]
            self._taken.pop(oldest, None)
        self._positions[host] = position


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
