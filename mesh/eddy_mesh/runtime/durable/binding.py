"""How a receiver gets its consumer, also after a crash and after the shape of the edge has changed, and leaves it.

What may live here: `bind` and `leave`, one attempt each. When to try again is the receiver's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eddy_mesh.bus import Bus, DurableConsumer, DurableMessage
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


async def bind(
    bus: Bus, edge: DurableEdge, share: Share, received: Received, path: Path, ack_wait_s: float
) -> DurableConsumer:
    """Return the consumer of a share; make stream and consumer where they are not there.

    Args:
        bus: the bus.
        edge: the edge.
        share: what the receiver takes.
        received: what it has handled so far, from ``path``; open where it, or a life that was killed, had the consumer.
        path: its file; it says from here on that a receiver runs.
        ack_wait_s: how long the server waits for an acknowledgement, s.

    Raises:
        BusError: not possible now: the server is away, or the owner of an older shape of the edge has not stopped yet.
        OSError: the file can not be written.
    """
    await ensure_stream(bus, edge)
    busy = await end_older_consumers(bus, edge, share)
    if busy:
        raise BusError(f"edge {edge.name}: waiting until {', '.join(busy)} has handled what it has in hand")
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
