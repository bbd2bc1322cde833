"""The message bus as the mesh sees it: one port, two adapters (``bus_memory``, ``bus_nats``).

What may live here: value Structs, Protocols, the listeners to a connection's state, and the errors that only a bus can
raise. No IO, no asyncio.

What every adapter promises:

* callbacks of one subscription are called one at a time, in the order in which the bus delivered;
* an exception of a callback is counted and told to the state listeners, and the next message is delivered;
* a message that the client had to throw away is counted in ``Subscription.dropped`` and in ``Bus.stats``;
* ``publish`` is not delivery and ``subscribe`` is not acknowledgement: ready means "after ``flush``";
* every failure is a `BusError`; its ``retryable`` says whether the same call may succeed later.

Source: https://docs.nats.io/reference/reference-protocols/nats-protocol; ADR-8 (key-value), ADR-13 (pull).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from typing import Protocol

import msgspec

from eddy_mesh.errors import BusError

DEFAULT_PENDING_MESSAGES = 65_536
DEFAULT_PENDING_BYTES = 128 * 1024 * 1024
DEFAULT_ACK_WAIT_S = 30.0
DEFAULT_DUPLICATE_WINDOW_S = 120.0
MAX_HISTORY = 64  # a limit of NATS


class NoResponders(BusError):
    """Nobody is subscribed to the subject of a request."""


class RequestTimeout(BusError):
    """No answer came in time; whether the request was carried out is not known."""


class OutboundFull(BusError):
    """The server is away and the buffer of unsent messages is full: the message was not taken; spool it."""


class StreamFull(BusError):
    """A stream that refuses when it is full took nothing; once its consumers have made room it will."""


class RevisionConflict(BusError):
    """A compare-and-set found another revision than the caller had read; read again, decide again."""

    def __init__(self, message: str) -> None:
        super().__init__(message, retryable=False)


class Message(msgspec.Struct, frozen=True, gc=False):
    """One message as it was delivered.

    Attributes:
        subject: the subject it was published on.
        data: the payload, at most ``Bus.max_payload`` bytes.
        headers: header name → value; empty when there are none.
        reply: subject that an answer goes to, or "".
    """

    subject: str
    data: bytes = b""
    headers: dict[str, str] = {}
    reply: str = ""


Receive = Callable[[Message], Awaitable[None] | None]


class BusState(Enum):
    """What a state listener is told."""

    CONNECTED = "connected"
    DISCONNECTED = "disconnected"
    ERROR = "error"
    CLOSED = "closed"


StateListener = Callable[[BusState, str], None]


class Listeners:
    """Who is told of the state of one connection.

    Args:
        errors: where an exception of a listener is counted, as ``listener``.
    """

    def __init__(self, errors: Counter[str]) -> None:
        self._errors = errors
        self._listeners: list[StateListener] = []

    def add(self, listener: StateListener) -> Callable[[], None]:
        """Tell ``listener`` from now on; return a function that ends it, which may be called again."""
        self._listeners.append(listener)

        def end() -> None:
            with suppress(ValueError):  # ended before
                self._listeners.remove(listener)

        return end

    def tell(self, state: BusState, text: str) -> None:
        """Call every listener; one may end itself meanwhile."""
        for listener in tuple(self._listeners):
            try:
                listener(state, text)
            except Exception:  # noqa: BLE001  # a listener must not break the connection
                self._errors["listener"] += 1


class BusStats(msgspec.Struct, frozen=True):
    """Counters of one bus client since it was made.

    Attributes:
        reconnects: times the connection was made again after it was lost.
        errors: kind (``slow_consumer``, ``permission``, ``receive``, ``connection``, ...) → count.
        sent_messages, sent_bytes: published by this client.
        received_messages, received_bytes: delivered to this client by the server, dropped ones included.
    """

    reconnects: int
    errors: dict[str, int]
    sent_messages: int
    sent_bytes: int
    received_messages: int
    received_bytes: int


class Subscription(Protocol):
    """Interest in a subject, with a bounded queue of messages that wait for their callback."""

    @property
    def subject(self) -> str:
        """The subject or wildcard subscribed to."""

    @property
    def pending(self) -> int:
        """Messages that wait for their callback."""

    @property
    def dropped(self) -> int:
        """Messages that this client threw away because ``pending`` was at its limit."""

    async def unsubscribe(self) -> None:
        """End it now; waiting messages are discarded. Calling it twice is no error."""

    async def drain(self) -> None:
        """End it after the waiting messages were handled. Never call it from the subscription's own callback."""


class KeyOperation(Enum):
    """What an `Entry` records."""

    PUT = "put"
    DELETE = "delete"
    PURGE = "purge"


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One revision of one key.

    Attributes:
        key: the key, without the bucket.
        value: bytes; empty for a delete or purge.
        revision: rises with every change of the bucket, from 1.
        created_ns: when the server stored it, ns since 1970 UTC.
        operation: `KeyOperation.PUT`, or why there is no value.
    """

    key: str
    value: bytes
    revision: int
    created_ns: int
    operation: KeyOperation = KeyOperation.PUT


ReceiveEntry = Callable[[Entry | None], Awaitable[None] | None]


class Watch(Protocol):
    """A running watch on a bucket."""

    async def stop(self) -> None:
        """End it. Calling it twice is no error."""


class KeyValue(Protocol):
    """A bucket of keys with revisions. Keys: ``A-Z a-z 0-9 - / _ = .``, no dot first or last."""

    @property
    def bucket(self) -> str:
        """The name of the bucket."""

    async def get(self, key: str) -> Entry | None:
        """Return the newest entry of a key, or None where there is none or it was deleted."""

    async def put(self, key: str, value: bytes) -> int:
        """Store a value whatever is there, and return its revision."""

    async def create(self, key: str, value: bytes) -> int:
        """Store a value and return its revision.

        Raises:
            RevisionConflict: the key has a value.
        """

    async def update(self, key: str, value: bytes, last_revision: int) -> int:
        """Store a value if the newest revision of the key is ``last_revision``, and return the new one.

        Raises:
            RevisionConflict: it is another one; nothing was stored.
        """

    async def delete(self, key: str, *, last_revision: int = 0) -> None:
        """Mark a key as deleted; its history stays readable.

        Args:
            key: the key.
            last_revision: when not 0, delete only if this is the newest revision.

        Raises:
            RevisionConflict: another revision is the newest.
        """

    async def purge(self, key: str) -> None:
        """Delete a key and its history."""

    async def keys(self) -> list[str]:
        """Return the keys that have a value, sorted."""

    async def history(self, key: str) -> list[Entry]:
        """Return the kept revisions of a key, oldest first; deletes included."""

    async def watch(self, receive: ReceiveEntry, *, keys: str = ">") -> Watch:
        """Deliver the newest entry of each key, then None once, then every change.

        After a lost connection the newest entries that were not delivered yet are delivered; None is not repeated.

        Args:
            receive: called in order, one at a time.
            keys: a key, or a NATS wildcard over keys.
        """


class DurableMessage(Protocol):
    """A message of a stream; exactly one of `ack`, `nak` and `term` ends its delivery."""

    @property
    def subject(self) -> str:
        """The subject it was published on."""

    @property
    def data(self) -> bytes:
        """The payload."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Header name → value."""

    @property
    def sequence(self) -> int:
        """Position in the stream, from 1."""

    @property
    def stored_ns(self) -> int:
        """When the stream took it, ns since 1970 UTC; rises with ``sequence`` as long as the stream lives."""

    @property
    def deliveries(self) -> int:
        """Times this consumer delivered it, this one included; a consumer that was made anew counts from 1."""

    async def ack(self, *, confirm_s: float = 0.0) -> None:
        """Done; never deliver it again.

        Args:
            confirm_s: wait so long at most, s, until the server has taken this one and all before it; 0 is not to wait.

        Raises:
            NoResponders: the consumer is gone (only with ``confirm_s``).
            RequestTimeout: it was not confirmed in time; acknowledge again (only with ``confirm_s``).
        """

    async def progress(self) -> None:
        """Being worked on; the acknowledgement wait begins anew."""

    async def nak(self, delay_s: float = 0.0) -> None:
        """Not done; deliver it again after ``delay_s`` seconds."""

    async def term(self) -> None:
        """Can not be done; never deliver it again."""


class DurableConsumer(Protocol):
    """A named position in a stream that outlives its clients."""

    async def fetch(self, count: int, timeout_s: float) -> Sequence[DurableMessage]:
        """Return up to ``count`` messages; fewer, or none, when there are no more within ``timeout_s`` seconds.

        Not to be called twice at once on one consumer object; bind a second one for a second fetch in flight.
        """

    async def stop(self) -> Sequence[DurableMessage]:
        """Let go of it; its position stays on the server.

        Returns:
            What arrived after the last fetch had ended: to be given back, or it comes again only after the wait.
        """


class ConsumerStatus(msgspec.Struct, frozen=True):
    """What the server knows of a durable consumer.

    Attributes:
        name: its name.
        unacknowledged: messages that were delivered and have no `ack` or `term` yet.
        fetches: fetches that wait now; 0 where no client is there, or it has enough in hand.
        delivered: sequence number in the stream of the last message delivered; 0 before the first.
    """

    name: str
    unacknowledged: int
    fetches: int
    delivered: int


class StreamStatus(msgspec.Struct, frozen=True):
    """What a stream holds.

    Attributes:
        messages, size_bytes: how much it holds.
        last_sequence: of the last message that it took; 0 before the first.
    """

    messages: int
    size_bytes: int
    last_sequence: int


class Bus(Protocol):
    """One client of the message bus."""

    @property
    def connected(self) -> bool:
        """Whether the server can be reached now."""

    @property
    def max_payload(self) -> int:
        """The largest payload that the server takes, bytes."""

    @property
    def stats(self) -> BusStats:
        """A snapshot of the counters."""

    def on_state(self, listener: StateListener) -> Callable[[], None]:
        """Call ``listener(state, text)`` at every change and error; return a function that ends it.

        The listener is called from the event loop and must not block.
        """

    async def publish(
        self, subject: str, data: bytes, *, headers: Mapping[str, str] | None = None, reply: str = ""
    ) -> None:
        """Hand a message to the connection; waits only while the outbound buffer is full.

        Raises:
            OutboundFull: the server is away and the buffer is full.
            BusError: the subject, a header or the size of the payload is refused, or the bus is closed.
        """

    async def subscribe(
        self,
        subject: str,
        receive: Receive,
        *,
        queue: str = "",
        pending_messages: int = DEFAULT_PENDING_MESSAGES,
        pending_bytes: int = DEFAULT_PENDING_BYTES,
    ) -> Subscription:
        """Call ``receive`` with every message on a subject.

        Args:
            subject: a subject; ``*`` stands for one token, ``>`` for all that follow.
            receive: a function or coroutine function.
            queue: name of a queue group; each message goes to one of its members.
            pending_messages: messages that may wait for the callback before new ones are dropped.
            pending_bytes: the same in bytes; 0 is no limit.
        """

    async def request(
        self, subject: str, data: bytes, *, timeout_s: float, headers: Mapping[str, str] | None = None
    ) -> Message:
        """Publish and wait for the first answer.

        Raises:
            NoResponders: nobody is subscribed.
            RequestTimeout: no answer within ``timeout_s`` seconds.
        """

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
        """Publish one request and collect the answers of everybody.

        Args:
            subject: where to ask.
            data: the question.
            timeout_s: longest wait, s.
            at_most: return as soon as there are so many.
            idle_s: return when this long passed since the last answer, s.
            headers: header name → value.

        Returns:
            The answers in order of arrival; an empty list when nobody answered.
        """

    async def flush(self, timeout_s: float = 5.0) -> None:
        """Return when the server has taken in all that was published and subscribed before.

        Raises:
            BusError: not connected, or no answer within ``timeout_s`` seconds.
        """

    async def drain(self) -> None:
        """Handle what waits in every subscription, flush, and close."""

    async def close(self) -> None:
        """Close now. Calling it twice is no error."""

    async def key_value(self, bucket: str, *, history: int = 1, ttl_s: float = 0.0, memory: bool = False) -> KeyValue:
        """Bind to a bucket, made first if it is not there; an existing one keeps its configuration.

        Args:
            bucket: ``A-Z a-z 0-9 - _``.
            history: revisions kept for each key, 1-64.
            ttl_s: age at which entries vanish, s; 0 is never.
            memory: keep it in memory instead of on disk.
        """

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
        """Make a stream that stores what is published on its subjects, or bring it to this configuration.

        A stored message survives the end of the server's process; whether it survives a power failure depends on the
        server's ``sync_interval``: two minutes by default, ``always`` for the embedded server of `eddy_mesh.server`.

        Args:
            name: ``A-Z a-z 0-9 - _``.
            subjects: subjects or wildcards; no two streams may overlap.
            max_bytes: size limit; 0 is none.
            max_age_s: age limit, s; 0 is none.
            refuse_when_full: at ``max_bytes`` refuse new messages instead of dropping the oldest.
            duplicate_window_s: how long a message id is remembered, s.
            work_queue: forget a message as soon as it is acknowledged; each message goes to one consumer, so no two may
                want the same subject. Can not be changed later.
        """

    async def stream_status(self, name: str) -> StreamStatus | None:
        """Return what a stream holds, or None where there is none of that name."""

    async def delete_stream(self, name: str) -> None:
        """Delete a stream with all that it holds; one that is not there is no error."""

    async def publish_durable(
        self,
        subject: str,
        data: bytes,
        *,
        message_id: str,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 5.0,
    ) -> int:
        """Store a message in the stream of its subject and return its sequence number once it is stored.

        A ``message_id`` seen within the stream's duplicate window stores nothing and returns the number of the first.

        Raises:
            NoResponders: no stream takes this subject.
            RequestTimeout: not acknowledged in time; publish again with the same ``message_id``.
            StreamFull: the stream is at its limit and refuses.
            BusError: the stream refused it.
        """

    async def consume(
        self,
        stream: str,
        durable: str,
        *,
        filter_subject: str = "",
        filter_subjects: Sequence[str] = (),
        start_sequence: int | None = None,
        ack_wait_s: float = DEFAULT_ACK_WAIT_S,
    ) -> DurableConsumer:
        """Bind to a durable consumer, made first if it is not there; an existing one keeps its position.

        Args:
            stream: the stream.
            durable: name of the consumer, ``A-Z a-z 0-9 - _``.
            filter_subject: only messages on this subject or wildcard; "" is all.
            filter_subjects: instead of it: several of them, no two of which cover the same subject.
            start_sequence: where a new consumer begins; None is the oldest message.
            ack_wait_s: an unacknowledged message is delivered again after so long, s.

        Raises:
            BusError: there is no such stream, or, on a work queue, another consumer wants the same subjects.
        """

    async def consumers(self, stream: str) -> list[ConsumerStatus]:
        """Return the durable consumers of a stream, sorted by name; none where there is no such stream."""

    async def delete_consumer(self, stream: str, durable: str) -> None:
        """Delete a consumer; one that is not there is no error. On a work queue what it did not acknowledge stays."""


class ConnectOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to reach and log in to a NATS server. Use one of the credentials at most.

    Attributes:
        token: an authorization token.
        user, password: a user name and its password.
        nkey_seed_file: file that holds an nkey user seed (``SU...``).
        creds_file: file that holds a user JWT and its seed, as ``nsc`` writes it.
        tls: refuse to talk to a server without TLS; implied by ``tls://`` and by the next three.
        tls_ca_file: PEM file of the authorities that may sign the server's certificate; "" is the system's.
        tls_certificate_file, tls_key_file: PEM files of the client's own certificate.
        tls_first: make the TLS handshake before the server's greeting.
        inbox_prefix: where answers to this client's requests go; give each agent its own, with a permission.
        reconnect_wait_s, reconnect_wait_max_s: shortest and longest mean wait between attempts to reconnect, s.
        ping_interval_s: a silent server is given up after two of these, s.
        outbound_buffer_bytes: unsent bytes kept while the server is away.
        drain_timeout_s: longest wait of ``Bus.drain``, s.
    """

    token: str = ""
    user: str = ""
    password: str = ""
    nkey_seed_file: str = ""
    creds_file: str = ""
    tls: bool = False
    tls_ca_file: str = ""
    tls_certificate_file: str = ""
    tls_key_file: str = ""
    tls_first: bool = False
    inbox_prefix: str = "_INBOX"
    reconnect_wait_s: float = 0.2
    reconnect_wait_max_s: float = 5.0
    ping_interval_s: float = 20.0
    outbound_buffer_bytes: int = 8 * 1024 * 1024
    drain_timeout_s: float = 5.0
