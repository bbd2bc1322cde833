"""``eddy audit`` and ``eddy subscriptions``: where events went, and who asked for them."""

from __future__ import annotations

import re

import msgspec
import rich_click as click
from click.exceptions import Exit

from eddy_mesh.cli.connection import with_mesh
from eddy_mesh.cli.output import Cell, Column, octets_text, tell, write_records, write_table
from eddy_mesh.cli.settings import Settings, command
from eddy_mesh.cli.statuses import HostStatus, host_statuses
from eddy_mesh.conservation import Ledger

EDGE_COLUMNS = [
    Column("host"),
    Column("edge"),
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
    Column("events", right=True),
    Column("of", right=True),
    Column("size", right=True),
    Column("producers"),
    Column("asked for by"),
    Column("statement"),
]


@command("audit")
@click.option("--all", "everything", is_flag=True, help="Show also the edges that nothing has reached.")
def audit(settings: Settings, everything: bool) -> None:
    """Show whether every edge accounts for every event.

    On each edge in = out + filtered + dropped + failed + queued. Dropped events are named with their reason. Edges that
    nothing has reached are left out of the table, unless --all is given. The exit status is 1 where an edge does not
    balance.
    """
    hosts = with_mesh(settings, host_statuses)
    edges = [(host.host, ledger) for host in hosts for ledger in host.edges]
    if settings.json:
        write_records([edge_record(host, ledger) for host, ledger in edges])
    else:
        used = [(host, ledger) for host, ledger in edges if everything or is_used(ledger)]
        write_table(EDGE_COLUMNS, [_edge_cells(host, ledger) for host, ledger in used], colour=settings.colour)
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


def _edge_cells(host: str, ledger: Ledger) -> list[Cell]:
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(ledger.dropped.items()) if count)
    return [
        Cell(host),
        Cell(edge_text(ledger.edge)),
        Cell(f"{ledger.offered:,}"),
        Cell(f"{ledger.out:,}"),
        Cell(f"{ledger.filtered:,}"),
        Cell(reasons or "0", "warning" if reasons else ""),
        Cell(f"{ledger.failed:,}", "bad" if ledger.failed else ""),
        Cell(f"{ledger.queued:,}"),
        Cell(f"{ledger.difference:,}", "" if ledger.balanced else "alarming"),
        Cell(ledger.policy, "quiet"),
        Cell("ok", "good") if ledger.balanced else Cell("NOT BALANCED", "alarming"),
    ]


_STATEMENT = re.compile(r"\.\d+$")  # the number of the agent's statement that it belongs to


class Subscribed(msgspec.Struct, kw_only=True):
    """One flow over all its producers, as ``--json`` writes it.

    Attributes:
        events: events that it carried.
        offered: events that the producers looked at for it.
        bytes: octets that it carried.
    """

    id: str
    statement: str
    owners: list[str]
    hosts: list[str] = []
    events: int = 0
    offered: int = 0
    bytes: int = 0


@command("subscriptions")
def subscriptions(settings: Settings) -> None:
    """Show who asks for which events, and what that moves.

    Identical statements share one flow.
    """
    flows = subscribed(with_mesh(settings, host_statuses))
    if settings.json:
        write_records([msgspec.to_builtins(flow) for flow in flows])
        return
    rows = [
        [
            Cell(f"{flow.events:,}"),
            Cell(f"{flow.offered:,}"),
            Cell(octets_text(flow.bytes)),
            Cell(", ".join(flow.hosts)),
            Cell(", ".join(flow.owners), "notable"),
            Cell(flow.statement),
        ]
        for flow in flows
    ]
    write_table(FLOW_COLUMNS, rows, colour=settings.colour)
    if not flows:
        tell("nobody asks for anything")


def subscribed(hosts: list[HostStatus]) -> list[Subscribed]:
    """Return every flow once, with what all its producers did for it, busiest first."""
    flows: dict[str, Subscribed] = {}
    for host in hosts:
        for part in host.subscriptions:
            flow = flows.setdefault(part.id, Subscribed(id=part.id, statement=part.statement, owners=[]))
            flow.owners = sorted({*flow.owners, *part.owners})
            flow.hosts = [*flow.hosts, host.host]
            flow.events += part.events
            flow.offered += part.offered
            flow.bytes += part.bytes
    return sorted(flows.values(), key=lambda flow: (-flow.events, flow.statement))
