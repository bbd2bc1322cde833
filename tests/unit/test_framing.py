"""Stream framing: delimiters, octet counts, and lines that are too long."""

from __future__ import annotations

import pytest

from eddy_agents.wire.framing import Frames, LineFramer, OctetFramer, SyslogFramer


def _payloads(frames: Frames) -> list[bytes]:
    return [frames.payloads.bytes_at(row) for row in range(len(frames))]


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"<1>a\n<2>b\n", [b"<1>a", b"<2>b"]),
        (b"<1>a\r\n<2>b\r\n", [b"<1>a", b"<2>b"]),
        (b"<1>a\0<2>b\0", [b"<1>a", b"<2>b"]),
        (b"<1>a\n\0<2>b\n\0", [b"<1>a", b"<2>b"]),
        (b"\n\n<1>a\n", [b"<1>a"]),
        (b"5 <1>ab4 <1>c", [b"<1>ab", b"<1>c"]),
        (b"5 <1>ab\n4 <1>c\n", [b"<1>ab", b"<1>c"]),
        (b"8 <1>a\nb\n\n", [b"<1>a\nb\n\n"]),
        (b"12 monkeys\n", [b"12 monkeys"]),
        (b"0 <1>a\n", [b"0 <1>a"]),
        (b"<13>a\n5 <13>b6 <13>cc<13>d\n", [b"<13>a", b"<13>b", b"<13>cc", b"<13>d"]),
        (b"<1>a\r\n\r\n4 <1>b\r\n<1>c\r\n", [b"<1>a", b"<1>b", b"<1>c"]),
        (b"<1>a 5 <b>\n12 >\nx 1 <\n", [b"<1>a 5 <b>", b"12 >", b"x 1 <"]),
        (b"<1>a\0" + b"4 <1>\0<1>c\n", [b"<1>a", b"<1>\0", b"<1>c"]),
        (b"5 <1>abslip\n4 <1>c", [b"<1>ab", b"slip", b"<1>c"]),
    ],
)
def test_syslog_framing_is_detected(stream: bytes, expected: list[bytes]) -> None:
    """Each frame is told anew, also in one connection; line ends of either kind are no part of a message."""
    framer = SyslogFramer()
    assert _payloads(framer.feed(stream)) == expected
    assert _payloads(framer.finish()) == []


@pytest.mark.parametrize("stream", [b"12", b"12 ", b"7 <1>abc", b"<1>abc", b"text"])
def test_unterminated_rest_is_given_at_the_end(stream: bytes) -> None:
    """What has no end when the connection closes is a frame all the same, also when it is too short to tell."""
    framer = SyslogFramer()
    assert _payloads(framer.feed(stream)) == []
    assert _payloads(framer.finish()) == [stream]


def test_long_line_is_cut_and_the_rest_skipped() -> None:
    """Of a line that is too long the allowed beginning comes out at once, the rest is counted, the next is whole."""
    framer = LineFramer(4)
    first = framer.feed(b"abcdef")
    assert (_payloads(first), first.cut, first.cut_bytes) == ([b"abcd"], 1, 2)
    second = framer.feed(b"gh\nij\n")
    assert (_payloads(second), second.cut, second.cut_bytes) == ([b"ij"], 0, 2)


def test_long_line_within_a_chunk_is_cut() -> None:
    """A line that is too long does not disturb its neighbours in the same chunk."""
    frames = LineFramer(4).feed(b"a\nbcdefg\r\nh\r\nijklmno")
    assert (_payloads(frames), frames.cut, frames.cut_bytes) == ([b"a", b"bcde", b"h", b"ijkl"], 2, 5)
    assert frames.starts.tolist() == [0, 2, 10, 13]


def test_long_counted_frame_is_cut_and_the_rest_skipped() -> None:
    """A count beyond the limit gives the allowed beginning; the next frame is found behind the rest."""
    framer = OctetFramer(4)
    first = framer.feed(b"9 abcdef")
    assert (_payloads(first), first.cut, first.cut_bytes) == ([b"abcd"], 1, 2)
    second = framer.feed(b"ghi2 xy")
    assert (_payloads(second), second.cut, second.cut_bytes) == ([b"xy"], 0, 3)


def test_huge_count_does_not_hold_memory() -> None:
    """A count of ten digits is cut like any other: nothing is set aside for it."""
    framer = OctetFramer(4)
    assert _payloads(framer.feed(b"9999999999 <1>abc")) == [b"<1>a"]
    assert _payloads(framer.feed(b"x" * 1000)) == []


def test_position_is_where_reading_goes_on() -> None:
    """The position covers whole lines only, so that a restart reads the held rest again."""
    framer = LineFramer(position=100)
    assert framer.feed(b"ab\ncd").starts.tolist() == [100]
    assert (framer.position, framer.held_bytes) == (103, 2)
    assert _payloads(framer.finish()) == [b"cd"]
    assert framer.position == 105
