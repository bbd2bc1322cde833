"""Normalizer and transformer without a mesh: drafts are numbered, cooked, and handed on as batches.

What may live here: `CookingRun`. It opens nothing and reads no clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from enum import StrEnum

from eddy_mesh.actor.numbering import Numbering
from eddy_mesh.agent import Draft, Refusal, Result, Stateful
from eddy_mesh.batch import Batch
from eddy_mesh.cer import EventClass
from eddy_mesh.cli.cook_input import Complaints

ORIGIN = "cook"
TEMPLATE_UNKNOWN = "netflow.template_unknown"
"""Type of the events that tell of flows whose template never came."""
NS = 1_000_000_000
AFTERWARDS_NS = 366 * 86_400 * NS
"""How much later than the last payload the end is, so that everything that waits for something is given up."""


class Shown(StrEnum):
    """Which events come out."""

    RAW = "raw"
    COOKED = "cooked"
    ALL = "all"


class CookingRun:
    """Cooks what it is given.

    Args:
        cooking: the cooking; None for raw events only.
        shown: which events are handed on.
        write: takes each batch, in order.
        complaints: where refusals are counted.
        started_ns: ns since 1970 UTC.

    Attributes:
        payloads: raw events taken in so far.
        events: cooked events so far.
        derived: events about what did not come, by type.
        filtered: payloads that the cooking took and left out on purpose.
        missing_templates: numbers of the templates that flows waited for in vain.
    """

    def __init__(
        self,
        cooking: Stateful | None,
        shown: Shown,
        write: Callable[[Batch], None],
        complaints: Complaints,
        started_ns: int,
    ) -> None:
        self.payloads = self.events = self.filtered = 0
        self.derived: Counter[str] = Counter()
        self.missing_templates: set[int] = set()
        self._cooking = cooking
        self._shown = shown
        self._write = write
        self._complaints = complaints
        self._numbering = Numbering(f"{ORIGIN}/{ORIGIN}/{ORIGIN}", ORIGIN, started_ns // NS)
        self._file = ""
        self._file_payloads = 0
        self._last_ns = 0

    def take(self, draft: Draft, file: str, now_ns: int) -> None:
        """Take raw events.

        Args:
            draft: at least one event.
            file: where they come from, for complaints.
            now_ns: ns since 1970 UTC; cookings go by the time at which the last event was observed.
        """
        if file != self._file:
            self._file, self._file_payloads = file, 0
        batch = self._numbering.number(draft, now_ns)
        if self._shown is not Shown.COOKED:
            self._write(batch)
        if self._cooking is not None:
            observed = batch.column("observed").at(batch.count - 1)
            self._last_ns = observed if isinstance(observed, int) and observed else now_ns
            self._give(self._cooking.on_batch(batch, self._last_ns), now_ns)
        self.payloads += batch.count
        self._file_payloads += batch.count

    def finish(self, now_ns: int) -> None:
        """Let come out what was held back: no further payload comes."""
        if self._cooking is not None:
            self._give(self._cooking.on_tick(max(self._last_ns, now_ns) + AFTERWARDS_NS), now_ns)

    def _give(self, result: Result, now_ns: int) -> None:
        self.filtered += result.filtered
        for refusal in result.refusals:
            self._refuse(refusal)
        for output in result.outputs:
            batch = output if isinstance(output, Batch) else self._numbering.number(output, now_ns)
            if batch.kind.event_class is EventClass.DERIVED:
                self.derived[batch.kind.type] += batch.count
                self._note_templates(batch)
            else:
                self.events += batch.count
            self._write(batch)

    def _note_templates(self, batch: Batch) -> None:
        if batch.kind.type != TEMPLATE_UNKNOWN:
            return
        numbers = map(batch.column("netflow.template").at, range(batch.count))
        self.missing_templates |= {number for number in numbers if isinstance(number, int)}

    def _refuse(self, refusal: Refusal) -> None:
        first = self._file_payloads + min(refusal.rows, default=0) + 1
        self._complaints.add(refusal.reason, len(refusal.rows), f"{self._file}: payload {first}", refusal.detail)
