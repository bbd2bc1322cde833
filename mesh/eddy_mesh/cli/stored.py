"""Stored events as the commands ask for them: in time order, of every archive, and a word where there are none.

What may live here: what is done to a plan before an archive gets it, and the merging of several archives.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
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
        UsageError: there is no archive; or groups or an order of its own were asked of several.
        BusError: an archive did not answer.
    """
    places = await archives(mesh, archive)
    ordered = in_time_order(plan)
    if len(places) == 1 or ordered is plan:
        async with aclosing(mesh.query(render(ordered), archive=places[0] if len(places) == 1 else "")) as events:
            async for event in events:
                yield event
        return
    async with aclosing(_merged(mesh, ordered, places)) as merged:
        async for event in merged:
            yield event


async def _merged(mesh: Mesh, plan: Plan, places: list[str]) -> AsyncGenerator[Event]:
    """Yield the events of several archives by ``occurred``, which is asked for where the statement does not show it."""
    from eddy_mesh.api import Event  # noqa: PLC0415  # quick --help

    names = [item.name for item in plan.items]
    asked = plan if not names or "occurred" in names else replace(plan, items=(*plan.items, Item(OCCURRED, "occurred")))
    count = 0
    async with AsyncExitStack() as open_answers:
        heads: list[tuple[Event, AsyncGenerator[Event]]] = []
        for place in places:
            events = await open_answers.enter_async_context(aclosing(mesh.query(render(asked), archive=place)))
            if (first := await anext(events, None)) is not None:
                heads.append((first, events))
        while heads and (plan.limit is None or count < plan.limit):
            position = min(range(len(heads)), key=lambda number: _place_in_time(heads[number][0]))
            event, events = heads[position]
            yield event if asked is plan else Event({name: event.get(name) for name in names}, event.id)
            count += 1
            following = await anext(events, None)
            heads[position : position + 1] = [] if following is None else [(following, events)]


def _place_in_time(event: Event) -> float:
    occurred = event.get("occurred")
    return occurred if isinstance(occurred, int) else float("inf")  # NULL comes last, as in an archive


async def tell_nothing(mesh: Mesh, plan: Plan, archive: str = "") -> None:
    """Say on standard error that nothing was found, and which SINCE finds what arrived in that time but is older."""
    if plan.since_ns is None:
        tell("nothing found")
        return
    until = f" until {time_text(plan.until_ns)}" if plan.until_ns is not None else ""
    text = f"nothing found since {time_text(plan.since_ns)}{until}"
    count, earliest = await _late(mesh, plan, archive)
    if count and earliest is not None:
        events = "1 event that arrived" if count == 1 else f"{count:,} events that arrived"
        text += f"; {events} in that time occurred earlier: SINCE '{time_text(earliest)}' finds {_them(count)}"
    tell(text)


def _them(count: int) -> str:
    return "it" if count == 1 else "them"


async def _late(mesh: Mesh, plan: Plan, archive: str) -> tuple[int, int | None]:
    """Return how many events came late in all archives, and when the first of them occurred, ns since 1970 UTC."""
    statement = late_arrivals(plan)
    total, first = 0, None
    for place in await archives(mesh, archive):
        async with aclosing(mesh.query(render(statement), archive=place)) as rows:
            async for row in rows:
                counted, earliest = (row.get(item.name) for item in statement.items)
                total += counted if isinstance(counted, int) else 0
                if isinstance(earliest, int):
                    first = earliest if first is None else min(first, earliest)
    return total, first
