"""What every cooking that takes cooked events keeps: examples, lineage, accounts, and calm whatever it is given."""

from __future__ import annotations

import inspect
import random
import re
from collections.abc import Sequence
from types import ModuleType

import pytest

from eddy_mesh import codec
from eddy_mesh.actor.numbering import Numbering
from eddy_mesh.agent import Result
from eddy_mesh.batch import EXTRA, Batch, Kind, Producer
from eddy_mesh.cer import EventClass, Stage, Value
from eddy_mesh.commands import Command
from eddy_mesh.config import convert
from eddy_mesh.errors import ConfigError
from eddy_mesh.fields import field
from eddy_mesh.rows import batch_of, flat_rows, json_rows
from eddy_mesh.runtime.host import Host

NOW_NS = 1_793_700_000_000_000_000
FLOWS = Kind(Stage.COOKED, EventClass.NETWORK, "netflow.v9")
HOUR_NS = 3_600_000_000_000
AFTERWARDS = (10**9, HOUR_NS, 100 * HOUR_NS)


def given(rows: Sequence[object], first: int = 0, kind: Kind = FLOWS) -> Batch:
    """Return rows as a batch of cooked events."""
    held: list[dict[str, Value]] = [dict(row) for row in rows if isinstance(row, dict)]
    return batch_of(kind, "host", Producer(7, 1_793_600_000), first, NOW_NS // 1_000_000, held)


def batches_of(rows: Sequence[object], first: int = 0) -> list[Batch]:
    """Return an example's events, a batch for each type that it names, in the order in which they are named."""
    by_type: dict[Value, list[object]] = {}
    for row in rows:
        if isinstance(row, dict):
            by_type.setdefault(row.get("type", FLOWS.type), []).append(row)
    return [given(held, first + 100 * n, FLOWS._replace(type=str(of))) for n, (of, held) in enumerate(by_type.items())]


def outputs_of(result: Result, numbering: Numbering) -> list[Batch]:
    """Return what came out, numbered as the runtime does."""
    return [output if isinstance(output, Batch) else numbering.number(output, NOW_NS) for output in result.outputs]


def odd_rows(chance: random.Random, count: int) -> list[dict[str, Value]]:
    """Return events of which any field may be missing, of another type than usual, or extreme."""
    values: list[Value] = [0, 1, -1, 2**63 - 1, 2**64 - 1, "", "x", "192.0.2.1", "2001:db8::1", b"\xff", 1.5, True]
    values += [["a", 1], {"a": [1]}, None, [], [f"192.0.2.{n}" for n in range(9)]]
    names = ["source.ip", "destination.ip", "source.port", "destination.port", "network.iana_number", "network.bytes"]
    names += ["network.packets", "observer.ip", "occurred", "event.start", "event.end", "syslog.repair", "message"]
    names += ["sample.probability", "rework.steps", "labels.a"]
    return [{name: chance.choice(values) for name in names if chance.random() < 0.6} for _ in range(count)]


@pytest.fixture
def results(reworking: ModuleType) -> list[tuple[Batch, Result]]:
    """What a reworking makes of its examples, of odd events, together and one at a time, and of time alone."""
    chance = random.Random(reworking.__name__)
    cook = reworking.Cooking(reworking.Config())
    batches = [one for at, example in enumerate(reworking.EXAMPLES) for one in batches_of(example.given, 1000 * at)]
    batches += [given(odd_rows(chance, 50), 100_000), given([], 200_000)]
    batches += [given(odd_rows(chance, 1), 300_000 + number) for number in range(50)]
    batches += [given([{"message": "x"}] * 20, 400_000, Kind(Stage.COOKED, EventClass.SYSTEM, "syslog"))]
    taken = [(batch, cook.on_batch(batch, NOW_NS + number)) for number, batch in enumerate(batches)]
    return taken + [(given([]), cook.on_tick(NOW_NS + ahead)) for ahead in AFTERWARDS]


def test_form(reworking: ModuleType) -> None:
    """It is synchronous, is made of its settings alone, and is told the time."""
    for method, parameters in {"on_batch": ["self", "batch", "now_ns"], "on_tick": ["self", "now_ns"]}.items():
        function = getattr(reworking.Cooking, method)
        assert not inspect.iscoroutinefunction(function)
        assert list(inspect.signature(function).parameters) == parameters
    reworking.Cooking(reworking.Config())


def test_names_its_subjects(reworking: ModuleType) -> None:
    """The docstring says that any cooked events come in, by ``subscribe``, and what goes out."""
    before, _, after = (inspect.getdoc(reworking) or "").partition("Out:")
    assert re.search(r"^In: .*cooked.*``subscribe``", before, re.MULTILINE)
    assert "cooked." in after


def test_examples_hold(reworking: ModuleType) -> None:
    """Each example's events give its events, in order, once time has gone on; without waiting or with."""
    assert any(example.given and example.expected for example in reworking.EXAMPLES)
    for example in reworking.EXAMPLES:
        cook = reworking.Cooking(convert(dict(example.config), reworking.Config, "example"))
        numbering = Numbering("test/host/cook", "host", 1_793_600_000)
        results = [
            *(cook.on_batch(one, NOW_NS) for one in batches_of(example.given)),
            *(cook.on_tick(NOW_NS + n) for n in AFTERWARDS),
        ]
        rows = [row for result in results for batch in outputs_of(result, numbering) for row in flat_rows(batch)]
        wanted = [dict(row) for row in example.expected]
        assert len(rows) == len(wanted), rows
        assert [{name: row.get(name) for name in want} for row, want in zip(rows, wanted, strict=True)] == wanted


def test_nothing_makes_it_raise(reworking: ModuleType, results: list[tuple[Batch, Result]]) -> None:
    """Whatever the event, there is a result whose accounts can be true."""
    for batch, result in results:
        rows = [row for refusal in result.refusals for row in refusal.rows]
        assert len(set(rows)) == len(rows)
        assert all(0 <= row < batch.count for row in rows)
        assert 0 <= result.filtered <= batch.count - len(rows)


def test_what_goes_out_is_sound(reworking: ModuleType, results: list[tuple[Batch, Result]]) -> None:
    """It is cooked, whole, of registered fields, the same after the wire, and says that it was reworked."""
    numbering = Numbering("test/host/cook", "host", 1_793_600_000)
    for output in (output for _, result in results for output in outputs_of(result, numbering)):
        assert output.kind.stage is Stage.COOKED
        assert {len(column) for column in output.columns.values()} <= {output.count}
        assert not {name for name in output.columns if name != EXTRA and field(name) is None}
        back = codec.decode(codec.encode(output), output.kind, output.origin)
        assert list(json_rows(back)) == list(json_rows(output))
        if output.kind.type != "mesh.notice":
            assert all(type(row["rework.steps"]) is int for row in flat_rows(output))


def test_every_event_names_its_parents(reworking: ModuleType, results: list[tuple[Batch, Result]]) -> None:
    """Every event has parents, each named once, and they are events that came in."""
    numbering = Numbering("test/host/cook", "host", 1_793_600_000)
    seen = {batch.ids().at(row) for batch, _ in results for row in range(batch.count)}
    for output in (output for _, result in results for output in outputs_of(result, numbering)):
        for row in flat_rows(output) if output.kind.type != "mesh.notice" else ():
            parents = row["parents"]
            named = parents if isinstance(parents, list) else [parents]
            assert named
            assert len(set(named)) == len(named)
            assert set(named) <= seen


async def test_every_event_is_accounted_for(reworking: ModuleType, host: Host) -> None:
    """In a host process, fed by its statement, its edge balances and holds nothing after a drain."""
    name = reworking.__name__.rsplit(".", 1)[-1]
    statement = "SELECT * FROM network.netflow.* WHERE stage = 'cooked'"
    await host.configure({"cook": {"type": "transformer", "cooking": name, "subscribe": [statement]}})
    cell, (edge,) = host.cells["cook"], host.cells["cook"].edges
    batch = given(odd_rows(random.Random(name), 200))
    assert edge.wants(batch.kind, batch.origin)
    edge.offer(batch, NOW_NS)
    await cell.command(Command.DRAIN)
    assert (edge.ledger.offered, edge.ledger.queued, edge.ledger.lost) == (batch.count, 0, 0)
    assert edge.ledger.balanced


async def test_without_a_statement_it_is_a_mistake(reworking: ModuleType, host: Host) -> None:
    """What to rework is for ``subscribe`` or an edge to say: an agent that nothing can reach is refused."""
    name = reworking.__name__.rsplit(".", 1)[-1]
    with pytest.raises(ConfigError, match="subscribe is missing"):
        await host.configure({"cook": {"type": "transformer", "cooking": name}})
