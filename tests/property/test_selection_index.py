"""The look-up of one field for many terms agrees with asking each value, for columns of every width."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eddy_mesh.batch import Batch, Kind, Producer
from eddy_mesh.cer import EventClass, Stage
from eddy_mesh.columns import Addresses, Column, Numbers, Text, Words, pack
from eddy_mesh.fields import FieldType
from eddy_mesh.selection import Index, compile_statement, evaluate, index
from eddy_mesh.selection.keys import Lookup
from eddy_mesh.selection.lookup import field_column
from eddy_mesh.selection.plan import Operand
from eddy_mesh.selection.terms import Range, Term, merged, taken_apart
from eddy_mesh.selection.values import comparable

KIND = Kind(Stage.COOKED, EventClass.NETWORK, "netflow.v9")
DTYPES = ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8")
EDGES = [
    sign * (1 << bits) + more
    for bits in (0, 7, 8, 15, 16, 31, 32, 48, 63, 64)
    for sign in (1, -1)
    for more in (-1, 0, 1)
]
WHOLE = st.sampled_from(EDGES) | st.integers(-300, 300) | st.integers(-(1 << 63), (1 << 64) - 1)


def terms_of(kind: FieldType, ranges: list[list[Range]]) -> list[Term]:
    """Terms of one field."""
    return [Term(Operand("x", kind), ranges=merged(each)) for each in ranges]


def check(column: Column, terms: list[Term]) -> None:
    """Compare the look-up with the values one at a time."""
    kind = terms[0].operand.type
    values = [comparable(kind, column.at(row)) for row in range(len(column))]
    expected = {
        number: [
            row
            for row, value in enumerate(values)
            if isinstance(value, int | float) and any(start <= value < stop for start, stop in term.ranges)
        ]
        for number, term in enumerate(terms)
    }
    found = {number: rows.tolist() for number, rows in Lookup(terms).rows(column)}
    assert found == {number: rows for number, rows in expected.items() if rows}


def ranges_of(values: st.SearchStrategy[int]) -> st.SearchStrategy[list[list[Range]]]:
    """Ranges for a few terms: single values and runs."""
    one = st.tuples(values, st.sampled_from([1, 1, 1, 2, 300, 1 << 20])).map(lambda pair: (pair[0], sum(pair)))
    return st.lists(st.lists(one, min_size=1, max_size=4), min_size=1, max_size=8)


@settings(max_examples=300)
@given(dtype=st.sampled_from(DTYPES), data=st.data())
def test_integers_of_every_width_are_found(dtype: str, data: st.DataObject) -> None:
    """The table of high bits and the search behind it give what comparing gives, up to the limits of each width."""
    limits = np.iinfo(dtype)
    held = data.draw(st.lists(WHOLE.filter(lambda value: limits.min <= value <= limits.max), max_size=20))
    nulls = np.array(data.draw(st.lists(st.booleans(), min_size=len(held), max_size=len(held))), np.bool_)
    ranges = data.draw(ranges_of(WHOLE | (st.sampled_from(held) if held else WHOLE)))
    column = Numbers(np.array(held, data.draw(st.sampled_from(["<", ">"])) + dtype), nulls if nulls.any() else None)
    check(column, terms_of(FieldType.INT, ranges))


def test_a_value_below_the_first_cut_is_not_taken_for_one_at_the_end() -> None:
    """Where the last cut is beyond what the column can hold, as of 255.255.255.255, small values do not wrap to it."""
    ranges: list[list[Range]] = [[(0xFFFF_0A00_0001, 0xFFFF_0A00_0002), (0xFFFF_FFFF_FFFF, 0x1_0000_0000_0000)]]
    check(Addresses(np.array([0, 0x0A000001, 0x0A000000, 0xFFFFFFFF], ">u4")), terms_of(FieldType.ADDRESS, ranges))


@given(data=st.data(), wide=st.booleans())
def test_addresses_of_both_widths_are_found(data: st.DataObject, wide: bool) -> None:
    """IPv4 addresses, alone or among those of 16 bytes, are found by address and by block."""
    first = st.sampled_from([0, 0x0A000001, 0xFFFFFFFF, 0xC0A80100]) | st.integers(0, 0xFFFFFFFF)
    held = data.draw(st.lists(first, max_size=12))
    column = Addresses(np.array(held, ">u4"))
    mapped = first.map(lambda value: value + 0xFFFF_0000_0000)
    other = st.sampled_from([0, 1, (1 << 128) - 1, 0x20010DB8 << 96]) | st.integers(0, (1 << 128) - 1)
    known = st.sampled_from([value + 0xFFFF_0000_0000 for value in held]) if held else mapped
    check(column.wide() if wide else column, terms_of(FieldType.ADDRESS, data.draw(ranges_of(mapped | other | known))))


@given(
    held=st.lists(st.sampled_from(["", "a", "ab", "é", "web1"]), max_size=12),
    wanted=st.lists(st.sets(st.sampled_from(["", "a", "ab", "é", "web2"])), min_size=1, max_size=6),
    coded=st.booleans(),
)
def test_texts_are_found_in_both_forms(held: list[str], wanted: list[set[str]], coded: bool) -> None:
    """Dictionary-coded and plain texts give the same rows, an empty text among them."""
    words = tuple(dict.fromkeys(held))
    codes = np.array([words.index(value) for value in held], np.uint8)
    column: Column = Words(codes, words) if coded else Text(*pack([value.encode() for value in held]))
    terms = [Term(Operand("x", FieldType.TEXT), texts=tuple(sorted(values))) for values in wanted]
    expected = {n: [row for row, value in enumerate(held) if value in values] for n, values in enumerate(wanted)}
    found = {number: rows.tolist() for number, rows in Lookup(terms).rows(column)}
    assert found == {number: rows for number, rows in expected.items() if rows}


def test_terms_are_found_in_and_or_in_and_between() -> None:
    """What an index can hold is taken out of a condition; the rest is what it was, without that part."""
    where = (
        "destination.port IN (22, 23) AND level <= 4 AND (host = 'a' OR host = 'b') AND network.bytes BETWEEN 1 AND 9"
    )
    parts = taken_apart(compile_statement(f"SELECT * WHERE {where}", now_ns=0).where)
    found = {term.operand.name: (term.ranges, term.texts) for term, _ in parts}
    assert found == {
        "destination.port": (((22, 24),), ()),
        "host": ((), ("a", "b")),
        "network.bytes": (((1, 10),), ()),
    }
    plan = compile_statement("SELECT * WHERE host = 'a' AND level <= 4", now_ns=0)
    ((_, rest),) = taken_apart(plan.where)
    assert rest == compile_statement("SELECT * WHERE level <= 4", now_ns=0).where
    assert not taken_apart(compile_statement("SELECT * WHERE NOT host = 'a' OR level = 3", now_ns=0).where)


def standing_batch() -> Batch:
    """Flows to twenty ports from three hosts."""
    ports = np.arange(200, dtype=np.uint16) % 20
    hosts = Words((np.arange(200) % 3).astype(np.uint8), ("a", "b", "c"))
    return Batch(KIND, "h", Producer(1, 1), 0, 0, 200, {"destination.port": Numbers(ports), "host": hosts})


@pytest.mark.parametrize(
    "condition",
    [
        "destination.port = {n}",
        "destination.port IN ({n}, 1{n})",
        "host = 'web{n}'",
        "host = 'a' AND destination.port = {n}",
    ],
)
def test_five_hundred_statements_read_a_field_once(condition: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Standing statements with equality cost one look-up of their field, and nothing for those that match nothing."""
    read: list[str] = []

    def counting(batch: Batch, name: str) -> Column:
        read.append(name)
        return field_column(batch, name)

    monkeypatch.setattr(index, "field_column", counting)
    monkeypatch.setattr(evaluate, "field_column", counting)
    plans = [compile_statement(f"SELECT * WHERE {condition.format(n=n)}", now_ns=0) for n in range(500)]
    found = Index(plans).matches(standing_batch())
    assert len(read) <= 2
    assert len(found) == (0 if "web" in condition else 20)


def test_the_same_condition_is_asked_once_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Statements that differ in what they project share the evaluation of a costly condition."""
    read: list[str] = []

    def counting(batch: Batch, name: str) -> Column:
        read.append(name)
        return field_column(batch, name)

    monkeypatch.setattr(evaluate, "field_column", counting)
    fields = ("host", "level", "source.ip", "destination.port", "message")
    plans = [compile_statement(f"SELECT {name} WHERE host LIKE 'a%'", now_ns=0) for name in fields]
    found = Index(plans).matches(standing_batch())
    assert read == ["host"]
    assert [number for number, _ in found] == [0, 1, 2, 3, 4]


def test_statements_for_other_kinds_are_not_asked() -> None:
    """Type, class and origin choose the statements before any column is read."""
    texts = ("SELECT * FROM system", "SELECT * WHERE type = 'netflow.v9'", "SELECT * FROM network.netflow.v9.other")
    table = Index([compile_statement(text, now_ns=0) for text in texts]).table(KIND, "h")
    assert table.wanted == (1,)
