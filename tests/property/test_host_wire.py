"""The laws of what the host source reads: any bytes give a value or a `WireError`, and any record is cooked."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from struct import pack

from hypothesis import given, settings
from hypothesis import strategies as st

from eddy_agents.transformers.host import connection_fields, process_fields
from eddy_agents.wire import inet_diag, proc_connector, procfs
from eddy_agents.wire.proc_connector import What
from eddy_mesh.errors import WireError

TEXTS = st.one_of(
    st.binary(max_size=300),
    st.lists(
        st.sampled_from([b"0:", b"(", b")", b" 1", b" FF:1", b"0100007F:0016", b"Uid:\t", b"\n", b"a/b", b"9" * 20])
    ).map(b" ".join),
)


def netlink(kind: int, body: bytes) -> bytes:
    return pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


@given(TEXTS)
@settings(max_examples=200)
def test_texts_of_proc_give_a_value_or_a_wire_error(data: bytes) -> None:
    """Every parser of a text of /proc is total but for `WireError`."""
    parsers: tuple[Callable[[bytes], object], ...] = (
        procfs.parse_stat,
        procfs.parse_status,
        procfs.parse_command_line,
        procfs.cgroup_path,
        lambda text: procfs.placement(procfs.cgroup_path(text)),
        lambda text: [procfs.socket_facts(seen) for seen in procfs.parse_sockets(b"head\n" + text, "tcp")],
    )
    for parse in parsers:
        with suppress(WireError):
            parse(data)


@given(st.sampled_from([2, 3, 20, 99]), st.binary(max_size=500), st.sampled_from([0, 6, 17]))
@settings(max_examples=200)
def test_listings_give_sockets_or_a_wire_error(kind: int, body: bytes, protocol: int) -> None:
    """A message with any body, whole or bare, gives sockets whose facts can be read, or a `WireError`."""
    for data in (body, netlink(kind, body), netlink(kind, body) + body):
        with suppress(WireError):
            for seen in inet_diag.decode(data, protocol).seen:
                inet_diag.socket_facts(seen)
    inet_diag.traffic(body)


@given(st.one_of(st.sampled_from([int(what) for what in What]), st.integers(0, 2**32 - 1)), st.binary(max_size=60))
@settings(max_examples=200)
def test_events_of_processes_give_a_value_or_a_wire_error(what: int, details: bytes) -> None:
    """An event with any details, whole or bare, gives events or a `WireError`."""
    event = pack("=IIQ", what, 0, 0) + details
    body = pack("=IIIIHH", 1, 1, 0, 0, len(event), 0) + event
    for data in (details, netlink(3, body), netlink(3, body)[:-1]):
        with suppress(WireError):
            proc_connector.decode(data)


JSON_PARTS = st.recursive(
    st.none() | st.integers() | st.text(max_size=10) | st.sampled_from(["exec", "exit", "procfs", "egress"]),
    lambda inner: st.dictionaries(
        st.sampled_from(["provider", "action", "process", "pid", "args", "occurred_ns", "local_port", "cgroup"]), inner
    ),
    max_leaves=10,
)


@given(st.one_of(st.binary(max_size=100), JSON_PARTS.map(lambda value: json.dumps(value).encode())))
@settings(max_examples=200)
def test_any_payload_is_cooked(payload: bytes) -> None:
    """The cooking of any payload gives fields; one that is not understood keeps its text and says so."""
    for fields in (process_fields(payload), connection_fields(payload)):
        assert "message" in fields
        assert "error.message" in fields or "event.action" in fields
