"""Edges and mailboxes: every event offered is counted once, whatever the overload policy does."""

from __future__ import annotations

import asyncio

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from eddy_mesh import rows
from eddy_mesh.actor.edge import Edge, Mailbox, Overload
from eddy_mesh.batch import Batch, Kind, Producer
from eddy_mesh.cer import EventClass, Stage
from eddy_mesh.conservation import Ledger
from eddy_mesh.selection import compile_statement

KIND = Kind(Stage.COOKED, EventClass.SYSTEM, "syslog")


def batch(count: int, first: int = 0) -> Batch:
    """Return events whose levels go 0, 1, 2 ... 7, 0 ..."""
    return rows.batch_of(
        KIND, "h", Producer(1, 1), first, 0, [{"level": row % 8, "occurred": row} for row in range(count)]
    )


async def test_a_statement_filters_and_the_ledger_balances() -> None:
    """What does not match is counted as filtered, the rest waits."""
    edge = Edge("a > b", compile_statement("SELECT * WHERE level <= warning", now_ns=0), Mailbox())
    edge.offer(batch(80), 0)
    assert (edge.ledger.offered, edge.ledger.filtered, edge.ledger.queued) == (80, 30, 50)
    assert edge.ledger.balanced


async def test_done_tells_taken_filtered_and_failed_apart() -> None:
    """After the agent has handled a batch nothing waits and every event is accounted for."""
    mailbox = Mailbox()
    edge = Edge("a > b", None, mailbox)
    edge.offer(batch(10), 0)
    _, held = mailbox.pop()
    edge.done(held, filtered=3, failed={"truncated": 2})
    assert (edge.ledger.out, edge.ledger.filtered, edge.ledger.failed, edge.ledger.queued) == (5, 3, 2, 0)
    assert edge.ledger.failures == {"truncated": 2}
    assert edge.ledger.balanced


def test_accounts_of_another_version_can_be_read() -> None:
    """``failed`` is a number as it was; the reasons came later, and are not there in what an older host says."""
    ledger = Ledger("a > b", offered=2)
    ledger.fail("truncated", 2)
    assert msgspec.to_builtins(ledger)["failed"] == 2
    told = msgspec.convert({"edge": "a > b", "offered": 2, "failed": 2}, Ledger)
    assert (told.balanced, told.failures) == (True, {})


async def test_block_says_when_there_is_no_room_and_waits_for_it() -> None:
    """Whoever waits for room before it offers never loses anything."""
    mailbox = Mailbox(capacity=10)
    edge = Edge("a > b", None, mailbox, Overload.BLOCK)
    edge.offer(batch(10), 0)
    assert not edge.has_room(5)
    waiting = asyncio.ensure_future(edge.room(5))
    await asyncio.sleep(0)
    assert not waiting.done()
    _, held = mailbox.pop()
    edge.done(held, 0, {})
    await waiting
    edge.offer(batch(5, 10), 0)
    assert edge.ledger.queued == 5
    assert edge.ledger.balanced


async def test_a_batch_larger_than_the_mailbox_is_let_into_an_empty_one() -> None:
    """Otherwise it would wait for ever."""
    edge = Edge("a > b", None, Mailbox(capacity=10), Overload.BLOCK)
    assert edge.has_room(50)


async def test_drop_oldest_keeps_the_newest() -> None:
    """Old batches of the edge make room, and each lost event is counted."""
    mailbox = Mailbox(capacity=10)
    edge = Edge("a > b", None, mailbox, Overload.DROP_OLDEST)
    for first in (0, 5, 10):
        edge.offer(batch(5, first), 0)
    assert edge.ledger.dropped == {"overload": 5}
    assert [mailbox.pop()[1].first for _ in range(2)] == [5, 10]
    assert edge.ledger.balanced


async def test_sample_keeps_one_in_ten_above_half_full() -> None:
    """What is left out is counted with its reason."""
    mailbox = Mailbox(capacity=100)
    edge = Edge("a > b", None, mailbox, Overload.SAMPLE)
    edge.offer(batch(60), 0)
    edge.offer(batch(40, 60), 0)
    assert edge.ledger.dropped == {"sampled": 36}
    assert edge.ledger.queued == 64
    assert edge.ledger.balanced


async def test_until_completed_waits_for_just_what_was_accepted_before() -> None:
    """A mark is reached when the events accepted before it are handled; later ones do not matter."""
    mailbox = Mailbox()
    edge = Edge("a > b", None, mailbox)
    edge.offer(batch(3), 0)
    waiting = asyncio.ensure_future(edge.until_completed(edge.accepted))
    edge.offer(batch(4), 0)
    await asyncio.sleep(0)
    assert not waiting.done()
    _, held = mailbox.pop()
    edge.done(held, 0, {})
    await waiting


async def test_a_closed_edge_keeps_nobody_waiting_and_counts_what_it_drops() -> None:
    """An agent that has failed must not stop the source that feeds the healthy ones as well."""
    edge = Edge("a > b", None, Mailbox(capacity=10), Overload.BLOCK)
    edge.offer(batch(10), 0)
    waiting = asyncio.ensure_future(edge.room(5))
    await asyncio.sleep(0)
    edge.close("failed")
    await waiting
    edge.offer(batch(5, 10), 0)
    assert edge.ledger.dropped == {"failed": 5}
    assert edge.ledger.balanced
    edge.reopen()
    assert not edge.has_room(5)


async def test_a_batch_on_which_the_statement_raises_is_not_in_the_accounts() -> None:
    """Its events stay with the caller, who counts what becomes of them."""

    def broken(_: Batch) -> npt.NDArray[np.bool_]:
        raise ValueError("no such column")

    edge = Edge("a > b", None, Mailbox(), part=broken)
    with pytest.raises(ValueError, match="no such column"):
        edge.offer(batch(3), 0)
    assert edge.ledger.balanced
    assert not edge.ledger.offered
