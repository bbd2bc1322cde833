"""Netlink sockets: the kernel's process events, socket listings and socket ends.

What may live here: opening, reading and closing the sockets, and how much the kernel dropped. They are plain sockets,
watched with ``loop.add_reader``: that works under every loop. What the bytes mean is in `eddy_agents.wire`.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from contextlib import suppress
from struct import Struct

from eddy_agents.wire import inet_diag, proc_connector
from eddy_agents.wire.host_records import Provider
from eddy_agents.wire.host_sockets import Seen, SocketFacts
from eddy_agents.wire.proc_connector import What

DRAIN_MESSAGES = 128
"""Most messages in one drain: with what is read for each of them, some 5 ms."""

_CONNECTOR, _SOCK_DIAG = 11, 4  # NETLINK_CONNECTOR, NETLINK_SOCK_DIAG: linux/netlink.h
BUFFER_BYTES = 4 * 1024 * 1024  # some 5,000 events, as the kernel accounts them
_EVENT_BYTES = 64 * 1024
_LISTING_BYTES = 256 * 1024
_ANSWER_S = 1.0
_LISTING_READS = 8  # reads of a listing between two turns for other tasks
_FAMILIES = (inet_diag.FAMILY_V4, inet_diag.FAMILY_V6)

# asm-generic/socket.h and linux/sock_diag.h
_SO_RCVBUFFORCE = 33
_SO_MEMINFO = 55
_SOL_NETLINK, _NO_ENOBUFS = 270, 5  # linux/socket.h, linux/netlink.h
_MEMINFO = Struct("=9I")
_MEMINFO_DROPS = 8


class EventSocket:
    """A socket on which the kernel tells of events.

    Args:
        protocol: of netlink.
        groups: multicast groups to join, as bits.
        buffer_bytes: receive buffer to ask for.

    Raises:
        OSError: the kernel does not have it, or does not allow it.
    """

    def __init__(self, protocol: int, groups: int, buffer_bytes: int) -> None:
        self.raw = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, protocol)
        self._drops = 0
        self._refusals = 0
        try:
            self.raw.setblocking(False)
            self._enlarge(buffer_bytes)
            if self._drops_told() is not None:
                # A loss is seen in the count; as an error of the socket it would end the watch of some loops (uvloop).
                self.raw.setsockopt(_SOL_NETLINK, _NO_ENOBUFS, 1)
            self.raw.bind((0, groups))
        except OSError:
            self.raw.close()
            raise

    def _enlarge(self, buffer_bytes: int) -> None:
        try:
            self.raw.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, buffer_bytes)
        except OSError:  # not privileged: as much as the host's limit allows
            self.raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)

    def drain(self) -> list[bytes]:
        """Return the messages of the kernel that are there, `DRAIN_MESSAGES` at most."""
        messages: list[bytes] = []
        for _ in range(DRAIN_MESSAGES):
            try:
                data, sender = self.raw.recvfrom(_EVENT_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self._refusals += 1
                continue
            if sender[0] == 0:  # the kernel; nobody else may send here
                messages.append(data)
        return messages

    def dropped(self) -> int:
        """Return how many messages the kernel has dropped since the last call; before Linux 4.12 at least so many."""
        told = self._drops_told()
        total = self._refusals if told is None else told
        new = (total - self._drops) & 0xFFFF_FFFF
        self._drops = total
        return new

    def _drops_told(self) -> int | None:
        try:
            held = self.raw.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
        except OSError:
            return None
        return int(_MEMINFO.unpack(held)[_MEMINFO_DROPS]) if len(held) == _MEMINFO.size else None

    async def readable(self) -> None:
        """Wait until there is something to drain."""
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_reader(self.raw, ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_reader(self.raw)

    def close(self) -> None:
        """Close the socket."""
        self.raw.close()


class ProcessEvents(EventSocket):
    """The proc connector."""

    def __init__(self, buffer_bytes: int = BUFFER_BYTES) -> None:
        super().__init__(_CONNECTOR, proc_connector.GROUP, buffer_bytes)

    async def subscribe(self) -> None:
        """Turn the events on.

        Raises:
            OSError: the kernel refuses, or does not answer, as inside a container.
            WireError: it answers something else.
        """
        self.raw.send(proc_connector.encode_subscription(listen=True))
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_ANSWER_S):
                while True:
                    for event in proc_connector.decode(await loop.sock_recv(self.raw, _EVENT_BYTES)):
                        if event.what is What.ACKNOWLEDGED:
                            _raise_for(event.value)
                            return
        except TimeoutError:
            raise OSError(errno.ETIMEDOUT, "the proc connector does not answer: not in the host's namespaces") from None

    def close(self) -> None:
        """Turn the events off, which kernels before 6.6 do not do by themselves, and close."""
        with suppress(OSError):
            self.raw.send(proc_connector.encode_subscription(listen=False))
        super().close()


class SocketEnds(EventSocket):
    """Tells of each TCP and UDP socket that ends."""

    def __init__(self, buffer_bytes: int = BUFFER_BYTES) -> None:
        super().__init__(_SOCK_DIAG, inet_diag.DESTROY_GROUPS, buffer_bytes)


class DiagReader:
    """The sockets of this network namespace, as inet_diag lists them.

    Args:
        has_ends: `SocketEnds` tells of ends with their counters: listings leave out counters and TIME_WAIT.

    Raises:
        OSError: the kernel does not have it, or does not allow it.
    """

    provider = Provider.INET_DIAG

    def __init__(self, *, has_ends: bool) -> None:
        self._has_ends = has_ends
        self._raw = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, _SOCK_DIAG)
        self._raw.setblocking(False)

    async def sockets(self) -> list[Seen]:
        """Return every TCP and UDP socket that is not half open.

        Raises:
            OSError: the kernel refuses.
            WireError: it answers something that is no listing.
        """
        listed: list[Seen] = []
        for protocol, transport in inet_diag.TRANSPORTS.items():
            has_more = not self._has_ends and transport == "tcp"
            for family in _FAMILIES:
                self._raw.send(inet_diag.encode_request(family, protocol, with_time_wait=has_more, with_info=has_more))
                listed += await self._listing(protocol)
        return listed

    async def _listing(self, protocol: int) -> list[Seen]:
        loop = asyncio.get_running_loop()
        listed: list[Seen] = []
        reads = 0
        while True:
            answer = inet_diag.decode(await loop.sock_recv(self._raw, _LISTING_BYTES), protocol)
            listed += answer.seen
            _raise_for(answer.error)
            if answer.is_done:
                return listed
            reads += 1
            if reads % _LISTING_READS == 0:
                await asyncio.sleep(0)

    def facts(self, seen: Seen) -> SocketFacts:
        """Return the facts of a listed socket."""
        return inet_diag.socket_facts(seen)

    def close(self) -> None:
        """Close the socket."""
        self._raw.close()


def _raise_for(number: int) -> None:
    if number:
        raise OSError(number, os.strerror(number))
