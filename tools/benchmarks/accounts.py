"""Whether every event that was sent is accounted for.

What may live here: the reading of a host process's status. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

Status = Mapping[str, object]


@dataclass(frozen=True)
class Verdict:
    """What the accounts of one run say.

    Attributes:
        lost: losses that were counted where they happened: the rate was too high.
        defects: events that nobody accounts for.
    """

    lost: list[str] = field(default_factory=list)
    defects: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether nothing is missing."""
        return not self.lost and not self.defects


def settled(status: Status) -> bool:
    """Whether no event waits on any edge."""
    return all(edge["queued"] == 0 for edge in edges(status))


def progress(status: Status) -> tuple[int, ...]:
    """Return what changes as long as events move."""
    return tuple(int(str(edge["offered"])) for edge in edges(status))


def taken(status: Status, event_type: str) -> int:
    """Return how many cooked events of a type the agents of a host process made."""
    made = [seen for seen in _tables(status, "types") if seen["stage"] == "cooked" and seen["type"] == event_type]
    return sum(int(str(seen["count"])) for seen in made)


def archived(status: Status) -> tuple[int, int]:
    """Return the events and the bytes that the archive holds."""
    for agent in _tables(status, "agents"):
        detail = agent["detail"]
        if agent["type"] == "archive" and isinstance(detail, Mapping):
            return int(str(detail.get("rows", 0))), int(str(detail.get("bytes", 0)))
    return 0, 0


def published(status: Status) -> int:
    """Return how many events left the host process for subscribers."""
    return sum(int(str(flow["events"])) for flow in _tables(status, "subscriptions"))


def edges(status: Status) -> Iterator[Mapping[str, object]]:
    """Yield the ledger of every edge."""
    yield from _tables(status, "edges")


def check(
    status: Status, *, sent: int, events: int, event_type: str, received: Mapping[str, object] | None = None
) -> Verdict:
    """Return what the accounts say of a run that has settled.

    Args:
        status: of the host process.
        sent: datagrams or lines that were sent to it.
        events: events of ``event_type`` in them.
        event_type: type of the cooked events.
        received: what the subscriber says: ``events`` and ``dropped``.
    """
    verdict = Verdict()
    for edge in edges(status):
        name = edge["edge"]
        counts = {key: int(str(edge[key])) for key in ("offered", "out", "filtered", "failed", "queued")}
        dropped = edge["dropped"] if isinstance(edge["dropped"], Mapping) else {}
        verdict.lost.extend(f"{name}: {count:,} {reason}" for reason, count in dropped.items() if count)
        if counts["failed"]:
            verdict.defects.append(f"{name}: {counts['failed']:,} events went to the dead letters")
        rest = counts["offered"] - sum(counts[key] for key in ("out", "filtered", "failed", "queued"))
        rest -= sum(dropped.values())
        if rest:
            verdict.defects.append(f"{name}: does not balance, {rest:,} events are not accounted for")
        if str(name).startswith("outside >") and counts["offered"] != sent:
            verdict.defects.append(f"{name}: {counts['offered']:,} of {sent:,} sent are accounted for")
    made, lost = taken(status, event_type), taken(status, "netflow.gap")
    if not verdict.lost and made != events:
        verdict.defects.append(f"{made:,} events of type {event_type} were made of {events:,} sent")
    if lost and not verdict.lost:
        verdict.defects.append(f"{lost:,} gaps in sequence numbers although nothing was lost")
    if received is not None:
        verdict.defects.extend(_at_subscriber(status, received))
    return verdict


def _at_subscriber(status: Status, received: Mapping[str, object]) -> list[str]:
    dropped = received["dropped"]
    told = [f"subscriber: {dropped}"] if dropped else []
    if published(status) != received["events"]:
        told.append(f"subscriber: {received['events']:,} events of {published(status):,} published arrived")
    return told


def _tables(status: Status, name: str) -> Sequence[Mapping[str, object]]:
    held = status.get(name)
    return held if isinstance(held, list) else []
