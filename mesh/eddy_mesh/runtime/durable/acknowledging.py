"""What a receiver has in hand, and how it tells the server of that: kept, acknowledged, refused.

What may live here: `Held` and the calls to the server for it. When they are made is decided in
`eddy_mesh.runtime.durable.receiver`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress

from eddy_mesh.bus import Bus, DurableMessage
from eddy_mesh.errors import BusError


class Held:
    """A message in hand.

    Args:
        message: the message.
        is_repeat: whether it was handled before.

    Attributes:
        message: the newest delivery of it.
        is_repeat: as above.
        is_undecodable: whether it holds no batch.
        mark: events delivered to the agent up to it and with it.
    """

    __slots__ = ("is_repeat", "is_undecodable", "mark", "message")

    def __init__(self, message: DurableMessage, *, is_repeat: bool) -> None:
        self.message = message
        self.is_repeat = is_repeat
        self.is_undecodable = False
        self.mark = 0


async def acknowledge(bus: Bus, group: Sequence[Held], confirm_s: float, *, confirmed: bool) -> None:
    """Return when the server has taken the acknowledgement of each message; those that can not be decoded are refused.

    Args:
        bus: the bus.
        group: the messages.
        confirm_s: longest wait for the server, s.
        confirmed: whether the server is asked for an answer. It gives none to what it has taken before: who says it
            again has to do without.

    Raises:
        BusError: the server did not take it, or did not say so in time.
    """
    for held in group:
        if held.is_undecodable:
            await held.message.term()
    done = [held for held in group if not held.is_undecodable]
    for held in done[:-1]:
        await held.message.ack()
    if done and confirmed:  # the server takes them in order: its answer to the last one is for all
        await done[-1].message.ack(confirm_s=confirm_s)
        return
    if done:
        await done[-1].message.ack()
    await bus.flush(confirm_s)


async def keep_in_hand(held: Mapping[tuple[int, int], Held], ack_wait_s: float) -> None:
    """Tell the server again and again of what is in hand, so that it is not delivered again while it waits; never ends.

    Args:
        held: the messages, by whatever key; it may change meanwhile.
        ack_wait_s: time after which the server delivers again what it has heard nothing of, s.
    """
    while True:
        await asyncio.sleep(ack_wait_s / 3)
        for one in tuple(held.values()):
            with suppress(BusError):
                await one.message.progress()


async def is_gone(bus: Bus, stream: str, consumer: str) -> bool:
    """Whether a consumer is really not there; a server that has just come back may not have loaded it yet."""
    try:
        found = await bus.consumers(stream)
    except BusError:
        return False
    return consumer not in {status.name for status in found}
