"""The command as a whole: quick to start, quiet to end, and what it can do without a server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from eddy_mesh.cli.group import LazyCommand
from eddy_mesh.cli.tool import COMMANDS, main

EVENTS: list[dict[str, object]] = [
    {
        "type": "syslog",
        "event_class": "system",
        "stage": "cooked",
        "host": "db1",
        "message": "Failed password",
        "level": 3,
    },
    {"type": "syslog", "event_class": "system", "stage": "cooked", "host": "db1", "message": "accepted password"},
    {
        "type": "netflow.v9",
        "event_class": "network",
        "stage": "cooked",
        "source.ip": "10.0.0.1",
        "destination.port": 22,
    },
    {
        "type": "syslog",
        "event_class": "system",
        "stage": "raw",
        "event.original": "Failed raw",
        "message": "Failed raw",
    },
]


@pytest.fixture(autouse=True)
def _no_backplane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that runs on this machine is found."""
    monkeypatch.setenv("EDDY_STATE", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("EDDY_SERVER", raising=False)


@pytest.fixture
def file(tmp_path: Path) -> str:
    """A file of events with two lines that are none."""
    path = tmp_path / "events.ndjson"
    lines = [json.dumps({**event, "occurred": f"2026-11-21T10:00:0{n}Z"}) for n, event in enumerate(EVENTS)]
    path.write_text("\n".join([*lines, "", "no json", '{"a": 1}']) + "\n")
    return str(path)


def eddy(*arguments: str, stdin: str | None = None) -> Result:
    """The result of a command."""
    return CliRunner().invoke(main, list(arguments), input=stdin)


def test_help_loads_nothing_heavy() -> None:
    """The list of commands is shown without numpy, nats, asyncio or a parser."""
    code = (
        "import sys\n"
        "from eddy_mesh.cli.tool import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'nats', 'duckdb', 'lark', 'asyncio', 'msgspec'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "cook"])
def test_every_command_is_there_and_says_what_its_entry_says(name: str) -> None:
    """The table and the commands agree, and each explains itself."""
    lazy = main.commands[name]
    assert isinstance(lazy, LazyCommand)
    loaded = lazy.load()
    summary = COMMANDS[name].summary.removesuffix(".")
    assert loaded.name == name
    assert loaded.help is not None
    assert loaded.help.split("\n")[0].startswith((summary, summary.split()[0]))
    assert eddy(name, "--help").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tpa"], "there is no command tpa"),
        (["agents", "--jsno"], "--json"),
        (["query"], "STATEMENT"),
        (["tap", "--for", "long"], "10s"),
        (["tap", "SELECT sorce.ip"], "did you mean source.ip"),
        (["agents"], "eddy-agent up"),
        (["--context", "nowhere", "audit"], "there is no nats context"),
        (["control", "hub/archive", "puase"], "did you mean pause"),
        (["control", "hub/archive", "stop", "--config", "a = 1"], "reload"),
        (["grep", "a("], "RE2"),
        (["why", "zz"], "eddy why shows some"),
        (["emit", "netflow"], "netflow takes no lines: use eddy cook"),
        (["emit", "host.process"], "use eddy cook"),
        (["top", "host", "--since", "yesterday"], "write 10m, 1h or 2d"),
        (["top", "source.ip", "--watch", "--since", "1h"], "--watch"),
        (["query", "--csv", "SELECT *"], "SELECT occurred"),
        (["query", "--csv", "--json", "SELECT host"], "contradict"),
    ],
)
def test_wrong_usage_is_one_plain_message(arguments: list[str], said: str) -> None:
    """Each mistake is answered on standard error with what to do, status 2, and no traceback."""
    result = eddy(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("eddy: ")
    assert said in result.stderr


def test_a_mistake_in_a_statement_is_pointed_at() -> None:
    """The caret stands under the mistake."""
    _, statement, caret = eddy("tap", "SELECT * WHERE foo.bar = 1").stderr.splitlines()
    assert statement[caret.index("^") :].startswith("foo.bar")


def test_a_server_that_is_not_there_is_an_error() -> None:
    """Status 1 and one message."""
    result = eddy("agents", "--server", "nats://127.0.0.1:1")
    assert result.exit_code == 1
    assert result.stderr.startswith("eddy: ")
    assert "127.0.0.1:1" in result.stderr


def test_options_are_taken_before_and_after_the_command() -> None:
    """A shared option means the same in both places, and the later one wins."""
    for arguments in (["--json", "fields", "event.duration"], ["fields", "event.duration", "--json"]):
        (line,) = eddy(*arguments).stdout.splitlines()
        assert json.loads(line)["unit"] == "ns"


def test_fields_are_shown_without_a_backplane() -> None:
    """The registry is always there; what is seen needs a backplane, and a wrong name gets the nearest."""
    result = eddy("fields", "event.duration")
    assert "time between start and end" in result.stdout
    assert eddy("fields", "--seen").exit_code == 2
    missing = eddy("fields", "sorce.ip")
    assert missing.exit_code == 1
    assert "did you mean source.ip" in missing.stderr


# --- grep in files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["Failed"], [0]),
        (["-i", "ACCEPTED"], [1]),
        (["password"], [0, 1]),
        (["-v", "Failed"], [1]),
        (["10.0.0.0/8"], [2]),
        (["22", "--field", "destination.port"], [2]),
        (["error", "--field", "level"], [0]),
        (["password", "--until", "2026-11-21T10:00:01Z"], [0]),
        (["password", "--since", "2026-11-21T10:00:01Z"], [1]),
    ],
)
def test_grep_finds_in_a_file_what_it_would_find_in_a_store(file: str, arguments: list[str], found: list[int]) -> None:
    """Pattern, field, case, inversion and time select the same events as the statement language does."""
    result = eddy("grep", *arguments, "-f", file)
    assert result.exit_code == 0
    messages = [(row.get("message"), row.get("source.ip")) for row in map(json.loads, result.stdout.splitlines())]
    assert messages == [(EVENTS[n].get("message"), EVENTS[n].get("source.ip")) for n in found]


def test_grep_counts_by_host_and_type(file: str) -> None:
    """-c has one row for each host and type."""
    result = eddy("grep", "-c", "password", "-f", file)
    assert json.loads(result.stdout) == {"host": "db1", "type": "syslog", "events": 2}


def test_grep_says_which_lines_are_no_events(file: str) -> None:
    """Lines that are no events are counted, with the number of the first; nothing found is status 1, as with grep."""
    result = eddy("grep", "nowhere", "-f", file)
    assert result.exit_code == 1
    assert result.stderr == "eddy: 2 lines are no events in JSON and were left out (first: line 6)\n"


def test_grep_reads_standard_input() -> None:
    """A dash stands for standard input."""
    result = eddy("grep", "Failed", "-f", "-", stdin=json.dumps(EVENTS[0]) + "\n")
    assert json.loads(result.stdout)["host"] == "db1"


def test_a_reader_that_goes_away_ends_it_quietly(file: str, tmp_path: Path) -> None:
    """`eddy ... | head` leaves no traceback."""
    many = tmp_path / "many.ndjson"
    many.write_text("".join(Path(file).read_text().splitlines(keepends=True)[:2]) * 5000)
    code = "from eddy_mesh.cli.tool import main; main()"
    command = [sys.executable, "-c", code, "grep", "password", "-f", str(many)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(20) == 141
