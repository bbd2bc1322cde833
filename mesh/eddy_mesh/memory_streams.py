"""Buckets and durable streams of the memory bus.

What may live here: the state that a JetStream server would hold, and the handles that clients get to it.
State changes are synchronous; time comes from the clock that the broker was given.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec

from eddy_mesh.bus import (
    MAX_HISTORY,
    ConsumerStatus,
    Entry,
    KeyOperation,
    Message,
    NoResponders,
    RequestTimeout,
    RevisionConflict,
    StreamFull,
    StreamStatus,
)
from eddy_mesh.errors import BusError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from eddy_mesh.bus import ReceiveEntry

    Connected = Callable[[], bool]

SECOND_NS = 1_000_000_000
KEY_LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-/_=.")

T = TypeVar("T")


def matches(pattern: Sequence[str], tokens: Sequence[str]) -> bool:
    """Say whether a subject is covered by a pattern.

    Args:
        pattern: tokens, ``*`` for any one and a last ``>`` for one or more.
        tokens: of a subject, or of another pattern: then whether it is covered as a whole.
    """
    for position, expected in enumerate(pattern):
        if expected == ">":
            return len(tokens) > position
        if position >= len(tokens) or expected not in {"*", tokens[position]} or tokens[position] == ">":
            return False
    return len(pattern) == len(tokens)


def overlap(one: Sequence[str], other: Sequence[str]) -> bool:
    """Say whether some subject is covered by both patterns."""
    for first, second in zip(one, other, strict=False):
        if ">" in {first, second}:
            return True
        if first != second and "*" not in {first, second}:
            return False
    return len(one) == len(other)


class Mailbox(Generic[T]):
    """Calls one callback with one item at a time, in order."""

    def __init__(self, receive: Callable[[T], Awaitable[None] | None], failed: Callable[[Exception], None]) -> None:
        """Start it; ``failed`` is told what the callback raises."""
        self._receive = receive
        self._failed = failed
        self._queue: asyncio.Queue[T] = asyncio.Queue()
        self._ended = False
        self._task = asyncio.create_task(self._run())

    def __len__(self) -> int:
        return self._queue.qsize()

    def put(self, item: T) -> None:
        """Add an item."""
        self._queue.put_nowait(item)

    async def join(self) -> None:
        """Return when all items were handled."""
        await self._queue.join()

    async def stop(self) -> None:
        """End it; waiting items are discarded. From the callback itself: end after this item."""
        self._ended = True
        if asyncio.current_task() is self._task:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while not self._ended:
            item = await self._queue.get()
            try:
                waiting = self._receive(item)
                if inspect.isawaitable(waiting):
                    await waiting
            except Exception as error:  # noqa: BLE001 - the next item must still be delivered
                self._failed(error)
            finally:
                self._queue.task_done()


# ---------------------------------------------------------------------------------------------- buckets


class Bucket:
    """The state of one bucket."""

    def __init__(self, name: str, history: int, ttl_s: float, clock_ns: Callable[[], int]) -> None:
        """Make it empty. Arguments as in ``Bus.key_value``."""
        if not 1 <= history <= MAX_HISTORY:
            raise BusError(f"history={history} of bucket {name}: use 1 to {MAX_HISTORY}", retryable=False)
        self.name = name
        self._history = history
        self._ttl_ns = int(ttl_s * SECOND_NS)
        self._clock_ns = clock_ns
        self._revision = 0
        self._entries: dict[str, list[Entry]] = {}
        self.watches: dict[MemoryWatch, list[str]] = {}

    def kept(self, key: str) -> list[Entry]:
        """Return the revisions of a key that are young enough, oldest first."""
        if not key or key[0] == "." or key[-1] == "." or not KEY_LETTERS.issuperset(key):
            raise BusError(f"key {key!r} of a bucket: use A-Z a-z 0-9 - / _ = and inner dots", retryable=False)
        return self._young(self._entries.get(key, []))

    def all_newest(self) -> list[Entry]:
        """Return the newest entry of each key in order of change."""
        newest = [young[-1] for entries in self._entries.values() if (young := self._young(entries))]
        return sorted(newest, key=lambda entry: entry.revision)

    def change(
        self, key: str, value: bytes, operation: KeyOperation = KeyOperation.PUT, *, expected: int | None = None
    ) -> int:
        """Add a revision, tell the watches, and return it.

        Args:
            key: the key.
            value: empty for a delete or purge.
            operation: what to record.
            expected: newest revision that must be there; 0 is no value, None is any.

        Raises:
            RevisionConflict: another one is there.
        """
        kept = self.kept(key)
        present = kept[-1].revision if kept and (kept[-1].operation is KeyOperation.PUT or expected) else 0
        if expected is not None and present != expected:
            raise RevisionConflict(f"key {key} has changed since it was read: revision {present}, not {expected}")
        self._revision += 1
        entry = Entry(key, value, self._revision, self._clock_ns(), operation)
        before = [] if operation is KeyOperation.PURGE else kept
        self._entries[key] = [*before, entry][-self._history :]
        for watch, pattern in tuple(self.watches.items()):
            if matches(pattern, key.split(".")):
                watch.put(entry)
        return self._revision

    def _young(self, entries: list[Entry]) -> list[Entry]:
        oldest_ns = self._clock_ns() - self._ttl_ns
        return [entry for entry in entries if not self._ttl_ns or entry.created_ns > oldest_ns]


class MemoryKeyValue:
    """A client's handle to a bucket; see ``eddy_mesh.bus.KeyValue``."""

    def __init__(self, bucket: Bucket, connected: Connected, failed: Callable[[Exception], None]) -> None:
        self._state = bucket
        self._connected = connected
        self._failed = failed
        self._watches: set[MemoryWatch] = set()

    @property
    def bucket(self) -> str:
        """The name of the bucket."""
        return self._state.name

    def _reached(self) -> Bucket:
        require(self._connected, f"bucket {self._state.name}")
        return self._state

    async def get(self, key: str) -> Entry | None:
        """Return the newest entry of a key, or None."""
        kept = self._reached().kept(key)
        return kept[-1] if kept and kept[-1].operation is KeyOperation.PUT else None

    async def put(self, key: str, value: bytes) -> int:
        """Store a value and return its revision."""
        return self._reached().change(key, value)

    async def create(self, key: str, value: bytes) -> int:
        """Store a value where there is none."""
        return self._reached().change(key, value, expected=0)

    async def update(self, key: str, value: bytes, last_revision: int) -> int:
        """Store a value if ``last_revision`` is the newest."""
        return self._reached().change(key, value, expected=last_revision)

    async def delete(self, key: str, *, last_revision: int = 0) -> None:
        """Mark a key as deleted."""
        self._reached().change(key, b"", KeyOperation.DELETE, expected=last_revision or None)

    async def purge(self, key: str) -> None:
        """Delete a key and its history."""
        self._reached().change(key, b"", KeyOperation.PURGE)

    async def keys(self) -> list[str]:
        """Return the keys that have a value, sorted."""
        return sorted(entry.key for entry in self._reached().all_newest() if entry.operation is KeyOperation.PUT)

    async def history(self, key: str) -> list[Entry]:
        """Return the kept revisions of a key, oldest first."""
        return self._reached().kept(key)

    async def watch(self, receive: ReceiveEntry, *, keys: str = ">") -> MemoryWatch:
        """Deliver what is there, None, then every change."""
        state, pattern = self._reached(), keys.split(".")
        watch = MemoryWatch(state, receive, self._failed)
        for entry in state.all_newest():
            if matches(pattern, entry.key.split(".")):
                watch.put(entry)
        watch.put(None)
        state.watches[watch] = pattern
        self._watches.add(watch)
        return watch

    async def close(self) -> None:
        """Stop the watches that were made through this handle."""
        for watch in self._watches:
            await watch.stop()
        self._watches.clear()


class MemoryWatch(Mailbox["Entry | None"]):
    """A watch; see ``eddy_mesh.bus.Watch``."""

    def __init__(self, bucket: Bucket, receive: ReceiveEntry, failed: Callable[[Exception], None]) -> None:
        """Start it."""
        super().__init__(receive, failed)
        self._bucket = bucket

    async def stop(self) -> None:
        """End it."""
        self._bucket.watches.pop(self, None)
        await super().stop()


# ---------------------------------------------------------------------------------------------- streams


class Stored(msgspec.Struct, frozen=True, gc=False):
    """A message in a stream: its sequence number, when it came, ns since 1970 UTC, and itself."""

    sequence: int
    stored_ns: int
    message: Message


class Stream:
    """The state of one stream."""

    def __init__(self, name: str, clock_ns: Callable[[], int]) -> None:
        """Make it empty and without subjects."""
        self.name = name
        self.patterns: list[list[str]] = []
        self.consumers: dict[str, ConsumerState] = {}
        self.last_sequence = 0
        self._clock_ns = clock_ns
        self._stored: dict[int, Stored] = {}
        self._bytes = 0
        self._seen: dict[str, tuple[int, int]] = {}  # message id → sequence number and time
        self._max_bytes = 0
        self._max_age_ns = 0
        self._window_ns = 0
        self._refuse = False
        self._work_queue = False

    @property
    def status(self) -> StreamStatus:
        """What it holds."""
        return StreamStatus(len(self._stored), self._bytes, self.last_sequence)

    def configure(
        self,
        subjects: Iterable[str],
        *,
        max_bytes: int,
        max_age_s: float,
        refuse_when_full: bool,
        duplicate_window_s: float,
        work_queue: bool,
    ) -> None:
        """Set the configuration. Arguments as in ``Bus.ensure_stream``."""
        if self.patterns and work_queue is not self._work_queue:
            raise BusError(f"stream {self.name}: the server refused: its retention can not be changed", retryable=False)
        self._work_queue = work_queue
        self.patterns = [subject.split(".") for subject in subjects]
        self._max_bytes = max_bytes
        self._max_age_ns = int(max_age_s * SECOND_NS)
        self._window_ns = int(duplicate_window_s * SECOND_NS)
        self._refuse = refuse_when_full

    def takes(self, tokens: Sequence[str]) -> bool:
        """Say whether it stores this subject."""
        return any(matches(pattern, tokens) for pattern in self.patterns)

    def store(self, message: Message, message_id: str) -> tuple[int, bool]:
        """Store a message and return its sequence number, and whether it was there already.

        Raises:
            BusError: the stream is full and refuses.
        """
        now_ns = self._clock_ns()
        sequence, seen_ns = self._seen.get(message_id, (0, 0)) if message_id else (0, 0)
        if sequence and now_ns - seen_ns < self._window_ns:
            return sequence, True
        size = len(message.data)
        if self._refuse and self._max_bytes and self._bytes + size > self._max_bytes:
            raise StreamFull(f"stream {self.name} is full: maximum bytes exceeded; its consumers must make room")
        self.last_sequence += 1
        self._stored[self.last_sequence] = Stored(self.last_sequence, now_ns, message)
        self._bytes += size
        if message_id:
            self._seen[message_id] = (self.last_sequence, now_ns)
        self._trim(now_ns)
        for consumer in self.consumers.values():
            consumer.changed.set()
        return self.last_sequence, False

    def get(self, sequence: int) -> Stored | None:
        """Return a message, or None where it is gone."""
        return self._stored.get(sequence)

    def finish(self, sequence: int) -> None:
        """Forget a message that was acknowledged, where this is a work queue."""
        if self._work_queue and (stored := self._stored.pop(sequence, None)) is not None:
            self._bytes -= len(stored.message.data)

    def bind(
        self, durable: str, patterns: list[list[str]], start_sequence: int | None, ack_wait_s: float
    ) -> ConsumerState:
        """Return the state of a consumer, made first if it is not there.

        Raises:
            BusError: this is a work queue, and another consumer wants some of the same subjects.
        """
        others = (state for name, state in self.consumers.items() if name != durable)
        if self._work_queue and any(overlap(a, b) for other in others for a in other.patterns for b in patterns):
            text = "another consumer of this work queue wants the same subjects"
            raise BusError(f"consumer {durable} of stream {self.name}: the server refused: {text}", retryable=False)
        state = self.consumers.get(durable)
        if state is None:
            state = self.consumers[durable] = ConsumerState(self, start_sequence or 1, ack_wait_s)
        state.patterns = patterns
        return state

    def unbind(self, durable: str) -> None:
        """Delete a consumer."""
        state = self.consumers.pop(durable, None)
        if state is not None:
            state.gone = True
            state.changed.set()

    def _trim(self, now_ns: int) -> None:
        for identifier, (_, seen_ns) in tuple(self._seen.items()):
            if now_ns - seen_ns < self._window_ns:
                break
            del self._seen[identifier]
        for sequence, stored in tuple(self._stored.items()):
            too_old = self._max_age_ns and now_ns - stored.stored_ns >= self._max_age_ns
            if not too_old and (not self._max_bytes or self._bytes <= self._max_bytes):
                break
            self._bytes -= len(self._stored.pop(sequence).message.data)


class ConsumerState:
    """The position of one durable consumer."""

    def __init__(self, stream: Stream, next_sequence: int, ack_wait_s: float) -> None:
        """Begin at ``next_sequence``."""
        self.stream = stream
        self.patterns: list[list[str]] = []
        self.changed = asyncio.Event()
        self.gone = False
        self.fetches = 0
        self.delivered = 0
        self._next = next_sequence
        self._ack_wait_ns = int(ack_wait_s * SECOND_NS)
        self._due: dict[int, int] = {}  # sequence number → when to deliver it again
        self._deliveries: Counter[int] = Counter()

    def take(self, count: int, now_ns: int) -> list[tuple[Stored, int]]:
        """Return up to ``count`` messages with their number of deliveries; they wait for an `end` from now on."""
        taken: list[tuple[Stored, int]] = []
        for sequence in sorted(sequence for sequence, due_ns in self._due.items() if due_ns <= now_ns):
            if len(taken) == count:
                return taken
            self._hand_out(sequence, now_ns, taken)
        while len(taken) < count and self._next <= self.stream.last_sequence:
            self._hand_out(self._next, now_ns, taken)
            self._next += 1
        return taken

    def _hand_out(self, sequence: int, now_ns: int, taken: list[tuple[Stored, int]]) -> None:
        stored = self.stream.get(sequence)
        tokens = [] if stored is None else stored.message.subject.split(".")
        if stored is None or not any(matches(pattern, tokens) for pattern in self.patterns):
            self._forget(sequence)
            return
        self._due[sequence] = now_ns + self._ack_wait_ns
        self._deliveries[sequence] += 1
        self.delivered = max(self.delivered, sequence)
        taken.append((stored, self._deliveries[sequence]))

    def end(self, sequence: int) -> None:
        """Never deliver it again."""
        if self.gone:  # as on a server: nobody takes what is said of a consumer that is not there
            return
        self._forget(sequence)
        self.stream.finish(sequence)

    def _forget(self, sequence: int) -> None:
        self._due.pop(sequence, None)
        self._deliveries.pop(sequence, None)

    def progress(self, sequence: int, now_ns: int) -> None:
        """Begin its acknowledgement wait anew."""
        self.again(sequence, now_ns + self._ack_wait_ns)

    def status(self, name: str) -> ConsumerStatus:
        """Return what is known of it."""
        return ConsumerStatus(name, len(self._due), self.fetches, self.delivered)

    def again(self, sequence: int, due_ns: int) -> None:
        """Deliver it again from ``due_ns`` on."""
        if sequence in self._due:
            self._due[sequence] = due_ns
            self.changed.set()

    def next_due_ns(self) -> int | None:
        """Return when the first message is to be delivered again, or None."""
        return min(self._due.values(), default=None)


class MemoryConsumer:
    """A client's handle to a consumer; see ``eddy_mesh.bus.DurableConsumer``."""

    def __init__(self, state: ConsumerState, connected: Connected, clock_ns: Callable[[], int]) -> None:
        self.state = state
        self.connected = connected
        self.clock_ns = clock_ns

    async def fetch(self, count: int, timeout_s: float) -> list[MemoryDurableMessage]:
        """Return up to ``count`` messages."""
        self.state.fetches += 1
        try:
            return await self._fetch(count, timeout_s)
        finally:
            self.state.fetches -= 1

    async def _fetch(self, count: int, timeout_s: float) -> list[MemoryDurableMessage]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while True:
            if self.state.gone:
                raise NoResponders(f"no responders: the consumer of stream {self.state.stream.name} is gone")
            self.state.changed.clear()
            taken = self.state.take(count, self.clock_ns()) if self.connected() else []
            left_s = deadline - loop.time()
            if taken or left_s <= 0:
                return [MemoryDurableMessage(self, found, number) for found, number in taken]
            due_ns = self.state.next_due_ns()
            wait_s = left_s if due_ns is None else min(left_s, max(0.0, (due_ns - self.clock_ns()) / SECOND_NS))
            try:
                async with asyncio.timeout(wait_s):
                    await self.state.changed.wait()
            except TimeoutError:
                continue

    async def stop(self) -> list[MemoryDurableMessage]:
        """Let go of it."""
        return []


class MemoryDurableMessage:
    """A delivered message of a stream; see ``eddy_mesh.bus.DurableMessage``."""

    __slots__ = ("_consumer", "data", "deliveries", "headers", "sequence", "stored_ns", "subject")

    def __init__(self, consumer: MemoryConsumer, found: Stored, deliveries: int) -> None:
        self._consumer = consumer
        self.subject: str = found.message.subject
        self.data: bytes = found.message.data
        self.headers: Mapping[str, str] = found.message.headers
        self.sequence: int = found.sequence
        self.stored_ns: int = found.stored_ns
        self.deliveries: int = deliveries

    async def ack(self, *, confirm_s: float = 0.0) -> None:
        """Done."""
        consumer = self._consumer
        if confirm_s:
            require(consumer.connected, f"ack of {self.subject}")
            if consumer.state.gone:
                raise NoResponders(f"no responders: nobody takes the ack of {self.subject}; its consumer is gone")
        if consumer.connected():  # what is said while the server is away is lost: the message comes again
            consumer.state.end(self.sequence)

    async def progress(self) -> None:
        """Being worked on."""
        if self._consumer.connected():
            self._consumer.state.progress(self.sequence, self._consumer.clock_ns())

    async def nak(self, delay_s: float = 0.0) -> None:
        """Not done; again later."""
        if self._consumer.connected():
            due_ns = self._consumer.clock_ns() + int(delay_s * SECOND_NS)
            self._consumer.state.again(self.sequence, due_ns)

    async def term(self) -> None:
        """Can not be done."""
        await self.ack()


def require(connected: Connected, what: str) -> None:
    """Raise `RequestTimeout` at once where a real server that is away would be waited for."""
    if not connected():
        raise RequestTimeout(f"{what}: no answer in time; is the server up?")
