"""Discovery: which agent types, sources, cookings and detectors there are. They are found by file name.

What may live here: the look-up of modules in the packages that the entry-point group ``eddy_mesh.agents`` names, and
the building of an agent from its configuration. Adding a part is adding one file; there is no list to edit.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module, metadata
from itertools import pairwise
from pkgutil import iter_modules
from types import ModuleType
from typing import NamedTuple

import msgspec

from eddy_mesh.agent import Source, Stateful
from eddy_mesh.batch import Kind
from eddy_mesh.cer import Stage
from eddy_mesh.config import AgentConfig, convert, mistakes_in, unknown_name
from eddy_mesh.errors import ConfigError, EddyError
from eddy_mesh.selection import compile_statement
from eddy_mesh.task import Task

GROUP = "eddy_mesh.agents"
OWN_PACKAGES = ("eddy_agents", "eddy_agents.normalizers", "eddy_agents.transformers", "eddy_agents.analyses")
Instance = Stateful | Source | Task


class Part(NamedTuple):
    """What the parts of an agent type are called."""

    key: str
    package: str
    class_name: str


PARTS = {
    "normalizer": Part("source", "normalizers", "Source"),
    "transformer": Part("cooking", "transformers", "Cooking"),
    "analysis": Part("detector", "analyses", "Detector"),
}
"""Agent types whose work is done by a part that the configuration names."""


@cache
def _packages() -> tuple[str, ...]:
    named = [entry.value for entry in metadata.entry_points(group=GROUP)]
    return tuple(dict.fromkeys([*OWN_PACKAGES, *named]))


@cache
def _modules(category: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for package_name in _packages():
        is_category = package_name.rsplit(".", 1)[-1] == category
        is_types = category == "types" and package_name.rsplit(".", 1)[-1] not in {p.package for p in PARTS.values()}
        if not is_category and not is_types:
            continue
        package = import_module(package_name)
        for module in iter_modules(package.__path__):
            if not module.ispkg and not module.name.startswith("_"):
                found.setdefault(module.name, f"{package_name}.{module.name}")
    return found


def agent_types() -> list[str]:
    """Return the names of all agent types, sorted: modules that say their SCOPE."""
    found = _modules("types")
    return sorted(name for name in found if hasattr(import_module(found[name]), "SCOPE"))


def part_names(agent_type: str) -> list[str]:
    """Return the names of the sources, cookings or detectors of an agent type, sorted; empty where it has no parts."""
    part = PARTS.get(agent_type)
    return sorted(_modules(part.package)) if part else []


def type_module(agent_type: str) -> ModuleType:
    """Return the module of an agent type.

    Raises:
        ConfigError: there is none of that name.
    """
    path = _modules("types").get(agent_type)
    if path is None:
        raise ConfigError([unknown_name("agent", "type", agent_type, agent_types())])
    return import_module(path)


def part_module(agent_type: str, name: str) -> ModuleType:
    """Return the module of a source, cooking or detector.

    Raises:
        ConfigError: there is none of that name.
    """
    part = PARTS[agent_type]
    path = _modules(part.package).get(name)
    if path is None:
        raise ConfigError([unknown_name(agent_type, part.key, name, part_names(agent_type))])
    return import_module(path)


class Blueprint(NamedTuple):
    """Everything about an agent that follows from its configuration.

    Attributes:
        kind: agent type.
        part: name of the source, cooking or detector, or "".
        module: where its class and ``Config`` are.
        agent_class: the class.
        subscribe: statements that feed it.
        scope: ``host`` or ``backplane``.
        emit: ``demand`` or ``always``.
        config: the settings, as its ``Config`` struct.
    """

    kind: str
    part: str
    module: ModuleType
    agent_class: type
    subscribe: tuple[str, ...]
    scope: str
    emit: str
    config: msgspec.Struct

    def build(self) -> Instance:
        """Return a new instance of the agent."""
        return self.agent_class(self.config)  # type: ignore[no-any-return]


def blueprint(agent: AgentConfig, place: str) -> Blueprint:
    """Return what an agent's configuration stands for.

    Args:
        agent: its configuration.
        place: file and table, for messages.

    Raises:
        ConfigError: every mistake in the configuration, statements included.
    """
    kind = type_module_checked(agent.type, place)
    part = PARTS.get(agent.type)
    part_name = str(getattr(agent, part.key)) if part else ""
    if part and not part_name:
        names = ", ".join(part_names(agent.type))
        raise ConfigError([f"{place}: {part.key} is missing: a {agent.type} needs one of {names}"])
    try:
        module = part_module(agent.type, part_name) if part else kind
    except ConfigError as error:
        raise ConfigError([f"{place}: {line.split(': ', 1)[1]}" for line in error.mistakes]) from None
    agent_class = getattr(module, part.class_name if part else "Agent")
    fed = agent.subscribe or agent.in_edges
    subscribe = agent.subscribe if fed else _default_statements(agent.type, module)
    mistakes = mistakes_in(agent.config, module.Config, f"{place}.config")
    if agent.type == "transformer" and not fed and not subscribe:
        mistakes.append(f'{place}: subscribe is missing: {part_name} takes what a statement gives it; "SELECT …" it')
    for statement in subscribe:
        try:
            compile_statement(statement, now_ns=0)
        except EddyError as error:
            mistakes.append(f"{place}.subscribe: {error}")
    if mistakes:
        raise ConfigError(mistakes)
    return Blueprint(
        agent.type,
        part_name,
        module,
        agent_class,
        subscribe,
        agent.scope or str(getattr(kind, "SCOPE", "host")),
        agent.emit or str(getattr(kind, "EMIT", "demand")),
        convert(agent.config, module.Config, f"{place}.config"),
    )


def blueprints(agents: Mapping[str, AgentConfig], place: str = "") -> dict[str, Blueprint]:
    """Return the blueprint of every agent.

    Args:
        agents: their configurations by name.
        place: what messages begin with.

    Raises:
        ConfigError: every mistake in all of them.
    """
    plans: dict[str, Blueprint] = {}
    mistakes: list[str] = []
    for name, agent in agents.items():
        try:
            plans[name] = blueprint(agent, f"{place}agents.{name}")
        except ConfigError as error:
            mistakes += error.mistakes
    if mistakes:
        raise ConfigError(mistakes)
    return plans


def type_module_checked(agent_type: str, place: str) -> ModuleType:
    """Return the module of an agent type; the error names the place in the configuration."""
    try:
        return type_module(agent_type)
    except ConfigError:
        raise ConfigError([unknown_name(place, "agent type", agent_type, agent_types())]) from None


def _default_statements(agent_type: str, module: ModuleType) -> tuple[str, ...]:
    declared = getattr(module, "INPUT", ())
    if agent_type == "transformer" and declared:
        types = " OR ".join(f"type = '{name}'" for name in declared)
        return (f"SELECT * WHERE stage = 'raw' AND ({types})",)
    return (declared,) if isinstance(declared, str) else tuple(declared)


def kinds_of(module: ModuleType, stage: Stage) -> Iterator[Kind]:
    """Yield the kinds of one stage that a source, cooking or detector names in its constants."""
    for value in list(vars(module).values()):
        for held in value.values() if isinstance(value, Mapping) else (value,):
            if isinstance(held, Kind) and held.stage is stage:
                yield held


# --- description -------------------------------------------------------------------------------------------------


def summary(module: ModuleType) -> str:
    """Return the first sentence of a module's docstring."""
    return (inspect.getdoc(module) or "").split("\n", 1)[0].rstrip(".")


def default_toml(struct: type[msgspec.Struct], table: str) -> str:
    """Return the default configuration of a struct as commented TOML.

    Args:
        struct: its fields' docstrings become the comments.
        table: name of the TOML table.
    """
    comments = _field_comments(struct)
    lines = [f"[{table}]"]
    for member in msgspec.structs.fields(struct):
        lines += [f"# {line}" for line in comments.get(member.name, "").splitlines()]
        if member.required:
            lines.append(f"# {member.encode_name} = ...   # required")
            continue
        default = member.default if member.default is not msgspec.NODEFAULT else member.default_factory()
        lines.append(f"{member.encode_name} = {_toml(default)}")
    return "\n".join(lines)


def _field_comments(struct: type[msgspec.Struct]) -> dict[str, str]:
    """Return the text below each field of a struct and of the structs that it extends."""
    comments: dict[str, str] = {}
    for owner in reversed(struct.__mro__):
        if owner is msgspec.Struct or not issubclass(owner, msgspec.Struct):
            continue
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
        assert isinstance(definition, ast.ClassDef)
        for member, below in pairwise(definition.body):
            if (
                isinstance(member, ast.AnnAssign)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
            ):
                comments[ast.unparse(member.target)] = inspect.cleandoc(str(below.value.value))
    return comments


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple | set | frozenset):
        return "[" + ", ".join(_toml(member) for member in value) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f'"{key}" = {_toml(member)}' for key, member in value.items()) + " }" if value else "{}"
    if isinstance(value, msgspec.Struct):
        return _toml(msgspec.to_builtins(value))
    return msgspec.json.encode(value).decode() if value is not None else '""'
