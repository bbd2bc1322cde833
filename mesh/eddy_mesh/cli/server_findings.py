"""What there is to say about NATS: the program for an embedded server, and the servers that are to be used.

What may live here: looks at servers from outside, each answered with what to do.
"""

from __future__ import annotations

import asyncio
import socket
import ssl

from eddy_mesh.bus import ConnectOptions
from eddy_mesh.bus_nats import connect
from eddy_mesh.cli.findings import Finding, Verdict
from eddy_mesh.cli.output import octets_text
from eddy_mesh.errors import BusError, ConfigError, EddyError, UsageError
from eddy_mesh.local import find
from eddy_mesh.nats_servers import Greeting, ServerAddress, greet, parse_servers, tls_context
from eddy_mesh.server import MAX_PAYLOAD_BYTES, OLDEST_VERSION, find_binary

WAIT_S = 5.0
GREETING_BYTES = 64 * 1024


async def server_findings(server: str) -> list[Finding]:
    """Return what there is to say.

    Args:
        server: NATS URL; "" for the one that ``eddy`` would use.
    """
    findings = [await binary_finding()]
    try:
        place = find(server)
        addresses = parse_servers(place.servers)
    except ConfigError as error:
        return [*findings, Finding("server", Verdict.PROBLEM, "; ".join(error.mistakes))]
    except UsageError as error:
        return [*findings, Finding("server", Verdict.OK, str(error))]
    for address in addresses:
        findings += await address_findings(address, place.options)
    return findings


async def binary_finding() -> Finding:
    """Say whether an embedded server can be started."""
    try:
        path, version = await find_binary()
    except ConfigError as error:
        *reasons, advice = error.mistakes
        return Finding("nats-server", Verdict.PROBLEM, "; ".join(reasons), advice)
    return Finding("nats-server", Verdict.OK, f"{version}, {path}")


async def address_findings(address: ServerAddress, options: ConnectOptions) -> list[Finding]:
    """Return what there is to say about one server: reachable, encrypted, JetStream, log-in."""
    subject = f"server {address}"
    try:
        greeting = Greeting() if options.tls_first else await greet(address, WAIT_S)
    except BusError as error:
        text, _, advice = str(error).removeprefix(f"{address}: ").partition("; ")
        return [Finding(subject, Verdict.PROBLEM, text, advice)]
    findings = [] if options.tls_first else greeting_findings(subject, greeting)
    if greeting.tls_required or options.tls_first:
        findings.append(await asyncio.to_thread(tls_finding, subject, address, options))
    elif address.tls or options.tls:
        advice = "set tls in its configuration, or ask for nats:// in place of tls://"
        findings.append(Finding(subject, Verdict.PROBLEM, "goes on in clear text, and TLS was asked for", advice))
    if any(finding.verdict is Verdict.PROBLEM for finding in findings):
        return findings
    return [*findings, await login_finding(subject, address, options)]


def greeting_findings(subject: str, greeting: Greeting) -> list[Finding]:
    """Return what a server's greeting tells."""
    version = f"nats-server {greeting.version}"
    oldest = ".".join(map(str, OLDEST_VERSION))
    findings = [Finding(subject, Verdict.OK, f"reachable, {version}")]
    if _release(greeting.version) < OLDEST_VERSION:
        findings = [Finding(subject, Verdict.PROBLEM, f"{version} is too old", f"install {oldest} or newer there")]
    if greeting.jetstream:
        findings.append(Finding(subject, Verdict.OK, "JetStream is on"))
    else:
        advice = "add a jetstream block with a store_dir to its configuration"
        findings.append(Finding(subject, Verdict.PROBLEM, "JetStream is off: nothing can be kept or managed", advice))
    if greeting.max_payload < MAX_PAYLOAD_BYTES:
        text = f"takes payloads up to {octets_text(greeting.max_payload)}"
        findings.append(Finding(subject, Verdict.PROBLEM, text, f"set max_payload: {MAX_PAYLOAD_BYTES} there"))
    return findings


def tls_finding(subject: str, address: ServerAddress, options: ConnectOptions) -> Finding:
    """Make the TLS handshake as a client does, and say what ails it; the client library can not."""
    try:
        context = tls_context(options, [address]) or ssl.create_default_context()
        with socket.create_connection((address.host, address.port), WAIT_S) as plain:
            if not options.tls_first:
                _read_greeting(plain)
            with context.wrap_socket(plain, server_hostname=address.host) as secure:
                return Finding(subject, Verdict.OK, f"encrypted with {secure.version()}")
    except ssl.SSLCertVerificationError as error:
        advice = "name the authority that signed it in tls_ca_file, and use a host name that is in it"
        return Finding(subject, Verdict.PROBLEM, f"its certificate is refused: {error.verify_message}", advice)
    except ssl.SSLError as error:
        advice = "does it want a client certificate? see tls_certificate_file"
        return Finding(subject, Verdict.PROBLEM, f"the TLS handshake fails: {error.reason or error}", advice)
    except OSError as error:
        return Finding(subject, Verdict.PROBLEM, f"the TLS handshake fails: {error}", "look into the server's log")
    except ConfigError as error:
        return Finding(subject, Verdict.PROBLEM, "; ".join(error.mistakes))


def _read_greeting(plain: socket.socket) -> None:
    """Read the line before the handshake, and not a byte more."""
    read = 0
    while read < GREETING_BYTES and plain.recv(1) not in {b"\n", b""}:
        read += 1


async def login_finding(subject: str, address: ServerAddress, options: ConnectOptions) -> Finding:
    """Say whether the server lets us in."""
    try:
        bus = await connect(address.url, name="eddy-agent doctor", options=options)
        await bus.close()
    except EddyError as error:
        return Finding(subject, Verdict.PROBLEM, str(error), "check user, token or credentials file")
    return Finding(subject, Verdict.OK, "lets us in")


def _release(version: str) -> tuple[int, int]:
    """Return the first two numbers of a version, 0 where there is none."""
    major, minor, *_ = [*version.split("."), "", ""]
    return int(major) if major.isdigit() else 0, int(minor) if minor.isdigit() else 0
