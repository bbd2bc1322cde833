"""The roster of a host process: what a change of configuration leaves as it was."""

from __future__ import annotations

from pathlib import Path

import msgspec

from eddy_mesh import rows
from eddy_mesh.agent import draft_of
from eddy_mesh.batch import Kind
from eddy_mesh.bus_memory import MemoryBroker
from eddy_mesh.cer import EventClass, Stage
from eddy_mesh.config import HostConfig, Serving, convert
from eddy_mesh.runtime.host import Host
from eddy_mesh.topology.applied import FILE, Applied

KIND = Kind(Stage.COOKED, EventClass.SYSTEM, "syslog")
COOK: dict[str, object] = {"type": "transformer", "cooking": "syslog"}


async def test_an_agent_that_comes_again_goes_on_counting(tmp_path: Path) -> None:
    """Removed and added, or changed, it never gives a number, and so an id, a second time."""
    bus = MemoryBroker().connect()
    host = Host(convert({"name": "h1", "agents": {}}, HostConfig, "test"), bus, tmp_path, now_ns=lambda: 10**18)
    await host.start()
    ids: list[object] = []
    firsts: list[int] = []
    changed = {**COOK, "mailbox_events": 10}
    for agents in ({"cook": COOK}, {}, {"cook": COOK}, {"cook": changed}):
        await host.configure(agents)
        for cell in host.cells.values():
            made = cell.numbered(draft_of(KIND, [{"level": 1}] * 3))
            firsts.append(made.first)
            ids += [row["id"] for row in rows.flat_rows(made)]
    await host.stop()
    await bus.close()
    assert firsts == [0, 3, 6]
    assert len(set(ids)) == len(ids) == 9


async def test_a_host_process_begins_with_what_was_applied_last(tmp_path: Path) -> None:
    """After a restart no source runs before its edges: the topology goes before the configuration file."""
    applied = Applied(7, {"other": COOK}, edges={"e": Serving(7, ("h1/other",))})
    folder = tmp_path / "agents" / "agent-manager"
    folder.mkdir(parents=True)
    (folder / FILE).write_bytes(msgspec.json.encode(applied))
    agents = {"agent-manager": {"type": "agent_manager"}, "cook": COOK}
    bus = MemoryBroker().connect()
    host = Host(convert({"name": "h1", "agents": agents}, HostConfig, "test"), bus, tmp_path)
    await host.start()
    assert set(host.cells) == {"agent-manager", "other"}
    assert host.generations.now.served("e", "h1/other") == 7
    await host.stop()
    await bus.close()
