"""``eddy topology``: what is of record, and what was."""

from __future__ import annotations

from time import time_ns

import rich_click as click

from eddy_mesh.cli.connection import with_mesh
from eddy_mesh.cli.managing import ask, ask_one, show_lines, texts_of
from eddy_mesh.cli.output import Cell, Column, printable, tell, time_of_day, write_records, write_table
from eddy_mesh.cli.settings import Settings, command
from eddy_mesh.errors import UsageError
from eddy_mesh.task import Answer
from eddy_mesh.topology.schema import manifest_schema

COLUMNS = [
    Column("revision", right=True),
    Column("state"),
    Column("when"),
    Column("who"),
    Column("agents", right=True, spare=True),
    Column("edges", right=True, spare=True),
    Column("why"),
]
STATE_STYLES = {"applied": "good", "applying": "notable", "rolling-back": "warning", "given-up": "quiet"}


@command("topology")
@click.argument(
    "what",
    metavar="[show|history|diff|schema]",
    type=click.Choice(["show", "history", "diff", "schema"]),
    default="show",
)
@click.argument("revisions", metavar="[A] [B]", type=click.IntRange(min=1), nargs=-1)
@click.option("--revision", metavar="N", type=click.IntRange(min=1), help="With show: this revision, not the newest.")
@click.option("--toml", is_flag=True, help="With show: write the manifest as it was applied.")
def topology(
    settings: Settings, what: str, revisions: tuple[int, ...], revision: int | None, toml: bool
) -> None:  # fmt: skip
    """Show the topology of record: hosts, agents and edges, who applied it, when and why.

    history has a line for each revision that is kept. diff shows what A changed, or what differs between A and B;
    without both what the newest revision changed. schema writes the JSON Schema of a manifest, for editors.

    \b
    eddy topology show --revision 3 --toml
    eddy topology history
    eddy topology diff 3 5
    """  # noqa: D301  # click's mark for lines that stay as they are
    if len(revisions) > (2 if what == "diff" else 0):
        raise UsageError(f"{what} takes {'two revisions' if what == 'diff' else 'none: write --revision N'}")
    if (revision or toml) and what != "show":
        raise UsageError("--revision and --toml are for show: eddy topology show --revision N")
    if what == "schema":
        write_records([manifest_schema()])
    elif what == "history":
        _history(settings)
    elif what == "diff":
        _diff(settings, revisions)
    else:
        _show(settings, revision or 0, toml=toml)


def _history(settings: Settings) -> None:
    async def asked(mesh: object) -> list[Answer]:
        return [row async for row in ask(mesh, "history", {})]  # type: ignore[arg-type]

    rows = with_mesh(settings, asked)
    if settings.json:
        write_records(rows)
        return
    if not rows:
        tell("no topology was applied on this backplane yet")
        return
    write_table(COLUMNS, [_cells(row, time_ns()) for row in rows], colour=settings.colour)


def _cells(row: Answer, now_ns: int) -> list[Cell]:
    state = str(row["state"])
    return [
        Cell(str(row["revision"])),
        Cell(state, STATE_STYLES.get(state, "")),
        Cell(time_of_day(int(str(row["when_ns"])), now_ns)),
        Cell(str(row["who"]) or "-"),
        Cell(str(row["agents"])),
        Cell(str(row["edges"])),
        Cell(str(row["why"]), wraps=True),
    ]


def _diff(settings: Settings, revisions: tuple[int, ...]) -> None:
    request = {"from": revisions[0], "to": revisions[1]} if len(revisions) == 2 else {"to": sum(revisions)}
    row = with_mesh(settings, lambda mesh: ask_one(mesh, "diff", request))
    if settings.json:
        write_records([row])
    else:
        show_lines(texts_of(row, "lines"), colour=settings.colour)


def _show(settings: Settings, revision: int, *, toml: bool) -> None:
    row = with_mesh(settings, lambda mesh: ask_one(mesh, "topology", {"revision": revision}))
    if toml:
        if not row.get("text"):
            raise UsageError(f"revision {row['revision']} was not applied from a file: use --json")
        click.echo(str(row["text"]), nl=False)
    elif settings.json:
        write_records([row])
    else:
        for line in record_lines(row, time_ns()):
            click.echo(printable(line))


def record_lines(row: Answer, now_ns: int) -> list[str]:
    """Return the record for people: who applied it, then every host with its agents, then every edge."""
    import msgspec  # noqa: PLC0415  # quick --help

    from eddy_mesh.topology.placement import Placement  # noqa: PLC0415

    placement = msgspec.convert(row["placement"], Placement)
    when = time_of_day(int(str(row["when_ns"])), now_ns)
    head = f"revision {row['revision']}: {row['state']}, by {row['who'] or 'nobody named'} at {when}"
    head += f", carried out by {row['manager']}" if row["manager"] else ""
    lines = [head, *([f"why: {row['why']}"] if row["why"] else [])]
    for host, part in placement.hosts.items():
        lines.append(f"{host}" + (f" (started by {part.parent})" if part.parent else ""))
        for name, agent in part.agents.items():
            what = (agent.type, agent.source, agent.cooking, agent.detector)
            lines.append(f"  {name}: {' '.join(text for text in what if text)}")
    for name, edge in placement.edges.items():
        ends = f"{', '.join(edge.producers) or 'nobody'} -> {', '.join(edge.consumers)}"
        lines.append(f"edge {name}: {ends}; {edge.delivery}, since revision {edge.generation}; {edge.statement}")
    return lines
