"""The host source on this host: a real process and a real connection are seen with their owner."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from eddy_agents.normalizers import host
from eddy_agents.observation.netlink import DiagReader, SocketEnds
from eddy_agents.observation.psutil_reader import PsutilReader
from eddy_agents.transformers.host import Config, Cooking
from eddy_agents.wire.host_sockets import Action, Direction, SocketTable
from eddy_mesh.agent import Draft
from eddy_mesh.batch import Batch, Producer
from eddy_mesh.cer import Value
from eddy_mesh.errors import ConfigError
from eddy_mesh.memory_outlet import MemoryOutlet, running
from eddy_mesh.rows import flat_rows

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc; run it on Linux"),
]

CLIENT = "import socket, sys; s = socket.create_connection(('127.0.0.1', int(sys.argv[1]))); s.recv(1)"


@pytest.fixture
def outlet(tmp_path: Path) -> MemoryOutlet:
    return MemoryOutlet(tmp_path)


def cooked(outlet: MemoryOutlet) -> list[dict[str, Value]]:
    """Every event so far, cooked."""
    cooking = Cooking(Config())
    rows: list[dict[str, Value]] = []
    for draft in outlet.drafts:
        batch = Batch(draft.kind, "here", Producer(1, 1), 0, 0, draft.count, draft.columns)
        for output in cooking.on_batch(batch, 0).outputs:
            assert isinstance(output, Draft)
            made = Batch(output.kind, "here", Producer(1, 1), 0, 0, output.count, output.columns)
            rows += flat_rows(made)
    return rows


def find(outlet: MemoryOutlet, **wanted: Value) -> list[dict[str, Value]]:
    """Events that have these fields; in a name ``__`` stands for a dot."""
    named = {name.replace("__", "."): value for name, value in wanted.items()}
    return [row for row in cooked(outlet) if all(row.get(name) == value for name, value in named.items())]


@asynccontextmanager
async def observing(outlet: MemoryOutlet, method: host.Method) -> AsyncIterator[None]:
    config = host.Config(method=method, interval_s=0.05, max_core_share=1.0)
    async with running(host.Source(config), outlet):
        await outlet.until(lambda: find(outlet, event__action="existing", process__pid=os.getpid()))
        yield


@pytest.mark.parametrize("method", list(host.Method))
async def test_a_process_and_its_connection_are_seen(method: host.Method, outlet: MemoryOutlet) -> None:
    """A process that starts, connects and ends gives each of these events, and both ends name their owner."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        port = server.getsockname()[1]
        async with observing(outlet, method):
            await outlet.until(lambda: find(outlet, destination__port=port, socket__state="listen"))
            client = await asyncio.create_subprocess_exec(sys.executable, "-c", CLIENT, str(port))
            accepted, (_, client_port) = await asyncio.get_running_loop().sock_accept(server)
            with accepted:
                ends: dict[str, Value] = {"source__port": client_port, "destination__port": port}
                await outlet.until(lambda: len(find(outlet, event__action="connection_opened", **ends)) == 2)
            await client.wait()
            await outlet.until(lambda: len(find(outlet, event__action="connection_closed", **ends)) == 2)
            await outlet.until(lambda: find(outlet, event__action="process_exited", process__pid=client.pid))
            await outlet.until(lambda: told_of_program(outlet, client.pid, port))
        opened = {str(row["network.direction"]): row for row in find(outlet, event__action="connection_opened", **ends)}
    assert opened["egress"]["process.pid"] == client.pid
    assert opened["ingress"]["process.pid"] == os.getpid()
    assert opened["egress"]["user.id"] == opened["ingress"]["user.id"] == str(os.geteuid())
    started = [row for row in cooked(outlet) if row.get("process.pid") == client.pid and "process.entity_id" in row]
    assert len({row["process.entity_id"] for row in started}) == 1
    assert not outlet.losses
    told = outlet.told("host_observation")
    assert [notice["watched"] for notice in told] == ["processes", "connections"]
    if method is host.Method.POLLING:
        assert {row["event.provider"] for row in cooked(outlet)} == {"procfs"}
        assert "polling" in str(told[0]["method"])
        assert {notice["event.reason"] for notice in told} == {"method = 'polling'"}


def told_of_program(outlet: MemoryOutlet, pid: int, port: int) -> bool:
    rows = find(outlet, process__pid=pid)
    return any(str(row.get("process.command_line", "")).endswith(f" {port}") for row in rows)


async def test_octets_are_told_at_the_end(outlet: MemoryOutlet) -> None:
    """Where the kernel counts, the end of a connection says what was carried, as it was sent."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        async with observing(outlet, host.Method.AUTO):
            if "inet_diag with events" not in {notice["method"] for notice in outlet.told("host_observation")}:
                pytest.skip("the kernel tells of ends only with CAP_NET_ADMIN: run as root")
            with socket.create_connection(server.getsockname()) as client:
                accepted, _ = server.accept()
                client.sendall(b"x" * 1000)
                accepted.recv(1000, socket.MSG_WAITALL)
                port = client.getsockname()[1]
                accepted.close()
            await outlet.until(
                lambda: find(outlet, source__port=port, event__action="connection_closed", network__direction="egress")
            )
    (row,) = find(outlet, source__port=port, event__action="connection_closed", network__direction="egress")
    assert row["source.bytes"] == 1000


async def test_what_the_kernel_drops_is_counted() -> None:
    """Of a hundred ends in a small buffer each is either taken or counted as dropped."""
    try:
        ends = SocketEnds(buffer_bytes=4096)
    except OSError as error:
        pytest.skip(f"no events of sockets here ({error}): run as root")
    try:
        count = 100
        for _ in range(count):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as used:
                used.connect(("127.0.0.1", 9))
        taken = dropped = 0
        while not dropped:  # the kernel tells of ends in its own time
            await asyncio.sleep(0)
            dropped = ends.dropped()
        while taken + dropped < count:
            await asyncio.sleep(0)
            taken += len(ends.drain())
            dropped += ends.dropped()
        assert 0 < taken < count
    finally:
        ends.close()


async def test_listings_without_events_carry_the_counters() -> None:
    """Where ends are not told, a listing has what a connection has carried, and its end says that."""
    reader = DiagReader(has_ends=False)
    table = SocketTable(reader.facts, 65_536)
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            table.look(await reader.sockets(), 1)
            with socket.create_connection(server.getsockname()) as client:
                port = client.getsockname()[1]
                accepted, _ = server.accept()
                with accepted:
                    client.sendall(b"x" * 1000)
                    accepted.recv(1000, socket.MSG_WAITALL)
                    opened = table.look(await reader.sockets(), 2)
                    table.look(await reader.sockets(), 3)
            closed = table.look(await reader.sockets(), 4)
    finally:
        reader.close()
    mine = [change for change in opened if change.facts.local_port == port]
    assert [(change.action, change.tracked.direction) for change in mine] == [(Action.OPENED, Direction.EGRESS)]
    (end,) = [change for change in closed if change.facts.local_port == port]
    assert end.action is Action.CLOSED
    assert end.facts.traffic is not None
    assert end.facts.traffic.sent_bytes == 1000


@pytest.mark.parametrize("method", list(host.Method))
async def test_a_stop_counts_what_a_full_edge_does_not_take(method: host.Method, outlet: MemoryOutlet) -> None:
    """Stopped while nothing is taken, the source ends by itself and counts what it held."""
    outlet.gate.clear()
    async with running(host.Source(host.Config(method=method)), outlet):
        await outlet.offered.wait()
    assert not outlet.rows
    assert outlet.losses["stopped"] > 0


async def test_loopback_can_be_left_out(outlet: MemoryOutlet) -> None:
    """With ``ignore_loopback`` no socket of a loopback address is told, others are."""
    config = host.Config(
        processes=False, interval_s=0.05, ignore_loopback=True, method=host.Method.POLLING, max_core_share=1.0
    )
    with socket.create_server(("127.0.0.1", 0)) as hidden, socket.create_server(("0.0.0.0", 0)) as shown:
        hidden_port, shown_port = hidden.getsockname()[1], shown.getsockname()[1]
        async with running(host.Source(config), outlet):
            await outlet.until(lambda: find(outlet, destination__port=shown_port))
    assert not find(outlet, destination__port=hidden_port)


async def test_nothing_to_observe_is_a_mistake(outlet: MemoryOutlet) -> None:
    """With everything switched off the source says which setting to change."""
    with pytest.raises(ConfigError, match="set one to true"):
        await host.Source(host.Config(processes=False, connections=False)).run(outlet)


async def test_psutil_sees_the_same(outlet: MemoryOutlet) -> None:
    """The reader of other systems gives this process and its listening socket with its owner."""
    reader = PsutilReader(outlet.now_ns)
    assert os.getpid() in reader.pids()
    facts = reader.process(os.getpid())
    assert facts is not None
    assert facts.parent_pid == os.getppid()
    with socket.create_server(("127.0.0.1", 0)) as server:
        listed = [reader.facts(seen) for seen in await reader.sockets()]
        (mine,) = [one for one in listed if one.local_port == server.getsockname()[1]]
    assert (mine.transport, mine.state_name, mine.pid) == ("tcp", "listen", os.getpid())
