"""Laws of stream framing: what comes out does not depend on how the stream was cut, and nothing is invented."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from eddy_agents.wire.framing import Frames, LineFramer, OctetFramer, SyslogFramer

LINES = st.lists(st.binary(max_size=40).filter(lambda line: not set(line) & set(b"\r\n\0")), max_size=20)
CUTS = st.lists(st.integers(0, 400), max_size=12)
STREAM = st.lists(
    st.sampled_from([b"\n", b"\r", b"\0", b" ", b"<1>", b"5 <1>a", b"12 ", b"0", b"7", b"abc", b"x" * 9]), max_size=60
).map(b"".join)
MIXED = st.lists(
    st.sampled_from(
        [b"\n", b"\r\n", b"\r", b"\0", b"<13>a\n", b"5 <13>b", b"6 <1>\0\n", b"12", b" <", b"9 <x", b"99 <y", b"line"]
    ),
    max_size=40,
).map(b"".join)


def _cut(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return [data[start:stop] for start, stop in pairwise(edges)]


def _all(framer: LineFramer | OctetFramer | SyslogFramer, parts: list[bytes]) -> tuple[list[tuple[int, bytes]], int]:
    taken: list[Frames] = [framer.feed(part) for part in parts]
    taken.append(framer.finish())
    rows = [(int(f.starts[row]), f.payloads.bytes_at(row)) for f in taken for row in range(len(f))]
    return rows, sum(frames.cut for frames in taken)


@given(lines=LINES, ending=st.sampled_from([b"\n", b"\r\n"]), cuts=CUTS)
def test_lines_come_back(lines: list[bytes], ending: bytes, cuts: list[int]) -> None:
    """Every line that is not empty comes out as it went in, wherever the stream was cut."""
    rows, cut = _all(LineFramer(), _cut(b"".join(line + ending for line in lines), cuts))
    assert [payload for _, payload in rows] == [line for line in lines if line]
    assert cut == 0


@given(data=STREAM, cuts=CUTS, most=st.integers(1, 20))
def test_lines_do_not_depend_on_cuts(data: bytes, cuts: list[int], most: int) -> None:
    """Line frames, where they start, and how many were cut are the same for any cutting of the stream."""
    assert _all(LineFramer(most), _cut(data, cuts)) == _all(LineFramer(most), [data])


@given(data=STREAM, cuts=CUTS, most=st.integers(1, 20))
def test_counted_frames_do_not_depend_on_cuts(data: bytes, cuts: list[int], most: int) -> None:
    """Octet-counted frames of any bytes are the same for any cutting of the stream."""
    assert _all(OctetFramer(most), _cut(data, cuts)) == _all(OctetFramer(most), [data])


@given(data=MIXED, cuts=CUTS, most=st.integers(1, 20))
def test_syslog_frames_do_not_depend_on_cuts(data: bytes, cuts: list[int], most: int) -> None:
    """Lines and counted frames in any order are the same, at the same places, for any cutting of the stream."""
    assert _all(SyslogFramer(most), _cut(data, cuts)) == _all(SyslogFramer(most), [data])


@given(data=STREAM, cuts=CUTS)
def test_starts_point_at_the_frame(data: bytes, cuts: list[int]) -> None:
    """The bytes of the stream at a frame's start are the frame."""
    for framer in (LineFramer(), OctetFramer(), SyslogFramer()):
        for start, payload in _all(framer, _cut(data, cuts))[0]:
            assert data[start : start + len(payload)] == payload


@given(messages=st.lists(st.binary(min_size=1, max_size=40).map(lambda rest: b"<1>" + rest)), cuts=CUTS)
def test_counted_messages_come_back(messages: list[bytes], cuts: list[int]) -> None:
    """Octet-counted messages come out exactly, whatever bytes are in them."""
    data = b"".join(b"%d %b" % (len(message), message) for message in messages)
    assert [payload for _, payload in _all(SyslogFramer(), _cut(data, cuts))[0]] == messages


@given(data=st.binary(max_size=300), cuts=CUTS)
def test_any_bytes_are_framed(data: bytes, cuts: list[int]) -> None:
    """Any bytes give frames, never an exception; every byte that is no delimiter is in one."""
    rows, _ = _all(SyslogFramer(), _cut(data, cuts))
    whole = _all(SyslogFramer(), [data])[0]
    assert [payload for _, payload in rows] == [payload for _, payload in whole]
