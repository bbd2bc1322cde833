"""The table of message patterns: what the lines of well-known programs say."""

from __future__ import annotations

import pytest

from eddy_agents.wire.log_annotate import annotated_rows
from eddy_agents.wire.log_patterns import GROUPS, PROGRAMS
from eddy_mesh.cer import Value

CASES: list[tuple[str, str, dict[str, Value]]] = [
    (
        "sshd",
        "Accepted publickey for ann from 192.0.2.7 port 50022 ssh2: ED25519 SHA256:abc",
        {
            "event.action": "ssh_login",
            "event.outcome": "success",
            "event.category": "authentication",
            "user.name": "ann",
            "source.ip": "192.0.2.7",
            "source.port": 50022,
            "ssh.method": "publickey",
            "ssh.signature": "ED25519 SHA256:abc",
        },
    ),
    (
        "sshd-session",
        "Failed password for invalid user x from 10.0.0.1 port 1 ssh2 from 2001:db8::7 port 50022 ssh2",
        {
            "event.outcome": "failure",
            "user.name": "x from 10.0.0.1 port 1 ssh2",
            "source.ip": "2001:db8::7",
            "source.port": 50022,
        },
    ),
    ("sshd", "Invalid user  from 192.0.2.7 port 9", {"event.action": "ssh_invalid_user", "source.ip": "192.0.2.7"}),
    (
        "sshd",
        "message repeated 3 times: [ Failed password for root from 192.0.2.7 port 9 ssh2]",
        {"event.action": "ssh_login", "syslog.repeated": 3, "user.name": "root"},
    ),
    (
        "/usr/sbin/sshd",
        "Received disconnect from 192.0.2.7 port 9:11: disconnected by user",
        {"event.action": "ssh_disconnect", "event.reason": "disconnected by user", "source.port": 9},
    ),
    ("sshd", "Disconnected from user ann 192.0.2.7 port 9", {"event.action": "ssh_disconnect", "user.name": "ann"}),
    (
        "sshd",
        "pam_unix(sshd:auth): authentication failure; logname= uid=0 euid=0 tty=ssh ruser= rhost=h.example  user=root",
        {
            "event.action": "pam_authentication",
            "user.name": "root",
            "source.address": "h.example",
            "process.user.id": "0",
        },
    ),
    (
        "sudo",
        "     ann : TTY=pts/0 ; PWD=/home/ann ; USER=root ; COMMAND=/bin/sh -c echo ; date",
        {
            "event.action": "sudo_command",
            "event.outcome": "success",
            "user.name": "ann",
            "user.effective.name": "root",
            "process.tty": "pts/0",
            "process.working_directory": "/home/ann",
            "process.command_line": "/bin/sh -c echo ; date",
        },
    ),
    (
        "sudo",
        "ann : 3 incorrect password attempts ; TTY=pts/0 ; PWD=/ ; USER=root ; ENV=A=1 ; COMMAND=/bin/id",
        {
            "event.outcome": "failure",
            "event.reason": "3 incorrect password attempts",
            "process.command_line": "/bin/id",
        },
    ),
    (
        "sudo",
        "pam_unix(sudo:session): session opened for user root(uid=0) by ann(uid=1000)",
        {"event.action": "session_opened", "user.name": "root", "source.user.name": "ann", "service.name": "sudo"},
    ),
    (
        "su",
        "FAILED SU (to root) ann on pts/1",
        {"event.outcome": "failure", "user.effective.name": "root", "user.name": "ann", "process.tty": "pts/1"},
    ),
    ("su", "+ /dev/pts/1 ann:root", {"event.outcome": "success", "user.effective.name": "root"}),
    ("su(pam_unix)", "session closed for user news", {"event.action": "session_closed", "user.name": "news"}),
    (
        "CRON",
        "(root) CMD (   cd / && run-parts --report /etc/cron.hourly)",
        {"event.action": "cron_command", "user.name": "root"},
    ),
    ("systemd-logind", "New session 12 of user ann.", {"event.action": "session_opened", "session.id": "12"}),
    (
        "kernel",
        "[ 12.5] [UFW BLOCK] IN=eth0 OUT= SRC=192.0.2.7 DST=192.0.2.8 LEN=40 TTL=64 ID=1 PROTO=TCP SPT=1 DPT=22 RES=0",
        {
            "event.action": "firewall_drop",
            "rule.name": "[UFW BLOCK]",
            "source.ip": "192.0.2.7",
            "destination.ip": "192.0.2.8",
            "destination.port": 22,
            "network.transport": "tcp",
            "observer.ingress.interface.name": "eth0",
            "network.ttl": 64,
        },
    ),
    (
        "kernel",
        "Out of memory: Killed process 77 (hungry) total-vm:1kB",
        {"event.action": "oom_kill", "process.pid": 77, "process.name": "hungry"},
    ),
    (
        "kernel",
        "[9.1] app[77]: segfault at 0 ip 0 sp 0 error 4 in app",
        {"event.action": "segfault", "process.name": "app", "process.pid": 77},
    ),
    (
        "kernel",
        "e1000e 0000:00:19.0 eth0: NIC Link is Up 1000 Mbps",
        {"event.action": "link_up", "observer.ingress.interface.name": "eth0"},
    ),
    ("kernel", "eth0: link down", {"event.action": "link_down"}),
    ("kernel", "device eth0 entered promiscuous mode", {"event.action": "promiscuous_mode_on"}),
    (
        "dropbear",
        "Bad password attempt for 'ann' from 192.0.2.7:50022",
        {"event.action": "ssh_login", "event.outcome": "failure", "source.ip": "192.0.2.7", "source.port": 50022},
    ),
    (
        "sshd",
        "Postponed publickey for invalid user bob from 192.0.2.7 port 9 ssh2 [preauth]",
        {"event.action": "ssh_login_postponed", "user.name": "bob", "source.ip": "192.0.2.7", "event.outcome": None},
    ),
    (
        "sshd",
        "banner exchange: Connection from 192.0.2.7 port 9: invalid format",
        {"event.action": "ssh_bad_identification", "source.port": 9, "event.reason": "invalid format"},
    ),
    (
        "sshd",
        "drop connection #10 from [192.0.2.7]:9 on [192.0.2.8]:22 past MaxStartups",
        {
            "event.action": "ssh_dropped",
            "event.type": "denied",
            "source.ip": "192.0.2.7",
            "source.port": 9,
            "destination.ip": "192.0.2.8",
            "destination.port": 22,
            "event.reason": "past MaxStartups",
        },
    ),
    ("sshd", "Failed none for x from 192.0.2.7 port 9 ssh2", {"event.type": "info", "ssh.method": "none"}),
    (
        "sshd",
        "pam_sss(sshd:auth): authentication success; logname= uid=0 euid=0 tty=ssh ruser= rhost=192.0.2.7 user=bob",
        {"event.action": "pam_authentication", "event.outcome": "success", "user.name": "bob", "service.name": "sshd"},
    ),
    (
        "sudo",
        "ann : PWD=/home/ann ; USER=root ; COMMAND=/bin/id",
        {
            "event.outcome": "success",
            "event.type": "start",
            "process.tty": None,
            "process.working_directory": "/home/ann",
            "process.command_line": "/bin/id",
        },
    ),
    (
        "sudo",
        "ann : user NOT in sudoers ; PWD=/ ; USER=root ; COMMAND=/bin/id",
        {"event.outcome": "failure", "event.type": "denied", "event.reason": "user NOT in sudoers"},
    ),
    (
        "su",
        "BAD SU ann to root on /dev/pts/0",
        {"event.outcome": "failure", "user.name": "ann", "user.effective.name": "root", "process.tty": "/dev/pts/0"},
    ),
    ("su", "ann to root on /dev/pts/0", {"event.outcome": "success", "user.name": "ann", "event.type": "start"}),
    (
        "useradd",
        "new user: name=bob, UID=1001, GID=1001, home=/home/bob, shell=/bin/sh, from=/dev/pts/0",
        {
            "event.action": "user_added",
            "event.category": "iam",
            "event.type": "creation",
            "user.target.name": "bob",
            "event.outcome": "success",
        },
    ),
    ("useradd", "failed adding user 'bob', exit code: 9", {"event.outcome": "failure", "user.target.name": "bob"}),
    ("groupadd", "new group: name=ops, GID=1002", {"event.action": "group_added", "group.name": "ops"}),
    (
        "groupadd",
        "group added to /etc/group: name=ops, GID=1002",
        {"event.action": "group_added", "group.name": "ops", "event.category": "iam"},
    ),
    (
        "usermod",
        "add 'bob' to shadow group 'sudo'",
        {"event.action": "group_member_added", "user.target.name": "bob", "group.name": "sudo"},
    ),
    ("userdel", "delete user 'bob'", {"event.action": "user_removed", "event.type": "deletion"}),
    (
        "gpasswd",
        "user bob added by root to group sudo",
        {"user.target.name": "bob", "user.name": "root", "group.name": "sudo"},
    ),
    (
        "passwd",
        "pam_unix(passwd:chauthtok): password changed for bob",
        {"event.action": "password_changed", "event.category": "iam", "user.target.name": "bob"},
    ),
    ("passwd", "password for 'bob' changed by 'root'", {"user.target.name": "bob", "user.name": "root"}),
    (
        "login",
        "FAILED LOGIN (1) on '/dev/tty1' FOR 'bob', Authentication failure",
        {"event.action": "login", "event.outcome": "failure", "user.name": "bob", "process.tty": "/dev/tty1"},
    ),
    (
        "login",
        "FAILED LOGIN 1 FROM 192.0.2.7 FOR root, Authentication failure",
        {"event.outcome": "failure", "user.name": "root", "source.ip": "192.0.2.7"},
    ),
    ("login", "FAILED LOGIN SESSION FROM (null) FOR , User unknown", {"event.reason": "User unknown"}),
    ("login", "ROOT LOGIN ON tty1 FROM 192.0.2.7", {"event.outcome": "success", "source.ip": "192.0.2.7"}),
    ("login", "LOGIN ON tty1 BY bob", {"event.action": "login", "user.name": "bob", "process.tty": "tty1"}),
    ("CRON", "(root) CMDOUT (run: failed)", {"event.action": "cron_output", "event.reason": "run: failed"}),
    ("cron", "(CRON) INFO (Running @reboot jobs)", {"event.action": "cron_info", "user.name": None}),
    (
        "kernel",
        "IN=eth0 OUT= MAC=00:0c:29:aa:bb:01:00:50:56:cc:dd:02:08:00 SRC=192.0.2.7 DST=192.0.2.8 LEN=40 TTL=64 PROTO=47",
        {
            "destination.mac": "00:0c:29:aa:bb:01",
            "source.mac": "00:50:56:cc:dd:02",
            "network.iana_number": 47,
            "network.transport": "gre",
            "source.ip": "192.0.2.7",
        },
    ),
    ("kernel", "IN=lo OUT= MAC= SRC=192.0.2.7 DST=192.0.2.8 LEN=40 TTL=64 PROTO=UDP", {"source.mac": None}),
]


@pytest.mark.parametrize(("program", "message", "expected"), CASES, ids=[f"{c[0]}-{c[1][:20]}" for c in CASES])
def test_a_message_gives_its_fields(program: str, message: str, expected: dict[str, Value]) -> None:
    """Each message of the table's programs gives the fields that it states."""
    (row,) = annotated_rows([program], [message])
    assert {name: row.get(name) for name in expected} == expected


def test_a_chunk_gives_what_its_messages_give_alone() -> None:
    """Applied to all messages at once the table gives each the fields that it has alone."""
    programs, messages = [case[0] for case in CASES] * 3, [case[1] for case in CASES] * 3
    together = annotated_rows(programs, messages)
    alone = [annotated_rows([program], [message])[0] for program, message in zip(programs, messages, strict=True)]
    assert together == alone


def test_other_messages_are_left_alone() -> None:
    """A message that no pattern fits, one of another program, and one that is too long get no fields."""
    long = "Failed password for " + "x" * 5000 + " from 192.0.2.7 port 1 ssh2"
    rows = annotated_rows(["sshd", "other", "sshd", "", "sshd"], ["Server ready", CASES[0][1], long, "", ""])
    assert rows == [{}, {}, {}, {}, {}]


def test_only_the_first_line_of_a_message_is_looked_at() -> None:
    """A message of several lines does not shift the fields of the others."""
    rows = annotated_rows(["sshd"] * 3, [CASES[0][1], "Failed x\nInvalid user y from z", CASES[0][1]])
    assert [row.get("user.name") for row in rows] == ["ann", None, "ann"]


def test_the_table_is_well_formed() -> None:
    """Every pattern starts with text that can be looked for, and uses only groups that name a field."""
    for patterns in PROGRAMS.values():
        for pattern in patterns:
            assert pattern.needle or "[" not in pattern.text[:4]
            assert pattern.action
    assert len(set(GROUPS.values())) == len(GROUPS) <= 32
