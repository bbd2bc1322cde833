"""The Event API: what a tool's author uses.

    async with eddy_mesh.connect() as mesh:
        async for event in mesh.tap("SELECT source.ip, destination.port FROM network.netflow"):
            print(event["source.ip"])

What may live here: `connect`, `Mesh` and `Event`. The blocking form of the same is `eddy_mesh.blocking`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager, suppress
from time import time_ns
from typing import NamedTuple

import msgspec

from eddy_mesh import queries, select_back, subjects
from eddy_mesh.batch import Batch
from eddy_mesh.bus import Bus, NoResponders
from eddy_mesh.bus_nats import connect as connect_bus
from eddy_mesh.cer import Value, id_text
from eddy_mesh.conservation import Ledger
from eddy_mesh.errors import BusError, StoreError, UsageError, WireError
from eddy_mesh.fields import FieldType, type_of
from eddy_mesh.flows import Of, live_plan
from eddy_mesh.local import Whereabouts, find
from eddy_mesh.receiving import ANSWER_IDLE_S, FlowReceiver
from eddy_mesh.rows import flat_rows, json_value, value_of_json
from eddy_mesh.select_back import Gone
from eddy_mesh.selection import LiveAggregate, Plan, compile_statement, render, row_names
from eddy_mesh.selection.merge import ROW_ID, identity, merge_of
from eddy_mesh.watching import Follower, Watch, watch_of
from eddy_mesh.wire_json import decode_object

TICK_S = 0.25
MAX_WAITING = 2048
"""Batches that may wait for a slow reader of a tap; further ones are dropped and counted."""


class Event(Mapping[str, Value]):
    """One event that a statement selected: a mapping of dotted field names to values.

    Times are int ns, ids UUID text.

    Attributes:
        id: UUID text, or "" for a row of an aggregate.
    """

    __slots__ = ("_mesh", "_row", "id")

    def __init__(self, row: Mapping[str, Value], identity: str = "", mesh: Mesh | None = None) -> None:
        self._row = row
        self.id = identity
        self._mesh = mesh

    def __getitem__(self, name: str) -> Value:
        return self._row[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._row)

    def __len__(self) -> int:
        return len(self._row)

    def __repr__(self) -> str:
        return f"Event({dict(self._row)!r})"

    def json(self) -> bytes:
        """Return the event as one line of JSON: times in RFC 3339, ids as UUID text."""
        return msgspec.json.encode({name: json_value(name, value) for name, value in self._row.items()})

    async def fetch(self, *, timeout_s: float = select_back.ANSWER_S) -> Event:
        """Return the whole event, of which a statement may have selected a part (*select-back*).

        Where there are many, `Mesh.fetch` with their ids asks once for all.

        Args:
            timeout_s: longest wait for each part of an answer, s.

        Raises:
            UsageError: it has no id, as the row of an aggregate, or came of no mesh.
            StoreError: nobody has it any more, or nobody who answered has it; then it can be tried again.
            BusError: the server is away.
        """
        if not self.id or self._mesh is None:
            raise UsageError("only an event of a live or stored statement without groups can be fetched: it has an id")
        found = await self._mesh.fetch([self.id], timeout_s=timeout_s)
        if found.events:
            return found.events[0]
        if found.gone:
            raise StoreError(f"{self.id}: {found.gone[0]}", retryable=False)
        raise StoreError(f"{self.id}: {found.why_missing}", retryable=bool(found.silent))


class Fetched(NamedTuple):
    """What `Mesh.fetch` found.

    Attributes:
        events: whole events, in the order in which they were asked for.
        gone: those that expired where they were made, and that no archive has.
        missing: ids (UUID texts) that nobody who answered knows.
        silent: host processes and archives that were asked and did not answer.
        why_missing: sentence about the missing ones.
    """

    events: list[Event]
    gone: list[Gone]
    missing: list[str]
    silent: list[str]
    why_missing: str


class Place(NamedTuple):
    """Where an agent is."""

    host: str
    agent: str


RECONNECT_S = 3.0
PING_S = 1.0
"""Longest wait for a sign of life of a host process at the end of a tap, s."""


class Mesh:
    """One backplane, as a tool sees it. Made by `connect`.

    Args:
        bus: connected bus.
        backplane: name of the mesh.
        owner: name of this tool, shown to whoever asks who subscribes.

    Attributes:
        ledger: accounts of all live events that this tool asked for: what arrived, what was lost and why.
        is_sure: whether every host process could say, at the end of each tap, what it had sent.
    """

    def __init__(self, bus: Bus, backplane: str, owner: str = "tool") -> None:
        self.bus = bus
        self.backplane = backplane
        self.ledger = Ledger("tap", policy="drop")
        self.is_sure = True
        self._owner = f"{owner}-{time_ns():x}"

    # --- live and stored events

    async def tap(
        self, statement: str, *, watch: str = "", on_change: Callable[[str], None] = lambda _: None
    ) -> AsyncGenerator[Event, None]:
        """Yield the events that a statement selects, as they happen; with SINCE the stored ones first.

        Stored and live events join without a gap and without a repeat. With GROUP BY and EVERY each window's rows
        are yielded when the window ends. The iterator ends at UNTIL, after LIMIT, or when it is closed.

        Args:
            statement: select/project statement.
            watch: ``AGENT:in`` or ``AGENT:out``, AGENT or HOST/AGENT: only what these agents take in or give out, and
                without disturbing them. An agent of the manifest stands for all its instances. They are followed where
                they go; what a new one does in its first second or two is not seen.
            on_change: is told in one sentence which of the watched agents came and went.

        Raises:
            StatementError: the statement can not be compiled.
            UsageError: there is no agent to watch, or SINCE was asked of it.
            BusError: the server is away.
        """
        plan = compile_statement(statement, now_ns=time_ns())
        watched = watch_of(watch) if watch else None
        if watched and plan.since_ns is not None:
            raise UsageError(f"{watch}: what went into or came out of an agent is not stored: leave SINCE out")
        limit = plan.limit if not plan.is_aggregate else None
        count = 0
        async with aclosing(self._rows(plan, watched, on_change)) as rows:
            async for event in rows:
                yield event
                count += 1
                if limit is not None and count >= limit:
                    return

    async def _rows(
        self, plan: Plan, watched: Watch | None, on_change: Callable[[str], None]
    ) -> AsyncGenerator[Event, None]:
        subscribed = self._subscribed(plan, watched, on_change)
        if plan.is_aggregate:
            async with aclosing(self._windows(plan, subscribed)) as rows:
                async for event in rows:
                    yield event
            return
        names = row_names(plan) or None
        async with subscribed as batches:
            seen: set[str] = set()
            if plan.since_ns is not None:
                async for event in self._stored(plan):
                    seen.add(event.id)
                    yield event
            async for batch in _until(batches, plan.until_ns):
                for event in events_of(batch, names, self):
                    if event.id not in seen:
                        yield event
                    seen.discard(event.id)

    async def _windows(
        self, plan: Plan, subscribed: AbstractAsyncContextManager[asyncio.Queue[Batch]]
    ) -> AsyncGenerator[Event, None]:
        if plan.every_ns is None:
            raise UsageError("a live statement with aggregates needs EVERY, for example EVERY 10s; or use query")
        aggregate = LiveAggregate(plan)
        async with subscribed as batches:
            while True:
                try:
                    async with asyncio.timeout(TICK_S):
                        aggregate.on_batch(await batches.get(), time_ns())
                except TimeoutError:
                    pass  # a quiet moment; windows end all the same
                for row in aggregate.on_tick(time_ns()):
                    yield Event(row)

    @asynccontextmanager
    async def _subscribed(
        self, plan: Plan, watched: Watch | None, on_change: Callable[[str], None]
    ) -> AsyncIterator[asyncio.Queue[Batch]]:
        batches: asyncio.Queue[Batch] = asyncio.Queue(MAX_WAITING)

        def deliver(batch: Batch) -> None:
            self.ledger.offered += batch.count
            try:
                batches.put_nowait(batch)
                self.ledger.out += batch.count
            except asyncio.QueueFull:  # the reader is slower than the flow: nobody else must wait for it
                self.ledger.drop("slow_reader", batch.count)

        shaken_ns = 0

        def receiver(of: Of) -> FlowReceiver:
            return FlowReceiver(self.bus, self.backplane, live_plan(plan), self._owner, deliver, self.ledger, of)

        async def end(receiver: FlowReceiver) -> None:
            gone = await self._gone(receiver.hosts) if time_ns() - shaken_ns > RECONNECT_S * 1e9 else set()
            receiver.hosts -= gone
            is_sure = await receiver.stop(RECONNECT_S) and not gone
            self.is_sure &= is_sure

        def shake(*_: object) -> None:  # those who lose the server as well are back some time after us
            nonlocal shaken_ns
            shaken_ns = time_ns()

        unlisten = self.bus.on_state(shake)
        follower = Follower(watched, self.hosts, receiver, end, on_change)
        try:
            await follower.start()
            yield batches
        finally:
            await follower.stop()
            unlisten()

    async def _gone(self, hosts: Iterable[str]) -> set[str]:
        """Return which host processes have ended: nobody takes their commands, and nobody has to be waited for."""

        async def is_gone(host: str) -> bool:
            try:
                await self.bus.request(subjects.control(self.backplane, host, "host", "ping"), b"{}", timeout_s=PING_S)
            except NoResponders:
                return True
            except BusError:  # busy, or the server is away
                return False
            return False

        asked = sorted(hosts)
        answers = await asyncio.gather(*map(is_gone, asked))
        return {host for host, gone in zip(asked, answers, strict=True) if gone}

    async def query(self, statement: str, *, archive: str = "") -> AsyncGenerator[Event, None]:
        """Yield the stored events that a statement selects, or the rows of its aggregates.

        Args:
            statement: select/project statement.
            archive: ``<host>/<agent>``; "" asks every archive of the backplane: events come in the order of the
                statement, else by id, and one that several hold comes once.

        Raises:
            StatementError: the statement can not be compiled.
            UsageError: there is no archive, or groups were asked of several.
            BusError: an archive did not answer.
        """
        plan = compile_statement(statement, now_ns=time_ns())
        async for event in self._stored(plan, archive):
            yield event

    async def _stored(self, plan: Plan, archive: str = "") -> AsyncGenerator[Event, None]:
        places = [archive] if archive else [f"{p.host}/{p.agent}" for p in await self.agents_of("archive")]
        if not places:
            raise UsageError("no archive answers on this backplane: see eddy agents, or use a statement without SINCE")
        if len(places) > 1 and plan.is_aggregate:
            raise UsageError(
                f"several archives may hold the same event, so groups are made by one: name it with --archive "
                f'HOST/AGENT (archive="HOST/AGENT" in a script); there are {", ".join(places)}'
            )
        count = 0
        async with aclosing(self._merged(plan, places) if len(places) > 1 else self._asked(plan, places[0])) as rows:
            async for row in rows:
                told = {n: _readable(n, value_of_json(n, v)) for n, v in row.items() if n != ROW_ID}
                yield Event(told, identity(row), self)
                count += 1
                if plan.limit is not None and count >= plan.limit:
                    return

    def _asked(self, plan: Plan, archive: str) -> AsyncGenerator[Mapping[str, object], None]:
        return self.ask("archive", "select", {"statement": render(plan)}, agent=archive)

    async def _merged(self, plan: Plan, archives: Iterable[str]) -> AsyncGenerator[Mapping[str, object], None]:
        """Yield the rows of several archives in the order of the plan, else by id; an event of several comes once."""
        merge, last = merge_of(plan), ""
        async with AsyncExitStack() as answers:
            asked = [self._asked(merge.plan, archive) for archive in archives]
            opened = [await answers.enter_async_context(aclosing(rows)) for rows in asked]
            firsts = [(await anext(rows, None), rows) for rows in opened]
            heads = [(merge.place(row), row, rows) for row, rows in firsts if row is not None]
            while heads:
                number = min(range(len(heads)), key=lambda each: heads[each][0])
                _, row, rows = heads[number]
                if not last or identity(row) != last:
                    yield {name: value for name, value in row.items() if name not in merge.added}
                last = identity(row)
                following = await anext(rows, None)
                heads[number : number + 1] = [] if following is None else [(merge.place(following), following, rows)]

    async def fetch(self, ids: Iterable[str], *, depth: int = 0, timeout_s: float = select_back.ANSWER_S) -> Fetched:
        """Return whole events by id: from the local stores of the hosts that made them, else from archives.

        Args:
            ids: UUID texts.
            depth: how many generations of the events that these were made from are fetched as well.
            timeout_s: longest wait for each part of an answer, s.

        Raises:
            UsageError: a text is no id.
            BusError: the server is away.
        """
        found = await select_back.fetch(self.bus, self.backplane, ids, depth=depth, timeout_s=timeout_s)
        events = [
            Event({name: _readable(name, value) for name, value in row.items()}, identity, self)
            for identity, row in found.rows.items()
        ]
        missing, silent = list(found.missing), list(found.silent)
        return Fetched(events, list(found.gone.values()), missing, silent, found.why_missing())

    # --- agents

    async def hosts(self, timeout_s: float = 2.0) -> list[dict[str, object]]:
        """Return the status of every host process: agents, edges, types and subscriptions."""
        subject = subjects.control_all(self.backplane, "stats")
        answers = await self.bus.gather(subject, b"{}", timeout_s=timeout_s, idle_s=ANSWER_IDLE_S)
        statuses = []
        for answer in answers:
            with suppress(WireError):  # something else is on this subject; the others are no worse for it
                statuses.append(decode_object(answer.data, "status"))
        return sorted(statuses, key=lambda status: str(status.get("host")))

    async def agents_of(self, kind: str) -> list[Place]:
        """Return where the agents of a type are."""
        places: list[Place] = []
        for host in await self.hosts():
            of_kind = [agent for agent in _agents_in(host) if agent.get("type") == kind]
            places += [Place(str(host.get("host")), str(agent.get("agent"))) for agent in of_kind]
        return places

    async def control(self, host: str, agent: str, verb: str, **arguments: object) -> dict[str, object]:
        """Give an agent a command and return its answer.

        Args:
            host: name of the host process.
            agent: name of the agent; ``host`` for the host process itself.
            verb: ping, info, stats, pause, resume, reload, drain or stop.
            arguments: for ``reload``: ``config``, the new settings.

        Raises:
            UsageError: the agent refused; its reason is the text.
            NoResponders: there is no such host process.
        """
        subject = subjects.control(self.backplane, host, agent, verb)
        reply = await self.bus.request(subject, msgspec.json.encode(arguments), timeout_s=30)
        answer = decode_object(reply.data, "control")
        if "error" in answer:
            raise UsageError(str(answer["error"]))
        return answer

    def ask(
        self, agent_type: str, verb: str, request: Mapping[str, object], *, agent: str = "any"
    ) -> AsyncGenerator[Mapping[str, object], None]:
        """Yield the rows that an agent answers to a query; see `eddy_mesh.queries.ask`."""
        return queries.ask(self.bus, subjects.query(self.backplane, agent_type, agent, verb), request)

    async def emit(self, type_name: str, lines: Iterable[bytes]) -> int:
        """Put lines or JSON objects, one each, into the mesh.

        Args:
            type_name: type of the events: one that a source has (``syslog``, ``json`` ...), or a new one for JSON
                objects of named fields.
            lines: without line ends.

        Returns:
            Number of events that were taken.

        Raises:
            UsageError: ``type_name`` can be no type, or nobody takes events of scripts.
            BusError: the server is away.
        """
        subjects.check_emitted_type(type_name)
        taken = 0
        for chunk in _chunks(lines, self.bus.max_payload // 2):
            try:
                answer = await self.bus.request(subjects.emit(self.backplane, type_name), chunk, timeout_s=30)
            except NoResponders:
                raise UsageError("no host process has an emit source: add one (eddy-agent describe emit)") from None
            told = decode_object(answer.data, "emit")
            if "error" in told:
                raise UsageError(str(told["error"]))
            taken += int(str(told.get("accepted", 0)))
        return taken


@asynccontextmanager
async def connect(
    server: str = "", *, backplane: str = "", owner: str = "tool", where: Whereabouts | None = None
) -> AsyncIterator[Mesh]:
    """Connect to a backplane.

    Args:
        server: NATS URL; "" finds an `eddy-agent up` of this machine, else the chosen ``nats`` context.
        backplane: name of the mesh; "" is the one that was found, else ``eddy``.
        owner: name of the tool, shown to whoever asks who subscribes.
        where: servers and credentials found before; overrides ``server``.

    Raises:
        UsageError: nothing was found to connect to.
        BusError: the server can not be reached.
    """
    place = where or find(server)
    bus = await connect_bus(list(place.servers), name=owner, options=place.options)
    try:
        yield Mesh(bus, backplane or place.backplane, owner)
    finally:
        await bus.close()


def events_of(batch: Batch, names: Iterable[str] | None, mesh: Mesh | None = None) -> Iterable[Event]:
    """Yield the rows of a batch as events with just the named fields, or all where ``names`` is None."""
    wanted = None if names is None else list(names)
    for row in flat_rows(batch):
        told = {name: _readable(name, value) for name, value in row.items()}
        identity = str(told.get("id", ""))
        yield Event(told if wanted is None else {name: told[name] for name in wanted if name in told}, identity, mesh)


def _readable(name: str, value: Value) -> Value:
    """Return a value as tools see it: ids as UUID text, everything else as it is."""
    kind = type_of(name)
    if kind is FieldType.ID and isinstance(value, bytes):
        return id_text(value)
    if kind is FieldType.IDS and isinstance(value, list):
        return [id_text(member) if isinstance(member, bytes) else member for member in value]
    return value


def _agents_in(status: Mapping[str, object]) -> list[Mapping[str, object]]:
    agents = status.get("agents")
    return agents if isinstance(agents, list) else []


async def _until(batches: asyncio.Queue[Batch], until_ns: int | None) -> AsyncIterator[Batch]:
    while until_ns is None:
        yield await batches.get()
    while (left := (until_ns - time_ns()) / 1e9) > 0:
        try:
            async with asyncio.timeout(left):
                batch = await batches.get()
        except TimeoutError:
            return
        yield batch


def _chunks(lines: Iterable[bytes], most_bytes: int) -> Iterable[bytes]:
    held: list[bytes] = []
    size = 0
    for line in lines:
        if held and size + len(line) > most_bytes:
            yield b"\n".join(held)
            held, size = [], 0
        held.append(line)
        size += len(line) + 1
    if held:
        yield b"\n".join(held)
