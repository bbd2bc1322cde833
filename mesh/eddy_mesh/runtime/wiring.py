"""Wiring: which ends of edges the agents of this host process have, and how a revision of the topology changes that.

What may live here: the table of ends and senders. New ones are added beside the old (`prepare`), what is not wanted
any more is ended when nothing comes on it any more (`retire`). See ``docs/decisions/0005-live-topology.md``.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable

from eddy_mesh.actor.cell import Cell
from eddy_mesh.actor.edge import Edge, Mailbox, Overload
from eddy_mesh.actor.numbering import Numbering
from eddy_mesh.actor.surroundings import Surroundings
from eddy_mesh.config import AgentConfig, InEdge, OutEdge
from eddy_mesh.conservation import Ledger
from eddy_mesh.flows import Position
from eddy_mesh.runtime.demand import Demand
from eddy_mesh.runtime.durable.sender import DurableSender
from eddy_mesh.runtime.ends import DurableEnd, End, Fences, LiveEnd, durable_edge, spool_folder
from eddy_mesh.runtime.generations import Generations
from eddy_mesh.runtime.router import Line, Router
from eddy_mesh.runtime.spill import Spill
from eddy_mesh.selection import compile_statement

SENDER = "sender"
"""Agent type of what puts events into the stream of a durable edge."""


class Sender:
    """The producing end of a durable edge at one agent; it outlives generations of the edge.

    Attributes:
        cell: what puts events into the stream.
        edges: generation → edge that leads to it.
        spills: what keeps batches on disk for those with policy ``spool``.
    """

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.edges: dict[int, Edge] = {}
        self.spills: list[Spill] = []

    def close(self) -> None:
        """Leave what waits in the spools there, for the next life."""
        for spill in self.spills:
            spill.close()


class Wiring:
    """The ends of edges of one host process.

    Args:
        around: the host process.
        router: local edges are entered there.
        retired: accounts of edges that have ended.
    """

    def __init__(self, around: Surroundings, router: Router, retired: deque[Ledger]) -> None:
        self.senders: dict[tuple[str, str], Sender] = {}
        self._around = around
        self._router = router
        self._retired = retired
        self._ends: defaultdict[str, list[End]] = defaultdict(list)
        self._ending: list[tuple[Cell, End]] = []

    async def prepare(self, cell: Cell, config: AgentConfig) -> None:
        """Add the ends that an agent is to have and does not have yet; nothing ends."""
        for spec in config.in_edges:
            held = [end for end in self._ends[cell.name] if end.spec.name == spec.name]
            if any(_goes_on(end.spec, spec) for end in held):
                continue
            end: End = (
                DurableEnd(spec, cell, self._around)
                if spec.delivery == "durable"
                else LiveEnd(spec, cell, self._around, self._router, takes_over=not held)
            )
            self._ends[cell.name].append(end)
            await end.begin()
        for out in config.out_edges:
            self._send(cell, out)

    def _send(self, producer: Cell, spec: OutEdge) -> None:
        sender = self.senders.get((producer.name, spec.name))
        if sender is None:
            sender = self.senders[producer.name, spec.name] = Sender(self._sender_cell(producer, spec))
            sender.cell.start()
        if spec.generation not in sender.edges:
            plan = compile_statement(spec.statement, now_ns=self._around.now_ns())
            name = f"{spec.name}@{spec.generation} {producer.name} > stream"
            spill = self._spill(sender, spec)
            edge = Edge(name, plan, sender.cell.mailbox, Overload(spec.overload), spill)
            sender.edges[spec.generation] = edge
            self._router.join(edge, sender.cell, Line(spec.name, spec.generation, frozenset({producer.name})))
            if spill is not None:
                spill.recover(edge)

    def _spill(self, sender: Sender, spec: OutEdge) -> Spill | None:
        folder = spool_folder(self._around.state_of(sender.cell.name), spec.name, spec, alone=not sender.edges)
        if folder is None:
            return None
        sender.spills.append(Spill(folder, spec.spool_bytes, sender.cell.mailbox))
        return sender.spills[-1]

    def _sender_cell(self, producer: Cell, spec: OutEdge) -> Cell:
        edge = durable_edge(self._around.backplane, spec.name, spec.partition, spec.retention)
        name = f"{producer.name}.{spec.name}"
        numbering = Numbering(name, self._around.host, 0)  # it makes no events
        return Cell(name, SENDER, lambda: DurableSender(edge), self._around, numbering, Mailbox())

    def _old_ends(self, agent: str, config: AgentConfig | None) -> list[End]:
        wanted = config.in_edges if config else ()
        return [end for end in self._ends[agent] if not any(_goes_on(end.spec, spec) for spec in wanted)]

    def _old_senders(self, agent: str, config: AgentConfig | None) -> list[tuple[str, Sender, list[int]]]:
        wanted = {spec.name: spec.generation for spec in config.out_edges} if config else {}
        found = []
        for (producer, name), sender in self.senders.items():
            old = [generation for generation in sender.edges if generation != wanted.get(name)]
            if producer == agent and old:
                found.append((name, sender, old))
        return found

    def settle(self) -> None:
        """Let new ends take from streams, now that the old ones have ended everywhere."""
        for ends in self._ends.values():
            for end in ends:
                if isinstance(end, DurableEnd):
                    end.take()
        self.sweep()

    async def retire_ins(self, cell: Cell, config: AgentConfig | None, fences: Fences) -> None:
        """End the consuming ends that an agent is not to have, at their fences."""
        for end in self._old_ends(cell.name, config):
            await end.finish(fences)
            self._ends[cell.name].remove(end)
            self._ending.append((cell, end))
        self.sweep()

    async def retire_outs(self, agent: str, config: AgentConfig | None) -> None:
        """End the producing ends that an agent is not to have; what waits in them is put into the stream before."""
        for name, sender, old in self._old_senders(agent, config):
            for generation in old:
                self._router.leave(sender.edges.pop(generation))
            if not sender.edges:
                await sender.cell.drain(for_good=True)  # broken off, it is still known, and `stop` ends and counts it
                sender.close()
                del self.senders[agent, name]
                self._keep(sender.cell.ledgers())

    def sweep(self) -> None:
        """Let go of ends of which nothing waits any more."""
        for cell, end in list(self._ending):
            if any(edge.ledger.queued for edge in end.edges):
                continue
            self._ending.remove((cell, end))
            end.close()
            for edge in end.edges:
                cell.edges.remove(edge)
            self._keep([edge.ledger for edge in end.edges])

    def _keep(self, ledgers: Iterable[Ledger]) -> None:
        for ledger in ledgers:
            ledger.edge = f"{ledger.edge} (ended)"
            self._retired.append(ledger)

    async def end(self, cell: Cell) -> None:
        """End every consuming end of an agent at the end of the host process; fences are not known then."""
        for end in self._ends.pop(cell.name, []):
            await end.finish({})
            self._ending.append((cell, end))

    async def stop(self) -> None:
        """End every sender now; what waits in it stays in its spool, or is counted as dropped."""
        for sender in self.senders.values():
            await sender.cell.halt()
            sender.close()
            await sender.cell.stop()

    def close(self, cell: Cell) -> None:
        """Let go of what the ends of an agent that has ended have on disk."""
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
        for flow in demand.flows.values()
        if flow.of.edge is not None
        and flow.of.edge.name in wanted
        and generations.is_over(flow.of.edge.name, flow.of.edge.generation)
    }


def _goes_on(held: InEdge, wanted: InEdge) -> bool:
    """Whether an end is what is wanted; one of a stream does not care who fills it."""
    if held.name != wanted.name or held.delivery != wanted.delivery:
        return False
    if held.delivery == "durable":
        return _shape(held) == _shape(wanted)
    return held.generation == wanted.generation


def _shape(spec: InEdge) -> tuple[object, ...]:
    return (spec.partition, spec.instance, spec.instances, spec.retention)
