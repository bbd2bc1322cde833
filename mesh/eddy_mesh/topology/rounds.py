"""Rounds: what a way through a change asks, what is answered, and how the way ends. Pure.

What may live here: the values that pass between `eddy_mesh.topology.carrying` and whoever makes its calls.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import msgspec


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One query to the agent-manager of a host process.

    Attributes:
        host: name of the host process.
        verb: of the query channel.
        request: of it.
        agent: agent that it is about, or "".
        wait_s: ask again for so long while nobody answers, s.
    """

    host: str
    verb: str
    request: dict[str, object]
    agent: str = ""
    wait_s: float = 0.0


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a call.

    Attributes:
        call: the call.
        rows: the answer.
        error: why it failed, or "".
        is_absent: nobody was there who could have answered.
        is_refused: the host process answered, and refused.
    """

    call: Call
    rows: tuple[Mapping[str, object], ...] = ()
    error: str = ""
    is_absent: bool = False
    is_refused: bool = False


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """Calls that are made at the same time.

    Attributes:
        calls: the calls.
        pause_s: wait before them, s.
        step: name of the step where the round is told as a whole; "" where each call is.
        told: what is told then.
    """

    calls: tuple[Call, ...]
    pause_s: float = 0.0
    step: str = ""
    told: str = ""


class Outcome(StrEnum):
    """How carrying out ends."""

    DONE = "done"
    REFUSED = "refused"
    UNHEALTHY = "unhealthy"


class End(msgspec.Struct, frozen=True):
    """How it ended.

    Attributes:
        outcome: how.
        why: why it is not done; on a way back: what could not be done.
        afterwards: asked when the end is of record, or None; what is answered changes nothing.
    """

    outcome: Outcome
    why: str = ""
    afterwards: Round | None = None
