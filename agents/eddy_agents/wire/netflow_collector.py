"""The collector: datagrams in, groups of records of one layout out, with all that it must remember between them.

What may live here: `Collector`, the sans-IO state machine that follows templates, options, waiting data and sequence
numbers. Columns are made elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from eddy_agents.wire.netflow_datagram import (
    FIRST_DATA_SET,
    IPFIX,
    TEMPLATE_SETS,
    V1,
    V9,
    Buffer,
    FlowSet,
    Header,
    Malformed,
    defect_of_length,
    read_header,
    read_sets,
)
from eddy_agents.wire.netflow_exporter import Held, Limits, Pending, Senders, Stream, StreamKey, Streams, boot_of
from eddy_agents.wire.netflow_fixed import FIXED_LAYOUTS
from eddy_agents.wire.netflow_harvest import Harvest, Lapse, Taken, row_index, unknown
from eddy_agents.wire.netflow_layout import Chunk, Layout, Records
from eddy_agents.wire.netflow_sampling import RATE_ELEMENTS, SYSTEM_INIT_TIME, learned_element, tells_of_exporter
from eddy_agents.wire.netflow_template import FieldSpec, Template, read_templates
from eddy_agents.wire.netflow_together import MANY, Batched, read_together
from eddy_mesh.cer import Value
from eddy_mesh.registry.ipfix import IANA

_SECOND_NS: Final = 1_000_000_000
_EXPIRY_INTERVAL_NS: Final = 10 * _SECOND_NS


class Collector:
    """Everything that is remembered from one datagram to the next.

    Args:
        limits: how much that may be.
        sampling_notice_s: s after which announced sampling that did not come is told.
    """

    def __init__(self, limits: Limits, sampling_notice_s: float) -> None:
        self._notice_ns = int(sampling_notice_s * _SECOND_NS)
        self._streams = Streams(limits)
        self._pending = Pending(limits)
        self._awaiting: dict[StreamKey, Stream] = {}
        self._gapped: dict[StreamKey, Stream] = {}
        self._expiry_due_ns = 0

    def feed(self, harvest: Harvest, data: Buffer, offsets: Sequence[int], senders: Senders, now_ns: int) -> None:
        """Read the datagrams of a batch into ``harvest``; total: what is wrong is refused there.

        Args:
            harvest: of the batch.
            data: what holds the datagrams.
            offsets: datagram i lies at ``data[offsets[i]:offsets[i + 1]]``.
            senders: of each datagram.
            now_ns: ns since 1970 UTC.
        """
        reader = _Reader(self, harvest, data, now_ns)
        count = len(offsets) - 1
        rows: Iterable[int] = range(count)
        if count >= MANY:
            rows = read_together(self._streams, harvest, Batched(data, offsets, senders, now_ns))
        for row in rows:
            self._feed_one(reader, row, senders.of(row), offsets[row], offsets[row + 1])

    def _feed_one(self, reader: _Reader, row: int, sender: tuple[int, int], start: int, end: int) -> None:
        data, harvest, now_ns = reader.data, reader.harvest, reader.now_ns
        try:
            header = read_header(data, start, end)
        except Malformed as defect:
            harvest.refuse(row, defect)
            return
        stream = self._streams.get((*sender, header.version, header.domain))
        if stream is None:
            stream = self._open(harvest, StreamKey(*sender, header.version, header.domain), now_ns)
            stream.booted_ns = boot_of(header)
        elif header.version == V9 and stream.sequence.has_restarted(header.sequence, header.uptime_ms):
            self._streams.restart(stream, header)
        reader.read(row, header, stream)
        if header.version != V9:
            reader.refuse(defect_of_length(data, start, end, header))
        if header.version != V1:
            self._follow(row, reader)

    def _follow(self, row: int, reader: _Reader) -> None:
        """Compare the sequence number of a datagram that was read with what was expected."""
        header, stream, harvest = reader.header, reader.stream, reader.harvest
        clock_ms = header.export_ns // 1_000_000 if header.version == IPFIX else header.uptime_ms
        records = None if reader.waiting else reader.flows + reader.options
        gap = stream.sequence.take(header.sequence, clock_ms, reader.flows, records, reader.now_ns)
        if gap is not None:
            gap.origin = harvest.raw.row(row_index(row))
            self._gapped[stream.key] = stream
        if stream.sequence.gaps:
            self._tell_gaps(harvest.lapses, stream, before_ns=-1)

    def tick(self, now_ns: int) -> list[Lapse]:
        """Return what is to be told by time, and forget what is old; about once a second."""
        lapses: list[Lapse] = []
        for key, stream in list(self._gapped.items()):
            self._tell_gaps(lapses, stream, before_ns=now_ns - _SECOND_NS)
            if not stream.sequence.gaps:
                del self._gapped[key]
        for stream in list(self._awaiting.values()):
            self._tell_sampling(lapses, stream, now_ns)
        if now_ns >= self._expiry_due_ns:
            self._expiry_due_ns = now_ns + _EXPIRY_INTERVAL_NS
            self._streams.expire(now_ns)
            lapses.extend(unknown(*expired) for expired in self._pending.expire(now_ns))
        return lapses

    def _open(self, harvest: Harvest, key: StreamKey, now_ns: int) -> Stream:
        stream, forgotten = self._streams.open(key)
        if forgotten is not None:
            self._awaiting.pop(forgotten.key, None)
            self._gapped.pop(forgotten.key, None)
            self._tell_gaps(harvest.lapses, forgotten, before_ns=now_ns)
            harvest.lapses.extend(unknown(*lost) for lost in self._pending.forget(forgotten.key))
        return stream

    def define(self, stream: Stream, template: Template, now_ns: int) -> list[Held]:
        """Take in a template or a withdrawal.

        Returns:
            The data sets that waited for it.

        Raises:
            Malformed: there is no room for another template (``template_limit``).
        """
        if not template.fields:
            self._streams.withdraw(stream, template)
            return []
        if not self._streams.define(stream, template, now_ns):
            raise Malformed("template_limit", f"no room for template {template.id}: raise max_template_fields")
        announced = template.is_options and any(_is_rate(spec) for spec in template.fields)
        if announced and not stream.sampling_template:
            stream.sampling_template = template.id
            stream.sampling_due_ns = now_ns + self._notice_ns
            self._awaiting[stream.key] = stream
        return self._pending.release(stream.key, template.id) if self._pending else []

    def hold(self, stream: Stream, template_id: int, held: Held) -> bool:
        """Keep a data set until its template comes; False where there is no room."""
        return self._pending.hold(stream.key, template_id, held)

    def _tell_gaps(self, lapses: list[Lapse], stream: Stream, before_ns: int) -> None:
        for gap in stream.sequence.due(before_ns):
            values: dict[str, Value] = {
                "netflow.expected_sequence": gap.expected,
                "netflow.sequence": gap.sequence,
                "netflow.lost": gap.lost,
            }
            lapses.append(Lapse("gap", stream.key, values, [gap.origin]))

    def _tell_sampling(self, lapses: list[Lapse], stream: Stream, now_ns: int) -> None:
        if not stream.sampling.is_known and now_ns < stream.sampling_due_ns:
            return
        del self._awaiting[stream.key]
        if not stream.sampling.is_known:
            lapses.append(Lapse("sampling", stream.key, {"netflow.template": stream.sampling_template}, []))


class _Reader:
    """Reads the sets of one datagram after the other.

    Attributes:
        data: what holds the datagrams.
        harvest: what they give.
        now_ns: ns since 1970 UTC.
        header: of the datagram that was read last.
        stream: whose it was.
        flows: flow records in it.
        options: options records in it.
        waiting: whether a data set of it waits for its template, which leaves its records uncounted.
    """

    header: Header
    stream: Stream
    flows: int
    options: int
    waiting: bool
    _row: int

    def __init__(self, collector: Collector, harvest: Harvest, data: Buffer, now_ns: int) -> None:
        self._collector = collector
        self.harvest = harvest
        self.data = data
        self.now_ns = now_ns

    def read(self, row: int, header: Header, stream: Stream) -> None:
        """Read every set of one datagram; what is wrong with one does not keep the others."""
        self._row, self.header, self.stream = row, header, stream
        self.flows = self.options = 0
        self.waiting = False
        if header.version in FIXED_LAYOUTS:
            self._take(FIXED_LAYOUTS[header.version], (0, header.body, header.end))
            return
        sets, defect = read_sets(self.data, header.body, header.end)
        for flow_set in sets:
            known = stream.templates.get(flow_set[0])
            if known is not None:
                self._take(known.layout, flow_set)
            else:
                self._read_other(flow_set)
        self.refuse(defect)

    def _read_other(self, flow_set: FlowSet) -> None:
        if flow_set[0] in TEMPLATE_SETS[self.header.version]:
            self._define(flow_set)
        elif flow_set[0] >= FIRST_DATA_SET:
            self._wait(flow_set)
        else:
            self.refuse(Malformed("bad_set_id", f"set id {flow_set[0]} is reserved", flow_set[1]))

    def refuse(self, defect: Malformed | None) -> None:
        """Count what is wrong with the datagram, if anything is."""
        if defect is not None:
            self.harvest.refuse(self._row, defect)

    def _take(self, layout: Layout, flow_set: FlowSet) -> None:
        template_id, start, end = flow_set
        chunk, count, defect = layout.cut(self.data, start, end)
        if defect is not None:
            self.refuse(defect)
        if not count:
            return
        if layout.is_options:
            self.options += count
            self._learn(template_id, layout, chunk, count)
        else:
            self.flows += count
        group = self.harvest.group(layout, waited=False)
        group.taken.append(Taken.now(chunk, count, self.header, self.stream, template_id, self._row))

    def _define(self, flow_set: FlowSet) -> None:
        templates, defect = read_templates(flow_set[0], self.data, flow_set[1], flow_set[2])
        self.refuse(defect)
        for template in templates:
            try:
                released = self._collector.define(self.stream, template, self.now_ns)
            except Malformed as refusal:
                self.refuse(refusal)
                continue
            for held in released:
                self._release(template.id, held)

    def _release(self, template_id: int, held: Held) -> None:
        layout = self.stream.templates[template_id].layout
        chunk, count, defect = layout.cut(held.data, 0, len(held.data))
        if defect is not None:
            self.harvest.lapses.append(unknown(self.stream.key, template_id, [held]))
        if not count:
            return
        if layout.is_options:
            self._learn(template_id, layout, chunk, count)
        group = self.harvest.group(layout, waited=True)
        group.origins.append(held.origin)
        group.taken.append(Taken.now(chunk, count, held.header, self.stream, template_id, -1))

    def _wait(self, flow_set: FlowSet) -> None:
        self.waiting = True
        data = bytes(self.data[flow_set[1] : flow_set[2]])
        held = Held(data, self.header, self.harvest.raw.row(row_index(self._row)), self.now_ns)
        if not self._collector.hold(self.stream, flow_set[0], held):
            self.refuse(Malformed("template_unknown", f"template {flow_set[0]} did not come yet, and no room to wait"))

    def _learn(self, template_id: int, layout: Layout, chunk: Chunk, count: int) -> None:
        """Take what options records say about the exporter itself: its sampling, and when it started."""
        if not tells_of_exporter(layout):
            return
        records = Records(layout, [chunk])
        columns = {learned_element(slot): records.column(slot) for slot in layout.slots if learned_element(slot)}
        started = [records.column(slot) for slot in layout.slots if slot.iana == SYSTEM_INIT_TIME]
        content = b"" if isinstance(chunk, list) else bytes(chunk)
        for row in range(count):
            if not self.stream.sampling.learn({number: column.at(row) for number, column in columns.items()}):
                content = b""
                self.refuse(Malformed("sampler_limit", "no room for another sampler: raise max_samplers"))
            for moment in (column.at(row) for column in started):
                if isinstance(moment, int):
                    self.stream.started_ns = moment
        self.stream.templates[template_id].learned = self.stream.learned_from(content) if content else None


def _is_rate(spec: FieldSpec) -> bool:
    return spec.enterprise == IANA and spec.id in RATE_ELEMENTS and not spec.is_scope
