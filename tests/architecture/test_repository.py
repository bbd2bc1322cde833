"""What may be in a committed file: nothing of one developer's machine, no address of a package registry."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
MAX_README_LINES = 150

# Written so that no pattern matches its own text.
MACHINE_PATH = re.compile(
    rb"/work/(?:main|shared|\.\w)"
    rb"|/root/\.\w"
    rb"|/home/\w+/(?:src|git|work|code|projects|repos|\.\w)"
    rb"|/Users/\w+/\w"
    rb"|/tmp/bash_\w"
)
REGISTRY_HOST = re.compile(
    rb"pypi\.(?:org|python\.org)|pythonhosted\.org|registry\.(?:npmjs|yarnpkg)\.\w+|deb\.debian\.org|security\.debian\.org"
    rb"|archive\.ubuntu\.com|proxy\.golang\.org|(?:index\.|static\.)crates\.io|repo1?\.maven\.(?:org|apache\.org)"
    rb"|--(?:extra-)?index-url\s|--find-links\s"
)


@pytest.fixture(scope="module")
def committed() -> list[Path]:
    """Every file that git knows or would add; skips outside a checkout."""
    if not (REPO / ".git").exists():
        pytest.skip("not a git checkout; clone the repository to check what is committed")
    command = ["git", "-C", str(REPO), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, check=True, capture_output=True)
    names = listing.stdout.decode().split("\0")
    return [REPO / name for name in names if name and (REPO / name).is_file()]


def _found(pattern: re.Pattern[bytes], paths: list[Path]) -> list[str]:
    hits = ((path, pattern.search(path.read_bytes())) for path in paths)
    return [f"{path.relative_to(REPO)}: {hit.group().decode()}" for path, hit in hits if hit]


def test_no_path_of_a_machine(committed: list[Path]) -> None:
    """No committed file names a folder that exists on one developer's machine only."""
    assert not _found(MACHINE_PATH, committed)
    assert not _found(re.compile(re.escape(str(REPO).encode()) + rb"\b"), committed)


def test_no_registry_host(committed: list[Path]) -> None:
    """No committed file, the lock files least of all, says which registry packages come from."""
    assert not _found(REGISTRY_HOST, committed)


def test_lock_files_are_complete() -> None:
    """Every line of a lock file is a pinned name or a hash, so that pip can refuse anything else."""
    line_shape = re.compile(r"#.*|[a-z0-9-]+==\S+( ; .+)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?")
    locks = sorted(REPO.glob("requirements*.lock"))
    assert len(locks) == 3
    for lock in locks:
        odd = [line for line in lock.read_text(encoding="utf-8").splitlines() if not line_shape.fullmatch(line)]
        assert not odd, lock.name


def test_readme_is_short() -> None:
    """The README fits on two screens: 150 lines at most."""
    readme = REPO / "README.md"
    if not readme.exists():
        pytest.skip("no README.md yet; write one")
    assert len(readme.read_text(encoding="utf-8").splitlines()) <= MAX_README_LINES
