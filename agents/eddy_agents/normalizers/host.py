"""What happens on this host: processes that start and end, TCP and UDP sockets that open and close, with their owners.

Takes in: on Linux the process events of the proc connector and the listings and ends of inet_diag where the host
allows it (its own namespaces, on older kernels CAP_NET_ADMIN), else looks at /proc at each interval; elsewhere psutil.
Gives: ``event.raw.system.host.process`` and ``event.raw.network.host.connection``, each a JSON object with all that
was read (`eddy_agents.wire.host_records`). What exists at the start is told first, as ``existing``.

Which way it observes is told by the notice ``host_observation`` and by ``provider`` in each event. Looking at
intervals misses what begins and ends between two looks.

Source: Linux Documentation/driver-api/connector.rst; sock_diag(7); proc(5).
"""

from __future__ import annotations

import asyncio
import errno
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from enum import StrEnum
from ipaddress import ip_address
from typing import Annotated, Protocol

import msgspec
import numpy as np

from eddy_agents.observation.netlink import DRAIN_MESSAGES, DiagReader, ProcessEvents, SocketEnds
from eddy_agents.observation.proc_reader import ProcReader
from eddy_agents.observation.process_watch import ProcessWatch, Reader
from eddy_agents.wire import inet_diag, proc_connector
from eddy_agents.wire.host_records import MEDIA_TYPE, ConnectionRecord, ProcessRecord, Provider
from eddy_agents.wire.host_sockets import Action, Change, Seen, SocketFacts, SocketTable, Tracked
from eddy_mesh.agent import Draft, Outlet
from eddy_mesh.batch import Kind
from eddy_mesh.cer import EventClass, Stage
from eddy_mesh.columns import Bytes, Constant, Numbers, pack
from eddy_mesh.errors import ConfigError, WireError
from eddy_mesh.listening import GATHER_S, emit_last, emit_or_count

OUTPUT = Kind(Stage.RAW, EventClass.SYSTEM, "host.process")
OUTPUT_CONNECTION = Kind(Stage.RAW, EventClass.NETWORK, "host.connection")

_MAX_HELD = 4096  # events that wait for a full edge; then nothing more is read
_MAX_DRAFT = 1000
_CHECKS = 16  # processes read again at each look, to see whether they have become another program: 0.3 ms
_ENDS_GATHER_S = 0.05  # ends of sockets need no look-up that could come too late
_MAX_DRAINS = 16  # some 2,000 ends, then others have their turn
_RESYNC_S = 1.0
_SEARCH_S = 0.002  # an owner is looked for so long,
_SEARCH_PAUSE_S = 0.02  # then others have their turn,
_SEARCH_SLICES = 25  # and so often in one look: 50 ms at most, and only when there are new sockets
_MAX_RECENT = 64
_NO_CONNECTOR = "the proc connector needs the host's own namespaces and, before Linux 6.6, CAP_NET_ADMIN"


class Method(StrEnum):
    """How to observe."""

    AUTO = "auto"
    POLLING = "polling"


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the host source."""

    processes: bool = True
    """Take in processes that start, change and end."""

    connections: bool = True
    """Take in TCP and UDP sockets that open, change and close."""

    interval_s: Annotated[float, msgspec.Meta(ge=0.01)] = 1.0
    """Time between two looks at the sockets, and at the processes where the kernel does not tell of them."""

    max_core_share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.003
    """Most of one core that looking at the sockets may take: on a host where a look takes long there are fewer."""

    method: Method = Method.AUTO
    """``auto``: the kernel's events where this host allows them; ``polling``: only look at each interval."""

    ignore_loopback: bool = False
    """Leave out sockets of loopback addresses."""

    max_sockets: Annotated[int, msgspec.Meta(ge=1)] = 65536
    """Most sockets to keep account of; what is beyond is counted, with a notice."""


class Source:
    """Observes this host."""

    def __init__(self, config: Config) -> None:
        self._config = config

    async def run(self, outlet: Outlet) -> None:
        """Emit what happens until cancelled.

        Raises:
            ConfigError: everything is switched off, or this system does not list what was asked for.
            OSError: the kernel or /proc failed.
        """
        config = self._config
        if not config.processes and not config.connections:
            raise ConfigError(["processes, connections: both are false, nothing is left to observe: set one to true"])
        reader = _reader(outlet)
        processes, connections = _Outbox(outlet, OUTPUT), _Outbox(outlet, OUTPUT_CONNECTION)
        watch = ProcessWatch(reader, processes.put_process, outlet.now_ns)
        with ExitStack() as opened:
            try:
                async with asyncio.TaskGroup() as group:
                    if config.processes:
                        group.create_task(processes.send())
                        group.create_task(_Processes(config, outlet, processes, watch).follow(opened))
                    if config.connections:
                        group.create_task(connections.send())
                        group.create_task(_Connections(config, outlet, connections, watch, reader).follow(opened))
            except* (OSError, WireError, ConfigError) as failed:
                raise _plain(failed.exceptions[0]) from failed


class _SocketReader(Protocol):
    """Lists sockets."""

    @property
    def provider(self) -> Provider: ...

    async def sockets(self) -> list[Seen]: ...

    def facts(self, seen: Seen) -> SocketFacts: ...


class _HostReader(Reader, _SocketReader, Protocol):
    """Reads both: `ProcReader`, or `PsutilReader` where there is no /proc."""

    def search_owners(self, wanted: set[int], pids: Iterable[int], found: dict[int, int]) -> Iterator[None]: ...


def _reader(outlet: Outlet) -> _HostReader:
    if sys.platform != "linux":
        from eddy_agents.observation.psutil_reader import PsutilReader  # noqa: PLC0415  # not needed on Linux

        return PsutilReader(outlet.now_ns)
    return ProcReader(outlet.now_ns)


class _Outbox:
    """Events of one kind on their way: put by one task, emitted by another, bounded."""

    def __init__(self, outlet: Outlet, kind: Kind) -> None:
        self._outlet = outlet
        self._kind = kind
        self._host = socket.gethostname()
        self._held: list[tuple[bytes, int]] = []
        self._filled = asyncio.Event()
        self._has_room = asyncio.Event()
        self._has_room.set()

    def put_process(self, record: ProcessRecord) -> None:
        self._put(msgspec.json.encode(record), record.occurred_ns)

    def put_connection(self, record: ConnectionRecord) -> None:
        self._put(msgspec.json.encode(record), record.occurred_ns)

    def _put(self, payload: bytes, occurred_ns: int) -> None:
        self._held.append((payload, occurred_ns))
        self._filled.set()
        if len(self._held) >= _MAX_HELD:
            self._has_room.clear()

    async def room(self) -> None:
        """Wait while too much is held."""
        await self._has_room.wait()

    async def send(self) -> None:
        """Emit what is put, until cancelled; then what is left."""
        try:
            while True:
                await self._filled.wait()
                await asyncio.sleep(GATHER_S)
                while self._held:
                    await emit_or_count(self._outlet, self._take())
                self._filled.clear()
                self._has_room.set()
        finally:
            while self._held and await emit_last(self._outlet, self._take()):
                pass
            if self._held:
                self._outlet.lost("stopped", len(self._held))

    def _take(self) -> Draft:
        taken, self._held = self._held[:_MAX_DRAFT], self._held[_MAX_DRAFT:]
        count = len(taken)
        return Draft(
            self._kind,
            count,
            {
                "event.original": Bytes(*pack([payload for payload, _ in taken])),
                "raw.media_type": Constant(MEDIA_TYPE, count),
                "occurred": Numbers(np.array([occurred_ns for _, occurred_ns in taken], np.int64)),
                "observed": Numbers(np.full(count, self._outlet.now_ns(), np.int64)),
                "host": Constant(self._host, count),
            },
        )


async def _paced(steps: Iterable[None]) -> None:
    """Do all steps, with a turn for other tasks between two."""
    for _ in steps:
        await asyncio.sleep(0)


# --- processes ---------------------------------------------------------------------------------------------------


class _Processes:
    """Follows the processes of this host."""

    def __init__(self, config: Config, outlet: Outlet, outbox: _Outbox, watch: ProcessWatch) -> None:
        self._config = config
        self._outlet = outlet
        self._outbox = outbox
        self._watch = watch

    async def follow(self, opened: ExitStack) -> None:
        events, reason = await self._subscribed(opened)
        method = "proc connector" if events else "polling"
        self._outlet.notice("host_observation", watched="processes", method=method, **{"event.reason": reason}, level=6)
        await self._look(0, is_first=True)
        if events is None:
            await self._poll()
        else:
            await self._take_events(events)

    async def _subscribed(self, opened: ExitStack) -> tuple[ProcessEvents | None, str]:
        """Return the kernel's events, or None and why there are none."""
        if sys.platform != "linux":
            return None, f"{sys.platform} does not tell of processes"
        if self._config.method is Method.POLLING:
            return None, "method = 'polling'"
        try:
            events = ProcessEvents()
            opened.callback(events.close)
            await events.subscribe()
        except (OSError, WireError) as error:
            return None, f"{_reason(error)}: {_NO_CONNECTOR}"
        return events, ""

    async def _look(self, checks: int, *, is_first: bool = False) -> None:
        await _paced(self._watch.look(checks, is_first=is_first))
        await self._outbox.room()

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(self._config.interval_s)
            await self._look(_CHECKS)

    async def _take_events(self, events: ProcessEvents) -> None:
        """Take the events as they come: what is to be read of a process that ends soon must be read at once."""
        loop = asyncio.get_running_loop()
        synced_s = loop.time()
        is_behind = False
        while True:
            if not is_behind:
                await events.readable()
            else:
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(synced_s + _RESYNC_S):
                        await events.readable()
            offset_ns = self._outlet.now_ns() - time.monotonic_ns()
            for message in events.drain():
                self._apply(message, offset_ns)
            if dropped := events.dropped():
                self._outlet.lost("kernel_buffer", dropped)
                is_behind = True
            if is_behind and loop.time() >= synced_s + _RESYNC_S:
                await self._look(len(self._watch))
                synced_s, is_behind = loop.time(), False
            await self._outbox.room()

    def _apply(self, message: bytes, offset_ns: int) -> None:
        try:
            for event in proc_connector.decode(message):
                self._watch.apply(event, event.monotonic_ns + offset_ns)
        except WireError as error:
            self._outlet.lost("undecodable", 1)
            self._outlet.notice("event_undecodable", **{"error.message": str(error)})


# --- connections -------------------------------------------------------------------------------------------------


class _Connections:
    """Follows the TCP and UDP sockets of this host."""

    def __init__(
        self, config: Config, outlet: Outlet, outbox: _Outbox, watch: ProcessWatch, reader: _HostReader
    ) -> None:
        self._config = config
        self._outlet = outlet
        self._outbox = outbox
        self._watch = watch
        self._reader = reader
        self._sockets: _SocketReader = reader
        self._ends: SocketEnds | None = None
        self._recent: dict[int, None] = {}
        self._is_full = False

    async def follow(self, opened: ExitStack) -> None:
        reason = await self._open(opened)
        method = str(self._sockets.provider) + (" with events" if self._ends else ", polling")
        self._outlet.notice(
            "host_observation", watched="connections", method=method, **{"event.reason": reason}, level=6
        )
        table = SocketTable(self._sockets.facts, self._config.max_sockets, are_ends_told=self._ends is not None)
        loop = asyncio.get_running_loop()
        while True:
            begin_s = loop.time()
            cost_s = await self._look(table)
            await self._outbox.room()
            await self._wait(table, begin_s + max(self._config.interval_s, cost_s / self._config.max_core_share))

    async def _open(self, opened: ExitStack) -> str:
        """Choose the best way that this host allows; return why it is not a better one."""
        if sys.platform != "linux":
            return f"{sys.platform} does not tell of sockets"
        if self._config.method is Method.POLLING:
            return "method = 'polling'"
        reason = ""
        try:
            self._ends = SocketEnds()
            opened.callback(self._ends.close)
        except OSError as error:
            reason = f"{_reason(error)}: events of sockets that end need CAP_NET_ADMIN here"
        try:
            sockets = DiagReader(has_ends=self._ends is not None)
            opened.callback(sockets.close)
            await sockets.sockets()
        except (OSError, WireError) as error:
            self._ends = None
            return f"{_reason(error)}: inet_diag is not to be had here"
        self._sockets = sockets
        return reason

    async def _wait(self, table: SocketTable, until_s: float) -> None:
        """Wait for the next look; meanwhile take the ends of sockets."""
        loop = asyncio.get_running_loop()
        if self._ends is None:
            await asyncio.sleep(max(until_s - loop.time(), 0))
            return
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until_s):
                while True:
                    await self._ends.readable()
                    await asyncio.sleep(_ENDS_GATHER_S)
                    self._take_ends(table)
                    await self._outbox.room()

    async def _look(self, table: SocketTable) -> float:
        """Tell what has changed since the last look; return the time of the processor that the listing took, in s."""
        before_s = time.thread_time()
        listing = await self._sockets.sockets()
        gone = self._take_ends(table)
        changes = table.look(listing, self._outlet.now_ns(), gone)
        cost_s = time.thread_time() - before_s
        self._note_left_out(table)
        await self._find_owners([change.tracked for change in changes if self._is_wanted(change)])
        for change in changes:
            self._tell(change)
        return cost_s

    def _take_ends(self, table: SocketTable) -> set[bytes]:
        """Tell of the sockets that the kernel says have ended; return their keys."""
        gone: set[bytes] = set()
        if self._ends is None:
            return gone
        for _ in range(_MAX_DRAINS):
            messages = self._ends.drain()
            for seen in self._decoded(messages):
                gone.add(seen.key)
                change = table.end(seen)
                if change is not None:
                    self._tell(change)
            if len(messages) < DRAIN_MESSAGES:
                break
        if dropped := self._ends.dropped():
            self._outlet.lost("kernel_buffer", dropped)  # the next look shows which sockets are gone
        return gone

    def _decoded(self, messages: list[bytes]) -> Iterator[Seen]:
        for message in messages:
            try:
                yield from inet_diag.decode(message).seen
            except WireError as error:
                self._outlet.lost("undecodable", 1)
                self._outlet.notice("event_undecodable", **{"error.message": str(error)})

    def _note_left_out(self, table: SocketTable) -> None:
        if table.left_out and not self._is_full:
            self._outlet.lost("too_many_sockets", table.left_out)
            self._outlet.notice("too_many_sockets", left_out=table.left_out, max_sockets=self._config.max_sockets)
        self._is_full = table.left_out > 0

    # --- owners --------------------------------------------------------------------------------------------------

    async def _find_owners(self, new: list[Tracked]) -> None:
        """Find the processes that hold new sockets; those that had new ones lately are looked at first."""
        found: dict[int, int] = {}
        await self._search({tracked.facts.inode for tracked in new if tracked.owner is None} - {0}, found)
        for tracked in new:
            pid = tracked.facts.pid or found.get(tracked.facts.inode, 0)
            if pid and tracked.owner is None:
                tracked.owner = self._watch.process(pid)
                self._recent.pop(pid, None)
                self._recent[pid] = None
        while len(self._recent) > _MAX_RECENT:
            del self._recent[next(iter(self._recent))]

    async def _search(self, wanted: set[int], found: dict[int, int]) -> None:
        if not wanted:
            return
        recent = list(reversed(self._recent))
        others = sorted(self._reader.pids() - self._recent.keys(), reverse=True)  # new processes have new sockets
        steps = self._reader.search_owners(wanted, [*recent, *others], found)
        for _ in range(_SEARCH_SLICES):
            until_s = time.monotonic() + _SEARCH_S
            if all(time.monotonic() < until_s for _ in steps):
                return
            await asyncio.sleep(_SEARCH_PAUSE_S)

    # --- telling -------------------------------------------------------------------------------------------------

    def _is_wanted(self, change: Change) -> bool:
        if not self._config.ignore_loopback:
            return True
        return not (_is_loopback(change.facts.local_address) or _is_loopback(change.facts.remote_address))

    def _tell(self, change: Change) -> None:
        if self._is_wanted(change):
            self._outbox.put_connection(self._record(change))

    def _record(self, change: Change) -> ConnectionRecord:
        facts, tracked, carried = change.facts, change.tracked, change.facts.traffic
        user_id = facts.user_id if facts.user_id is not None else tracked.facts.user_id
        return ConnectionRecord(
            provider=self._sockets.provider,
            action=change.action,
            occurred_ns=self._outlet.now_ns(),
            transport=facts.transport,
            local_address=facts.local_address,
            local_port=facts.local_port,
            remote_address=facts.remote_address if facts.remote_port else "",
            remote_port=facts.remote_port,
            state="closed" if change.action is Action.CLOSED else facts.state_name,
            direction=tracked.direction or "",
            inode=facts.inode or tracked.facts.inode,
            user_id=user_id,
            user_name=self._reader.user_name(user_id) if user_id is not None else "",
            opened_ns=tracked.opened_ns,
            sent_bytes=carried.sent_bytes if carried else None,
            received_bytes=carried.received_bytes if carried else None,
            sent_packets=carried.sent_packets if carried else None,
            received_packets=carried.received_packets if carried else None,
            round_trip_us=carried.round_trip_us if carried else None,
            retransmits=carried.retransmits if carried else None,
            process=tracked.owner,
        )


def _is_loopback(address: str) -> bool:
    return bool(address) and ip_address(address).is_loopback


def _plain(error: BaseException) -> BaseException:
    """Return the error that a source may raise for one that ended its tasks."""
    if isinstance(error, WireError):
        return OSError(errno.EPROTO, f"the kernel's answer is not understood: {error}")
    return error


def _reason(error: OSError | WireError) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
