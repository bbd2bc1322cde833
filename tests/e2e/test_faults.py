"""What goes wrong: a server that leaves, mailboxes and disks that are full."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from eddy_mesh.conservation import Ledger
from eddy_mesh.errors import BusError

if TYPE_CHECKING:
    from tests.e2e.conftest import Lab


pytestmark = [pytest.mark.e2e, pytest.mark.timeout(90)]


# --- the server goes away ----------------------------------------------------------------------------------------


async def test_a_server_that_comes_back_finds_all_accounts_right(lab: Lab) -> None:
    """Events flow through a crash of the server: what was lost is the counted gap, and control works again."""
    server = await lab.server()
    port = lab.free_port()
    edge = await lab.host(
        "edge", {"in-syslog": lab.syslog_source(port), "cook-syslog": {"type": "transformer", "cooking": "syslog"}}
    )
    hub = await lab.host("hub", {"archive": {"type": "archive"}})
    mesh = await lab.mesh()
    sent = 0

    async def feed(seconds: float) -> None:
        nonlocal sent
        until = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < until:
            lab.send_tcp(port, lab.lines_of(*[f"crash {sent + n} {'x' * 2000}" for n in range(50)]))
            sent += 50
            await asyncio.sleep(0.02)

    await feed(1)
    feeding = asyncio.ensure_future(feed(6))
    await asyncio.sleep(1)
    await server.kill()
    await asyncio.sleep(3)
    await server.restart()
    await feeding

    async def back() -> bool:
        with suppress(BusError):
            return {str(status["host"]) for status in await mesh.hosts()} == {"edge", "hub"}
        return False

    await lab.eventually(back, 20)
    assert set((await lab.states(mesh, "edge")).values()) == {"running"}
    lab.send_tcp(port, lab.lines_of("crash last"))  # shows the gap to the receiver
    sent += 1

    async def settled() -> tuple[int, int, int] | None:
        hub_edges, edge_edges = await lab.ledgers(mesh, "hub"), await lab.ledgers(mesh, "edge")
        gap = sum(ledger.dropped.get("gap", 0) for ledger in hub_edges.values())
        missed = sum(ledger.dropped.get("disconnected", 0) for ledger in edge_edges.values())
        (row,) = await lab.stored(mesh, "SELECT count(*) AS n WHERE message LIKE 'crash %'")
        return (int(str(row["n"])), gap, missed) if int(str(row["n"])) + gap == sent else None

    found = await lab.eventually(settled, 20)
    assert found is not None
    assert found[2] <= found[1]
    assert (await mesh.control("edge", "cook-syslog", "ping"))["state"] == "running"
    assert await edge.end() == 0
    assert await hub.end() == 0
    assert "Traceback" not in edge.complaints + hub.complaints


async def test_a_host_process_without_a_server_ends_in_order(lab: Lab) -> None:
    """While the server is away SIGTERM still ends it within five seconds, with status 0, its archive whole."""
    server = await lab.server()
    port = lab.free_port()
    agents = {
        "in-syslog": lab.syslog_source(port),
        "cook-syslog": {"type": "transformer", "cooking": "syslog"},
        "archive": {"type": "archive"},
    }
    alone = await lab.host("alone", agents)
    await server.kill()
    lab.send_tcp(port, lab.lines_of(*[f"alone {n}" for n in range(200)]))
    await asyncio.sleep(0.5)
    assert await alone.end() == 0, alone.complaints
    assert "Traceback" not in alone.complaints
    await server.restart()
    again = await lab.host("alone", agents)
    mesh = await lab.mesh()
    await lab.until_stored(mesh, "alone %", 200)
    assert await again.end() == 0


# --- overload ----------------------------------------------------------------------------------------------------


async def test_a_source_that_is_held_back_reads_nothing_and_the_kernel_counts(lab: Lab) -> None:
    """With policy block a paused agent stops the source; what the kernel then drops is in the account, exactly."""
    await lab.server()
    port = lab.free_port()
    cook = {"type": "transformer", "cooking": "syslog", "mailbox_events": 100, "emit": "always"}
    await lab.host("over", {"in-syslog": lab.syslog_source(port), "cook-syslog": cook})
    mesh = await lab.mesh()
    await mesh.control("over", "cook-syslog", "pause")
    payload = b"<34>" + b"x" * 60_000
    count = 2000  # 120 MB, and the receive buffer is at most 64 MiB
    await asyncio.to_thread(lab.send_udp, port, *[payload] * count)
    held = (await lab.ledgers(mesh, "over"))["over > cook-syslog"]
    assert 0 < held.queued <= 512
    await mesh.control("over", "cook-syslog", "resume")

    async def all_counted() -> Ledger | None:
        outside = (await lab.ledgers(mesh, "over"))["outside > in-syslog"]
        return outside if outside.offered == count else None

    outside = await lab.eventually(all_counted)
    assert outside is not None
    assert outside.dropped == {"kernel_buffer": count - outside.out}
    assert outside.dropped["kernel_buffer"] > 0
    lab.send_udp(port, lab.lines_of("good after all"))

    async def taken() -> bool:
        return (await lab.ledgers(mesh, "over"))["over > cook-syslog"].out == outside.out + 1

    assert await lab.eventually(taken)


@pytest.mark.parametrize("overload", ["drop-oldest", "sample", "spool"])
async def test_an_overload_policy_keeps_its_promise(lab: Lab, overload: str) -> None:
    """With a paused archive nobody waits, the accounts balance at every look, and what was kept is stored in order."""
    await lab.server()
    agents = {
        "in-emit": {"type": "normalizer", "source": "emit"},
        "cook-json": {"type": "transformer", "cooking": "json"},
        "archive": {"type": "archive", "overload": overload, "mailbox_events": 200},
    }
    await lab.host("over", agents)
    mesh = await lab.mesh()
    await mesh.emit("json", [b'{"message": "first", "n": -1}'])
    await lab.until_stored(mesh, "first", 1)
    await mesh.control("over", "archive", "pause")
    for start in range(0, 2000, 50):
        rows = [msgspec.json.encode({"message": f"kept {n}", "n": n}) for n in range(start, start + 50)]
        assert await mesh.emit("json", rows) == 50
        await lab.ledgers(mesh, "over") if start % 500 == 0 else None
    edge = (await lab.ledgers(mesh, "over"))["over > archive"]
    expected = edge.queued
    if overload == "drop-oldest":
        assert edge.dropped == {"overload": 2000 - expected}
        assert expected == 200
    elif overload == "sample":
        assert edge.dropped["sampled"] > 0
        assert expected <= 200
    else:
        assert (edge.dropped, expected) == ({}, 2000)
    await mesh.control("over", "archive", "resume")
    await lab.until_stored(mesh, "kept %", expected)
    numbers = [
        int(str(row["message"]).split()[1])
        for row in await lab.stored(mesh, "SELECT message LIMIT 5000")
        if str(row["message"]).startswith("kept")
    ]
    if overload == "drop-oldest":
        assert sorted(numbers) == list(range(1800, 2000))
    if overload == "spool":
        assert numbers == list(range(2000))
    done = (await lab.ledgers(mesh, "over"))["over > archive"]
    assert (done.queued, done.out) == (0, expected + 1)


async def test_a_spool_survives_restarts(lab: Lab) -> None:
    """What waited on disk at SIGKILL is there after the start, in order; what was in memory is all that is missing."""
    await lab.server()
    agents = {
        "in-emit": {"type": "normalizer", "source": "emit"},
        "cook-json": {"type": "transformer", "cooking": "json"},
        "archive": {"type": "archive", "overload": "spool", "mailbox_events": 100},
    }
    first = await lab.host("over", agents)
    mesh = await lab.mesh()
    await mesh.control("over", "archive", "pause")
    for start in range(0, 1000, 50):
        await mesh.emit("json", [msgspec.json.encode({"message": f"spooled {n}"}) for n in range(start, start + 50)])

    async def queued() -> bool:
        return (await lab.ledgers(mesh, "over"))["over > archive"].queued == 1000

    assert await lab.eventually(queued)
    first.process.kill()
    await first.process.wait()
    await lab.host("over", agents)
    await lab.until_stored(mesh, "spooled %", 900)
    rows = await lab.stored(mesh, "SELECT message WHERE message LIKE 'spooled %'")
    assert [row["message"] for row in rows] == [f"spooled {n}" for n in range(100, 1000)]
    edge = (await lab.ledgers(mesh, "over"))["over > archive"]
    assert (edge.offered, edge.out, edge.queued) == (900, 900, 0)


async def test_a_spool_survives_an_orderly_end_with_an_agent_that_failed(lab: Lab, tmp_path: Path) -> None:
    """An archive that can not start leaves everything to the spool: after SIGTERM and a repair nothing is missing."""
    await lab.server()
    place = tmp_path / "store"
    place.write_text("a file where a folder must be")
    agents = {
        "in-emit": {"type": "normalizer", "source": "emit"},
        "cook-json": {"type": "transformer", "cooking": "json"},
        "archive": {"type": "archive", "overload": "spool", "mailbox_events": 100, "config": {"path": str(place)}},
    }
    first = await lab.host("over", agents)
    mesh = await lab.mesh()
    for start in range(0, 500, 50):
        await mesh.emit("json", [msgspec.json.encode({"message": f"waits {n}"}) for n in range(start, start + 50)])

    async def queued() -> bool:
        return (await lab.ledgers(mesh, "over"))["over > archive"].queued == 500

    assert await lab.eventually(queued)
    assert await first.end() == 0, first.complaints
    place.unlink()
    await lab.host("over", agents)
    await lab.until_stored(mesh, "waits %", 500)


# --- a full disk -------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 6 MiB."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("mounting a small disk needs Linux and root")
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"a small disk can not be mounted: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def make_room(disk: Path) -> None:
    """Let the small disk have 64 MiB."""
    subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)


async def test_a_full_disk_is_waited_for(small_disk: Path, lab: Lab) -> None:
    """The archive says that there is no room and waits; others go on; with room everything is stored."""
    await lab.server()
    agents = {
        "in-emit": {"type": "normalizer", "source": "emit"},
        "cook-json": {"type": "transformer", "cooking": "json"},
        "archive": {"type": "archive", "config": {"path": str(small_disk / "store")}},
    }
    host = await lab.host("full", agents)
    mesh = await lab.mesh()
    count = 12_000
    for start in range(0, count, 300):
        rows = [{"message": f"big {n}", "padding": os.urandom(600).hex()} for n in range(start, start + 300)]
        assert await mesh.emit("json", [msgspec.json.encode(row) for row in rows]) == 300

    async def says() -> bool:
        told = await mesh.control("full", "archive", "stats")
        return "no room to write" in str(told["reason"]) and "bytes are free" in str(told["reason"])

    assert await lab.eventually(says)
    assert set((await lab.states(mesh, "full")).values()) == {"running"}
    assert '"event": "agent_waits"' in host.complaints
    tap = await lab.start("tap", "SELECT message WHERE message = 'live goes on'", "--count", "1", "--json")

    async def asked() -> bool:
        return any(edge.startswith("full > flow") for edge in await lab.ledgers(mesh, "full"))

    assert await lab.eventually(asked)
    await mesh.emit("json", [b'{"message": "live goes on"}'])
    out, _ = await asyncio.wait_for(tap.communicate(), 10)
    assert out == b'{"message":"live goes on"}\n'
    make_room(small_disk)
    await lab.until_stored(mesh, "big %", count, 30)

    async def says_no_more() -> bool:
        return not (await mesh.control("full", "archive", "stats"))["reason"]

    assert await lab.eventually(says_no_more)
    assert await host.end() == 0, host.complaints


async def test_a_host_process_with_a_full_disk_ends_and_starts(small_disk: Path, lab: Lab) -> None:
    """SIGTERM ends it within five seconds; it starts again on the full disk, and with room it is whole."""
    await lab.server()
    agents = {
        "in-emit": {"type": "normalizer", "source": "emit"},
        "cook-json": {"type": "transformer", "cooking": "json"},
        "archive": {"type": "archive", "overload": "spool", "config": {"path": str(small_disk / "store")}},
    }
    mesh_of = lab.mesh
    host = await lab.host("full", agents)
    mesh = await mesh_of()
    count = 9_000
    for start in range(0, count, 300):
        rows = [{"message": f"big {n}", "padding": os.urandom(600).hex()} for n in range(start, start + 300)]
        await mesh.emit("json", [msgspec.json.encode(row) for row in rows])

    async def waits() -> bool:
        return "no room to write" in str((await mesh.control("full", "archive", "stats"))["reason"])

    assert await lab.eventually(waits)
    assert await host.end() == 0, host.complaints[-3000:]
    again = await lab.host("full", agents)
    make_room(small_disk)
    await lab.until_stored(mesh, "big %", count, 30)
    assert await again.end() == 0, again.complaints[-3000:]
