"""The texts of /proc: processes, control groups and socket tables.

What may live here: parsers of the bytes of one file each. No file is opened here.

Source: proc(5), proc_pid_stat(5), proc_net(5), cgroups(7); systemd "Control Group APIs and Delegation"; Kubernetes
and container runtimes name control groups after pods and containers.
"""

from __future__ import annotations

import re
import sys
from typing import Final, NamedTuple

from eddy_agents.wire.host_sockets import CLOSED, HALF_OPEN, LISTEN, TIME_WAIT, Seen, SocketFacts
from eddy_mesh.columns import address_text, v4_text
from eddy_mesh.errors import WireError

_SOURCE: Final = "procfs"
_MAX = (1 << 63) - 1
_MAX_COMMAND_BYTES = 8192
_MAX_ARGS = 256


class Stat(NamedTuple):
    """Of /proc/PID/stat.

    Attributes:
        pid, parent_pid, session_id: process ids.
        name: short name.
        state: letter: R, S, D, Z, T ...
        start_ticks: clock ticks from the boot to the start of the process.
    """

    pid: int
    name: str
    state: str
    parent_pid: int
    session_id: int
    start_ticks: int


class Credentials(NamedTuple):
    """Of /proc/PID/status: real and effective user, effective group."""

    real_user_id: int
    user_id: int
    group_id: int


class Placement(NamedTuple):
    """What the path of a control group says; "" where it does not.

    Attributes:
        unit: systemd unit, with its suffix.
        container_id: as the container runtime has it.
        pod_id: Kubernetes uid of the pod.
    """

    unit: str = ""
    container_id: str = ""
    pod_id: str = ""


# --- processes ---------------------------------------------------------------------------------------------------


def parse_stat(data: bytes) -> Stat:
    """Return what /proc/PID/stat says; the name may hold blanks and brackets.

    Raises:
        WireError: it is no such text.
    """
    opening, closing = data.find(b"("), data.rfind(b")")
    fields = data[closing + 1 :].split()
    if not 0 < opening < closing or len(fields) < 20:
        raise WireError(_SOURCE, f"{data[:80]!r} is no text of /proc/PID/stat")
    name = data[opening + 1 : closing].decode("utf-8", "replace")
    state = fields[0].decode("ascii", "replace")
    parent_pid, session_id, start_ticks = (max(_number(fields[place]), 0) for place in (1, 3, 19))
    return Stat(_number(data[:opening]), name, state, parent_pid, session_id, start_ticks)


_CREDENTIALS = re.compile(rb"^Uid:\s*(\d{1,10})\s+(\d{1,10}).*\nGid:\s*\d{1,10}\s+(\d{1,10})", re.MULTILINE)


def parse_status(data: bytes) -> Credentials:
    """Return the users and the group of /proc/PID/status.

    Raises:
        WireError: it is no such text.
    """
    found = _CREDENTIALS.search(data)
    if found is None:
        raise WireError(_SOURCE, f"{data[:80]!r} is no text of /proc/PID/status: no Uid and Gid lines")
    real, effective, group = map(int, found.groups())
    return Credentials(real, effective, group)


def parse_command_line(data: bytes) -> tuple[str, ...]:
    """Return the arguments of /proc/PID/cmdline; no more than 256 of them and of 8 KiB."""
    cut = data[:_MAX_COMMAND_BYTES]
    arguments = cut.removesuffix(b"\0").split(b"\0") if cut else []
    return tuple(argument.decode("utf-8", "replace") for argument in arguments[:_MAX_ARGS])


def _number(text: bytes) -> int:
    try:
        number = int(text)
    except ValueError:
        number = _MAX + 1
    if abs(number) > _MAX:
        raise WireError(_SOURCE, f"{text[:40]!r} is not a number of 64 bits")
    return number


# --- control groups ----------------------------------------------------------------------------------------------


def cgroup_path(data: bytes) -> str:
    """Return the path of the control group that says most, from /proc/PID/cgroup.

    That is the one of the unified hierarchy, then systemd's, then of any controller; "/" where all are the root.
    """
    found: dict[str, str] = {}
    for line in data.decode("utf-8", "replace").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if path and path != "/":
            found.setdefault("unified" if number == "0" else controllers, path)
    for name in ("unified", "name=systemd", *found):
        if name in found:
            return found[name]
    return "/"


_UNIT = re.compile(r"^[A-Za-z0-9:_.\\@-]{1,251}\.(?:service|scope|socket|mount|swap)$")
_CONTAINER = re.compile(
    r"(?:^|[/:-])(?P<id>[0-9a-f]{64})(?:\.scope)?(?=/|$)"  # docker, podman, containerd, CRI-O
    r"|/ecs/[^/]+/(?P<task>[0-9a-f]{32}-[0-9]+)(?=/|$)"  # Amazon ECS
    r"|/(?:lxc/|lxc\.payload\.|machine\.slice/machine-)(?P<name>[^/]+?)(?:\.scope)?(?=/|$)"  # LXC, systemd-nspawn
)
_POD = re.compile(r"pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})(?:\.slice)?(?=/|$)")
_USER_MANAGER = re.compile(r"^user@\d+\.service$")


def placement(path: str) -> Placement:
    """Return the unit, container and pod that the path of a control group names.

    Args:
        path: as `cgroup_path` gives it. The innermost container and service count; a scope where there is no service.
    """
    containers = list(_CONTAINER.finditer(path))
    container_id = ""
    if containers:
        last = containers[-1]
        container_id = last["id"] or last["task"] or last["name"]
    pods = _POD.findall(path)
    units = [part for part in path.split("/") if _UNIT.match(part) and not _CONTAINER.search("/" + part)]
    services = [unit for unit in units if unit.endswith(".service") and not _USER_MANAGER.match(unit)]
    unit = (services or units or [""])[-1]
    return Placement(unit, container_id, pods[-1].replace("_", "-") if pods else "")


# --- sockets -----------------------------------------------------------------------------------------------------


def parse_sockets(data: bytes, transport: str) -> list[Seen]:
    """Return the sockets of /proc/net/tcp, tcp6, udp or udp6, without the half-open ones.

    Args:
        data: the whole text, the line of headings included.
        transport: ``tcp`` or ``udp``.

    Raises:
        WireError: a line is none of such a text.
    """
    listed: list[Seen] = []
    for line in data.split(b"\n")[1:]:
        fields = line.split(None, 10)
        if not fields:
            continue
        if len(fields) < 10:
            raise WireError(_SOURCE, f"{line[:80]!r} is no line of /proc/net/{transport}")
        state = _hexadecimal(fields[3])
        if state in HALF_OPEN:
            continue
        identity = b" ".join((transport.encode(), fields[1], fields[2]))
        is_stream = transport == "tcp" and state not in {
            LISTEN,
            CLOSED,
        }  # its ends name it, and at last it has no inode
        listed.append(Seen(identity if is_stream else identity + b" " + fields[9], state, identity, line))
    return listed


def socket_facts(seen: Seen) -> SocketFacts:
    """Return the facts of a socket.

    Args:
        seen: as `parse_sockets` gave it.

    Raises:
        WireError: its line says something else than an address, a port or a number.
    """
    fields = seen.detail.split(None, 10)
    if len(fields) < 10:
        raise WireError(_SOURCE, f"{seen.detail[:80]!r} is no line of /proc/net/tcp or udp")
    local_address, local_port = _endpoint(fields[1])
    remote_address, remote_port = _endpoint(fields[2])
    inode = _number(fields[9])
    has_user = inode and seen.state != TIME_WAIT
    transport = seen.identity.partition(b" ")[0].decode("ascii", "replace")
    return SocketFacts(
        transport,
        local_address,
        local_port,
        remote_address,
        remote_port,
        seen.state,
        max(inode, 0),
        max(_number(fields[7]), 0) if has_user else None,
        is_orphan=transport == "tcp" and bool(remote_port) and not inode,
    )


def _endpoint(text: bytes) -> tuple[str, int]:
    """Return address and port; an address is one or four 32-bit words, each in the byte order of the host."""
    words, _, port = text.partition(b":")
    if len(words) not in {8, 32}:
        raise WireError(_SOURCE, f"{text[:40]!r} is no endpoint: 8 or 32 hexadecimal digits and a port expected")
    numbers = [_hexadecimal(words[start : start + 8]) for start in range(0, len(words), 8)]
    address = b"".join(number.to_bytes(4, sys.byteorder) for number in numbers)
    if len(address) == 4:
        return v4_text(int.from_bytes(address, "big")), _port(port)
    return address_text(int.from_bytes(address[:8], "big"), int.from_bytes(address[8:], "big")), _port(port)


def _port(text: bytes) -> int:
    port = _hexadecimal(text)
    if port > 65535:
        raise WireError(_SOURCE, f"{port} is no port")
    return port


_HEXADECIMAL = re.compile(rb"[0-9A-Fa-f]{1,8}")


def _hexadecimal(text: bytes) -> int:
    if not _HEXADECIMAL.fullmatch(text):
        raise WireError(_SOURCE, f"{text[:40]!r} is not a hexadecimal number of 32 bits")
    return int(text, 16)
