"""Following a change that another manager, or the same after a restart, brings to its end."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import TYPE_CHECKING, cast

import msgspec
import pytest

from eddy_mesh import queries, subjects
from eddy_mesh.bus import Message, Subscription
from eddy_mesh.bus_memory import MemoryBroker, MemoryBus
from eddy_mesh.cli import following, managing
from eddy_mesh.cli.following import follow
from eddy_mesh.cli.managing import Steps
from eddy_mesh.cli.settings import Settings
from eddy_mesh.errors import EddyError, UsageError
from eddy_mesh.task import Answer, Task

if TYPE_CHECKING:
    from eddy_mesh.api import Mesh

BEGIN: Answer = {"step": "begin", "revision": 2, "what": ""}


def line(revision: int, state: str, why: str = "", manager: str = "") -> Answer:
    """Return a row of the history."""
    return {"revision": revision, "state": state, "why": why, "manager": manager}


class Manager:
    """A backplane-manager that begins a change, and then answers no more, is stopped, or refuses.

    Attributes:
        histories: what the record says at each look; the last one stays.
    """

    backplane = "eddy"

    def __init__(self, bus: MemoryBus) -> None:
        self.bus = bus
        self.first: list[Answer] = [BEGIN]
        self.error = ""
        self.is_killed = False
        self.histories: list[list[Answer]] = []
        self.looks = 0
        self.fails_at = 0
        self._subscription: Subscription | None = None

    async def start(self) -> None:
        """Answer from now on."""
        subject = subjects.query("eddy", "backplane_manager", "any", "x").removesuffix("x") + "*"
        self._subscription = await self.bus.subscribe(subject, self._asked)

    async def _asked(self, message: Message) -> None:
        verb = message.subject.rsplit(".", 1)[-1]
        if verb == "apply" and self.is_killed:
            await self.bus.publish(message.reply, b'{"step": "begin", "revision": 2, "what": ""}')
            return
        await queries.answer(self.bus, message, cast("Task", self), verb)

    async def query(self, verb: str, request: Mapping[str, object]) -> AsyncGenerator[Answer, None]:
        """Answer one query."""
        if verb == "apply":
            for row in self.first:
                yield row
                yield queries.FLUSH
            raise UsageError(self.error)
        if verb == "history":
            for row in reversed(self.histories[0]):
                yield row
            return
        self.looks += 1
        if self.looks == self.fails_at:
            return
        yield self.histories[0][-1]
        if len(self.histories) > 1:
            self.histories.pop(0)


@pytest.fixture
async def manager(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Manager]:
    """A manager; nobody waits long."""
    monkeypatch.setattr(following, "LOOK_S", 0.0)
    monkeypatch.setattr(managing, "ANSWER_S", 0.05)
    bus = MemoryBroker().connect()
    made = Manager(bus)
    await made.start()
    yield made
    await bus.close()


async def apply(manager: Manager) -> None:
    """Apply something."""
    await follow(cast("Mesh", manager), Steps(Settings(no_color=True)), "apply", {})


@pytest.mark.parametrize("is_killed", [True, False], ids=["killed", "stopped"])
async def test_a_change_is_followed_past_its_manager(
    manager: Manager, capsys: pytest.CaptureFixture[str], is_killed: bool
) -> None:
    """Killed it says nothing, stopped it says so: either way the end is that of the record, when nobody claims it."""
    manager.is_killed, manager.error = is_killed, "the backplane-manager was stopped"
    manager.fails_at = 2  # an answer that is none: the server has just come back
    before = line(1, "applied")
    manager.histories = [
        [before, line(2, "applying", manager="a/m")],
        [before, line(2, "applying", manager="b/m")],
        [before, line(2, "applied", "second site")],
    ]
    await apply(manager)
    told = capsys.readouterr()
    assert [text.split() for text in told.out.splitlines()] == [
        ["begin", "revision", "2"],
        ["applied", "revision", "2", "second", "site"],
    ]
    assert told.err.count("waiting for the end of revision 2") == 1
    assert manager.looks == 4


async def test_a_change_that_went_back_is_an_error(manager: Manager, capsys: pytest.CaptureFixture[str]) -> None:
    """Another manager took it over and rolled it back: the reason is that of the revision after it, and told once."""
    manager.is_killed = True
    why = "revision 2 rolled back: b/find failed"
    manager.histories = [
        [line(1, "applied"), line(2, "applying", manager="a/m")],
        [line(1, "applied"), line(2, "given-up"), line(3, "rolling-back", why, "b/m")],
        [line(1, "applied"), line(2, "given-up"), line(3, "applied", why), line(4, "applied", "somebody else")],
    ]
    with pytest.raises(EddyError, match="revision 2 rolled back: b/find failed"):
        await apply(manager)
    assert capsys.readouterr().out.splitlines()[-1].split() == ["rolled_back", "revision", "3"]


async def test_a_refusal_is_told_at_once(manager: Manager) -> None:
    """With the reason that was given, and without a look where nothing was begun."""
    manager.first, manager.error = [], "not there: b"
    with pytest.raises(EddyError, match="not there: b"):
        await apply(manager)
    assert manager.looks == 0
    manager.first, manager.error = [BEGIN], "revision 2 refused: b is not there"
    manager.histories = [[line(2, "given-up"), line(3, "applied", "revision 2 refused: b is not there")]]
    with pytest.raises(EddyError, match="revision 2 refused: b is not there"):
        await apply(manager)


@pytest.mark.parametrize("step", ["refused", "rolled_back"])
@pytest.mark.parametrize("is_told", [True, False], ids=["told by the manager", "read in the record"])
async def test_the_row_of_a_change_that_went_back_comes_once(
    manager: Manager, capsys: pytest.CaptureFixture[str], step: str, is_told: bool
) -> None:
    """It is the last row, whether its manager told it or only the record has it; nobody looks where it was told."""
    why = f"revision 2 {step.replace('_', ' ')}: b/find failed"
    end: Answer = {"step": step, "revision": 3, "what": why}
    manager.first, manager.error = [BEGIN, *([end] if is_told else [])], why
    manager.histories = [[line(2, "given-up"), line(3, "applied", why)]]
    steps = Steps(Settings(json=True))
    with pytest.raises(EddyError, match=why):
        await follow(cast("Mesh", manager), steps, "apply", {})
    assert [msgspec.json.decode(text) for text in capsys.readouterr().out.splitlines()] == [BEGIN, end]
    assert steps.went_back
    assert manager.looks == (0 if is_told else 1)


async def test_nobody_is_waited_for_without_end(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no manager comes back, whoever waits is told what to ask later."""
    manager.is_killed = True
    monkeypatch.setattr(following, "AWAY_S", 0.0)
    with pytest.raises(EddyError, match="no backplane-manager answered"):
        await apply(manager)


def test_a_silent_manager_is_noticed_soon() -> None:
    """It shows each second that it lives: ten of them without anything are enough."""
    assert 3 * queries.ALIVE_S <= managing.ANSWER_S <= 10
