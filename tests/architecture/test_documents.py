"""Documents say what is: commands exist, code compiles, samples are valid, tables are rendered, links lead on."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import click
import msgspec
import pytest

from eddy_mesh import discovery
from eddy_mesh.cli.agent import main as eddy_agent
from eddy_mesh.cli.group import LazyCommand
from eddy_mesh.cli.tool import main as eddy
from eddy_mesh.config import AgentConfig, HostConfig, Retention, convert, parse_toml
from eddy_mesh.fields import registry
from eddy_mesh.selection import compile_statement
from eddy_mesh.topology.changes import compare
from eddy_mesh.topology.checks import checked, read
from eddy_mesh.topology.dry_edges import warnings
from eddy_mesh.topology.manifest import AgentEntry, EdgeEntry, HostEntry, Manifest
from eddy_mesh.topology.placement import Placement, place
from eddy_mesh.topology.schema import MADE

REPO = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([REPO / "README.md", REPO / "subjects.md", *(REPO / "docs").rglob("*.md")])
CONFIGS = sorted((REPO / "configs").glob("*.toml"))
TOPOLOGIES = sorted((REPO / "configs" / "topologies").glob("*.toml"))
PROGRAMS: dict[str, click.Group] = {"eddy": eddy, "eddy-agent": eddy_agent}
MAX_README_LINES = 150
MAX_NAMED_BY_HAND = 3
"""Rows of a table that may name agents, parts or fields; a longer list belongs to a rendered part or to `describe`."""

FENCE = re.compile(r"^```(\w*)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`((?:eddy|eddy-agent) [^`]+)`(?!`)")
LINK = re.compile(r"\[[^\]\[]+\]\(([^)\s]+)\)")
RENDERED = re.compile(r"<!-- rendered: (\w+) -->(.*?)<!-- end of rendered part -->", re.DOTALL)
SEPARATORS = frozenset({"|", "||", "&&", ";", "&", ">", ">>", "<"})


class Block(NamedTuple):
    """One fenced block of a document."""

    document: Path
    language: str
    info: str
    text: str

    def __str__(self) -> str:
        return f"{self.document.relative_to(REPO).as_posix()}: {self.text.splitlines()[0][:40]}"


BLOCKS = [
    Block(document, *found)
    for document in DOCUMENTS
    for found in FENCE.findall(document.read_text("utf-8"))
    if found[2].strip()
]


def of_language(*languages: str) -> pytest.MarkDecorator:
    """Return the mark that runs a test on every block in some languages."""
    return pytest.mark.parametrize("block", [block for block in BLOCKS if block.language in languages], ids=str)


def typed_lines(document: Path) -> Iterator[str]:
    """Yield every line that a document tells the reader to type."""
    for block in BLOCKS:
        if block.document == document and block.language in {"console", "sh", "bash"}:
            yield from (line.removeprefix("$ ") for line in block.text.replace("\\\n", " ").splitlines())
        if block.document == document and block.language == "ini":  # a systemd unit
            yield from re.findall(r"^Exec\w+=(.*)$", block.text, re.MULTILINE)


def mentioned_lines(document: Path) -> Iterator[str]:
    """Yield every command line in the running text; the arguments of a command that is only named may be left out."""
    yield from INLINE.findall(FENCE.sub("", document.read_text("utf-8")))


def commands_of(line: str) -> Iterator[list[str]]:
    """Yield the words of each command of ours in a command line."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for token in [*lexer, ";"]:
        if token in SEPARATORS:
            if words and words[0].rpartition("/")[2] in PROGRAMS:
                yield words
            words = []
        else:
            words.append(token)


def parsed(words: list[str], *, is_complete: bool) -> dict[str, object]:
    """Return the parameters of a command line by name.

    Args:
        words: program, command and arguments.
        is_complete: whether an argument that the command needs must be there.

    Raises:
        click.UsageError: there is no such command, option or argument, or one is missing.
    """
    program = PROGRAMS[words[0].rpartition("/")[2]]
    context = click.Context(program, info_name=words[0])
    _, rest, _ = program.make_parser(context).parse_args(words[1:])
    if not rest:
        return {}
    _, command, arguments = program.resolve_command(context, rest)
    assert isinstance(command, LazyCommand)
    loaded = command.load()
    context = click.Context(loaded, info_name=command.name, parent=context)
    values, left, _ = loaded.make_parser(context).parse_args(arguments)
    if left:
        raise click.UsageError(f"unexpected {left}")
    needed = [held for held in loaded.params if held.required and held.value_is_missing(values.get(str(held.name)))]
    if needed and is_complete:
        raise click.UsageError(f"missing {[held.name for held in needed]}")
    return dict(values)


# --- command lines, code, statements -----------------------------------------------------------------------------


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_command_lines_exist(document: Path) -> None:
    """Every command line names a command that there is, with options that it has; statements in it compile."""
    typed = [(line, True) for line in typed_lines(document)]
    for line, is_complete in [*typed, *((line, False) for line in mentioned_lines(document))]:
        for words in commands_of(line):
            try:
                values = parsed(words, is_complete=is_complete)
            except click.UsageError as error:
                pytest.fail(f"{line}: {error.format_message()}")
            for value in values.values():
                if isinstance(value, str) and value.upper().startswith("SELECT "):
                    compile_statement(value, now_ns=0)


@pytest.mark.parametrize(
    "line",
    [
        "eddy tapp",
        "eddy tap --nope",
        "true && eddy control",
        "eddy-agent check --nonsense a.toml",
        "eddy audit | eddy query",
    ],
)
def test_wrong_command_lines_are_found(line: str) -> None:
    """A command, option or argument that there is not, or that is missing, does not pass."""
    *_, last = commands_of(line)
    with pytest.raises(click.UsageError):
        parsed(last, is_complete=True)


@of_language("python")
def test_python_compiles(block: Block) -> None:
    """Every block of Python is Python."""
    compile(block.text, str(block), "exec", dont_inherit=True)


@of_language("sql")
def test_statements_compile(block: Block) -> None:
    """Every statement is one of the language, about fields that there are."""
    for statement in block.text.strip().split("\n\n"):
        compile_statement(statement, now_ns=0)


@of_language("json")
def test_json_is_json(block: Block) -> None:
    """Every block of JSON is JSON, and a statement in it compiles."""
    held = msgspec.json.decode(block.text)
    if isinstance(held, dict) and "statement" in held:
        compile_statement(held["statement"], now_ns=0)


@of_language("toml")
def test_toml_is_a_configuration(block: Block) -> None:
    """Every block of TOML is the configuration of a host process, a topology, or names the file that it is."""
    table = tomllib.loads(block.text)
    if "hosts" in table:
        checked(table, str(block))
    elif not re.search(r"file=(?!\S*load\.toml)", block.info):
        convert(table, HostConfig, str(block))


# --- configurations ----------------------------------------------------------------------------------------------


def check_agents(agents: dict[str, AgentConfig], file: str) -> None:
    """Fail where an agent can not be built."""
    assert agents
    for name, agent in agents.items():
        discovery.blueprint(agent, f"{file}: agents.{name}")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_sample_is_valid(path: Path) -> None:
    """Each sample passes every check that `eddy-agent run` makes before it starts anything, and says what it is for."""
    text = path.read_text("utf-8")
    assert text.startswith("# ")
    config = convert(parse_toml(text, path.name), HostConfig, path.name)
    assert config.name
    assert config.nats.servers
    check_agents(config.agents, path.name)


@pytest.mark.parametrize("path", TOPOLOGIES, ids=lambda path: path.name)
def test_topology_is_valid(path: Path) -> None:
    """Each topology is a manifest without mistakes, and its agents can be placed on the hosts that it declares."""
    manifest = read(path.read_text("utf-8"), path.name)
    assert manifest.hosts
    for host, part in place(manifest, ()).hosts.items():
        check_agents(part.agents, f"{path.name}: {host}")


# --- the manifest ------------------------------------------------------------------------------------------------

OPERATIONS = REPO / "docs" / "operations.md"
NAMED = ("hosts", "agents", "edges", "retention")
"""Tables of a manifest, each with keys of its own."""


def described_keys() -> dict[str, dict[str, str]]:
    """Return what the tables of the section on manifests have as default of each key, by the table's introduction."""
    section = OPERATIONS.read_text("utf-8").partition("### The manifest\n")[2].partition("\n### ")[0]
    found: dict[str, dict[str, str]] = {}
    for about, rows in re.findall(r"^Of ([^\n]*):\n\n\| key [^\n]*\n\|-[^\n]*\n((?:\|.*\n)+)", section, re.MULTILINE):
        cells = [[cell.strip() for cell in row.split("|")] for row in rows.splitlines()]
        found[about] = {key: row[2] for row in cells for key in re.findall(r"`([\w.]+)`", row[1])}
    return found


def keys_of(*structs: tuple[str, type[msgspec.Struct]]) -> dict[str, object]:
    """Return the default of every key that somebody can write, by the key behind its prefix."""
    return {
        prefix + member.encode_name: member.default
        for prefix, struct in structs
        for member in msgspec.structs.fields(struct)
        if member.encode_name not in MADE
    }


def test_every_key_of_a_manifest_is_described() -> None:
    """The tables of keys have every key that a manifest may have and no other, with its default where that is plain."""
    whole = keys_of(("", Manifest), ("retention.", Retention), ("hosts.NAME.", HostEntry))
    whole = {key: default for key, default in whole.items() if key not in NAMED}
    wanted = [
        {key.replace(".agents", ".agents.NAME"): default for key, default in whole.items()},
        keys_of(("", AgentEntry)),
        keys_of(("", EdgeEntry)),
    ]
    described = list(described_keys().values())
    assert [sorted(table) for table in described] == [sorted(table) for table in wanted]
    for table, keys in zip(described, wanted, strict=True):
        for key, default in keys.items():
            plain = isinstance(default, str | int) and default != ""
            shown = msgspec.json.encode(default).decode() if plain else ""
            assert not plain or table[key].strip("`").startswith(shown), key
            assert plain or table[key], key


def test_shown_plan_is_that_of_the_manifest() -> None:
    """The plan below a manifest is what applying it to hosts without any topology does, and it warns of nothing."""
    shown = [(block, plan) for block, plan in pairwise(BLOCKS) if block.language == "toml" and plan.language == "text"]
    assert shown
    for block, plan in shown:
        placement = place(checked(tomllib.loads(block.text), str(block)), ())
        assert compare(Placement(), placement).lines() == plan.text.splitlines()
        assert not warnings(placement)


def test_notices_of_host_processes_are_described() -> None:
    """Every notice of a host process, of its durable edges and of its managers is in the table of notices."""
    told = OPERATIONS.read_text("utf-8").partition("### Notices\n")[2].partition("\n### ")[0]
    folders = [*(REPO / "mesh" / "eddy_mesh" / part for part in ("runtime", "actor")), REPO / "agents" / "eddy_agents"]
    files = [file for folder in folders[:2] for file in folder.rglob("*.py")] + [folders[2] / "agent_manager.py"]
    made = {name for file in files for name in re.findall(r'notice\([^"()]*"([a-z_]+)"', file.read_text("utf-8"))}
    assert {"edge_waits", "edge_full", "topology_followed"} <= made
    assert not [name for name in sorted(made) if f"`mesh.{name}`" not in told]


# --- what is rendered, and what leads elsewhere -------------------------------------------------------------------


def test_readme_is_short() -> None:
    """The README fits on two screens and shows how to start."""
    text = (REPO / "README.md").read_text("utf-8")
    assert len(text.splitlines()) <= MAX_README_LINES
    assert {"./tools/run", "./tools/test"} <= set(text.split())


def test_rendered_parts_are_in_step() -> None:
    """The tables of channels and fields are those of the code."""
    command = [sys.executable, str(REPO / "tools" / "render-docs"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert RENDERED.search((REPO / "subjects.md").read_text("utf-8"))
    assert RENDERED.search((REPO / "docs" / "fields.md").read_text("utf-8"))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_no_list_is_kept_by_hand(document: Path) -> None:
    """No table outside of rendered parts lists agents, sources, cookings, detectors or fields: it would fall behind."""
    text = RENDERED.sub("", FENCE.sub("", document.read_text("utf-8")))
    parts = {name for agent_type in discovery.PARTS for name in discovery.part_names(agent_type)}
    names = parts | set(discovery.agent_types()) | registry().keys()
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        first = [row.split("|")[1].strip().strip("`") for row in table.splitlines()]
        assert len(names & set(first)) <= MAX_NAMED_BY_HAND, table


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    """Every link to a file of the repository has its target."""
    text = RENDERED.sub("", FENCE.sub("", document.read_text("utf-8")))
    targets = [target.partition("#")[0] for target in LINK.findall(text) if "://" not in target]
    assert not [target for target in targets if target and not (document.parent / target).exists()]
