"""Lanes: how the backplane reaches the agents of a host process, and how they show themselves.

What may live here: the control, query and status subjects of one host process, and its entry in NATS service
discovery. Commands have their own subscription, so they are answered even when every mailbox is full.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Mapping
from itertools import chain
from uuid import uuid4

import msgspec

from eddy_mesh import flows, queries, select_back, subjects
from eddy_mesh.bus import Bus, Message, Subscription
from eddy_mesh.commands import Command
from eddy_mesh.errors import BusError, EddyError, UsageError
from eddy_mesh.runtime.demand import Flow
from eddy_mesh.runtime.fitting import fitting
from eddy_mesh.runtime.host import Host
from eddy_mesh.services import Endpoint, Service
from eddy_mesh.task import Task
from eddy_mesh.version import __version__

HEARTBEAT_S = 2.0
SETTLE_S = 5.0
"""Longest wait of a query for the events that reached the agent before it."""
MAX_SHOWN = 1000
"""Characters of a statement in the status, which must fit into one message with all of them."""


class Lanes:
    """The subjects on which a host process listens and shows itself.

    Args:
        host: the host process.
        bus: connected bus.
        ended: set when a manager told the host process to end.
    """

    def __init__(self, host: Host, bus: Bus, ended: asyncio.Event) -> None:
        self._host = host
        self._bus = bus
        self._ended = ended
        self._subscriptions: list[Subscription] = []
        self._services: dict[tuple[str, str], Service] = {}  # by name and type: an agent may become one of another type
        self._asked: dict[tuple[str, str], list[Subscription]] = {}
        self._recipients: set[str] = set()
        self._answers: set[asyncio.Task[None]] = set()
        self._following = asyncio.Lock()

    async def start(self) -> None:
        """Listen for commands."""
        backplane = self._host.backplane
        for subject in (subjects.controls_of(backplane, self._host.host), subjects.controls_all(backplane)):
            self._subscriptions.append(await self._bus.subscribe(subject, self._command))
        if self._host.local is not None:
            host, store = self._host, self._host.local
            serving = select_back.serve(self._bus, host.backplane, host.host, store, self._in_background)
            self._subscriptions.append(await serving)
        with contextlib.suppress(BusError):  # the server is away: it is told of them when it is back
            await self._bus.flush()

    async def run(self) -> None:
        """Show the state of every agent until cancelled: at every change, and every `HEARTBEAT_S`."""
        try:
            while True:
                await self.follow_agents()
                await self._beat()
                self._host.status_changed.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(HEARTBEAT_S):
                        await self._host.status_changed.wait()
                        await asyncio.sleep(0.05)  # let changes that belong together come together
        finally:
            for task in self._answers:
                task.cancel()

    async def stop(self) -> None:
        """Listen no more and take the agents out of service discovery."""
        for subscription in (*self._subscriptions, *chain.from_iterable(self._asked.values())):
            await subscription.unsubscribe()
        for service in self._services.values():
            await service.stop()

    # --- control

    def _command(self, message: Message) -> None:
        """Obey in a task of its own: a drain that takes long must not keep the next ping waiting."""
        self._in_background(self._answer_command(message))

    def _in_background(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)

    async def _answer_command(self, message: Message) -> None:
        try:
            _, agent, verb = subjects.parse_control(message.subject)
            arguments = msgspec.json.decode(message.data or b"{}", type=dict[str, object])
            answer = await self._obey(agent, verb, arguments, message.data)
        except (EddyError, msgspec.MsgspecError) as error:
            answer = {"host": self._host.host, "error": str(error)}
        except Exception as error:  # noqa: BLE001  # whatever was sent, whoever sent it is told
            answer = {"host": self._host.host, "error": f"{type(error).__name__}: {error}"}
        if message.reply and answer is not None:
            await self._reply(message.reply, answer)

    async def _reply(self, subject: str, answer: Mapping[str, object]) -> None:
        try:
            await self._bus.publish(subject, fitting(answer, self._bus.max_payload))
        except BusError:
            return  # whoever asked is told by its own time-out

    async def _obey(
        self, agent: str, verb: str, arguments: dict[str, object], data: bytes
    ) -> Mapping[str, object] | None:
        if agent != subjects.HOST:
            return await self._host.command(agent, verb, arguments)
        if verb == flows.SUBSCRIBE:
            return self._subscribe(self._host.backplane, data)
        if verb == flows.UNSUBSCRIBE:
            return self._answer_of(self._host.demands[self._host.backplane].unsubscribe(data))
        if verb in {Command.DRAIN, Command.STOP}:
            self._ended.set()
            return {"host": self._host.host, "state": "draining"}
        if verb in {Command.PING, Command.INFO, Command.STATS}:
            return self.status()
        raise UsageError(f"{verb!r} is not a command for a host process: use ping, info, stats, drain or stop")

    def _subscribe(self, backplane: str, data: bytes) -> Mapping[str, object] | None:
        return self._answer_of(self._host.demands[backplane].subscribe(data, self._host.now_ns()))

    def _answer_of(self, flow: Flow | None) -> Mapping[str, object] | None:
        """Return where a flow stands: there begins what is sent to who asked for it, or ends for who gave it back."""
        return None if flow is None else {"host": self._host.host, "position": (flow.epoch, flow.position)}

    # --- status

    def status(self) -> dict[str, object]:
        """Return the state of the host process with every agent and every edge."""
        host = self._host
        seen = [
            {
                "agent": agent,
                "stage": kind.stage,
                "event_class": kind.event_class,
                "type": kind.type,
                "count": entry.events,
                "first_ns": entry.first_ns,
                "last_ns": entry.last_ns,
                "fields": sorted(entry.fields),
            }
            for (agent, kind), entry in host.router.census.items()
        ]
        return {
            "host": host.host,
            "backplane": host.backplane,
            "version": __version__,
            "started_ns": host.started_ns,
            "now_ns": host.now_ns(),
            "agents": host.statuses(),
            "edges": host.ledgers(),
            "types": seen,
            "labels": host.config.labels,
            "local_store": host.local.status() if host.local is not None else {},
            "subscriptions": [
                {
                    "id": flow.id,
                    "statement": flow.statement[:MAX_SHOWN],
                    "owners": sorted(flow.owners),
                    "events": flow.position,
                    "bytes": flow.bytes_moved,
                    "offered": flow.ledger.offered,
                    "offered_bytes": flow.offered_bytes,
                    "gap": sum(flow.gaps.values()),
                }
                for demand in host.demands.values()
                for flow in demand.flows.values()
            ],
        }

    async def _beat(self) -> None:
        host, limit = self._host, self._bus.max_payload
        try:
            for status in host.statuses():
                subject = subjects.status(host.backplane, host.host, str(status["agent"]))
                await self._bus.publish(subject, fitting(status, limit))
            summary = self.status()
            summary.pop("agents")
            await self._bus.publish(subjects.status(host.backplane, host.host, subjects.HOST), fitting(summary, limit))
        except BusError:
            return  # shown again at the next beat

    # --- query and discovery

    async def follow_agents(self) -> None:
        """Bring query subjects, recipients and service discovery in step with the agents that there are."""
        async with self._following:  # else an agent that two calls find new is announced twice
            await self._follow()

    async def _follow(self) -> None:
        if not self._bus.connected:  # what can not be announced would be subscribed to again at each beat
            return
        with contextlib.suppress(BusError):  # the server is away: the next beat tries again
            for recipient in self._host.demands.keys() - self._recipients - {self._host.backplane}:
                await self._listen_for_recipient(recipient)
                self._recipients.add(recipient)
            agents = {(name, cell.kind): cell for name, cell in self._host.cells.items()}
            for gone in self._services.keys() - agents.keys():
                await self._services[gone].stop()
                del self._services[gone]
            for gone in self._asked.keys() - agents.keys():  # else its queue group would go on giving it a share
                for subscription in self._asked[gone]:
                    await subscription.unsubscribe()
                del self._asked[gone]
            for (name, kind), cell in agents.items():
                if (name, kind) not in self._services:
                    self._services[name, kind] = await self._announce(name, kind)
                if isinstance(cell.agent, Task) and cell.agent.queries and (name, kind) not in self._asked:
                    self._asked[name, kind] = await self._listen_for_queries(name, kind)

    async def _listen_for_recipient(self, recipient: str) -> None:
        """Take leases, and nothing else, on the backplane that an anonymizer publishes to."""

        async def receive(message: Message) -> None:
            answer: Mapping[str, object] | None
            try:
                if subjects.parse_control(message.subject)[2] == flows.UNSUBSCRIBE:
                    answer = self._answer_of(self._host.demands[recipient].unsubscribe(message.data))
                else:
                    answer = self._subscribe(recipient, message.data)
            except EddyError as error:
                answer = {"host": self._host.host, "error": str(error)}
            if message.reply and answer is not None:
                await self._reply(message.reply, answer)

        for verb in (flows.SUBSCRIBE, flows.UNSUBSCRIBE):
            subject = subjects.control_all(recipient, verb)
            self._subscriptions.append(await self._bus.subscribe(subject, receive))
        await self._host.demands[recipient].read_leases(self._host.now_ns())

    async def _announce(self, name: str, kind: str) -> Service:
        host = self._host

        async def stats(_: Message) -> bytes:
            return msgspec.json.encode(host.cells[name].status() if name in host.cells else {})

        subject = subjects.control(host.backplane, host.host, name, "service")
        service = Service(
            self._bus,
            f"eddy-{kind}",
            __version__,
            instance=uuid4().hex[:22],
            description=f"{kind} {name} on {host.host}",
            metadata={"host": host.host, "agent": name, "backplane": host.backplane},
            endpoints=[Endpoint(name="status", subject=f"{subject}.status", answer=stats)],
        )
        await service.start()
        return service

    async def _listen_for_queries(self, name: str, kind: str) -> list[Subscription]:
        host = self._host

        def receive(message: Message) -> None:
            agent = host.cells[name].agent if name in host.cells else None
            verb = subjects.parse_query(message.subject)[2]
            if not isinstance(agent, Task) or verb not in agent.queries or not message.reply:
                return
            self._in_background(self._answer_query(name, message, agent, verb))

        exact = subjects.queries_of(host.backplane, kind, f"{host.host}/{name}")
        anyone = subjects.queries_of(host.backplane, kind, "any")
        return [await self._bus.subscribe(exact, receive), await self._bus.subscribe(anyone, receive, queue=kind)]

    async def _answer_query(self, name: str, message: Message, agent: Task, verb: str) -> None:
        """Answer once the agent has taken all that reached it before the query: stored and live then leave no gap."""
        with contextlib.suppress(TimeoutError):  # a paused archive, or one with a full disk, tells what it has
            async with asyncio.timeout(SETTLE_S):
                for edge in self._host.cells[name].edges:
                    await edge.until_completed(edge.accepted)
        await queries.answer(self._bus, message, agent, verb)
