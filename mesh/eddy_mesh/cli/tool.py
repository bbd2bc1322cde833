"""``eddy``: the command of managers and tools.

What may live here: the table of commands. Each is in the file that its entry names, and is loaded when it is used.
"""

from __future__ import annotations

import rich_click as click

from eddy_mesh.cli.group import Entry, QuietGroup
from eddy_mesh.cli.settings import CONTEXT, Settings, shared_options
from eddy_mesh.version import __version__

COMMANDS = {
    "tap": Entry("eddy_mesh.cli.events:tap", "Show events as they happen."),
    "query": Entry("eddy_mesh.cli.events:query", "Show stored events."),
    "fetch": Entry(
        "eddy_mesh.cli.fetch:fetch", "Show whole events by id: from the hosts that made them, else from archives."
    ),
    "grep": Entry("eddy_mesh.cli.search:grep", "Find a pattern in stored events, live events or a file."),
    "top": Entry("eddy_mesh.cli.ranking:top", "Rank the values of a field."),
    "why": Entry("eddy_mesh.cli.why:why", "Show the diagnosis ID with the events that led to it."),
    "types": Entry("eddy_mesh.cli.inventory:types", "Show which events are where, since when and at what rate."),
    "fields": Entry("eddy_mesh.cli.inventory:fields", "Show the fields that events can have."),
    "agents": Entry("eddy_mesh.cli.agents:agents", "Show every agent: state, rate, queue, loss, uptime."),
    "control": Entry("eddy_mesh.cli.control:control", "Give an agent or a host process a command."),
    "audit": Entry("eddy_mesh.cli.accounts:audit", "Show whether every edge accounts for every event."),
    "subscriptions": Entry("eddy_mesh.cli.accounts:subscriptions", "Show who asks for which events."),
    "plan": Entry(
        "eddy_mesh.cli.changing:plan",
        "Show what applying a topology would do: start, stop, move, rewire, reconfigure, and what it costs.",
    ),
    "apply": Entry("eddy_mesh.cli.changing:apply", "Make a backplane run what a topology says, while events flow."),
    "rollback": Entry("eddy_mesh.cli.changing:rollback", "Go back to an earlier revision of the topology."),
    "topology": Entry(
        "eddy_mesh.cli.topology:topology",
        "Show the topology of record: hosts, agents and edges, who applied it, when and why.",
    ),
    "emit": Entry("eddy_mesh.cli.emitting:emit", "Put lines or JSON objects into the mesh."),
    "cook": Entry("eddy_mesh.cli.cook:cook_command", "Turn files of raw payloads into events, without a server."),
}


@click.group(
    name="eddy",
    cls=QuietGroup,
    context_settings=CONTEXT,
)
@click.version_option(__version__, prog_name="eddy")
@shared_options
@click.pass_context
def main(ctx: click.Context) -> None:
    """Ask the diagnostic backplane: what happened, where, and how do you know?

    A local `eddy-agent up` is found without being told; another backplane is named with --server or --context.

    \b
    eddy tap "SELECT * WHERE level <= warning"
    eddy top source.ip --since 1h
    eddy grep "authentication failure" -c
    """  # noqa: D301  # click's mark for lines that stay as they are
    ctx.ensure_object(Settings)


main.add_entries(COMMANDS)
