"""Sampling: how many packets one counted packet of a flow stands for, as options records and flow records say.

What may live here: reading an interval out of the elements of one record, `Sampling`, what one exporter said in one
domain, and `Rates`, in all of them.

Source: RFC 3954 section 8 (34, 35, 48-50), RFC 5477 section 8 (302-311).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from eddy_agents.wire.netflow_layout import Layout, Records, Slot
from eddy_agents.wire.netflow_values import Form
from eddy_mesh.cer import Value
from eddy_mesh.columns import Column, Constant, Numbers

INGRESS_INTERFACE: Final = 10
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

SYSTEM_INIT_TIME: Final = 160
_TELLING: Final = RATE_ELEMENTS | {SYSTEM_INIT_TIME}
_LEARNED: Final = RATE_ELEMENTS | {SAMPLER_ID, SELECTOR_ID, INGRESS_INTERFACE, _PACKET_SPACE, _POPULATION}
_INTERFACE_SCOPE: Final = "netflow.scope_interface"
_MAX_INTERVAL: Final = 1 << 32


def learned_element(slot: Slot) -> int:
    """Return the element by which `Sampling.learn` knows a field of an options record, 0 where it does not need it."""
    if slot.field == _INTERFACE_SCOPE:
        return INGRESS_INTERFACE
    return slot.iana if slot.iana in _LEARNED else 0


def tells_of_exporter(layout: Layout) -> bool:
    """Return whether options records say the sampling of their exporter, or when it started."""
    return layout.is_options and any(slot.iana in _TELLING for slot in layout.slots)


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


class Room:
    """How many samplers of all exporters together may still be remembered."""

    __slots__ = ("left",)

    def __init__(self, left: int) -> None:
        self.left = left


class Rates:
    """Intervals, and how many samplers have each: those that one exporter said in all its domains, or in one.

    Attributes:
        domains: how many domains of the exporter are remembered.
        only: the interval where all are the same, else 0.
    """

    __slots__ = ("_samplers", "domains", "only")

    def __init__(self) -> None:
        self._samplers: Counter[int] = Counter()
        self.domains = 0
        self.only = 0

    def count(self, interval: int, samplers: int) -> None:
        """Count samplers of one interval, or with a number below zero, forget them."""
        self._samplers[interval] += samplers
        if not self._samplers[interval]:
            del self._samplers[interval]
        self.only = next(iter(self._samplers)) if len(self._samplers) == 1 else 0


class Sampling:
    """The samplers of one exporter and domain.

    Attributes:
        rates: of its exporter.
        interfaces: interval by ingress interface, where options records say it of interfaces.
        changes: how often an interval became known or another.
        default: interval of a flow that names no sampler: the only one, 0 where none is known or they differ.
    """

    __slots__ = ("_default", "_named", "_plain", "_room", "_samplers", "changes", "interfaces", "rates")

    def __init__(self, rates: Rates | None = None, room: Room | None = None) -> None:
        """Know nothing yet.

        Args:
            rates: of its exporter, shared by the domains of that.
            room: shared by all exporters.
        """
        self.rates = rates or Rates()
        self.rates.domains += 1
        self._room = room or Room(_MAX_INTERVAL)
        self._samplers: dict[int, int] = {}
        self.interfaces: dict[int, int] = {}
        self.changes = 0
        self._plain: dict[int, int] = {}
        self._named = Rates()  # of samplers and interfaces
        self._default = 0

    @property
    def default(self) -> int:
        """See above; an exporter that said nothing in this domain may have said it in another."""
        return self._default or self.rates.only

    def learn(self, values: Mapping[int, Value]) -> bool:
        """Take in one options record; of no effect where it says nothing about sampling.

        Args:
            values: element, as `learned_element` gives it, to value.

        Returns:
            False where there was no room for another sampler.
        """
        interval = interval_of(values)
        if not interval:
            return True
        sampler, interface = values.get(SAMPLER_ID, values.get(SELECTOR_ID)), _number(values.get(INGRESS_INTERFACE))
        table, identity = self._plain, 0
        if isinstance(sampler, int):
            table, identity = self._samplers, sampler
        elif interface:
            table, identity = self.interfaces, interface
        known = table.get(identity, 0)
        if known == interval:
            return True
        if known:
            self.rates.count(known, -1)
        elif self._room.left <= 0:
            return False
        else:
            self._room.left -= 1
        self.rates.count(interval, 1)
        table[identity] = interval
        self.changes += 1
        if table is not self._plain:
            self._named.count(interval, 1)
            if known:
                self._named.count(known, -1)
        self._default = self._plain.get(0, self._named.only)
        return True

    def forget(self) -> None:
        """Give back the room, and the part in the rates of the exporter; the domain is not remembered any more."""
        for table in (self._samplers, self.interfaces, self._plain):
            self._room.left += len(table)
            for interval in table.values():
                self.rates.count(interval, -1)
            table.clear()
        self._named = Rates()
        self._default = 0
        self.rates.domains -= 1

    @property
    def is_known(self) -> bool:
        """Whether any interval is known."""
        return bool(self._samplers or self.interfaces or self._plain)

    def interval(self, sampler: int) -> int:
        """Interval of a flow that names its sampler, 0 where it is not known; sampler 0 is none."""
        if sampler in self._samplers:
            return self._samplers[sampler]
        if self.is_known:
            return self._plain.get(0, 0)
        return self.rates.only if sampler else 0


def _number(value: Value) -> int:
    """An interface number, which is text in events."""
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    return value if isinstance(value, int) else 0


def sampling_column(
    layout: Layout,
    records: Records,
    said: Sequence[tuple[Sampling, int]],
    counts: npt.NDArray[np.intp],
) -> Column | None:
    """Return one packet in how many was sampled for each flow record, None where no record knows.

    What the record itself says wins, then the sampler that it names, then its interface, then the exporter's only
    sampler.

    Args:
        layout: of the records.
        records: the flow records of all sets.
        said: of records that follow each other, what their exporter said until now, and the interval of a flow that
            names no sampler at the moment that they were read.
        counts: how many records each of ``said`` is of.
    """
    slots = {slot.iana: slot for slot in layout.slots if slot.length <= 8}
    sampler = slots.get(SAMPLER_ID, slots.get(SELECTOR_ID))
    interface = slots.get(INGRESS_INTERFACE)
    if sampler is not None:
        intervals = _by_number(_numbers(records, sampler), [sampling.interval for sampling, _ in said], counts)
    elif interface is not None and any(sampling.interfaces for sampling, _ in said):
        named = [_interval_of_interface(*pair) for pair in said]
        intervals = _by_number(_numbers(records, interface), named, counts)
    elif not any(default for _, default in said) and SAMPLING_INTERVAL not in slots:
        return None
    else:
        intervals = np.repeat(np.array([default for _, default in said], np.int64), counts)
    if SAMPLING_INTERVAL in slots:
        own = _numbers(records, slots[SAMPLING_INTERVAL])
        intervals = np.where(own > 0, own, intervals)
    unknown = intervals <= 0
    if unknown.all():
        return None
    if len(intervals) and (intervals == intervals[0]).all():
        return Constant(int(intervals[0]), len(intervals))
    return Numbers(intervals, unknown if unknown.any() else None)


def _interval_of_interface(sampling: Sampling, default: int) -> Callable[[int], int]:
    return lambda interface: sampling.interfaces.get(interface, default)


def _by_number(
    numbers: npt.NDArray[np.int64], intervals_of: Sequence[Callable[[int], int]], counts: npt.NDArray[np.intp]
) -> npt.NDArray[np.int64]:
    """The interval of each record, by the sampler or interface that it names, as its exporter has it."""
    intervals = np.zeros(len(numbers), np.int64)
    start = 0
    for interval_of_number, count in zip(intervals_of, counts.tolist(), strict=True):
        of_set = numbers[start : start + count].tolist()
        known = {number: interval_of_number(number) for number in set(of_set)}
        intervals[start : start + count] = [known[number] for number in of_set]
        start += count
    return intervals


def _numbers(records: Records, slot: Slot) -> npt.NDArray[np.int64]:
    if slot.form is Form.UNSIGNED:
        return records.values(slot).astype(np.int64)
    column = records.column(slot)
    if isinstance(column, Numbers):
        return column.values.astype(np.int64)
    values = [_number(column.at(row)) for row in range(len(column))]
    return np.array([value if value < 1 << 62 else 0 for value in values], np.int64)
