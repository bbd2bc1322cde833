"""Reads processes and sockets from /proc.

What may live here: the system calls; what the texts mean is in `eddy_agents.wire.procfs`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import lru_cache

from eddy_agents.wire import procfs
from eddy_agents.wire.host_records import ProcessFacts, Provider
from eddy_agents.wire.host_sockets import Seen, SocketFacts
from eddy_agents.wire.procfs import Stat
from eddy_mesh.errors import WireError

_SECOND_NS = 1_000_000_000
_READ_BYTES = 64 * 1024
_FD_CHUNK = 64
_SOCKET_LINK = b"socket:["
_MAX_USERS = 4096

_TABLES = (("tcp", "tcp"), ("tcp6", "tcp"), ("udp", "udp"), ("udp6", "udp"))


class ProcReader:
    """The processes and sockets of this host, as /proc has them.

    Args:
        now_ns: gives ns since 1970 UTC.
    """

    provider = Provider.PROCFS

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self._tick_ns = _SECOND_NS // os.sysconf("SC_CLK_TCK")
        self._boot_ns = now_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        self._boot_id = _read("/proc/sys/kernel/random/boot_id").decode("ascii", "replace").strip()

    def pids(self) -> set[int]:
        """Return the id of every process.

        Raises:
            OSError: /proc can not be read.
        """
        return {int(name) for name in os.listdir("/proc") if name.isdecimal()}  # noqa: PTH208  # as in `_link`

    def stat(self, pid: int) -> Stat | None:
        """Return the little that one file says of a process, or None when it is gone."""
        with suppress(OSError, WireError):
            return procfs.parse_stat(_read(f"/proc/{pid}/stat"))
        return None

    def process(self, pid: int, stat: Stat | None = None) -> ProcessFacts | None:
        """Return what can be read of a process, or None when it is gone.

        Args:
            pid: process id.
            stat: of the process, when it was read already.
        """
        folder = f"/proc/{pid}"
        # These two first: they are gone as soon as a process ends, the others when its parent has taken note.
        executable = _link(f"{folder}/exe")
        arguments = procfs.parse_command_line(_read_or_empty(f"{folder}/cmdline"))
        known = stat or self.stat(pid)
        if known is None:
            return None
        try:
            credentials = procfs.parse_status(_read(f"{folder}/status"))
        except (OSError, WireError):
            return None
        return ProcessFacts(
            pid=pid,
            parent_pid=known.parent_pid,
            name=known.name,
            executable=executable,
            args=arguments,
            working_directory=_link(f"{folder}/cwd"),
            user_id=credentials.user_id,
            real_user_id=credentials.real_user_id,
            group_id=credentials.group_id,
            user_name=_user_name(credentials.user_id),
            session_id=known.session_id,
            start_ticks=known.start_ticks,
            start_ns=self.started(known),
            boot_id=self._boot_id,
            cgroup=procfs.cgroup_path(_read_or_empty(f"{folder}/cgroup")),
        )

    def started(self, stat: Stat) -> int:
        """Return when a process started, ns since 1970 UTC."""
        return self._boot_ns + stat.start_ticks * self._tick_ns

    def user_name(self, user_id: int) -> str:
        """Return the login name of a user, "" where the host has none for it."""
        return _user_name(user_id)

    async def sockets(self) -> list[Seen]:
        """Return every TCP and UDP socket of this network namespace.

        Raises:
            OSError: a table can not be read; one that is not there, as tcp6 without IPv6, is empty.
            WireError: a table is not as it should be.
        """
        listed: list[Seen] = []
        for table, transport in _TABLES:
            with suppress(FileNotFoundError):
                listed += procfs.parse_sockets(_read(f"/proc/net/{table}"), transport)
        return listed

    def facts(self, seen: Seen) -> SocketFacts:
        """Return the facts of a listed socket."""
        return procfs.socket_facts(seen)

    def search_owners(self, wanted: set[int], pids: Iterable[int], found: dict[int, int]) -> Iterator[None]:
        """Look for the processes that hold sockets; yields after every few system calls, so that it can be paced.

        Processes of others can not be looked into without privilege; they are passed over.

        Args:
            wanted: inodes; taken out as they are found.
            pids: where to look, in order.
            found: gets the process id for each inode.
        """
        for pid in pids:
            folder = f"/proc/{pid}/fd"
            with suppress(OSError), os.scandir(folder) as entries:
                for count, entry in enumerate(entries):
                    inode = _socket_inode(entry.path)
                    if inode in wanted:
                        wanted.discard(inode)
                        found[inode] = pid
                    if count % _FD_CHUNK == _FD_CHUNK - 1:
                        yield
            if not wanted:
                return
            yield


def _socket_inode(path: str) -> int:
    """Return the inode of the socket that a file descriptor is, 0 where it is none."""
    try:
        target = os.fsencode(os.readlink(path))  # noqa: PTH115  # as in `_link`
    except OSError:
        return 0
    number = target[len(_SOCKET_LINK) : -1]
    return int(number) if target.startswith(_SOCKET_LINK) and number.isdigit() else 0


def _read(path: str) -> bytes:
    """Return the bytes of a file of /proc; without the buffers that ``open`` would make for each."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = [os.read(descriptor, _READ_BYTES)]
        while parts[-1]:
            parts.append(os.read(descriptor, _READ_BYTES))
    finally:
        os.close(descriptor)
    return b"".join(parts)


def _read_or_empty(path: str) -> bytes:
    try:
        return _read(path)
    except OSError:
        return b""


def _link(path: str) -> str:
    """Return where a symbolic link of /proc leads; "" where that is hidden or nowhere, as for a kernel thread."""
    try:
        return os.fsencode(os.readlink(path)).decode("utf-8", "replace")  # noqa: PTH115  # a Path costs more than the call
    except OSError:
        return ""


@lru_cache(maxsize=_MAX_USERS)
def _user_name(user_id: int) -> str:
    import pwd  # noqa: PLC0415  # not on Windows

    try:
        return pwd.getpwuid(user_id).pw_name
    except (KeyError, OverflowError):
        return ""
