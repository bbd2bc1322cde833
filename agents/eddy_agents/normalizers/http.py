"""Events posted over HTTP: one JSON value, or one line of text, is one raw event.

Takes in: POST with a JSON array, JSON lines, one JSON object, or text lines, by ``curl`` or any log shipper.
Gives: ``event.raw.application.json``.

A request is taken whole or not at all, and answered 200 ``{"accepted": n}`` only after its events were handed over.
While an edge is full, requests wait; when too many do, 503 asks the client to come again.

Source: RFC 9110, RFC 9112; RFC 6750 section 2.1 (bearer token).
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, suppress
from hmac import compare_digest
from http import HTTPStatus
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

from eddy_agents.wire import http1
from eddy_agents.wire.framing import LineFramer
from eddy_agents.wire.http1 import Head, HttpError
from eddy_mesh.admission import MAX_CONNECTIONS, MAX_CONNECTIONS_PER_PEER, Limits
from eddy_mesh.agent import Draft, Outlet
from eddy_mesh.batch import Kind
from eddy_mesh.cer import EventClass, Stage
from eddy_mesh.columns import Bytes, Column, Constant, Numbers, pack
from eddy_mesh.connections import Connection, StreamListener
from eddy_mesh.errors import ConfigError
from eddy_mesh.listening import Binding, PortTaken, bind, first_of, server_tls

OUTPUT = Kind(Stage.RAW, EventClass.APPLICATION, "json")
_JSON = "application/json"
_JSON_TYPES = frozenset(
    {
        "",
        _JSON,
        "application/x-ndjson",
        "application/ndjson",
        "application/jsonl",
        "application/x-www-form-urlencoded",  # what `curl --data` says of everything
    }
)
_READ_BYTES = 256 * 1024
_RETRY_AFTER_S = 1
_CHUNK_LINE_BYTES = 256


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the http source."""

    listen: tuple[str, ...] = ("127.0.0.1:8088",)
    """Endpoints: ADDRESS:PORT, [IPv6]:PORT, or *:PORT for every address of both families."""

    path: str = "/events"
    """Path that takes events."""

    token_file: str = ""
    """File whose first line is the bearer token that a client must show; "" for none."""

    tls_certificate_file: str = ""
    """PEM certificate chain; "" for plain HTTP."""

    tls_key_file: str = ""
    """PEM private key; "" when it is in the certificate file."""

    tls_ca_file: str = ""
    """PEM authorities; when given, a client must show a certificate signed by one of them."""

    port_taken: PortTaken = PortTaken.WARN
    """``warn``: use another port when one is taken, and say so; ``fail``: stop."""

    fallback_ports: tuple[Annotated[int, msgspec.Meta(ge=1, le=65535)], ...] = ()
    """Ports to try when one is taken, before the next free one."""

    max_body_bytes: Annotated[int, msgspec.Meta(ge=1)] = 8 * 1024 * 1024
    """Longest body of a request."""

    max_waiting_bytes: Annotated[int, msgspec.Meta(ge=1)] = 64 * 1024 * 1024
    """Bodies in memory together; a request beyond is answered 503."""

    max_connections: Annotated[int, msgspec.Meta(ge=1)] = MAX_CONNECTIONS
    """Connections open at a time; one more is closed at once, counted, with a notice."""

    max_connections_per_peer: Annotated[int, msgspec.Meta(ge=1)] = MAX_CONNECTIONS_PER_PEER
    """Those of one peer: an IPv4 address or an IPv6 /64; a proxy before this one is one peer."""

    head_wait_s: Annotated[float, msgspec.Meta(gt=0)] = 30.0
    """How long a connection may be quiet before and within the head of a request."""

    body_wait_s: Annotated[float, msgspec.Meta(gt=0)] = 60.0
    """How long a body may take to arrive, and an answer to be read."""


class Source:
    """Serves the endpoint."""

    def __init__(self, config: Config) -> None:
        self._config = config

    async def run(self, outlet: Outlet) -> None:
        """Take requests until cancelled; a request that has no answer then was not accepted.

        Raises:
            ConfigError: an address is not one of this host, or a token or TLS file is of no use.
            OSError: a port is taken and that is to be a failure, or a socket failed.
        """
        config = self._config
        tls = server_tls(config.tls_certificate_file, config.tls_key_file, config.tls_ca_file)
        service = _Service(config, outlet, _token(config.token_file))
        binding = Binding("tcp", config.port_taken, config.fallback_ports)
        limits = Limits(_READ_BYTES, config.max_connections, config.max_connections_per_peer, first_wait_s=0)
        listener = StreamListener(outlet, limits, service.attend)
        with ExitStack() as opened:
            sockets = [opened.enter_context(bind(text, binding, outlet)) for text in config.listen]
            try:
                await listener.serve((bound, tls) for bound in sockets)
            except* OSError as failed:
                raise first_of(failed) from failed


def _token(path: str) -> bytes:
    if not path:
        return b""
    try:
        token = Path(path).read_bytes().partition(b"\n")[0].strip()
    except OSError as error:
        raise ConfigError(
            [f"token_file: {path} can not be read ({error.strerror}): check the path and its rights"]
        ) from error
    if not token:
        raise ConfigError([f"token_file: the first line of {path} is empty: write the token there"])
    return token


class _Service:
    """Requests and what they are answered."""

    def __init__(self, config: Config, outlet: Outlet, token: bytes) -> None:
        self._config = config
        self._outlet = outlet
        self._token = token
        self._waiting_bytes = 0

    async def attend(self, connection: Connection) -> None:
        """Serve the requests of one connection, one after the other."""
        reader, writer = connection.reader, connection.writer
        sender = {"host_address": connection.address, "source.port": connection.port}
        keeps_alive, is_first = True, True
        while keeps_alive:
            try:
                head = await self._next_head(reader, is_first=is_first)
                if head is None:
                    return
                self._check(head)
                accepted = await self._accept(head, reader, writer, sender)
            except HttpError as error:
                if error.status is HTTPStatus.REQUEST_TIMEOUT:
                    connection.idle()
                writer.write(_refusal(error))
                await _close_gently(reader, writer)
                return
            keeps_alive, is_first = head.keeps_alive, False
            body = msgspec.json.encode({"accepted": accepted})
            writer.write(http1.answer(HTTPStatus.OK, body, keeps_alive=keeps_alive))
            async with asyncio.timeout(self._config.body_wait_s):  # a client may send for ever and read nothing
                await writer.drain()

    async def _next_head(self, reader: asyncio.StreamReader, *, is_first: bool) -> Head | None:
        """Return the next request's head, None when the client has closed or asks for no more."""
        try:
            async with asyncio.timeout(self._config.head_wait_s):
                return await _read_head(reader)
        except TimeoutError as error:
            if is_first:
                raise HttpError(HTTPStatus.REQUEST_TIMEOUT, "the request head did not arrive in time") from error
            return None

    def _check(self, head: Head) -> None:
        """Refuse what is to be refused before the body is read."""
        if head.path != self._config.path:
            raise HttpError(HTTPStatus.NOT_FOUND, f"{head.path[:80]!r}: post events to {self._config.path}")
        if head.method != "POST":
            raise HttpError(HTTPStatus.METHOD_NOT_ALLOWED, f"{head.method[:20]}: only POST is served")
        if self._token:
            scheme, _, shown = head.fields.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not compare_digest(shown.strip().encode("latin-1"), self._token):
                raise HttpError(HTTPStatus.UNAUTHORIZED, "show the token: authorization: Bearer TOKEN")
        if head.fields.get("content-encoding", "identity").lower() != "identity":
            raise HttpError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "content-encoding: send the body as it is")
        if head.media_type not in _JSON_TYPES and not head.media_type.startswith("text/"):
            raise HttpError(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"{head.media_type[:40]}: send application/json or text/plain"
            )

    async def _accept(
        self,
        head: Head,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        sender: dict[str, str | int | None],
    ) -> int:
        """Read a body and emit its events; return their number."""
        length = http1.body_bytes(head, self._config.max_body_bytes)
        reserved = self._config.max_body_bytes if length == http1.CHUNKED else length
        if self._waiting_bytes and self._waiting_bytes + reserved > self._config.max_waiting_bytes:
            raise HttpError(HTTPStatus.SERVICE_UNAVAILABLE, "too much is waiting to be taken: send it again later")
        self._waiting_bytes += reserved
        try:
            if head.expects_continue:
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            body = await self._read_body(reader, length)
            payloads, media_type = split_body(body, head.media_type)
            if len(payloads):
                await self._outlet.emit(_draft(payloads, media_type, sender, self._outlet.now_ns()))
            return len(payloads)
        finally:
            self._waiting_bytes -= reserved

    async def _read_body(self, reader: asyncio.StreamReader, length: int) -> bytes:
        try:
            async with asyncio.timeout(self._config.body_wait_s):
                if length == http1.CHUNKED:
                    return await _read_chunks(reader, self._config.max_body_bytes)
                return await reader.readexactly(length)
        except asyncio.IncompleteReadError as error:
            raise HttpError(HTTPStatus.BAD_REQUEST, f"the body ended after {len(error.partial)} bytes") from error
        except TimeoutError as error:
            raise HttpError(HTTPStatus.REQUEST_TIMEOUT, "the body did not arrive in time") from error


def _refusal(error: HttpError) -> bytes:
    fields = {
        HTTPStatus.METHOD_NOT_ALLOWED: {"allow": "POST"},
        HTTPStatus.UNAUTHORIZED: {"www-authenticate": "Bearer"},
        HTTPStatus.SERVICE_UNAVAILABLE: {"retry-after": str(_RETRY_AFTER_S)},
    }.get(error.status)
    body = msgspec.json.encode({"error": str(error).removeprefix("http: ")})
    return http1.answer(error.status, body, keeps_alive=False, fields=fields)


async def _close_gently(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Let the client read its answer: a close while it still sends is a reset (RFC 9112 section 9.6)."""
    with suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(_RETRY_AFTER_S):
            await writer.drain()
            if writer.can_write_eof():
                writer.write_eof()
            while await reader.read(_READ_BYTES):
                pass


async def _read_head(reader: asyncio.StreamReader) -> Head | None:
    """Return the next request's head, None when the client has closed."""
    try:
        data = await reader.readuntil(http1.HEAD_END)
    except asyncio.IncompleteReadError as error:
        if error.partial.strip():
            raise HttpError(HTTPStatus.BAD_REQUEST, "the connection ended within a request head") from error
        return None
    except asyncio.LimitOverrunError:
        data = bytes(http1.MAX_HEAD_BYTES + 1)
    if len(data) > http1.MAX_HEAD_BYTES:
        raise HttpError(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"a request head has {http1.MAX_HEAD_BYTES} bytes at most"
        )
    return http1.parse_head(data.removesuffix(http1.HEAD_END))


async def _read_chunks(reader: asyncio.StreamReader, max_bytes: int) -> bytes:
    """Return a chunked body; trailer fields are read and left out (RFC 9112 section 7.1.2)."""
    parts: list[bytes] = []
    total = 0
    while size := http1.chunk_bytes(await _read_line(reader)):
        total += size
        if total > max_bytes:
            raise HttpError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a body of more than {max_bytes} bytes: send it in parts"
            )
        parts.append(await reader.readexactly(size))
        if (await _read_line(reader)).strip():
            raise HttpError(HTTPStatus.BAD_REQUEST, "a chunk is longer than it says")
    trailers = 0
    while line := (await _read_line(reader)).strip():
        trailers += len(line)
        if trailers > http1.MAX_HEAD_BYTES:
            raise HttpError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the trailer fields are too long")
    return b"".join(parts)


async def _read_line(reader: asyncio.StreamReader) -> bytes:
    try:
        line = await reader.readuntil(b"\n")
    except asyncio.LimitOverrunError as error:
        raise HttpError(HTTPStatus.BAD_REQUEST, "a chunk's first line is too long") from error
    if len(line) > _CHUNK_LINE_BYTES:
        raise HttpError(HTTPStatus.BAD_REQUEST, "a chunk's first line is too long")
    return line


def split_body(body: bytes, media_type: str) -> tuple[Bytes, str]:
    """Return the payloads that a body holds, and their media type.

    Args:
        body: of a request.
        media_type: that the client says; ``text/...`` is lines of text, anything else JSON: an array gives its
            members, else lines of one value each, else the body is one value.

    Raises:
        HttpError: the body is not JSON, though it should be; nothing of it is taken.
    """
    if media_type.startswith("text/"):
        framer = LineFramer(max(len(body), 1))
        lines = framer.feed(body + b"\n")
        return lines.payloads, "text/plain"
    if not body.strip():
        return Bytes(*pack([])), _JSON
    try:
        return Bytes(*pack([bytes(value) for value in _json_values(body)])), _JSON
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise HttpError(HTTPStatus.BAD_REQUEST, f"the body is not JSON: {error}") from error


def _json_values(body: bytes) -> list[msgspec.Raw]:
    if body.lstrip()[:1] == b"[":
        return msgspec.json.decode(body, type=list[msgspec.Raw])
    try:
        return msgspec.json.Decoder(msgspec.Raw).decode_lines(body)
    except msgspec.DecodeError:
        return [msgspec.json.decode(body, type=msgspec.Raw)]  # one value over several lines


def _draft(payloads: Bytes, media_type: str, sender: dict[str, str | int | None], now_ns: int) -> Draft:
    count = len(payloads)
    columns: dict[str, Column] = {
        "event.original": payloads,
        "raw.media_type": Constant(media_type, count),
        "observed": Numbers(np.full(count, now_ns, np.int64)),
    }
    columns |= {name: Constant(value, count) for name, value in sender.items() if value is not None}
    return Draft(OUTPUT, count, columns)
