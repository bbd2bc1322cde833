"""The backplane-manager against host processes that only pretend: every step in order, and whoever ends on the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from copy import deepcopy
from typing import cast

import msgspec
import pytest

from eddy_agents.backplane_manager import Agent, Config
from eddy_mesh import queries, subjects
from eddy_mesh.bus import Message, Subscription
from eddy_mesh.bus_memory import MemoryBroker, MemoryBus
from eddy_mesh.cer import Value
from eddy_mesh.errors import ConfigError, UsageError
from eddy_mesh.task import Answer, Context, Task
from eddy_mesh.topology.keeping import Keeping
from eddy_mesh.topology.record import Record
from eddy_mesh.topology.steps import part_digest

HOSTS = ("a", "b", "c")
PASS = {"type": "anonymizer"}
FIRST: dict[str, object] = {
    "hosts": {name: {} for name in HOSTS},
    "agents": {"p": {**PASS, "host": "a"}, "y": {**PASS, "host": "b"}, "z": {**PASS, "host": "c"}},
    "edges": {"raw": {"from": "p", "to": "y"}, "cooked": {"from": "y", "to": "z"}},
}
SECOND: dict[str, object] = {
    "hosts": {name: {} for name in HOSTS},
    "agents": {
        "p": {**PASS, "host": "a"},
        "y": {**PASS, "host": "c"},
        "z": {**PASS, "host": "c"},
        "w": {**PASS, "host": "b", "process": "own"},
    },
    "edges": {
        "raw": {"from": "p", "to": "y"},
        "cooked": {"from": "y", "to": "z"},
        "kept": {"from": "p", "to": "w", "delivery": "durable"},
    },
}
"""y moves from b to c, and w comes in a process of its own."""
TERMS = {"observe_s": 0.02, "watermark_s": 0.02}
Rows = list[Mapping[str, object]]


class Pretender:
    """A host process: what it runs and serves; it takes the verbs of an agent-manager in the order of a revision."""

    queries: frozenset[str] = frozenset()

    def __init__(self, mesh: Mesh, name: str) -> None:
        self.mesh = mesh
        self.name = name
        self.running: dict[str, object] = {}
        self.wanted: dict[str, object] = {}
        self.children: set[str] = set()
        self.edges: dict[str, object] = {}
        self.activated = self.settled = 0
        self.part = ""
        self.sick: dict[str, object] = {}
        self.refusal = ""
        self.subscriptions: list[Subscription] = []

    @property
    def state(self) -> object:
        """What must be the same in the end."""
        return self.running, self.children, self.edges, self.settled

    async def come(self) -> None:
        """Answer from now on."""
        bus = self.mesh.bus
        subject = subjects.query("eddy", "agent_manager", f"{self.name}/agent-manager", "x").removesuffix("x") + "*"
        self.subscriptions = [
            await bus.subscribe(subject, self._asked),
            await bus.subscribe(subjects.control_all("eddy", "stats"), self._stats),
        ]

    async def go(self) -> None:
        """Answer no more."""
        for subscription in self.subscriptions:
            await subscription.unsubscribe()
        self.subscriptions = []

    def status(self) -> dict[str, object]:
        """Return what it tells of itself."""
        agents = [{"agent": "agent-manager", "type": "agent_manager"}]
        return {"host": self.name, "agents": agents + [{"agent": name, "type": "anonymizer"} for name in self.running]}

    async def _stats(self, message: Message) -> None:
        await self.mesh.bus.publish(message.reply, msgspec.json.encode(self.status()))

    async def _asked(self, message: Message) -> None:
        verb = message.subject.rsplit(".", 1)[-1]
        await queries.answer(self.mesh.bus, message, cast("Task", self), verb)

    async def query(self, verb: str, request: Mapping[str, object]) -> AsyncGenerator[Answer, None]:
        """Answer one verb."""
        self.mesh.calls.append((verb, self.name, str(request.get("agent", ""))))
        await self.mesh.called(len(self.mesh.calls), verb, self.name)
        if self.refusal and verb == "prepare":
            raise ConfigError([self.refusal])
        if verb in {"activate", "retire", "settle"} and request["part"] != self.part:
            raise UsageError(f"what was prepared is gone: {self.name} {verb}")
        if verb == "inventory":
            for name in self.running:
                yield {"agent": name, "state": "running", **cast("dict[str, object]", self.sick.get(name, {}))}
            return
        yield {"host": self.name, **await getattr(self, verb)(request)}

    async def prepare(self, request: Mapping[str, object]) -> Answer:
        """Start what is new beside what there is, children too."""
        self.part = part_digest({key: request[key] for key in ("agents", "children", "tags")})
        self.wanted = deepcopy(cast("dict[str, object]", request["agents"]))
        started = sorted(self.wanted.keys() - self.running.keys())
        self.running = self.running | self.wanted
        self.children = {*self.children, *cast("dict[str, object]", request["children"])}
        for child in self.children - self.mesh.hosts.keys():
            await self.mesh.add(child)
        self.pending_children = set(cast("dict[str, object]", request["children"]))
        return {"revision": request["revision"], "started": started}

    async def activate(self, request: Mapping[str, object]) -> Answer:
        """Serve the new edges."""
        self.activated = cast("int", request["revision"])
        self.edges = cast("dict[str, object]", request["edges"])
        return {}

    async def fences(self, request: Mapping[str, object]) -> Answer:
        """Tell a fence for each edge."""
        return {"flows": {f"flow-{edge}": [1, 7] for edge in cast("list[str]", request["edges"])}}

    async def retire(self, request: Mapping[str, object]) -> Answer:
        """End an agent that is not wanted."""
        told = [host for host in self.mesh.there() if host.running or host.wanted]
        assert all(host.activated >= cast("int", request["revision"]) for host in told)
        agent = cast("str", request["agent"])
        self.mesh.fences[self.name, agent] = request["fences"]
        if agent not in self.wanted:
            self.running.pop(agent, None)
        return {"agent": agent}

    async def settle(self, request: Mapping[str, object]) -> Answer:
        """Forget the old, end the children that are not wanted."""
        for child in self.children - getattr(self, "pending_children", self.children):
            await self.mesh.hosts.pop(child).go()
        self.children = getattr(self, "pending_children", self.children)
        self.settled = cast("int", request["revision"])
        return {}

    async def abort(self, request: Mapping[str, object]) -> Answer:
        """Note it."""
        self.mesh.aborted.append(self.name)
        return {}


class Mesh:
    """Host processes that pretend, the store of record, and managers on one bus and one clock."""

    def __init__(self) -> None:
        self.broker = MemoryBroker()
        self.bus: MemoryBus = self.broker.connect()
        self.hosts: dict[str, Pretender] = {}
        self.calls: list[tuple[str, str, str]] = []
        self.fences: dict[tuple[str, str], object] = {}
        self.aborted: list[str] = []
        self.events: list[tuple[str, dict[str, Value]]] = []
        self.managers: list[Timed] = []
        self.now_ns = 10**18
        self.at: Callable[[int, str, str], object] = lambda *_: None

    def there(self) -> list[Pretender]:
        """The hosts that answer."""
        return [host for host in self.hosts.values() if host.subscriptions]

    async def add(self, name: str) -> None:
        """Start a host process."""
        self.hosts[name] = Pretender(self, name)
        await self.hosts[name].come()

    async def called(self, number: int, verb: str, host: str) -> None:
        """Do what a test does at a call."""
        done = self.at(number, verb, host)
        if asyncio.iscoroutine(done):
            await done

    async def manager(self, host: str = "hub") -> Timed:
        """Start a manager that knows the hosts."""
        agent = Timed(self)
        await agent.start(cast("Context", Here(self, host)))
        agent._caller._has_asked = True  # else each waits for the last answer of its own
        for known in self.hosts.values():
            agent._caller.presence.heard(known.status(), self.now_ns)
        self.managers.append(agent)
        return agent

    async def record(self) -> Record:
        """The record."""
        record = (await Keeping(self.bus, "eddy").read()).record
        assert record is not None
        return record

    async def close(self) -> None:
        """End everybody."""
        for manager in self.managers:
            await manager.stop()
        await self.bus.close()


class Timed(Agent):
    """A manager by the clock of a test, which goes on by itself too."""

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(Config(timeout_s=5.0, away_s=0.05, look_s=0.01))
        self.mesh = mesh

    def _clock_s(self) -> float:
        return asyncio.get_running_loop().time() + self.mesh.now_ns / 1e9


class Here:
    """The context of a manager."""

    name, backplane = "backplane-manager", "eddy"

    def __init__(self, mesh: Mesh, host: str) -> None:
        self.mesh, self.host, self.bus = mesh, host, mesh.bus

    def now_ns(self) -> int:
        """Return the time."""
        return self.mesh.now_ns

    def notice(self, event: str, **fields: Value) -> None:
        """Remember."""
        self.mesh.events.append((event, fields))


@pytest.fixture
async def mesh() -> AsyncIterator[Mesh]:
    """Three host processes that run nothing yet."""
    made = await _mesh()
    yield made
    await made.close()


async def _mesh() -> Mesh:
    made = Mesh()
    for name in HOSTS:
        await made.add(name)
    return made


async def apply(manager: Agent, manifest: Mapping[str, object], **more: object) -> Rows:
    """Return the rows of an apply."""
    request = {"manifest": manifest, "who": "ann@desk", "terms": TERMS, **more}
    return [row async for row in manager.query("apply", request) if row]


async def applied(mesh: Mesh) -> Timed:
    """Return a manager that has applied the first manifest."""
    manager = await mesh.manager()
    await apply(manager, FIRST)
    mesh.calls.clear()
    return manager


async def idle(manager: Agent) -> None:
    """Wait until a manager carries nothing out."""
    assert manager._work is not None
    async with asyncio.timeout(5):
        await asyncio.wait({manager._work})


def states(mesh: Mesh) -> dict[str, object]:
    """What every host runs in the end."""
    return {name: deepcopy(host.state) for name, host in sorted(mesh.hosts.items())}


async def test_steps_come_in_order(mesh: Mesh) -> None:
    """All are prepared before anything is activated; then old ends end from sources to sinks, with their fences."""
    manager = await applied(mesh)
    rows = await apply(manager, SECOND)
    steps = [verb for verb, _, _ in mesh.calls]
    order = ["prepare", "inventory", "prepare", "activate", "fences", "retire", "settle", "inventory"]
    assert [verb for n, verb in enumerate(steps) if n == 0 or steps[n - 1] != verb][:4] == order[:4]
    assert steps.index("settle") > max(n for n, verb in enumerate(steps) if verb == "retire")
    assert [call for call in mesh.calls if call[0] == "prepare"][-1] == ("prepare", "b.w", "")
    retired = [agent for verb, _, agent in mesh.calls if verb == "retire"]
    assert retired == ["p", "y", "z"]
    assert mesh.fences["c", "z"] == {"flow-cooked": {"b": [1, 7]}}
    assert mesh.hosts["b"].running == {}
    assert mesh.hosts["b.w"].running.keys() == {"w"}
    assert mesh.hosts["c"].running.keys() == {"y", "z"}
    assert (rows[0]["step"], rows[-1]["step"], rows[-1]["revision"]) == ("begin", "applied", 2)
    assert [name for name, _ in mesh.events] == ["topology_applying", "topology_applied"] * 2
    assert mesh.events[-1][1]["user.name"] == "ann@desk"


async def test_a_plan_changes_nothing(mesh: Mesh) -> None:
    """It tells at edge level what would happen, and who is not there."""
    manager = await mesh.manager()
    (row,) = [row async for row in manager.query("plan", {"manifest": FIRST})]
    assert "+ connect     edge raw: live; a/p -> b/y" in cast("list[str]", row["lines"])
    assert (row["revision_before"], row["revision"], row["missing"]) == (0, 1, [])
    away = {**FIRST, "hosts": {**cast("dict[str, object]", FIRST["hosts"]), "d": {}}}
    away["agents"] = {**cast("dict[str, object]", FIRST["agents"]), "q": {**PASS, "host": "d"}}
    (row,) = [row async for row in manager.query("plan", {"manifest": away})]
    assert row["missing"] == ["d"]
    assert mesh.calls == []
    with pytest.raises(UsageError, match="d: start it, or take it out"):
        await apply(manager, away)
    assert (await apply(manager, away, terms={"without": ["d"], "observe_s": 0}))[-1]["step"] == "applied"
    assert [row["step"] for row in await apply(manager, away)] == ["nothing"]
    with pytest.raises(UsageError, match="plan again"):
        await apply(manager, FIRST, expected_placement="of other hosts")
    with pytest.raises(UsageError, match="apply without a manifest"):
        [row async for row in manager.query("apply", {"terms": TERMS})]


async def _end_of(second: Mapping[str, object], at: int, sick: Mapping[str, object]) -> tuple[object, object, int]:
    """Apply, end the manager at a call (0: none), let another one take over; return how it ends."""
    mesh = await _mesh()
    try:
        first = await mesh.manager()
        await apply(first, FIRST, terms={"observe_s": 0})
        mesh.hosts["c"].sick = dict(sick)
        mesh.calls.clear()
        mesh.at = lambda number, *_: first.stop() if number == at else None
        asking = asyncio.create_task(apply(first, SECOND))
        await asyncio.wait({asking})
        calls, ended = len(mesh.calls), asking.exception()
        assert (ended is not None) == bool(sick or at)
        if at:
            second_manager = await mesh.manager("other")
            await second_manager.on_tick(mesh.now_ns)
            assert not second_manager.status()["is_working"], "the claim still holds"
            mesh.now_ns += 6 * 10**9
            await second_manager.on_tick(mesh.now_ns)
            await idle(second_manager)
        record = await mesh.record()
        return states(mesh), (record.revision, record.state, record.placement, record.claim), calls
    finally:
        await mesh.close()


@pytest.mark.parametrize("sick", [{}, {"y": {"state": "failed", "reason": "no disk"}}], ids=["healthy", "unhealthy"])
async def test_a_manager_may_end_at_every_step(sick: Mapping[str, object]) -> None:
    """Whichever call it was in, another one finishes, or rolls back, and everybody is as if nothing had happened."""
    hosts, record, calls = await _end_of(SECOND, 0, sick)
    assert calls > 15
    for at in range(1, calls + 1):
        assert (await _end_of(SECOND, at, sick))[:2] == (hosts, record), at


async def test_a_manager_that_starts_again_goes_on_at_once(mesh: Mesh) -> None:
    """Its own claim is from before; it need not wait for its end."""
    first = await mesh.manager()
    mesh.at = lambda number, *_: first.stop() if number == 2 else None
    with pytest.raises(UsageError):
        await apply(first, FIRST)
    again = await mesh.manager()
    await again.on_tick(mesh.now_ns)
    await idle(again)
    assert (await mesh.record()).claim is None
    assert "topology_taken_over" in [name for name, _ in mesh.events]


@pytest.mark.parametrize("managers", [1, 2])
async def test_of_two_applies_one_wins(mesh: Mesh, managers: int) -> None:
    """The other is told by whom and which revision, be it at the same manager or at another."""
    one = await mesh.manager("one")
    two = await mesh.manager("two") if managers == 2 else one
    ends = await asyncio.gather(apply(one, FIRST), apply(two, SECOND), return_exceptions=True)
    errors = [end for end in ends if isinstance(end, BaseException)]
    assert [type(error) for error in errors] == [UsageError]
    assert "revision 1 of ann@desk is applying, carried out by" in str(errors[0])
    record = await mesh.record()
    assert (record.revision, record.claim) == (1, None)


async def test_a_mistake_at_one_host_changes_nothing(mesh: Mesh) -> None:
    """Everybody aborts, nothing is activated, and what is of record is what still runs, under a number of its own."""
    manager = await applied(mesh)
    mesh.hosts["c"].refusal = "no such disk"
    mesh.calls.clear()
    seen: list[Record] = []

    async def look(_: int, verb: str, __: str) -> None:
        if verb == "abort":
            seen.append(await mesh.record())

    mesh.at = look
    with pytest.raises(UsageError, match="revision 2 refused: c: prepare: no such disk"):
        await apply(manager, SECOND)
    assert {held.revision for held in seen} == {3}, "they are called back when it is of record"
    assert {verb for verb, _, _ in mesh.calls} == {"prepare", "abort"}
    assert {"a", "b", "c"} <= set(mesh.aborted)
    record = await mesh.record()
    assert (record.revision, set(record.placement.agents())) == (3, {"a/p", "b/y", "c/z"})
    assert mesh.events[-1][0] == "topology_refused"
    mesh.hosts["c"].refusal = ""
    assert (await apply(manager, SECOND))[-1]["revision"] == 4


@pytest.mark.parametrize("verb", ["prepare", "activate", "fences", "retire", "settle", "inventory"])
async def test_a_host_that_vanishes_on_the_way(mesh: Mesh, verb: str) -> None:
    """What runs in the end is what ran before, with the reason; the host is let be until it comes."""
    manager = await applied(mesh)
    gone = "a" if verb == "fences" else "c"
    moved = {**SECOND, "edges": FIRST["edges"]}
    if verb == "fences":  # a is asked for the fences of raw
        moved = deepcopy(moved)
        cast("dict[str, dict[str, object]]", moved["agents"])["p"]["mailbox_events"] = 5

    def vanish(_: int, called: str, host: str) -> object:
        return mesh.hosts[gone].go() if called == verb and (host == gone or verb == "fences") else None

    mesh.at = vanish
    manager._caller._timeout_s = 0.5
    with pytest.raises(UsageError, match=rf"(refused|rolled back): {gone}"):
        await apply(manager, moved)
    record = await mesh.record()
    assert (str(record.state), set(record.placement.agents())) == ("applied", {"a/p", "b/y", "c/z"})
    for name in set(HOSTS) - {gone}:
        if verb != "prepare":  # those that refused were told abort
            assert mesh.hosts[name].running.keys() == record.placement.hosts[name].agents.keys()


@pytest.mark.parametrize(
    ("sick", "why"),
    [
        ({"state": "failed", "reason": "no disk"}, "c/y is failed: no disk"),
        ({"restarts": 1}, "c/y crashed"),
        ({"lag_ns": 11 * 10**9}, "c/y is behind"),
    ],
)
async def test_an_unhealthy_agent_rolls_back(mesh: Mesh, sick: Mapping[str, object], why: str) -> None:
    """With the reason, in the answer, of record, and as events."""
    manager = await applied(mesh)
    before = {name: set(host.running) for name, host in mesh.hosts.items()}
    mesh.hosts["c"].sick = {"y": sick}
    with pytest.raises(UsageError, match=f"revision 2 rolled back: {why}"):
        await apply(manager, SECOND)
    assert {name: set(host.running) for name, host in mesh.hosts.items()} == before
    assert [name for name, _ in mesh.events][-3:] == ["topology_applying", "topology_unhealthy", "topology_rolled_back"]
    assert why in str(mesh.events[-1][1]["event.reason"])


async def test_a_rollback_goes_to_what_was_applied_before(mesh: Mesh) -> None:
    """As a new revision; the history has all, and the difference can be asked for."""
    manager = await applied(mesh)
    await apply(manager, SECOND)
    rows = [row async for row in manager.query("rollback", {"who": "bob", "terms": TERMS}) if row]
    assert (rows[-1]["step"], rows[-1]["revision"]) == ("applied", 3)
    history = [row async for row in manager.query("history", {})]
    assert [(row["revision"], row["who"]) for row in history] == [(3, "bob"), (2, "ann@desk"), (1, "ann@desk")]
    (same,) = [row async for row in manager.query("diff", {"from": 1, "to": 3})]
    assert same["lines"] == ["no difference"]
    (shown,) = [row async for row in manager.query("topology", {"revision": 2})]
    assert shown["manifest"] == SECOND
    with pytest.raises(UsageError, match="there are 1, 2, 3"):
        [row async for row in manager.query("topology", {"revision": 9})]


@pytest.mark.parametrize("host", ["a", "d"])
async def test_what_ran_before_the_first_topology_ends(mesh: Mesh, host: str) -> None:
    """Agents of a configuration file that no topology names are told in the plan, and retired, also at an idle host."""
    await mesh.add("d")
    mesh.hosts[host].running = {"old": {}}
    manager = await mesh.manager()
    manifest = {**FIRST, "hosts": {name: {} for name in "abcd"}}
    (row,) = [row async for row in manager.query("plan", {"manifest": manifest})]
    assert f"- stop        {host}/old: runs there, and no topology names it" in cast("list[str]", row["lines"])
    await apply(manager, manifest)
    assert mesh.hosts["a"].running.keys() == {"p"}
    assert mesh.hosts["d"].running == {}


async def test_nobody_has_to_follow(mesh: Mesh) -> None:
    """Whoever asked for an apply may go away after the first row."""
    manager = await mesh.manager()
    rows = manager.query("apply", {"manifest": FIRST, "terms": TERMS})
    await anext(rows)
    await rows.aclose()
    await idle(manager)
    assert (await mesh.record()).state == "applied"


async def test_a_manager_whose_change_was_taken_over_stops(mesh: Mesh) -> None:
    """It hears of it when it renews its claim, and the other one ends the change."""
    first, second = await mesh.manager("one"), await mesh.manager("two")
    called, waiting = asyncio.Event(), asyncio.Event()

    async def hang() -> None:
        called.set()
        await waiting.wait()

    mesh.at = lambda number, *_: hang() if number == 1 else None
    asking = asyncio.create_task(apply(first, FIRST))
    await called.wait()
    for manager in (first, second):  # not: nothing would change; it may still be rolled back
        with pytest.raises(UsageError, match="revision 1 of ann@desk is applying, carried out by one/"):
            await apply(manager, FIRST)
        await manager.on_tick(mesh.now_ns)
    mesh.now_ns += 4 * 10**9
    await first.on_tick(mesh.now_ns)
    mesh.now_ns += 4 * 10**9
    await second.on_tick(mesh.now_ns)
    assert not second.status()["is_working"], "the claim was renewed"
    mesh.now_ns += 6 * 10**9
    await second.on_tick(mesh.now_ns)
    await first.on_tick(mesh.now_ns)
    with pytest.raises(UsageError, match="taken over"):
        await asking
    waiting.set()
    await idle(second)
    assert [fields["topology.manager"] for _, fields in mesh.events][-1] == "two/backplane-manager"


async def test_a_server_that_is_away_is_waited_for(mesh: Mesh) -> None:
    """A change ends at once, not when answers are overdue, and goes on at a tick when the server is back."""
    manager = await mesh.manager()
    manager._caller._timeout_s = 3600.0
    mesh.at = lambda number, *_: mesh.broker.disconnect() if number == 1 else None
    with pytest.raises(UsageError, match="taken up again"):
        await apply(manager, FIRST)
    await manager.on_tick(mesh.now_ns)
    mesh.broker.reconnect()
    manager._caller._has_asked = True
    mesh.at = lambda *_: None
    await manager.on_tick(mesh.now_ns)
    await idle(manager)
    assert (await mesh.record()).state == "applied"


async def test_a_manager_that_was_stopped_asks_nobody_any_more(mesh: Mesh) -> None:
    """It has not renewed its claim for so long that another one may have gone another way; then it begins again."""
    manager = await applied(mesh)

    def stand_still(_: int, verb: str, host: str) -> None:
        mesh.now_ns += 6 * 10**9 if (verb, host) == ("activate", "a") else 0

    mesh.at = stand_still
    with pytest.raises(UsageError, match="taken up again within some seconds: the claim on the change was not renewed"):
        await apply(manager, SECOND)
    assert {verb for verb, _, _ in mesh.calls} == {"prepare", "inventory", "activate"}
    mesh.at = lambda *_: None
    await manager.on_tick(mesh.now_ns)
    await idle(manager)
    assert [(await mesh.record()).revision, (await mesh.record()).state] == [2, "applied"]


async def test_a_record_that_was_lost_begins_above_what_hosts_have_seen(mesh: Mesh) -> None:
    """They would refuse every step of an older revision."""
    manager = await mesh.manager()
    told = {"agent": "agent-manager", "type": "agent_manager", "detail": {"revision": 17}}
    manager._caller.presence.heard({"host": "a", "agents": [told]}, mesh.now_ns)
    assert (await apply(manager, FIRST))[-1]["revision"] == 18


async def test_a_change_is_told_though_its_manager_was_killed(mesh: Mesh) -> None:
    """Another one tells what was written and not told, once, when nobody else seems to do it."""
    await applied(mesh)
    mesh.events.clear()
    held = await Keeping(mesh.bus, "eddy").read()
    await Keeping(mesh.bus, "eddy").write(await mesh.record(), held.written)  # as if killed before the event
    for manager in (await mesh.manager("two"), await mesh.manager("three")):
        await manager.on_tick(mesh.now_ns)
        mesh.now_ns += 6 * 10**9
        await manager.on_tick(mesh.now_ns)
        assert [name for name, _ in mesh.events] == ["topology_applied"]


async def test_a_hung_host_that_does_not_change_is_left_alone(mesh: Mesh) -> None:
    """Nobody waits for its answer: it was not heard, and it takes up what is of record when it wakes."""
    manager = await applied(mesh)
    mesh.now_ns += 7 * 10**9
    manager._caller.presence.heard({"host": "a"}, mesh.now_ns)
    manager._caller.presence.heard({"host": "b"}, mesh.now_ns)
    changed = deepcopy(FIRST)
    cast("dict[str, dict[str, object]]", changed["agents"])["y"]["mailbox_events"] = 7
    rows = await apply(manager, changed)
    assert {"silent", "applied"} <= {row["step"] for row in rows}
    assert {host for _, host, _ in mesh.calls} == {"a", "b"}


async def test_agents_stay_where_they_are_when_the_manager_restarts(mesh: Mesh) -> None:
    """It knows from the record which host had the label, though that one has not been heard again yet."""
    manager, labels = await mesh.manager(), {"labels": {"site": "x"}}
    manager._caller.presence.heard({"host": "b", **labels}, mesh.now_ns)
    manifest = {"agents": {"y": {**PASS, "label": "site=x"}}}
    await apply(manager, manifest)
    mesh.hosts.clear()
    again = await mesh.manager()
    again._caller.presence.heard({"host": "c", **labels}, mesh.now_ns)
    (row,) = [row async for row in again.query("plan", {"manifest": manifest})]
    assert row["lines"] == ["nothing would change"]
