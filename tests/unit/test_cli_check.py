"""Every mistake in a configuration file is named at once."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner, Result

from eddy_mesh.cli.agent import main
from eddy_mesh.cli.checking import mistakes_in_file

MISTAKEN = """
nmae = "x"
[nats]
servers = ["htp://a:1"]
[agents.a]
type = "normaliser"
[agents.b]
type = "normalizer"
source = "netflw"
[agents.c]
type = "transformer"
cooking = "syslog"
subcribe = ["x"]
subscribe = ["SELECT * WHERE source.pi = '192.0.2.1'"]
config = { timezon = "UTC" }
[agents.d]
type = "transformer"
cooking = "syslog"
mailbox_events = "many"
config = { timezone = "Mars/Olympus" }
"""
EXPECTED = (
    ("", "did you mean name?"),
    (" nats.servers", "write nats://HOST:PORT"),
    (" agents.a", "did you mean normalizer?"),
    (" agents.b", "did you mean netflow?"),
    (" agents.c", "did you mean subscribe?"),
    (" agents.c.subscribe", "did you mean source.ip?"),
    (" agents.c.config", "did you mean timezone?"),
    (" agents.d: mailbox_events", "expected int"),
    (" agents.d.config", "IANA name"),
)


def check(path: Path) -> Result:
    """The result of the command."""
    return CliRunner().invoke(main, ["check", str(path)])


def test_every_mistake_is_named_at_once(tmp_path: Path) -> None:
    """Each has a line of its own with file, key, and the nearest right name; none hides another."""
    path = tmp_path / "edge.toml"
    path.write_text(MISTAKEN)
    mistakes = mistakes_in_file(path)
    assert len(mistakes) == len(EXPECTED)
    for place, hint in EXPECTED:
        assert [line for line in mistakes if line.startswith(f"{path}:{place}") and hint in line], (place, mistakes)


def test_the_command_refuses_a_mistaken_file(tmp_path: Path) -> None:
    """Mistakes go to standard error, with status 2."""
    path = tmp_path / "edge.toml"
    path.write_text(MISTAKEN)
    result = check(path)
    assert (result.exit_code, result.stdout) == (2, "")
    assert all(hint in result.stderr for _, hint in EXPECTED)


def test_of_very_many_mistakes_the_first_are_shown(tmp_path: Path) -> None:
    """A file of hundreds does not bury what to mend first, and it is said how many are left out; 50 are all shown."""
    path = tmp_path / "edge.toml"
    path.write_text("".join(f'[agents.a{number}]\ntype = "nix"\n' for number in range(51)))
    lines = check(path).stderr.splitlines()
    assert [line.partition("agents.")[2].partition(":")[0].split(".")[0] for line in lines[:50]] == [
        f"a{number}" for number in range(50)
    ]
    assert lines[50:] == ["... and 1 more mistake: mend these first, and check again"]
    path.write_text("".join(f'[agents.a{number}]\ntype = "nix"\n' for number in range(50)))
    lines = check(path).stderr.splitlines()
    assert len(lines) == 50
    assert "more mistake" not in lines[-1]


def test_a_right_file_is_ok(tmp_path: Path) -> None:
    """One line says so, with the number of agents."""
    path = tmp_path / "edge.toml"
    path.write_text('[agents.s]\ntype = "normalizer"\nsource = "syslog"\n')
    result = check(path)
    assert (result.exit_code, result.stdout) == (0, f"{path}: ok, 1 agent\n")


def test_several_files_are_looked_at(tmp_path: Path) -> None:
    """What is right is said of each, what is wrong of all at once, and a file without agents says so."""
    good, empty, bad = (tmp_path / name for name in ("good.toml", "empty.toml", "bad.toml"))
    good.write_text('[agents.s]\ntype = "normalizer"\nsource = "syslog"\n')
    empty.write_text("")
    bad.write_text('[agents.s]\ntype = "normalizer"\nsource = "sylog"\n')
    result = CliRunner().invoke(main, ["check", str(good), str(empty), str(bad)])
    assert result.exit_code == 2
    assert result.stdout == f"{good}: ok, 1 agent\n{empty}: ok, no agents\n"
    assert "did you mean syslog?" in result.stderr


def test_a_topology_is_checked_as_one(tmp_path: Path) -> None:
    """A file with hosts declares agents for each of them; their mistakes are named with the host."""
    path = tmp_path / "topology.toml"
    path.write_text('[hosts.a.agents.s]\ntype = "normalizer"\nsource = "syslog"\n')
    assert check(path).stdout == f"{path}: ok, 1 host, 1 agent\n"
    path.write_text('backplan = "x"\n[hosts.a.agents.s]\ntype = "normaliser"\n')
    backplane, agent = mistakes_in_file(path)
    assert "did you mean backplane?" in backplane
    assert agent.startswith(f"{path}: hosts.a.agents.s: ")
    assert "did you mean normalizer?" in agent


def test_edges_and_places_of_a_topology_are_checked(tmp_path: Path) -> None:
    """A file whose agents say where they run is a topology too; ends of edges and settings of agents are looked at."""
    path = tmp_path / "topology.toml"
    agents = '[agents.in]\ntype = "normalizer"\nsource = "syslog"\nhost = "a"\n'
    agents += '[agents.cook]\ntype = "transformer"\ncooking = "syslog"\nlabel = "site=x"\n'
    edge = '[edges.lines]\nfrom = "in"\nto = "cook"\n'
    path.write_text(agents)
    assert check(path).stdout == f"{path}: ok, no hosts, 2 agents\n"
    path.write_text(agents + edge)
    assert check(path).stdout == f"{path}: ok, no hosts, 2 agents, 1 edge\n"
    path.write_text(agents + edge.replace("cook", "cok"))
    (mistake,) = mistakes_in_file(path)
    assert mistake.startswith(f"{path}: edges.lines: to: ")
    assert "did you mean cook?" in mistake
    path.write_text(agents + 'config = { timezone = "Mars/Olympus" }\n')
    (mistake,) = mistakes_in_file(path)
    assert mistake.startswith(f"{path}: agents.cook.config: ")


def test_files_that_can_not_be_read_or_are_no_toml(tmp_path: Path) -> None:
    """A missing file, wrong bytes and wrong syntax are one line each."""
    broken, latin = tmp_path / "broken.toml", tmp_path / "latin.toml"
    broken.write_text("a = = 1")
    latin.write_bytes(b"# \xe9")
    for path, said in ((tmp_path / "none.toml", "No such file"), (broken, "line 1"), (latin, "utf-8")):
        (mistake,) = mistakes_in_file(path)
        assert mistake.startswith(f"{path}: ")
        assert said in mistake


def test_tables_of_a_wrong_form(tmp_path: Path) -> None:
    """Agents that are no tables, or have no type, are named and crash nothing."""
    path = tmp_path / "odd.toml"
    path.write_text('nats = 1\nagents = { a = 1, b = {}, c = { type = 5 }, d = { type = "normalizer", source = 1 } }\n')
    mistakes = mistakes_in_file(path)
    assert len(mistakes) == 5
    path.write_text("agents = 3\n")
    assert len(mistakes_in_file(path)) == 1


def test_a_host_that_is_not_declared_is_doubtful(tmp_path: Path) -> None:
    """It may be there all the same, so that is no mistake; and it is told beside mistakes, too."""
    path = tmp_path / "topology.toml"
    text = '[hosts.beta]\n[agents.keep]\ntype = "archive"\nhost = "betta"\n'
    path.write_text(text)
    result = check(path)
    assert (result.exit_code, result.stdout) == (0, f"{path}: ok, 1 host, 1 agent\n")
    assert f"warning: {path}: agents.keep: unknown host 'betta'; did you mean beta?" in result.stderr
    path.write_text(text + "cuont = 2\n")
    told = check(path).stderr
    assert "did you mean beta?" in told
    assert "did you mean count?" in told
    path.write_text(text.replace("[hosts.beta]\n", ""))
    assert "warning" not in check(path).stderr


def test_an_address_is_checked_in_a_host_file_too(tmp_path: Path) -> None:
    """It would be found only when the source starts."""
    path = tmp_path / "edge.toml"
    path.write_text('[agents.s]\ntype = "normalizer"\nsource = "syslog"\nconfig = { listen_udp = ["*:1x"] }\n')
    (mistake,) = mistakes_in_file(path)
    assert mistake.startswith(f"{path}: agents.s.config: listen_udp: '*:1x' is no endpoint")
