"""The law of selection: columns, SQLite and DuckDB agree on every statement and event."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from math import isclose
from typing import cast

import duckdb
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eddy_mesh.batch import EXTRA, Batch, Kind, Producer
from eddy_mesh.cer import EventClass, Stage, Value, event_id, id_high, id_low, id_text
from eddy_mesh.columnize import any_column
from eddy_mesh.columns import Text, address_halves, pack
from eddy_mesh.errors import StatementError
from eddy_mesh.fields import FieldType, type_of
from eddy_mesh.rows import columns_of
from eddy_mesh.selection import (
    DUCKDB,
    SQLITE,
    Index,
    LiveAggregate,
    Stored,
    compile_statement,
    matcher,
    matches_kind,
    subject_matches,
    subjects,
    to_sql,
)
from eddy_mesh.selection.evaluate import truths
from eddy_mesh.selection.patterns import found_in, like_regex, regex, rows_matching, rows_with, sql_regexp
from eddy_mesh.selection.sql_fields import Dialect

NOW_NS = 1_800_000_000_000_000_000
KINDS = (
    Kind(Stage.COOKED, EventClass.NETWORK, "netflow.v9"),
    Kind(Stage.COOKED, EventClass.NETWORK, "netflow.v9"),
    Kind(Stage.RAW, EventClass.NETWORK, "netflow"),
    Kind(Stage.ANALYZED, EventClass.SECURITY, "diagnosis.port_scan"),
    Kind(Stage.COOKED, EventClass.SYSTEM, "syslog"),
)
ENVELOPE = ("stage", "event_class", "type", "origin")

# --- events ------------------------------------------------------------------------------------------------------

ONE_LINE = st.characters(exclude_characters="\n", exclude_categories=["Cs"])
TEXTS = st.one_of(
    st.sampled_from(
        ["", "a", "A", "abc", "a%c", "a_c", "a\\c", "é", "naïve", "a\nb", "root", "fail", "x*y", "[z]", "👍🏽"]
    ),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=6),
)
INTS = st.one_of(st.sampled_from([0, 1, 22, 23, 443, -1, (1 << 63) - 1, -(1 << 63), 1 << 40]), st.integers(-50, 50))
FLOATS = st.one_of(st.sampled_from([0.0, 0.5, -1.25, 1e9, 3.0]), st.integers(-20, 20).map(float), st.just(float("nan")))
V4 = st.sampled_from(["10.0.0.1", "10.255.255.255", "11.0.0.0", "0.0.0.0", "255.255.255.255", "192.168.1.7"])
V6 = st.sampled_from(
    ["::", "::1", "2001:db8::1", "2001:db8:ffff::", "fe80::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "::1:0:0:0"]
)
ANYTHING = st.one_of(
    TEXTS, st.integers(-30, 30), st.sampled_from([0.5, -1.25]), st.booleans(), st.just(["a", 1]), st.just({"b": 2})
)
VALUES: dict[str, st.SearchStrategy[Value]] = {
    "message": TEXTS,
    "user.name": st.sampled_from(["root", "alice", "bob", ""]),
    "source.ip": st.one_of(V4, V6),
    "destination.ip": V4,
    "source.port": st.integers(0, 65535) | st.sampled_from([22, 23, 443]),
    "destination.port": st.sampled_from([22, 23, 443, 8080]),
    "network.bytes": INTS,
    "sensor.value": FLOATS,
    "level": st.integers(0, 7),
    "occurred": st.integers(NOW_NS - 7_200_000_000_000, NOW_NS),
    "observed": st.integers(NOW_NS - 60_000_000_000, NOW_NS),
    "netflow.dataRecordsReliability": st.booleans(),
    "event.original": st.sampled_from([b"", b"a", b"\xff\x00", b"abc"]),
    "process.args": st.sampled_from([["ls"], ["ls", "-l"], [], ["é", 1]]),
    "tags.site": ANYTHING,
    "json.x": ANYTHING,
}
IN_JSON = ("process.args", "tags.site", "json.x")
STAMP_MS = 1_700_000_000_000
ROWS = st.lists(st.fixed_dictionaries({}, optional=VALUES), max_size=12)


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """Batches of every kind; some of their fields sit in the column of sparse fields."""
    rows = draw(ROWS)
    for row in rows:
        row.setdefault("observed", NOW_NS)
    sparse = draw(st.sets(st.sampled_from(["user.name", "tags.site", "json.x", "source.ip", "network.bytes"])))
    columns = columns_of([{name: row[name] for name in row if name not in sparse} for row in rows])
    extras: list[Value] = [{name: row[name] for name in row if name in sparse} or None for row in rows]
    if any(extra is not None for extra in extras):
        columns[EXTRA] = any_column(extras)
    kind = draw(st.sampled_from(KINDS))
    return Batch(kind, draw(st.sampled_from(["hosta", "hostb"])), Producer(7, 9), 100, STAMP_MS, len(rows), columns)


def one_of(words: str) -> st.SearchStrategy[str]:
    """One of some words with bars between."""
    return st.sampled_from(words.split("|"))


# --- statements --------------------------------------------------------------------------------------------------


def quoted(text: str) -> str:
    """The literal of a text."""
    return "'" + text.replace("'", "''") + "'"


COMPARE = st.sampled_from(["=", "!=", "<>", "<", "<=", ">", ">="])
EQUALITY = st.sampled_from(["=", "!="])
NUMBER_FIELDS = st.sampled_from(["source.port", "destination.port", "network.bytes"])
TEXT_FIELDS = st.sampled_from(["message", "user.name", "tags.site", "json.x", "type", "stage", "event_class"])
ADDRESS_FIELDS = st.sampled_from(["source.ip", "destination.ip"])
IDS = st.integers(98, 113).map(
    lambda number: id_text(event_id(id_high(STAMP_MS, 9), id_low(7, number)))
) | st.sampled_from(
    [
        "00000000-0000-0000-0000-000000000000",
        "ffffffff-ffff-ffff-ffff-ffffffffffff",
        id_text(event_id(1, id_low(7, 101))),
    ]
)
"""Ids of the events of `batches`, and some that no event has."""
OPEN_FIELDS = st.sampled_from(["tags.site", "json.x"])
ALL_FIELDS = st.sampled_from([*VALUES, "type", "stage"])
LEVELS = st.sampled_from(["error", "warning", "7", "'debug'", "emerg"])
LIKES = st.lists(
    st.sampled_from(["%", "_", "a", "b", "A", "\\%", "\\_", "\\\\", "é", "*", "[", "?", "ot"]), max_size=5
).map("".join)
REGEXES = st.sampled_from(
    [
        "a",
        "^a",
        "c$",
        "a.c",
        "[^a]",
        "fail|root",
        "^$",
        "(?i)A",
        "\\d+",
        "\\s",
        "\\bb",
        "a\\nb",
        "é",
        "a*",
        "^.$",
        "\\W",
        "x\\*",
    ]
)
NETWORKS = st.sampled_from(
    ["10.0.0.0/8", "0.0.0.0/0", "::/0", "2001:db8::/32", "fe80::/64", "::/64", "10.0.0.1", "::1/128", "::/80"]
)
CLOCK = st.sampled_from(["'-1h'", "'-30m'", "'2027-01-15T07:30Z'", "'now'"])
INT_LITERALS = INTS.map(str) | st.sampled_from(
    ["18446744073709551615", "9223372036854775808", "1e3", "10s", "64KiB"][:3]
)
FLOAT_LITERALS = st.sampled_from(["0.5", "3", "-1.25", "1e9", "0"])


def listed(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """A list in parentheses; a long one takes other ways than a short one."""
    return st.lists(values, min_size=1, max_size=7).map(lambda members: "(" + ", ".join(members) + ")")


def joined(*parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Words with spaces between."""
    return st.tuples(*parts).map(" ".join)


NOT = st.sampled_from(["", "NOT"])
PREDICATES = st.one_of(
    joined(NUMBER_FIELDS, COMPARE, INT_LITERALS),
    joined(NUMBER_FIELDS, NOT, st.just("IN"), listed(INT_LITERALS)),
    joined(NUMBER_FIELDS, NOT, st.just("BETWEEN"), INT_LITERALS, st.just("AND"), INT_LITERALS),
    joined(NUMBER_FIELDS, COMPARE, NUMBER_FIELDS | st.just("sensor.value")),
    joined(st.just("sensor.value"), COMPARE, FLOAT_LITERALS),
    joined(st.just("sensor.value"), NOT, st.just("IN"), listed(FLOAT_LITERALS)),
    joined(TEXT_FIELDS, COMPARE, TEXTS.map(quoted)),
    joined(TEXT_FIELDS, NOT, st.just("IN"), listed(TEXTS.map(quoted))),
    joined(TEXT_FIELDS, NOT, st.just("LIKE"), LIKES.map(quoted)),
    joined(TEXT_FIELDS, st.sampled_from(["~", "!~"]), REGEXES.map(quoted)),
    joined(st.sampled_from(["message", "user.name"]), COMPARE, st.sampled_from(["message", "user.name", "json.x"])),
    joined(ADDRESS_FIELDS, COMPARE, (V4 | V6).map(quoted)),
    joined(ADDRESS_FIELDS, NOT, st.just("IN"), listed((V4 | V6).map(quoted))),
    joined(ADDRESS_FIELDS, NOT, st.just("IN CIDR"), listed(NETWORKS.map(quoted))),
    joined(ADDRESS_FIELDS, COMPARE, ADDRESS_FIELDS),
    joined(st.just("id"), COMPARE, IDS.map(quoted)),
    joined(st.just("id"), NOT, st.just("IN"), listed(IDS.map(quoted))),
    joined(st.just("id"), NOT, st.just("BETWEEN"), IDS.map(quoted), st.just("AND"), IDS.map(quoted)),
    joined(OPEN_FIELDS, COMPARE, FLOAT_LITERALS),
    joined(OPEN_FIELDS, NOT, st.just("IN"), listed(FLOAT_LITERALS)),
    joined(OPEN_FIELDS, EQUALITY, st.sampled_from(["TRUE", "FALSE"])),
    joined(st.sampled_from(["source.port", "sensor.value"]), COMPARE, OPEN_FIELDS),
    joined(st.just("netflow.dataRecordsReliability"), EQUALITY, st.sampled_from(["TRUE", "FALSE"])),
    joined(st.just("level"), COMPARE, LEVELS),
    joined(st.just("level"), NOT, st.just("IN"), listed(LEVELS)),
    joined(st.just("occurred"), COMPARE, CLOCK),
    joined(st.just("event.original"), EQUALITY, st.sampled_from(["'a'", "'abc'", "''"])),
    joined(st.just("process.args"), COMPARE, st.sampled_from(["""'["ls"]'""", "'[]'", """'["é",1]'"""])),
    joined(ALL_FIELDS, st.just("IS"), NOT, st.just("NULL")),
)
CONDITIONS = st.recursive(
    PREDICATES,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from([" AND ", " OR "]), inner).map("".join).map("({})".format),
        inner.map("NOT {}".format),
    ),
    max_leaves=5,
)
SOURCES = one_of(
    "network|network.netflow|network.netflow.*|network.*.v9|*.syslog|>|network.>|*.netflow.v9.hosta|"
    "network.netflow.hosta|system.syslog.*|security, system|network.netflow.v9.hosta.>|*.*.*.hostb"
)
WHERE = CONDITIONS.map("WHERE {}".format) | st.just("")
FROM = st.one_of(st.just(""), st.just(""), st.just(""), SOURCES.map("FROM {}".format))
SINCE = st.sampled_from(["", "", "SINCE '-1h'", "SINCE '-90m' UNTIL '-10m'"])
STATEMENTS = joined(st.just("SELECT id"), FROM, WHERE, SINCE)

# --- stores ------------------------------------------------------------------------------------------------------

_TYPES = {
    FieldType.TEXT: ("TEXT", "VARCHAR"),
    FieldType.INT: ("INTEGER", "BIGINT"),
    FieldType.TIME: ("INTEGER", "BIGINT"),
    FieldType.LEVEL: ("INTEGER", "TINYINT"),
    FieldType.FLOAT: ("REAL", "DOUBLE"),
    FieldType.BOOL: ("INTEGER", "BOOLEAN"),
    FieldType.BYTES: ("BLOB", "BLOB"),
}
COLUMNS: dict[str, Stored] = {
    "id": Stored.COLUMN,
    **dict.fromkeys(ENVELOPE, Stored.COLUMN),
    **{name: Stored.COLUMN for name in VALUES if name not in IN_JSON},
    EXTRA: Stored.EXTRA,
}


def store_columns(dialect: Dialect) -> Iterator[tuple[str, str]]:
    """The columns of the table in a dialect, with their types."""
    for name in COLUMNS:
        kind = FieldType.TEXT if name in {*ENVELOPE, EXTRA} else type_of(name)
        if kind not in {FieldType.ADDRESS, FieldType.ID}:
            yield name, _TYPES[kind][dialect.has_halves]
        elif dialect.has_halves:
            yield f"{name}#hi", "UBIGINT"
            yield f"{name}#lo", "UBIGINT"
        else:
            yield name, "BLOB"


def store_values(dialect: Dialect, batch: Batch, rows: Sequence[Mapping[str, Value]]) -> Iterator[list[object]]:
    """The rows of a batch as the table holds them."""
    ids = batch.ids()
    for number, row in enumerate(rows):
        extra = {name: row[name] for name in IN_JSON if row.get(name) is not None}
        held = dict(row) | {"id": ids.at(number), "origin": batch.origin, **batch.kind._asdict()}
        held[EXTRA] = msgspec.json.encode(extra).decode() if extra else None
        values: list[object] = []
        for name in COLUMNS:
            value = held.get(name)
            kind = FieldType.TEXT if name in {*ENVELOPE, EXTRA} else type_of(name)
            if kind is FieldType.ADDRESS and isinstance(value, str):
                values += wide(dialect, *address_halves(value))
            elif kind is FieldType.ID and isinstance(value, bytes):
                values += wide(dialect, int.from_bytes(value[:8], "big"), int.from_bytes(value[8:], "big"))
            elif kind in {FieldType.ADDRESS, FieldType.ID}:
                values += [None] * (2 if dialect.has_halves else 1)
            else:
                values.append(str(value) if name in ENVELOPE else value)
        yield values


def wide(dialect: Dialect, high: int, low: int) -> list[object]:
    """A number of 128 bits as columns."""
    return [high, low] if dialect.has_halves else [high.to_bytes(8, "big") + low.to_bytes(8, "big")]


class Stores:
    """One SQLite and one DuckDB in memory."""

    def __init__(self, lite: sqlite3.Connection, duck: duckdb.DuckDBPyConnection) -> None:
        self._lite, self._duck = lite, duck
        lite.create_function("regexp", 2, sql_regexp, deterministic=True)
        for dialect, connection in ((SQLITE, lite), (DUCKDB, duck)):
            declared = ", ".join(f'"{name}" {kind}' for name, kind in store_columns(dialect))
            connection.execute(f"CREATE TABLE events ({declared})")

    def load(self, batch: Batch, rows: Sequence[Mapping[str, Value]]) -> None:
        """Replace what is stored."""
        for dialect, connection in ((SQLITE, self._lite), (DUCKDB, self._duck)):
            connection.execute("DELETE FROM events")
            for values in store_values(dialect, batch, rows):
                connection.execute(f"INSERT INTO events VALUES ({', '.join('?' * len(values))})", values)

    def rows(self, statement: str) -> tuple[list[dict[str, Value]], list[dict[str, Value]]]:
        """What each store answers."""
        plan = compile_statement(statement, now_ns=NOW_NS)
        lite = to_sql(plan, SQLITE, "events", COLUMNS)
        duck = to_sql(plan, DUCKDB, "events", COLUMNS)
        lite_rows = self._lite.execute(lite.sql, lite.parameters).fetchall()
        duck_rows = self._duck.execute(duck.sql, list(duck.parameters)).fetchall()
        return lite.rows(lite_rows), duck.rows(duck_rows)


@pytest.fixture(scope="module")
def stores() -> Iterator[Stores]:
    """Both stores, empty."""
    with closing(sqlite3.connect(":memory:")) as lite, duckdb.connect(config={"threads": 1}) as duck:
        yield Stores(lite, duck)


def rows_of(batch: Batch) -> list[dict[str, Value]]:
    """The rows of a batch."""
    names = [name for name in VALUES if name in batch.columns]
    rows: list[dict[str, Value]] = []
    extra = batch.columns.get(EXTRA)
    for number in range(batch.count):
        row = {name: batch.columns[name].at(number) for name in names}
        more = extra.at(number) if extra is not None else None
        rows.append(row | (cast("dict[str, Value]", more) if isinstance(more, dict) else {}))
    return rows


# --- the laws ----------------------------------------------------------------------------------------------------


@settings(max_examples=100)
@given(batch=batches(), statements=st.lists(STATEMENTS, min_size=1, max_size=8))
def test_columns_sqlite_and_duckdb_select_the_same_events(stores: Stores, batch: Batch, statements: list[str]) -> None:
    """Every statement selects the same ids in the three back ends."""
    stores.load(batch, rows_of(batch))
    ids = batch.ids()
    for statement in statements:
        mask = matcher(compile_statement(statement, now_ns=NOW_NS))(batch)
        expected = sorted(ids.at(row) for row in mask.nonzero()[0].tolist())  # type: ignore[type-var]
        lite, duck = stores.rows(statement)
        assert sorted(row["id"] for row in lite) == expected, statement  # type: ignore[type-var]
        assert sorted(row["id"] for row in duck) == expected, statement  # type: ignore[type-var]


INDEXED = st.one_of(
    joined(NUMBER_FIELDS, st.just("="), INT_LITERALS),
    joined(NUMBER_FIELDS, st.just("IN"), listed(INT_LITERALS)),
    joined(NUMBER_FIELDS, st.just("BETWEEN"), INT_LITERALS, st.just("AND"), INT_LITERALS),
    joined(NUMBER_FIELDS, st.just("="), INT_LITERALS, st.just("OR"), NUMBER_FIELDS, st.just("="), INT_LITERALS),
    joined(st.just("sensor.value"), st.just("="), FLOAT_LITERALS),
    joined(st.just("sensor.value IN"), listed(FLOAT_LITERALS)),
    joined(TEXT_FIELDS, st.just("="), TEXTS.map(quoted)),
    joined(TEXT_FIELDS, st.just("IN"), listed(TEXTS.map(quoted))),
    joined(ADDRESS_FIELDS, st.just("="), (V4 | V6).map(quoted)),
    joined(ADDRESS_FIELDS, st.just("IN"), listed((V4 | V6).map(quoted))),
    joined(ADDRESS_FIELDS, st.just("IN CIDR"), listed(NETWORKS.map(quoted))),
    joined(st.just("level ="), LEVELS),
).map("({})".format)
STANDING = st.one_of(
    joined(st.just("SELECT id"), FROM, st.just("WHERE"), INDEXED),
    joined(st.just("SELECT id"), FROM, st.just("WHERE"), INDEXED, st.just("AND"), INDEXED),
    joined(st.just("SELECT id"), FROM, st.just("WHERE"), INDEXED, st.just("AND"), CONDITIONS, SINCE),
    STATEMENTS,
)


@settings(max_examples=100)
@given(batch=batches(), statements=st.lists(STANDING, min_size=1, max_size=16))
def test_index_selects_what_each_statement_selects_by_itself(batch: Batch, statements: list[str]) -> None:
    """Asking many statements at once gives for each the rows that it selects alone; those without rows are left out."""
    plans = [compile_statement(statement, now_ns=NOW_NS) for statement in statements]
    masks = [matcher(plan)(batch) for plan in plans]
    expected = {number: mask.nonzero()[0].tolist() for number, mask in enumerate(masks) if mask.any()}
    found = Index(plans).matches(batch)
    assert len(found) == len(expected)
    assert {number: rows.tolist() for number, rows in found} == expected


@given(batch=batches(), condition=CONDITIONS)
def test_no_event_is_both_selected_and_refused(batch: Batch, condition: str) -> None:
    """A condition and its negation are never both TRUE; with IS NOT NULL on every field one of them is."""
    plan = compile_statement(f"SELECT * WHERE {condition}", now_ns=NOW_NS)
    assert plan.where is not None
    true, false = truths(plan.where, batch)
    assert not (true & false).any()


@given(statement=STATEMENTS)
def test_canonical_text_gives_the_plan_again(statement: str) -> None:
    """The canonical text of a plan compiles to the same plan at any later time."""
    plan = compile_statement(statement, now_ns=NOW_NS)
    assert compile_statement(plan.text, now_ns=0) == plan


AGGREGATES = one_of(
    "count(*)|count(source.port)|count(DISTINCT source.ip)|sum(network.bytes)|min(source.ip)|max(message)|"
    "avg(source.port)|min(occurred)|count(DISTINCT json.x)|sum(json.x)|max(sensor.value)|count(tags.site)|"
    "sum(sensor.value)|max(level)|count(DISTINCT message)"
)
GROUPS = st.lists(
    st.sampled_from(
        ["source.ip", "user.name", "json.x", "source.port", "level", "netflow.dataRecordsReliability", "message"]
    ),
    unique=True,
    max_size=2,
)


@st.composite
def aggregate_statements(draw: st.DrawFn) -> str:
    """Statements with groups in windows of ten seconds."""
    groups, aggregates = draw(GROUPS), draw(st.lists(AGGREGATES, min_size=1, max_size=4, unique=True))
    parts = ["SELECT", ", ".join(groups + aggregates), draw(FROM), draw(WHERE)]
    if groups:
        parts.append("GROUP BY " + ", ".join(groups))
    parts.append(draw(st.sampled_from(["", "HAVING count(*) > 1", "HAVING min(source.ip) IN CIDR '10.0.0.0/8'"])))
    if draw(st.booleans()):
        parts.append(f"ORDER BY {draw(st.sampled_from(groups + aggregates))} {draw(st.sampled_from(['ASC', 'DESC']))}")
    parts.append(draw(st.sampled_from(["", "LIMIT 1", "LIMIT 3"])))
    return " ".join(parts) + " EVERY 10s"


@settings(max_examples=100)
@given(batch=batches(), statement=aggregate_statements())
def test_live_windows_and_stores_give_the_same_groups(stores: Stores, batch: Batch, statement: str) -> None:
    """Windows over live batches have the rows, values and order that both stores compute."""
    rows = rows_of(batch)
    for row in rows:  # sums of 64-bit integers at the limits overflow in SQLite, which has no larger ones
        if isinstance(row.get("network.bytes"), int):
            row["network.bytes"] %= 1 << 40  # type: ignore[operator]
    batch = Batch(batch.kind, batch.origin, batch.producer, 100, batch.stamp_ms, len(rows), columns_of(rows))
    stores.load(batch, rows)
    live = LiveAggregate(compile_statement(statement, now_ns=NOW_NS))
    live.on_batch(batch, NOW_NS)
    expected = live.drain()
    lite, duck = stores.rows(statement)
    assert len(lite) == len(duck) == len(expected), statement
    for found in (lite, duck):
        for row, wanted in zip(found, expected, strict=True):
            assert all(same(row[name], wanted[name]) for name in wanted), (statement, row, wanted)


def same(first: Value, second: Value) -> bool:
    """Whether two values are equal; sums of doubles depend on their order."""
    if isinstance(first, float) and isinstance(second, float):
        return isclose(first, second, rel_tol=1e-12, abs_tol=1e-12)
    return first == second and type(first) is type(second)


FRAGMENTS = one_of(
    "SELECT|*|FROM|WHERE|source.ip|'10.0.0.1'|=|IN|CIDR|(|)|,|10s|5|1e999|AND|NOT|LIKE|'%\\'|~|'('|level|error|json.x|"
    "NULL|IS|TRUE|GROUP BY|count(*)|EVERY|ORDER BY|LIMIT|SINCE|'-1h'|'|\"|AS|id|'9999-99-99'|BETWEEN|HAVING|"
    "occurred|->|;"
)


@settings(max_examples=200)
@given(text=st.text(max_size=60) | st.lists(FRAGMENTS, max_size=14).map(" ".join) | STATEMENTS)
def test_any_text_gives_a_plan_or_a_statement_error(text: str) -> None:
    """No text raises anything but a StatementError, whose position lies in the text."""
    position = 0
    try:
        compile_statement(text, now_ns=NOW_NS)
    except StatementError as error:
        position = error.position
    assert 0 <= position <= len(text)


@given(
    rows=st.lists(st.text(ONE_LINE, max_size=8) | TEXTS, max_size=12),
    pattern=REGEXES | LIKES.map(like_regex) | st.text("ab.*^$[]()|\\sdwB", max_size=6),
)
def test_one_pass_over_joined_rows_finds_what_each_row_gives(rows: list[str], pattern: str) -> None:
    """Searching rows as lines of one text gives the same as searching them one at a time."""
    try:
        regex(pattern)
    except ValueError:
        return
    column = Text(*pack([row.encode() for row in rows]))
    assert rows_matching(pattern, column).tolist() == [found_in(pattern, row) for row in rows]


@given(rows=st.lists(st.text("abc", max_size=5), max_size=12), needle=st.text("abc", min_size=1, max_size=3))
def test_a_word_is_found_inside_rows_only(rows: list[str], needle: str) -> None:
    """A plain word is never found across the border of two rows."""
    column = Text(*pack([row.encode() for row in rows]))
    assert rows_with(needle.encode(), column).tolist() == [needle in row for row in rows]


TOKENS = st.sampled_from(["a", "b", "*"])
PATTERNS = st.builds(
    lambda head, rest, end: ".".join([head, *rest, *end]),
    st.sampled_from(["network", "system", "*"]),
    st.lists(TOKENS, max_size=3),
    st.sampled_from([[], [">"]]),
)


@given(
    sources=st.lists(PATTERNS, min_size=1, max_size=4),
    where=st.sampled_from(
        ["", " WHERE stage = 'raw'", " WHERE event_class = 'network'", " WHERE NOT stage IN ('cooked')"]
    ),
    stage=st.sampled_from(list(Stage)),
    event_class=st.sampled_from([EventClass.NETWORK, EventClass.SYSTEM]),
    types=st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=3),
    origin=st.sampled_from(["a", "b"]),
)
def test_each_event_comes_by_one_subject(  # what a kind is made of
    sources: list[str], where: str, stage: Stage, event_class: EventClass, types: list[str], origin: str
) -> None:
    """Events that a statement can select arrive on exactly one of its subjects, others on one at most."""
    plan = compile_statement("SELECT * FROM " + ", ".join(sources) + where, now_ns=NOW_NS)
    subject = ".".join(["eddy", "event", stage, event_class, *types, origin])
    arriving = sum(subject_matches(subject, pattern) for pattern in subjects(plan, "eddy"))
    assert arriving <= 1
    if matches_kind(plan, Kind(stage, event_class, ".".join(types)), origin):
        assert arriving == 1
