"""Manifests: what may be written, and every mistake at once."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import msgspec
import pytest

from eddy_mesh.config import AgentConfig, parse_toml
from eddy_mesh.errors import ConfigError
from eddy_mesh.listening import endpoint
from eddy_mesh.topology.checks import mistakes_in_manifest, read
from eddy_mesh.topology.manifest import labels_of, wanted
from eddy_mesh.topology.placement import HostThere, place
from eddy_mesh.topology.schema import manifest_schema

SAMPLES = sorted((Path(__file__).resolve().parents[2] / "configs" / "topologies").glob("*.toml"))

ENDS = """
[agents.in]
type = "normalizer"
source = "syslog"
host = "h"
[agents.cook]
type = "transformer"
cooking = "syslog"
host = "h"
[agents.keep]
type = "archive"
host = "h"
"""

MISTAKEN = """
backplan = "eddy"
[hosts."a/b"]
[agents.Upper]
type = "archive"
host = "h"
[agents.typo]
type = "archve"
host = "h"
[agents.source]
type = "normalizer"
source = "sylog"
host = "h"
[agents.both]
type = "archive"
host = "h"
label = "site=x"
[agents.nowhere]
type = "archive"
[agents.odd-label]
type = "archive"
label = "site"
[agents.each-without]
type = "archive"
host = "h"
each = true
[agents.crowd]
type = "normalizer"
source = "syslog"
host = "h"
count = 2
[agents.split]
type = "analysis"
detector = "port_scan"
host = "h"
count = 2
partition = "source.pi"
[agents.alone]
type = "analysis"
detector = "port_scan"
host = "h"
count = 2
[agents.made]
type = "archive"
host = "h"
in_edges = [{ name = "x" }]
[agents.taken]
type = "archive"
host = "h"
subscribe = ["SELECT *"]
[agents.form]
type = "archive"
host = "h"
mailbox_events = "many"
[agents.book]
type = "directory"
host = "h"
[edges.unknown]
from = ["crowd", "crowdd"]
to = "taken"
[edges.statement]
from = "crowd"
to = "taken"
statement = "SELECT * WHERE source.pi = '192.0.2.1'"
[edges.window]
from = "crowd"
to = "taken"
statement = "SELECT count(*) EVERY 1s"
[edges.back]
from = "taken"
to = "crowd"
[edges.self]
from = "taken"
to = "taken"
[edges.deaf]
from = "crowd"
to = "book"
[edges.parts]
from = "crowd"
to = "split"
partition = "no.such.field"
[edges.key]
form = "crowd"
to = "taken"
[edges.to-form]
from = "crowd"
to = "form"
"""
EXPECTED = (
    ("t.toml", "unknown key 'backplan'; did you mean backplane?"),
    ("t.toml: hosts.a/b", "can not name a host"),
    ("t.toml: agents.Upper", "can not be a token of subjects"),
    ("t.toml: agents.typo", "did you mean archive?"),
    ("t.toml: agents.source", "did you mean syslog?"),
    ("t.toml: agents.both", "host and label are both given"),
    ("t.toml: agents.nowhere", "says nowhere to run"),
    ("t.toml: agents.odd-label: label", "'site' is no label"),
    ("t.toml: agents.each-without", "each is for hosts with a label"),
    ("t.toml: agents.crowd: count", "would all listen on *:5514"),
    ("t.toml: agents.split: partition", "did you mean source.ip?"),
    ("t.toml: agents.alone: count", "each of the 2 would take every event"),
    ("t.toml: agents.made", "in_edges can not be written"),
    ("t.toml: agents.taken", "subscribe has no effect"),
    ("t.toml: agents.form: mailbox_events", "expected int"),
    ("t.toml: edges.unknown: from", "unknown agent 'crowdd'; did you mean crowd?"),
    ("t.toml: edges.statement: statement", "did you mean source.ip?"),
    ("t.toml: edges.window: statement", "leave aggregates"),
    ("t.toml: edges.back: to", "is a normalizer"),
    ("t.toml: edges.self", "never takes its own events"),
    ("t.toml: edges.deaf: to", "takes no events"),
    ("t.toml: edges.parts: partition", "there is no field 'no.such.field'"),
    ("t.toml: edges.key", "did you mean from?"),
    ("t.toml: edges.key", "from is missing"),
)


def mistakes(text: str) -> list[str]:
    """Return what is wrong with a manifest."""
    return mistakes_in_manifest(parse_toml(text, "t.toml"), "t.toml")


def test_every_mistake_is_named_at_once() -> None:
    """Form, names, agents, labels and edges: each mistake has one line with its key and a hint; none hides another."""
    found = mistakes(MISTAKEN)
    for where, hint in EXPECTED:
        assert [line for line in found if line.startswith(f"{where}: ") and hint in line], (where, hint)
    assert len(found) == len(EXPECTED), "\n".join(found)


def test_a_statement_error_shows_the_position() -> None:
    """The caret stands below the word that is wrong."""
    (line,) = mistakes(ENDS + '[edges.e]\nfrom = "cook"\nto = "keep"\nstatement = "SELECT * WHERE lvel = 3"\n')
    shown, caret = line.splitlines()[1:3]
    assert shown[caret.index("^") :].startswith("lvel")


@pytest.mark.parametrize(
    ("selected", "is_right"),
    [
        ("level", False),
        ("process.name AS host", True),
        ("host AS process.name", False),
        ("level, host", True),
        ("*", True),
    ],
)
def test_a_durable_edge_is_shared_out_by_what_its_stream_holds(selected: str, is_right: bool) -> None:
    """A field that the statement leaves out has no value there, and one instance would get everything."""
    text = ENDS.replace('type = "archive"\n', 'type = "archive"\ncount = 2\npartition = "host"\n')
    edge = f'[edges.e]\nfrom = "cook"\nto = "keep"\nstatement = "SELECT {selected} FROM system"\n'
    assert not mistakes(text + edge), "a live edge is shared out before it is projected"
    found = mistakes(text + edge + 'delivery = "durable"\n')
    assert [line for line in found if line.startswith("t.toml: edges.e: partition: host is not among")] == found
    assert bool(found) != is_right
    assert not mistakes(text + edge + 'delivery = "durable"\npartition = "type"\n')


def test_a_host_name_is_no_pattern() -> None:
    """Folders are found by it."""
    assert all(" can not name a host" in line for line in mistakes('[hosts."a[1]"]\n[hosts."b?"]\n'))
    assert len(mistakes('[hosts."a[1]"]\n[hosts."b?"]\n')) == 2


def test_a_cycle_without_way_out_is_named() -> None:
    """Edges that pass everything on must not lead back; with a condition on one of them they may."""
    agents = "".join(f'[agents.{name}]\ntype = "anonymizer"\nhost = "h"\n' for name in ("a", "b", "c"))
    edges = '[edges.ab]\nfrom = "a"\nto = "b"\n[edges.bc]\nfrom = "b"\nto = "c"\n[edges.ca]\nfrom = "c"\nto = "a"\n'
    (line,) = mistakes(agents + edges)
    assert "a -> b -> c -> a has no way out" in line
    assert "ab, bc, ca" in line
    assert not mistakes(agents + edges + 'statement = "SELECT * WHERE level <= error"\n')


def test_a_cooking_without_a_default_takes_what_its_edge_says() -> None:
    """It needs a statement at its edge, and none of its own; without an edge it needs one."""
    text = ENDS + '[agents.part]\ntype = "transformer"\ncooking = "reorder"\nhost = "h"\n'
    edge = '[edges.e]\nfrom = "cook"\nto = "part"\n'
    (unfed,) = mistakes(text)
    assert "agents.part: subscribe is missing" in unfed
    (line,) = mistakes(text + edge)
    assert "edges.e: statement is missing" in line
    manifest = read(text + edge + 'statement = "SELECT * FROM system"\n', "t.toml")
    assert place(manifest, [HostThere(name="h")]).edges["e"].statement == "SELECT * FROM system"


def test_a_name_in_two_places_is_refused() -> None:
    """An edge could not tell which agent is meant."""
    found = mistakes(ENDS + '[hosts.h.agents.keep]\ntype = "archive"\n')
    assert found == ["t.toml: hosts.h.agents.keep: there is agents.keep too: give one of them another name"]


def test_an_agent_of_another_backplane_feeds_no_edge() -> None:
    """What it makes is not published here."""
    text = ENDS.replace('cooking = "syslog"', 'cooking = "syslog"\nbackplane = "other"')
    (line,) = mistakes(text + '[edges.e]\nfrom = "cook"\nto = "keep"\n')
    assert "cook publishes on backplane 'other'" in line


def test_a_shared_port_lets_sources_be_several() -> None:
    """With reuse_port the kernel spreads what comes in; a free port is nobody else's."""
    for config in ("reuse_port = true", 'listen_udp = ["*:0"]\nlisten_tcp = []'):
        text = '[agents.in]\ntype = "normalizer"\nsource = "syslog"\nhost = "h"\ncount = 2\n[agents.in.config]\n'
        assert not mistakes(text + config)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_samples_are_manifests(path: Path) -> None:
    """Every sample topology can be read, the simple form among them."""
    assert wanted(read(path.read_text("utf-8"), path.name))


def test_the_simple_form_is_a_manifest() -> None:
    """Agents in the tables of hosts, of the same name on several hosts, without any edge."""
    manifest = read(
        '[hosts.a.agents.keep]\ntype = "archive"\n[hosts.b.agents.keep]\ntype = "archive"\nscope = "host"\n', "t.toml"
    )
    assert [(agent.name, agent.entry.host, agent.is_local) for agent in wanted(manifest)] == [
        ("keep", "a", True),
        ("keep", "b", True),
    ]


def test_labels_are_pairs() -> None:
    """One or several, with a value each."""
    assert labels_of("site=x, role=hub", "p") == {"site": "x", "role": "hub"}
    for text in ("site", "site=", "=x", "site=x,"):
        with pytest.raises(ConfigError, match="is no label"):
            labels_of(text, "p")


def test_the_schema_knows_what_can_be_written() -> None:
    """Editors are offered the members of the tables, not those that a placement makes."""
    schema = manifest_schema()
    text = msgspec.json.encode(schema).decode()
    definitions = schema["$defs"]
    assert isinstance(definitions, dict)
    assert {"from", "to", "statement", "delivery"} <= definitions["EdgeEntry"]["properties"].keys()
    assert {"host", "label", "each", "count", "partition", "process"} <= definitions["AgentEntry"]["properties"].keys()
    assert set(AgentConfig.__struct_fields__) - set(definitions["AgentConfig"]["properties"]) == {
        "in_edges",
        "out_edges",
    }
    assert all(f"#/$defs/{name}" not in text for name in ("InEdge", "OutEdge", "Partition"))


BROKEN = """
[agents.in]
type = "normalizer"
source = "json_lines"
hots = "h"
config = { listen = ["127.0.0.1:1x"] }
[agents.part]
type = "transformer"
cooking = "reorder"
host = "h"
procces = "own"
partition = "source.pi"
[agents.keep]
type = "archive"
host = "h"
[edges.cooked]
form = "inn"
to = "part"
statement = "SELECT sorce.ip"
[edges.kept]
from = "part"
to = "kep"
delivery = "durabel"
[edges.odd]
from = 1
to = "kep"
select = "SELECT sorce.port"
"""
HINTS = (
    ("agents.in", "did you mean host?"),
    ("agents.in.config: listen", "'127.0.0.1:1x' is no endpoint"),
    ("agents.part", "did you mean process?"),
    ("agents.part: partition", "did you mean source.ip?"),
    ("edges.cooked", "did you mean from?"),
    ("edges.cooked", "from is missing"),
    ("edges.cooked: from", "did you mean in?"),
    ("edges.cooked: statement", "did you mean source.ip?"),
    ("edges.kept: to", "did you mean keep?"),
    ("edges.kept: delivery", "'durabel' does not fit: did you mean durable? possible are durable, live"),
    ("edges.odd: from", "1 does not fit"),
    ("edges.odd", "unknown key 'select'"),
    ("edges.odd: statement", "did you mean source.port?"),
    ("edges.odd: to", "did you mean keep?"),
)


def test_a_table_with_a_mistake_is_looked_at_further() -> None:
    """So that one look is enough; and no mistake is made of another, as that an edge with a slip would not be there."""
    found = mistakes(BROKEN)
    for where, hint in HINTS:
        assert [line for line in found if line.startswith(f"t.toml: {where}: ") and hint in line], (where, hint, found)
    assert len(found) == len(HINTS), "\n".join(found)


@pytest.mark.parametrize(
    ("text", "is_right"),
    [
        ("*:5514", True),
        (":5514", True),
        ("localhost:0", True),
        ("[2001:db8::1]:514", True),
        ("192.0.2.1:65535", True),
        ("192.0.2.1:65536", False),
        ("192.0.2.1", False),
        ("192.0.2:5514", False),
        ("*:", False),
    ],
)
def test_what_a_source_listens_on_is_an_endpoint(text: str, is_right: bool) -> None:
    """Found before a source that runs is replaced, by the rules by which it listens."""
    manifest = ENDS.replace('source = "syslog"\n', f'source = "syslog"\nconfig = {{ listen_tcp = ["{text}"] }}\n')
    assert bool(mistakes(manifest)) != is_right
    with nullcontext() if is_right else pytest.raises(ConfigError):
        endpoint(text)
