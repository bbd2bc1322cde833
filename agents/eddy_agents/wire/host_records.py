"""The raw events of the host source: one JSON object with all that was read about a process or a connection.

What may live here: the two objects, as the source writes them and the cooking reads them.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

MEDIA_TYPE = "application/json"

Natural = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class Provider(StrEnum):
    """How something was observed."""

    PROC_CONNECTOR = "proc_connector"
    PROCFS = "procfs"
    INET_DIAG = "inet_diag"
    PSUTIL = "psutil"


class ProcessAction(StrEnum):
    """What happened to a process."""

    EXISTING = "existing"
    FORK = "fork"
    EXEC = "exec"
    EXIT = "exit"
    USER = "user"
    GROUP = "group"
    NAME = "name"
    CORE_DUMP = "core_dump"


class ProcessFacts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of a process.

    Attributes:
        pid: process id; with ``boot_id`` and ``start_ticks`` it names the process for all time.
        parent_pid: process id of the parent.
        name: short name, as the kernel has it.
        executable: absolute path.
        args: the command line, the program first.
        working_directory: absolute path.
        user_id, real_user_id, group_id: effective and real user, effective group.
        user_name: login name of the effective user.
        session_id: process id of the session's leader.
        start_ticks: when it started, clock ticks since the boot of the host.
        start_ns: when it started, ns since 1970 UTC.
        boot_id: of the host.
        cgroup: path of its control group.
    """

    pid: Natural
    parent_pid: Natural | None = None
    name: str = ""
    executable: str = ""
    args: tuple[str, ...] = ()
    working_directory: str = ""
    user_id: Natural | None = None
    real_user_id: Natural | None = None
    group_id: Natural | None = None
    user_name: str = ""
    session_id: Natural | None = None
    start_ticks: Natural | None = None
    start_ns: Natural | None = None
    boot_id: str = ""
    cgroup: str = ""


class ProcessRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A raw ``host.process`` event.

    Attributes:
        provider: how it was observed.
        action: what happened.
        occurred_ns: when, ns since 1970 UTC.
        process: as it was known then.
        wait_status: of an exit, as wait(2) gives it; None where nobody told.
    """

    provider: Provider
    action: ProcessAction
    occurred_ns: Natural
    process: ProcessFacts
    wait_status: Natural | None = None


class ConnectionRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A raw ``host.connection`` event; what was sent was sent by this host.

    Attributes:
        provider: how it was observed.
        action: one of `eddy_agents.wire.host_sockets.Action`.
        occurred_ns: when it was seen, ns since 1970 UTC.
        transport: ``tcp`` or ``udp``.
        local_address, local_port: this end.
        remote_address, remote_port: other end; port 0 where there is none.
        state: name of the state.
        direction: ``ingress``: the other end opened it; ``egress``: this host did; "" for a listening socket.
        inode: of the socket; 0 unknown.
        user_id, user_name: who made the socket.
        opened_ns: when it was first seen, ns since 1970 UTC; None when that was before the source started.
        sent_bytes, received_bytes, sent_packets, received_packets: what it has carried, where known.
        round_trip_us: smoothed round-trip time, us.
        retransmits: segments sent again.
        process: owner, where known.
    """

    provider: Provider
    action: str
    occurred_ns: Natural
    transport: str
    local_address: str
    local_port: Annotated[int, msgspec.Meta(ge=0, le=65535)]
    remote_address: str = ""
    remote_port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0
    state: str = ""
    direction: str = ""
    inode: Natural = 0
    user_id: Natural | None = None
    user_name: str = ""
    opened_ns: Natural | None = None
    sent_bytes: Natural | None = None
    received_bytes: Natural | None = None
    sent_packets: Natural | None = None
    received_packets: Natural | None = None
    round_trip_us: Natural | None = None
    retransmits: Natural | None = None
    process: ProcessFacts | None = None
