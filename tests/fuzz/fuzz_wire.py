"""Any bytes for every decoder without state (sFlow, netlink, proc, HTTP, syslog): a value or a `WireError`.

The first byte chooses the decoder.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import atheris

with atheris.instrument_imports(include=["eddy_mesh", "eddy_agents"]):
    from eddy_agents.wire import http1, inet_diag, proc_connector, procfs, sflow, syslog
    from eddy_mesh.errors import WireError

MAX_BODY_BYTES = 1 << 20


def inet_diag_listing(data: bytes) -> None:
    """Decode a listing and the facts of each socket in it."""
    for seen in inet_diag.decode(data, 6).seen:
        inet_diag.socket_facts(seen)


def proc_listing(data: bytes) -> None:
    """Decode a table of sockets of /proc/net and the facts of each."""
    for seen in procfs.parse_sockets(data, "tcp"):
        procfs.socket_facts(seen)


def http_request(data: bytes) -> None:
    """Parse a head, and how long the body is."""
    http1.body_bytes(http1.parse_head(data), MAX_BODY_BYTES)


DECODERS: tuple[Callable[[bytes], object], ...] = (
    sflow.decode,
    inet_diag_listing,
    proc_connector.decode,
    proc_listing,
    procfs.parse_stat,
    procfs.parse_status,
    procfs.parse_command_line,
    procfs.cgroup_path,
    http_request,
    http1.chunk_bytes,
    syslog.parse_rfc5424,
    syslog.parse_rfc3164,
    syslog.parse_any,
)


def one_input(data: bytes) -> None:
    """Give bytes to one decoder."""
    if data:
        try:
            DECODERS[data[0] % len(DECODERS)](data[1:])
        except WireError:
            return


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
