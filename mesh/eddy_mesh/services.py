"""Discovery and request endpoints in the NATS micro-service convention, over the bus port.

What may live here: the ``$SRV`` answers and the wrapping of endpoints. No agent, no NATS library: the library's own
``micro`` puts every endpoint in one queue group, so a command could reach one instance only, and answers an
unhandled exception with its ``repr``.

Source: https://github.com/nats-io/nats-architecture-and-design ADR-32.
"""

from __future__ import annotations

import re
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from eddy_mesh.errors import BusError, EddyError, SecurityError, UsageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from eddy_mesh.bus import Bus, Message, Subscription

ERROR_HEADER = "Nats-Service-Error"
ERROR_CODE_HEADER = "Nats-Service-Error-Code"

_NAME = re.compile(r"[a-zA-Z0-9_-]+")
_VERSION = re.compile(r"\d+\.\d+\.\d+(?:-[0-9A-Za-z.-]+)?(?:\+[0-9A-Za-z.-]+)?")  # semver.org
_CODES: tuple[tuple[type[EddyError], str], ...] = ((UsageError, "400"), (SecurityError, "403"), (EddyError, "500"))


class ServiceError(EddyError):
    """An answer that is an error; an endpoint raises it, a caller gets it from `checked`.

    Attributes:
        code: three digits in the manner of HTTP.
        description: one line for a person.
    """

    def __init__(self, code: str, description: str) -> None:
        super().__init__(f"{code} {description}")
        self.code = code
        self.description = description


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One subject that a service answers.

    Attributes:
        name: shown by discovery; ``A-Z a-z 0-9 _ -``.
        subject: subject or wildcard to listen on.
        answer: takes the request and returns the answer; what it raises becomes an error answer.
        queue: queue group: one instance answers; "" is none: every instance does.
        metadata: shown by discovery.
    """

    name: str
    subject: str
    answer: Callable[[Message], Awaitable[bytes]]
    queue: str = ""
    metadata: dict[str, str] = {}


class EndpointInfo(msgspec.Struct, frozen=True):
    """An endpoint as ``INFO`` shows it."""

    name: str
    subject: str
    queue_group: str
    metadata: dict[str, str]


class EndpointStats(msgspec.Struct):
    """Counters of an endpoint; times in ns, ``data`` what the service adds of its own."""

    name: str
    subject: str
    queue_group: str
    num_requests: int = 0
    num_errors: int = 0
    last_error: str = ""
    processing_time: int = 0
    average_processing_time: int = 0
    data: dict[str, int | str] | None = None


class Ping(msgspec.Struct, frozen=True, kw_only=True):
    """Who a service is: the answer to ``PING`` and the head of the other answers."""

    type: str = "io.nats.micro.v1.ping_response"
    name: str
    id: str
    version: str
    metadata: dict[str, str]


class Info(Ping, frozen=True, kw_only=True):
    """The answer to ``INFO``."""

    type: str = "io.nats.micro.v1.info_response"
    description: str
    endpoints: list[EndpointInfo]


class Stats(Ping, frozen=True, kw_only=True):
    """The answer to ``STATS``; ``started`` is RFC 3339."""

    type: str = "io.nats.micro.v1.stats_response"
    started: str
    endpoints: list[EndpointStats]


class Service:
    """One instance of a service: answers discovery and its endpoints until it is stopped."""

    def __init__(
        self,
        bus: Bus,
        name: str,
        version: str,
        *,
        instance: str,
        description: str = "",
        metadata: Mapping[str, str] | None = None,
        endpoints: Sequence[Endpoint] = (),
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """Describe it; `start` announces it.

        Args:
            bus: where to answer.
            name: what it is, the same for all instances; ``A-Z a-z 0-9 _ -``.
            version: ``MAJOR.MINOR.PATCH``.
            instance: which one it is: the ``id`` of the protocol, unique, without dots and blanks.
            description: one line.
            metadata: shown by discovery; never changes.
            endpoints: what it answers.
            clock_ns: the time, ns since 1970 UTC.

        Raises:
            UsageError: a name, version or instance that the convention does not allow.
        """
        for kind, text in [("name", name), ("instance", instance), *(("endpoint", e.name) for e in endpoints)]:
            if not _NAME.fullmatch(text):
                raise UsageError(f"service {kind} {text!r}: use A-Z a-z 0-9 _ -")
        if not _VERSION.fullmatch(version):
            raise UsageError(f"service version {version!r}: write MAJOR.MINOR.PATCH, as in 1.0.2")
        self._bus = bus
        self._endpoints = tuple(endpoints)
        self._clock_ns = clock_ns
        self._description = description
        self._ping = Ping(name=name, id=instance, version=version, metadata=dict(metadata or {}))
        self._started = ""
        self._stats: list[EndpointStats] = []
        self._subscriptions: list[Subscription] = []

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Begin to answer; after it the server knows of every subject.

        Raises:
            BusError: the bus refused a subject, or its server is away; then nothing is answered.
        """
        moment = datetime.fromtimestamp(self._clock_ns() / 1e9, UTC)
        self._started = moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
        self._stats = [EndpointStats(e.name, e.subject, e.queue) for e in self._endpoints]
        try:
            await self._subscribe()
            await self._bus.flush()
        except BaseException:  # one that is cancelled too
            for subscription in self._taken():
                with suppress(BusError):  # why it did not start is told
                    await subscription.unsubscribe()
            raise

    async def _subscribe(self) -> None:
        for endpoint, stats in zip(self._endpoints, self._stats, strict=True):
            answering = self._answering(endpoint, stats)
            self._subscriptions.append(await self._bus.subscribe(endpoint.subject, answering, queue=endpoint.queue))
        for verb, document in (("PING", self.ping), ("INFO", self.info), ("STATS", self.stats)):
            describing = self._describing(document)
            for suffix in ("", f".{self._ping.name}", f".{self._ping.name}.{self._ping.id}"):
                self._subscriptions.append(await self._bus.subscribe(f"$SRV.{verb}{suffix}", describing))

    async def stop(self) -> None:
        """Answer what has arrived, then no more. Calling it twice is no error.

        Raises:
            BusError: the server is away; every subscription is ended all the same.
        """
        failed: BusError | None = None
        for subscription in self._taken():
            try:
                await subscription.drain()
            except BusError as error:
                failed = error
        if failed is not None:
            raise failed

    def _taken(self) -> list[Subscription]:
        subscriptions, self._subscriptions = self._subscriptions, []
        return subscriptions

    def ping(self) -> Ping:
        """Say who it is."""
        return self._ping

    def info(self) -> Info:
        """Say what it answers."""
        return Info(
            name=self._ping.name,
            id=self._ping.id,
            version=self._ping.version,
            metadata=self._ping.metadata,
            description=self._description,
            endpoints=[EndpointInfo(e.name, e.subject, e.queue, e.metadata) for e in self._endpoints],
        )

    def stats(self) -> Stats:
        """Say what it has answered since it was started."""
        return Stats(
            name=self._ping.name,
            id=self._ping.id,
            version=self._ping.version,
            metadata=self._ping.metadata,
            started=self._started,
            endpoints=self._stats,
        )

    def _describing(self, document: Callable[[], Ping]) -> Callable[[Message], Awaitable[None]]:
        async def describe(message: Message) -> None:
            if message.reply:
                await self._bus.publish(message.reply, msgspec.json.encode(document()))

        return describe

    def _answering(self, endpoint: Endpoint, stats: EndpointStats) -> Callable[[Message], Awaitable[None]]:
        async def answer(message: Message) -> None:
            began_ns = time.perf_counter_ns()
            data, headers = b"", {}
            try:
                data = await endpoint.answer(message)
            except Exception as error:  # noqa: BLE001 - the caller must get an answer whatever happened here
                refused = _refusal(error)
                stats.num_errors += 1
                stats.last_error = str(refused)
                headers = {ERROR_HEADER: refused.description, ERROR_CODE_HEADER: refused.code}
            stats.num_requests += 1
            stats.processing_time += time.perf_counter_ns() - began_ns
            stats.average_processing_time = stats.processing_time // stats.num_requests
            if message.reply:
                await self._bus.publish(message.reply, data, headers=headers)

        return answer


def checked(message: Message) -> Message:
    """Return an answer, unless it is an error.

    Raises:
        ServiceError: it is one.
    """
    code = message.headers.get(ERROR_CODE_HEADER)
    if code is None:
        return message
    raise ServiceError(code, message.headers.get(ERROR_HEADER, "no description"))


def _refusal(error: Exception) -> ServiceError:
    if isinstance(error, ServiceError):
        return error
    for kind, code in _CODES:
        if isinstance(error, kind):
            return ServiceError(code, " ".join(str(error).split()))
    # What an unforeseen exception says may be anything, secrets too.
    return ServiceError("500", f"internal error ({type(error).__name__}); see the log of the agent")
