"""The Event API for scripts without asyncio: the same calls, which return when they are done.

    with eddy_mesh.blocking.connect() as mesh:
        for event in mesh.tap("SELECT source.ip, destination.port FROM network.netflow"):
            print(event["source.ip"])

What may live here: an event loop in a thread of its own, and the way of values between it and the caller's thread.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Generic, TypeVar

from eddy_mesh import api
from eddy_mesh.api import Event, Fetched, Place
from eddy_mesh.bus import Bus
from eddy_mesh.local import Whereabouts

T = TypeVar("T")
MOST_WAITING = 10_000
"""Events that wait for a slow script; behind them the flow itself waits, in the buffers of the bus."""


class Mesh:
    """One backplane, as a script sees it. Made by `connect`; use it from one thread.

    Args:
        mesh: the asynchronous form.
        loop: the running loop that it lives in, in another thread.
    """

    def __init__(self, mesh: api.Mesh, loop: asyncio.AbstractEventLoop) -> None:
        self._mesh = mesh
        self._loop = loop

    @property
    def backplane(self) -> str:
        """Name of the mesh."""
        return self._mesh.backplane

    @property
    def bus(self) -> Bus:
        """The bus; its coroutines belong to the loop of the other thread."""
        return self._mesh.bus

    def tap(self, statement: str, *, watch: str = "") -> Iterator[Event]:
        """Yield the events that a statement selects, as they happen; see `eddy_mesh.api.Mesh.tap`.

        Leaving the loop ends the subscription when the iterator is closed or collected.
        """
        return self._iterate(lambda: self._mesh.tap(statement, watch=watch))

    def query(self, statement: str, *, archive: str = "") -> Iterator[Event]:
        """Yield stored events, or the rows of aggregates; see `eddy_mesh.api.Mesh.query`."""
        return self._iterate(lambda: self._mesh.query(statement, archive=archive))

    def ask(
        self, agent_type: str, verb: str, request: Mapping[str, object], *, agent: str = "any"
    ) -> Iterator[Mapping[str, object]]:
        """Yield the rows that an agent answers to a query; see `eddy_mesh.api.Mesh.ask`."""
        return self._iterate(lambda: self._mesh.ask(agent_type, verb, request, agent=agent))

    def hosts(self, timeout_s: float = 2.0) -> list[dict[str, object]]:
        """Return the status of every host process; see `eddy_mesh.api.Mesh.hosts`."""
        return self._call(self._mesh.hosts(timeout_s))

    def agents_of(self, kind: str) -> list[Place]:
        """Return where the agents of a type are."""
        return self._call(self._mesh.agents_of(kind))

    def fetch(self, ids: Iterable[str], *, depth: int = 0) -> Fetched:
        """Return whole events by id; see `eddy_mesh.api.Mesh.fetch`."""
        return self._call(self._mesh.fetch(ids, depth=depth))

    def control(self, host: str, agent: str, verb: str, **arguments: object) -> dict[str, object]:
        """Give an agent a command and return its answer; see `eddy_mesh.api.Mesh.control`."""
        return self._call(self._mesh.control(host, agent, verb, **arguments))

    def emit(self, type_name: str, lines: Iterable[bytes]) -> int:
        """Put lines or JSON objects into the mesh and return how many were taken; see `eddy_mesh.api.Mesh.emit`."""
        return self._call(self._mesh.emit(type_name, lines))

    def _call(self, work: Coroutine[object, object, T]) -> T:
        """Run a coroutine in the other thread and wait for it; Ctrl-C while waiting cancels it."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def _iterate(self, begin: Callable[[], AsyncIterator[T]]) -> Iterator[T]:
        pump = _Pump(begin)
        self._call(pump.start())
        try:
            while (items := pump.take()) is not None:
                yield from items
                self._loop.call_soon_threadsafe(pump.make_room)
        finally:
            if not self._loop.is_closed():  # an iterator that outlived its mesh was ended with it
                self._call(pump.stop())


class _Pump(Generic[T]):
    """Carries the items of an asynchronous iterator to another thread, as many at once as have come."""

    def __init__(self, begin: Callable[[], AsyncIterator[T]]) -> None:
        self._begin = begin
        self._waiting: queue.SimpleQueue[T | None] = queue.SimpleQueue()
        self._room = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._error: BaseException | None = None

    async def start(self) -> None:
        """Begin to take items; in the loop."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        items = self._begin()
        try:
            async for item in items:
                self._waiting.put(item)
                while self._waiting.qsize() >= MOST_WAITING:
                    self._room.clear()
                    await self._room.wait()
        except asyncio.CancelledError:
            pass  # the script left the loop
        except Exception as error:  # noqa: BLE001  # raised again where the script waits
            self._error = error
        finally:
            close = getattr(items, "aclose", None)
            if close is not None:
                await close()
            self._waiting.put(None)

    def make_room(self) -> None:
        """Go on taking items; in the loop."""
        self._room.set()

    def take(self) -> list[T] | None:
        """Wait for items and return all that have come, or None at the end; in the script's thread.

        Raises:
            Exception: whatever ended the iterator.
        """
        first = self._waiting.get()
        if first is None:
            if self._error is not None:
                raise self._error
            return None
        items = [first]
        while not self._waiting.empty():
            item = self._waiting.get()
            if item is None:
                self._waiting.put(None)  # the end is for the next call
                break
            items.append(item)
        return items

    async def stop(self) -> None:
        """End it and let it give its subscription back; in the loop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


@contextmanager
def connect(
    server: str = "", *, backplane: str = "", owner: str = "script", where: Whereabouts | None = None
) -> Iterator[Mesh]:
    """Connect to a backplane; see `eddy_mesh.api.connect`.

    Args:
        server: NATS URL; "" finds an `eddy-agent up` of this machine, else the chosen ``nats`` context.
        backplane: name of the mesh; "" is the one that was found, else ``eddy``.
        owner: name of the script, shown to whoever asks who subscribes.
        where: servers and credentials found before; overrides ``server``.

    Raises:
        UsageError: nothing was found to connect to.
        BusError: the server can not be reached.
    """
    ready: Future[tuple[api.Mesh, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def live() -> None:
        async with api.connect(server, backplane=backplane, owner=owner, where=where) as mesh:
            ended = asyncio.Event()
            ready.set_result((mesh, asyncio.get_running_loop(), ended))
            await ended.wait()

    def run() -> None:
        try:
            asyncio.run(live())
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)

    thread = threading.Thread(target=run, name="eddy mesh", daemon=True)
    thread.start()
    mesh, loop, ended = ready.result()
    try:
        yield Mesh(mesh, loop)
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()
