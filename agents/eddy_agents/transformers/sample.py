"""Keeps one event in so many, whole flows at a time, or at most so many a second.

In: any cooked events: what ``subscribe`` selects. Out: ``cooked.<class>.<type>`` as it came in, or of type ``as_type``.

* ``one_in = N``: an event is kept where a hash of its `fields` falls into one N-th of the range. So of all events with
  equal values, at every host and at every time, either all are kept or none (hash-based selection).
* ``per_second``: a bucket of `burst` tokens is filled at that rate, and each event takes one. Where a batch has more
  events than there are tokens, those with the lowest hashes are kept: whole flows again, but for the last.

What is kept says in ``sample.probability`` how likely that was: counts and sums are multiplied by 1 / probability. One
that an event has already is multiplied by the new one. What is not kept is counted as filtered. State: one bucket.

Source: RFC 5475 section 6.2 (hash-based selection), RFC 5474 section 5.2; RFC 2697 section 3 (the token bucket).
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
import numpy as np
import numpy.typing as npt

from eddy_agents.reworking.keys import FLOW, hashes
from eddy_agents.reworking.passing import BY_STATEMENT, NS, Count, TypeName, admitted, passed
from eddy_mesh.agent import Example, Result
from eddy_mesh.batch import Batch
from eddy_mesh.columns import Column, Constant, Index, Numbers
from eddy_mesh.selection.lookup import field_column

INPUT: Final = BY_STATEMENT


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of sampling."""

    one_in: Count = 100
    """Of so many different values of `fields` one is kept; 1 keeps all, for a limit of the rate alone."""
    fields: tuple[str, ...] = FLOW
    """Fields that decide: events that are equal in all of them share their fate; with ``["id"]`` each has its own."""
    per_second: Annotated[float, msgspec.Meta(ge=0)] = 0
    """Most events kept a second, after `one_in`; 0 is no limit."""
    burst: Count = 10_000
    """Most events kept at once after a quiet time, where there is a limit."""
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)] = 0
    """Hosts with the same seed keep the same flows; another seed chooses others."""
    as_type: TypeName = ""
    """Type of what goes out; empty: as it came in."""


class Cooking:
    """Events → a sample of them."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._tokens = float(config.burst)
        self._filled_ns = 0

    def on_batch(self, batch: Batch, now_ns: int) -> Result:
        """Keep a sample of a batch."""
        config = self._config
        taken, refusals = admitted(batch)
        found = hashes(taken, config.fields, config.seed)
        index = np.flatnonzero(found < np.uint64(2**64 // config.one_in)) if config.one_in > 1 else _all(taken.count)
        probability = 1 / config.one_in
        if config.per_second and len(index):
            index, share = self._limited(index, found, now_ns)
            probability *= share
        filtered = taken.count - len(index)
        if not len(index):
            return Result((), refusals, filtered)
        changed = {"sample.probability": _product(field_column(taken, "sample.probability").take(index), probability)}
        return Result((passed(taken, index, config.as_type, changed),), refusals, filtered)

    def on_tick(self, now_ns: int) -> Result:  # noqa: ARG002  # the protocol's
        """Nothing is due by time."""
        return Result()

    def _limited(self, index: Index, found: npt.NDArray[np.uint64], now_ns: int) -> tuple[Index, float]:
        """Return those for which there are tokens, and which share of all that is."""
        elapsed_s = max(now_ns - self._filled_ns, 0) / NS
        self._filled_ns = max(now_ns, self._filled_ns)
        self._tokens = min(self._tokens + elapsed_s * self._config.per_second, float(self._config.burst))
        room = min(int(self._tokens), len(index))
        self._tokens -= room
        if room == len(index):
            return index, 1.0
        lowest = np.argsort(found[index], kind="stable")[:room]
        return np.sort(index[lowest]), room / len(index)


def _all(count: int) -> Index:
    return np.arange(count, dtype=np.intp)


def _product(before: Column, probability: float) -> Column:
    """Return the probability of each event, given what it was before."""
    if isinstance(before, Numbers) and before.values.dtype.kind in "iuf":
        known = before.values.astype(np.float64)
        return Numbers((known if before.nulls is None else np.where(before.nulls, 1.0, known)) * probability)
    value = before.value if isinstance(before, Constant) else None
    return Constant(probability * (value if isinstance(value, float | int) else 1.0), len(before))


EXAMPLES: tuple[Example, ...] = (
    Example(
        given=({"source.port": 1, "message": "a"}, {"source.port": 1, "message": "b"}, {"source.port": 4}),
        expected=(
            {"message": "a", "sample.probability": 0.5},
            {"message": "b", "sample.probability": 0.5},
        ),
        config={"one_in": 2, "fields": ["source.port"], "seed": 0},
    ),
    Example(
        given=({"message": "d"}, {"message": "a"}),
        expected=({"message": "a", "sample.probability": 0.5},),
        config={"one_in": 1, "fields": ["message"], "per_second": 1, "burst": 1},
    ),
)
