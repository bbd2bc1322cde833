"""Subscribed flows: how one side asks for a select/project statement and the other side answers with batches.

What may live here: the lease and the headers of a flow message, no IO. The receiving side is `eddy_mesh.receiving`, the
producing side `eddy_mesh.runtime.demand`.
"""

from __future__ import annotations

from dataclasses import replace
from hashlib import blake2b
from typing import Literal

import msgspec

from eddy_mesh import codec, subjects
from eddy_mesh.batch import Batch, Kind
from eddy_mesh.bus import Message
from eddy_mesh.config import Partition
from eddy_mesh.errors import WireError
from eddy_mesh.fields import type_of
from eddy_mesh.selection import Plan, needed_fields, render
from eddy_mesh.selection.plan import Item, Operand

LEASE_S = 30.0
"""A subscription that is not renewed for so long is over."""
MAX_COUNT = 1 << 20
HOST, POSITION = "Eddy-Host", "Eddy-Position"
"""Headers of a flow message, beside those of every batch (`eddy_mesh.codec.headers_of`)."""
SUBSCRIBE, UNSUBSCRIBE = "subscribe", "unsubscribe"
Position = tuple[int, int]
"""Epoch in which a host process began a flow, and how many events it has published there since."""
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
    return subjects.bucket(backplane, "subscriptions")


def headers(batch: Batch, host: str, epoch: int, position: int) -> dict[str, str]:
    """Return the headers of a flow message.

    Args:
        batch: what the message carries.
        host: host process that publishes.
        epoch: second since 1970 UTC at which it began this flow.
        position: events that it published on this flow before this message.
    """
    return {**codec.headers_of(batch), HOST: host, POSITION: f"{epoch}:{position}"}


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
    kind, origin = codec.named(held, message.subject)
    try:
        epoch, _, position = held[POSITION].partition(":")
        told = FlowMessage(kind, origin, held[HOST], int(held[codec.COUNT]), int(epoch), int(position))
    except (KeyError, ValueError) as error:
        raise WireError("flow", f"headers of a message on {message.subject} make no sense ({error})") from None
    if not 0 < told.count <= MAX_COUNT or told.position < 0:
        raise WireError("flow", f"a message of {told.count} events at position {told.position} can not be")
    return told
