"""One request, many answers: the gathering that every bus adapter shares.

What may live here: waiting for answers on an inbox. No connection, no wire format.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from eddy_mesh.bus import NoResponders

if TYPE_CHECKING:
    from collections.abc import Mapping

    from eddy_mesh.bus import Bus, Message

STATUS_HEADER = "Status"
NO_RESPONDERS_STATUS = "503"


async def gather_replies(  # the port's gather, and the inbox
    bus: Bus,
    inbox: str,
    subject: str,
    data: bytes,
    *,
    timeout_s: float,
    at_most: int | None,
    idle_s: float,
    headers: Mapping[str, str] | None,
) -> list[Message]:
    """Publish a request with a reply subject of its own and collect the answers.

    Args:
        bus: the client to ask through.
        inbox: a fresh subject that only this request uses.
        subject: where to ask.
        data: the question.
        timeout_s: longest wait, s.
        at_most: return as soon as there are so many.
        idle_s: return when this long passed since the last answer, s.
        headers: header name → value of the question.

    Raises:
        NoResponders: nobody is subscribed to ``subject``.
        BusError: the question could not be published.
    """
    answers: asyncio.Queue[Message] = asyncio.Queue()
    subscription = await bus.subscribe(inbox, answers.put_nowait)
    try:
        await bus.publish(subject, data, headers=headers, reply=inbox)
        return await _collect(answers, subject, timeout_s, at_most, idle_s)
    finally:
        await subscription.unsubscribe()


async def _collect(
    answers: asyncio.Queue[Message], subject: str, timeout_s: float, at_most: int | None, idle_s: float
) -> list[Message]:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    collected: list[Message] = []
    while at_most is None or len(collected) < at_most:
        until = min(deadline, loop.time() + idle_s) if collected else deadline
        try:
            async with asyncio.timeout_at(until):
                message = await answers.get()
        except TimeoutError:
            break
        if message.headers.get(STATUS_HEADER) == NO_RESPONDERS_STATUS and not message.data:
            raise no_responders(subject)
        collected.append(message)
    return collected


def no_responders(subject: str) -> NoResponders:
    """Return the error that says that nobody listens on ``subject``."""
    return NoResponders(f"no responders: nobody is subscribed to {subject}; start the agent that answers there")
