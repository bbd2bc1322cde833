"""What an agent-manager does with each step, given what its host process holds: every row of the table."""

from __future__ import annotations

import msgspec
import pytest

from eddy_mesh.config import AgentConfig
from eddy_mesh.errors import UsageError
from eddy_mesh.topology.applied import Applied
from eddy_mesh.topology.checks import read
from eddy_mesh.topology.placement import Placement, place, renumbered
from eddy_mesh.topology.reconciling import (
    Action,
    Configuration,
    Holding,
    Step,
    Verb,
    decide,
    decide_following,
    digest,
    of_record,
)
from eddy_mesh.topology.record import Record, RecordState, Source
from eddy_mesh.topology.steps import part_digest, part_tables

COOK: dict[str, object] = {"type": "transformer", "cooking": "syslog"}
OLD = Applied(5, {"cook": COOK}, tags=("site",))
NEW = Applied(6, {"cook": COOK, "more": COOK}, tags=("site",))
HELD = Holding(applied=OLD, seen=5)
PREPARED = HELD.after(6).prepared(NEW)
TEXT = """
backplane = "eddy"
tags = ["site"]
[hosts.a]
[agents.cook]
type = "transformer"
cooking = "syslog"
host = "a"
[agents.own]
type = "transformer"
cooking = "syslog"
host = "a"
process = "own"
[edges.e]
from = "cook"
to = "own"
"""


def of(revision: int, state: RecordState = RecordState.APPLIED, *, text: str = TEXT) -> Record:
    """Return a record."""
    placement = place(read(text, "t"), [], Placement(revision=revision - 1)) if text else Placement(revision=revision)
    return Record(revision=revision, state=state, who="", when_ns=0, why="", source=Source(), placement=placement)


@pytest.mark.parametrize("verb", [Verb.ACTIVATE, Verb.RETIRE, Verb.SETTLE])
@pytest.mark.parametrize(
    ("holding", "revision", "part", "does"),
    [
        (PREPARED, 6, NEW, True),  # what was prepared
        (HELD, 6, OLD, True),  # nothing of this host changes
        (HELD, 6, NEW, False),  # the process was started again after prepare
        (PREPARED, 7, OLD, False),  # some of what was prepared for an earlier revision still runs
        (PREPARED, 7, NEW, False),  # likewise, though 7 is to be the same: nobody prepared it for 7
        (PREPARED, 6, OLD, False),  # two managers with two ideas of revision 6
        (Holding(), 6, NEW, False),  # it never had a part
    ],
)
def test_a_step_is_taken_by_the_part_it_is_for(
    verb: Verb, holding: Holding, revision: int, part: Applied, *, does: bool
) -> None:
    """A step for what is gone is refused: a host must not be stamped with a revision that it does not run."""
    if does:
        assert decide(verb, holding, revision, digest(part)) is Action.DO
    else:
        with pytest.raises(UsageError, match=rf"prepared for revision {revision} is gone, {holding.revision} runs"):
            decide(verb, holding, revision, digest(part))


@pytest.mark.parametrize("verb", Verb)
def test_an_older_revision_is_over(verb: Verb) -> None:
    """A manager that was stopped and goes on tells steps of the past: not one is taken, also after an abort."""
    for holding in (PREPARED, HELD.after(6), Holding(seen=6), Holding(applied=NEW)):
        with pytest.raises(UsageError, match="revision 5 is over: this host has seen 6"):
            decide(verb, holding, 5, digest(OLD))


def test_configuring_and_preparing_need_nothing_before() -> None:
    """They bring the part themselves, again too, and in place of what another revision prepared."""
    for verb in (Verb.CONFIGURE, Verb.PREPARE):
        assert [decide(verb, holding, 6) for holding in (Holding(), HELD, PREPARED)] == [Action.DO] * 3
        assert decide(verb, PREPARED, 7) is Action.DO


def test_only_what_was_prepared_is_aborted() -> None:
    """What was settled, or is prepared for another revision, stays."""
    assert decide(Verb.ABORT, PREPARED, 6) is Action.GO_BACK
    assert [decide(Verb.ABORT, holding, 7) for holding in (PREPARED, HELD, Holding())] == [Action.NOTHING] * 3


def test_settled_is_nothing_prepared() -> None:
    """And the newest revision that was seen stays known."""
    assert PREPARED.after(9).settled(NEW) == Holding(applied=NEW, seen=9)


def test_what_is_left_out_stays() -> None:
    """Who knows nothing of children or tags changes none."""
    held = Holding(applied=Applied(5, {}, {"a.own": {}}, tags=("site",)))
    assert held.wanted(Configuration(revision=6, agents={})) == Applied(6, {}, {"a.own": {}}, tags=("site",))
    assert held.wanted(Configuration(revision=6, agents={}, children={}, tags=())) == Applied(6, {}, {}, tags=())


@pytest.mark.parametrize(
    ("holding", "record", "action"),
    [
        (HELD, of(6), Action.DO),
        (HELD, of(5), Action.NOTHING),
        (HELD, of(4), Action.NOTHING),
        (HELD, of(6, RecordState.APPLYING), Action.NOTHING),
        (HELD, of(6, RecordState.ROLLING_BACK), Action.NOTHING),
        (HELD, of(6, text=""), Action.DO),  # it was taken out while it was away
        (Holding(), of(6), Action.DO),
        (Holding(), of(6, text=""), Action.NOTHING),  # of no topology
        (Holding(applied=Applied(0, {})), of(6, text=""), Action.NOTHING),
        (PREPARED, of(5), Action.NOTHING),  # revision 6 is being carried out, or the record was read too early
        (PREPARED, of(6, RecordState.APPLYING), Action.NOTHING),
        (PREPARED, of(6), Action.DO),  # its settle was lost
        (PREPARED, of(7), Action.DO),  # its abort was lost
        (HELD.prepared(OLD), of(5), Action.DO),  # settled, prepared again by another manager, and left so
        (HELD.after(7), of(6), Action.NOTHING),  # read too early
        (Holding(pending=NEW, seen=6), of(7, text=""), Action.GO_BACK),
    ],
)
def test_a_host_takes_up_what_is_of_record(holding: Holding, record: Record, action: Action) -> None:
    """Also where something is prepared: once the record is applied, nobody else will bring this host there."""
    assert decide_following(holding, record, "a") is action


def test_both_sides_name_a_part_alike() -> None:
    """Told by a manager or taken from the record, written down and read again: the digest is that of the tables."""
    record = of(6)
    for host in ("a", "a.own", "none"):
        tables = part_tables(record.placement, host)
        told = msgspec.json.decode(msgspec.json.encode({"revision": 6, **tables}))
        prepared = Holding().wanted(msgspec.convert(told, Configuration))
        followed = msgspec.json.decode(msgspec.json.encode(of_record(record, host)), type=Applied)
        assert digest(prepared) == digest(followed) == part_digest(tables)
    assert set(of_record(record, "a").children) == {"a.own"}
    assert of_record(record, "a").edges["e"].producers == ("a/cook",)


def test_what_is_so_by_default_is_not_counted_twice() -> None:
    """A table that says it and one that does not are one part: a way back is made of a record that was read."""
    record = of(6)
    read_again = msgspec.json.decode(msgspec.json.encode(record.placement), type=Placement)
    back = renumbered(read_again, record.placement, 7)
    assert back.hosts == record.placement.hosts
    for host in back.hosts:
        assert part_digest(part_tables(back, host)) == part_digest(part_tables(record.placement, host))
    whole = {**COOK, "mailbox_events": AgentConfig(type="x").mailbox_events, "config": {"x": 5}}
    told = Applied(5, {"cook": whole}), Applied(5, {"cook": {**COOK, "config": {"x": 5.0}}})
    assert digest(told[0]) == digest(told[1])


@pytest.mark.parametrize(
    "other",
    [
        Applied(5, {"cook": {**COOK, "cooking": "split"}}, tags=("site",)),
        Applied(5, {"cook": COOK}, {"a.own": {}}, tags=("site",)),
        Applied(5, {"cook": COOK}, tags=()),
        Applied(5, {"cook": COOK}),
    ],
)
def test_every_part_of_a_part_counts(other: Applied) -> None:
    """Agents, names of children, tags; the revision does not: most revisions leave most hosts as they are."""
    assert digest(other) != digest(OLD)
    assert digest(msgspec.structs.replace(OLD, revision=6)) == digest(OLD)


@pytest.mark.parametrize("revision", [-1, (1 << 53) + 1, 1 << 64])
def test_a_revision_is_a_number_that_goes_on(revision: int) -> None:
    """The next one is one more than the highest that any host has seen: nobody may use them up."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"revision": revision}, Step)
