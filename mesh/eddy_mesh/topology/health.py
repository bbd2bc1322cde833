"""Health: whether the agents that a revision started or changed do well.

What may live here: the judgement of what agent-managers tell (``inventory``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from math import ceil

import msgspec

from eddy_mesh.commands import State


class AgentHealth(msgspec.Struct, frozen=True):
    """What of a row of ``inventory`` matters.

    Attributes:
        agent: its name.
        state: a `State`.
        reason: why it failed, or "".
        restarts: how often it was started again after a crash.
        lag_ns: how long the batch that waits longest has waited for it, ns.
        queued: events that wait for it.
    """

    agent: str
    state: str
    reason: str = ""
    restarts: int = 0
    lag_ns: int = 0
    queued: int = 0


def agents_of(host: str, rows: Iterable[Mapping[str, object]]) -> dict[str, AgentHealth]:
    """Return the agents of an ``inventory`` by ``<host>/<agent>``; rows of another form are left out."""
    found: dict[str, AgentHealth] = {}
    for row in rows:
        try:
            health = msgspec.convert(row, AgentHealth)
        except msgspec.ValidationError:
            continue  # it is missing then, which is told
        found[f"{host}/{health.agent}"] = health
    return found


def complaints(
    concerned: Collection[str],
    first: Mapping[str, int],
    now: Mapping[str, AgentHealth],
    *,
    is_last: bool = False,
) -> list[str]:
    """Return a line for each agent that does not do well.

    Args:
        concerned: agents that the revision started or changed, ``<host>/<agent>``.
        first: restarts of each when it was first looked at, or when it was started.
        now: all agents.
        is_last: the observation ends with this look: an agent must have started by now.
    """
    lines: list[str] = []
    for path in sorted(concerned):
        health = now.get(path)
        if health is None:
            lines.append(f"{path} is not there")
        elif health.state == State.FAILED:
            lines.append(f"{path} is failed" + (f": {health.reason}" if health.reason else ""))
        elif health.restarts > first.get(path, health.restarts):
            lines.append(f"{path} crashed" + (f": {health.reason}" if health.reason else ""))
        elif is_last and health.state == State.STARTING:
            lines.append(f"{path} is still starting" + (f": {health.reason}" if health.reason else ""))
    return lines


def behind(concerned: Collection[str], now: Mapping[str, AgentHealth], watermark_s: float) -> dict[str, AgentHealth]:
    """Return the agents for which a batch waits longer than the watermark.

    Args:
        concerned: agents that the revision started or changed, ``<host>/<agent>``.
        now: all agents.
        watermark_s: how long a batch may wait for an agent, s.
    """
    found = ((path, now[path]) for path in sorted(concerned) if path in now)
    return {path: health for path, health in found if health.lag_ns > watermark_s * 1e9}


def losing(before: Mapping[str, AgentHealth], now: Mapping[str, AgentHealth], watermark_s: float) -> list[str]:
    """Return a line for each agent that is behind and does not catch up.

    What gathered while a change held events back waits for longer than the watermark too: then the batch that waits
    longest gets younger, or fewer events wait, as a burst that came at once only gets older until it is worked off.

    Args:
        before: agents that were behind, see `behind`.
        now: all agents some time later.
        watermark_s: how long a batch may wait for an agent, s.
    """
    return [
        f"{path} is behind, and does not catch up: a batch waits for {health.lag_ns / 1e9:.1f} s, more than"
        f" {watermark_s:g} s, and {health.queued} events wait: let it have more time with --watermark, or less to do"
        for path, health in behind(before, now, watermark_s).items()
        if health.lag_ns >= before[path].lag_ns and health.queued >= before[path].queued
    ]


class Observation:
    """Look after look at the agents that a revision started or changed.

    Whether one that is behind catches up is seen by one more watermark after the last look: a change holds events back,
    and who is given more instances because of what waits is behind at first.

    Args:
        concerned: the agents, ``<host>/<agent>``.
        restarts: of those that the revision started.
        observe_s: time between the first look and the last, s.
        watermark_s: how long a batch may wait for an agent, s.
        look_s: time between two looks, s.

    Attributes:
        is_over: nothing more is to be seen.
    """

    def __init__(
        self,
        concerned: Collection[str],
        restarts: Mapping[str, int],
        observe_s: float,
        watermark_s: float,
        look_s: float,
    ) -> None:
        self.is_over = False
        self._concerned, self._restarts = concerned, restarts
        self._observe_s, self._watermark_s, self._look_s = observe_s, watermark_s, look_s
        self._last = ceil(observe_s / look_s)
        self._end = self._last + ceil(watermark_s / look_s)
        self._looks = 0
        self._late: dict[str, AgentHealth] = {}

    @property
    def told(self) -> str:
        """How far it is at the next look, for people."""
        if self._late:
            return f"longer, as they are behind: {', '.join(self._late)}"
        return f"{min(self._looks * self._look_s, self._observe_s):.1f} of {self._observe_s:g} s"

    def look(self, now: Mapping[str, AgentHealth]) -> list[str]:
        """Take one look; return a line for each agent that does not do well.

        Args:
            now: all agents.
        """
        self._restarts = {path: agent.restarts for path, agent in now.items()} | dict(self._restarts)
        lines = complaints(self._concerned, self._restarts, now, is_last=self._looks >= self._last)
        if self._looks == self._last:
            self._late = behind(self._concerned, now, self._watermark_s)
        if self._looks == self._end:
            lines += losing(self._late, now, self._watermark_s)
        has_seen_all = self._looks >= self._last and not behind(self._late, now, self._watermark_s)
        self.is_over = has_seen_all or self._looks >= self._end
        self._looks += 1
        return lines
