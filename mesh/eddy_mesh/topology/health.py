"""Health: whether the agents that a revision started or changed do well.

What may live here: the judgement of what agent-managers tell (``inventory``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

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
    """

    agent: str
    state: str
    reason: str = ""
    restarts: int = 0
    lag_ns: int = 0


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
    watermark_s: float,
    *,
    is_last: bool = False,
) -> list[str]:
    """Return a line for each agent that does not do well.

    Args:
        concerned: agents that the revision started or changed, ``<host>/<agent>``.
        first: restarts of each when it was first looked at, or when it was started.
        now: all agents.
        watermark_s: how long a batch may wait for an agent, s.
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
        elif health.lag_ns > watermark_s * 1e9:
            lines.append(
                f"{path} is behind: a batch waits for {health.lag_ns / 1e9:.1f} s, more than {watermark_s:g} s"
            )
    return lines
