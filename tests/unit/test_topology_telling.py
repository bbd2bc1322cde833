"""What a backplane-manager tells of the record and of its history."""

from __future__ import annotations

from eddy_mesh.topology import telling, transitions
from eddy_mesh.topology.placement import Placement
from eddy_mesh.topology.record import Change, Record, Source


def begun(current: Record | None) -> Record:
    """Return a change that begins."""
    change = Change(placement=Placement(revision=current.revision + 1 if current else 1), source=Source())
    return transitions.begin(current, change, who="ada", why="", manager="hub/m", now_ns=0)


def finished(record: Record) -> Record:
    """Return it as it is applied."""
    return transitions.finish(record, manager="hub/m", now_ns=1)


def test_a_revision_that_another_one_follows_is_not_under_way() -> None:
    """What was refused or rolled back is given up, and no manager carries it out; the newest may be under way."""
    first = finished(begun(None))
    unhealthy = begun(first)
    back = finished(transitions.roll_back(unhealthy, "b/y is failed", manager="hub/m", now_ns=1))
    running = begun(back)
    history = [first, unhealthy, back, running]
    rows = list(telling.answers("history", history, {}))
    assert [(row["revision"], row["state"], row["manager"]) for row in rows] == [
        (4, "applying", "hub/m"),
        (3, "applied", ""),
        (2, "given-up", ""),
        (1, "applied", ""),
    ]
    (row,) = telling.answers("topology", history, {"revision": 2})
    assert (row["state"], row["manager"], row["claim"]) == ("given-up", "", None)
    (row,) = telling.answers("topology", history, {})
    assert (row["state"], row["claim"]) == ("applying", {"manager": "hub/m"})


def test_every_record_has_its_event() -> None:
    """So that whoever finds one that was not told can tell it."""
    change = begun(finished(begun(None)))
    back = transitions.roll_back(change, "b/y is failed", manager="hub/m", now_ns=1)
    refused = transitions.refuse(change, "c is not there", manager="hub/m", now_ns=1)
    records = (change, finished(change), refused, back, finished(back))
    assert [telling.event_of(record) for record in records] == [
        "topology_applying",
        "topology_applied",
        "topology_refused",
        "topology_unhealthy",
        "topology_rolled_back",
    ]
