"""Datagrams that are read together give what they give one by one, whatever exporters do."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eddy_agents.transformers.netflow import Config, Cooking
from eddy_agents.wire import netflow_collector, netflow_together
from eddy_agents.wire.netflow_layout import Layout
from eddy_agents.wire.netflow_sampling import SAMPLING_INTERVAL, tells_of_exporter
from eddy_mesh.agent import Draft, Result
from eddy_mesh.batch import Batch, Kind, Producer
from eddy_mesh.cer import EventClass, Stage
from eddy_mesh.columnize import column_of
from eddy_mesh.columns import Bytes, Numbers, pack
from eddy_mesh.fields import FieldType
from eddy_mesh.rows import flat_rows

RAW = Kind(Stage.RAW, EventClass.NETWORK, "netflow")
TEMPLATES = {256: ((8, 4), (12, 4), (1, 4)), 257: ((27, 16), (28, 16)), 258: ((8, 4), (82, 65535)), 259: ((148, 8),)}
"""Ids and fields of the templates of every exporter; the third has a field of variable length."""
SAMPLING_TEMPLATE, INTERFACE_TEMPLATE, START_TEMPLATE = 260, 261, 262
ODDITIES = ["gap", "late", "again", "restart", "odd", "empty", "cut", "reserved", "other", "withdrawal"]
REPEATED = ["templates"] * 6 + ["sampling"] * 3 + ["rate"] * 3 + ["interfaces", "start"]
LIMITS = [
    Config(),
    Config(max_samplers=1),
    Config(max_exporters=2),
    Config(max_pending_sets=3),
    Config(reorder_datagrams=2),
]
DATAGRAMS = 150


@dataclass
class Exporter:
    """One exporter of a version and domain; counts its datagrams as its protocol wants it, or otherwise."""

    version: int
    domain: int
    counts_flows: bool
    sequence: int = 1
    uptime_ms: int = 100_000
    sent: bytes = b""
    oddness: float = 1
    interval: int = 10

    def datagram(self, chance: Random) -> bytes:
        """The next thing that it sends."""
        kind = chance.choice(["data"] * 100 + REPEATED + ODDITIES * (chance.random() < self.oddness))
        if kind == "again" and self.sent:
            return self.sent
        if kind == "gap":
            self.sequence = (self.sequence + chance.randint(1, 40)) & 0xFFFF_FFFF
        if kind == "late":
            self.sequence = max(0, self.sequence - chance.randint(1, 3))
        if kind == "restart":
            self.sequence, self.uptime_ms = 0, 10
        self.uptime_ms += 7
        sets, flows = self.sets(chance, kind)
        whole = self.v5(chance) if self.version == 5 else self.framed(b"".join(sets))
        self.sequence = (self.sequence + (flows if self.counts_flows else 1)) & 0xFFFF_FFFF
        if chance.random() < 0.1:
            self.sent = whole
        return whole[: chance.randint(0, len(whole))] if kind == "cut" else whole

    def sets(self, chance: Random, kind: str) -> tuple[list[bytes], int]:
        """Its sets, and how many flows are in them."""
        if kind in {"templates", "other"}:
            sets, flows = self.data(chance) if chance.random() < 0.5 else ([], 0)  # softflowd sends both in one
            return [self.template(other=kind == "other"), *sets], flows
        if kind in {"sampling", "rate", "interfaces", "start"}:
            sets = self.options(chance, kind)
            return (sets[1:] if kind == "rate" else sets), 1
        odd = {
            "empty": [],
            "reserved": [flow_set(77, b"1234")],
            "odd": [flow_set(256, b"123"), bytes(chance.randint(0, 9))],
            "withdrawal": [flow_set(2, struct.pack(">HH", chance.choice([2, 256, 257]), 0))],
        }
        return (odd[kind], 0) if kind in odd else self.data(chance)

    def options(self, chance: Random, kind: str) -> list[bytes]:
        """What it says of itself, with the template: its sampling, that of two interfaces, or when it started."""
        if chance.random() < self.oddness / 2:
            self.interval = chance.choice([10, 100])
        if kind == "interfaces":
            number, scope, records = INTERFACE_TEMPLATE, 2, struct.pack(">IIII", 1, self.interval, 2, 10)
        else:
            number, scope, records = SAMPLING_TEMPLATE, 1, struct.pack(">II", 1, self.interval)
        fields = scope, 4, 34, 4
        if kind == "start" and self.version == 10:
            number, fields = START_TEMPLATE, (149, 4, 160, 8)
            records = struct.pack(">IQ", 1, 1_700_000_000_000 + chance.choice([0] * 9 + [1]))
        scopes = (4, 4) if self.version == 9 else (2, 1)
        template = struct.pack(">7H", number, *scopes, *fields)
        return [flow_set({9: 1}.get(self.version, 3), template), flow_set(number, records)]

    def data(self, chance: Random) -> tuple[list[bytes], int]:
        """Sets of flows, and how many are in them."""
        sets, flows = [], 0
        unread = [258, 300] if chance.random() < self.oddness else [257]  # of variable length, and not known
        for _ in range(chance.choice([1, 1, 1, 2, 20])):
            number = chance.choice([256] * 20 + [257] * 5 + unread)
            count = chance.randint(1, 3)
            flows += count
            value = chance.randint(0, 200)
            record = b"".join(
                bytes([2, 65, 66]) if length == 65535 else value.to_bytes(length, "big")
                for _, length in TEMPLATES.get(number, ((0, 8),))
            )
            sets.append(flow_set(number, record * count + bytes(chance.randint(0, 3))))
        return sets, flows

    def template(self, *, other: bool = False) -> bytes:
        """Its templates; others have the fields of the first in another order."""
        templates = TEMPLATES | ({256: TEMPLATES[256][::-1]} if other else {})
        body = b"".join(
            struct.pack(">HH", number, len(fields)) + b"".join(struct.pack(">HH", *field) for field in fields)
            for number, fields in templates.items()
            if self.version == 10 or number != 258
        )
        return flow_set(0 if self.version == 9 else 2, body)

    def framed(self, sets: bytes) -> bytes:
        """A datagram of v9 or IPFIX."""
        if self.version == 9:
            return struct.pack(">HHIIII", 9, 1, self.uptime_ms, 1_700_000_000, self.sequence, self.domain) + sets
        return struct.pack(">HHIII", 10, 16 + len(sets), 1_700_000_000, self.sequence, self.domain) + sets

    def v5(self, chance: Random) -> bytes:
        """A datagram of v5."""
        count = chance.randint(1, 3)
        announced = chance.choice([count] * 30 + [0, 31])
        times = self.uptime_ms, 1_700_000_000, 5
        head = struct.pack(">HHIIIIHH", 5, announced, *times, self.sequence, self.domain, chance.choice([0] * 9 + [9]))
        self.sequence += count - 1 if not self.counts_flows else 0  # `datagram` wraps it
        return head + bytes([chance.randint(0, 255)]) * 48 * count


def flow_set(number: int, content: bytes) -> bytes:
    """A set with its header."""
    return struct.pack(">HH", number, len(content) + 4) + content


def traffic(chance: Random) -> list[list[tuple[str, bytes]]]:
    """Batches of datagrams with their senders."""
    versions = [5, 9, 9, 10, 10]
    oddness = chance.choice([0, 0.1, 1])
    starts = [1, 1, 2**32 - 60]
    exporters = [
        (f"192.0.2.{n // 3}", Exporter(chance.choice(versions), n % 3, chance.random() < 0.3, chance.choice(starts)))
        for n in range(chance.randint(1, 4))
    ]
    for _, one in exporters:
        one.oddness = oddness
    sent = [(address, one.framed(one.template())) for address, one in exporters if one.version != 5]
    for _ in range(chance.randint(1, DATAGRAMS)):
        address, one = chance.choice(exporters)
        sent.append((address, one.datagram(chance)))
    cuts = sorted(chance.randint(1, len(sent)) for _ in range(3))
    return [sent[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(sent)], strict=True) if stop > start]


def told(result: Result) -> Iterator[str]:
    """All that a result says, an entry an event or refusal."""
    for draft in result.outputs:
        assert isinstance(draft, Draft)
        assert all(len(column) == draft.count for column in draft.columns.values())
        for row in flat_rows(Batch(draft.kind, "test", Producer(2, 1), 0, 1, draft.count, draft.columns)):
            yield repr(sorted((name, value) for name, value in row.items() if name not in {"id", "parents"}))
            yield repr(row.get("parents"))
    for refusal in result.refusals:
        yield repr((list(refusal.rows), refusal.reason, refusal.detail))


def raw_batch(batch: list[tuple[str, bytes]], first: int) -> Batch:
    """The raw events of datagrams."""
    columns = {
        "event.original": Bytes(*pack([payload for _, payload in batch])),
        "host_address": column_of(FieldType.ADDRESS, [address for address, _ in batch]),
        "observed": Numbers(np.arange(first, first + len(batch), dtype=np.int64)),
    }
    return Batch(RAW, "test", Producer(1, 1), first, 1, len(batch), columns)


def cooked(batches: list[list[tuple[str, bytes]]], many: int, config: Config) -> list[Counter[str]]:
    """What each batch gives, and a tick at the end, where so many datagrams are read together."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(netflow_collector, "MANY", many)
        patch.setattr(netflow_together, "_SOME", many)
        cooking, found, first = Cooking(config), [], 0
        for batch in batches:
            found.append(Counter(told(cooking.on_batch(raw_batch(batch, first), first))))
            first += len(batch)
        return [*found, Counter(told(cooking.on_tick(2**62)))]


@given(st.integers(0, 2**32), st.sampled_from(LIMITS))
def test_together_is_as_one_by_one(seed: int, config: Config) -> None:
    """Events, gaps and refusals are the same."""
    batches = traffic(Random(seed))
    assert cooked(batches, 1, config) == cooked(batches, 10**9, config)


# --- what was otherwise once --------------------------------------------------------------------------------------


def assert_the_same(sent: list[tuple[str, bytes]], config: Config | None = None) -> None:
    """Together or one by one gives the same; the first two datagrams come in a batch before."""
    batches, limits = [sent[:2], sent[2:]], config or Config()
    assert cooked(batches, 1, limits) == cooked(batches, 10**9, limits)


def flows(exporter: Exporter, count: int = 2) -> bytes:
    """The next datagram of an exporter that counts datagrams: flows of the first template."""
    exporter.sequence += 1
    return exporter.framed(flow_set(256, bytes(12) * count))


def test_repeats_of_what_was_read_together_are_known() -> None:
    """The oldest of the last ``reorder_datagrams`` is still known when it comes again, however often."""
    one = Exporter(9, 1, counts_flows=False, sequence=0)
    sent = [one.framed(one.template()), *(flows(one) for _ in range(30))]
    again = sent[-Config().reorder_datagrams]
    parts = [[("192.0.2.1", payload) for payload in part] for part in (sent[:5], sent[5:], [*[again] * 5, flows(one)])]
    together = cooked(parts, 1, Config())
    assert not any("netflow.gap" in text for part in together for text in part)
    assert together == cooked(parts, 10**9, Config())


def test_a_rate_told_in_one_domain_holds_from_then_on_in_another() -> None:
    """Flows that came before it do not have it, although their stream is read after that of the rate."""
    rate, other = Exporter(9, 1, counts_flows=False), Exporter(9, 2, counts_flows=False)
    announced, said = rate.options(Random(1), "sampling")
    sent = [other.framed(other.template()), rate.framed(rate.template() + announced)]
    sent += [flows(other) for _ in range(20)]
    sent += [rate.framed(said)]
    sent += [flows(other) for _ in range(20)]
    assert_the_same([("192.0.2.1", payload) for payload in sent])


def test_the_exporter_heard_of_longest_ago_is_forgotten() -> None:
    """Where streams are read one after the other it still is the one whose last datagram is older."""
    first, second, third = (Exporter(9, domain, counts_flows=False) for domain in (1, 2, 3))
    sent = [one.framed(one.template()) for one in (first, second)]
    sent += [flows(one) for _ in range(20) for one in (second, first)]
    sent += [third.framed(third.template()), flows(first)]
    found = cooked(
        [[("192.0.2.1", payload) for payload in part] for part in (sent[:2], sent[2:])], 1, Config(max_exporters=2)
    )
    assert not any("template_unknown" in text for part in found for text in part)
    assert_the_same([("192.0.2.1", payload) for payload in sent], Config(max_exporters=2))


def test_options_templates_that_nothing_came_for_cost_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sender may announce very many; each of its streams in a batch once looked at all of them again."""
    looked_at: list[Layout] = []
    templates = b"".join(struct.pack(">7H", number, 2, 1, 149, 4, SAMPLING_INTERVAL, 4) for number in range(1000, 1100))
    first, second = (Exporter(10, domain, counts_flows=False) for domain in (1, 2))
    cooking = Cooking(Config())
    known = [one.framed(one.template() + flow_set(3, templates)) for one in (first, second)]
    cooking.on_batch(raw_batch([("192.0.2.1", payload) for payload in known], 0), 0)

    def tells(layout: Layout) -> bool:
        looked_at.append(layout)
        return tells_of_exporter(layout)

    monkeypatch.setattr(netflow_together, "tells_of_exporter", tells)
    sent = [("192.0.2.1", flows(one)) for _ in range(40) for one in (first, second)]
    cooking.on_batch(raw_batch(sent, 2), 0)
    assert 0 < len(looked_at) <= len(sent)


def test_a_batch_of_nothing_gives_nothing() -> None:
    """A batch whose events a select has all left out is no error."""
    empty = raw_batch([("192.0.2.1", b""), ("192.0.2.2", b"")], 0).take(np.zeros(0, np.intp))
    assert not list(told(Cooking(Config()).on_batch(empty, 0)))
