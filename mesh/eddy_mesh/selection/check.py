"""Names, types and conditions of a statement, checked against the field registry.

What may live here: `Checker`, which turns the conditions and values of a parse tree into those of a plan, and says
where and why it can not.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import chain
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from eddy_mesh import fields
from eddy_mesh.errors import StatementError
from eddy_mesh.fields import Field, FieldType
from eddy_mesh.selection import patterns
from eddy_mesh.selection.literals import WANTED, finite, literal, network
from eddy_mesh.selection.plan import (
    Aggregate,
    Among,
    And,
    Comparison,
    Condition,
    FieldComparison,
    Function,
    InNetworks,
    IsNull,
    Like,
    Literal,
    Matches,
    Not,
    Operand,
    Operator,
    Or,
)

if TYPE_CHECKING:
    from lark import Token, Tree

    Node: TypeAlias = Tree[Token] | Token

MAX_DEPTH = 64
"""Most levels of parentheses and NOT: keeps every walk over a plan, and a store's own parser, inside its stack."""
MAX_CONDITIONS = 500
"""Most conditions of a statement; SQLite refuses expressions more than 1,000 deep."""

_T = TypeVar("_T")
_TEXTS = frozenset({FieldType.TEXT, FieldType.LIST})
_NUMBERS = frozenset({FieldType.INT, FieldType.TIME, FieldType.LEVEL, FieldType.FLOAT})
_UNORDERED = frozenset({FieldType.BOOL, FieldType.BYTES})
_OPEN_TYPES = {
    "STRING": FieldType.TEXT,
    "NUMBER": FieldType.FLOAT,
    "TRUE": FieldType.BOOL,
    "FALSE": FieldType.BOOL,
}
_UNNAMEABLE = re.compile(r'[\\"\x00-\x1f\x7f]')


class Checker:
    """The names and types of one statement.

    Attributes:
        now_ns: what relative times count from.
        in_having: aggregates met in HAVING.
    """

    def __init__(self, statement: str, now_ns: int) -> None:
        self.now_ns = now_ns
        self.in_having: list[Aggregate] = []
        self._statement = statement
        self._is_having = False
        self._conditions = 0
        self._units: dict[str, str] = {}  # of the aggregates in HAVING

    # --- errors and positions

    def error(self, message: str, node: Node, suggestion: str = "") -> StatementError:
        """Return the error for a part of the statement."""
        return StatementError(message, self._statement, _position(node), suggestion)

    def replaced(self, token: Token, text: str) -> str:
        """Return the statement with other text in the place of a token."""
        start = token.start_pos or 0
        return self._statement[:start] + text + self._statement[start + len(token) :]

    def convert(self, conversion: Callable[[str], _T], node: Node) -> _T:
        """Return the converted text of a token; its ValueError becomes an error with the token's position."""
        try:
            return conversion(_unquoted(node))
        except ValueError as error:
            raise self.error(str(error), node) from None

    # --- names and values

    def name(self, tree: Node) -> str:
        """Return the field name that a ``name`` node spells."""
        token = _token(tree)
        spelled = str(token)[1:-1] if token.type == "QUOTED" else str(token)
        if not spelled or _UNNAMEABLE.search(spelled):
            raise self.error(f'{spelled!r} can not be a name: it is empty, or has a control character, " or \\', tree)
        return spelled

    def field(self, tree: Node) -> Operand:
        """Return the field that a ``name`` node names."""
        name = self.name(tree)
        known = fields.field(name)
        if known is None:
            raise self.error(f"there is no field {name}", tree, fields.nearest(name))
        return Operand(name, known.type, known.type is FieldType.ANY)

    def value(self, tree: Tree[Token]) -> Operand | Aggregate:
        """Return the field or aggregate of a ``value`` node."""
        return self.field(tree) if tree.data == "name" else self._aggregate(tree)

    def alias(self, tree: Node, value: Operand | Aggregate) -> str:
        """Return the name after AS. A name that the registry knows must keep its type: readers go by it."""
        name = self.name(tree)
        known = fields.field(name)
        if known is not None and known.type not in {value.type, FieldType.ANY}:
            raise self.error(
                f"{name} is a field of type {known.type}, {value.name} is {value.type}: take another name", tree
            )
        return name

    def _aggregate(self, tree: Tree[Token]) -> Aggregate:
        function = Function(str(tree.children[0]).lower())
        distinct = any(isinstance(child, str) and child.type == "DISTINCT" for child in tree.children)
        argument = tree.children[-1]
        if isinstance(argument, str):
            if function is not Function.COUNT:
                raise self.error(f"{function}(*) has no meaning: name a field", argument)
            return Aggregate(function)
        if distinct and function is not Function.COUNT:
            raise self.error("DISTINCT is only known in count(DISTINCT field)", tree)
        operand = self.field(argument)
        if function is Function.COUNT:
            return Aggregate(function, operand, distinct)
        if operand.type is FieldType.ANY:
            return Aggregate(function, Operand(operand.name, FieldType.FLOAT, is_open=True))
        numeric = function in {Function.SUM, Function.AVG}
        wrong = (
            operand.type not in {FieldType.INT, FieldType.FLOAT}
            if numeric
            else operand.type in _UNORDERED | {FieldType.IDS}
        )
        if wrong:
            raise self.error(
                f"{function} wants {'numbers' if numeric else 'an order'}, {operand.name} is {operand.type}", argument
            )
        return Aggregate(function, operand)

    # --- conditions

    def having(self, node: Node) -> Condition:
        """Return the condition of HAVING; aggregates in it become operands with the aggregate's name."""
        self._is_having = True
        return self.condition(node)

    def condition(self, node: Node, depth: int = 0) -> Condition:
        """Return the condition of a tree."""
        assert not isinstance(node, str)
        if depth > MAX_DEPTH:
            raise self.error(f"more than {MAX_DEPTH} levels of parentheses and NOT: write it flatter", node)
        kind = str(node.data)
        if kind == "group_of":
            return self.condition(node.children[0], depth + 1)
        if kind == "not":
            return Not(self.condition(node.children[-1], depth + 1))
        if kind in {"any", "all"}:
            return _joined(
                Or if kind == "any" else And,
                [self.condition(child, depth + 1) for child in node.children if not isinstance(child, str)],
            )
        self._conditions += 1
        if self._conditions > MAX_CONDITIONS:
            raise self.error(f"more than {MAX_CONDITIONS} conditions: name values in IN (...) instead", node)
        made: Condition = _PREDICATES[kind](self, node)
        negated = kind != "comparison" and any(
            isinstance(child, str) and child.type == "NOT" for child in node.children
        )
        return Not(made) if negated else made

    def operand(self, tree: Node) -> Operand:
        """Return the left side of a predicate."""
        assert not isinstance(tree, str)
        value = self.value(tree)
        if isinstance(value, Operand):
            # A group is known by the text of a value that has no type of its own.
            return Operand(value.name, FieldType.TEXT) if self._is_having and value.is_open else value
        if not self._is_having:
            raise self.error(f"{value.name} is known after the events are grouped: put it into HAVING", tree)
        self.in_having.append(value)
        if value.operand is not None and value.function is not Function.COUNT:
            known = fields.field(value.operand.name)
            self._units[value.name] = "" if known is None else known.unit
        return Operand(value.name, value.type)

    def comparison(self, tree: Tree[Token]) -> Condition:
        """``a = 1``, ``a < b``, ``a ~ 'x'``."""
        left, sign, right = tree.children
        operand = self.operand(left)
        if sign in {"~", "!~"}:
            return self._matches(operand, str(sign), left, right)
        operator = Operator("!=" if sign == "<>" else str(sign))
        if operand.type in _UNORDERED and operator not in {Operator.EQ, Operator.NE}:
            raise self.error(f"{operand.name} is {operand.type}, which has no order: only = and != are known", sign)
        if self._is_field(operand, right):
            return self._two_fields(operand, operator, right)
        operand, value = self._literal(operand, right)
        if operand.type is FieldType.BOOL and operator not in {Operator.EQ, Operator.NE}:
            raise self.error("TRUE and FALSE have no order: only = and != are known", sign)
        return Comparison(operand, operator, value)

    def between(self, tree: Tree[Token]) -> Condition:
        """``a BETWEEN 1 AND 2``: both ends belong to it."""
        left, low_node, high_node = _without_not(tree)
        operand = self.operand(left)
        low_operand, low = self._literal(operand, low_node)
        high_operand, high = self._literal(operand, high_node)
        if low_operand != high_operand or low_operand.type in _UNORDERED:
            raise self.error("BETWEEN wants two values of one type that has an order", low_node)
        return And((Comparison(low_operand, Operator.GE, low), Comparison(high_operand, Operator.LE, high)))

    def among(self, tree: Tree[Token]) -> Condition:
        """``a IN (1, 2)``."""
        left, values_tree = _without_not(tree)
        operand = self.operand(left)
        assert not isinstance(values_tree, str)
        typed = [self._literal(operand, node) for node in values_tree.children]
        for (each, _), node in zip(typed, values_tree.children, strict=True):
            if each != typed[0][0]:
                raise self.error("the values of IN are of different types: write one IN for each type", node)
        return Among(typed[0][0], tuple(sorted({value for _, value in typed})))

    def in_networks(self, tree: Tree[Token]) -> Condition:
        """``a IN CIDR '10.0.0.0/8'``."""
        left, networks = _without_not(tree)
        operand = self.operand(left)
        if operand.type is not FieldType.ADDRESS:
            raise self.error(f"IN CIDR wants an address, {operand.name} is {operand.type}", left)
        assert not isinstance(networks, str)
        blocks = {self.convert(network, node) for node in networks.children}
        return InNetworks(operand, tuple(sorted(blocks, key=lambda block: (block.ranges, block.text))))

    def like(self, tree: Tree[Token]) -> Condition:
        """``a LIKE 'x%'``."""
        left, pattern = _without_not(tree)
        operand = self._textual(self.operand(left), "LIKE", left)
        text = _unquoted(pattern)
        self.convert(lambda _: patterns.like_tokens(text), pattern)
        return Like(operand, text)

    def is_null(self, tree: Tree[Token]) -> Condition:
        """``a IS NULL``."""
        return IsNull(self.operand(tree.children[0]))

    def _matches(self, operand: Operand, sign: str, left: Node, right: Node) -> Condition:
        found = Matches(self._textual(operand, sign, left), self._pattern(right))
        return Not(found) if sign == "!~" else found

    def _pattern(self, node: Node) -> str:
        token = _token(node)
        if token.type != "STRING":
            raise self.error("~ wants a pattern in single quotes", node)
        text = _unquoted(node)
        self.convert(lambda _: patterns.regex(text), node)
        return text

    def _textual(self, operand: Operand, sign: str, node: Node) -> Operand:
        if operand.is_open:
            return Operand(operand.name, FieldType.TEXT, is_open=True)
        if operand.type not in _TEXTS:
            raise self.error(f"{sign} wants a text, {operand.name} is {operand.type}", node)
        return operand

    def _is_field(self, left: Operand, right: Node) -> bool:
        assert not isinstance(right, str)
        if right.data == "literal":
            return False
        if left.type is not FieldType.LEVEL or right.data != "name":
            return True
        return fields.level_number(self.name(right)) is None

    def _two_fields(self, left: Operand, operator: Operator, node: Node) -> Condition:
        right = self.operand(node)
        if left.is_open and right.is_open:
            raise self.error(f"the types of {left.name} and {right.name} are not known: compare with a literal", node)
        if left.is_open:
            left = Operand(left.name, _open_as(right.type), is_open=True)
        elif right.is_open:
            right = Operand(right.name, _open_as(left.type), is_open=True)
        same = left.type is right.type or {left.type, right.type} <= _NUMBERS or {left.type, right.type} <= _TEXTS
        unordered = left.type in _UNORDERED and operator not in {Operator.EQ, Operator.NE}
        if not same or unordered or FieldType.IDS in {left.type, right.type}:
            raise self.error(
                f"{left.name} is {left.type} and {right.name} is {right.type}: they do not compare by {operator}", node
            )
        return FieldComparison(left, operator, right)

    def _literal(self, operand: Operand, node: Node) -> tuple[Operand, Literal]:
        """Return a literal in the type of the operand, and the operand as it is read for it."""
        token = _token(node)
        if token.type == "NULL":
            raise self.error("nothing equals NULL: write IS NULL or IS NOT NULL", node)
        if operand.type is FieldType.IDS:
            raise self.error(f"{operand.name} holds any number of ids: only IS NULL and IS NOT NULL are known", node)
        if operand.is_open and operand.type is FieldType.ANY:
            return self._open_literal(operand, token)
        known = fields.field(operand.name) or Field(operand.name, operand.type, self._units.get(operand.name, ""))
        return operand, self.convert(lambda text: literal(known, token.type, text, self.now_ns), node)

    def _open_literal(self, operand: Operand, token: Token) -> tuple[Operand, Literal]:
        kind = _OPEN_TYPES.get(token.type)
        if kind is None:
            raise self.error(f"{operand.name} has no type of its own: compare it with {WANTED[FieldType.ANY]}", token)
        typed = Operand(operand.name, kind, is_open=True)
        if kind is FieldType.BOOL:
            return typed, token.type == "TRUE"
        return typed, _unquoted(token) if kind is FieldType.TEXT else self.convert(finite, token)


_PREDICATES: dict[str, Callable[[Checker, Tree[Token]], Condition]] = {
    "comparison": Checker.comparison,
    "between": Checker.between,
    "among": Checker.among,
    "in_networks": Checker.in_networks,
    "like": Checker.like,
    "is_null": Checker.is_null,
}


def _joined(kind: type[And | Or], parts: list[Condition]) -> Condition:
    """Return one flat AND or OR of parts, each once."""
    flat = chain.from_iterable(part.parts if isinstance(part, kind) else (part,) for part in parts)
    different = tuple(dict.fromkeys(flat))
    return different[0] if len(different) == 1 else kind(different)


def _open_as(kind: FieldType) -> FieldType:
    if kind in _NUMBERS:
        return FieldType.FLOAT
    return FieldType.TEXT if kind in _TEXTS else kind


def _without_not(tree: Tree[Token]) -> list[Node]:
    return [child for child in tree.children if not (isinstance(child, str) and child.type in {"NOT", "CIDR"})]


def _token(node: Node) -> Token:
    while not isinstance(node, str):
        node = node.children[0]
    return node


def _position(node: Node) -> int:
    try:
        return _token(node).start_pos or 0
    except IndexError:
        return 0


def _unquoted(node: Node) -> str:
    token = _token(node)
    return str(token)[1:-1].replace("''", "'") if token.type == "STRING" else str(token)
