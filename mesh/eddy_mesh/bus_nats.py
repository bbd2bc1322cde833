"""The NATS adapter of the bus port: one connection, kept for ever.

What may live here: the connection, core NATS, and what connecting needs. JetStream is in ``bus_nats_streams``.

The client library is told to never give up, to wait between attempts with jitter, and to say nothing for minutes on
end about a server that is not there: a look at the server's greeting comes first, and says what is wrong.

Source: https://docs.nats.io/reference/reference-protocols/nats-protocol (INFO, CONNECT, status 503).
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import random
import ssl
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import nats.errors
from nats.aio.client import Client, Server

from eddy_mesh import bus_nats_streams as streams
from eddy_mesh.bus import (
    DEFAULT_ACK_WAIT_S,
    DEFAULT_DUPLICATE_WINDOW_S,
    DEFAULT_PENDING_BYTES,
    DEFAULT_PENDING_MESSAGES,
    BusState,
    BusStats,
    ConnectOptions,
    Listeners,
    Message,
    NoResponders,
)
from eddy_mesh.errors import BusError, ConfigError
from eddy_mesh.nats_servers import Unreachable, first_usable, parse_servers, tls_context
from eddy_mesh.nkeys import credentials, user_key
from eddy_mesh.replies import gather_replies

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription as LibrarySubscription

    from eddy_mesh.bus import ConsumerStatus, Receive, StateListener, StreamStatus
    from eddy_mesh.nats_servers import ServerAddress

FLUSH_WAIT_S = 10  # a publish that waits for a full buffer is let go after this, and counted
CLOSE_WAIT_S = 1
STEP_WAIT_S = 5  # for each of TCP, TLS and log in when connecting again


async def connect(
    servers: str | Sequence[str],
    *,
    name: str = "",
    options: ConnectOptions | None = None,
    connect_timeout_s: float = 5.0,
    away: Callable[[str], None] | None = None,
) -> NatsBus:
    """Connect to NATS.

    Args:
        servers: one or more of ``[nats://|tls://][USER:PASSWORD@|TOKEN@]HOST[:PORT]``, tried in this order.
        name: shown for this connection in the server's monitoring.
        options: credentials, TLS and limits.
        connect_timeout_s: longest wait, s.
        away: told why no server can be reached, instead of an error: the bus is then as one that has lost its
            connection, keeps what is published and subscribed, and connects as soon as a server is there.

    Returns:
        A connected bus. From here on it reconnects for ever by itself.

    Raises:
        ConfigError: an address or a file of the options can not be used.
        Unreachable: no server answers; says why for each. Not with ``away``.
        BusError: a server refuses the credentials, or is none; says which and why.
    """
    chosen = options or ConnectOptions()
    addresses = parse_servers([servers] if isinstance(servers, str) else servers)
    context = tls_context(chosen, addresses)
    first = None
    try:
        first = await first_usable(addresses, chosen, tls_wanted=context is not None, timeout_s=connect_timeout_s)
    except Unreachable as error:
        if away is None:
            raise
        away(str(error))
    bus = NatsBus(chosen)
    try:
        async with asyncio.timeout(connect_timeout_s):
            await bus.start(first, addresses, name=name, context=context)
    except TimeoutError as error:
        raise BusError(
            f"{first}: greets, but gives no answer within {connect_timeout_s:g} s; is it overloaded?"
        ) from error
    return bus


class _Client(Client):
    """The library's client, which can begin without a server, and hears on when who waited for its PING is gone.

    Attributes:
        is_put_off: `connect` is to return at once and leave the client as after a lost connection: it tries for ever.
    """

    is_put_off = False

    async def _select_next_server(self) -> None:
        if self.is_put_off:
            self._current_server = self._server_pool[0]
        else:
            await super()._select_next_server()

    async def _process_connect_init(self) -> None:
        if not self.is_put_off:
            await super()._process_connect_init()
            return
        self.is_put_off = False
        self._status = Client.CONNECTING
        self.options["allow_reconnect"] = True
        await self._process_op_err(ConnectionError("no server can be reached"))  # begins to try again

    def _connect_command(self) -> bytes:
        if "tls" in self.options and not (self.options["tls_handshake_first"] or self._server_info.get("tls_required")):
            raise nats.errors.Error("nats: the server goes on in clear text, and TLS was asked for")
        return super()._connect_command()

    async def _process_pong(self) -> None:
        # In nats-py 2.16 the answer to a cancelled flush() ends the read loop, and with it everything, without a word.
        if self._pongs and self._pongs[0].done():
            del self._pongs[0]
            self._pings_outstanding = 0
        else:
            await super()._process_pong()

    async def end_reconnecting(self) -> None:
        """See that it tries no more to connect: `close` cancels that once, which is lost where an answer just came."""
        task = self._reconnection_task
        while task is not None and not task.done() and task is not asyncio.current_task():
            task.cancel()
            await asyncio.wait({task}, timeout=0.1)


class NatsBus:
    """A NATS connection; see ``eddy_mesh.bus.Bus``. Made by `connect`."""

    def __init__(self, options: ConnectOptions) -> None:
        self._options = options
        self._client = _Client()
        self._js = self._client.jetstream()
        self._errors: Counter[str] = Counter()
        self._listeners = Listeners(self._errors)
        self._dropped: Counter[LibrarySubscription] = Counter()
        self._subscriptions: set[NatsSubscription] = set()
        self._buckets: dict[str, streams.NatsKeyValue] = {}
        self._closing = False
        self._was_reached = False

    async def start(
        self,
        first: ServerAddress | None,
        addresses: Sequence[ServerAddress],
        *,
        name: str,
        context: ssl.SSLContext | None,
    ) -> None:
        """Make the connection; called once, by `connect`.

        Args:
            first: a server that has just answered; None where none does: it is looked for from now on.
            addresses: all servers, for later.
            name: name of the connection.
            context: TLS settings, or None for none.

        Raises:
            BusError: the server refused.
        """
        options = self._options
        login = self._login()
        self._client.is_put_off = first is None
        self._was_reached = first is not None
        first = first or addresses[0]
        try:
            await self._client.connect(
                servers=[first.url],
                name=name or None,
                error_cb=self._on_error,
                disconnected_cb=self._on_disconnected,
                reconnected_cb=self._on_reconnected,
                closed_cb=self._on_closed,
                # The first attempt must fail at once: with reconnecting on, refused credentials are tried for ever.
                allow_reconnect=False,
                max_reconnect_attempts=-1,
                reconnect_time_wait=CLOSE_WAIT_S,
                reconnect_to_server_handler=self._next_server,
                connect_timeout=STEP_WAIT_S,
                ping_interval=options.ping_interval_s,  # type: ignore[arg-type]  # it takes parts of a second
                dont_randomize=True,
                tls=context,
                tls_handshake_first=options.tls_first,
                inbox_prefix=options.inbox_prefix,
                pending_size=options.outbound_buffer_bytes,
                flush_timeout=FLUSH_WAIT_S,
                **login,
            )
        except BaseException as error:
            self._closing = True
            await self._client.close()
            if isinstance(error, (nats.errors.Error, OSError)) and not isinstance(error, TimeoutError):
                raise _refusal(error, first) from error
            raise
        self._client.options["allow_reconnect"] = True
        known = {url.netloc for url in self._client.servers}  # the server may have told of others in its cluster
        others = [address.url for address in addresses if address != first and address.url.split("//")[1] not in known]
        if others:
            self._client.set_server_pool([url.geturl() for url in self._client.servers] + others)

    def _login(self) -> dict[str, Any]:
        options = self._options
        if options.creds_file:
            jwt, key = credentials(_read(options.creds_file, "creds_file"))
            return {"user_jwt_cb": jwt.encode, "signature_cb": key.sign}
        if options.nkey_seed_file:
            key = user_key(_read(options.nkey_seed_file, "nkey_seed_file"))
            # The library sets this only through PyNaCl, which is one dependency more for the same signature.
            self._client._public_nkey = key.public_key  # noqa: SLF001  # there is no public way
            return {"signature_cb": key.sign}
        return {
            "token": options.token or None,
            "user": options.user or None,
            "password": options.password or None,
        }

    # ------------------------------------------------------------------------------------------ state

    @property
    def connected(self) -> bool:
        """Whether the server can be reached now."""
        return self._client.is_connected

    @property
    def max_payload(self) -> int:
        """The largest payload that the server takes, bytes."""
        return self._client.max_payload

    @property
    def stats(self) -> BusStats:
        """A snapshot of the counters."""
        counted = self._client.stats
        return BusStats(
            reconnects=counted["reconnects"],
            errors=dict(self._errors),
            sent_messages=counted["out_msgs"],
            sent_bytes=counted["out_bytes"],
            received_messages=counted["in_msgs"],
            received_bytes=counted["in_bytes"],
        )

    def on_state(self, listener: StateListener) -> Callable[[], None]:
        """Call ``listener(state, text)`` at every change and error; return a function that ends it."""
        return self._listeners.add(listener)

    def _count(self, kind: str) -> None:
        self._errors[kind] += 1

    async def _on_error(self, error: Exception) -> None:
        # Called once for each dropped message: counting is all there is time for.
        if isinstance(error, nats.errors.SlowConsumerError):
            self._errors["slow_consumer"] += 1
            self._dropped[error.sub] += 1
            return
        kind = _kind(error)
        self._errors[kind] += 1
        if kind in {"permission", "protocol", "tls"}:
            self._listeners.tell(BusState.ERROR, str(error).removeprefix("nats: "))

    async def _on_disconnected(self) -> None:
        if not self._closing:
            self._listeners.tell(BusState.DISCONNECTED, "the server is away; trying again")

    async def _on_reconnected(self) -> None:
        self._was_reached = True
        self._listeners.tell(BusState.CONNECTED, f"connected to {self._where()}")
        for bucket in self._buckets.values():
            for watch in tuple(bucket.watches):
                await watch.rebind()

    async def _on_closed(self) -> None:
        reason = "" if self._closing else f" by the server: {self._client.last_error}"
        self._listeners.tell(BusState.CLOSED, f"the connection is closed{reason}")

    def _where(self) -> str:
        url = self._client.connected_url
        return "a server" if url is None else f"{url.hostname}:{url.port}"

    def _next_server(self, servers: list[Server], _info: dict[str, Any]) -> tuple[Server | None, float]:
        server = min(servers, key=lambda candidate: candidate.reconnects)
        mean = min(self._options.reconnect_wait_s * 2 ** min(server.reconnects, 16), self._options.reconnect_wait_max_s)
        # A thousand agents that lost one server must not come back in the same millisecond.
        return server, mean * random.uniform(0.5, 1.5)  # noqa: S311  # no secret

    # ------------------------------------------------------------------------------------------ messages

    async def publish(
        self, subject: str, data: bytes, *, headers: Mapping[str, str] | None = None, reply: str = ""
    ) -> None:
        """Hand a message to the connection; waits only while the outbound buffer is full."""
        with streams.mapped(subject):
            await self._client.publish(subject, data, reply, dict(headers) if headers else None)

    async def subscribe(
        self,
        subject: str,
        receive: Receive,
        *,
        queue: str = "",
        pending_messages: int = DEFAULT_PENDING_MESSAGES,
        pending_bytes: int = DEFAULT_PENDING_BYTES,
    ) -> NatsSubscription:
        """Call ``receive`` with every message on a subject."""

        async def deliver(message: Msg) -> None:
            try:
                waiting = receive(_message(message))
                if inspect.isawaitable(waiting):
                    await waiting
            except Exception as error:  # noqa: BLE001 - the next message must still be delivered
                self._errors["receive"] += 1
                self._listeners.tell(BusState.ERROR, f"the callback of {subject} raised {error!r}")

        with streams.mapped(subject):
            bound = await self._client.subscribe(
                subject, queue, deliver, pending_msgs_limit=pending_messages, pending_bytes_limit=pending_bytes
            )
        subscription = NatsSubscription(bound, self._dropped, self._subscriptions.discard)
        self._subscriptions.add(subscription)
        return subscription

    async def request(
        self, subject: str, data: bytes, *, timeout_s: float, headers: Mapping[str, str] | None = None
    ) -> Message:
        """Publish and wait for the first answer."""
        self._check_reached(subject)
        with streams.mapped(subject):
            answer = await self._client.request(
                subject, data, timeout=timeout_s, headers=dict(headers) if headers else None
            )
        return _message(answer)

    def _check_reached(self, what: str) -> None:
        """Refuse at once what would wait in vain: who starts without a server must not wait for each of its parts."""
        if not self._was_reached:
            raise BusError(f"{what}: the server is away; ask again when it is there")

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
        if not self._was_reached:
            return []
        inbox = self._client.new_inbox()
        try:
            return await gather_replies(
                self, inbox, subject, data, timeout_s=timeout_s, at_most=at_most, idle_s=idle_s, headers=headers
            )
        except NoResponders:
            return []

    async def flush(self, timeout_s: float = 5.0) -> None:
        """Return when the server has taken in all that was published and subscribed before."""
        if not self._client.is_connected:
            raise BusError("not connected: nothing can be flushed until the server is back")
        with streams.mapped("flush"):
            # The library's flush sends its PING ahead of what it still holds back.
            await self._client._flush_pending(force_flush=True)  # noqa: SLF001  # there is no public way
            await self._client.flush(timeout_s)  # type: ignore[arg-type]  # it takes parts of a second

    async def drain(self) -> None:
        """Handle what waits in every subscription, flush, and close."""
        # The library's own drain raises CancelledError when it takes too long.
        draining = [asyncio.create_task(subscription.drain()) for subscription in self._subscriptions]
        if draining and self.connected:
            _, late = await asyncio.wait(draining, timeout=self._options.drain_timeout_s)
            if late:
                self._errors["drain"] += len(late)
        for task in draining:
            task.cancel()
        await asyncio.gather(*draining, return_exceptions=True)
        with contextlib.suppress(BusError):  # the server is away: what was buffered is lost with the connection
            await self.flush(self._options.drain_timeout_s)
        await self.close()

    async def close(self) -> None:
        """Close now."""
        self._closing = True
        for bucket in self._buckets.values():
            for watch in tuple(bucket.watches):
                await watch.stop()
        self._subscriptions.clear()
        try:
            await self._client.close()
            await self._client.end_reconnecting()
        except (OSError, RuntimeError):  # uvloop says the latter of a transport that is gone
            self._errors["connection"] += 1

    # ------------------------------------------------------------------------------------------ JetStream

    async def key_value(
        self, bucket: str, *, history: int = 1, ttl_s: float = 0.0, memory: bool = False
    ) -> streams.NatsKeyValue:
        """Bind to a bucket, made first if it is not there."""
        if bucket not in self._buckets:
            self._check_reached(f"bucket {bucket}")
            self._buckets[bucket] = await streams.bind_bucket(
                self._js, bucket, history=history, ttl_s=ttl_s, memory=memory, count=self._count
            )
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
        await streams.ensure_stream(
            self._js,
            name,
            subjects,
            max_bytes=max_bytes,
            max_age_s=max_age_s,
            refuse_when_full=refuse_when_full,
            duplicate_window_s=duplicate_window_s,
            work_queue=work_queue,
        )

    async def stream_status(self, name: str) -> StreamStatus | None:
        """Return what a stream holds, or None."""
        return await streams.stream_status(self._js, name)

    async def delete_stream(self, name: str) -> None:
        """Delete a stream."""
        await streams.delete_stream(self._js, name)

    async def publish_durable(
        self,
        subject: str,
        data: bytes,
        *,
        message_id: str,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 5.0,
    ) -> int:
        """Store a message and return its sequence number once it is stored."""
        return await streams.publish_durable(
            self._js, subject, data, message_id=message_id, headers=headers, timeout_s=timeout_s
        )

    async def consume(
        self,
        stream: str,
        durable: str,
        *,
        filter_subject: str = "",
        filter_subjects: Sequence[str] = (),
        start_sequence: int | None = None,
        ack_wait_s: float = DEFAULT_ACK_WAIT_S,
    ) -> streams.NatsConsumer:
        """Bind to a durable consumer, made first if it is not there."""
        return await streams.bind_consumer(
            self._js,
            stream,
            durable,
            filters=filter_subjects or ((filter_subject,) if filter_subject else ()),
            start_sequence=start_sequence,
            ack_wait_s=ack_wait_s,
        )

    async def consumers(self, stream: str) -> list[ConsumerStatus]:
        """Return the durable consumers of a stream."""
        return await streams.consumers(self._js, stream)

    async def delete_consumer(self, stream: str, durable: str) -> None:
        """Delete a consumer."""
        await streams.delete_consumer(self._js, stream, durable)


class NatsSubscription:
    """Interest in a subject; see ``eddy_mesh.bus.Subscription``."""

    def __init__(
        self,
        bound: LibrarySubscription,
        dropped: Counter[LibrarySubscription],
        forget: Callable[[NatsSubscription], None],
    ) -> None:
        self._bound = bound
        self._dropped = dropped
        self._forget = forget
        self._ended_dropped = 0

    @property
    def subject(self) -> str:
        """The subject or wildcard subscribed to."""
        return self._bound.subject

    @property
    def pending(self) -> int:
        """Messages that wait for their callback."""
        return self._bound.pending_msgs

    @property
    def dropped(self) -> int:
        """Messages thrown away because ``pending`` was at its limit."""
        return self._ended_dropped + self._dropped.get(self._bound, 0)

    async def unsubscribe(self) -> None:
        """End it now."""
        await self._end(drain=False)

    async def drain(self) -> None:
        """End it after the waiting messages were handled."""
        await self._end(drain=True)

    async def _end(self, *, drain: bool) -> None:
        try:
            with streams.mapped(self.subject):
                await self._end_bound(drain=drain)
        finally:
            self._ended_dropped += self._dropped.pop(self._bound, 0)
            self._forget(self)

    async def _end_bound(self, *, drain: bool) -> None:
        with contextlib.suppress(nats.errors.BadSubscriptionError, nats.errors.ConnectionClosedError):  # ended before
            if drain:
                await self._bound.drain()  # type: ignore[no-untyped-call]  # the library's
            else:
                await self._bound.unsubscribe()


def _message(message: Msg) -> Message:
    return Message(message.subject, message.data, message.headers or {}, message.reply)


def _kind(error: Exception) -> str:
    if "permissions violation" in str(error):
        return "permission"
    if isinstance(error, nats.errors.FlushTimeoutError):
        return "flush_timeout"
    if isinstance(error, ssl.SSLCertVerificationError):
        return "tls"
    connection = (OSError, nats.errors.StaleConnectionError, nats.errors.AuthorizationError)
    return "connection" if isinstance(error, connection) else "protocol"


def _read(path: str, key: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{key}={path}: can not be read: {error}; give the path of a readable file"]) from error


def _refusal(error: Exception, where: ServerAddress) -> BusError:
    text = str(error).removeprefix("nats: ").strip("'")
    if "authorization violation" in text.lower():
        return BusError(f"{where} refused the credentials; check token, user, nkey or creds file", retryable=False)
    if isinstance(error, ssl.SSLError):
        return BusError(f"{where}: TLS handshake failed: {text}; check tls_ca_file and the host name", retryable=False)
    return BusError(f"{where}: can not connect: {text or type(error).__name__}")
