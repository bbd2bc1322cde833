"""``eddy-agent doctor``: has this host what agents need?

What may live here: the order of the looks and the lines that are shown.
"""

from __future__ import annotations

import asyncio
import sys

import click
import msgspec
import rich_click
from click.exceptions import Exit

from eddy_mesh.cli.findings import Finding, Verdict, installation_findings
from eddy_mesh.cli.folding import fold, line_width
from eddy_mesh.cli.host_findings import host_findings
from eddy_mesh.cli.output import STYLES, printable, write_records
from eddy_mesh.cli.server_findings import server_findings
from eddy_mesh.cli.settings import Settings

CONTEXT = {"help_option_names": ["-h", "--help"]}
LOOKS = {Verdict.OK: "good", Verdict.WARNING: "warning", Verdict.PROBLEM: "alarming"}


@rich_click.command(name="doctor", context_settings=CONTEXT)
@rich_click.option("--server", metavar="URL", default="", help="NATS server; default: that of a running up.")
@rich_click.option("--json", "as_json", is_flag=True, help="Write NDJSON.")
def doctor(server: str, as_json: bool) -> None:
    """Look whether this host has what agents need.

    Each line is ok, a warning (agents see or hold less) or a problem, with what to do. Nothing is changed. The exit
    status is 1 where there is a problem.
    """
    findings = [*installation_findings(), *asyncio.run(server_findings(server)), *host_findings()]
    if as_json:
        write_records([msgspec.to_builtins(finding) for finding in findings])
    else:
        for finding in findings:
            click.echo(line(finding, colour=Settings().colour, width=line_width(sys.stdout)))
    if any(finding.verdict is Verdict.PROBLEM for finding in findings):
        raise Exit(1)


def line(finding: Finding, *, colour: bool, width: int = 0) -> str:
    """Return a finding as one line, or as several of so many characters; 0 stands for any number."""
    verdict = f"{finding.verdict:<7}"
    advice = f"; {finding.advice}" if finding.advice else ""
    whole = f"{verdict}  {printable(f'{finding.subject}: {finding.text}{advice}')}"
    told = fold(whole, width, " " * (len(verdict) + 2))[len(verdict) :]
    if colour:
        verdict = click.style(verdict, **STYLES[LOOKS[finding.verdict]])  # type: ignore[arg-type]
    return verdict + told
