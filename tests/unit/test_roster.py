"""The roster of a host process: what a change of configuration leaves as it was."""

from __future__ import annotations

from pathlib import Path

from eddy_mesh import rows
from eddy_mesh.agent import draft_of
from eddy_mesh.batch import Kind
from eddy_mesh.bus_memory import MemoryBroker
from eddy_mesh.cer import EventClass, Stage
from eddy_mesh.config import HostConfig, convert
from eddy_mesh.runtime.host import Host

KIND = Kind(Stage.COOKED, EventClass.SYSTEM, "syslog")
COOK = {"type": "transformer", "cooking": "syslog"}


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
