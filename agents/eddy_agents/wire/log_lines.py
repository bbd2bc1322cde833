"""A batch of raw log lines → the columns of cooked events, one for each line.

What may live here: the order of the steps that the syslog and file cookings share. Lines that no chunk expression
takes are read one by one; a line is never refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import tzinfo
from functools import cache

import msgspec
import numpy as np
import numpy.typing as npt

from eddy_agents.wire.log_annotate import Annotator, name_protocols, split_addresses
from eddy_agents.wire.log_chunk import Chunk, Repair
from eddy_agents.wire.log_columns import FieldSet
from eddy_agents.wire.log_formats import LineFormat, flat_elements, put_values
from eddy_agents.wire.log_rows import carried_columns, payload_bytes
from eddy_agents.wire.log_spans import Offsets
from eddy_agents.wire.syslog import FACILITY_NAMES, Syslog, cisco_severity, parse_any
from eddy_agents.wire.syslog_time import UNREADABLE, Clock
from eddy_mesh.agent import Draft
from eddy_mesh.batch import Batch, Kind
from eddy_mesh.cer import Value
from eddy_mesh.columns import Bytes, Column, Constant, Maps, Numbers, Text, pack

_LINE_ENDS = b"\r\n\0"
ANY_LINE = re.compile(b"")
HEADED_LINE = re.compile(rb"<\d{1,3}>|[A-Z][a-z]{2} [ \d]?\d \d\d:\d\d:\d\d ")
"""A line that begins like syslog."""
_PARTS = {
    "syslog.format": "format",
    "log.syslog.priority": "priority",
    "log.syslog.version": "version",
    "log.syslog.hostname": "hostname",
    "log.syslog.appname": "appname",
    "log.syslog.procid": "procid",
    "log.syslog.msgid": "msgid",
    "syslog.message_counter": "message_counter",
    "event.code": "event_code",
}
"""Field → attribute of `Syslog`."""


class LineCooking:
    """Cooks batches of raw lines.

    Args:
        zone: zone of times that do not say theirs.
        formats: forms to try on a whole chunk.
        syslog: which of the lines that are left are read as syslog; any other is its own message.
        host_from: raw columns that name the host of a line that does not, best first.
    """

    def __init__(
        self, zone: tzinfo, formats: Sequence[LineFormat], *, syslog: re.Pattern[bytes], host_from: Sequence[str]
    ) -> None:
        self._clock = Clock(zone)
        self._annotator = Annotator()
        self._formats = formats
        self._syslog = syslog
        self._host_from = host_from

    def cook(self, batch: Batch, kind: Kind, now_ns: int) -> Draft:
        """Return one cooked event for each raw one, in order.

        Args:
            batch: raw events.
            kind: of the cooked events.
            now_ns: ns since 1970 UTC; stands for ``observed`` where a batch does not have it.
        """
        text, begins, ends, recoded = payload_lines(batch)
        chunk = Chunk(text, begins, ends, _observed(batch, now_ns))
        if recoded:
            chunk.repair(np.array(recoded, np.intp), Repair.CHARSET)
        rest = [row for row in self._take(chunk).tolist() if self._syslog.match(chunk.line(row))]
        if rest:
            self._one_by_one(chunk, np.array(rest))
        _derive(chunk.fields)
        self._supply_host(chunk, batch)
        unreadable = chunk.occurred == UNREADABLE
        if unreadable.any():
            chunk.occurred = np.where(unreadable, chunk.observed, chunk.occurred)
            chunk.repairs[unreadable] &= ~np.uint8(Repair.YEAR | Repair.TIMEZONE)
            chunk.repair(np.flatnonzero(unreadable), Repair.TIMESTAMP)
        messages = chunk.messages()
        self._annotator.annotate(chunk.fields, chunk.fields.codes("log.syslog.appname"), messages)
        split_addresses(chunk.fields)
        name_protocols(chunk.fields)
        return Draft(kind, batch.count, _columns(chunk, messages, batch))

    def _take(self, chunk: Chunk) -> npt.NDArray[np.intp]:
        """Run the chunk expressions, the one that fits the first line first; return the rows that none takes."""
        rows = np.arange(chunk.count)
        several = rows[:0]
        if b"\n" in chunk.text:
            whole = np.fromiter((b"\n" not in line for line in chunk.lines(rows)), np.bool_, len(rows))
            several, rows = rows[~whole], rows[whole]
        if len(rows):
            first = chunk.line(int(rows[0])) + b"\n"
            for form in sorted(self._formats, key=lambda form: not _fits(form, first)):
                rows = form.take(chunk, rows, self._clock)
        return np.sort(np.concatenate([rows, several]))

    def _one_by_one(self, chunk: Chunk, rows: npt.NDArray[np.intp]) -> None:
        parsed = [parse_any(chunk.line(row)) for row in rows.tolist()]
        for name, attribute in _PARTS.items():
            values = [getattr(parts, attribute) for parts in parsed]
            if any(value is not None for value in values):
                chunk.fields.put(name, rows, [b"" if value is None else str(value).encode() for value in values])
        chunk.put_messages(rows, [(parts.message or "").encode() for parts in parsed])
        for row, parts in zip(rows.tolist(), parsed, strict=True):
            self._time(chunk, row, parts)
            for name, value in flat_elements(parts.structured_data or {}).items():
                put_values(chunk.fields, name, [(row, value)])

    def _time(self, chunk: Chunk, row: int, parts: Syslog) -> None:
        if parts.timestamp is None:
            return
        when, year_supplied, zone_supplied = self._clock.one(parts.timestamp.encode(), int(chunk.observed[row]))
        chunk.occurred[row] = when
        chunk.repairs[row] |= np.uint8(year_supplied * Repair.YEAR | zone_supplied * Repair.TIMEZONE)
        if when == UNREADABLE:
            chunk.fields.put_row(row, {"syslog.timestamp": parts.timestamp})

    def _supply_host(self, chunk: Chunk, batch: Batch) -> None:
        host = chunk.fields.codes("host")
        if host.same_in_all() is not None:
            return
        rows = np.flatnonzero(host.missing())
        chunk.repair(rows, Repair.HOST)
        for name in self._host_from:
            column = batch.columns.get(name)
            if not len(rows) or column is None:
                continue
            if isinstance(column, Constant):
                host.put_same(rows, _text(column.value))
            else:
                host.put(rows, [_text(column.at(row)) for row in rows.tolist()])
            rows = np.flatnonzero(host.missing())


def _fits(form: LineFormat, line: bytes) -> bool:
    found = form.expression.match(line)
    return found is not None and found.group(form.marker + 1) is not None


def _text(value: Value) -> bytes:
    return b"" if value is None else str(value).encode("utf-8", "replace")


def payload_lines(batch: Batch) -> tuple[bytes, Offsets, Offsets, list[int]]:
    """Return the payloads as UTF-8 lines.

    Args:
        batch: raw events.

    Returns:
        All lines; where each begins and ends, without its line end; and the rows that were Latin-1.
    """
    column = batch.column("event.original")
    if isinstance(column, Bytes):
        offsets = column.offsets.astype(np.int64) - int(column.offsets[0])
        text = bytes(memoryview(column.data)[int(column.offsets[0]) : int(column.offsets[-1])])
        if not any(end in text for end in _LINE_ENDS) and _are_utf8(text, offsets[:-1]):
            return text, offsets[:-1], offsets[1:], []
    lines = [line.rstrip(_LINE_ENDS) for line in payload_bytes(batch)]
    recoded = _recode(lines)
    packed, text = pack(lines)
    offsets = packed.astype(np.int64)
    return text, offsets[:-1], offsets[1:], recoded


def _are_utf8(text: bytes, begins: Offsets) -> bool:
    """Return whether each line is UTF-8: all are, end to end, and none begins within a character."""
    if text.isascii():
        return True
    firsts = np.frombuffer(text + b"\0", np.uint8)[begins]
    return _is_utf8(text) and not bool(((firsts & 0xC0) == 0x80).any())


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _recode(lines: list[bytes]) -> list[int]:
    recoded = [row for row, line in enumerate(lines) if not _is_utf8(line)]
    for row in recoded:
        lines[row] = lines[row].decode("latin-1").encode("utf-8")
    return recoded


def _observed(batch: Batch, now_ns: int) -> npt.NDArray[np.int64]:
    column = batch.columns.get("observed")
    if isinstance(column, Numbers) and column.nulls is None:
        return column.values.astype(np.int64)
    if isinstance(column, Constant) and isinstance(column.value, int):
        return np.full(batch.count, column.value, np.int64)
    return np.full(batch.count, now_ns, np.int64)


def _derive(fields: FieldSet) -> None:
    priority = "log.syslog.priority"
    fields.derive("log.syslog.appname", "level", cisco_severity)
    fields.derive(priority, "level", lambda text: b"%d" % (int(text) & 7))
    fields.derive(priority, "log.syslog.severity.code", lambda text: b"%d" % (int(text) & 7))
    fields.derive(priority, "log.syslog.facility.code", lambda text: b"%d" % (int(text) >> 3))
    fields.derive(priority, "log.syslog.facility.name", lambda text: FACILITY_NAMES[int(text) >> 3].encode())
    fields.copy("log.syslog.hostname", "host")
    fields.copy("log.syslog.procid", "process.pid")
    fields.derive("log.syslog.appname", "process.name", process_name)


def process_name(tag: bytes) -> bytes:
    """Return the program in a tag: without its folder, version and ``(pam_unix)``; b"" for Cisco's mnemonics."""
    if tag.startswith(b"%"):
        return b""
    name = tag.removeprefix(b"-- ").partition(b" ")[0].removesuffix(b"(pam_unix)")
    return name.rpartition(b"/")[2] if name.startswith(b"/") else name


def _columns(chunk: Chunk, messages: Text, batch: Batch) -> dict[str, Column]:
    columns: dict[str, Column] = {
        **carried_columns(batch),
        "occurred": Numbers(chunk.occurred),
        **chunk.fields.columns(),
        "message": messages,
    }
    repairs = _repair_column(chunk.repairs)
    if repairs is not None:
        columns["syslog.repair"] = repairs
    return columns


@cache
def _repair_names(flags: int) -> tuple[str, ...]:
    return tuple(str(part.name).lower() for part in Repair if part & flags)


def _repair_column(flags: npt.NDArray[np.uint8]) -> Column | None:
    different = np.flatnonzero(np.bincount(flags))
    names = {flag: _repair_names(flag) for flag in different.tolist()}
    if len(names) == 1:
        only = names[different[0]]
        return Constant(list(only), len(flags)) if only else None
    encoded = {flag: msgspec.msgpack.encode(held) if held else b"" for flag, held in names.items()}
    nulls = flags == 0
    return Maps(*pack([encoded[flag] for flag in flags.tolist()]), nulls if nulls.any() else None)
