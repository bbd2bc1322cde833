"""``eddy cook``: normalizer and transformer offline, without a server.

What may live here: the options, the lines that come out, and what is said about them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from time import time_ns
from typing import BinaryIO

import msgspec
import rich_click as click
from click.exceptions import Exit
from rich_click import RichCommand

from eddy_mesh.agent import Stateful
from eddy_mesh.batch import Batch
from eddy_mesh.cli.cook_input import STDIN, Complaints, InputFiles
from eddy_mesh.cli.cook_types import RawType, raw_type
from eddy_mesh.cli.cooking_run import CookingRun, Shown
from eddy_mesh.cli.output import json_line, printable, tell
from eddy_mesh.cli.settings import CONTEXT
from eddy_mesh.config import convert, parse_toml
from eddy_mesh.errors import UsageError
from eddy_mesh.rows import flat_rows, json_rows, json_value
from eddy_mesh.selection import Plan, compile_statement, matcher, project, row_names


@click.command("cook", cls=RichCommand, context_settings=CONTEXT)
@click.argument("type_name", metavar="TYPE")
@click.argument("files", metavar="[FILE]...", nargs=-1, type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option(
    "--stage",
    type=click.Choice([each.value for each in Shown]),
    default=Shown.COOKED.value,
    show_default=True,
    help="Write cooked events, the raw ones they are made of, or both.",
)
@click.option("--select", "statement", metavar="STATEMENT", default="", help="Write only what this statement selects.")
@click.option(
    "--port", "ports", type=click.IntRange(0, 65535), multiple=True, help="Of a capture: UDP port the exports go to."
)
@click.option("--config", metavar="TOML", default="", help="Settings of the cooking: 'timezone = \"Europe/Oslo\"'.")
def cook_command(
    type_name: str, files: tuple[str, ...], stage: str, statement: str, ports: tuple[int, ...], config: str
) -> None:
    """Turn files of raw payloads into events, without a server.

    TYPE is what the files hold: syslog, file, journald, json, netflow, sflow, packet, or a cooked type such as
    netflow.v9. A file of lines has one event a line; of NetFlow and sFlow a file is one datagram, and files share
    their templates in the order given; a pcap or pcapng capture gives the datagrams, or packets, in it. No FILE, or -,
    is standard input. Events come out as NDJSON, complaints on standard error; the exit status is 1 when something was
    refused.

    \b
    eddy cook netflow template.dat data.dat
    eddy cook netflow exporter.pcap --port 9996 --select "SELECT source.ip, network.bytes"
    zcat auth.log.gz | eddy cook syslog
    """  # noqa: D301  # click's mark for lines that stay as they are
    raw, shown = raw_type(type_name), Shown(stage)
    write = _writer(sys.stdout.buffer, _plan(statement, shown))
    complaints = Complaints()
    run = CookingRun(_cooking(raw, config, shown), shown, write, complaints, time_ns())
    inputs = InputFiles(raw, ports, complaints)
    for name in files or (STDIN,):
        for draft in inputs.drafts(name):
            run.take(draft, name, time_ns())
    run.finish(time_ns())
    for text in (*inputs.remarks, *_complaint_texts(complaints), summary_text(run, shown, complaints)):
        tell(printable(text))
    if complaints:
        raise Exit(1)


def _cooking(raw: RawType, config: str, shown: Shown) -> Stateful | None:
    if shown is Shown.RAW:
        return None
    settings = convert(parse_toml(config, "--config"), raw.cooking.Config, "--config")
    made: Stateful = raw.cooking.Cooking(settings)
    return made


def _plan(statement: str, shown: Shown) -> Plan | None:
    if not statement:
        return None
    plan = compile_statement(statement, now_ns=time_ns())
    if plan.is_aggregate or plan.order_by or plan.limit is not None:
        raise UsageError("--select looks at each event by itself: leave out GROUP BY, ORDER BY and LIMIT")
    return plan if shown is Shown.COOKED else replace(plan, every_stage=True)


def _writer(out: BinaryIO, plan: Plan | None) -> Callable[[Batch], None]:
    """Return what writes a batch; with a plan only what it selects."""
    match = matcher(plan) if plan is not None else None

    def write(batch: Batch) -> None:
        lines = json_rows(batch) if plan is None or match is None else _projected(plan, batch.filter(match(batch)))
        out.writelines(json_line(line) + b"\n" for line in lines)
        out.flush()

    return write


def _projected(plan: Plan, batch: Batch) -> Iterator[bytes]:
    names = row_names(plan)
    if not names:
        return json_rows(batch)
    return (
        msgspec.json.encode({name: json_value(name, row.get(name)) for name in names})
        for row in flat_rows(project(plan, batch))
    )


def _complaint_texts(complaints: Complaints) -> Iterator[str]:
    for reason, complaint in complaints.items():
        detail = f": {complaint.detail}" if complaint.detail else ""
        first = complaint.where if complaint.events == 1 else f"first {complaint.where}"
        yield f"{complaint.events:,} {reason} ({first}){detail}"


def summary_text(run: CookingRun, shown: Shown, complaints: Complaints) -> str:
    """Return the sentence that sums up what came out and what was not taken."""
    made = "took" if shown is Shown.RAW else f"cooked {_counted(run.events, 'event')} of"
    text = f"{made} {_counted(run.payloads, 'payload')}"
    if run.filtered:
        text += f"; left out {run.filtered:,} on purpose"
    if run.derived:
        text += f"; told of {', '.join(f'{count:,} {name}' for name, count in run.derived.items())}"
    if not complaints:
        return text
    reasons = [f"{complaint.events:,} {reason}" for reason, complaint in complaints.items()]
    shown_reasons = ", ".join(reasons if len(reasons) > 1 else complaints)
    return f"{text}; refused {sum(complaint.events for complaint in complaints.values()):,} ({shown_reasons})"


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"
