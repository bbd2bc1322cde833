"""What every test gets: the corpus, and the promise that it leaves no task, process or socket behind."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, settings

REPO = Path(__file__).resolve().parents[1]

# The machine may be busy: how long an example takes says nothing about the law that it tests.
# Half of hypothesis' examples in CI: it runs on two cores, and people run all of them.
EXAMPLES = 50 if os.environ.get("CI") else 100
settings.register_profile("eddy", deadline=None, max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("eddy")


@pytest.fixture(scope="session")
def repo() -> Path:
    """The root of the checkout."""
    return REPO


@pytest.fixture(scope="session")
def corpus() -> Path:
    """The folder with real data; skips where there is none."""
    folder = Path(os.environ.get("EDDY_CORPUS", REPO.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"corpus not found at {folder}; set EDDY_CORPUS")
    return folder


@pytest.fixture
async def _no_task_left() -> AsyncIterator[None]:
    """Fails an asynchronous test after which a task is still pending in its loop."""
    before = asyncio.all_tasks()
    yield
    for _ in range(3):  # a task that ends with the test gets its last steps
        await asyncio.sleep(0)
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    if left:
        pytest.fail("tasks left running: " + ", ".join(sorted(repr(task) for task in left)))


@pytest.fixture(autouse=True)
def _nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test that leaves a task or a process; an open socket is a ResourceWarning, which is an error."""
    before = _children()
    if request.node.get_closest_marker("asyncio") is not None:
        request.getfixturevalue("_no_task_left")
    yield
    left = _children() - before
    if left:
        pytest.fail("processes left running: " + ", ".join(sorted(str(process) for process in left)))


def _children() -> set[psutil.Process]:
    """The running processes below this one; one cheap system call where there are none."""
    if hasattr(os, "waitid"):
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return set()
    children = psutil.Process().children(recursive=True)
    return {child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE}
