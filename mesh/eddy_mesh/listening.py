"""What every source that listens needs: binding with an answer to a taken port, TLS, pacing, an end in time.

What may live here: sockets before the first byte is read, and how a source waits and stops. Connections are accepted
in `eddy_mesh.connections`, datagrams read in `eddy_mesh.datagrams`; what the bytes mean is the source's business.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import sys
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from typing import Literal

from eddy_mesh.agent import Draft, Outlet
from eddy_mesh.errors import ConfigError

STOP_WAIT_S = 0.3
"""How long a source that was told to stop waits for a full edge before it counts what it holds as lost."""

GATHER_S = 0.001
"""How long a busy source lets input gather: what a wake costs, cooking and publishing of few lines, is shared."""

LONG_GATHER_S = 0.004
"""The same where less than `FEW` events came at a time, which cost nearly as much as many."""

FEW = 32
"""Events of a read that cost hardly more than one."""

_NEXT_PORTS = 10
"""How many ports above a taken one are tried before any free one: a near, steady number is easier to find again."""

_REST_WAIT_S = 0.05
_REST_READS = 16
_BACKLOG = 1024  # senders that all come back after a restart: one that finds no room tries again only after 1 s


class PortTaken(StrEnum):
    """What to do when another program holds the port that was asked for."""

    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to listen: a host of "*" means every address of both families; port 0 any free port."""

    host: str
    port: int


def endpoint(text: str) -> Endpoint:
    """Return the endpoint that ``text`` names.

    Args:
        text: ``192.0.2.1:514``, ``[2001:db8::1]:514``, ``localhost:514``, or ``*:514`` for all addresses.

    Raises:
        ConfigError: ``text`` is none of these.
    """
    host, colon, port = text.strip().rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    wanted = {"": "*", "localhost": "127.0.0.1"}.get(bare, bare)
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ConfigError([f"listen: {text!r} has no port: write ADDRESS:PORT, for example *:5514 or 127.0.0.1:5514"])
    if wanted != "*":
        try:
            ip_address(wanted)
        except ValueError:
            raise ConfigError(
                [f"listen: {host!r} is not an address: write an IPv4 address, an [IPv6] address, or * for all"]
            ) from None
    return Endpoint(wanted, int(port))


@dataclass(frozen=True, slots=True)
class Binding:
    """How to bind.

    Attributes:
        transport: ``udp`` or ``tcp``.
        port_taken: what to do when the port is held by another program or is not allowed.
        fallback_ports: ports to try then, in order; after these the next free one is taken.
        reuse_port: let several processes share the port; the kernel spreads senders over them.
    """

    transport: Literal["udp", "tcp"]
    port_taken: PortTaken = PortTaken.WARN
    fallback_ports: Sequence[int] = ()
    reuse_port: bool = False


def bind(listen: str, binding: Binding, outlet: Outlet) -> socket.socket:
    """Return a non-blocking socket bound to an endpoint, or, with a notice, to the nearest port that can be had.

    Args:
        listen: see `endpoint`.
        binding: transport and what to do about a taken port.
        outlet: gets the notice ``port_taken``, ``port_denied``, or ``port_chosen`` where port 0 was asked for, with
            ``port`` and ``using``.

    Raises:
        ConfigError: the text is not an endpoint, or the address is not one of this host.
        OSError: the port can not be had and ``binding.port_taken`` says that this is a failure.
    """
    wanted = endpoint(listen)
    try:
        found = _bound(wanted, binding)
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            raise ConfigError([f"listen: {wanted.host} is not an address of this host: see `ip address`"]) from error
        if error.errno not in {errno.EADDRINUSE, errno.EACCES}:
            raise
        if binding.port_taken is PortTaken.FAIL:
            raise OSError(error.errno, _refusal(wanted, binding, error.errno)) from error
        found = _next_bound(wanted, binding)
        event = "port_taken" if error.errno == errno.EADDRINUSE else "port_denied"
    else:
        event = "port_chosen"
    using = found.getsockname()[1]
    if using != wanted.port:
        outlet.notice(event, **{"network.transport": binding.transport}, port=wanted.port, using=using)
    return found


def _refusal(wanted: Endpoint, binding: Binding, number: int) -> str:
    name = f"{binding.transport} port {wanted.port}"
    if number == errno.EACCES:
        return f"{name} is not allowed: ports below 1024 need CAP_NET_BIND_SERVICE; grant it or listen on another port"
    flag = "u" if binding.transport == "udp" else "t"
    return (
        f"{name} is taken: stop the program that `ss -ln{flag}p 'sport = :{wanted.port}'` shows, "
        "listen on another port, or set port_taken = 'warn'"
    )


def _next_bound(wanted: Endpoint, binding: Binding) -> socket.socket:
    above = range(wanted.port + 1, min(wanted.port + _NEXT_PORTS, 65535) + 1)
    for port in (*binding.fallback_ports, *above):
        with suppress(OSError):
            return _bound(Endpoint(wanted.host, port), binding)
    return _bound(Endpoint(wanted.host, 0), binding)


def _bound(wanted: Endpoint, binding: Binding) -> socket.socket:
    if wanted.host != "*":
        family = socket.AF_INET6 if ":" in wanted.host else socket.AF_INET
        return _open(family, wanted.host, wanted.port, binding)
    try:
        return _open(socket.AF_INET6, "::", wanted.port, binding)
    except OSError as error:
        if error.errno in {errno.EADDRINUSE, errno.EACCES}:
            raise
        return _open(socket.AF_INET, "0.0.0.0", wanted.port, binding)  # noqa: S104  # asked for; a host without IPv6


def _open(family: socket.AddressFamily, host: str, port: int, binding: Binding) -> socket.socket:
    stream = binding.transport == "tcp"
    opened = socket.socket(family, socket.SOCK_STREAM if stream else socket.SOCK_DGRAM)
    try:
        opened.setblocking(False)
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, host != "::")
        if sys.platform == "win32":
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            if stream:  # a restart does not wait for connections in TIME_WAIT
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if binding.reuse_port:
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        opened.bind((host, port))
        if stream:
            opened.listen(_BACKLOG)  # here, so that a port taken by another listener shows now
    except BaseException:
        opened.close()
        raise
    return opened


def server_tls(certificate_file: str, key_file: str, ca_file: str) -> ssl.SSLContext | None:
    """Return the TLS context of a listener, or None when no certificate is configured.

    Args:
        certificate_file: PEM chain of the server; "" for no TLS.
        key_file: PEM private key; "" when it is in the certificate file.
        ca_file: PEM authorities; when given, a client must show a certificate signed by one of them.

    Raises:
        ConfigError: a file can not be read or does not fit the others.
    """
    if not certificate_file:
        if key_file or ca_file:
            raise ConfigError(["tls_certificate_file: missing, though other TLS files are given: add it"])
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate_file, key_file or None)
        if ca_file:
            context.load_verify_locations(ca_file)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as error:
        named = ", ".join(name for name in (certificate_file, key_file, ca_file) if name)
        raise ConfigError(
            [f"tls: {named} can not be used ({error}): check paths, and that key and chain match"]
        ) from None
    return context


def clear_stale_socket(path: Path) -> None:
    """Remove the socket file that a program which is gone has left behind; leave any other file alone.

    Raises:
        ConfigError: the path is held by a running program, or is no socket.
    """
    if not path.exists():
        return
    if not path.is_socket():
        raise ConfigError([f"unix: {path} exists and is no socket: remove it or name another path"])
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        with socket.socket(socket.AF_UNIX, kind) as probe:
            refused = probe.connect_ex(str(path))
        if refused == 0:
            raise ConfigError([f"unix: {path} is held by a running program: stop it or name another path"])
    path.unlink()


async def rest_of(reader: asyncio.StreamReader, read_bytes: int) -> bytes:
    """Return what has arrived on a connection whose source was told to stop: the sender believes it delivered.

    Args:
        reader: of the connection.
        read_bytes: most bytes a read; after sixteen reads or `_REST_WAIT_S` the rest is the sender's.
    """
    parts: list[bytes] = []

    async def take() -> None:
        while len(parts) < _REST_READS and (data := await reader.read(read_bytes)):
            parts.append(data)

    with suppress(ConnectionError, ssl.SSLError):
        await in_time(_REST_WAIT_S, take())
    return b"".join(parts)


async def in_time(limit_s: float, work: Coroutine[object, object, object]) -> bool:
    """Do work for ``limit_s`` at most, and return whether it was done; also in a task that is being cancelled.

    ``asyncio.timeout`` can not be used there: before Python 3.11.4 its expiry in a cancelled task is a CancelledError.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task}, timeout=limit_s)
    finally:  # also where whoever waits is cancelled
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
    if task.cancelled():
        return False
    task.result()
    return True


class Pace:
    """Lets input gather while a source is busy, so that costs per wake are shared; adds nothing when it is quiet.

    Args:
        gather_s: how long, s; 0 for what suits lines.
    """

    def __init__(self, gather_s: float = 0.0) -> None:
        self._gather_s = gather_s
        self._woken_s = 0.0

    async def wait(self, events: int, *, full: bool) -> None:
        """Wait before the next read.

        Args:
            events: how many came with the last read.
            full: it took all that it could hold; there is more, and only other tasks get a turn.
        """
        now_s = asyncio.get_running_loop().time()
        gather_s = self._gather_s or (GATHER_S if events >= FEW else LONG_GATHER_S)
        if full:
            await asyncio.sleep(0)
        elif now_s - self._woken_s < 2 * gather_s:
            await asyncio.sleep(gather_s)
        self._woken_s = now_s


async def emit_or_count(outlet: Outlet, draft: Draft) -> None:
    """Emit events that the other side will not send again: a stop does not lose them uncounted.

    On cancellation the draft is offered once more for `STOP_WAIT_S`; what then finds no room is counted as lost with
    reason ``stopped``.
    """
    try:
        await outlet.emit(draft)
    except asyncio.CancelledError:
        await emit_last(outlet, draft)
        raise


async def emit_last(outlet: Outlet, draft: Draft) -> bool:
    """Emit while stopping: wait `STOP_WAIT_S` at most, then count as lost with reason ``stopped`` and return False."""
    if await in_time(STOP_WAIT_S, outlet.emit(draft)):
        return True
    outlet.lost("stopped", draft.count)
    return False


def first_of(failed: BaseExceptionGroup[OSError]) -> OSError:
    """Return one of the errors that ended a task group: a source raises plain errors."""
    inner = failed.exceptions[0]
    return first_of(inner) if isinstance(inner, BaseExceptionGroup) else inner


def wake(waiter: asyncio.Future[None]) -> None:
    """Let go on who waits for ``waiter``, also when it was woken or cancelled before."""
    if not waiter.done():
        waiter.set_result(None)


async def readable(watched: socket.socket) -> None:
    """Wait until a socket has something to read. Safe to cancel: nothing is taken.

    Raises:
        NotImplementedError: this loop can not watch sockets (the proactor of Windows).
    """
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()
    loop.add_reader(watched, wake, waiter)
    try:
        await waiter
    finally:
        loop.remove_reader(watched)
