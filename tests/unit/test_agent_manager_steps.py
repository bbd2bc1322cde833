"""The agent-manager in a real host process: what a step that comes late, twice or too early changes there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import cast

import msgspec
import pytest

from eddy_agents.agent_manager import LOOK_EVERY, Agent
from eddy_mesh.bus import MAX_HISTORY
from eddy_mesh.bus_memory import MemoryBroker
from eddy_mesh.commands import State
from eddy_mesh.config import HostConfig, convert
from eddy_mesh.errors import BusError, ConfigError, StoreError, UsageError
from eddy_mesh.runtime.host import Host
from eddy_mesh.task import Answer
from eddy_mesh.topology.applied import FILE, Applied, read
from eddy_mesh.topology.checks import checked
from eddy_mesh.topology.keeping import bucket
from eddy_mesh.topology.placement import HostThere, Placement, place
from eddy_mesh.topology.record import KEY, Record, RecordState, Source, encode
from eddy_mesh.topology.steps import part_digest, part_tables, servings

PASS = {"type": "transformer", "cooking": "split", "host": "a", "subscribe": ["SELECT * FROM system.never"]}
CONFIG = {"name": "a", "tags": ["site"], "agents": {"agent-manager": {"type": "agent_manager"}}}
ONE: dict[str, object] = {"hosts": {"a": {}}, "agents": {"x": PASS}}
TWO: dict[str, object] = {
    "hosts": {"a": {}},
    "tags": ["room"],
    "agents": {"x": PASS, "y": {"type": "transformer", "cooking": "split", "host": "a"}},
    "edges": {"e": {"from": "x", "to": "y", "statement": "SELECT * FROM network"}},
}


def placed(manifest: dict[str, object], revision: int) -> Placement:
    """Return a placement."""
    return place(checked(manifest, "test"), [HostThere(name="a")], Placement(revision=revision - 1))


class Machine:
    """One host process with its agent-manager, over all its lives."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.broker = MemoryBroker()

    async def start(self) -> None:
        """Begin with what is on disk."""
        self.bus = self.broker.connect()
        self.host = Host(convert(CONFIG, HostConfig, "test"), self.bus, self.folder)
        await self.host.start()
        cell = self.host.cells["agent-manager"]
        async with asyncio.timeout(10):
            while cell.state_now is not State.RUNNING:  # noqa: ASYNC110  # a cell tells its host only
                await asyncio.sleep(0)
        self.agent = cast("Agent", cell.agent)

    async def stop(self) -> None:
        """End, as killed."""
        await self.host.stop()
        await self.bus.close()

    async def restart(self) -> None:
        """End, and begin with what is on disk."""
        await self.stop()
        await self.start()

    @property
    def agents(self) -> set[str]:
        """The agents that run."""
        return set(self.host.cells) - {"agent-manager"}

    @property
    def file(self) -> Path:
        """What was applied last."""
        return self.folder / "agents" / "agent-manager" / FILE

    @property
    def written(self) -> Applied | None:
        """What was applied last."""
        return read(self.file.parent)

    async def ask(self, verb: str, request: Mapping[str, object]) -> Answer:
        """Ask the agent-manager, by JSON as everybody does."""
        rows = [row async for row in self.agent.query(verb, msgspec.json.decode(msgspec.json.encode(request)))]
        return rows[0]

    async def prepare(self, placement: Placement) -> Answer:
        """Tell the first step of a revision."""
        return await self.ask("prepare", {"revision": placement.revision, **part_tables(placement, "a")})

    async def step(self, verb: str, placement: Placement, **more: object) -> Answer:
        """Tell another step of a revision."""
        part = part_digest(part_tables(placement, "a"))
        return await self.ask(
            verb, {"revision": placement.revision, "part": part, "edges": servings(placement), **more}
        )

    async def apply(self, placement: Placement) -> None:
        """Tell all steps of a revision."""
        await self.prepare(placement)
        await self.step("activate", placement)
        for agent in sorted(self.agents):
            await self.step("retire", placement, agent=agent)
        await self.step("settle", placement)

    async def put(self, placement: Placement, state: RecordState = RecordState.APPLIED) -> None:
        """Write the record."""
        revision = placement.revision
        record = Record(revision=revision, state=state, who="", when_ns=0, why="", source=Source(), placement=placement)
        await (await self.bus.key_value(bucket("eddy"), history=MAX_HISTORY)).put(KEY, encode(record))

    async def look(self) -> None:
        """Let the agent-manager look at the record once."""
        for _ in range(LOOK_EVERY):
            await self.agent.on_tick(0)

    def noticed(self, event: str) -> list[str]:
        """Return how often an operator was told."""
        return [text for _, text in self.host.recent_notices if text.startswith(event)]


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Machine]:
    """Return a host process that was started."""
    made = Machine(tmp_path)
    await made.start()
    yield made
    await made.stop()


async def until_asked(gate: Gate) -> None:
    """Wait until a step has come to a gate."""
    async with asyncio.timeout(5):
        await gate.is_reached.wait()


class Gate:
    """Holds one thing that the host process is told until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, host: Host, verb: str) -> None:
        self.is_reached, self.is_open = asyncio.Event(), asyncio.Event()
        self._real = getattr(host, verb)
        monkeypatch.setattr(host, verb, self._slowly)

    async def _slowly(self, *told: object) -> object:
        self.is_reached.set()
        await self.is_open.wait()
        return await self._real(*told)


async def test_what_was_prepared_before_a_restart_is_not_taken_as_applied(machine: Machine) -> None:
    """Stamped with a revision that it does not run, a host would never converge, and lose events silently."""
    await machine.apply(placed(ONE, 1))
    await machine.prepare(placed(TWO, 2))
    assert machine.agents == {"x", "y"}
    await machine.restart()
    for verb in ("activate", "retire", "settle"):
        with pytest.raises(UsageError, match="prepared for revision 2 is gone, 1 runs here"):
            await machine.step(verb, placed(TWO, 2), agent="x")
    assert machine.host.generations.now.served("e", "a/x") == 0
    assert machine.written is not None
    assert (machine.written.revision, set(machine.written.agents), machine.agents) == (1, {"x"}, {"x"})
    await machine.put(placed(TWO, 3))
    await machine.look()
    assert machine.agents == {"x", "y"}
    assert machine.host.generations.now.served("e", "a/x") == 3


async def test_a_host_that_was_left_out_is_not_taken_as_applied(machine: Machine) -> None:
    """Revision 2 went by without it; 3 changes nothing there, so nobody prepares it: it must come by the record."""
    await machine.apply(placed(ONE, 1))
    third = msgspec.structs.replace(placed(TWO, 2), revision=3)
    for verb in ("activate", "settle"):
        with pytest.raises(UsageError, match="is gone"):
            await machine.step(verb, third)
    await machine.put(third)
    await machine.look()
    assert machine.agents == {"x", "y"}
    assert machine.agent.status()["revision"] == 3


async def test_a_host_that_nothing_changes_goes_along(machine: Machine) -> None:
    """It is stamped with the revision and serves its edges."""
    await machine.apply(placed(TWO, 1))
    second = msgspec.structs.replace(placed(TWO, 1), revision=2)
    await machine.step("activate", second)
    await machine.step("settle", second)
    assert machine.written is not None
    assert (machine.written.revision, set(machine.written.agents)) == (2, {"x", "y"})
    await machine.put(second)
    await machine.look()
    assert not machine.noticed("topology followed"), "it is there already"


@pytest.mark.parametrize("revision", [2, 3])
async def test_what_is_prepared_does_not_keep_from_the_record(machine: Machine, revision: int) -> None:
    """Its settle, or its abort, got lost: nobody but the record will tell this host any more."""
    await machine.apply(placed(ONE, 1))
    await machine.prepare(placed(TWO, 2))
    await machine.put(placed(TWO, 2), RecordState.APPLYING)
    await machine.look()
    assert machine.agent.status()["revision"] == 1, "a manager is carrying it out"
    await machine.put(placed(TWO if revision == 2 else ONE, revision))
    await machine.look()
    assert machine.agents == ({"x", "y"} if revision == 2 else {"x"})
    assert machine.agent.status()["revision"] == revision
    await machine.prepare(placed(TWO, 4))
    await machine.step("activate", placed(TWO, 4))
    assert machine.host.generations.now.served("e", "a/x") == 4


async def test_a_host_of_no_topology_goes_back_to_its_file(machine: Machine) -> None:
    """It was prepared for a change that came to nothing, and the record does not know it: nothing is left of that."""
    await machine.prepare(placed(TWO, 2))
    await machine.put(Placement(revision=3))
    await machine.look()
    assert machine.agents == set()
    assert machine.agent.status()["revision"] == 0
    assert not machine.file.exists()


async def test_an_abort_waits_for_the_prepare_that_it_is_for(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The manager waited too long for prepare and gave up: in the end nothing of it is left."""
    await machine.apply(placed(ONE, 1))
    gate = Gate(monkeypatch, machine.host, "prepare")
    async with asyncio.TaskGroup() as group:
        group.create_task(machine.prepare(placed(TWO, 2)))
        await until_asked(gate)
        group.create_task(machine.ask("abort", {"revision": 2}))
        await machine.look()  # and the agent-manager goes on, or prepare could not reload it
        gate.is_open.set()
    assert machine.agents == {"x"}
    with pytest.raises(UsageError, match="is gone"):
        await machine.step("settle", placed(TWO, 2))


async def test_a_prepare_waits_until_the_record_is_taken_up(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of each would end what prepare started, and settle would write down what does not run."""
    await machine.put(placed(ONE, 1))
    gate = Gate(monkeypatch, machine.host, "configure")
    async with asyncio.TaskGroup() as group:
        group.create_task(machine.look())
        await until_asked(gate)
        preparing = group.create_task(machine.prepare(placed(TWO, 2)))
        await asyncio.sleep(0)
        gate.is_open.set()
    assert preparing.result()["started"] == ["y"]
    await machine.step("activate", placed(TWO, 2))
    await machine.step("settle", placed(TWO, 2))
    assert machine.written is not None
    assert set(machine.written.agents) == machine.agents == {"x", "y"}


async def test_a_prepare_that_ends_half_way_is_aborted(machine: Machine) -> None:
    """The files of children can not be written, but agents run already: abort must know."""
    await machine.apply(placed(ONE, 1))
    (machine.folder / "children").write_text("in the way", encoding="utf-8")
    own: dict[str, object] = {**TWO, "agents": {"x": PASS, "y": PASS, "z": {**PASS, "process": "own"}}, "edges": {}}
    with pytest.raises(StoreError):
        await machine.prepare(placed(own, 2))
    assert machine.agents == {"x", "y"}
    await machine.ask("abort", {"revision": 2})
    assert machine.agents == {"x"}


async def test_a_refused_prepare_leaves_nothing_prepared(machine: Machine) -> None:
    """Nothing was changed, so the host goes along with what comes next as if it had not been asked."""
    await machine.apply(placed(ONE, 1))
    with pytest.raises(ConfigError):
        await machine.ask("prepare", {"revision": 2, "agents": {"x": {"type": "no such thing"}}})
    third = msgspec.structs.replace(placed(ONE, 1), revision=3)
    await machine.step("activate", third)
    await machine.step("settle", third)
    assert machine.agent.status()["revision"] == 3


async def test_steps_of_the_past_change_nothing(machine: Machine) -> None:
    """A manager that was stopped goes on with revision 2, after another one has gone on to 3."""
    await machine.apply(placed(ONE, 1))
    for revision in (2, 3):
        await machine.prepare(placed(TWO, revision))
        await machine.step("activate", placed(TWO, revision))
    for verb in ("activate", "retire", "settle", "abort"):
        with pytest.raises(UsageError, match="revision 2 is over: this host has seen 3"):
            await machine.step(verb, placed(TWO, 2), agent="y")
    with pytest.raises(UsageError, match="revision 2 is over"):
        await machine.prepare(placed(ONE, 2))
    assert machine.host.generations.now.served("e", "a/x") == 3
    assert machine.agents == {"x", "y"}
    assert {key: machine.agent.status()[key] for key in ("revision", "seen")} == {"revision": 1, "seen": 3}


async def test_a_step_says_for_what_it_is(machine: Machine) -> None:
    """Without the digest of the part it would be taken by whatever runs."""
    await machine.apply(placed(ONE, 1))
    for verb in ("activate", "retire", "settle"):
        with pytest.raises(UsageError, match=f"{verb}: .*part"):
            await machine.ask(verb, {"revision": 1, "agent": "x", "edges": {}})


async def test_a_full_disk_ends_no_agent_manager(machine: Machine) -> None:
    """It is told once, tried again at every look, and its children live on."""
    in_the_way = machine.file.with_suffix(".part")
    in_the_way.mkdir()
    await machine.put(placed(ONE, 1))
    for _ in range(3):
        await machine.look()
    (told,) = machine.noticed("topology not taken up")
    assert str(machine.file) in told
    assert machine.agent.status()["revision"] == 0
    in_the_way.rmdir()
    await machine.look()
    assert machine.written is not None
    assert machine.written.revision == machine.agent.status()["revision"] == 1

    in_the_way.mkdir()
    await machine.prepare(placed(TWO, 2))
    with pytest.raises(StoreError, match="make room"):
        await machine.step("settle", placed(TWO, 2))
    in_the_way.rmdir()
    await machine.step("settle", placed(TWO, 2))
    assert machine.written.revision == 2


async def test_a_server_that_is_away_is_no_complaint(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everybody goes on with what they run, and looks again."""
    await machine.put(placed(ONE, 1))
    with monkeypatch.context() as away:

        async def unreachable(*_: object, **__: object) -> object:
            raise BusError("no answer")

        away.setattr(machine.bus, "key_value", unreachable)
        await machine.look()
    assert not machine.noticed("topology not taken up")
    await machine.look()
    assert machine.agents == {"x"}


@pytest.mark.parametrize("before", [{}, {"agents": {"x": {"type": "anonymizer"}}}])
async def test_abort_takes_tags_back(machine: Machine, before: dict[str, object]) -> None:
    """Tags of a change that came to nothing hold no more, also where nobody told any before."""
    if before:
        await machine.ask("configure", {"revision": 1, **before})
    gate = machine.host.tags
    await machine.prepare(placed(TWO, 2))
    assert machine.host.tags._allowed == {"tags.room", "tags.anonymization"}
    await machine.ask("abort", {"revision": 2})
    assert machine.host.tags._allowed == gate._allowed == {"tags.site", "tags.anonymization"}
