"""A batch: the events of one producer and one type, held by column. This is what moves on the event channel.

What may live here: the `Batch` value and operations that keep its meaning (ids, cutting, joining). Making a batch
of rows and looking at rows is in `eddy_mesh.rows`; bytes are in `eddy_mesh.codec`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from eddy_mesh.cer import EventClass, Stage, id_high, id_low
from eddy_mesh.columns import Column, Constant, Ids, Index, nulls_of
from eddy_mesh.concatenate import concatenate
from eddy_mesh.fields import FieldType, type_of
from eddy_mesh.uniform import uniform

EXTRA = "extra"
"""Name of the column of maps that holds the fields that few rows have."""


class Kind(NamedTuple):
    """What the events of a batch are. With the origin this is the event subject."""

    stage: Stage
    event_class: EventClass
    type: str

    @property
    def text(self) -> str:
        """``<stage>.<class>.<type>``."""
        return f"{self.stage}.{self.event_class}.{self.type}"

    @classmethod
    def parse(cls, text: str) -> Kind:
        """Return the kind that `text` tells.

        Raises:
            ValueError: it is no kind.
        """
        stage, event_class, type_name = text.split(".", 2)
        return cls(Stage(stage), EventClass(event_class), type_name)


@dataclass(frozen=True, slots=True)
class Producer:
    """Who numbered the events of a batch.

    Attributes:
        number: 30-bit number of the agent and kind, `eddy_mesh.cer.producer_number`.
        epoch: second since 1970 UTC at which the agent started: numbers begin again at 0 with each epoch.
    """

    number: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Events of one producer and one kind, by column.

    Attributes:
        kind: stage, class and type of every event.
        origin: name of the host process that produced the batch.
        producer: who numbered the events.
        first: sequence number of the first event, before any select.
        stamp_ms: ms since 1970 UTC at which the batch was made.
        count: number of events held.
        columns: field name to column, each of length ``count``; a field that is not there is null in every row.
        span: how many sequence numbers from ``first`` on the batch stands for, those left out by a select included.
        kept: after a select, the offset from ``first`` of each event that was kept (u4, ascending); else None.
    """

    kind: Kind
    origin: str
    producer: Producer
    first: int
    stamp_ms: int
    count: int
    columns: Mapping[str, Column] = field(default_factory=dict)
    kept: npt.NDArray[np.uint32] | None = None
    span: int = -1

    def __post_init__(self) -> None:
        if self.span < 0:
            object.__setattr__(self, "span", self.count)

    def __len__(self) -> int:
        return self.count

    def ids(self) -> Ids:
        """Return the id of each event: the id column where there is one, else computed from the numbering."""
        explicit = self.columns.get("id")
        if isinstance(explicit, Ids):
            return explicit
        offsets = np.arange(self.count, dtype=np.uint64) if self.kept is None else self.kept.astype(np.uint64)
        sequence = (offsets + np.uint64(self.first & 0xFFFF_FFFF)) & np.uint64(0xFFFF_FFFF)
        low = np.uint64(id_low(self.producer.number, 0))
        return Ids(id_high(self.stamp_ms, self.producer.epoch), sequence | low)

    def column(self, name: str) -> Column:
        """Return the column of a field, also of the envelope; `eddy_mesh.selection.lookup` looks in `EXTRA` as well.

        Args:
            name: dotted field name; an unknown one gives a constant None.
        """
        held = self.columns.get(name)
        if held is not None:
            return held
        if name == "id":
            return self.ids()
        if name in _KIND_FIELDS:
            return Constant(str(getattr(self.kind, name)), self.count)
        if name == "origin":
            return Constant(self.origin, self.count)
        if name == "version":
            return Constant(1, self.count)
        return Constant(None, self.count)

    def take(self, index: Index) -> Batch:
        """Return the events named by ``index`` (ascending offsets into this batch)."""
        if len(index) == self.count:
            return self
        columns = {name: column.take(index) for name, column in self.columns.items()}
        kept = index.astype(np.uint32) if self.kept is None else self.kept[index]
        # not dataclasses.replace: this is done for each subscription and batch, and that takes ten times as long
        return Batch(
            self.kind, self.origin, self.producer, self.first, self.stamp_ms, len(index), columns, kept, self.span
        )

    def filter(self, mask: npt.NDArray[np.bool_]) -> Batch:
        """Return the events for which ``mask`` is True."""
        return self.take(np.flatnonzero(mask))

    def slice(self, start: int, stop: int) -> Batch:
        """Return events ``start`` to ``stop`` (exclusive), numbered as they were."""
        if start == 0 and stop >= self.count:
            return self
        stop = min(stop, self.count)
        index = np.arange(start, stop)
        columns = {name: column.take(index) for name, column in self.columns.items()}
        if self.kept is None:
            return replace(self, first=self.first + start, span=len(index), count=len(index), columns=columns)
        begin = int(self.kept[start]) if start else 0
        end = int(self.kept[stop]) if stop < self.count else self.span
        kept = self.kept[start:stop] - np.uint32(begin)
        return replace(self, first=self.first + begin, span=end - begin, count=len(index), columns=columns, kept=kept)

    def with_columns(self, columns: Mapping[str, Column]) -> Batch:
        """Return the same events with other columns."""
        return Batch(
            self.kind,
            self.origin,
            self.producer,
            self.first,
            self.stamp_ms,
            self.count,
            columns,
            self.kept,
            self.span,
        )


_KIND_FIELDS = frozenset({"stage", "event_class", "type"})


def mask_nulls(batch: Batch, names: Iterable[str]) -> npt.NDArray[np.bool_]:
    """Return True for each event that has none of the named fields."""
    result = np.ones(batch.count, np.bool_)
    for name in names:
        result &= nulls_of(batch.column(name))
    return result


def join(batches: Sequence[Batch]) -> Batch:
    """Return one batch with the events of all, in order; their ids are kept in an id column.

    Args:
        batches: at least one; the kind, origin and producer of the first are those of the result.
    """
    if len(batches) == 1:
        return batches[0]
    names = dict.fromkeys(name for batch in batches for name in batch.columns)
    columns = {name: _join_field([batch.columns.get(name) for batch in batches], name, batches) for name in names}
    columns["id"] = concatenate([batch.ids() for batch in batches], FieldType.ID)
    count = sum(map(len, batches))
    return replace(batches[0], count=count, span=count, columns=columns, kept=None)


def _join_field(columns: list[Column | None], name: str, batches: Sequence[Batch]) -> Column:
    kind = type_of(name)
    ready = uniform(columns, kind)
    missing = (Constant(None, batch.count) for batch in batches)
    return concatenate([one if held is None else held for held, one in zip(ready, missing, strict=True)], kind)
