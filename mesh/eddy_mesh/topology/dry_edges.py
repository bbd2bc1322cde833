"""Dry edges: those of a placement that can carry nothing of what their producers make: no mistake, but hardly meant.

What may live here: what an agent type makes, held against what an edge selects.
"""

from __future__ import annotations

from collections.abc import Iterator

from eddy_mesh.cer import EventClass, Stage
from eddy_mesh.selection import Plan, compile_statement, subjects
from eddy_mesh.topology.placement import Placement
from eddy_mesh.topology.wiring import PlacedEdge

NOTHING: frozenset[Stage] = frozenset()
MADE: dict[str, frozenset[Stage]] = {
    "normalizer": frozenset({Stage.RAW}),
    "analysis": frozenset({Stage.COOKED, Stage.ANALYZED}),
    "archive": NOTHING,
    "directory": NOTHING,
}
"""Stages of the events that a type makes, notices aside; any of a type that is not named: reworkings keep the stage."""
ANY = frozenset(Stage)


def warnings(placement: Placement) -> list[str]:
    """Return a line for each edge that can carry nothing; one for all hosts where each has its own.

    Args:
        placement: as it is to be.
    """
    agents = placement.agents()
    lines: dict[str, None] = {}
    for edge in placement.edges.values():
        types = {agents[path].type for path in edge.producers}
        lines |= dict.fromkeys(_warnings(edge, types))
    return list(lines)


def _warnings(edge: PlacedEdge, types: set[str]) -> Iterator[str]:
    if not types:
        yield f"edge {edge.name} carries nothing: no agent of from is where its consumer is"
        return
    made = {stage for kind in types for stage in MADE.get(kind, ANY)}
    plan = compile_statement(edge.statement, now_ns=0)
    asks_for_notices = any(pattern[0] == EventClass.DERIVED for pattern in plan.sources)
    if asks_for_notices or made & _selected(plan):
        return
    hint = "its statement selects others"
    if made == {Stage.RAW}:
        hint = "raw ones are looked at only where WHERE asks for the stage: WHERE stage = 'raw'"
    kinds, stages = " and ".join(sorted(types)), " and ".join(sorted(made)) or "no"
    yield f"edge {edge.entry} carries nothing but notices: {kinds} makes {stages} events, and {hint}"


def _selected(plan: Plan) -> frozenset[Stage]:
    """Return the stages of which a statement can select events."""
    tokens = {subject.split(".")[2] for subject in subjects(plan, "eddy")}
    return ANY if "*" in tokens else frozenset(stage for stage in Stage if str(stage) in tokens)
