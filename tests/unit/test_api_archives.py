"""Stored events of several archives: each once, in order, and what is refused."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, closing
from pathlib import Path

import msgspec
import pytest

from eddy_mesh import queries, subjects
from eddy_mesh.api import Event, Mesh
from eddy_mesh.batch import Batch, Kind, Producer
from eddy_mesh.bus import Message
from eddy_mesh.bus_memory import MemoryBroker
from eddy_mesh.cer import EventClass, Stage, Value
from eddy_mesh.cli.stored import stored
from eddy_mesh.errors import UsageError
from eddy_mesh.rows import batch_of, json_value
from eddy_mesh.selection import compile_statement
from eddy_mesh.store.archive_store import ArchiveStore, StoreConfig
from eddy_mesh.task import Answer

NOW_NS = 1_795_000_000_000_000_000
KIND = Kind(Stage.COOKED, EventClass.NETWORK, "netflow.v9")
COUNT = 40
SHAPES: list[dict[str, Value]] = [
    {"source.ip": "10.0.0.9", "network.bytes": 5, "user.name": "b", "json.x": 7},
    {"source.ip": "9.255.0.1", "network.bytes": -5, "user.name": "é", "json.x": "a"},
    {"source.ip": "2001:db8::1", "user.name": "B", "json.x": 30},
    {"network.bytes": 5, "json.x": 3.5},
    {"source.ip": "10.0.0.9", "network.bytes": 1 << 62, "user.name": "", "json.x": True},
]


def events(first: int, count: int) -> Batch:
    """Events ``first`` to ``first + count`` of one stream, which differ and have gaps; later ids occurred earlier."""
    rows = [{**SHAPES[number % len(SHAPES)], "occurred": NOW_NS - number} for number in range(first, first + count)]
    return batch_of(KIND, "edge", Producer(7, 100), first, NOW_NS // 1_000_000, rows)


class Archive:
    """An archive agent as the bus sees it."""

    def __init__(self, store: ArchiveStore) -> None:
        self.store = store

    async def query(self, verb: str, request: Mapping[str, object]) -> AsyncGenerator[Answer, None]:
        """Answer a statement."""
        assert verb == "select"
        for row in self.store.query(compile_statement(str(request["statement"]), now_ns=NOW_NS)):
            yield {name: json_value(name, value) for name, value in row.items()}


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Mesh]:
    """A backplane with three archives: one of everything, two of parts that overlap."""
    bus = MemoryBroker().connect()
    parts = {"hub": (0, COUNT), "left": (0, 25), "right": (10, 20)}
    stores = [ArchiveStore(tmp_path / host, StoreConfig(threads=1), 0) for host in parts]

    async def serve(host: str, archive: Archive) -> None:
        async def tell(message: Message) -> None:
            status = {"host": host, "agents": [{"agent": "store", "type": "archive"}]}
            await bus.publish(message.reply, msgspec.json.encode(status))

        async def asked(message: Message) -> None:
            await queries.answer(bus, message, archive, "select")

        await bus.subscribe(subjects.control_all("eddy", "stats"), tell)
        await bus.subscribe(subjects.query("eddy", "archive", f"{host}/store", "select"), asked)

    with closing(stores[0]), closing(stores[1]), closing(stores[2]):
        for (host, part), store in zip(parts.items(), stores, strict=True):
            store.append([events(*part)])
            await serve(host, Archive(store))
        yield Mesh(bus, "eddy")
        await bus.close()


async def asked(mesh: Mesh, statement: str, archive: str = "") -> list[Event]:
    """The answer to a statement."""
    async with aclosing(mesh.query(statement, archive=archive)) as rows:
        return [row async for row in rows]


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT *",
        "SELECT * LIMIT 7",
        "SELECT user.name LIMIT 33",
        "SELECT * ORDER BY occurred LIMIT 30",
        "SELECT user.name AS message ORDER BY message DESC LIMIT 9",
        "SELECT id, source.ip ORDER BY source.ip DESC, network.bytes",
        "SELECT id ORDER BY user.name DESC, occurred LIMIT 12",
        "SELECT network.bytes ORDER BY json.x LIMIT 31",
        "SELECT json.x ORDER BY json.x DESC, id DESC",
        "SELECT * WHERE network.bytes = 5 ORDER BY network.bytes",
    ],
)
async def test_an_event_of_several_archives_comes_once(mesh: Mesh, statement: str) -> None:
    """All of them together say what the one that holds everything says: the same events, order, limit and fields."""
    together = await asked(mesh, statement)
    alone = await asked(mesh, statement, archive="hub/store")
    in_order = "ORDER" in statement or "LIMIT" in statement
    key = None if in_order else lambda event: event.id
    assert [(event.id, dict(event)) for event in together] == [
        (event.id, dict(event)) for event in (sorted(alone, key=key) if key else alone)
    ]


async def test_commands_see_each_event_once_in_time_order(mesh: Mesh) -> None:
    """What `eddy query` and `eddy grep` show is by ``occurred``, and shows no field that was not asked for."""
    plan = compile_statement("SELECT network.bytes", now_ns=NOW_NS)
    async with aclosing(stored(mesh, plan)) as rows:
        shown = [row async for row in rows]
    in_time = [event.id for event in await asked(mesh, "SELECT id ORDER BY occurred", archive="hub/store")]
    assert [event.id for event in shown] == in_time
    assert len(shown) == COUNT
    assert all("occurred" not in event for event in shown)


async def test_groups_of_several_archives_name_what_to_write(mesh: Mesh) -> None:
    """They can not be added up, as an event may be in several; one that is named makes them."""
    with pytest.raises(UsageError, match=r"--archive HOST/AGENT .*there are hub/store, left/store, right/store"):
        await asked(mesh, "SELECT count(*)")
    assert [dict(row) for row in await asked(mesh, "SELECT count(*) AS n", archive="left/store")] == [{"n": 25}]
