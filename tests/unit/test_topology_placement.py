"""Placement: which host process runs what, with which edges of which generation."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from eddy_mesh.config import AgentConfig, Partition, Retention
from eddy_mesh.errors import ConfigError
from eddy_mesh.topology.checks import read
from eddy_mesh.topology.placement import HostThere, Placement, place, renumbered

TOPOLOGIES = Path(__file__).resolve().parents[2] / "configs" / "topologies"

SHARED = """
[agents.in]
type = "normalizer"
source = "syslog"
host = "edge"
[agents.cook]
type = "transformer"
cooking = "syslog"
label = "role=worker"
count = 3
partition = "host"
[agents.keep]
type = "archive"
host = "hub"
process = "own"
[edges.lines]
from = "in"
to = "cook"
[edges.kept]
from = "cook"
to = "keep"
delivery = "durable"
overload = "spool"
[hosts.edge]
[hosts.hub]
"""


def workers(*names: str) -> list[HostThere]:
    """Return hosts with the label of workers."""
    return [HostThere(name=name, labels={"role": "worker"}) for name in names]


def table(placement: Placement, path: str) -> AgentConfig:
    """Return the table of ``<host>/<agent>``."""
    return placement.agents()[path]


def test_edges_reach_the_tables_of_their_ends() -> None:
    """The consumer has every edge with its producers and its part; a producer has those that are durable."""
    placement = place(read(SHARED, "t"), workers("w1", "w2"))
    (lines,) = table(placement, "w2/cook.1").in_edges
    assert (lines.name, lines.generation, lines.producers) == ("lines", 1, ("edge/in",))
    assert lines.statement == "SELECT * WHERE stage = 'raw' AND (type = 'syslog')"
    assert lines.partition == Partition(field="host", of=64, indexes=tuple(range(1, 64, 3)))
    assert table(placement, "edge/in").out_edges == ()
    (out,) = table(placement, "w1/cook.0").out_edges
    assert (out.name, out.generation, out.overload, out.partition.of) == ("kept", 1, "spool", 1)
    (kept,) = table(placement, "hub.keep/keep").in_edges
    assert kept.producers == ("w1/cook.0", "w1/cook.2", "w2/cook.1")
    assert (kept.delivery, kept.partition.indexes) == ("durable", ())


def test_parts_of_instances_are_all_parts_once() -> None:
    """Together the instances take each of the 64 parts, none takes one of another."""
    placement = place(read(SHARED, "t"), workers("w1"))
    taken = [index for name in range(3) for index in table(placement, f"w1/cook.{name}").in_edges[0].partition.indexes]
    assert sorted(taken) == list(range(64))


@pytest.mark.parametrize(("count", "parts"), [(1, 16), (16, 16), (17, 32), (64, 64)])
def test_no_consumer_of_a_durable_edge_is_without_a_part(count: int, parts: int) -> None:
    """Each part is a message of its own in the stream, so there are more only where instances would get none."""
    text = SHARED.replace("count = 3", f"count = {count}").replace(
        'to = "cook"\n', 'to = "cook"\ndelivery = "durable"\n'
    )
    edge = place(read(text, "t"), workers("w1")).edges["lines"]
    assert edge.of == parts
    taken = [edge.partition(index).indexes for index in range(count)]
    assert sorted(sum(taken, ())) == (list(range(parts)) if count > 1 else [])
    assert all(taken) == (count > 1)


def test_an_own_process_is_a_host_with_a_parent() -> None:
    """Its parent's agent-manager starts it."""
    placement = place(read(SHARED, "t"), workers("w1"))
    assert placement.hosts["hub"].children == ("hub.keep",)
    assert placement.hosts["hub.keep"].parent == "hub"
    assert list(placement.hosts["hub.keep"].agents) == ["keep"]


def test_a_process_of_an_agent_is_no_candidate() -> None:
    """A host process that was started for one agent runs no other, whatever its labels."""
    there = [*workers("w1"), HostThere(name="w1.cook.0", labels={"role": "worker"}, parent="w1")]
    assert "w1.cook.0" not in place(read(SHARED, "t"), there).hosts


def test_a_generation_is_new_only_where_the_edge_changed() -> None:
    """Another statement or policy gives one edge the new revision; the others keep theirs."""
    before = place(read(SHARED, "t"), workers("w1"))
    changed = SHARED.replace('to = "keep"\n', 'to = "keep"\nstatement = "SELECT * WHERE level <= error"\n')
    after = place(read(changed, "t"), workers("w1"), before)
    assert {name: edge.generation for name, edge in after.edges.items()} == {"lines": 1, "kept": 2}
    assert table(after, "w1/cook.0").out_edges[0].generation == 2
    policy = SHARED.replace('overload = "spool"', 'overload = "sample"')
    assert place(read(policy, "t"), workers("w1"), before).edges["kept"].generation == 2


def test_an_earlier_placement_comes_back_with_new_generations() -> None:
    """Producers serve the newest generation that they have heard of, so a way back can not use the old one."""
    first = place(read(SHARED, "t"), workers("w1"))
    second = place(read(SHARED, "t"), workers("w1", "w2"), first)
    back = renumbered(first, second, 3)
    assert back.hosts.keys() == first.hosts.keys()
    assert {edge.generation for edge in back.edges.values()} == {3}
    assert renumbered(first, first, 3).edges == first.edges


def test_instances_stay_when_a_host_comes_and_move_when_one_goes() -> None:
    """A host more takes one instance for the balance; a host less loses its own only."""
    before = place(read(SHARED, "t"), workers("w1", "w2"))
    more = place(read(SHARED, "t"), workers("w0", "w1", "w2"), before)
    assert more.hosts_of() | {"cook.2": ["w0"]} == more.hosts_of()
    assert (more.hosts_of()["cook.0"], more.hosts_of()["cook.1"]) == (["w1"], ["w2"])
    less = place(read(SHARED, "t"), workers("w0", "w1"), more)
    assert (less.hosts_of()["cook.0"], less.hosts_of()["cook.2"]) == (["w1"], ["w0"])


def test_no_host_with_the_label_is_a_mistake() -> None:
    """With the file and the table: the labels that there are, or the nearest; a host that is named nowhere too."""
    text = SHARED.replace('host = "edge"', 'host = "edg"')
    with pytest.raises(ConfigError) as caught:
        place(read(text, "t"), [HostThere(name="x", labels={"role": "hub", "site": "s"})], file="site.toml")
    assert caught.value.mistakes == [
        "site.toml: agents.cook: label: no host has 'role=worker'; labels that there are: role=hub, site=s",
        "site.toml: agents.in: unknown host 'edg'; did you mean edge?",
    ]


@pytest.mark.parametrize(
    ("label", "hint"),
    [("role=workers", "did you mean role=worker?"), ("role=worker,site=s", "some have one of them, none has all")],
)
def test_a_label_that_no_host_has_gets_the_nearest(label: str, hint: str) -> None:
    """One letter too many is told as such; labels that are there, but nowhere together, too."""
    there = [*workers("w1"), HostThere(name="x", labels={"site": "s"})]
    with pytest.raises(ConfigError) as caught:
        place(read(SHARED.replace("role=worker", label), "t"), there, file="t")
    assert caught.value.mistakes == [f"t: agents.cook: label: no host has {label!r}; {hint}"]


def test_declared_hosts_stand_in_where_none_is_there() -> None:
    """A manifest can be applied before its hosts run; a host that is there is preferred."""
    text = SHARED + '[hosts.later]\nlabels = { role = "worker" }\n'
    assert place(read(text, "t"), []).hosts_of()["cook.0"] == ["later"]
    assert place(read(text, "t"), workers("w1")).hosts_of()["cook.0"] == ["w1"]


def test_sources_with_one_port_do_not_share_a_host() -> None:
    """Two instances of a source on one host would listen on the same port."""
    text = '[agents.in]\ntype = "normalizer"\nsource = "syslog"\nlabel = "role=worker"\ncount = 2\n'
    assert place(read(text, "t"), workers("w1", "w2")).hosts_of() == {"in.0": ["w1"], "in.1": ["w2"]}
    with pytest.raises(ConfigError, match=r"2 of it would listen on \*:5514 of w1"):
        place(read(text, "t"), workers("w1"))


def test_a_process_must_not_be_named_like_a_host() -> None:
    """Both would answer to the same subjects."""
    with pytest.raises(ConfigError, match=r"would be named 'hub.keep', which is a host"):
        place(read(SHARED, "t"), [*workers("w1"), HostThere(name="hub.keep")])


def test_edges_between_agents_of_each_host_stay_on_it() -> None:
    """Each transformer takes from the source of its own host; the archive from all of them."""
    text = (TOPOLOGIES / "edge-hub.toml").read_text("utf-8")
    placement = place(read(text, "t"), [HostThere(name="edge-3", labels={"role": "edge"})])
    assert placement.edges["lines.edge-3"].producers == ("edge-3/in-syslog",)
    assert table(placement, "edge-1/cook-syslog").in_edges[0].producers == ("edge-1/in-syslog",)
    assert placement.edges["kept"].producers == tuple(f"edge-{n}/cook-syslog" for n in (1, 2, 3))


def test_an_edge_to_each_host_brings_all_events_to_each() -> None:
    """One producer, a consumer on every host: copies, not shares."""
    text = SHARED.replace("count = 3", "each = true").replace('partition = "host"\n', "")
    placement = place(read(text, "t"), workers("w1", "w2"))
    for host in ("w1", "w2"):
        (edge,) = table(placement, f"{host}/cook").in_edges
        assert (edge.name, edge.producers, edge.partition.indexes) == (f"lines.{host}", ("edge/in",), ())


def test_tables_of_hosts_may_differ() -> None:
    """An edge takes policy and statement from the consumer of its own host."""
    text = "".join(
        f'[hosts.{host}.agents.in]\ntype = "normalizer"\nsource = "syslog"\n'
        f'[hosts.{host}.agents.cook]\ntype = "transformer"\ncooking = "{cooking}"\noverload = "{overload}"\n'
        for host, cooking, overload in (("a", "syslog", "block"), ("b", "file", "sample"))
    )
    edges = place(read(text + '[edges.e]\nfrom = "in"\nto = "cook"\n', "t"), ()).edges
    assert [(edge.overload, "'file'" in edge.statement) for edge in edges.values()] == [
        ("block", False),
        ("sample", True),
    ]


def test_durable_edges_hold_what_the_manifest_says() -> None:
    """The size goes to both ends of each durable edge, and to nobody else."""
    placement = place(read(SHARED + "[retention]\nmax_bytes = 60\n", "t"), workers("w1"))
    assert table(placement, "w1/cook.0").out_edges[0].retention == Retention(max_bytes=60)
    assert table(placement, "hub.keep/keep").in_edges[0].retention == Retention(max_bytes=60)
    assert table(placement, "w1/cook.0").in_edges[0].retention == Retention()


@pytest.mark.parametrize(
    "text", ["[retention]\nmax_age_s = 60\n", '[agents.b]\ntype = "archive"\nhost = "hub"\nretention = {}\n']
)
def test_what_nobody_would_heed_is_refused(text: str) -> None:
    """No stream lets untaken events go by age, and no archive has bounds yet: to accept a bound would be a promise."""
    with pytest.raises(ConfigError, match=r"unknown key '(max_age_s|retention)'"):
        read(SHARED + text, "t")


def test_a_placement_survives_json() -> None:
    """The record and the answers carry it so."""
    placement = place(read(SHARED, "t"), workers("w1", "w2"))
    assert msgspec.json.decode(msgspec.json.encode(placement), type=Placement) == placement
