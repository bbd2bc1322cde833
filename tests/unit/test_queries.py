"""The query channel: rows of any size come whole, or the asker is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import pytest

from eddy_mesh import queries, subjects
from eddy_mesh.agent import Result
from eddy_mesh.batch import Batch
from eddy_mesh.bus import Message, NoResponders
from eddy_mesh.bus_memory import MemoryBroker, MemoryBus
from eddy_mesh.errors import BusError, UsageError
from eddy_mesh.task import Answer, Context

LIMIT = 64 * 1024
"""Largest payload of the server in these tests, octets."""


class Answering:
    """A task that answers with given rows, and then perhaps fails."""

    queries = frozenset({"rows"})

    def __init__(self, rows: Sequence[Answer], error: Exception | None = None) -> None:
        self._rows = rows
        self._error = error

    async def query(self, verb: str, request: Mapping[str, object]) -> AsyncGenerator[Answer, None]:
        """Yield the rows."""
        for row in self._rows:
            yield row
        if self._error is not None:
            raise self._error

    async def start(self, context: Context) -> None:
        """Nothing to open."""

    async def on_batch(self, batch: Batch, now_ns: int) -> Result:
        """Take nothing."""
        return Result()

    async def on_tick(self, now_ns: int) -> Result:
        """Nothing is due."""
        return Result()

    async def settle(self) -> None:
        """Nothing is kept."""

    def status(self) -> Answer:
        """Nothing to show."""
        return {}

    async def stop(self) -> None:
        """Nothing to close."""


class Asked:
    """What an asker got.

    Attributes:
        rows: numbers of the rows.
        error: why there are no more, "" where all came.
        sizes: payload and headers of each message, octets.
    """

    def __init__(self) -> None:
        self.rows: list[object] = []
        self.error = ""
        self.sizes: list[int] = []


@asynccontextmanager
async def connected() -> AsyncIterator[MemoryBus]:
    """A bus with a small limit."""
    bus = MemoryBroker(max_payload=LIMIT).connect()
    try:
        yield bus
    finally:
        await bus.close()


async def asked(task: Answering) -> Asked:
    """Ask a task over a bus with a small limit."""
    got = Asked()
    async with connected() as bus, asyncio.TaskGroup() as group:

        def receive(message: Message) -> None:
            group.create_task(queries.answer(bus, message, task, "rows"))

        def watch(message: Message) -> None:
            headers = sum(len(name) + len(value.encode()) + 4 for name, value in message.headers.items())
            got.sizes.append(len(message.data) + headers)

        await bus.subscribe("ask", receive)
        await bus.subscribe("_EDDY.>", watch)
        try:
            async for row in queries.ask(bus, "ask", {"a": 1}):
                got.rows.append(row["n"])
        except UsageError as error:
            got.error = str(error)
        await bus.flush()
    return got


def row_of(number: int, octets: int) -> dict[str, object]:
    """Return a row of about so many octets."""
    return {"n": number, "text": "x" * octets}


async def test_rows_share_messages_up_to_the_limit_of_the_server() -> None:
    """Short and long rows come in order, none is lost where two would not fit together, and no message is too large."""
    sizes = [100] * 50 + [40_000, 40_000, 59_000, 1] + [3_000] * 60
    got = await asked(Answering([row_of(number, octets) for number, octets in enumerate(sizes)]))
    assert got.rows == list(range(len(sizes)))
    assert got.error == ""
    assert max(got.sizes) <= LIMIT
    assert len(got.sizes) < 12


async def test_a_row_that_fits_into_no_message_is_told() -> None:
    """The other rows come, then an error that says how many are missing, how large they are and what helps."""
    got = await asked(Answering([row_of(0, 10), row_of(1, LIMIT), row_of(2, 10), row_of(3, 2 * LIMIT), row_of(4, 10)]))
    assert got.rows == [0, 2, 4]
    assert got.error.startswith("2 rows were left out: the longest has 131,089 octets")
    assert "select fewer fields" in got.error


@pytest.mark.parametrize("text", ["one\r\ntwo\rthree", "x" * 100_000, "\N{GREEK SMALL LETTER ALPHA}" * 5000, ""])
async def test_any_reason_reaches_the_asker(text: str) -> None:
    """A refusal of several lines, of any length and in any script, is an error and never a complete answer."""
    got = await asked(Answering([row_of(0, 10)], UsageError(text)))
    assert got.error
    assert "\n" not in got.error
    assert "\r" not in got.error
    assert max(got.sizes) <= LIMIT


async def test_what_is_flushed_is_sent_at_once() -> None:
    """Rows of work that goes on do not wait for a full message; the mark itself is no row, an empty row is one."""
    got = await asked(Answering([row_of(0, 10), queries.FLUSH, row_of(1, 10), row_of(2, 10), queries.FLUSH]))
    assert got.rows == [0, 1, 2]
    assert len(got.sizes) == 3


async def test_progress_is_followed_from_its_first_row() -> None:
    """Also by who comes late, and by nobody."""
    progress = queries.Progress()
    progress.tell({"n": 0})
    rows: list[object] = []

    async def follow() -> None:
        rows.extend([row["n"] async for row in progress.follow() if row is not queries.FLUSH])

    async with asyncio.TaskGroup() as group:
        group.create_task(follow())
        await asyncio.sleep(0)
        progress.tell({"n": 1})
        await asyncio.sleep(0)
        progress.tell({"n": 2})
        progress.end("why")
    assert (rows, progress.error) == ([0, 1, 2], "why")
    assert [row["n"] async for row in progress.follow() if row] == [0, 1, 2]


async def test_who_follows_is_told_that_somebody_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are sent as soon as they are there, and in a silence a message without any comes again and again."""
    monkeypatch.setattr(queries, "ALIVE_S", 0)
    progress = queries.Progress()
    progress.tell({"n": 0})
    following = progress.follow()
    assert [await anext(following) for _ in range(4)] == [{"n": 0}, queries.FLUSH, queries.FLUSH, queries.FLUSH]
    progress.tell({"n": 1})
    progress.end("")
    assert [row async for row in following] == [{"n": 1}]
    silent = await asked(Answering([queries.FLUSH, queries.FLUSH]))
    assert (silent.rows, silent.error, len(silent.sizes)) == ([], "", 3)


@pytest.mark.parametrize(
    ("subject", "who"),
    [
        (subjects.query("eddy", "archive", "vm/archive", "select"), "agent vm/archive is not there"),
        (subjects.query("eddy", "directory", "any", "types"), "an agent of type directory is not there"),
        (subjects.query("eddy", subjects.HOST, "vm.lan/host", "fetch"), "host process vm.lan is not there"),
    ],
)
async def test_whoever_is_not_there_is_named_as_eddy_agents_names_it(subject: str, who: str) -> None:
    """A query that nobody takes is answered with the agent's plain name and what to do, not with a subject."""
    async with connected() as bus:
        with pytest.raises(NoResponders) as caught:
            [row async for row in queries.ask(bus, subject, {})]
    assert str(caught.value).startswith(who)
    assert "eddy agents shows what runs" in str(caught.value)
    assert "query." not in str(caught.value)


async def test_an_agent_that_does_not_answer_in_time_is_named() -> None:
    """The plain name stands in what is said of a time-out too."""
    subject = subjects.query("eddy", "archive", "vm/archive", "select")
    async with connected() as bus:
        await bus.subscribe(subject, lambda _: None)
        with pytest.raises(BusError, match=r"^agent vm/archive gave no answer within 0 s: eddy agents shows"):
            [row async for row in queries.ask(bus, subject, {}, timeout_s=0)]
