"""Planning: what a request would do, and whether that is still what somebody was shown."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from eddy_mesh.config import parse_toml
from eddy_mesh.errors import ConfigError, UsageError
from eddy_mesh.topology import transitions
from eddy_mesh.topology.planning import Plan, Request, plan, request_of
from eddy_mesh.topology.presence import PLACED_S, Presence
from eddy_mesh.topology.record import Record, Terms

S = 10**9
SITE = """
[hosts.hub]
[agents.in]
type = "normalizer"
source = "syslog"
host = "hub"
[agents.cook]
type = "transformer"
cooking = "syslog"
label = "role=worker"
[edges.lines]
from = "in"
to = "cook"
"""
RENAMED = {"agent": "cook", "type": "agent_manager"}


def heard(*hosts: str, **rows: Mapping[str, object]) -> Presence:
    """Return the presence of hosts, those but ``hub`` with the label of workers; ``rows``: an agent that one tells."""
    presence = Presence()
    for host in hosts:
        presence.heard({"host": host, "labels": {} if host == "hub" else {"role": "worker"}}, 0)
    for host, row in rows.items():
        presence.heard({"host": host, **row}, 0)
    return presence


def request(text: str = SITE, without: tuple[str, ...] = ()) -> Request:
    """Return the request for a manifest."""
    return Request(manifest=parse_toml(text, "site.toml"), file="site.toml", terms=Terms(without=without))


def planned(text: str, presence: Presence, without: tuple[str, ...] = (), current: Record | None = None) -> Plan:
    """Return what would be done."""
    return plan(request(text, without), current, [], presence, 0)


def applied(made: Plan, current: Record | None = None) -> Record:
    """Return the record of a plan that was carried out."""
    record = transitions.begin(current, made.change, who="ada", why="", manager="hub/m", now_ns=0)
    return transitions.finish(record, manager="hub/m", now_ns=0)


def test_what_was_shown_is_what_is_applied() -> None:
    """A host with the label that comes or goes while somebody reads the plan makes another of it; the same stays."""
    shown = planned(SITE, heard("hub", "w1", "w2"))
    told = shown.row()["placement"]
    assert isinstance(told, str)
    planned(SITE, heard("hub", "w1", "w2")).check(None, 0, told)
    for now in (heard("hub", "w2"), heard("hub", "w0", "w1", "w2")):
        with pytest.raises(UsageError, match="plan again"):
            planned(SITE, now).check(None, 0, told)
    stray = planned(SITE, heard("hub", "w1", "w2", w1={"agent": "old", "type": "archive"}))
    with pytest.raises(UsageError, match="plan again"):
        stray.check(None, 0, told)
    with pytest.raises(UsageError, match="plan again"):
        planned(SITE, heard("hub", "w1", "w2"), ("w2",)).check(None, 0, told)
    shown.check(None, -1)


@pytest.mark.parametrize(("verb", "asked"), [("apply", {"revision": 1}), ("apply", {}), ("rollback", {"manifest": {}})])
def test_a_request_fits_its_verb(verb: str, asked: dict[str, object]) -> None:
    """An apply without a manifest must not go back to an earlier revision."""
    with pytest.raises(UsageError, match=f"{verb} with"):
        request_of(asked, verb)
    assert request_of(asked, "plan").revision == asked.get("revision", 0)


def test_no_agent_takes_the_name_of_a_manager() -> None:
    """It would turn the agent-manager of its host into itself; the name that a manager really has is what counts."""
    with pytest.raises(ConfigError) as caught:
        planned(SITE, heard("hub", "w1", w1=RENAMED))
    assert caught.value.mistakes == [
        "site.toml: agents.cook: on w1 that is the name of its agent_manager: rename the agent"
    ]
    usual = SITE.replace("agents.cook", "agents.agent-manager").replace('to = "cook"', 'to = "agent-manager"')
    with pytest.raises(ConfigError, match=r"agents.agent-manager: on w1 that is the name"):
        planned(usual, heard("hub", "w1"))
    assert planned(usual, heard("hub", "w1", w1={**RENAMED, "agent": "manage"})).changes.agents


def test_what_can_not_be_placed_names_the_file() -> None:
    """As every other mistake does."""
    with pytest.raises(ConfigError) as caught:
        planned(SITE, heard("hub"))
    assert caught.value.mistakes[0].startswith("site.toml: agents.cook: label: ")


def test_who_is_left_alone_is_known() -> None:
    """A slip of the pen does not leave the real one to be waited for; one that is there loses events."""
    with pytest.raises(UsageError, match=r"without: unknown host 'w11'; did you mean w1\?"):
        planned(SITE, heard("hub", "w1"), ("w11",))
    made = planned(SITE, heard("hub", "w1"), ("w1",))
    (warning,) = made.warnings
    assert warning.startswith("w1 is there, and is let be: ")
    assert made.row()["warnings"] == [warning]
    away = SITE + '[hosts.w9]\nlabels = { role = "worker" }\n'
    assert planned(away, heard("hub"), ("w9",)).warnings == ()


def test_hosts_that_are_away_are_missed_where_they_have_something_to_do() -> None:
    """Others are left alone, and told."""
    first = planned(SITE, heard("hub", "w1"))
    record = applied(first)
    presence = heard("hub", "w1")
    later = int(PLACED_S * S)
    presence.heard({"host": "hub"}, later)
    tagged = plan(request('tags = ["site"]\n' + SITE), record, [], presence, later)
    assert (tagged.missing, tagged.silent) == (("w1",), ())
    archive = SITE + '[agents.keep]\ntype = "archive"\nhost = "hub"\n'
    kept = plan(request(archive), record, [], presence, later)
    assert (kept.missing, kept.silent) == ((), ("w1",))
    assert kept.row()["silent"] == ["w1"]


def test_a_plan_remembers_the_labels_of_hosts() -> None:
    """A manager that starts knows them before it has heard anybody."""
    assert planned(SITE, heard("hub", "w1")).change.labels == {"w1": {"role": "worker"}}


def test_a_lost_record_is_begun_anew_above_what_hosts_have_seen() -> None:
    """With revision 1 they would refuse everything."""
    row = {"agent": "agent-manager", "type": "agent_manager", "detail": {"revision": 17}}
    assert planned(SITE, heard("hub", "w1", w1=row)).change.placement.revision == 18


# --- dry edges -------------------------------------------------------------------------------------------------------

KEEP = '[agents.keep]\ntype = "archive"\nhost = "hub"\n'
KEEP += '[agents.find]\ntype = "analysis"\ndetector = "port_scan"\nhost = "hub"\n'


@pytest.mark.parametrize(
    ("edge", "hint"),
    [
        ('from = "in"\nto = "keep"\n', "normalizer makes raw events, and raw ones are looked at only where WHERE asks"),
        (
            'from = "find"\nto = "keep"\nstatement = "SELECT * WHERE stage = \'raw\'"\n',
            "analysis makes analyzed and cooked events, and its statement selects others",
        ),
        ('from = "keep"\nto = "cook"\n', "archive makes no events"),
    ],
)
def test_an_edge_that_can_carry_nothing_is_told(edge: str, hint: str) -> None:
    """It is carried out all the same."""
    made = planned(f"{SITE}{KEEP}[edges.kept]\n{edge}", heard("hub", "w1"))
    (warning,) = made.warnings
    assert warning.startswith("edge kept carries nothing but notices: ")
    assert hint in warning
    assert made.changes.edges


@pytest.mark.parametrize(
    "edge",
    [
        'from = "in"\nto = "keep"\nstatement = "SELECT * WHERE stage = \'raw\'"\n',
        'from = ["in", "cook"]\nto = "keep"\n',
        'from = "cook"\nto = "keep"\nstatement = "SELECT * FROM system"\n',
        'from = "in"\nto = "keep"\nstatement = "SELECT * FROM derived"\n',
    ],
)
def test_an_edge_that_can_carry_something_is_not(edge: str) -> None:
    """Also where that is a part only of what its producers make."""
    assert planned(f"{SITE}{KEEP}[edges.kept]\n{edge}", heard("hub", "w1")).warnings == ()


def test_an_edge_without_producers_near_its_consumer_is_told() -> None:
    """Each host has its own edge, and one has nobody who feeds it."""
    text = "".join(f'[hosts.{host}.agents.keep]\ntype = "archive"\n' for host in ("a", "b"))
    text += '[hosts.a.agents.cook]\ntype = "transformer"\ncooking = "syslog"\n'
    text += '[hosts.c.agents.cook]\ntype = "transformer"\ncooking = "syslog"\n[edges.e]\nfrom = "cook"\nto = "keep"\n'
    (warning,) = planned(text, heard("a", "b", "c")).warnings
    assert warning == "edge e.b carries nothing: no agent of from is where its consumer is"
