"""What this host gives to agents: ports, privileges, logs, buffers, disk, clock.

What may live here: looks at the host that change nothing on it. Where a platform can not say, nothing is said.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

import eddy_mesh
from eddy_mesh.cli.findings import Finding, Verdict
from eddy_mesh.cli.output import octets_text
from eddy_mesh.datagrams import BUFFER_BYTES
from eddy_mesh.local import running, state_directory

if sys.platform != "win32":
    import resource

LEAST_DISK_BYTES = 256 * 1024 * 1024
SPARE_DISK_BYTES = 2 * 1024 * 1024 * 1024
OPEN_FILES = 8192
"""Followed files, connections of senders and streams together."""
LOGS = Path("/var/log")
JOURNALS = (Path("/var/log/journal"), Path("/run/log/journal"))
NET_ADMIN = "CAP_NET_ADMIN"
CAPABILITIES = {NET_ADMIN: 12, "CAP_NET_RAW": 13}
"""Name to bit. Source: capabilities(7), linux/capability.h."""
_TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised
_TIMEX_BYTES = 512  # more than struct timex has anywhere


class Port(NamedTuple):
    """A port that `eddy-agent up` listens on."""

    transport: str
    number: int
    purpose: str


PORTS = (
    Port("udp", 5514, "syslog"),
    Port("tcp", 5514, "syslog"),
    Port("udp", 2055, "NetFlow"),
    Port("udp", 4739, "IPFIX"),
    Port("udp", 6343, "sFlow"),
)


def host_findings() -> Iterator[Finding]:
    """Yield what there is to say about this host."""
    yield up_finding()
    yield from (port_finding(port) for port in PORTS)
    if sys.platform == "linux":
        held = capabilities(Path("/proc/self/status").read_text("utf-8"))
        yield privilege_finding(held)
        yield journal_finding(is_root=os.geteuid() == 0)
        yield buffer_finding(int(Path("/proc/sys/net/core/rmem_max").read_text("utf-8")), held)
    if sys.platform != "win32":
        yield logs_finding(LOGS, is_root=os.geteuid() == 0)
        yield files_finding(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    state = state_directory()
    yield disk_finding(state)
    yield clock_finding(time.time())


# --- what runs ---------------------------------------------------------------------------------------------------


def up_finding() -> Finding:
    """Say whether an `up` of this user runs."""
    found = running()
    if not found:
        return Finding("eddy-agent up", Verdict.OK, "none is running")
    shown = ", ".join(f"process {place.pid} with its state in {place.state}" for place in found)
    return Finding("eddy-agent up", Verdict.OK, f"running: {shown}")


def port_finding(port: Port) -> Finding:
    """Say whether a port is free, and who has it where not."""
    subject = f"{port.transport} port {port.number}"
    reason = bind_error(port)
    if reason == 0:
        return Finding(subject, Verdict.OK, f"free for {port.purpose}")
    if reason != errno.EADDRINUSE:
        return Finding(subject, Verdict.WARNING, os.strerror(reason).lower(), "choose another port in the source")
    owner, pid = _port_owner(port)
    if pid in {place.pid for place in running()}:
        return Finding(subject, Verdict.OK, f"{port.purpose} goes to eddy-agent up (process {pid})")
    advice = f"stop it, or send {port.purpose} to the port that up then names"
    return Finding(subject, Verdict.WARNING, f"taken by {owner}", advice)


def bind_error(port: Port) -> int:
    """Return 0 where a port can be listened on, else the error number."""
    kind = socket.SOCK_DGRAM if port.transport == "udp" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as probe:
        if port.transport == "tcp" and sys.platform != "win32":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # closed connections do not count
        try:
            probe.bind(("", port.number))
            if port.transport == "tcp":
                probe.listen(1)
        except OSError as error:
            return error.errno or errno.EINVAL
    return 0


def _port_owner(port: Port) -> tuple[str, int]:
    """Return name and number of the process that has a port, as far as this user may know."""
    try:
        for held in psutil.net_connections(port.transport):
            if (
                held.laddr
                and held.laddr.port == port.number
                and held.pid
                and (port.transport == "udp" or not held.raddr)
            ):
                return f"{psutil.Process(held.pid).name()} (process {held.pid})", held.pid
    except psutil.Error:
        pass  # another user's: it can not be said whose
    return "a process of another user", 0


# --- what may be seen --------------------------------------------------------------------------------------------


def capabilities(status: str) -> frozenset[str]:
    """Return which capabilities that matter here a process has.

    Args:
        status: text of ``/proc/self/status``.
    """
    mask = next((int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff:")), 0)
    return frozenset(name for name, bit in CAPABILITIES.items() if mask >> bit & 1)


def privilege_finding(held: frozenset[str]) -> Finding:
    """Say whether processes and connections can be observed as they happen.

    Args:
        held: from `capabilities`.
    """
    missing = [name for name in CAPABILITIES if name not in held]
    if not missing:
        return Finding("privileges", Verdict.OK, f"{' and '.join(CAPABILITIES)}: processes are seen as they start")
    advice = f"run as root, or: sudo setcap {','.join(missing).lower()}+ep {Path(sys.executable).resolve()}"
    text = f"no {' and no '.join(missing)}"
    if NET_ADMIN in missing:
        text += ": /proc is looked at instead, which misses short-lived processes"
    return Finding("privileges", Verdict.WARNING, text, advice)


_JOURNAL_RIGHT = "sudo usermod -aG systemd-journal $USER, then log in anew"
_LOGS_RIGHT = "sudo usermod -aG adm $USER, then log in anew"
_CONFINED = "root can not either: see what confines this process (container, AppArmor, SELinux)"
_NO_JOURNAL = "have a syslog daemon write below /var/log, or send to port 5514"


def journal_finding(*, is_root: bool) -> Finding:
    """Say whether the systemd journal can be read; root, which may see all, lacks no group."""
    if shutil.which("journalctl") is None:
        return Finding("journal", Verdict.WARNING, "no journalctl: what only a journal holds is not seen", _NO_JOURNAL)
    files = [file for folder in JOURNALS if folder.is_dir() for file in _files(folder, "*/system*.journal")]
    if not files:
        if is_root:
            text = "journalctl is there, and no journal of the system is kept on this host"
            return Finding("journal", Verdict.WARNING, text, f"start systemd-journald, or {_NO_JOURNAL}")
        text = "journalctl is there; no journal of the system is kept, or may be seen"
        return Finding("journal", Verdict.WARNING, text, _JOURNAL_RIGHT)
    if not any(os.access(file, os.R_OK) for file in files):
        return Finding(
            "journal", Verdict.WARNING, f"{files[0]} can not be read", _CONFINED if is_root else _JOURNAL_RIGHT
        )
    return Finding("journal", Verdict.OK, "can be read")


def logs_finding(folder: Path, *, is_root: bool = False) -> Finding:
    """Say how many logs below a folder can be read; root lacks no group."""
    files = _files(folder, "**/*.log") + [file for name in ("syslog", "messages") for file in _files(folder, name)]
    closed = [file for file in files if not os.access(file, os.R_OK)]
    if closed:
        text = f"{len(closed)} of {len(files)} logs below {folder} can not be read, such as {closed[0]}"
        return Finding("logs", Verdict.WARNING, text, _CONFINED if is_root else _LOGS_RIGHT)
    return Finding("logs", Verdict.OK, f"{len(files)} logs below {folder} can be read")


def _files(folder: Path, pattern: str) -> list[Path]:
    """Return the files that may be listed."""
    try:
        return sorted(path for path in folder.glob(pattern) if path.is_file())
    except OSError:
        return []


# --- what there is room for --------------------------------------------------------------------------------------


def buffer_finding(limit_bytes: int, held: frozenset[str]) -> Finding:
    """Say whether the kernel lets sockets hold a burst of datagrams.

    Args:
        limit_bytes: ``net.core.rmem_max``.
        held: from `capabilities`; with CAP_NET_ADMIN a socket may pass the limit.
    """
    text = f"net.core.rmem_max is {octets_text(limit_bytes)}"
    if limit_bytes >= BUFFER_BYTES:
        return Finding("UDP buffers", Verdict.OK, text)
    if NET_ADMIN in held:
        return Finding("UDP buffers", Verdict.OK, f"{text}, and CAP_NET_ADMIN passes it")
    advice = f"against loss in bursts: sudo sysctl -w net.core.rmem_max={BUFFER_BYTES}"
    return Finding("UDP buffers", Verdict.WARNING, text, advice)


def files_finding(limit: int) -> Finding:
    """Say whether a process may open enough files.

    Args:
        limit: soft limit of open files; -1 is none.
    """
    if limit >= OPEN_FILES or limit < 0:
        return Finding("open files", Verdict.OK, "no limit" if limit < 0 else f"{limit:,} at a time")
    text = f"{limit:,} at a time, followed logs and senders together"
    return Finding("open files", Verdict.WARNING, text, f"ulimit -n {OPEN_FILES}, or LimitNOFILE= in the unit")


def disk_finding(state: Path) -> Finding:
    """Say whether there is room for what is stored, and whether it may be written."""
    folder = next(path for path in (state, *state.parents) if path.exists())
    if not os.access(folder, os.W_OK):
        advice = "give --data DIR or set EDDY_STATE to a folder of your own"
        return Finding("disk", Verdict.PROBLEM, f"{folder} can not be written, and state is to be in {state}", advice)
    free = shutil.disk_usage(folder).free
    text = f"{octets_text(free)} free for {state}"
    if free < LEAST_DISK_BYTES:
        return Finding("disk", Verdict.PROBLEM, text, "free some, or set EDDY_STATE to a folder on another disk")
    if free < SPARE_DISK_BYTES:
        return Finding("disk", Verdict.WARNING, text, "the archive keeps what fits; free some for more")
    return Finding("disk", Verdict.OK, text)


def clock_finding(now_s: float) -> Finding:
    """Say whether the clock can be right.

    Args:
        now_s: what it says, s since 1970 UTC.
    """
    shown = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now_s))
    if now_s < Path(eddy_mesh.__file__).stat().st_mtime:
        return Finding("clock", Verdict.PROBLEM, f"{shown} is before this software was installed", "set the clock")
    if _is_synchronised() is False:
        text = f"{shown}, not synchronised: events of several hosts can not be put in order"
        return Finding("clock", Verdict.WARNING, text, "sudo timedatectl set-ntp true, or install chrony")
    return Finding("clock", Verdict.OK, shown + (", synchronised" if _is_synchronised() else ""))


def _is_synchronised() -> bool | None:
    """Return whether the kernel's clock is disciplined, None where that can not be asked.

    Source: adjtimex(2).
    """
    if sys.platform != "linux":
        return None
    state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    return None if state < 0 else state != _TIME_ERROR
