"""The grammar of statements: which clauses may stand where, and that its parser is quick to build."""

from __future__ import annotations

from itertools import chain, combinations

import pytest

from eddy_mesh.errors import StatementError
from eddy_mesh.selection import compile_statement
from eddy_mesh.selection.parse import _parser

NOW_NS = 1_800_000_000_000_000_000
CLAUSES = (
    "FROM network.netflow",
    "WHERE source.port = 22",
    "SINCE '2027-01-15T07:00:00.000000000Z'",
    "UNTIL '2027-01-15T08:00:00.000000000Z'",
    "GROUP BY user.name",
    "HAVING count(*) > 5",
    "ORDER BY count(*) DESC",
    "LIMIT 5",
    "EVERY 10s",
)


def test_every_choice_of_clauses_is_a_statement() -> None:
    """Each clause can be there or not, whatever the others are: 512 statements, each with the clauses it was given."""
    choices = chain.from_iterable(combinations(CLAUSES, count) for count in range(len(CLAUSES) + 1))
    for chosen in choices:
        text = " ".join(("SELECT count(*)", *chosen))
        assert compile_statement(text, now_ns=NOW_NS).text == text


@pytest.mark.parametrize(("first", "second"), list(combinations(CLAUSES, 2)))
def test_clauses_in_another_order_are_no_statement(first: str, second: str) -> None:
    """Two clauses that changed places are refused, and the mistake is at the one that came too late."""
    with pytest.raises(StatementError, match="does not belong here") as caught:
        compile_statement(f"SELECT count(*) {second} {first}", now_ns=NOW_NS)
    assert caught.value.position == len(f"SELECT count(*) {second} ")


@pytest.mark.parametrize("clause", CLAUSES)
def test_a_clause_stands_once(clause: str) -> None:
    """A clause that is written twice is refused."""
    with pytest.raises(StatementError, match="does not belong here"):
        compile_statement(f"SELECT count(*) {clause} {clause}", now_ns=NOW_NS)


def test_blanks_of_every_kind_part_words() -> None:
    """Blank, tab, form feed and ends of lines part words; other white space does not."""
    assert compile_statement("\n SELECT\t*\f\r\nLIMIT 5 \n", now_ns=NOW_NS).text == "SELECT * LIMIT 5"
    for other in ("\v", "\u00a0"):
        with pytest.raises(StatementError):
            compile_statement(f"SELECT{other}*", now_ns=NOW_NS)


@pytest.mark.parametrize(
    ("text", "pointed_at"),
    [
        ("SELECTid SINCE '-1m'", "SELECTid"),
        ("SELECT_X", "SELECT_X"),
        ("SELECT-x", "SELECT-x"),
        ("SELECT * LIMIT5", "LIMIT5"),
        ("SELECT json.a AS_x", "AS_x"),
        ("SELECT * ORDERBY occurred", "ORDERBY"),
        ("SELECT * WHERE message = 'a' ANDmessage = 'b'", "ANDmessage"),
        ("SELECT * WHERE message IS NULLx", "NULLx"),
    ],
)
def test_a_keyword_ends_where_its_word_ends(text: str, pointed_at: str) -> None:
    """A keyword with letters, digits or signs of names behind it is another word, and no keyword."""
    with pytest.raises(StatementError, match="does not belong here") as caught:
        compile_statement(text, now_ns=NOW_NS)
    assert text[caught.value.position :].startswith(pointed_at)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("SELECT*LIMIT 5", "SELECT * LIMIT 5"),
        ("SELECT json.not-x, json.limit, json.a_b, json.x-y", ""),
        ("SELECT json.a AS limit-x, json.b AS nothing ORDER BY nothing", ""),
        ("SELECT source.ip AS from WHERE(source.port=1)AND(NOT(source.port=2))OR message LIKE'x'AND host='y'", ""),
        ('SELECT count (*)AS n GROUP BY"host"HAVING count(DISTINCT message)>5', ""),
    ],
)
def test_names_that_begin_like_keywords_and_signs_beside_keywords_stay(text: str, wanted: str) -> None:
    """Names may begin with or be a keyword; signs, quotes and parentheses part words as blanks do."""
    canonical = compile_statement(text, now_ns=NOW_NS).text
    assert canonical == (wanted or compile_statement(canonical, now_ns=NOW_NS).text)


def test_the_parser_is_small_enough_to_build_at_every_start() -> None:
    """Rules grow with the grammar's length: nine optional clauses in one rule would make 512 of it, built in 0.6 s."""
    assert len(_parser().rules) < 150
