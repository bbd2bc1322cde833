"""Changes: revisions of the topology through the backplane-manager, and kills, at random moments.

What may live here: carrying them out and noting how long each took. What there is to change is in `manifests`.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from accounts import statuses
from manifests import KINDS, Topology, order
from processes import HUB

from eddy_mesh import queries, subjects
from eddy_mesh.api import Mesh
from eddy_mesh.errors import EddyError

ANSWER_S = 90.0
BACK_S = 30.0
TRIES = 5
AGAIN_S = 1.0
MANAGER = f"{HUB}/backplane-manager"


@dataclass
class Done:
    """One change, or one kill.

    Attributes:
        kind: which.
        what: of what.
        at_s: when it began, s after the load began.
        took_ms: until it was applied, or the agent ran again.
        error: why it did not work, or "".
        slowest: the step of a change that took longest.
        refused: why it was refused or taken back before it was applied: a host just was not there.
    """

    kind: str
    what: str
    at_s: float
    took_ms: float
    error: str = ""
    slowest: str = ""
    refused: list[str] = field(default_factory=list)


@dataclass
class Storm:
    """What changes the topology.

    Attributes:
        mesh: the backplane.
        draw: where chance comes from.
        topology: what runs.
        changes, kills: what was done.
        steps: of the newest change, as its manager told.
    """

    mesh: Mesh
    draw: random.Random
    topology: Topology
    began_s: float = field(default_factory=time.monotonic)
    changes: list[Done] = field(default_factory=list)
    kills: list[Done] = field(default_factory=list)
    steps: list[Mapping[str, object]] = field(default_factory=list)

    async def apply(self, wanted: Topology, why: str) -> str:
        """Apply a topology; return why it did not work, or ""."""
        self.steps.clear()
        subject = subjects.query(self.mesh.backplane, "backplane_manager", MANAGER, "apply")
        request = {"manifest": wanted.tables(), "who": "storm", "why": why, "terms": {"observe_s": 0.0}}
        try:
            async for row in queries.ask(self.mesh.bus, subject, request, timeout_s=ANSWER_S):
                self.steps.append(row)
        except EddyError as error:
            return str(error)
        self.topology = wanted
        return ""

    async def change(self, kind: str) -> Done:
        """Make one change."""
        wanted, what = KINDS[kind](self.topology, self.draw)
        began = time.monotonic()
        refused: list[str] = []
        while error := await self.apply(wanted, f"{kind} {what}"):
            refused.append(error)
            if len(refused) == TRIES:
                break
            await asyncio.sleep(AGAIN_S)
        took_ms = (time.monotonic() - began) * 1e3
        done = Done(kind, what, began - self.began_s, took_ms, error, _slowest(self.steps), refused)
        self.changes.append(done)
        return done

    async def kill(self) -> Done:
        """Kill, with SIGKILL, an agent that has a process of its own; its agent-manager starts it again."""
        began = time.monotonic()
        children = await self._children()
        if not children:
            self.kills.append(Done("kill", "no agent has a process of its own", began - self.began_s, 0.0, "none"))
            return self.kills[-1]
        name = self.draw.choice(sorted(children))
        os.kill(children[name], signal.SIGKILL)
        error = await self._back(name, children[name])
        done = Done("kill", name, began - self.began_s, (time.monotonic() - began) * 1e3, error)
        self.kills.append(done)
        return done

    async def _children(self) -> dict[str, int]:
        """Return the process number of each agent that runs in a process of its own."""
        found: dict[str, int] = {}
        for status in await statuses(self.mesh):
            for agent in status.agents:
                detail = agent.get("detail")
                rows = detail.get("children") if isinstance(detail, dict) else None
                for row in rows or ():
                    if row["state"] == "running" and row["pid"]:
                        found[str(row["name"])] = int(row["pid"])
        return found

    async def _back(self, name: str, pid: int) -> str:
        until = time.monotonic() + BACK_S
        while time.monotonic() < until:
            if (await self._children()).get(name, pid) != pid:
                return ""
            await asyncio.sleep(0.2)
        return f"not back within {BACK_S:g} s"

    async def run(self, seconds: float, changes: int, kills: int) -> None:
        """Make all changes and kills, spread over the time; they go on after it where they take longer."""
        kinds = order(changes, self.draw)
        at = set(self.draw.sample(range(changes), min(kills, changes)))
        for number, kind in enumerate(kinds):
            due = self.began_s + seconds * (number + 0.5) / changes
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if number in at:
                await self.kill()
            await self.change(kind)


def _slowest(steps: Iterable[Mapping[str, object]]) -> str:
    """Return the step that took longest: what, where, how long."""
    timed = [(float(str(step["took_ms"])), step) for step in steps if "took_ms" in step]
    took_ms, step = max(timed, key=lambda held: held[0], default=(0.0, {}))
    return f"{step.get('step')} {step.get('host')}/{step.get('agent')} {took_ms:,.0f} ms"
