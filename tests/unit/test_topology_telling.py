"""What a backplane-manager tells of the record and of its history."""

from __future__ import annotations

from eddy_mesh.fields import field
from eddy_mesh.selection import compile_statement
from eddy_mesh.topology import telling, transitions
from eddy_mesh.topology.placement import Placement
from eddy_mesh.topology.record import Change, Record, Source
from eddy_mesh.topology.rounds import Answered, Call


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


def test_what_events_tell_can_be_selected() -> None:
    """Each name is a field of the registry: without that a statement that names it is refused."""
    told = telling.fields("topology_applied", finished(begun(None)))
    assert all(field(name) for name in told)
    compile_statement("SELECT user.name, topology.manager FROM derived WHERE topology.revision > 1", now_ns=0)


def test_a_step_names_agents_where_they_run() -> None:
    """Fences are told by the host of a producer, for an agent that may run elsewhere."""
    fences = Answered(call=Call(host="beta", verb="fences", request={}, agent="gamma/brute.1"))
    assert telling.step(fences, 1.0) == {
        "step": "fences",
        "host": "beta",
        "agent": "",
        "what": "what is on its way to gamma/brute.1",
        "took_ms": 1.0,
    }
    retire = Answered(call=Call(host="beta", verb="retire", request={}, agent="beta/cook"))
    assert telling.step(retire, 1.0)["agent"] == "cook"


def test_the_last_step_says_how_it_ended() -> None:
    """A refusal and a rollback are applied revisions too, but not what was asked for."""
    change = begun(finished(begun(None)))
    back = transitions.roll_back(change, "b/y is failed", manager="hub/m", now_ns=1)
    refused = transitions.refuse(change, "c is not there", manager="hub/m", now_ns=1)
    steps = [telling.ended(record)["step"] for record in (finished(change), refused, back, finished(back))]
    assert steps == ["applied", "refused", "rolling-back", "rolled_back"]


def test_revisions_that_are_the_same_do_not_differ() -> None:
    """A difference of two revisions is of what was, not of what would be."""
    first = finished(begun(None))
    history = [first, finished(begun(first))]
    (row,) = telling.answers("diff", history, {"from": 1, "to": 2})
    assert row["lines"] == ["no difference"]
