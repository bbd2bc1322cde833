"""What a benchmark gives back, and how it is shown.

What may live here: the values and their text. Pure: nothing is measured here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field

HEADER = ("name", "value", "unit", "at least", "aim", "peer", "peer's value", "ratio")


@dataclass(frozen=True)
class Goal:
    """What design.md section 9 asks for.

    Attributes:
        at_least: what must be reached, in the measurement's unit; None where nothing is asked.
        aim: what would be good.
        more_is_better: False for times, sizes and shares.
    """

    at_least: float | None = None
    aim: float | None = None
    more_is_better: bool = True

    def reached(self, value: float) -> bool:
        """Whether a value is as good as ``at_least``."""
        if self.at_least is None:
            return True
        return value >= self.at_least if self.more_is_better else value <= self.at_least


@dataclass(frozen=True)
class Peer:
    """The same work done by what a user would run instead, in the same unit; ``note`` says how it was run."""

    name: str
    value: float
    note: str = ""


@dataclass(frozen=True)
class Measurement:
    """One number.

    Attributes:
        name: benchmark, and which of its numbers.
        value: in ``unit``.
        unit: of the value, of the goal and of every peer's value.
        goal: what is asked.
        peers: measured in the same run.
        notes: what a reader must know: processor shares, the reason why a higher rate was not reached.
        defects: what makes the number worthless: events that nobody accounted for. The tool fails then.
    """

    name: str
    value: float
    unit: str
    goal: Goal = Goal()
    peers: Sequence[Peer] = ()
    notes: Sequence[str] = ()
    defects: Sequence[str] = field(default=())


def ratio(measurement: Measurement, peer: Peer) -> float | None:
    """Return how many times better than the peer the mesh is, above 1 when it is; None where a value is zero."""
    above, below = measurement.value, peer.value
    if not measurement.goal.more_is_better:
        above, below = below, above
    return above / below if above and below else None


def rows(measurement: Measurement) -> list[tuple[str, ...]]:
    """Return a line of cells for a measurement, and one more for each further peer; columns as in `HEADER`."""
    goal = measurement.goal
    mark = "" if goal.reached(measurement.value) else " (missed)"
    bounds = (_bound(goal.at_least, goal) + mark, _bound(goal.aim, goal))
    own = (measurement.name, number(measurement.value), measurement.unit, *bounds)
    compared = [_compared(measurement, peer) for peer in measurement.peers] or [("", "", "")]
    return [(*own, *compared[0]), *((*[""] * len(own), *more) for more in compared[1:])]


def _compared(measurement: Measurement, peer: Peer) -> tuple[str, str, str]:
    times = ratio(measurement, peer)
    return peer.name, number(peer.value), "" if times is None else f"{times:.3g}"


def table(measurements: Iterable[Measurement]) -> str:
    """Return the table in Markdown, followed by notes and defects."""
    lines: list[tuple[str, ...]] = [HEADER]
    remarks: list[str] = []
    for one in measurements:
        lines += rows(one)
        remarks += [f"- {one.name}: {note}" for note in one.notes]
        remarks += [f"- {one.name}, {peer.name}: {peer.note}" for peer in one.peers if peer.note]
        remarks += [f"- {one.name}: DEFECT: {defect}" for defect in one.defects]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    ruled = [lines[0], tuple("-" * width for width in widths), *lines[1:]]
    text = ["| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in ruled]
    return "\n".join([*text, "", *remarks])


def as_json(measurement: Measurement) -> dict[str, object]:
    """Return a measurement as JSON members, with the ratio to each peer."""
    told = asdict(measurement)
    told["reached"] = measurement.goal.reached(measurement.value)
    told["peers"] = [asdict(peer) | {"ratio": ratio(measurement, peer)} for peer in measurement.peers]
    return told


def number(value: float) -> str:
    """Return a number as people read it: three digits, or whole thousands with separators."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _bound(value: float | None, goal: Goal) -> str:
    if value is None:
        return ""
    return f"{'≥' if goal.more_is_better else '≤'} {number(value)}"
