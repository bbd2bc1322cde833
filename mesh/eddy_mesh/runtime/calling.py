"""Calling: the calls of a change, made to the agent-managers of a backplane, and which of their hosts are there.

What may live here: how a call is made and made again, and what a manager hears meanwhile. What is asked is decided by
`eddy_mesh.topology.carrying`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress

from eddy_mesh import queries, subjects
from eddy_mesh.bus import Bus, BusState, Message, NoResponders, Subscription
from eddy_mesh.commands import AGENT_MANAGER
from eddy_mesh.errors import BusError, EddyError, UsageError, WireError
from eddy_mesh.queries import Progress
from eddy_mesh.topology import telling
from eddy_mesh.topology.presence import SILENT_S, Presence
from eddy_mesh.topology.rounds import Answered, Call, Round
from eddy_mesh.wire_json import decode_object

AGAIN_S = 0.1
"""Time after which a host process that is not there is asked again, s."""
AROUND_S = 2.0
"""How long answers to a question to all are waited for: a host process that is busy may take its time, s."""


class Caller:
    """Asks the host processes of a backplane, and hears their heartbeats.

    Args:
        bus: connected bus.
        backplane: name of the mesh.
        now_ns: gives the time, ns since 1970 UTC, as heartbeats are kept with.
        clock_s: gives the time of a clock that only goes forward, s.
        timeout_s: longest time for one host process to take one step, s.
        away_s: how long a host process that was heard lately may be away, s.
        lost: called when the server is lost, and with it what was asked.
    """

    def __init__(
        self,
        bus: Bus,
        backplane: str,
        *,
        now_ns: Callable[[], int],
        clock_s: Callable[[], float],
        timeout_s: float,
        away_s: float,
        lost: Callable[[], None] = lambda: None,
    ) -> None:
        self.presence = Presence()
        self._bus, self._backplane = bus, backplane
        self._now_ns, self._clock_s = now_ns, clock_s
        self._timeout_s, self._away_s = timeout_s, away_s
        self._lost = lost
        self._has_asked = False
        self._subscription: Subscription | None = None
        self._end_state: Callable[[], None] = lambda: None
        self._hears_from(now_ns())

    async def start(self) -> None:
        """Begin to hear heartbeats."""
        self._end_state = self._bus.on_state(self._state)
        self._subscription = await self._bus.subscribe(subjects.status_all(self._backplane), self._heard)

    async def stop(self) -> None:
        """Hear nothing more."""
        self._end_state()
        if self._subscription is not None:
            await self._subscription.unsubscribe()

    def _state(self, state: BusState, _: str) -> None:
        if state is BusState.DISCONNECTED:
            self._lost()
        elif state is BusState.CONNECTED:
            self._hears_from(self._now_ns())

    def _hears_from(self, now_ns: int) -> None:
        self.since_ns, self._since_s = now_ns, self._clock_s()
        self._has_asked = False

    def _heard(self, message: Message) -> None:
        with suppress(WireError):
            self.presence.heard(decode_object(message.data, "status"), self._now_ns())

    @property
    def _hears_all(self) -> bool:
        """Whether it has heard for so long that who was not heard is not there."""
        return self._clock_s() - self._since_s >= SILENT_S

    async def look_around(self) -> None:
        """Ask who is there, unless their heartbeats have told."""
        if self._has_asked or self._hears_all:
            return
        subject = subjects.control_all(self._backplane, "stats")
        for message in await self._bus.gather(subject, b"{}", timeout_s=AROUND_S, idle_s=AROUND_S):
            self._heard(message)
        self._has_asked = True

    def silent(self, hosts: Iterable[str]) -> list[str]:
        """Return those of the host processes that are known to be silent, sorted; none while that is not known."""
        if not self._hears_all:
            return []
        return sorted(host for host in hosts if not self.presence.is_there(host, self._now_ns()))

    async def perform(self, asking: Round, progress: Progress, holds: Callable[[], bool]) -> list[Answered]:
        """Make the calls of a round at the same time, and tell of each.

        Args:
            asking: the round.
            progress: where it is told.
            holds: whether whoever asks may still ask.

        Raises:
            BusError: the server was away meanwhile, or whoever asks may ask no more: what was answered tells nothing.
        """
        reconnects = self._bus.stats.reconnects
        if asking.step:
            progress.tell({"step": asking.step, "what": asking.told})
        if asking.pause_s:
            await asyncio.sleep(asking.pause_s)
        _check(holds)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._call(call, progress, holds)) for call in asking.calls]
        answers = [task.result() for task in tasks]
        if any(answer.error for answer in answers):
            if not self._bus.connected or self._bus.stats.reconnects != reconnects:
                raise BusError("the server was away")
            _check(holds)
        return answers

    async def _call(self, call: Call, progress: Progress, holds: Callable[[], bool]) -> Answered:
        began_s = self._clock_s()
        answer = await self._ask(call)
        while answer.is_absent and self._clock_s() - began_s < self._patience_s(call) and holds():
            await asyncio.sleep(AGAIN_S)
            answer = await self._ask(call)
        if call.verb != "inventory" or answer.error:
            progress.tell(telling.step(answer, (self._clock_s() - began_s) * 1e3))
        return answer

    def _patience_s(self, call: Call) -> float:
        is_near = not self._hears_all or self.presence.is_there(call.host, self._now_ns())
        return max(call.wait_s, self._away_s if is_near else 0.0)

    async def _ask(self, call: Call) -> Answered:
        agent = f"{call.host}/{self.presence.manager_of(call.host)}"
        subject = subjects.query(self._backplane, AGENT_MANAGER, agent, call.verb)
        try:
            asking = queries.ask(self._bus, subject, call.request, timeout_s=self._timeout_s)
            return Answered(call=call, rows=tuple([row async for row in asking]))
        except NoResponders:
            return Answered(call=call, error="not there", is_absent=True)
        except UsageError as error:
            return Answered(call=call, error=str(error), is_refused=True)
        except EddyError as error:
            return Answered(call=call, error=str(error))


def _check(holds: Callable[[], bool]) -> None:
    if not holds():
        raise BusError("the claim on the change was not renewed in time")
