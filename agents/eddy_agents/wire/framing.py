"""Lines and frames of a byte stream, found a chunk at a time and handed on as one column.

What may live here: newline framing with CRLF and NUL tolerance, octet counting, and telling the two apart. Both
are pure: bytes in, `Frames` out. An empty frame is no event: it has no payload, and only separates.

Source: RFC 6587 section 3.4 (octet counting 3.4.1, trailers 3.4.2); RFC 5425 section 4.3.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from eddy_mesh.columns import Bytes

MAX_FRAME_BYTES = 1024 * 1024
"""Default for the longest frame that is kept whole; RFC 5425 asks for 8 KiB at least."""

_LF = 10
_CR = 13
_NUL_TO_LF = bytes.maketrans(b"\0", b"\n")
_LINE_ENDS = rb"(?:\r?[\n\0])*"
_TRAILERS = re.compile(_LINE_ENDS)
_HEADER = re.compile(rb"([1-9][0-9]{0,9}) ")
_COUNTED = re.compile(rb"([1-9][0-9]{0,9}) (?=<)")
_MAYBE_COUNTED = re.compile(rb"[1-9][0-9]{0,9} ?")
_LINE_END = re.compile(rb"[\n\0]")


@dataclass(frozen=True, slots=True)
class Frames:
    """Frames that a chunk completed.

    Attributes:
        payloads: one row a frame, without its delimiter.
        starts: offset in the stream of the first byte of each frame (u8).
        cut: frames that were longer than allowed; each is there with as many bytes as are allowed.
        cut_bytes: bytes skipped since the last call, all of them beyond the end of a cut frame.
    """

    payloads: Bytes
    starts: npt.NDArray[np.uint64]
    cut: int = 0
    cut_bytes: int = 0

    def __len__(self) -> int:
        return len(self.payloads)


def _frames(payloads: list[bytes], starts: list[int], cut: int, cut_bytes: int) -> Frames:
    offsets = np.zeros(len(payloads) + 1, np.uint32)
    if payloads:
        np.cumsum(np.fromiter(map(len, payloads), np.uint32, len(payloads)), out=offsets[1:])
    return Frames(Bytes(offsets, b"".join(payloads)), np.array(starts, np.uint64), cut, cut_bytes)


class LineFramer:
    """Splits a stream at LF; one CR before it belongs to the delimiter.

    A line longer than ``max_frame_bytes`` gives a frame of its first so many bytes as soon as these are there; the
    rest, up to the next delimiter, is skipped and counted.
    """

    def __init__(
        self, max_frame_bytes: int = MAX_FRAME_BYTES, *, position: int = 0, nul_ends_line: bool = False
    ) -> None:
        """Start at a line's first byte.

        Args:
            max_frame_bytes: longest line that is kept whole.
            position: offset of the next byte in the stream.
            nul_ends_line: NUL is a delimiter too (RFC 6587 section 3.4.2).
        """
        self._max = max_frame_bytes
        self._nul_ends_line = nul_ends_line
        self._held = bytearray()
        self._position = position
        self._is_skipping = False

    @property
    def position(self) -> int:
        """Offset in the stream of the first byte that no frame given so far covers."""
        return self._position

    @property
    def held_bytes(self) -> int:
        """Number of bytes held of a line without end."""
        return len(self._held)

    def feed(self, data: bytes) -> Frames:
        """Return the lines that ``data`` completes."""
        if self._nul_ends_line and b"\0" in data:
            data = data.translate(_NUL_TO_LF)
        skipped = 0
        if self._is_skipping:
            skipped = data.find(b"\n")
            self._is_skipping = skipped < 0
            skipped = len(data) if skipped < 0 else skipped
            self._position += skipped
            data = data[skipped:]
        end = data.rfind(b"\n") + 1
        if end == 0:
            return self._hold(data, skipped)
        body = bytes(self._held) + data[:end] if self._held else data[:end]
        frames = self._split(body, skipped)
        self._position += len(body)
        self._held = bytearray(data[end:])
        return self._joined(frames, self._overlong()) if self._is_overlong() else frames

    def finish(self) -> Frames:
        """Return the last line when it has no delimiter; the stream has ended or has been quiet for long."""
        line = bytes(self._held).removesuffix(b"\r")
        start = self._position
        self._position += len(self._held)
        self._held.clear()
        return _frames([line], [start], 0, 0) if line else _frames([], [], 0, 0)

    def skip(self, count: int) -> None:
        """Pass over bytes of the stream that are not given to `feed`; nothing may be held."""
        self._position += count

    def _hold(self, data: bytes, skipped: int) -> Frames:
        self._held += data
        if not self._is_overlong():
            return _frames([], [], 0, skipped)
        overlong = self._overlong()
        return Frames(overlong.payloads, overlong.starts, 1, overlong.cut_bytes + skipped)

    def _is_overlong(self) -> bool:
        return len(self._held) - self._held.endswith(b"\r") > self._max  # a last CR may belong to the delimiter

    def _overlong(self) -> Frames:
        """The frame of a line that is already too long; what follows is skipped."""
        kept, start = bytes(self._held[: self._max]), self._position
        self._position += len(self._held)
        self._is_skipping = True
        rest = len(self._held) - len(kept)
        self._held.clear()
        return _frames([kept], [start], 1, rest)

    def _split(self, body: bytes, skipped: int) -> Frames:
        """Frames of a body that ends with a delimiter: no Python per line."""
        octets = np.frombuffer(body, np.uint8)
        ends = np.flatnonzero(octets == _LF)
        starts = np.zeros(len(ends), np.int64)
        starts[1:] = ends[:-1] + 1
        data = body
        if b"\r" in body:  # one octet is found ten times as fast as two
            ends = ends - ((ends > starts) & (octets[ends - 1] == _CR))
            data = data.replace(b"\r\n", b"\n")
        lengths = ends - starts
        if int(lengths.max()) > self._max:
            return self._split_overlong(body, starts, lengths, skipped)
        filled = lengths > 0
        if not filled.all():
            starts, lengths = starts[filled], lengths[filled]
        offsets = np.zeros(len(lengths) + 1, np.uint32)
        np.cumsum(lengths, out=offsets[1:])
        positions = (starts + self._position).astype(np.uint64)
        return Frames(Bytes(offsets, data.replace(b"\n", b"")), positions, 0, skipped)

    def _split_overlong(
        self, body: bytes, starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64], skipped: int
    ) -> Frames:
        """As `_split`, where a line is too long: rare, so line by line."""
        payloads, positions, cut = [], [], 0
        for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
            if length == 0:
                continue
            kept = min(length, self._max)
            payloads.append(body[start : start + kept])
            positions.append(start + self._position)
            cut += kept < length
            skipped += length - kept
        return _frames(payloads, positions, cut, skipped)

    @staticmethod
    def _joined(first: Frames, second: Frames) -> Frames:
        payloads = [frames.payloads.bytes_at(row) for frames in (first, second) for row in range(len(frames))]
        starts = [*first.starts.tolist(), *second.starts.tolist()]
        return _frames(payloads, starts, first.cut + second.cut, first.cut_bytes + second.cut_bytes)


class OctetFramer:
    """Splits a stream of octet-counted frames, ``MSG-LEN SP MSG``, and of the lines that come between them.

    Each frame is told anew: where it begins with a count it has so many octets, else it ends before the next LF or
    NUL, so that a sender that slips loses nothing. Line ends between frames are passed over.
    """

    _header = _HEADER
    _run = re.compile(_LINE_ENDS + _HEADER.pattern)
    # For a chunk without NUL and one with it: a pattern that begins with a fixed octet is found 15 times as fast.
    _next = (re.compile(b"\n" + _HEADER.pattern), re.compile(_LINE_END.pattern + _HEADER.pattern))

    def __init__(self, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        """Start at a frame's first byte; ``max_frame_bytes`` as for `LineFramer`."""
        self._max = max_frame_bytes
        self._held = bytearray()
        self._held_at = 0  # offset of the first held byte in the stream
        self._enough = 0  # held bytes below which no frame can be complete
        self._is_open_line = False  # what is held is a line without end
        self._skip_octets = 0
        self._is_skipping = False
        self._cut_bytes = 0

    def feed(self, data: bytes) -> Frames:
        """Return the frames that ``data`` completes."""
        self._held += data
        if len(self._held) < self._enough or (
            self._is_open_line and len(self._held) <= self._max and b"\n" not in data and b"\0" not in data
        ):
            return _frames([], [], 0, 0)
        self._is_open_line = False
        chunk = bytes(self._held)
        parts: list[Frames] = []
        at = self._skip(chunk)
        while at < len(chunk):
            at = self._whole(chunk, at, parts)
            at = _end_of(_TRAILERS, chunk, at)
            if at == len(chunk):
                break
            header = self._header.match(chunk, at)
            end = self._counted(chunk, at, header, parts) if header else self._lines(chunk, at, parts)
            if end < 0:
                break
            at = end + self._skip(chunk[end:]) if self._is_skipping or self._skip_octets else end
        return self._given(chunk[at:], parts)

    def finish(self) -> Frames:
        """Return the incomplete last frame, with its count if it has one; the stream has ended."""
        self._enough = 0
        self._is_open_line = False
        rest = _TRAILERS.sub(b"", bytes(self._held), count=1)
        start = self._held_at + len(self._held) - len(rest)
        self._held_at += len(self._held)
        self._held.clear()
        rest = rest.removesuffix(b"\r")
        over = max(len(rest) - self._max, 0)
        return _frames([rest[: self._max]], [start], int(over > 0), over) if rest else _frames([], [], 0, 0)

    def _whole(self, chunk: bytes, at: int, parts: list[Frames]) -> int:
        """Take the run of counted frames that are complete: what a stream nearly always is; return its end."""
        match, held_at, most, size = self._run.match, self._held_at, self._max, len(chunk)
        payloads: list[bytes] = []
        starts: list[int] = []
        while header := match(chunk, at):
            begin = header.end()
            end = begin + int(header[1])
            if end > size or end - begin > most:
                break
            payloads.append(chunk[begin:end])
            starts.append(held_at + begin)
            at = end
        if payloads:
            parts.append(_frames(payloads, starts, 0, 0))
        return at

    def _counted(self, chunk: bytes, at: int, header: re.Match[bytes], parts: list[Frames]) -> int:
        """Take a counted frame that `_whole` did not: too long, or not complete; return its end, -1 for not yet."""
        begin = header.end()
        size = min(int(header[1]), self._max)
        if len(chunk) - begin < size:
            self._enough = begin + size - at
            return -1
        parts.append(_frames([chunk[begin : begin + size]], [self._held_at + begin], 1, 0))
        self._skip_octets = int(header[1]) - size
        return begin + size

    def _lines(self, chunk: bytes, at: int, parts: list[Frames]) -> int:
        """Take the lines up to the next count, or to the last line end; return their end, -1 where more is needed."""
        self._enough = 0
        if _MAYBE_COUNTED.fullmatch(chunk, at):
            return -1
        end = self._next_count(chunk, at)
        if end > at:
            framer = LineFramer(self._max, position=self._held_at + at, nul_ends_line=True)
            parts.append(framer.feed(chunk[at:end]))
            return end
        rest = len(chunk) - at - chunk.endswith(b"\r")  # a last CR may belong to the delimiter
        if rest <= self._max:
            self._is_open_line = True
            return -1
        parts.append(_frames([chunk[at : at + self._max]], [self._held_at + at], 1, 0))
        self._is_skipping = True
        return at + self._max

    def _next_count(self, chunk: bytes, at: int) -> int:
        """Where the next line that begins with a count begins, else where the line behind the last line end does."""
        found = self._next[b"\0" in chunk].search(chunk, at)
        return found.start() + 1 if found else max(chunk.rfind(b"\n", at), chunk.rfind(b"\0", at)) + 1

    def _skip(self, chunk: bytes) -> int:
        """Number of leading bytes that belong to a cut frame; they are counted."""
        skipped = 0
        if self._skip_octets:
            skipped = min(self._skip_octets, len(chunk))
            self._skip_octets -= skipped
        elif self._is_skipping:
            found = _LINE_END.search(chunk)
            self._is_skipping = found is None
            skipped = found.start() if found else len(chunk)
        self._cut_bytes += skipped
        return skipped

    def _given(self, rest: bytes, parts: list[Frames]) -> Frames:
        self._held_at += len(self._held) - len(rest)
        self._held = bytearray(rest)
        self._enough = self._enough if rest else 0
        skipped, self._cut_bytes = self._cut_bytes, 0
        if len(parts) == 1 and not skipped:
            return parts[0]
        return _end_to_end(parts, skipped)


class SyslogFramer(OctetFramer):
    """Frames of one syslog connection: counted where a frame begins with a count before the ``<`` of a PRI, else lines.

    Both RFC 3164 and RFC 5424 messages begin with a PRI. Senders were seen to change between the two in a connection.
    """

    _header = _COUNTED
    _run = re.compile(_LINE_ENDS + _COUNTED.pattern)
    _next = (re.compile(b"\n" + _COUNTED.pattern), re.compile(_LINE_END.pattern + _COUNTED.pattern))


def _end_of(pattern: re.Pattern[bytes], chunk: bytes, at: int) -> int:
    matched = pattern.match(chunk, at)
    return matched.end() if matched else at


def _end_to_end(parts: list[Frames], skipped: int) -> Frames:
    """All frames end to end, and bytes that were skipped besides."""
    if not parts:
        return _frames([], [], 0, skipped)
    lengths = np.concatenate([np.diff(part.payloads.offsets) for part in parts])
    offsets = np.zeros(len(lengths) + 1, np.uint32)
    np.cumsum(lengths, out=offsets[1:])
    payloads = Bytes(offsets, b"".join([part.payloads.data for part in parts]))
    starts = np.concatenate([part.starts for part in parts])
    return Frames(payloads, starts, sum(p.cut for p in parts), sum(p.cut_bytes for p in parts) + skipped)
