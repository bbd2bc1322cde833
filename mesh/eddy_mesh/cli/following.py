"""Following a change of the topology to its end, also where the manager that carries it out is another in the end.

What may live here: what is asked when no more steps come. The end is read from the record, which no manager takes with
it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from eddy_mesh.cli.managing import Steps, ask, ask_one
from eddy_mesh.cli.output import tell
from eddy_mesh.errors import BusError, EddyError, UsageError
from eddy_mesh.task import Answer

if TYPE_CHECKING:
    from eddy_mesh.api import Mesh

LOOK_S = 1.0
"""Time between two looks at the record, s."""
AWAY_S = 60.0
"""Longest time without any answer, s: a host process that was ended has started again by then."""


async def follow(mesh: Mesh, steps: Steps, verb: str, request: Mapping[str, object]) -> None:
    """Ask for a change and show its steps to its end.

    Args:
        mesh: connected.
        steps: shows them.
        verb: ``apply`` or ``rollback``.
        request: of that verb.

    Raises:
        EddyError: it was refused or rolled back, with the reason; or nobody told for `AWAY_S` what became of it.
    """
    begun = 0
    try:
        async for row in ask(mesh, verb, request):
            if row.get("step") == "begin" and not begun:
                begun = int(str(row["revision"]))
            steps.show(row)
    except asyncio.CancelledError:
        tell("the backplane-manager goes on with it: eddy topology show")
        raise
    except (UsageError, BusError) as error:
        if not begun:
            raise (EddyError(str(error)) if isinstance(error, UsageError) else error) from None
        if steps.went_back:
            raise EddyError(str(error)) from None
        end = await _end_of(mesh, begun, error)
        steps.show(end)
        if steps.went_back:
            raise EddyError(str(end["what"])) from None


async def _end_of(mesh: Mesh, revision: int, reason: EddyError) -> Answer:
    """Return the row with which a change ended, when it has.

    Args:
        mesh: connected.
        revision: number of the change.
        reason: why its steps came no more, or how it ended.

    Raises:
        EddyError: nobody tells.
    """
    clock = asyncio.get_running_loop().time
    is_told, heard_s = False, clock()
    while clock() - heard_s < AWAY_S:
        history: dict[int, Answer] = {}
        with suppress(EddyError):  # nobody is there yet, or the server has just come back
            newest = await ask_one(mesh, "topology", {})
            heard_s = clock()
            if not newest["manager"]:
                history = {int(str(row["revision"])): row async for row in ask(mesh, "history", {})}
        if history:
            return _verdict(history, revision, reason)
        if not is_told:
            tell(f"no more steps come ({reason}); waiting for the end of revision {revision}")
            is_told = True
        await asyncio.sleep(LOOK_S)
    raise EddyError(f"no backplane-manager answered for {AWAY_S:.0f} s ({reason}): later, ask eddy topology history")


def _verdict(history: Mapping[int, Answer], revision: int, reason: EddyError) -> Answer:
    if revision not in history:
        raise EddyError(f"revision {revision} is not in the history: eddy topology show says what runs") from None
    if history[revision]["state"] == "applied":
        return {"step": "applied", "revision": revision, "what": history[revision]["why"]}
    later = min((number for number in history if number > revision), default=0)
    if not later:
        raise EddyError(str(reason)) from None
    why = str(history[later]["why"])  # `eddy_mesh.topology.transitions` begins it with how it went back
    step = "refused" if why.startswith(f"revision {revision} refused") else "rolled_back"
    return {"step": step, "revision": later, "what": why}
