"""Laws of the NetFlow cooking: it takes any bytes, and how datagrams are put into batches does not matter."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from eddy_agents.transformers.netflow import EXAMPLES, Config, Cooking
from eddy_agents.wire.netflow_datagram import defect_of_length, read_header, read_sets
from eddy_agents.wire.netflow_template import read_templates
from eddy_mesh.agent import Result
from eddy_mesh.batch import Batch, Kind, Producer
from eddy_mesh.cer import EventClass, Stage, Value
from eddy_mesh.codec import decode, encode
from eddy_mesh.columns import Bytes, Column, Constant, Numbers, pack
from eddy_mesh.errors import WireError
from eddy_mesh.rows import flat_rows

RAW = Kind(Stage.RAW, EventClass.NETWORK, "netflow")
SMALL = Config(max_exporters=3, max_templates=4, max_template_fields=60, max_pending_sets=4, max_pending_bytes=2000)
Row = dict[str, Value]


def flow_set(number: int, content: bytes) -> bytes:
    """A set with its header."""
    return struct.pack(">HH", number, len(content) + 4) + content


def ipfix(*sets: bytes, sequence: int) -> bytes:
    """An IPFIX message."""
    body = b"".join(sets)
    return struct.pack(">HHIII", 10, 16 + len(body), 1_700_000_000, sequence, 3) + body


VARIABLE = ipfix(
    flow_set(2, struct.pack(">HHHHHHHHI", 400, 3, 8, 4, 82, 65535, 0x8000 | 93, 65535, 637)),
    flow_set(400, b"\x0a\0\0\1\3abc\xff\0\2yz" + b"\x0a\0\0\2\0\0" + b"\0\0\0"),
    sequence=0,
)
OPTIONS = ipfix(
    flow_set(3, struct.pack(">HHH", 401, 5, 1) + struct.pack(">10H", 302, 4, 305, 4, 306, 4, 160, 8, 335, 65535)),
    flow_set(401, struct.pack(">IIIQ", 1, 1, 99, 1_600_000_000_000) + b"\4name"),
    flow_set(2, struct.pack(">HH10H", 402, 5, 27, 16, 8, 4, 302, 4, 22, 4, 70, 3)),
    flow_set(402, bytes(16) + b"\x0a\0\0\1" + bytes(3) + b"\1" + bytes(4) + b"\0\1\x23"),
    sequence=2,
)
V9_OPTIONS = bytes.fromhex(
    "0009 0003 000186a0 65920080 00000003 00000007"
    "0001 0018 0104 0004 0008 0001 0004 0030 0001 0032 0004 0000"
    "0104 0010 00000001 05 00000064 000000"
)
WHOLE = [payload for example in EXAMPLES for payload in example.given if isinstance(payload, bytes)]
WHOLE += [VARIABLE, OPTIONS, V9_OPTIONS]


def raw_batch(payloads: Sequence[bytes]) -> Batch:
    """Raw events of datagrams of one exporter."""
    count = len(payloads)
    observed = Numbers(np.arange(count, dtype=np.int64))
    columns: dict[str, Column] = {"event.original": Bytes(*pack(payloads)), "observed": observed}
    columns["host_address"] = Constant("192.0.2.1", count)
    return Batch(RAW, "test", Producer(1, 1), 0, 1, count, columns)


def rows_of(result: Result) -> list[Row]:
    """Every event of a result, after its way over the wire."""
    found: list[Row] = []
    for draft in result.outputs:
        assert not isinstance(draft, Batch)
        assert all(len(column) == draft.count for column in draft.columns.values())
        batch = Batch(draft.kind, "test", Producer(2, 1), 0, 1, draft.count, draft.columns)
        found.extend(flat_rows(decode(encode(batch), draft.kind, "test")))
    return found


def take_any(payloads: Sequence[bytes]) -> None:
    """Cook whatever it is with little room, and look at every event that comes out."""
    cooking = Cooking(SMALL)
    for now_ns, batch in ((0, raw_batch(payloads)), (1, raw_batch(payloads[::-1]))):
        result = cooking.on_batch(batch, now_ns)
        rows_of(result)
        assert all(0 <= row < batch.count for refusal in result.refusals for row in refusal.rows)
    rows_of(cooking.on_tick(10**16))


def test_a_datagram_cut_at_every_offset() -> None:
    """Every beginning of every kind of datagram is cooked or refused, after templates and without."""
    for payload in WHOLE:
        cut = [payload[:end] for end in range(len(payload))]
        for beginning in cut:
            take_any([beginning])
        take_any([*WHOLE, *cut])
        take_any([*cut, *WHOLE])


@settings(max_examples=150)
@given(st.lists(st.binary(max_size=200), max_size=4))
def test_any_bytes(payloads: list[bytes]) -> None:
    """Any octets are cooked or refused."""
    take_any(payloads)


@settings(max_examples=150)
@given(st.binary(max_size=120), st.sampled_from([0, 1, 2, 3]))
def test_wire_readers_give_a_value_or_a_wire_error(data: bytes, set_id: int) -> None:
    """The readers of headers, sets and templates return, or raise the one error of decoders."""
    reasons = set()
    read_sets(data, 0, len(data))
    read_templates(set_id, data, 0, len(data))
    try:
        defect_of_length(data, 0, len(data), read_header(data, 0, len(data)))
    except WireError as error:
        reasons.add(error.source)
    assert reasons <= {"netflow"}


changes = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=6)


@settings(max_examples=100)
@given(st.lists(st.tuples(st.sampled_from(WHOLE), changes), min_size=1, max_size=4))
def test_damaged_datagrams(damaged: list[tuple[bytes, list[tuple[int, int]]]]) -> None:
    """Datagrams with changed octets are cooked or refused, among whole ones."""
    payloads = []
    for payload, edits in damaged:
        octets = bytearray(payload)
        for place, value in edits:
            octets[place % len(octets)] = value
        payloads.append(bytes(octets))
    take_any([*payloads, *WHOLE, *payloads])


field_ids = st.one_of(st.integers(0, 500), st.sampled_from([8, 12, 27, 28, 21, 22, 4, 6, 60, 34, 48, 302, 70, 95, 152]))
lengths = st.one_of(st.sampled_from([1, 2, 3, 4, 6, 8, 16, 65535]), st.integers(0, 40))


@settings(max_examples=200)
@given(st.lists(st.tuples(field_ids, lengths), min_size=1, max_size=12), st.binary(max_size=300), st.booleans())
def test_any_template_reads_any_data(fields: list[tuple[int, int]], data: bytes, is_options: bool) -> None:
    """Whatever fields and lengths a template has, data of it becomes as many events as there are records."""
    head = struct.pack(">HHH", 256, len(fields), 1) if is_options else struct.pack(">HH", 256, len(fields))
    defined = head + b"".join(struct.pack(">HH", *field) for field in fields)
    message = ipfix(flow_set(3 if is_options else 2, defined), flow_set(256, data), sequence=0)
    found = rows_of(Cooking(Config()).on_batch(raw_batch([message]), 0))
    size = sum(length for _, length in fields)
    if 65535 not in [length for _, length in fields] and size:
        assert len(found) == len(data) // size


def essence(rows: Sequence[Row]) -> list[str]:
    """Events without their numbers, in an order of their own."""
    return sorted(
        repr(sorted((n, v) for n, v in row.items() if n not in {"id", "parents", "observed"})) for row in rows
    )


@settings(max_examples=60)
@given(st.permutations(WHOLE), st.integers(0, len(WHOLE)))
def test_batching_does_not_matter(payloads: list[bytes], cut: int) -> None:
    """The same datagrams in one batch or in two give the same flows and options."""
    together, apart = Cooking(Config()), Cooking(Config())
    one = rows_of(together.on_batch(raw_batch(payloads), 0))
    two = rows_of(apart.on_batch(raw_batch(payloads[:cut]), 0)) + rows_of(apart.on_batch(raw_batch(payloads[cut:]), 0))
    assert essence(one) == essence(two)
