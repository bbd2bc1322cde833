"""The way through a change, with answers that a test gives: whom it asks, what ends it, what it tells at its end."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import msgspec

from eddy_mesh.topology import transitions
from eddy_mesh.topology.carrying import carry_out, following, left_alone
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
    row_of: Callable[[Call], Mapping[str, object]] | None = None,
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
            found = [row_of(call)] if row_of is not None else found
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


def test_a_child_that_a_change_starts_is_not_missed() -> None:
    """It can not have been heard yet, and is not left alone."""
    assert left_alone(change(OWN), ["b.y", "c", "idle"]) == ["c", "idle"]


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


def observed(*looks: tuple[float, int]) -> tuple[int, End]:
    """Return how often agent y is looked at that is so far behind at each look (s, events), and the end."""
    told = iter(looks)

    def row(call: Call) -> Mapping[str, object]:
        if call.verb != "inventory":
            return {}
        lag_s, queued = next(told)
        return {"agent": "y", "state": "running", "lag_ns": int(lag_s * 1e9), "queued": queued}

    calls, end = walk(change(RELOADED, observe_s=1, watermark_s=3), row_of=row)
    return [call.verb for call in calls].count("inventory"), end


def test_an_agent_that_catches_up_is_healthy() -> None:
    """After the change's own pause it is behind at first: it is looked at for longer, one watermark at most."""
    assert observed((12.0, 900), (11.0, 800), (9.0, 700), (2.0, 90)) == (4, End(Outcome.DONE))
    assert observed((9.0, 900), (9.0, 900), (9.9, 850), (9.5, 870), (8.9, 900)) == (5, End(Outcome.DONE)), (
        "gets younger"
    )
    assert observed((9.0, 900), (9.0, 900), (10.0, 600), (11.0, 300), (12.0, 9)) == (5, End(Outcome.DONE)), "one burst"
    assert observed((9.0, 900), (1.0, 5)) == (2, End(Outcome.DONE)), "at the last look it is not behind any more"


def test_an_agent_that_stays_behind_is_not() -> None:
    """The message says since when, how much waits, and which option lets it have more time."""
    looks, end = observed((0.0, 0), (4.0, 400), (5.0, 500), (6.0, 600), (7.0, 700))
    assert (looks, end.outcome) == (5, Outcome.UNHEALTHY)
    assert end.why.startswith("b/y is behind, and does not catch up: a batch waits for 7.0 s, more than 3 s, and 700 ")
    assert "--watermark" in end.why


def test_a_parent_that_ended_is_named_for_its_child() -> None:
    """Not the child, which was never started: and soon, not when the child has been waited for to the end."""
    asked: list[str] = []

    def killed(call: Call) -> str:
        asked.append(f"{call.verb} {call.host}")
        return "" if call.host != "b.y" and asked.count("prepare b") < 2 else "not there"

    _, end = walk(change(OWN), killed)
    assert (end.outcome, end.why) == (Outcome.REFUSED, "b: prepare: not there")
    assert asked == ["prepare b", "inventory b.y", "prepare b"]


def test_a_parent_that_is_back_starts_its_child() -> None:
    """It has lost what it prepared, so it is told once more; a refusal is told it too, whose own part is as it was."""
    asked: list[str] = []

    def back(call: Call) -> str:
        asked.append(f"{call.verb} {call.host}")
        return "not there" if call.host == "b.y" and asked.count("prepare b") < 2 else ""

    calls, end = walk(change(OWN), back)
    assert end == End(Outcome.DONE)
    assert asked[:5] == ["prepare b", "inventory b.y", "prepare b", "inventory b.y", "prepare b.y"]
    _, end = walk(change(OWN.replace('own"', 'own"\nmailbox_events = 7'), before=OWN), lambda call: never(call, "b.y"))
    assert end.why == "b.y: inventory: not there: b starts it, see its log"
    assert end.afterwards is not None
    assert [call.host for call in end.afterwards.calls] == ["b", "b.y"]
    assert max(call.wait_s for call in calls) < 60


def never(call: Call, host: str) -> str:
    """Return the answers where a host process never comes."""
    return "not there" if call.host == host else ""
