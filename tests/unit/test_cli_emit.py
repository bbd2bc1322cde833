"""``eddy emit`` before it sends: which types it takes."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from eddy_mesh.cli import emitting
from eddy_mesh.cli.group import WRONG_USAGE
from eddy_mesh.cli.tool import main


@pytest.fixture(autouse=True)
def _never_sends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that runs on this machine is found, and a command that would connect fails the test."""
    monkeypatch.setenv("EDDY_STATE", str(tmp_path))

    def connects(*_: object) -> None:
        pytest.fail("it connected")

    monkeypatch.setattr(emitting, "with_mesh", connects)


@pytest.mark.parametrize(
    "type_name", ["Bad.Type", "Bad Type", "BAD", "x/y", "*", ">", "", "a..b", ".a", "a.", "a.b.c.d.e", "a\n", "x" * 65]
)
def test_what_can_be_no_type_is_refused_before_anything_is_sent(type_name: str) -> None:
    """Wrong usage, with what a type looks like: it would be stored as type json."""
    done = CliRunner().invoke(main, ["emit", type_name], input='{"message":"x"}\n')
    assert done.exit_code == WRONG_USAGE
    said = " ".join(done.stderr.split())
    assert "can be no type" in said
    assert "a-z, 0-9, '_' and '-'" in said


def test_a_type_in_capitals_is_answered_with_the_one_that_is_taken() -> None:
    """The nearest type is told."""
    assert "did you mean bad.type?" in CliRunner().invoke(main, ["emit", "Bad.Type"], input="x\n").stderr
