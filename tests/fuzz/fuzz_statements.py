"""Any text as a statement: a plan that every back end takes and that says the same again, or a `StatementError`."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Sequence

import atheris

with atheris.instrument_imports(include=["eddy_mesh"]):
    from eddy_mesh.batch import EXTRA, Kind, Producer
    from eddy_mesh.cer import EventClass, Stage
    from eddy_mesh.errors import StatementError
    from eddy_mesh.rows import batch_of
    from eddy_mesh.selection import (
        DUCKDB,
        SQLITE,
        Stored,
        compile_statement,
        matcher,
        matches_kind,
        project,
        render,
        subjects,
        to_sql,
    )
    from eddy_mesh.selection.patterns import sql_regexp

ITEMS = ("*", "source.ip, message AS m", "json.a", "id", "count(*)", "source.ip, count(*), sum(network.bytes) AS n")
SOURCES = ("network", "network.netflow.*", "*.syslog, system", "network.>")
FIELDS = (
    "source.ip",
    "source.port",
    "message",
    "level",
    "json.a",
    "occurred",
    "event.original",
    "network.bytes",
    "stage",
)
OPERATORS = ("=", "!=", "<", "<=", ">", ">=", "~", "!~", "LIKE", "NOT LIKE")
LITERALS = ("22", "-1", "1.5e3", "10s", "4KiB", "'a%'", "'192.0.2.1'", "'-1h'", "warning", "TRUE", "'raw'", "'(a|b)*'")
TESTS = (
    *("source.ip IN CIDR '10.0.0.0/8'", "source.ip NOT IN CIDR ('::/0', '192.0.2.0/24')", "source.port IN (1, 22, 22)"),
    *("message IS NULL", "json.a IS NOT NULL", "level <= warning", "source.port NOT BETWEEN 1 AND 1023"),
    *("source.port = destination.port", "message ~ 'fail(ed)?'", "message LIKE 'a\\_%'", "event.original = 'x'"),
)
TAILS = (
    *(
        "SINCE '-1h'",
        "UNTIL '2026-11-21T10:00Z'",
        "GROUP BY source.ip",
        "HAVING count(*) > 3",
        "ORDER BY source.ip DESC",
    ),
    *("LIMIT 3", "EVERY 10s"),
)
BATCH = batch_of(
    Kind(Stage.COOKED, EventClass.NETWORK, "netflow.v9"),
    "host",
    Producer(7, 1_793_600_000),
    0,
    1_793_700_000_000,
    [
        {"source.ip": "192.0.2.1", "source.port": 22, "message": "abc", "level": 3, "json.a": 1, "occurred": 5},
        {"source.ip": "2001:db8::1", "json.a": "x", "event.original": b"\xff"},
        {"message": 7, "source.port": "no number", "json.a": [1, {"b": None}]},
    ],
)

HELD = ("id", "stage", "event_class", "type", "origin", "observed", "occurred", "source.ip", "source.port", "message")
COLUMNS = {**dict.fromkeys(HELD, Stored.COLUMN), EXTRA: Stored.EXTRA}
STORE = sqlite3.connect(":memory:")
STORE.create_function("regexp", 2, sql_regexp)
STORE.execute("CREATE TABLE events ({})".format(", ".join(f'"{name}"' for name in COLUMNS)))


def pick(chosen: atheris.FuzzedDataProvider, words: Sequence[str]) -> str:
    """Return one of some texts."""
    return words[int(chosen.ConsumeIntInRange(0, len(words) - 1))]


def condition(chosen: atheris.FuzzedDataProvider, depth: int) -> str:
    """Return a condition; its literals fit its fields or not."""
    form = chosen.ConsumeIntInRange(0, 5 if depth else 2)
    if form == 0:
        return f"{pick(chosen, FIELDS)} {pick(chosen, OPERATORS)} {pick(chosen, LITERALS)}"
    if form <= 2:
        return pick(chosen, TESTS)
    if form == 3:
        return f"NOT {condition(chosen, depth - 1)}"
    joined = pick(chosen, (" AND ", " OR ")).join(condition(chosen, depth - 1) for _ in range(2))
    return f"({joined})" if form == 4 else joined


def statement(chosen: atheris.FuzzedDataProvider) -> str:
    """Return a statement, into which now and then something else was put."""
    text = f"SELECT {pick(chosen, ITEMS)}"
    if chosen.ConsumeBool():
        text += f" FROM {pick(chosen, SOURCES)}"
    if chosen.ConsumeBool():
        text += f" WHERE {condition(chosen, 3)}"
    text += "".join(f" {tail}" for tail in TAILS if chosen.ConsumeIntInRange(0, 3) == 0)
    if chosen.ConsumeIntInRange(0, 3) == 0:
        place = chosen.ConsumeIntInRange(0, len(text))
        text = text[:place] + str(chosen.ConsumeUnicodeNoSurrogates(8)) + text[place + chosen.ConsumeIntInRange(0, 3) :]
    return text


def one_input(data: bytes) -> None:
    """Compile a statement; run what compiles on events and let SQLite compile its SQL."""
    chosen = atheris.FuzzedDataProvider(data)
    try:
        plan = compile_statement(statement(chosen), now_ns=1_793_700_000_000_000_000)
    except StatementError:
        return
    text = render(plan)
    if render(compile_statement(text, now_ns=0)) != text:
        raise AssertionError(f"the canonical text changes when it is compiled: {text}")
    subjects(plan, "eddy")
    matches_kind(plan, BATCH.kind, BATCH.origin)
    to_sql(plan, DUCKDB, "events", COLUMNS)
    query = to_sql(plan, SQLITE, "events", COLUMNS)
    STORE.execute(f"EXPLAIN {query.sql}", query.parameters)  # SQLite compiles it
    selected = BATCH.filter(matcher(plan)(BATCH))
    if selected.count and not plan.is_aggregate:
        project(plan, selected)


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
