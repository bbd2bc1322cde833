"""Spools: what is on disk stays there until it was handled, and only damaged content counts as damaged."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from eddy_mesh import rows
from eddy_mesh.actor.edge import Edge, Mailbox, Overload
from eddy_mesh.batch import Batch, Kind, Producer
from eddy_mesh.cer import EventClass, Stage
from eddy_mesh.runtime.spill import Spill, take_over

KIND = Kind(Stage.COOKED, EventClass.SYSTEM, "syslog")


def batch(first: int) -> Batch:
    """Return two events."""
    return rows.batch_of(KIND, "h", Producer(1, 1), first, 0, [{"level": 1}, {"level": 2}])


class Queue:
    """A spool with its edge and a mailbox for two events, as one run of a host process has it."""

    def __init__(self, folder: Path, quota_bytes: int = 1_000_000, may_hold: Callable[[], bool] = lambda: True) -> None:
        self.mailbox = Mailbox(capacity=2)
        self.spill = Spill(folder, quota_bytes, self.mailbox, may_hold)
        self.edge = Edge("a > b", None, self.mailbox, Overload.SPOOL, self.spill)
        self.spill.recover(self.edge)

    def offer(self, *firsts: int) -> None:
        """Offer batches with these numbers."""
        for first in firsts:
            self.edge.offer(batch(first), 0)

    async def next(self) -> Batch:
        """Take the batch whose turn it is."""
        await self.mailbox.arrival()
        return self.mailbox.pop()[1]

    async def handle(self) -> int:
        """Handle the batch whose turn it is, and return its number."""
        held = await self.next()
        self.edge.done(held, 0, {})
        return held.first


async def turns(count: int = 10) -> None:
    """Let the feeding go on."""
    for _ in range(count):
        await asyncio.sleep(0)


def paths(folder: Path) -> list[Path]:
    """Return the files of the batches on disk, oldest first."""
    return sorted(folder.glob("*.batch"))


def files(folder: Path) -> int:
    """Return how many batches are on disk."""
    return len(paths(folder))


async def test_a_file_goes_when_its_batch_was_handled(tmp_path: Path) -> None:
    """A crash between the mailbox and the agent loses nothing that was on disk."""
    queue = Queue(tmp_path)
    queue.offer(0, 2, 4)  # the first finds room in memory
    assert await queue.handle() == 0
    await turns()
    held = await queue.next()
    assert (held.first, files(tmp_path)) == (2, 2)
    await turns()
    again = Queue(tmp_path)  # as after SIGKILL: the first run closes nothing
    assert [await again.handle(), await again.handle()] == [2, 4]
    assert files(tmp_path) == 0
    assert (again.edge.ledger.out, again.edge.ledger.offered) == (4, 4)
    assert again.spill.held_bytes == 0
    queue.spill.close()


async def test_what_will_never_be_handled_leaves_the_disk_too(tmp_path: Path) -> None:
    """A batch that is discarded is counted, and does not come again."""
    queue = Queue(tmp_path)
    queue.offer(0, 2)
    await queue.handle()
    queue.edge.discard(await queue.next(), "agent_error")
    assert files(tmp_path) == 0
    assert queue.edge.ledger.balanced


async def test_an_orderly_end_keeps_everything_in_order(tmp_path: Path) -> None:
    """Batches in memory, in hand, fed from disk and on disk come back in the order in which they were offered."""
    queue = Queue(tmp_path)
    queue.offer(0, 2, 4)
    await queue.handle()
    await queue.next()  # 2 is in hand, 4 is fed
    await turns()
    await queue.next()  # 4 in hand as well: nothing waits on disk
    await turns()
    queue.offer(6, 8)  # 6 in memory, 8 on disk
    queue.spill.close()
    await turns()
    again = Queue(tmp_path)
    assert [await again.handle() for _ in range(4)] == [2, 4, 6, 8]
    assert files(tmp_path) == 0


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.EIO])
async def test_a_file_that_can_not_be_read_now_is_read_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Too many open files or a disk that fails for a moment cost no events, at the start or while running."""
    monkeypatch.setattr("eddy_mesh.runtime.spill.RETRY_S", 0)
    queue = Queue(tmp_path)
    queue.offer(0, 2, 4)
    queue.spill.close()
    read, failures = Path.read_bytes, [number] * 5

    def failing(path: Path) -> bytes:
        if failures:
            raise OSError(failures.pop(), "not now")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", failing)
    again = Queue(tmp_path)
    assert again.edge.ledger.offered == 0  # not one could be read: how many events they have is not known
    assert [await again.handle() for _ in range(3)] == [0, 2, 4]
    assert (again.edge.ledger.offered, again.edge.ledger.out, again.edge.ledger.dropped) == (6, 6, {})
    await turns()
    failures.append(number)
    again.offer(6, 8)
    assert [await again.handle() for _ in range(2)] == [6, 8]
    assert (again.edge.ledger.out, files(tmp_path)) == (10, 0)


async def test_damaged_content_and_missing_files_are_counted(tmp_path: Path) -> None:
    """What is lost is named, and those behind it come."""
    queue = Queue(tmp_path)
    queue.offer(0, 2, 4, 6)
    second, third, _ = paths(tmp_path)
    second.write_bytes(b"torn")
    third.unlink()
    assert await queue.handle() == 0
    assert await queue.handle() == 6
    assert queue.edge.ledger.dropped == {"spool_damaged": 2, "spool_missing": 2}
    assert queue.edge.ledger.balanced
    assert files(tmp_path) == 0


async def test_what_is_being_handled_counts_for_the_quota(tmp_path: Path) -> None:
    """As long as a batch is on disk it takes its room there."""
    probe = Queue(tmp_path / "probe")
    probe.offer(0, 2)
    size = probe.spill.held_bytes
    probe.spill.close()
    queue = Queue(tmp_path / "small", quota_bytes=size)
    queue.offer(0, 2, 4)
    assert queue.edge.ledger.dropped == {"spool_full": 2}
    await queue.handle()
    held = await queue.next()
    queue.offer(6)  # into memory
    queue.offer(8)
    assert queue.edge.ledger.dropped == {"spool_full": 4}
    queue.edge.done(held, 0, {})
    queue.offer(10)
    assert queue.edge.ledger.dropped == {"spool_full": 4}
    queue.spill.close()
    await turns()


async def test_spools_of_several_generations_become_one_in_order(tmp_path: Path) -> None:
    """Two generations were open when the process ended: both are gone on with, the older one first."""
    for generation, first in ((2, 0), (10, 4)):
        queue = Queue(tmp_path / f"a.{generation}")
        queue.offer(90, first, first + 2)
    (tmp_path / "a.b.3").mkdir()
    assert take_over(tmp_path, "a", tmp_path / "a.11")
    assert (files(tmp_path / "a.11"), files(tmp_path / "a.b.3"), (tmp_path / "a.2").exists()) == (4, 0, False)
    again = Queue(tmp_path / "a.11")
    assert [await again.handle() for _ in range(4)] == [0, 2, 4, 6]
    assert not take_over(tmp_path, "a", tmp_path / "a.12")


async def test_a_name_is_no_pattern(tmp_path: Path) -> None:
    """An edge of a host process named ``a[1]`` finds what an earlier life left, and nothing of another's."""
    for name, first in (("to.a[1].2", 0), ("to.a1.2", 4)):
        queue = Queue(tmp_path / name)
        queue.offer(first)
        queue.spill.close()
    assert take_over(tmp_path, "to.a[1]", tmp_path / "to.a[1].3")
    assert await Queue(tmp_path / "to.a[1].3").handle() == 0
    assert (tmp_path / "to.a1.2").exists()


async def test_what_nobody_takes_at_present_is_on_disk_at_once(tmp_path: Path) -> None:
    """While the server is away a killed process would take all with it that waits in its mailbox."""
    queue = Queue(tmp_path / "a.1", may_hold=lambda: is_there)
    is_there = True
    queue.offer(0)
    assert files(tmp_path / "a.1") == 0
    is_there = False
    queue.mailbox.capacity = 100
    queue.offer(2, 4)
    again = Queue(tmp_path / "a.1")  # as after SIGKILL
    assert [await again.handle() for _ in range(3)] == [0, 2, 4]


async def test_what_a_full_disk_does_not_take_waits_in_memory(tmp_path: Path) -> None:
    """Where there is room in the mailbox nothing is dropped for the sake of a crash that may come."""
    queue = Queue(tmp_path / "a.1", quota_bytes=10, may_hold=lambda: False)
    queue.offer(0)
    assert (await queue.handle(), queue.edge.ledger.dropped) == (0, {})
