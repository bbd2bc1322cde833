"""Laws of the cookings that rework events: equal keys, bounded errors, nothing lost, order."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from eddy_agents.reworking.flow_groups import groups_of
from eddy_agents.reworking.keys import hashes
from eddy_agents.reworking.misra_gries import Summary
from eddy_agents.transformers import aggregate, combine, heavy_hitters, reorder
from eddy_mesh.actor.numbering import Numbering
from eddy_mesh.agent import Result, Stateful
from eddy_mesh.batch import EXTRA, Batch, Kind, Producer
from eddy_mesh.cer import EventClass, Stage, Value
from eddy_mesh.columnize import any_column
from eddy_mesh.columns import Column, Constant, Numbers
from eddy_mesh.rows import batch_of, flat_rows

S = 1_000_000_000
T0 = 1_700_000_040 * S
NOW = T0 + 10_000 * S
KIND = Kind(Stage.COOKED, EventClass.NETWORK, "netflow.v9")
Row = dict[str, Value]

VALUES: dict[str, st.SearchStrategy[Value]] = {
    "source.ip": st.sampled_from(["192.0.2.1", "192.0.2.2", "2001:db8::1", None]),
    "source.port": st.one_of(st.none(), st.integers(-(2**63), 2**64 - 1)),
    "message": st.one_of(st.none(), st.text(max_size=4)),
    "event.original": st.one_of(st.none(), st.binary(max_size=4)),
    "sample.probability": st.one_of(st.none(), st.floats(allow_nan=False)),
    "labels.any": st.one_of(st.none(), st.integers(0, 3), st.text(max_size=2), st.lists(st.integers(0, 2), max_size=2)),
}
EVENTS = st.lists(
    st.fixed_dictionaries(
        {
            "source.ip": st.sampled_from(["192.0.2.1", "192.0.2.2", "2001:db8::1"]),
            "network.bytes": st.integers(0, 1000),
            "at_s": st.integers(0, 300),
        }
    ),
    max_size=60,
)


def _batch(rows: list[Row], first: int = 0) -> Batch:
    return batch_of(KIND, "h", Producer(1, 1), first, 1, rows)


def _rows(results: list[Result]) -> list[Row]:
    numbering = Numbering("test/host/cook", "host", 1)
    outputs = [output for result in results for output in result.outputs]
    batches = [output if isinstance(output, Batch) else numbering.number(output, NOW) for output in outputs]
    return [row for batch in batches for row in flat_rows(batch) if row["type"] != "mesh.notice"]


def _run(cook: Stateful, rows: list[Row], size: int) -> tuple[list[Row], int]:
    """Return what comes of rows that are given so many at a time, and how many were filtered."""
    results = [cook.on_batch(_batch(rows[n : n + size], n), NOW + n) for n in range(0, len(rows), size)]
    results += [cook.on_tick(NOW + 1000 * S), cook.on_tick(NOW + 2000 * S)]
    return _rows(results), sum(result.filtered for result in results)


def _flows(events: list[dict[str, object]]) -> list[Row]:
    return [
        {
            "source.ip": str(event["source.ip"]),
            "network.bytes": int(str(event["network.bytes"])),
            "occurred": T0 + int(str(event["at_s"])) * S,
        }
        for event in events
    ]


@given(st.data())
def test_keys_are_those_of_the_values_whatever_column_holds_them(data: st.DataObject) -> None:
    """An event alone, among others and with all its fields sparse has the same key; other values have another."""
    name = data.draw(st.sampled_from(sorted(VALUES)))
    values = data.draw(st.lists(VALUES[name], min_size=1, max_size=12))
    together = hashes(_batch([{name: value} for value in values]), [name]).tolist()
    alone = [int(hashes(_batch([{name: value}]), [name])[0]) for value in values]
    sparse = any_column([None if value is None else {name: value} for value in values])
    hidden = hashes(Batch(KIND, "h", Producer(1, 1), 0, 1, len(values), {EXTRA: sparse}), [name]).tolist()
    assert together == alone == hidden
    different = {repr(value) if value != 0 else "0" for value in values}
    assert len(set(together)) == len(different)


@given(st.integers(-(2**53), 2**53))
def test_a_number_has_one_key(number: int) -> None:
    """A whole number and the same as a float are one key, in numbers, in a map and as a constant."""
    columns: list[Column] = [
        Numbers(np.array([number, 1], np.int64)),
        Numbers(np.array([number, 1.5], np.float64)),
        any_column([float(number), "x"]),
        Constant(number, 2),
    ]
    batches = [Batch(KIND, "h", Producer(1, 1), 0, 1, 2, {"labels.any": column}) for column in columns]
    assert len({int(hashes(batch, ["labels.any"])[0]) for batch in batches}) == 1


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 50)), max_size=30), max_size=6), st.integers(1, 8)
)
def test_counters_keep_their_bounds(batches: list[list[tuple[int, int]]], capacity: int) -> None:
    """A counter is never too high, too low by ``error`` at most, and that is at most W / (m + 1)."""
    summary, exact = Summary(capacity), Counter[int]()
    for batch in batches:
        keys = np.array([key for key, _ in batch], np.uint64)
        summary.add(keys, np.array([weight for _, weight in batch], np.float64))
        for key, weight in batch:
            exact[key] += weight
    assert len(summary.keys) <= capacity
    assert summary.error <= sum(exact.values()) / (capacity + 1)
    held = dict(zip(summary.keys.tolist(), summary.counters.tolist(), strict=True))
    for key, weight in exact.items():
        assert held.get(key, 0) <= weight <= held.get(key, 0) + summary.error


@given(EVENTS, st.integers(1, 20), st.integers(2, 30))
def test_heavy_hitters_lose_nothing(events: list[dict[str, object]], size: int, max_held: int) -> None:
    """Sum and number of what goes out are those of what came in, however little may be held."""
    rows = _flows(events)
    config = heavy_hitters.Config(top=1, max_held=max_held, max_keys=2)
    found, _ = _run(heavy_hitters.Cooking(config), rows, size)
    assert sum(int(str(row["network.bytes"])) for row in found) == sum(int(str(row["network.bytes"])) for row in rows)
    assert sum(int(str(row.get("rework.count", 1))) for row in found) == len(rows)


@given(EVENTS, st.integers(1, 20))
def test_aggregates_are_those_of_a_dictionary(events: list[dict[str, object]], size: int) -> None:
    """Every sum, number and parent by window and address, however the events are batched."""
    rows = _flows(events)
    config = aggregate.Config(by=("source.ip",), lateness_s=1000, max_parents=1000)
    found, filtered = _run(aggregate.Cooking(config), rows, size)
    assert filtered == 0
    sums, counts = Counter[tuple[str, int]](), Counter[tuple[str, int]]()
    for row in rows:
        key = (str(row["source.ip"]), int(str(row["occurred"])) // (60 * S) * 60 * S)
        sums[key] += int(str(row["network.bytes"]))
        counts[key] += 1
    keys = [(str(row["source.ip"]), int(str(row["occurred"]))) for row in found]
    assert {key: row["network.bytes"] for key, row in zip(keys, found, strict=True)} == dict(sums)
    assert {key: row["rework.count"] for key, row in zip(keys, found, strict=True)} == dict(counts)
    assert [len(row["parents"]) for row in found] == [row["rework.count"] for row in found]  # type: ignore[arg-type]


@given(EVENTS, st.integers(1, 20), st.integers(1, 40))
def test_reordering_loses_nothing_and_marks_what_is_out_of_order(
    events: list[dict[str, object]], size: int, max_held: int
) -> None:
    """What is not marked is in order; all is there once."""
    rows = _flows(events)
    found, filtered = _run(reorder.Cooking(reorder.Config(wait_s=20, max_held=max_held)), rows, size)
    times = [int(str(row["occurred"])) for row in found if not row.get("rework.late")]
    assert times == sorted(times)
    assert (len(found), filtered) == (len(rows), 0)
    assert Counter(row["occurred"] for row in found) == Counter(row["occurred"] for row in rows)


RECORDS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40), st.integers(0, 8)), min_size=1, max_size=30)


@given(RECORDS, st.integers(0, 3))
def test_records_of_one_flow_are_those_that_hang_together(records: list[tuple[int, int, int]], slack: int) -> None:
    """The groups are the connected parts of the graph that joins records of one key whose times nearly overlap."""
    keys, starts, lengths = (np.array(column) for column in zip(*records, strict=True))
    ends = starts + lengths
    found = groups_of(keys.astype(np.uint64), starts * 10**6, ends * 10**6, slack)
    assert sorted(found.order.tolist()) == list(range(len(records)))
    flow = dict(zip(found.order.tolist(), found.heads.tolist(), strict=True))
    flows = {frozenset(row for row in flow if flow[row] == head) for head in flow.values()}
    wanted = [{row} for row in range(len(records))]
    for a in range(len(records)):
        for b in range(a):
            near = starts[a] <= ends[b] + slack and starts[b] <= ends[a] + slack
            if keys[a] == keys[b] and near:
                joint = next(part for part in wanted if a in part) | next(part for part in wanted if b in part)
                wanted = [part for part in wanted if not part & joint] + [joint]
    assert flows == {frozenset(part) for part in wanted}
    for head in set(found.heads.tolist()):
        members = found.order[found.heads == head].tolist()
        assert members == sorted(members)


@given(RECORDS, st.integers(1, 29), st.integers(0, 10))
def test_the_nearest_is_the_nearest(records: list[tuple[int, int, int]], others: int, within: int) -> None:
    """The same as looking at every pair."""
    others = min(others, len(records))
    keys = np.array([key for key, _, _ in records], np.uint64)
    times = np.array([time * 10**6 for _, time, _ in records])
    found = combine.nearest(keys, times, others, within * 10**6)
    for row, chosen in zip(range(others, len(records)), found.tolist(), strict=True):
        apart = [abs(int(times[row] - times[o])) for o in range(others) if keys[o] == keys[row]]
        best = min((gap for gap in apart if gap <= within * 10**6), default=None)
        assert (chosen >= 0) == (best is not None)
        if best is not None:
            assert keys[chosen] == keys[row]
            assert abs(int(times[row] - times[chosen])) == best
