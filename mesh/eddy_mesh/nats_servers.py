"""Which NATS servers can be reached, said before the client library is let loose on them.

What may live here: server addresses, TLS settings, and a look at a server's greeting. No client library.
The library retries a server that is not there for minutes without a word, and goes on in clear text with a
server that does not ask for TLS; both are found here. ``doctor`` uses the same look.

Source: https://docs.nats.io/reference/reference-protocols/nats-protocol (INFO).
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from eddy_mesh.errors import BusError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eddy_mesh.bus import ConnectOptions

DEFAULT_PORT = 4222
SCHEMES = ("nats", "tls")
GREETING_BYTES = 64 * 1024


class Unreachable(BusError):
    """Nothing answers at any address: a server may come up later, where one that refuses would go on to."""


class ServerAddress(msgspec.Struct, frozen=True):
    """Where a server is.

    Attributes:
        url: as the client library takes it, credentials included.
        host: name or address.
        port: TCP port.
        tls: whether the address asks for TLS.
    """

    url: str
    host: str
    port: int
    tls: bool

    def __str__(self) -> str:
        """Show it without credentials."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Greeting(msgspec.Struct, frozen=True):
    """The part of a server's INFO that decides whether it can be used.

    Attributes:
        version: of the server, ``2.15.1``.
        max_payload: largest payload, bytes.
        jetstream: whether it stores streams.
        auth_required: whether it wants credentials.
        tls_required: whether it goes on in TLS.
    """

    version: str = ""
    max_payload: int = 0
    jetstream: bool = False
    auth_required: bool = False
    tls_required: bool = False


def parse_servers(servers: Sequence[str]) -> list[ServerAddress]:
    """Parse server addresses.

    Args:
        servers: texts ``[nats://|tls://][USER:PASSWORD@|TOKEN@]HOST[:PORT]``.

    Raises:
        ConfigError: one line for each that can not be used; credentials are not shown.
    """
    addresses, mistakes = [], [] if servers else ["servers: empty; name one, as in nats://127.0.0.1:4222"]
    for number, text in enumerate(servers):
        try:
            addresses.append(_parse_server(text))
        except ValueError as error:
            mistakes.append(f"servers[{number}]={text.rpartition('@')[2]}: {error}; write nats://HOST:PORT")
    if mistakes:
        raise ConfigError(mistakes)
    return addresses


def _parse_server(text: str) -> ServerAddress:
    parts = urlsplit(text if "://" in text else f"nats://{text}")
    if parts.scheme not in SCHEMES:
        raise ValueError(f"scheme {parts.scheme} is not one of {', '.join(SCHEMES)}")
    if not parts.hostname:
        raise ValueError("no host")
    port = parts.port or DEFAULT_PORT
    userinfo, at, _ = parts.netloc.rpartition("@")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    url = f"{parts.scheme}://{userinfo}{at}{host}:{port}"
    return ServerAddress(url, parts.hostname, port, parts.scheme == "tls")


def tls_context(options: ConnectOptions, addresses: Sequence[ServerAddress]) -> ssl.SSLContext | None:
    """Return the TLS settings, or None where nothing asks for TLS.

    Raises:
        ConfigError: a file of the options can not be read.
    """
    files = (options.tls_ca_file, options.tls_certificate_file, options.tls_key_file)
    if not (options.tls or options.tls_first or any(files) or any(address.tls for address in addresses)):
        return None
    try:
        context = ssl.create_default_context(cafile=options.tls_ca_file or None)
        if options.tls_certificate_file:
            context.load_cert_chain(options.tls_certificate_file, options.tls_key_file or None)
    except OSError as error:  # ssl.SSLError is one
        shown = ", ".join(path for path in files if path)
        raise ConfigError([f"tls files {shown}: {error}; give readable PEM files"]) from error
    return context


async def first_usable(
    addresses: Sequence[ServerAddress], options: ConnectOptions, *, tls_wanted: bool, timeout_s: float
) -> ServerAddress:
    """Return the first server that answers as a NATS server does.

    Args:
        addresses: asked in this order.
        options: as for connecting.
        tls_wanted: refuse a server that goes on in clear text.
        timeout_s: longest wait for each, s.

    Raises:
        Unreachable: nothing answers at any address; the text has a reason for each.
        BusError: none does, and one of them answers something else.
    """
    reasons: list[BusError] = []
    for address in addresses:
        try:
            if options.tls_first:
                await _open_only(address, timeout_s)
                return address
            greeting = await greet(address, timeout_s)
        except BusError as error:
            reasons.append(error)
            continue
        if greeting.tls_required or not tls_wanted:
            return address
        text = f"{address}: goes on in clear text, and TLS was asked for; set tls in its configuration"
        reasons.append(BusError(text))
    kind = Unreachable if all(isinstance(reason, Unreachable) for reason in reasons) else BusError
    raise kind("no NATS server can be used: " + "; ".join(map(str, reasons)))


async def greet(address: ServerAddress, timeout_s: float) -> Greeting:
    """Read the greeting of a server.

    Args:
        address: the server.
        timeout_s: longest wait, s.

    Raises:
        Unreachable: it does not answer.
        BusError: it answers, but not as a NATS server does.
    """
    line = await _open_only(address, timeout_s, read=True)
    if not line:
        raise Unreachable(f"{address}: closes without a greeting; is the server behind it running?")
    if not line.startswith(b"INFO "):
        raise BusError(f"{address}: answers {line[:20]!r}, which no nats-server does; check the port", retryable=False)
    try:
        return msgspec.json.decode(line[5:], type=Greeting)
    except msgspec.DecodeError as error:
        raise BusError(f"{address}: sent a greeting that can not be read: {error}", retryable=False) from error


async def _open_only(address: ServerAddress, timeout_s: float, *, read: bool = False) -> bytes:
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(address.host, address.port, limit=GREETING_BYTES)
            try:
                return await reader.readline() if read else b""
            finally:
                writer.close()
                with contextlib.suppress(OSError):  # it was only looked at
                    await writer.wait_closed()
    except TimeoutError as error:
        raise Unreachable(f"{address}: no greeting within {timeout_s:g} s; is it a nats-server?") from error
    except (OSError, ValueError) as error:
        kind = Unreachable if isinstance(error, OSError) else BusError
        reason = getattr(error, "strerror", None) or str(error)
        raise kind(f"{address}: {reason}; start nats-server there or name another address") from error
