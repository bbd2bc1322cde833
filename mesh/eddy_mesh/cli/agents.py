"""``eddy agents``: who is there, and how is everybody."""

from __future__ import annotations

import asyncio
from shutil import get_terminal_size
from time import time_ns
from typing import TYPE_CHECKING

import msgspec
import rich_click as click

from eddy_mesh.cli.connection import with_mesh
from eddy_mesh.cli.output import (
    Cell,
    Column,
    duration_text,
    rate_text,
    sparing,
    table_text,
    time_of_day,
    write_records,
    write_table,
)
from eddy_mesh.cli.screen import screen
from eddy_mesh.cli.settings import Settings, command
from eddy_mesh.cli.statuses import SAMPLE_S, AgentStatus, HostStatus, host_statuses, rate, two_samples
from eddy_mesh.rows import time_ns as time_of
from eddy_mesh.rows import time_text

if TYPE_CHECKING:
    from eddy_mesh.api import Mesh

SILENT_AFTER_NS = 60_000_000_000
"""A source that took nothing in for longer is flagged."""
SOURCE_TYPE = "normalizer"
STATE_STYLES = {
    "running": "good",
    "starting": "notable",
    "paused": "warning",
    "draining": "warning",
    "failed": "alarming",
}
COLUMNS = [
    Column("host", middle=True),
    Column("agent", middle=True),
    Column("type", spare=True, middle=True),
    Column("state"),
    Column("in/s", right=True),
    Column("out/s", right=True),
    Column("queued", right=True),
    Column("lag", right=True),
    Column("lost", right=True),
    Column("restarts", right=True, spare=True),
    Column("uptime", right=True),
    Column("last event", right=True, spare=True),
    Column("remark"),
]


class AgentRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One agent as it is shown; what ``--json`` writes.

    Attributes:
        in_rate: events/s that it took.
        out_rate: events/s that it made.
        queued: events that wait for it.
        lag_s: how long the one that waits longest has waited, s.
        lost: events dropped or refused on its edges since the host process started.
        last_event: RFC 3339, or "" where there was none.
        silent: a source that took nothing in for longer than `SILENT_AFTER_NS`, though it did before.
        waiting: a running source that never took anything in.
    """

    host: str
    agent: str
    type: str
    state: str
    in_rate: float
    out_rate: float
    queued: int
    lag_s: float
    lost: int
    restarts: int
    uptime_s: float
    last_event: str
    silent: bool
    waiting: bool
    reason: str


@command("agents")
@click.option("--watch", is_flag=True, help="Show it again every second; Ctrl-C ends it.")
def agents(settings: Settings, watch: bool) -> None:
    """Show every agent: state, rate, queue, loss, uptime.

    Rates are taken over one second. A source that took nothing in for a minute is flagged as silent, one that never did
    as waiting, and a failed agent says why. Control them with eddy control HOST/AGENT VERB.
    """
    if watch:
        with_mesh(settings, lambda mesh: _watch(mesh, settings))
        return
    before, after = with_mesh(settings, two_samples)
    records = [record for status in after for record in agent_records(before.get(status.host), status)]
    if settings.json:
        write_records([msgspec.to_builtins(record) for record in records])
        return
    rows = [_cells(record, time_ns()) for record in records]
    write_table(sparing(COLUMNS, rows), rows, colour=settings.colour)


async def _watch(mesh: Mesh, settings: Settings) -> None:
    before = {status.host: status for status in await host_statuses(mesh)}
    with screen(colour=settings.colour) as show:
        while True:
            await asyncio.sleep(SAMPLE_S)
            after = await host_statuses(mesh)
            now_ns = time_ns()
            rows = [_cells(r, now_ns) for status in after for r in agent_records(before.get(status.host), status)]
            width, _ = get_terminal_size()
            table = table_text(sparing(COLUMNS, rows), rows, colour=settings.colour, width=width)
            show(f"at {time_of_day(now_ns, now_ns)}", table)
            before = {status.host: status for status in after}


def agent_records(before: HostStatus | None, after: HostStatus) -> list[AgentRecord]:
    """Return the agents of one host process.

    Args:
        before: an earlier status of the same host process, for the rates; None where there is none.
        after: its status now.
    """
    earlier = {agent.agent: agent for agent in before.agents} if before else {}
    elapsed_ns = after.now_ns - before.now_ns if before else 0
    return [_record(earlier.get(agent.agent, agent), agent, after, elapsed_ns) for agent in after.agents]


def _record(before: AgentStatus, agent: AgentStatus, host: HostStatus, elapsed_ns: int) -> AgentRecord:
    made_ns = (seen.last_ns for seen in host.types if seen.agent == agent.agent)
    last_ns = max(agent.last_ns, *made_ns, 0)
    quiet_ns = host.now_ns - max(last_ns, agent.started_ns)
    is_source = agent.type == SOURCE_TYPE and agent.state == "running"
    return AgentRecord(
        host=host.host,
        agent=agent.agent,
        type=agent.type,
        state=agent.state,
        in_rate=rate(before.taken, agent.taken, elapsed_ns),
        out_rate=rate(before.made, agent.made, elapsed_ns),
        queued=agent.queued,
        lag_s=agent.lag_ns / 1e9,
        lost=agent.lost,
        restarts=agent.restarts,
        uptime_s=(host.now_ns - agent.started_ns) / 1e9 if agent.started_ns else 0.0,
        last_event=time_text(last_ns) if last_ns else "",
        silent=is_source and last_ns > 0 and quiet_ns > SILENT_AFTER_NS,
        waiting=is_source and last_ns == 0,
        reason=agent.reason,
    )


def _cells(record: AgentRecord, now_ns: int) -> list[Cell]:
    last = time_of_day(time_of(record.last_event), now_ns) if record.last_event else "-"
    state = Cell(record.state, STATE_STYLES.get(record.state, "quiet"))
    remark = Cell(record.reason, "bad")
    if record.silent or record.waiting:
        remark = Cell("silent", "warning") if record.silent else Cell("waiting", "quiet")
    return [
        Cell(record.host),
        Cell(record.agent),
        Cell(record.type, "notable"),
        state,
        Cell(rate_text(record.in_rate)),
        Cell(rate_text(record.out_rate)),
        Cell(f"{record.queued:,}", "warning" if record.queued else ""),
        Cell(duration_text(record.lag_s * 1e9) if record.lag_s else "-", "warning" if record.lag_s > 1 else ""),
        Cell(f"{record.lost:,}", "bad" if record.lost else ""),
        Cell(f"{record.restarts:,}", "warning" if record.restarts else ""),
        Cell(duration_text(record.uptime_s * 1e9)),
        Cell(last),
        remark,
    ]
