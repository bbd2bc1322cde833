"""Selection on live batches: matching, projection, subjects and windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import pytest

from eddy_mesh.batch import EXTRA, Batch, Kind, Producer
from eddy_mesh.cer import EventClass, Stage, Value
from eddy_mesh.columnize import any_column, column_of
from eddy_mesh.columns import Column, Constant, Ids, Numbers, Text, Words, pack
from eddy_mesh.errors import UsageError
from eddy_mesh.fields import type_of
from eddy_mesh.selection import (
    LiveAggregate,
    Plan,
    compile_statement,
    matcher,
    matches_kind,
    project,
    subject_matches,
    subjects,
)

FLOW = Kind(Stage.COOKED, EventClass.NETWORK, "netflow.v9")
SECOND_NS = 1_000_000_000
_DONE = ("analyzed", "cooked")


def batch(columns: Mapping[str, Sequence[Value] | Column], kind: Kind = FLOW, origin: str = "hosta") -> Batch:
    """A batch of columns, or of the values of columns."""
    made: dict[str, Column] = {
        name: column_of(type_of(name), values) if isinstance(values, list) else values  # type: ignore[misc]
        for name, values in columns.items()
    }
    return Batch(kind, origin, Producer(1, 2), 10, 0, max(map(len, made.values()), default=0), made)


def plan(text: str) -> Plan:
    """The plan of a statement."""
    return compile_statement(text, now_ns=0)


def selected(condition: str, events: Batch) -> list[int]:
    """The offsets of the events that a condition selects."""
    return np.flatnonzero(matcher(plan(f"SELECT * WHERE {condition}"))(events)).tolist()


# --- matching ------------------------------------------------------------------------------------------------------


def test_null_is_neither_selected_nor_refused() -> None:
    """A comparison with a field that an event does not have is NULL, and so is its negation."""
    events = batch({"source.port": [22, None, 80]})
    assert selected("source.port = 22", events) == [0]
    assert selected("NOT source.port = 22", events) == [2]
    assert selected("source.port IS NULL", events) == [1]
    assert selected("source.port = 22 OR source.port IS NULL", events) == [0, 1]


def test_fields_of_the_kind_are_fields() -> None:
    """Class, type and stage are selected like columns, without a column."""
    events = batch({"source.port": [1, 2]})
    assert selected("type LIKE 'netflow.%' AND event_class = 'network'", events) == [0, 1]
    assert selected("type = 'syslog'", events) == []


@pytest.mark.parametrize(
    ("condition", "raw"),
    [
        ("source.port = 1", []),
        ("source.port = 1 AND stage = 'raw'", [0]),
        ("source.port = 1 AND id > '00000000-0000-0000-0000-000000000000'", [0]),
    ],
)
def test_raw_events_are_selected_only_when_the_stage_or_an_id_is_named(condition: str, raw: list[int]) -> None:
    """A statement that mentions neither the stage nor the id sees cooked and analyzed events only."""
    events = batch({"source.port": [1, 2]}, Kind(Stage.RAW, EventClass.NETWORK, "netflow"))
    assert selected(condition, events) == raw


def test_a_value_of_another_type_is_null() -> None:
    """A column that does not have its field's type raises nothing and selects nothing."""
    events = batch({"source.port": any_column(["x", 22, None, {"a": 1}]), "message": any_column([5, "a", b"a", None])})
    assert selected("source.port = 22", events) == [1]
    assert selected("source.port != 22", events) == []
    assert selected("message ~ 'a'", events) == [1]
    assert selected("message IS NULL", events) == [0, 2, 3]


def test_hostile_values_raise_nothing() -> None:
    """What msgpack can hold and no field should, is NULL to every condition."""
    foreign = msgspec.msgpack.Ext(5, b"x")
    odd: list[Value] = [foreign, {"a": [foreign]}]  # type: ignore[list-item]  # no field's value, but msgpack's
    extra = any_column([{"parents": ["x", "y"], "json.x": odd[0]}, {"parents": [b"1"], "message": odd[1]}])
    events = batch({"json.y": any_column(odd), EXTRA: extra})
    for condition in ("json.x = 1", "json.y ~ 'a'", "message = 'a'", "json.y IS NOT NULL"):
        assert selected(condition, events) == []
    assert selected("parents IS NOT NULL", events) == []  # a map that holds something foreign is null as a whole


@pytest.mark.parametrize(
    "condition", ["source.port = 1", "message ~ 'a'", "source.ip IN CIDR '::/0'", "json.x IS NULL"]
)
def test_no_events_are_no_trouble(condition: str) -> None:
    """A batch that a select left empty is answered like any other."""
    events = batch({"source.port": [1, 2], "message": ["abc", "b"], "source.ip": ["::1", "::2"], "json.x": [1, "a"]})
    assert selected(condition, events.take(np.zeros(0, np.intp))) == []


def test_sparse_and_dense_values_of_a_field_are_one() -> None:
    """After a join some events have a field in its column and others among the sparse fields."""
    sparse = any_column([None, {"user.name": "bob"}, {"user.name": "alice", "json.user.name": 1}])
    events = batch({"user.name": column_of(type_of("user.name"), ["root", None, None]), EXTRA: sparse})
    assert selected("user.name IN ('root', 'alice')", events) == [0, 2]
    assert selected("user.name IS NULL", events) == []


def test_numbers_compare_exactly_at_any_width() -> None:
    """Literals outside the column's width, and unsigned beside signed columns, compare as integers do."""
    events = batch(
        {
            "source.port": Numbers(np.array([1, 255], np.uint8)),
            "source.bytes": Numbers(np.array([(1 << 64) - 1, 5], np.uint64)),
            "destination.bytes": Numbers(np.array([-1, 5], np.int64)),
        }
    )
    assert selected("source.port < 70000 AND source.port > -5", events) == [0, 1]
    assert selected("source.port IN (1, 2, 3, 4, 5, 70000, -1)", events) == [0]
    assert selected("source.bytes = 18446744073709551615", events) == [0]
    assert selected("source.bytes > destination.bytes", events) == [0]


def test_text_that_is_not_utf8_is_matched_as_it_is_shown() -> None:
    """Bytes that are no UTF-8 count as U+FFFD, as in the row that a reader sees."""
    events = batch({"message": Text(*pack([b"a\xffb", b"ab", b"\xc3\xa9"]))})
    assert selected("message LIKE 'a_b'", events) == [0]
    assert selected("message = 'a\ufffdb'", events) == [0]
    assert selected("message ~ '^.$'", events) == [2]


def test_a_dictionary_with_repeated_words_is_read() -> None:
    """A dictionary from outside may hold a text twice: both codes mean it."""
    events = batch({"user.name": Words(np.array([0, 1, 2], np.uint8), ("root", "root", "bob"))})
    assert selected("user.name = 'root'", events) == [0, 1]


def test_costly_conditions_are_asked_of_what_is_left() -> None:
    """Narrowing to the events still in question changes no answer."""
    messages: list[Value] = [f"event {number} of many" for number in range(100)]
    events = batch({"source.port": list(range(100)), "message": messages})
    assert selected("message ~ '7 of' AND source.port > 80", events) == [87, 97]
    assert selected("NOT (message ~ '7 of' OR source.port < 95)", events) == [95, 96, 98, 99]


def test_ids_are_compared() -> None:
    """An id that is only implied by the numbering can be selected."""
    events = batch({"source.port": [1, 2, 3]})
    identity = events.ids().at(1)
    assert isinstance(identity, bytes)
    assert selected(f"id = '{identity.hex()}'", events) == [1]
    assert selected(f"id > '{identity.hex()}'", events) == [2]


# --- projection ----------------------------------------------------------------------------------------------------


def test_projection_keeps_what_was_named_and_the_ids() -> None:
    """Only named columns stay, renamed; ids can still be told."""
    events = batch({"source.port": [1, 2], "message": ["a", "b"]}).filter(np.array([False, True]))
    projected = project(plan("SELECT id, source.port AS port, type, user.name"), events)
    assert dict(projected.columns) == {"port": projected.columns["port"], "type": Constant("netflow.v9", 1)}
    assert projected.column("port").at(0) == 2
    assert projected.ids().at(0) == events.ids().at(0)


def test_projection_finds_sparse_fields_and_keeps_explicit_ids() -> None:
    """A named sparse field becomes a column; a column of ids is the numbering and stays."""
    ids = Ids(1, np.array([5, 6], np.uint64))
    events = batch({"id": ids, EXTRA: any_column([{"user.name": "bob"}, None])})
    projected = project(plan("SELECT user.name"), events)
    assert projected.columns.keys() == {"id", "user.name"}
    assert projected.column("user.name").at(0) == "bob"


# --- subjects ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "wanted"),
    [
        ("SELECT *", ("eddy.event.analyzed.>", "eddy.event.cooked.>")),
        ("SELECT * FROM network.netflow WHERE stage = 'cooked'", ("eddy.event.cooked.network.netflow.>",)),
        ("SELECT * FROM network.a, network WHERE stage = 'raw'", ("eddy.event.raw.network.>",)),
        (
            "SELECT * FROM network.a.h WHERE stage = 'raw'",
            ("eddy.event.raw.network.a.h", "eddy.event.raw.network.a.h.>"),
        ),
        ("SELECT * FROM > WHERE stage IS NOT NULL", ("eddy.event.*.>",)),
        ("SELECT * FROM system WHERE event_class = 'network'", ()),
    ],
)
def test_subjects_carry_no_more_stages_than_needed(statement: str, wanted: tuple[str, ...]) -> None:
    """The subjects to subscribe to follow from FROM and from what WHERE says about the kind."""
    assert subjects(plan(statement), "eddy") == wanted


@pytest.mark.parametrize(
    ("pattern", "matched"),
    [
        ("network", True),
        ("network.netflow", True),
        ("network.netflow.*", True),
        ("network.*.v9", True),
        ("*.netflow", True),
        ("network.netflow.v9.hosta", True),
        ("network.netflow.v9.>", True),
        ("network.netflow.v9.hosta.>", False),
        ("network.netflow.v5", False),
        ("network.net", False),
        ("system", False),
    ],
)
def test_from_matches_a_prefix_of_class_type_and_origin(pattern: str, matched: bool) -> None:
    """A pattern names as many tokens as it cares for."""
    assert matches_kind(plan(f"SELECT * FROM {pattern}"), FLOW, "hosta") is matched


def test_subject_matching_is_that_of_nats() -> None:
    """``*`` stands for one token, ``>`` for one or more at the end."""
    assert subject_matches("a.b.c", "a.*.c")
    assert subject_matches("a.b.c", "a.>")
    assert not subject_matches("a", "a.>")
    assert not subject_matches("a.b.c", "a.b")


# --- windows -------------------------------------------------------------------------------------------------------


def flows(addresses: Sequence[Value], sizes: Sequence[Value], observed_s: float) -> Batch:
    """Flows that were taken in at one time."""
    observed = Constant(int(observed_s * SECOND_NS), len(addresses))
    return batch({"source.ip": list(addresses), "network.bytes": list(sizes), "observed": observed})


TOP = "SELECT source.ip, count(*), sum(network.bytes) AS total GROUP BY source.ip ORDER BY total DESC LIMIT 2 EVERY 10s"


def test_windows_close_when_their_time_is_over() -> None:
    """Groups are merged over batches, ordered and cut when the window closes, and then forgotten."""
    live = LiveAggregate(plan(TOP))
    live.on_batch(flows(["10.0.0.1", "10.0.0.2", "10.0.0.1"], [5, 1 << 62, 7], 101), 0)
    live.on_batch(flows(["10.0.0.2", "10.0.0.3", None], [1 << 62, None, 1], 109), 0)
    live.on_batch(flows(["10.0.0.9"], [1], 110), 0)
    assert live.on_tick(110 * SECOND_NS) == []
    window: dict[str, Value] = {"window.start": 100 * SECOND_NS, "window.end": 110 * SECOND_NS}
    assert live.on_tick(111 * SECOND_NS) == [
        {**window, "source.ip": "10.0.0.2", "count(*)": 2, "total": 1 << 63},
        {**window, "source.ip": "10.0.0.1", "count(*)": 2, "total": 12},
    ]
    assert live.on_tick(112 * SECOND_NS) == []
    assert [row["source.ip"] for row in live.drain()] == ["10.0.0.9"]


def test_late_events_are_counted() -> None:
    """An event of a closed window changes nothing that was said, and is counted."""
    live = LiveAggregate(plan(TOP))
    live.on_tick(200 * SECOND_NS)
    live.on_batch(flows(["10.0.0.1"], [1], 100), 0)
    assert (live.late, live.drain()) == (1, [])


def test_groups_are_bounded_and_the_rest_is_counted() -> None:
    """When there is no room for a group or a different value, its events are counted as overflow."""
    live = LiveAggregate(plan("SELECT source.ip, count(*) GROUP BY source.ip EVERY 10s"), max_groups=2)
    live.on_batch(flows(["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.3"], [1, 1, 1, 1], 100), 0)
    assert live.overflowed == 2
    assert len(live.drain()) == 2
    live.on_batch(flows(["10.0.0.4"], [1], 500), 0)
    assert (live.overflowed, len(live.drain())) == (2, 1)


def test_having_and_every_function() -> None:
    """Each function computes over the values that are there; HAVING keeps groups."""
    text = "count(network.bytes), avg(network.bytes), min(source.ip), max(source.ip), count(DISTINCT source.ip)"
    live = LiveAggregate(plan(f"SELECT level, {text} GROUP BY level HAVING count(*) > 1 AND level <= error EVERY 1s"))
    columns: dict[str, Sequence[Value] | Column] = {
        "level": [3, 3, 3, 4, 4, 2],
        "network.bytes": [1, None, 2, 1, 1, 1],
        "source.ip": ["::1", "10.0.0.1", "10.0.0.1", "::", "::", "::"],
    }
    assert live.on_batch(batch(columns), 7 * SECOND_NS) == 6
    (row,) = live.on_tick(9 * SECOND_NS)
    assert list(row.values())[2:] == [3, 2, 1.5, "::1", "10.0.0.1", 2]
    assert row["window.start"] == 7 * SECOND_NS


def test_live_groups_want_windows() -> None:
    """Aggregates without EVERY would never have a result on live flows."""
    with pytest.raises(UsageError, match="EVERY"):
        LiveAggregate(plan("SELECT count(*)"))
