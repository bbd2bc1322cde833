"""The roster: which agents a host process has, and how a new configuration changes that.

What may live here: the steps of a change, and what each of them does to which agent. How one agent is added and removed
is in `eddy_mesh.runtime.agents`, what a host process does for them while they run in `eddy_mesh.runtime.host`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress

from eddy_mesh.actor.cell import Cell
from eddy_mesh.actor.surroundings import Surroundings
from eddy_mesh.commands import MANAGERS, Command, State
from eddy_mesh.config import AgentConfig, Serving, convert
from eddy_mesh.discovery import Blueprint, blueprints
from eddy_mesh.effects import EFFECTS, differing
from eddy_mesh.errors import ConfigError, UsageError
from eddy_mesh.runtime.agents import Agents
from eddy_mesh.runtime.ends import Fences

RETIRE_S = 20.0
"""Longest wait, when something ends, for what it still has to do; a backplane-manager waits 30 s for the answer."""

ANEW = frozenset({"morph", "reload"})
"""Effects of settings that the agent itself is made of: when one changes, it begins anew where it is."""

ORDER = ("normalizer", "transformer", "anonymizer", "analysis")
"""Agent types from sources to sinks; all others come after them."""


class Roster(Agents):
    """The agents of one host process, and the steps that change them; arguments as of `Agents`.

    Steps are done one after another. Each can be done again.
    """

    def __init__(self, surroundings: Surroundings, address: str | None) -> None:
        super().__init__(surroundings, address)
        self._wanted: Mapping[str, AgentConfig] = {}
        self._held_back: set[str] = set()  # new ones: what they make before their edges are served is lost
        self._paused: set[str] = set()  # sources that were about to go
        self._asking_anew: set[str] = set()  # those whose own subscriptions change
        self._changing = asyncio.Lock()

    def in_order(self, *, sources_first: bool, managers_first: bool = False) -> list[Cell]:
        """Return the agents from sources to sinks, or the other way round.

        Args:
            sources_first: which way.
            managers_first: managers stand at the beginning, not with the sinks: they have processes to end.
        """
        rank = {kind: index for index, kind in enumerate(ORDER)}
        if managers_first:
            rank |= dict.fromkeys(MANAGERS, -1)
        cells = sorted(self.cells.values(), key=lambda cell: rank.get(cell.kind, len(ORDER)))
        return cells if sources_first else cells[::-1]

    async def configure(
        self, agents: Mapping[str, AgentConfig | Mapping[str, object]], edges: Mapping[str, Serving] | None = None
    ) -> dict[str, object]:
        """Make exactly these agents run, all steps at once; see `HostControl.configure`.

        Raises:
            ConfigError: every mistake in all of them; nothing was changed.
        """
        told = await self.prepare(agents)
        if edges is None:
            async with self._changing:
                await self._let_go()
        else:
            await self.activate(edges)
        gone = self._gone()
        for cell in [cell for cell in self.in_order(sources_first=True) if cell.kind not in MANAGERS]:
            await self.retire(cell.name, {})
        if edges is not None:
            await self.settle(edges)
        changed = sorted({*told["reloaded"], *told["replaced"]})
        return {**told, "stopped": sorted(gone), "changed": changed}

    def _gone(self) -> list[str]:
        return [name for name, cell in self.cells.items() if name not in self._wanted and cell.kind not in MANAGERS]

    # --- the steps of a revision

    async def prepare(self, agents: Mapping[str, AgentConfig | Mapping[str, object]]) -> dict[str, list[str]]:
        """Add and change what a revision adds and changes; see `HostControl.prepare`.

        What is new begins with `activate`: what it made before its edges are served would be lost. What comes on edges
        that other host processes serve already waits in its mailbox.

        Raises:
            ConfigError: every mistake in all of them; nothing was changed.
        """
        wanted = {
            name: agent if isinstance(agent, AgentConfig) else convert(agent, AgentConfig, f"agents.{name}")
            for name, agent in agents.items()
        }
        plans = blueprints(wanted)
        self._check_managers(wanted)
        told: dict[str, list[str]] = {"started": [], "reloaded": [], "replaced": [], "rewired": []}
        async with self._changing:
            self._wanted = wanted
            for cell in self.in_order(sources_first=True):
                if cell.name in wanted and self.agents[cell.name] != wanted[cell.name]:
                    how = await self._change(cell, wanted[cell.name], plans[cell.name])
                    told[how].append(cell.name)
            fresh = [name for name in wanted if name not in self.cells]
            told["started"] = [name for name in fresh if name not in told["replaced"]]
            for name in fresh:
                self.add(name, wanted[name], plans[name])
                self._held_back.add(name)
            for cell in [cell for cell in self.in_order(sources_first=False) if cell.name in wanted]:
                await self.wiring.prepare(cell, wanted[cell.name])
            for cell in [cell for cell in self.in_order(sources_first=False) if cell.name in fresh]:
                await self.subscriptions.receive(cell, self.agents[cell.name], self.blueprints[cell.name])
        return {how: sorted(names) for how, names in told.items()}

    def _check_managers(self, wanted: Mapping[str, AgentConfig]) -> None:
        mistakes = [
            f"agents.{name}: {cell.kind} {name} manages this host: give the {wanted[name].type} another name"
            for name, cell in self.cells.items()
            if cell.kind in MANAGERS and name in wanted and wanted[name].type != cell.kind
        ]
        if mistakes:
            raise ConfigError(mistakes)

    async def _change(self, cell: Cell, wanted: AgentConfig, plan: Blueprint) -> str:
        """Bring one agent to its new specification; return how."""
        before, was = self.agents[cell.name], self.blueprints[cell.name]
        effects = {EFFECTS[key] for key in differing(before, wanted)}
        asks_anew = _subscription(before, was) != _subscription(wanted, plan)
        if before.backplane != wanted.backplane or (asks_anew and ("morph" in effects or _spools(before, wanted))):
            await self.remove(cell, asyncio.get_running_loop().time() + RETIRE_S)
            return "replaced"
        self.agents[cell.name], self.blueprints[cell.name] = wanted, plan
        cell.mailbox.capacity = wanted.mailbox_events
        if asks_anew:
            self._asking_anew.add(cell.name)
        if effects & ANEW:
            await self._reload(cell, wanted, plan)
        if asks_anew:
            return "replaced"
        return "reloaded" if effects & ANEW else "rewired"

    async def _reload(self, cell: Cell, wanted: AgentConfig, plan: Blueprint) -> None:
        cell.build, cell.kind = plan.build, wanted.type
        try:
            await cell.command(Command.RELOAD)
        except UsageError:  # it does not run
            if cell.name not in self._held_back:
                cell.start()

    async def activate(self, edges: Mapping[str, Serving]) -> None:
        """Change over to the generations of a revision; see `HostControl.activate`."""
        async with self._changing:
            for cell in [self.cells[name] for name in self._gone()]:
                if cell.is_source and cell.state_now is not State.PAUSED:
                    with suppress(UsageError):  # it does not run
                        await cell.command(Command.PAUSE)
                        self._paused.add(cell.name)
            gone = set(self._gone())
            staying = {f"{self._around.host}/{name}" for name in self.cells if name not in gone}
            await self.generations.activate(edges, staying)
            await self._let_go()

    async def remove(self, cell: Cell, until_s: float) -> None:
        """End an agent; see `Agents.remove`."""
        await super().remove(cell, until_s)
        self._held_back.discard(cell.name)
        self._paused.discard(cell.name)
        self._asking_anew.discard(cell.name)

    async def _let_go(self) -> None:
        """Let begin what was held back, and go on what a revision that was rolled back had paused."""
        staying = self._wanted.keys() & self.cells.keys()
        for name in self._asking_anew & staying:
            self._asking_anew.discard(name)
            await self.subscriptions.change(self.cells[name], self.agents[name], self.blueprints[name])
        for cell in [cell for cell in self.in_order(sources_first=False) if cell.name in self._held_back & staying]:
            self._held_back.discard(cell.name)
            cell.start()
        for name in self._paused & staying:
            self._paused.discard(name)
            if self.cells[name].state_now not in {State.STOPPED, State.FAILED}:
                await self.cells[name].command(Command.RESUME)

    async def retire(self, agent: str, fences: Fences) -> None:
        """End the old ends of an agent, and the agent if it is to go; see `HostControl.retire`.

        Raises:
            BusError: the agent is to go and has not handled what waits in `RETIRE_S`; it goes on, try again.
        """
        async with self._changing:
            until_s = asyncio.get_running_loop().time() + RETIRE_S
            wanted = self._wanted.get(agent)
            cell = self.cells.get(agent)
            if cell is not None:
                wanted = self.agents[agent] if cell.kind in MANAGERS else wanted
                await self.wiring.retire_ins(cell, wanted, fences, until_s)
                if wanted is None:
                    await self.remove(cell, until_s)
            await self.wiring.retire_outs(agent, wanted, until_s)

    async def settle(self, edges: Mapping[str, Serving]) -> None:
        """Forget what was kept of older generations; see `HostControl.settle`.

        Ends that no retire named end here: those of the revision before one that was rolled back.
        """
        async with self._changing:
            until_s = asyncio.get_running_loop().time() + RETIRE_S
            for name, agent in self._wanted.items():
                if name in self.cells:
                    await self.wiring.retire_ins(self.cells[name], agent, {}, until_s)
                await self.wiring.retire_outs(name, agent, until_s)
            self.keep(self.subscriptions.sweep())
            self.generations.settle(edges)
            await self.wiring.settle()


def _subscription(agent: AgentConfig, plan: Blueprint) -> tuple[object, ...]:
    """Return what the agent's own edges are made of."""
    own = (plan.scope, agent.overload, agent.spool_bytes) if plan.subscribe else ()
    return (plan.subscribe, *own)


def _spools(before: AgentConfig, wanted: AgentConfig) -> bool:
    """Whether an agent has a spool of its own before or after a change: two of them at once would mix."""
    return "spool" in {before.overload, wanted.overload}
