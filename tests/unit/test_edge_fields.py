"""Every field of an edge has one meaning for a change: none is forgotten, and none means two things."""

from __future__ import annotations

import msgspec
import pytest

from eddy_mesh.actor.cell import Cell
from eddy_mesh.actor.edge import Mailbox
from eddy_mesh.actor.numbering import Numbering
from eddy_mesh.config import InEdge, OutEdge, Partition, Retention
from eddy_mesh.runtime.durable.edge import DurableEdge
from eddy_mesh.runtime.durable.end import DurableEnd, durable_edge
from eddy_mesh.topology.wiring import FLOW, NAMED, POLICY, PlacedEdge, generations

CHANGED: dict[str, object] = {
    "producers": ("a/x", "b/x"),
    "consumers": ("b/y",),
    "statement": "SELECT source.ip",
    "delivery": "live",
    "field": "source.ip",
    "of": 16,
    "overload": "spool",
    "spool_bytes": 5,
    "retention": Retention(max_bytes=5),
}
EDGE = PlacedEdge(name="e", entry="e", generation=3, producers=("a/x",), consumers=("a/y",), delivery="durable")
END = InEdge(name="e", generation=3, producers=("a/x",), delivery="durable")
OTHERWISE: dict[str, object] = {
    **{key: CHANGED[key] for key in ("producers", "statement", "overload", "spool_bytes", "retention")},
    "generation": 4,
    "partition": Partition(field="source.ip"),
    "instance": 1,
    "instances": 2,
    "delivery": "live",
    "name": "other",
}


def test_each_field_of_an_edge_is_of_one_kind() -> None:
    """It names the edge, makes a new generation, or is taken up in place."""
    assert sorted((*NAMED, *FLOW, *POLICY)) == sorted(PlacedEdge.__struct_fields__)


@pytest.mark.parametrize("key", [*FLOW, *POLICY])
def test_a_new_generation_is_made_by_what_flows_only(key: str) -> None:
    """A change of the size of a stream leaves the generation as it is; all else begins anew."""
    changed = msgspec.structs.replace(EDGE, **{key: CHANGED[key]})
    assert generations([changed], {"e": EDGE}, 7)["e"].generation == (7 if key in FLOW else 3)


@pytest.mark.parametrize("key", InEdge.__struct_fields__)
def test_the_end_of_a_stream_goes_on_unless_its_shape_changes(key: str) -> None:
    """Who fills the stream, and how large it may be, does not make a second receiver for the same consumer."""
    numbering = Numbering("y", "a", 0)
    around = None  # an end that has not begun asks nobody
    cell = Cell("y", "transformer", lambda: None, around, numbering, Mailbox())  # type: ignore[arg-type, return-value]
    end = DurableEnd(END, cell, around)  # type: ignore[arg-type]
    wanted = msgspec.structs.replace(END, **{key: OTHERWISE[key]})
    assert end.goes_on(wanted) == (key not in {"name", "delivery", "partition", "instance", "instances"})


def test_both_ends_agree_on_their_stream() -> None:
    """Partition and size come from the tables of both; nothing else does."""
    out = OutEdge(name="e", partition=Partition(field="source.ip", of=16), retention=Retention(max_bytes=5))
    made = durable_edge("eddy", out.name, out.partition, out.retention)
    assert made == DurableEdge(backplane="eddy", name="e", field="source.ip", partitions=16, max_bytes=5)
