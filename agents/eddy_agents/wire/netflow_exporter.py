"""What a collector remembers about each exporter, within bounds that no sender can push.

What may live here: `Stream` (templates, sampling and sequence of one exporter and domain), `Streams` (all of them) and
`Pending` (data sets whose template did not come yet). Times come in as arguments; no bytes are read.

Source: RFC 3954 section 9, RFC 7011 sections 8 and 9.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Final, NamedTuple, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from eddy_agents.wire.netflow_datagram import IPFIX_OPTIONS_TEMPLATES, Header
from eddy_agents.wire.netflow_layout import Layout, layout_of
from eddy_agents.wire.netflow_sampling import Rates, Room, Sampling
from eddy_agents.wire.netflow_sequence import Sequence
from eddy_agents.wire.netflow_template import Template
from eddy_mesh.columns import Column

_SECOND_NS: Final = 1_000_000_000
_SAME_BOOT_NS: Final = 5 * _SECOND_NS
"""By less are export times and uptimes of one start out of step."""


Count: TypeAlias = Annotated[int, msgspec.Meta(ge=1)]
Seconds: TypeAlias = Annotated[float, msgspec.Meta(gt=0)]


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How much is remembered; beyond it the oldest exporter is forgotten, and newer templates and data are refused."""

    max_exporters: Count
    max_templates: Count
    max_template_fields: Count
    max_samplers: Count
    template_lifetime_s: Seconds
    max_pending_bytes: Count
    max_pending_sets: Count
    max_pending_bytes_per_exporter: Count
    max_pending_sets_per_exporter: Count
    pending_lifetime_s: Seconds
    reorder_datagrams: Count


class StreamKey(NamedTuple):
    """Who sent a datagram: sequence numbers and template ids are counted anew for each.

    Attributes:
        exporter: IPv6 form of the address as a number, -1 where it is not known.
        port: UDP port, 0 where exporters are not told apart by it.
        version: as in `Header`.
        domain: source id or observation domain.
    """

    exporter: int
    port: int
    version: int
    domain: int


@dataclass(frozen=True, slots=True)
class Senders:
    """Who sent each datagram of a batch.

    Attributes:
        codes: an entry a datagram, which of ``known`` sent it.
        known: exporter and port as in `StreamKey`.
    """

    codes: npt.NDArray[np.int64]
    known: tuple[tuple[int, int], ...]

    def of(self, row: int) -> tuple[int, int]:
        """Return who sent one datagram."""
        return self.known[int(self.codes[row])]


class Learned(NamedTuple):
    """What a set of options was, and what was known after it."""

    content: int
    changes: int
    started_ns: int


@dataclass(slots=True)
class Known:
    """A template in use.

    Attributes:
        template: as it came.
        layout: of its records.
        seen_ns: ns since 1970 UTC at which it came last.
        learned: what the exporter said of itself in the last set of it, as `Stream.learned_from` tells.
    """

    template: Template
    layout: Layout
    seen_ns: int
    learned: Learned | None = None


class Held(NamedTuple):
    """A data set without template: its octets, the header that it came under, and its raw event (one row a column)."""

    data: bytes
    header: Header
    origin: Mapping[str, Column]
    seen_ns: int


Waited: TypeAlias = tuple[StreamKey, int, list[Held]]
"""What waited in vain: stream, template id, data sets."""


@dataclass(slots=True, eq=False)
class Stream:
    """One exporter and domain.

    Attributes:
        key: whose it is.
        sequence: what of it was lost.
        templates: by template id.
        sampling: as its options records say.
        sampling_template: id of the options template that announced sampling, 0 where none did.
        sampling_due_ns: when it is time to say that announced sampling data did not come, 0 never.
        started_ns: systemInitTimeMilliseconds in ns since 1970 UTC as an options record says, -1 unknown.
        booted_ns: start of the exporter in ns since 1970 UTC, of which it was last noticed that it is another; v9 only.
    """

    key: StreamKey
    sequence: Sequence
    sampling: Sampling
    templates: dict[int, Known] = field(default_factory=dict)
    sampling_template: int = 0
    sampling_due_ns: int = 0
    started_ns: int = -1
    booted_ns: int = -1

    def learned_from(self, content: bytes) -> Learned:
        """Return what is known now, after a set of options; where it is the same before the set, that says nothing."""
        return Learned(hash(content), self.sampling.changes, self.started_ns)


class Streams:
    """Every exporter and domain that is remembered, the one heard of longest ago first."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._streams: OrderedDict[tuple[int, int, int, int], Stream] = OrderedDict()
        self._layouts: dict[tuple[int, bool, tuple[object, ...]], Layout] = {}
        self._fields = 0
        self._rates: dict[tuple[int, int, int], Rates] = {}
        self._room = Room(limits.max_samplers)

    def __iter__(self) -> Iterator[Stream]:
        return iter(self._streams.values())

    def get(self, key: tuple[int, int, int, int]) -> Stream | None:
        """Return a stream that was heard of before, and count this as hearing of it.

        Args:
            key: a `StreamKey` or the same four numbers.
        """
        stream = self._streams.get(key)
        if stream is not None:
            self._streams.move_to_end(key)
        return stream

    def find(self, key: StreamKey) -> Stream | None:
        """Return a stream that was heard of before, without counting this as hearing of it."""
        return self._streams.get(key)

    def open(self, key: StreamKey) -> tuple[Stream, Stream | None]:
        """Begin to remember a stream.

        Returns:
            The new stream, and the one that was forgotten for it.
        """
        forgotten = None
        if len(self._streams) >= self._limits.max_exporters:
            _, forgotten = self._streams.popitem(last=False)
            self._fields -= sum(len(known.template.fields) for known in forgotten.templates.values())
            forgotten.sampling.forget()
            if not forgotten.sampling.rates.domains:
                self._rates.pop(_exporter(forgotten.key), None)
        sampling = Sampling(self._rates.setdefault(_exporter(key), Rates()), self._room)
        stream = self._streams[key] = Stream(key, Sequence(key.version, self._limits.reorder_datagrams), sampling)
        return stream, forgotten

    def restart(self, stream: Stream, header: Header) -> None:
        """Forget the templates of a v9 exporter that began anew, so that its data waits until they come again.

        Of two exporters that can not be told apart each looks like the other begun anew: only a later start counts.
        Source: RFC 3954 section 9.

        Args:
            stream: whose uptime and sequence number fell.
            header: of the datagram that shows it.
        """
        booted_ns = boot_of(header)
        if booted_ns > stream.booted_ns + _SAME_BOOT_NS:
            stream.booted_ns = booted_ns
            self._forget(stream, list(stream.templates))

    def define(self, stream: Stream, template: Template, now_ns: int) -> bool:
        """Remember a template, in place of an older one of the same id.

        Returns:
            Whether there was room for it.
        """
        old = stream.templates.get(template.id)
        if old is not None and old.template == template:
            old.seen_ns = now_ns
            return True
        grown = self._fields + len(template.fields) - (len(old.template.fields) if old else 0)
        if grown > self._limits.max_template_fields or (
            not old and len(stream.templates) >= self._limits.max_templates
        ):
            return False
        self._fields = grown
        stream.templates[template.id] = Known(template, self._layout(stream.key.version, template), now_ns)
        return True

    def withdraw(self, stream: Stream, template: Template) -> None:
        """Forget a template, or all of one sort where the id says so. Source: RFC 7011 section 8.1."""
        if template.id > IPFIX_OPTIONS_TEMPLATES:
            self._forget(stream, [template.id])
            return
        ids = [number for number, known in stream.templates.items() if known.template.is_options == template.is_options]
        self._forget(stream, ids)

    def expire(self, now_ns: int) -> None:
        """Forget the templates that did not come again within their lifetime, and layouts that nobody uses."""
        before_ns = now_ns - int(self._limits.template_lifetime_s * _SECOND_NS)
        used: set[int] = set()
        for stream in self:
            old = [number for number, known in stream.templates.items() if known.seen_ns < before_ns]
            self._forget(stream, old)
            used.update(id(known.layout) for known in stream.templates.values())
        self._layouts = {key: layout for key, layout in self._layouts.items() if id(layout) in used}

    def _forget(self, stream: Stream, ids: list[int]) -> None:
        for number in ids:
            known = stream.templates.pop(number, None)
            self._fields -= len(known.template.fields) if known else 0

    def _layout(self, version: int, template: Template) -> Layout:
        key = (version, template.is_options, template.fields)
        layout = self._layouts.get(key)
        if layout is None:
            if len(self._layouts) >= self._limits.max_exporters:
                self._layouts.clear()  # templates keep theirs; only the sharing begins anew
            layout = self._layouts[key] = layout_of(version, template.fields, is_options=template.is_options)
        return layout


def boot_of(header: Header) -> int:
    """Return when a v9 exporter started by its own clocks, in ns since 1970 UTC."""
    return header.export_ns - header.uptime_ms * 1_000_000


def _exporter(key: StreamKey) -> tuple[int, int, int]:
    """The exporter of a stream, whatever its domain."""
    return key.exporter, key.port, key.version


class Pending:
    """Data sets that wait for their template, in the order of arrival."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._held: dict[StreamKey, dict[int, list[Held]]] = {}
        self._bytes = 0
        self._sets = 0
        self._of_exporter: dict[int, tuple[int, int]] = {}

    def __len__(self) -> int:
        return self._sets

    def hold(self, key: StreamKey, template_id: int, held: Held) -> bool:
        """Keep a data set; False where there is no room, and then it is not kept."""
        size, limits = len(held.data), self._limits
        octets, sets = self._of_exporter.get(key.exporter, (0, 0))
        if (
            self._bytes + size > limits.max_pending_bytes
            or self._sets >= limits.max_pending_sets
            or octets + size > limits.max_pending_bytes_per_exporter
            or sets >= limits.max_pending_sets_per_exporter
        ):
            return False
        self._held.setdefault(key, {}).setdefault(template_id, []).append(held)
        self._count(key.exporter, size, 1)
        return True

    def release(self, key: StreamKey, template_id: int) -> list[Held]:
        """Give up the data sets that waited for a template."""
        of_stream = self._held.get(key, {})
        released = of_stream.pop(template_id, [])
        if not of_stream:
            self._held.pop(key, None)
        for held in released:
            self._count(key.exporter, -len(held.data), -1)
        return released

    def forget(self, key: StreamKey) -> list[Waited]:
        """Give up what waits for any template of one stream."""
        return [(key, template_id, self.release(key, template_id)) for template_id in list(self._held.get(key, {}))]

    def expire(self, now_ns: int) -> list[Waited]:
        """Give up what waited longer than its lifetime."""
        before_ns = now_ns - int(self._limits.pending_lifetime_s * _SECOND_NS)
        expired: list[Waited] = []
        for key, of_stream in list(self._held.items()):
            for template_id in list(of_stream):
                waiting = self.release(key, template_id)
                old = [held for held in waiting if held.seen_ns < before_ns]
                for held in waiting[len(old) :]:
                    self.hold(key, template_id, held)
                if old:
                    expired.append((key, template_id, old))
        return expired

    def _count(self, exporter: int, octets: int, sets: int) -> None:
        self._bytes += octets
        self._sets += sets
        old_octets, old_sets = self._of_exporter.get(exporter, (0, 0))
        if old_sets + sets:
            self._of_exporter[exporter] = (old_octets + octets, old_sets + sets)
        else:
            self._of_exporter.pop(exporter, None)
