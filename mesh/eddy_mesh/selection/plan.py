"""The typed plan of a statement: what every back end works from.

What may live here: frozen values. A plan has no text positions and no relative times, its literals have the type of
the field they are compared with, and `Plan.text` is its canonical statement.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

import msgspec

from eddy_mesh.fields import FieldType

Literal: TypeAlias = bool | int | float | str | bytes
"""Addresses and ids are 128-bit integers (IPv4 mapped), times are ns since 1970 UTC, levels are 0-7."""


class Operator(StrEnum):
    """How two values are compared."""

    EQ = "="
    NE = "!="
    LT = "<"
    LE = "<="
    GT = ">"
    GE = ">="


class Function(StrEnum):
    """What an aggregate computes of the rows of a group."""

    COUNT = "count"
    SUM = "sum"
    MIN = "min"
    MAX = "max"
    AVG = "avg"


class Operand(msgspec.Struct, frozen=True):
    """A field that a statement reads.

    Attributes:
        name: dotted name; in HAVING also the canonical text of an aggregate.
        type: how its values are compared; a value of another type counts as NULL.
        is_open: the registry gives the field no type, ``type`` is that of the literal it is compared with.
    """

    name: str
    type: FieldType
    is_open: bool = False


class Aggregate(msgspec.Struct, frozen=True):
    """One aggregate: ``count(*)`` where ``operand`` is None."""

    function: Function
    operand: Operand | None = None
    distinct: bool = False

    @property
    def name(self) -> str:
        """Canonical text, and the name in the result where AS gives no other."""
        inside = "*" if self.operand is None else self.operand.name
        return f"{self.function}({'DISTINCT ' if self.distinct else ''}{inside})"

    @property
    def type(self) -> FieldType:
        """Type of the result."""
        if self.function is Function.COUNT or self.operand is None:
            return FieldType.INT
        return FieldType.FLOAT if self.function is Function.AVG else self.operand.type


# --- conditions: TRUE, FALSE or NULL for each event ------------------------------------------------------------


class Comparison(msgspec.Struct, frozen=True):
    """``operand operator value``."""

    operand: Operand
    operator: Operator
    value: Literal


class FieldComparison(msgspec.Struct, frozen=True):
    """``left operator right``; both are of types that compare."""

    left: Operand
    operator: Operator
    right: Operand


class Among(msgspec.Struct, frozen=True):
    """``operand IN (values)``; values are different and sorted."""

    operand: Operand
    values: tuple[Literal, ...]


class Network(msgspec.Struct, frozen=True):
    """One block of addresses.

    Attributes:
        text: canonical text, ``10.0.0.0/8``.
        ranges: first and last address of each run, 128 bits, IPv4 mapped; ``::/0`` has two, around the IPv4 ones.
    """

    text: str
    ranges: tuple[tuple[int, int], ...]


class InNetworks(msgspec.Struct, frozen=True):
    """``operand IN CIDR (networks)``."""

    operand: Operand
    networks: tuple[Network, ...]


class Like(msgspec.Struct, frozen=True):
    """``operand LIKE pattern``: the whole text, case-sensitive; % any run, _ one character, backslash escapes."""

    operand: Operand
    pattern: str


class Matches(msgspec.Struct, frozen=True):
    """``operand ~ pattern``: RE2 finds the pattern somewhere in the text."""

    operand: Operand
    pattern: str


class IsNull(msgspec.Struct, frozen=True):
    """``operand IS NULL``; never NULL itself."""

    operand: Operand


class Not(msgspec.Struct, frozen=True):
    """``NOT part``."""

    part: Condition


class And(msgspec.Struct, frozen=True):
    """All of two or more parts."""

    parts: tuple[Condition, ...]


class Or(msgspec.Struct, frozen=True):
    """At least one of two or more parts."""

    parts: tuple[Condition, ...]


Predicate: TypeAlias = Comparison | FieldComparison | Among | InNetworks | Like | Matches | IsNull
Condition: TypeAlias = Predicate | Not | And | Or


def operands(condition: Condition | None) -> frozenset[Operand]:
    """Return every field that a condition reads."""
    if condition is None:
        return frozenset()
    if isinstance(condition, And | Or):
        return frozenset().union(*(operands(part) for part in condition.parts))
    if isinstance(condition, Not):
        return operands(condition.part)
    if isinstance(condition, FieldComparison):
        return frozenset({condition.left, condition.right})
    return frozenset({condition.operand})


# --- the statement -----------------------------------------------------------------------------------------------


class Item(msgspec.Struct, frozen=True):
    """One item of the projection and the name that it has in the result."""

    value: Operand | Aggregate
    name: str


class Key(msgspec.Struct, frozen=True):
    """One key of ORDER BY. NULL comes last in either direction."""

    value: Operand | Aggregate
    descending: bool = False


Pattern: TypeAlias = tuple[str, ...]
"""Tokens of one FROM pattern: ``("network", "netflow", "*")``; it matches a prefix of class, type and origin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A checked statement.

    Attributes:
        text: canonical statement: equal for statements that mean the same in the same words; compiles to this plan.
        sources: patterns of FROM; none selects everything.
        where: condition of WHERE, or None.
        every_stage: whether raw events are looked at too, because WHERE mentions ``stage`` or ``id``.
        items: the projection; none means ``*``.
        since_ns: first ``occurred`` time that is selected, or None.
        until_ns: first ``occurred`` time that is not, or None.
        group_by: fields of GROUP BY.
        aggregates: every aggregate that SELECT, HAVING and ORDER BY name, each once.
        having: condition on the groups, or None; its operands are group fields and names of aggregates.
        order_by: keys of ORDER BY.
        limit: most rows of the result (of each window with EVERY), or None.
        every_ns: length of the windows, or None.
    """

    text: str
    sources: tuple[Pattern, ...] = ()
    where: Condition | None = None
    every_stage: bool = False
    items: tuple[Item, ...] = ()
    since_ns: int | None = None
    until_ns: int | None = None
    group_by: tuple[Operand, ...] = ()
    aggregates: tuple[Aggregate, ...] = ()
    having: Condition | None = None
    order_by: tuple[Key, ...] = ()
    limit: int | None = None
    every_ns: int | None = None

    @property
    def is_aggregate(self) -> bool:
        """Whether the result has one row a group instead of one an event."""
        return bool(self.aggregates or self.group_by)


def needed_fields(plan: Plan) -> frozenset[str]:
    """Return the names of the fields that a statement reads; for ``*`` only those outside the projection."""
    values = [item.value for item in plan.items] + [key.value for key in plan.order_by]
    read = set(operands(plan.where)) | set(plan.group_by)
    read |= {value for value in values if isinstance(value, Operand)}
    read |= {aggregate.operand for aggregate in plan.aggregates if aggregate.operand is not None}
    names = {operand.name for operand in read}
    if plan.since_ns is not None or plan.until_ns is not None:
        names.add("occurred")
    if plan.every_ns is not None:
        names.add("observed")
    return frozenset(names)


def row_names(plan: Plan) -> tuple[str, ...]:
    """Return the names that a row of the result shows, in order; none for ``*``, which shows all."""
    return tuple(item.name for item in plan.items)
