"""Sequence numbers: what an exporter sent and did not arrive.

What may live here: `Sequence`, which follows the numbers of one exporter and domain, and the `Gap` that it finds.

A v5 or v7 number counts flows, a v9 number datagrams, an IPFIX number data records, each *before* the datagram that
carries it; v1 has none. Some exporters do otherwise (v9 counting records; softflowd's IPFIX counting the flows up to
and with this message), so the readings that fit every datagram so far are kept, and a gap is what no reading explains.

Source: RFC 3954 section 5.1, RFC 7011 section 3.1.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Final

import numpy as np
import numpy.typing as npt

from eddy_agents.wire.netflow_datagram import IPFIX, V1, V5, V7, V9
from eddy_mesh.columns import Column

_MODULUS: Final = 1 << 32
_RESTART_MS: Final = 5_000
"""An uptime that fell by more than this says that the exporter started anew; a late datagram is a few ms older."""

_MAX_QUIET_MS: Final = 3_600_000
"""An uptime that began again at 0 has wrapped where this much at most went by since it was heard."""

_MAX_GAPS: Final = 16
_MAX_BEHIND: Final = 3
"""So many datagrams in a row with old numbers are late; more say that the exporter began anew without telling."""


class Reading(Enum):
    """What the step from one number to the next stands for."""

    DATAGRAMS = auto()
    RECORDS_BEFORE = auto()
    FLOWS_WITH = auto()


_READINGS: Final = {
    V1: (),
    V5: (Reading.RECORDS_BEFORE,),
    V7: (Reading.RECORDS_BEFORE,),
    V9: (Reading.DATAGRAMS, Reading.RECORDS_BEFORE),
    IPFIX: (Reading.RECORDS_BEFORE, Reading.FLOWS_WITH, Reading.DATAGRAMS),
}


@dataclass(slots=True, eq=False)
class Gap:
    """Numbers that are missing.

    Attributes:
        expected: the first number that is missing.
        sequence: number of the datagram that showed it.
        lost: how many flows, datagrams or records are missing.
        origin: the raw event of that datagram, one row of each column that is carried on.
        seen_ns: ns since 1970 UTC at which it was found.
        waited: datagrams that came since.
    """

    expected: int
    sequence: int
    lost: int
    seen_ns: int
    origin: Mapping[str, Column] = field(default_factory=dict)
    waited: int = 0


class Sequence:
    """The sequence numbers of one exporter and domain.

    A gap is held back until ``window`` further datagrams came, and taken back as far as late datagrams fill it.
    """

    __slots__ = (
        "_behind",
        "_clock_ms",
        "_expected",
        "_last",
        "_readings",
        "_recent",
        "_records",
        "_version",
        "_window",
        "gaps",
    )

    def __init__(self, version: int, window: int) -> None:
        self._version = version
        self._window = window
        self._readings = _READINGS[version]
        self._recent: deque[int] = deque(maxlen=max(window, 1))
        self._last = -1
        self._expected = -1
        self._behind = 0
        self._records: int | None = None
        self._clock_ms = 0
        self.gaps: list[Gap] = []

    def take(self, sequence: int, clock_ms: int, flows: int, records: int | None, now_ns: int) -> Gap | None:
        """Take the number of one datagram in the order of arrival.

        Args:
            sequence: as the header has it.
            clock_ms: the exporter's uptime in ms modulo 2**32; the export time in IPFIX.
            flows: flow records in this datagram.
            records: flow and options records in it; None where a template is not known, which allows no count.
            now_ns: ns since 1970 UTC.

        Returns:
            The gap before this datagram, which is now also among ``gaps``; None where there is none.
        """
        if sequence == self._expected and not self.gaps:  # nearly always
            self._advance(sequence, clock_ms, records)
            return None
        found = None
        for gap in self.gaps:
            gap.waited += 1
        if self._last >= 0 and not self._continues(sequence, flows):
            if self._is_late(sequence, clock_ms, records if self._readings[0] is not Reading.DATAGRAMS else 1):
                return None
            if self._fell_behind(sequence, clock_ms, flows):
                return None
            found = self._judge(sequence, flows, now_ns)
        self._advance(sequence, clock_ms, records)
        return found

    def take_all(
        self,
        sequences: npt.NDArray[np.int64],
        clock_ms: int,
        flows: npt.NDArray[np.int64],
        records: npt.NDArray[np.int64],
    ) -> bool:
        """Take the numbers of datagrams whose templates are known, where each continues the one before it.

        Args:
            sequences: as the headers have them, one at least.
            clock_ms: as in `take`, of the last datagram.
            flows: flow records in each datagram.
            records: flow and options records in each.

        Returns:
            Whether they do and the reading of their numbers is settled; else nothing is taken.
        """
        if self.gaps or self._last < 0 or len(self._readings) != 1:
            return False
        first = self._step(self._readings[0], int(flows[0]))
        before = {Reading.DATAGRAMS: 1, Reading.RECORDS_BEFORE: records[:-1], Reading.FLOWS_WITH: flows[1:]}
        steps = before[self._readings[0]]
        if first is None or sequences[0] != self._last + first or (np.diff(sequences) != steps).any():
            return False
        self._recent.extend(sequences[:-1][-self._window :].tolist())
        self._advance(int(sequences[-1]), clock_ms, int(records[-1]))
        return True

    def has_restarted(self, sequence: int, uptime_ms: int) -> bool:
        """Return whether a datagram, not yet taken, says that its exporter started anew: uptime and number fell.

        Args:
            sequence: as the header has it.
            uptime_ms: the exporter's uptime in ms modulo 2**32.
        """
        if self._clock_ms - uptime_ms <= _RESTART_MS or sequence >= self._last:
            return False
        return not 0 <= _signed(uptime_ms - self._clock_ms) <= _MAX_QUIET_MS

    def due(self, before_ns: int) -> list[Gap]:
        """Remove and return the gaps that nothing can fill any more: ``window`` datagrams, or seen before a time."""
        ready = [gap for gap in self.gaps if gap.waited >= self._window or gap.seen_ns <= before_ns]
        self.gaps = [gap for gap in self.gaps if gap not in ready]
        return ready

    def _advance(self, sequence: int, clock_ms: int, records: int | None) -> None:
        self._last, self._records, self._clock_ms = sequence, records, clock_ms
        self._recent.append(sequence)
        self._behind = 0
        step = self._step(self._readings[0], 0)
        is_sure = step is not None and len(self._readings) == 1 and self._readings[0] is not Reading.FLOWS_WITH
        self._expected = (sequence + (step or 0)) % _MODULUS if is_sure else -1

    def _step(self, reading: Reading, flows: int) -> int | None:
        if reading is Reading.DATAGRAMS:
            return 1
        return flows if reading is Reading.FLOWS_WITH else self._records

    def _continues(self, sequence: int, flows: int) -> bool:
        step = (sequence - self._last) % _MODULUS
        fitting = tuple(reading for reading in self._readings if self._step(reading, flows) == step)
        if fitting and len(fitting) < len(self._readings):
            self._readings = fitting
        return bool(fitting)

    def _is_late(self, sequence: int, clock_ms: int, units: int | None) -> bool:
        """Whether it is a repeat, or one of the missing: then the gap shrinks."""
        if _signed(clock_ms - self._clock_ms) < -_RESTART_MS:
            return False
        if sequence in self._recent:
            return True
        first = sequence - (units or 1) + 1 if self._readings[0] is Reading.FLOWS_WITH else sequence
        for gap in self.gaps:
            offset = (first - gap.expected) % _MODULUS
            if offset < gap.lost:
                self._fill(gap, offset, min(units or 1, gap.lost - offset))
                return True
        return False

    def _fill(self, gap: Gap, offset: int, units: int) -> None:
        self.gaps.remove(gap)
        before, after = offset, gap.lost - offset - units
        if before:
            self.gaps.append(replace(gap, lost=before))
        if after:
            expected = (gap.expected + offset + units) % _MODULUS
            self.gaps.append(replace(gap, expected=expected, lost=after))

    def _fell_behind(self, sequence: int, clock_ms: int, flows: int) -> bool:
        """Whether it is later than the window allows; where the exporter began anew, so does this, and it is not."""
        restarted = _signed(clock_ms - self._clock_ms) < -_RESTART_MS
        if not restarted:
            if _signed(sequence - self._last - (self._step(self._readings[0], flows) or 0)) > 0:
                return False
            self._behind += 1
            if self._behind <= _MAX_BEHIND:
                return True
        self._readings = _READINGS[self._version]
        self._recent.clear()
        self._records = None  # the step from the old number to this one says nothing
        self._last = sequence
        return False

    def _judge(self, sequence: int, flows: int, now_ns: int) -> Gap | None:
        step = self._step(self._readings[0], flows)
        if step is None or sequence == self._last:
            return None
        ahead = _signed(sequence - self._last - step)
        with_this = self._readings[0] is Reading.FLOWS_WITH
        gap = Gap((self._last + (1 if with_this else step)) % _MODULUS, sequence, ahead, now_ns)
        self.gaps.append(gap)
        if len(self.gaps) > _MAX_GAPS:
            self.gaps[0].waited = self._window
        return gap


def _signed(difference: int) -> int:
    """The difference of two 32-bit counters that wrap, -2**31 to 2**31 - 1."""
    return (difference + 0x8000_0000) % _MODULUS - 0x8000_0000
