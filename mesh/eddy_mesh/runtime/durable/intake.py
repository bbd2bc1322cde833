"""What a receiver needs of the agent that it feeds, and how fast it goes.

What may live here: the values that whoever starts a receiver gives it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from eddy_mesh.batch import Batch
from eddy_mesh.bus import DEFAULT_ACK_WAIT_S
from eddy_mesh.cer import Value
from eddy_mesh.errors import BusError


class GivenUp(BusError):
    """The agent gave up some of what it was delivered; it comes again.

    Attributes:
        handled: events that it had handled before, of all that this receiver delivered.
    """

    def __init__(self, message: str, handled: int) -> None:
        super().__init__(message)
        self.handled = handled


class Notice(Protocol):
    """Tells an operator of something."""

    def __call__(self, event: str, **fields: Value) -> None:
        """Log, and emit as a ``derived`` event."""


@dataclass(frozen=True, slots=True)
class Intake:
    """The agent at the end of an edge, as a receiver sees it.

    Attributes:
        deliver: hands over a batch; waits while the agent has no room.
        handled: returns when all that was delivered before the call was handled. It must raise where that will never
            be, because the agent failed or was stopped: then the receiver ends, and nothing is acknowledged but what
            `GivenUp` says was handled.
        notice: tells an operator.
        settle: for a store: returns when all that was handled survives a crash.
        known: for a store that can look ids up: True for each event that it has already. Asked for batches that may
            have been delivered before.
    """

    deliver: Callable[[Batch], Awaitable[None]]
    handled: Callable[[], Awaitable[None]]
    notice: Notice
    settle: Callable[[], Awaitable[None]] | None = None
    known: Callable[[Batch], Awaitable[npt.NDArray[np.bool_]]] | None = None


class Pace(msgspec.Struct, frozen=True):
    """How much a receiver takes at once, and when it tries again.

    Attributes:
        ack_wait_s: the server delivers again what it hears nothing of for so long; every third of it is told of what
            is in hand, however long the agent takes.
        fetch_messages, fetch_s: most messages of one fetch, and its longest wait, s; so long a stop takes at most when
            nothing comes.
        held_messages, held_bytes: what may be in hand: fetched and not acknowledged.
        group_messages, group_s: so many messages, or what comes in so long, s, are settled, entered in the state file
            and acknowledged together.
        retry_s: wait before what failed is tried again.
        confirm_s: longest wait for the server's answer to an acknowledgement.
    """

    ack_wait_s: float = DEFAULT_ACK_WAIT_S
    fetch_messages: int = 256
    fetch_s: float = 0.5
    held_messages: int = 1024
    held_bytes: int = 64 * 1024 * 1024
    group_messages: int = 200
    group_s: float = 0.2
    retry_s: float = 0.5
    confirm_s: float = 2.0
