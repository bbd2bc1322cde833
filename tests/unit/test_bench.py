"""What benchmarks give back, and how the accounts of a run are judged."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

TOOLS = Path(__file__).parents[2] / "tools" / "benchmarks"


def load(name: str) -> ModuleType:
    """Return a module of the benchmark scripts, which are no package."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", TOOLS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


measurement, accounts = load("measurement"), load("accounts")


def status(*, offered: int = 10, out: int = 10, dropped: dict[str, int] | None = None, made: int = 280) -> object:
    """Return the status of a host process with one edge from outside and one type."""
    edge = {"edge": "outside > in", "offered": offered, "out": out, "filtered": 0, "failed": 0, "queued": 0}
    types = [
        {"stage": "raw", "type": "netflow", "count": offered},
        {"stage": "cooked", "type": "netflow.v9", "count": made},
    ]
    return {"edges": [edge | {"dropped": dropped or {}}], "types": types, "agents": [], "subscriptions": []}


def judged(held: object) -> Any:
    """Return the verdict on ten datagrams of 28 flows."""
    return accounts.check(held, sent=10, events=280, event_type="netflow.v9")


def test_complete_run_is_clean() -> None:
    """A run in which every datagram and flow is accounted for has neither loss nor defect."""
    assert judged(status()).is_clean


def test_counted_loss_is_no_defect() -> None:
    """Datagrams that the kernel dropped and that were counted are loss, and the flows in them are not missed twice."""
    verdict = judged(status(out=8, dropped={"kernel_buffer": 2}, made=224))
    assert verdict.lost == ["outside > in: 2 kernel_buffer"]
    assert not verdict.defects


def test_uncounted_loss_is_a_defect() -> None:
    """Datagrams that nobody counted are a defect."""
    assert any("8 of 10 sent" in defect for defect in judged(status(offered=8, out=8)).defects)


def test_imbalance_is_a_defect() -> None:
    """An edge whose counters do not add up is a defect."""
    assert any("does not balance, 1 events" in defect for defect in judged(status(out=9)).defects)


def test_missing_flows_are_a_defect() -> None:
    """Fewer cooked flows than were sent, with nothing counted as lost, are a defect."""
    assert judged(status(made=279)).defects == ["279 events of type netflow.v9 were made of 280 sent"]


def test_raw_events_of_the_same_type_are_not_counted_as_cooked() -> None:
    """A type that names both raw and cooked events counts the cooked ones alone."""
    held = {
        "types": [{"stage": "raw", "type": "syslog", "count": 5}, {"stage": "cooked", "type": "syslog", "count": 4}]
    }
    assert accounts.taken(held, "syslog") == 4


@pytest.mark.parametrize(("more_is_better", "expected"), [(True, 2.0), (False, 0.5)])
def test_ratio_above_one_is_better_than_the_peer(more_is_better: bool, expected: float) -> None:
    """The ratio says how much better the mesh is, whichever direction is better."""
    goal = measurement.Goal(more_is_better=more_is_better)
    one = measurement.Measurement("x", 20.0, "u", goal)
    assert measurement.ratio(one, measurement.Peer("p", 10.0)) == expected


def test_ratio_to_nothing_is_none() -> None:
    """Where a value is zero there is no ratio."""
    assert measurement.ratio(measurement.Measurement("x", 20.0, "u"), measurement.Peer("p", 0.0)) is None


def test_table_marks_a_missed_goal_and_shows_defects() -> None:
    """A value short of its goal is marked, and a defect stands below the table."""
    one = measurement.Measurement("x", 5.0, "u", measurement.Goal(10, 20), defects=["an edge does not balance"])
    text = measurement.table([one])
    assert "≥ 10 (missed)" in text
    assert "- x: DEFECT: an edge does not balance" in text


def test_every_further_peer_has_a_line() -> None:
    """A second peer is a line of its own without the measurement's cells."""
    peers = [measurement.Peer("a", 1.0), measurement.Peer("b", 2.0)]
    lines = measurement.rows(measurement.Measurement("x", 4.0, "u", peers=peers))
    assert [line[5] for line in lines] == ["a", "b"]
    assert lines[1][0] == ""
