"""The life of an agent: commands in turn, reloads that lose nothing, settling; on the in-memory bus."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest

from eddy_mesh import rows
from eddy_mesh.actor.cell import Cell
from eddy_mesh.actor.edge import Edge
from eddy_mesh.agent import Outlet, Result, draft_of
from eddy_mesh.batch import Batch, Kind, Producer
from eddy_mesh.bus_memory import MemoryBroker
from eddy_mesh.cer import EventClass, Stage
from eddy_mesh.commands import Command, State
from eddy_mesh.config import AgentConfig, HostConfig, convert
from eddy_mesh.discovery import blueprints
from eddy_mesh.errors import UsageError
from eddy_mesh.runtime.host import Host
from eddy_mesh.task import Answer, Context

KIND = Kind(Stage.COOKED, EventClass.SYSTEM, "syslog")
MADE = Kind(Stage.COOKED, EventClass.SYSTEM, "made")


class Gated:
    """A task that takes a batch, settles and stops only while its gates are open; what it did is in ``did``."""

    queries: frozenset[str] = frozenset()

    def __init__(self) -> None:
        self.taking, self.stopping = asyncio.Event(), asyncio.Event()
        self.taking.set()
        self.stopping.set()
        self.did: list[str] = []
        self.output: Kind | None = None
        self.tick_error: Exception | None = None

    async def start(self, context: Context) -> None:
        """Open nothing."""
        self.did.append("start")

    async def on_batch(self, batch: Batch, now_ns: int) -> Result:
        """Take a batch when the gate is open."""
        self.did.append("offered")
        await self.taking.wait()
        self.did.append("taken")
        return Result([] if self.output is None else [draft_of(self.output, [{"level": 1}] * batch.count)])

    async def on_tick(self, now_ns: int) -> Result:
        """Raise once when told to."""
        error, self.tick_error = self.tick_error, None
        if error is not None:
            raise error
        return Result()

    async def settle(self) -> None:
        """Note that it was asked."""
        self.did.append("settled")

    async def query(self, verb: str, request: Mapping[str, object]) -> AsyncGenerator[Answer, None]:
        """Answer nothing."""
        nothing: list[Answer] = []
        for answer in nothing:
            yield answer

    def status(self) -> Answer:
        """Nothing to tell."""
        return {}

    async def stop(self) -> None:
        """End when the gate is open."""
        await self.stopping.wait()
        self.did.append("stop")


class Emits:
    """A source that hands its outlet over and waits."""

    def __init__(self) -> None:
        self.outlet: Outlet | None = None

    async def run(self, outlet: Outlet) -> None:
        """Wait until cancelled."""
        self.outlet = outlet
        await asyncio.Future()


@pytest.fixture
def broker() -> MemoryBroker:
    """The bus that the host process is on."""
    return MemoryBroker()


@pytest.fixture
async def host(tmp_path: Path, broker: MemoryBroker) -> AsyncIterator[Host]:
    """Return a host process without agents."""
    bus = broker.connect()
    host = Host(convert({"name": "h1", "agents": {}}, HostConfig, "test"), bus, tmp_path, now_ns=lambda: 10**18)
    await host.start()
    yield host
    await host.stop()
    await bus.close()


def add(host: Host, name: str, build: Callable[[], object]) -> Cell:
    """Put an agent of the test into the host, without edges of its own."""
    spec = convert({"type": "directory"}, AgentConfig, "test")
    host.roster.add(name, spec, blueprints({name: spec})[name])
    host.router.part(host.cells[name])
    cell = host.cells[name]
    cell.edges.clear()
    cell.build = build  # type: ignore[assignment]
    return cell


def feed(cell: Cell, name: str = "t") -> Edge:
    """Return an edge that the test offers events to."""
    edge = Edge(f"{name} > {cell.name}", None, cell.mailbox)
    cell.edges.append(edge)
    return edge


def events(count: int) -> Batch:
    """Return events with levels 0, 1, 2 ..."""
    return rows.batch_of(KIND, "h1", Producer(1, 1), 0, 0, [{"level": row % 8} for row in range(count)])


async def turns(count: int = 20) -> None:
    """Let everybody go on who can."""
    for _ in range(count):
        await asyncio.sleep(0)


# --- commands in turn


async def test_commands_to_one_agent_are_carried_out_one_after_another(host: Host) -> None:
    """What comes while a reload ends the old instance waits for it; asking is answered at once."""
    agent = Gated()
    cell = add(host, "probe", lambda: agent)
    cell.start()
    await turns()
    agent.stopping.clear()
    sent = [asyncio.ensure_future(host.command("probe", verb, {})) for verb in ("reload", "pause", "resume", "pause")]
    await turns()
    assert not any(command.done() for command in sent)
    assert (await host.command("probe", "stats", {}))["state"] == "running"
    agent.stopping.set()
    await asyncio.gather(*sent)
    await turns()
    assert cell.state_now is State.PAUSED
    assert agent.did == ["start", "stop", "start"]


async def test_settings_of_a_reload_that_comes_too_late_are_not_taken(host: Host) -> None:
    """A reload behind a stop is refused and leaves the settings as they were."""
    agent = Gated()
    cell = add(host, "probe", lambda: agent)
    cell.start()
    await turns()
    agent.stopping.clear()
    stop = asyncio.ensure_future(host.command("probe", "stop", {}))
    await turns()
    late = asyncio.ensure_future(host.command("probe", "reload", {"config": {"silent_after_s": 5.0}}))
    await turns()
    agent.stopping.set()
    await stop
    with pytest.raises(UsageError, match="not possible while stopped"):
        await late
    assert host.agents["probe"].config == {}


async def test_a_stop_breaks_off_a_drain_that_waits(host: Host) -> None:
    """A drain of an agent that is stuck ends with the stop, a second drain too, and everything is counted."""
    agent = Gated()
    cell = add(host, "probe", lambda: agent)
    edge = feed(cell)
    cell.start()
    agent.taking.clear()
    edge.offer(events(3), 0)
    edge.offer(events(4), 0)
    await turns()
    drains = [asyncio.ensure_future(host.command("probe", "drain", {})) for _ in range(2)]
    await turns()
    assert (await host.command("probe", "ping", {}))["state"] == "draining"
    assert (await host.command("probe", "stop", {}))["state"] == "stopped"
    assert [answer["state"] for answer in await asyncio.gather(*drains)] == ["stopped", "stopped"]
    assert edge.ledger.dropped == {"cancelled": 3, "stopped": 4}
    assert edge.ledger.balanced


async def test_a_command_behind_the_removal_of_its_agent_is_refused(host: Host) -> None:
    """A configuration without the agent and a command at the same time do not bring it back to life."""
    agent = Gated()
    cell = add(host, "probe", lambda: agent)
    cell.start()
    await turns()
    agent.stopping.clear()
    removal = asyncio.ensure_future(host.configure({}))
    await turns()
    late = asyncio.ensure_future(host.command("probe", "resume", {}))
    await turns()
    agent.stopping.set()
    assert (await removal)["stopped"] == ["probe"]
    with pytest.raises(UsageError, match="was removed"):
        await late
    assert agent.did == ["start", "stop"]


async def test_a_paused_agent_is_paused_after_a_reload(host: Host) -> None:
    """Only a resume ends a pause, whenever it was given."""
    agent = Gated()
    cell = add(host, "probe", lambda: agent)
    edge = feed(cell)
    cell.start()
    await cell.command(Command.PAUSE)  # it has not started yet
    await turns()
    assert cell.state_now is State.PAUSED
    await cell.command(Command.RELOAD)
    edge.offer(events(3), 0)
    await turns()
    assert (cell.state_now, edge.ledger.queued) == (State.PAUSED, 3)
    await cell.command(Command.RESUME)
    await edge.until_completed(3)
    assert edge.ledger.out == 3


# --- reloads and crashes lose nothing


async def test_a_reload_lets_the_batch_in_hand_be_finished(host: Host) -> None:
    """The old instance finishes it, the new one takes what waits."""
    agents: list[Gated] = []

    def build() -> Gated:
        agents.append(Gated())
        return agents[-1]

    cell = add(host, "probe", build)
    edge = feed(cell)
    cell.start()
    await turns()
    agents[0].taking.clear()
    edge.offer(events(3), 0)
    edge.offer(events(4), 0)
    await turns()
    reload = asyncio.ensure_future(cell.command(Command.RELOAD))
    await turns()
    assert not reload.done()
    agents[0].taking.set()
    await reload
    await edge.until_completed(7)
    assert [agent.did for agent in agents] == [
        ["start", "offered", "taken", "stop"],
        ["start", "offered", "taken"],
    ]
    assert (edge.ledger.out, edge.ledger.dropped) == (7, {})


async def test_a_batch_that_is_never_finished_is_given_to_the_new_instance(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reload does not wait for ever, and what the old instance did not take is not lost."""
    monkeypatch.setattr("eddy_mesh.actor.cell.RELOAD_REST_S", 0)
    stuck, fresh = Gated(), Gated()
    waiting = [fresh, stuck]
    cell = add(host, "probe", lambda: waiting.pop())  # noqa: PLW0108
    edge = feed(cell)
    cell.start()
    stuck.taking.clear()
    edge.offer(events(3), 0)
    await turns()
    await cell.command(Command.RELOAD)
    await edge.until_completed(3)
    assert fresh.did == ["start", "offered", "taken"]
    assert (edge.ledger.out, edge.ledger.dropped) == (3, {})


async def test_what_waits_for_room_behind_the_agent_survives_a_reload(host: Host) -> None:
    """The agent has answered and the next one is full: after the reload the output goes on, once."""
    maker, taker = Gated(), Gated()
    maker.output = MADE
    taker.taking.clear()
    first, second = add(host, "first", lambda: maker), add(host, "second", lambda: taker)
    behind = Edge("first > second", None, second.mailbox)
    host.router.join(behind, second)
    second.mailbox.capacity = 4
    edge = feed(first)
    first.start()
    second.start()
    for _ in range(3):  # one is being handled, one waits, one finds no room
        edge.offer(events(4), 0)
        await turns()
    assert (edge.ledger.out, edge.ledger.queued) == (8, 4)
    await first.command(Command.RELOAD)
    taker.taking.set()
    await edge.until_completed(12)
    await behind.until_completed(12)
    assert maker.did.count("taken") == 3
    assert (edge.ledger.out, behind.ledger.out) == (12, 12)


async def test_a_crash_leaves_the_batch_in_hand_to_the_next_instance(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tick that raises while a batch is being handled does not cost that batch."""
    monkeypatch.setattr("eddy_mesh.actor.work.TICK_S", 0)
    monkeypatch.setattr("eddy_mesh.actor.life.BACKOFF_S", (0,) * 6)
    agent = Gated()
    cell = add(host, "probe", lambda: agent)
    edge = feed(cell)
    agent.taking.clear()
    cell.start()
    edge.offer(events(3), 0)
    await turns()
    agent.tick_error = OSError("gone")
    while cell.restarts == 0:  # noqa: ASYNC110  # the loop decides when it is
        await asyncio.sleep(0)
    agent.taking.set()
    await edge.until_completed(3)
    assert (edge.ledger.out, edge.ledger.dropped) == (3, {})
    await cell.stop()


async def test_a_drain_holds_over_a_crash(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that crashes while it is drained is started again, handles the rest and is stopped."""
    monkeypatch.setattr("eddy_mesh.actor.work.TICK_S", 0)
    monkeypatch.setattr("eddy_mesh.actor.life.BACKOFF_S", (0,) * 6)
    agent = Gated()
    cell = add(host, "probe", lambda: agent)
    edge = feed(cell)
    agent.taking.clear()
    cell.start()
    edge.offer(events(3), 0)
    await turns()
    drain = asyncio.ensure_future(cell.command(Command.DRAIN))
    await turns()
    agent.tick_error = OSError("gone")
    while agent.did.count("start") < 2:  # noqa: ASYNC110  # the loop decides when it is
        await asyncio.sleep(0)
    assert cell.state_now is State.DRAINING
    agent.taking.set()
    await drain
    assert (cell.state_now, edge.ledger.out) == (State.STOPPED, 3)


async def test_dead_letters_that_can_not_be_sent_are_counted_as_such(
    host: Host, broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Failed events keep their reason in the accounts, and whether anybody was told of them."""

    class Refusing(Gated):
        async def on_batch(self, batch: Batch, now_ns: int) -> Result:
            raise ValueError("no")

    cell = add(host, "probe", Refusing)
    edge = feed(cell)
    cell.start()
    edge.offer(events(2), 0)
    await edge.until_completed(2)
    monkeypatch.setattr("eddy_mesh.bus_memory.OUTBOUND_BUFFER_BYTES", 0)  # else they are held for its return
    broker.disconnect()
    edge.offer(events(1), 0)
    await edge.until_completed(3)
    broker.reconnect()
    assert edge.ledger.failures == {"agent_error": 2, "agent_error_unsent": 1}
    assert edge.ledger.failed == 3
    assert edge.ledger.balanced


# --- settling


async def source_of(host: Host) -> Outlet:
    """Return the outlet of a running source."""
    source = Emits()
    add(host, "in", lambda: source).start()
    await turns()
    assert source.outlet is not None
    return source.outlet


async def test_settled_waits_for_every_edge_and_way_to_an_agent(host: Host) -> None:
    """Events that reach an agent over another agent as well as directly are settled only when both are taken."""
    cook, store = Gated(), Gated()
    cook.output = MADE
    first, second = add(host, "cook", lambda: cook), add(host, "store", lambda: store)
    host.router.join(Edge("in > store", None, second.mailbox), second)
    host.router.join(Edge("in > cook", None, first.mailbox), first)
    first.start()
    second.start()
    outlet = await source_of(host)
    cook.taking.clear()
    await outlet.emit(draft_of(KIND, [{"level": 1}]))
    settled = asyncio.ensure_future(outlet.settled())
    await turns()
    assert not settled.done()
    assert "settled" not in store.did  # what it will be given by cook is still to come
    cook.taking.set()
    await settled
    assert store.did == ["start", "offered", "taken", "offered", "taken", "settled"]
    cook.taking.clear()
    await outlet.emit(draft_of(KIND, [{"level": 1}]))  # now the way over cook is known
    await second.edges[0].until_completed(2)
    settled = asyncio.ensure_future(outlet.settled())
    await turns()
    store.taking.clear()
    cook.taking.set()
    await turns()
    assert not settled.done()
    assert store.did[-2:] == ["taken", "offered"]
    store.taking.set()
    await settled
    assert store.did[-2:] == ["taken", "settled"]


async def test_settled_waits_for_an_agent_that_is_being_started_again(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent in back-off is asked to settle once it is there again, not passed over."""
    monkeypatch.setattr("eddy_mesh.actor.work.TICK_S", 0)
    store = Gated()
    cell = add(host, "store", lambda: store)
    host.router.join(Edge("in > store", None, cell.mailbox), cell)
    cell.start()
    outlet = await source_of(host)
    await outlet.emit(draft_of(KIND, [{"level": 1}]))
    await cell.edges[0].until_completed(1)
    store.tick_error = OSError("gone")
    while cell.state_now is not State.FAILED:  # noqa: ASYNC110  # the loop decides when it is
        await asyncio.sleep(0)
    settled = asyncio.ensure_future(outlet.settled())
    await turns()
    assert not settled.done()
    await cell.command(Command.RESUME)  # ends the back-off
    await settled
    assert store.did == ["start", "offered", "taken", "stop", "start", "settled"]
    await cell.stop()


async def test_an_agent_that_waits_to_be_started_again_can_be_stopped(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop does not wait for the end of the back-off."""
    monkeypatch.setattr("eddy_mesh.actor.work.TICK_S", 0)
    monkeypatch.setattr("eddy_mesh.actor.life.BACKOFF_S", (3600,) * 6)
    agent = Gated()
    agent.tick_error = OSError("gone")
    cell = add(host, "probe", lambda: agent)
    cell.start()
    while cell.state_now is not State.FAILED:  # noqa: ASYNC110  # the loop decides when it is
        await asyncio.sleep(0)
    await cell.command(Command.STOP)
    assert (cell.state_now, agent.did) == (State.STOPPED, ["start", "stop"])


class Clumsy(Emits):
    """A source that raises while it is being ended."""

    async def run(self, outlet: Outlet) -> None:
        """Wait until cancelled, then raise."""
        try:
            await super().run(outlet)
        finally:
            raise OSError("could not say goodbye")


async def test_a_source_that_raises_at_its_end_is_not_started_again(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop ends it, whatever it does then."""
    monkeypatch.setattr("eddy_mesh.actor.life.BACKOFF_S", (3600,) * 6)
    cell = add(host, "in", Clumsy)
    cell.start()
    await turns()
    await cell.command(Command.STOP)
    assert (cell.state_now, cell.restarts) == (State.STOPPED, 0)
