"""What `eddy-agent up` says when it is ready."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from eddy_mesh.runtime.up import ready_text

WIDTH = 80


def _text(**differs: object) -> str:
    running = SimpleNamespace(name="a", state_now="running", reason="")
    host: dict[str, object] = {"cells": {"a": running}, "backplane": "eddy", "host": "h", "recent_notices": []}
    server = SimpleNamespace(url="nats://127.0.0.1:4222")
    return ready_text(cast("Any", SimpleNamespace(**host | {"began_with": 0} | differs)), cast("Any", server))


def test_a_host_that_runs_a_topology_says_so() -> None:
    """Who applied a topology finds other agents after the next start than those of an empty one."""
    assert "revision" not in _text()
    assert "revision 3 of the topology" in _text(began_with=3)


def test_an_agent_that_does_not_run_is_named() -> None:
    """With its state and why."""
    waiting = SimpleNamespace(name="b", state_now="failed", reason="udp port 2055 is taken")
    assert "  b: failed udp port 2055 is taken\n" in _text(cells={"b": waiting})


@pytest.mark.parametrize("revision", [0, 123])
def test_it_fits_a_terminal(revision: int) -> None:
    """80 columns, as far as names allow."""
    assert max(map(len, _text(began_with=revision).splitlines())) <= WIDTH
