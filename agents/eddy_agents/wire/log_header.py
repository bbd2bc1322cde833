"""RFC 3164 headers, found in all lines of a chunk at once: ``[<PRI>]Mmm dd hh:mm:ss host tag[pid]: ``.

What may live here: `take_headers`. It takes only what is written exactly so; the expressions of
`eddy_agents.wire.log_formats` get the rest, and would read the lines that are taken here in the same way.

Source: RFC 3164 section 4.1.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from eddy_agents.wire.log_chunk import Chunk, Repair
from eddy_agents.wire.log_columns import Codes
from eddy_agents.wire.log_spans import Data, Offsets, firsts_of, numbers_at, packed, texts_at, windows
from eddy_agents.wire.syslog import MAX_PRIORITY, PLAIN_NAMES
from eddy_agents.wire.syslog_time import Clock
from eddy_mesh.columns import Text
from eddy_mesh.rows import SPARSE_SHARE

_TIME_BYTES = 15
_SPACE, _COLON, _OPENING, _CLOSING, _LESS, _GREATER = b" :[]<>"
_MOST_PRIORITY_BYTES = 5
_MINUTE_BYTES = 12
_NAMES_BYTES = 96
"""Host and tag with its pid are looked for in so many bytes; the expressions take longer ones."""
_PRIORITIES = [b"%d" % priority for priority in range(MAX_PRIORITY + 1)]
_NAMES = re.compile(PLAIN_NAMES.encode())
"""Host and tag."""

_FORM = np.arange(256, dtype=np.uint8)
_FORM[ord("0") : ord("9") + 1] = ord("0")
_FORM[ord("A") : ord("Z") + 1] = ord("A")
_FORM[ord("a") : ord("z") + 1] = ord("a")
_TIME_FORMS = (b"Aaa 00 00:00:00 ", b"Aaa  0 00:00:00 ")


class _Headers(NamedTuple):
    """Offsets of the parts of headers, one element a line; ``pids`` and ``pid_ends`` are equal where there is none."""

    rows: npt.NDArray[np.intp]
    begins: Offsets
    times: Offsets
    hosts: Offsets
    tag_ends: Offsets
    pids: Offsets
    pid_ends: Offsets
    pid_numbers: npt.NDArray[np.int64]
    messages: Offsets

    def only(self, fits: npt.NDArray[np.bool_]) -> _Headers:
        """Return some of the headers."""
        return self if fits.all() else _Headers(*(part[fits] for part in self))


def take_headers(chunk: Chunk, rows: npt.NDArray[np.intp], clock: Clock) -> npt.NDArray[np.intp]:
    """Fill in the lines that have the header; return the rows of those that do not.

    Args:
        chunk: gets what the headers say, and the messages after them.
        rows: which lines to look at; none of them holds a line end.
        clock: converts times.
    """
    times = _time_offsets(chunk.data, chunk.begins[rows], chunk.ends[rows])
    fits = times >= 0
    if not fits.any():
        return rows
    headers = _delimited(chunk, rows[fits], times[fits])
    names = Codes(chunk.count)
    headers = _named(chunk.data, headers, names)
    if len(headers.rows):
        _fill(chunk, headers, names, clock)
    is_taken = np.zeros(chunk.count, np.bool_)
    is_taken[headers.rows] = True
    return rows[~is_taken[rows]]


def _time_offsets(data: Data, begins: Offsets, ends: Offsets) -> Offsets:
    """Return where the time of each line begins, after its priority if it has one; -1 where there is no time."""
    times = begins
    if (data[begins] == _LESS).any():
        heads = windows(data, begins, _MOST_PRIORITY_BYTES)
        is_digit = heads - np.uint8(ord("0")) < 10
        run = heads[:, 0] == _LESS
        for closing in (1, 2, 3):
            run &= is_digit[:, closing]
            times = np.where(run & (heads[:, closing + 1] == _GREATER), begins + closing + 2, times)
    forms = _FORM[windows(data, times, _TIME_BYTES + 1)].view(f"S{_TIME_BYTES + 1}").ravel()
    fits = ((forms == _TIME_FORMS[0]) | (forms == _TIME_FORMS[1])) & (times + _TIME_BYTES < ends)
    return np.where(fits, times, -1)


def _delimited(chunk: Chunk, rows: npt.NDArray[np.intp], times: Offsets) -> _Headers:
    """Return the headers that end in a colon before a space or at the end of the line."""
    data, begins, ends = chunk.data, chunk.begins[rows], chunk.ends[rows]
    hosts = times + _TIME_BYTES + 1
    heads = windows(data, hosts, _NAMES_BYTES)
    after_host, after_tag = firsts_of(heads == _SPACE, 2)
    tags = np.minimum(hosts + after_host + 1, ends)
    colons = np.minimum(hosts + after_tag, ends) - 1
    opening = hosts + firsts_of(heads == _OPENING, 1)[0]
    is_seen = (opening >= tags) & ((after_tag < _NAMES_BYTES) | (hosts + _NAMES_BYTES >= ends))
    has_pid = opening < colons
    tag_ends = np.where(has_pid, opening, colons)
    pids, pid_ends = np.where(has_pid, opening + 1, colons), np.where(has_pid, colons - 1, colons)
    numbers, is_number = numbers_at(data, pids, pid_ends)
    fits = is_seen & (tags < ends) & (data[colons] == _COLON)
    fits &= ~has_pid | ((data[pid_ends] == _CLOSING) & is_number)
    messages = np.minimum(colons + 2, ends)
    return _Headers(rows, begins, times, hosts, tag_ends, pids, pid_ends, numbers, messages).only(fits)


def _named(data: Data, headers: _Headers, names: Codes) -> _Headers:
    """Code host and tag together: pairs repeat nearly as often as each; return the headers in which they are such."""
    names.put(headers.rows, texts_at(data, headers.hosts, headers.tag_ends))
    fits = np.array([_NAMES.fullmatch(text) is not None for text in names.texts()], np.bool_)
    if fits.all():
        return headers
    are_names = fits[names.codes[headers.rows]]
    names.codes[headers.rows[~are_names]] = -1
    return headers.only(are_names)


def _fill(chunk: Chunk, headers: _Headers, names: Codes, clock: Clock) -> None:
    fields, rows = chunk.fields, headers.rows
    chunk.occurred[rows] = _times(chunk.data, headers.times, clock, int(chunk.observed[rows[0]]))
    chunk.repair(rows, Repair.YEAR | Repair.TIMEZONE)
    chunk.put_messages_from(rows, headers.messages)
    fields.put_same("syslog.format", rows, b"rfc3164")
    if (headers.times > headers.begins).any():
        numbers, has_number = numbers_at(chunk.data, headers.begins + 1, headers.times - 1)
        has_number &= numbers <= MAX_PRIORITY
        fields.put_coded("log.syslog.priority", rows[has_number], _PRIORITIES, numbers[has_number])
    fields.put_derived("log.syslog.hostname", names, lambda text: text.partition(b" ")[0])
    fields.put_derived("log.syslog.appname", names, lambda text: text.partition(b" ")[2])
    _put_pids(chunk, headers)


def _times(data: Data, begins: Offsets, clock: Clock, observed_ns: int) -> npt.NDArray[np.int64]:
    minutes = windows(data, begins, _MINUTE_BYTES).view("S4").reshape(-1, _MINUTE_BYTES // 4)
    is_new = np.ones(len(begins), np.bool_)
    is_new[1:] = (minutes[1:] != minutes[:-1]).any(axis=1)
    firsts = begins[is_new]
    texts = texts_at(data, firsts, firsts + _MINUTE_BYTES)
    digits = windows(data, begins + _MINUTE_BYTES + 1, 2) - np.uint8(ord("0"))
    seconds = (digits @ np.array([10, 1], np.uint8)).astype(np.int64)
    return clock.bsd_seconds(texts, np.cumsum(is_new) - 1, seconds, observed_ns)


def _put_pids(chunk: Chunk, headers: _Headers) -> None:
    fields, rows = chunk.fields, headers.rows
    has_pid = headers.pid_ends > headers.pids
    is_rare = np.count_nonzero(has_pid) < SPARSE_SHARE * chunk.count
    if is_rare or fields.has("log.syslog.procid"):
        fields.put("log.syslog.procid", rows, texts_at(chunk.data, headers.pids, headers.pid_ends))
        return
    begins, ends = chunk.ends.copy(), chunk.ends.copy()
    begins[rows], ends[rows] = headers.pids, headers.pid_ends
    offsets, text = packed(chunk.data, begins, ends)
    missing = begins == ends
    fields.put_text("log.syslog.procid", Text(offsets, text.tobytes(), missing if missing.any() else None))
    fields.put_numbers("process.pid", rows[has_pid], headers.pid_numbers[has_pid])
