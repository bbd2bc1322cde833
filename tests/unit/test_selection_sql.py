"""Selection in stores: the SQL that a plan becomes, where the property test does not look."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from eddy_mesh.batch import EXTRA
from eddy_mesh.cer import Value
from eddy_mesh.selection import DUCKDB, SQLITE, Query, Stored, compile_statement, to_sql

COLUMNS = {
    "id": Stored.COLUMN,
    "stage": Stored.COLUMN,
    "event_class": Stored.COLUMN,
    "type": Stored.COLUMN,
    "origin": Stored.COLUMN,
    "source.ip": Stored.COLUMN,
    "source.port": Stored.COLUMN,
    "observed": Stored.COLUMN,
    "user.name": Stored.EXTRA,
    EXTRA: Stored.EXTRA,
}


def query(text: str) -> Query:
    """A statement for SQLite."""
    return to_sql(compile_statement(text, now_ns=0), SQLITE, "events", COLUMNS)


def run(text: str) -> list[dict[str, Value]]:
    """What SQLite answers, with three events stored."""
    made = query(text)
    with closing(sqlite3.connect(":memory:")) as store:
        names = ", ".join(f'"{name}"' for name in COLUMNS if name != "user.name")
        store.execute(f"CREATE TABLE events ({names})")
        for number in (2, 0, 1):
            identity, address = bytes(15) + bytes([number]), bytes(10) + b"\xff\xff\x0a\x00\x00" + bytes([number])
            extra = '{"user.name":"root","json.x":[1],"json.y":1.5}' if number == 1 else None
            row = (identity, "cooked", "network", "netflow.v9", "hosta", address, number, number * 10**10, extra)
            store.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
        return made.rows(store.execute(made.sql, made.parameters).fetchall())


def test_values_are_parameters() -> None:
    """No literal of a statement is ever part of the SQL text."""
    made = query("SELECT id WHERE user.name = 'x'' OR 1=1 --' AND source.port IN (7, 8) AND type LIKE 'n%'")
    assert "1=1" not in made.sql
    assert made.sql.count("?") == len(made.parameters)


def test_names_are_quoted() -> None:
    """A name with odd characters can not leave its place."""
    made = to_sql(compile_statement('SELECT "json.a\' {x}"', now_ns=0), SQLITE, "events", COLUMNS)
    assert "{x}" not in made.sql


def test_rows_have_public_values() -> None:
    """Addresses come back as text, ids as 16 bytes, members of the JSON column as their values."""
    (row,) = run("SELECT source.ip, user.name AS who, json.x, json.y WHERE user.name = 'root'")
    assert row == {"id": bytes(15) + b"\1", "source.ip": "10.0.0.1", "who": "root", "json.x": [1], "json.y": 1.5}


def test_star_gives_every_field_that_an_event_has() -> None:
    """``*`` merges sparse fields into the row."""
    (row,) = run("SELECT * WHERE source.port = 1")
    assert row["json.y"] == 1.5
    assert row["user.name"] == "root"
    assert EXTRA not in row


def test_a_limit_without_order_cuts_by_id() -> None:
    """LIMIT alone takes the oldest events, always the same."""
    assert [row["source.port"] for row in run("SELECT source.port LIMIT 2")] == [0, 1]


def test_open_fields_are_ordered_by_number_then_text() -> None:
    """ORDER BY a field without a type puts numbers by their size first, what has no value last."""
    assert [row["source.port"] for row in run("SELECT source.port ORDER BY json.y DESC")] == [1, 0, 2]


def test_windows_of_stored_events() -> None:
    """With EVERY a store groups by window too and applies LIMIT to each window."""
    rows = run("SELECT count(*) LIMIT 1 EVERY 20s")
    assert [(row["window.start"], row["window.end"], row["count(*)"]) for row in rows] == [
        (0, 20_000_000_000, 2),
        (20_000_000_000, 40_000_000_000, 1),
    ]


def test_fields_that_a_store_does_not_have_are_null() -> None:
    """A statement on a field that was never stored selects nothing and does not fail."""
    assert run("SELECT id WHERE destination.ip = '10.0.0.1' OR process.pid > 1") == []
    assert len(run("SELECT id WHERE message IS NULL")) == 3


def test_an_address_can_not_be_a_member_of_json() -> None:
    """A store that says so has a defect and is told."""
    plan = compile_statement("SELECT id WHERE source.ip = '::1'", now_ns=0)
    with pytest.raises(ValueError, match="must hold it in a column"):
        to_sql(plan, DUCKDB, "events", {"source.ip": Stored.EXTRA, EXTRA: Stored.EXTRA})
