"""The rules of the house style that no linter holds: sizes, docstrings, forbidden names."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
MODULES = sorted(path for root in ("mesh", "agents") for path in (REPO / root).rglob("*.py"))
TESTS = sorted((REPO / "tests").rglob("*.py"))
MAX_LINES = 600
NO_NAMES = {"utils", "helpers", "common", "base", "misc", "select"}


def _name(path: Path) -> str:
    return path.relative_to(REPO).as_posix()


@pytest.mark.parametrize("path", MODULES + TESTS, ids=_name)
def test_module_is_proofreadable(path: Path) -> None:
    """No module is longer than 600 lines, and each says in a docstring what may live in it."""
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_LINES
    docstring = ast.get_docstring(ast.parse(text))
    assert docstring, "a module starts with a docstring that says what it is for"


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_module_has_a_telling_name(path: Path) -> None:
    """No module or package is a drawer for odds and ends, and none shadows the standard library's select."""
    assert not NO_NAMES & set(path.relative_to(REPO).with_suffix("").parts)


@pytest.mark.parametrize("path", TESTS, ids=_name)
def test_tests_say_what_they_hold(path: Path) -> None:
    """Every test function has a docstring that states the behaviour it holds."""
    functions = [
        node
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    ]
    silent = [f"{function.name} (line {function.lineno})" for function in functions if not ast.get_docstring(function)]
    assert not silent


def test_both_packages_carry_type_information() -> None:
    """The packages are marked as typed, and nothing but them lies in the source roots."""
    for root, package in (("mesh", "eddy_mesh"), ("agents", "eddy_agents")):
        assert (REPO / root / package / "py.typed").is_file()
        inside = {path.name for path in (REPO / root).iterdir()} - {"__pycache__"}
        assert inside == {package}
