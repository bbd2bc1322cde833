"""The children of a host process, with processes that only pretend and a clock that leaps."""

from __future__ import annotations

import asyncio
import selectors
import stat
import sys
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from eddy_mesh.cer import Value
from eddy_mesh.commands import State
from eddy_mesh.config import HostConfig, convert, parse_toml
from eddy_mesh.errors import ConfigError, StoreError
from eddy_mesh.runtime.child_end import NO_SERVER, REFUSED, End
from eddy_mesh.runtime.children import Change, Children

PARENT = convert({"name": "edge", "agents": {}}, HostConfig, "test")
COOK: dict[str, object] = {"agents": {"cook": {"type": "transformer", "cooking": "syslog"}}}
SINK: dict[str, object] = {"agents": {"sink": {"type": "archive"}}}


class Leaping(asyncio.SelectorEventLoop):
    """An event loop in which nobody waits: where all wait for time, the clock leaps there."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        super().__init__(_Selector(self))

    def time(self) -> float:
        """Return the time of the simulation, s."""
        return self.now_s


class _Selector(selectors.DefaultSelector):
    def __init__(self, loop: Leaping) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        assert ready or timeout is not None, "everybody waits for ever"
        if not ready and timeout:
            self._loop.now_s += timeout
        return ready


class Pretended:
    """A process that starts in a second, and ends when it is told so, or by a test."""

    def __init__(self, world: World, pid: int, file: Path, said: Callable[[str], None]) -> None:
        self.pid = pid
        self.config = convert(parse_toml(file.read_text(), "file"), HostConfig, "file")
        self.said = said
        self.told: list[str] = []
        self._world = world
        self._ready_s = world.now_s + world.start_s
        self._end: asyncio.Future[End] = asyncio.get_running_loop().create_future()

    async def started(self) -> bool:
        """Start, unless the world's processes end at their start."""
        await asyncio.wait({self._end}, timeout=max(self._ready_s - self._world.now_s, 0.0))
        return not self._end.done()

    async def ended(self) -> End:
        """Wait for the end."""
        return await asyncio.shield(self._end)

    def end(self) -> None:
        """Drain, when this one can."""
        self.told.append("end")
        if self._world.drain_s is not None:
            asyncio.get_running_loop().call_later(self._world.drain_s, self.die, End(0))

    def kill(self) -> None:
        """End at once."""
        if not self._end.done():
            self.told.append("kill")
            self.die(End(-9))

    def die(self, end: End) -> None:
        """End by itself."""
        if not self._end.done():
            self._end.set_result(end)

    def rss_bytes(self) -> int:
        """Return some."""
        return 7


class World:
    """The processes that were started, and how they behave; time and notices."""

    def __init__(self, state: Path, starts: int = 2) -> None:
        self.started: list[Pretended] = []
        self.start_s = 1.0
        self.drain_s: float | None = 0.5
        self.end_at_start: End | None = None
        self.cannot: OSError | None = None
        self.notices: list[tuple[str, Mapping[str, Value]]] = []
        self.children = Children(
            PARENT,
            state,
            lambda event, fields: self.notices.append((event, fields)),
            spawn=self.spawn,
            now_ns=lambda: round(self.now_s * 1e9),
            starts=starts,
        )

    @property
    def now_s(self) -> float:
        """The time of the simulation, s."""
        return asyncio.get_running_loop().time()

    async def spawn(self, file: Path, said: Callable[[str], None]) -> Pretended:
        """Start a process that pretends."""
        if self.cannot is not None:
            raise self.cannot
        process = Pretended(self, 100 + len(self.started), file, said)
        self.started.append(process)
        if self.end_at_start is not None:
            process.die(self.end_at_start)
        return process

    def states(self) -> dict[str, State]:
        """Return the state of each child."""
        return {row.name: row.state for row in self.children.status()}

    def only(self) -> str:
        """Return the reason of the one child."""
        (row,) = self.children.status()
        return row.reason


Scene = Callable[[World], Coroutine[object, object, None]]


@pytest.fixture
def play(tmp_path: Path) -> Callable[[Scene], None]:
    """Run a scene in simulated time; afterwards all children have ended and no task is left."""

    async def whole(scene: Scene) -> None:
        world = World(tmp_path)
        await scene(world)
        await world.children.stop()
        assert all(process._end.done() for process in world.started)
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    def run(scene: Scene) -> None:
        with asyncio.Runner(loop_factory=Leaping) as runner:
            runner.run(whole(scene))

    return run


def names(count: int) -> dict[str, dict[str, object]]:
    return {f"edge.a{number}": COOK for number in range(count)}


def test_the_missing_start_the_unwanted_end_the_others_stay(play: Callable[[Scene], None], tmp_path: Path) -> None:
    """What is wanted is a set: each change touches only what differs, and files are those of the wanted."""

    async def scene(world: World) -> None:
        assert await world.children.want({"edge.a": COOK, "edge.b": COOK}) == Change(["edge.a", "edge.b"], [])
        await asyncio.sleep(5)
        a, b = world.started
        assert await world.children.want({"edge.b": COOK, "edge.c": COOK}) == Change(["edge.c"], ["edge.a"])
        await asyncio.sleep(5)
        assert (a.told, b.told) == (["end"], [])
        assert world.states() == {"edge.b": State.RUNNING, "edge.c": State.RUNNING}
        assert {row.pid for row in world.children.status()} == {101, 102}
        files = sorted((tmp_path / "children").iterdir())
        assert [file.name for file in files] == ["edge.b.toml", "edge.c.toml"]
        if sys.platform != "win32":
            assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}

    play(scene)


def test_starts_take_turns(play: Callable[[Scene], None]) -> None:
    """No more than the number of cores start at a time: ten of a second each take five seconds on two."""

    async def scene(world: World) -> None:
        await world.children.want(names(10))
        begun_s = world.now_s
        for second in range(5):
            await asyncio.sleep(0.5)
            assert len(world.started) == 2 * (second + 1)
            await asyncio.sleep(0.5)
        await asyncio.sleep(0.001)
        assert set(world.states().values()) == {State.RUNNING}
        assert world.now_s - begun_s < 5.1

    play(scene)


def test_a_start_that_hangs_gives_its_turn_away(play: Callable[[Scene], None]) -> None:
    """A child that is never ready keeps others from starting for half a minute, not for ever."""

    async def scene(world: World) -> None:
        world.start_s = 1e6
        await world.children.want(names(3))
        await asyncio.sleep(29)
        assert len(world.started) == 2
        world.start_s = 1.0
        await asyncio.sleep(5)
        assert len(world.started) == 3

    play(scene)


def test_a_crash_is_waited_out_and_told(play: Callable[[Scene], None]) -> None:
    """A child that crashes is started again after the back-off, with its last words, a count and a notice."""

    async def scene(world: World) -> None:
        await world.children.want({"edge.a": COOK})
        await asyncio.sleep(2)
        world.started[0].die(End(-11, "something happened"))
        await asyncio.sleep(0.4)
        (row,) = world.children.status()
        assert (row.state, row.pid, row.rss_bytes) == (State.FAILED, 0, 0)
        assert row.reason == "ended by SIGSEGV: something happened"
        await asyncio.sleep(2)
        (row,) = world.children.status()
        assert (row.state, row.pid, row.restarts, row.reason, row.rss_bytes) == (State.RUNNING, 101, 1, "", 7)
        ((event, fields),) = world.notices
        assert event == "child_crashed"
        assert fields["process.name"] == "edge.a"
        assert fields["process.exit_code"] == -11

    play(scene)


def test_the_crash_budget_ends_it_until_it_is_wanted_again(play: Callable[[Scene], None]) -> None:
    """A child that crashes at each start stays failed in the end; the next configuration gives it a new budget."""

    async def scene(world: World) -> None:
        world.end_at_start = End(1, "broken")
        await world.children.want({"edge.a": COOK})
        await asyncio.sleep(1000)
        assert len(world.started) == 7
        assert world.states() == {"edge.a": State.FAILED}
        assert "crashed 7 times" in world.only()
        assert [event for event, _ in world.notices] == ["child_crashed"] * 6 + ["child_failed"]
        world.end_at_start = None
        assert await world.children.want({"edge.a": SINK}) == Change(["edge.a"], [])
        await asyncio.sleep(5)
        assert world.states() == {"edge.a": State.RUNNING}
        assert "sink" in world.started[-1].config.agents, "it starts with what is wanted now"

    play(scene)


def test_a_running_child_takes_new_settings_from_its_next_start(play: Callable[[Scene], None]) -> None:
    """A changed configuration restarts nothing; after a crash it is the new one that is in force."""

    async def scene(world: World) -> None:
        await world.children.want({"edge.a": COOK})
        await asyncio.sleep(2)
        assert await world.children.want({"edge.a": SINK}) == Change([], [])
        assert world.started[0].told == []
        world.started[0].die(End(1))
        await asyncio.sleep(5)
        assert "sink" in world.started[1].config.agents

    play(scene)


@pytest.mark.parametrize(("end", "state"), [(End(REFUSED, "unknown"), State.FAILED), (End(0), State.STOPPED)])
def test_not_every_end_is_a_crash(play: Callable[[Scene], None], end: End, state: State) -> None:
    """One that refuses its configuration, or was stopped by somebody, is not started again by itself."""

    async def scene(world: World) -> None:
        world.end_at_start = end
        await world.children.want({"edge.a": COOK})
        await asyncio.sleep(1000)
        assert len(world.started) == 1
        assert world.states() == {"edge.a": state}
        assert [event for event, _ in world.notices] == [f"child_{state}"]

    play(scene)


def test_a_server_that_is_away_is_waited_for(play: Callable[[Scene], None]) -> None:
    """A child tries for as long as there is no server, tells nobody again and again, and runs when there is one."""

    async def scene(world: World) -> None:
        world.end_at_start = End(NO_SERVER, "no server at nats://hub:4222")
        await world.children.want({"edge.a": COOK})
        await asyncio.sleep(3600)
        assert world.states() == {"edge.a": State.FAILED}
        assert "nats://hub:4222" in world.only()
        assert world.notices == []
        world.end_at_start = None
        await asyncio.sleep(35)
        assert world.states() == {"edge.a": State.RUNNING}

    play(scene)


def test_a_process_that_can_not_be_started_is_a_crash(play: Callable[[Scene], None]) -> None:
    """A machine that is out of processes is tried again, and its reason is shown."""

    async def scene(world: World) -> None:
        world.cannot = OSError(11, "Resource temporarily unavailable")
        await world.children.want({"edge.a": COOK})
        await asyncio.sleep(0.1)
        assert "Resource temporarily unavailable" in world.only()
        world.cannot = None
        await asyncio.sleep(5)
        assert world.states() == {"edge.a": State.RUNNING}

    play(scene)


def test_all_drain_at_the_same_time_and_none_for_ever(play: Callable[[Scene], None]) -> None:
    """Twenty that drain for four seconds end in four; those that never end are killed after five."""

    async def scene(world: World) -> None:
        await world.children.want(names(20))
        await asyncio.sleep(30)
        world.drain_s = 4.0
        begun_s = world.now_s
        await world.children.stop()
        assert world.now_s - begun_s == pytest.approx(4.0)
        assert all(process.told == ["end"] for process in world.started)
        assert set(world.states().values()) == {State.STOPPED}

        await world.children.want(names(20))
        await asyncio.sleep(30)
        world.drain_s = None
        begun_s = world.now_s
        await world.children.stop()
        assert world.now_s - begun_s == pytest.approx(5.0)
        assert all(process.told == ["end", "kill"] for process in world.started[20:])

    play(scene)


def test_a_stop_that_is_broken_off_throws_nothing_away(play: Callable[[Scene], None]) -> None:
    """When the host process has no more time, what is still draining was told to, and is not killed for it."""

    async def scene(world: World) -> None:
        await world.children.want(names(2))
        await asyncio.sleep(5)
        world.drain_s = 3.0
        begun_s = world.now_s
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await world.children.stop()
        assert world.now_s - begun_s < 1.1
        assert set(world.states().values()) == {State.STOPPED}
        await asyncio.sleep(5)
        assert all(process.told == ["end"] for process in world.started)

    play(scene)


def test_one_that_waits_for_its_turn_or_its_next_start_ends_at_once(play: Callable[[Scene], None]) -> None:
    """No process, nothing to wait for."""

    async def scene(world: World) -> None:
        await world.children.want(names(3))
        await asyncio.sleep(0.1)
        world.started[0].die(End(1))
        await asyncio.sleep(0.1)
        world.drain_s = 0.0
        begun_s = world.now_s
        await world.children.want({})
        assert world.now_s == begun_s
        assert world.children.status() == []

    play(scene)


def test_mistakes_change_nothing(play: Callable[[Scene], None]) -> None:
    """Every mistake of every child is named, those of agent types too, and what runs goes on."""

    async def scene(world: World) -> None:
        await world.children.want({"edge.a": COOK})
        await asyncio.sleep(5)
        wrong: dict[str, dict[str, object]] = {"edge.b": {"agents": {"x": {"type": "transformr"}}}, "hub.c": COOK}
        with pytest.raises(ConfigError) as refused:
            await world.children.want(wrong)
        assert len(refused.value.mistakes) == 2
        assert world.states() == {"edge.a": State.RUNNING}

    play(scene)


def test_a_full_disk_changes_nothing(play: Callable[[Scene], None], tmp_path: Path) -> None:
    """Where the configuration can not be written no child is started, and whoever asked is told."""
    (tmp_path / "children").write_text("in the way")

    async def scene(world: World) -> None:
        with pytest.raises(StoreError, match="can not be written"):
            await world.children.want({"edge.a": COOK})
        assert world.children.status() == []

    play(scene)


def test_what_a_child_says_is_in_the_log_of_its_parent(play: Callable[[Scene], None]) -> None:
    """A line of its log keeps its level and fields, any other line is a warning; both carry the child's name."""

    async def scene(world: World) -> None:
        await world.children.want({"edge.a": COOK})
        await asyncio.sleep(5)
        with capture_logs() as logs:
            world.started[0].said('{"level": "error", "event": "store full", "self": 1, "agent": "sink", "host": "x"}')
            world.started[0].said("Segmentation fault")
            world.started[0].said('["no", "object"]')
        said = {"host": "edge", "child": "edge.a"}
        assert logs == [
            {"event": "store full", "log_level": "error", "agent": "sink", **said},
            {"event": "Segmentation fault", "log_level": "warning", **said},
            {"event": '["no", "object"]', "log_level": "warning", **said},
        ]

    play(scene)
