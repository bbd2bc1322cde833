"""The way through a change, with answers that a test gives: whom it asks, what ends it, what it tells at its end."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import msgspec

from eddy_mesh.topology import transitions
from eddy_mesh.topology.carrying import carry_out, following
from eddy_mesh.topology.checks import read
from eddy_mesh.topology.placement import Placement, place
from eddy_mesh.topology.record import Change, Record, RecordState, Source, Terms
from eddy_mesh.topology.rounds import Answered, Call, End, Outcome, Round
from eddy_mesh.topology.steps import part_digest, part_tables

CHAIN = """
[hosts.a]
[hosts.b]
[hosts.c]
[hosts.idle]
[agents.p]
type = "anonymizer"
host = "a"
[agents.y]
type = "anonymizer"
host = "b"
[agents.z]
type = "anonymizer"
host = "c"
[edges.raw]
from = "p"
to = "y"
"""
RELOADED = CHAIN.replace('host = "b"', 'host = "b"\nmailbox_events = 7')
"""Only what b runs changes."""
OWN = CHAIN.replace('host = "b"', 'host = "b"\nprocess = "own"')
"""y gets a process of its own below b."""
Answer = Callable[[Call], str]


def placed(text: str, before: Placement | None = None) -> Placement:
    """Return the placement of a manifest."""
    return place(read(text, "t"), [], before)


def change(text: str, before: str = CHAIN, **terms: object) -> Record:
    """Return a change that begins, from one manifest to another."""
    old = placed(before)
    first = Change(placement=old, source=Source())
    done = transitions.finish(
        transitions.begin(None, first, who="ada", why="", manager="hub/m", now_ns=0), manager="hub/m", now_ns=0
    )
    made = msgspec.convert({"observe_s": 0, **terms}, Terms)
    new = Change(placement=placed(text, old), source=Source(), terms=made)
    return transitions.begin(done, new, who="ada", why="because", manager="hub/m", now_ns=0)


def walk(
    record: Record,
    answer: Answer = lambda _: "",
    silent: Collection[str] = (),
    rows: Mapping[str, Mapping[str, object]] | None = None,
) -> tuple[list[Call], End]:
    """Go the way; return every call and the end. An answer is an error, or ""; "not there" means nobody was there."""
    calls: list[Call] = []
    way = carry_out(record, silent, is_first=True, look_s=1.0)
    asking = next(way)
    while isinstance(asking, Round):
        calls += asking.calls
        answers = []
        for call in asking.calls:
            error = answer(call)
            found = [(rows or {}).get(call.host, {})] if call.verb == "inventory" else []
            is_absent, is_refused = error == "not there", error.startswith("refused")
            answers.append(
                Answered(call=call, rows=tuple(found), error=error, is_absent=is_absent, is_refused=is_refused)
            )
        asking = way.send(answers)
    return calls, asking


def test_every_step_names_the_part_that_it_is_for() -> None:
    """So that a host process that lost what it had prepared refuses it; one that runs nothing is not asked at all."""
    record = change(RELOADED)
    calls, end = walk(record)
    assert end == End(Outcome.DONE)
    assert [(call.verb, call.host) for call in calls] == [
        ("prepare", "b"),
        *(("activate", host) for host in "abc"),
        *(("settle", host) for host in "abc"),
    ]
    for call in calls[1:]:
        assert call.request["part"] == part_digest(part_tables(record.placement, call.host))
    (prepared, *_) = calls
    told = {key: prepared.request[key] for key in ("agents", "children", "tags")}
    assert calls[2].request["part"] == part_digest(told), "as b has it from prepare"


def test_a_host_that_lost_what_it_prepared_prepares_again() -> None:
    """It started again in between, or was away when its part changed: it need not make everybody go back."""
    told: list[str] = []

    def lost(call: Call) -> str:
        told.append(call.verb) if call.host == "c" else None
        return "refused: what was prepared is gone" if told == ["activate"] else ""

    calls, end = walk(change(RELOADED), lost)
    assert end == End(Outcome.DONE)
    assert told == ["activate", "prepare", "activate", "settle"]
    assert [call.verb for call in calls if call.host == "b"] == ["prepare", "activate", "settle"]
    _, end = walk(change(RELOADED), lambda call: "refused: no" if call.verb == "activate" else "")
    assert (end.outcome, end.why.count("refused: no")) == (Outcome.UNHEALTHY, 3)


def test_hosts_are_told_of_a_refusal_when_it_is_of_record() -> None:
    """Not before: a manager whose change was taken over must not call anybody back."""
    calls, end = walk(change(RELOADED), lambda call: "no such disk")
    assert {call.verb for call in calls} == {"prepare"}
    assert (end.outcome, end.why) == (Outcome.REFUSED, "b: prepare: no such disk")
    assert end.afterwards is not None
    assert [(call.verb, call.host, call.request) for call in end.afterwards.calls] == [("abort", "b", {"revision": 2})]


def test_a_host_that_is_left_out_is_so_with_its_own_processes() -> None:
    """What it would start is not there, and is no failure; nor are its children observed."""
    absent = {"b", "b.y"}
    record = change(OWN, without=["b"], observe_s=1)
    calls, end = walk(record, lambda call: "not there" if call.host in absent else "")
    assert end == End(Outcome.DONE)
    assert not absent & {call.host for call in calls}


def test_a_silent_host_that_does_not_change_is_not_waited_for() -> None:
    """It takes up what is of record when it comes; one whose part changes is asked all the same."""
    calls, end = walk(change(RELOADED), silent=["c", "idle"])
    assert end == End(Outcome.DONE)
    assert {call.host for call in calls} == {"a", "b"}
    _, end = walk(change(RELOADED), lambda call: "no answer" if call.host == "b" else "", silent=["b"])
    assert (end.outcome, end.why) == (Outcome.REFUSED, "b: prepare: no answer")


def test_a_host_that_has_gone_matters_where_a_child_of_it_changes() -> None:
    """Nobody else could start that again, so it is no host that runs all that it should."""
    record = change(OWN.replace('own"', 'own"\nmailbox_events = 7'), before=OWN)
    _, end = walk(record, lambda call: "not there" if call.host == "b" else "")
    assert (end.outcome, end.why) == (Outcome.UNHEALTHY, "b: activate: not there")


def test_what_a_way_back_could_not_do_is_told() -> None:
    """Nothing ends it, but every failure stands in the record at its end."""
    begun = change(RELOADED)
    back = transitions.roll_back(begun, "b/y is failed", manager="hub/m", now_ns=0)
    errors = {("b", "activate"): "was killed", ("c", "settle"): "no space left"}
    calls, end = walk(back, lambda call: errors.get((call.host, call.verb), ""))
    assert calls[-1].verb == "settle"
    assert end == End(Outcome.DONE, "b: activate: was killed; c: settle: no space left")
    record = following(back, end, manager="hub/m", now_ns=1)
    assert (record.state, record.claim) == (RecordState.APPLIED, None)
    assert record.why == (
        "revision 2 rolled back: b/y is failed; not done on the way back: b: activate: was killed; "
        "c: settle: no space left"
    )


def test_an_agent_that_does_not_start_is_unhealthy() -> None:
    """At the last look; before that it may take its time."""
    rows: dict[str, Mapping[str, object]] = {"b": {"agent": "y", "state": "starting", "reason": "no database"}}
    calls, end = walk(change(RELOADED, observe_s=3), rows=rows)
    assert (end.outcome, end.why) == (Outcome.UNHEALTHY, "b/y is still starting: no database")
    assert [call.verb for call in calls].count("inventory") == 4


def test_what_waits_too_long_is_seen_in_the_observation() -> None:
    """By default too: a batch can wait longer than the watermark before the last look."""
    assert Terms().watermark_s + 1 < Terms().observe_s
