"""``eddy cook``: normalizer and transformer offline, without a server.

What may live here: the options, the lines that come out, and what is said about them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
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

PACKET = "packet"
LOOKED_AT = 512
"""Octets at the beginning of a file that show what it is."""
CAPTURES = (b"\xd4\xc3\xb2\xa1", b"\xa1\xb2\xc3\xd4", b"\x4d\x3c\xb2\xa1", b"\xa1\xb2\x3c\x4d", b"\n\r\r\n")
"""How pcap and pcapng files begin."""
_TEXT = frozenset(b"\t\r\n") | frozenset(range(0x20, 0x7F))


@click.command("cook", cls=RichCommand, context_settings=CONTEXT)
@click.argument("raw", metavar="TYPE", is_eager=True, callback=lambda _, __, name: raw_type(name))
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
    raw: RawType, files: tuple[str, ...], stage: str, statement: str, ports: tuple[int, ...], config: str
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
    shown = Shown(stage)
    write = _writer(sys.stdout.buffer, _plan(statement, shown))
    complaints = Complaints()
    run = CookingRun(_cooking(raw, config, shown), shown, write, complaints, time_ns())
    inputs = InputFiles(raw, ports, complaints)
    for name in files or (STDIN,):
        if name != STDIN and Path(name).is_file() and Path(name).stat().st_size == 0:
            complaints.add("empty", 1, name, "the file is empty")
            continue
        for draft in inputs.drafts(name):
            run.take(draft, name, time_ns())
    run.finish(time_ns())
    hints = hint_texts(raw, files, run)
    for text in (*inputs.remarks, *_complaint_texts(complaints), *hints, summary_text(run, shown, complaints)):
        tell(printable(text))
    if complaints or run.missing_templates:
        raise Exit(1)


def hint_texts(raw: RawType, files: tuple[str, ...], run: CookingRun) -> Iterator[str]:
    """Yield what to do where no event came out as was probably meant."""
    if run.missing_templates:
        numbers = sorted(run.missing_templates)
        what = "template" if len(numbers) == 1 else "templates"
        yield f"flows need {what} {', '.join(map(str, numbers))}: give its file first"
    if run.events or run.derived or raw.is_lines:
        return
    for name in files:
        beginning = _beginning(name)
        if beginning.startswith(CAPTURES) and raw.kind.type != PACKET:
            yield f"{name}: no {raw.kind.type} export in this capture; for the packets: eddy cook packet {name}"
        elif beginning and _is_text(beginning):
            yield f"{name}: it looks like text; for lines of a log: eddy cook file {name}"


def _beginning(name: str) -> bytes:
    """Return the first octets of a file, none where it can not be read a second time."""
    path = Path(name)
    try:
        with path.open("rb") as file:
            return file.read(LOOKED_AT) if path.is_file() else b""
    except OSError:
        return b""


def _is_text(data: bytes) -> bool:
    return all(octet in _TEXT for octet in data)


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
        raise UsageError("--select looks at each event by itself: leave out aggregates, GROUP BY, ORDER BY and LIMIT")
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
