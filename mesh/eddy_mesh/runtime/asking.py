"""Asking: whether anybody wants what an agent would make of events, so that nothing is made for nobody.

What may live here: that question, with its answers kept until edges or leases change.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from eddy_mesh.actor.cell import Cell
from eddy_mesh.cer import Stage
from eddy_mesh.commands import SENDER
from eddy_mesh.config import AgentConfig
from eddy_mesh.discovery import Blueprint, kinds_of
from eddy_mesh.runtime.demand import Demand
from eddy_mesh.runtime.router import Router


class Asked(Protocol):
    """The host process, as far as the question needs it."""

    host: str
    backplane: str
    router: Router
    demands: dict[str, Demand]
    agents: dict[str, AgentConfig]
    blueprints: dict[str, Blueprint]


class Asking:
    """Answers for the agents of one host process."""

    def __init__(self, host: Asked) -> None:
        self._host = host
        self._known: dict[str, tuple[tuple[int, int], bool]] = {}

    def is_asked(self, consumer: Cell) -> bool:
        """Whether somebody wants what an agent makes: on another backplane, or of a cooking that works on demand."""
        if consumer.kind == SENDER:
            return True
        host, plan = self._host, self._host.blueprints[consumer.name]
        if plan.emit == "always":
            return True
        other = host.agents[consumer.name].backplane
        if other and other != host.backplane and not host.demands[other].flows:
            return False
        return not getattr(plan.module, "ON_DEMAND", False) or self._is_wanted(consumer, host.demands, plan)

    def _is_wanted(self, consumer: Cell, demands: Mapping[str, Demand], plan: Blueprint) -> bool:
        host = self._host
        demand = demands[host.agents[consumer.name].backplane or host.backplane]
        versions = (host.router.version, demand.version)
        held = self._known.get(consumer.name)
        if held is None or held[0] != versions:
            kinds = tuple(kinds_of(plan.module, Stage.COOKED))
            wanted = host.router.wants(consumer, kinds, host.host) or demand.wants(
                f"{host.host}/{consumer.name}", kinds
            )
            held = self._known[consumer.name] = versions, wanted
        return held[1]
