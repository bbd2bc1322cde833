"""Several archives as one: what each is asked, so that their answers can be merged and an event of several comes once.

What may live here: the plan that each archive gets, and the order of its rows. Equal events come from all archives at
the same place of the order, one after the other, so whoever merges keeps one row of each and no list of ids.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cmp_to_key
from typing import Any, NamedTuple, TypeAlias

from eddy_mesh.fields import FieldType
from eddy_mesh.rows import value_of_json
from eddy_mesh.selection.plan import Item, Key, Literal, Operand, Plan
from eddy_mesh.selection.values import comparable

Answer: TypeAlias = Mapping[str, object]
ID = "id"
ROW_ID = "#id"
"""Name under which a row has the id of its event where the statement does not show it."""


class Merge(NamedTuple):
    """How the answers of several archives become one.

    Attributes:
        plan: what each archive is asked.
        added: names in its rows that the statement does not show.
        place: key of a row of the answers: rows are merged by it.
    """

    plan: Plan
    added: frozenset[str]
    place: Callable[[Answer], Any]


def merge_of(plan: Plan) -> Merge:
    """Return how the answers to a plan are merged: by its order and then by id.

    Args:
        plan: without aggregates.
    """
    keys = plan.order_by or (Key(Operand(ID, FieldType.ID)),)
    items, names = list(plan.items), []
    for number, key in enumerate(keys):
        assert isinstance(key.value, Operand)
        shown = next((item.name for item in items if item.value == key.value), "")
        if not shown and items and key.value.name != ID:  # rows in an order have their id anyway
            is_taken = any(item.name == key.value.name for item in items)
            shown = f"order_{number}" if is_taken else key.value.name
            items.append(Item(key.value, shown))
        names.append(shown or key.value.name)
    asked = replace(plan, items=tuple(items), order_by=keys)
    added = frozenset(item.name for item in items[len(plan.items) :])
    return Merge(asked, added, cmp_to_key(lambda one, other: _compared(one, other, keys, names)))


def identity(row: Answer) -> str:
    """Return the id of a row's event, UUID text, or "" for a row without one."""
    return str(row.get(ROW_ID) or row.get(ID) or "")


def _compared(one: Answer, other: Answer, keys: Sequence[Key], names: Sequence[str]) -> int:
    """Return which row comes first, as a store orders them: less than 0 for ``one``."""
    for key, name in zip(keys, names, strict=True):
        assert isinstance(key.value, Operand)
        for kind in (FieldType.FLOAT, key.value.type) if key.value.type is FieldType.ANY else (key.value.type,):
            left, right = (comparable(kind, value_of_json(key.value.name, row.get(name))) for row in (one, other))
            if left != right:
                return _apart(left, right, descending=key.descending)
    left, right = identity(one), identity(other)
    return (left > right) - (left < right)


def _apart(left: Literal | None, right: Literal | None, *, descending: bool) -> int:
    if left is None or right is None:
        return 1 if left is None else -1  # NULL comes last in either direction
    is_before = left < right  # type: ignore[operator]  # both are of the type of the key
    return -1 if is_before is not descending else 1
