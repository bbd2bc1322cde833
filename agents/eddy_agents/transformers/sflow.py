"""Cooks sFlow version 5 datagrams: each sample becomes an event.

In: ``raw.network.sflow``, one datagram each. Out: ``cooked.network.sflow.flow``, one event for each sampled packet,
with the fields that a captured packet has; ``cooked.network.sflow.counter``, one for each counter sample;
``cooked.network.sflow.discard``, one for each packet that an agent told it discarded;
``cooked.network.sflow.unknown``, one for each sample of a format that is not known, whole;
``cooked.derived.sflow.gap`` where datagrams of an agent are missing.

A field has its ECS name where ECS has one, else ``sflow.`` and the member's name in the specification.
Numbers of a flow are those of the sampled packet: multiply by ``sflow.sampling_rate`` for an estimate.
A datagram that is cut gives the samples that came whole, and is counted as refused.

Source: sFlow version 5, July 2004; sFlow Dropped Packet Notification Structures, 2020.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import numpy as np

from eddy_agents.wire.packet import Integers, decode
from eddy_agents.wire.packet_columns import number_column, packet_columns, word_column
from eddy_agents.wire.sflow import Datagram, DiscardSample, FlowSample
from eddy_agents.wire.sflow import decode as decode_datagram
from eddy_agents.wire.sflow_sequence import Gap, Sequences
from eddy_mesh.agent import Draft, Example, Refusal, Result
from eddy_mesh.batch import Batch, Kind
from eddy_mesh.cer import EventClass, Stage, Value
from eddy_mesh.columns import Column, Constant, Index, Numbers, pack
from eddy_mesh.concatenate import concatenate
from eddy_mesh.errors import WireError
from eddy_mesh.fields import type_of
from eddy_mesh.rows import column_for, columns_of

INPUT: tuple[str, ...] = ("sflow",)

FLOW: Final = Kind(Stage.COOKED, EventClass.NETWORK, "sflow.flow")
COUNTER: Final = Kind(Stage.COOKED, EventClass.NETWORK, "sflow.counter")
DISCARD: Final = Kind(Stage.COOKED, EventClass.NETWORK, "sflow.discard")
UNKNOWN: Final = Kind(Stage.COOKED, EventClass.NETWORK, "sflow.unknown")
GAP: Final = Kind(Stage.COOKED, EventClass.DERIVED, "sflow.gap")

_ENVELOPE: Final = ("occurred", "observed", "host", "host_address", "normalizer", "normalizer_address")
_NO_INTERFACE: Final = (0, 0x3FFF_FFFF)
"""Interface numbers that name none: unknown, and the agent itself. Source: sFlow version 5 section 5.3, interface."""

Row = dict[str, Value]


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the sFlow cooking."""

    max_agents: int = 4096
    """Most agents (address and sub-agent) whose sequence is followed; the one silent for longest is forgotten."""

    late_datagrams: int = 32
    """A gap is told after this many further datagrams of its agent; what comes late until then is not missing."""

    late_s: float = 5.0
    """A gap is told after this many seconds at the latest."""


class Cooking:
    """Names the fields of samples, and notices datagrams that did not come."""

    def __init__(self, config: Config) -> None:
        self._sequences = Sequences(config.max_agents, config.late_datagrams)
        self._late_ns = int(config.late_s * 1_000_000_000)

    def on_batch(self, batch: Batch, now_ns: int) -> Result:
        """Return the samples of every datagram that can be read, and the gaps that are sure by now."""
        payloads = batch.column("event.original")
        cut: list[tuple[int, WireError]] = []
        datagrams: list[tuple[int, Datagram]] = []
        for row in range(batch.count):
            payload = payloads.at(row)
            try:
                datagram = decode_datagram(payload if isinstance(payload, bytes) else b"")
            except WireError as error:
                cut.append((row, error))
                continue
            datagrams.append((row, datagram))
            if datagram.defects:
                cut.append((row, datagram.defects[0]))
            gap = self._sequences.take(datagram, now_ns)
            if gap is not None:
                gap.origin = _carried(batch, np.array([row], np.intp))
        drafts = [_flow_draft(batch, datagrams), _discard_draft(batch, datagrams)]
        drafts += [_row_draft(kind, batch, rows) for kind, rows in _row_events(datagrams)]
        drafts.append(_gap_draft(self._sequences.due(now_ns - self._late_ns)))
        refusals = (Refusal([row for row, _ in cut], "malformed", str(cut[0][1])),) if cut else ()
        return Result([draft for draft in drafts if draft is not None], refusals)

    def on_tick(self, now_ns: int) -> Result:
        """Return the gaps that were held back long enough."""
        draft = _gap_draft(self._sequences.due(now_ns - self._late_ns))
        return Result(() if draft is None else (draft,))


# --- samples as rows ---------------------------------------------------------------------------------------------


def _of_datagram(datagram: Datagram) -> Row:
    return {
        "observer.ip": datagram.agent,
        "sflow.sub_agent": datagram.sub_agent,
        "sflow.sequence": datagram.sequence,
    }


def _row_events(datagrams: Sequence[tuple[int, Datagram]]) -> list[tuple[Kind, list[tuple[int, Row]]]]:
    """Return the events that are made row by row: they are few beside the flows."""
    counters: list[tuple[int, Row]] = []
    unknown: list[tuple[int, Row]] = []
    for row, datagram in datagrams:
        shared = _of_datagram(datagram)
        for sample in datagram.counters:
            source: Row = {
                "sflow.sample_sequence": sample.sequence,
                "sflow.source_id_type": sample.source_type,
                "sflow.source_id": sample.source_index,
            }
            counters.append((row, shared | source | sample.fields))
        unknown += [(row, shared | fields) for fields in datagram.others]
    return [(COUNTER, counters), (UNKNOWN, unknown)]


def _row_draft(kind: Kind, batch: Batch, events: Sequence[tuple[int, Row]]) -> Draft | None:
    if not events:
        return None
    index = np.array([row for row, _ in events], np.intp)
    return Draft(kind, len(events), columns_of([fields for _, fields in events]) | _carried(batch, index))


def _carried(batch: Batch, index: Index) -> dict[str, Column]:
    """Return what a cooked event has from its raw one: envelope, tags, and the raw event as parent."""
    names = [name for name in batch.columns if name in _ENVELOPE or name.startswith("tags.")]
    return {name: batch.columns[name].take(index) for name in names} | {"parents": batch.ids().take(index)}


def _gap_draft(gaps: Sequence[Gap]) -> Draft | None:
    if not gaps:
        return None
    rows: list[Row] = [
        {
            "observer.ip": gap.agent,
            "sflow.sub_agent": gap.sub_agent,
            "sflow.sequence": gap.sequence,
            "sflow.expected_sequence": gap.expected,
            "sflow.lost": gap.lost,
        }
        for gap in gaps
    ]
    columns = columns_of(rows)
    for name in {name: None for gap in gaps for name in gap.origin}:
        columns[name] = concatenate([gap.origin.get(name, Constant(None, 1)) for gap in gaps], type_of(name))
    return Draft(GAP, len(gaps), columns)


# --- flows as columns --------------------------------------------------------------------------------------------


def _flow_draft(batch: Batch, datagrams: Sequence[tuple[int, Datagram]]) -> Draft | None:
    """Return all flow samples of a batch; their headers are read together."""
    samples = [sample for _, datagram in datagrams for sample in datagram.flows]
    if not samples:
        return None
    columns = _sample_columns(samples)
    counts = [len(datagram.flows) for _, datagram in datagrams]
    return Draft(FLOW, len(samples), _packet_columns(batch, datagrams, counts, samples, columns))


def _discard_draft(batch: Batch, datagrams: Sequence[tuple[int, Datagram]]) -> Draft | None:
    """Return all samples of discarded packets."""
    samples = [sample for _, datagram in datagrams for sample in datagram.discards]
    if not samples:
        return None
    numbers = np.array([sample.head for sample in samples], np.int64)
    columns: dict[str, Column] = {
        name: Numbers(numbers[:, place].astype(np.uint32)) for place, name in _DISCARD_FIELDS.items()
    }
    for place, name in _DISCARD_INTERFACES.items():
        interface = _interfaces(np.zeros(len(samples), np.int64), numbers[:, place])
        if interface is not None:
            columns[name] = interface
    counts = [len(datagram.discards) for _, datagram in datagrams]
    return Draft(DISCARD, len(samples), _packet_columns(batch, datagrams, counts, samples, columns))


def _packet_columns(
    batch: Batch,
    datagrams: Sequence[tuple[int, Datagram]],
    counts: Sequence[int],
    samples: Sequence[FlowSample] | Sequence[DiscardSample],
    columns: Mapping[str, Column],
) -> dict[str, Column]:
    """Return the columns of samples, ``counts`` of each datagram, with those of their packets and datagrams."""
    index = np.repeat(np.array([row for row, _ in datagrams], np.intp), counts)
    shared = columns_of([_of_datagram(datagram) for _, datagram in datagrams])
    of_sample = np.repeat(np.arange(len(datagrams)), counts)
    joined = {name: column.take(of_sample) for name, column in shared.items()}
    joined |= _header_columns(samples)
    joined |= columns
    return _with_fields(joined, [sample.fields for sample in samples]) | _carried(batch, index)


def _header_columns(samples: Sequence[FlowSample] | Sequence[DiscardSample]) -> dict[str, Column]:
    offsets, data = pack([sample.header for sample in samples])
    link_types = np.array([sample.link_type for sample in samples], np.int64)
    lengths = np.array([sample.frame_length for sample in samples], np.int64)
    captured = np.diff(offsets.astype(np.int64))
    columns = packet_columns(decode(data, offsets.astype(np.int64), link_types, np.maximum(lengths, captured)))
    frame_bytes = number_column(lengths, np.uint32)
    if frame_bytes is not None:
        columns["network.bytes"] = frame_bytes
    columns["network.packets"] = Constant(1, len(samples))
    return columns


def _sample_columns(samples: Sequence[FlowSample]) -> dict[str, Column]:
    numbers = np.array([sample.head for sample in samples], np.int64)
    way_in, way_out = numbers[:, 7], numbers[:, 9]
    columns: dict[str, Column | None] = {
        name: Numbers(numbers[:, place].astype(np.uint32)) for place, name in enumerate(_SAMPLE_FIELDS)
    }
    columns["observer.ingress.interface.id"] = _interfaces(numbers[:, 6], way_in)
    columns["observer.egress.interface.id"] = _interfaces(numbers[:, 8], way_out)
    for name, form, value in (("input", numbers[:, 6], way_in), ("output", numbers[:, 8], way_out)):
        columns[f"sflow.{name}_format"] = number_column(np.where(form > 0, form, -1), np.uint32)
        columns[f"sflow.{name}_value"] = number_column(np.where(form > 0, value, -1), np.uint32)
    return {name: column for name, column in columns.items() if column is not None}


_SAMPLE_FIELDS: Final = (
    "sflow.sample_sequence",
    "sflow.source_id_type",
    "sflow.source_id",
    "sflow.sampling_rate",
    "sflow.sample_pool",
    "sflow.drops",
)


_DISCARD_FIELDS: Final = {
    0: "sflow.sample_sequence",
    1: "sflow.source_id_type",
    2: "sflow.source_id",
    3: "sflow.drops",
    6: "sflow.reason",
}
_DISCARD_INTERFACES: Final = {4: "observer.ingress.interface.id", 5: "observer.egress.interface.id"}


def _interfaces(form: Integers, value: Integers) -> Column | None:
    names_one = (form == 0) & ~np.isin(value, _NO_INTERFACE)
    return word_column(np.where(names_one, value, -1), str)


def _with_fields(columns: dict[str, Column], rows: Sequence[Mapping[str, Value]]) -> dict[str, Column]:
    """Return the columns with the members of other records; where both have a field, the packet header is right."""
    names = {name for row in rows for name in row}
    if not names:
        return columns
    both = names & columns.keys()
    for name in both:
        column = columns[name]
        held = [column.at(place) for place in range(len(column))]
        columns[name] = column_for(
            name, [row.get(name) if value is None else value for value, row in zip(held, rows, strict=True)]
        )
    rest = [{name: value for name, value in row.items() if name not in both} for row in rows]
    return columns | columns_of(rest)


_DATAGRAM: Final = bytes.fromhex(
    "00000005 00000001 c0000201 00000000 00000007 000003e8 00000002"  # agent 192.0.2.1, number 7, two samples
    "00000001 00000064 00000005 00000003 00000200 00002800 00000000 00000003 40000102 00000001"  # a flow sample
    "00000001 0000003c 00000001 00000040 00000004 0000002a"  # its header: Ethernet, 64 octets on the wire
    "020000000002 020000000001 0800 4500002e00010000401100 00c6336401c6336402 00351389001a0000 0000"
    "00000002 00000030 00000009 00000003 00000001 000003e9 0000001c"  # a counter sample: processor
    "0000000a 00000014 0000001e 0000000000001000 0000000000000800"
)

EXAMPLES: tuple[Example, ...] = (
    Example(
        given=(_DATAGRAM,),
        expected=(
            {
                "observer.ip": "192.0.2.1",
                "observer.ingress.interface.id": "3",
                "sflow.sequence": 7,
                "sflow.sampling_rate": 512,
                "sflow.sample_pool": 10240,
                "sflow.output_format": 1,
                "sflow.output_value": 258,
                "source.ip": "198.51.100.1",
                "source.port": 53,
                "destination.ip": "198.51.100.2",
                "destination.port": 5001,
                "network.transport": "udp",
                "network.bytes": 64,
            },
            {"observer.ip": "192.0.2.1", "sflow.5s_cpu": 10, "sflow.total_memory": 4096, "sflow.source_id": 3},
        ),
    ),
)
