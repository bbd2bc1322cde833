"""Changes between placements, the order in which hosts are told, and the record."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from eddy_mesh.bus_memory import MemoryBroker
from eddy_mesh.config import AgentConfig, HostConfig, convert
from eddy_mesh.effects import EFFECTS, effect_of
from eddy_mesh.errors import UsageError, WireError
from eddy_mesh.runtime.host import Host
from eddy_mesh.topology import transitions
from eddy_mesh.topology.changes import Changes, compare
from eddy_mesh.topology.checks import read
from eddy_mesh.topology.placement import HostThere, Placement, place
from eddy_mesh.topology.record import Change, Record, RecordState, Source, decode, encode
from eddy_mesh.topology.steps import hosts_to_prepare, parent_of, part_tables, retire_waves

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
    assert hosts_to_prepare(before, after) == ([], [])
    assert retire_waves(before, after, {}) == ()


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
            ["~ reload      b/find: analysis brute_force; config; what it remembers of earlier events ends"],
        ),
        (
            FIND,
            FIND + "mailbox_events = 7\n",
            ["~ adjust      b/find: analysis brute_force; mailbox_events"],
        ),
        (
            FIND,
            FIND + 'scope = "backplane"\n',
            ["~ adjust      b/find: analysis brute_force; scope"],
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
            [
                (
                    "~ rewire      edge kept: durable; overload block -> spool;"
                    " goes on; what its stream holds stays as it is"
                )
            ],
        ),
        (
            'from = "in"\nto = "cook"\n',
            'from = "in"\nto = "cook"\ndelivery = "durable"\n',
            ["~ rewire      edge lines: durable; delivery live -> durable; changes over between two batches"],
        ),
        (
            "[hosts.a]\n",
            "[retention]\nmax_bytes = 60\n[hosts.a]\n",
            [
                "~ set         retention: the default size -> 60 octets",
                "~ reconfigure edge kept: durable; retention the default size -> 60 octets",
            ],
        ),
    ],
    ids=["reload", "adjust", "fed by edges", "morph", "policy", "delivery", "settings"],
)
def test_one_difference_has_its_line(old: str, new: str, expected: list[str]) -> None:
    """What differs, whether in place, and what it costs; the statement that follows a morph is a rewire of its own."""
    told = [line for line in lines(old, new) if not line.startswith("~ rewire      edge logins")]
    assert told == expected


def test_a_stream_that_nobody_feeds_any_more_is_emptied() -> None:
    """Where an edge goes, or is durable no more, what its stream holds is taken first."""
    promise = "what its stream holds is taken first; what is left after 20 s stays in its stream, and is told"
    assert lines('delivery = "durable"\n', "") == [
        f"~ rewire      edge kept: live; delivery durable -> live; changes over between two batches; {promise}"
    ]
    edge = '[edges.kept]\nfrom = ["cook", "find"]\nto = "keep"\ndelivery = "durable"\n'
    assert f"- disconnect  edge kept: durable; {promise}" in lines(edge, "")


def test_what_an_agent_loses_when_edges_come_to_it_and_go() -> None:
    """Nothing: it subscribes by itself, or does not any more; only with a spool of its own it is replaced."""
    alone = CHAIN.replace('[edges.logins]\nfrom = "cook"\nto = "find"\n', "")
    before = placed(CHAIN)
    told = compare(before, placed(alone, before)).lines()
    assert "~ resubscribe b/find: analysis brute_force; in_edges" in told
    spooled = alone.replace(FIND, FIND + 'overload = "spool"\n')
    told = compare(before, placed(spooled, before)).lines()
    line = "~ replace     b/find: analysis brute_force; overload, in_edges; what it remembers of earlier events ends"
    assert line in told


def test_every_setting_has_an_effect() -> None:
    """One that is added must say what its change does."""
    assert tuple(sorted(EFFECTS)) == tuple(sorted(AgentConfig.__struct_fields__))


@pytest.mark.parametrize("is_fed", [True, False], ids=["fed by edges", "by itself"])
@pytest.mark.parametrize(
    "changed",
    [
        {"type": "analysis", "cooking": "", "detector": "port_scan"},
        {"cooking": "netflow"},
        {"subscribe": ["SELECT * FROM system"]},
        {"scope": "backplane"},
        {"backplane": "other"},
        {"overload": "spool"},
        {"spool_bytes": 1 << 20},
        {"config": {"timezone": "Europe/Berlin"}},
        {"emit": "always"},
        {"mailbox_events": 7},
        {"in_edges": "the other way"},
    ],
    ids=",".join,
)
async def test_a_plan_says_what_a_host_process_does(tmp_path: Path, changed: dict[str, object], is_fed: bool) -> None:
    """Whether an agent is replaced, reloaded or goes on is the same in a plan and in the roster."""
    edges = [{"name": "e", "generation": 1, "producers": ["h1/other"], "statement": "SELECT * FROM system"}]
    before = {"type": "transformer", "cooking": "syslog", "in_edges": edges if is_fed else []}
    after = before | changed
    if "in_edges" in changed:
        after["in_edges"] = [] if is_fed else edges
    old, new = (msgspec.convert(table, AgentConfig) for table in (before, after))
    bus = MemoryBroker().connect()
    host = Host(convert({"name": "h1", "agents": {}}, HostConfig, "t"), bus, tmp_path, now_ns=lambda: 10**18)
    await host.start()
    seen: list[tuple[object, object]] = []
    for table in (before, after):
        await host.configure({"cook": table})
        await host.cells["cook"].settle()
        seen.append((host.cells["cook"], host.cells["cook"].agent))
    await host.stop()
    await bus.close()
    (was_cell, was_agent), (cell, agent) = seen
    is_new_agent, is_new_cell = agent is not was_agent, cell is not was_cell
    effect = effect_of(old, new)
    assert is_new_agent == (effect in {"morph", "replace", "reload"}), effect
    assert is_new_cell == (effect == "replace") or effect == "morph"


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


def ends(before: Placement, after: Placement) -> list[list[tuple[str, tuple[str, ...], tuple[str, ...]]]]:
    """Return agent, its edges that end, and where they begin, wave by wave."""
    return [
        [(ending.agent, ending.edges, ending.sources) for ending in wave] for wave in retire_waves(before, after, {})
    ]


def test_only_hosts_that_change_are_prepared() -> None:
    """A move concerns its two hosts, and those where a table tells of its edges."""
    before = placed(CHAIN)
    assert hosts_to_prepare(Placement(), before) == (["a", "b", "c"], [])
    assert hosts_to_prepare(before, placed(CHAIN.replace(FIND, FIND + "mailbox_events = 7\n"), before)) == (["b"], [])
    assert hosts_to_prepare(before, placed(moved("find", "d"), before)) == (["a", "b", "c", "d"], [])
    assert hosts_to_prepare(before, placed('tags = ["site"]\n' + CHAIN, before)) == (["a", "b", "c", "d"], [])


def test_a_process_of_its_own_begins_empty_below_its_parent() -> None:
    """Its agents come by prepare, as at any other host process, so that its sources are held back too."""
    before = placed(CHAIN)
    after = placed(CHAIN.replace(KEEP, KEEP + 'process = "own"\n'), before)
    assert hosts_to_prepare(before, after) == (["a", "b", "c"], ["c.keep"])
    assert part_tables(after, "c") == {"agents": {}, "children": {"c.keep": {"agents": {}}}, "tags": []}
    assert parent_of(after, before, "c.keep") == "c"


def test_old_ends_end_from_sources_to_sinks() -> None:
    """Only ends of edges that change; each live one with the host processes that know its fences."""
    before = placed(CHAIN)
    after = placed(moved("find", "d"), before)
    assert ends(before, after) == [[("cook", (), ())], [("find", ("logins",), ("a",))], [("keep", (), ())]]
    live = placed(CHAIN.replace('delivery = "durable"\n', ""))
    moving = placed(CHAIN.replace('delivery = "durable"\n', "").replace('host = "c"', 'host = "d"'), live)
    assert ends(live, moving) == [[("cook", (), ())], [("find", (), ())], [("keep", ("kept",), ("a", "b"))]]
    assert ends(before, placed(CHAIN, before)) == []


def test_agents_in_a_cycle_end_by_name() -> None:
    """What is fed by the cycle ends after all of it, whatever its name."""
    text = CHAIN.replace("[agents.keep]", '[agents.again]\ntype = "anonymizer"\nhost = "a"\n[agents.keep]')
    text += '[edges.round]\nfrom = "again"\nto = "cook"\nstatement = "SELECT * WHERE level <= error"\n'
    text += '[edges.back]\nfrom = "cook"\nto = "again"\nstatement = "SELECT * WHERE level <= error"\n'
    waves = [[agent for agent, _, _ in wave] for wave in ends(placed(text), Placement(revision=2))]
    assert waves == [["in"], ["again"], ["cook"], ["find"], ["keep"]]


def test_agents_that_no_placement_names_end_first() -> None:
    """They run from a configuration file, and feed no edge."""
    first, *_ = retire_waves(Placement(), placed(CHAIN), {"a": ("old", "older")})
    assert [(ending.host, ending.agent) for ending in first] == [("a", "old"), ("a", "older")]


# --- record ----------------------------------------------------------------------------------------------------------

S = 1_000_000_000
FIRST, SECOND = placed(CHAIN), placed(moved("find", "d"), placed(CHAIN))


def begun(current: Record | None = None, placement: Placement = FIRST, now_ns: int = 0) -> Record:
    """Return a change that begins."""
    source = Source(text=f"revision {placement.revision}")
    change = Change(placement=placement, source=source)
    return transitions.begin(current, change, who="ada", why="", manager="hub/m", now_ns=now_ns)


def test_a_change_is_applied() -> None:
    """From applying to applied; then the next can begin, and knows what ran before."""
    first = begun()
    assert (first.state, first.revision) == (RecordState.APPLYING, 1)
    done = transitions.finish(first, manager="hub/m", now_ns=3 * S)
    assert (done.state, done.claim, done.settled_ns) == (RecordState.APPLIED, None, 3 * S)
    second = begun(done, SECOND)
    assert (second.before, second.source_before.text) == (FIRST, "revision 1")


def test_an_unhealthy_change_goes_back_as_a_new_revision() -> None:
    """The placement before, with new generations where an edge changed, the manifest of it, and the reason."""
    done = transitions.finish(begun(), manager="hub/m", now_ns=S)
    back = transitions.roll_back(begun(done, SECOND), "b/find failed", manager="hub/m", now_ns=2 * S)
    assert (back.state, back.revision, back.placement.revision) == (RecordState.ROLLING_BACK, 3, 3)
    assert back.why == "revision 2 rolled back: b/find failed"
    assert back.source.text == "revision 1"
    assert {name: edge.generation for name, edge in back.placement.edges.items()} == {
        "kept": 3,
        "lines": 1,
        "logins": 3,
    }
    assert transitions.finish(back, manager="hub/m", now_ns=4 * S).state is RecordState.APPLIED
    with pytest.raises(UsageError, match="can not be unhealthy now"):
        transitions.roll_back(back, "again", manager="hub/m", now_ns=3 * S)


def test_two_changes_at_once_are_one_too_many() -> None:
    """The other is told by whom and which revision; so is one that was planned on an older record."""
    with pytest.raises(UsageError, match="revision 1 of ada is applying, carried out by hub/m"):
        begun(begun(), SECOND)
    done = transitions.finish(begun(), manager="hub/m", now_ns=S)
    with pytest.raises(UsageError, match="revision 1 comes too late: revision 1 is of record"):
        begun(done, FIRST)


def test_a_change_that_could_not_be_prepared_leaves_what_was() -> None:
    """Under a number of its own, with every generation as it was: nothing of it was activated."""
    done = transitions.finish(begun(), manager="hub/m", now_ns=S)
    refused = transitions.refuse(begun(done, SECOND), "d is not there", manager="hub/m", now_ns=2 * S)
    assert (refused.state, refused.revision, refused.claim) == (RecordState.APPLIED, 3, None)
    assert refused.placement == msgspec.structs.replace(FIRST, revision=3)
    assert (refused.why, refused.source.text) == ("revision 2 refused: d is not there", "revision 1")


def test_a_record_survives_its_encoding() -> None:
    """And bytes that are none are refused."""
    change = begun(transitions.finish(begun(), manager="hub/m", now_ns=S), SECOND)
    assert decode(encode(change)) == change
    with pytest.raises(WireError, match="not a record of a topology"):
        decode(b'{"backplane": "eddy", "hosts": {}}')


def test_a_record_of_many_hosts_fits_under_one_key() -> None:
    """Two placements of 500 hosts take less than the 1 MiB of a key, and come back whole; half of one does not."""
    text = '[agents.keep]\ntype = "archive"\nlabel = "x=y"\neach = true\n'
    text += '[agents.in]\ntype = "normalizer"\nsource = "syslog"\nlabel = "x=y"\neach = true\n'
    text += '[agents.cook]\ntype = "transformer"\ncooking = "syslog"\nlabel = "x=y"\neach = true\n'
    text += '[edges.a]\nfrom = "in"\nto = "cook"\n[edges.b]\nfrom = "cook"\nto = "keep"\ndelivery = "durable"\n'
    there = [HostThere(name=f"host-{number}.example.net", labels={"x": "y"}) for number in range(500)]
    first = place(read(text, "t"), there)
    applied = transitions.finish(begun(None, first), manager="hub/m", now_ns=S)
    change = begun(applied, place(read(text, "t"), there, first))
    data = encode(change)
    assert len(msgspec.json.encode(change)) > 1024 * 1024 > 4 * len(data)
    assert decode(data) == change
    with pytest.raises(WireError, match="not a record of a topology"):
        decode(data[: len(data) // 2])
