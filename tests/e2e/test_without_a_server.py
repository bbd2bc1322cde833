"""Host processes that start, run and end while no NATS server is there, and a server that comes back empty."""

from __future__ import annotations

import shutil
from contextlib import aclosing
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.conftest import Agent, Lab

pytestmark = pytest.mark.e2e

MANAGERS = {"agent-manager": {"type": "agent_manager"}, "backplane-manager": {"type": "backplane_manager"}}
SITE = """
[hosts.e1]
[hosts.hub]
[agents.in]
type = "normalizer"
source = "syslog"
host = "e1"
config = {{ listen_udp = [], listen_tcp = ["127.0.0.1:{port}"] }}
[agents.cook]
type = "transformer"
cooking = "syslog"
host = "e1"
[agents.archive]
type = "archive"
host = "hub"
[edges.lines]
from = "in"
to = "cook"
[edges.kept]
from = "cook"
to = "archive"
delivery = "durable"
overload = "spool"
"""


async def started(lab: Lab, name: str) -> Agent:
    """Return a host process whose configuration is written already, once it is ready."""
    agent = await lab.agent("run", f"{name}.toml", "--log-json")
    await agent.ready()
    return agent


async def until_on_disk(lab: Lab, text: str) -> None:
    """Return when a host process has taken in a line: it keeps what it makes; without a server nobody can ask it."""

    async def there() -> bool:
        return any(text.encode() in file.read_bytes() for file in lab.folder.rglob("*.kept"))

    await lab.eventually(there)


async def test_a_host_takes_in_while_there_is_no_server(lab: Lab) -> None:
    """It says so, keeps events in its archive over a restart, and is part of the mesh when the server comes."""
    server, port = await lab.server(), lab.free_port()
    mesh = await lab.mesh()
    await server.kill()
    cook = {"type": "transformer", "cooking": "syslog"}
    lab.config("edge", {"in": lab.syslog_source(port), "cook": cook, "archive": {"type": "archive"}})
    first = await started(lab, "edge")
    assert "going on without" in first.complaints
    lab.send_tcp(port, lab.lines_of("early 1", "early 2"))
    await until_on_disk(lab, "early 2")
    assert await first.end() == 0
    await started(lab, "edge")
    lab.send_tcp(port, lab.lines_of("early 3"))

    await server.restart()
    await lab.until_stored(mesh, "early%", 3)

    async def announced() -> bool:
        return any(status["host"] == "edge" for status in await mesh.hosts())

    await lab.eventually(announced)
    assert len(await mesh.bus.gather("$SRV.PING.eddy-archive", b"", timeout_s=2.0)) == 1
    async with aclosing(mesh.tap("SELECT message WHERE message LIKE 'live%' SINCE '-1h'")) as tap:
        lab.send_tcp(port, lab.lines_of("live"))
        assert (await anext(tap))["message"] == "live"


@pytest.mark.timeout(60)  # five processes start one after the other
async def test_a_host_runs_what_was_applied_last(lab: Lab, tmp_path: Path) -> None:
    """Without a server its durable edge spools; with it all arrives once, and the next apply finds the host."""
    server, port = await lab.server(), lab.free_port()
    mesh = await lab.mesh()
    site = tmp_path / "site.toml"
    site.write_text(SITE.format(port=port))
    await lab.host("hub", MANAGERS)
    edge = await lab.host("e1", {"agent-manager": MANAGERS["agent-manager"]})
    done = await lab.eddy("apply", str(site), "--yes", "--observe", "0")
    assert done.status == 0, done
    await server.kill()
    assert await edge.end() == 0

    edge = await started(lab, "e1")
    lab.send_tcp(port, lab.lines_of(*(f"spooled {number}" for number in range(50))))
    await until_on_disk(lab, "spooled 49")
    assert await edge.end() == 0
    assert list((tmp_path / "state-e1").rglob("*.batch"))
    await started(lab, "e1")
    await server.restart()
    await lab.until_stored(mesh, "spooled%", 50)

    site.write_text(SITE.format(port=port).replace("[edges.kept]", "[edges.held]"))
    done = await lab.eddy("apply", str(site), "--yes", "--observe", "0")
    assert done.status == 0, done
    lab.send_tcp(port, lab.lines_of("spooled last"))
    await lab.until_stored(mesh, "spooled%", 51)


async def test_an_apply_after_the_server_lost_its_store(lab: Lab, tmp_path: Path) -> None:
    """The record begins anew, with no process started again."""
    server, port = await lab.server(), lab.free_port()
    site = tmp_path / "site.toml"
    site.write_text(SITE.format(port=port))
    await lab.host("hub", MANAGERS)
    await lab.host("e1", {"agent-manager": MANAGERS["agent-manager"]})
    done = await lab.eddy("apply", str(site), "--yes", "--observe", "0")
    assert done.status == 0, done
    await server.kill()
    shutil.rmtree(tmp_path / "nats" / "jetstream")
    await server.restart()

    async def applied() -> bool:
        again = await lab.eddy("apply", str(site), "--yes", "--observe", "0")
        return again.status == 0 and "revision 2" in again.out  # above all that the hosts have seen

    await lab.eventually(applied, 30.0)
