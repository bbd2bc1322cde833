"""The query channel: ask an agent, get any number of rows back.

What may live here: both ends. A query is a JSON object; the answer is NDJSON in one or more messages, the last of
which carries the header ``Eddy-End`` (``ok``, or ``error`` with the reason in ``Eddy-Error``). A row that fits into no
message is left out, the others are sent, and the end is an error that says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from typing import Protocol
from uuid import uuid4

import msgspec

from eddy_mesh import subjects
from eddy_mesh.bus import Bus, Message, NoResponders
from eddy_mesh.errors import BusError, EddyError, UsageError, WireError
from eddy_mesh.task import Answer
from eddy_mesh.wire_json import decode_object

CHUNK_BYTES = 256 * 1024
HEADER_BYTES = 4096
"""Room for headers: the server counts them to the payload, and ends a connection that sends more than it takes."""
MAX_REASON_BYTES = 2048
END, ERROR = "Eddy-End", "Eddy-Error"
FLUSH: Answer = {}
"""Given by an agent in place of a row: what it has answered so far is sent at once, and where that is nothing an empty
message, which shows whoever asks that the agent lives. Other rows gather to messages."""
ALIVE_S = 1.0
"""Longest silence of `Progress.follow`, s."""


class Answering(Protocol):
    """Who answers queries: an `eddy_mesh.task.Task`, or a host process itself."""

    def query(self, verb: str, request: Mapping[str, object]) -> AsyncGenerator[Answer, None]:
        """Yield the rows of the answer; see `eddy_mesh.task.Task.query`."""


async def answer(bus: Bus, message: Message, asked: Answering, verb: str) -> None:
    """Answer one query message with what is said to it.

    Args:
        bus: connected bus.
        message: the query, with a reply subject.
        asked: who answers.
        verb: what is asked.
    """
    pages = _Pages(max(bus.max_payload - HEADER_BYTES, bus.max_payload // 2))
    try:
        request = decode_object(message.data, "query")
        async with aclosing(asked.query(verb, request)) as rows:
            async for row in rows:
                page = pages.take() if row is FLUSH else pages.add(msgspec.json.encode(row))
                if page or row is FLUSH:
                    await bus.publish(message.reply, page)
        reason = pages.complaint
    except EddyError as error:
        reason = str(error) or type(error).__name__
    except Exception as error:  # noqa: BLE001  # a defect of one query must not end the agent
        reason = f"{type(error).__name__}: {error}"
    end = {END: "error", ERROR: _header_text(reason)} if reason else {END: "ok"}
    with suppress(BusError):  # the server is away; whoever asked is told by its own time-out
        await bus.publish(message.reply, pages.take(), headers=end)  # also what was answered before an error


class Progress:
    """Rows of work that goes on, for whoever follows it; nobody has to."""

    def __init__(self) -> None:
        self.error = ""
        self._is_over = False
        self._rows: list[Answer] = []
        self._changed = asyncio.Event()

    def tell(self, row: Answer) -> None:
        """Add a row."""
        self._rows.append(row)
        self._changed.set()

    def end(self, error: str) -> None:
        """Add no more; only the first call counts.

        Args:
            error: why the work is not done, or "".
        """
        if not self._is_over:
            self._is_over, self.error = True, error
            self._changed.set()

    async def follow(self) -> AsyncGenerator[Answer, None]:
        """Yield every row from the first, each as soon as it is there, to the end.

        After those that are there comes `FLUSH`; then again whenever nothing came for `ALIVE_S`.
        """
        told = 0
        while True:
            self._changed.clear()
            while told < len(self._rows):
                yield self._rows[told]
                told += 1
            if self._is_over:
                return
            yield FLUSH
            with suppress(TimeoutError):
                async with asyncio.timeout(ALIVE_S):
                    await self._changed.wait()


class _Pages:
    """Rows on their way to messages.

    Args:
        limit: octets that a message holds.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: list[bytes] = []
        self._size = 0
        self._left_out = 0
        self._longest = 0

    def add(self, row: bytes) -> bytes:
        """Take a row; return the message that is full without it, or b"" while there is room."""
        if len(row) > self._limit:
            self._left_out += 1
            self._longest = max(self._longest, len(row))
            return b""
        page = self.take() if self._size + len(row) > min(CHUNK_BYTES, self._limit) else b""
        self._held.append(row)
        self._size += len(row) + 1
        return page

    def take(self) -> bytes:
        """Return what is held as a message."""
        page = b"\n".join(self._held)
        self._held, self._size = [], 0
        return page

    @property
    def complaint(self) -> str:
        """What was left out, or ""."""
        if not self._left_out:
            return ""
        rows = "1 row was" if self._left_out == 1 else f"{self._left_out:,} rows were"
        return (
            f"{rows} left out: the longest has {self._longest:,} octets, and a message holds {self._limit:,}; "
            "select fewer fields, or raise max_payload of the NATS server"
        )


def _header_text(text: str) -> str:
    """Return a text as a header holds it: one line, not too long."""
    return " | ".join(text.splitlines()).encode("utf-8", "replace")[:MAX_REASON_BYTES].decode("utf-8", "ignore")


async def ask(
    bus: Bus, subject: str, request: Mapping[str, object], *, timeout_s: float = 30.0
) -> AsyncGenerator[Answer, None]:
    """Yield the rows of the answer to a query.

    Args:
        bus: connected bus.
        subject: of the query channel.
        request: the query.
        timeout_s: longest wait for the next message of the answer, s.

    Raises:
        NoResponders: nobody answers on that subject.
        UsageError: the agent refused the query, or left out rows that fit into no message; its reason is the text.
        BusError: no answer came in time.
    """
    reply = f"_EDDY.{uuid4().hex}"
    messages: asyncio.Queue[Message] = asyncio.Queue()
    subscription = await bus.subscribe(reply, messages.put_nowait, pending_bytes=0)
    try:
        await bus.publish(subject, msgspec.json.encode(request), reply=reply)
        while True:
            message = await _next(messages, subject, timeout_s)
            for line in message.data.split(b"\n"):
                if line:
                    yield decode_object(line, "answer")
            if END in message.headers:
                _raise_error(message)
                return
    finally:
        await subscription.unsubscribe()


async def _next(messages: asyncio.Queue[Message], subject: str, timeout_s: float) -> Message:
    try:
        async with asyncio.timeout(timeout_s):
            message = await messages.get()
    except TimeoutError:
        raise BusError(
            f"{_whom(subject)} gave no answer within {timeout_s:g} s: eddy agents shows whether it runs and is busy"
        ) from None
    if message.headers.get("Status") == "503":
        raise NoResponders(
            f"{_whom(subject)} is not there: it has ended, is ending or does not run yet; "
            "eddy agents shows what runs; start it and ask again"
        )
    return message


def _whom(subject: str) -> str:
    """Return who is asked on a query subject, by the name that ``eddy agents`` shows."""
    try:
        agent_type, agent, _ = subjects.parse_query(subject)
    except WireError:
        return f"whoever answers on {subject}"
    if agent_type == subjects.HOST:
        return f"host process {agent.removesuffix('/' + subjects.HOST)}"
    return f"an agent of type {agent_type}" if agent == "any" else f"agent {agent}"


def _raise_error(message: Message) -> None:
    if message.headers[END] != "ok":
        raise UsageError(message.headers.get(ERROR, "the agent refused the query"))
