"""Keeping: the store of record, a key-value bucket in which every change is a compare-and-set.

What may live here: reading and writing the record, its claim and its history. What may be written when is in
`eddy_mesh.topology.transitions`.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from eddy_mesh import subjects
from eddy_mesh.bus import MAX_HISTORY, Bus, Entry, KeyOperation, KeyValue
from eddy_mesh.errors import WireError
from eddy_mesh.topology.record import CLAIM_KEY, KEY, Record, Renewal, decode, encode
from eddy_mesh.topology.transitions import renewed

TRIES = 5
"""nats-py 2.16 may tell an empty history: its marker of the end overtakes what the server has sent already."""


def bucket(backplane: str) -> str:
    """Return the name of the bucket of a backplane."""
    return f"{subjects.escape(backplane).replace('=', '-')}_topology"


class Held(NamedTuple):
    """The record as it was read.

    Attributes:
        record: with the newest claim; None where nothing was applied yet.
        written: revision of its key in the store, for compare-and-set; 0 where there is none.
    """

    record: Record | None
    written: int


class Keeping:
    """The store of record of a backplane.

    Args:
        bus: connected bus.
        backplane: name of the mesh.
    """

    def __init__(self, bus: Bus, backplane: str) -> None:
        self._bus = bus
        self._bucket = bucket(backplane)
        self._opened: KeyValue | None = None

    async def _open(self) -> KeyValue:
        if self._opened is None:
            self._opened = await self._bus.key_value(self._bucket, history=MAX_HISTORY)
        return self._opened

    async def read(self) -> Held:
        """Return the record.

        Raises:
            BusError: the store can not be reached.
            WireError: what lies there is no record.
        """
        store = await self._open()
        entry = await store.get(KEY)
        if entry is None:
            return Held(None, 0)
        record = decode(entry.value)
        if record.claim is None:
            return Held(record, entry.revision)
        renewal, _ = await self._renewal(store)
        return Held(renewed(record, renewal), entry.revision)

    async def write(self, record: Record, written: int) -> int:
        """Write a record in place of the one that was read, and return the revision of its key.

        Args:
            record: the record.
            written: revision of the key that was read; 0 where there was none.

        Raises:
            RevisionConflict: somebody else has written meanwhile.
            BusError: the store can not be reached.
        """
        store = await self._open()
        if not written:
            return await store.create(KEY, encode(record))
        return await store.update(KEY, encode(record), written)

    async def renew(self, renewal: Renewal) -> None:
        """Write a renewal of a claim.

        Raises:
            RevisionConflict: another manager has written one at the same time.
            BusError: the store can not be reached.
        """
        store = await self._open()
        _, written = await self._renewal(store)
        data = msgspec.json.encode(renewal)
        if written:
            await store.update(CLAIM_KEY, data, written)
        else:
            await store.create(CLAIM_KEY, data)

    async def history(self) -> list[Record]:
        """Return the newest record of each revision that is kept, oldest first; what is no record is left out.

        Raises:
            BusError: the store can not be reached.
        """
        store = await self._open()
        newest = await store.get(KEY)
        if newest is None:
            return []
        entries: list[Entry] = []
        for _ in range(TRIES):
            entries = await store.history(KEY)
            if entries and entries[-1].revision >= newest.revision:
                break
        found: dict[int, Record] = {}
        for entry in [*entries, *([] if entries else [newest])]:
            if entry.operation is KeyOperation.PUT:
                try:
                    record = decode(entry.value)
                except WireError:
                    continue  # a topology of an earlier version
                found[record.revision] = record
        return [found[number] for number in sorted(found)]

    async def _renewal(self, store: KeyValue) -> tuple[Renewal | None, int]:
        entry = await store.get(CLAIM_KEY)
        if entry is None:
            return None, 0
        try:
            return msgspec.json.decode(entry.value, type=Renewal), entry.revision
        except msgspec.MsgspecError:
            return None, entry.revision
