"""Sampling: how many packets one counted packet of a flow stands for, as options records and flow records say.

What may live here: reading an interval out of the elements of one record, and `Sampling`, what one exporter said.

Source: RFC 3954 section 8 (34, 35, 48-50), RFC 5477 section 8 (302-311).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from eddy_agents.wire.netflow_layout import Layout, Records, Slot
from eddy_mesh.cer import Value
from eddy_mesh.columns import Column, Constant, Numbers

SAMPLING_INTERVAL: Final = 34
SAMPLER_ID: Final = 48
_RANDOM_INTERVAL: Final = 50
SELECTOR_ID: Final = 302
_PACKET_INTERVAL: Final = 305
_PACKET_SPACE: Final = 306
_SIZE: Final = 309
_POPULATION: Final = 310
_PROBABILITY: Final = 311

RATE_ELEMENTS: Final = frozenset({SAMPLING_INTERVAL, _RANDOM_INTERVAL, _PACKET_INTERVAL, _SIZE, _PROBABILITY})
"""An options template with one of these announces a sampling rate."""

LEARNED_ELEMENTS: Final = RATE_ELEMENTS | {SAMPLER_ID, SELECTOR_ID, _PACKET_SPACE, _POPULATION}
"""What `Sampling.learn` looks at."""

_MAX_SAMPLERS: Final = 1024
_MAX_INTERVAL: Final = 1 << 32


def interval_of(values: Mapping[int, Value]) -> int:
    """Return the interval that the IANA elements of one record say: one packet in this many; 0 where they do not."""
    for plain in (SAMPLING_INTERVAL, _RANDOM_INTERVAL):
        if _positive(values.get(plain)):
            return min(int(_positive(values.get(plain))), _MAX_INTERVAL)
    size, population = _positive(values.get(_SIZE)), _positive(values.get(_POPULATION))
    if size and population:
        return _ratio(population, size)
    # Packets taken in a row say nothing without the packets left out after them (RFC 5477 section 8.2).
    taken, left_out = _positive(values.get(_PACKET_INTERVAL)), values.get(_PACKET_SPACE)
    if taken and left_out is not None:
        return _ratio(taken + _positive(left_out), taken)
    return _ratio(1, _positive(values.get(_PROBABILITY)))


def _positive(value: Value) -> float:
    """The number where it is one above zero, else 0; a NaN is none."""
    return value if isinstance(value, int | float) and value > 0 else 0


def _ratio(packets: float, taken: float) -> int:
    return min(max(round(packets / max(taken, 1 / _MAX_INTERVAL)), 1), _MAX_INTERVAL) if taken else 0


class Sampling:
    """The samplers of one exporter and domain.

    Attributes:
        default: interval of a flow that names no sampler: the only one, 0 where none is known or they differ.
    """

    __slots__ = ("_intervals", "default")

    def __init__(self) -> None:
        self._intervals: dict[int | None, int] = {}
        self.default = 0

    def learn(self, values: Mapping[int, Value]) -> None:
        """Take in one options record; of no effect where it says nothing about sampling.

        Args:
            values: IANA element number to value.
        """
        interval = interval_of(values)
        sampler = values.get(SAMPLER_ID, values.get(SELECTOR_ID))
        identity = sampler if isinstance(sampler, int) else None
        if interval and (identity in self._intervals or len(self._intervals) < _MAX_SAMPLERS):
            self._intervals[identity] = interval
            distinct = set(self._intervals.values())
            self.default = self._intervals.get(None, distinct.pop() if len(distinct) == 1 else 0)

    @property
    def is_known(self) -> bool:
        """Whether any interval is known."""
        return bool(self._intervals)

    def interval(self, sampler: int) -> int:
        """Interval of a flow that names its sampler, 0 where it is not known."""
        return self._intervals.get(sampler, self._intervals.get(None, 0))


def sampling_column(
    layout: Layout,
    records: Records,
    samplings: Sequence[Sampling],
    defaults: Sequence[int],
    counts: npt.NDArray[np.intp],
) -> Column | None:
    """Return one packet in how many was sampled for each flow record, None where no record knows.

    What the record itself says wins, then the sampler that it names, then the exporter's only sampler.

    Args:
        layout: of the records.
        records: the flow records of all sets.
        samplings: what the exporter of each set said until now.
        defaults: `Sampling.default` at the moment that each set was read.
        counts: number of records of each set.
    """
    slots = {slot.iana: slot for slot in layout.slots if slot.length <= 8}
    sampler = slots.get(SAMPLER_ID, slots.get(SELECTOR_ID))
    if sampler is not None:
        intervals = _by_sampler(_numbers(records, sampler), samplings, counts)
    else:
        if not any(defaults) and SAMPLING_INTERVAL not in slots:
            return None
        intervals = np.repeat(np.array(defaults, np.int64), counts)
    if SAMPLING_INTERVAL in slots:
        own = _numbers(records, slots[SAMPLING_INTERVAL])
        intervals = np.where(own > 0, own, intervals)
    unknown = intervals <= 0
    if unknown.all():
        return None
    if len(intervals) and (intervals == intervals[0]).all():
        return Constant(int(intervals[0]), len(intervals))
    return Numbers(intervals, unknown if unknown.any() else None)


def _by_sampler(
    numbers: npt.NDArray[np.int64], samplings: Sequence[Sampling], counts: npt.NDArray[np.intp]
) -> npt.NDArray[np.int64]:
    intervals = np.zeros(len(numbers), np.int64)
    start = 0
    for sampling, count in zip(samplings, counts.tolist(), strict=True):
        of_set = numbers[start : start + count].tolist()
        known = {number: sampling.interval(number) for number in set(of_set)}
        intervals[start : start + count] = [known[number] for number in of_set]
        start += count
    return intervals


def _numbers(records: Records, slot: Slot) -> npt.NDArray[np.int64]:
    column = records.column(slot)
    if isinstance(column, Numbers):
        return column.values.astype(np.int64)
    values = [column.at(row) for row in range(len(column))]
    return np.array([value if isinstance(value, int) and value < 1 << 62 else 0 for value in values], np.int64)
