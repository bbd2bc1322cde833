"""The cookings that rework cooked events: sample, deduplicate, heavy hitters, aggregate, reorder, combine, split."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from eddy_agents.reworking.passing import MAX_STEPS, Bounds, Rest
from eddy_agents.transformers import aggregate, combine, deduplicate, heavy_hitters, reorder, sample, split
from eddy_mesh.actor.cell import AFTERWARDS_NS
from eddy_mesh.actor.numbering import Numbering
from eddy_mesh.agent import Result, Stateful
from eddy_mesh.batch import Batch, Kind, Producer
from eddy_mesh.cer import EventClass, Stage, Value
from eddy_mesh.errors import ConfigError
from eddy_mesh.rows import batch_of, flat_rows

S = 1_000_000_000
T0 = 1_700_000_040 * S
NOW = T0 + 1000 * S
Row = dict[str, Value]
FLOW: Row = {
    "source.ip": "192.0.2.7",
    "source.port": 50_000,
    "destination.ip": "198.51.100.1",
    "destination.port": 443,
    "network.iana_number": 6,
}


def _batch(rows: Sequence[Row], first: int = 0, of: str = "netflow.v9") -> Batch:
    return batch_of(Kind(Stage.COOKED, EventClass.NETWORK, of), "h", Producer(1, 1), first, 1, rows)


def _rows(*results: Result) -> list[Row]:
    numbering = Numbering("test/host/cook", "host", 1)
    outputs = [output for result in results for output in result.outputs]
    return [
        row
        for output in outputs
        for row in flat_rows(output if isinstance(output, Batch) else numbering.number(output, NOW))
    ]


def _seen(observer: int, start_s: float, end_s: float, **more: Value) -> Row:
    times: Row = {"event.start": T0 + round(start_s * S), "event.end": T0 + round(end_s * S)}
    return FLOW | times | {"observer.ip": f"203.0.113.{observer}"} | more


def _named(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row["type"] != "mesh.notice"]


def _ids(batch: Batch) -> list[Value]:
    return [batch.ids().at(row) for row in range(batch.count)]


@pytest.mark.parametrize(
    "cook",
    [
        sample.Cooking(sample.Config(one_in=1)),
        split.Cooking(split.Config()),
        deduplicate.Cooking(deduplicate.Config(wait_s=0)),
        reorder.Cooking(reorder.Config()),
    ],
    ids=["sample", "split", "deduplicate", "reorder"],
)
def test_two_that_feed_each_other_come_to_an_end(cook: Stateful) -> None:
    """An event that went through the most reworkings is refused as a cycle; before, its steps are counted."""
    rows: list[Row] = [FLOW | {"rework.steps": MAX_STEPS}, FLOW | {"rework.steps": MAX_STEPS - 1}]
    result = cook.on_batch(_batch(rows), NOW)
    assert [(list(refusal.rows), refusal.reason) for refusal in result.refusals] == [([0], "cycle")]
    assert [row["rework.steps"] for row in _rows(result, cook.on_tick(NOW + 100 * S))] == [MAX_STEPS]


@pytest.mark.parametrize(
    "make",
    [
        lambda: deduplicate.Cooking(deduplicate.Config(wait_s=36_000)),
        lambda: heavy_hitters.Cooking(heavy_hitters.Config(every_s=36_000)),
        lambda: aggregate.Cooking(aggregate.Config(every_s=36_000, lateness_s=36_000)),
        lambda: reorder.Cooking(reorder.Config(wait_s=36_000)),
        lambda: combine.Cooking(combine.Config(wait_s=36_000)),
    ],
    ids=["deduplicate", "heavy_hitters", "aggregate", "reorder", "combine"],
)
@pytest.mark.parametrize("ahead_s", [-(10**6), 0, 10**6])
def test_a_drain_leaves_nothing_behind(make: Callable[[], Stateful], ahead_s: int) -> None:
    """With the longest waits all is given out by the tick of a drain, for events of the past and of the future too."""
    cook = make()
    taken = cook.on_batch(_batch([FLOW | {"network.bytes": 1, "occurred": NOW + ahead_s * S}]), NOW)
    assert not taken.outputs
    assert len(_rows(cook.on_tick(NOW + AFTERWARDS_NS))) == 1


# --- sample ----------------------------------------------------------------------------------------------------------


def test_sample_keeps_whole_flows() -> None:
    """Of 4,000 flows of three records a tenth is kept, each with all three; the rest is counted as filtered."""
    rows = [FLOW | {"source.port": port, "message": str(n)} for n in range(3) for port in range(4000)]
    result = sample.Cooking(sample.Config(one_in=10)).on_batch(_batch(rows), NOW)
    kept = [row["source.port"] for row in _rows(result)]
    assert all(kept.count(port) == 3 for port in set(kept))
    assert 300 < len(set(kept)) < 500
    assert result.filtered == len(rows) - len(kept)


def test_sample_is_the_same_at_every_host_and_another_with_another_seed() -> None:
    """The choice depends on fields and seed alone."""
    batch = _batch([FLOW | {"source.port": port} for port in range(1000)])
    chosen = [
        {row["source.port"] for row in _rows(sample.Cooking(sample.Config(one_in=4, seed=seed)).on_batch(batch, NOW))}
        for seed in (1, 1, 2)
    ]
    assert chosen[0] == chosen[1] != chosen[2]


def test_sample_probability_is_multiplied() -> None:
    """A sample of a sample says how likely both together were, so that sums still scale."""
    rows: list[Row] = [FLOW | {"sample.probability": 0.5}, FLOW]
    found = _rows(sample.Cooking(sample.Config(one_in=1)).on_batch(_batch(rows), NOW))
    assert [row["sample.probability"] for row in found] == [0.5, 1.0]


def test_sample_by_rate_lets_the_burst_and_then_the_rate_through() -> None:
    """A bucket of 10 filled with 5 a second lets 10 through, then 5 a second later, and says with what probability."""
    cook = sample.Cooking(sample.Config(one_in=1, per_second=5, burst=10, fields=("id",)))
    results = [cook.on_batch(_batch([FLOW] * 20, 100 * n), NOW + n * S) for n in range(2)]
    assert [len(_rows(result)) for result in results] == [10, 5]
    assert [result.filtered for result in results] == [10, 15]
    assert {row["sample.probability"] for row in _rows(results[1])} == {0.25}


# --- deduplicate -----------------------------------------------------------------------------------------------------


def _deduplicated(*batches: Sequence[Row], **config: object) -> list[Row]:
    cook = deduplicate.Cooking(deduplicate.Config(**config))  # type: ignore[arg-type]
    results = [cook.on_batch(_batch(rows, 100 * n, f"netflow.v{n}"), NOW + n) for n, rows in enumerate(batches)]
    return _rows(*results, cook.on_tick(NOW + 60 * S))


def test_flow_of_three_exporters_is_passed_on_once() -> None:
    """Also where the types differ: the first record stays, with all observers and all records as parents."""
    found = _deduplicated([_seen(1, 0, 2)], [_seen(2, 0.1, 2.1)], [_seen(3, 2.5, 4)])
    assert [(row["observer.ip"], row["type"], row["rework.count"]) for row in found] == [
        ("203.0.113.1", "netflow.v0", 3)
    ]
    assert sorted(map(str, found[0]["observer.seen_by"])) == [f"203.0.113.{n}" for n in (1, 2, 3)]  # type: ignore[arg-type]
    own = [_ids(_batch([FLOW], 100 * n))[0] for n in range(3)]
    assert found[0]["parents"] == own


def test_long_flow_of_one_exporter_is_no_repeat() -> None:
    """The records of the first observer all stay, so that their sum is the flow's; those of the other go."""
    rows = [_seen(1, 0, 60, message="a"), _seen(2, 0, 60), _seen(1, 60, 120, message="b"), _seen(2, 60, 120)]
    found = _deduplicated(rows)
    assert [row["message"] for row in found] == ["a", "b"]
    assert found[0]["rework.count"] == 3
    assert found[1]["rework.count"] == 1


def test_answer_and_later_flow_are_flows_of_their_own() -> None:
    """The other direction, another time and another port are never repeats."""
    back = _seen(2, 0, 1) | {"source.ip": "198.51.100.1", "source.port": 443}
    back |= {"destination.ip": "192.0.2.7", "destination.port": 50_000}
    rows = [_seen(1, 0, 1), back, _seen(2, 5, 6), _seen(2, 0, 1) | {"source.port": 1}]
    assert len(_deduplicated(rows)) == 4


def test_parents_and_waiting_are_bounded() -> None:
    """No more parents than asked for; more records than may wait are passed on early, with a notice."""
    found = _deduplicated([_seen(n, 0, 1) for n in range(9)], max_parents=3)
    assert len(found[0]["parents"]) == 3  # type: ignore[arg-type]
    assert found[0]["rework.count"] == 9
    early = _deduplicated([_seen(1, 0, 1), _seen(2, 0, 1)], [_seen(3, 0, 1)], max_held=1)
    assert [row["observer.ip"] for row in _named(early)] == ["203.0.113.1", "203.0.113.3"]
    assert [row["edge.reason"] for row in early if row["type"] == "mesh.notice"] == ["held_too_many"]


def test_repeats_of_fields_are_filtered_until_they_are_old() -> None:
    """The first passes at once, repeats are counted, and after ``wait_s`` it is new again."""
    cook = deduplicate.Cooking(deduplicate.Config(fields=("host",), wait_s=10))
    rows: list[Row] = [{"host": "a"}, {"host": "a"}, {"host": "b"}]
    results = [cook.on_batch(_batch(rows, 10 * n), NOW + at * S) for n, at in enumerate((0, 9, 11))]
    assert [len(_rows(result)) for result in results] == [2, 0, 2]
    assert [result.filtered for result in results] == [1, 3, 1]


def test_known_keys_are_bounded() -> None:
    """The oldest keys go first, and a notice says so."""
    cook = deduplicate.Cooking(deduplicate.Config(fields=("source.port",), wait_s=100, max_held=8))
    for n in range(20):
        cook.on_batch(_batch([{"source.port": n}], n), NOW + n)
    assert cook.on_batch(_batch([{"source.port": 19}], 50), NOW + 50).filtered == 1
    assert cook.on_batch(_batch([{"source.port": 0}], 60), NOW + 60).filtered == 0
    assert [row["edge.reason"] for row in _rows(cook.on_tick(NOW + S))] == ["forgotten_early"]


# --- heavy hitters ---------------------------------------------------------------------------------------------------


def test_sums_stay_right_though_events_are_added_up_early() -> None:
    """With little room the heavy key still wins, the sum of what goes out is that of what came in, and it is told."""
    config = heavy_hitters.Config(top=1, max_held=40, max_keys=8, max_parents=5)
    cook = heavy_hitters.Cooking(config)
    rows: list[Row] = [{"source.ip": f"10.0.0.{n}", "network.bytes": n, "occurred": T0} for n in range(200)]
    heavy: Row = {"source.ip": "192.0.2.1", "network.bytes": 10_000, "occurred": T0}
    rows += [heavy] * 3
    results = [cook.on_batch(_batch(rows[n : n + 20], n), NOW) for n in range(0, len(rows), 20)]
    found = _rows(*results, cook.on_tick(NOW + 200 * S))
    notices = [row for row in found if row["type"] == "mesh.notice"]
    found = _named(found)
    assert [row.get("source.ip") for row in found] == ["192.0.2.1"] * 3 + [None]
    assert sum(int(str(row["network.bytes"])) for row in found) == sum(int(str(row["network.bytes"])) for row in rows)
    assert found[-1]["rework.count"] == 200
    assert len(found[-1]["parents"]) == 5  # type: ignore[arg-type]
    assert len(notices) == 1


def test_each_window_has_its_own_hitters() -> None:
    """When the events' time passes the end of a window its events go out, also without a tick."""
    cook = heavy_hitters.Cooking(heavy_hitters.Config(top=1, weigh=""))
    rows: list[Row] = [{"source.ip": f"192.0.2.{n}", "occurred": T0} for n in (1, 1, 2)]
    assert not _rows(cook.on_batch(_batch(rows), NOW))
    found = _rows(cook.on_batch(_batch([{"source.ip": "192.0.2.2", "occurred": T0 + 60 * S}], 10), NOW))
    assert [row.get("source.ip") for row in found] == ["192.0.2.1", "192.0.2.1", None]


# --- aggregate -------------------------------------------------------------------------------------------------------


def test_late_events_are_waited_for_then_left_out() -> None:
    """A window waits ``lateness_s`` of the events' time; what comes later is filtered and told."""
    cook = aggregate.Cooking(aggregate.Config(by=("host",), compute={"network.bytes": "sum(network.bytes)"}))

    def put(at_s: int, first: int) -> Result:
        return cook.on_batch(_batch([{"host": "a", "network.bytes": 1, "occurred": T0 + at_s * S}], first), NOW)

    results = [put(0, 0), put(65, 1), put(59, 2), put(70, 3), put(58, 4)]
    assert [result.filtered for result in results] == [0, 0, 0, 0, 1]
    (row,) = _rows(*results)
    assert (row["network.bytes"], row["rework.count"], row["occurred"]) == (2, 2, T0)
    assert row["parents"] == [_ids(_batch([FLOW], n))[0] for n in (0, 2)]
    assert "left_out" in {row.get("edge.reason") for row in _rows(cook.on_tick(NOW))}


def test_parents_of_a_sum_are_counted_and_the_first_named() -> None:
    """Of a thousand events the count is exact and the first sixteen are named; one type for all makes one sum."""
    cook = aggregate.Cooking(aggregate.Config(by=(), as_type="volume"))
    rows: list[Row] = [{"network.bytes": 3, "occurred": T0}] * 500
    results = [cook.on_batch(_batch(rows, 1000 * n, f"netflow.v{n}"), NOW) for n in (5, 9)]
    (row,) = _rows(*results, cook.on_tick(NOW + 100 * S))
    assert (row["type"], row["network.bytes"], row["rework.count"]) == ("volume", 3000, 1000)
    assert len(row["parents"]) == 16  # type: ignore[arg-type]


def test_groups_are_bounded() -> None:
    """Events of a group for which there is no room are filtered and told; the others are exact."""
    cook = aggregate.Cooking(aggregate.Config(by=("source.port",), max_groups=10))
    rows: list[Row] = [{"source.port": n, "occurred": T0} for n in range(30)]
    result = cook.on_batch(_batch(rows), NOW)
    found = _rows(cook.on_tick(NOW + 100 * S))
    assert result.filtered == 20
    assert len(_named(found)) == 10


def test_mistakes_in_what_is_computed_are_told() -> None:
    """A field that nobody has, and an aggregate that does not compile."""
    with pytest.raises(ConfigError, match="no field 'flows'"):
        aggregate.Cooking(aggregate.Config(compute={"flows": "count(*)"}))
    with pytest.raises(ConfigError, match="by, compute"):
        aggregate.Cooking(aggregate.Config(compute={"network.bytes": "median(network.bytes)"}))
    with pytest.raises(ConfigError, match="one aggregate for each"):
        aggregate.Cooking(aggregate.Config(compute={"network.bytes": "sum(network.bytes), count(*)"}))
    twice = {"network.bytes": "count(*)", "network.packets": "count(*)"}
    assert len(aggregate.plan_of(aggregate.Config(by=(), compute=twice)).items) == 3


# --- reorder ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("late", list(Rest))
def test_what_comes_too_late_is_marked_or_filtered(late: Rest) -> None:
    """An event before one that was given out passes with ``rework.late``, or is counted as filtered."""
    cook = reorder.Cooking(reorder.Config(wait_s=5, late=late))
    cook.on_batch(_batch([{"message": "a", "occurred": T0}]), NOW)
    cook.on_batch(_batch([{"message": "b", "occurred": T0 + 9 * S}], 10), NOW)
    result = cook.on_batch(_batch([{"message": "c", "occurred": T0 - S}], 20), NOW)
    assert [row.get("rework.late") for row in _rows(result)] == ([True] if late is Rest.PASS else [])
    assert result.filtered == (late is Rest.DROP)


def test_too_many_to_wait_are_given_out_in_order() -> None:
    """The earliest half goes first, and a notice says so."""
    cook = reorder.Cooking(reorder.Config(wait_s=50, max_held=3))
    rows: list[Row] = [{"source.port": n, "occurred": T0 + n * S} for n in (3, 1, 4, 2)]
    assert [row["source.port"] for row in _rows(cook.on_batch(_batch(rows), NOW))] == [1, 2, 3]
    found = _rows(cook.on_tick(NOW + 100 * S))
    assert [row.get("source.port", row.get("edge.count")) for row in found] == [4, 3]


# --- combine ---------------------------------------------------------------------------------------------------------


def _login(user: str, at_s: float) -> Row:
    return {"source.ip": "192.0.2.7", "user.name": user, "occurred": T0 + round(at_s * S)}


@pytest.mark.parametrize("other_first", [True, False])
def test_the_nearest_within_the_bound_is_taken(other_first: bool) -> None:
    """Whichever comes first, the event has the fields of the nearest in time and both as parents."""
    cook = combine.Cooking(combine.Config(other="login", keys=("source.ip",), take={"user.name": "user.name"}))
    logins = _batch([_login("far", -1.5), _login("near", 1), _login("gone", 60)], 0, "login.ssh")
    flows = _batch([_login("", 0) | {"user.name": None, "message": "x"}, {"source.ip": "10.0.0.1", "occurred": T0}], 50)
    results = [cook.on_batch(batch, NOW) for batch in ((logins, flows) if other_first else (flows, logins))]
    assert sum(result.filtered for result in results) == 3
    combined, alone = _rows(*results, cook.on_tick(NOW + 10 * S))
    assert (combined["user.name"], combined["message"]) == ("near", "x")
    assert combined["parents"] == [_ids(flows)[0], _ids(logins)[1]]
    assert alone.get("user.name") is None
    assert alone["parents"] == [_ids(flows)[1]]


def test_what_finds_nothing_may_be_left_out_and_is_told() -> None:
    """With ``unmatched = "drop"`` a notice says how many there were."""
    config = combine.Config(other="login", keys=("source.ip",), unmatched=Rest.DROP)
    cook = combine.Cooking(config)
    cook.on_batch(_batch([FLOW, FLOW]), NOW)
    (told,) = _rows(cook.on_tick(NOW + 10 * S))
    assert (told["edge.reason"], told["edge.count"]) == ("unmatched", 2)


def test_both_flows_are_bounded() -> None:
    """Too many wait no longer, too many of the other flow are forgotten, and both are told."""
    cook = combine.Cooking(combine.Config(other="login", keys=("source.ip",), max_held=2))
    for n in range(3):
        cook.on_batch(_batch([_login("a", n)] * 2, 10 * n, "login"), NOW)
    assert len(_rows(cook.on_batch(_batch([FLOW] * 3, 100), NOW))) == 3
    assert {row["edge.reason"]: row["edge.count"] for row in _rows(cook.on_tick(NOW))} == {
        "others_forgotten": 4,
        "held_too_many": 3,
    }


def test_keys_that_do_not_fit_are_refused() -> None:
    """As many other keys as keys, and registered names."""
    with pytest.raises(ConfigError, match="write one for each"):
        combine.Cooking(combine.Config(other_keys=("source.ip",)))
    with pytest.raises(ConfigError, match="no field"):
        combine.Cooking(combine.Config(take={"nonsense": "user.name"}))


# --- split -----------------------------------------------------------------------------------------------------------


def test_lists_are_split_within_a_bound() -> None:
    """Each member names the same parent; members beyond the bound are told; an event without one may be left out."""
    config = split.Config(members="process.args", into="labels.arg", max_members=2, unlisted=Rest.DROP)
    cook = split.Cooking(config)
    batch = _batch([{"process.args": ["a", "b", "c"]}, {"message": "x"}, {"process.args": []}])
    result = cook.on_batch(batch, NOW)
    found = _rows(result)
    assert [(row["labels.arg"], row["rework.index"], row["parents"]) for row in found] == [
        ("a", 0, [_ids(batch)[0]]),
        ("b", 1, [_ids(batch)[0]]),
    ]
    assert result.filtered == 2
    assert [row["edge.count"] for row in _rows(cook.on_tick(NOW))] == [1]


def test_events_are_routed_by_value() -> None:
    """Each value has its type; what has none keeps its own."""
    cook = split.Cooking(split.Config(route="network.iana_number", types={"6": "tcp", "17": "udp"}))
    rows: list[Row] = [{"network.iana_number": n} for n in (17, 6, 1, 6)]
    found = _rows(cook.on_batch(_batch(rows), NOW))
    assert sorted((str(row["type"]), row["network.iana_number"]) for row in found) == [
        ("netflow.v9", 1),
        ("tcp", 6),
        ("tcp", 6),
        ("udp", 17),
    ]


def test_a_bound_is_told_once_for_all_that_reached_it() -> None:
    """One notice for each bound since the last, with the sum and the advice; none where nothing happened."""
    bounds = Bounds("sample", {"a": "events are gone: raise a", "b": "events are late: raise b"})
    bounds.add("a", 2)
    bounds.add("a", 3)
    bounds.add("b", 0)
    (told,) = _rows(Result(bounds.notices()))
    assert (told["event.action"], told["edge.count"]) == ("a", 5)
    assert told["message"] == "sample: 5 events are gone: raise a"
    assert not bounds.notices()
