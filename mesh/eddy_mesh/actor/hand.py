"""The batch in hand of an agent, and the search for the events in it that make the agent raise.

What may live here: what is known of a batch between the mailbox and the accounts.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import numpy as np

from eddy_mesh.actor.edge import Edge
from eddy_mesh.agent import Output, Refusal, Result
from eddy_mesh.batch import Batch


@dataclass(eq=False, slots=True)
class Hand:
    """The batch that an agent is busy with. It outlives the agent's instance: the next one goes on with it.

    Attributes:
        edge: where the batch came from.
        batch: the events.
        is_answered: whether the agent has said what becomes of them; else they are offered to it.
        refusals: those that still have to go to the dead letters.
        outputs: what still has to be handed over.
        filtered: events that the agent left out on purpose.
        failed: events that it could not take, by reason.
    """

    edge: Edge
    batch: Batch
    is_answered: bool = False
    refusals: deque[Refusal] = field(default_factory=deque)
    outputs: deque[Output] = field(default_factory=deque)
    filtered: int = 0
    failed: dict[str, int] = field(default_factory=dict)

    def answer(self, result: Result) -> None:
        """Keep what the agent said."""
        self.is_answered = True
        self.refusals.extend(result.refusals)
        self.outputs.extend(result.outputs)
        self.filtered = result.filtered


async def isolate(batch: Batch, error: Exception, offer: Callable[[Batch], Awaitable[Result]]) -> Result:
    """Find the events that make the agent raise, by halves, and refuse them; the others are taken.

    Args:
        batch: events of which at least one made the agent raise.
        error: what it raised.
        offer: gives events to the agent and returns what it says.
    """
    if batch.count == 1:
        return Result(refusals=(Refusal((0,), "agent_error", f"{type(error).__name__}: {error}"),))
    outputs: list[Output] = []
    refusals: list[Refusal] = []
    filtered = 0
    middle = batch.count // 2
    for start, stop in ((0, middle), (middle, batch.count)):
        half = batch.take(np.arange(start, stop))
        await asyncio.sleep(0)  # commands are answered meanwhile
        try:
            result = await offer(half)
        except Exception as inner:  # noqa: BLE001  # the event is refused with the reason
            result = await isolate(half, inner, offer)
        outputs += result.outputs
        filtered += result.filtered
        refusals += [Refusal([start + row for row in r.rows], r.reason, r.detail) for r in result.refusals]
    return Result(outputs, refusals, filtered)
