"""Changes between placements, the order in which hosts are told, and the record."""

from __future__ import annotations

import msgspec
import pytest

from eddy_mesh.errors import UsageError, WireError
from eddy_mesh.topology import record as records
from eddy_mesh.topology.changes import Changes, compare
from eddy_mesh.topology.checks import read
from eddy_mesh.topology.placement import HostThere, Placement, place
from eddy_mesh.topology.record import Record, RecordState, Source
from eddy_mesh.topology.steps import Step, steps

CHAIN = """
[agents.in]
type = "normalizer"
source = "syslog"
host = "a"
[agents.cook]
type = "transformer"
cooking = "syslog"
host = "a"
[agents.find]
type = "analysis"
detector = "brute_force"
host = "b"
[agents.keep]
type = "archive"
host = "c"
[edges.lines]
from = "in"
to = "cook"
[edges.logins]
from = "cook"
to = "find"
[edges.kept]
from = ["cook", "find"]
to = "keep"
delivery = "durable"
[hosts.a]
[hosts.b]
[hosts.c]
[hosts.d]
"""
COOK, FIND, KEEP = 'cooking = "syslog"\n', 'detector = "brute_force"\n', 'type = "archive"\n'


def placed(text: str, before: Placement | None = None) -> Placement:
    """Return the placement of a manifest without labels."""
    return place(read(text, "t"), [], before)


def lines(old: str, new: str) -> list[str]:
    """Return what a change of one text of the chain would do."""
    assert old in CHAIN
    before = placed(CHAIN)
    return compare(before, placed(CHAIN.replace(old, new), before)).lines()


def moved(agent: str, host: str) -> str:
    """Return the chain with an agent on another host."""
    head, mark, tail = CHAIN.partition(f"[agents.{agent}]")
    return head + mark + tail.replace('host = "', f'host = "{host}" # ', 1)


def test_nothing_would_change() -> None:
    """The same manifest is told nobody."""
    before = placed(CHAIN)
    after = placed(CHAIN, before)
    assert compare(before, after).lines() == ["nothing would change"]
    assert compare(before, after).is_nothing
    assert steps(before, after) == ()


def test_the_first_placement_starts_and_connects() -> None:
    """Every agent and every edge has a line."""
    told = compare(None, placed(CHAIN)).lines()
    assert "+ start       c/keep: archive" in told
    assert "+ connect     edge logins: live; a/cook -> b/find" in told
    assert len(told) == 4 + 3


def test_a_move_says_what_stays_behind() -> None:
    """The store of an archive does not travel; its edge waits in the stream meanwhile."""
    before = placed(CHAIN)
    told = compare(before, placed(moved("keep", "d"), before)).lines()
    assert told == [
        "> move        c/keep -> d/keep: archive; its store stays on c, and queries do not reach it",
        (
            "~ rewire      edge kept: durable; to +d/keep, -c/keep;"
            " pauses while its consumers change; what waits stays in its stream"
        ),
    ]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            FIND,
            FIND + "config = { failures = 7 }\n",
            ["~ reload      b/find: analysis brute_force; config"],
        ),
        (
            FIND,
            FIND + "mailbox_events = 7\n",
            [
                (
                    "~ replace     b/find: analysis brute_force; mailbox_events; logins paused meanwhile;"
                    " what it remembers of earlier events ends"
                )
            ],
        ),
        (
            FIND,
            'detector = "port_scan"\nsubscribe = []\n',
            [
                (
                    "~ morph       b/find: analysis brute_force -> analysis port_scan; detector; logins paused"
                    " meanwhile; what it remembers of earlier events ends with it"
                ),
            ],
        ),
        (
            'to = "keep"\n',
            'to = "keep"\noverload = "spool"\n',
            ["~ reconfigure edge kept: durable; overload block -> spool"],
        ),
        (
            'from = "in"\nto = "cook"\n',
            'from = "in"\nto = "cook"\ndelivery = "durable"\n',
            ["~ rewire      edge lines: durable; delivery live -> durable; changes over between two batches"],
        ),
        (
            "[hosts.a]\n",
            "[retention]\nmax_age_s = 60\n[hosts.a]\n",
            [
                "~ set         retention: any size and any age -> any size and 60 s",
                "~ reload      c/keep: archive; retention",
                "~ reconfigure edge kept: durable; retention any size and any age -> any size and 60 s",
            ],
        ),
    ],
    ids=["reload", "replace", "morph", "policy", "delivery", "settings"],
)
def test_one_difference_has_its_line(old: str, new: str, expected: list[str]) -> None:
    """What differs, whether in place, and what it costs; the statement that follows a morph is a rewire of its own."""
    told = [line for line in lines(old, new) if not line.startswith("~ rewire      edge logins")]
    assert told == expected


def test_what_ends_says_what_it_leaves() -> None:
    """An analysis that is gone takes its memory with it, and its edges are cut."""
    before = placed(CHAIN)
    without = CHAIN.replace('[agents.find]\ntype = "analysis"\ndetector = "brute_force"\nhost = "b"\n', "")
    without = without.replace('[edges.logins]\nfrom = "cook"\nto = "find"\n', "").replace('["cook", "find"]', '"cook"')
    assert compare(before, placed(without, before)).lines() == [
        "- stop        b/find: analysis brute_force; what it remembers of earlier events ends with it",
        "~ rewire      edge kept: durable; from -b/find; goes on; what its stream holds stays as it is",
        "- disconnect  edge logins: live",
    ]


def test_changes_are_json() -> None:
    """Tools read the same structs that people see as lines."""
    before = placed(CHAIN)
    changes = compare(before, placed(moved("keep", "d"), before))
    assert msgspec.json.decode(msgspec.json.encode(changes), type=Changes) == changes


# --- steps -----------------------------------------------------------------------------------------------------------


def told(before: Placement | None, after: Placement) -> list[tuple[str, int, str]]:
    """Return phase, wave and host of each step."""
    return [(step.phase, step.wave, step.host) for step in steps(before, after)]


def test_consumers_are_told_before_their_producers() -> None:
    """What a producer makes first is asked for already."""
    assert [step for step in told(None, placed(CHAIN)) if step[0] == "prepare"] == [
        ("prepare", 0, "c"),
        ("prepare", 1, "b"),
        ("prepare", 2, "a"),
    ]


def test_only_hosts_that_change_are_told() -> None:
    """A move of the archive concerns its two hosts; producers of a durable edge keep theirs but for its generation."""
    before = placed(CHAIN)
    after = placed(CHAIN.replace(FIND, FIND + "mailbox_events = 7\n"), before)
    assert told(before, after) == [("prepare", 0, "b")]


def test_a_move_keeps_the_old_one_until_the_new_one_runs() -> None:
    """In between both run, and who takes from them takes from both, so that what the old one still makes arrives."""
    before = placed(CHAIN)
    after = placed(moved("find", "d"), before)
    taken = steps(before, after)
    phases = [(step.phase, step.wave, step.host, tuple(step.agents), step.keep) for step in taken]
    assert phases == [
        ("prepare", 0, "c", ("keep",), ()),
        ("prepare", 1, "d", ("find",), ()),
        ("prepare", 2, "a", ("cook", "in"), ()),
        ("retire", 0, "b", (), ()),
        ("retire", 1, "c", ("keep",), ()),
    ]
    (kept,) = taken[0].agents["keep"].in_edges
    assert (kept.generation, kept.producers) == (2, ("a/cook", "b/find", "d/find"))
    assert taken[-1].agents["keep"] == after.hosts["c"].agents["keep"]


def test_an_edge_stays_until_its_last_producer_has_ended() -> None:
    """An agent that goes together with its edge has its last events taken."""
    text = CHAIN.replace('["cook", "find"]', '"cook"') + '[edges.findings]\nfrom = "find"\nto = "keep"\n'
    before = placed(text)
    without = text.replace('[agents.find]\ntype = "analysis"\ndetector = "brute_force"\nhost = "b"\n', "")
    without = without.replace('[edges.logins]\nfrom = "cook"\nto = "find"\n', "")
    after = placed(without.replace('[edges.findings]\nfrom = "find"\nto = "keep"\n', ""), before)
    taken = steps(before, after)
    assert [(step.phase, step.host) for step in taken] == [("retire", "b"), ("retire", "c")]
    assert [edge.name for edge in before.hosts["c"].agents["keep"].in_edges] == ["findings", "kept"]
    assert [edge.name for edge in taken[-1].agents["keep"].in_edges] == ["kept"]


def test_a_durable_edge_that_ends_is_emptied_first() -> None:
    """Its consumer has it until retire: by then nobody writes into the stream any more."""
    before = placed(CHAIN)
    after = placed(CHAIN.replace('delivery = "durable"\n', ""), before)
    (first, *_, last) = steps(before, after)
    assert isinstance(first, Step)
    shown = [(edge.name, edge.delivery, edge.generation) for edge in first.agents["keep"].in_edges]
    assert shown == [("kept", "live", 2), ("kept", "durable", 1)]
    assert (last.phase, [edge.delivery for edge in last.agents["keep"].in_edges]) == ("retire", ["live"])


def test_processes_of_agents_begin_first_and_end_last() -> None:
    """A parent starts the process before it is told anything, and ends it when its agent was drained."""
    own = CHAIN.replace(KEEP, KEEP + 'process = "own"\n')
    before = placed(CHAIN)
    after = placed(own, before)
    (first, *_) = steps(before, after)
    assert (first.phase, first.wave, first.host, first.children) == ("prepare", 0, "c", ("c.keep",))
    back = steps(after, placed(CHAIN, after))
    assert [(step.host, step.children) for step in back if step.phase == "retire"][-1] == ("c", ())
    assert max(step.wave for step in back if step.host == "c.keep") < back[-1].wave


def test_new_tags_are_told_to_every_host() -> None:
    """Which tags events may carry is known wherever they come in."""
    before = placed(CHAIN)
    after = placed('tags = ["site"]\n' + CHAIN, before)
    assert [(step.host, step.tags) for step in steps(before, after)] == [(host, ("site",)) for host in "abcd"]


# --- record ----------------------------------------------------------------------------------------------------------

S = 1_000_000_000
FIRST, SECOND = placed(CHAIN), placed(moved("find", "d"), placed(CHAIN))


def begun(current: Record | None = None, placement: Placement = FIRST, now_ns: int = 0) -> Record:
    """Return a change that begins."""
    source = Source(text=f"revision {placement.revision}")
    return records.begin(current, placement, source, who="ada", why="", manager="hub/m", now_ns=now_ns)


def test_a_change_is_applied() -> None:
    """From applying to applied; then the next can begin, and knows what ran before."""
    first = begun()
    assert (first.state, first.revision) == (RecordState.APPLYING, 1)
    done = records.finish(first, manager="hub/m", now_ns=3 * S)
    assert (done.state, done.claim, done.settled_ns) == (RecordState.APPLIED, None, 3 * S)
    second = begun(done, SECOND)
    assert (second.before, second.source_before.text) == (FIRST, "revision 1")


def test_an_unhealthy_change_goes_back_as_a_new_revision() -> None:
    """The placement before, with new generations where an edge changed, the manifest of it, and the reason."""
    done = records.finish(begun(), manager="hub/m", now_ns=S)
    back = records.roll_back(begun(done, SECOND), "b/find failed", manager="hub/m", now_ns=2 * S)
    assert (back.state, back.revision, back.placement.revision) == (RecordState.ROLLING_BACK, 3, 3)
    assert back.why == "revision 2 rolled back: b/find failed"
    assert back.source.text == "revision 1"
    assert {name: edge.generation for name, edge in back.placement.edges.items()} == {
        "kept": 3,
        "lines": 1,
        "logins": 3,
    }
    assert records.finish(back, manager="hub/m", now_ns=4 * S).state is RecordState.APPLIED
    with pytest.raises(UsageError, match="can not be unhealthy now"):
        records.roll_back(back, "again", manager="hub/m", now_ns=3 * S)


def test_two_changes_at_once_are_one_too_many() -> None:
    """The other is told by whom and which revision; so is one that was planned on an older record."""
    with pytest.raises(UsageError, match="revision 1 of ada is applying, carried out by hub/m"):
        begun(begun(), SECOND)
    done = records.finish(begun(), manager="hub/m", now_ns=S)
    with pytest.raises(UsageError, match="revision 1 comes too late: revision 1 is of record"):
        begun(done, FIRST)


def test_a_claim_that_ended_is_taken_over() -> None:
    """Not before: its manager renews it as long as it lives. The old one is then refused."""
    change = records.renew(begun(), manager="hub/m", now_ns=2 * S)
    assert not records.needs_taking_over(change, 6 * S)
    with pytest.raises(UsageError, match=r"until its claim ends in 1\.0 s"):
        records.take_over(change, manager="b/m", now_ns=6 * S)
    assert records.needs_taking_over(change, 7 * S)
    taken = records.take_over(change, manager="b/m", now_ns=7 * S)
    with pytest.raises(UsageError, match="carried out by b/m, not by hub/m"):
        records.finish(taken, manager="hub/m", now_ns=8 * S)
    assert records.finish(taken, manager="b/m", now_ns=8 * S).state is RecordState.APPLIED


def test_a_record_survives_its_encoding() -> None:
    """And bytes that are none are refused."""
    change = begun(records.finish(begun(), manager="hub/m", now_ns=S), SECOND)
    assert records.decode(records.encode(change)) == change
    with pytest.raises(WireError, match="not a record of a topology"):
        records.decode(b'{"backplane": "eddy", "hosts": {}}')


def test_a_record_of_many_hosts_fits_under_one_key() -> None:
    """Two placements of 500 hosts take less than the 1 MiB of a key, and come back whole; half of one does not."""
    text = '[agents.keep]\ntype = "archive"\nlabel = "x=y"\neach = true\n'
    text += '[agents.in]\ntype = "normalizer"\nsource = "syslog"\nlabel = "x=y"\neach = true\n'
    text += '[agents.cook]\ntype = "transformer"\ncooking = "syslog"\nlabel = "x=y"\neach = true\n'
    text += '[edges.a]\nfrom = "in"\nto = "cook"\n[edges.b]\nfrom = "cook"\nto = "keep"\ndelivery = "durable"\n'
    there = [HostThere(name=f"host-{number}.example.net", labels={"x": "y"}) for number in range(500)]
    first = place(read(text, "t"), there)
    applied = records.finish(begun(None, first), manager="hub/m", now_ns=S)
    change = begun(applied, place(read(text, "t"), there, first))
    data = records.encode(change)
    assert len(msgspec.json.encode(change)) > 1024 * 1024 > 4 * len(data)
    assert records.decode(data) == change
    with pytest.raises(WireError, match="not a record of a topology"):
        records.decode(data[: len(data) // 2])


def test_hosts_with_labels_are_told_by_their_names() -> None:
    """A host that is there and was not declared gets its steps like any other."""
    text = '[agents.keep]\ntype = "archive"\nlabel = "disk=large"\n'
    after = place(read(text, "t"), [HostThere(name="x", labels={"disk": "large"})])
    assert told(None, after) == [("prepare", 0, "x"), ("retire", 0, "x")]
