r"""What the messages of well-known programs say, as a table of patterns → ECS fields.

What may live here: the table. `eddy_agents.wire.log_annotate` applies it to a chunk of messages at once.

Patterns are linear: no quantifier inside a quantifier, and user-given text (names, commands) is delimited from the
end of the message, so that a login name such as ``x from 10.0.0.1 port 1 ssh2`` can not forge the address.

Source: the message texts of OpenSSH, Linux-PAM, SSSD, sudo, shadow, util-linux, FreeBSD su, cronie and Debian cron,
systemd-logind, Dropbear, Linux.
"""

from __future__ import annotations

from typing import NamedTuple

GROUPS = {
    "user": "user.name",
    "uid": "user.id",
    "effective": "user.effective.name",
    "target": "user.target.name",
    "by": "source.user.name",
    "address": "source.address",
    "port": "source.port",
    "destination": "destination.ip",
    "destination_port": "destination.port",
    "transport": "network.transport",
    "bytes": "network.bytes",
    "method": "ssh.method",
    "signature": "ssh.signature",
    "reason": "event.reason",
    "repeated": "syslog.repeated",
    "tty": "process.tty",
    "directory": "process.working_directory",
    "command": "process.command_line",
    "process": "process.name",
    "pid": "process.pid",
    "real_uid": "process.real_user.id",
    "effective_uid": "process.user.id",
    "service": "service.name",
    "session": "session.id",
    "rule": "rule.name",
    "ingress": "observer.ingress.interface.name",
    "egress": "observer.egress.interface.name",
    "mac": "source.mac",
    "destination_mac": "destination.mac",
    "protocol": "network.iana_number",
    "group": "group.name",
    "ttl": "network.ttl",
}
"""Group name in a pattern → field. At most 60: `eddy_agents.wire.log_shapes` keeps a bit for each."""


class Pattern(NamedTuple):
    """One form of message.

    Attributes:
        text: regular expression of the whole message; its groups are named as in `GROUPS`.
        action: ``event.action``.
        category: ``event.category``.
        outcome: ``event.outcome``: success, failure or "" where the message does not say.
        needle: a text that every such message contains, where its first four characters are not always the same; else
            "", and the first four characters of ``text`` are those of the message.
        type: ``event.type``: start, end, change, creation, deletion, denied (by a rule, not by a wrong password) ...;
            ECS allows info for every category.
    """

    text: str
    action: str
    category: str
    outcome: str = ""
    needle: str = ""
    type: str = "info"


# --- the table -----------------------------------------------------------------------------------------------------

_AUTH, _SESSION, _FAIL, _OK = "authentication", "session", "failure", "success"
_PREAUTH = r"(?: \[preauth\])? *"
_PORT = r"(?: port (?P<port>\d{1,5}))?"
_WHO = r"(?:(?:invalid|authenticating) user (?P<user>.*?) )?(?P<address>[^ ]+)" + _PORT
_UNIX = (
    r"logname=[^ ]* uid=(?P<real_uid>\d*) euid=(?P<effective_uid>\d*)"
    r" tty=(?P<tty>[^ ]*) ruser=(?P<by>[^ ]*) rhost=(?P<address>[^ ]*)(?: +user=(?P<user>.*?))? *"
)
_PAM_FAILURE = r"authentication failures?; " + _UNIX
_PAM_SUCCESS = r"authentication success; " + _UNIX
_OPENED = r"session opened for user (?P<user>[^ (]+)(?:\(uid=(?P<uid>\d+)\))?(?: by (?P<by>[^ (]*)\(uid=\d+\))?"
_CLOSED = r"session closed for user (?P<user>[^ ]+)"
_PAM = r"pam_[a-z_0-9]+\((?P<service>[^:)]+):[a-z]+\): "

PAM = (
    Pattern(_PAM + _PAM_FAILURE, "pam_authentication", _AUTH, _FAIL),
    Pattern(_PAM + r"check pass; (?P<reason>user unknown)", "pam_authentication", _AUTH, _FAIL),
    Pattern(_PAM + _PAM_SUCCESS, "pam_authentication", _AUTH, _OK),
    Pattern(_PAM + _OPENED, "session_opened", _SESSION, _OK, type="start"),
    Pattern(_PAM + _CLOSED, "session_closed", _SESSION, _OK, type="end"),
    Pattern(_PAM + r"password changed for (?P<target>.*)", "password_changed", "iam", _OK, type="change"),
    Pattern(
        _PAM + r"user (?P<user>[^ ]+) \((?P<uid>\d+)\) (?P<reason>tally \d+, deny \d+)", "pam_user_locked", _AUTH, _FAIL
    ),
    Pattern(
        _PAM + r"(?:Consecutive login failures for user (?P<user>[^ ]+)) account temporarily locked",
        "pam_user_locked",
        _AUTH,
        _FAIL,
    ),
    Pattern(r"PAM (?P<repeated>\d{1,9}) more " + _PAM_FAILURE, "pam_authentication", _AUTH, _FAIL),
    Pattern(r"PAM service\((?P<service>[^)]*)\) (?P<reason>ignoring max retries; .*)", "pam_max_retries", _AUTH, _FAIL),
)

OLD_PAM = (
    Pattern(_PAM_FAILURE, "pam_authentication", _AUTH, _FAIL),
    Pattern(r"check pass; (?P<reason>user unknown)", "pam_authentication", _AUTH, _FAIL),
    Pattern(_OPENED, "session_opened", _SESSION, _OK, type="start"),
    Pattern(_CLOSED, "session_closed", _SESSION, _OK, type="end"),
)
"""``program(pam_unix)``: Linux-PAM before 0.99."""

_SSH_TRY = (
    r"(?P<method>[^ ]+) for (?:(?:invalid|illegal) user )?(?P<user>.*) from (?P<address>[^ ]+) port (?P<port>\d{1,5})"
)
SSHD = (
    Pattern(r"Accepted " + _SSH_TRY + r"(?: ssh\d+)?(?:: (?P<signature>.*))?", "ssh_login", _AUTH, _OK, type="start"),
    Pattern(r"Failed " + _SSH_TRY + r"(?: ssh\d+)?(?:: (?P<signature>.*))?", "ssh_login", _AUTH, _FAIL),
    Pattern(r"Postponed " + _SSH_TRY + r"(?: ssh\d+)?" + _PREAUTH, "ssh_login_postponed", _AUTH),
    Pattern(
        r"message repeated (?P<repeated>\d{1,9}) times: \[ Failed " + _SSH_TRY + r"(?: ssh\d+)?\]",
        "ssh_login",
        _AUTH,
        _FAIL,
    ),
    Pattern(r"Invalid user (?P<user>.*) from (?P<address>[^ ]+)" + _PORT + " *", "ssh_invalid_user", _AUTH, _FAIL),
    Pattern(r"Illegal user (?P<user>.*) from (?P<address>[^ ]+)" + _PORT + " *", "ssh_invalid_user", _AUTH, _FAIL),
    Pattern(r"input_userauth_request: invalid user (?P<user>.*?)" + _PREAUTH, "ssh_invalid_user", _AUTH, _FAIL),
    Pattern(
        r"User (?P<user>.*) from (?P<address>[^ ]+) not allowed because (?P<reason>.*)",
        "ssh_not_allowed",
        _AUTH,
        _FAIL,
        type="denied",
    ),
    Pattern(r"Connection closed by " + _WHO + r" \[preauth\] *", "ssh_disconnect", _AUTH, _FAIL, type="end"),
    Pattern(r"Connection reset by " + _WHO + r" \[preauth\] *", "ssh_disconnect", _AUTH, _FAIL, type="end"),
    Pattern(r"Connection (?:closed|reset) by " + _WHO + " *", "ssh_disconnect", _SESSION, type="end"),
    Pattern(r"Disconnected from " + _WHO + r" \[preauth\] *", "ssh_disconnect", _AUTH, _FAIL, type="end"),
    Pattern(
        r"Disconnected from (?:user (?P<user>.*?) )?(?P<address>[^ ]+)" + _PORT + " *",
        "ssh_disconnect",
        _SESSION,
        type="end",
    ),
    Pattern(
        r"Disconnecting(?: (?:invalid|authenticating) user (?P<user>.*) (?P<address>[^ ]+) port (?P<port>\d{1,5}))?"
        r": (?P<reason>.*?) \[preauth\] *",
        "ssh_disconnect",
        _AUTH,
        _FAIL,
        type="end",
    ),
    Pattern(
        r"Received disconnect from (?P<address>[^ ]+?)" + _PORT + r": ?\d+: ?(?P<reason>.*?) \[preauth\] *",
        "ssh_disconnect",
        _AUTH,
        _FAIL,
        type="end",
    ),
    Pattern(
        r"Received disconnect from (?P<address>[^ ]+?)" + _PORT + r": ?\d+: ?(?P<reason>.*?) *",
        "ssh_disconnect",
        _SESSION,
        type="end",
    ),
    Pattern(
        r"error: Received disconnect from (?P<address>[^ ]+?)" + _PORT + r": ?\d+: ?(?P<reason>.*?)" + _PREAUTH,
        "ssh_disconnect",
        _AUTH,
        _FAIL,
        type="end",
    ),
    Pattern(
        r"error: maximum authentication attempts exceeded for (?:invalid user )?(?P<user>.*) from (?P<address>[^ ]+)"
        r" port (?P<port>\d{1,5})(?: ssh\d+)?" + _PREAUTH,
        "ssh_max_attempts",
        _AUTH,
        _FAIL,
    ),
    Pattern(
        r"error: PAM: (?P<reason>.*) for (?:(?:illegal|invalid) user )?(?P<user>.*) from (?P<address>[^ ]+) *",
        "pam_authentication",
        _AUTH,
        _FAIL,
    ),
    Pattern(
        r"Unable to negotiate with (?P<address>[^ ]+)" + _PORT + r": (?P<reason>.*?)" + _PREAUTH,
        "ssh_negotiation",
        "network",
        _FAIL,
    ),
    Pattern(
        r"banner exchange: Connection from (?P<address>[^ ]+)" + _PORT + r": (?P<reason>.*?)" + _PREAUTH,
        "ssh_bad_identification",
        "network",
        _FAIL,
    ),
    Pattern(
        r"drop connection #\d+ from \[(?P<address>[^\]]+)\]:(?P<port>\d{1,5}) on"
        r" \[(?P<destination>[^\]]+)\]:(?P<destination_port>\d{1,5}),? ?(?P<reason>.*)",
        "ssh_dropped",
        "network",
        _FAIL,
        type="denied",
    ),
    Pattern(
        r"Did not receive identification string from (?P<address>[^ ]+)" + _PORT + " *",
        "ssh_no_identification",
        "network",
        _FAIL,
    ),
    Pattern(
        r"Bad protocol version identification '(?P<reason>.*)' from (?P<address>[^ ]+)" + _PORT + " *",
        "ssh_bad_identification",
        "network",
        _FAIL,
    ),
    Pattern(
        r"Magic value (?P<reason>check failed) .* from (?P<address>[^ ]+)" + _PORT + " *",
        "ssh_bad_identification",
        _AUTH,
        _FAIL,
    ),
    Pattern(r"fatal: Timeout before authentication for (?P<address>[^ ]+)" + _PORT + " *", "ssh_timeout", _AUTH, _FAIL),
    Pattern(r"fatal: (?P<reason>.*?) \[preauth\] *", "ssh_disconnect", _AUTH, _FAIL, type="end"),
    Pattern(
        r"ssh_dispatch_run_fatal: Connection from (?P<address>[^ ]+)" + _PORT + r": (?P<reason>.*?)" + _PREAUTH,
        "ssh_dispatch_fatal",
        "network",
        _FAIL,
    ),
    Pattern(r"refused connect from .* \((?P<address>[^ )]+)\)", "ssh_refused", "network", _FAIL, type="denied"),
    Pattern(
        r"reverse mapping checking getaddrinfo for [^ ]+ \[(?P<address>[^\]]+)\] (?P<reason>failed.*)",
        "ssh_reverse_mapping",
        "network",
        _FAIL,
    ),
    Pattern(r"Connection from (?P<address>[^ ]+) port (?P<port>\d{1,5}).*", "ssh_connection", "network", type="start"),
    Pattern(r"Server listening on .*", "service_started", "process", _OK, type="start"),
    Pattern(
        r"Starting session: .* for (?P<user>.*) from (?P<address>[^ ]+) port (?P<port>\d{1,5}).*",
        "ssh_session",
        _SESSION,
    ),
)

DROPBEAR = (
    Pattern(
        r"Bad PAM password attempt for '(?P<user>.*)' from (?P<address>.+):(?P<port>\d{1,5})", "ssh_login", _AUTH, _FAIL
    ),
    Pattern(
        r"Bad password attempt for '(?P<user>.*)' from (?P<address>.+):(?P<port>\d{1,5})", "ssh_login", _AUTH, _FAIL
    ),
    Pattern(
        r"Login attempt for nonexistent user (?:'(?P<user>.*)' )?from (?P<address>.+):(?P<port>\d{1,5})",
        "ssh_invalid_user",
        _AUTH,
        _FAIL,
    ),
    Pattern(
        r"Password auth succeeded for '(?P<user>.*)' from (?P<address>.+):(?P<port>\d{1,5})", "ssh_login", _AUTH, _OK
    ),
    Pattern(
        r"Pubkey auth succeeded for '(?P<user>.*)' with .* from (?P<address>.+):(?P<port>\d{1,5})",
        "ssh_login",
        _AUTH,
        _OK,
    ),
    Pattern(
        r"Exit before auth(?: from <(?P<address>.+):(?P<port>\d{1,5})>)?: (?P<reason>.*)",
        "ssh_disconnect",
        _AUTH,
        _FAIL,
    ),
    Pattern(r"Exit \((?P<user>[^)]*)\)(?: from <.*>)?: (?P<reason>.*)", "ssh_disconnect", _SESSION, type="end"),
    Pattern(r"Child connection from (?P<address>.+):(?P<port>\d{1,5})", "ssh_connection", "network", type="start"),
)

_SUDO = r" *(?P<user>[^ ]+) : "
_SUDO_TAIL = (
    r"(?:HOST=[^ ;]* ; )?(?:TTY=(?P<tty>[^;]*) ; )?(?>PWD=(?P<directory>.*?) ; USER=)(?P<effective>[^ ]+)"
    r"(?: ; GROUP=[^ ]*)? (?>;.*? ?COMMAND=)(?P<command>.*)"
)
SUDO = (
    Pattern(_SUDO + _SUDO_TAIL, "sudo_command", "process", _OK, "COMMAND=", "start"),
    Pattern(_SUDO + r"(?P<reason>[^;=]*) ; " + _SUDO_TAIL, "sudo_command", "process", _FAIL, "COMMAND=", "denied"),
    *PAM,
)

SU = (
    Pattern(r"\(to (?P<effective>[^)]*)\) (?P<user>[^ ]+) on (?P<tty>[^ ]+)", "su_session", _AUTH, _OK, type="start"),
    Pattern(r"Successful su for (?P<effective>[^ ]+) by (?P<user>[^ ]+)", "su_session", _AUTH, _OK, type="start"),
    Pattern(r"FAILED su for (?P<effective>[^ ]+) by (?P<user>[^ ]+)", "su_session", _AUTH, _FAIL),
    Pattern(r"FAILED SU \(to (?P<effective>[^)]*)\) (?P<user>[^ ]+) on (?P<tty>[^ ]+)", "su_session", _AUTH, _FAIL),
    Pattern(r"'su (?P<effective>[^']*)' failed for (?P<user>[^ ]+) on (?P<tty>[^ ]+)", "su_session", _AUTH, _FAIL),
    Pattern(r"BAD SU (?P<user>[^ ]+) to (?P<effective>[^ ]+) on (?P<tty>[^ ]+)", "su_session", _AUTH, _FAIL),
    Pattern(
        r"(?P<user>[^ ]+) to (?P<effective>[^ ]+) on (?P<tty>/dev/[^ ]+)", "su_session", _AUTH, _OK, " to ", "start"
    ),
    Pattern(r"\+ (?P<tty>[^ ]+) (?P<user>[^:]+):(?P<effective>[^ ]+)", "su_session", _AUTH, _OK, "+ ", "start"),
    Pattern(r"- (?P<tty>[^ ]+) (?P<user>[^:]+):(?P<effective>[^ ]+)", "su_session", _AUTH, _FAIL, needle="- "),
    *PAM,
)

CRON = (
    Pattern(r"\((?P<user>[^)]*)\) CMD \((?P<command>.*?) *\)", "cron_command", "process", _OK, ") CMD (", "start"),
    Pattern(r"\((?P<user>[^)]*)\) CMDEND \((?P<command>.*?) *\)", "cron_command", "process", _OK, ") CMDEND (", "end"),
    Pattern(r"\((?P<user>[^)]*)\) CMDOUT \((?P<reason>.*)\)", "cron_output", "process", "", ") CMDOUT ("),
    Pattern(r"\(CRON\) INFO \((?P<reason>.*)\)", "cron_info", "process", "", ") INFO ("),
    Pattern(r"\((?P<user>[^)]*)\) INFO \((?P<reason>.*)\)", "cron_info", "process", "", ") INFO ("),
    Pattern(r"\(CRON\) STARTUP \((?P<reason>.*)\)", "service_started", "process", _OK, ") STARTUP (", "start"),
    Pattern(
        r"\((?P<user>[^)]*)\) RELOAD \((?P<reason>.*)\)", "cron_reload", "configuration", "", ") RELOAD (", "change"
    ),
    Pattern(r"\((?P<user>[^)]*)\) (?P<reason>(?:FAILED|ERROR) .*)", "cron_command", "process", _FAIL, ") "),
    *PAM,
)

LOGIND = (
    Pattern(
        r"New session '?(?P<session>[^ ']+)'? of user '?(?P<user>[^ ']+?)'?(?: with .*)?\.",
        "session_opened",
        _SESSION,
        _OK,
        type="start",
    ),
    Pattern(r"Session (?P<session>[^ ]+) logged out\. .*", "session_closed", _SESSION, _OK, type="end"),
    Pattern(r"Removed session (?P<session>[^ ]+)\.", "session_removed", _SESSION, _OK, type="end"),
    *PAM,
)

_ACTED = r"'?(?P<target>[^' ,]+)'?"
_IN_GROUP = r"(?:shadow )?group '?(?P<group>[^' ,]+)'?"
ACCOUNTS = (
    Pattern(r"new user: name=(?P<target>[^,]+),.*", "user_added", "iam", _OK, type="creation"),
    Pattern(r"new group: name=(?P<group>[^,]+),.*", "group_added", "iam", _OK, type="creation"),
    Pattern(r"group added to [^ :]+: name=(?P<group>[^,]+)(?:,.*)?", "group_added", "iam", _OK, type="creation"),
    Pattern(r"failed adding user '(?P<target>.*?)', (?P<reason>.*)", "user_added", "iam", _FAIL, type="creation"),
    Pattern(r"add " + _ACTED + " to " + _IN_GROUP, "group_member_added", "iam", _OK, type="change"),
    Pattern(r"delete " + _ACTED + " from " + _IN_GROUP, "group_member_removed", "iam", _OK, type="change"),
    Pattern(r"delete user " + _ACTED, "user_removed", "iam", _OK, type="deletion"),
    Pattern(r"removed " + _IN_GROUP + r" owned by '?[^' ]+'?", "group_removed", "iam", _OK, type="deletion"),
    Pattern(r"group '(?P<group>[^']+)' removed(?: from [^ ]+)?", "group_removed", "iam", _OK, type="deletion"),
    Pattern(r"lock user " + _ACTED + " password", "user_locked", "iam", _OK, type="change"),
    Pattern(r"unlock user " + _ACTED + " password", "user_unlocked", "iam", _OK, type="change"),
    Pattern(r"change user " + _ACTED + " password", "password_changed", "iam", _OK, type="change"),
    Pattern(r"change user " + _ACTED + " (?P<reason>.*)", "user_changed", "iam", _OK, type="change"),
    Pattern(r"changed password expiry for (?P<target>.*)", "user_changed", "iam", _OK, type="change"),
    Pattern(r"password for '(?P<target>.*?)' changed by '(?P<user>.*)'", "password_changed", "iam", _OK, type="change"),
    Pattern(
        r"user (?P<target>[^ ]+) added by (?P<user>[^ ]+) to " + _IN_GROUP,
        "group_member_added",
        "iam",
        _OK,
        needle=" added by ",
        type="change",
    ),
    Pattern(
        r"user (?P<target>[^ ]+) removed by (?P<user>[^ ]+) from " + _IN_GROUP,
        "group_member_removed",
        "iam",
        _OK,
        needle=" removed by ",
        type="change",
    ),
    *PAM,
)
"""useradd, usermod, userdel, groupadd, groupdel, gpasswd, passwd, chpasswd, chage."""

_ON = r"[`']?(?P<tty>[^ `']+)[`']?"
_FOR = r" FOR [`']?(?P<user>[^,`']*)[`']?, (?P<reason>.*)"
LOGIN = (
    Pattern(
        r"FAILED LOGIN (?:SESSION|\(?\d+\)?) on " + _ON + r"(?: from [`']?(?P<address>[^ `']+)[`']?)?" + _FOR,
        "login",
        _AUTH,
        _FAIL,
    ),
    Pattern(
        r"FAILED LOGIN (?:SESSION|\(?\d+\)?) FROM (?:\(null\)|(?P<address>[^ ]+))" + _FOR,
        "login",
        _AUTH,
        _FAIL,
    ),
    Pattern(
        r"(?P<user>ROOT) LOGIN +(?:ON|on) " + _ON + r"(?: (?:FROM|from) [`']?(?P<address>[^ `']+)[`']?)?",
        "login",
        _AUTH,
        _OK,
        needle="ROOT LOGIN ",
        type="start",
    ),
    Pattern(
        r"LOGIN ON (?P<tty>[^ ]+) BY (?P<user>[^ ]+)(?: FROM (?P<address>[^ ]+))?", "login", _AUTH, _OK, type="start"
    ),
    *PAM,
)

_STAMP = r"(?:\[ *\d+\.\d+\] ?)?"
_HARDWARE = ":".join(["[0-9A-Fa-f]+"] * 6)
_PACKET = (
    r"IN=(?P<ingress>[^ ]*) OUT=(?P<egress>[^ ]*)(?: PHYSIN=[^ ]*)?(?: PHYSOUT=[^ ]*)?"
    rf"(?: MAC=(?:(?P<destination_mac>{_HARDWARE}):(?P<mac>{_HARDWARE})(?::[^ ]*)?|[^ ]*))?"
    r" SRC=(?P<address>[^ ]+) DST=(?P<destination>[^ ]+) LEN=(?P<bytes>\d{1,6})"
    r" (?>.*?(?:TTL|HOPLIMIT)=)(?P<ttl>\d{1,3}) (?>.*?PROTO=)(?:(?P<protocol>\d{1,3})(?= |$)|(?P<transport>[^ ]+))"
    r"(?: SPT=(?P<port>\d{1,5}) DPT=(?P<destination_port>\d{1,5}))?.*"
)
_DENIED = r"(?P<rule>[^=]{0,100}?(?i:drop|block|reject|den[yi])[^=]{0,100}?) ?"
_ALLOWED = r"(?P<rule>[^=]{0,100}?(?i:accept|allow|permit)[^=]{0,100}?) ?"
_LINK = r"(?:.* )?(?P<ingress>[^ :]+): (?:NIC )?[Ll]ink (?:is )?"
KERNEL = (
    Pattern(_STAMP + _DENIED + _PACKET, "firewall_drop", "network", _FAIL, " SRC=", "denied"),
    Pattern(_STAMP + _ALLOWED + _PACKET, "firewall_accept", "network", _OK, " SRC=", "allowed"),
    Pattern(_STAMP + r"(?P<rule>[^=]{0,200}?) ?" + _PACKET, "firewall_log", "network", "", " SRC=", "connection"),
    Pattern(
        _STAMP + r"(?:Memory cgroup out|Out) of memory: Kill(?:ed)? process (?P<pid>\d{1,9}) \((?P<process>[^)]*)\).*",
        "oom_kill",
        "process",
        needle="ut of memory: Kill",
        type="end",
    ),
    Pattern(
        _STAMP + r"(?P<process>[^\[]{1,64})\[(?P<pid>\d{1,9})\](?:: | )(?P<reason>segfault at .*)",
        "segfault",
        "process",
        needle="segfault at ",
        type="error",
    ),
    Pattern(_STAMP + _LINK + r"(?:[Uu]p|becomes ready)(?:[ ,.].*)?", "link_up", "network", needle="ink "),
    Pattern(_STAMP + _LINK + r"[Dd]own(?:[ ,.].*)?", "link_down", "network", needle="ink "),
    Pattern(
        _STAMP + r"(?:device )?(?P<ingress>[^ :]+):? entered promiscuous mode",
        "promiscuous_mode_on",
        "network",
        needle="entered promiscuous mode",
    ),
    Pattern(
        _STAMP + r"(?:device )?(?P<ingress>[^ :]+):? left promiscuous mode",
        "promiscuous_mode_off",
        "network",
        needle="left promiscuous mode",
    ),
)

PROGRAMS: dict[str, tuple[Pattern, ...]] = {
    "sshd": (*SSHD, *PAM),
    "sshd-session": (*SSHD, *PAM),
    "sshd-auth": (*SSHD, *PAM),
    "dropbear": DROPBEAR,
    "sudo": SUDO,
    "su": SU,
    "cron": CRON,
    "crond": CRON,
    "crontab": CRON,
    "kernel": KERNEL,
    "systemd-logind": LOGIND,
    "login": LOGIN,
    "useradd": ACCOUNTS,
    "usermod": ACCOUNTS,
    "userdel": ACCOUNTS,
    "groupadd": ACCOUNTS,
    "groupmod": ACCOUNTS,
    "groupdel": ACCOUNTS,
    "gpasswd": ACCOUNTS,
    "passwd": ACCOUNTS,
    "chpasswd": ACCOUNTS,
    "chage": ACCOUNTS,
    "systemd": PAM,
    "gdm-password": PAM,
    "lightdm": PAM,
    "vsftpd": PAM,
    "polkitd": PAM,
}
"""Program in lower case → its patterns."""


def patterns_of(program: str) -> tuple[Pattern, ...]:
    """Return the patterns of a program; none for a program that is not in the table.

    Args:
        program: name or path as in the tag, in any case; ``program(pam_unix)`` is the old form of PAM's messages.
    """
    name = program.rpartition("/")[2].lower()
    if name.endswith("(pam_unix)"):
        return OLD_PAM
    return PROGRAMS.get(name, ())
