"""The JetStream half of the NATS adapter: buckets, durable streams, and the mapping of errors.

What may live here: what needs ``nats.js``. The connection itself is in ``bus_nats``.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from typing import TYPE_CHECKING, TypeVar, cast

import nats.errors
from nats.js import api
from nats.js import errors as js_errors

from eddy_mesh.bus import (
    MAX_HISTORY,
    ConsumerStatus,
    Entry,
    KeyOperation,
    NoResponders,
    OutboundFull,
    RequestTimeout,
    RevisionConflict,
    StreamFull,
    StreamStatus,
)
from eddy_mesh.errors import BusError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
    from datetime import datetime

    from nats.aio.msg import Msg
    from nats.js import JetStreamContext
    from nats.js.kv import KeyValue as NatsBucket

    from eddy_mesh.bus import ReceiveEntry

T = TypeVar("T")

WRONG_LAST_SEQUENCE = (10071, 10164)
STREAM_NAME_IN_USE = 10058
STREAM_STORE_FAILED = 10077
MESSAGE_ID_HEADER = "Nats-Msg-Id"
OPERATION_HEADER = "KV-Operation"
MARKER_HEADER = "Nats-Marker-Reason"  # written by the server when an age limit removed a key
MAX_ACK_PENDING = 20_000  # the server's 1,000 stalls two fetches of hundreds while acknowledgements travel
REWATCH_WAIT_S = 0.5
LIST_TRIES = 5
GONE = (nats.errors.NoRespondersError, js_errors.NoStreamResponseError, js_errors.NotFoundError)
"""What is raised where the stream of a bucket is not there; a server without JetStream raises the first as well."""

_OPERATIONS = {
    "": KeyOperation.PUT,
    "DEL": KeyOperation.DELETE,
    "PURGE": KeyOperation.PURGE,
    "MaxAge": KeyOperation.PURGE,
    "Purge": KeyOperation.PURGE,
    "Remove": KeyOperation.DELETE,
}


def bus_error(error: Exception, what: str) -> BusError:
    """Map an exception of the client library.

    Args:
        error: what the library raised.
        what: the subject, bucket or stream concerned, for the text.
    """
    text = str(error).removeprefix("nats: ") or type(error).__name__
    if isinstance(error, (nats.errors.NoRespondersError, js_errors.NoStreamResponseError)):
        return NoResponders(f"no responders: nobody takes {what}; start the agent or make the stream that does")
    if isinstance(error, nats.errors.OutboundBufferLimitError):
        return OutboundFull(f"the server is away and the buffer of unsent messages is full: {what} not taken; spool it")
    if isinstance(error, js_errors.KeyWrongLastSequenceError):
        return RevisionConflict(f"{what} has changed since it was read: {text}; read it again")
    if isinstance(error, js_errors.APIError):
        return _refused(error, what, text)
    if isinstance(error, TimeoutError):
        return RequestTimeout(f"{what}: no answer in time; is the server up?")
    if isinstance(error, nats.errors.MaxPayloadError):
        return BusError(f"{what}: the message is larger than the server takes; split it", retryable=False)
    if isinstance(error, (nats.errors.ConnectionClosedError, nats.errors.ConnectionDrainingError)):
        return BusError(f"{what}: the bus is closed; connect again", retryable=False)
    if isinstance(error, OSError):
        return BusError(f"{what}: {text}")
    return BusError(f"{what}: {text}", retryable=False)


def _refused(error: js_errors.APIError, what: str, text: str) -> BusError:
    reason = error.description or text
    if error.err_code in WRONG_LAST_SEQUENCE:
        return RevisionConflict(f"{what} has changed since it was read: {error.description}; read it again")
    if error.err_code == STREAM_STORE_FAILED and "maximum" in reason:
        return StreamFull(f"{what}: the stream is full: {reason}; its consumers must make room")
    return BusError(f"{what}: the server refused: {reason}", retryable=(error.code or 500) >= 500)


@contextlib.contextmanager
def mapped(what: str) -> Iterator[None]:
    """Raise what the client library raises inside as `BusError`, and the cancellation that it swallows inside.

    It swallows one while it waits for room in its buffer, and ``asyncio.wait_for`` does in Python 3.11 when the
    answer comes at the same time.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    try:
        yield
    except (nats.errors.Error, OSError) as error:  # TimeoutError is an OSError
        raise bus_error(error, what) from error
    if task and task.cancelling() > before:
        raise asyncio.CancelledError


# ---------------------------------------------------------------------------------------------- buckets


async def bind_bucket(
    js: JetStreamContext, bucket: str, *, history: int, ttl_s: float, memory: bool, count: Callable[[str], None]
) -> NatsKeyValue:
    """Bind to a bucket, made first if it is not there. Arguments as in ``Bus.key_value``; ``count`` counts errors."""
    if not 1 <= history <= MAX_HISTORY:
        raise BusError(f"history={history} of bucket {bucket}: use 1 to {MAX_HISTORY}", retryable=False)
    storage = api.StorageType.MEMORY if memory else api.StorageType.FILE
    config = api.KeyValueConfig(bucket=bucket, history=history, ttl=ttl_s or None, storage=storage)
    with mapped(f"bucket {bucket}"):
        return NatsKeyValue(js, await _bound(js, config), config, count)


async def _bound(js: JetStreamContext, config: api.KeyValueConfig) -> NatsBucket:
    try:
        return await js.key_value(config.bucket)
    except js_errors.BucketNotFoundError:
        pass
    try:
        return await js.create_key_value(config)
    except js_errors.BadRequestError as error:
        if error.err_code != STREAM_NAME_IN_USE:
            raise
        return await js.key_value(config.bucket)  # somebody was faster


class NatsKeyValue:
    """A bucket in JetStream; see ``eddy_mesh.bus.KeyValue``."""

    def __init__(
        self, js: JetStreamContext, kv: NatsBucket, config: api.KeyValueConfig, count: Callable[[str], None]
    ) -> None:
        self._js = js
        self._kv = kv
        self._config = config
        self._bucket = config.bucket
        self._count = count
        self.watches: set[NatsWatch] = set()

    async def _do(self, act: Callable[[NatsBucket], Awaitable[T]]) -> T:
        """Do it; where the server has lost the bucket, as with its whole store, make it anew and do it once more."""
        try:
            return await act(self._kv)
        except GONE:
            self._kv = await _bound(self._js, self._config)
            return await act(self._kv)

    @property
    def bucket(self) -> str:
        """The name of the bucket."""
        return self._bucket

    async def get(self, key: str) -> Entry | None:
        """Return the newest entry of a key, or None."""
        _check_key(key)
        with mapped(f"key {key}"):
            try:
                stored = await self._js.get_last_msg(f"KV_{self._bucket}", f"$KV.{self._bucket}.{key}")
            except js_errors.NotFoundError:
                return None
        if _operation(stored.headers or {}) is not KeyOperation.PUT:
            return None
        return Entry(key, stored.data or b"", stored.seq or 0, _nanoseconds(stored.time))

    async def put(self, key: str, value: bytes) -> int:
        """Store a value and return its revision."""
        with mapped(f"key {key}"):
            return int(await self._do(lambda kv: kv.put(key, value)))

    async def create(self, key: str, value: bytes) -> int:
        """Store a value where there is none."""
        with mapped(f"key {key}"):
            return int(await self._do(lambda kv: kv.create(key, value)))

    async def update(self, key: str, value: bytes, last_revision: int) -> int:
        """Store a value if ``last_revision`` is the newest."""
        with mapped(f"key {key}"):
            return int(await self._do(lambda kv: kv.update(key, value, last=last_revision)))

    async def delete(self, key: str, *, last_revision: int = 0) -> None:
        """Mark a key as deleted."""
        with mapped(f"key {key}"):
            await self._do(lambda kv: kv.delete(key, last=last_revision or None))

    async def purge(self, key: str) -> None:
        """Delete a key and its history."""
        _check_key(key)
        with mapped(f"key {key}"):
            await self._do(lambda kv: kv.purge(key))

    async def keys(self) -> list[str]:
        """Return the keys that have a value, sorted."""
        with mapped(f"bucket {self._bucket}"):
            return sorted(await self._listed(lambda kv: kv.keys(), ">"))

    async def history(self, key: str) -> list[Entry]:
        """Return the kept revisions of a key, oldest first."""
        _check_key(key)
        with mapped(f"key {key}"):
            return [_entry(found) for found in await self._listed(lambda kv: kv.history(key), key)]

    async def _listed(self, ask: Callable[[NatsBucket], Awaitable[list[T]]], key: str) -> list[T]:
        """Ask again where the library finds nothing and there is something: it takes what is on its way for nothing."""
        for _ in range(LIST_TRIES):
            try:
                return await self._do(ask)
            except js_errors.NoKeysError:
                try:
                    await self._js.get_last_msg(f"KV_{self._bucket}", f"$KV.{self._bucket}.{key}")
                except js_errors.NotFoundError:
                    break
        return []

    async def watch(self, receive: ReceiveEntry, *, keys: str = ">") -> NatsWatch:
        """Deliver what is there, None, then every change."""
        watch = NatsWatch(self, keys, receive, self._count)
        with mapped(f"bucket {self._bucket}"):
            await watch.start()
        return watch

    async def watcher(self, keys: str) -> NatsBucket.KeyWatcher:
        """Return a watcher of the library, for `NatsWatch`; raises what the library raises."""
        return await self._do(lambda kv: kv.watch(keys))


class NatsWatch:
    """A watch that binds itself again after a lost connection, where the library's takes up to 16 s."""

    def __init__(self, owner: NatsKeyValue, keys: str, receive: ReceiveEntry, count: Callable[[str], None]) -> None:
        self._owner = owner
        self._keys = keys
        self._receive = receive
        self._count = count
        self._newest = (0, 0)  # revision and time of the last delivered entry
        self._marked = False
        self._watcher: NatsBucket.KeyWatcher | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin; raises what the library raises."""
        self._watcher = await self._owner.watcher(self._keys)
        self._task = asyncio.create_task(self._run(), name=f"watch {self._owner.bucket}")
        self._owner.watches.add(self)

    async def stop(self) -> None:
        """End it."""
        self._owner.watches.discard(self)
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await self._let_go()

    async def rebind(self) -> None:
        """Give up the consumer that the server may have forgotten; the task makes a new one."""
        await self._let_go()

    async def _let_go(self) -> None:
        watcher, self._watcher = self._watcher, None
        if watcher is None:
            return
        with contextlib.suppress(nats.errors.Error):  # closed already: then there is nothing to end
            await watcher.stop()  # type: ignore[no-untyped-call]  # the library's

    async def _run(self) -> None:
        while True:
            watcher = self._watcher
            if watcher is not None:
                async for found in watcher:
                    await self._deliver(found)
            try:
                self._watcher = await self._owner.watcher(self._keys)
            except nats.errors.ConnectionClosedError:
                return
            except (nats.errors.Error, OSError):
                self._count("watch")
                await asyncio.sleep(REWATCH_WAIT_S)

    async def _deliver(self, found: NatsBucket.Entry | None) -> None:
        if found is None:
            if self._marked:
                return
            self._marked = True
            await self._call(None)
            return
        entry = _entry(found)
        # The time tells a bucket that was made anew, and counts from 1 again, from what was seen before.
        if entry.revision <= self._newest[0] and entry.created_ns <= self._newest[1]:
            return
        self._newest = (entry.revision, entry.created_ns)
        await self._call(entry)

    async def _call(self, entry: Entry | None) -> None:
        try:
            waiting = self._receive(entry)
            if inspect.isawaitable(waiting):
                await waiting
        except Exception:  # noqa: BLE001 - whatever a callback raises must not end the watch
            self._count("receive")


def _check_key(key: str) -> None:
    if not key or key[0] == "." or key[-1] == "." or any(letter in key for letter in " *>\t\r\n"):
        raise BusError(f"key {key!r} of a bucket: use A-Z a-z 0-9 - / _ = and inner dots", retryable=False)


def _operation(headers: Mapping[str, str]) -> KeyOperation:
    return _OPERATIONS.get(headers.get(OPERATION_HEADER) or headers.get(MARKER_HEADER, ""), KeyOperation.PURGE)


def _entry(found: NatsBucket.Entry) -> Entry:
    operation = _OPERATIONS.get(found.operation or "", KeyOperation.PURGE)
    created = cast("datetime | None", found.created)  # annotated as int by the library
    return Entry(found.key, found.value or b"", found.revision or 0, _nanoseconds(created), operation)


def _nanoseconds(moment: datetime | None) -> int:
    return 0 if moment is None else int(moment.timestamp() * 1_000_000) * 1000


# ---------------------------------------------------------------------------------------------- streams


async def ensure_stream(
    js: JetStreamContext,
    name: str,
    subjects: Sequence[str],
    *,
    max_bytes: int,
    max_age_s: float,
    refuse_when_full: bool,
    duplicate_window_s: float,
    work_queue: bool,
) -> None:
    """Make a stream or bring it to this configuration. Arguments as in ``Bus.ensure_stream``."""
    config = api.StreamConfig(
        name=name,
        subjects=list(subjects),
        storage=api.StorageType.FILE,
        retention=api.RetentionPolicy.WORK_QUEUE if work_queue else api.RetentionPolicy.LIMITS,
        max_bytes=max_bytes or -1,
        max_age=max_age_s,
        discard=api.DiscardPolicy.NEW if refuse_when_full else api.DiscardPolicy.OLD,
        duplicate_window=min(duplicate_window_s, max_age_s) if max_age_s else duplicate_window_s,
    )
    with mapped(f"stream {name}"):
        try:
            await js.add_stream(config)
        except js_errors.BadRequestError as error:
            if error.err_code != STREAM_NAME_IN_USE:
                raise
            present = await js.stream_info(name)
            await js.update_stream(
                present.config.evolve(
                    subjects=config.subjects,
                    retention=config.retention,
                    max_bytes=config.max_bytes,
                    max_age=config.max_age,
                    discard=config.discard,
                    duplicate_window=config.duplicate_window,
                )
            )


async def publish_durable(
    js: JetStreamContext,
    subject: str,
    data: bytes,
    *,
    message_id: str,
    headers: Mapping[str, str] | None,
    timeout_s: float,
) -> int:
    """Store a message and return its sequence number. Arguments as in ``Bus.publish_durable``."""
    with mapped(subject):
        acknowledged = await js.publish(
            subject, data, timeout=timeout_s, headers={**(headers or {}), MESSAGE_ID_HEADER: message_id}
        )
    return int(acknowledged.seq)


async def stream_status(js: JetStreamContext, name: str) -> StreamStatus | None:
    """Return what a stream holds, or None where there is none of that name."""
    with mapped(f"stream {name}"):
        try:
            state = (await js.stream_info(name)).state
        except js_errors.NotFoundError:
            return None
    return StreamStatus(state.messages, state.bytes, state.last_seq)


async def delete_stream(js: JetStreamContext, name: str) -> None:
    """Delete a stream; one that is not there is no error."""
    with mapped(f"stream {name}"), contextlib.suppress(js_errors.NotFoundError):
        await js.delete_stream(name)


async def bind_consumer(
    js: JetStreamContext,
    stream: str,
    durable: str,
    *,
    filters: Sequence[str],
    start_sequence: int | None,
    ack_wait_s: float,
) -> NatsConsumer:
    """Bind to a durable consumer, made first if it is not there. Arguments as in ``Bus.consume``."""
    one, several = (filters[0], None) if len(filters) == 1 else (None, list(filters) or None)
    with mapped(f"consumer {durable} of stream {stream}"):
        try:
            present = (await js.consumer_info(stream, durable)).config
        except js_errors.NotFoundError:
            policy = api.DeliverPolicy.ALL if start_sequence is None else api.DeliverPolicy.BY_START_SEQUENCE
            config = api.ConsumerConfig(
                name=durable,
                durable_name=durable,
                deliver_policy=policy,
                opt_start_seq=start_sequence,
                ack_policy=api.AckPolicy.EXPLICIT,
                ack_wait=ack_wait_s,
                filter_subject=one,
                filter_subjects=several,
                max_ack_pending=MAX_ACK_PENDING,
            )
            await js.add_consumer(stream, config)
        else:
            if ((present.filter_subject or None), (present.filter_subjects or None)) != (one, several):
                changed = present.evolve()  # evolve keeps what it is given None for
                changed.filter_subject, changed.filter_subjects = one, several
                await js.add_consumer(stream, changed)
        # A pull asked for these messages, so no limit of bytes may throw them away.
        pull = await js.pull_subscribe_bind(consumer=durable, stream=stream, pending_bytes_limit=0)
    return NatsConsumer(pull, f"consumer {durable} of stream {stream}")


async def consumers(js: JetStreamContext, stream: str) -> list[ConsumerStatus]:
    """Return the durable consumers of a stream, sorted by name."""
    found: list[ConsumerStatus] = []
    with mapped(f"stream {stream}"), contextlib.suppress(js_errors.NotFoundError):
        while page := await js.consumers_info(stream, offset=len(found)):
            found += [_status(info) for info in page]
    return sorted(found, key=lambda status: status.name)


def _status(info: api.ConsumerInfo) -> ConsumerStatus:
    delivered = 0 if info.delivered is None else info.delivered.stream_seq
    return ConsumerStatus(info.name, info.num_ack_pending or 0, info.num_waiting or 0, delivered)


async def delete_consumer(js: JetStreamContext, stream: str, durable: str) -> None:
    """Delete a consumer; one that is not there is no error."""
    with mapped(f"consumer {durable} of stream {stream}"), contextlib.suppress(js_errors.NotFoundError):
        await js.delete_consumer(stream, durable)


class NatsConsumer:
    """A durable pull consumer; see ``eddy_mesh.bus.DurableConsumer``."""

    def __init__(self, pull: JetStreamContext.PullSubscription, what: str) -> None:
        self._pull = pull
        self._what = what

    async def fetch(self, count: int, timeout_s: float) -> Sequence[NatsDurableMessage]:
        """Return up to ``count`` messages."""
        with mapped(self._what):
            try:
                found = await self._pull.fetch(count, timeout=timeout_s)
            except TimeoutError:
                return []
        return [NatsDurableMessage(message) for message in found]

    async def stop(self) -> Sequence[NatsDurableMessage]:
        """Let go of it."""
        waiting = self._pull._sub._pending_queue  # noqa: SLF001 - the library has no other way to these messages
        late = []
        while not waiting.empty():
            message = waiting.get_nowait()
            if message.reply:  # a message, not a status
                late.append(NatsDurableMessage(message))
        with contextlib.suppress(nats.errors.BadSubscriptionError, nats.errors.ConnectionClosedError):
            await self._pull.unsubscribe()
        return late


class NatsDurableMessage:
    """A delivered message of a stream; see ``eddy_mesh.bus.DurableMessage``."""

    __slots__ = ("_message", "data", "deliveries", "headers", "sequence", "stored_ns", "subject")

    def __init__(self, message: Msg) -> None:
        metadata = message.metadata
        self._message = message
        self.subject: str = message.subject
        self.data: bytes = message.data
        self.headers: Mapping[str, str] = message.headers or {}
        self.sequence: int = metadata.sequence.stream
        self.stored_ns: int = _nanoseconds(metadata.timestamp)
        self.deliveries: int = metadata.num_delivered

    async def ack(self, *, confirm_s: float = 0.0) -> None:
        """Done."""
        self._message._ackd = False  # noqa: SLF001 - one that was lost with a connection is sent again
        with mapped(f"ack of {self.subject}"):
            if confirm_s:
                await self._message.ack_sync(confirm_s)
            else:
                await self._message.ack()

    async def progress(self) -> None:
        """Being worked on."""
        with mapped(f"progress of {self.subject}"):
            await self._message.in_progress()

    async def nak(self, delay_s: float = 0.0) -> None:
        """Not done; again later."""
        with mapped(f"nak of {self.subject}"):
            await self._message.nak(delay=delay_s or None)

    async def term(self) -> None:
        """Can not be done."""
        with mapped(f"term of {self.subject}"):
            await self._message.term()
