"""What goes wrong: a server that leaves, mailboxes and disks that are full, bytes that nobody should send."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from eddy_mesh import subjects
from eddy_mesh.conservation import Ledger
from eddy_mesh.errors import BusError, UsageError
from eddy_mesh.flows import Lease, flow_id
from eddy_mesh.selection import compile_statement

if TYPE_CHECKING:
    from tests.e2e.conftest import Lab

    from eddy_mesh.api import Mesh

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(90)]


def lines_of(*messages: str) -> bytes:
    """Return syslog lines (RFC 5424) of this moment."""
    now = datetime.now(UTC).isoformat()
    return "".join(f"<34>1 {now} web1 app - - - {message}\n" for message in messages).encode()


def send_tcp(port: int, *parts: bytes) -> None:
    """Send to a stream listener of this machine."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        for part in parts:
            connection.sendall(part)


def send_udp(port: int, *payloads: bytes) -> None:
    """Send datagrams to this machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for payload in payloads:
            sender.sendto(payload, ("127.0.0.1", port))


def syslog_source(port: int) -> dict[str, object]:
    """Return a syslog source on one port of the loopback address."""
    listen = [f"127.0.0.1:{port}"]
    return {"type": "normalizer", "source": "syslog", "config": {"listen_udp": listen, "listen_tcp": listen}}


async def ledgers(mesh: Mesh, host: str) -> dict[str, Ledger]:
    """Return the accounts of a host process by edge, each of which balances."""
    status = next(status for status in await mesh.hosts() if status["host"] == host)
    held = msgspec.convert(status["edges"], list[Ledger])
    assert all(ledger.balanced for ledger in held), held
    return {ledger.edge: ledger for ledger in held}


async def states(mesh: Mesh, host: str) -> dict[str, str]:
    """Return the state of each agent of a host process."""
    status = next(status for status in await mesh.hosts() if status["host"] == host)
    agents = status["agents"]
    assert isinstance(agents, list)
    return {row["agent"]: row["state"] for row in agents}


async def stored(mesh: Mesh, statement: str) -> list[dict[str, object]]:
    """Return the rows of a statement on stored events."""
    return [dict(event) async for event in mesh.query(statement)]


async def until_stored(lab: Lab, mesh: Mesh, pattern: str, count: int, timeout_s: float = 15.0) -> None:
    """Return when so many events with a message like this are stored."""

    async def there() -> bool:
        statement = f"SELECT count(*) AS n WHERE message LIKE '{pattern}'"
        try:
            return await stored(mesh, statement) == [{"n": count}]
        except (BusError, UsageError):
            return False

    await lab.eventually(there, timeout_s)


# --- the server goes away ----------------------------------------------------------------------------------------


async def test_a_server_that_comes_back_finds_all_accounts_right(lab: Lab) -> None:
    """Events flow through a crash of the server: what was lost is the counted gap, and control works again."""
    server = await lab.server()
    port = lab.free_port()
    edge = await lab.host(
        "edge", {"in-syslog": syslog_source(port), "cook-syslog": {"type": "transformer", "cooking": "syslog"}}
    )
    hub = await lab.host("hub", {"archive": {"type": "archive"}})
    mesh = await lab.mesh()
    sent = 0

    async def feed(seconds: float) -> None:
        nonlocal sent
        until = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < until:
            send_tcp(port, lines_of(*[f"crash {sent + n} {'x' * 2000}" for n in range(50)]))
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
    assert set((await states(mesh, "edge")).values()) == {"running"}
    send_tcp(port, lines_of("crash last"))  # shows the gap to the receiver
    sent += 1

    async def settled() -> tuple[int, int, int] | None:
        hub_edges, edge_edges = await ledgers(mesh, "hub"), await ledgers(mesh, "edge")
        gap = sum(ledger.dropped.get("gap", 0) for ledger in hub_edges.values())
        missed = sum(ledger.dropped.get("disconnected", 0) for ledger in edge_edges.values())
        (row,) = await stored(mesh, "SELECT count(*) AS n WHERE message LIKE 'crash %'")
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
        "in-syslog": syslog_source(port),
        "cook-syslog": {"type": "transformer", "cooking": "syslog"},
        "archive": {"type": "archive"},
    }
    alone = await lab.host("alone", agents)
    await server.kill()
    send_tcp(port, lines_of(*[f"alone {n}" for n in range(200)]))
    await asyncio.sleep(0.5)
    assert await alone.end() == 0, alone.complaints
    assert "Traceback" not in alone.complaints
    await server.restart()
    again = await lab.host("alone", agents)
    mesh = await lab.mesh()
    await until_stored(lab, mesh, "alone %", 200)
    assert await again.end() == 0


# --- overload ----------------------------------------------------------------------------------------------------


async def test_a_source_that_is_held_back_reads_nothing_and_the_kernel_counts(lab: Lab) -> None:
    """With policy block a paused agent stops the source; what the kernel then drops is in the account, exactly."""
    await lab.server()
    port = lab.free_port()
    cook = {"type": "transformer", "cooking": "syslog", "mailbox_events": 100}
    await lab.host("over", {"in-syslog": syslog_source(port), "cook-syslog": cook})
    mesh = await lab.mesh()
    await mesh.control("over", "cook-syslog", "pause")
    payload = b"<34>" + b"x" * 60_000
    count = 2000  # 120 MB, and the receive buffer is at most 64 MiB
    await asyncio.to_thread(send_udp, port, *[payload] * count)
    held = (await ledgers(mesh, "over"))["over > cook-syslog"]
    assert 0 < held.queued <= 512
    await mesh.control("over", "cook-syslog", "resume")

    async def all_counted() -> Ledger | None:
        outside = (await ledgers(mesh, "over"))["outside > in-syslog"]
        return outside if outside.offered == count else None

    outside = await lab.eventually(all_counted)
    assert outside is not None
    assert outside.dropped == {"kernel_buffer": count - outside.out}
    assert outside.dropped["kernel_buffer"] > 0
    send_udp(port, lines_of("good after all"))

    async def taken() -> bool:
        return (await ledgers(mesh, "over"))["over > cook-syslog"].out == outside.out + 1

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
    await until_stored(lab, mesh, "first", 1)
    await mesh.control("over", "archive", "pause")
    for start in range(0, 2000, 50):
        rows = [msgspec.json.encode({"message": f"kept {n}", "n": n}) for n in range(start, start + 50)]
        assert await mesh.emit("json", rows) == 50
        await ledgers(mesh, "over") if start % 500 == 0 else None
    edge = (await ledgers(mesh, "over"))["over > archive"]
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
    await until_stored(lab, mesh, "kept %", expected)
    numbers = [
        int(str(row["message"]).split()[1])
        for row in await stored(mesh, "SELECT message LIMIT 5000")
        if str(row["message"]).startswith("kept")
    ]
    if overload == "drop-oldest":
        assert sorted(numbers) == list(range(1800, 2000))
    if overload == "spool":
        assert numbers == list(range(2000))
    done = (await ledgers(mesh, "over"))["over > archive"]
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
        return (await ledgers(mesh, "over"))["over > archive"].queued == 1000

    assert await lab.eventually(queued)
    first.process.kill()
    await first.process.wait()
    await lab.host("over", agents)
    await until_stored(lab, mesh, "spooled %", 900)
    rows = await stored(mesh, "SELECT message WHERE message LIKE 'spooled %'")
    assert [row["message"] for row in rows] == [f"spooled {n}" for n in range(100, 1000)]
    edge = (await ledgers(mesh, "over"))["over > archive"]
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
        return (await ledgers(mesh, "over"))["over > archive"].queued == 500

    assert await lab.eventually(queued)
    assert await first.end() == 0, first.complaints
    place.unlink()
    await lab.host("over", agents)
    await until_stored(lab, mesh, "waits %", 500)


# --- bad input ---------------------------------------------------------------------------------------------------


def netflow_v5(flows: int = 2) -> bytes:
    """Return a NetFlow v5 datagram."""
    header = struct.pack(">HHIIIIBBH", 5, flows, 1000, 1_800_000_000, 0, 1, 0, 0, 0)
    record = socket.inet_aton("192.0.2.1") + socket.inet_aton("192.0.2.2") + bytes(4) + bytes(28) + bytes(8)
    return header + record * flows


def netflow_v9() -> bytes:
    """Return a NetFlow v9 datagram with a template and two flows of it."""
    fields = [(8, 4), (12, 4), (7, 2), (11, 2), (4, 1), (1, 4)]
    template = struct.pack(">HH", 256, len(fields)) + b"".join(struct.pack(">HH", *field) for field in fields)
    data = (socket.inet_aton("192.0.2.1") + socket.inet_aton("192.0.2.2") + struct.pack(">HHBI", 1, 2, 6, 3)) * 2
    data += bytes(-len(data) % 4)
    sets = struct.pack(">HH", 0, len(template) + 4) + template + struct.pack(">HH", 256, len(data) + 4) + data
    return struct.pack(">HHIIII", 9, 3, 1000, 1_800_000_000, 1, 7) + sets


class Listening:
    """A host process that listens for everything, stores it, and can be asked."""

    def __init__(self, lab: Lab, mesh: Mesh, ports: dict[str, int]) -> None:
        self.lab = lab
        self.mesh = mesh
        self.ports = ports

    async def all_well(self) -> None:
        """Fail unless every agent runs, none was started again, and every edge balances."""
        await ledgers(self.mesh, "victim")
        status = next(status for status in await self.mesh.hosts() if status["host"] == "victim")
        agents = status["agents"]
        assert isinstance(agents, list)
        wrong = [(row["agent"], row["state"], row["reason"]) for row in agents if row["state"] != "running"]
        assert not wrong
        assert not [row["agent"] for row in agents if row["restarts"]]

    async def offered(self, source: str, count: int) -> None:
        """Return when a source was offered so many events since its start."""

        async def there() -> int:
            found = (await ledgers(self.mesh, "victim"))[f"outside > {source}"].offered
            return found if found >= count else 0

        assert await self.lab.eventually(there) == count


@pytest.fixture
async def listening(lab: Lab) -> AsyncIterator[Listening]:
    """A victim."""
    await lab.server()
    ports = {name: lab.free_port() for name in ("syslog", "netflow", "sflow")}
    agents: dict[str, object] = {"in-syslog": syslog_source(ports["syslog"])}
    for name in ("netflow", "sflow"):
        config = {"listen": [f"127.0.0.1:{ports[name]}"]}
        agents[f"in-{name}"] = {"type": "normalizer", "source": name, "config": config}
    for name in ("syslog", "netflow", "sflow", "json"):
        agents[f"cook-{name}"] = {"type": "transformer", "cooking": name}
    for name in ("archive", "directory", "application", "agent_manager", "backplane_manager"):
        agents[name.replace("_", "-")] = {"type": name}
    agents["find-port-scan"] = {"type": "analysis", "detector": "port_scan"}
    agents["in-emit"] = {"type": "normalizer", "source": "emit"}
    victim = await lab.host("victim", agents)
    yield Listening(lab, await lab.mesh(), ports)
    assert "never retrieved" not in victim.complaints, victim.complaints[-3000:]
    assert await victim.end() == 0, victim.complaints[-3000:]


async def test_any_bytes_on_any_listener(listening: Listening) -> None:
    """Each datagram and line is one event, whatever is in it; agents go on and take the next good one."""
    chance = random.Random(7)
    junk = [chance.randbytes(chance.randrange(1, 1400)) for _ in range(300)]
    odd = [
        b"",
        b"\0",
        b"\0" * 1000,
        b"\xff\xfe\xfd",
        b"<",
        b"<999>",
        b"<34>1",
        b"<34>" + b"\xc3\x28" * 50,
        b"\n",
        b"x" * 65507,
    ]
    for source in ("syslog", "netflow", "sflow"):
        await asyncio.to_thread(send_udp, listening.ports[source], *junk, *odd)
        await listening.offered(f"in-{source}", len(junk) + len(odd))
    await listening.all_well()
    await asyncio.to_thread(send_tcp, listening.ports["syslog"], b"\0\xff\n" * 100, b"<34>x" + b"y" * 2**20 + b"\n")
    await asyncio.to_thread(send_tcp, listening.ports["syslog"], b"99999999999999999999 <34>x\n", b"12 <34>")
    await asyncio.to_thread(send_tcp, listening.ports["syslog"], *junk)
    await listening.all_well()
    await asyncio.to_thread(send_tcp, listening.ports["syslog"], lines_of("good line"))
    await asyncio.to_thread(send_udp, listening.ports["syslog"], lines_of("good datagram"))
    await until_stored(listening.lab, listening.mesh, "good line", 1)
    await until_stored(listening.lab, listening.mesh, "good datagram", 1)
    assert await stored(listening.mesh, "SELECT count(*) AS n WHERE message LIKE '%yyyyy%'") == [{"n": 1}]
    await listening.all_well()


async def test_netflow_cut_at_every_offset(listening: Listening) -> None:
    """Each piece is counted; the whole datagrams before and after give all their flows."""
    whole = [netflow_v5(), netflow_v9()]
    pieces = [datagram[:end] for datagram in whole for end in range(len(datagram))]
    await asyncio.to_thread(send_udp, listening.ports["netflow"], *whole)
    await listening.offered("in-netflow", 2)
    await asyncio.to_thread(send_udp, listening.ports["netflow"], *pieces)
    await listening.offered("in-netflow", 2 + len(pieces))
    await asyncio.to_thread(send_udp, listening.ports["netflow"], *whole)
    await listening.offered("in-netflow", 4 + len(pieces))

    async def flows() -> bool:
        rows = await stored(
            listening.mesh, "SELECT type, count(*) AS n FROM network WHERE source.ip = '192.0.2.1' GROUP BY type"
        )
        counts = {str(row["type"]): int(str(row["n"])) for row in rows}
        return counts.get("netflow.v5", 0) >= 4 and counts.get("netflow.v9", 0) >= 4

    assert await listening.lab.eventually(flows)
    await listening.all_well()


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
    assert set((await states(mesh, "full")).values()) == {"running"}
    assert '"event": "agent_waits"' in host.complaints
    tap = await lab.start("tap", "SELECT message WHERE message = 'live goes on'", "--count", "1", "--json")

    async def asked() -> bool:
        return any(edge.startswith("full > flow") for edge in await ledgers(mesh, "full"))

    assert await lab.eventually(asked)
    await mesh.emit("json", [b'{"message": "live goes on"}'])
    out, _ = await asyncio.wait_for(tap.communicate(), 10)
    assert out == b'{"message":"live goes on"}\n'
    make_room(small_disk)
    await until_stored(lab, mesh, "big %", count, 30)

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
    await until_stored(lab, mesh, "big %", count, 30)
    assert await again.end() == 0, again.complaints[-3000:]


# --- commands at random ------------------------------------------------------------------------------------------


async def test_commands_at_random_leave_nothing_stuck(listening: Listening) -> None:
    """Any verbs in any order, many at once, while events flow: resumed, every agent runs and every edge balances."""
    mesh = listening.mesh
    names = list(await states(mesh, "victim"))
    chance = random.Random(11)

    async def command() -> None:
        with suppress(UsageError):  # not possible in that state
            await mesh.control(
                "victim", chance.choice(names), chance.choice(("stop", "resume", "pause", "reload", "drain"))
            )

    for _ in range(12):
        orders = [asyncio.ensure_future(command()) for _ in range(10)]
        with suppress(OSError):
            send_tcp(listening.ports["syslog"], lines_of(*[f"random {n}" for n in range(100)]))
        send_udp(listening.ports["netflow"], netflow_v5(), netflow_v9())
        await asyncio.wait_for(asyncio.gather(*orders), 15)

    async def all_run() -> bool:
        found = await states(mesh, "victim")
        for name, state in found.items():
            if state not in {"running", "starting", "draining"}:
                with suppress(UsageError):
                    await mesh.control("victim", name, "resume")
        return set(found.values()) == {"running"}

    assert await listening.lab.eventually(all_run, pause_s=0.3)
    send_tcp(listening.ports["syslog"], lines_of("after the storm"))
    await until_stored(listening.lab, mesh, "after the storm", 1)
    await listening.all_well()


# --- hostile messages --------------------------------------------------------------------------------------------

NESTED = b"[" * 100_000
DEEP = b'{"a":' * 50_000 + b"1" + b"}" * 50_000
HOSTILE = [
    b"",
    b"\xff\xfe\0",
    b"null",
    b"[]",
    b'"text"',
    b"{",
    NESTED,
    DEEP,
    os.urandom(200_000),
    b'{"config": 7}',
    b'{"config": {"a": {"b": []}}}',
    b'{"statement": 7, "ids": 7, "topology": 7, "agents": 7, "revision": "x"}',
    b'{"ids": ["x", 7, null, "' + b"a" * 100_000 + b'"]}',
    b'{"topology": {"hosts": {"victim": {"agents": 7}}}}',
]
STATEMENTS = [
    "SELECT * WHERE " + "(" * 20_000,
    "SELECT * WHERE " + "NOT " * 20_000 + "message = 'x'",
    "SELECT " + ", ".join(f"field{n}" for n in range(20_000)),
    "SELECT * WHERE message ~ '" + "(" * 5_000 + "'",
    "SELECT * WHERE message ~ '" + "(a{1,1000}){1,1000}" + "'",
    "SELECT * WHERE message LIKE '" + "%a" * 20_000 + "'",
    "SELECT * WHERE source.port IN (" + ", ".join(map(str, range(50_000))) + ")",
    "SELECT * SINCE '-99999999999d'",
    "SELECT * UNTIL '9999-99-99T99:99Z'",
    "SELECT * LIMIT 99999999999999999999",
    "SELECT message EVERY 0s",
    "SELECT * FROM ../../etc",
    "\0",
    "SELECT * WHERE message = '\0\ud800'".encode("utf-8", "replace").decode(),
]


def leases() -> Iterator[dict[str, object]]:
    """Yield leases that nobody should ask for."""
    good: dict[str, object] = {"id": "x", "statement": "SELECT *", "owner": "t", "lease_s": 0.5}
    yield from ({**good, "id": f"s{number}", "statement": text} for number, text in enumerate(STATEMENTS))
    yield from ({**good, "id": name} for name in ("", "*", ">", "a.b", "\0", "x" * 300_000, "é" * 2_000))
    yield from ({**good, "owner": name} for name in ("", "victim/", "x" * 300_000))
    yield from ({**good, "lease_s": time} for time in (-1, 0, 1e300, -1e300, 10**40))
    yield {**good, "form": "xml"}
    yield {**good, "more": 1}


async def test_hostile_commands_and_queries_kill_nothing(listening: Listening) -> None:
    """Garbage on every subject of a backplane: each agent runs on, is heard of, and answers the next good message."""
    bus = listening.mesh.bus
    types = ("archive", "directory", "agent_manager", "backplane_manager")
    targets = [
        subjects.control_all("eddy", "subscribe"),
        subjects.control_all("eddy", "unsubscribe"),
        subjects.control_all("eddy", "stats"),
        "eddy.control.all.=ff=fe",
        "eddy.control.victim.archive.=00",
        subjects.control("eddy", "victim", "archive", "reload"),
        subjects.control("eddy", "victim", "nobody", "ping"),
        subjects.control("eddy", "victim", "host", "reload"),
        subjects.status("eddy", "victim", "archive"),
        subjects.status("eddy", "liar", "host"),
        "eddy.emit.x",
        "eddy.emit.=2e=2e=2f=2e=2e=2fetc",
        "$SRV.PING",
        "$SRV.INFO.eddy-archive",
        *(subjects.query("eddy", kind, f"victim/{kind.replace('_', '-')}", "select") for kind in types),
        *(
            subjects.query("eddy", kind, "any", verb)
            for kind in types
            for verb in ("configure", "apply", "fetch", "locate")
        ),
    ]
    for target in targets:
        for data in HOSTILE:
            await bus.publish(target, data, reply="eddy.nowhere")
    for statement in STATEMENTS:
        data = msgspec.json.encode({"statement": statement})
        for kind, verb in (("archive", "select"), ("directory", "locate")):
            await bus.publish(subjects.query("eddy", kind, "any", verb), data, reply="eddy.nowhere")
    await bus.flush()
    await listening.mesh.emit("json", [b'{"message": "still here"}'])
    await until_stored(listening.lab, listening.mesh, "still here", 1, 30)
    await listening.all_well()


async def test_hostile_leases_kill_nothing(listening: Listening) -> None:
    """Absurd leases are refused or end by themselves; good subscribers get their events, and heartbeats go on."""
    bus = listening.mesh.bus
    subject = subjects.control_all("eddy", "subscribe")
    for lease in leases():
        await bus.publish(subject, msgspec.json.encode(lease), reply="eddy.nowhere")
    await bus.flush()
    for number in range(2000):
        many = Lease(f"many{number}", f"SELECT * WHERE message = '{'x' * 2000}{number}'", "t", lease_s=3.0)
        await bus.publish(subject, msgspec.json.encode(many))
    await bus.flush()
    await listening.mesh.emit("json", [b'{"message": "still flows"}'])
    await until_stored(listening.lab, listening.mesh, "still flows", 1, 30)
    await listening.all_well()


async def test_thousands_of_types_leave_the_status_readable(listening: Listening) -> None:
    """Scripts may name their types as they like: agents are still seen, and every event is stored."""
    requests = (listening.mesh.emit(f"kind{n}", [b'{"message": "typed", "a": 1, "b": 2}']) for n in range(1500))
    for request in requests:
        await request
    await until_stored(listening.lab, listening.mesh, "typed", 1500, 30)
    await listening.all_well()


async def test_hostile_flow_messages_are_counted(listening: Listening) -> None:
    """What comes on a flow and is no batch is dropped with a reason; strange batches are stored or refused."""
    bus = listening.mesh.bus
    plan = compile_statement("SELECT *", now_ns=0)
    subject = subjects.flow("eddy", flow_id(plan, "columns"))
    good = {
        "Eddy-Kind": "cooked.application.json",
        "Eddy-Origin": "liar",
        "Eddy-Host": "liar",
        "Eddy-Count": "1",
        "Eddy-Position": "1:0",
    }
    for data in HOSTILE:
        await bus.publish(subject, data)
        await bus.publish(subject, data, headers=good)
    for name, value in (
        ("Eddy-Kind", "cooked.application.../../../etc/passwd"),
        ("Eddy-Kind", "x"),
        ("Eddy-Position", "1:99999999999999999999999"),
        ("Eddy-Position", "-1:-1"),
        ("Eddy-Count", "-5"),
        ("Eddy-Origin", "../" * 100),
    ):
        await bus.publish(subject, b"\x99", headers={**good, name: value})

    async def counted() -> bool:
        edge = (await ledgers(listening.mesh, "victim")).get("* > archive.0")
        return edge is not None and edge.dropped.get("not_decoded", 0) >= 2 * len(HOSTILE)

    assert await listening.lab.eventually(counted)
    await listening.all_well()
