"""The events of a file in pieces: gathered when DuckDB asks for them, so that a seal needs room for a few, not for all.

What may live here: `Pieces`, which finds out whether the tables of all pieces have one form, and gives them in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from eddy_mesh.batch import Batch
from eddy_mesh.columns import Numbers, Words, pack
from eddy_mesh.store.arrow_stream import Stored
from eddy_mesh.store.gather import gather
from eddy_mesh.store.summary import Summary, Summing
from eddy_mesh.store.tables import MAX_ENUM, Table, literal_of, table_of
from eddy_mesh.store.unfold import unfold

PIECE_ROWS = 65_536
"""Least events of a piece; its columns then are small enough to be made in memory that was used before."""


class Pieces:
    """Events of one kind, looked at once when this is made and once more when they are written.

    Attributes:
        form: a table without rows, with the columns and constants of the tables of all pieces.
        summary: of all events.

    Args:
        batches: one at least, all of one kind.
    """

    def __init__(self, batches: Sequence[Batch]) -> None:
        self._groups = _groups(batches)
        self._whole: Table | None = None
        summing = Summing(batches[0].kind)
        forms = []
        for group in self._groups:
            batch = unfold(gather(group))
            summing.add(batch)
            forms.append(_form_of(table_of(batch)))
        self.summary: Summary = summing.summary()
        form = _common(forms)
        if form is None:  # as where only some events have a field: they become alike when all are joined
            self._whole = table_of(unfold(gather(batches)))
            form = _form_of(self._whole)
        self.form = form

    def tables(self) -> Iterator[Table]:
        """Yield the tables of all pieces, in order, in one form."""
        if self._whole is not None:
            yield self._whole
            return
        for group in self._groups:
            table = table_of(unfold(gather(group)))
            held = table.columns | {
                name: _repeated(one, table.count) for name, one in table.constants.items() if name in self.form.columns
            }
            columns = {name: _in_form(held[name], wanted) for name, wanted in self.form.columns.items()}
            yield Table(table.count, columns, self.form.constants)


def _groups(batches: Sequence[Batch]) -> list[list[Batch]]:
    groups: list[list[Batch]] = [[]]
    rows = 0
    for batch in batches:
        if rows >= PIECE_ROWS:
            groups.append([])
            rows = 0
        groups[-1].append(batch)
        rows += batch.count
    if len(groups) > 1 and rows < PIECE_ROWS:  # few events may look otherwise than many
        last = groups.pop()
        groups[-1] += last
    return groups


def _form_of(table: Table) -> Table:
    """The same table without its rows."""
    return Table(0, {name: _emptied(column) for name, column in table.columns.items()}, table.constants)


def _emptied(column: Stored) -> Stored:
    if isinstance(column, Numbers):
        return Numbers(np.zeros(0, column.values.dtype))
    if isinstance(column, Words):
        return Words(np.zeros(0, column.codes.dtype), column.values)
    return type(column)(*pack([]))


def _common(forms: Sequence[Table]) -> Table | None:
    """The form that can hold tables of each of some forms, None where there is none.

    What is the same in every piece stays a constant; what is so in some pieces only is a column.
    """
    names = forms[0].columns.keys() | forms[0].constants.keys()
    common = Table(0)
    for name in [*forms[0].columns, *forms[0].constants]:
        found = [form.columns.get(name, form.constants.get(name)) for form in forms]
        held = [column for column in found if column is not None]
        if len(held) < len(forms):
            return None
        if all(name in form.constants and literal_of(form.constants[name]) == literal_of(held[0]) for form in forms):
            common.constants[name] = held[0]
            continue
        both: Stored | None = _emptied(held[0])
        for column in held[1:]:
            both = _joined(both, column) if both is not None else None
        if both is None:
            return None
        common.columns[name] = both
    return common if all(form.columns.keys() | form.constants.keys() == names for form in forms) else None


def _joined(one: Stored, other: Stored) -> Stored | None:
    """An empty column that can hold the values of two, None where there is none without loss."""
    if isinstance(one, Numbers) and isinstance(other, Numbers):
        both = np.result_type(one.values, other.values)
        return Numbers(np.zeros(0, both)) if both.kind in {one.values.dtype.kind, other.values.dtype.kind} else None
    if isinstance(one, Words) and isinstance(other, Words):
        values = tuple(dict.fromkeys((*one.values, *other.values))) if len(one.values) <= MAX_ENUM else one.values
        return Words(np.zeros(0, np.result_type(one.codes, other.codes)), values)
    return one if type(one) is type(other) else None


def _repeated(one: Stored, count: int) -> Stored:
    if isinstance(one, Numbers | Words):
        return one.take(np.zeros(count, np.intp))
    return type(one)(*pack([one.bytes_at(0)] * count))


def _in_form(column: Stored, form: Stored) -> Stored:
    if isinstance(column, Numbers) and isinstance(form, Numbers):
        return replace(column, values=column.values.astype(form.values.dtype, copy=False))
    if isinstance(column, Words) and isinstance(form, Words):
        return replace(column, codes=column.codes.astype(form.codes.dtype, copy=False))
    return column
