"""A message bus in memory: the same meaning as NATS, without a server.

What may live here: the broker that clients share, and the client. Buckets and streams are in ``memory_streams``.
Public: tests of agents and of the runtime run on it, and one host process can run without any server.

Every rule is that of a NATS server and is held to it by ``tests/contract``.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections import Counter
from typing import TYPE_CHECKING

from eddy_mesh.bus import (
    DEFAULT_ACK_WAIT_S,
    DEFAULT_DUPLICATE_WINDOW_S,
    DEFAULT_PENDING_BYTES,
    DEFAULT_PENDING_MESSAGES,
    BusState,
    BusStats,
    Listeners,
    Message,
    NoResponders,
    OutboundFull,
    RequestTimeout,
)
from eddy_mesh.errors import BusError
from eddy_mesh.memory_streams import (
    Bucket,
    Mailbox,
    MemoryConsumer,
    MemoryKeyValue,
    Stream,
    matches,
    overlap,
    require,
)
from eddy_mesh.replies import NO_RESPONDERS_STATUS, STATUS_HEADER, gather_replies, no_responders

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from eddy_mesh.bus import ConsumerStatus, Receive, StateListener, StreamStatus

MAX_PAYLOAD_BYTES = 1024 * 1024
OUTBOUND_BUFFER_BYTES = 8 * 1024 * 1024
MESSAGE_ID_HEADER = "Nats-Msg-Id"

_BLANK = re.compile(r"[ \t\r\n]")
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


class MemoryBroker:
    """What the clients of one memory bus share."""

    def __init__(self, *, max_payload: int = MAX_PAYLOAD_BYTES, clock_ns: Callable[[], int] = time.time_ns) -> None:
        """Make an empty one.

        Args:
            max_payload: largest payload, bytes.
            clock_ns: the time, ns since 1970 UTC; for ages in buckets and streams.
        """
        self.max_payload = max_payload
        self.clock_ns = clock_ns
        self.connected = True
        self.subscriptions: list[MemorySubscription] = []
        self.streams: dict[str, Stream] = {}
        self.buckets: dict[str, Bucket] = {}
        self.refused = 0  # messages without reply that a full stream did not take
        self._clients: list[MemoryBus] = []
        self._inboxes = 0
        self._turn = 0

    def connect(self) -> MemoryBus:
        """Return a new client."""
        client = MemoryBus(self)
        self._clients.append(client)
        return client

    def disconnect(self) -> None:
        """Behave as if the server were away."""
        self.connected = False
        for client in tuple(self._clients):
            client.server_gone()

    def reconnect(self) -> None:
        """Behave as if the server were back, with its streams and buckets."""
        self.connected = True
        for client in tuple(self._clients):
            client.server_back()

    def forget(self, client: MemoryBus) -> None:
        """Take a closed client out."""
        with contextlib.suppress(ValueError):
            self._clients.remove(client)

    def new_inbox(self) -> str:
        """Return a subject that nobody else uses."""
        self._inboxes += 1
        return f"_INBOX.{self._inboxes}"

    def route(self, message: Message) -> int:
        """Deliver a message to every subscription, one of each queue group and its stream.

        Returns:
            Its sequence number in the stream, or 0 where no stream takes its subject.

        Raises:
            BusError: the stream refused it; the subscriptions have it all the same.
        """
        tokens = message.subject.split(".")
        taken = self._deliver(message, tokens)
        for stream in self.streams.values():
            if stream.takes(tokens):
                return self._store(stream, message)
        if message.reply and not taken:
            self.route(Message(message.reply, headers={STATUS_HEADER: NO_RESPONDERS_STATUS}))
        return 0

    def _deliver(self, message: Message, tokens: list[str]) -> bool:
        groups: dict[str, list[MemorySubscription]] = {}
        taken = False
        for subscription in tuple(self.subscriptions):
            if not matches(subscription.pattern, tokens):
                continue
            taken = True
            if subscription.queue:
                groups.setdefault(subscription.queue, []).append(subscription)
            else:
                subscription.put(message)
        for members in groups.values():
            self._turn += 1
            members[self._turn % len(members)].put(message)
        return taken

    def _store(self, stream: Stream, message: Message) -> int:
        sequence, duplicate = stream.store(message, message.headers.get(MESSAGE_ID_HEADER, ""))
        if message.reply:
            known = ', "duplicate": true' if duplicate else ""
            acknowledgement = f'{{"stream": "{stream.name}", "seq": {sequence}{known}}}'
            self.route(Message(message.reply, acknowledgement.encode()))
        return sequence


class MemoryBus:
    """A client of a `MemoryBroker`; see ``eddy_mesh.bus.Bus``."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self._closed = False
        self._outbound: list[Message] = []
        self._outbound_bytes = 0
        self._subscriptions: set[MemorySubscription] = set()
        self._buckets: dict[str, MemoryKeyValue] = {}
        self._errors: Counter[str] = Counter()
        self._listeners = Listeners(self._errors)
        self._counted: Counter[str] = Counter()

    # ------------------------------------------------------------------------------------------ state

    @property
    def connected(self) -> bool:
        """Whether the broker can be reached now."""
        return self._broker.connected and not self._closed

    @property
    def max_payload(self) -> int:
        """The largest payload that the broker takes, bytes."""
        return self._broker.max_payload

    @property
    def stats(self) -> BusStats:
        """A snapshot of the counters."""
        counted = self._counted
        return BusStats(
            reconnects=counted["reconnects"],
            errors=dict(self._errors),
            sent_messages=counted["sent_messages"],
            sent_bytes=counted["sent_bytes"],
            received_messages=counted["received_messages"],
            received_bytes=counted["received_bytes"],
        )

    def on_state(self, listener: StateListener) -> Callable[[], None]:
        """Call ``listener(state, text)`` at every change and error; return a function that ends it."""
        return self._listeners.add(listener)

    def server_gone(self) -> None:
        """Be told that the broker is away; called by the broker."""
        self._listeners.tell(BusState.DISCONNECTED, "the connection to the server is lost; trying again")

    def server_back(self) -> None:
        """Be told that the broker is back; called by the broker."""
        self._counted["reconnects"] += 1
        waiting, self._outbound, self._outbound_bytes = self._outbound, [], 0
        for message in waiting:
            self._route(message)
        self._listeners.tell(BusState.CONNECTED, "connected to memory")

    # ------------------------------------------------------------------------------------------ messages

    async def publish(
        self, subject: str, data: bytes, *, headers: Mapping[str, str] | None = None, reply: str = ""
    ) -> None:
        """Deliver a message, or keep it while the broker is away."""
        self._publish(Message(subject, data, dict(headers or {}), reply))

    def _publish(self, message: Message) -> None:
        self._check_open(message.subject)
        _check_message(message, self.max_payload)
        if self._broker.connected:
            self._route(message)
            return
        if self._outbound_bytes + len(message.data) > OUTBOUND_BUFFER_BYTES:
            raise OutboundFull(
                f"the server is away and the buffer of unsent messages is full: {message.subject} not taken; spool it"
            )
        self._outbound.append(message)
        self._outbound_bytes += len(message.data)

    def _route(self, message: Message) -> int:
        self._counted["sent_messages"] += 1
        self._counted["sent_bytes"] += len(message.data)
        try:
            return self._broker.route(message)
        except BusError:
            self._broker.refused += 1  # as with a server, a publish without acknowledgement does not learn of it
            return 0

    async def subscribe(
        self,
        subject: str,
        receive: Receive,
        *,
        queue: str = "",
        pending_messages: int = DEFAULT_PENDING_MESSAGES,
        pending_bytes: int = DEFAULT_PENDING_BYTES,
    ) -> MemorySubscription:
        """Call ``receive`` with every message on a subject."""
        self._check_open(subject)
        _check_pattern(subject)
        subscription = MemorySubscription(self, subject, receive, queue, (pending_messages, pending_bytes))
        self._subscriptions.add(subscription)
        self._broker.subscriptions.append(subscription)
        return subscription

    async def request(
        self, subject: str, data: bytes, *, timeout_s: float, headers: Mapping[str, str] | None = None
    ) -> Message:
        """Publish and wait for the first answer."""
        answers = await gather_replies(
            self,
            self._broker.new_inbox(),
            subject,
            data,
            timeout_s=timeout_s,
            at_most=1,
            idle_s=timeout_s,
            headers=headers,
        )
        if not answers:
            raise RequestTimeout(f"{subject}: no answer within {timeout_s:g} s; is the agent busy or stopped?")
        return answers[0]

    async def gather(
        self,
        subject: str,
        data: bytes,
        *,
        timeout_s: float,
        at_most: int | None = None,
        idle_s: float = 0.3,
        headers: Mapping[str, str] | None = None,
    ) -> list[Message]:
        """Publish one request and collect the answers of everybody."""
        inbox = self._broker.new_inbox()
        try:
            return await gather_replies(
                self, inbox, subject, data, timeout_s=timeout_s, at_most=at_most, idle_s=idle_s, headers=headers
            )
        except NoResponders:
            return []

    async def flush(self, timeout_s: float = 5.0) -> None:  # noqa: ARG002 - the port's; nothing is waited for
        """Return at once: what was published is delivered."""
        self._check_open("flush")
        if not self.connected:
            raise BusError("not connected: nothing can be flushed until the server is back")

    async def drain(self) -> None:
        """Handle what waits in every subscription, and close."""
        for subscription in tuple(self._subscriptions):
            await subscription.drain()
        await self.close()

    async def close(self) -> None:
        """Close now."""
        if self._closed:
            return
        self._closed = True
        self._broker.forget(self)
        for subscription in tuple(self._subscriptions):
            await subscription.unsubscribe()
        for bucket in self._buckets.values():
            await bucket.close()
        self._listeners.tell(BusState.CLOSED, "the connection is closed")

    def forget(self, subscription: MemorySubscription) -> None:
        """Take an ended subscription out; called by it."""
        self._subscriptions.discard(subscription)
        with contextlib.suppress(ValueError):  # ended before
            self._broker.subscriptions.remove(subscription)

    def received(self, message: Message, *, dropped: bool) -> None:
        """Count a delivery; called by the subscription."""
        self._counted["received_messages"] += 1
        self._counted["received_bytes"] += len(message.data)
        self._errors.update({"slow_consumer": 1} if dropped else {})

    def failed(self, error: Exception) -> None:
        """Count and tell what a callback raised; called by the subscription."""
        self._errors["receive"] += 1
        self._listeners.tell(BusState.ERROR, f"a callback raised {error!r}")

    def _check_open(self, what: str) -> None:
        if self._closed:
            raise BusError(f"{what}: the bus is closed; connect again", retryable=False)

    # ------------------------------------------------------------------------------------------ JetStream

    async def key_value(
        self,
        bucket: str,
        *,
        history: int = 1,
        ttl_s: float = 0.0,
        memory: bool = False,  # noqa: ARG002 - the port's; all is memory
    ) -> MemoryKeyValue:
        """Bind to a bucket, made first if it is not there."""
        self._check_named("bucket", bucket)
        state = self._broker.buckets.get(bucket)
        if state is None:
            state = self._broker.buckets[bucket] = Bucket(bucket, history, ttl_s, self._broker.clock_ns)
        if bucket not in self._buckets:
            self._buckets[bucket] = MemoryKeyValue(state, lambda: self.connected, self.failed)
        return self._buckets[bucket]

    async def ensure_stream(
        self,
        name: str,
        subjects: Sequence[str],
        *,
        max_bytes: int = 0,
        max_age_s: float = 0.0,
        refuse_when_full: bool = False,
        duplicate_window_s: float = DEFAULT_DUPLICATE_WINDOW_S,
        work_queue: bool = False,
    ) -> None:
        """Make a stream, or bring it to this configuration."""
        self._check_named("stream", name)
        patterns = [subject.split(".") for subject in subjects]
        for other in self._broker.streams.values():
            if other.name != name and any(overlap(mine, theirs) for mine in patterns for theirs in other.patterns):
                raise BusError(f"stream {name}: its subjects overlap with stream {other.name}", retryable=False)
        stream = self._broker.streams.setdefault(name, Stream(name, self._broker.clock_ns))
        stream.configure(
            subjects,
            max_bytes=max_bytes,
            max_age_s=max_age_s,
            refuse_when_full=refuse_when_full,
            duplicate_window_s=duplicate_window_s,
            work_queue=work_queue,
        )

    async def stream_status(self, name: str) -> StreamStatus | None:
        """Return what a stream holds, or None."""
        self._check_named("stream", name)
        found = self._broker.streams.get(name)
        return None if found is None else found.status

    async def delete_stream(self, name: str) -> None:
        """Delete a stream."""
        self._check_named("stream", name)
        found = self._broker.streams.pop(name, None)
        if found is not None:
            for durable in tuple(found.consumers):
                found.unbind(durable)

    async def publish_durable(
        self,
        subject: str,
        data: bytes,
        *,
        message_id: str,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 5.0,  # noqa: ARG002 - the port's; nothing is waited for
    ) -> int:
        """Store a message and return its sequence number."""
        self._check_open(subject)
        require(lambda: self.connected, subject)
        message = Message(subject, data, {**(headers or {}), MESSAGE_ID_HEADER: message_id})
        _check_message(message, self.max_payload)
        sequence = self._broker.route(message)
        if not sequence:
            raise no_responders(subject)
        return sequence

    async def consume(
        self,
        stream: str,
        durable: str,
        *,
        filter_subject: str = "",
        filter_subjects: Sequence[str] = (),
        start_sequence: int | None = None,
        ack_wait_s: float = DEFAULT_ACK_WAIT_S,
    ) -> MemoryConsumer:
        """Bind to a durable consumer, made first if it is not there."""
        self._check_named("consumer", durable)
        found = self._broker.streams.get(stream)
        if found is None:
            raise BusError(f"consumer {durable}: there is no stream {stream}; make it first", retryable=False)
        patterns = [subject.split(".") for subject in filter_subjects or (filter_subject or ">",)]
        state = found.bind(durable, patterns, start_sequence, ack_wait_s)
        return MemoryConsumer(state, lambda: self.connected, self._broker.clock_ns)

    async def consumers(self, stream: str) -> list[ConsumerStatus]:
        """Return the durable consumers of a stream."""
        self._check_named("stream", stream)
        found = self._broker.streams.get(stream)
        return [] if found is None else [state.status(name) for name, state in sorted(found.consumers.items())]

    async def delete_consumer(self, stream: str, durable: str) -> None:
        """Delete a consumer."""
        self._check_named("consumer", durable)
        found = self._broker.streams.get(stream)
        if found is not None:
            found.unbind(durable)

    def _check_named(self, kind: str, name: str) -> None:
        self._check_open(f"{kind} {name}")
        require(lambda: self.connected, f"{kind} {name}")
        if not _NAME.fullmatch(name):
            raise BusError(f"{kind} {name!r}: use A-Z a-z 0-9 - _", retryable=False)


class MemorySubscription:
    """Interest in a subject; see ``eddy_mesh.bus.Subscription``."""

    def __init__(self, bus: MemoryBus, subject: str, receive: Receive, queue: str, limits: tuple[int, int]) -> None:
        """Start it.

        Args:
            bus: the client it belongs to.
            subject: subject or wildcard.
            receive: the callback.
            queue: name of a queue group, or "".
            limits: pending messages and bytes; bytes of 0 are no limit.
        """
        self.pattern = subject.split(".")
        self.queue = queue
        self._bus = bus
        self._subject = subject
        self._receive = receive
        self._max_messages, self._max_bytes = limits
        self._pending_bytes = 0
        self._dropped = 0
        self._mailbox = Mailbox(self._handle, bus.failed)

    @property
    def subject(self) -> str:
        """The subject or wildcard subscribed to."""
        return self._subject

    @property
    def pending(self) -> int:
        """Messages that wait for their callback."""
        return len(self._mailbox)

    @property
    def dropped(self) -> int:
        """Messages thrown away because ``pending`` was at its limit."""
        return self._dropped

    def put(self, message: Message) -> None:
        """Take a message from the broker, or drop it and count."""
        size = len(message.data)
        full = self.pending >= self._max_messages or bool(
            self._max_bytes and self._pending_bytes + size >= self._max_bytes
        )
        self._bus.received(message, dropped=full)
        if full:
            self._dropped += 1
            return
        self._pending_bytes += size
        self._mailbox.put(message)

    def _handle(self, message: Message) -> Awaitable[None] | None:
        self._pending_bytes -= len(message.data)
        return self._receive(message)

    async def unsubscribe(self) -> None:
        """End it now."""
        self._bus.forget(self)
        await self._mailbox.stop()

    async def drain(self) -> None:
        """End it after the waiting messages were handled."""
        self._bus.forget(self)
        await self._mailbox.join()
        await self._mailbox.stop()


def _check_message(message: Message, max_payload: int) -> None:
    for subject in (message.subject, message.reply or "reply"):
        if not subject or _BLANK.search(subject):
            raise BusError(f"{subject!r}: invalid subject", retryable=False)
    for name in message.headers:
        if not _HEADER_NAME.fullmatch(name):
            raise BusError(f"{message.subject}: invalid header: {name!r}", retryable=False)
    if len(message.data) > max_payload:
        text = f"{message.subject}: the message is larger than the server takes; split it"
        raise BusError(text, retryable=False)


def _check_pattern(subject: str) -> None:
    tokens = subject.split(".")
    for position, part in enumerate(tokens):
        star = "*" in part and part != "*"
        rest = ">" in part and (part != ">" or position != len(tokens) - 1)
        if not part or star or rest or _BLANK.search(part):
            raise BusError(f"{subject!r}: invalid subject", retryable=False)
