"""Files of events in NDJSON, as ``eddy cook`` and ``eddy query`` write them.

What may live here: lines → batches → the events that a statement selects, with the same meaning as on a live flow.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

import msgspec

from eddy_mesh.api import Event
from eddy_mesh.batch import Kind, Producer
from eddy_mesh.cer import EventClass, Stage, Value
from eddy_mesh.rows import batch_of, value_of_json
from eddy_mesh.selection import Plan, matcher

CHUNK_LINES = 4096
Row = dict[str, Value]


class EventFile:
    """Lines that are events.

    Args:
        lines: NDJSON.

    Attributes:
        refused: lines that are no events.
        first_refused: number of the first of them, from 1; 0 where there is none.
    """

    def __init__(self, lines: Iterable[bytes]) -> None:
        self.refused = 0
        self.first_refused = 0
        self._lines = enumerate(lines, 1)

    def select(self, plan: Plan) -> Iterator[Event]:
        """Yield the events that a statement selects, in the order of the file; its projection is not looked at."""
        match = matcher(plan)
        while chunk := list(islice(self._lines, CHUNK_LINES)):
            rows = [row for number, line in chunk if (row := self._row(number, line)) is not None]
            kinds: dict[Kind, list[int]] = {}
            for position, row in enumerate(rows):
                kinds.setdefault(_kind(row), []).append(position)
            chosen: list[int] = []
            for kind, positions in kinds.items():
                batch = batch_of(kind, "file", Producer(0, 0), 0, 0, [rows[position] for position in positions])
                wanted = match(batch)
                chosen += [position for position, hit in zip(positions, wanted.tolist(), strict=True) if hit]
            for position in sorted(chosen):
                yield Event(rows[position], str(rows[position].get("id", "")))

    def _row(self, number: int, line: bytes) -> Row | None:
        if not line.strip():
            return None
        try:
            told = msgspec.json.decode(line, type=dict[str, object])
            row = {name: value_of_json(name, value) for name, value in told.items()}
            _kind(row)
        except (msgspec.MsgspecError, ValueError, KeyError):
            self.refused += 1
            self.first_refused = self.first_refused or number
            return None
        return row


def _kind(row: Row) -> Kind:
    return Kind(Stage(str(row["stage"])), EventClass(str(row["event_class"])), str(row["type"]))
