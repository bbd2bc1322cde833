"""Stored events as the commands ask for them: in time order, of every archive, and a word where there are none.

What may live here: what is done to a plan before archives get it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING

from eddy_mesh.cli.output import tell
from eddy_mesh.errors import UsageError
from eddy_mesh.fields import FieldType
from eddy_mesh.rows import time_text
from eddy_mesh.selection import Plan, render
from eddy_mesh.selection.plan import Aggregate, And, Comparison, Condition, Function, Item, Key, Operand, Operator

if TYPE_CHECKING:
    from eddy_mesh.api import Event, Mesh

OCCURRED = Operand("occurred", FieldType.TIME)
OBSERVED = Operand("observed", FieldType.TIME)


def in_time_order(plan: Plan) -> Plan:
    """Return a plan whose events come by ``occurred``, where it asks for no order and no groups of its own."""
    if plan.is_aggregate or plan.order_by:
        return plan
    return replace(plan, order_by=(Key(OCCURRED),))


def late_arrivals(plan: Plan) -> Plan:
    """Return the plan that counts what was *observed* in the time of a statement and occurred before it.

    Args:
        plan: has SINCE.
    """
    assert plan.since_ns is not None
    late: list[Condition] = [
        Comparison(OBSERVED, Operator.GE, plan.since_ns),
        Comparison(OCCURRED, Operator.LT, plan.since_ns),
    ]
    if plan.until_ns is not None:
        late.append(Comparison(OBSERVED, Operator.LT, plan.until_ns))
    count, first = Aggregate(Function.COUNT), Aggregate(Function.MIN, OCCURRED)
    return Plan(
        text="",
        sources=plan.sources,
        where=And((*([plan.where] if plan.where is not None else []), *late)),
        every_stage=plan.every_stage,
        items=(Item(count, count.name), Item(first, first.name)),
        aggregates=(count, first),
    )


async def archives(mesh: Mesh, archive: str = "") -> list[str]:
    """Return the archives to ask, as ``<host>/<agent>``: the named one, else all.

    Raises:
        UsageError: there is none.
    """
    places = [archive] if archive else [f"{place.host}/{place.agent}" for place in await mesh.agents_of("archive")]
    if not places:
        raise UsageError("no archive answers on this backplane: see eddy agents, or use eddy tap")
    return places


async def stored(mesh: Mesh, plan: Plan, archive: str = "") -> AsyncGenerator[Event]:
    """Yield the stored events of a plan in time order, or the rows of its aggregates.

    Raises:
        UsageError: there is no archive; or groups were asked of several.
        BusError: an archive did not answer.
    """
    async with aclosing(mesh.query(render(in_time_order(plan)), archive=archive)) as events:
        async for event in events:
            yield event


async def tell_nothing(mesh: Mesh, plan: Plan, archive: str = "") -> None:
    """Say on standard error that nothing was found, and which SINCE finds what arrived in that time but is older."""
    if plan.since_ns is None:
        tell("nothing found")
        return
    until = f" until {time_text(plan.until_ns)}" if plan.until_ns is not None else ""
    text = f"nothing found since {time_text(plan.since_ns)}{until}"
    count, earliest, is_exact = await _late(mesh, plan, archive)
    if count and earliest is not None:
        events = "1 event that arrived" if count == 1 else f"{count:,} events that arrived"
        least = "" if is_exact else "at least "
        since = f"SINCE '{time_text(earliest)}'"
        text += f"; {least}{events} in that time occurred earlier: {since} finds {_them(count)}"
    tell(text)


def _them(count: int) -> str:
    return "it" if count == 1 else "them"


async def _late(mesh: Mesh, plan: Plan, archive: str) -> tuple[int, int | None, bool]:
    """Return how many events came late, when the first occurred (ns since 1970 UTC), and whether the count is exact.

    Several archives may hold the same events: their counts are not added, the largest is returned.
    """
    statement = late_arrivals(plan)
    most, first = 0, None
    places = await archives(mesh, archive)
    for place in places:
        async with aclosing(mesh.query(render(statement), archive=place)) as rows:
            async for row in rows:
                counted, earliest = (row.get(item.name) for item in statement.items)
                most = max(most, counted) if isinstance(counted, int) else most
                if isinstance(earliest, int):
                    first = earliest if first is None else min(first, earliest)
    return most, first, len(places) == 1
