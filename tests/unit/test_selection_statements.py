"""Statements: what they compile to, and what is said about those that do not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from eddy_mesh.errors import StatementError
from eddy_mesh.fields import FieldType
from eddy_mesh.selection import compile_statement, needed_fields, row_names
from eddy_mesh.selection.literals import moment, network, quantity
from eddy_mesh.selection.parse import MAX_STATEMENT
from eddy_mesh.selection.plan import Aggregate, Comparison, Function, Operand, Operator

NOW_NS = 1_800_000_000_000_000_000


def canonical(text: str) -> str:
    """The canonical text of a statement."""
    return compile_statement(text, now_ns=NOW_NS).text


def mistake(text: str) -> StatementError:
    """The error of a statement that does not compile."""
    with pytest.raises(StatementError) as caught:
        compile_statement(text, now_ns=NOW_NS)
    return caught.value


def test_a_comparison_has_the_type_of_its_field() -> None:
    """A literal is converted to the type of the field it is compared with."""
    plan = compile_statement("SELECT * WHERE source.port = 22", now_ns=NOW_NS)
    assert plan.where == Comparison(Operand("source.port", FieldType.INT), Operator.EQ, 22)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("select  *  from Network.NetFlow", "SELECT * FROM network.netflow"),
        ("SELECT * WHERE level <= warn", "SELECT * WHERE level <= warning"),
        ("SELECT * WHERE level = '3'", "SELECT * WHERE level = error"),
        ("SELECT * WHERE event.duration > 1.5s", "SELECT * WHERE event.duration > 1500000000"),
        ("SELECT * WHERE network.bytes >= 64KiB", "SELECT * WHERE network.bytes >= 65536"),
        ("SELECT * WHERE network.bytes > 1e6", "SELECT * WHERE network.bytes > 1000000"),
        ("SELECT * WHERE source.ip = '::ffff:10.0.0.1'", "SELECT * WHERE source.ip = '10.0.0.1'"),
        ("SELECT * WHERE source.ip IN CIDR '10.1.2.3/8'", "SELECT * WHERE source.ip IN CIDR ('10.0.0.0/8')"),
        ("SELECT * WHERE source.port IN (23, 22, 23)", "SELECT * WHERE source.port IN (22, 23)"),
        ("SELECT * WHERE source.port <> 1 AND (source.port <> 1)", "SELECT * WHERE source.port != 1"),
        ("SELECT * WHERE message !~ 'it''s'", "SELECT * WHERE NOT message ~ 'it''s'"),
        ("SELECT * WHERE json.x = 5", "SELECT * WHERE json.x = 5.0"),
        ('SELECT "json.odd name" AS "order"', 'SELECT "json.odd name" AS "order"'),
        ("SELECT * SINCE '-1h'", "SELECT * SINCE '2027-01-15T07:00:00.000000000Z'"),
        ("SELECT * SINCE -1h", "SELECT * SINCE '2027-01-15T07:00:00.000000000Z'"),
        ("SELECT count(*) EVERY 60s", "SELECT count(*) EVERY 1m"),
        (
            "SELECT COUNT(DISTINCT source.ip) AS n ORDER BY n",
            "SELECT count(DISTINCT source.ip) AS n ORDER BY count(DISTINCT source.ip)",
        ),
        (
            "SELECT user.name, count(*) GROUP BY user.name HAVING sum(network.bytes) > 1KiB LIMIT 5",
            "SELECT user.name, count(*) GROUP BY user.name HAVING sum(network.bytes) > 1024 LIMIT 5",
        ),
    ],
)
def test_canonical_text(text: str, wanted: str) -> None:
    """Statements that mean the same have one text, and it compiles to itself."""
    assert canonical(text) == wanted
    assert canonical(wanted) == wanted


@pytest.mark.parametrize(
    ("text", "said", "pointed_at"),
    [
        ("SELECT * WHERE source.prt = 1", "no field source.prt; did you mean source.port?", "source.prt"),
        ("SELECT * WHERE source.port = 'x'", "source.port wants an integer", "'x'"),
        ("SELECT * WHERE source.port = 1.5", "1.5 is not a whole number", "1.5"),
        ("SELECT * WHERE source.port > 10s", "10s is a time", "10s"),
        ("SELECT * WHERE source.port = 99999999999999999999", "more than 64 bits", "9999"),
        ("SELECT * WHERE sensor.value = 1e999", "too large", "1e999"),
        ("SELECT * WHERE source.ip = '10.0.0'", "'10.0.0' is not an IPv4 or IPv6 address", "'10.0.0'"),
        ("SELECT * WHERE source.ip = 10.77.0.66", "write '10.77.0.66' in single quotes", "10.77.0.66"),
        ("SELECT * WHERE source.ip = fe80::1", "write 'fe80::1' in single quotes", "::1"),
        ("SELECT * WHERE source.ip = 10.0.0.0/8", "write IN CIDR '10.0.0.0/8'", "10.0.0.0/8"),
        ("SELECT * WHERE source.ip IN '10.0.0.0/8'", "write IN CIDR '10.0.0.0/8'", "'10.0.0.0/8'"),
        ("SELECT * WHERE host IN 'a'", "write IN ('a')", "'a'"),
        ("SELECT * SINCE '4h ago'", "'-4h' for four hours ago", "'4h ago'"),
        ("SELECT * FROM syslog WHERE level < 3", "SELECT * FROM *.syslog WHERE level < 3", "syslog"),
        ("SELECT * WHERE source.ip = '10.0.0.0/8'", "write IN CIDR '10.0.0.0/8'", "'10.0.0.0/8'"),
        ("SELECT * WHERE message IN CIDR '10.0.0.0/8'", "IN CIDR wants an address", "message"),
        ("SELECT * WHERE source.ip IN CIDR '10.0.0.0/99'", "is not a network", "'10.0.0.0/99'"),
        ("SELECT * WHERE source.port LIKE '2%'", "LIKE wants a text, source.port is int", "source.port"),
        ("SELECT * WHERE message LIKE 'a\\'", "ends in a backslash", "'a\\'"),
        ("SELECT * WHERE message ~ '('", "is no RE2 pattern", "'('"),
        ("SELECT * WHERE message ~ '(?=a)'", "is no RE2 pattern", "'(?=a)'"),
        ("SELECT * WHERE message = NULL", "write IS NULL", "NULL"),
        ("SELECT * WHERE level <= wrning", "no field wrning", "wrning"),
        ("SELECT * WHERE level = 9", "level wants a level", "9"),
        ("SELECT * WHERE occurred > '2026-13-01'", "month", "'2026-13-01'"),
        ("SELECT * WHERE occurred > '9999-01-01'", "outside the years", "'9999-01-01'"),
        ("SELECT * WHERE json.x IN (1, 'a')", "of different types", "'a'"),
        ("SELECT * WHERE json.x = json.y", "compare with a literal", "json.y"),
        ("SELECT * WHERE source.ip = source.port", "they do not compare", "source.port"),
        ("SELECT * WHERE parents = 'x'", "only IS NULL", "'x'"),
        ("SELECT * WHERE event.original < 'x'", "has no order", "<"),
        ("SELECT * WHERE count(*) > 5", "put it into HAVING", "count"),
        ("SELECT * FROM netwrok", "did you mean network?", "netwrok"),
        ("SELECT * FROM netflow.v9", "write *.netflow.v9", "netflow.v9"),
        ("SELECT * FROM network.>.x", "only come last", "network.>.x"),
        ("SELECT * FORM network", "did you mean FROM?", "FORM"),
        ("SELECT * WHERE", "the statement ends here", ""),
        ("SELECT * WHERE message = 'abc", "ends with a single quote", "'abc"),
        ("SELECT source.port AS message", "take another name", "message"),
        ("SELECT source.port, destination.port AS source.port", "AS", "destination.port"),
        ("SELECT source.ip, count(*)", "put it into GROUP BY", "source.ip"),
        ("SELECT count(*) GROUP BY source.ip ORDER BY user.name", "put it into GROUP BY", "user.name"),
        ("SELECT * GROUP BY source.ip", "name fields and aggregates", "*"),
        ("SELECT * EVERY 10s", "EVERY wants an aggregate", "10s"),
        ("SELECT count(*) EVERY 10KiB", "EVERY wants a duration", "10KiB"),
        ("SELECT sum(message)", "sum wants numbers", "message"),
        ("SELECT sum(*)", "name a field", "*"),
        ("SELECT sum(DISTINCT source.port)", "count(DISTINCT field)", "sum"),
        ("SELECT * LIMIT 0", "from 1 on", "0"),
        ('SELECT "json.a\\b"', "can not be a name", '"json.a'),
        ("", "expected SELECT", ""),
    ],
)
def test_mistakes_are_named_and_pointed_at(text: str, said: str, pointed_at: str) -> None:
    """A statement with a mistake is refused with what is wrong, where, and what is near."""
    error = mistake(text)
    assert said in str(error)
    assert text[error.position :].startswith(pointed_at)


@pytest.mark.parametrize(
    ("condition", "said", "pointed_at"),
    [
        ("message CONTAINS 'hello'", "'CONTAINS' is no operator: write =, !=, <,", "CONTAINS"),
        ("message CONTAINS 'hello'", "LIKE; for CONTAINS write LIKE '%hello%'", "CONTAINS"),
        ("message has '50%_''s'", r"for has write LIKE '%50\%\_''s%'", "has"),
        ("message STARTSWITH 'a'", "for STARTSWITH write LIKE 'a%'", "STARTSWITH"),
        ("message contains(message, 'x')", "for contains write LIKE '%text%'", "contains"),
        ("message MATCHES 'fail(ed)?'", "for MATCHES write ~ 'fail(ed)?'", "MATCHES"),
        ("message NOT MATCHES 'x'", "for NOT MATCHES write !~ 'x'", "MATCHES"),
        ("message NOT CONTAINS 'x'", "write BETWEEN, IN or LIKE; for CONTAINS write LIKE '%x%'", "CONTAINS"),
        ("message EQUALS 'x'", "for EQUALS write =", "EQUALS"),
        ("message LIEK 'x'", "'LIEK' is no operator: write =, !=,", "LIEK"),
        ("message LIEK 'x'", "did you mean LIKE?", "LIEK"),
        ("message 'x'", "an operator is missing: write =, !=,", "'x'"),
        ("message", "the statement ends here: an operator is missing", ""),
        ("message == 'x'", "write one =", "= 'x'"),
    ],
)
def test_a_word_that_is_no_operator_is_named(condition: str, said: str, pointed_at: str) -> None:
    """Where an operator should stand, the word there, the operators and this language's own form are told."""
    error = mistake(f"SELECT * WHERE {condition}")
    assert said in str(error)
    assert error.statement[error.position :].startswith(pointed_at)


@pytest.mark.parametrize("rest", ["x" * 60_000, f"CONTAINS '{'%' * 60_000}'"])
def test_a_long_word_or_text_is_not_repeated(rest: str) -> None:
    """What is said of a missing operator stays short, whatever stands there."""
    assert len(str(mistake(f"SELECT * WHERE message {rest}")).splitlines()[0]) < 200


@pytest.mark.parametrize(
    "text",
    [
        "SELECT * WHERE message CONTAINS 'hello'",
        "SELECT * WHERE source.port IN (1 2)",
        "SELECT count(source.ip FROM network",
        "SELECT source.ip foo",
        "SELECT * WHERE source.port = 1 foo",
        "SELECT * WHERE message IN 5",
    ],
)
def test_no_mistake_is_answered_with_a_list_of_signs(text: str) -> None:
    """What could stand there is told in words, and only what could: no ``), ,,``."""
    said = str(mistake(text)).splitlines()[0].partition(": ")[2]
    assert not {"(", ")", ",", ""} & set(said.split(", "))
    assert ",," not in said


@pytest.mark.parametrize(
    "text",
    [
        "SELECT * WHERE " + "(" * 5000 + "source.port = 1" + ")" * 5000,
        "SELECT * WHERE " + "NOT " * 5000 + "source.port = 1",
        "SELECT * WHERE " + " OR ".join(["source.port = 1"] * 1000),
        "SELECT * WHERE message = '" + "x" * 100_000 + "'",
        "SELECT * WHERE message ~ '" + "x" * 20_000 + "'",
        "(" * MAX_STATEMENT,
    ],
    ids=["parentheses", "not", "conditions", "length", "pattern", "garbage"],
)
def test_statements_have_limits(text: str) -> None:
    """A statement that is too deep or too long is refused; it does not exhaust the stack."""
    mistake(text)


def test_names_that_begin_like_keywords_are_names() -> None:
    """A field whose name begins with a keyword is read as a field."""
    assert canonical("SELECT json.in AS input WHERE json.not.x = 1") == "SELECT json.in AS input WHERE json.not.x = 1.0"


def test_what_a_plan_reads_and_shows() -> None:
    """The fields that a statement needs are those of every clause; a row shows the names of the projection."""
    plan = compile_statement("SELECT source.ip AS who WHERE source.port = 22 SINCE '-1h' ORDER BY level", now_ns=NOW_NS)
    assert needed_fields(plan) == {"source.ip", "source.port", "occurred", "level"}
    assert row_names(plan) == ("who",)


def test_aggregates_are_collected_from_every_clause() -> None:
    """Each aggregate of SELECT, HAVING and ORDER BY is computed once."""
    plan = compile_statement("SELECT count(*) HAVING max(level) < error ORDER BY count(*)", now_ns=NOW_NS)
    assert plan.aggregates == (Aggregate(Function.COUNT), Aggregate(Function.MAX, Operand("level", FieldType.LEVEL)))


def test_quantities_are_exact() -> None:
    """Durations and sizes become whole numbers of ns and octets, without rounding."""
    assert quantity("0.1s") == (100_000_000, True)
    assert quantity("1.5KiB") == (1536, False)
    with pytest.raises(ValueError, match="not a whole number"):
        quantity("0.5ns")


def test_moments_are_absolute_or_relative() -> None:
    """A time is RFC 3339 text, now, or an offset from now."""
    assert moment("2026-11-21T10:00Z", 0) == 1_795_255_200_000_000_000
    assert moment("-1h", 7_200_000_000_000) == 3_600_000_000_000
    assert moment("now", 5) == 5


def test_ipv6_networks_hold_no_ipv4_address() -> None:
    """A network of IPv6 that reaches over the mapped IPv4 addresses leaves them out."""
    mapped = 0xFFFF_0A00_0001
    assert not any(first <= mapped <= last for first, last in network("::/0").ranges)
    assert network("::ffff:10.0.0.0/104").ranges == network("10.0.0.0/8").ranges


def test_statements_of_the_documentation_compile(repo: Path) -> None:
    """Every statement that the documentation shows is one."""
    page = (repo / "docs" / "select-language.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```sql\n(.*?)```", page, re.DOTALL)
    statements = [statement for block in blocks for statement in block.split("\n\n") if statement.strip()]
    assert len(statements) >= 8
    for statement in statements:
        compile_statement(statement, now_ns=NOW_NS)


def test_importing_selection_loads_no_parser_and_no_database() -> None:
    """A process that only passes events on pays for none of the libraries behind statements."""
    program = "import sys, eddy_mesh.selection; print({'lark', 're2', 'duckdb', 'sqlite3'} & set(sys.modules))"
    path = os.pathsep.join(entry for entry in sys.path if entry)
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout.strip() == "set()"
