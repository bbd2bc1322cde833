"""How a receiver gets its consumer, also after a crash and after the shape of the edge has changed, and leaves it.

What may live here: `bind` and `leave`, one attempt each. When to try again is the receiver's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eddy_mesh.bus import Bus, ConsumerStatus, DurableConsumer, DurableMessage
from eddy_mesh.errors import BusError
from eddy_mesh.runtime.durable.edge import (
    DurableEdge,
    Share,
    consumer_filters,
    consumer_name,
    end_older_consumers,
    ensure_stream,
)
from eddy_mesh.runtime.durable.received import Received


class InUse(BusError):
    """Consumers of another shape of the edge are in the way.

    Attributes:
        consumers: what is known of them.
    """

    def __init__(self, edge: str, consumers: Sequence[ConsumerStatus]) -> None:
        names = ", ".join(found.name for found in consumers)
        super().__init__(f"edge {edge}: waiting until {names} has handled what it has in hand")
        self.consumers = tuple(consumers)


class Others:
    """Consumers of another shape that are in the way, until their owners are taken for dead.

    Attributes:
        dead: those of which nothing changed for long enough, and through which nobody fetches.
    """

    def __init__(self) -> None:
        self.dead: tuple[ConsumerStatus, ...] = ()
        self._seen: tuple[ConsumerStatus, ...] = ()
        self._since_s = 0.0

    @property
    def delivered(self) -> int:
        """Sequence number of the last message that one of them was given; 0 for none."""
        return max((found.delivered for found in self._seen), default=0)

    @property
    def messages(self) -> int:
        """How many messages the dead have in hand."""
        return sum(found.unacknowledged for found in self.dead)

    def look(self, seen: tuple[ConsumerStatus, ...], now_s: float, longest_s: float) -> bool:
        """Note what is in the way; return whether some were taken for dead just now.

        Args:
            seen: what is known of them.
            now_s: a monotonic time.
            longest_s: a living owner that has been told to stop has acknowledged something within this time, or ended.
        """
        before, self.dead = self.dead, ()
        if seen != self._seen:
            self._seen, self._since_s = seen, now_s
        elif now_s - self._since_s > longest_s:
            self.dead = tuple(found for found in seen if not found.fetches)
        return bool(self.dead) and self.dead != before


async def bind(
    bus: Bus,
    edge: DurableEdge,
    share: Share,
    received: Received,
    path: Path,
    ack_wait_s: float,
    others: Others,
) -> DurableConsumer:
    """Return the consumer of a share; make stream and consumer where they are not there.

    Args:
        bus: the bus.
        edge: the edge.
        share: what the receiver takes.
        received: what it has handled so far, from ``path``; open where it, or a life that was killed, had the consumer.
        path: its file; it says from here on that a receiver runs.
        ack_wait_s: how long the server waits for an acknowledgement, s.
        others: consumers of another shape that were in the way before; what they had in hand may have been handled.

    Raises:
        InUse: the owner of another shape of the edge has not stopped yet.
        BusError: the server is away.
        OSError: the file can not be written.
    """
    await ensure_stream(bus, edge)
    if others.delivered > received.suspect:
        received.suspect = others.delivered
        received.save(path)
    if busy := await end_older_consumers(bus, edge, share, others.dead):
        raise InUse(edge.name, busy)
    if share.is_sole and received.is_open:
        await _take_over(bus, edge, share, received, path)
    received.is_open = True
    received.save(path)
    return await bus.consume(
        edge.stream,
        consumer_name(edge, share),
        filter_subjects=consumer_filters(edge, share),
        ack_wait_s=ack_wait_s,
    )


async def _take_over(bus: Bus, edge: DurableEdge, share: Share, received: Received, path: Path) -> None:
    """Get back at once, and in order, what a receiver was killed with in its hands, or lost with a connection.

    Through the same consumer it would come again only after the acknowledgement wait, behind newer messages. A work
    queue still has it, so a new consumer begins with it; but that one counts deliveries from 1.
    """
    name = consumer_name(edge, share)
    for found in await bus.consumers(edge.stream):
        if found.name != name or not found.unacknowledged:
            continue
        if found.fetches:  # the edge is just moving to another host, which has the consumer now
            return
        received.suspect = max(received.suspect, found.delivered)
        received.save(path)
        await bus.delete_consumer(edge.stream, name)


async def leave(
    bus: Bus, edge: DurableEdge, share: Share, given_back: Sequence[DurableMessage], *, has_gap: bool
) -> None:
    """Give messages back, and end the consumer where nobody else uses it.

    Args:
        bus: the bus.
        edge: the edge.
        share: what the receiver took.
        given_back: what it fetched and did not deliver; all else that it had is acknowledged.
        has_gap: whether messages were lost on the way to it, and nobody else takes from this consumer.

    Raises:
        BusError: the server is away.
    """
    name = consumer_name(edge, share)
    for found in await bus.consumers(edge.stream):
        if found.name != name:
            continue
        # What others have in hand is unacknowledged as well; these messages are not theirs until they are given back.
        if not found.fetches and (has_gap or found.unacknowledged == len(given_back)):
            await bus.delete_consumer(edge.stream, name)
            return
    for message in given_back:
        await message.nak()
