"""Wiring: which ends of edges the agents of this host process have, and how a revision of the topology changes that.

What may live here: the table of ends and senders. New ones are added beside the old (`prepare`), what is not wanted
any more is ended when nothing comes on it any more (`retire`). See ``docs/decisions/0005-live-topology.md``.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable

import structlog

from eddy_mesh.actor.cell import Cell
from eddy_mesh.actor.surroundings import Surroundings
from eddy_mesh.config import AgentConfig
from eddy_mesh.conservation import Ledger
from eddy_mesh.flows import Position
from eddy_mesh.runtime.demand import Demand
from eddy_mesh.runtime.durable.beginning import Sender
from eddy_mesh.runtime.durable.end import DurableEnd
from eddy_mesh.runtime.ends import End, Fences, LiveEnd
from eddy_mesh.runtime.generations import Generations
from eddy_mesh.runtime.router import Router


class Wiring:
    """The ends of edges of one host process.

    Args:
        around: the host process.
        router: local edges are entered there.
        generations: which edges there are.
        retired: accounts of edges that have ended.
    """

    def __init__(self, around: Surroundings, router: Router, generations: Generations, retired: deque[Ledger]) -> None:
        self.senders: dict[tuple[str, str], Sender] = {}
        self._around = around
        self._router = router
        self._generations = generations
        self._retired = retired
        self._ends: defaultdict[str, list[End]] = defaultdict(list)
        self._ending: list[tuple[Cell, End]] = []
        self._log = structlog.get_logger().bind(host=around.host)

    async def prepare(self, cell: Cell, config: AgentConfig) -> None:
        """Add the ends that an agent is to have and does not have yet; nothing ends."""
        for spec in config.in_edges:
            held = [end for end in self._ends[cell.name] if end.spec.name == spec.name]
            same = next((end for end in held if end.goes_on(spec)), None)
            if same is not None:
                same.adopt(spec)
                continue
            end: End = (
                DurableEnd(spec, cell, self._around)
                if spec.delivery == "durable"
                else LiveEnd(spec, cell, self._around, self._router, self._generations.next_turn(), takes_over=not held)
            )
            self._ends[cell.name].append(end)
            await end.begin()
        for out in config.out_edges:
            sender = self.senders.get((cell.name, out.name))
            if sender is None:
                sender = self.senders[cell.name, out.name] = Sender(cell.name, out, self._around, self._router)
            sender.serve(out)

    async def settle(self) -> None:
        """Let new ends take from streams, now that the old ones have ended everywhere."""
        for ends in self._ends.values():
            for end in ends:
                if isinstance(end, DurableEnd):
                    end.take()
        await self.sweep()

    async def retire_ins(self, cell: Cell, config: AgentConfig | None, fences: Fences, until_s: float) -> None:
        """End the consuming ends that an agent is not to have, at their fences.

        Args:
            cell: the agent.
            config: what it is to have; None: it goes away.
            fences: flow → host process → position.
            until_s: so long, in the loop's time, it takes what is left of durable edges that nobody consumes next.
        """
        wanted = config.in_edges if config else ()
        for end in [end for end in self._ends[cell.name] if not any(end.goes_on(spec) for spec in wanted)]:
            is_last = end.spec.delivery == "durable" and not self._generations.has_stream(end.spec.name)
            await self._finish(cell, end, fences, until_s if is_last else None)
        await self.sweep()

    async def _finish(self, cell: Cell, end: End, fences: Fences, rest_until_s: float | None = None) -> None:
        # Broken off, it stays where it is: it goes on for nobody, and whoever ends what is not wanted ends it again.
        await end.finish(fences, rest_until_s)
        self._ends[cell.name].remove(end)
        self._ending.append((cell, end))

    async def retire_outs(self, agent: str, config: AgentConfig | None, until_s: float | None = None) -> None:
        """End the producing ends that an agent is not to have; what waits in them is put into the stream before.

        Args:
            agent: its name.
            config: what it is to have; None: it goes away.
            until_s: what the stream has not taken by then, in the loop's time, is sent when it can be; None: that is
                waited for.
        """
        wanted = {spec.name: spec.generation for spec in config.out_edges} if config else {}
        for key, sender in [(key, sender) for key, sender in self.senders.items() if key[0] == agent]:
            sender.leave(wanted.get(key[1]))
            if key[1] in wanted:
                continue
            if until_s is not None:
                await sender.sent(until_s)
            if until_s is None or sender.is_done:
                await self._end_sender(key, sender)
            else:
                self._log.warning(
                    "the stream of an edge takes nothing: what waits is sent later", sender=sender.cell.name
                )
        await self.sweep()

    async def _end_sender(self, key: tuple[str, str], sender: Sender) -> None:
        await sender.cell.drain(for_good=True)  # broken off, it is still known, and `stop` ends and counts it
        sender.close()
        self._router.forget(sender.cell)
        if self.senders.pop(key, None) is not None:
            self._keep(sender.cell.ledgers())

    async def sweep(self) -> None:
        """Let go of ends of which nothing waits any more."""
        for cell, end in list(self._ending):
            if any(edge.ledger.queued for edge in end.edges):
                continue
            self._ending.remove((cell, end))
            end.close()
            for edge in end.edges:
                cell.edges.remove(edge)
            self._keep([edge.ledger for edge in end.edges])
        for key, sender in list(self.senders.items()):
            self._keep(sender.sweep())
            if sender.is_done:
                await self._end_sender(key, sender)

    def _keep(self, ledgers: Iterable[Ledger]) -> None:
        for ledger in ledgers:
            ledger.edge = f"{ledger.edge} (ended)"
            self._retired.append(ledger)

    async def end(self, cell: Cell) -> None:
        """End every consuming end of an agent at the end of the host process; fences are not known then."""
        for end in list(self._ends[cell.name]):
            await self._finish(cell, end, {})

    async def stop(self) -> None:
        """End every sender now; what waits in it stays in its spool, or is counted as dropped."""
        for sender in self.senders.values():
            await sender.cell.halt()
            sender.close()
            await sender.cell.stop()

    def close(self, cell: Cell) -> None:
        """Let go of what the ends of an agent that has ended have on disk."""
        for end in self._ends.pop(cell.name, []):
            end.close()
        for owner, end in list(self._ending):
            if owner is cell:
                end.close()
                self._ending.remove((owner, end))


def fences(demands: Iterable[Demand], generations: Generations, edges: Iterable[str]) -> dict[str, Position]:
    """Return the position of each flow of an edge in an older generation than the newest.

    Args:
        demands: what is asked of this host process.
        generations: what it serves.
        edges: names of edges.
    """
    wanted = set(edges)
    return {
        flow.id: (flow.epoch, flow.position)
        for demand in demands
        for flow in demand.standing
        if flow.of.edge is not None
        and flow.of.edge.name in wanted
        and generations.is_over(flow.of.edge.name, flow.of.edge.generation)
    }
