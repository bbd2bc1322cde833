"""``eddy-agent``: the command of the operator of a host.

What may live here: the table of commands. Each is in the file that its entry names, and is loaded when it is used.
"""

from __future__ import annotations

import rich_click as click

from eddy_mesh.cli.group import Entry, QuietGroup
from eddy_mesh.version import __version__

COMMANDS = {
    "up": Entry("eddy_mesh.cli.launching:up_command", "Start everything on this machine, with no configuration."),
    "run": Entry("eddy_mesh.cli.launching:run_command", "Start a host process from a configuration file."),
    "check": Entry("eddy_mesh.cli.checking:check", "Name every mistake in a configuration file."),
    "list": Entry("eddy_mesh.cli.describing:list_command", "Show the agent types, sources, cookings and detectors."),
    "describe": Entry(
        "eddy_mesh.cli.describing:describe", "Explain an agent or a source, with its default configuration."
    ),
    "doctor": Entry("eddy_mesh.cli.doctor:doctor", "Look whether this host has what agents need."),
}


@click.group(
    name="eddy-agent",
    cls=QuietGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="eddy-agent")
def main() -> None:
    """Launch and care for the agents of a host.

    \b
    eddy-agent up
    eddy-agent check edge.toml && eddy-agent run edge.toml
    eddy-agent describe netflow
    """  # noqa: D301  # click wants the backspace itself


main.add_entries(COMMANDS)

if __name__ == "__main__":  # children of a host process are started with this interpreter and this module
    main()
