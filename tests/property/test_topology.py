"""The topology's laws: every instance once, balanced, no needless move; who is told, and what ends when."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from eddy_mesh.topology.changes import compare
from eddy_mesh.topology.manifest import AgentEntry, EdgeEntry, HostEntry, Manifest
from eddy_mesh.topology.placement import HostThere, Placement, place, renumbered
from eddy_mesh.topology.spreading import spread
from eddy_mesh.topology.steps import hosts_to_prepare, parent_of, part_of, retire_waves

HOSTS = [f"h{number}" for number in range(5)]
NAMES = [f"a{number}" for number in range(5)]
HOST_SETS = st.lists(st.sampled_from(HOSTS), min_size=1, unique=True)


# --- spreading -------------------------------------------------------------------------------------------------------


def _fewest_moves(names: list[str], hosts: list[str], before: dict[str, str]) -> int:
    """Moves that no balanced choice can do without: a host keeps at most its share, and only so many keep one more."""
    held = sorted((sum(before.get(name) == host for name in names) for host in hosts), reverse=True)
    least, more = divmod(len(names), len(hosts))
    return len(names) - sum(min(count, least + (rank < more)) for rank, count in enumerate(held))


@given(st.integers(0, 20), HOST_SETS, st.data())
def test_spreading_is_balanced_and_moves_no_more_than_it_must(
    count: int, hosts: list[str], data: st.DataObject
) -> None:
    """Each instance has one host, hosts differ by one at most, and as many stay as balance allows."""
    names = [f"x.{number}" for number in range(count)]
    before = {name: host for name in names if (host := data.draw(st.sampled_from([*HOSTS, ""])))}
    load = Counter(data.draw(st.lists(st.sampled_from(HOSTS))))
    placed = spread(names, hosts, before, load)
    assert placed.keys() == set(names)
    shares = [list(placed.values()).count(host) for host in hosts]
    assert max(shares) - min(shares) <= 1
    assert sum(before.get(name) != host for name, host in placed.items()) == _fewest_moves(names, hosts, before)
    assert spread(names, hosts, placed, load) == placed
    assert spread(names, hosts[::-1], before, load) == placed


# --- placements ------------------------------------------------------------------------------------------------------


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    """A manifest without mistakes: anonymizers on hosts, labels and in processes of their own, edges without cycles."""
    agents: dict[str, AgentEntry] = {}
    edges: dict[str, EdgeEntry] = {}
    for name in draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True)):
        where = draw(st.sampled_from(["host", "label", "each"]))
        agents[name] = AgentEntry(
            type="anonymizer",
            host=draw(st.sampled_from(HOSTS)) if where == "host" else "",
            label="" if where == "host" else "role=any",
            each=where == "each",
            count=draw(st.integers(1, 4)) if where == "label" else 1,
            process=draw(st.sampled_from(["shared", "own"])),
            mailbox_events=draw(st.sampled_from([1000, 2000])),
        )
        producers = [other for other in agents if other < name and draw(st.booleans())]
        if producers:
            edges[f"to-{name}"] = EdgeEntry(
                from_=tuple(producers),
                to=name,
                delivery=draw(st.sampled_from(["live", "durable"])),
                partition=draw(st.sampled_from(["", "source.ip"])),
                statement=draw(st.sampled_from(["", "SELECT * WHERE level <= error"])),
            )
    tags = draw(st.sampled_from([(), ("site",)]))
    return Manifest(hosts={host: HostEntry() for host in HOSTS}, agents=agents, edges=edges, tags=tags)


@st.composite
def placements(draw: st.DrawFn) -> tuple[Placement, Placement]:
    """A placement and one that comes after it."""
    first = place(draw(manifests()), _there(draw(HOST_SETS)))
    return first, place(draw(manifests()), _there(draw(HOST_SETS)), first)


def _there(hosts: list[str]) -> list[HostThere]:
    return [HostThere(name=host, labels={"role": "any"}) for host in hosts]


@given(manifests(), HOST_SETS, HOST_SETS)
@settings(max_examples=100)
def test_every_instance_is_placed_once(manifest: Manifest, hosts: list[str], others: list[str]) -> None:
    """Also when hosts come and go; and the same question has the same answer."""
    before = place(manifest, _there(hosts))
    placement = place(manifest, _there(others), before)
    assert placement == place(manifest, _there(others[::-1]), before)
    found = placement.hosts_of()
    for name, entry in manifest.agents.items():
        if entry.each:
            assert len(found.pop(name)) == len(others)
            continue
        for instance in [name] if entry.count == 1 else [f"{name}.{index}" for index in range(entry.count)]:
            (process,) = found.pop(instance)
            base = placement.hosts[process].parent or process
            assert base in (others if entry.label else [entry.host])
    assert not found


@given(manifests(), HOST_SETS)
@settings(max_examples=50)
def test_what_did_not_change_costs_nothing(manifest: Manifest, hosts: list[str]) -> None:
    """The same again keeps every generation, changes nothing and tells nobody."""
    before = place(manifest, _there(hosts))
    after = place(manifest, _there(hosts), before)
    assert (after.hosts, after.edges) == (before.hosts, before.edges)
    assert compare(before, after).is_nothing
    assert hosts_to_prepare(before, after) == ([], [])
    assert not retire_waves(before, after, {})


@given(placements())
@settings(max_examples=100)
def test_a_generation_is_new_exactly_where_the_flow_is(pair: tuple[Placement, Placement]) -> None:
    """Both ends of an edge are told the same generation, and way and way back never use one twice."""
    before, after = pair
    back = renumbered(before, after, after.revision + 1)
    for old, new in ((before, after), (after, back)):
        for name, edge in new.edges.items():
            same = name in old.edges and old.edges[name].flow == edge.flow
            assert edge.generation == (old.edges[name].generation if same else new.revision)
        for agent in new.agents().values():
            ends = [(edge.name, edge.generation) for edge in agent.in_edges]
            ends += [(edge.name, edge.generation) for edge in agent.out_edges]
            assert all(new.edges[name].generation == generation for name, generation in ends)


# --- steps -----------------------------------------------------------------------------------------------------------


@given(placements())
@settings(max_examples=150)
def test_who_is_prepared_and_who_retires(pair: tuple[Placement, Placement]) -> None:
    """Hosts whose part changes; agents that go or have an edge that changes, once, each after all that feed it."""
    before, after = pair
    hosts, children = hosts_to_prepare(before, after)
    for host in {*before.hosts, *after.hosts}:
        assert (host in hosts or host in children) == (
            part_of(before, host) != part_of(after, host) or before.tags != after.tags
        )
        assert (host in children) <= bool(parent_of(before, after, host))
    waves = [{f"{ending.host}/{ending.agent}" for ending in wave} for wave in retire_waves(before, after, {})]
    retired = [path for wave in waves for path in wave]
    assert len(retired) == len(set(retired))
    over = [
        e for e in before.edges.values() if e.name not in after.edges or after.edges[e.name].generation > e.generation
    ]
    ends = {path for edge in over for path in (*edge.producers, *edge.consumers)}
    assert set(retired) == ends | (before.agents().keys() - after.agents().keys())
    position = {path: number for number, wave in enumerate(waves) for path in wave}
    for edge in before.edges.values():  # the manifests here have no cycles
        for producer in set(edge.producers) & position.keys():
            assert all(position[producer] < position[end] for end in edge.consumers if end in position)


@given(placements())
@settings(max_examples=100)
def test_every_fence_is_asked_where_its_edge_begins(pair: tuple[Placement, Placement]) -> None:
    """Of each live edge that changes, every consumer asks every host process of a producer."""
    before, after = pair
    asked = {
        (f"{ending.host}/{ending.agent}", edge): set(ending.sources)
        for wave in retire_waves(before, after, {})
        for ending in wave
        for edge in ending.edges
    }
    for name, edge in before.edges.items():
        is_over = name not in after.edges or after.edges[name].generation > edge.generation
        for consumer in edge.consumers:
            assert ((consumer, name) in asked) == (is_over and edge.delivery == "live")
            if (consumer, name) in asked:
                assert {producer.rpartition("/")[0] for producer in edge.producers} <= asked[consumer, name]
