"""Keeps account of the processes of a host, from the kernel's events or by looking again.

What may live here: `ProcessWatch`. How a process is read is the reader's business.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol

from msgspec.structs import replace

from eddy_agents.wire.host_records import ProcessAction, ProcessFacts, ProcessRecord, Provider
from eddy_agents.wire.proc_connector import ProcEvent, What
from eddy_agents.wire.procfs import Stat

_CHUNK = 32
"""Processes read between two turns for other tasks: some 3 ms."""


class Reader(Protocol):
    """Reads processes: `ProcReader` or `PsutilReader`."""

    provider: Provider

    def pids(self) -> set[int]:
        """Return the id of every process."""
        ...

    def stat(self, pid: int) -> Stat | None:
        """Return the little that tells a process from another, or None when it is gone."""
        ...

    def process(self, pid: int, stat: Stat | None = None) -> ProcessFacts | None:
        """Return what can be read of a process, or None when it is gone."""
        ...

    def started(self, stat: Stat) -> int:
        """Return when a process started, ns since 1970 UTC."""
        ...

    def user_name(self, user_id: int) -> str:
        """Return the login name of a user, "" where there is none."""
        ...


class ProcessWatch:
    """The processes of a host and what happens to them.

    Args:
        reader: reads processes.
        put: takes each record.
        now_ns: gives ns since 1970 UTC.
    """

    def __init__(self, reader: Reader, put: Callable[[ProcessRecord], None], now_ns: Callable[[], int]) -> None:
        self._reader = reader
        self._put = put
        self._now_ns = now_ns
        self._known: dict[int, ProcessFacts] = {}
        self._to_check: deque[int] = deque()

    def __len__(self) -> int:
        return len(self._known)

    def process(self, pid: int) -> ProcessFacts | None:
        """Return what is known of a process, read now where it is not known yet."""
        return self._known.get(pid) or self._reader.process(pid)

    # --- by looking ----------------------------------------------------------------------------------------------

    def look(self, checks: int, *, is_first: bool = False) -> Iterator[None]:
        """Compare the processes that are there with those that were; yields now and then, so that it can be paced.

        Args:
            checks: how many of the known ones to read again, in turn: whether they have become another program.
            is_first: what is there was there before: ``existing``.
        """
        there = self._reader.pids()
        for pid in self._known.keys() - there:
            self._end(pid)
        begun = ProcessAction.EXISTING if is_first else ProcessAction.FORK
        for count, pid in enumerate(sorted(there - self._known.keys()), 1):
            self._begin(pid, begun)
            if count % _CHUNK == 0:
                yield
        for count in range(1, min(checks, len(self._known)) + 1):
            self._check_next()
            if count % _CHUNK == 0:
                yield

    def _begin(self, pid: int, action: ProcessAction) -> None:
        facts = self._reader.process(pid)
        if facts is not None:
            self._known[pid] = facts
            self._tell(action, facts)

    def _end(self, pid: int) -> None:
        self._tell(ProcessAction.EXIT, self._known.pop(pid))

    def _check_next(self) -> None:
        if not self._to_check:
            self._to_check.extend(self._known)
        pid = self._to_check.popleft()
        facts, stat = self._known.get(pid), self._reader.stat(pid)
        if facts is None or stat is None:
            return
        if stat.start_ticks != facts.start_ticks:  # the id was given to another process
            self._end(pid)
            self._begin(pid, ProcessAction.FORK)
        elif stat.name != facts.name and facts.args:  # a kernel thread has none, and is called after its work
            self._replaced(facts)

    def _replaced(self, before: ProcessFacts) -> None:
        facts = self._reader.process(before.pid)
        if facts is None:
            return
        self._known[before.pid] = facts
        is_same = (facts.executable, facts.args) == (before.executable, before.args)
        self._tell(ProcessAction.NAME if is_same else ProcessAction.EXEC, facts)

    def _tell(self, action: ProcessAction, facts: ProcessFacts) -> None:
        self._put(
            ProcessRecord(provider=self._reader.provider, action=action, occurred_ns=self._now_ns(), process=facts)
        )

    # --- by events -----------------------------------------------------------------------------------------------

    def apply(self, event: ProcEvent, occurred_ns: int) -> None:
        """Take one event of the kernel; those of single threads are passed over."""
        action = _ACTIONS.get(event.what)
        if action is None or not event.is_of_process:
            return
        if action is ProcessAction.FORK:
            facts = self._forked(event)
        elif action is ProcessAction.EXIT:
            facts = self._known.pop(event.pid, None) or ProcessFacts(pid=event.pid)
        elif action is ProcessAction.EXEC:
            facts = self._reader.process(event.pid) or self._unread(event.pid)
        else:
            facts = self._changed(event)
        if facts is None:
            return
        if action is not ProcessAction.EXIT:
            self._known[event.pid] = facts
        status = event.value if action is ProcessAction.EXIT else None
        provider = Provider.PROC_CONNECTOR
        self._put(
            ProcessRecord(provider=provider, action=action, occurred_ns=occurred_ns, process=facts, wait_status=status)
        )

    def _of(self, pid: int) -> ProcessFacts:
        return self._known.get(pid) or self._reader.process(pid) or ProcessFacts(pid=pid)

    def _unread(self, pid: int) -> ProcessFacts:
        """Return a process that was gone before its new program could be read: the old one would be wrong."""
        return replace(self._of(pid), name="", executable="", args=())

    def _forked(self, event: ProcEvent) -> ProcessFacts | None:
        """Return a new process: one file is read, the rest it has from its parent; None for one known already."""
        stat = self._reader.stat(event.pid)
        known = self._known.get(event.pid)
        if known is not None and stat is not None and known.start_ticks == stat.start_ticks:
            return None
        parent = self._known.get(event.parent_pid)
        if parent is None or (stat is not None and stat.name != parent.name):
            return self._reader.process(event.pid, stat) or ProcessFacts(pid=event.pid, parent_pid=event.parent_pid)
        return replace(
            parent,
            pid=event.pid,
            parent_pid=event.parent_pid,
            start_ticks=stat.start_ticks if stat else None,
            start_ns=self._reader.started(stat) if stat else None,
        )

    def _changed(self, event: ProcEvent) -> ProcessFacts:
        facts = self._of(event.pid)
        if event.what is What.NAME:
            return replace(facts, name=event.name)
        if event.what is What.GROUP:
            return replace(facts, group_id=event.value)
        if event.what is What.USER:
            name = self._reader.user_name(event.value)
            return replace(facts, user_id=event.value, real_user_id=event.real_id, user_name=name)
        return facts


_ACTIONS: dict[What | None, ProcessAction] = {
    What.FORK: ProcessAction.FORK,
    What.EXEC: ProcessAction.EXEC,
    What.EXIT: ProcessAction.EXIT,
    What.USER: ProcessAction.USER,
    What.GROUP: ProcessAction.GROUP,
    What.NAME: ProcessAction.NAME,
    What.CORE_DUMP: ProcessAction.CORE_DUMP,
}
