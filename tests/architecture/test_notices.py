"""What a notice tells can be selected: its fields have the names of the registry."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from eddy_mesh import fields

REPO = Path(__file__).resolve().parents[2]
FOLDERS = (REPO / "mesh" / "eddy_mesh", REPO / "agents" / "eddy_agents")
TELLING = {"notice", "_complain"}

WITHOUT = {
    "limits": {"limit", "max_entry_bytes", "max_line_bytes", "max_sockets", "open_files"},
    "counts": {"left_out", "retry_s", "skipped_bytes"},
    "how a host is observed": {"method", "watched"},
    "ports of a listener": {"port", "using"},
    "durable edges and tags": {"edge.max_bytes", "edge.messages", "edge.stream", "tag.name"},
}
"""Names of fields that the registry does not have, or that are not moved to those that it has: the rest to be done."""


def names_told(module: ast.Module) -> Iterator[str]:
    """Yield the names of the fields that the calls of a module give to notices, as far as they are written there."""
    functions = [node for node in ast.walk(module) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    for function in functions:
        made: dict[str, ast.AST] = {f"{made_by.name}()": made_by for made_by in functions}
        for node in ast.walk(function):
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                target = node.targets[0] if isinstance(node, ast.Assign) else node.target
                if isinstance(target, ast.Name):
                    made[target.id] = node.value
        for call in ast.walk(function):
            if isinstance(call, ast.Call) and getattr(call.func, "attr", "") in TELLING:
                yield from (keyword.arg for keyword in call.keywords if keyword.arg)
                for given in [keyword.value for keyword in call.keywords if not keyword.arg] + call.args[1:]:
                    called = f"{getattr(given.func, 'attr', '')}()" if isinstance(given, ast.Call) else ""
                    yield from keys_in(made.get(called or getattr(given, "id", ""), given))


def keys_in(node: ast.AST) -> Iterator[str]:
    """Yield the keys of the dicts that are written in a piece of code."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Dict):
            yield from (str(key.value) for key in inner.keys if isinstance(key, ast.Constant))


def test_fields_of_notices_are_those_of_the_registry() -> None:
    """A statement can name what a notice tells; what has no name in the registry yet is listed above, and grows not."""
    files = [file for folder in FOLDERS for file in folder.rglob("*.py")]
    told = {name for file in files for name in names_told(ast.parse(file.read_text("utf-8")))}
    assert {"file.path", "error.message", "log.offset", "source.ip", "edge.count"} <= told
    assert {name for name in told if fields.field(name) is None} == set().union(*WITHOUT.values())
