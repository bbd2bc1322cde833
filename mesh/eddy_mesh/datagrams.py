"""UDP at high rates: one system call takes up to 256 datagrams, and they come out as columns.

What may live here: reading datagram sockets and counting what the kernel dropped. Linux reads with recvmmsg(2)
through ctypes into memory that is set aside once; other systems read one datagram a call. While a full edge holds
the source back nothing is read, and what the kernel then drops is counted: counters stay true.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import socket
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import numpy as np
import numpy.typing as npt

from eddy_mesh.agent import Draft, Outlet
from eddy_mesh.batch import Kind
from eddy_mesh.columns import V4_MAPPED, Addresses, Bytes, Column, Constant, Numbers, address_halves, pack
from eddy_mesh.listening import STOP_WAIT_S, Binding, Pace, bind, emit_last, emit_or_count, first_of, readable, wake

DRAIN_DATAGRAMS = 512
"""Most datagrams in one drain; at 1,400 bytes that is 700 kB, two messages where they go to another host."""

BUFFER_BYTES = 32 * 1024 * 1024
"""Receive buffer to ask for: about half a second of 40,000 datagrams/s of 1,400 bytes, as the kernel accounts them."""

_DATAGRAM_BYTES = 65536  # one more than the longest payload: nothing is ever cut
_DROPS_S = 1.0
_STOP_DRAINS = 64  # what is read after a stop: 16,384 datagrams, some 20 ms

# Linux, asm-generic/socket.h and linux/sock_diag.h
_SO_RCVBUFFORCE = 33
_SO_MEMINFO = 55
_MEMINFO_DROPS = 8


@dataclass(frozen=True, slots=True)
class Datagrams:
    """Datagrams taken in one drain, at least one.

    Attributes:
        payloads: one row a datagram.
        addresses: senders; None on a unix socket, where they have none.
        ports: sender ports (u2); None on a unix socket.
    """

    payloads: Bytes
    addresses: Addresses | None
    ports: Numbers | None

    def __len__(self) -> int:
        return len(self.payloads)


class _Reader(Protocol):
    def take(self) -> Datagrams | None: ...


# --- recvmmsg(2) -------------------------------------------------------------------------------------------------


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Msghdr(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("vectors", ctypes.c_void_p),
        ("vector_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Mmsghdr(ctypes.Structure):
    _fields_ = (("header", _Msghdr), ("length", ctypes.c_uint))


@cache
def _libc() -> ctypes.CDLL | None:
    """The C library where it has recvmmsg; loaded once."""
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None, use_errno=True)
    return library if hasattr(library, "recvmmsg") else None


class _ManyReader:
    """Takes up to `DRAIN_DATAGRAMS` in one recvmmsg(2).

    16 MiB of addresses are set aside, of which only the pages that datagrams have filled become memory.
    """

    def __init__(self, bound: socket.socket, library: ctypes.CDLL) -> None:
        self._fd = bound.fileno()
        self._family = bound.family
        self._recvmmsg = library.recvmmsg
        self._buffer = np.zeros((DRAIN_DATAGRAMS, _DATAGRAM_BYTES), np.uint8)
        self._view = memoryview(self._buffer.reshape(-1))  # type: ignore[arg-type]  # an array is a buffer
        name_bytes = 28 if bound.family == socket.AF_INET6 else 16  # sockaddr_in6, sockaddr_in
        self._names = np.zeros((DRAIN_DATAGRAMS, name_bytes), np.uint8)
        self._vectors = (_Iovec * DRAIN_DATAGRAMS)()
        self._headers = (_Mmsghdr * DRAIN_DATAGRAMS)()
        for row, (vector, message) in enumerate(zip(self._vectors, self._headers, strict=True)):
            vector.base, vector.length = self._buffer[row].ctypes.data, _DATAGRAM_BYTES
            message.header.vectors, message.header.vector_count = ctypes.addressof(vector), 1
            if bound.family != socket.AF_UNIX:
                message.header.name, message.header.name_length = self._names[row].ctypes.data, name_bytes
        self._lengths = np.ndarray(
            (DRAIN_DATAGRAMS,),
            np.uint32,
            buffer=self._headers,  # type: ignore[arg-type]  # a ctypes array is a buffer
            offset=_Mmsghdr.length.offset,
            strides=(ctypes.sizeof(_Mmsghdr),),
        )

    def take(self) -> Datagrams | None:
        count = self._recvmmsg(self._fd, self._headers, DRAIN_DATAGRAMS, socket.MSG_DONTWAIT, None)
        if count < 0:
            number = ctypes.get_errno()
            if number in {errno.EAGAIN, errno.EINTR, errno.ECONNREFUSED}:
                return None
            raise OSError(number, os.strerror(number))
        lengths = self._lengths[:count]
        offsets = np.zeros(count + 1, np.uint32)
        np.cumsum(lengths, out=offsets[1:])
        return Datagrams(Bytes(offsets, self._joined(lengths)), *self._senders(count))

    def _joined(self, lengths: npt.NDArray[np.uint32]) -> bytes:
        if (lengths == lengths[0]).all():  # as a busy exporter sends them
            return self._buffer[: len(lengths), : lengths[0]].tobytes()
        view, starts = self._view, range(0, len(lengths) * _DATAGRAM_BYTES, _DATAGRAM_BYTES)
        return b"".join([view[start : start + length] for start, length in zip(starts, lengths.tolist(), strict=True)])

    def _senders(self, count: int) -> tuple[Addresses | None, Numbers | None]:
        if self._family == socket.AF_UNIX:
            return None, None
        names = self._names[:count]
        ports = Numbers(names[:, 2:4].copy().view(">u2").reshape(count).astype(np.uint16))
        if self._family == socket.AF_INET:
            return Addresses(names[:, 4:8].copy().view(">u4").reshape(count)), ports
        return _narrow(names[:, 8:24].copy().view(">u8")), ports


def _narrow(halves: np.ndarray[tuple[int, ...], np.dtype[np.unsignedinteger]]) -> Addresses:
    """IPv4 senders come to a dual-stack socket as mapped addresses; held in 4 bytes when all are."""
    if not halves[:, 0].any() and (halves[:, 1] >> np.uint64(32) == V4_MAPPED >> 32).all():
        return Addresses((halves[:, 1] & np.uint64(0xFFFF_FFFF)).astype(">u4"))
    return Addresses(halves)


# --- one datagram a call -----------------------------------------------------------------------------------------


def _columns(received: Sequence[tuple[bytes, object]]) -> Datagrams:
    """Columns of datagrams and sender addresses as the socket module gives them."""
    payloads = Bytes(*pack([payload for payload, _ in received]))
    senders = [sender for _, sender in received if isinstance(sender, tuple)]
    if len(senders) < len(received):
        return Datagrams(payloads, None, None)
    halves = np.array([address_halves(str(sender[0]).partition("%")[0]) for sender in senders], ">u8")
    ports = np.fromiter((sender[1] for sender in senders), np.uint16, len(senders))
    return Datagrams(payloads, _narrow(halves), Numbers(ports))


class _SingleReader:
    """Takes one datagram a call; where there is no recvmmsg."""

    def __init__(self, bound: socket.socket) -> None:
        self._socket = bound

    def take(self) -> Datagrams | None:
        received: list[tuple[bytes, object]] = []
        with suppress(BlockingIOError, InterruptedError, ConnectionError):
            while len(received) < DRAIN_DATAGRAMS:
                received.append(self._socket.recvfrom(_DATAGRAM_BYTES))
        return _columns(received) if received else None


class _QueueReader(asyncio.DatagramProtocol):
    """Takes what a loop without ``add_reader`` (Windows) pushes; what finds the queue full is counted."""

    def __init__(self, limit: int = 16 * DRAIN_DATAGRAMS) -> None:
        self.dropped = 0
        self.waiter: asyncio.Future[None] | None = None
        self._queue: deque[tuple[bytes, object]] = deque()
        self._limit = limit

    def datagram_received(self, data: bytes, addr: object) -> None:
        """Queue one datagram."""
        if len(self._queue) >= self._limit:
            self.dropped += 1
            return
        self._queue.append((data, addr))
        if self.waiter is not None:
            wake(self.waiter)

    def take(self) -> Datagrams | None:
        count = min(len(self._queue), DRAIN_DATAGRAMS)
        return _columns([self._queue.popleft() for _ in range(count)]) if count else None


# --- the receiver ------------------------------------------------------------------------------------------------


class DatagramReceiver:
    """Reads one bound datagram socket; closes it with `close`."""

    def __init__(
        self,
        bound: socket.socket,
        *,
        buffer_bytes: int = BUFFER_BYTES,
        one_at_a_time: bool = False,
        gather_s: float = 0.0,
    ) -> None:
        """Take over a socket.

        Args:
            bound: non-blocking datagram socket, IPv4, IPv6 (also dual-stack) or unix.
            buffer_bytes: receive buffer to ask the kernel for; `buffer_bytes` says what was got.
            one_at_a_time: read without recvmmsg even where there is one.
            gather_s: as `eddy_mesh.listening.Pace` takes it.
        """
        self._socket = bound
        self._pace = Pace(gather_s)
        self._taken = 0
        self._drops_seen = 0
        self._transport: asyncio.DatagramTransport | None = None
        library = None if one_at_a_time else _libc()
        self._reader: _Reader = _ManyReader(bound, library) if library is not None else _SingleReader(bound)
        self._enlarge(buffer_bytes)
        self._drops_seen = self._drops()

    def _enlarge(self, buffer_bytes: int) -> None:
        if sys.platform == "linux":
            with suppress(OSError):  # needs CAP_NET_ADMIN; passes net.core.rmem_max
                self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, buffer_bytes)
                return
        with suppress(OSError):  # some systems refuse more than their limit instead of giving that
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)

    @property
    def buffer_bytes(self) -> int:
        """Receive buffer that the kernel gave; Linux counts its bookkeeping in it, which takes half or more."""
        return self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)

    @property
    def port(self) -> int:
        """Port that the socket is bound to; 0 for a unix socket."""
        name = self._socket.getsockname()
        return int(name[1]) if isinstance(name, tuple) else 0

    def take(self) -> Datagrams | None:
        """Return what has arrived, at most `DRAIN_DATAGRAMS`, or None when nothing has.

        Raises:
            OSError: the socket failed.
        """
        taken = self._reader.take()
        self._taken = len(taken) if taken is not None else 0
        return taken

    async def receive(self) -> Datagrams:
        """Wait for datagrams and return them. Safe to cancel: nothing has been taken then.

        Raises:
            OSError: the socket failed.
        """
        await self._pace.wait(self._taken, full=self._taken == DRAIN_DATAGRAMS)
        while True:
            taken = self.take()
            if taken is not None:
                return taken
            await self._readable()

    async def _readable(self) -> None:
        if isinstance(self._reader, _QueueReader):
            self._reader.waiter = asyncio.get_running_loop().create_future()
            await self._reader.waiter
            return
        try:
            await readable(self._socket)
        except NotImplementedError:
            await self._push()

    async def _push(self) -> None:
        """From now on the loop pushes datagrams into a queue: the proactor of Windows has no readers."""
        loop = asyncio.get_running_loop()
        self._transport, self._reader = await loop.create_datagram_endpoint(_QueueReader, sock=self._socket)

    def newly_dropped(self) -> int:
        """Return how many datagrams were dropped, for want of room or a bad checksum, since the last call."""
        drops = self._drops()
        new = (drops - self._drops_seen) & 0xFFFF_FFFF  # the kernel's counter is 32 bits wide
        self._drops_seen = drops
        return new

    def _drops(self) -> int:
        if isinstance(self._reader, _QueueReader):
            return self._reader.dropped
        if sys.platform != "linux":
            return 0
        try:
            meminfo = self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 4 * (_MEMINFO_DROPS + 1))
        except OSError:  # before Linux 4.12
            return self._drops_seen
        start = 4 * _MEMINFO_DROPS
        return int.from_bytes(meminfo[start : start + 4], sys.byteorder)

    def close(self) -> None:
        """Close the socket."""
        if self._transport is not None:
            self._transport.close()
        self._socket.close()


async def listen_in(
    listen: Sequence[str], binding: Binding, outlet: Outlet, kind: Kind, media_type: str, gather_s: float = 0.0
) -> None:
    """Listen at addresses and `take_in` what arrives, until cancelled.

    Args:
        listen: as `eddy_mesh.listening.bind` takes them.
        binding: likewise.
        outlet: where the events go.
        kind: of every event.
        media_type: of every payload.
        gather_s: likewise.

    Raises:
        ConfigError: an address is not one of this host.
        OSError: a port is taken and that is to be a failure, or a socket failed.
    """
    with ExitStack() as opened:
        sockets = [opened.enter_context(bind(address, binding, outlet)) for address in listen]
        await take_in(sockets, outlet, kind, media_type, gather_s)


async def take_in(
    sockets: Sequence[socket.socket], outlet: Outlet, kind: Kind, media_type: str, gather_s: float = 0.0
) -> None:
    """Emit every datagram of some sockets as a raw event until cancelled; then what has arrived, and close them.

    Columns: ``event.original``, ``raw.media_type``, ``observed`` (one time a drain), ``host_address`` (the sender)
    and ``source.port``. What the kernel drops is counted as lost with reason ``kernel_buffer`` once a second.

    Args:
        sockets: bound, non-blocking datagram sockets; closed at the end.
        outlet: where the events go.
        kind: of every event.
        media_type: of every payload.
        gather_s: how long datagrams gather while they come, s; 0 for what suits lines.

    Raises:
        OSError: a socket failed.
    """
    receivers = [DatagramReceiver(bound, gather_s=gather_s) for bound in sockets]
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_count_drops(receivers, outlet))
            for receiver in receivers:
                group.create_task(_forward(receiver, outlet, kind, media_type))
    except* OSError as failed:
        raise first_of(failed) from failed
    finally:
        for receiver in receivers:
            _report_drops(receiver, outlet)
            receiver.close()


async def _forward(receiver: DatagramReceiver, outlet: Outlet, kind: Kind, media_type: str) -> None:
    try:
        while True:
            await emit_or_count(outlet, _draft(await receiver.receive(), outlet.now_ns(), kind, media_type))
    except asyncio.CancelledError:
        loop = asyncio.get_running_loop()
        is_taken, until_s = True, loop.time() + STOP_WAIT_S
        for _ in range(_STOP_DRAINS):
            rest = receiver.take()
            if rest is None:
                break
            if is_taken and loop.time() < until_s:
                is_taken = await emit_last(outlet, _draft(rest, outlet.now_ns(), kind, media_type))
            else:
                outlet.lost("stopped", len(rest))
        raise


def _draft(taken: Datagrams, now_ns: int, kind: Kind, media_type: str) -> Draft:
    count = len(taken)
    columns: dict[str, Column] = {
        "event.original": taken.payloads,
        "raw.media_type": Constant(media_type, count),
        "observed": Numbers(np.full(count, now_ns, np.int64)),
    }
    if taken.addresses is not None and taken.ports is not None:
        columns |= {"host_address": taken.addresses, "source.port": taken.ports}
    return Draft(kind, count, columns)


async def _count_drops(receivers: Sequence[DatagramReceiver], outlet: Outlet) -> None:
    while True:
        await asyncio.sleep(_DROPS_S)
        for receiver in receivers:
            _report_drops(receiver, outlet)


def _report_drops(receiver: DatagramReceiver, outlet: Outlet) -> None:
    dropped = receiver.newly_dropped()
    if dropped:
        outlet.lost("kernel_buffer", dropped)
