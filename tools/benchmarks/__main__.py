"""Runs benchmarks, one at a time, and shows each number beside its goal and its peers'.

Exit status 1 when events were lost that nobody accounts for; a missed goal is shown, and is no failure.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import platform
import signal
import sys
from collections.abc import AsyncIterator, Callable

import uvloop
from measurement import Measurement, as_json, number, table
from rig import BenchError

BENCHMARKS = {
    "flows": "flows",
    "lines": "lines",
    "select": "selecting",
    "latency": "latency",
    "stored": "stored",
    "idle": "idle",
    "bytes": "archived_bytes",
    "apply": "applying",
}
"""Name to module; each has ``run(seconds)``, which yields measurements."""


def main() -> int:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(prog="tools/bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; default: all")
    parser.add_argument("--json", action="store_true", help="one JSON object a number instead of a table")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each load lasts (default: 10)")
    parser.add_argument("--list", action="store_true", help="say what there is")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark {unknown[0]!r}: there are {', '.join(BENCHMARKS)}")
    if options.list:
        for name, module in BENCHMARKS.items():
            print(f"{name:10} {(importlib.import_module(module).__doc__ or '').strip()}")
        return 0
    try:
        return uvloop.run(_all(options.names or list(BENCHMARKS), options.seconds, as_lines=options.json))
    except (asyncio.CancelledError, KeyboardInterrupt):
        return 130


async def _all(names: list[str], seconds: float, *, as_lines: bool) -> int:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)  # nothing that it started lives on
    done: list[Measurement] = []
    print(f"# {_machine()}", file=sys.stderr)
    status = 0
    for name in names:
        print(f"# {name} ...", file=sys.stderr, flush=True)
        run: Callable[[float], AsyncIterator[Measurement]] = importlib.import_module(BENCHMARKS[name]).run
        try:
            async for one in run(seconds):
                done.append(one)
                print(f"# {one.name}: {number(one.value)} {one.unit}", file=sys.stderr, flush=True)
                if as_lines:
                    print(json.dumps(as_json(one) | {"machine": _machine()}), flush=True)
        except BenchError as error:
            print(f"# {name}: could not be measured: {error}", file=sys.stderr)
            status = 1
    if not as_lines:
        print(table(done))
    return 1 if any(one.defects for one in done) else status


def _machine() -> str:
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, load {load:.1f}"


if __name__ == "__main__":
    sys.exit(main())
