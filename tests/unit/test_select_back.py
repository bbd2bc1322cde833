"""Select-back over a bus: who is asked, what is found, and what is said of the rest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path

import msgspec
import numpy as np
import pytest

from eddy_mesh import queries, select_back, subjects
from eddy_mesh.api import Event, Mesh
from eddy_mesh.batch import Batch, Kind, Producer
from eddy_mesh.bus import Message
from eddy_mesh.bus_memory import MemoryBroker, MemoryBus
from eddy_mesh.cer import EventClass, EventId, Stage, Value, id_text, producer_number
from eddy_mesh.config import LocalConfig
from eddy_mesh.errors import BusError, StoreError, UsageError
from eddy_mesh.rows import batch_of
from eddy_mesh.store.local_store import LocalStore

NOW_NS = 1_795_000_000_000_000_000
COOKED = Kind(Stage.COOKED, EventClass.SYSTEM, "syslog")
RAW = Kind(Stage.RAW, EventClass.SYSTEM, "syslog")


def made_by(host: str, rows: Sequence[Mapping[str, Value]], *, kind: Kind = COOKED, first: int = 0) -> Batch:
    """Events of the agent ``cook`` of a host, as its numbering makes them."""
    number = producer_number(f"eddy/{host}/cook/{kind.stage}.{kind.event_class}.{kind.type}")
    return batch_of(kind, host, Producer(number, 1_795_000_000), first, NOW_NS // 1_000_000, rows)


def ids_of(batch: Batch) -> list[str]:
    """The ids of a batch as UUID texts."""
    return [id_text(bytes(batch.ids().at(row))) for row in range(batch.count)]  # type: ignore[arg-type]


def status_of(host: str, *archives: str) -> dict[str, object]:
    """What a host process answers to ``stats``, as far as select-back looks at it."""
    types = [{"agent": "cook", "stage": "cooked", "event_class": "system", "type": "syslog"}]
    return {"host": host, "types": types, "agents": [{"agent": name, "type": "archive"} for name in archives]}


class Backplane:
    """A bus with host processes that answer for themselves, and with archives."""

    def __init__(self, bus: MemoryBus, group: asyncio.TaskGroup, folder: Path, stack: AsyncExitStack) -> None:
        self.bus = bus
        self.mesh = Mesh(bus, "eddy")
        self.asked: dict[str, list[str]] = {}
        self._group = group
        self._folder = folder
        self._stack = stack

    async def host(self, name: str, *archives: str, serves: bool = True) -> LocalStore:
        """Add a host process that answers ``stats``, and where it serves, ``fetch`` from the store that is returned."""
        store = LocalStore(self._folder / name, LocalConfig(max_age_s=60.0), self._now_ns, lambda _: None)
        self._stack.enter_context(closing(store))

        async def tell(message: Message) -> None:
            await self.bus.publish(message.reply, msgspec.json.encode(status_of(name, *archives)))

        def watch(message: Message) -> None:
            self.asked[name] = msgspec.json.decode(message.data)["ids"]

        await self.bus.subscribe(subjects.control_all("eddy", "stats"), tell)
        if serves:
            await self.bus.subscribe(subjects.query("eddy", "host", f"{name}/host", "fetch"), watch)
            await select_back.serve(self.bus, "eddy", name, store, self._group.create_task)
        return store

    def _now_ns(self) -> int:
        return self.now_ns

    now_ns = NOW_NS

    async def answer(self, agent_type: str, agent: str, verb: str, rows: Sequence[Mapping[str, object]]) -> None:
        """Add an agent that answers a verb with rows; one without rows at all hears and never answers."""

        async def tell(message: Message) -> None:
            lines = b"\n".join(map(msgspec.json.encode, rows))
            if rows:
                await self.bus.publish(message.reply, lines, headers={queries.END: "ok"})

        await self.bus.subscribe(subjects.query("eddy", agent_type, agent, verb), tell)


@pytest.fixture
async def backplane(tmp_path: Path) -> AsyncIterator[Backplane]:
    """A backplane on which nobody is yet."""
    async with _connected() as bus, AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        yield Backplane(bus, group, tmp_path, stack)


@asynccontextmanager
async def _connected() -> AsyncIterator[MemoryBus]:
    bus = MemoryBroker().connect()
    try:
        yield bus
    finally:
        await bus.close()


async def test_a_projected_event_gives_the_rest(backplane: Backplane) -> None:
    """`Event.fetch` returns every field of the event, from the host that made it."""
    batch = made_by("edge", [{"message": "first", "user.name": "ann"}, {"message": "second", "user.name": "bob"}])
    (await backplane.host("edge")).keep(batch)
    part = Event({"message": "second"}, ids_of(batch)[1], backplane.mesh)
    whole = await part.fetch()
    assert (whole["message"], whole["user.name"], whole.id) == ("second", "bob", part.id)
    assert whole["id"] == part.id
    assert (await whole.fetch())["user.name"] == "bob"


async def test_only_the_maker_is_asked_and_the_order_is_kept(backplane: Backplane) -> None:
    """Each id goes to the host whose agent has its number; the answer has the order of the question, each id once."""
    made = {host: made_by(host, [{"message": host}]) for host in ("one", "two")}
    for host, batch in made.items():
        (await backplane.host(host)).keep(batch)
    wanted = [*ids_of(made["two"]), *ids_of(made["one"]), *ids_of(made["two"])]
    found = await backplane.mesh.fetch(wanted)
    assert [event["message"] for event in found.events] == ["two", "one"]
    assert backplane.asked == {host: ids_of(batch) for host, batch in made.items()}


async def test_everybody_is_asked_for_what_nobody_is_known_to_make(backplane: Backplane) -> None:
    """An agent that made nothing since its host began is not in the census; its events of before are found."""
    batch = made_by("two", [{"event.original": b"x"}], kind=RAW)
    await backplane.host("one")
    (await backplane.host("two")).keep(batch)
    found = await backplane.mesh.fetch(ids_of(batch))
    assert [event["event.original"] for event in found.events] == [b"x"]
    assert backplane.asked.keys() == {"one", "two"}


async def test_what_is_gone_is_said_with_its_time(backplane: Backplane) -> None:
    """Where the maker dropped it and no archive has it, the answer is when that was; a fetch of the event says so."""
    batch = made_by("edge", [{"message": "old"}])
    store = await backplane.host("edge")
    store.keep(batch)
    store.flush()
    backplane.now_ns += 61_000_000_000
    store.expire()
    found = await backplane.mesh.fetch(ids_of(batch))
    assert (found.events, found.missing) == ([], [])
    assert [str(gone) for gone in found.gone] == ["gone: expired at 2026-11-18T11:07:41.000000000Z on edge"]
    with pytest.raises(StoreError, match="gone: expired at 2026-11-18T11:07:41") as raised:
        await Event({}, ids_of(batch)[0], backplane.mesh).fetch()
    assert not raised.value.retryable


async def test_archives_have_what_is_gone(backplane: Backplane) -> None:
    """An archive is asked for what the makers do not have any more, and for nothing else."""
    kept, old = made_by("edge", [{"message": "kept"}]), made_by("edge", [{"message": "old"}], first=9)
    (await backplane.host("edge", "archive")).keep(kept)
    (stored,) = ids_of(old)
    await backplane.answer("archive", "edge/archive", "fetch", [{"id": stored, "message": "old"}])
    asked: list[Message] = []
    await backplane.bus.subscribe(subjects.query("eddy", "archive", "edge/archive", "fetch"), asked.append)
    found = await backplane.mesh.fetch([*ids_of(kept), stored])
    assert [event["message"] for event in found.events] == ["kept", "old"]
    assert (found.gone, found.missing, found.silent) == ([], [], [])
    assert [msgspec.json.decode(message.data) for message in asked] == [{"ids": [stored]}]


async def test_who_did_not_answer_is_named(backplane: Backplane) -> None:
    """A host that only the directory knows, and an archive that hears and says nothing, may have what is missing."""
    entry = {"agent": "cook", "stage": "cooked", "event_class": "system", "type": "syslog", "holding": "live"}
    away = made_by("away", [{"message": "there"}])
    await backplane.host("hub", "archive")
    await backplane.answer("directory", "any", "types", [{**entry, "host": "away"}])
    await backplane.answer("archive", "hub/archive", "fetch", [])
    found = await backplane.mesh.fetch(ids_of(away), timeout_s=0.01)
    assert found.missing == ids_of(away)
    assert found.why_missing == (
        "not found: no host that answered has it; archive hub/archive did not answer; "
        "not there: away, which may come back unless a change of the topology ended it"
    )
    with pytest.raises(StoreError, match="not there: away") as raised:
        await Event({}, found.missing[0], backplane.mesh).fetch(timeout_s=0.01)
    assert raised.value.retryable


async def test_a_host_that_keeps_nothing_is_not_silent(backplane: Backplane) -> None:
    """Where the local store is turned off nobody answers on its subject; the host itself does."""
    await backplane.host("edge", serves=False)
    found = await backplane.mesh.fetch(ids_of(made_by("edge", [{"message": "x"}])))
    assert (len(found.missing), found.silent) == (1, [])
    assert found.why_missing == "not found: no host that answered has it"


async def test_parents_come_too(backplane: Backplane) -> None:
    """A diagnosis brings its evidence, and that its raw parents, up to the depth that was asked for."""
    raw = made_by("edge", [{"event.original": b"line"}], kind=RAW)
    cooked = made_by("edge", [{"message": "line", "parents": [bytes(raw.ids().at(0))]}])  # type: ignore[arg-type]
    kind = Kind(Stage.ANALYZED, EventClass.SECURITY, "scan")
    named: dict[str, Value] = {"diagnosis.id": "scan", "diagnosis.evidence": [bytes(cooked.ids().at(0))]}  # type: ignore[arg-type]
    diagnosis = made_by("edge", [named], kind=kind)
    store = await backplane.host("edge")
    for batch in (raw, cooked, diagnosis):
        store.keep(batch)
    for depth, stages in ((0, ["analyzed"]), (1, ["analyzed", "cooked"]), (9, ["analyzed", "cooked", "raw"])):
        found = await backplane.mesh.fetch(ids_of(diagnosis), depth=depth)
        assert [event["stage"] for event in found.events] == stages
    assert found.events[1]["parents"] == ids_of(raw)


async def test_many_ids_are_asked_in_parts(backplane: Backplane, monkeypatch: pytest.MonkeyPatch) -> None:
    """More ids than a message holds all come back."""
    monkeypatch.setattr(select_back, "IDS_OF_A_REQUEST", 7)
    monkeypatch.setattr(select_back, "IDS_AT_ONCE", 3)
    batch = made_by("edge", [{"log.offset": number} for number in range(100)])
    (await backplane.host("edge")).keep(batch)
    found = await backplane.mesh.fetch(ids_of(batch))
    assert [event["log.offset"] for event in found.events] == list(range(100))


async def test_what_is_no_id_is_refused(backplane: Backplane) -> None:
    """By the asker before anything is sent, and by the host with a reason."""
    with pytest.raises(UsageError, match="hex"):
        await backplane.mesh.fetch(["port_scan"])
    with pytest.raises(UsageError, match="has an id"):
        await Event({"count(*)": 3}).fetch()
    await backplane.host("edge")
    for request, reason in (({}, "fetch needs ids"), ({"ids": ["12"]}, "not an event id")):
        with pytest.raises(UsageError, match=reason):
            async for _ in backplane.mesh.ask("host", "fetch", request, agent="edge/host"):
                pass


async def test_a_server_that_is_away_is_a_bus_error() -> None:
    """What a tool catches everywhere else it catches here."""
    bus = MemoryBroker().connect()
    await bus.close()
    with pytest.raises(BusError):
        await Mesh(bus, "eddy").fetch([id_text(bytes(16))])


async def test_nobody_puts_events_under_ids_that_were_not_asked_for(backplane: Backplane) -> None:
    """Rows of an answer that nobody asked for are not taken."""
    (asked,) = ids_of(made_by("edge", [{"message": "x"}]))
    other = id_text(EventId(bytes(16)))
    await backplane.host("hub", "archive")
    await backplane.answer("archive", "hub/archive", "fetch", [{"id": other, "message": "forged"}])
    found = await backplane.mesh.fetch([asked])
    assert (found.events, found.missing) == ([], [asked])


@pytest.mark.parametrize("packed", [True, False])
def test_parents_are_read_in_every_form(packed: bool) -> None:
    """Packed ids, lists of bytes and lists of texts give the same texts, each once."""
    ids = [bytes([number]) * 16 for number in range(3)]
    row: dict[str, Value] = {"parents": b"".join(ids[:2]) if packed else list(ids[:2])}
    row["diagnosis.evidence"] = [id_text(ids[1]), id_text(ids[2])]
    assert select_back.made_from(row) == [id_text(identity) for identity in ids]
    assert select_back.made_from({}) == []


def test_numbers_of_agents_lead_to_hosts() -> None:
    """Statuses and the directory together say who makes what; what is only held leads nowhere."""
    status = status_of("hub", "archive")
    entry = {"agent": "cook", "stage": "cooked", "event_class": "system", "type": "syslog"}
    entries = [
        {**entry, "host": "away", "holding": "live"},
        {**entry, "host": "hub", "agent": "old", "holding": "stored"},
        {**entry, "host": "hub", "agent": "host", "holding": "local"},
    ]
    known = select_back.known_from("eddy", [status], entries)
    assert known.hosts == {"hub": True, "away": False}
    assert sorted(known.archives) == ["hub/archive", "hub/old"]
    assert set().union(*known.makers.values()) == {"hub", "away"}
    assert len(known.makers) == 2
    batch = made_by("away", [{"message": "x"}])
    identity = EventId(bytes(batch.ids().at(0)))  # type: ignore[arg-type]
    assert select_back.asked_of([identity, EventId(bytes(16))], known) == {
        "away": [identity, bytes(16)],
        "hub": [bytes(16)],
    }
    assert np.uint64(identity[8] >> 6) == 2  # the variant's bits are no part of the number


@pytest.mark.parametrize("text", ["nonsense", "", "01a2", "01a2002d-e4c7-7b1c-9a31-5f0e0000000g"])
def test_what_is_no_id_is_said_with_the_form_of_one(text: str) -> None:
    """Whatever is wrong with it, letters or length, the text and what an id looks like are said."""
    with pytest.raises(UsageError, match=f"'{text}' is not an event id: give 32 hexadecimal digits"):
        select_back.identities([text])
