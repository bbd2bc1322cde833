"""The kernel's process events: the connector's netlink messages that tell of fork, exec, exit and changed identity.

What may live here: the request that turns the events on and off, and the decoder of the messages. No socket.

Source: Linux include/uapi/linux/netlink.h, linux/connector.h, linux/cn_proc.h.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import Final, NamedTuple

from eddy_mesh.errors import WireError

GROUP: Final = 1
"""CN_IDX_PROC: index of the connector, and the multicast group to bind to."""

_SOURCE: Final = "proc_connector"
_VALUE = 1  # CN_VAL_PROC
_DONE = 3  # NLMSG_DONE, the type of every connector message
_LISTEN, _IGNORE = 1, 2

_NETLINK = Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_CONNECTOR = Struct("=IIIIHH")  # cn_msg: index, value, sequence, acknowledged, length, flags
_EVENT = Struct("=IIQ")  # proc_event: what, cpu, monotonic time in ns
_NUMBERS = Struct("=IIII")
_TWO = Struct("=II")
_ONE = Struct("=I")
_COMM = Struct("=II16s")
_NO_CPU = 0xFFFF_FFFF


class What(IntEnum):
    """Kinds of process event that are told; the kernel has more."""

    ACKNOWLEDGED = 0
    FORK = 0x1
    EXEC = 0x2
    USER = 0x4
    GROUP = 0x40
    NAME = 0x200
    CORE_DUMP = 0x4000_0000
    EXIT = 0x8000_0000


_TOLD: Final = {int(what): what for what in What}
_NEEDED_BYTES: Final = {
    What.ACKNOWLEDGED: _ONE.size,
    What.FORK: _NUMBERS.size,
    What.EXEC: _TWO.size,
    What.USER: _NUMBERS.size,
    What.GROUP: _NUMBERS.size,
    What.NAME: _COMM.size,
    What.CORE_DUMP: _TWO.size,
    What.EXIT: 12,
}


class ProcEvent(NamedTuple):
    """One event of a process or thread.

    Attributes:
        what: kind; None for one that is not in `What`.
        cpu: processor that told it, or -1 for an answer to a request.
        sequence: number of the message among those of that processor; a gap is loss.
        monotonic_ns: when, in ns of CLOCK_MONOTONIC.
        thread_id: thread that it is about; of a fork, the new one.
        pid: its process.
        parent_pid: process of the parent; only of a fork, else 0.
        value: error number of an answer, wait status of an exit, effective id of a change of user or group, else 0.
        real_id: real id of a change of user or group.
        name: new name of the thread.
    """

    what: What | None
    cpu: int
    sequence: int
    monotonic_ns: int
    thread_id: int = 0
    pid: int = 0
    parent_pid: int = 0
    value: int = 0
    real_id: int = 0
    name: str = ""

    @property
    def is_of_process(self) -> bool:
        """Whether it is about a process as a whole: its first thread."""
        return self.thread_id == self.pid


def encode_subscription(*, listen: bool) -> bytes:
    """Return the message that turns process events on for the socket that sends it, or off."""
    operation = _ONE.pack(_LISTEN if listen else _IGNORE)
    body = _CONNECTOR.pack(GROUP, _VALUE, 0, 0, len(operation), 0) + operation
    return _NETLINK.pack(_NETLINK.size + len(body), _DONE, 0, 0, 0) + body


def decode(data: bytes) -> list[ProcEvent]:
    """Return the process events of what one read of the socket gave.

    Args:
        data: netlink messages end to end, each padded to 4 bytes, in the byte order of this host.

    Raises:
        WireError: a message is cut, or is not one of the process connector.
    """
    events: list[ProcEvent] = []
    start = 0
    while start < len(data):
        if len(data) - start < _NETLINK.size:
            raise WireError(_SOURCE, f"{len(data) - start} bytes left, a netlink header has {_NETLINK.size}", start)
        length = _NETLINK.unpack_from(data, start)[0]
        if not _NETLINK.size <= length <= len(data) - start:
            raise WireError(_SOURCE, f"message of {length} bytes, {len(data) - start} are left", start)
        events.append(_event(data, start + _NETLINK.size, start + length))
        start += length + -length % 4
    return events


def _event(data: bytes, start: int, end: int) -> ProcEvent:
    details = start + _CONNECTOR.size + _EVENT.size
    if details > end:
        raise WireError(_SOURCE, f"{end - start} bytes are too few for a process event", start)
    index, value, sequence, _, length, _ = _CONNECTOR.unpack_from(data, start)
    if (index, value) != (GROUP, _VALUE):
        raise WireError(_SOURCE, f"connector {index}/{value}, {GROUP}/{_VALUE} expected", start)
    if length > end - start - _CONNECTOR.size:
        raise WireError(_SOURCE, f"event of {length} bytes is cut", start)
    number, cpu, monotonic_ns = _EVENT.unpack_from(data, start + _CONNECTOR.size)
    what = _TOLD.get(number)
    head = (what, -1 if cpu == _NO_CPU else cpu, sequence, monotonic_ns)
    if what is None:
        return ProcEvent(*head)
    if end - details < _NEEDED_BYTES[what]:
        raise WireError(_SOURCE, f"event {what.name} has {end - details} bytes, {_NEEDED_BYTES[what]} needed", details)
    return _detailed(what, head, data, details)


def _detailed(what: What, head: tuple[What | None, int, int, int], data: bytes, start: int) -> ProcEvent:
    if what is What.ACKNOWLEDGED:
        return ProcEvent(*head, value=_ONE.unpack_from(data, start)[0])
    if what is What.FORK:
        _, parent_pid, thread_id, pid = _NUMBERS.unpack_from(data, start)
        return ProcEvent(*head, thread_id, pid, parent_pid)
    if what in {What.USER, What.GROUP}:
        thread_id, pid, real, effective = _NUMBERS.unpack_from(data, start)
        return ProcEvent(*head, thread_id, pid, value=effective, real_id=real)
    if what is What.NAME:
        thread_id, pid, name = _COMM.unpack_from(data, start)
        return ProcEvent(*head, thread_id, pid, name=name.partition(b"\0")[0].decode("utf-8", "replace"))
    thread_id, pid = _TWO.unpack_from(data, start)
    status = _TWO.unpack_from(data, start + 4)[1] if what is What.EXIT else 0
    return ProcEvent(*head, thread_id, pid, value=status)
