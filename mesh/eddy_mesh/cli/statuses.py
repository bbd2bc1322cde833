"""What host processes say of themselves, typed.

What may live here: the structs of a ``stats`` answer and how to get them.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

import msgspec

from eddy_mesh.conservation import Ledger
from eddy_mesh.errors import BusError, UsageError

if TYPE_CHECKING:
    from eddy_mesh.api import Mesh

S = TypeVar("S", bound=msgspec.Struct)
SAMPLE_S = 1.0
"""Time between two looks at the counters from which a rate is made."""


class AgentStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One agent; counters are events since the host process started."""

    agent: str
    type: str
    state: str
    reason: str = ""
    started_ns: int = 0
    restarts: int = 0
    made: int = 0
    last_ns: int = 0
    queued: int = 0
    lag_ns: int = 0
    lost: int = 0
    edges: list[Ledger] = []

    @property
    def taken(self) -> int:
        """Events that it has taken."""
        return sum(ledger.out for ledger in self.edges)


class TypeSeen(msgspec.Struct, frozen=True, kw_only=True):
    """Events of one kind that an agent made."""

    agent: str
    stage: str
    event_class: str
    type: str
    count: int = 0
    first_ns: int = 0
    last_ns: int = 0
    fields: list[str] = []


class FlowStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One subscribed flow at one producer; counters are since it was first asked for there.

    Attributes:
        events: events published, or lost while the server was away.
        bytes: octets published.
        offered: events of which the statement was asked.
        offered_bytes: octets that these would be, encoded whole: an estimate; 0 where the producer does not tell.
        gap: events that subscribers say did not arrive, from whichever producer.
    """

    id: str
    statement: str
    owners: list[str] = []
    events: int = 0
    bytes: int = 0
    offered: int = 0
    offered_bytes: int = 0
    gap: int = 0


class HostStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One host process."""

    host: str
    version: str = ""
    started_ns: int = 0
    now_ns: int = 0
    agents: list[AgentStatus] = []
    edges: list[Ledger] = []
    types: list[TypeSeen] = []
    subscriptions: list[FlowStatus] = []


async def host_statuses(mesh: Mesh) -> list[HostStatus]:
    """Return the status of every host process, by name.

    Raises:
        UsageError: none answers.
        BusError: an answer is not a status.
    """
    answers = await mesh.hosts()
    if not answers:
        hint = "start one with eddy-agent up, or ask again where its server has just been started"
        raise UsageError(f"no host process answers on backplane {mesh.backplane}: {hint}")
    try:
        return [msgspec.convert(answer, HostStatus) for answer in answers]
    except msgspec.ValidationError as error:
        raise BusError(f"a host process answers in another form ({error}): is its version the same?") from None


async def two_samples(mesh: Mesh) -> tuple[dict[str, HostStatus], list[HostStatus]]:
    """Return the statuses of two moments, `SAMPLE_S` apart: the first by host, the second in order."""
    before = await host_statuses(mesh)
    await asyncio.sleep(SAMPLE_S)
    return {status.host: status for status in before}, await host_statuses(mesh)


def rate(before: int, after: int, elapsed_ns: int) -> float:
    """Return events/s between two counts; 0 where the count began again or no time passed."""
    return max(after - before, 0) * 1e9 / elapsed_ns if elapsed_ns > 0 else 0.0
