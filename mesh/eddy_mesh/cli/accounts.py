"""``eddy audit`` and ``eddy subscriptions``: where events went, and who asked for them."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence

import msgspec
import rich_click as click
from click.exceptions import Exit

from eddy_mesh.cli.connection import with_mesh
from eddy_mesh.cli.output import Cell, Column, octets_text, rate_text, sparing, tell, write_records, write_table
from eddy_mesh.cli.settings import Settings, command
from eddy_mesh.cli.statuses import FlowStatus, HostStatus, host_statuses, rate, two_samples
from eddy_mesh.conservation import Ledger

EDGE_COLUMNS = [
    Column("host", middle=True),
    Column("edge", middle=True),
    Column("in", right=True),
    Column("out", right=True),
    Column("filtered", right=True),
    Column("dropped", right=True),
    Column("failed", right=True),
    Column("queued", right=True),
    Column("difference", right=True, spare=True),
    Column("policy", spare=True),
    Column("balance"),
]
FLOW_COLUMNS = [
    Column("events/s", right=True),
    Column("events", right=True),
    Column("of", right=True, spare=True),
    Column("moved", right=True, spare=True),
    Column("saved", right=True),
    Column("lost"),
    Column("policy", spare=True),
    Column("producers", spare=True),
    Column("asked for by", middle=True),
    Column("statement", middle=True),
]


@command("audit")
@click.option("--all", "everything", is_flag=True, help="Show also the edges that nothing has reached.")
def audit(settings: Settings, everything: bool) -> None:
    """Show whether every edge accounts for every event.

    On each edge in = out + filtered + dropped + failed + queued. Dropped events are named with their reason. Edges that
    nothing has reached are left out of the table, unless --all is given; so are columns of zeros where the line is too
    short. The exit status is 1 where an edge does not balance.
    """
    hosts = with_mesh(settings, host_statuses)
    edges = [(host.host, ledger) for host in hosts for ledger in host.edges]
    if settings.json:
        write_records([edge_record(host, ledger) for host, ledger in edges])
    else:
        used = [(host, ledger) for host, ledger in edges if everything or is_used(ledger)]
        rows = [_edge_cells(host, ledger) for host, ledger in used]
        write_table(sparing(EDGE_COLUMNS, rows), rows, colour=settings.colour)
        if len(used) < len(edges):
            tell(f"{len(edges) - len(used)} edges that nothing has reached are left out: --all shows them")
    tell(balance_text([ledger for _, ledger in edges]))
    if not all(ledger.balanced for _, ledger in edges):
        raise Exit(1)


def is_used(ledger: Ledger) -> bool:
    """Whether anything has reached an edge, or does not balance on it."""
    return bool(ledger.offered or ledger.lost or ledger.failed or not ledger.balanced)


def edge_text(edge: str) -> str:
    """Return the name of an edge for people: ``* > archive.0`` is what comes from other hosts to the archive."""
    origin, arrow, agent = edge.partition(" > ")
    return f"other hosts > {_STATEMENT.sub('', agent)}" if origin == "*" and arrow else edge


def edge_record(host: str, ledger: Ledger) -> dict[str, object]:
    """Return an edge as ``--json`` writes it."""
    return {
        "host": host,
        "edge": ledger.edge,
        "in": ledger.offered,
        "out": ledger.out,
        "filtered": ledger.filtered,
        "dropped": ledger.dropped,
        "failed": ledger.failed,
        "failures": ledger.failures,
        "queued": ledger.queued,
        "difference": ledger.difference,
        "policy": ledger.policy,
        "balanced": ledger.balanced,
    }


def balance_text(ledgers: list[Ledger]) -> str:
    """Return the sentence that sums up an audit."""
    wrong = [ledger for ledger in ledgers if not ledger.balanced]
    lost, failed = sum(ledger.lost for ledger in ledgers), sum(ledger.failed for ledger in ledgers)
    verdict = "every edge balances" if not wrong else f"{len(wrong)} of them do not balance"
    waiting = sum(ledger.queued for ledger in ledgers)
    edges = f"{len(ledgers)} edge{'' if len(ledgers) == 1 else 's'}"
    return f"{edges}: {verdict}; {lost:,} events dropped, {failed:,} failed, {waiting:,} queued"


def losses_text(dropped: Mapping[str, int]) -> str:
    """Return how many events were lost for which reason: ``12 disconnected``, or 0."""
    return ", ".join(f"{count:,} {reason}" for reason, count in sorted(dropped.items()) if count) or "0"


def _edge_cells(host: str, ledger: Ledger) -> list[Cell]:
    reasons = losses_text(ledger.dropped)
    return [
        Cell(host),
        Cell(edge_text(ledger.edge)),
        Cell(f"{ledger.offered:,}"),
        Cell(f"{ledger.out:,}"),
        Cell(f"{ledger.filtered:,}"),
        Cell(reasons, "warning" if ledger.lost else ""),
        Cell(losses_text(ledger.failures) if ledger.failures else f"{ledger.failed:,}", "bad" if ledger.failed else ""),
        Cell(f"{ledger.queued:,}"),
        Cell(f"{ledger.difference:,}", "" if ledger.balanced else "alarming"),
        Cell(ledger.policy, "quiet"),
        Cell("ok", "good") if ledger.balanced else Cell("NOT BALANCED", "alarming"),
    ]


_STATEMENT = re.compile(r"\.\d+$")  # the number of the agent's statement that it belongs to


class Subscribed(msgspec.Struct, kw_only=True):
    """One flow over all its producers, as ``--json`` writes it.

    Attributes:
        rate: events/s that it carries, over one second.
        events: events that it carried.
        offered: events that the producers looked at for it.
        bytes: octets that it carried.
        offered_bytes: octets that the events looked at would have been, encoded whole: an estimate of the producers.
        saved_bytes: octets that stayed at the source, by that estimate; None where a producer makes none.
        lost: events that the producers could not publish, and that the subscribers say did not arrive (``gap``).
        policy: what the producers do with events that they can not publish.
    """

    id: str
    statement: str
    owners: list[str]
    hosts: list[str] = []
    rate: float = 0.0
    events: int = 0
    offered: int = 0
    bytes: int = 0
    offered_bytes: int = 0
    saved_bytes: int | None = None
    lost: dict[str, int] = {}
    policy: str = ""


@command("subscriptions")
def subscriptions(settings: Settings) -> None:
    """Show who asks for which events, what that moves, and what selecting at the source saves.

    Identical statements share one flow. Rates are taken over one second. Counts are those of the host processes that
    are there now, so they become smaller where one ends. Saved is the size of the events that the
    producers looked at, less what they sent: estimated from the size of their batches, encoded whole. Lost are the
    events that a producer could not publish, with the reason, and as gap those that a subscriber says did not arrive.
    In a pipe, and with --json, each flow is one JSON object.
    """
    flows = subscribed(*with_mesh(settings, two_samples))
    if settings.json or not sys.stdout.isatty():
        write_records([msgspec.to_builtins(flow) for flow in flows])
    else:
        rows = [flow_cells(flow) for flow in flows]
        write_table(sparing(FLOW_COLUMNS, rows), rows, colour=settings.colour)
    if not flows:
        tell("nobody asks for anything")
    elif sys.stdout.isatty():
        tell("counted by the host processes that are there now: what ended ones counted is not in it")


def subscribed(before: Mapping[str, HostStatus], hosts: Sequence[HostStatus]) -> list[Subscribed]:
    """Return every flow once, with what all its producers did for it, busiest first.

    Args:
        before: earlier statuses by host, for the rates.
        hosts: statuses now.
    """
    flows: dict[str, Subscribed] = {}
    untold: set[str] = set()
    for host in hosts:
        for part in host.subscriptions:
            flow = flows.setdefault(part.id, Subscribed(id=part.id, statement=part.statement, owners=[]))
            flow.owners = sorted({*flow.owners, *part.owners})
            flow.hosts = [*flow.hosts, host.host]
            flow.rate += _flow_rate(before.get(host.host), host, part)
            flow.events += part.events
            flow.offered += part.offered
            flow.bytes += part.bytes
            gap = max(part.gap, flow.lost.get("gap", 0))  # every producer is told the same
            flow.lost = {**flow.lost, "gap": gap} if gap else flow.lost
            flow.offered_bytes += part.offered_bytes
            if part.offered and not part.offered_bytes:
                untold.add(part.id)
            _add_loss(flow, host)
    for flow in flows.values():
        flow.saved_bytes = None if flow.id in untold else max(flow.offered_bytes - flow.bytes, 0)
    return sorted(flows.values(), key=lambda flow: (-flow.events, flow.statement))


def _flow_rate(before: HostStatus | None, host: HostStatus, part: FlowStatus) -> float:
    if before is None:
        return 0.0
    earlier = next((flow.events for flow in before.subscriptions if flow.id == part.id), part.events)
    return rate(earlier, part.events, host.now_ns - before.now_ns)


def _add_loss(flow: Subscribed, host: HostStatus) -> None:
    """Add what the producer lost: the flow is one of its edges."""
    for ledger in host.edges:
        if ledger.edge == f"{host.host} > flow {flow.id}":
            flow.policy = ledger.policy
            flow.lost = {
                reason: flow.lost.get(reason, 0) + ledger.dropped.get(reason, 0)
                for reason in sorted({*flow.lost, *ledger.dropped})
            }


def flow_cells(flow: Subscribed) -> list[Cell]:
    """Return a line of the table."""
    saved = Cell("?", "quiet")
    if flow.saved_bytes is not None:
        share = f" ({flow.saved_bytes / flow.offered_bytes:.1%})" if flow.offered_bytes else ""
        saved = Cell(octets_text(flow.saved_bytes) + share, "good" if flow.saved_bytes else "quiet")
    return [
        Cell(rate_text(flow.rate)),
        Cell(f"{flow.events:,}"),
        Cell(f"{flow.offered:,}", "quiet"),
        Cell(octets_text(flow.bytes)),
        saved,
        Cell(losses_text(flow.lost), "bad" if any(flow.lost.values()) else ""),
        Cell(flow.policy, "quiet"),
        Cell(", ".join(flow.hosts)),
        Cell(", ".join(flow.owners), "notable"),
        Cell(flow.statement),
    ]
