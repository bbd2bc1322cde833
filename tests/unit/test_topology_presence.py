"""Which host processes there are, as heartbeats tell it."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from eddy_mesh.topology.checks import read
from eddy_mesh.topology.placement import Placement, place
from eddy_mesh.topology.presence import PLACED_S, SILENT_S, Presence

S = 10**9
MANAGER = {"host": "a", "agent": "manage", "type": "agent_manager", "detail": {"children": [{"name": "a.x"}]}}
TEXT = '[hosts.a]\n[agents.cook]\ntype = "transformer"\ncooking = "syslog"\nhost = "a"\n'


def heard(*statuses: Mapping[str, object], now_ns: int = 0) -> Presence:
    """Return what is known after some heartbeats."""
    presence = Presence()
    for status in statuses:
        presence.heard(status, now_ns)
    return presence


def test_a_host_tells_its_labels_and_its_children() -> None:
    """A child is told apart, by its parent's agent-manager or by what is of record: nothing else is placed on it."""
    presence = heard({"host": "a", "labels": {"site": "x"}}, MANAGER, {"host": "a.x"}, {"host": "b.y"}, {"nonsense": 1})
    own = TEXT.replace("[hosts.a]", "[hosts.b]").replace('host = "a"', 'host = "b"\nprocess = "own"')
    known = place(read(own.replace("cook]", "y]"), "t"), [])
    there = [(host.name, host.labels, host.parent) for host in presence.there(0, [known])]
    assert there == [("a", {"site": "x"}, ""), ("a.x", {}, "a"), ("b.y", {}, "b")]


def test_a_child_that_has_ended_is_no_host_to_be_placed_on() -> None:
    """It is known for a minute more, and an agent that goes back to a process of that name must find the name free."""
    row = {"agent": "manage", "type": "agent_manager"}
    presence = heard(
        {"host": "a", "agents": [{**row, "detail": {"children": [{"name": "a.x"}]}}]},
        {"host": "a.x"},
        {"host": "a", "agents": [{**row, "detail": {"children": []}}]},
    )
    assert [(host.name, host.parent) for host in presence.there(0, [])] == [("a", ""), ("a.x", "a")]


def test_a_silent_host_is_not_told_anything_and_later_not_placed_on() -> None:
    """For a minute its agents stay: it may just start again."""
    presence = heard({"host": "a"})
    assert presence.is_there("a", int(SILENT_S * S))
    assert not presence.is_there("a", int(SILENT_S * S) + 1)
    assert [host.name for host in presence.there(int(PLACED_S * S), [])] == ["a"]
    assert presence.there(int(PLACED_S * S) + 1, []) == []


def test_the_agent_manager_is_found_by_its_type() -> None:
    """Where it was not heard, it has the usual name."""
    presence = heard(MANAGER, {"host": "b", "agents": [{"agent": "other", "type": "agent_manager"}]})
    assert [presence.manager_of(host) for host in "abc"] == ["manage", "other", "agent-manager"]


def test_names_of_managers_are_told() -> None:
    """Also of a backplane-manager, and the usual name where no agent-manager was heard yet."""
    hub = {"agent": "hub", "type": "backplane_manager"}
    presence = heard({"host": "a", "agents": [MANAGER, hub, {"agent": "cook", "type": "transformer"}]})
    assert presence.managers_of("a") == {"hub": "backplane_manager", "manage": "agent_manager"}
    presence = heard({"host": "a", "agents": [hub]})
    assert presence.managers_of("a") == {"agent-manager": "agent_manager", "hub": "backplane_manager"}
    assert presence.managers_of("b") == {"agent-manager": "agent_manager"}


@pytest.mark.parametrize(
    ("detail", "revision"),
    [({"revision": 7}, 7), ({"revision": 7, "seen": 9}, 9), ({"revision": "x", "seen": None}, 5), ({"seen": 3}, 5)],
)
def test_the_newest_revision_is_never_forgotten(detail: dict[str, object], revision: int) -> None:
    """Where the record is lost, numbers go on above what hosts hold, whatever host told it, and whenever."""
    presence = heard({"host": "b", **MANAGER, "detail": {"revision": 5}}, {**MANAGER, "detail": detail})
    assert presence.there(10**12 * S, []) == []
    assert presence.revision == revision
    assert Presence().revision == 0


def test_hosts_of_record_are_counted_before_they_are_heard() -> None:
    """A manager that has just started must not move their agents; it can not tell them anything either."""
    presence = heard({"host": "a", "labels": {"site": "x"}})
    presence.assume({"a": {"site": "old"}, "b": {"site": "y"}}, 0)
    assert {host.name: host.labels for host in presence.there(0, [])} == {"a": {"site": "x"}, "b": {"site": "y"}}
    assert [presence.is_there(host, 0) for host in "ab"] == [True, False]
    presence.heard({"host": "b"}, 1 * S)
    assert presence.is_there("b", 1 * S)
    presence.assume({"c": {}}, 0)
    assert [host.name for host in presence.there(int(PLACED_S * S) + 1, [])] == ["b"]


def test_strays_run_and_no_placement_names_them() -> None:
    """Managers and senders are none of its business; what was stopped with the placement before is no stray."""
    after = place(read(TEXT, "t"), [])
    presence = heard(
        MANAGER,
        {"host": "a", "agent": "old", "type": "archive"},
        {"host": "a", "agent": "kept", "type": "sender"},
        {"host": "a", "agent": "cook", "type": "transformer"},
        {"host": "b", "agent": "other", "type": "archive"},
    )
    assert presence.strays(after, [Placement()]) == {"a": ("old",)}
    before = place(read(TEXT.replace("cook]", "old]"), "t"), [])
    assert presence.strays(after, [before]) == {}
    presence.heard({"host": "a"}, 2 * S)
    assert presence.strays(after, [Placement()]) == {}, "it was not told at the last heartbeat"
