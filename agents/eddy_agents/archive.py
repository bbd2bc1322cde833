"""Archive: keeps every event that it is given, durably, and answers select/project statements about them.

In: by default all cooked and analyzed events of the backplane. Out: answers on
``<backplane>.query.archive.<agent>.select|fetch``; in the heartbeat, what it holds. Storage form: a crash-safe journal,
then Parquet files by stage, class, type and hour (``docs/decisions/0003-archive-storage.md``). A full disk makes it
wait, and with it, by its edges' policy, whoever feeds it; nothing that it took is lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from eddy_mesh.agent import Result
from eddy_mesh.batch import Batch, Kind
from eddy_mesh.cer import Value, id_from_text
from eddy_mesh.errors import StoreError, UsageError
from eddy_mesh.rows import json_events, json_value
from eddy_mesh.selection import Plan, compile_statement, row_names
from eddy_mesh.store.archive_store import ArchiveStore, StoreConfig
from eddy_mesh.store.stored_query import is_stream
from eddy_mesh.task import Answer, Context

SCOPE = "backplane"
EMIT = "demand"
INPUT = ("SELECT *",)
T = TypeVar("T")
MAX_FIELDS = 512
"""Names of fields told of one kind: JSON logs can bring any number."""
AT_ONCE_EVENTS = 500
ROWS_AT_ONCE = 1024
"""Rows of an answer that one turn of a thread makes: a turn costs 0.2 ms."""
COMPACT_EVERY = 60
"""Ticks between two looks for small files."""


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of an archive."""

    path: str = ""
    """folder of the store; empty: in the agent's state directory"""
    store: StoreConfig = StoreConfig()
    """settings of the storage engine"""


class Held(msgspec.Struct):
    """What the archive holds of one kind, for the directory."""

    first_ns: int
    last_ns: int = 0
    count: int = 0
    fields: set[str] = set()

    def told(self) -> dict[str, object]:
        """Return it as the heartbeat tells it."""
        return {"count": self.count, "first_ns": self.first_ns, "last_ns": self.last_ns, "fields": sorted(self.fields)}


class Agent:
    """The archive; see the module. Writing and asking each have a thread of their own.

    Args:
        config: settings.
    """

    queries = frozenset({"select", "fetch"})

    def __init__(self, config: Config) -> None:
        self._config = config
        self._store: ArchiveStore | None = None
        self._context: Context | None = None
        self._appending = ThreadPoolExecutor(1, "archive-append")
        self._sealing = ThreadPoolExecutor(1, "archive-seal")
        self._asking = ThreadPoolExecutor(2, "archive-ask")
        self._seal: asyncio.Future[int] | None = None
        self._ticks = 0
        self._problem = ""
        self._holdings: dict[Kind, Held] = {}

    @property
    def _opened(self) -> ArchiveStore:
        if self._store is None:
            raise UsageError("the archive is not open yet: ask again")
        return self._store

    async def start(self, context: Context) -> None:
        """Open the store; what a crash left is repaired."""
        self._context = context
        path = Path(self._config.path) if self._config.path else context.state / "store"
        opening = asyncio.get_running_loop().run_in_executor(
            self._appending, ArchiveStore, path, self._config.store, context.now_ns()
        )
        try:
            self._store = await asyncio.shield(opening)
        except asyncio.CancelledError:
            with suppress(StoreError):  # a store that nobody closes would keep the folder from the next one
                (await opening).close()
            raise
        for kind, held in self._store.holdings().items():
            self._enter(
                kind, held.rows, held.first_ns or context.now_ns(), held.last_ns or context.now_ns(), held.fields
            )
        if self._store.journal_cut_bytes:  # a crash; what an orderly stop left in the journal is no news
            context.notice("archive_recovered", **_recovered(self._store))

    async def stop(self) -> None:
        """Make everything durable and let go of the store."""
        for threads in (self._asking, self._sealing):
            await asyncio.to_thread(threads.shutdown)
        if self._store is not None:
            await self._run(self._appending, self._store.close)
        self._appending.shutdown()

    async def _run(self, threads: ThreadPoolExecutor, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(threads, call)

    async def on_batch(self, batch: Batch, now_ns: int) -> Result:
        """Take events. They survive a crash after the next `settle`, at the latest a second later.

        Raises:
            StoreError: the disk or the memory is full; the batch is offered again.
        """
        # A small batch is written to memory in less time than another thread takes to wake.
        if batch.count > AT_ONCE_EVENTS or not self._opened.append_at_once([batch]):
            await self._run(self._appending, lambda: self._opened.append([batch]))
        self._enter(batch.kind, batch.count, now_ns, now_ns, batch.columns)
        return Result()

    def _enter(self, kind: Kind, count: int, first_ns: int, last_ns: int, fields: Iterable[str]) -> None:
        held = self._holdings.setdefault(kind, Held(first_ns=first_ns))
        held.count += count
        held.last_ns = max(held.last_ns, last_ns)
        if len(held.fields) < MAX_FIELDS:
            held.fields.update(fields)

    async def known(self, batch: Batch) -> npt.NDArray[np.bool_]:
        """Return True for each event that the archive has already, so that what a stream delivers again is kept once.

        Raises:
            StoreError: a file could not be read.
        """
        return await self._run(self._asking, lambda: self._opened.known(batch.ids()))

    async def on_tick(self, now_ns: int) -> Result:
        """Make durable what was taken, and begin to write files of what is due; that goes on in its own thread."""
        await self._run(self._appending, self._opened.sync)
        if self._seal is None or self._seal.done():
            self._report_seal()
            self._ticks += 1
            call = self._opened.compact if self._ticks % COMPACT_EVERY == 0 else self._seal_all
            self._seal = asyncio.get_running_loop().run_in_executor(self._sealing, call, now_ns)
        return Result()

    def _seal_all(self, now_ns: int) -> int:
        """Write what is due, and what became due meanwhile: a rest until the next tick would be a third of the time."""
        files = 0
        while some := self._opened.seal(now_ns):
            files += some
        return files

    def _report_seal(self) -> None:
        """Tell, once for each reason, why the last seal did not work; it is tried again."""
        problem = ""
        if self._seal is not None and not self._seal.cancelled() and self._seal.exception() is not None:
            problem = str(self._seal.exception())
        if problem and problem != self._problem and self._context is not None:
            self._context.notice("archive_waits", **{"error.message": problem})
        self._problem = problem

    async def settle(self) -> None:
        """Return when everything that was taken is on disk; a full disk is waited for."""
        while True:
            try:
                await self._run(self._appending, self._opened.sync)
            except StoreError as error:
                if not error.retryable:
                    raise
                await asyncio.sleep(1)
            else:
                return

    def status(self) -> Answer:
        """Return what the store holds."""
        store = self._store
        if store is None:
            return {}
        return {
            "rows": store.rows,
            "bytes": store.bytes,
            "oldest_ns": store.oldest_ns,
            "damaged": store.damaged,
            "problem": self._problem,
            "holdings": [{**kind._asdict(), **held.told()} for kind, held in self._holdings.items()],
        }

    async def query(self, verb: str, request: Mapping[str, object]) -> AsyncGenerator[Answer, None]:
        """Answer ``select`` with the rows of a statement, ``fetch`` with the events of the given ids.

        Args:
            verb: ``select`` or ``fetch``.
            request: ``statement``, or ``ids`` as UUID texts.

        Raises:
            UsageError: the statement or an id makes no sense.
            StoreError: the store could not answer.
        """
        rows = self._fetch(request) if verb == "fetch" else self._select(request)
        while some := await self._run(self._asking, lambda: list(islice(rows, ROWS_AT_ONCE))):
            for row in some:
                yield row

    def _select(self, request: Mapping[str, object]) -> Iterator[Answer]:
        if not isinstance(request.get("statement"), str) or self._context is None:
            raise UsageError('select needs a statement: {"statement": "SELECT * SINCE \'-1h\'"}')
        plan = compile_statement(str(request["statement"]), now_ns=self._context.now_ns())
        if not is_stream(plan):
            return map(_json, self._opened.query(plan))
        return _events(plan, self._opened.query_batches(plan))

    def _fetch(self, request: Mapping[str, object]) -> Iterator[Answer]:
        ids = request.get("ids")
        try:
            wanted = [id_from_text(str(text)) for text in ids] if isinstance(ids, list) else []
        except ValueError as error:
            raise UsageError(str(error)) from None
        return map(_json, self._opened.fetch(wanted))


def _recovered(store: ArchiveStore) -> dict[str, Value]:
    return {"edge.count": store.recovered, "event.reason": f"{store.journal_cut_bytes} torn octets were cut off"}


def _json(row: Mapping[str, Value]) -> Answer:
    return {name: json_value(name, value) for name, value in row.items()}


def _events(plan: Plan, batches: Iterator[Batch]) -> Iterator[Answer]:
    """Yield the rows of events, each with its id under ``#id`` so that live and stored events can be told apart."""
    names = row_names(plan)
    for batch in batches:
        for row in json_events(batch, names):
            identity = row["id"]
            if names and "id" not in names:
                del row["id"]
            yield {**row, "#id": identity}
