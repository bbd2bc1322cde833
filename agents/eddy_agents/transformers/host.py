"""Cooks what the host source observed: processes and connections with their owner, service and container.

In: ``eddy.event.raw.system.host.process.*`` and ``eddy.event.raw.network.host.connection.*``, one JSON object a raw
event (`eddy_agents.wire.host_records`). Out: ``eddy.event.cooked.system.host.process.*`` and
``eddy.event.cooked.network.host.connection.*``, one event for each, in order. An object that is none of these is kept
as ``message`` with ``error.message``.

``event.action`` of a process: ``existing``, ``process_started``, ``exec``, ``process_exited``, ``user_changed``,
``group_changed``, ``renamed``, ``core_dumped``; of a connection: ``existing``, ``listening``, ``connection_opened``,
``state``, ``connection_closed``. The source of a connection is the end that opened it; a listening socket is a
destination. Octets are those that TCP has carried; the receiving side counts the end of the stream as one.

Source: Elastic Common Schema, field sets process, source, destination and network; wait(2) for exit codes.
"""

from __future__ import annotations

import shlex
from hashlib import blake2b

import msgspec

from eddy_agents.wire.host_records import ConnectionRecord, ProcessAction, ProcessFacts, ProcessRecord
from eddy_agents.wire.log_rows import carried_columns, payload_bytes
from eddy_agents.wire.procfs import placement
from eddy_agents.wire.syslog import decode
from eddy_mesh.agent import Draft, Example, Result
from eddy_mesh.batch import Batch, Kind
from eddy_mesh.cer import EventClass, Stage, Value
from eddy_mesh.columns import Column, Constant, nulls_of
from eddy_mesh.rows import columns_of

INPUT: tuple[str, ...] = ("host.process", "host.connection")
PROCESS = Kind(Stage.COOKED, EventClass.SYSTEM, "host.process")
CONNECTION = Kind(Stage.COOKED, EventClass.NETWORK, "host.connection")

_LEVEL = 6
_SECOND_NS = 1_000_000_000
_MAX_TOLD = 200  # characters of a command line in a message; the whole is in process.command_line

_PROCESS_ACTIONS = {
    ProcessAction.EXISTING: ("existing", "info", "is running"),
    ProcessAction.FORK: ("process_started", "start", "started"),
    ProcessAction.EXEC: ("exec", "start", "executed"),
    ProcessAction.EXIT: ("process_exited", "end", "ended"),
    ProcessAction.USER: ("user_changed", "change", "is now run"),
    ProcessAction.GROUP: ("group_changed", "change", "has changed its group, run"),
    ProcessAction.NAME: ("renamed", "change", "has this name now, run"),
    ProcessAction.CORE_DUMP: ("core_dumped", "info", "dumps core, run"),
}
_CONNECTION_TYPES = {
    "existing": "info",
    "listening": "start",
    "connection_opened": "start",
    "state": "info",
    "connection_closed": "end",
}
_PROTOCOL_NUMBERS = {"tcp": 6, "udp": 17}
_SIGNALS = {
    1: "SIGHUP",
    2: "SIGINT",
    3: "SIGQUIT",
    4: "SIGILL",
    5: "SIGTRAP",
    6: "SIGABRT",
    7: "SIGBUS",
    8: "SIGFPE",
    9: "SIGKILL",
    10: "SIGUSR1",
    11: "SIGSEGV",
    12: "SIGUSR2",
    13: "SIGPIPE",
    14: "SIGALRM",
    15: "SIGTERM",
    24: "SIGXCPU",
    25: "SIGXFSZ",
    31: "SIGSYS",
}
"""Signals that end processes, as Linux numbers them on x86 and ARM; signal(7)."""


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The host cooking has no settings."""


class Cooking:
    """Raw observations of a host → cooked ones."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def on_batch(self, batch: Batch, now_ns: int) -> Result:  # noqa: ARG002  # the protocol's
        """Cook every observation of a batch."""
        if not batch.count:
            return Result()
        is_process = batch.kind.type != CONNECTION.type
        cook = process_fields if is_process else connection_fields
        columns = columns_of([cook(payload) for payload in payload_bytes(batch)])
        kept = {"host": _host(batch), **carried_columns(batch)}
        return Result((Draft(PROCESS if is_process else CONNECTION, batch.count, {**columns, **kept}),))

    def on_tick(self, now_ns: int) -> Result:  # noqa: ARG002  # the protocol's
        """Nothing is due by time."""
        return Result()


def _host(batch: Batch) -> Column:
    """Return the name of the host that was observed: it observes itself, so it is also the normalizer's."""
    for name in ("host", "normalizer"):
        if not nulls_of(batch.column(name)).all():
            return batch.column(name)
    return Constant(None, batch.count)


def _without_none(row: dict[str, Value]) -> dict[str, Value]:
    return {name: value for name, value in row.items() if value is not None and value != ""}


def _not_understood(payload: bytes, error: Exception) -> dict[str, Value]:
    return {"message": decode(payload), "error.message": f"not an observation of a host: {error}"}


# --- processes ---------------------------------------------------------------------------------------------------


def process_fields(payload: bytes) -> dict[str, Value]:
    """Return the fields of one observation of a process.

    Args:
        payload: JSON of a `ProcessRecord`; anything else gives message and error.message.
    """
    try:
        record = msgspec.json.decode(payload, type=ProcessRecord)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return _not_understood(payload, error)
    action, kind, _ = _PROCESS_ACTIONS[record.action]
    code, reason = _exit(record.wait_status)
    ended = record.occurred_ns if record.action is ProcessAction.EXIT else None
    return _without_none(
        {
            "occurred": record.occurred_ns,
            "level": _LEVEL,
            "event.kind": "event",
            "event.category": "process",
            "event.module": "host",
            "event.provider": str(record.provider),
            "event.action": action,
            "event.type": kind,
            "event.reason": reason,
            "process.exit_code": code,
            "process.end": ended,
            **_user(record.process.user_id, record.process.user_name),
            **_process(record.process),
            "message": _process_message(record, code, reason),
        }
    )


def _user(user_id: int | None, name: str) -> dict[str, Value]:
    return {"user.id": str(user_id) if user_id is not None else None, "user.name": name}


def _process(facts: ProcessFacts) -> dict[str, Value]:
    """Return the fields that any event of a process, or of what it owns, has."""
    place = placement(facts.cgroup)
    return {
        "process.pid": facts.pid,
        "process.parent.pid": facts.parent_pid,
        "process.entity_id": entity_id(facts),
        "process.name": facts.name,
        "process.executable": facts.executable,
        "process.command_line": shlex.join(facts.args),
        "process.working_directory": facts.working_directory,
        "process.start": facts.start_ns,
        "process.user.id": str(facts.user_id) if facts.user_id is not None else None,
        "process.user.name": facts.user_name,
        "process.real_user.id": str(facts.real_user_id) if facts.real_user_id is not None else None,
        "group.id": str(facts.group_id) if facts.group_id is not None else None,
        "session.id": str(facts.session_id) if facts.session_id is not None else None,
        "host.boot.id": facts.boot_id,
        "service.name": place.unit,
        "container.id": place.container_id,
        "orchestrator.resource.id": place.pod_id,
        "orchestrator.resource.type": "pod" if place.pod_id else None,
    }


def entity_id(facts: ProcessFacts) -> str | None:
    """Return what names a process for all time: 24 hexadecimal digits; None when its start is not known.

    Args:
        facts: boot id, pid and start count.
    """
    if facts.start_ticks is None or not facts.boot_id:
        return None
    named = f"{facts.boot_id}/{facts.pid}/{facts.start_ticks}"
    return blake2b(named.encode("utf-8", "replace"), digest_size=12).hexdigest()


def _exit(wait_status: int | None) -> tuple[int | None, str | None]:
    """Return the exit code as a shell gives it (128 + signal), and the signal that ended a process."""
    if wait_status is None:
        return None, None
    signal = wait_status & 0x7F
    if not signal:
        return wait_status >> 8 & 0xFF, None
    return 128 + signal, _SIGNALS.get(signal, f"signal {signal}")


def _process_message(record: ProcessRecord, code: int | None, reason: str | None) -> str:
    facts = record.process
    who = f"{facts.name or 'process'}[{facts.pid}]"
    if record.action is ProcessAction.EXIT:
        if reason:
            return f"{who} was killed by {reason}"
        return f"{who} exited with status {code}" if code is not None else f"{who} ended"
    by = facts.user_name or (str(facts.user_id) if facts.user_id is not None else "")
    command = shlex.join(facts.args)
    told = command if len(command) <= _MAX_TOLD else command[: _MAX_TOLD - 3] + "..."
    text = f"{who} {_PROCESS_ACTIONS[record.action][2]}" + (f" by {by}" if by else "")
    return f"{text}: {told}" if told else text


# --- connections -------------------------------------------------------------------------------------------------


def connection_fields(payload: bytes) -> dict[str, Value]:
    """Return the fields of one observation of a socket.

    Args:
        payload: JSON of a `ConnectionRecord`; anything else gives message and error.message.
    """
    try:
        record = msgspec.json.decode(payload, type=ConnectionRecord)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return _not_understood(payload, error)
    owner = _process(record.process) if record.process else {}
    return _without_none(
        {
            "occurred": record.occurred_ns,
            "level": _LEVEL,
            "event.kind": "event",
            "event.category": "network",
            "event.module": "host",
            "event.provider": str(record.provider),
            "event.action": record.action,
            "event.type": _CONNECTION_TYPES.get(record.action, "info"),
            "network.transport": record.transport,
            "network.iana_number": _PROTOCOL_NUMBERS.get(record.transport),
            "network.type": "ipv6" if ":" in record.local_address else "ipv4",
            "network.direction": record.direction,
            "socket.state": record.state,
            "socket.inode": record.inode or None,
            "socket.round_trip": record.round_trip_us * 1000 if record.round_trip_us else None,
            "socket.retransmits": record.retransmits,
            **owner,
            **_user(record.user_id, record.user_name),
            **_ends(record),
            **_times(record),
            "message": _connection_message(record),
        }
    )


def _ends(record: ConnectionRecord) -> dict[str, Value]:
    """Return both ends and what each has sent; the source is the end that opened the connection."""
    local, remote = ("destination", "source")
    if record.direction == "egress":
        local, remote = remote, local
    row: dict[str, Value] = {f"{local}.ip": record.local_address, f"{local}.port": record.local_port}
    if record.remote_port:
        row |= {f"{remote}.ip": record.remote_address, f"{remote}.port": record.remote_port}
    if record.sent_bytes is not None:
        row |= {f"{local}.bytes": record.sent_bytes, f"{remote}.bytes": record.received_bytes}
        row |= {f"{local}.packets": record.sent_packets, f"{remote}.packets": record.received_packets}
    if record.sent_bytes is not None and record.received_bytes is not None:
        row["network.bytes"] = record.sent_bytes + record.received_bytes
    return row


def _times(record: ConnectionRecord) -> dict[str, Value]:
    if record.action != "connection_closed":
        return {"event.start": record.opened_ns}
    duration = None if record.opened_ns is None else max(record.occurred_ns - record.opened_ns, 0)
    return {"event.start": record.opened_ns, "event.end": record.occurred_ns, "event.duration": duration}


def _connection_message(record: ConnectionRecord) -> str:
    owner = record.process
    who = f"{owner.name or 'process'}[{owner.pid}]: " if owner else ""
    local = _endpoint(record.local_address, record.local_port)
    if not record.remote_port:
        verb = {"existing": "listens on", "listening": "listens on", "connection_closed": "closed"}
        return f"{who}{verb.get(record.action, record.state)} {record.transport} {local}"
    remote = _endpoint(record.remote_address, record.remote_port)
    ends = f"{local} -> {remote}" if record.direction == "egress" else f"{remote} -> {local}"
    text = f"{who}{record.transport} {ends} {record.state}"
    if record.action == "connection_closed" and record.opened_ns is not None:
        text += f" after {max(record.occurred_ns - record.opened_ns, 0) / _SECOND_NS:.1f} s"
    if record.sent_bytes is not None and record.received_bytes is not None:
        text += f", {record.sent_bytes} bytes sent, {record.received_bytes} received"
    return text


def _endpoint(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


EXAMPLES: tuple[Example, ...] = (
    Example(
        given=(
            (
                b'{"provider":"proc_connector","action":"exec","occurred_ns":1793697247250000000,'
                b'"process":{"pid":123,"parent_pid":77,"name":"ls","executable":"/usr/bin/ls","args":["ls","-l"],'
                b'"user_id":0,"user_name":"root","start_ticks":4711,"boot_id":"b",'
                b'"cgroup":"/system.slice/cron.service"}}'
            ),
            (
                b'{"provider":"proc_connector","action":"exit","occurred_ns":1793697248000000000,'
                b'"process":{"pid":123,"name":"ls"},"wait_status":512}'
            ),
        ),
        expected=(
            {
                "occurred": 1793697247250000000,
                "event.action": "exec",
                "process.pid": 123,
                "process.command_line": "ls -l",
                "user.name": "root",
                "service.name": "cron.service",
                "message": "ls[123] executed by root: ls -l",
            },
            {"event.action": "process_exited", "event.type": "end", "process.exit_code": 2},
        ),
    ),
    Example(
        given=(
            (
                b'{"provider":"inet_diag","action":"connection_closed","occurred_ns":1793697249000000000,'
                b'"transport":"tcp","local_address":"192.0.2.1","local_port":22,"remote_address":"198.51.100.7",'
                b'"remote_port":50022,"state":"closed","direction":"ingress","inode":77,"user_id":0,'
                b'"user_name":"root","opened_ns":1793697247000000000,"sent_bytes":3100,"received_bytes":2400,'
                b'"process":{"pid":812,"name":"sshd","cgroup":"/system.slice/ssh.service"}}'
            ),
        ),
        expected=(
            {
                "event.action": "connection_closed",
                "event.duration": 2000000000,
                "source.ip": "198.51.100.7",
                "source.port": 50022,
                "source.bytes": 2400,
                "destination.port": 22,
                "destination.bytes": 3100,
                "network.transport": "tcp",
                "network.direction": "ingress",
                "process.name": "sshd",
                "service.name": "ssh.service",
                "user.name": "root",
            },
        ),
    ),
)
