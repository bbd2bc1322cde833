"""docs/adding-a-source.md does what it says: its blocks, put into a package of their own, run in a host process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from eddy_mesh import discovery
from eddy_mesh.api import Event, Mesh
from eddy_mesh.bus_memory import MemoryBroker
from eddy_mesh.config import HostConfig, convert
from eddy_mesh.runtime.process import running

REPO = Path(__file__).resolve().parents[2]
DOCUMENT = REPO / "docs" / "adding-a-source.md"
BLOCK = re.compile(r"^```\w+ file=(\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The project that the document describes, with the metadata that an installer writes for it."""
    files = dict(BLOCK.findall(DOCUMENT.read_text("utf-8")))
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    for package in {path.parent for path in tmp_path.rglob("*.py")} | {tmp_path / "eddy_loadavg"}:
        if package.name != "tests":
            (package / "__init__.py").touch()
    declared = tomllib.loads(files["pyproject.toml"])["project"]
    metadata = tmp_path / f"eddy_loadavg-{declared['version']}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {declared['name']}\nVersion: 0.1.0\n", "utf-8")
    groups = declared["entry-points"].items()
    lines = [line for group, entries in groups for line in (f"[{group}]", *(f"{n} = {v}" for n, v in entries.items()))]
    (metadata / "entry_points.txt").write_text("\n".join(lines), "utf-8")
    return tmp_path


@pytest.fixture
def installed(project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The project on the path of this process, and discovery as in a process that has just started."""
    monkeypatch.syspath_prepend(str(project))
    forget()
    yield project
    for name in [name for name in sys.modules if name.split(".")[0] == "eddy_loadavg"]:
        del sys.modules[name]
    forget()


def forget() -> None:
    """Make discovery look again."""
    discovery._packages.cache_clear()
    discovery._modules.cache_clear()


def test_document_has_every_file(project: Path) -> None:
    """The document has the source, the cooking, a test of it, a configuration and the package's metadata."""
    names = {path.relative_to(project).as_posix() for path in project.rglob("*") if path.suffix in {".py", ".toml"}}
    assert {"pyproject.toml", "load.toml", "tests/test_loadavg.py"} <= names
    assert {f"eddy_loadavg/{part}/loadavg.py" for part in ("normalizers", "transformers")} <= names


def test_another_package_is_found(installed: Path) -> None:
    """Installing the package is enough: no list is edited."""
    assert "loadavg" in discovery.part_names("normalizer")
    assert "loadavg" in discovery.part_names("transformer")
    assert discovery.part_module("normalizer", "loadavg").__name__ == "eddy_loadavg.normalizers.loadavg"


async def test_it_runs_and_its_events_are_seen(installed: Path, tmp_path: Path) -> None:
    """The configuration of the document starts a host process, and a tool sees the cooked events of the source."""
    line = tmp_path / "loadavg"
    line.write_bytes(b"0.52 0.58 0.59 2/467 28473\n")
    table = tomllib.loads((installed / "load.toml").read_text("utf-8"))
    table["agents"]["load"]["config"] |= {"path": str(line), "every_s": 0.01}
    broker = MemoryBroker()
    bus, tool = broker.connect(), broker.connect()
    config = convert(table, HostConfig, "load.toml")
    statement = "SELECT host, sensor.quantity, sensor.value FROM environmental.loadavg LIMIT 3"
    async with running(config, bus, tmp_path / "state"), aclosing(Mesh(tool, "eddy").tap(statement)) as events:
        seen = [event async for event in events]
    await bus.close()
    await tool.close()
    assert [shown(event) for event in seen] == [
        {"host": "loadavg-demo", "sensor.quantity": f"load average {minutes} min", "sensor.value": value}
        for minutes, value in ((1, 0.52), (5, 0.58), (15, 0.59))
    ]


def shown(event: Event) -> dict[str, object]:
    """Return an event as a plain dict."""
    return dict(event)


@pytest.mark.slow
def test_its_tests_and_the_conformance_suite_pass(project: Path) -> None:
    """The document's own test passes, and the conformance suite finds the package and accepts it."""
    path = os.pathsep.join([str(project), *sys.path])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", str(REPO / "pyproject.toml")]
    targets = [str(project / "tests"), *map(str, sorted((REPO / "tests" / "conformance").glob("test_[!a]*.py")))]
    done = subprocess.run(
        [*command, "-k", "loadavg", *targets],
        env={**os.environ, "PYTHONPATH": path},
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.findall(r"(\d+) passed", done.stdout)[0]) > 20
