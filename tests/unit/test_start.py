"""What the start of a host process costs: libraries that only some agents need are loaded by those."""

from __future__ import annotations

import os
import subprocess
import sys

DEAR = {"cryptography", "duckdb", "lark", "re2", "sqlite3"}
"""Each takes 10 to 100 ms of a start."""


def test_a_host_process_loads_no_library_of_its_agents() -> None:
    """A host process without agents, keys and statements has loaded no parser, no store and no cryptography."""
    program = f"import sys, eddy_mesh.runtime.process, eddy_mesh.cli.launching; print({DEAR!r} & set(sys.modules))"
    path = os.pathsep.join(entry for entry in sys.path if entry)
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout.strip() == "set()"
