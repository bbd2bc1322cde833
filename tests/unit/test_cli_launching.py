"""Before anything is started, what stands against it is told as a person can mend it."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from eddy_mesh.cli.agent import main
from eddy_mesh.cli.launching import KEPT, make_folder
from eddy_mesh.errors import UsageError


def test_a_state_directory_that_can_not_be_made_is_told(tmp_path: Path) -> None:
    """The folder, the reason and what to give instead; no traceback, and nothing has started."""
    (tmp_path / "file").write_text("")
    result = CliRunner().invoke(main, ["up", "--data", str(tmp_path / "file" / "data")])
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"{tmp_path / 'file' / 'data'} can not be used for what is kept (Not a directory)" in result.stderr
    assert "give --data DIR, or --ephemeral" in result.stderr


def test_a_place_of_notes_that_can_not_be_made_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where nothing is kept: without its note no command finds the process."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDDY_STATE", str(tmp_path / "file"))
    result = CliRunner().invoke(main, ["up", "--ephemeral"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"{tmp_path / 'file' / 'running'} can not be used for the note" in result.stderr
    assert "EDDY_STATE" in result.stderr


def test_a_state_directory_is_made_for_its_user_alone(tmp_path: Path) -> None:
    """With the folders above it; one that is there is left as it is."""
    folder = tmp_path / "a" / "up"
    make_folder(folder, KEPT)
    assert folder.stat().st_mode & 0o777 == 0o700
    make_folder(folder, KEPT)


def test_a_state_directory_that_can_not_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it is there already."""
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(UsageError, match="Permission denied"):
        make_folder(tmp_path, KEPT)


def test_a_file_that_is_not_there_is_named_once() -> None:
    """As check names it."""
    result = CliRunner().invoke(main, ["run", "nix.toml"])
    assert (result.exit_code, result.stderr) == (
        2,
        "eddy-agent: nix.toml: can not be read: No such file or directory\n",
    )
