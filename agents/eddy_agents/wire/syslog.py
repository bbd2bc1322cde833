"""One syslog message: RFC 5424, RFC 3164 and what is sent in its place, network devices.

What may live here: strict and lenient parsing of one line to a `Syslog`. Chunks of lines are in
`eddy_agents.wire.log_lines`, which asks this module only for lines that its regular expressions do not take.

Source: RFC 5424 section 6; RFC 3164 section 4 and 5; syslog-ng "chain-hostnames()"; FortiOS "Log Message Reference".
"""

from __future__ import annotations

import re
from typing import TypeAlias

import msgspec

from eddy_agents.wire.syslog_cisco import device_header, severity_of
from eddy_agents.wire.syslog_stamps import ZONES, iso_text, stamp_at
from eddy_agents.wire.syslog_time import UNREADABLE, iso_ns, zone_of
from eddy_mesh.errors import WireError

BOM = "\N{ZERO WIDTH NO-BREAK SPACE}"
MAX_PRIORITY = 191
BOM_LATIN_1 = "\u00ef\u00bb\u00bf"
"""The mark in a line whose other bytes are not UTF-8."""

FACILITY_NAMES = (
    *("kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news"),
    *("uucp", "cron", "authpriv", "ftp", "ntp", "audit", "alert", "clock"),
    *("local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7"),
)
"""Index is the facility code. Source: RFC 5424 section 6.2.1, names as in syslog.conf."""

Parameters: TypeAlias = dict[str, str | list[str]]
StructuredData: TypeAlias = dict[str, Parameters]
"""SD-ID → parameter name → value, or values where a name is repeated."""


class Syslog(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of one syslog message; None where the message does not have one.

    Attributes:
        format: ``rfc5424``, ``rfc3164``, ``cisco`` (any device that names its messages by mnemonics) or ``unknown``.
        priority: PRI, 0-191.
        version: of the RFC 5424 header.
        timestamp: as sent, or rewritten as `eddy_agents.wire.syslog_stamps.Stamp` says.
        hostname: as sent; of a chain of hosts the last.
        appname: APP-NAME, tag, or Cisco's ``%FACILITY-SEVERITY-MNEMONIC``.
        procid: process id or whatever is sent in its place.
        msgid: type of the message.
        structured_data: see `StructuredData`.
        message: the text without byte order mark.
        message_counter: Cisco message counter.
        event_code: Cisco mnemonic.
    """

    format: str
    priority: int | None = None
    version: int | None = None
    timestamp: str | None = None
    hostname: str | None = None
    appname: str | None = None
    procid: str | None = None
    msgid: str | None = None
    structured_data: StructuredData | None = None
    message: str | None = None
    message_counter: int | None = None
    event_code: str | None = None

    @property
    def facility(self) -> int | None:
        """Facility code, 0-23."""
        return None if self.priority is None else self.priority >> 3

    @property
    def severity(self) -> int | None:
        """Severity, 0-7."""
        return None if self.priority is None else self.priority & 7


# --- RFC 5424 ------------------------------------------------------------------------------------------------------

_PRI = re.compile(r"<(0|[1-9]\d?|1[0-8]\d|19[01])>", re.ASCII)
_VERSIONED = re.compile(r"<\d{1,3}>[1-9]", re.ASCII)
_VERSION = re.compile(r"[1-9]\d{0,2}", re.ASCII)
_TIMESTAMP = re.compile(r"-|(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d{1,6})?(Z|[+-]\d\d:\d\d)", re.ASCII)
_HEADER = (
    ("hostname", re.compile(r"[!-~]{1,255}")),
    ("appname", re.compile(r"[!-~]{1,48}")),
    ("procid", re.compile(r"[!-~]{1,128}")),
    ("msgid", re.compile(r"[!-~]{1,32}")),
)
_SD_NAME = re.compile(r"[!#-<>-\\^-~]{1,32}")
_SD_VALUE = re.compile(r'"((?:[^"\\\]]|\\["\\\]])*+)"')
_SD_LOOSE_VALUES = (
    _SD_VALUE,
    re.compile(r'"((?:[^"\\]|\\.)*+)"(?=[ \]])', re.DOTALL),
    re.compile(r'"([^"]*+)"(?=[ \]])'),
)
"""Best first: as the RFC has it; lone backslashes and brackets within; a backslash before the closing quote."""
_SD_NEXT = re.compile(
    r' (?=\[(?:[!#-<>-\\^-~]{1,32}@|timeQuality|origin|meta)[!#-<>-\\^-~]{0,32} [!#-<>-\\^-~]{1,32}=")'
)
"""A space before another element. Such an element has a name that is assigned or contains @."""
_ESCAPED = re.compile(r'\\(["\\\]])')
_UTC = zone_of("UTC")
_LOOSE_HEADER = re.compile(
    r"(?P<version>[1-9]\d{0,2}) +(?:-|(?P<date>\d{4}-\d\d-\d\d)[Tt ](?P<clock>\d\d:\d\d:\d\d)"
    r"(?:[.,](?P<fraction>\d{1,9})\d{0,9})? ?(?P<zone>[Zz]|[+-]\d\d:?\d\d)?)"
    r" +(?P<hostname>[^\s]{1,255}+) +(?P<appname>[^\s]{1,255}+) +(?P<procid>[^\s]{1,128}+) +(?P<msgid>[^\s]{1,128}+)"
    r"(?: +|$)",
    re.ASCII,
)
"""What is sent for a header: an offset without colon, a comma, lower case, a space for T, two spaces for one."""


def parse_rfc5424(line: bytes) -> Syslog:
    """Return the parts of a message that is valid by RFC 5424 (any version 1-999).

    Args:
        line: one message without framing.

    Raises:
        WireError: the message is not valid; the offset says where.

    Source: RFC 5424 section 6.
    """
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise WireError("rfc5424", f"byte {line[error.start]:#04x} is not UTF-8", error.start) from None
    parts, mistake, offset = _rfc5424(text)
    if mistake:
        raise WireError("rfc5424", mistake, offset)
    return parts


def _rfc5424(text: str, *, strict: bool = True) -> tuple[Syslog, str, int]:
    """Return what could be read, what is wrong ("" for a valid message), and where reading stopped."""
    found: dict[str, object] = {}
    mistake, offset = _header(text, found)
    if mistake and not strict and (end := _loose_header(text, found)):
        mistake, offset = "", end
        found["message"] = ""
    if not mistake:
        mistake, offset = _body(text, offset, found, strict=strict)
    return msgspec.convert({"format": "rfc5424", **found}, Syslog), mistake, offset


def _loose_header(text: str, found: dict[str, object]) -> int:
    """Read a header that is nearly valid; return the offset after it, or 0 where it is none."""
    pri = _PRI.match(text)
    parts = _LOOSE_HEADER.match(text, pri.end()) if pri else None
    if pri is None or parts is None:
        return 0
    found.update(priority=int(pri[1]), version=int(parts["version"]))
    if parts["date"]:
        found["timestamp"] = iso_text(parts)
    for name, _ in _HEADER:
        _keep(found, name, parts[name])
    return parts.end()


def _header(text: str, found: dict[str, object]) -> tuple[str, int]:
    pri = _PRI.match(text)
    if pri is None:
        return f"{text[:5]!r} is no priority from <0> to <191>", 0
    version = _VERSION.match(text, pri.end())
    if version is None:
        return f"{text[pri.end() : pri.end() + 3]!r} is no version from 1 to 999", pri.end()
    found["priority"], found["version"] = int(pri[1]), int(version[0])
    offset = version.end()
    if text[offset : offset + 1] != " ":
        return "expected a space after the version", offset
    timestamp = _TIMESTAMP.match(text, offset + 1)
    if timestamp is None or text[timestamp.end() : timestamp.end() + 1] != " ":
        return f"{text[offset + 1 : offset + 33]!r} does not begin with an RFC 3339 time or -", offset + 1
    if timestamp[1] and iso_ns(timestamp[1].encode(), timestamp[2].encode(), _UTC) == UNREADABLE:
        return f"{timestamp[0]!r} is no time", offset + 1
    _keep(found, "timestamp", timestamp[0])
    offset = timestamp.end()
    for name, form in _HEADER:
        part = form.match(text, offset + 1)
        if part is None or text[part.end() : part.end() + 1] != " ":
            return f"{text[offset + 1 : offset + 33]!r} does not begin with a {name} or -", offset + 1
        _keep(found, name, part[0])
        offset = part.end()
    return "", offset + 1


def _keep(found: dict[str, object], name: str, value: str) -> None:
    if value != "-":
        found[name] = value


def _body(text: str, offset: int, found: dict[str, object], *, strict: bool) -> tuple[str, int]:
    if text[offset : offset + 1] == "[":
        elements, offset, mistake = structured_data(text, offset, strict=strict)
        found["structured_data"] = elements
        if mistake:
            return mistake, offset
    elif text[offset : offset + 1] == "-":
        offset += 1
    else:
        return "expected structured data or -", offset
    if offset == len(text):
        return "", offset
    if text[offset] != " ":
        return f"expected a space after the structured data, not {text[offset]!r}", offset
    message = without_bom(text[offset + 1 :])
    if message:
        found["message"] = message
    return "", len(text)


def without_bom(text: str) -> str:
    """Return a message without the byte order mark that RFC 5424 lets it begin with."""
    return text.removeprefix(BOM).removeprefix(BOM_LATIN_1)


def structured_data(text: str, offset: int = 0, *, strict: bool = False) -> tuple[StructuredData, int, str]:
    """Read SD-ELEMENTs.

    Args:
        text: the message.
        offset: where the first ``[`` is.
        strict: refuse a lone backslash or bracket in a value, and do not look for elements after a space.

    Returns:
        The elements that could be read, the offset after them, and what is wrong with the next one ("" for nothing).

    Source: RFC 5424 section 6.3.
    """
    elements: StructuredData = {}
    while text[offset : offset + 1] == "[":
        name = _SD_NAME.match(text, offset + 1)
        if name is None or text[name.end() : name.end() + 1] not in {" ", "]"}:
            return elements, offset, f"{text[offset + 1 : offset + 34]!r} does not begin with a structured data id"
        if name[0] in elements:
            return elements, offset, f"structured data id {name[0]!r} appears twice"
        parameters = elements[name[0]] = {}
        end = _parameters(text, name.end(), parameters, (_SD_VALUE,) if strict else _SD_LOOSE_VALUES)
        if text[end : end + 1] != "]":
            return elements, offset, f"{text[end : end + 34]!r} is no structured data parameter"
        offset = end + 1
        if not strict and _SD_NEXT.match(text, offset):
            offset += 1
    return elements, offset, ""


def _parameters(text: str, offset: int, parameters: Parameters, forms: tuple[re.Pattern[str], ...]) -> int:
    """Read ` name="value"` as often as it comes; return the offset at which it does not."""
    while text[offset : offset + 1] == " ":
        name = _SD_NAME.match(text, offset + 1)
        if name is None or text[name.end() : name.end() + 1] != "=":
            return offset
        value = next((found for form in forms if (found := form.match(text, name.end() + 1))), None)
        if value is None:
            return offset
        plain = _ESCAPED.sub(r"\1", value[1])
        held = parameters.get(name[0])
        if isinstance(held, list):
            held.append(plain)
        else:
            parameters[name[0]] = plain if held is None else [held, plain]
        offset = value.end()
    return offset


# --- RFC 3164 and practice -----------------------------------------------------------------------------------------

_PROCID = r"(?:\[(?P<procid>[^\]\s]{0,128})\])?"
_NUMBER = r"\[(?P<procid>\d{1,18})\]"
_TAGS = (
    re.compile(r"(?P<tag>[^\s\[\]]{1,128}?(?: \d[\d.]{0,16})?)" + _PROCID + r":(?: |$)", re.ASCII),
    re.compile(r"(?P<tag>[^\s:\[\]]{1,128})" + _PROCID + ":", re.ASCII),
    re.compile(r"(?P<tag>[^\s:\[\]]{1,128}) " + _NUMBER + ": ?", re.ASCII),
    re.compile(r"(?P<tag>[^\s:\[\]]{1,128})" + _NUMBER + " ", re.ASCII),
    re.compile(r" ?(?P<tag>-- [^\s:\[\]]{1,48})" + _NUMBER + ": ?", re.ASCII),
)
"""A tag ends with a colon and a space; else with its first colon; else has a process id and lacks the colon, or has a
space before it; klogd's and login's old form comes last."""
_NO_TAG = re.compile(r"@cee:|CEF: ?\d|LEEF: ?\d|\d{1,18}:", re.ASCII)
"""What begins a message in another format, and a number: no program has such a name."""
_PROCESS_FIRST = re.compile(r"\[\d{1,18}\]:", re.ASCII)
_LEVELS = "EMERG|ALERT|CRIT|CRITICAL|FATAL|ERR|ERROR|WARN|WARNING|NOTICE|INFO|DEBUG|TRACE"
"""Stand after the time in the logs of applications; no host has such a name."""
_LEVEL = re.compile(_LEVELS)
_NO_HOST = rf"(?=[A-Z]{{1,8}}[ +-])(?:(?:{'|'.join(ZONES)})[ +-]|(?:{_LEVELS}) )"
_PLAIN_HOST = rf"(?!{_NO_HOST})(?:[^ \n\[@]++|[^ \n\[/]++)(?<!:)"
_PLAIN_TAG = r"(?![%@\d]|(?:CEF|LEEF)\b)[^ :\[\n]+"
PLAIN_NAMES = f"({_PLAIN_HOST}) ({_PLAIN_TAG})"
"""Host and tag that need no second look: neither zone, level, chain of hosts, mnemonic, number nor another format.
For expressions over whole chunks; what they leave alone is for `parse_any`."""
_LEADING = re.compile(rf"[ {BOM}]+(?=<\d)|{BOM_LATIN_1}(?=<\d)", re.ASCII)
_KEY_VALUE = re.compile(r"date=(?P<date>\d{4}-\d\d-\d\d) time=(?P<clock>\d\d:\d\d:\d\d)", re.ASCII)
_DEVICE_NAME = re.compile(r' devname="?([^" ]{1,255})')
_DEVICE_ZONE = re.compile(r' tz="?([+-]\d\d:?\d\d)', re.ASCII)


def parse_rfc3164(line: bytes) -> Syslog:
    """Return the parts of a message in the BSD form or in one of those that are sent in its place.

    Without a host (OpenBSD), without a process, with an ISO time (rsyslog), with a year or a zone, the headers of
    network devices and FortiOS' keys are all understood. What stands after the header is the message.

    Args:
        line: one message without framing; bytes that are not UTF-8 are read as Latin-1.

    Raises:
        WireError: there is neither priority nor time nor tag.

    Source: RFC 3164 section 4.
    """
    text = _without_leading(decode(line))
    pri = _PRI.match(text)
    offset = pri.end() if pri else 0
    priority = int(pri[1]) if pri else None
    device = device_header(text, offset)
    if device is not None:
        return Syslog(
            format="cisco",
            priority=priority,
            timestamp=device.timestamp,
            hostname=device.hostname,
            appname=device.tag,
            procid=device.procid,
            message=text[device.end :],
            message_counter=device.counter,
            event_code=device.code,
        )
    begin = offset + text.startswith(" ", offset) if pri else offset
    stamp = stamp_at(text, begin)
    if stamp is None or text[stamp.end : stamp.end + 1] not in {"", " ", ":", "\n"}:
        return _key_value(text, offset, priority) or _without_time(text, offset, priority)
    host, rest = _host(text[stamp.end :].removeprefix(":").removeprefix(" "))
    return _tagged(rest, Syslog(format="rfc3164", priority=priority, timestamp=stamp.text, hostname=host))


def _without_leading(text: str) -> str:
    leading = _LEADING.match(text)
    return text[leading.end() :] if leading else text


def _key_value(text: str, offset: int, priority: int | None) -> Syslog | None:
    """Read FortiOS' form, which is all message: ``date=... time=... devname=... tz=...``."""
    found = _KEY_VALUE.match(text, offset)
    if found is None:
        return None
    name, zone = _DEVICE_NAME.search(text, found.end()), _DEVICE_ZONE.search(text, found.end())
    return Syslog(
        format="rfc3164" if priority is not None else "unknown",
        priority=priority,
        timestamp=f"{found['date']}T{found['clock']}{zone[1] if zone else ''}",
        hostname=name[1] if name else None,
        message=text[offset:],
    )


def cisco_severity(tag: bytes) -> bytes:
    """Return the severity digit of a mnemonic such as ``%FACILITY-SEVERITY-CODE``, or b"" where the tag is none."""
    return severity_of(tag)


def _host(rest: str) -> tuple[str | None, str]:
    first, space, after = rest.partition(" ")
    if not space or not first or first.endswith(":") or "[" in first or "\n" in first or _LEVEL.fullmatch(first):
        return None, rest
    if _NO_TAG.match(rest) or _PROCESS_FIRST.match(after):
        return None, rest
    return _last_of_chain(first), after


def _last_of_chain(host: str) -> str:
    """Return the last host of syslog-ng's ``source@first/next/last``, or the host itself."""
    return (host.rpartition("/")[2] if "@" in host else "") or host


def _tagged(rest: str, header: Syslog) -> Syslog:
    tag = None if _NO_TAG.match(rest) else next((found for form in _TAGS if (found := form.match(rest))), None)
    if tag is None:
        return msgspec.structs.replace(header, message=rest)
    procid = tag["procid"] or None
    return msgspec.structs.replace(header, appname=tag["tag"], procid=procid, message=rest[tag.end() :])


def _without_time(text: str, offset: int, priority: int | None) -> Syslog:
    tagged = _tagged(text[offset:], Syslog(format="rfc3164" if priority is not None else "unknown", priority=priority))
    if priority is None and tagged.procid is None:
        raise WireError("rfc3164", f"{text[:32]!r} has neither priority, time nor tag", 0)
    return tagged


# --- anything ------------------------------------------------------------------------------------------------------


def decode(line: bytes) -> str:
    """Return a line as text: UTF-8, or else Latin-1, which every byte is."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return line.decode("latin-1")


def parse_any(line: bytes) -> Syslog:
    """Return what can be found in a line, whatever it is; a line with no structure at all is its own message.

    Args:
        line: one message without framing.
    """
    text = _without_leading(decode(line))
    if _VERSIONED.match(text):
        best, mistake, offset = _rfc5424(text, strict=False)
        if not mistake:
            return best
        if offset == len(text) or text[offset - 1] in " ]" or best.structured_data is not None:
            return msgspec.structs.replace(best, message=without_bom(text[offset:]))
    try:
        return parse_rfc3164(line)
    except WireError:
        return Syslog(format="unknown", message=text)
