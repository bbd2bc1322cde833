"""``eddy-agent list`` and ``eddy-agent describe``: what can be run, from the files that do the work.

What may live here: the inventory of agent types and their parts, and their texts. What is told is in the docstrings,
constants and ``Config`` of each file; there is nothing to keep in step.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from types import ModuleType
from typing import NamedTuple

import click
import msgspec
import rich_click

from eddy_mesh import discovery, subjects
from eddy_mesh.agent import Example
from eddy_mesh.cer import EventClass, Stage, Value
from eddy_mesh.cli.folding import fold, fold_prose, line_width
from eddy_mesh.cli.output import Cell, Column, printable, write_records, write_table
from eddy_mesh.cli.settings import Settings
from eddy_mesh.config import AgentConfig
from eddy_mesh.discovery import kinds_of
from eddy_mesh.errors import UsageError
from eddy_mesh.rows import json_value

CONTEXT = {"help_option_names": ["-h", "--help"]}
AGENT_TYPE = "agent type"
KIND_COLUMNS = [Column("kind"), Column("name"), Column("what it does")]
_STATEMENT = "SELECT * FROM network.netflow.* WHERE stage = 'cooked'"
MOST_LINES = 5
"""Events of an example."""
MOST_SHOWN = 400
"""Characters of one payload or value of an example."""


class Described(NamedTuple):
    """One thing that an operator can name in a configuration.

    Attributes:
        kind: ``agent type``, ``source``, ``cooking`` or ``detector``.
        name: as the configuration has it.
        agent_type: the type of agent that runs it.
        module: the file.
    """

    kind: str
    name: str
    agent_type: str
    module: ModuleType


def inventory() -> list[Described]:
    """Return everything that is installed: agent types first, then sources, cookings and detectors, by name."""
    found = [Described(AGENT_TYPE, name, name, discovery.type_module(name)) for name in discovery.agent_types()]
    for agent_type, part in discovery.PARTS.items():
        found += [
            Described(part.key, name, agent_type, discovery.part_module(agent_type, name))
            for name in discovery.part_names(agent_type)
        ]
    return found


@rich_click.command(name="list", context_settings=CONTEXT)
@rich_click.option("--json", "as_json", is_flag=True, help="Write NDJSON.")
def list_command(as_json: bool) -> None:
    """Show the agent types, sources, cookings and detectors.

    An agent of type normalizer runs a source, one of type transformer a cooking, one of type analysis a detector.
    """
    found = inventory()
    if as_json:
        write_records([{"kind": one.kind, "name": one.name, "summary": discovery.summary(one.module)} for one in found])
        return
    styles = {AGENT_TYPE: "notable"}
    rows = [
        [Cell(one.kind, styles.get(one.kind, "")), Cell(one.name, "good"), Cell(discovery.summary(one.module))]
        for one in found
    ]
    write_table(KIND_COLUMNS, rows, colour=_colour())


@rich_click.command(name="describe", context_settings=CONTEXT)
@rich_click.argument("name")
def describe(name: str) -> None:
    """Explain an agent or a source, with its default configuration.

    NAME is one that eddy-agent list shows. Where a source and a cooking share a name, both are explained. The
    configuration can be copied as it is; what is left out has the value that is shown.
    """
    found = [one for one in inventory() if one.name == name.replace("-", "_")]
    if not found:
        names = sorted({one.name for one in inventory()})
        close = get_close_matches(name, names, n=1)
        raise UsageError(
            f"there is no agent or source {name}; "
            + (f"did you mean {close[0]}?" if close else f"there are {', '.join(names)}")
        )
    click.echo("\n\n".join(description(one, colour=_colour(), width=line_width(sys.stdout)) for one in found))


def description(one: Described, *, colour: bool, width: int = 0) -> str:
    """Return the whole text about an agent type, source, cooking or detector.

    Args:
        one: what is described.
        colour: whether its title is coloured.
        width: characters of a line; 0 stands for any number. Settings, which can be copied, are never broken.
    """
    title = f"{one.kind} {one.name}"
    sections = [click.style(title, bold=True, underline=True) if colour else f"{title}\n{'=' * len(title)}"]
    sections.append(fold_prose(inspect.getdoc(one.module) or "", width))
    configuration = "\n".join(_fold_comment(line, width) for line in _configuration(one).split("\n"))
    sections += [fold(_subjects(one), width, " " * 5), configuration, fold(_examples(one.module), width, " " * 5)]
    return "\n\n".join(text for text in sections if text)


def _fold_comment(line: str, width: int) -> str:
    return fold(line, width, "# ") if line.startswith("# ") else line


def _subjects(one: Described) -> str:
    """Return what goes in and comes out, as the constants of the file say."""
    declared = getattr(one.module, "INPUT", ())
    inputs = [declared] if isinstance(declared, str) else list(declared)
    if one.kind == "cooking":
        inputs = [_pattern(Stage.RAW, None, name) for name in inputs] or ["what subscribe, or an edge, says"]
    wanted = {"source": (Stage.RAW,), "cooking": (Stage.COOKED,), "detector": (Stage.ANALYZED, Stage.COOKED)}
    kinds = dict.fromkeys(kind for stage in wanted.get(one.kind, ()) for kind in kinds_of(one.module, stage))
    lines = [f"in   {text}" for text in inputs]
    lines += [f"out  {_pattern(*kind)}" for kind in kinds]
    return "\n".join(lines)


def _pattern(stage: Stage, event_class: EventClass | None, type_name: str) -> str:
    return subjects.events_of(subjects.DEFAULT_BACKPLANE, stage, event_class, type_name)


def _configuration(one: Described) -> str:
    """Return a table that can be put into a configuration file, with every setting at its default."""
    part = discovery.PARTS.get(one.agent_type)
    table = f"agents.{_agent_name(one)}"
    head = [f"[{table}]", f'type = "{one.agent_type}"']
    if part is not None and one.kind == AGENT_TYPE:
        names = discovery.part_names(one.agent_type)
        shown = next((name for name in names if not _needs_statement(one.agent_type, name)), names[0])
        return "\n".join([f"# {part.key}: one of {', '.join(names)}", *head, f'{part.key} = "{shown}"', *_shared()])
    if part is not None:
        head.append(f'{part.key} = "{one.name}"')
        if _needs_statement(one.agent_type, one.name):
            head += ["# what it takes; an edge of a topology says it too", f'subscribe = ["{_STATEMENT}"]']
    if not msgspec.structs.fields(one.module.Config):
        return "\n".join([*head, "# it has no further settings"])
    return "\n".join([*head, "", discovery.default_toml(one.module.Config, f"{table}.config")])


def _needs_statement(agent_type: str, part: str) -> bool:
    return agent_type == "transformer" and not discovery.part_module(agent_type, part).INPUT


def _shared() -> list[str]:
    """Return the lines of the settings that every agent has; the values are the defaults."""
    named = {"type", *(part.key for part in discovery.PARTS.values())}
    lines: list[str] = []
    block: list[str] = []
    for line in discovery.default_toml(AgentConfig, "").splitlines()[1:]:
        block.append(line)
        name, assigned, _ = line.removeprefix("# ").partition(" = ")
        if assigned and name in AgentConfig.__struct_fields__:
            lines += [] if name in named else block
            block = []
    return lines


def _agent_name(one: Described) -> str:
    prefix = {"source": "in-", "cooking": "cook-", "detector": "find-"}.get(one.kind, "")
    return prefix + one.name.replace("_", "-")


def _examples(module: ModuleType) -> str:
    examples: Sequence[Example] = getattr(module, "EXAMPLES", ())
    return "\n\n".join("\n".join(_example_lines(example)) for example in examples)


def _example_lines(example: Example) -> Iterator[str]:
    yield "Example:"
    if example.config:
        yield f"  config {_short(json.dumps(dict(example.config), default=str))}"
    inputs = [_shown_payload(given) if isinstance(given, bytes) else _shown_row(given) for given in example.given]
    yield from (f"  in   {text}" for text in _ends(inputs))
    yield from (f"  out  {text}" for text in _ends([_shown_row(expected) for expected in example.expected]))


def _ends(texts: list[str]) -> list[str]:
    """Return all texts where they are few, else the first ones, how many are left out, and the last."""
    if len(texts) <= MOST_LINES:
        return texts
    return [*texts[: MOST_LINES - 2], f"... {len(texts) - MOST_LINES + 1} more like these", texts[-1]]


def _shown_payload(payload: bytes) -> str:
    try:
        text = payload.decode("utf-8")
    except UnicodeDecodeError:
        return f"hex {_short(payload.hex())}"
    return _short(text) if text.isprintable() else f"hex {_short(payload.hex())}"


def _shown_row(row: Mapping[str, Value]) -> str:
    return _short(msgspec.json.encode({name: json_value(name, value) for name, value in row.items()}).decode())


def _short(text: str) -> str:
    safe = printable(text)
    return safe if len(safe) <= MOST_SHOWN else safe[: MOST_SHOWN - 1] + "…"


def _colour() -> bool:
    return Settings().colour
