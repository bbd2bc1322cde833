"""Who means harm: any bytes on any listener, any message on any subject, any command in any order."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec
import pytest

from eddy_mesh import subjects
from eddy_mesh.errors import UsageError
from eddy_mesh.flows import Lease, flow_id
from eddy_mesh.selection import compile_statement

if TYPE_CHECKING:
    from tests.e2e.conftest import Lab

    from eddy_mesh.api import Mesh

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(90)]


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
        await self.lab.ledgers(self.mesh, "victim")
        status = next(status for status in await self.mesh.hosts() if status["host"] == "victim")
        agents = status["agents"]
        assert isinstance(agents, list)
        wrong = [(row["agent"], row["state"], row["reason"]) for row in agents if row["state"] != "running"]
        assert not wrong
        assert not [row["agent"] for row in agents if row["restarts"]]

    async def offered(self, source: str, count: int) -> None:
        """Return when a source was offered so many events since its start."""

        async def there() -> int:
            found = (await self.lab.ledgers(self.mesh, "victim"))[f"outside > {source}"].offered
            return found if found >= count else 0

        assert await self.lab.eventually(there) == count


@pytest.fixture
async def listening(lab: Lab) -> AsyncIterator[Listening]:
    """A victim."""
    await lab.server()
    ports = {name: lab.free_port() for name in ("syslog", "netflow", "sflow")}
    agents: dict[str, object] = {"in-syslog": lab.syslog_source(ports["syslog"])}
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
        await asyncio.to_thread(listening.lab.send_udp, listening.ports[source], *junk, *odd)
        await listening.offered(f"in-{source}", len(junk) + len(odd))
    await listening.all_well()
    await asyncio.to_thread(
        listening.lab.send_tcp, listening.ports["syslog"], b"\0\xff\n" * 100, b"<34>x" + b"y" * 2**20 + b"\n"
    )
    await asyncio.to_thread(
        listening.lab.send_tcp, listening.ports["syslog"], b"99999999999999999999 <34>x\n", b"12 <34>"
    )
    await asyncio.to_thread(listening.lab.send_tcp, listening.ports["syslog"], *junk)
    await listening.all_well()
    await asyncio.to_thread(listening.lab.send_tcp, listening.ports["syslog"], listening.lab.lines_of("good line"))
    await asyncio.to_thread(listening.lab.send_udp, listening.ports["syslog"], listening.lab.lines_of("good datagram"))
    await listening.lab.until_stored(listening.mesh, "good line", 1)
    await listening.lab.until_stored(listening.mesh, "good datagram", 1)
    assert await listening.lab.stored(listening.mesh, "SELECT count(*) AS n WHERE message LIKE '%yyyyy%'") == [{"n": 1}]
    await listening.all_well()


async def test_netflow_cut_at_every_offset(listening: Listening) -> None:
    """Each piece is counted; the whole datagrams before and after give all their flows."""
    whole = [netflow_v5(), netflow_v9()]
    pieces = [datagram[:end] for datagram in whole for end in range(len(datagram))]
    await asyncio.to_thread(listening.lab.send_udp, listening.ports["netflow"], *whole)
    await listening.offered("in-netflow", 2)
    await asyncio.to_thread(listening.lab.send_udp, listening.ports["netflow"], *pieces)
    await listening.offered("in-netflow", 2 + len(pieces))
    await asyncio.to_thread(listening.lab.send_udp, listening.ports["netflow"], *whole)
    await listening.offered("in-netflow", 4 + len(pieces))

    async def flows() -> bool:
        rows = await listening.lab.stored(
            listening.mesh, "SELECT type, count(*) AS n FROM network WHERE source.ip = '192.0.2.1' GROUP BY type"
        )
        counts = {str(row["type"]): int(str(row["n"])) for row in rows}
        return counts.get("netflow.v5", 0) >= 4 and counts.get("netflow.v9", 0) >= 4

    assert await listening.lab.eventually(flows)
    await listening.all_well()


# --- commands at random ------------------------------------------------------------------------------------------


async def test_commands_at_random_leave_nothing_stuck(listening: Listening) -> None:
    """Any verbs in any order, many at once, while events flow: resumed, every agent runs and every edge balances."""
    mesh = listening.mesh
    names = list(await listening.lab.states(mesh, "victim"))
    chance = random.Random(11)

    async def command() -> None:
        with suppress(UsageError):  # not possible in that state
            await mesh.control(
                "victim", chance.choice(names), chance.choice(("stop", "resume", "pause", "reload", "drain"))
            )

    for _ in range(12):
        orders = [asyncio.ensure_future(command()) for _ in range(10)]
        with suppress(OSError):
            listening.lab.send_tcp(
                listening.ports["syslog"], listening.lab.lines_of(*[f"random {n}" for n in range(100)])
            )
        listening.lab.send_udp(listening.ports["netflow"], netflow_v5(), netflow_v9())
        await asyncio.wait_for(asyncio.gather(*orders), 15)

    async def all_run() -> bool:
        found = await listening.lab.states(mesh, "victim")
        for name, state in found.items():
            if state not in {"running", "starting", "draining"}:
                with suppress(UsageError):
                    await mesh.control("victim", name, "resume")
        return set(found.values()) == {"running"}

    assert await listening.lab.eventually(all_run, pause_s=0.3)
    listening.lab.send_tcp(listening.ports["syslog"], listening.lab.lines_of("after the storm"))
    await listening.lab.until_stored(mesh, "after the storm", 1)
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
    await listening.lab.until_stored(listening.mesh, "still here", 1, 30)
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
    await listening.lab.until_stored(listening.mesh, "still flows", 1, 30)
    await listening.all_well()


async def test_hundreds_of_types_leave_the_status_readable(listening: Listening) -> None:
    """Scripts may name their types as they like: agents are still seen, and every event is stored."""
    requests = (listening.mesh.emit(f"kind{n}", [b'{"message": "typed", "a": 1, "b": 2}']) for n in range(200))
    for request in requests:
        await request
    await listening.lab.until_stored(listening.mesh, "typed", 200, 30)
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
        edge = (await listening.lab.ledgers(listening.mesh, "victim")).get("* > archive.0")
        return edge is not None and edge.dropped.get("not_decoded", 0) >= 2 * len(HOSTILE)

    assert await listening.lab.eventually(counted)
    await listening.all_well()
