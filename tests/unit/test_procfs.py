"""Texts of /proc, and the account of sockets that is kept from them."""

from __future__ import annotations

import sys

import pytest

from eddy_agents.wire.host_sockets import Action, Change, Direction, Seen, SocketTable
from eddy_agents.wire.procfs import (
    cgroup_path,
    parse_command_line,
    parse_sockets,
    parse_stat,
    parse_status,
    placement,
    socket_facts,
)
from eddy_mesh.errors import WireError

HEAD = b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
POD = "0a1b2c3d-0000-4000-8000-0123456789ab"
CONTAINER = "ab" * 32


def word(address: str) -> str:
    """An IPv4 address as this host's kernel prints it."""
    octets = bytes(map(int, address.split(".")))
    return f"{int.from_bytes(octets, sys.byteorder):08X}"


def line(local: tuple[str, int], remote: tuple[str, int], state: int, inode: int, user_id: int = 1000) -> bytes:
    ends = f"{word(local[0])}:{local[1]:04X} {word(remote[0])}:{remote[1]:04X}"
    return (
        f"   0: {ends} {state:02X} 00000000:00000000 00:00000000 00000000  {user_id}        0 {inode} 2 ff\n".encode()
    )


def listing(*lines: bytes, transport: str = "tcp") -> list[Seen]:
    return parse_sockets(HEAD + b"".join(lines), transport)


# --- processes -------------------------------------------------------------------------------------------------


def test_a_name_may_hold_brackets_and_blanks() -> None:
    """The name ends at the last bracket, whatever is in it."""
    stat = parse_stat(b"42 (a) b (c)) S 7 42 40 34816 42 4194304 " + b"0 " * 12 + b"4711 99 1\n")
    assert (stat.pid, stat.name, stat.parent_pid, stat.session_id, stat.start_ticks) == (42, "a) b (c)", 7, 40, 4711)


@pytest.mark.parametrize(
    "data", [b"", b"42 (a", b"42 (a) S 1", b"x (a) S " + b"0 " * 30, b"4 (a) S " + b"9" * 30 + b" 0" * 30]
)
def test_a_broken_stat_is_refused(data: bytes) -> None:
    """A text that is none of /proc/PID/stat is a wire error."""
    with pytest.raises(WireError):
        parse_stat(data)


def test_status_gives_users_and_group() -> None:
    """Real and effective user and the effective group are read; a text without them is refused."""
    assert parse_status(b"Name:\tsu\nUid:\t1000\t0\t0\t0\nGid:\t1000\t5\t5\t5\n") == (1000, 0, 5)
    with pytest.raises(WireError, match="Uid"):
        parse_status(b"Name:\tsu\n")


def test_command_lines() -> None:
    """Empty arguments are kept, a kernel thread has none, bytes that are no text are replaced."""
    assert parse_command_line(b"ls\0\0-l\0") == ("ls", "", "-l")
    assert parse_command_line(b"") == ()
    assert parse_command_line(b"a\xff\0") == ("a�",)
    assert len(parse_command_line(b"x\0" * 100_000)) == 256


@pytest.mark.parametrize(
    ("path", "unit", "container", "pod"),
    [
        ("/", "", "", ""),
        ("/system.slice/ssh.service", "ssh.service", "", ""),
        ("/system.slice/system-getty.slice/getty@tty1.service", "getty@tty1.service", "", ""),
        ("/user.slice/user-1000.slice/session-3.scope", "session-3.scope", "", ""),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/editor.service", "editor.service", "", ""),
        ("/user.slice/user-1000.slice/user@1000.service/init.scope", "init.scope", "", ""),
        (f"/system.slice/docker-{CONTAINER}.scope", "", CONTAINER, ""),
        (f"/docker/{CONTAINER}", "", CONTAINER, ""),
        (f"/docker/{CONTAINER}/system.slice/nginx.service", "nginx.service", CONTAINER, ""),
        (f"/kubepods/burstable/pod{POD}/{CONTAINER}", "", CONTAINER, POD),
        (
            f"/kubepods.slice/kubepods-pod{POD.replace('-', '_')}.slice/cri-containerd-{CONTAINER}.scope",
            "",
            CONTAINER,
            POD,
        ),
        ("/lxc.payload.web/system.slice/cron.service", "cron.service", "web", ""),
        ("/ecs/task/" + "0f" * 16 + "-12345", "", "0f" * 16 + "-12345", ""),
    ],
)
def test_control_groups_name_unit_container_and_pod(path: str, unit: str, container: str, pod: str) -> None:
    """The path of a control group gives the innermost unit and container, and the pod."""
    assert placement(path) == (unit, container, pod)


def test_the_control_group_that_says_most_is_taken() -> None:
    """The unified hierarchy comes before systemd's, that before a controller's; the root says nothing."""
    assert cgroup_path(b"12:pids:/a\n1:name=systemd:/b\n0::/c\n") == "/c"
    assert cgroup_path(b"12:pids:/a\n1:name=systemd:/b\n0::/\n") == "/b"
    assert cgroup_path(b"12:pids:/a:b\n0::/\n") == "/a:b"
    assert cgroup_path(b"0::/\n") == "/"


# --- sockets ---------------------------------------------------------------------------------------------------


def test_a_line_gives_a_socket() -> None:
    """Addresses in the byte order of the host, ports, state, user and inode are read."""
    (seen,) = listing(line(("192.0.2.1", 50000), ("198.51.100.2", 443), 1, 77))
    assert socket_facts(seen)[:8] == ("tcp", "192.0.2.1", 50000, "198.51.100.2", 443, 1, 77, 1000)
    mapped = b"0" * 16 + (word("0.0.255.255") + word("192.0.2.1")).encode()
    rest = b" 00000000:00000000 00:00000000 00000000 0 0 78 2 ff\n"
    (seen,) = listing(b" 1: " + mapped + b":0016 " + b"0" * 32 + b":0000 0A" + rest)
    assert socket_facts(seen)[:5] == ("tcp", "192.0.2.1", 22, "::", 0)


@pytest.mark.parametrize(
    "bad", [b"x\n", b"0: zz:1 0:0 01 a b c 0 0 1\n", b"0: 00000000:FFFFF 00000000:0 01 a b c 0 0 1\n"]
)
def test_a_broken_line_is_refused(bad: bytes) -> None:
    """A line that is none of such a table is a wire error, at the latest when it is looked at."""
    with pytest.raises(WireError):
        [socket_facts(seen) for seen in listing(bad)]


def told(changes: list[Change]) -> list[tuple[Action, int]]:
    return [(change.action, change.facts.local_port) for change in changes]


SERVER = line(("0.0.0.0", 22), ("0.0.0.0", 0), 10, 1)
ACCEPTED = (("192.0.2.1", 22), ("192.0.2.9", 4711))


def test_sockets_open_change_and_close() -> None:
    """What was there is existing; then each socket opens, changes its state and closes once."""
    table = SocketTable(socket_facts, 10)
    assert told(table.look(listing(SERVER), 1)) == [(Action.EXISTING, 22)]
    opened = table.look(listing(line(*ACCEPTED, 1, 2), SERVER), 5)
    assert told(opened) == [(Action.OPENED, 22)]
    assert (opened[0].tracked.direction, opened[0].tracked.opened_ns) == (Direction.INGRESS, 5)
    assert table.look(listing(line(*ACCEPTED, 1, 2), SERVER), 6) == []
    (changed,) = table.look(listing(line(*ACCEPTED, 8, 2), SERVER), 7)
    assert (changed.action, changed.facts.state_name) == (Action.STATE, "close_wait")
    assert told(table.look(listing(SERVER, line(*ACCEPTED, 6, 0)), 8)) == [(Action.CLOSED, 22)]
    assert table.look(listing(SERVER), 9) == []
    assert len(table) == 1


def test_a_connection_of_this_host_is_egress() -> None:
    """A connection whose local port nobody listens on was opened here; a new listener is told as such."""
    table = SocketTable(socket_facts, 10)
    table.look([], 1)
    client = line(("192.0.2.1", 50000), ("192.0.2.9", 22), 1, 5)
    (opened,) = table.look(listing(client), 2)
    assert opened.tracked.direction is Direction.EGRESS
    assert told(table.look(listing(client, SERVER), 3)) == [(Action.LISTENING, 22)]


def test_a_short_connection_is_known_by_what_lingers() -> None:
    """A connection between two looks is told once as closed, by its TIME_WAIT, without an owner."""
    table = SocketTable(socket_facts, 10)
    old = line(("192.0.2.1", 50000), ("192.0.2.9", 22), 6, 0)
    new = line(("192.0.2.1", 50001), ("192.0.2.9", 22), 6, 0)
    assert table.look(listing(old), 1) == []
    (closed,) = table.look(listing(old, new), 2)
    assert (closed.action, closed.facts.local_port, closed.facts.user_id) == (Action.CLOSED, 50001, None)
    assert table.look(listing(old, new), 3) == []


def test_what_its_process_has_given_up_is_no_new_connection() -> None:
    """A remainder without a process does not open; with ends told it does not close again either."""
    table = SocketTable(socket_facts, 10, are_ends_told=True)
    table.look([], 1)
    given_up = line(("192.0.2.1", 50000), ("192.0.2.9", 22), 5, 0)
    assert table.look(listing(given_up), 2) == []
    assert len(table) == 0


def test_a_connection_waits_one_look_for_its_process() -> None:
    """A connection that nobody has accepted yet is told at its second look, or with the inode it then has."""
    table = SocketTable(socket_facts, 10)
    table.look(listing(SERVER), 1)
    assert table.look(listing(SERVER, line(*ACCEPTED, 1, 0)), 2) == []
    (opened,) = table.look(listing(SERVER, line(*ACCEPTED, 1, 9)), 3)
    assert (opened.action, opened.facts.inode) == (Action.OPENED, 9)


def test_ends_that_are_told() -> None:
    """An end closes what is known, is told of what was never listed, and hides it from the listing it crossed."""
    table = SocketTable(socket_facts, 10, are_ends_told=True)
    (seen,) = listing(line(*ACCEPTED, 1, 2))
    table.look([seen], 1)
    closed = table.end(seen)
    assert closed is not None
    assert closed.action is Action.CLOSED
    assert len(table) == 0
    assert table.look([seen], 2, {seen.key}) == []
    assert table.end(seen) is not None
    (unused,) = listing(line(("0.0.0.0", 0), ("0.0.0.0", 0), 7, 2))
    assert table.end(unused) is None


def test_a_table_is_bounded() -> None:
    """No more sockets than allowed are kept; the rest is counted."""
    table = SocketTable(socket_facts, 2)
    lines = [line(("192.0.2.1", port), ("192.0.2.9", 22), 1, port) for port in range(1, 6)]
    assert len(table.look(listing(*lines), 1)) == 2
    assert (len(table), table.left_out) == (2, 3)
