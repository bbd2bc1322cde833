"""The storm: changes a mesh at random while numbered events flow, kills agents, and counts what arrived.

Three host processes, each with a nats-server in a network namespace of its own; those of the two edge hosts are leaf
nodes of the hub's. Exit status 1 when not all is as it must be: on durable edges every number exactly once, on live
ones nothing twice and every loss counted, and every edge balanced at every look.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import report as telling
from accounts import Audit, contents, moved, statuses, waiting, watch
from changes import Storm
from manifests import SINKS, first
from networks import Place, network
from processes import EDGES, HUB, Started, StormError, send, started

from eddy_mesh.api import Mesh
from eddy_mesh.bus_nats import connect
from eddy_mesh.errors import EddyError

HOSTS = (HUB, *EDGES)
QUIET_LOOKS = 4
SETTLE_S = 90.0


def main() -> int:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(prog="tools/storm", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long events are sent (default: 60)")
    parser.add_argument(
        "--rate", type=float, default=20_000.0, help="events/s of both edges together (default: 20,000)"
    )
    parser.add_argument("--changes", type=int, default=50, help="changes of the topology (default: 50)")
    parser.add_argument("--kills", type=int, default=5, help="agents killed (default: 5)")
    parser.add_argument("--cuts", type=int, default=2, help="leaf servers killed and started again (default: 2)")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="where chance begins")
    parser.add_argument("--loopback", action="store_true", help="make no network namespaces")
    parser.add_argument("--keep", action="store_true", help="leave state and logs where they are, and say where")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    options = parser.parse_args()
    try:
        return asyncio.run(_main(options))
    except (StormError, EddyError) as error:
        print(f"tools/storm: {error}", file=sys.stderr)
        return 2
    except (asyncio.CancelledError, KeyboardInterrupt):
        return 130


async def _main(options: argparse.Namespace) -> int:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)  # nothing that it started lives on
    folder = tempfile.mkdtemp(prefix="eddy-storm-") if options.keep else ""
    with (
        tempfile.TemporaryDirectory(prefix="eddy-storm-", ignore_cleanup_errors=True) as name,
        network(HOSTS, loopback=options.loopback) as (places, told),
    ):
        state = Path(folder or name)
        _say(f"{told}; seed {options.seed}; state {state}")
        async with started(places, state) as running:
            bus = await connect(running.url, name="storm")
            try:
                found = await _storm(options, running, places, Mesh(bus, "eddy", "storm"), told)
            finally:
                await bus.close()
    if folder:
        await asyncio.to_thread(Path(folder, "report.json").write_bytes, found.json())
    print(found.json().decode() if options.json else telling.text(found))
    return 0 if found.is_proved else 1


async def _storm(
    options: argparse.Namespace, running: Started, places: Mapping[str, Place], mesh: Mesh, told: str
) -> telling.Report:
    ports = {name: f"{places[name].address}:{port}" for name, port in running.load_ports.items()}
    storm = Storm(mesh, random.Random(options.seed), first(ports, HOSTS, HUB))
    if error := await storm.apply(storm.topology, "begin"):
        raise StormError(f"the first topology was not applied: {error}")
    audit, problems = Audit(), []
    storm.began_s = time.monotonic()
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(watch(mesh, audit))
        progress = group.create_task(_progress(storm, audit))
        cutting = group.create_task(_cut(options.cuts, options.seconds, running))
        loads = {
            name: group.create_task(
                send(
                    places[name],
                    running.load_ports[name],
                    options.rate / len(EDGES),
                    options.seconds,
                    number,
                    len(EDGES),
                )
            )
            for number, name in enumerate(EDGES)
        }
        await storm.run(options.seconds, options.changes, options.kills)
        sent = {name: await load for name, load in loads.items()}
        seconds = time.monotonic() - storm.began_s
        await cutting
        settled_s, why = await _settle(mesh)
        problems += [why] if why else []
        progress.cancel()
        watching.cancel()
    audit.look(await statuses(mesh))
    (running.state / "ledgers.txt").write_text("\n".join(f"{key}: {ledger}" for key, ledger in audit.ledgers.items()))
    problems += [f"{name} has ended" for name in running.ended()]
    if error := await storm.apply(replace(storm.topology, is_read=True), "read the sinks"):
        problems.append(f"the sinks can not be read: {error}")
    numbers = _numbers(list(sent.values()))
    sinks = [
        telling.sink(name, len(numbers), await contents(mesh, _places(storm, name), numbers), audit) for name in SINKS
    ]
    return telling.Report(
        network=told,
        seed=options.seed,
        seconds=seconds,
        rate=options.rate,
        sent=sent,
        settled_s=settled_s,
        sinks=sinks,
        edges=telling.edge_rows(audit),
        changes=storm.changes,
        kills=storm.kills,
        cuts=options.cuts,
        audit_looks=audit.looks,
        audit_edges=audit.checked,
        unbalanced=audit.unbalanced,
        problems=problems,
    )


def _places(storm: Storm, name: str) -> list[str]:
    """Return the archives that together are a sink."""
    if name == "seen":
        return [f"{host}/seen" for host in HOSTS]
    agent = storm.topology.agents[name]
    return [f"{agent.host}.{name}/{name}" if agent.is_own else f"{agent.host}/{name}"]


def _numbers(sent: list[int]) -> npt.NDArray[np.int64]:
    """Return the numbers that were sent, ascending; see ``load.py``."""
    step = len(sent)
    parts = [np.arange(first, first + count * step, step, dtype=np.int64) for first, count in enumerate(sent)]
    return np.sort(np.concatenate(parts))


async def _settle(mesh: Mesh) -> tuple[float, str]:
    """Wait until nothing moves and nothing waits; return how long it took, s, and what still waits after too long."""
    began = time.monotonic()
    before, quiet = (0, 0), 0
    while time.monotonic() - began < SETTLE_S:
        now, held = moved(await statuses(mesh)), await waiting(mesh)
        quiet = quiet + 1 if now == before and not now[1] and not held else 0
        before = now
        if quiet >= QUIET_LOOKS:
            return time.monotonic() - began, ""
        await asyncio.sleep(0.5)
    return SETTLE_S, f"after {SETTLE_S:g} s {before[1]:,} events wait at agents and {held:,} messages in streams"


async def _cut(cuts: int, seconds: float, running: Started) -> None:
    for number in range(cuts):
        await asyncio.sleep(seconds / (cuts + 1))
        await running.cut(EDGES[number % len(EDGES)])


async def _progress(storm: Storm, audit: Audit) -> None:
    while True:
        await asyncio.sleep(2.0)
        taken = {
            name: sum(ledger.out for ledger in audit.behind(edge))
            for name, edge in (("kept", "kept-in"), ("seen", "seen-in"))
        }
        failed = sum(bool(one.error) for one in [*storm.changes, *storm.kills])
        _say(
            f"{time.monotonic() - storm.began_s:5.1f} s  {len(storm.changes)} changes, {len(storm.kills)} kills"
            f" ({failed} failed); kept {taken['kept']:,}, seen {taken['seen']:,}; {len(audit.unbalanced)} unbalanced"
        )


def _say(line: str) -> None:
    print(f"# {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
