"""The layout of records: a template made ready to read the records of many data sets at once.

What may live here: `Layout` (slots, lengths, which element goes to which event field), cutting a data set into
records, and `Records`, which gives the octets of one slot of all of them. No state.

Records of fixed length are one numpy structured array over the joined bytes of any number of data sets. Records with
fields of variable length (RFC 7011 section 7) are walked one by one and give the same columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final, NamedTuple, TypeAlias

import numpy as np

from eddy_agents.wire.netflow_datagram import V9, Buffer, Malformed
from eddy_agents.wire.netflow_template import VARIABLE, FieldSpec
from eddy_agents.wire.netflow_values import Array, Form, decode, decode_each, form_of, storage_of
from eddy_mesh.columns import Column
from eddy_mesh.registry.ipfix import IANA, DataType, Element, element

_PADDING: Final = 210

_V9_SCOPES: Final = {1: "system", 2: "interface", 3: "line_card", 4: "cache", 5: "template"}
"""Source: RFC 3954 section 6.1."""

Row: TypeAlias = tuple[bytes, ...]
Chunk: TypeAlias = Buffer | list[Row]
"""The records of one data set: octets where the length is fixed, else the octets of each slot of each record."""


class Slot(NamedTuple):
    """One field of the records that goes into a column.

    Attributes:
        key: name in the structured array.
        position: place among all fields of the record.
        element: what it means.
        field: event field that carries it.
        form: how it is read; of no meaning where the length is `VARIABLE`.
        length: octets.
    """

    key: str
    position: int
    element: Element
    field: str
    form: Form
    length: int

    @property
    def iana(self) -> int:
        """Number of the element where it is IANA's, else 0."""
        return self.element.id if self.element.enterprise == IANA else 0


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """How to read the records of one template; shared by every exporter that sends the same fields.

    Attributes:
        version: 5, 9 or 10.
        is_options: whether the records are about the exporter.
        slots: the fields that become columns; padding and fields without octets do not.
        size: octets of a record, 0 where they differ.
        storage: numpy type of a record of fixed length.
        lengths: octets of every field in order, padding included.
    """

    version: int
    is_options: bool
    slots: tuple[Slot, ...]
    size: int
    storage: np.dtype[np.void]
    lengths: tuple[int, ...]

    def cut(self, data: Buffer, start: int, end: int) -> tuple[Chunk, int, Malformed | None]:
        """Cut the data set at ``data[start:end]`` into records.

        Returns:
            The records, how many there are, and what stopped the reader, None where nothing did. Octets at the end
            that are less than a record are padding (RFC 3954 section 5.3, RFC 7011 section 3.3.1).
        """
        if not self.size:
            return self._walk(data, start, end)
        count = (end - start) // self.size
        if count:
            return data[start : start + count * self.size], count, None
        if not any(data[start:end]):
            return b"", 0, None
        return b"", 0, Malformed("truncated", f"{end - start} octets for records of {self.size}", start)

    def _walk(self, data: Buffer, start: int, end: int) -> tuple[Chunk, int, Malformed | None]:
        rows: list[Row] = []
        while start < end:
            row, stop = self._walk_record(data, start, end)
            if row is None:
                if rows and not any(data[start:end]):
                    break  # padding
                return rows, len(rows), Malformed("truncated", f"a record ends after {end - start} octets", start)
            rows.append(row)
            start = stop
        return rows, len(rows), None

    def _walk_record(self, data: Buffer, start: int, end: int) -> tuple[Row | None, int]:
        values = []
        for fixed in self.lengths:
            length = fixed
            if fixed == VARIABLE:
                if start >= end:
                    return None, start
                length = data[start]
                start += 1
                if length == 0xFF:  # the length is in the two octets that follow
                    length = int.from_bytes(data[start : start + 2], "big")
                    start += 2
            if start + length > end:
                return None, start
            values.append(bytes(data[start : start + length]))
            start += length
        return tuple(values), start


class Records:
    """The records of any number of data sets of one layout.

    Attributes:
        count: how many.
    """

    def __init__(self, layout: Layout, chunks: Sequence[Chunk]) -> None:
        self._rows: list[Row] = []
        if layout.size:
            joined = b"".join(chunks)  # type: ignore[arg-type]  # chunks are octets where the length is fixed
            self._array = np.frombuffer(joined, layout.storage)
            self.count = len(self._array)
        else:
            self._rows = list(chain.from_iterable(chunks))  # type: ignore[arg-type]  # and rows where it is not
            self.count = len(self._rows)
        self._layout = layout

    def values(self, slot: Slot) -> Array:
        """Return the octets of a slot of fixed length, one entry a record, as `storage_of` types them."""
        if self._layout.size:
            return self._array[slot.key]
        joined = b"".join([row[slot.position] for row in self._rows])
        return np.frombuffer(joined, np.dtype([(slot.key, storage_of(slot.form, slot.length))]))[slot.key]

    def column(self, slot: Slot) -> Column:
        """Return the column of a slot."""
        if slot.length == VARIABLE:
            return decode_each(slot.element, slot.field, [row[slot.position] for row in self._rows])
        return decode(slot.form, slot.field, self.values(slot))


def layout_of(version: int, fields: Sequence[FieldSpec], *, is_options: bool) -> Layout:
    """Return the layout of a template's records.

    Args:
        version: 5, 9 or 10.
        fields: as the template gives them, one at least with octets.
        is_options: whether the template is an options template.
    """
    slots, offsets, offset = [], [], 0
    for position, spec in enumerate(fields):
        slot = _slot_of(version, position, spec)
        if spec.length and slot.iana != _PADDING:
            slots.append(slot)
            offsets.append(offset)
        offset += spec.length
    lengths = tuple(spec.length for spec in fields)
    size = 0 if VARIABLE in lengths else offset
    formats = [storage_of(slot.form, slot.length) for slot in slots] if size else []
    names = [slot.key for slot in slots] if size else []
    storage = np.dtype({"names": names, "formats": formats, "offsets": offsets[: len(names)], "itemsize": max(size, 1)})
    return Layout(version, is_options, tuple(slots), size, storage, lengths)


def _slot_of(version: int, position: int, spec: FieldSpec) -> Slot:
    if spec.is_scope and version == V9:
        name = _V9_SCOPES.get(spec.id, f"{spec.id}")
        named = Element(IANA, 0, f"scope_{name}", DataType.UNSIGNED32, "", f"netflow.scope_{name}", "identifier")
    else:
        named = element(spec.enterprise, spec.id)
    return Slot(f"f{position}", position, named, named.field, form_of(named, spec.length), spec.length)
