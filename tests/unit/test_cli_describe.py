"""What can be run explains itself, and what is explained can be run."""

from __future__ import annotations

import json
import tomllib

import msgspec
import pytest
from click.testing import CliRunner, Result

from eddy_mesh.cli.agent import main
from eddy_mesh.cli.describing import AGENT_TYPE, description, inventory
from eddy_mesh.config import HostConfig, mistakes_in
from eddy_mesh.discovery import PARTS, blueprint

ALL = [(one.kind, one.name) for one in inventory()]


def run(*arguments: str) -> Result:
    """The result of a command."""
    return CliRunner().invoke(main, list(arguments))


def test_list_shows_everything_with_a_summary() -> None:
    """Each agent type, source, cooking and detector has a line."""
    told = [json.loads(line) for line in run("list", "--json").stdout.splitlines()]
    assert [(one["kind"], one["name"]) for one in told] == ALL
    assert all(one["summary"] for one in told)
    assert {kind for kind, _ in ALL} == {AGENT_TYPE, *(part.key for part in PARTS.values())}
    assert len(run("list").stdout.splitlines()) == len(ALL) + 1


@pytest.mark.parametrize("number", range(len(ALL)), ids=[f"{kind}-{name}".replace(" ", "_") for kind, name in ALL])
def test_the_configuration_that_is_shown_can_be_used(number: int) -> None:
    """The tables of each description are TOML without a mistake, and build the agent that they describe."""
    one = inventory()[number]
    text = description(one, colour=False)
    start = text.index("\n[agents.") + 1
    table = tomllib.loads(text[start:].split("\n\nExample:")[0])
    assert not mistakes_in(table, HostConfig, "shown")
    (agent,) = msgspec.convert(table, HostConfig).agents.values()
    plan = blueprint(agent, "shown")
    assert agent.type == one.agent_type
    if one.kind != AGENT_TYPE:
        assert plan.module is one.module


def test_every_setting_is_explained() -> None:
    """Each line of a configuration that sets something has a comment above it."""
    for one in inventory():
        lines = description(one, colour=False).split("\n\nExample:")[0].splitlines()
        start = next((n for n, line in enumerate(lines) if line.endswith(".config]")), len(lines))
        for before, line in zip(lines[start:], lines[start + 1 :], strict=False):
            if " = " in line and not line.startswith("#"):
                assert before.startswith("#"), (one.name, line)


def test_a_name_that_two_things_have_shows_both() -> None:
    """Source and cooking netflow are explained together, with subjects and examples."""
    text = run("describe", "netflow").stdout
    assert "source netflow\n==" in text
    assert "cooking netflow\n==" in text
    assert "out  eddy.event.raw.network.netflow.*" in text
    assert "out  eddy.event.cooked.network.netflow.v9.*" in text
    assert text.count("Example:") >= 2


def test_names_may_be_written_with_a_hyphen() -> None:
    """Agents are named so; the files are not."""
    assert run("describe", "port-scan").stdout == run("describe", "port_scan").stdout


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    """Status 2 and what was probably meant."""
    result = run("describe", "sylog")
    assert result.exit_code == 2
    assert "did you mean syslog?" in result.stderr
