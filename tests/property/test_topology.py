"""The topology's laws: every instance once, balanced, no needless move; steps that lose nobody on the way."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from eddy_mesh.config import AgentConfig, InEdge
from eddy_mesh.topology.changes import compare
from eddy_mesh.topology.manifest import AgentEntry, EdgeEntry, HostEntry, Manifest
from eddy_mesh.topology.placement import HostThere, Placement, place, renumbered
from eddy_mesh.topology.spreading import spread
from eddy_mesh.topology.steps import Step, steps

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
    assert not steps(before, after)


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

Tables = dict[str, AgentConfig]


def _carried_out(before: Placement, taken: tuple[Step, ...]) -> list[tuple[Step, Tables]]:
    """What runs after each step, as agent-managers do it: prepare ends nothing."""
    running = before.agents()
    states = []
    for step in taken:
        here = {path for path in running if path.rpartition("/")[0] == step.host}
        told = {f"{step.host}/{name}": agent for name, agent in step.agents.items()}
        assert step.phase == "retire" or here <= told.keys(), "prepare names everything that runs"
        running = {path: agent for path, agent in running.items() if path not in here} | told
        states.append((step, running))
    return states


def _takes(agent: AgentConfig, producer: str) -> bool:
    return any(producer in edge.producers for edge in agent.in_edges)


def _live_edges(agent: AgentConfig) -> list[InEdge]:
    return [edge for edge in agent.in_edges if edge.delivery == "live"]


@given(placements())
@settings(max_examples=150)
def test_steps_lead_from_one_placement_to_the_other(pair: tuple[Placement, Placement]) -> None:
    """In order, one step a host in each wave; what stays runs all the time; processes exist before their agents."""
    before, after = pair
    taken = steps(before, after)
    keys = [(step.phase, step.wave, step.host) for step in taken]
    assert len(set(keys)) == len(keys)
    assert [key[:2] for key in keys] == sorted(key[:2] for key in keys)
    states = _carried_out(before, taken)
    staying = before.agents().keys() & after.agents().keys()
    assert all(staying <= running.keys() for _, running in states)
    assert (states[-1][1] if states else before.agents()) == after.agents()
    children = {host: set(part.children) for host, part in before.hosts.items()}
    for step, running in states:
        if not (after.hosts.get(step.host) or before.hosts[step.host]).parent:
            children[step.host] = set(step.children)
        alive = set().union(*children.values())
        for path in running:
            host = path.rpartition("/")[0]
            part = after.hosts.get(host) or before.hosts[host]
            assert not part.parent or host in alive, f"{host} is told before it is started, or after its end"


@given(placements())
@settings(max_examples=150)
def test_what_is_made_on_the_way_is_taken(pair: tuple[Placement, Placement]) -> None:
    """A new producer starts after its consumers on other hosts ask for it; one that ends is heard to the end."""
    before, after = pair
    old, new = before.agents(), after.agents()
    states = _carried_out(before, steps(before, after))
    running = old
    for step, following in states:
        for path in following.keys() - running.keys():
            consumers = [edge.consumers for edge in after.edges.values() if path in edge.producers]
            for consumer in {name for names in consumers for name in names}:
                elsewhere = consumer.rpartition("/")[0] != step.host
                assert not elsewhere or (consumer in running and _takes(running[consumer], path)), (path, consumer)
        for path in running.keys() - following.keys():
            producers = {name for edge in _live_edges(old[path]) for name in edge.producers} & (old.keys() - new.keys())
            assert all(name.rpartition("/")[0] == step.host for name in producers & running.keys()), path
            edges = [edge for edge in before.edges.values() if path in edge.producers and edge.delivery == "live"]
            for consumer in {name for edge in edges for name in edge.consumers} & following.keys():
                elsewhere = consumer.rpartition("/")[0] != step.host
                assert not elsewhere or _takes(following[consumer], path) or consumer not in new, (path, consumer)
        running = following
