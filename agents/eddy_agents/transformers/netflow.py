"""NetFlow v1, v5, v7, v9 and IPFIX: the flow records of exporters become events.

In: ``raw.network.netflow``, one event a datagram (`event.original`, and `host_address` of the exporter).
Out: ``cooked.network.netflow.v1``, ``.v5``, ``.v7``, ``.v9`` and ``.ipfix``, one event a flow;
``cooked.network.netflow.options``, one event an options record; and what did not come:
``cooked.derived.netflow.gap`` (sequence numbers), ``cooked.derived.netflow.template_unknown`` (data given up because
its template never came) and ``cooked.derived.netflow.sampling`` (a sampling rate was announced and not told).

Elements have the field that ``eddy_mesh.registry.ipfix`` gives them, an ECS name or ``netflow.<name>``. An
application id is text ``engine:selector``; hardware addresses are lower case with colons; octets
without a type are hexadecimal.

Source: RFC 3954 (v9), RFC 7011 (IPFIX), Cisco NetFlow Services Solutions Guide appendix B (v1, v5, v7).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from eddy_agents.wire.netflow_collector import Collector
from eddy_agents.wire.netflow_counts import occurred_of
from eddy_agents.wire.netflow_datagram import IPFIX, V1, V5, V7, V9
from eddy_agents.wire.netflow_exporter import Count, Limits, Seconds, Senders
from eddy_agents.wire.netflow_flows import Times, columns_of_records, derive_flow_columns
from eddy_agents.wire.netflow_harvest import Group, Harvest, Lapse, PerSet, Raw
from eddy_agents.wire.netflow_layout import Records
from eddy_agents.wire.netflow_sampling import sampling_column
from eddy_agents.wire.netflow_survey import Integers
from eddy_mesh.agent import Draft, Example, Refusal, Result, draft_of
from eddy_mesh.batch import Batch, Kind
from eddy_mesh.cer import EventClass, Stage, Value
from eddy_mesh.columnize import column_of
from eddy_mesh.columns import Addresses, Bytes, Column, Constant, Numbers, Text, address_halves, address_text, pack
from eddy_mesh.concatenate import concatenate
from eddy_mesh.fields import FieldType, type_of

INPUT: Final = ("netflow",)

_FLOW_KINDS: Final = {
    V1: Kind(Stage.COOKED, EventClass.NETWORK, "netflow.v1"),
    V5: Kind(Stage.COOKED, EventClass.NETWORK, "netflow.v5"),
    V7: Kind(Stage.COOKED, EventClass.NETWORK, "netflow.v7"),
    V9: Kind(Stage.COOKED, EventClass.NETWORK, "netflow.v9"),
    IPFIX: Kind(Stage.COOKED, EventClass.NETWORK, "netflow.ipfix"),
}
_OPTIONS_KIND: Final = Kind(Stage.COOKED, EventClass.NETWORK, "netflow.options")
_CARRIED: Final = ("observed", "host", "host_address", "normalizer", "normalizer_address")
_UNKNOWN_SENDER: Final = -1
_LOWER_HALF: Final = 0xFFFF_FFFF_FFFF_FFFF


class Config(Limits, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much the cooking remembers, and for how long."""

    max_exporters: Count = 4096
    """Most exporters and domains that are remembered; beyond it the one heard of longest ago is forgotten."""
    max_templates: Count = 1024
    """Most templates of one exporter and domain; further ones are refused as ``template_limit``."""
    max_template_fields: Count = 500_000
    """Most template fields of all exporters together; templates beyond it are refused as ``template_limit``."""
    max_samplers: Count = 65_536
    """Most samplers and sampled interfaces of all exporters together; further ones are refused as ``sampler_limit``."""
    template_lifetime_s: Seconds = 86_400.0
    """A template that did not come again for so long is forgotten."""
    max_pending_bytes: Count = 16 * 1024 * 1024
    """Most octets of data sets that wait for a template; what has no room is refused as ``template_unknown``."""
    max_pending_sets: Count = 32_768
    """Most data sets that wait for a template."""
    max_pending_bytes_per_exporter: Count = 2 * 1024 * 1024
    """As ``max_pending_bytes``, of one exporter."""
    max_pending_sets_per_exporter: Count = 4096
    """As ``max_pending_sets``, of one exporter."""
    pending_lifetime_s: Seconds = 3600.0
    """Data whose template did not come for so long is given up, and that is told as an event."""
    reorder_datagrams: Count = 8
    """How many datagrams, or one second, a late one may be late before what is missing counts as lost."""
    port_tells_exporters: bool = False
    """Whether exporters behind one address are told apart by `source.port` (several processes, or NAT)."""
    sampling_notice_s: Seconds = 600.0
    """After an options template announced a sampling rate: how long to wait for it before that is told as an event."""


class Cooking:
    """Follows every exporter's templates and makes columns of their records."""

    def __init__(self, config: Config) -> None:
        self._by_port = config.port_tells_exporters
        self._collector = Collector(config, config.sampling_notice_s)

    def on_batch(self, batch: Batch, now_ns: int) -> Result:
        """Cook datagrams; see `eddy_mesh.agent.Stateful`."""
        carried = {name: batch.columns[name] for name in _CARRIED if name in batch.columns}
        harvest = Harvest(Raw(carried | {"parents": batch.ids()}))
        payloads = _payloads(batch.column("event.original"))
        if payloads is None:
            return Result(refusals=(Refusal(range(batch.count), "no_payload", "event.original does not hold octets"),))
        data, offsets = memoryview(payloads.data), payloads.offsets.tolist()
        self._collector.feed(harvest, data, offsets, self._senders(batch), now_ns)
        outputs = [_draft(group, harvest.raw) for group in harvest.groups.values()]
        outputs.extend(_lapse_drafts(harvest.lapses))
        refusals = [Refusal(rows, reason, detail) for reason, (rows, detail) in harvest.refused.items()]
        return Result(outputs, refusals)

    def on_tick(self, now_ns: int) -> Result:
        """Tell what did not come, forget what is old; see `eddy_mesh.agent.Stateful`."""
        return Result(list(_lapse_drafts(self._collector.tick(now_ns))))

    def _senders(self, batch: Batch) -> Senders:
        """Exporter and port of each datagram; the port is 0 where it does not matter."""
        codes, exporters = _coded_addresses(batch.column("host_address"))
        if not self._by_port:
            return Senders(codes, tuple((exporter, 0) for exporter in exporters))
        ports = (batch.column("source.port").at(row) for row in range(batch.count))
        pairs = [
            (exporters[code], port if isinstance(port, int) else 0) for code, port in zip(codes, ports, strict=True)
        ]
        known = {pair: code for code, pair in enumerate(dict.fromkeys(pairs))}
        return Senders(np.array([known[pair] for pair in pairs], np.int64), tuple(known))


def _payloads(column: Column) -> Bytes | None:
    """The payloads of a batch as octets end to end; None where the column does not hold any."""
    if isinstance(column, Bytes):
        return column
    if isinstance(column, Constant) and isinstance(column.value, bytes):
        return Bytes(*pack([column.value] * column.count))
    if isinstance(column, Text):
        return Bytes(column.offsets, column.data, column.nulls)
    return None


def _coded_addresses(column: Column) -> tuple[Integers, list[int]]:
    """Which address each row has, and the IPv6 form of each as a number, `_UNKNOWN_SENDER` where there is none."""
    if isinstance(column, Addresses) and column.nulls is None and len(column):
        if (column.values == column.values[0]).all():
            distinct, codes = column.values[:1], np.zeros(len(column), np.int64)
        else:
            distinct, codes = np.unique(column.values, axis=0, return_inverse=True)
        return codes.reshape(-1), [high << 64 | low for high, low in Addresses(distinct).wide().values.tolist()]
    rows = range(1) if isinstance(column, Constant) else range(len(column))
    numbers = [_number_of(column.at(row)) for row in rows]
    known = {number: code for code, number in enumerate(dict.fromkeys(numbers))}
    codes = np.array([known[number] for number in numbers], np.int64)
    return np.resize(codes, len(column)), list(known)


def _number_of(value: object) -> int:
    try:
        high, low = address_halves(str(value))
    except ValueError:
        return _UNKNOWN_SENDER
    return high << 64 | low


class _Sets:
    """The data sets of one group, an entry a set.

    Attributes:
        taken: one set or several of one stream and template.
        counts: records of each set.
        totals: records of each of ``taken``.
    """

    def __init__(self, group: Group) -> None:
        self.taken = group.taken
        self.counts = self.of_sets([taken.counts for taken in self.taken])
        self.totals = np.array([np.sum(taken.counts) for taken in self.taken])

    def of_sets(self, values: Sequence[PerSet]) -> Integers:
        """Return numbers of ``taken`` as an entry a set."""
        if len(values) == 1:
            return np.atleast_1d(values[0])
        if any(isinstance(value, np.ndarray) for value in values):
            return np.concatenate([value if isinstance(value, np.ndarray) else (value,) for value in values])
        return np.array(values, np.int64)

    def of_headers(self, name: str) -> Integers:
        """Return one number of the header over each set."""
        return self.of_sets([getattr(taken.header, name) for taken in self.taken])


def _spread(values: Sequence[int] | Integers, counts: Integers, dtype: npt.DTypeLike) -> Column:
    """A column in which value i stands ``counts[i]`` times."""
    numbers = np.asarray(values)
    if (numbers == numbers[0]).all():
        return Constant(int(numbers[0]), int(counts.sum()))
    return Numbers(np.repeat(numbers.astype(dtype), counts))


def _draft(group: Group, raw: Raw) -> Draft:
    """Make the events of all records of one layout."""
    layout, sets = group.layout, _Sets(group)
    records = Records(layout, [taken.records for taken in sets.taken])
    times = _times(layout.version, sets)
    columns = columns_of_records(layout, records, times)
    if layout.is_options:
        columns["occurred"] = Numbers(times.export_ns)
    else:
        derive_flow_columns(layout, records, columns)
        said = [(taken.stream.sampling, taken.interval) for taken in sets.taken]
        sampling = sampling_column(layout, records, said, sets.totals)
        if sampling is not None:
            columns["netflow.sampling_interval"] = sampling
        columns["occurred"] = occurred_of(columns, times.export_ns)
    columns |= _header_columns(layout.version, sets)
    columns |= _carried_columns(group, raw, sets)
    return Draft(_OPTIONS_KIND if layout.is_options else _FLOW_KINDS[layout.version], records.count, columns)


def _times(version: int, sets: _Sets) -> Times:
    """The clocks of the exporters, spread to one entry a record."""
    export_ns = np.repeat(sets.of_headers("export_ns"), sets.counts)
    if version == IPFIX:
        return Times(export_ns, None, np.repeat([taken.started_ns for taken in sets.taken], sets.totals))
    return Times(export_ns, np.repeat(sets.of_headers("uptime_ms").astype(np.uint32), sets.counts), None)


def _header_columns(version: int, sets: _Sets) -> dict[str, Column]:
    """What the header of its datagram says about a record, and who sent it."""
    domains = np.array([taken.header.domain for taken in sets.taken])
    columns = {
        "netflow.export_time": _spread(sets.of_headers("export_ns"), sets.counts, np.int64),
        "netflow.version": Constant(version, int(sets.counts.sum())),
        "netflow.domain": _spread(domains, sets.totals, np.uint32),
    }
    if version != V1:
        columns["netflow.sequence"] = _spread(sets.of_headers("sequence"), sets.counts, np.uint32)
    if version == V5:
        samplings = np.array([taken.header.sampling for taken in sets.taken])
        columns["netflow.engine_type"] = _spread(domains >> 8, sets.totals, np.uint8)
        columns["netflow.engine_id"] = _spread(domains & 0xFF, sets.totals, np.uint8)
        columns["netflow.sampling_algorithm"] = _spread(samplings >> 14, sets.totals, np.uint8)
    elif version in {V9, IPFIX}:
        columns["netflow.template"] = _spread([taken.template for taken in sets.taken], sets.totals, np.uint16)
    observer = _observer_column(sets)
    return columns if observer is None else columns | {"observer.ip": observer}


def _observer_column(sets: _Sets) -> Column | None:
    exporters = [taken.stream.key.exporter for taken in sets.taken]
    texts = [None if e == _UNKNOWN_SENDER else address_text(e >> 64, e & _LOWER_HALF) for e in exporters]
    if texts.count(texts[0]) == len(texts):
        return None if texts[0] is None else Constant(texts[0], int(sets.counts.sum()))
    return column_of(FieldType.ADDRESS, texts).take(np.repeat(np.arange(len(texts)), sets.totals))


def _carried_columns(group: Group, raw: Raw, sets: _Sets) -> dict[str, Column]:
    """Lineage and envelope: the columns of the raw events, one row for each record."""
    if not group.origins:
        return raw.row(np.repeat(sets.of_sets([taken.rows for taken in sets.taken]), sets.counts))
    names = dict.fromkeys(name for origin in group.origins for name in origin)
    absent = Constant(None, 1)
    joined = {
        name: concatenate([origin.get(name, absent) for origin in group.origins], _type_of(name)) for name in names
    }
    return Raw(joined).row(np.repeat(np.arange(len(group.origins)), sets.counts))


def _type_of(name: str) -> FieldType:
    return FieldType.ID if name == "parents" else type_of(name)


def _lapse_drafts(lapses: list[Lapse]) -> Iterator[Draft]:
    """One draft for each kind of thing that did not come."""
    for kind in dict.fromkeys(lapse.kind for lapse in lapses):
        rows = [_lapse_row(lapse) for lapse in lapses if lapse.kind == kind]
        yield draft_of(Kind(Stage.COOKED, EventClass.DERIVED, f"netflow.{kind}"), rows)


def _lapse_row(lapse: Lapse) -> dict[str, Value]:
    row = dict(lapse.values)
    row["netflow.version"], row["netflow.domain"] = lapse.stream.version, lapse.stream.domain
    if lapse.stream.exporter != _UNKNOWN_SENDER:
        row["observer.ip"] = address_text(lapse.stream.exporter >> 64, lapse.stream.exporter & _LOWER_HALF)
    if not lapse.origins:
        return row
    last = lapse.origins[-1]
    row |= {name: last[name].at(0) for name in _CARRIED if name in last}
    row["parents"] = [origin["parents"].at(0) for origin in lapse.origins]
    return row


_V9_TEMPLATE: Final = bytes.fromhex(
    "0009 0001 000186a0 65920080 00000001 00000007"  # version, count, uptime 100 s, 2024-01-01, sequence, source id
    "0000 0024 0100 0007"  # template 256 of 7 fields
    "0008 0004 000c 0004 0007 0002 000b 0002 0004 0001 0001 0004 0015 0004"
)
_V9_DATA: Final = bytes.fromhex(
    "0009 0001 00018a88 65920081 00000002 00000007"
    "0100 001c"
    "0a000001 0a000002 c001 0035 11 0000004a 00018894 000000"  # source, destination, ports, UDP, octets, end, padding
)
_V5_DATA: Final = bytes.fromhex(
    "0005 0001 000186a0 65920080 1dcd6500 00000000 0102 4064"  # 0.5 s after 65920080, engine 1/2, one in 100
    "c0000201 c6336407 00000000 0001 0002 00000003 000000b4 00018308 00018696"
    "d431 01bb 00 1b 06 00 fde8 fde9 18 18 0000"
)

EXAMPLES: Final = (
    Example(
        given=[_V9_TEMPLATE, _V9_DATA],
        expected=[
            {
                "source.ip": "10.0.0.1",
                "source.port": 49153,
                "destination.ip": "10.0.0.2",
                "destination.port": 53,
                "network.transport": "udp",
                "network.type": "ipv4",
                "network.bytes": 74,
                "event.end": 1_704_067_200_500_000_000,
                "netflow.domain": 7,
                "netflow.template": 256,
            }
        ],
    ),
    Example(
        given=[_V5_DATA],
        expected=[
            {
                "source.ip": "192.0.2.1",
                "destination.ip": "198.51.100.7",
                "network.transport": "tcp",
                "network.packets": 3,
                "network.bytes": 180,
                "netflow.tcp_flags": "FSPA",
                "netflow.sampling_interval": 100,
                "event.duration": 910_000_000,
            }
        ],
    ),
)
