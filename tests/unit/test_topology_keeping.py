"""The store of record: compare-and-set, claims apart from the record, and a history that has the newest."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from eddy_mesh.bus import Entry, RevisionConflict
from eddy_mesh.bus_memory import MemoryBroker, MemoryBus
from eddy_mesh.errors import WireError
from eddy_mesh.topology import claims, transitions
from eddy_mesh.topology.keeping import Keeping, bucket
from eddy_mesh.topology.placement import Placement
from eddy_mesh.topology.record import KEY, Change, Record, Source

S = 10**9


def begun(current: Record | None = None) -> Record:
    """Return a change that begins."""
    revision = current.revision + 1 if current else 1
    change = Change(placement=Placement(revision=revision), source=Source(text=f"{revision}"))
    return transitions.begin(current, change, who="ada", why="", manager="hub/m", now_ns=0)


@pytest.fixture
async def bus() -> AsyncIterator[MemoryBus]:
    """A bus."""
    made = MemoryBroker().connect()
    yield made
    await made.close()


async def test_a_record_is_written_in_place_of_the_one_that_was_read(bus: MemoryBus) -> None:
    """Whoever read an older one is told."""
    one, two = Keeping(bus, "eddy"), Keeping(bus, "eddy")
    assert await one.read() == (None, 0, 0)
    written = await one.write(begun(), 0)
    with pytest.raises(RevisionConflict):
        await two.write(begun(), 0)
    record, seen, _ = await two.read()
    assert (record, seen) == (begun(), written)
    done = transitions.finish(begun(), manager="hub/m", now_ns=S)
    await two.write(done, seen)
    with pytest.raises(RevisionConflict):
        await one.write(done, written)


async def test_a_renewed_claim_is_read_with_the_record(bus: MemoryBus) -> None:
    """By the number of its writing, which rises; it costs the history of the record nothing, and two can not renew."""
    keeping = Keeping(bus, "eddy")
    written = await keeping.write(begun(), 0)
    renewal = claims.renewal(begun(), "hub/m")
    marks = [await keeping.read()]
    for _ in range(3):
        await keeping.renew(renewal, marks[-1].renewed)
        marks.append(await keeping.read())
    assert [held.written for held in marks] == [written] * 4
    assert sorted({held.renewed for held in marks}) == [held.renewed for held in marks]
    with pytest.raises(RevisionConflict):
        await keeping.renew(renewal, marks[-2].renewed)
    assert len(await (await bus.key_value(bucket("eddy"))).history(KEY)) == 1


async def test_the_history_has_one_record_for_each_revision(
    bus: MemoryBus, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """Its newest; also where the client library tells an empty one once, and what is no record is left out."""
    store = await bus.key_value(bucket("eddy"), history=64)
    first = await store.create(KEY, b'{"backplane": "eddy", "hosts": {}}')
    keeping = Keeping(bus, "eddy")
    with pytest.raises(WireError, match="delete the key topology"):
        await keeping.read()
    written = await keeping.write(begun(), first)
    done = transitions.finish(begun(), manager="hub/m", now_ns=S)
    written = await keeping.write(done, written)
    await keeping.write(begun(done), written)
    told = await store.history(KEY)
    answers: list[list[Entry]] = [[], told]

    async def history(_: object, key: str) -> list[Entry]:
        assert key == KEY
        return answers.pop(0)

    monkeypatch.setattr(type(store), "history", history)
    assert await keeping.history() == [done, begun(done)]
    assert not answers
