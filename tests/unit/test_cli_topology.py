"""``eddy plan | apply | rollback | topology`` without a server: what is refused, and how rows are shown."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from eddy_mesh.cli import changing
from eddy_mesh.cli import topology as topology_command
from eddy_mesh.cli.changing import who
from eddy_mesh.cli.managing import Steps
from eddy_mesh.cli.settings import Settings
from eddy_mesh.cli.tool import main
from eddy_mesh.cli.topology import record_lines
from eddy_mesh.errors import EddyError
from eddy_mesh.task import Answer
from eddy_mesh.topology.checks import read
from eddy_mesh.topology.placement import place

MANIFEST = '[hosts.a]\n[agents.in]\ntype = "normalizer"\nsource = "syslog"\nhost = "a"\n'
MANIFEST += '[agents.keep]\ntype = "archive"\nhost = "a"\nprocess = "own"\n[edges.kept]\nfrom = "in"\nto = "keep"\n'


@pytest.fixture(autouse=True)
def _no_backplane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that runs on this machine is found."""
    monkeypatch.setenv("EDDY_STATE", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("EDDY_SERVER", raising=False)


def eddy(*arguments: str) -> Result:
    """The result of a command."""
    return CliRunner().invoke(main, list(arguments))


def test_a_mistake_is_told_before_anybody_is_asked(tmp_path: Path) -> None:
    """With the name of the file; for a plan every error is status 1, as 2 means that something would change."""
    file = tmp_path / "site.toml"
    file.write_text(MANIFEST.replace('to = "keep"', 'to = "kep"'))
    for verb, status in (("plan", 1), ("apply", 2)):
        result = eddy(verb, str(file))
        assert (result.exit_code, result.stdout) == (status, "")
        assert f"{file}: edges.kept: to: " in result.stderr
        assert "did you mean keep?" in result.stderr
    file.write_text(MANIFEST)
    assert eddy("plan", str(file)).exit_code == 1
    assert "eddy-agent up" in eddy("plan", str(file)).stderr
    assert "No such file" in eddy("plan", str(tmp_path / "none.toml")).stderr


def test_what_is_applied_is_what_was_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The manager is told which plan that was; what is doubtful in it, and who is not heard, is said beside it."""
    asked: list[Mapping[str, object]] = []
    shown = {
        "agents": [{}],
        "revision_before": 4,
        "placement": "abc",
        "lines": ["+ start       a/in: normalizer syslog"],
    }

    async def plan(_mesh: object, _verb: str, _request: object) -> Answer:
        return {**shown, "warnings": ["edge kept carries nothing"], "silent": ["b", "c"]}

    async def follow(_mesh: object, _steps: Steps, verb: str, request: Mapping[str, object]) -> None:
        asked.append({"verb": verb, **request})

    monkeypatch.setattr(changing, "ask_one", plan)
    monkeypatch.setattr(changing, "follow", follow)
    monkeypatch.setattr(changing, "with_mesh", lambda _settings, work: asyncio.run(work(None)))
    file = tmp_path / "site.toml"
    file.write_text(MANIFEST)
    result = eddy("apply", str(file), "--without", "d")
    assert result.exit_code == 0, result.output
    (request,) = asked
    assert (request["verb"], request["expected"], request["expected_placement"]) == ("apply", 4, "abc")
    assert request["terms"] == {"observe_s": 5.0, "watermark_s": 3.0, "without": ["d"]}
    assert result.stdout.splitlines() == shown["lines"]
    assert "warning: edge kept carries nothing" in result.stderr
    assert "not heard, and left alone: b, c;" in result.stderr


@pytest.mark.parametrize(
    ("plan", "row", "status"),
    [
        ({"agents": []}, {"step": "nothing", "what": "nothing would change", "revision": 4}, 0),
        (
            {"agents": [{}], "missing": ["b"]},
            {
                "step": "failed",
                "error": "not there: b: start it, take it out of the manifest, or let it be with --without b",
            },
            2,
        ),
        ({"agents": [{}]}, {"step": "failed", "error": "revision 5 rolled back: "}, 1),
    ],
)
def test_every_end_is_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plan: Answer, row: Answer, status: int
) -> None:
    """With --json a program reads on standard output that there was nothing to do, or why it was not done."""

    async def planned(_mesh: object, _verb: str, _request: object) -> Answer:
        return {"revision_before": 4, **plan}

    async def follow(*_: object) -> None:
        raise EddyError("revision 5 rolled back: b/y is failed")

    monkeypatch.setattr(changing, "ask_one", planned)
    monkeypatch.setattr(changing, "follow", follow)
    monkeypatch.setattr(changing, "with_mesh", lambda _settings, work: asyncio.run(work(None)))
    file = tmp_path / "site.toml"
    file.write_text(MANIFEST)
    result = eddy("--json", "apply", str(file))
    (told,) = map(msgspec.json.decode, result.stdout.splitlines())
    assert (result.exit_code, told["step"], told.get("revision")) == (status, row["step"], row.get("revision"))
    assert str(told.get("error", "")).startswith(str(row.get("error", "")))
    assert told.get("error", "") in result.stderr


def test_a_change_that_went_back_ends_with_its_own_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program reads refused or rolled_back last, no row failed after it; the status is 1 all the same."""

    async def planned(_mesh: object, _verb: str, _request: object) -> Answer:
        return {"revision_before": 4, "agents": [{}]}

    async def follow(_mesh: object, steps: Steps, *_: object) -> None:
        steps.show({"step": "rolled_back", "revision": 6, "what": "revision 5 rolled back: b/y is failed"})
        raise EddyError("revision 5 rolled back: b/y is failed")

    monkeypatch.setattr(changing, "ask_one", planned)
    monkeypatch.setattr(changing, "follow", follow)
    monkeypatch.setattr(changing, "with_mesh", lambda _settings, work: asyncio.run(work(None)))
    file = tmp_path / "site.toml"
    file.write_text(MANIFEST)
    result = eddy("--json", "apply", str(file))
    (told,) = map(msgspec.json.decode, result.stdout.splitlines())
    assert (result.exit_code, told["step"]) == (1, "rolled_back")


def test_a_history_of_nothing_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not an empty screen; a program gets no rows."""
    monkeypatch.setattr(topology_command, "with_mesh", lambda _settings, _work: [])
    for arguments in (["topology", "history"], ["--json", "topology", "history"]):
        result = eddy(*arguments)
        assert (result.exit_code, result.stdout) == (0, "")
        assert ("no topology was applied" in result.stderr) is (arguments[0] == "topology")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["topology", "list"], "history"),
        (["topology", "diff", "1", "2", "3"], "two revisions"),
        (["topology", "show", "3"], "--revision N"),
        (["topology", "history", "--toml"], "for show"),
        (["rollback", "0"], "0"),
        (["apply", "x.toml", "--observe", "-1"], "-1"),
    ],
)
def test_wrong_usage_says_what_is_right(arguments: list[str], said: str) -> None:
    """Status 2, nothing on standard output."""
    result = eddy(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr


def test_steps_are_one_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    """Where, what, how long, and what went wrong; the observation is for terminals, text from outside is made safe."""
    steps = Steps(Settings(no_color=True))
    for row in (
        {"step": "prepare", "host": "a", "agent": "", "what": "started \x1bin", "took_ms": 3.0},
        {"step": "retire", "host": "a", "agent": "in", "what": "", "took_ms": 1.5, "error": "not there"},
        {"step": "observe", "what": "1.0 of 5 s"},
        {"step": "applied", "revision": 3, "what": "why not"},
    ):
        steps.show(row)
    prepare, retire, applied = capsys.readouterr().out.splitlines()
    assert prepare.split() == ["prepare", "a", "started", "\\x1bin", "3.0", "ms"]
    assert retire.split() == ["retire", "a/in", "1.5", "ms", "not", "there"]
    assert applied.split() == ["applied", "revision", "3", "why", "not"]


def test_a_record_is_shown_with_hosts_agents_and_edges() -> None:
    """Children name their parent, edges their generation."""
    placement = msgspec.to_builtins(place(read(MANIFEST, "t"), []))
    row = {"revision": 1, "state": "applied", "who": "", "when_ns": 0, "why": "", "manager": "", "placement": placement}
    head, *rest = record_lines(row, 0)
    assert head.startswith("revision 1: applied, by nobody named at ")
    assert rest == [
        "a",
        "  in: normalizer syslog",
        "a.keep (started by a)",
        "  keep: archive",
        "edge kept: a/in -> a.keep/keep; live, since revision 1; SELECT *",
    ]


def test_who_it_was_has_a_user_and_a_host() -> None:
    """For the history and the events."""
    user, at, host = who().partition("@")
    assert (bool(user), at, bool(host)) == (True, "@", True)
