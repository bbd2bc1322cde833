"""Files of raw payloads become drafts: captures, single datagrams, lines; packed with gzip or not.

What may live here: reading, finding out what a file holds, and counting what could not be read.
"""

from __future__ import annotations

import gzip
import io
import struct
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import BinaryIO, NamedTuple, cast

import numpy as np

from eddy_mesh.agent import Draft
from eddy_mesh.cli.cook_types import RawType, capture_source
from eddy_mesh.columns import Bytes, Column, Constant, Numbers, pack
from eddy_mesh.errors import WireError

READ_BYTES = 1024 * 1024
MAX_LINE_BYTES = 1024 * 1024
"""Longest line that is taken whole, as the sources have it."""
MAX_DATAGRAM_BYTES = 65_535
STDIN = "-"
ALL_PORTS = range(65_536)
IPFIX_TYPE = "netflow"
"""Raw type whose files hold IPFIX messages end to end (RFC 5655) where they are named so; else one datagram."""
IPFIX_SUFFIX = ".ipfix"
_IPFIX = struct.Struct(">HH")
_IPFIX_VERSION = 10
_IPFIX_HEADER_BYTES = 16
_GZIP = b"\x1f\x8b"
_CAPTURES = (b"\xd4\xc3\xb2\xa1", b"\xa1\xb2\xc3\xd4", b"\x4d\x3c\xb2\xa1", b"\xa1\xb2\x3c\x4d", b"\n\r\r\n")
"""How pcap and pcapng files begin."""


class Complaint(NamedTuple):
    """What was not taken for one reason: how much, and what was wrong with the first."""

    events: int
    where: str
    detail: str


class Complaints(dict[str, Complaint]):
    """Complaints by reason."""

    def add(self, reason: str, count: int, where: str, detail: str) -> None:
        """Count what was not taken; place and detail of the first are kept."""
        before = self.get(reason, Complaint(0, where, detail))
        self[reason] = before._replace(events=before.events + count)


class InputFiles:
    """The files of one call, read in the order in which they were given.

    Args:
        raw: what they hold.
        ports: UDP destination ports whose datagrams are wanted of captures; none stands for the usual ones of the type.
        complaints: where it is counted what could not be read.

    Attributes:
        remarks: what a user should know and that is no complaint.
    """

    def __init__(self, raw: RawType, ports: tuple[int, ...], complaints: Complaints) -> None:
        self.remarks: list[str] = []
        self._raw = raw
        self._complaints = complaints
        self._source = capture_source()
        self._ports = ports

    def drafts(self, name: str) -> Iterator[Draft]:
        """Yield the raw events of one file.

        Args:
            name: its path, or ``-`` for standard input.
        """
        try:
            with _opened(name) as file:
                if file.peek(4)[:4] in _CAPTURES:
                    yield from self._capture(file, name)
                elif self._raw.kind == self._source.OUTPUT:
                    self._complaints.add("no_capture", 1, _shown(name), "it begins as neither pcap nor pcapng does")
                elif self._raw.is_lines:
                    yield from self._lines(file, name)
                elif self._raw.kind.type == IPFIX_TYPE and name.endswith(IPFIX_SUFFIX):
                    yield from self._messages(file, name)
                else:
                    yield from self._datagram(file, name)
        except WireError as error:
            self._complaints.add("damaged_capture", 1, _shown(name), str(error))
        except (OSError, EOFError, zlib.error) as error:
            self._complaints.add("unreadable", 1, _shown(name), str(error))

    # --- captures --------------------------------------------------------------------------------------------------

    def _capture(self, file: io.BufferedReader, name: str) -> Iterator[Draft]:
        usual = self._source.Config().unwrap_udp_ports
        wanted = self._raw.kind.type
        if self._raw.kind == self._source.OUTPUT:
            yield from self._captured(file, name, None)
        elif wanted not in usual:
            detail = f"it is a capture, and {wanted} does not travel in UDP datagrams; cook it as packet"
            self._complaints.add("capture", 1, _shown(name), detail)
        elif self._ports:
            yield from self._captured(file, name, dict.fromkeys(self._ports, wanted))
        else:
            yield from self._on_usual_ports(file, name, dict.fromkeys(usual[wanted], wanted))

    def _on_usual_ports(self, file: io.BufferedReader, name: str, usual: Mapping[int, str]) -> Iterator[Draft]:
        """Yield the datagrams to the usual ports, or where there are none, every datagram."""
        with tempfile.TemporaryFile() as copy:
            again: BinaryIO = cast("BinaryIO", file)
            if not file.seekable():
                while data := file.read(READ_BYTES):
                    copy.write(data)
                copy.seek(0)
                again = cast("BinaryIO", copy)
            found = False
            before = Complaints(self._complaints)
            try:
                for draft in self._captured(again, name, usual):
                    found = True
                    yield draft
            except WireError:
                if found:
                    raise
            if found:
                return
            self._complaints.clear()
            self._complaints.update(before)  # the second reading counts the same once more
            shown = ", ".join(map(str, usual))
            self.remarks.append(f"{_shown(name)}: no datagrams to port {shown}; took those to every port, see --port")
            again.seek(0)
            yield from self._captured(again, name, dict.fromkeys(ALL_PORTS, self._raw.kind.type))

    def _captured(
        self, file: BinaryIO | io.BufferedReader, name: str, ports: Mapping[int, str] | None
    ) -> Iterator[Draft]:
        lost: Counter[str] = Counter()
        pieces = iter(lambda: file.read(READ_BYTES), b"")
        try:
            yield from self._source.drafts_of_capture(pieces, _shown(name), ports, lost)
        finally:
            for reason, count in lost.items():
                self._complaints.add(reason, count, _shown(name), "IP fragments that could not be put together")

    # --- payloads --------------------------------------------------------------------------------------------------

    def _datagram(self, file: io.BufferedReader, name: str) -> Iterator[Draft]:
        payload = file.read(MAX_DATAGRAM_BYTES + 1)
        if len(payload) > MAX_DATAGRAM_BYTES:
            detail = f"more than {MAX_DATAGRAM_BYTES} octets, so it is no datagram: give a file for each, or a capture"
            self._complaints.add("too_long", 1, _shown(name), detail)
            return
        yield self._draft([payload], name)

    def _messages(self, file: io.BufferedReader, name: str) -> Iterator[Draft]:
        """Yield the IPFIX messages of a file, which lie end to end. Source: RFC 5655 section 7."""
        held, offset = b"", 0
        while data := file.read(READ_BYTES):
            held += data
            starts, end = _message_starts(held)
            yield from self._message_draft(held[:end], starts, offset, name)
            held, offset = held[end:], offset + end
            if _message_length(held) == 0:  # zeros are padding
                detail = f"no IPFIX message begins at offset {offset}: give other datagrams in files of their own"
                if any(held):
                    self._complaints.add("no_message", 1, _shown(name), detail)
                return
        if held:  # cut: the cooking takes what is whole of it, and counts the rest
            yield from self._message_draft(held, [0], offset, name)

    def _message_draft(self, data: bytes, starts: list[int], offset: int, name: str) -> Iterator[Draft]:
        if starts:
            payloads = [data[start:end] for start, end in pairwise([*starts, len(data)])]
            places = np.array(starts, np.uint64) + np.uint64(offset)
            yield self._draft(payloads, name, {"log.offset": Numbers(places)})

    def _lines(self, file: io.BufferedReader, name: str) -> Iterator[Draft]:
        offset = 0
        for portion in _portions(file):
            lines = portion.split(b"\n")
            starts = np.zeros(len(lines), np.uint64)
            np.cumsum([len(line) + 1 for line in lines[:-1]], out=starts[1:])
            long = sum(len(line) > MAX_LINE_BYTES for line in lines)
            if long:
                detail = f"lines of more than {MAX_LINE_BYTES} octets; the beginning was taken"
                self._complaints.add("line_too_long", long, _shown(name), detail)
            kept = [row for row, line in enumerate(lines) if line.strip()]
            if kept:
                payloads = [lines[row][:MAX_LINE_BYTES].removesuffix(b"\r") for row in kept]
                yield self._draft(payloads, name, {"log.offset": Numbers(starts[kept] + np.uint64(offset))})
            offset += len(portion) + 1

    def _draft(self, payloads: list[bytes], name: str, more: Mapping[str, Column] | None = None) -> Draft:
        count = len(payloads)
        columns: dict[str, Column] = {
            "event.original": Bytes(*pack(payloads)),
            "raw.media_type": Constant(self._raw.media_type, count),
        }
        if name != STDIN:
            columns |= {"log.file.path": Constant(name, count)} | dict(more or {})
        return Draft(self._raw.kind, count, columns)


@contextmanager
def _opened(name: str) -> Iterator[io.BufferedReader]:
    """Open a file, unpacked where it is packed."""
    with ExitStack() as stack:
        if name == STDIN:
            unbuffered = getattr(sys.stdin.buffer, "raw", sys.stdin.buffer)  # else a short read waits for a full buffer
            file: io.BufferedReader = io.BufferedReader(cast("io.RawIOBase", unbuffered), READ_BYTES)
            stack.callback(file.detach)  # standard input stays open
        else:
            file = io.BufferedReader(stack.enter_context(io.FileIO(name)), READ_BYTES)
        if file.peek(2)[:2] == _GZIP:
            unpacked = stack.enter_context(gzip.GzipFile(fileobj=file))
            file = stack.enter_context(io.BufferedReader(cast("io.RawIOBase", unpacked), READ_BYTES))
        yield file


def _portions(file: io.BufferedReader) -> Iterator[bytes]:
    """Yield whole lines as soon as they can be read, the last line end left out."""
    held: list[bytes] = []
    while data := file.read1(READ_BYTES):
        body, end, rest = data.rpartition(b"\n")
        if end:
            yield b"".join([*held, body])
            held = []
        held.append(rest)
    if any(held):
        yield b"".join(held)


def _message_length(data: bytes | memoryview) -> int:
    """Octets of the IPFIX message that ``data`` begins with, 0 where it does not; -1 where it is too short to tell."""
    if len(data) < _IPFIX.size:
        return -1
    version, length = _IPFIX.unpack_from(data)
    return length if version == _IPFIX_VERSION and length >= _IPFIX_HEADER_BYTES else 0


def _message_starts(data: bytes) -> tuple[list[int], int]:
    """Where each whole message begins, and where the last one ends."""
    starts, start = [], 0
    view = memoryview(data)
    while 0 < (length := _message_length(view[start : start + _IPFIX.size])) <= len(data) - start:
        starts.append(start)
        start += length
    return starts, start


def _shown(name: str) -> str:
    return "standard input" if name == STDIN else name
