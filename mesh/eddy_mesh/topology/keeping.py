"""Keeping: the store of record, a key-value bucket in which every change is a compare-and-set.

What may live here: reading and writing the record, its claim and its history. What may be written when is in
`eddy_mesh.topology.transitions` and `eddy_mesh.topology.claims`.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from eddy_mesh import subjects
from eddy_mesh.bus import MAX_HISTORY, Bus, Entry, KeyOperation, KeyValue
from eddy_mesh.errors import WireError
from eddy_mesh.topology.claims import CLAIM_KEY, Renewal
from eddy_mesh.topology.record import KEY, Record, decode, encode

TOLD_KEY = "told"
"""Key of the newest writing of the record that was told as an event."""
TRIES = 5
"""nats-py 2.16 may tell an empty history: its marker of the end overtakes what the server has sent already."""


def bucket(backplane: str) -> str:
    """Return the name of the bucket of a backplane."""
    return subjects.bucket(backplane, "topology")


class Held(NamedTuple):
    """The record as it was read.

    Attributes:
        record: the record; None where nothing was applied yet.
        written: revision of its key in the store, for compare-and-set; 0 where there is none.
        renewed: the same of the key of its claim; 0 where none was renewed, and where none is held.
    """

    record: Record | None
    written: int
    renewed: int = 0


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
        renewal = await store.get(CLAIM_KEY) if record.claim is not None else None
        return Held(record, entry.revision, renewal.revision if renewal is not None else 0)

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

    async def renew(self, renewal: Renewal, renewed: int) -> int:
        """Write a renewal of a claim in place of the one that was read, and return the revision of its key.

        Args:
            renewal: the renewal.
            renewed: revision of the key that was read; 0 where there was none.

        Raises:
            RevisionConflict: another manager has written one meanwhile.
            BusError: the store can not be reached.
        """
        store = await self._open()
        data = msgspec.json.encode(renewal)
        return await (store.update(CLAIM_KEY, data, renewed) if renewed else store.create(CLAIM_KEY, data))

    async def told(self) -> int:
        """Return the newest writing of the record that was told as an event: revision of its key, 0 for none.

        Raises:
            BusError: the store can not be reached.
        """
        entry = await (await self._open()).get(TOLD_KEY)
        return int(entry.value) if entry is not None and entry.value.isdigit() else 0

    async def tell(self, written: int) -> None:
        """Note that a writing of the record was told.

        Raises:
            BusError: the store can not be reached.
        """
        await (await self._open()).put(TOLD_KEY, b"%d" % written)

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
