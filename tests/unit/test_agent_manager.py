"""The agent-manager: what it is told to run it runs, keeps, and takes up again; processes only pretend."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import cast

import pytest

from eddy_agents import agent_manager
from eddy_agents.agent_manager import Agent, Config
from eddy_mesh.agent import Draft
from eddy_mesh.bus import Bus
from eddy_mesh.bus_memory import MemoryBroker
from eddy_mesh.cer import Value
from eddy_mesh.config import HostConfig, convert
from eddy_mesh.errors import ConfigError, UsageError
from eddy_mesh.runtime.child_end import End
from eddy_mesh.runtime.children import Children
from eddy_mesh.task import Answer, Context
from eddy_mesh.topology.steps import part_digest

AGENTS: dict[str, object] = {"cook": {"type": "transformer", "cooking": "syslog"}}
CHILD: dict[str, object] = {"agents": AGENTS}


class Ready:
    """A process that is ready at once and ends when it is told so."""

    pid = 77

    def __init__(self) -> None:
        self._end = asyncio.Event()

    async def started(self) -> bool:
        """It is."""
        return True

    async def ended(self) -> End:
        """Wait until it is told to."""
        await self._end.wait()
        return End(0)

    def end(self) -> None:
        """End."""
        self._end.set()

    def kill(self) -> None:
        """End."""
        self._end.set()

    def rss_bytes(self) -> int:
        """Return none."""
        return 0


class Here:
    """A context, and the host process around it."""

    name, host, backplane = "agent-manager", "edge", "eddy"

    def __init__(self, folder: Path, bus: Bus) -> None:
        self.bus = bus
        self.state = folder / "agents" / "agent-manager"
        self.state.mkdir(parents=True, exist_ok=True)
        self.config = convert({"name": "edge", "agents": {}}, HostConfig, "test")
        self.refuses: list[str] = []
        self.configured: list[Mapping[str, object]] = []
        self.noticed: list[str] = []
        self.declared: list[tuple[str, ...]] = []

    @property
    def control(self) -> Here:
        """The host process."""
        return self

    def statuses(self) -> list[dict[str, object]]:
        """Return one agent."""
        return [{"agent": "cook"}]

    async def command(self, agent: str, verb: str, arguments: Mapping[str, object]) -> Answer:
        """Obey nothing."""
        raise NotImplementedError

    async def configure(self, agents: Mapping[str, Mapping[str, object]], edges: object = None) -> Answer:
        """Take what it is told, or refuse it."""
        if self.refuses:
            raise ConfigError(self.refuses)
        self.configured.append(agents)
        return {"started": sorted(agents)}

    async def prepare(self, agents: Mapping[str, Mapping[str, object]]) -> Answer:
        """Start what is new."""
        return {"started": sorted(agents)}

    async def settle(self, edges: object) -> None:
        """Forget nothing."""

    def declare(self, tags: Iterable[str]) -> None:
        """Remember the tags."""
        self.declared.append(tuple(tags))

    def now_ns(self) -> int:
        """Return the time."""
        return 10**18

    async def emit(self, draft: Draft) -> None:
        """Take nothing."""
        raise NotImplementedError

    def notice(self, event: str, **fields: Value) -> None:
        """Remember."""
        self.noticed.append(event)


Make = Callable[[], Here]


@pytest.fixture
async def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    """Return what makes a host process on the same state as the one before; child processes pretend."""

    async def spawn(file: Path, said: Callable[[str], None]) -> Ready:
        assert file.parent == tmp_path / "children"
        return Ready()

    monkeypatch.setattr(agent_manager, "Children", partial(Children, spawn=spawn))
    bus = MemoryBroker().connect()
    yield lambda: Here(tmp_path, bus)
    await bus.close()


async def started(here: Here, **config: bool) -> Agent:
    agent = Agent(Config(**config))
    await agent.start(cast("Context", here))
    return agent


async def configure(agent: Agent, **request: object) -> Answer:
    answers = [row async for row in agent.query("configure", {"revision": 3, "agents": AGENTS, **request})]
    assert len(answers) == 1
    return answers[0]


def children_of(agent: Agent) -> dict[str, str]:
    rows = agent.status()["children"]
    assert isinstance(rows, list)
    return {row["name"]: row["state"] for row in rows}


async def until_running(agent: Agent, *names: str) -> None:
    """Give tasks their turns until exactly these children run."""
    for _ in range(100):
        await asyncio.sleep(0)
        if children_of(agent) == dict.fromkeys(names, "running"):
            return
    raise AssertionError(children_of(agent))


async def test_children_are_started_kept_and_taken_up_again(make: Make) -> None:
    """They come with the agents, are shown in the status, end with the agent-manager, and are back after a restart."""
    first = await started(make())
    answer = await configure(first, children={"edge.cook": CHILD})
    assert answer == {
        "host": "edge",
        "revision": 3,
        "started": ["cook"],
        "children": {"started": ["edge.cook"], "ended": []},
    }
    await until_running(first, "edge.cook")
    await first.stop()
    assert children_of(first) == {"edge.cook": "stopped"}

    here = make()
    second = await started(here)
    assert children_of(second) == {}
    await second.on_tick(0)
    assert not here.configured  # the host process has started its agents itself
    await until_running(second, "edge.cook")
    await second.stop()


async def test_children_that_go_end_when_all_is_settled(make: Make) -> None:
    """Before, the change may still come to nothing, and their agents hold what is under way."""
    agent = await started(make())
    await configure(agent, children={"edge.cook": CHILD}, tags=[])
    part: dict[str, object] = {"agents": AGENTS, "children": {}, "tags": []}
    assert [row async for row in agent.query("prepare", {"revision": 4, **part})]
    await until_running(agent, "edge.cook")
    assert [row async for row in agent.query("settle", {"revision": 4, "part": part_digest(part)})]
    assert children_of(agent) == {}
    await agent.stop()


async def test_a_request_without_children_leaves_them(make: Make) -> None:
    """Who knows nothing of children does not end them, also not over a restart; an empty table ends all."""
    first = await started(make())
    await configure(first, children={"edge.cook": CHILD})
    assert (await configure(first))["children"] == {"started": [], "ended": []}
    await first.stop()
    second = await started(make())
    await second.on_tick(0)
    await until_running(second, "edge.cook")
    assert (await configure(second, children={}))["children"] == {"started": [], "ended": ["edge.cook"]}
    assert children_of(second) == {}
    await second.stop()


async def test_a_mistake_in_a_child_changes_no_agent(make: Make) -> None:
    """Agents and children are one configuration: it is taken whole or not at all, and an operator hears of it."""
    here = make()
    agent = await started(here)
    with pytest.raises(ConfigError, match=r"children\.hub\.cook"):
        await configure(agent, children={"hub.cook": CHILD})
    assert here.configured == []
    here.refuses = ["agents.cook: unknown"]
    with pytest.raises(ConfigError):
        await configure(agent, children={"edge.cook": CHILD})
    assert children_of(agent) == {}
    assert here.noticed == ["configuration_refused"] * 2
    assert agent.status()["revision"] == 0
    await agent.stop()


async def test_what_a_request_brings_beside_is_no_mistake(make: Make) -> None:
    """A manager of a later version may say more; one that says too little, or the wrong thing, is told."""
    agent = await started(make())
    assert (await configure(agent, phase="prepare"))["revision"] == 3
    with pytest.raises(UsageError, match="children"):
        await configure(agent, children=["edge.cook"])
    await agent.stop()


async def test_a_host_that_does_not_accept_starts_no_children(make: Make) -> None:
    """`accept = false` holds for children too."""
    agent = await started(make(), accept=False)
    with pytest.raises(UsageError, match="does not accept"):
        await configure(agent, children={"edge.cook": CHILD})
    assert children_of(agent) == {}
    await agent.stop()


async def test_declared_tags_are_the_topology_s(make: Make) -> None:
    """Tags of a revision hold for the events of this host, also where a later request does not mention them."""
    here = make()
    agent = await started(here)
    await configure(agent, tags=["site"])
    await configure(agent)
    assert here.declared == [("site",), ("site",)]
    await agent.stop()
