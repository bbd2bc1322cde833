"""What every cooking keeps: its examples hold, nothing makes it raise, and what comes out is sound and has parents."""

from __future__ import annotations

import random
from collections.abc import Sequence
from types import ModuleType

import numpy as np
import pytest

from eddy_mesh import codec, discovery
from eddy_mesh.actor.numbering import Numbering
from eddy_mesh.agent import Draft, Example, Result
from eddy_mesh.batch import EXTRA, Batch, Kind
from eddy_mesh.cer import EventClass, Stage
from eddy_mesh.columns import Bytes, Constant, Numbers, pack
from eddy_mesh.commands import Command
from eddy_mesh.config import convert
from eddy_mesh.fields import field
from eddy_mesh.rows import flat_rows, json_rows
from eddy_mesh.runtime.host import Host

NOW_NS = 1_793_700_000_000_000_000
GARBAGE = 100
HARD = (
    b"",
    b"\0",
    b"\xff" * 64,
    b"\n",
    b" " * 300,
    b"{",
    b'{"a":',
    b"<>",
    b"<999>1 ",
    b"\xc3\xa9\xe2\x98\x83",
    b"%n%s" * 9,
)
"""Payloads that have broken parsers before."""


def raw_kind(raw_type: str) -> Kind:
    """Return the kind of the raw events of a type: that of the source which gives them."""
    for name in discovery.part_names("normalizer"):
        try:
            members = vars(discovery.part_module("normalizer", name)).values()
        except ImportError:
            continue  # fails its own tests
        for member in members:
            if isinstance(member, Kind) and member.stage is Stage.RAW and member.type == raw_type:
                return member
    return Kind(Stage.RAW, EventClass.SYSTEM, raw_type)


def raw_batch(raw_type: str, payloads: Sequence[bytes], numbering: Numbering | None = None) -> Batch:
    """Return payloads as a source gives them: numbered, with the sender's address and the time."""
    count = len(payloads)
    draft = Draft(
        raw_kind(raw_type),
        count,
        {
            "event.original": Bytes(*pack(payloads)),
            "raw.media_type": Constant("application/octet-stream", count),
            "observed": Numbers(np.full(count, NOW_NS, np.int64)),
            "host_address": Constant("192.0.2.254", count),
            "source.port": Numbers(np.full(count, 50_000, np.uint16)),
        },
    )
    return (numbering or Numbering("test/host/source", "host", 1_793_600_000)).number(draft, NOW_NS)


def garbage(cooking: ModuleType, raw_type: str) -> list[bytes]:
    """Return random bytes, hard cases, and the cooking's own examples cut short and with bytes changed."""
    chance = random.Random(f"{cooking.__name__} {raw_type}")
    given = [payload for example in cooking.EXAMPLES for payload in example.given]
    random_bytes = [chance.randbytes(chance.choice((1, 3, 20, 100, 1500))) for _ in range(GARBAGE)]
    cut = [payload[: chance.randrange(len(payload) + 1)] for payload in given for _ in range(GARBAGE // len(given))]
    return [*HARD, *random_bytes, *cut, *(changed(payload, chance) for payload in given * 10)]


def changed(payload: bytes, chance: random.Random) -> bytes:
    """Return a payload with up to four bytes changed."""
    held = bytearray(payload)
    for _ in range(min(4, len(held))):
        held[chance.randrange(len(held))] = chance.randrange(256)
    return bytes(held)


def outputs_of(result: Result) -> list[Batch]:
    """Return what came out, numbered as the runtime does."""
    numbering = Numbering("test/host/cooking", "host", 1_793_600_000)
    return [output if isinstance(output, Batch) else numbering.number(output, NOW_NS) for output in result.outputs]


@pytest.fixture
def results(cooking: ModuleType) -> list[tuple[Batch, Result]]:
    """What a cooking makes of its examples, then of garbage, together and one at a time."""
    taken: list[tuple[Batch, Result]] = []
    for raw_type in cooking.INPUT:
        payloads = garbage(cooking, raw_type)
        numbering = Numbering("test/host/source", "host", 1_793_600_000)
        batches = [raw_batch(raw_type, example.given, numbering) for example in cooking.EXAMPLES]
        batches += [raw_batch(raw_type, payloads, numbering), raw_batch(raw_type, [], numbering)]
        batches += [raw_batch(raw_type, [payload], numbering) for payload in payloads]
        cook = cooking.Cooking(cooking.Config())
        taken += [(batch, cook.on_batch(batch, NOW_NS)) for batch in batches]
        nothing = raw_batch(raw_type, [], numbering)
        taken += [(nothing, cook.on_tick(NOW_NS + ahead)) for ahead in (0, 10**9, 10**15)]
    return taken


def test_has_examples(cooking: ModuleType) -> None:
    """At least one example shows payloads and what becomes of them."""
    assert any(example.given and example.expected for example in cooking.EXAMPLES)
    assert all(isinstance(payload, bytes) for example in cooking.EXAMPLES for payload in example.given)


@pytest.mark.parametrize("at_once", [True, False], ids=["one-batch", "one-by-one"])
def test_examples_hold(cooking: ModuleType, at_once: bool) -> None:
    """Each example's payloads, as events of one of its types, give its events in order, also one at a time."""
    for example in cooking.EXAMPLES:
        tried = [cooked_rows(cooking, raw_type, example, at_once=at_once) for raw_type in cooking.INPUT]
        wanted = [dict(row) for row in example.expected]
        assert wanted in tried or wanted == tried[0]  # the second part shows what is different


def cooked_rows(cooking: ModuleType, raw_type: str, example: Example, *, at_once: bool) -> list[dict[str, object]]:
    """Return what comes of an example, of each event only the fields that the example expects."""
    cook = cooking.Cooking(convert(dict(example.config), cooking.Config, "example"))
    numbering = Numbering("test/host/source", "host", 1_793_600_000)
    payloads = [payload for payload in example.given if isinstance(payload, bytes)]
    groups = [payloads] if at_once else [[payload] for payload in payloads]
    results = [cook.on_batch(raw_batch(raw_type, group, numbering), NOW_NS) for group in groups]
    rows = [row for result in results for output in outputs_of(result) for row in flat_rows(output)]
    wanted = [*example.expected, *[{}] * max(len(rows) - len(example.expected), 0)]
    return [{name: row.get(name) for name in names} for row, names in zip(rows, wanted, strict=False)]


def test_nothing_makes_it_raise(cooking: ModuleType, results: list[tuple[Batch, Result]]) -> None:
    """Whatever the payload, there is a result; every refused row is one of the batch and says why."""
    for batch, result in results:
        rows = [row for refusal in result.refusals for row in refusal.rows]
        assert len(set(rows)) == len(rows)
        assert all(0 <= row < batch.count for row in rows)
        assert all(refusal.reason for refusal in result.refusals)
        assert 0 <= result.filtered <= batch.count - len(rows)


def test_columns_are_whole(cooking: ModuleType, results: list[tuple[Batch, Result]]) -> None:
    """What comes out is cooked, and every column has as many rows as there are events."""
    for _, result in results:
        for output in result.outputs:
            assert output.kind.stage is Stage.COOKED
            assert {name: len(column) for name, column in output.columns.items()} == dict.fromkeys(
                output.columns, output.count
            )


def test_every_event_names_its_parents(cooking: ModuleType, results: list[tuple[Batch, Result]]) -> None:
    """The parents of what a batch gives are raw events that were seen, and every event has one."""
    seen: set[object] = set()
    for batch, result in results:
        seen |= {batch.ids().at(row) for row in range(batch.count)}
        for output in outputs_of(result):
            for row in flat_rows(output):
                parents = row.get("parents")
                named = parents if isinstance(parents, list) else [parents]
                assert named
                assert set(named) <= seen, f"{output.kind}: parents that no batch had"


def test_output_survives_the_wire(cooking: ModuleType, results: list[tuple[Batch, Result]]) -> None:
    """Encoded, decoded and encoded again, every event is the same."""
    for _, result in results:
        for output in outputs_of(result):
            data = codec.encode(output)
            back = codec.decode(data, output.kind, output.origin)
            assert codec.encode(back) == data
            assert list(json_rows(back)) == list(json_rows(output))


def test_every_field_is_registered(cooking: ModuleType, results: list[tuple[Batch, Result]]) -> None:
    """No event has a field that nobody could select: each is in the registry or in an open namespace."""
    names: set[str] = set()
    for _, result in results:
        for output in outputs_of(result):
            names |= output.columns.keys()
            if EXTRA in output.columns:
                names |= {name for row in flat_rows(output) for name in row}
    assert not {name for name in names - {EXTRA} if field(name) is None}


async def test_every_event_is_accounted_for(cooking: ModuleType, host: Host) -> None:
    """In a host process the default statement lets its raw events through, and its edge balances after garbage."""
    name = cooking.__name__.rsplit(".", 1)[-1]
    await host.configure({"cook": {"type": "transformer", "cooking": name}})
    cell, (edge,) = host.cells["cook"], host.cells["cook"].edges
    offered = 0
    for raw_type in cooking.INPUT:
        batch = raw_batch(raw_type, garbage(cooking, raw_type))
        assert edge.wants(batch.kind, batch.origin)
        edge.offer(batch, NOW_NS)
        offered += batch.count
    assert edge.accepted == offered
    await cell.command(Command.DRAIN)
    assert (edge.ledger.offered, edge.ledger.queued, edge.ledger.lost) == (offered, 0, 0)
    assert edge.ledger.balanced
