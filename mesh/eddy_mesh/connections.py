"""Stream connections of a source: accepted up to the limits, attended one task each, ended with the source.

What may live here: the loop that accepts connections, and their ends. Binding and TLS files are in
`eddy_mesh.listening`, who may come in is decided in `eddy_mesh.admission`; what the bytes mean is the source's affair.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import sys
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from ipaddress import IPv6Address, ip_address

from eddy_mesh.admission import FULL, IDLE, PAUSED, Admission, Complaints, Limits, peer_group
from eddy_mesh.agent import Outlet
from eddy_mesh.listening import in_time, readable

TELL_S = 10.0
"""Least time between two notices of a kind, s."""

_CLOSE_WAIT_S = 0.2
_HANDSHAKE_S = 10.0
_OUT_OF_FILES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_OUT_OF_FILES_S = 1.0
_FILES = 65536
_SHARE = 4  # of the descriptors of the process one listener takes a quarter at most


def peer_of(name: object) -> tuple[str | None, int | None]:
    """Return the canonical address and the port of a socket's name; None for both on a unix socket."""
    if not isinstance(name, tuple) or len(name) < 2:
        return None, None
    address = ip_address(str(name[0]).partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address), int(name[1])


class Connection:
    """One connection, as the source sees it.

    Attributes:
        reader, writer: its two directions.
        address: of the peer, canonical; None on a unix socket.
        port: of the peer; None on a unix socket.
        read_bytes: how much to read at a time.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        peer: tuple[str | None, int | None],
        read_bytes: int,
        note_idle: Callable[[str | None], None],
    ) -> None:
        self.reader = reader
        self.writer = writer
        self.read_bytes = read_bytes
        self.address, self.port = peer
        self._note_idle = note_idle
        self._first_wait: asyncio.TimerHandle | None = None

    def expect(self, wait_s: float) -> None:
        """Close it when nothing whole has come within ``wait_s``; what is there is still read."""
        self._first_wait = asyncio.get_running_loop().call_later(wait_s, self._late)

    def _late(self) -> None:
        self.idle()
        self.writer.transport.abort()

    def heard(self) -> None:
        """Something whole has come, or the connection has ended: it may be quiet from now on."""
        if self._first_wait is not None:
            self._first_wait.cancel()
            self._first_wait = None

    def idle(self) -> None:
        """Note that it is closed because nothing whole has come in time."""
        self._note_idle(self.address)


Connected = Callable[[Connection], Awaitable[None]]


class StreamListener:
    """Accepts connections on bound sockets and gives each its own task until cancelled.

    A connection that is turned away is counted as lost, with the limit that it met as the reason: what it would have
    brought is not known.

    Args:
        outlet: for counters and notices.
        limits: what may be open.
        connected: attends a connection to its end; calls `Connection.heard` when something whole has come.
    """

    def __init__(self, outlet: Outlet, limits: Limits, connected: Connected) -> None:
        self._outlet = outlet
        self._limits = limits
        self._connected = connected
        self._admission = Admission(limits)
        self._complaints = Complaints()
        self._has_complaints = asyncio.Event()
        self._unattended: set[socket.socket] = set()

    async def serve(self, sockets: Iterable[tuple[socket.socket, ssl.SSLContext | None]]) -> None:
        """Serve until cancelled; then every connection's task is cancelled and waited for.

        Args:
            sockets: bound, listening stream sockets, which the caller closes; with a context where connections are
                encrypted.
        """
        self._leave_files()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._tell_often())
                for bound, tls in sockets:
                    group.create_task(self._accept(bound, tls, group))
        finally:
            self._tell()

    def _leave_files(self) -> None:
        """Hold fewer connections where this process may open few files: stores and checkpoints need some too."""
        files = _allowed_files()
        if files // _SHARE < self._limits.max_connections:
            self._limits = replace(self._limits, max_connections=max(files // _SHARE, 1))
            self._admission = Admission(self._limits)
            self._outlet.notice("connections_limited", limit=self._limits.max_connections, open_files=files)

    async def _accept(self, bound: socket.socket, tls: ssl.SSLContext | None, group: asyncio.TaskGroup) -> None:
        while True:
            try:
                connection, name = await _next_connection(bound)
            except ConnectionError:  # gone before it was accepted
                continue
            except OSError as error:
                if error.errno not in _OUT_OF_FILES:
                    raise
                self._complain(PAUSED, "times", None, **{"error.message": error.strerror}, retry_s=_OUT_OF_FILES_S)
                await asyncio.sleep(_OUT_OF_FILES_S)
                continue
            self._take(connection, peer_of(name), tls, group)
            await asyncio.sleep(0)  # accepting does not wait while more come: a flood must not stop everything else

    def _take(
        self,
        connection: socket.socket,
        peer: tuple[str | None, int | None],
        tls: ssl.SSLContext | None,
        group: asyncio.TaskGroup,
    ) -> None:
        peers = peer_group(peer[0])
        if reason := self._admission.admit(peers):
            connection.close()
            self._outlet.lost(reason, 1)
            limits = self._limits
            limit = limits.max_connections if reason == FULL else limits.max_connections_per_peer
            self._complain(reason, "refused", peer[0], limit=limit)
            return
        self._unattended.add(connection)
        task = group.create_task(self._attend(connection, peer, tls, self._admission.share()))
        task.add_done_callback(partial(self._ended, connection, peers))

    async def _attend(
        self,
        accepted: socket.socket,
        peer: tuple[str | None, int | None],
        tls: ssl.SSLContext | None,
        read_bytes: int,
    ) -> None:
        self._unattended.discard(accepted)
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(read_bytes)
        protocol = asyncio.StreamReaderProtocol(reader)
        if peer[0] is not None:  # else a peer that vanished counts for ever
            with suppress(OSError):  # gone again: macOS says so here
                accepted.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        with suppress(OSError):  # what befalls one connection is no matter of the others
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol, accepted, ssl=tls, ssl_handshake_timeout=_HANDSHAKE_S if tls else None
            )
            writer = asyncio.StreamWriter(transport, protocol, reader, loop)
            connection = Connection(reader, writer, peer, read_bytes, self._idle)
            if self._limits.first_wait_s:
                connection.expect(self._limits.first_wait_s)
            try:
                await self._connected(connection)
            finally:
                connection.heard()
                writer.close()
                if not await in_time(_CLOSE_WAIT_S, writer.wait_closed()):
                    transport.abort()  # else a peer that reads no more keeps it open, beyond every limit

    def _ended(self, accepted: socket.socket, peers: str, _: asyncio.Task[None]) -> None:
        self._admission.leave(peers)
        if accepted in self._unattended:  # cancelled before its first step: nobody has closed it
            self._unattended.discard(accepted)
            accepted.close()

    # --- what the operator is told

    def _idle(self, address: str | None) -> None:
        self._complain(IDLE, "closed", address)

    def _complain(self, event: str, count: str, address: str | None, **fields: str | float | None) -> None:
        shown = {"source.ip": address, **fields}
        self._complaints.add(event, count, **{name: value for name, value in shown.items() if value is not None})
        self._has_complaints.set()

    async def _tell_often(self) -> None:
        """Tell the first complaint at once, those that follow together."""
        while True:
            await self._has_complaints.wait()
            self._tell()
            await asyncio.sleep(TELL_S)

    def _tell(self) -> None:
        self._has_complaints.clear()
        for event, fields in self._complaints.take().items():
            self._outlet.notice(event, **fields)


async def _next_connection(bound: socket.socket) -> tuple[socket.socket, object]:
    """Accept a connection; unlike with ``loop.sock_accept``, none is left open when this is cancelled."""
    while True:
        try:
            connection, name = bound.accept()
        except BlockingIOError:
            try:
                await readable(bound)
            except NotImplementedError:
                return await asyncio.get_running_loop().sock_accept(bound)
        else:
            connection.setblocking(False)
            return connection, name


def _allowed_files() -> int:
    """Let this process open as many files as it may, and return how many these are.

    The usual soft limit, 1,024, is less than what one full listener needs.
    """
    if sys.platform == "win32":
        return sys.maxsize
    import resource  # noqa: PLC0415  # not on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(hard, _FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):  # macOS has a second, lower limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft
