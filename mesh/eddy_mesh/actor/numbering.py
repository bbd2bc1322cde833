"""Numbering: drafts become batches.

What may live here: who numbers what. Each producer (agent and kind) numbers its own events from 0 in each epoch, so
that a receiver of one subject sees gaps and repeats by itself. An agent keeps its `Numbering` as long as its host
process runs, also while it is stopped or removed: no number is given twice.
"""

from __future__ import annotations

from eddy_mesh.agent import Draft
from eddy_mesh.batch import Batch, Kind, Producer
from eddy_mesh.cer import Stage, producer_number
from eddy_mesh.columns import Column, Constant


class Numbering:
    """Makes batches of the drafts of one agent.

    Args:
        agent: ``<backplane>/<host>/<agent>``.
        origin: name of the host process.
        epoch: second since 1970 UTC at which the host process started.
        normalizer_address: address of this host, or None where it has none.
    """

    def __init__(self, agent: str, origin: str, epoch: int, normalizer_address: str | None = None) -> None:
        self._agent = agent
        self._origin = origin
        self._epoch = epoch
        self._normalizer_address = normalizer_address
        self._producers: dict[Kind, Producer] = {}
        self._next: dict[Kind, int] = {}

    def number(self, draft: Draft, now_ns: int) -> Batch:
        """Return the draft as a batch with the next numbers, and with the columns that every event has."""
        kind = draft.kind
        producer = self._producers.get(kind)
        if producer is None:
            name = f"{self._agent}/{kind.text}"
            producer = self._producers[kind] = Producer(producer_number(name), self._epoch)
        first = self._next.get(kind, 0)
        self._next[kind] = first + draft.count
        return Batch(
            kind, self._origin, producer, first, now_ns // 1_000_000, draft.count, self._complete(draft, now_ns)
        )

    def _complete(self, draft: Draft, now_ns: int) -> dict[str, Column]:
        columns = dict(draft.columns)
        if "observed" not in columns:
            columns["observed"] = Constant(now_ns, draft.count)
        if "occurred" not in columns:
            columns["occurred"] = columns["observed"]
        if draft.kind.stage is Stage.RAW and "normalizer" not in columns:
            columns["normalizer"] = Constant(self._origin, draft.count)
            columns["normalizer_address"] = Constant(self._normalizer_address, draft.count)
        return columns
