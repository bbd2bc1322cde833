"""Datagrams that bring flows and nothing new, read together by whole arrays.

What may live here: `read_together`. Most exporters send their templates again every few datagrams, and what they say of
themselves; where that is what is known it asks for nothing. What needs a closer look is left to the collector, which
gives the same, datagram by datagram.

Source: RFC 3954 section 9, RFC 7011 section 8: templates and options are sent again from time to time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from typing import Final, NamedTuple

import numpy as np

from eddy_agents.wire.netflow_datagram import IPFIX, TEMPLATE_SETS, Buffer
from eddy_agents.wire.netflow_exporter import Known, Senders, Stream, StreamKey, Streams
from eddy_agents.wire.netflow_fixed import FIXED_LAYOUTS
from eddy_agents.wire.netflow_harvest import Harvest, Taken
from eddy_agents.wire.netflow_layout import Layout
from eddy_agents.wire.netflow_sampling import tells_of_exporter
from eddy_agents.wire.netflow_survey import Integers, Sets, Survey, survey
from eddy_agents.wire.netflow_template import Template, read_templates

MANY: Final = 48
"""So many datagrams are looked at faster together than one by one."""
_SOME: Final = 16
"""So many datagrams of one stream, once looked at, are read faster together than one by one."""
_TEMPLATE_SETS_REMEMBERED: Final = 128
_MOST_TEMPLATE_BYTES: Final = 2048


class Batched(NamedTuple):
    """Datagrams of a batch: what `eddy_agents.wire.netflow_collector.Collector.feed` is given."""

    data: Buffer
    offsets: Sequence[int]
    senders: Senders
    now_ns: int

    def contents(self, sets: Sets) -> list[bytes]:
        """Return the octets of sets."""
        return [
            bytes(self.data[start:end]) for start, end in zip(sets.starts.tolist(), sets.ends.tolist(), strict=True)
        ]


def read_together(streams: Streams, harvest: Harvest, batch: Batched) -> Iterator[int]:
    """Read together what can be; gives the rows that are to be read one by one, each when it is its turn.

    Args:
        streams: what is known of the exporters.
        harvest: of the batch.
        batch: the datagrams.
    """
    seen = survey(batch.data, batch.offsets)
    for stretch in seen.stretches():
        if len(stretch) < _SOME or not seen.is_plain[stretch.start]:
            yield from stretch
            continue
        by_stream = seen.by_stream(stretch, batch.senders.codes)
        if max(map(len, by_stream)) < _SOME:
            yield from stretch
            continue
        keys = [_key_of(seen, rows, batch.senders) for rows in by_stream]
        readers = [_Together(streams.find(key), batch, seen, rows) for key, rows in zip(keys, by_stream, strict=True)]
        if len(keys) > 1 and not all(reader.is_apart() for reader in readers):
            yield from stretch
            continue
        rest = [
            rows
            for reader, rows in zip(readers, by_stream, strict=True)
            if len(rows) < _SOME or not reader.read(harvest)
        ]
        if rest:
            yield from np.sort(np.concatenate(rest)).tolist()
        for key in keys:
            streams.get(key)  # heard of in this order


class _Together:
    """Plain datagrams of one stream."""

    def __init__(self, stream: Stream | None, batch: Batched, seen: Survey, rows: Integers) -> None:
        self._stream = stream
        self._batch = batch
        self._seen = seen
        self._rows = rows

    @cached_property
    def _sets(self) -> Sets:
        return self._seen.sets_of(self._rows)

    def is_apart(self) -> bool:
        """Whether nothing here can change what another stream gives.

        A new one may have another forgotten, and one that says its sampling says it for all domains of its exporter.
        """
        stream = self._stream
        if stream is None or self._known_templates(stream) is None:
            return False
        came = {*self._sets.ids.tolist()}  # few, where a sender can make the templates many
        return all(
            self._says_the_same(stream, number, stream.templates[number]) for number in stream.templates.keys() & came
        )

    def read(self, harvest: Harvest) -> bool:
        """Read them; False, and nothing is done, where they need a closer look."""
        seen, rows, stream = self._seen, self._rows, self._stream
        first, last = rows[0], rows[-1]
        if stream is None or (seen.samplings[rows] != seen.samplings[first]).any():
            return False
        repeated = self._known_templates(stream)
        if repeated is None:
            return False
        flows, records = np.zeros((2, len(seen.is_plain)), np.int64)
        found: list[tuple[Layout, Taken]] = []
        for number in np.unique(self._sets.ids).tolist():
            if number in TEMPLATE_SETS.get(stream.key.version, ()):
                continue
            chosen = self._sets.where(self._sets.ids == number)
            layout = self._layout(stream, number)
            counts = (chosen.ends - chosen.starts) // layout.size if layout else np.zeros(1, np.int64)
            if layout is None or not counts.all():
                return False
            np.add.at(records, chosen.rows, counts)
            if not layout.is_options:
                np.add.at(flows, chosen.rows, counts)
            whole = chosen._replace(ends=chosen.starts + counts * layout.size)
            content = b"".join(self._batch.contents(whole))
            found.append((layout, Taken.now(content, counts, seen.headers(chosen.rows), stream, number, chosen.rows)))
        clock_ms = int(seen.export_ns[last]) // 1_000_000 if stream.key.version == IPFIX else int(seen.uptime_ms[last])
        if not stream.sequence.take_all(seen.sequences[rows], clock_ms, flows[rows], records[rows]):
            return False
        for template in repeated:
            template.seen_ns = self._batch.now_ns
        for layout, taken in found:
            harvest.group(layout, waited=False).taken.append(taken)
        return True

    def _layout(self, stream: Stream, number: int) -> Layout | None:
        """The layout of the records of a template; None where a closer look is needed."""
        known = stream.templates.get(number)
        if known is None:
            return FIXED_LAYOUTS.get(stream.key.version)
        is_new = known.layout.is_options and not self._says_the_same(stream, number, known)
        return known.layout if known.layout.size and not is_new else None

    def _says_the_same(self, stream: Stream, number: int, known: Known) -> bool:
        """Whether all that options records say of the exporter is known."""
        if not tells_of_exporter(known.layout):
            return True
        sets = self._sets.where(self._sets.ids == number)
        if not known.layout.size:
            return not len(sets.ids)
        whole = sets._replace(ends=sets.ends - (sets.ends - sets.starts) % known.layout.size)
        return all(stream.learned_from(content) == known.learned for content in {*self._batch.contents(whole)})

    def _known_templates(self, stream: Stream) -> list[Known] | None:
        """The templates that came, None where one of them is new."""
        if not self._seen.announces[self._rows].any():
            return []
        found: dict[int, Known] = {}
        for set_id in TEMPLATE_SETS[stream.key.version]:
            for content in {*self._batch.contents(self._sets.where(self._sets.ids == set_id))}:
                templates = _templates(set_id, content) if len(content) <= _MOST_TEMPLATE_BYTES else None
                if templates is None:
                    return None
                for template in templates:
                    known = stream.templates.get(template.id)
                    if known is None or known.template != template:
                        return None
                    found[template.id] = known
        return list(found.values())


@lru_cache(_TEMPLATE_SETS_REMEMBERED)
def _templates(set_id: int, content: bytes) -> tuple[Template, ...] | None:
    """The templates of a set, None where something is wrong with it."""
    templates, defect = read_templates(set_id, content, 0, len(content))
    return None if defect else tuple(templates)


def _key_of(seen: Survey, rows: Integers, senders: Senders) -> StreamKey:
    """The stream of plain datagrams."""
    first = int(rows[0])
    return StreamKey(*senders.of(first), int(seen.versions[first]), int(seen.domains[first]))
