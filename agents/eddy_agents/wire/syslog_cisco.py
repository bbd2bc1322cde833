"""Headers of network devices: everything up to a mnemonic such as ``%LINK-3-UPDOWN:`` or ``%%01SHELL/5/CMDRECORD:``.

What may live here: `device_header`, which cuts such a header in steps (counter, host, node, sequence number, time,
process), because every family of devices and every relay leaves out, adds or reorders some.

Source: Cisco IOS, IOS XR, NX-OS and ASA "System Message Logging"; Huawei VRP "Log Format".
"""

from __future__ import annotations

import re

import msgspec

from eddy_agents.wire.syslog_stamps import stamp_at

_MOST_STEPS = 10
_FARTHEST_MNEMONIC = 512
_MNEMONIC = re.compile(r"(?P<tag>%\w[\w-]{0,127}?-[0-7]-(?P<code>\w{1,64})) ?: ?", re.ASCII)
_HUAWEI = re.compile(
    r"(?P<tag>%%\d\d\w{1,64}/[0-7]/(?P<code>\w{1,64}))(?:\(\w{1,8}\))?(?:\[(?P<sequence>\d{1,18})\])?[:;] ?", re.ASCII
)
_SEVERITY = re.compile(rb"%\w[\w-]{0,127}?-([0-7])-\w{1,64}|%%\d\d\w{1,64}/([0-7])/\w{1,64}", re.ASCII)
_COUNTER = re.compile(r"(\d{1,18}): ", re.ASCII)
_UPTIME = re.compile(r"(?:\d{1,4}:\d\d:\d\d|\d[\dywdh]{1,11}): ", re.ASCII)
"""``00:00:12``, ``1w2d``, ``3d04h``: since the device started, which is no time of day."""
_NODE = re.compile(r"(?:RP|LC|SP|\d{1,4})/[\w/]{1,40}:", re.ASCII)
"""Part of a chassis that runs IOS XR."""
_PROCESS = re.compile(r"[\w-]{1,64}\[(\d{1,18})\] ?: ?", re.ASCII)
_ADDRESS = r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}|(?=[0-9A-Fa-f.]{0,4}:)[0-9A-Fa-f:.]{2,45}(?<=[0-9A-Fa-f:])"
_ADDRESS_COLON = re.compile(rf"({_ADDRESS}) ?: ", re.ASCII)
_NAME_COLON = re.compile(r"((?=[\d.-]{0,255}[A-Za-z])[\w.-]{1,255}+) ?: ", re.ASCII)
_HOST_SPACE = re.compile(r"([\w.:-]{1,255}+(?<!:)) ", re.ASCII)
_AFTER_TIME = re.compile(r"(?: :|:)? ?")


class DeviceHeader(msgspec.Struct, kw_only=True):
    """What a header says; None where it does not say it.

    Attributes:
        end: offset after the header, where the message begins.
        tag: mnemonic with facility and severity.
        code: last part of the mnemonic.
        timestamp: of the device if its clock is set, else of the relay; see `eddy_agents.wire.syslog_stamps`.
        hostname: of the device, else of the relay.
        procid: process id (IOS XR).
        counter: message counter or sequence number, whichever comes first.
    """

    end: int
    tag: str = ""
    code: str = ""
    timestamp: str | None = None
    hostname: str | None = None
    procid: str | None = None
    counter: int | None = None


def device_header(text: str, offset: int) -> DeviceHeader | None:
    """Return the header that begins at an offset, or None where no mnemonic ends it.

    Args:
        text: one message.
        offset: after the priority.
    """
    if text.find("%", offset, offset + _FARTHEST_MNEMONIC) < 0:
        return None
    header = DeviceHeader(end=offset)
    if text.startswith(":", offset):
        header.end += 2 if text.startswith(": ", offset) else 1
    for _ in range(_MOST_STEPS):
        if text.startswith("%", header.end):
            return header if _mnemonic(text, header) else None
        if not (_counter(text, header) or _time(text, header) or _place(text, header) or _host(text, header)):
            return None
    return None


def severity_of(tag: bytes) -> bytes:
    """Return the severity digit of a mnemonic as in `DeviceHeader.tag`, or b"" where the tag is none."""
    found = _SEVERITY.fullmatch(tag)
    return (found[1] or found[2]) if found else b""


def _mnemonic(text: str, header: DeviceHeader) -> bool:
    found = _MNEMONIC.match(text, header.end) or _HUAWEI.match(text, header.end)
    if found is None:
        return False
    header.tag, header.code, header.end = found["tag"], found["code"], found.end()
    sequence = found.groupdict().get("sequence")
    if header.counter is None and sequence:
        header.counter = int(sequence)
    return True


def _counter(text: str, header: DeviceHeader) -> bool:
    found = _COUNTER.match(text, header.end)
    if found is None:
        return False
    header.counter = int(found[1]) if header.counter is None else header.counter
    header.end = found.end()
    return True


def _time(text: str, header: DeviceHeader) -> bool:
    begin = header.end
    mark = text[begin : begin + 1] in {"*", "."}
    stamp = stamp_at(text, begin + mark)
    if stamp is None:
        uptime = _UPTIME.match(text, begin + mark)
        header.end = begin if uptime is None else uptime.end()
        return uptime is not None
    after = _AFTER_TIME.match(text, stamp.end)
    header.end = stamp.end if after is None else after.end()
    if header.timestamp is None or text[begin] != "*":  # * says that the device's clock was never set
        header.timestamp = stamp.text
    return True


def _place(text: str, header: DeviceHeader) -> bool:
    node = _NODE.match(text, header.end)
    if node is not None:
        header.end = node.end()
        return True
    process = _PROCESS.match(text, header.end)
    if process is None or not text.startswith("%", process.end()):
        return False
    header.procid, header.end = process[1], process.end()
    return True


def _host(text: str, header: DeviceHeader) -> bool:
    """Take a host: an address may follow a relay's name, but a second name would be a program."""
    found = _ADDRESS_COLON.match(text, header.end)
    if found is None and header.hostname is None:
        found = _NAME_COLON.match(text, header.end) or _HOST_SPACE.match(text, header.end)
        is_bare = found is not None and text[found.end() - 2] != ":"
        if found is not None and is_bare and header.timestamp is None:
            found = found if text.startswith("%", found.end()) or _NODE.match(text, found.end()) else None
    if found is None:
        return False
    header.hostname, header.end = found[1], found.end()
    return True
