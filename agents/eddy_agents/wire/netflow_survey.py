"""Many datagrams at once: the headers and flow sets of those that look plain, found by whole arrays.

What may live here: `survey`, and the `Survey` that it gives. No state, no templates; whoever is not plain here is read
by `eddy_agents.wire.netflow_datagram`, which also knows what is wrong with it.

Source: as there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, starmap
from typing import Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from eddy_agents.wire.netflow_datagram import (
    FIRST_DATA_SET,
    IPFIX,
    IPFIX_TEMPLATES,
    V5,
    V9,
    V9_TEMPLATES,
    Buffer,
)

Integers: TypeAlias = npt.NDArray[np.int64]

_HEAD_BYTES: Final = 24  # the longest header; a v9 or IPFIX header and that of a first set are no longer
_V5_RECORD_BYTES: Final = 48
_V5_MOST_RECORDS: Final = 30
_SET_HEADER_BYTES: Final = 4
_MOST_SETS: Final = 16
_MILLISECONDS: Final = 1_000_000
_SECONDS: Final = 1_000_000_000


class Sets(NamedTuple):
    """Sets of plain datagrams in order, an entry a set; a v5 datagram is one set with id 0.

    Attributes:
        rows: datagram that each is in.
        ids: as in the set's header: of templates, or the template of data.
        starts: offset of the first octet after the set's header.
        ends: offset after its last octet.
    """

    rows: Integers
    ids: Integers
    starts: Integers
    ends: Integers

    def where(self, chosen: npt.NDArray[np.bool_ | np.int64]) -> Sets:
        """Return the chosen sets."""
        return Sets(*(part[chosen] for part in self))


@dataclass(frozen=True, slots=True)
class Headers:
    """Headers of datagrams of one stream; as `eddy_agents.wire.netflow_datagram.Header`, arrays have an entry each."""

    version: int
    domain: int
    sequence: Integers
    export_ns: Integers
    uptime_ms: Integers
    sampling: int


@dataclass(frozen=True, slots=True)
class Survey:
    """What the headers of datagrams say, an entry a datagram; of no meaning where it is not plain.

    Attributes:
        is_plain: v5 and IPFIX of the announced length, and v9; these two with 1 to 16 sets of data or templates and
            nothing else but less than a set header of padding.
        versions, domains, sequences, export_ns, uptime_ms, samplings: as in `eddy_agents.wire.netflow_datagram.Header`.
        sets: of the plain ones.
        first_sets: index in ``sets`` of the first of each datagram, and how many there are.
        announces: whether a set is of templates.
    """

    is_plain: npt.NDArray[np.bool_]
    versions: Integers
    domains: Integers
    sequences: Integers
    export_ns: Integers
    uptime_ms: Integers
    samplings: Integers
    sets: Sets
    first_sets: Integers
    announces: npt.NDArray[np.bool_]

    def stretches(self) -> Iterator[range]:
        """Return the rows in order, cut where plain datagrams begin and end."""
        cuts = np.flatnonzero(np.diff(self.is_plain)) + 1
        bounds = [0, *cuts.tolist(), len(self.is_plain)]
        return starmap(range, pairwise(bounds))

    def by_stream(self, stretch: range, senders: Integers) -> list[Integers]:
        """Return the rows of each stream in a stretch of plain datagrams, in order; that heard of last comes last.

        Args:
            stretch: the rows.
            senders: a number for each sender, an entry a datagram.
        """
        rows = np.arange(stretch.start, stretch.stop)
        keys = senders[rows] << 36 | self.versions[rows] << 32 | self.domains[rows]
        if (keys == keys[0]).all():
            return [rows]
        order = np.argsort(keys, kind="stable")
        groups = np.split(rows[order], np.flatnonzero(np.diff(keys[order])) + 1)
        return sorted(groups, key=lambda group: int(group[-1]))

    def sets_of(self, rows: Integers) -> Sets:
        """Return the sets of plain datagrams; the time it takes depends on these alone."""
        counts = self.first_sets[rows + 1] - self.first_sets[rows]
        skipped = self.first_sets[rows] - np.cumsum(counts) + counts
        return self.sets.where(np.repeat(skipped, counts) + np.arange(counts.sum()))

    def headers(self, rows: Integers) -> Headers:
        """Return the headers of plain datagrams of one stream."""
        first = rows[0]
        version, domain, sampling = (int(of[first]) for of in (self.versions, self.domains, self.samplings))
        return Headers(version, domain, self.sequences[rows], self.export_ns[rows], self.uptime_ms[rows], sampling)


def survey(data: Buffer, offsets: Sequence[int]) -> Survey:
    """Look at datagrams that lie end to end; total.

    Args:
        data: what holds them.
        offsets: datagram i lies at ``data[offsets[i]:offsets[i + 1]]``; one datagram at least.
    """
    octets = np.frombuffer(data, np.uint8)
    bounds = np.array(offsets, np.int64)
    starts, ends = bounds[:-1], bounds[1:]
    halves = _heads(octets, starts)
    words = [halves[:, i] << 16 | halves[:, i + 1] for i in range(0, 12, 2)]
    lengths, versions = ends - starts, halves[:, 0]
    is_v5, is_v9, is_ipfix = versions == V5, versions == V9, versions == IPFIX
    of_v5 = (halves[:, 1] >= 1) & (halves[:, 1] <= _V5_MOST_RECORDS)
    of_v5 &= lengths == _HEAD_BYTES + halves[:, 1] * _V5_RECORD_BYTES
    is_plain = (is_v5 & of_v5) | is_v9 | (is_ipfix & (lengths == halves[:, 1]))
    is_plain &= lengths >= _HEAD_BYTES
    bodies = starts + np.where(is_ipfix, 16, np.where(is_v9, 20, _HEAD_BYTES))
    sets = _find_sets(octets, is_plain, versions, bodies, ends)
    announces = np.zeros(len(starts), np.bool_)
    announces[sets.rows[(sets.ids < FIRST_DATA_SET) & (versions[sets.rows] != V5)]] = True
    sets = sets.where(is_plain[sets.rows])
    return Survey(
        is_plain,
        versions,
        domains=np.where(is_v5, halves[:, 10], np.where(is_v9, words[4], words[3])),
        sequences=np.where(is_v5, words[4], np.where(is_v9, words[3], words[2])),
        export_ns=np.where(is_ipfix, words[1], words[2]) * _SECONDS + np.where(is_v5, words[3], 0),
        uptime_ms=np.where(is_ipfix, 0, words[1]),
        samplings=np.where(is_v5, halves[:, 11], 0),
        sets=sets,
        first_sets=np.searchsorted(sets.rows, np.arange(len(bounds))),
        announces=announces,
    )


def _heads(octets: npt.NDArray[np.uint8], starts: Integers) -> Integers:
    """The first 24 octets of each datagram as 12 numbers; those behind it where it is shorter."""
    if len(octets) < _HEAD_BYTES:
        return np.zeros((len(starts), _HEAD_BYTES // 2), np.int64)
    first = np.minimum(starts, len(octets) - _HEAD_BYTES)
    heads = octets[first[:, np.newaxis] + np.arange(_HEAD_BYTES)]
    return heads.view(">u2").astype(np.int64)


def _find_sets(
    octets: npt.NDArray[np.uint8],
    is_plain: npt.NDArray[np.bool_],
    versions: Integers,
    bodies: Integers,
    ends: Integers,
) -> Sets:
    """Every set of the plain datagrams; a datagram with a set of a reserved id, or a broken one, is plain no more.

    Args:
        octets: of all datagrams.
        is_plain: of each datagram; written to.
        versions: of each datagram.
        bodies: offset after the header of each.
        ends: offset after the last octet of each.
    """
    rows = np.flatnonzero(is_plain & (versions == V5))
    found = [Sets(rows, np.zeros(len(rows), np.int64), bodies[rows], ends[rows])]
    rows = np.flatnonzero(is_plain & (versions != V5))
    places = bodies[rows]
    templates = np.where(versions == IPFIX, IPFIX_TEMPLATES, V9_TEMPLATES)  # those of options have the next id
    for _ in range(_MOST_SETS):
        if not len(rows):
            break
        ids = _number_at(octets, places)
        stops = places + _number_at(octets, places + 2)
        is_whole = (stops >= places + _SET_HEADER_BYTES) & (stops <= ends[rows])
        is_whole &= (ids >= FIRST_DATA_SET) | (ids - templates[rows] >> 1 == 0)
        is_plain[rows] = is_whole
        found.append(Sets(rows, ids, places + _SET_HEADER_BYTES, stops).where(is_whole))
        more = is_whole & (ends[rows] - stops >= _SET_HEADER_BYTES)  # less is padding
        rows, places = rows[more], stops[more]
    is_plain[rows] = False
    sets = Sets(*map(np.concatenate, zip(*found, strict=True)))
    return sets.where(np.argsort(sets.rows, kind="stable"))


def _number_at(octets: npt.NDArray[np.uint8], places: Integers) -> Integers:
    return octets[places].astype(np.int64) << 8 | octets[places + 1]
