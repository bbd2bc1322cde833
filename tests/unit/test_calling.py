"""Calls to agent-managers: who is waited for, and when what was answered tells nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from eddy_mesh import subjects
from eddy_mesh.bus import Message
from eddy_mesh.bus_memory import MemoryBroker, MemoryBus
from eddy_mesh.errors import BusError
from eddy_mesh.queries import END, ERROR, Progress
from eddy_mesh.runtime.calling import Caller
from eddy_mesh.topology.rounds import Call, Round

S = 10**9
ROUND = Round(calls=(Call(host="a", verb="settle", request={}),))


class Lab:
    """A caller on a bus without a server, with a clock that stands still."""

    def __init__(self) -> None:
        self.broker = MemoryBroker()
        self.bus: MemoryBus = self.broker.connect()
        self.now_ns = S
        self.lost = 0
        self.caller = Caller(
            self.bus,
            "eddy",
            now_ns=lambda: self.now_ns,
            clock_s=lambda: self.now_ns / S,
            timeout_s=5.0,
            away_s=5.0,
            lost=self._lose,
        )

    def _lose(self) -> None:
        self.lost += 1

    async def host(self, answer: Callable[[], object] = lambda: None, error: str = "") -> None:
        """Let host a answer, after a test did something."""

        async def heard(message: Message) -> None:
            answer()
            await self.bus.publish(message.reply, b"", headers={END: "error", ERROR: error} if error else {END: "ok"})

        await self.bus.subscribe(subjects.query("eddy", "agent_manager", "a/agent-manager", "settle"), heard)


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    """A caller that hears."""
    made = Lab()
    await made.caller.start()
    yield made
    await made.caller.stop()
    await made.bus.close()


async def test_a_host_that_was_heard_lately_is_waited_for(lab: Lab) -> None:
    """After the server has come back hosts find it later than the manager: that is no reason to go back."""
    lab.now_ns += 7 * S
    lab.caller.presence.heard({"host": "a"}, lab.now_ns)
    is_absent = asyncio.Event()
    checks = 0

    def holds() -> bool:  # asked before the round, and whenever nobody was there
        nonlocal checks
        checks += 1
        if checks > 1:
            is_absent.set()
        return True

    asking = asyncio.create_task(lab.caller.perform(ROUND, Progress(), holds))
    await is_absent.wait()
    await lab.host()
    (answer,) = await asking
    assert (answer.error, answer.is_absent) == ("", False)


async def test_a_host_that_is_silent_is_not_waited_for(lab: Lab) -> None:
    """It is told as absent at once, by a clock that stands still."""
    lab.now_ns += 7 * S
    (answer,) = await lab.caller.perform(ROUND, Progress(), lambda: True)
    assert answer.is_absent


async def test_while_little_was_heard_nobody_is_silent(lab: Lab) -> None:
    """Neither after a start nor after the server came back: hosts have had no time to be heard."""
    assert lab.caller.silent(["a"]) == []
    lab.now_ns += 7 * S
    assert lab.caller.silent(["a"]) == ["a"]
    lab.caller.presence.heard({"host": "a"}, lab.now_ns)
    assert lab.caller.silent(["a"]) == []
    lab.now_ns += 60 * S
    lab.broker.disconnect()
    lab.broker.reconnect()
    assert lab.lost == 1
    assert lab.caller.silent(["a"]) == []


async def test_what_fails_while_the_server_was_away_tells_nothing(lab: Lab) -> None:
    """It may have lost the question or the answer: the step is taken again, and nobody is rolled back."""
    is_back = False

    def restart() -> None:
        nonlocal is_back
        if not is_back:
            is_back = True
            lab.broker.disconnect()
            lab.broker.reconnect()

    await lab.host(restart, error="what was prepared is gone")
    with pytest.raises(BusError, match="server was away"):
        await lab.caller.perform(ROUND, Progress(), lambda: True)
    (answer,) = await lab.caller.perform(ROUND, Progress(), lambda: True)
    assert answer.error == "what was prepared is gone"


async def test_whoever_may_not_ask_does_not(lab: Lab) -> None:
    """A claim that was not renewed in time may be that of another manager now."""
    asked: list[int] = []
    await lab.host(lambda: asked.append(1))
    with pytest.raises(BusError, match="not renewed in time"):
        await lab.caller.perform(ROUND, Progress(), lambda: False)
    assert not asked
