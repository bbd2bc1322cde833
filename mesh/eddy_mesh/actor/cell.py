"""A cell: one agent, and what it is told to do.

What may live here: commands, one after another, and the status. How the agent lives is in `eddy_mesh.actor.life`, what
it does with batches in `eddy_mesh.actor.work`; what surrounds it comes in as `Surroundings`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from eddy_mesh.actor.edge import Mailbox
from eddy_mesh.actor.life import Life
from eddy_mesh.actor.numbering import Numbering
from eddy_mesh.actor.surroundings import Surroundings
from eddy_mesh.actor.work import Instance
from eddy_mesh.commands import ASKING, Command, Happening, State, after
from eddy_mesh.conservation import Ledger
from eddy_mesh.errors import UsageError

AFTERWARDS_NS = 24 * 3600 * 1_000_000_000
"""How far ahead the last tick of a drain is: every window is over then, and what is open is told whole."""
RELOAD_REST_S = 5.0
"""Longest wait of a reload for the agent to finish what it is doing; then it is broken off and offered again."""
HALT_REST_S = 0.1
"""The same at the end of the host process, which has little time."""


class Cell(Life):
    """One agent of a host process.

    Commands are carried out one after another; only asking (ping, info, stats) is answered at any time, and a stop
    breaks off what an earlier command waits for.

    Args:
        name: unique on its host.
        kind: agent type, for status.
        build: makes a new instance of the agent; called at every start.
        surroundings: the host process.
        numbering: numbers what the agent makes.
        mailbox: where its edges put batches.
    """

    def __init__(
        self,
        name: str,
        kind: str,
        build: Callable[[], Instance],
        surroundings: Surroundings,
        numbering: Numbering,
        mailbox: Mailbox,
    ) -> None:
        super().__init__(name, build, surroundings, numbering, mailbox)
        self.kind = kind
        self._commands = asyncio.Lock()
        self._is_removed = False

    # --- commands

    def start(self) -> None:
        """Begin to live; a cell that already lives is left alone."""
        self._start(None)

    async def command(self, command: Command, prepare: Callable[[], None] | None = None) -> None:
        """Do what a command says, after the commands before it.

        Args:
            command: what to do; this returns when it is done, for ``drain`` when everything that waited was handled.
            prepare: called just before, when it is sure that the command is possible; what it raises is raised.

        Raises:
            UsageError: the command makes no sense in the agent's state, or the agent was removed meanwhile.
        """
        if command in ASKING:
            return
        if command is Command.STOP:
            self._hurry()
        before = self.state_now
        async with self._commands:
            if command is Command.DRAIN and self.state_now is State.STOPPED is not before:
                return  # somebody else's drain or stop has done it
            if self._is_removed:
                raise UsageError(f"agent {self.name} was removed before {command} could be done: ask what there is now")
            following = after(self.state_now, command)
            if prepare is not None:
                prepare()
            await self._obey(command, following)

    async def _obey(self, command: Command, following: State) -> None:
        if command is Command.PAUSE:
            self._holds = command
            self._go.clear()
            self._become(following)
        elif command is Command.RESUME and self.state_now not in {State.STOPPED, State.FAILED}:
            self._holds = None
            self._become(following)
            self._go.set()
        elif command in {Command.RESUME, Command.RELOAD}:
            is_paused = command is Command.RELOAD and self._holds is Command.PAUSE
            await self._rest(RELOAD_REST_S)
            await self._end_life()
            self._crashes.clear()
            self._start(Command.PAUSE if is_paused else None)
        elif command is Command.DRAIN:
            await self._drain()
        elif command is Command.STOP:
            await self._stop()

    async def drain(self, *, for_good: bool = False) -> None:
        """Take no more in from outside, handle what waits, stop.

        Args:
            for_good: the agent is being removed; no command is possible afterwards.
        """
        async with self._commands:
            await self._drain()
            self._is_removed = self._is_removed or for_good

    async def halt(self) -> None:
        """End the agent, and leave what waits in the mailbox there."""
        self._hurry()
        async with self._commands:
            await self._rest(HALT_REST_S)
            await self._end_life()

    async def stop(self) -> None:
        """Stop now; what waits in the mailbox is counted as dropped."""
        self._hurry()
        async with self._commands:
            await self._stop()

    async def _drain(self) -> None:
        if self.state_now in {State.STOPPED, State.FAILED}:
            await self._stop()  # one that failed may be about to start again
            return
        self._holds = Command.DRAIN
        self._become(after(self.state_now, Command.DRAIN))
        self._go.set()
        if not self.is_source:
            await self._patiently(self._handle_rest())
        await self._end_life()
        self._close("stopped")
        self._become(after(self.state_now, Happening.DRAINED if self.state_now is State.DRAINING else Command.STOP))

    async def _handle_rest(self) -> None:
        for edge in self.edges:
            await edge.until_completed(edge.accepted)
        try:
            await self._tick_once(AFTERWARDS_NS)
        except Exception:  # noqa: BLE001  # a defect of one agent must not keep the others from being drained
            self._log.exception("agent could not end its windows")

    async def _stop(self) -> None:
        await self._end_life()
        self._close("stopped")
        self._become(after(self.state_now, Command.STOP))

    # --- status

    def ledgers(self) -> list[Ledger]:
        """Return the accounts of every edge that ends at this agent, and of the outside world for a source."""
        own = [edge.ledger for edge in self.edges]
        return [self.intake, *own] if self.is_source else own

    def _lag_ns(self) -> int:
        oldest_ns = self.mailbox.oldest_ns
        return 0 if oldest_ns is None else max(self.now_ns() - oldest_ns, 0)

    def _detail(self, durable: list[Mapping[str, object]]) -> dict[str, object]:
        ends: dict[str, object] = {"durable_edges": durable} if durable else {}
        if self._task is None:
            return ends
        try:
            return {**self._task.status(), **ends}
        except Exception as error:  # noqa: BLE001  # a defect of one agent must not stop the heartbeat of all
            return {"error": f"{type(error).__name__}: {error}"}

    def status(self) -> dict[str, object]:
        """Return what the heartbeat shows of this agent; why it is in its state, else what its edges wait for."""
        durable = [told for edge in self.edges if (told := edge.told())]
        problems = dict.fromkeys(str(told["problem"]) for told in durable if told.get("problem"))
        return {
            "agent": self.name,
            "type": self.kind,
            "host": self.host,
            "state": str(self.state_now),
            "reason": self.reason or "; ".join(problems),
            "started_ns": self.started_ns,
            "restarts": self.restarts,
            "made": self.made,
            "last_ns": self.last_ns,
            "lag_ns": self._lag_ns(),
            "queued": sum(ledger.queued for ledger in self.ledgers()),
            "lost": sum(ledger.lost + ledger.failed for ledger in self.ledgers()),
            "edges": self.ledgers(),
            "detail": self._detail(durable),
        }
