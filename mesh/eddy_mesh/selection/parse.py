"""Text of a statement → checked plan.

What may live here: the parser (one Lark object, built at first use) and the order of the clauses. Conditions and names
are checked in `eddy_mesh.selection.check`; `eddy_mesh.selection.mistakes` says what is wrong with other texts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from eddy_mesh.cer import EventClass
from eddy_mesh.errors import StatementError
from eddy_mesh.selection.check import Checker
from eddy_mesh.selection.literals import integer, moment, quantity
from eddy_mesh.selection.mistakes import syntax_error
from eddy_mesh.selection.plan import Aggregate, Item, Key, Pattern, Plan, operands
from eddy_mesh.selection.render import render

if TYPE_CHECKING:
    from lark import Lark, Token, Tree
    from lark.lexer import TerminalDef

MAX_STATEMENT = 65_536
"""Most characters of a statement; a list of a few thousand addresses still fits."""

_CLASSES = tuple(str(each) for each in EventClass)
_MIN_EVERY_NS = 1_000_000


def compile_statement(text: str, *, now_ns: int) -> Plan:
    """Return the plan of a statement.

    Args:
        text: statement of the language in ``docs/select-language.md``.
        now_ns: what relative times such as '-1h' count from, ns since 1970 UTC.

    Raises:
        StatementError: the text is no statement, or names a field that there is not, or compares what does not
            compare. Nothing else is raised, whatever the text.
    """
    if len(text) > MAX_STATEMENT:
        message = f"the statement has {len(text)} characters, at most {MAX_STATEMENT} are taken: name fewer values"
        raise StatementError(message, text[:80], 0)
    clauses = {str(tree.data): tree for tree in _children(_tree(text))}
    checker = Checker(text, now_ns)
    plan = _Compiler(checker, clauses).plan()
    return replace(plan, text=render(plan))


@cache
def _parser() -> Lark:
    from lark import Lark  # noqa: PLC0415  # an agent that only passes events on never needs it

    grammar = files("eddy_mesh.selection").joinpath("grammar.lark").read_text("utf-8")
    return Lark(grammar, parser="lalr", start="statement", maybe_placeholders=False, edit_terminals=_end_with_the_word)


def _end_with_the_word(terminal: TerminalDef) -> None:
    """Let a keyword match whole words only: SELECTid and LIMIT5 are none, and limit-x is a name."""
    from lark.lexer import PatternRE  # noqa: PLC0415

    word = terminal.pattern.value
    if word.isalpha():
        terminal.pattern = PatternRE(rf"{word}(?![\w@.-])", terminal.pattern.flags)
        terminal.priority = 1  # before NAME, which matches the same words


def _tree(text: str) -> Tree[Token]:
    from lark import UnexpectedInput  # noqa: PLC0415

    parser = _parser()
    try:
        return parser.parse(text)
    except UnexpectedInput as error:
        raise syntax_error(text, error) from None


def _children(tree: Tree[Token]) -> Iterator[Tree[Token]]:
    return (child for child in tree.children if not isinstance(child, str))


# --- clauses ---------------------------------------------------------------------------------------------------------


class _Compiler:
    """One statement on its way to a plan."""

    def __init__(self, checker: Checker, clauses: dict[str, Tree[Token]]) -> None:
        self._check = checker
        self._clauses = clauses

    def plan(self) -> Plan:
        check, clauses = self._check, self._clauses
        where = check.condition(clauses["where"].children[0]) if "where" in clauses else None
        items = self._items()
        group_by = tuple(check.field(name) for name in self._of("group"))
        having = check.having(clauses["having"].children[0]) if "having" in clauses else None
        order_by = self._order(items)
        aggregates = [item.value for item in items] + [key.value for key in order_by] + check.in_having
        plan = Plan(
            text="",
            sources=self._sources(),
            where=where,
            every_stage=any(operand.name in {"stage", "id"} for operand in operands(where)),
            items=items,
            since_ns=self._moment("since"),
            until_ns=self._moment("until"),
            group_by=tuple(dict.fromkeys(group_by)),
            aggregates=tuple(dict.fromkeys(each for each in aggregates if isinstance(each, Aggregate))),
            having=having,
            order_by=order_by,
            limit=self._limit(),
            every_ns=self._every(),
        )
        self._agrees(plan)
        return plan

    def _of(self, clause: str) -> list[Tree[Token]]:
        tree = self._clauses.get(clause)
        return [] if tree is None else list(_children(tree))

    def _items(self) -> tuple[Item, ...]:
        items: dict[str, Item] = {}
        for tree in self._of("projection"):
            value_tree, *alias = _children(tree)
            value = self._check.value(value_tree)
            name = self._check.alias(alias[0], value) if alias else value.name
            if name in items:
                raise self._check.error(f"two items are called {name}: rename one with AS", tree)
            items[name] = Item(value, name)
        return tuple(items.values())

    def _order(self, items: tuple[Item, ...]) -> tuple[Key, ...]:
        named = {item.name: item.value for item in items}
        keys = []
        for tree in self._of("order"):
            value_tree = next(_children(tree))
            called = self._check.name(value_tree) if value_tree.data == "name" else ""
            value = named[called] if called in named else self._check.value(value_tree)
            keys.append(Key(value, any(isinstance(child, str) and child.type == "DESC" for child in tree.children)))
        return tuple(keys)

    def _sources(self) -> tuple[Pattern, ...]:
        tree = self._clauses.get("from")
        if tree is None:
            return ()
        return tuple(dict.fromkeys(self._pattern(token) for token in tree.children if isinstance(token, str)))

    def _pattern(self, token: Token) -> Pattern:
        tokens = tuple(token.lower().split("."))
        if ">" in tokens[:-1]:
            raise self._check.error("> stands for all that follows, so it can only come last", token)
        if tokens[0] in {"*", ">", *_CLASSES}:
            return tokens
        near = get_close_matches(tokens[0], _CLASSES, n=1)
        mended = self._check.replaced(token, f"*.{token.lower()}")
        message = (
            f"{tokens[0]!r} is no event class ({', '.join(_CLASSES)}); for a type write *.{token.lower()}: {mended}"
        )
        raise self._check.error(message, token, near[0] if near else "")

    def _moment(self, clause: str) -> int | None:
        tree = self._clauses.get(clause)
        if tree is None:
            return None
        return self._check.convert(lambda text: moment(text, self._check.now_ns), tree.children[0])

    def _limit(self) -> int | None:
        tree = self._clauses.get("limit")
        if tree is None:
            return None
        limit = self._check.convert(integer, tree.children[0])
        if not 1 <= limit < 1 << 63:
            raise self._check.error("LIMIT wants a number from 1 on", tree.children[0])
        return limit

    def _every(self) -> int | None:
        tree = self._clauses.get("every")
        if tree is None:
            return None
        every, is_time = self._check.convert(quantity, tree.children[0])
        if not is_time or not _MIN_EVERY_NS <= every < 1 << 60:
            raise self._check.error("EVERY wants a duration of at least 1ms, such as 10s", tree.children[0])
        return every

    def _agrees(self, plan: Plan) -> None:
        """Check the rules that join clauses."""
        for clause in ("every", "having"):
            if clause in self._clauses and not plan.is_aggregate:
                message = f"{clause.upper()} wants an aggregate such as count(*), or GROUP BY"
                raise self._check.error(message, self._clauses[clause])
        if not plan.is_aggregate:
            return
        if not plan.items:
            raise self._check.error(
                "* has no meaning in groups: name fields and aggregates", self._clauses["projection"]
            )
        grouped = {operand.name for operand in plan.group_by} | {aggregate.name for aggregate in plan.aggregates}
        read = [("projection", item.value.name) for item in plan.items]
        read += [("order", key.value.name) for key in plan.order_by]
        read += [("having", operand.name) for operand in operands(plan.having)]
        for clause, name in read:
            if name not in grouped:
                message = f"{name} differs inside a group: put it into GROUP BY or an aggregate"
                raise self._check.error(message, self._clauses[clause])
