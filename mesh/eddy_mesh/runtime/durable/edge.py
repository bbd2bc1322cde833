"""What both ends of a durable edge agree on: its stream, the form of its messages, its consumers.

What may live here: values, the form of a message, and the calls that make a stream or end consumers. The ends
themselves are in `eddy_mesh.runtime.durable.sender` and `.receiver`.
"""

from __future__ import annotations

from collections.abc import Collection
from hashlib import blake2b

import msgspec

from eddy_mesh import codec, subjects
from eddy_mesh.batch import Batch, Producer
from eddy_mesh.bus import Bus, ConsumerStatus, DurableMessage
from eddy_mesh.columns import Ids, nulls_of
from eddy_mesh.config import PARTITIONS
from eddy_mesh.errors import UsageError
from eddy_mesh.partition import owned

DEFAULT_MAX_BYTES = 1 << 30
DUPLICATE_WINDOW_S = 600.0
"""How long the server knows a message again; the server's own two minutes are less than a restart can take."""

PASSED_ON = frozenset({"parents", "rework.index"})
"""Fields that say which event it is that was passed on, and which part of it."""


class DurableEdge(msgspec.Struct, frozen=True, kw_only=True):
    """One durable edge.

    Attributes:
        backplane: name of the mesh.
        name: of the edge, unique in the backplane.
        field: field whose value decides the partition; "" for no partitions.
        partitions: how many are told apart: 1, 2, 4 ... 64. Each is a message of its own for every batch, so few are
            fast and many share well; at least the number of instances. Change it only while the edge is empty, or the
            order of equal values is not kept.
        max_bytes: what its stream may hold; when it is full the sender waits. The same at both ends.
    """

    backplane: str
    name: str
    field: str = ""
    partitions: int = PARTITIONS
    max_bytes: int = DEFAULT_MAX_BYTES

    def __post_init__(self) -> None:
        if self.partitions < 1 or PARTITIONS % self.partitions:
            raise UsageError(f"edge {self.name}: partitions={self.partitions}: use 1, 2, 4, 8, 16, 32 or {PARTITIONS}")

    @property
    def stream(self) -> str:
        """Name of its stream."""
        return subjects.edge_stream(self.backplane, self.name)


class Share(msgspec.Struct, frozen=True):
    """Which part of an edge's messages one instance of the consuming agent takes.

    Attributes:
        instance, count: it is instance ``instance`` (from 0) of ``count`` (1 to 64).
        partitioned: whether partitions belong to instances; else whoever is free takes the next message.
    """

    instance: int = 0
    count: int = 1
    partitioned: bool = False

    @property
    def is_sole(self) -> bool:
        """Whether nobody else takes messages through the same consumer."""
        return self.partitioned or self.count == 1


def consumer_name(edge: DurableEdge, share: Share) -> str:
    """Return the name of the consumer that an instance uses."""
    return subjects.edge_consumer(edge.name, share.instance, share.count if share.partitioned else 0)


def consumer_filters(edge: DurableEdge, share: Share) -> list[str]:
    """Return the subjects that an instance takes.

    Raises:
        UsageError: the edge has fewer partitions than instances, and none for this one; no filter would take all.
    """
    if not share.partitioned or share.count == 1:
        return [subjects.edge_all(edge.backplane, edge.name)]
    numbers = owned(share.instance, share.count, edge.partitions)
    if not numbers:
        raise UsageError(
            f"edge {edge.name}: {edge.partitions} partitions are too few for {share.count} instances: "
            f"give it at least as many, up to {PARTITIONS}"
        )
    return [subjects.edge(edge.backplane, edge.name, number) for number in numbers]


async def ensure_stream(bus: Bus, edge: DurableEdge) -> None:
    """Make the stream of an edge, or bring it to the edge's limit.

    Raises:
        BusError: the server is away, has no JetStream, or has another kind of stream of that name.
    """
    await bus.ensure_stream(
        edge.stream,
        [subjects.edge_all(edge.backplane, edge.name)],
        max_bytes=edge.max_bytes,
        refuse_when_full=True,
        duplicate_window_s=DUPLICATE_WINDOW_S,
        work_queue=True,
    )


async def end_older_consumers(
    bus: Bus, edge: DurableEdge, share: Share, dead: Collection[ConsumerStatus] = ()
) -> list[ConsumerStatus]:
    """Delete the consumers of other shapes than this one's, so that the new shape's can be made.

    What they did not acknowledge stays in the stream and goes to the next consumer.

    Args:
        bus: the bus.
        edge: the edge.
        share: any share of the new shape.
        dead: what was known of consumers whose owners are dead. One that is still so ends with messages in hand: what a
            living owner has in hand would be handled twice.

    Returns:
        Those that are still in use: ask again when their owners have stopped.

    Raises:
        BusError: the server is away.
    """
    kept = {consumer_name(edge, Share(number, share.count, share.partitioned)) for number in range(PARTITIONS)}
    busy = []
    for found in await bus.consumers(edge.stream):
        if found.name in kept:
            continue
        if found in dead or not (found.unacknowledged or found.fetches):
            await bus.delete_consumer(edge.stream, found.name)
        else:
            busy.append(found)
    return busy


def message_id(batch: Batch, partition: int, data: bytes, agent: str = "") -> str:
    """Return the same id for the same events and no other.

    The numbering is not enough: two halves of one batch, and what two selects left of it, have the same. And it is too
    much for events that were made of others: who is given those again, because it was killed before it could
    acknowledge them, makes the same events with new numbers. They are the same where the same agent makes of the same
    parents the same fields; events that are only passed on are so whatever else an agent with other settings adds.

    Args:
        batch: what the message carries.
        partition: of the edge.
        data: the batch, encoded.
        agent: name that all instances and all lives of the agent that made the events have.
    """
    if "parents" in batch.columns and not nulls_of(batch.columns["parents"]).any():
        is_passed_on = "rework.steps" in batch.columns and isinstance(batch.columns["parents"], Ids)
        columns = {
            name: column
            for name, column in batch.columns.items()
            if name in PASSED_ON or (name != "id" and not is_passed_on)
        }
        same = Batch(batch.kind, "", Producer(0, 0), 0, 0, batch.count, columns)
        made = blake2b(codec.encode(same), digest_size=16)
        made.update("\0".join((*batch.kind, agent)).encode())
        return f"made-{partition}-{made.hexdigest()}"
    digest = blake2b(data, digest_size=8)
    digest.update("\0".join((*batch.kind, batch.origin)).encode())
    producer = batch.producer
    return f"{producer.number:x}-{producer.epoch}-{batch.first}-{batch.span}-{partition}-{digest.hexdigest()}"


def read_message(message: DurableMessage) -> Batch:
    """Return the batch that a message carries.

    Raises:
        WireError: headers or bytes make no sense.
    """
    return codec.decode(message.data, *codec.named(message.headers, message.subject))


def told_count(message: DurableMessage) -> int:
    """Return how many events a message says that it has; 1 where it does not say."""
    told = message.headers.get(codec.COUNT, "")
    return int(told) if told.isascii() and told.isdigit() and 0 < len(told) < 8 else 1
