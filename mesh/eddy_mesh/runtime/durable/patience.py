"""Waiting for a disk, a store or a server that will be back, and telling of it once.

What may live here: `Patience`. What is done meanwhile, and with what, is the receiver's business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from eddy_mesh.errors import BusError, StoreError
from eddy_mesh.runtime.durable.intake import Notice

T = TypeVar("T")


class Patience:
    """What a receiver waits for.

    Args:
        edge: name of its edge.
        notice: told once of each thing that is waited for, as ``edge_waits``.
        retry_s: time between two tries, s.
    """

    def __init__(self, edge: str, notice: Notice, retry_s: float) -> None:
        self._edge = edge
        self._notice = notice
        self._retry_s = retry_s
        self._problems: dict[str, str] = {}

    @property
    def problem(self) -> str:
        """What is waited for; "" for nothing."""
        return "; ".join(filter(None, self._problems.values()))

    def waits(self, what: str, error: Exception | None) -> None:
        """Tell once for each reason what is waited for; None: it is waited for no more."""
        problem = "" if error is None else str(error)
        if problem and problem != self._problems.get(what):
            self._notice("edge_waits", **{"edge.name": self._edge, "error.message": problem})
        self._problems[what] = problem

    async def through(self, what: str, call: Callable[[], Awaitable[T]], *errors: type[Exception]) -> T:
        """Return what a call returns, tried again while it raises one of these errors.

        Args:
            what: name of what is waited for.
            call: the call.
            errors: those that pass; one that says of itself that it will not is raised.
        """
        while True:
            try:
                result = await call()
            except errors as error:
                if isinstance(error, BusError | StoreError) and not error.retryable:
                    raise
                self.waits(what, error)
                await asyncio.sleep(self._retry_s)
            else:
                self.waits(what, None)
                return result
