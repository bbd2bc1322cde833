"""The query channel: ask an agent, get any number of rows back.

What may live here: both ends. A query is a JSON object; the answer is NDJSON in one or more messages, the last of
which carries the header ``Eddy-End`` (``ok``, or ``error`` with the reason in ``Eddy-Error``).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from uuid import uuid4

import msgspec

from eddy_mesh.bus import Bus, Message, NoResponders
from eddy_mesh.errors import BusError, EddyError, UsageError
from eddy_mesh.task import Answer, Task
from eddy_mesh.wire_json import decode_object

CHUNK_BYTES = 256 * 1024
END, ERROR = "Eddy-End", "Eddy-Error"


async def answer(bus: Bus, message: Message, task: Task, verb: str) -> None:
    """Answer one query message with what the agent says."""
    end = {END: "ok"}
    held: list[bytes] = []
    size = 0
    try:
        request = decode_object(message.data, "query")
        async with aclosing(task.query(verb, request)) as rows:
            async for row in rows:
                held.append(msgspec.json.encode(row))
                size += len(held[-1])
                if size >= CHUNK_BYTES:
                    await bus.publish(message.reply, b"\n".join(held))
                    held, size = [], 0
    except EddyError as error:
        end, held = {END: "error", ERROR: str(error).replace("\n", " | ")}, []
    except Exception as error:  # noqa: BLE001  # a defect of one query must not end the agent
        end, held = {END: "error", ERROR: f"{type(error).__name__}: {error}".replace("\n", " | ")}, []
    with suppress(BusError):  # the server is away; whoever asked is told by its own time-out
        await bus.publish(message.reply, b"\n".join(held), headers=end)


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
        UsageError: the agent refused the query; its reason is the text.
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
            f"no answer on {subject} within {timeout_s:g} s: is the agent running? try: eddy agents"
        ) from None
    if message.headers.get("Status") == "503":
        raise NoResponders(f"nobody answers on {subject}: try: eddy agents")
    return message


def _raise_error(message: Message) -> None:
    if message.headers[END] != "ok":
        raise UsageError(message.headers.get(ERROR, "the agent refused the query"))
