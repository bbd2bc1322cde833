"""The subject back end: which subjects can carry events that a statement selects, before any byte is read.

What may live here: matching of FROM patterns, what WHERE says about kinds, and the NATS subjects to subscribe to.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations
from typing import TypeAlias

from eddy_mesh.batch import Kind
from eddy_mesh.cer import EventClass, Stage
from eddy_mesh.selection.plan import (
    And,
    Condition,
    FieldComparison,
    IsNull,
    Not,
    Or,
    Pattern,
    Plan,
)
from eddy_mesh.selection.questions import question_of

_REST, _ONE = ">", "*"
_ANY_TRUTH: frozenset[bool | None] = frozenset({True, False, None})

Known: TypeAlias = tuple[tuple[str, str], ...]
"""Fields of the kind that are known, with their values."""


def matches_kind(plan: Plan, kind: Kind, origin: str) -> bool:
    """Return whether a statement can select an event of that kind and origin; False only where it can not.

    Args:
        plan: FROM, WHERE and the rule of stages are looked at.
        kind: stage, class and type of the events.
        origin: host process that produced them, as it stands in the subject.
    """
    if not plan.every_stage and kind.stage is Stage.RAW:
        return False
    if plan.sources and not any(source_matches(pattern, kind, origin) for pattern in plan.sources):
        return False
    return _can_be_true(plan.where, _known(*kind))


def source_matches(pattern: Pattern, kind: Kind, origin: str) -> bool:
    """Return whether a FROM pattern matches a prefix of ``class.type.origin``."""
    tokens = (str(kind.event_class), *kind.type.split("."), *origin.split("."))
    if pattern[-1] == _REST:
        pattern = (*pattern[:-1], _ONE)  # something must follow; a prefix lets the rest follow anyway
    return len(pattern) <= len(tokens) and all(
        wanted in {_ONE, token} for wanted, token in zip(pattern, tokens, strict=False)
    )


def _known(stage: Stage, event_class: EventClass | None = None, type_: str | None = None) -> Known:
    pairs = (("stage", stage), ("event_class", event_class), ("type", type_))
    return tuple((name, str(value)) for name, value in pairs if value is not None)


@lru_cache(maxsize=4096)
def _can_be_true(condition: Condition | None, known: Known) -> bool:
    return condition is None or True in _outcomes(condition, dict(known))


def _outcomes(condition: Condition, known: dict[str, str]) -> frozenset[bool | None]:
    """Return the truths that a condition can have where only the fields in ``known`` are known; None is NULL."""
    if isinstance(condition, Not):
        return frozenset(None if truth is None else not truth for truth in _outcomes(condition.part, known))
    if isinstance(condition, And | Or):
        return _joint([_outcomes(part, known) for part in condition.parts], strong=isinstance(condition, Or))
    if isinstance(condition, FieldComparison) or condition.operand.name not in known:
        return _ANY_TRUTH
    if isinstance(condition, IsNull):
        return frozenset({False})
    return frozenset({question_of(condition).on_value(known[condition.operand.name])})


def _joint(parts: list[frozenset[bool | None]], *, strong: bool) -> frozenset[bool | None]:
    """Return the truths of AND (``strong`` False: one FALSE decides) or OR (``strong`` True: one TRUE decides)."""
    result: set[bool | None] = {truth for part in parts for truth in part if truth is strong}
    rest = [part - {strong} for part in parts]
    if all(rest):
        if any(None in part for part in rest):
            result.add(None)
        if all((not strong) in part for part in rest):
            result.add(not strong)
    return frozenset(result)


# --- NATS subjects -------------------------------------------------------------------------------------------------


def subjects(plan: Plan, backplane: str) -> tuple[str, ...]:
    """Return NATS subjects that together carry every event that a statement can select.

    No subject of the result overlaps another, so a subscriber gets each message once. They may carry more than was
    asked for: `matches_kind` and the matcher decide.

    Args:
        plan: the statement.
        backplane: first token of every subject.
    """
    patterns = plan.sources or ((_REST,),)
    found = {tail for stage in _stages(plan) for pattern in patterns for tail in _tails(plan, stage, pattern)}
    if len(_stages(plan)) == len(Stage):
        found = {(_ONE, *tail[1:]) for tail in found}
    return tuple(".".join((backplane, "event", *tokens)) for tokens in sorted(_disjoint(found)))


def _stages(plan: Plan) -> list[Stage]:
    looked_at = (stage for stage in Stage if plan.every_stage or stage is not Stage.RAW)
    return [stage for stage in looked_at if _can_be_true(plan.where, _known(stage))]


def _tails(plan: Plan, stage: Stage, pattern: Pattern) -> list[Pattern]:
    tokens = (str(stage), *pattern)
    if pattern[0] not in {_ONE, _REST} and not _can_be_true(plan.where, _known(stage, EventClass(pattern[0]))):
        return []
    if pattern[-1] == _REST:
        return [tokens]
    # The last token may be the origin (nothing follows) or a part of the type (the rest and the origin follow).
    return [(*tokens, _REST), tokens] if len(pattern) >= 3 else [(*tokens, _REST)]


def _disjoint(found: set[Pattern]) -> set[Pattern]:
    """Join subjects that overlap until none does."""
    left = sorted(found)
    while (pair := _overlapping(left)) is not None:
        first, second = pair
        left = [each for each in left if each not in pair] + [_joined(first, second)]
    return set(left)


def _overlapping(left: list[Pattern]) -> tuple[Pattern, Pattern] | None:
    return next((pair for pair in combinations(left, 2) if _overlap(*pair)), None)


def _overlap(first: Pattern, second: Pattern) -> bool:
    for a, b in zip(first, second, strict=False):
        if _REST in {a, b}:
            return True
        if a != b and _ONE not in {a, b}:
            return False
    return len(first) == len(second)


def _joined(first: Pattern, second: Pattern) -> Pattern:
    """Return the narrowest subject that covers both."""
    tokens: list[str] = []
    for a, b in zip(first, second, strict=False):
        if _REST in {a, b}:
            return (*tokens, _REST)
        tokens.append(a if a == b else _ONE)
    return tuple(tokens)


def subject_matches(subject: str, pattern: str) -> bool:
    """Return whether a NATS subject matches a pattern with ``*`` and ``>``."""
    tokens, wanted = subject.split("."), pattern.split(".")
    for position, each in enumerate(wanted):
        if each == _REST:
            return len(tokens) > position
        if position >= len(tokens) or each not in {_ONE, tokens[position]}:
            return False
    return len(tokens) == len(wanted)
