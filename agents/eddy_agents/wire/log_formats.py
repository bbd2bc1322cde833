"""Forms of log lines that are read a chunk at a time: one regular expression each, run once over all lines.

What may live here: the expressions, and what their groups become. An expression takes exactly one line with its end,
whether it fits or not, so that its matches are the lines; where a line does not fit, all groups are empty.

Source: RFC 3164 section 4; RFC 5424 section 6; rsyslog's RSYSLOG_FileFormat; Apache HTTP Server, "Log Files".
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import compress
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from eddy_agents.wire.log_chunk import Chunk, Repair
from eddy_agents.wire.log_columns import FieldSet
from eddy_agents.wire.log_header import take_headers
from eddy_agents.wire.syslog import BOM, BOM_LATIN_1, MAX_PRIORITY, PLAIN_NAMES, structured_data, without_bom
from eddy_agents.wire.syslog_time import MONTHS, UNREADABLE, Clock
from eddy_mesh.cer import Value
from eddy_mesh.fields import level_number
from eddy_mesh.rows import SPARSE_SHARE

Groups: TypeAlias = Sequence[Sequence[bytes | None]]
"""For each group of an expression its text in each line; None where it took no part."""


def groups_of(expression: re.Pattern[bytes], text: bytes) -> list[list[bytes | None]]:
    """Return for each group of ``expression`` its text in each line; None where it took no part.

    Args:
        expression: takes exactly one line with its end, whether it fits or not.
        text: lines, each with its end.
    """
    # split() puts the groups of all matches, and what lies between, into one list: no object for each match.
    parts = expression.split(text)
    width = expression.groups + 1
    return [parts[group::width] for group in range(1, width)]


class LineFormat(NamedTuple):
    """One form.

    Attributes:
        expression: takes one line with its end.
        marker: offset of a group that takes part exactly where the line fits.
        fill: puts the groups of fitting lines into the chunk.
        quick: takes most lines that fit without the expression; returns the rows of the others.
        quick_from: number of lines from which on ``quick`` is faster: its cost hardly depends on it.
    """

    expression: re.Pattern[bytes]
    marker: int
    fill: Callable[[Chunk, npt.NDArray[np.intp], Groups, Clock], None]
    quick: Callable[[Chunk, npt.NDArray[np.intp], Clock], npt.NDArray[np.intp]] | None = None
    quick_from: int = 360

    def take(self, chunk: Chunk, rows: npt.NDArray[np.intp], clock: Clock) -> npt.NDArray[np.intp]:
        """Fill in the lines that fit; return the rows of those that do not.

        Args:
            chunk: gets what the lines say.
            rows: which lines to look at; none of them holds a line end.
            clock: converts times.
        """
        if self.quick is not None and len(rows) >= self.quick_from:
            rows = self.quick(chunk, rows, clock)
        if not len(rows):
            return rows
        text = b"\n".join(chunk.lines(rows)) + b"\n"
        groups = groups_of(self.expression, text)
        marker = groups[self.marker]
        if None not in marker:
            self.fill(chunk, rows, groups, clock)
            return rows[:0]
        fits = [held is not None for held in marker]
        if any(fits):
            self.fill(chunk, rows[fits], [list(compress(group, fits)) for group in groups], clock)
        return rows[np.logical_not(fits)]


def _one_line(form: str) -> re.Pattern[bytes]:
    return re.compile(f"(?:{form}|.*)\n".encode())


# --- syslog --------------------------------------------------------------------------------------------------------

_PRI = r"(?:<(\d{1,3})>)"
_TAG = PLAIN_NAMES + r"(?:\[(\d{1,18})\])?:(?: |(?=\n))(.*)"
_SECOND = r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?"


def _tag(chunk: Chunk, rows: npt.NDArray[np.intp], groups: Groups) -> None:
    host, appname, procid, message = groups
    chunk.fields.put("log.syslog.hostname", rows, host)
    chunk.fields.put("log.syslog.appname", rows, appname)
    chunk.fields.put("log.syslog.procid", rows, procid)
    chunk.put_messages(rows, message)


def _priority(chunk: Chunk, rows: npt.NDArray[np.intp], values: Sequence[bytes | None]) -> None:
    different = set(values)
    if different == {None}:
        return
    if any(value is not None and int(value) > MAX_PRIORITY for value in different):
        values = [None if value is None or int(value) > MAX_PRIORITY else value for value in values]
    chunk.fields.put("log.syslog.priority", rows, values)


def _bsd(chunk: Chunk, rows: npt.NDArray[np.intp], groups: Groups, clock: Clock) -> None:
    fields = chunk.fields
    _priority(chunk, rows, groups[0])
    chunk.occurred[rows] = clock.bsd(groups[1], int(chunk.observed[rows[0]]))
    chunk.repair(rows, Repair.YEAR | Repair.TIMEZONE)
    fields.put_same("syslog.format", rows, b"rfc3164")
    _tag(chunk, rows, groups[2:])


BSD = LineFormat(_one_line(_PRI + r"?([A-Z][a-z][a-z] [ \d]?\d \d\d:\d\d:\d\d) " + _TAG), 1, _bsd, take_headers)
"""RFC 3164 with or without priority, as in /var/log/syslog."""


def _iso(chunk: Chunk, rows: npt.NDArray[np.intp], groups: Groups, clock: Clock) -> None:
    _priority(chunk, rows, groups[0])
    chunk.occurred[rows] = clock.iso(groups[1], groups[2], groups[3])
    if None in groups[3]:
        chunk.repair(rows[[not zone for zone in groups[3]]], Repair.TIMEZONE)
    chunk.fields.put_same("syslog.format", rows, b"rfc3164")
    _tag(chunk, rows, groups[4:])


ISO = LineFormat(_one_line(_PRI + "?" + _SECOND + r"(Z|[+-]\d\d:?\d\d)? " + _TAG), 1, _iso)
"""The BSD form with an ISO time, as rsyslog and journalctl write it."""


def _rfc5424(chunk: Chunk, rows: npt.NDArray[np.intp], groups: Groups, clock: Clock) -> None:
    priority, version, second, fraction, zone, host, appname, procid, msgid, message, elements = groups
    fields = chunk.fields
    _priority(chunk, rows, priority)
    fields.put("log.syslog.version", rows, version)
    fields.put_same("syslog.format", rows, b"rfc5424")
    if any(msgid):
        fields.put("log.syslog.msgid", rows, msgid)
    chunk.occurred[rows] = clock.iso(second, fraction, zone)
    if any(elements):
        message = _structured(chunk, rows, message, elements)
    if None in message:
        message = [held or b"" for held in message]
    _tag(chunk, rows, (host, appname, procid, message))


_NIL_OR = "(?:-|([^ \n]{1,%d}+)) "
RFC5424 = LineFormat(
    _one_line(
        _PRI
        + rf"([1-9]\d{{0,2}}) (?:-|{_SECOND}(Z|[+-]\d\d:\d\d)) "
        + "".join(_NIL_OR % most for most in (255, 48, 128, 32))
        + rf"(?:-(?: (?:{BOM}|{BOM_LATIN_1})?(.*))?|(\[.*))"
    ),
    1,
    _rfc5424,
)


def _structured(
    chunk: Chunk, rows: npt.NDArray[np.intp], messages: Sequence[bytes | None], texts: Sequence[bytes | None]
) -> list[bytes | None]:
    """Put structured data into fields; return the messages, which stand after it."""
    found: defaultdict[str, list[tuple[int, Value]]] = defaultdict(list)
    result = list(messages)
    for place, (row, encoded) in enumerate(zip(rows.tolist(), texts, strict=True)):
        if encoded:
            text = encoded.decode("utf-8", "replace")
            elements, end, _ = structured_data(text)
            result[place] = without_bom(text[end:].removeprefix(" ")).encode()
            for name, value in flat_elements(elements).items():
                found[name].append((row, value))
    for name, held in found.items():
        put_values(chunk.fields, name, held)
    return result


def flat_elements(elements: dict[str, dict[str, str | list[str]]]) -> dict[str, Value]:
    """Return structured data as fields; an element without parameters is True."""
    flat: dict[str, Value] = {}
    for identity, parameters in elements.items():
        prefix = f"syslog.structured_data.{identity}"
        if not parameters:
            flat[prefix] = True
        for name, value in parameters.items():
            flat[f"{prefix}.{name}"] = list(value) if isinstance(value, list) else value
    return flat


def put_values(fields: FieldSet, name: str, held: Sequence[tuple[int, Value]]) -> None:
    """Put a field whose name a sender chose; only one that many rows have gets a column, so names cost no memory."""
    texts = [value.encode() for _, value in held if isinstance(value, str) and value]
    if len(held) >= SPARSE_SHARE * fields.count and len(texts) == len(held):
        fields.put(name, np.array([row for row, _ in held]), texts)
        return
    for row, value in held:
        fields.put_row(row, {name: value})


# --- other files ---------------------------------------------------------------------------------------------------

_CLF_TIME = r"\[(\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4})\]"
_QUOTED = r'"((?:[^"\\\n]|\\.)*+)"'


def _access(chunk: Chunk, rows: npt.NDArray[np.intp], groups: Groups, clock: Clock) -> None:
    chunk.occurred[rows] = _converted(groups[3], lambda text: _clf_ns(text, clock))
    names = ("url.domain", "source.address", "user.name", "", "http.request.method", "url.original", "http.version")
    more = ("http.response.status_code", "http.response.body.bytes", "http.request.referrer", "user_agent.original")
    for name, values in zip((*names, *more), groups, strict=True):
        if name and any(values):
            chunk.fields.put(name, rows, [None if value == b"-" else value for value in values])
    chunk.fields.put_same("event.category", rows, b"web")
    chunk.fields.put_same("event.action", rows, b"http_request")
    chunk.fields.derive("http.response.status_code", "event.outcome", _http_outcome)


ACCESS = LineFormat(
    _one_line(
        r"(?:(?=[\d.-]{0,255}[A-Za-z])([\w.-]{1,255}+)(?::\d{1,5})? )?"
        r"([0-9A-Za-z:][\w.:-]{0,255}+) [^ \n]++ (?:([^ \[\n]++) )?"
        + _CLF_TIME
        + r' "(?:([A-Z]{1,32}) ([^ "\n]*)(?: HTTP/([\d.]+))?|(?:[^"\\\n]|\\.)*+)" (\d{3}) (\d+|-)'
        + rf"(?: {_QUOTED} {_QUOTED})?.*"
    ),
    3,
    _access,
)
"""Common and combined log format of Apache and nginx, with or without a virtual host before it."""


def _http_outcome(status: bytes) -> bytes:
    return b"failure" if status >= b"400" else b"success"


def _clf_ns(text: bytes, clock: Clock) -> int:
    day, month, year = text[:11].split(b"/")
    iso = b"%s-%02d-%sT%s%s" % (year, MONTHS.get(month.lower(), 0), day, text[12:20], text[21:])
    return clock.one(iso, 0)[0]


def _error(chunk: Chunk, rows: npt.NDArray[np.intp], groups: Groups, clock: Clock) -> None:
    chunk.occurred[rows] = _converted(groups[0], lambda text: _ctime_ns(text, clock))
    chunk.repair(rows, Repair.TIMEZONE)
    chunk.fields.put("log.level", rows, groups[1])
    chunk.fields.derive("log.level", "level", _level)
    chunk.fields.put("process.pid", rows, groups[2])
    chunk.fields.put("source.address", rows, groups[3])
    chunk.fields.put("source.port", rows, groups[4])
    chunk.put_messages(rows, groups[5])


ERROR = LineFormat(
    _one_line(
        r"\[([A-Z][a-z]{2} [A-Z][a-z]{2} \d\d \d\d:\d\d:\d\d(?:\.\d{1,9})? \d{4})\] \[(?:\w*:)?([a-z]+)\d?\] "
        r"(?:\[pid (\d{1,9})[^\]\n]*\] )?(?:\[client ([^\] \n]+?)(?::(\d{1,5}))?\] )?(.*)"
    ),
    0,
    _error,
)
"""Apache's error log."""


def _ctime_ns(text: bytes, clock: Clock) -> int:
    _, month, day, time, year = text.split()
    return clock.one(b"%s %s %s %s" % (month, day, year, time), 0)[0]


def _stamped(chunk: Chunk, rows: npt.NDArray[np.intp], groups: Groups, clock: Clock) -> None:
    chunk.occurred[rows] = clock.iso(groups[0], groups[1], groups[2])
    if None in groups[2]:
        chunk.repair(rows[[not zone for zone in groups[2]]], Repair.TIMEZONE)
    if any(groups[3]):
        chunk.fields.put("log.level", rows, groups[3])
        chunk.fields.derive("log.level", "level", _level)


STAMPED = LineFormat(
    _one_line(
        r"\[?(\d{4}[-/]\d\d[-/]\d\d[ T]\d\d:\d\d:\d\d)(?:[.,](\d{1,9}))?(?: ?(Z|UTC|[+-]\d\d:?\d\d)(?![\w:]))?"
        r"(?:\]?:? \[?((?i:emerg|alert|critical|crit|error|err|warning|warn|notice|info|debug))(?!\w).*|.*)"
    ),
    0,
    _stamped,
)
"""Any line that begins with an ISO date and time: nginx's error log, dpkg, PostgreSQL, and much else."""


def _level(name: bytes) -> bytes:
    level = level_number(name.decode())
    return b"" if level is None else b"%d" % level


def _converted(texts: Sequence[bytes | None], convert: Callable[[bytes], int]) -> npt.NDArray[np.int64]:
    known = {text: UNREADABLE if text is None else convert(text) for text in dict.fromkeys(texts)}
    return np.fromiter(map(known.__getitem__, texts), np.int64, len(texts))
