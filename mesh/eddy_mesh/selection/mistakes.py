"""What is said of a text that is no statement: the word that does not belong, what could stand there, what to write.

What may live here: messages of the grammar's mistakes. Pure.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import TYPE_CHECKING

from eddy_mesh.errors import StatementError
from eddy_mesh.selection.literals import network

if TYPE_CHECKING:
    from lark import UnexpectedInput

_PLACES = {
    "NAME": "a field name",
    "STRING": "a text in single quotes",
    "NUMBER": "a number",
    "QUANTITY": "a duration such as 10s",
    "PATTERN": "a pattern such as network.netflow.*",
    "COMPARE": "a comparison such as =",
    "LPAR": "an opening parenthesis",
    "RPAR": "a closing parenthesis",
    "COMMA": "a comma",
    "STAR": "*",
}
_UNSAID = frozenset({"QUOTED", "FUNCTION", "$END"})

_OPERATORS = ("BETWEEN", "IN", "IS", "LIKE")
_SIGNS = "=, !=, <, <=, >, >=, ~, !~"
_LIKE_FORMS = {
    "CONTAINS": "%{}%",
    "HAS": "%{}%",
    "INCLUDES": "%{}%",
    "STARTSWITH": "{}%",
    "ENDSWITH": "%{}",
}
"""Operators of other languages → the LIKE pattern that does the same."""
_PATTERN_WORDS = frozenset({"MATCHES", "MATCH", "REGEXP", "REGEX", "RLIKE"})
"""Operators of other languages that search a regular expression."""
_EQUALS = frozenset({"EQUALS", "EQ"})
_MAX_SHOWN = 80
"""Longest text that a message repeats, characters."""


def syntax_error(text: str, error: UnexpectedInput) -> StatementError:
    """Return the error of a text that the grammar refuses.

    Args:
        text: the statement.
        error: what the parser says of it.
    """
    position = error.pos_in_stream
    at_end = getattr(getattr(error, "token", None), "type", "") == "$END"
    if at_end or position is None:
        position = len(text)
    expected = _expected(error)
    if "COMPARE" in expected or expected & set(_OPERATORS) == {"BETWEEN", "IN", "LIKE"}:
        return _no_operator(text, position, expected)
    keywords = sorted(name for name in expected if name.isalpha() and name not in _PLACES and name not in _UNSAID)
    wanted = ", ".join([_PLACES[name] for name in _PLACES if name in expected] + keywords)
    near = get_close_matches(_word(text, position).upper(), keywords, n=1)
    hint = f": expected {wanted}" if wanted else ": remove it"
    message = f"{_found(text, position)} here{hint}{_advice(text, position)}"
    return StatementError(message, text, position, near[0] if near else "")


def _expected(error: UnexpectedInput) -> set[str]:
    """Return the terminals that can stand there; the lexer's own list has those of other places as well."""
    parser = getattr(error, "interactive_parser", None)
    accepted = set(parser.accepts()) if parser is not None else set()
    return accepted or set(getattr(error, "expected", None) or getattr(error, "allowed", None) or ())


def _found(text: str, position: int) -> str:
    return "the statement ends" if position >= len(text) else f"{_word(text, position)!r} does not belong"


def _no_operator(text: str, position: int, expected: set[str]) -> StatementError:
    """Return the error of a place where an operator has to stand."""
    known = [name for name in _OPERATORS if name in expected]
    signs = f"{_SIGNS}, " if "COMPARE" in expected else ""
    word = _NAME.match(text, position)
    found = f"{word[0]!r} is no operator" if word else f"{_found(text, position)} here: an operator is missing"
    near = get_close_matches(word[0].upper(), known, n=1, cutoff=0.7) if word else []
    written = _instead(text, word) if word else ""
    message = f"{found}: write {signs}{', '.join(known[:-1])} or {known[-1]}{written}"
    return StatementError(message, text, position, near[0] if near and not written else "")


def _instead(text: str, word: re.Match[str]) -> str:
    """Return what the language has in place of another language's operator, with the text that follows it, or ""."""
    name, quoted = word[0].upper(), _TEXT.match(text, word.end())
    value = quoted[1] if quoted and len(quoted[1]) <= _MAX_SHOWN else "text"
    negated = _NOT.search(text, 0, word.start()) is not None
    if name in _LIKE_FORMS:
        literal = re.sub(r"[\\%_]", r"\\\g<0>", value)
        return f"; for {word[0]} write LIKE '{_LIKE_FORMS[name].format(literal)}'"
    if name in _PATTERN_WORDS:
        return f"; for NOT {word[0]} write !~ '{value}'" if negated else f"; for {word[0]} write ~ '{value}'"
    return f"; for {word[0]} write =" if name in _EQUALS else ""


def _advice(text: str, position: int) -> str:
    """Return what to write where an address or a list has another form than most would expect, or ""."""
    before, quoted = text[:position], _QUOTED.match(text, position)
    if _IN.search(before) and quoted is not None:
        return f"; write IN CIDR {quoted[0]}" if "/" in quoted[0] else f"; write IN ({quoted[0]})"
    if text[position - 1 : position + 1] == "==":
        return "; write one ="
    if text[position : position + 1] == "'":
        return "; a text ends with a single quote, and '' stands for one inside it"
    start = position - len(_ADDRESS_END.search(before)[0])  # type: ignore[index]  # matches at least ""
    word = _ADDRESS.match(text, start)
    if word is None or not _is_address(word[0]):
        return ""
    return f"; write IN CIDR '{word[0]}'" if "/" in word[0] else f"; write '{word[0]}' in single quotes"


_NAME = re.compile(r"[A-Za-z_]\w{0,39}")
_TEXT = re.compile(r"\s*\(?\s*'((?:[^']|'')*)'")
_QUOTED = re.compile(r"'[^']*'")
_NOT = re.compile(r"\bNOT\s*$", re.IGNORECASE)
_IN = re.compile(r"\bIN\s*$", re.IGNORECASE)
_ADDRESS = re.compile(r"[0-9A-Fa-f:.]+(/\d+)?")
_ADDRESS_END = re.compile(r"[0-9A-Fa-f:.]*$")


def _is_address(text: str) -> bool:
    try:
        return network(text).text != ""
    except ValueError:
        return False


def _word(text: str, position: int) -> str:
    words = text[position : position + 40].split(maxsplit=1)
    return words[0] if words else ""
