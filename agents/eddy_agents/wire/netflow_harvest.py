"""What reading a batch of datagrams gives: groups of records of one layout, refusals, and what did not come.

What may live here: the values that the collector fills and the cooking makes events of. No bytes are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from eddy_agents.wire.netflow_datagram import Header, Malformed
from eddy_agents.wire.netflow_exporter import Held, Stream, StreamKey
from eddy_agents.wire.netflow_layout import Chunk, Layout
from eddy_agents.wire.netflow_survey import Headers
from eddy_mesh.cer import Value
from eddy_mesh.columns import Column, Index


class Raw:
    """Where the datagrams of one batch came from: the columns that their records carry on."""

    __slots__ = ("columns",)

    def __init__(self, columns: Mapping[str, Column]) -> None:
        self.columns = columns

    def row(self, row: Index) -> dict[str, Column]:
        """Return the named rows of every column."""
        return {name: column.take(row) for name, column in self.columns.items()}


PerSet: TypeAlias = int | npt.NDArray[np.int64]
"""A number of one data set, or of several, an entry a set."""


_INTERVAL_BITS: Final = 0x3FFF


class Taken(NamedTuple):
    """Data sets of one stream and template, one or several in order. What may change is as it was then.

    Attributes:
        records: of all of them.
        counts: records of each.
        header: of the datagram that each was in.
        stream: whose they are.
        template: its id, 0 for v5.
        interval: of sampling, 0 where it is not known.
        started_ns: ns since 1970 UTC at which the exporter started, -1 unknown.
        rows: of the batch; of no meaning where they waited for their template.
    """

    records: Chunk
    counts: PerSet
    header: Header | Headers
    stream: Stream
    template: int
    interval: int
    started_ns: int
    rows: PerSet

    @classmethod
    def now(
        cls, records: Chunk, counts: PerSet, header: Header | Headers, stream: Stream, template: int, rows: PerSet
    ) -> Taken:
        """Return data sets as they are taken now."""
        interval = header.sampling & _INTERVAL_BITS or stream.sampling.default
        return cls(records, counts, header, stream, template, interval, stream.started_ns, rows)


@dataclass(slots=True, eq=False)
class Group:
    """Data sets of one layout, ready to be joined.

    Attributes:
        layout: of every record.
        taken: the data sets.
        origins: for sets that waited for their template, in the order of ``taken``: the raw event itself. Empty for
            others, whose row says it.
    """

    layout: Layout
    taken: list[Taken] = field(default_factory=list)
    origins: list[Mapping[str, Column]] = field(default_factory=list)


class Lapse(NamedTuple):
    """Something that did not come, to be told as an event.

    Attributes:
        kind: ``gap``, ``template_unknown`` or ``sampling``.
        stream: whose.
        values: fields of the event.
        origins: the raw events that show it.
    """

    kind: str
    stream: StreamKey
    values: dict[str, Value]
    origins: list[Mapping[str, Column]]


class Harvest:
    """What one batch of datagrams gave."""

    def __init__(self, raw: Raw) -> None:
        self.raw = raw
        self.groups: dict[tuple[int, bool], Group] = {}
        self.lapses: list[Lapse] = []
        self.refused: dict[str, tuple[list[int], str]] = {}

    def refuse(self, row: int, defect: Malformed) -> None:
        """Count a datagram, or part of one, that could not be taken."""
        rows, _ = self.refused.setdefault(defect.reason, ([], str(defect)))
        if not rows or rows[-1] != row:
            rows.append(row)

    def group(self, layout: Layout, *, waited: bool) -> Group:
        """Return the group that sets of a layout go to."""
        key = (id(layout), waited)
        held = self.groups.get(key)
        if held is None:
            held = self.groups[key] = Group(layout)
        return held


def unknown(key: StreamKey, template_id: int, waiting: list[Held]) -> Lapse:
    """Tell that data sets were given up; their datagrams counted as taken when they came."""
    values: dict[str, Value] = {
        "netflow.template": template_id,
        "edge.count": len(waiting),
        "edge.reason": "template_unknown",
    }
    return Lapse("template_unknown", key, values, [held.origin for held in waiting])


def row_index(row: int) -> Index:
    """Return one row as an index of columns."""
    return np.array([row], np.intp)
