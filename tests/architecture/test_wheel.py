"""What is installed on a user's machine: the two packages with their data files, and nothing else."""

from __future__ import annotations

from configparser import ConfigParser
from pathlib import Path
from zipfile import ZipFile

import pytest
from hatchling.builders.wheel import WheelBuilder

REPO = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> ZipFile:
    """The wheel of this checkout, freshly built."""
    folder = tmp_path_factory.mktemp("wheel")
    (built,) = WheelBuilder(str(REPO)).build(directory=str(folder), versions=["standard"])
    with ZipFile(built) as archive:
        return archive


def test_wheel_holds_the_two_packages_only(wheel: ZipFile) -> None:
    """tools/, tests/, configs/ and docs/ are not installed, nor is anything at the top level but the two packages."""
    top = {name.split("/", 1)[0] for name in wheel.namelist()}
    assert {name for name in top if not name.endswith(".dist-info")} == {"eddy_mesh", "eddy_agents"}


def test_wheel_holds_every_data_file(wheel: ZipFile) -> None:
    """Grammars, tables and type markers travel with the modules that read them."""
    names = set(wheel.namelist())
    for root in (REPO / "mesh", REPO / "agents"):
        wanted = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
        assert {name for name in wanted if "__pycache__" not in name} <= names


def test_wheel_names_commands_and_agents(wheel: ZipFile) -> None:
    """The wheel brings both commands, and its entry points name packages that it holds."""
    (name,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    with ZipFile(str(wheel.filename)) as archive:
        entry_points = ConfigParser()
        entry_points.read_string(archive.read(name).decode())
    assert set(entry_points["console_scripts"]) == {"eddy", "eddy-agent"}
    for package in entry_points["eddy_mesh.agents"].values():
        assert package.replace(".", "/") + "/__init__.py" in wheel.namelist()
