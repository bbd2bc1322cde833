"""Windows over event time with bounded memory: what detectors remember.

What may live here: the clock of event time, and a table of states by key that never grows beyond its limits.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Annotated, Generic, Protocol, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from eddy_mesh.agent import Draft, draft_of
from eddy_mesh.batch import Kind
from eddy_mesh.cer import EventClass, Stage, Value

Positive = Annotated[int, msgspec.Meta(ge=1)]
"""A limit or a length in a detector's configuration."""
Grace = Annotated[int, msgspec.Meta(ge=0)]
"""How long to wait for something before it counts as absent."""

NOTICE = Kind(Stage.COOKED, EventClass.DERIVED, "mesh.notice")


class EventClock:
    """Tells the time of the events, not of the machine: replayed events close windows as live ones do.

    Between batches it goes on with the machine's clock, so that a window closes also when nothing comes any more; it
    never goes back. It follows whichever exporter or host is ahead. So what is waited for (an answer, quiet) is
    measured from the time that this clock showed when an event came, not from the time that the event gives: a source
    whose own clock is hours behind would else be too late for everything.
    """

    def __init__(self) -> None:
        self._latest_ns = -1
        self._seen_at_ns = 0

    def observe(self, times_ns: npt.NDArray[np.int64], now_ns: int) -> int:
        """Take note of the times of a batch, which may be in any order; return the time at which the batch came."""
        if len(times_ns):
            self._latest_ns = max(self.at(now_ns), int(times_ns.max()))
            self._seen_at_ns = max(self._seen_at_ns, now_ns)
        return self.at(now_ns)

    def at(self, now_ns: int) -> int:
        """Return the time of the events at a time of the machine; -1 before the first event."""
        if self._latest_ns < 0:
            return -1
        return self._latest_ns + max(now_ns - self._seen_at_ns, 0)


class State(Protocol):
    """What a table holds for one key."""

    @property
    def held(self) -> int:
        """How much of the table's memory it takes, in events."""
        ...


K = TypeVar("K", bound=Hashable)
S = TypeVar("S", bound=State)


class Table(Generic[K, S]):
    """States by key, at most so many keys and so many events in all; the one longest not used goes first.

    Args:
        make: makes the state of a new key.
        max_keys: most keys.
        max_held: most events held by all states together.
    """

    def __init__(self, make: Callable[[K], S], max_keys: int, max_held: int) -> None:
        self._make = make
        self._max_keys = max_keys
        self._max_held = max_held
        self._states: OrderedDict[K, S] = OrderedDict()
        self._sizes: dict[K, int] = {}
        self._held = 0
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._states)

    def __iter__(self) -> Iterator[S]:
        return iter(self._states.values())

    def get(self, key: K) -> S | None:
        """Return the state of a key, None where there is none."""
        return self._states.get(key)

    def enter(self, key: K) -> S:
        """Return the state of a key, a new one where there is none."""
        state = self._states.get(key)
        if state is None:
            state = self._states[key] = self._make(key)
            self._sizes[key] = 0
        else:
            self._states.move_to_end(key)
        return state

    def resize(self, key: K) -> list[S]:
        """Take note that a state has changed its size; return the states that had to go to keep within the limits."""
        size = self._states[key].held
        self._held += size - self._sizes[key]
        self._sizes[key] = size
        gone: list[S] = []
        while (len(self._states) > self._max_keys or self._held > self._max_held) and len(self._states) > 1:
            oldest = next(iter(self._states))
            gone.append(self._states[oldest])
            self.remove(oldest)
        self.evicted += len(gone)
        return gone

    def remove(self, key: K) -> None:
        """Forget a key, where it is known."""
        if self._states.pop(key, None) is not None:
            self._held -= self._sizes.pop(key)

    def sweep(self, due: Callable[[S], bool]) -> list[S]:
        """Remove and return the states that are due."""
        ended = [(key, state) for key, state in self._states.items() if due(state)]
        for key, _ in ended:
            self.remove(key)
        return [state for _, state in ended]


class Marks:
    """Remembers which tuples may be in a table: no for sure, or perhaps. It spares looking up what is not there.

    Attributes:
        added: tuples marked since the last `clear`; the more they are, the less is spared.
    """

    def __init__(self) -> None:
        self._bits = np.zeros(1 << 20, np.bool_)
        self.added = 0

    def add(self, rows: npt.NDArray[np.uint64]) -> None:
        """Mark tuples, shape (n, k)."""
        self._bits[_places(rows)] = True
        self.added += len(rows)

    def may_hold(self, rows: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Return False for each tuple that was not marked for sure."""
        return self._bits[_places(rows)]

    def clear(self) -> None:
        """Forget all marks."""
        self._bits[:] = False
        self.added = 0


def mixed(rows: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return one number for each tuple, shape (n, k); equal tuples have equal numbers, others nearly never."""
    result = np.zeros(len(rows), np.uint64)
    for column in rows.T:
        result = (result ^ column) * np.uint64(0x9E37_79B9_7F4A_7C15)
        result ^= result >> np.uint64(29)
    return result


def _places(rows: npt.NDArray[np.uint64]) -> npt.NDArray[np.intp]:
    return (mixed(rows) >> np.uint64(44)).astype(np.intp)


def peak(times_ns: npt.NDArray[np.int64], weights: npt.NDArray[np.int64], window_ns: int) -> npt.NDArray[np.int64]:
    """Return for each event the sum of the weights within the window that ends with it.

    Args:
        times_ns: ascending.
        weights: of the same length.
        window_ns: length of the window; an event exactly that much earlier is outside.
    """
    sums = np.concatenate((np.zeros(1, np.int64), np.cumsum(weights)))
    begins = np.searchsorted(times_ns, times_ns - window_ns, side="right")
    result: npt.NDArray[np.int64] = sums[1:] - sums[begins]
    return result


def span_text(span_ns: int) -> str:
    """Return a length of time for a sentence: ``3.7 ms``, ``2.5 s``, ``12.0 min``."""
    for unit_ns, unit in ((60 * 10**9, "min"), (10**9, "s")):
        if span_ns >= unit_ns:
            return f"{span_ns / unit_ns:.1f} {unit}"
    return f"{span_ns / 10**6:.1f} ms"


def eviction_notice(detector: str, evicted: int) -> Draft:
    """Return the event that says that a detector had to forget states to stay within its limits."""
    text = f"{detector} forgot {evicted} keys to stay within its limits; raise max_keys or narrow its input"
    row: dict[str, Value] = {
        "event.action": "state_evicted",
        "agent.type": detector,
        "edge.reason": "state_evicted",
        "edge.count": evicted,
    }
    return draft_of(NOTICE, [{**row, "level": 4, "message": text}])
