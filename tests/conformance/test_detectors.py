"""What every detector keeps: its examples hold through its own statement, and each diagnosis points at its evidence."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

from eddy_mesh import codec
from eddy_mesh.actor.numbering import Numbering
from eddy_mesh.agent import Example, Result
from eddy_mesh.batch import Batch, Kind, Producer
from eddy_mesh.cer import EventClass, Stage, Value
from eddy_mesh.commands import Command
from eddy_mesh.config import convert
from eddy_mesh.fields import field
from eddy_mesh.rows import batch_of, flat_rows, json_rows
from eddy_mesh.runtime.host import Host
from eddy_mesh.selection import Plan, compile_statement, matcher, matches_kind, project

NOW_NS = 1_793_700_000_000_000_000
MUST_SAY = ("diagnosis.id", "diagnosis.hypothesis", "diagnosis.evidence", "diagnosis.count", "event.id", "level")


def plan_of(detector: ModuleType) -> Plan:
    """Return the statement that feeds a detector by default."""
    return compile_statement(detector.INPUT, now_ns=0)


def cooked_kind(plan: Plan) -> Kind:
    """Return a kind that the statement asks for: that of the first pattern of its FROM."""
    event_class, *type_tokens = [*(plan.sources[0] if plan.sources else ("network",)), "any"]
    type_name = ".".join("any" if token in {"*", ">"} else token for token in type_tokens)
    return Kind(Stage.COOKED, EventClass(event_class), type_name)


def given_to(detector: ModuleType, example: Example, first: int = 0) -> Batch:
    """Return an example's events as an edge passes them on: selected and projected by the detector's statement."""
    plan = plan_of(detector)
    rows = [row for row in example.given if not isinstance(row, bytes)]
    batch = batch_of(cooked_kind(plan), "host", Producer(7, 1_793_600_000), first, NOW_NS // 1_000_000, rows)
    assert matches_kind(plan, batch.kind, batch.origin)
    return project(plan, batch.filter(matcher(plan)(batch)))


def batches_of(result: Result) -> list[Batch]:
    """Return what came out, numbered as the runtime does."""
    numbering = Numbering("test/host/detector", "host", 1_793_600_000)
    return [output if isinstance(output, Batch) else numbering.number(output, NOW_NS) for output in result.outputs]


def rows_of(results: Sequence[Result]) -> list[dict[str, object]]:
    """Return the events that came out."""
    return [dict(row) for result in results for batch in batches_of(result) for row in flat_rows(batch)]


def detected(detector: ModuleType, example: Example) -> tuple[Batch, Result, list[Result]]:
    """Return what a detector was given, what it said at once, and what it said when time went on."""
    made = detector.Detector(convert(dict(example.config), detector.Config, "example"))
    batch = given_to(detector, example)
    at_once = made.on_batch(batch, NOW_NS)
    return batch, at_once, [made.on_tick(NOW_NS + ahead) for ahead in (10**9, 10**11, 10**14)]


def test_has_examples_of_both_kinds(detector: ModuleType) -> None:
    """Examples show what is found, and something like it that is not."""
    assert any(example.expected for example in detector.EXAMPLES)
    assert any(not example.expected for example in detector.EXAMPLES)


def test_statement_lets_the_examples_through(detector: ModuleType) -> None:
    """The default statement compiles, is not about raw events, and selects what finds something."""
    assert not plan_of(detector).is_aggregate
    for example in detector.EXAMPLES:
        if example.expected:
            assert given_to(detector, example).count == len(example.given)


def test_examples_hold(detector: ModuleType) -> None:
    """Each example's events, with the fields that the default statement projects, give its diagnoses, in order."""
    for example in detector.EXAMPLES:
        _, at_once, _ = detected(detector, example)
        rows = rows_of([at_once])
        assert len(rows) == len(example.expected)
        shown = [{name: row.get(name) for name in wanted} for row, wanted in zip(rows, example.expected, strict=True)]
        assert shown == [dict(wanted) for wanted in example.expected]


def test_nothing_is_diagnosed_of_nothing(detector: ModuleType) -> None:
    """No events, or time alone, give no diagnosis."""
    made = detector.Detector(detector.Config())
    kind = cooked_kind(plan_of(detector))
    empty = Batch(kind, "host", Producer(7, 1_793_600_000), 0, NOW_NS // 1_000_000, 0)
    results = [made.on_batch(empty, NOW_NS), made.on_tick(NOW_NS), made.on_tick(NOW_NS + 10**15)]
    assert not rows_of(results)


def test_events_without_fields_do_no_harm(detector: ModuleType) -> None:
    """Events that lack every field the detector looks at are taken and give nothing."""
    made = detector.Detector(detector.Config())
    rows: list[dict[str, Value]] = [{"occurred": NOW_NS, "message": "x"} for _ in range(50)]
    kind = cooked_kind(plan_of(detector))
    batch = batch_of(kind, "host", Producer(7, 1_793_600_000), 0, NOW_NS // 1_000_000, rows)
    assert not rows_of([made.on_batch(batch, NOW_NS), made.on_tick(NOW_NS + 10**15)])


def test_evidence_is_what_was_given(detector: ModuleType) -> None:
    """Every diagnosis names at least one event, only events that the detector was given, and none twice."""
    for example in detector.EXAMPLES:
        batch, at_once, later = detected(detector, example)
        given = {batch.ids().at(row) for row in range(batch.count)}
        for row in rows_of([at_once, *later]):
            evidence = row["diagnosis.evidence"]
            assert isinstance(evidence, list)
            assert evidence
            assert set(evidence) <= given
            assert len(set(evidence)) == len(evidence)


def test_diagnosis_is_complete(detector: ModuleType) -> None:
    """A diagnosis is an analyzed event of the detector's name that says what is believed, why and how bad it is."""
    name = detector.__name__.rsplit(".", 1)[-1]
    for example in detector.EXAMPLES:
        _, at_once, later = detected(detector, example)
        for row in rows_of([at_once, *later]):
            assert not [wanted for wanted in MUST_SAY if row.get(wanted) is None]
            assert row["stage"] == Stage.ANALYZED
            assert row["type"] == f"diagnosis.{name}"
            assert row["diagnosis.id"] == name
            assert not [wanted for wanted in row if field(wanted) is None]


def test_diagnosis_survives_the_wire(detector: ModuleType) -> None:
    """Encoded and decoded, every diagnosis is the same."""
    for example in detector.EXAMPLES:
        _, at_once, later = detected(detector, example)
        for output in (held for result in (at_once, *later) for held in batches_of(result)):
            back = codec.decode(codec.encode(output), output.kind, output.origin)
            assert list(json_rows(back)) == list(json_rows(output))


async def test_every_event_is_accounted_for(detector: ModuleType, host: Host) -> None:
    """In a host process its edge takes the examples' events and balances."""
    name = detector.__name__.rsplit(".", 1)[-1]
    await host.configure({"find": {"type": "analysis", "detector": name}})
    cell = host.cells["find"]
    edge = cell.edges[0]
    batches = [given_to(detector, example, 1000 * number) for number, example in enumerate(detector.EXAMPLES)]
    for batch in batches:
        assert edge.wants(batch.kind, batch.origin)
        edge.offer(batch, NOW_NS)
    offered = sum(batch.count for batch in batches)
    await cell.command(Command.DRAIN)
    assert (edge.ledger.offered, edge.ledger.queued, edge.ledger.lost) == (offered, 0, 0)
    assert edge.ledger.balanced
