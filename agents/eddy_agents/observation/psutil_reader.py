"""Reads processes and sockets through psutil: for systems without /proc.

What may live here: the calls of psutil, and their answers in the form that the host source works with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import msgspec
import psutil

from eddy_agents.wire.host_records import ProcessFacts, Provider
from eddy_agents.wire.host_sockets import STATE_NAMES, Seen, SocketFacts
from eddy_agents.wire.procfs import Stat
from eddy_mesh.errors import ConfigError

_SECOND_NS = 1_000_000_000
_STATES = {name: number for number, name in STATE_NAMES.items()} | {"none": 7, "close": 7}
_TICK_HZ = 1000
_STREAM = 1  # SOCK_STREAM on every system


class PsutilReader:
    """The processes and sockets of this host, as psutil has them.

    Args:
        now_ns: gives ns since 1970 UTC.
    """

    provider = Provider.PSUTIL

    def __init__(self, now_ns: Callable[[], int]) -> None:  # noqa: ARG002  # as the other readers
        self._boot_id = f"{psutil.boot_time():.0f}"

    def pids(self) -> set[int]:
        """Return the id of every process."""
        return set(psutil.pids())

    def stat(self, pid: int) -> Stat | None:
        """Return what tells a process from a later one with its id, or None when it is gone or hidden."""
        try:
            process = psutil.Process(pid)
            return Stat(pid, process.name(), "", process.ppid() or 0, 0, round(process.create_time() * _TICK_HZ))
        except (psutil.Error, OSError):
            return None

    def process(self, pid: int, stat: Stat | None = None) -> ProcessFacts | None:
        """Return what can be read of a process, or None when it is gone or hidden.

        Args:
            pid: process id.
            stat: of the process, when it was read already.
        """
        known = stat or self.stat(pid)
        if known is None:
            return None
        try:
            held = psutil.Process(pid).as_dict(["exe", "cmdline", "cwd", "username"], ad_value=None)
        except (psutil.Error, OSError):
            return None
        return ProcessFacts(
            pid=pid,
            parent_pid=known.parent_pid,
            name=known.name,
            executable=held["exe"] or "",
            args=tuple(held["cmdline"] or ()),
            working_directory=held["cwd"] or "",
            user_name=held["username"] or "",
            start_ticks=known.start_ticks,
            start_ns=self.started(known),
            boot_id=self._boot_id,
        )

    def started(self, stat: Stat) -> int:
        """Return when a process started, ns since 1970 UTC."""
        return stat.start_ticks * _SECOND_NS // _TICK_HZ

    def user_name(self, user_id: int) -> str:  # noqa: ARG002  # a process here has a name, no number
        """Return "": users have no numbers here."""
        return ""

    async def sockets(self) -> list[Seen]:
        """Return every TCP and UDP socket that may be seen.

        Raises:
            ConfigError: the system does not allow it, as macOS without root.
        """
        try:
            listed = psutil.net_connections(kind="inet")
        except psutil.Error as error:
            raise ConfigError(
                [f"connections: this system does not list them ({error}): run as administrator, or set it to false"]
            ) from error
        return [_seen(one) for one in listed]

    def facts(self, seen: Seen) -> SocketFacts:
        """Return the facts of a listed socket."""
        return SocketFacts(*msgspec.msgpack.decode(seen.detail))

    def search_owners(self, wanted: set[int], pids: Iterable[int], found: dict[int, int]) -> Iterator[None]:  # noqa: ARG002
        """Nothing to look for: the listing names the owners."""
        return iter(())


def _seen(listed: object) -> Seen:
    local, remote, pid = listed.laddr, listed.raddr, listed.pid  # type: ignore[attr-defined]  # psutil has no types
    state = _STATES.get(str(listed.status).lower(), 7)  # type: ignore[attr-defined]
    transport = "tcp" if listed.type == _STREAM else "udp"  # type: ignore[attr-defined]
    ends = (transport, local.ip if local else "", local.port if local else 0)
    ends = (*ends, remote.ip if remote else "", remote.port if remote else 0)  # type: ignore[assignment]
    identity = msgspec.msgpack.encode(ends)
    detail = msgspec.msgpack.encode((*ends, state, 0, None, pid or 0))
    return Seen(identity + str(pid).encode(), state, identity, detail)
