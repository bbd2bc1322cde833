"""Syslog over UDP, TCP, TLS and unix sockets: one message is one raw event, whatever is in it.

Takes in: one message a datagram on UDP and unix datagram sockets; octet-counted or line-framed messages on streams,
told apart for each connection. Gives: ``event.raw.system.syslog``.

Source: RFC 5426 (UDP), RFC 6587 (TCP), RFC 5425 (TLS).
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

from eddy_agents.wire.framing import MAX_FRAME_BYTES, Frames, SyslogFramer
from eddy_mesh.admission import FIRST_WAIT_S, MAX_CONNECTIONS, MAX_CONNECTIONS_PER_PEER, Limits
from eddy_mesh.agent import Draft, Outlet
from eddy_mesh.batch import Kind
from eddy_mesh.cer import EventClass, Stage, Value
from eddy_mesh.columns import Column, Constant, Numbers
from eddy_mesh.connections import Connection, StreamListener
from eddy_mesh.datagrams import take_in
from eddy_mesh.errors import ConfigError
from eddy_mesh.listening import (
    Binding,
    Pace,
    PortTaken,
    bind,
    clear_stale_socket,
    emit_last,
    emit_or_count,
    first_of,
    rest_of,
    server_tls,
)

OUTPUT = Kind(Stage.RAW, EventClass.SYSTEM, "syslog")
MEDIA_TYPE = "text/plain"
_READ_BYTES = 1024 * 1024
_TOGETHER_BYTES = 64 * 1024 * 1024
_UNIX_MODE = 0o666  # as /dev/log: every program of the host may log


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the syslog source."""

    listen_udp: tuple[str, ...] = ("*:5514",)
    """UDP endpoints: ADDRESS:PORT, [IPv6]:PORT, or *:PORT for every address of both families."""

    listen_tcp: tuple[str, ...] = ("*:5514",)
    """TCP endpoints, written as for UDP."""

    listen_tls: tuple[str, ...] = ()
    """TLS endpoints (usual port 6514); they need ``tls_certificate_file``."""

    unix_datagram: str = ""
    """Path of a unix datagram socket to make, as /dev/log; "" for none."""

    unix_stream: str = ""
    """Path of a unix stream socket to make; "" for none."""

    tls_certificate_file: str = ""
    """PEM certificate chain of this listener."""

    tls_key_file: str = ""
    """PEM private key; "" when it is in the certificate file."""

    tls_ca_file: str = ""
    """PEM authorities; when given, a sender must show a certificate signed by one of them."""

    port_taken: PortTaken = PortTaken.WARN
    """``warn``: use another port when one is taken, and say so; ``fail``: stop."""

    fallback_ports: tuple[Annotated[int, msgspec.Meta(ge=1, le=65535)], ...] = ()
    """Ports to try when one is taken, before the next free one."""

    reuse_port: bool = False
    """Share the UDP and TCP ports with other processes that do the same."""

    max_connections: Annotated[int, msgspec.Meta(ge=1)] = MAX_CONNECTIONS
    """TCP and TLS connections open at a time, and unix ones; one more is closed at once, counted, with a notice."""

    max_connections_per_peer: Annotated[int, msgspec.Meta(ge=1)] = MAX_CONNECTIONS_PER_PEER
    """Those of one peer: an IPv4 address or an IPv6 /64."""

    first_message_wait_s: Annotated[float, msgspec.Meta(gt=0)] = FIRST_WAIT_S
    """A connection that sent no whole message for so long is closed; after its first it may be quiet for days."""

    max_line_bytes: Annotated[int, msgspec.Meta(ge=480)] = MAX_FRAME_BYTES
    """Longest message on a stream; of a longer one the beginning is taken and the rest skipped, with a notice."""


class Source:
    """Receives syslog messages."""

    def __init__(self, config: Config) -> None:
        self._config = config

    async def run(self, outlet: Outlet) -> None:
        """Emit each message until cancelled.

        Raises:
            ConfigError: an address is not one of this host, a socket path is in use, or a TLS file is of no use.
            OSError: a port is taken and that is to be a failure, or a socket failed.
        """
        config = self._config
        tls = server_tls(config.tls_certificate_file, config.tls_key_file, config.tls_ca_file)
        if config.listen_tls and tls is None:
            raise _no_certificate()
        udp = Binding("udp", config.port_taken, config.fallback_ports, config.reuse_port)
        tcp = Binding("tcp", config.port_taken, config.fallback_ports, config.reuse_port)
        attend = _Streams(outlet, config.max_line_bytes).attend
        limits = Limits(
            _READ_BYTES,
            config.max_connections,
            config.max_connections_per_peer,
            config.first_message_wait_s,
            _TOGETHER_BYTES,
        )
        listener = StreamListener(outlet, limits, attend)
        local = StreamListener(outlet, limits, attend)  # its own: nobody from outside keeps programs out
        with ExitStack() as opened:
            datagrams = [opened.enter_context(bind(text, udp, outlet)) for text in config.listen_udp]
            streams: list[tuple[socket.socket, ssl.SSLContext | None]] = [
                (opened.enter_context(bind(text, tcp, outlet)), None) for text in config.listen_tcp
            ]
            streams += [(opened.enter_context(bind(text, tcp, outlet)), tls) for text in config.listen_tls]
            if config.unix_datagram:
                datagrams.append(_unix(opened, config.unix_datagram, socket.SOCK_DGRAM))
            unix = [(_unix(opened, config.unix_stream, socket.SOCK_STREAM), None)] if config.unix_stream else []
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(take_in(datagrams, outlet, OUTPUT, MEDIA_TYPE))
                    group.create_task(listener.serve(streams))
                    if unix:
                        group.create_task(local.serve(unix))
            except* OSError as failed:
                raise first_of(failed) from failed


def _no_certificate() -> ConfigError:
    return ConfigError(["tls_certificate_file: missing, and listen_tls needs it: name a PEM file"])


def _unix(opened: ExitStack, name: str, kind: socket.SocketKind) -> socket.socket:
    """Return a bound unix socket; when ``opened`` is closed, it is closed and its file removed."""
    path = Path(name)
    clear_stale_socket(path)
    bound = opened.enter_context(socket.socket(socket.AF_UNIX, kind))
    bound.setblocking(False)
    try:
        bound.bind(name)
    except OSError as error:
        raise ConfigError(
            [f"unix: {name} can not be made ({error.strerror}): name a path in a folder that exists"]
        ) from error
    opened.callback(path.unlink, missing_ok=True)
    path.chmod(_UNIX_MODE)
    if kind is socket.SOCK_STREAM:
        bound.listen()
    return bound


class _Streams:
    """What happens on stream connections."""

    def __init__(self, outlet: Outlet, max_line_bytes: int) -> None:
        self._outlet = outlet
        self._max_line_bytes = max_line_bytes

    async def attend(self, connection: Connection) -> None:
        """Take in one connection: a draft a read, and at its end the message that has no delimiter."""
        reader, read_bytes = connection.reader, connection.read_bytes
        sender = _Sender(connection.address, connection.port, self._outlet)
        framer = SyslogFramer(self._max_line_bytes)
        pace = Pace()
        try:
            while data := await reader.read(read_bytes):
                frames = framer.feed(data)
                sender.note_cut(frames)
                if len(frames):
                    connection.heard()
                    await emit_or_count(self._outlet, sender.draft(frames))
                await pace.wait(len(frames), full=len(data) == read_bytes)
        except asyncio.CancelledError:
            frames = framer.feed(await rest_of(reader, read_bytes))
            sender.note_cut(frames)
            if len(frames):
                await emit_last(self._outlet, sender.draft(frames))
            raise
        finally:
            last = framer.finish()
            if len(last):
                await emit_last(self._outlet, sender.draft(last))
            sender.report_cut()


class _Sender:
    """The other end of a connection: columns that name it, and what it sent too much of."""

    def __init__(self, address: str | None, port: int | None, outlet: Outlet) -> None:
        self._address = address
        self._port = port
        self._outlet = outlet
        self._cut = 0
        self._cut_bytes = 0

    def draft(self, frames: Frames) -> Draft:
        """Return the raw events of some frames."""
        count = len(frames)
        columns: dict[str, Column] = {
            "event.original": frames.payloads,
            "raw.media_type": Constant(MEDIA_TYPE, count),
            "observed": Numbers(np.full(count, self._outlet.now_ns(), np.int64)),
        }
        if self._address is not None:
            columns["host_address"] = Constant(self._address, count)
            columns["source.port"] = Constant(self._port, count)
        return Draft(OUTPUT, count, columns)

    def note_cut(self, frames: Frames) -> None:
        """Count cut messages; the first of a connection is told at once."""
        is_first = frames.cut and not self._cut
        self._cut += frames.cut
        self._cut_bytes += frames.cut_bytes
        if is_first:
            self._outlet.notice("line_too_long", **self._told())

    def report_cut(self) -> None:
        """Tell how much was cut in all, once the connection has ended."""
        if self._cut:
            self._outlet.notice("lines_cut", **self._told(), skipped_bytes=self._cut_bytes)

    def _told(self) -> dict[str, Value]:
        return {"source.ip": self._address, "edge.count": self._cut}
