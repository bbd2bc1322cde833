"""Report: what was sent, received, missing and repeated, as a table for people and as JSON.

What may live here: the verdict and how it is shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec
from accounts import Audit, Contents
from changes import Done
from manifests import EDGES, SINKS

WAYS = {"kept": ("raw", "keep", "kept-in"), "seen": ("raw", "look", "seen-in")}
"""Edges on the way to each sink."""


class Sink(msgspec.Struct, frozen=True, kw_only=True):
    """What one sink has got.

    Attributes:
        sink: its name.
        edges: delivery class of the edges on its way.
        sent: numbers sent.
        received: different ones that it has.
        missing, repeated, alien: see `accounts.Contents`.
        counted_gap: what the accounts on its way say was lost.
        by_reason: the same, by reason.
        is_right: exactly once for durable edges; for live ones the counted gap is the real one, and nothing came twice.
        examples: some missing and some repeated numbers.
    """

    sink: str
    edges: str
    sent: int
    received: int
    missing: int
    repeated: int
    alien: int
    counted_gap: int
    by_reason: dict[str, int]
    is_right: bool
    examples: Mapping[str, list[int]]


class EdgeRow(msgspec.Struct, frozen=True, kw_only=True):
    """One edge of the topology, over all its generations and ends."""

    edge: str
    delivery: str
    ends: int
    offered: int
    out: int
    filtered: int
    dropped: dict[str, int]
    failed: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything."""

    network: str
    seed: int
    seconds: float
    rate: float
    sent: dict[str, int]
    settled_s: float
    sinks: list[Sink]
    edges: list[EdgeRow]
    changes: list[Done]
    kills: list[Done]
    cuts: int
    audit_looks: int
    audit_edges: int
    unbalanced: list[str]
    problems: list[str]

    @property
    def is_proved(self) -> bool:
        """Whether nothing was lost or doubled, everything that was lost is counted, and all edges always balanced."""
        done = [*self.changes, *self.kills]
        is_all = all(sink.is_right for sink in self.sinks) and not any(one.error for one in done)
        return is_all and not self.unbalanced and not self.problems

    def json(self) -> bytes:
        """Return it as one line of JSON."""
        return msgspec.json.encode({"is_proved": self.is_proved, **msgspec.structs.asdict(self)})


def sink(name: str, sent: int, held: Contents, audit: Audit) -> Sink:
    """Return what is to be said of a sink."""
    reasons = audit.lost(WAYS[name])
    counted = sum(reasons.values())
    allowed = 0 if SINKS[name] == "durable" else counted
    is_right = held.missing == allowed and not held.repeated and not held.alien
    return Sink(
        sink=name,
        edges=SINKS[name],
        sent=sent,
        received=held.different,
        missing=held.missing,
        repeated=held.repeated,
        alien=held.alien,
        counted_gap=counted,
        by_reason=reasons,
        is_right=is_right,
        examples=held.examples,
    )


def edge_rows(audit: Audit) -> list[EdgeRow]:
    """Return the accounts of each edge, added up."""
    rows = []
    for name, (_, _, delivery) in EDGES.items():
        ledgers = audit.of(name)
        dropped: dict[str, int] = {}
        for ledger in ledgers:
            for reason, count in ledger.dropped.items():
                dropped[reason] = dropped.get(reason, 0) + count
        behind = audit.behind(name)
        rows.append(
            EdgeRow(
                edge=name,
                delivery=delivery,
                ends=len(ledgers),
                offered=sum(ledger.offered for ledger in behind),
                out=sum(ledger.out for ledger in behind),
                filtered=sum(ledger.filtered for ledger in behind),
                dropped=dropped,
                failed=sum(ledger.failed for ledger in ledgers),
            )
        )
    return rows


def text(report: Report) -> str:
    """Return it for people."""
    lines = [f"network  {report.network}", f"seed     {report.seed}"]
    told = ", ".join(f"{name} {count:,}" for name, count in report.sent.items())
    lines.append(f"sent     {told}, within {report.seconds:.1f} s; all settled {report.settled_s:.1f} s later")
    head = ("sink", "edges", "sent", "received", "missing", "repeated", "counted gap", "real gap", "")
    lines += ["", *_table(head, [_sink_cells(one) for one in report.sinks])]
    for one in report.sinks:
        lines += [f"  {one.sink}: {name}: {numbers}" for name, numbers in one.examples.items() if numbers]
    edges = [
        (
            row.edge,
            row.delivery,
            f"{row.ends}",
            f"{row.offered:,}",
            f"{row.out:,}",
            _reasons(row.dropped),
            f"{row.failed}",
        )
        for row in report.edges
    ]
    lines += ["", *_table(("edge", "class", "ends", "in", "out", "dropped", "failed"), edges)]
    lines += ["", *_summary("changes", report.changes), *_summary("kills", report.kills)]
    lines.append(f"leaf servers killed and started again: {report.cuts}")
    state = "every edge balanced every time" if not report.unbalanced else "NOT BALANCED"
    lines.append(f"audit    {report.audit_looks} looks, {report.audit_edges:,} edges checked: {state}")
    lines += [*report.unbalanced, *report.problems]
    return "\n".join([*lines, "", "PROVED" if report.is_proved else "NOT PROVED"])


def _sink_cells(one: Sink) -> tuple[str, ...]:
    verdict = "right" if one.is_right else "WRONG"
    alien = f", {one.alien} alien" if one.alien else ""
    counts = (one.sent, one.received, one.missing, one.repeated, one.counted_gap, one.missing)
    return (one.sink, one.edges, *(f"{count:,}" for count in counts), f"{verdict}{alien} {_reasons(one.by_reason)}")


def _reasons(dropped: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in dropped.items() if count)


def _summary(what: str, done: Sequence[Done]) -> list[str]:
    lines = []
    for kind in dict.fromkeys(one.kind for one in done):
        same = sorted((one for one in done if one.kind == kind), key=lambda one: one.took_ms)
        middle, most = same[len(same) // 2], same[-1]
        told = (
            f"{what:8} {kind:8} {len(same):3}; {middle.took_ms:,.0f} ms in the middle, {most.took_ms:,.0f} ms at most"
        )
        lines.append(f"{told} ({most.what}{', ' + most.slowest if most.slowest else ''})")
    for one in done:
        lines += [f"{what:8} {one.kind} {one.what} refused, tried again: {why}" for why in one.refused if not one.error]
    return [*lines, *(f"{what:8} {one.kind} {one.what} failed: {one.error}" for one in done if one.error)]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    held = [tuple(head), *map(tuple, rows)]
    widths = [max(len(row[column]) for row in held) for column in range(len(head))]
    lines = []
    for row in held:
        cells = zip(row, widths, strict=True)
        lines.append("  ".join(f"{c:>{w}}" if n > 1 else f"{c:<{w}}" for n, (c, w) in enumerate(cells)).rstrip())
    return lines
