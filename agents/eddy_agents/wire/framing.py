"""Lines and frames of a byte stream, found a chunk at a time and handed on as one column.

What may live here: newline framing with CRLF and NUL tolerance, octet counting, and choosing between the two. Both
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
_TRAILERS = re.compile(rb"[\r\n\0]*")
_HEADER = re.compile(rb"([1-9][0-9]{0,9}) ")
_TRAILERS_AND_HEADER = re.compile(rb"[\r\n\0]*([1-9][0-9]{0,9}) ")
_COUNTED = re.compile(rb"[1-9][0-9]{0,9} <")
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
    """Splits a stream of octet-counted frames, ``MSG-LEN SP MSG``.

    Trailers between frames are passed over. Where a count should be and is none, the bytes up to the next LF or NUL
    are a frame, so that a sender that slips loses nothing and is understood again at its next count.
    """

    def __init__(self, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        """Start at a frame's first byte; ``max_frame_bytes`` as for `LineFramer`."""
        self._max = max_frame_bytes
        self._held = bytearray()
        self._held_at = 0  # offset of the first held byte in the stream
        self._enough = 0  # held bytes below which no frame can be complete
        self._skip_octets = 0
        self._is_skipping = False
        self._cut = 0
        self._cut_bytes = 0

    def feed(self, data: bytes) -> Frames:
        """Return the frames that ``data`` completes."""
        self._held += data
        if len(self._held) < self._enough:
            return _frames([], [], 0, 0)
        chunk = bytes(self._held)
        payloads: list[bytes] = []
        starts: list[int] = []
        at = self._skip(chunk)
        while at < len(chunk):
            at = self._whole(chunk, at, payloads, starts)
            at = _end_of(_TRAILERS, chunk, at)
            header = _HEADER.match(chunk, at)
            begin, end = self._counted(chunk, at, header) if header else self._uncounted(chunk, at)
            if end < 0:
                break
            if end > begin:
                payloads.append(chunk[begin : min(end, begin + self._max)])
                starts.append(self._held_at + begin)
            at = end
            if end - begin > self._max or self._is_skipping or self._skip_octets:
                self._cut += 1
                self._cut_bytes += max(end - begin - self._max, 0)
                at += self._skip(chunk[end:])
        return self._given(chunk[at:], payloads, starts)

    def finish(self) -> Frames:
        """Return the incomplete last frame, with its count if it has one; the stream has ended."""
        self._enough = 0
        rest = _TRAILERS.sub(b"", bytes(self._held), count=1)
        start = self._held_at + len(self._held) - len(rest)
        self._held.clear()
        return _frames([rest], [start], 0, 0) if rest else _frames([], [], 0, 0)

    def _whole(self, chunk: bytes, at: int, payloads: list[bytes], starts: list[int]) -> int:
        """Take the run of counted frames that are complete: what a stream nearly always is; return its end."""
        match, held_at, most, size = _TRAILERS_AND_HEADER.match, self._held_at, self._max, len(chunk)
        while header := match(chunk, at):
            begin = header.end()
            end = begin + int(header[1])
            if end > size or end - begin > most:
                break
            payloads.append(chunk[begin:end])
            starts.append(held_at + begin)
            at = end
        return at

    def _counted(self, chunk: bytes, at: int, header: re.Match[bytes]) -> tuple[int, int]:
        """Begin and end of a counted frame, end -1 when it is not complete."""
        begin = header.end()
        size = int(header[1])
        if size <= self._max:
            end = begin + size
            if end <= len(chunk):
                return begin, end
            self._enough = end - at
            return begin, -1
        if len(chunk) - begin < self._max:
            self._enough = begin + self._max - at
            return begin, -1
        self._skip_octets = size - self._max
        return begin, begin + self._max

    def _uncounted(self, chunk: bytes, at: int) -> tuple[int, int]:
        """Begin and end of what has no count, end -1 when more is needed to say."""
        self._enough = 0
        if _MAYBE_COUNTED.fullmatch(chunk, at):
            return at, -1
        found = _LINE_END.search(chunk, at)
        if found:
            return at, found.start()
        if len(chunk) - at <= self._max:
            return at, -1
        self._is_skipping = True
        return at, at + self._max

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

    def _given(self, rest: bytes, payloads: list[bytes], starts: list[int]) -> Frames:
        self._held_at += len(self._held) - len(rest)
        self._held = bytearray(rest)
        self._enough = self._enough if rest else 0
        frames = _frames(payloads, starts, self._cut, self._cut_bytes)
        self._cut = self._cut_bytes = 0
        return frames


class SyslogFramer:
    """Frames of one syslog connection: octet counting when its first frame is counted, else lines.

    A connection counts octets when it begins with digits, a space and the ``<`` of a PRI; both RFC 3164 and RFC 5424
    messages begin with one. Anything else is lines, ended by LF, CRLF or NUL.
    """

    def __init__(self, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        """Start at the first byte of a connection; ``max_frame_bytes`` as for `LineFramer`."""
        self._max = max_frame_bytes
        self._framer: LineFramer | OctetFramer | None = None
        self._first = b""

    def feed(self, data: bytes) -> Frames:
        """Return the frames that ``data`` completes."""
        if self._framer is None:
            self._first = _TRAILERS.sub(b"", self._first + data, count=1)
            if _COUNTED.match(self._first):
                self._framer = OctetFramer(self._max)
            elif not self._first or _MAYBE_COUNTED.fullmatch(self._first):
                return _frames([], [], 0, 0)  # too few bytes to tell
            else:
                self._framer = LineFramer(self._max, nul_ends_line=True)
            data, self._first = self._first, b""
        return self._framer.feed(data)

    def finish(self) -> Frames:
        """Return the unterminated last frame; the connection has ended."""
        if self._framer is None:
            self._framer = LineFramer(self._max, nul_ends_line=True)
            self._framer.feed(self._first)
        return self._framer.finish()


def _end_of(pattern: re.Pattern[bytes], chunk: bytes, at: int) -> int:
    matched = pattern.match(chunk, at)
    return matched.end() if matched else at
