"""What every agent type, source, cooking and detector keeps, whoever wrote it: documentation, settings, form."""

from __future__ import annotations

import inspect
import re
import tomllib
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import get_type_hints

import msgspec

from eddy_mesh import discovery
from eddy_mesh.agent import Source
from eddy_mesh.batch import Batch
from eddy_mesh.config import convert, mistakes_in
from eddy_mesh.errors import ConfigError
from eddy_mesh.selection import compile_statement
from eddy_mesh.task import Task

MAX_SUMMARY = 120
LISTENS = re.compile(r"^from eddy_mesh\.listening import [^)]*\bbind\b", re.MULTILINE)


def category(module: ModuleType) -> str:
    """Return the package that a module is in: ``normalizers`` ..."""
    return module.__name__.split(".")[-2]


def name_of(module: ModuleType) -> str:
    """Return the name by which a configuration calls a module."""
    return module.__name__.rsplit(".", 1)[-1]


def text_of(module: ModuleType) -> str:
    """Return the docstring of a module."""
    return inspect.getdoc(module) or ""


def test_the_project_brings_every_kind_of_agent() -> None:
    """Discovery finds the agent types of the design, and at least one source, cooking and detector."""
    wanted = {"normalizer", "transformer", "anonymizer", "analysis", "application", "archive", "directory"}
    assert wanted | {"agent_manager", "backplane_manager"} <= set(discovery.agent_types())
    assert all(discovery.part_names(agent_type) for agent_type in discovery.PARTS)


# --- documentation -----------------------------------------------------------------------------------------------


def test_first_line_says_what_it_is(every: ModuleType) -> None:
    """The docstring's first line is one sentence: lists and `eddy-agent describe` show it alone."""
    first, _, rest = text_of(every).partition("\n")
    assert 10 < len(first) <= MAX_SUMMARY
    assert first.endswith("."), first
    assert rest.startswith("\n"), "leave a blank line after the first one"


def test_source_names_what_it_gives(source: ModuleType) -> None:
    """A source says what it takes in and names the subject of its raw events."""
    text = text_of(source)
    assert re.search(r"\b(Takes in|takes in|In)\b", text)
    given = re.search(r"\b(Gives|Out):(.*)", text, re.DOTALL)
    assert given, "say what comes out: Gives: ``event.raw.<class>.<type>``"
    assert f"raw.{source.OUTPUT.event_class}.{source.OUTPUT.type}" in given[2]


def test_cooking_names_its_subjects(cooking: ModuleType) -> None:
    """A cooking names the raw events that it takes and the cooked ones that it gives."""
    before, out, after = text_of(cooking).partition("Out:")
    assert out, "say what comes out: Out: ``cooked.<class>.<type>``"
    for raw_type in cooking.INPUT:
        assert re.search(rf"In: .*raw\.\w+\.{re.escape(raw_type)}\b", before, re.DOTALL), raw_type
    assert "cooked." in after


def test_detector_names_its_subjects(detector: ModuleType) -> None:
    """A detector says which events it looks at and names the subject of its diagnoses."""
    text = text_of(detector)
    assert re.search(r"^In:", text, re.MULTILINE)
    assert f"diagnosis.{name_of(detector)}" in text.partition("Out:")[2]


def test_agent_names_its_subjects(agent_type: ModuleType) -> None:
    """An agent type says what comes in or goes out."""
    assert re.search(r"\b(In|Out):", text_of(agent_type))


def test_wire_format_has_its_document(every: ModuleType) -> None:
    """What cooks bytes from outside, or listens on the network, names the document that defines them."""
    listens = LISTENS.search(Path(inspect.getfile(every)).read_text("utf-8"))
    if listens or category(every) == discovery.PARTS["transformer"].package:
        assert re.search(r"^Source: \S", text_of(every), re.MULTILINE)


# --- settings ----------------------------------------------------------------------------------------------------


def test_config_is_a_strict_frozen_struct(configured: ModuleType) -> None:
    """Settings are a frozen struct that takes keywords only and refuses what it does not know."""
    config = configured.Config
    assert issubclass(config, msgspec.Struct)
    assert config.__doc__
    assert config.__struct_config__.frozen
    assert config.__struct_config__.forbid_unknown_fields
    kinds = {parameter.kind for parameter in inspect.signature(config).parameters.values()}
    assert kinds <= {inspect.Parameter.KEYWORD_ONLY}
    assert mistakes_in({"no_such_key": 1}, config, "here")


def test_every_setting_is_explained(configured: ModuleType) -> None:
    """`eddy-agent describe` has a comment above each setting, so each field has a docstring."""
    lines = discovery.default_toml(configured.Config, "config").splitlines()
    pairs = pairwise(lines)
    assert not [line for above, line in pairs if not line.startswith("#") and not above.startswith("#")]


def test_default_settings_validate_and_read_back(configured: ModuleType) -> None:
    """The default configuration, written as TOML and read again, is the default configuration."""
    table = tomllib.loads(discovery.default_toml(configured.Config, "config"))["config"]
    assert convert(table, configured.Config, "default") == configured.Config()


# --- form --------------------------------------------------------------------------------------------------------


def test_agent_type_says_where_it_belongs(agent_type: ModuleType) -> None:
    """An agent type declares whose events it takes and when its own leave the host."""
    assert agent_type.SCOPE in {"host", "backplane"}
    assert agent_type.EMIT in {"demand", "always"}


def test_agent_has_its_form(agent: ModuleType) -> None:
    """An agent type without parts has a class ``Agent`` of one of the forms, and statements that compile."""
    made = agent.Agent
    if inspect.iscoroutinefunction(made.on_batch):
        missing = {member for member in dir(Task) if not member.startswith("_")} - set(dir(made))
        assert not missing
        assert isinstance(made.queries, frozenset)
    else:
        assert not inspect.iscoroutinefunction(made.on_tick)
    for statement in agent.INPUT:
        compile_statement(statement, now_ns=0)


def test_agent_is_made_of_its_settings_alone(agent: ModuleType) -> None:
    """With default settings an agent can be made, or says which setting it can not do without."""
    try:
        made = agent.Agent(agent.Config())
    except ConfigError as error:
        assert all("missing" in line for line in error.mistakes)  # noqa: PT017  # only some agents refuse
    else:
        assert hasattr(made, "on_batch")


def test_source_has_its_form(source: ModuleType) -> None:
    """A source has a class ``Source`` with ``async def run(self, outlet)``."""
    assert inspect.iscoroutinefunction(source.Source.run)
    assert list(inspect.signature(source.Source.run).parameters) == ["self", "outlet"]
    assert isinstance(source.Source(source.Config()), Source)


def test_cooking_has_its_form(cooking: ModuleType) -> None:
    """A cooking is synchronous, is made of its settings alone, is told the time, and says which types it takes."""
    assert isinstance(cooking.INPUT, tuple)
    assert cooking.INPUT
    assert all(isinstance(name, str) for name in cooking.INPUT)
    check_stateful(cooking.Cooking)
    cooking.Cooking(cooking.Config())


def test_detector_has_its_form(detector: ModuleType) -> None:
    """A detector is synchronous, is made of its settings alone, is told the time, and has a statement that feeds it."""
    assert isinstance(detector.INPUT, str)
    check_stateful(detector.Detector)
    detector.Detector(detector.Config())


def check_stateful(made: type) -> None:
    """Fail where a class is not of the form `eddy_mesh.agent.Stateful`."""
    for method, parameters in {"on_batch": ["self", "batch", "now_ns"], "on_tick": ["self", "now_ns"]}.items():
        function = getattr(made, method)
        assert not inspect.iscoroutinefunction(function)
        assert list(inspect.signature(function).parameters) == parameters
    assert get_type_hints(made.on_batch)["batch"] is Batch  # type: ignore[attr-defined]  # looked at above
