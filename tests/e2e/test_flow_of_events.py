"""Events on their way: two host processes and one server, what moves between them, what tools get, who commands."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from time import time_ns
from typing import TYPE_CHECKING

import msgspec
import pytest
import pytest_asyncio

from eddy_mesh import queries, subjects
from eddy_mesh.errors import BusError, ConfigError, UsageError
from eddy_mesh.flows import Lease

if TYPE_CHECKING:
    from tests.e2e.conftest import Agent, Lab

    from eddy_mesh.api import Mesh

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]


def lines_of(*messages: str) -> bytes:
    """Return syslog lines (RFC 5424) of this moment."""
    now = datetime.now(UTC).isoformat()
    return "".join(f"<34>1 {now} web1 app - - - {message}\n" for message in messages).encode()


class Backplane:
    """An edge with a syslog source, a hub with an archive; both know how to be asked.

    Args:
        lab: where they run.
        mesh: a tool's view of it.
        port: of the syslog source.
        edge: the host process that takes in.
        hub: the one that stores and looks for trouble.
    """

    def __init__(self, lab: Lab, mesh: Mesh, port: int, edge: Agent, hub: Agent) -> None:
        self.lab = lab
        self.mesh = mesh
        self.port = port
        self.edge = edge
        self.hub = hub

    def log(self, *messages: str) -> None:
        """Send syslog lines over TCP."""
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            connection.sendall(lines_of(*messages))

    async def status(self, host: str) -> dict[str, object]:
        """Return the status of a host process."""
        return next(status for status in await self.mesh.hosts() if status["host"] == host)

    async def stored(self, statement: str) -> list[dict[str, object]]:
        """Return the rows of a statement on stored events."""
        return [dict(event) async for event in self.mesh.query(statement)]

    async def until_stored(self, pattern: str, count: int, timeout_s: float = 15.0) -> None:
        """Return when so many events with a message like this are stored."""

        async def all_there() -> bool:
            rows = await self.stored(f"SELECT count(*) AS n WHERE message LIKE '{pattern}'")
            return rows == [{"n": count}]

        await self.lab.eventually(all_there, timeout_s)


EDGE_AGENTS = {
    "cook-syslog": {"type": "transformer", "cooking": "syslog"},
    "agent-manager": {"type": "agent_manager"},
}
HUB_AGENTS = {
    "archive": {"type": "archive"},
    "find-brute-force": {"type": "analysis", "detector": "brute_force"},
    "directory": {"type": "directory"},
    "agent-manager": {"type": "agent_manager"},
    "backplane-manager": {"type": "backplane_manager"},
    "in-emit": {"type": "normalizer", "source": "emit"},
    "cook-json": {"type": "transformer", "cooking": "json"},
}


def syslog_source(port: int) -> dict[str, object]:
    """Return a syslog source on one port of the loopback address."""
    listen = [f"127.0.0.1:{port}"]
    return {"type": "normalizer", "source": "syslog", "config": {"listen_udp": listen, "listen_tcp": listen}}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def backplane(tmp_path_factory: pytest.TempPathFactory, make_lab: type[Lab]) -> AsyncIterator[Backplane]:
    """An edge and a hub on one server, for all tests of this file."""
    lab = make_lab(tmp_path_factory.mktemp("flow"))
    try:
        await lab.server()
        port = lab.free_port()
        edge = await lab.host("edge", {"in-syslog": syslog_source(port), **EDGE_AGENTS})
        hub = await lab.host("hub", HUB_AGENTS)
        yield Backplane(lab, await lab.mesh(), port, edge, hub)
        for agent in (edge, hub):  # after all of the tests both end within five seconds, and in order
            assert await agent.end() == 0, agent.complaints
            assert "Traceback" not in agent.complaints, agent.complaints
            assert "never retrieved" not in agent.complaints
    finally:
        await lab.close()


# --- two host processes ------------------------------------------------------------------------------------------


async def test_events_of_the_edge_are_stored_at_the_hub_once(backplane: Backplane) -> None:
    """Every line of the edge is one event of the hub's archive, and at rest every edge balances."""
    wanted = [f"once {n}" for n in range(3000)]
    for start in range(0, 3000, 100):
        backplane.log(*wanted[start : start + 100])
    await backplane.until_stored("once %", 3000)
    rows = await backplane.stored("SELECT message WHERE message LIKE 'once %'")
    assert Counter(str(row["message"]) for row in rows) == Counter(wanted)

    async def balanced() -> bool:
        audit = await backplane.lab.eddy("audit", "--json")
        return audit.status == 0 and all(row["queued"] == 0 for row in audit.rows)

    assert await backplane.lab.eventually(balanced)
    audit = await backplane.lab.eddy("audit", "--json")
    assert all(row["difference"] == 0 for row in audit.rows)
    assert {str(row["host"]) for row in audit.rows} == {"edge", "hub"}
    assert not any(row["dropped"] or row["failed"] for row in audit.rows)


async def test_only_what_was_asked_for_moves(backplane: Backplane) -> None:
    """A tap with a WHERE gets the matching events and fields; the producer counts what it sent, and nothing more."""
    statement = "SELECT message WHERE message LIKE 'wanted %'"
    tap = await backplane.lab.start("tap", statement, "--json", "--count", "5")
    assert tap.stdout is not None

    async def flow() -> dict[str, object] | None:
        held = (await backplane.status("edge"))["subscriptions"]
        assert isinstance(held, list)
        return next((one for one in held if "wanted" in one["statement"]), None)

    await backplane.lab.eventually(flow)
    backplane.log(*[f"other {n} {'x' * 500}" for n in range(500)], *[f"wanted {n}" for n in range(5)])
    out, _ = await asyncio.wait_for(tap.communicate(), 15)
    assert out.splitlines() == [f'{{"message":"wanted {n}"}}'.encode() for n in range(5)]
    await backplane.until_stored("wanted %", 5)
    backplane.log("wanted 6")  # nobody holds the lease any more

    async def flow_gone() -> bool:
        return await flow() is None

    assert await backplane.lab.eventually(flow_gone)


async def test_bytes_of_a_flow_are_those_of_the_selected_events(backplane: Backplane) -> None:
    """The subscription that matches 1 of 1,000 lines moves a few hundred octets, not a megabyte."""
    got: list[str] = []
    async with asyncio.timeout(20):
        tap = backplane.mesh.tap("SELECT message WHERE message LIKE 'needle%'")
        first = asyncio.ensure_future(anext(tap))

        async def flow() -> dict[str, object] | None:
            held = (await backplane.status("edge"))["subscriptions"]
            assert isinstance(held, list)
            return next((one for one in held if "needle" in one["statement"]), None)

        await backplane.lab.eventually(flow)
        backplane.log(*[f"hay {n} {'x' * 500}" for n in range(999)], "needle")
        got.append(str((await first)["message"]))
        seen = await flow()
        await tap.aclose()
    assert got == ["needle"]
    assert seen is not None
    assert seen["events"] == 1
    assert int(str(seen["offered"])) >= 1000
    assert 0 < int(str(seen["bytes"])) < 1000


async def test_raw_events_leave_the_edge_only_when_asked_for(backplane: Backplane) -> None:
    """Nothing subscribes to raw events at rest, the archive has none, and a tap that names the stage gets them."""
    backplane.log("raw or not")
    await backplane.until_stored("raw or not", 1)
    assert await backplane.stored("SELECT count(*) AS n WHERE stage = 'raw'") == [{"n": 0}]
    tap = await backplane.lab.start("tap", "SELECT * WHERE stage = 'raw'", "--json", "--count", "1")
    await _flow_at_edge(backplane, "raw")
    backplane.log("raw indeed")
    out, _ = await asyncio.wait_for(tap.communicate(), 15)
    event = msgspec.json.decode(out, type=dict[str, object])
    assert event["stage"] == "raw"
    assert "raw indeed" in str(event)


async def _flow_at_edge(backplane: Backplane, part: str) -> dict[str, object]:
    async def held() -> dict[str, object] | None:
        flows = (await backplane.status("edge"))["subscriptions"]
        assert isinstance(flows, list)
        return next((one for one in flows if part in one["statement"]), None)

    found = await backplane.lab.eventually(held)
    assert found is not None
    return found


# --- commands ----------------------------------------------------------------------------------------------------


async def test_each_agent_can_be_stopped_and_resumed(backplane: Backplane) -> None:
    """Every agent, one after the other, stops, says so, and runs again; events flow afterwards."""
    for host in ("edge", "hub"):
        agents = (await backplane.status(host))["agents"]
        assert isinstance(agents, list)
        for agent in [str(row["agent"]) for row in agents]:
            assert (await backplane.mesh.control(host, agent, "stop"))["state"] == "stopped"
            with pytest.raises(UsageError, match="possible are resume, stop"):
                await backplane.mesh.control(host, agent, "pause")
            await backplane.mesh.control(host, agent, "resume")

            async def runs(host: str = host, agent: str = agent) -> bool:
                return (await backplane.mesh.control(host, agent, "ping"))["state"] == "running"

            assert await backplane.lab.eventually(runs)
    backplane.log("after all stops")
    await backplane.until_stored("after all stops", 1)


async def test_pause_holds_events_and_drain_hands_them_over(backplane: Backplane) -> None:
    """What comes while the transformer is paused is queued; resume and drain both bring it to the archive."""
    for end in ("resume", "drain"):
        assert (await backplane.mesh.control("edge", "cook-syslog", "pause"))["state"] == "paused"
        backplane.log(*[f"held {end} {n}" for n in range(20)])

        async def queued() -> bool:
            return (await backplane.mesh.control("edge", "cook-syslog", "stats"))["queued"] == 20

        assert await backplane.lab.eventually(queued)
        assert await backplane.stored(f"SELECT count(*) AS n WHERE message LIKE 'held {end} %'") == [{"n": 0}]
        await backplane.mesh.control("edge", "cook-syslog", end)
        await backplane.until_stored(f"held {end} %", 20)
    assert (await backplane.mesh.control("edge", "cook-syslog", "stats"))["state"] == "stopped"
    await backplane.mesh.control("edge", "cook-syslog", "resume")
    backplane.log("after drain")
    await backplane.until_stored("after drain", 1)


async def test_reload_takes_new_settings_or_leaves_the_old_ones(backplane: Backplane) -> None:
    """A configuration with mistakes is refused with each of them named; a right one is in force after the reload."""
    before = (await backplane.mesh.control("hub", "directory", "info"))["config"]
    wrong = '{"silent_afer_s": 5, "max_entries": "many"}'
    refused = await backplane.lab.eddy("control", "hub/directory", "reload", "--config", wrong)
    assert refused.status == 2
    assert "did you mean silent_after_s?" in refused.err
    assert "max_entries" in refused.err
    held = await backplane.mesh.control("hub", "directory", "info")
    assert held["config"] == before
    assert held["state"] == "running"
    done = await backplane.lab.eddy("control", "hub/directory", "reload", "--config", "silent_after_s = 5.0")
    assert done.status == 0, done.err

    async def in_force() -> bool:
        told = await backplane.mesh.control("hub", "directory", "info")
        return told["state"] == "running" and told["config"] != before

    assert await backplane.lab.eventually(in_force)


async def test_a_configuration_that_fails_at_the_start_is_said(backplane: Backplane) -> None:
    """An address that is not of this host: the agent says why it failed; with the old settings it runs again."""
    config = {"listen_udp": ["203.0.113.1:5514"], "listen_tcp": []}
    await backplane.mesh.control("edge", "in-syslog", "reload", config=config)

    async def failed() -> dict[str, object] | None:
        told = await backplane.mesh.control("edge", "in-syslog", "stats")
        return told if told["state"] == "failed" else None

    told = await backplane.lab.eventually(failed)
    assert told is not None
    assert "203.0.113.1 is not an address of this host" in str(told["reason"])
    await backplane.mesh.control("edge", "in-syslog", "reload", config=syslog_source(backplane.port)["config"])

    async def runs() -> bool:
        return (await backplane.mesh.control("edge", "in-syslog", "ping"))["state"] == "running"

    assert await backplane.lab.eventually(runs)
    backplane.log("listening again")
    await backplane.until_stored("listening again", 1)


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("hub/archive", "puase"), "did you mean pause?"),
        (("hub/archiv", "ping"), "did you mean archive?"),
        (("hub", "pause"), "not a command for a host process"),
    ],
)
async def test_wrong_commands_are_refused_with_a_hint(
    backplane: Backplane, arguments: tuple[str, ...], hint: str
) -> None:
    """A wrong verb, agent, host process or setting ends with status 2 and the nearest right name."""
    done = await backplane.lab.eddy("control", *arguments)
    assert done.status == 2
    assert hint in done.err
    assert "Traceback" not in done.err


# --- topology ----------------------------------------------------------------------------------------------------


async def _apply(backplane: Backplane, topology: dict[str, object]) -> list[dict[str, object]]:
    subject = subjects.query("eddy", "backplane_manager", "hub/backplane-manager", "apply")
    request = {"manifest": topology, "who": "test", "terms": {"observe_s": 0}}
    ask = queries.ask(backplane.mesh.bus, subject, request, timeout_s=15.0)
    return [dict(row) async for row in ask]


def _edge_topology(port: int, **more: object) -> dict[str, object]:
    agents = {"in-syslog": syslog_source(port), **EDGE_AGENTS, **more}
    return {"hosts": {"edge": {"agents": agents}}}


async def _agents_at_the_edge(backplane: Backplane) -> set[str]:
    agents = (await backplane.status("edge"))["agents"]
    assert isinstance(agents, list)
    return {row["agent"] for row in agents}


async def test_a_topology_starts_and_stops_agents(backplane: Backplane) -> None:
    """Apply starts what is new and stops what is not named, and leaves alone what stays."""
    more = {"cook-json": {"type": "transformer", "cooking": "json"}}
    await _apply(backplane, _edge_topology(backplane.port, **more))
    assert await _agents_at_the_edge(backplane) == {"in-syslog", "cook-json", *EDGE_AGENTS}
    await _apply(backplane, _edge_topology(backplane.port))
    assert await _agents_at_the_edge(backplane) == {"in-syslog", *EDGE_AGENTS}
    backplane.log("through a changed topology")
    await backplane.until_stored("through a changed topology", 1)


async def test_a_topology_with_mistakes_changes_nothing(backplane: Backplane) -> None:
    """Mistakes, and hosts that are not there, are named before anything happens."""
    before = await _agents_at_the_edge(backplane)
    moon: dict[str, object] = {"hosts": {"moon": {"agents": {"archive": {"type": "archive"}}}}}
    bad = {"find": {"type": "analysis", "detector": "port_scna"}, "odd": {"type": "archive", "overload": "explode"}}
    cases: list[tuple[dict[str, object], str]] = [
        ({"hots": {}}, "unknown key 'hots'"),
        ({"backplane": "other", "hosts": {}}, "backplane"),
        (moon, "moon"),
        (_edge_topology(backplane.port, **bad), "explode"),
    ]
    for topology, told in cases:
        with pytest.raises((UsageError, ConfigError, BusError), match=told):
            await _apply(backplane, topology)
    assert await _agents_at_the_edge(backplane) == before


async def test_of_concurrent_applies_one_wins_at_a_time(backplane: Backplane) -> None:
    """Those that collide: the loser is told, and the host process ends with what one of the winners wanted."""
    more = {"cook-json": {"type": "transformer", "cooking": "json"}}
    wishes = [_edge_topology(backplane.port, **(more if n % 2 else {})) for n in range(6)]
    done = await asyncio.gather(*(_apply(backplane, wish) for wish in wishes), return_exceptions=True)
    assert all(isinstance(one, list | UsageError | BusError) for one in done), done
    assert any(isinstance(one, list) for one in done)
    assert await _agents_at_the_edge(backplane) >= {"in-syslog", *EDGE_AGENTS}
    await _apply(backplane, _edge_topology(backplane.port))
    assert await _agents_at_the_edge(backplane) == {"in-syslog", *EDGE_AGENTS}


# --- questions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "hint"),
    [
        ("SELECT mesage", "message"),
        ("SELECT message WHERE source.ipp = '1.2.3.4'", "source.ip"),
        ("SELECT message WHERE", "the statement ends here"),
    ],
)
async def test_typos_in_statements_are_shown_with_their_place(backplane: Backplane, statement: str, hint: str) -> None:
    """Status 2, where it went wrong and what was meant; no traceback."""
    done = await backplane.lab.eddy("query", statement)
    assert done.status == 2, done
    assert hint.lower() in done.err.lower()
    assert "Traceback" not in done.err


async def test_a_query_while_the_archive_restarts_is_answered_or_refused(backplane: Backplane) -> None:
    """During reloads every query ends with rows or with a reason, within its time, and the archive is whole after."""
    backplane.log(*[f"steady {n}" for n in range(100)])
    await backplane.until_stored("steady %", 100)
    wrong: list[object] = []

    async def asks() -> None:
        for _ in range(10):
            try:
                rows = await backplane.stored("SELECT count(*) AS n WHERE message LIKE 'steady %'")
            except (UsageError, BusError) as error:
                assert str(error)  # noqa: PT017  # a reason is what is asked for
            else:
                wrong.extend(rows if rows != [{"n": 100}] else [])

    async def reloads() -> None:
        for _ in range(4):
            with suppress(UsageError):  # it is still starting
                await backplane.mesh.control("hub", "archive", "reload")

    async with asyncio.timeout(40):
        await asyncio.gather(asks(), reloads())
    assert wrong == []
    await backplane.until_stored("steady %", 100)


async def test_stored_and_live_events_join_without_gap_or_repeat(backplane: Backplane) -> None:
    """Taps that start in the middle of 2,000 events/s see each event from the first on exactly once."""
    total = 8000

    async def feed() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", backplane.port)
        for start in range(0, total, 100):
            writer.write(lines_of(*[f"join {n}" for n in range(start, start + 100)]))
            await writer.drain()
            await asyncio.sleep(0.05)
        writer.close()
        await writer.wait_closed()
        del reader

    watched: list[list[int]] = [[], [], []]

    async def watch(delay_s: float, seen: list[int]) -> None:
        await asyncio.sleep(delay_s)
        async with aclosing(backplane.mesh.tap("SELECT message WHERE message LIKE 'join %' SINCE '-1h'")) as tap:
            async for event in tap:
                seen.append(int(str(event["message"]).split()[1]))
                if seen[-1] == total - 1:
                    return

    feeding = asyncio.ensure_future(feed())
    try:
        async with asyncio.timeout(30):
            await asyncio.gather(*(watch(*how) for how in zip((0.3, 1.1, 2.3), watched, strict=True)))
    finally:
        await feeding
        for seen in watched:
            missing = sorted(set(range(total)) - set(seen))
            repeated = [n for n, count in Counter(seen).items() if count > 1]
            assert (missing, repeated) == ([], [])


async def test_a_reader_that_stands_still_slows_nobody(backplane: Backplane) -> None:
    """A tap that is stopped for three seconds holds up neither the source nor the archive."""
    tap = await backplane.lab.start("tap", "SELECT message WHERE message LIKE 'standstill%'", "--json")
    try:
        await _flow_at_edge(backplane, "standstill")
        tap.send_signal(signal.SIGSTOP)
        lines = [f"standstill {n} {'x' * 200}" for n in range(1000)]
        began = time_ns()
        for _ in range(10):
            await asyncio.to_thread(backplane.log, *lines)
            await asyncio.sleep(0.3)
        await backplane.until_stored("standstill %", 10_000)
        assert time_ns() - began < 15e9
    finally:
        tap.send_signal(signal.SIGCONT)
        tap.send_signal(signal.SIGINT)
        await asyncio.wait_for(tap.communicate(), 15)
    edges = (await backplane.status("hub"))["edges"]
    assert isinstance(edges, list)
    assert not [edge for edge in edges if "archive" in edge["edge"] and edge["dropped"]]


# --- many who ask ------------------------------------------------------------------------------------------------


async def test_fifty_taps_at_once(backplane: Backplane) -> None:
    """Fifty subscriptions with different statements each get their event, and all leases are given back."""
    started = 0

    async def one(number: int) -> str:
        nonlocal started
        tap = backplane.mesh.tap(f"SELECT message WHERE message = 'fifty {number}'")
        first = asyncio.ensure_future(anext(tap))
        started += 1
        try:
            return str((await first)["message"])
        finally:
            await tap.aclose()

    async def flows() -> int:
        held = (await backplane.status("edge"))["subscriptions"]
        assert isinstance(held, list)
        return sum("fifty" in flow["statement"] for flow in held)

    async def all_held() -> bool:
        return await flows() == 50

    async def none_held() -> bool:
        return await flows() == 0

    async with asyncio.timeout(40):
        tapping = asyncio.gather(*(one(n) for n in range(50)))
        await backplane.lab.eventually(all_held, 20)
        backplane.log(*[f"fifty {n}" for n in range(50)])
        assert await tapping == [f"fifty {n}" for n in range(50)]
        await backplane.lab.eventually(none_held, 10)


async def test_a_lease_that_is_not_renewed_ends(backplane: Backplane) -> None:
    """A subscriber that vanished without a word costs nothing once its lease is over."""
    lease = Lease("vanished", "SELECT message WHERE message = 'nobody'", "tool-gone", lease_s=1.0)
    subject = subjects.control_all("eddy", "subscribe")
    answers = await backplane.mesh.bus.gather(subject, msgspec.json.encode(lease), timeout_s=2)
    assert {msgspec.json.decode(answer.data)["host"] for answer in answers} == {"edge", "hub"}

    async def over() -> bool:
        held = (await backplane.status("edge"))["subscriptions"]
        assert isinstance(held, list)
        return not any(flow["id"] == "vanished" for flow in held)

    assert not await over()
    assert await backplane.lab.eventually(over, 5)


async def test_a_killed_tap_leaves_the_others_alone(backplane: Backplane) -> None:
    """Of two taps with one statement one is killed; the other goes on, and the flow is shared."""
    statement = "SELECT message WHERE message LIKE 'shared%'"
    taps = [await backplane.lab.start("tap", statement, "--json", "--count", "1") for _ in range(2)]

    async def both() -> bool:
        flow = await _flow_at_edge(backplane, "shared")
        owners = flow["owners"]
        assert isinstance(owners, list)
        return len(owners) == 2

    await backplane.lab.eventually(both)
    taps[0].kill()
    await taps[0].communicate()
    backplane.log("shared event")
    out, _ = await asyncio.wait_for(taps[1].communicate(), 10)
    assert out == b'{"message":"shared event"}\n'


async def test_every_agent_is_found_by_service_discovery(backplane: Backplane) -> None:
    """`$SRV.PING` is answered once for each agent, in the form that `nats service ls` reads."""
    answers = await backplane.mesh.bus.gather("$SRV.PING", b"", timeout_s=3)
    rows = [msgspec.json.decode(answer.data, type=dict[str, object]) for answer in answers]
    assert {row["type"] for row in rows} == {"io.nats.micro.v1.ping_response"}
    assert all(row["name"] and row["id"] and row["version"] for row in rows)
    found = Counter(str(dict(row["metadata"])["host"]) for row in rows)  # type: ignore[call-overload]
    hosts = {str(status["host"]): status["agents"] for status in await backplane.mesh.hosts()}
    assert found == {host: len(agents) for host, agents in hosts.items()}  # type: ignore[arg-type]
    assert len({row["id"] for row in rows}) == len(rows)
