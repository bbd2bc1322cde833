"""Following files: how one is recognised again and where reading begins."""

from __future__ import annotations

import pytest

from eddy_agents.wire import tail
from eddy_agents.wire.tail import Checkpoint, FileKey, Look, Place, Start

KEY = FileKey(1, 2)
INCLUDE = ("/var/log/**/*.log",)
HEAD = b"first line\nsecond"


def _place(offset: int, head: bytes = HEAD) -> Place:
    return Place(
        path="/var/log/a.log", device=1, inode=2, offset=offset, head_bytes=len(head), head_digest=tail.digest(head)
    )


def _first(look: Look, *, earlier: Checkpoint | None, start: Start = Start.END, is_first_scan: bool = True) -> int:
    known = {place.key: place for place in earlier.places} if earlier else {}
    return tail.first_offset(
        "/var/log/a.log",
        look,
        known=known,
        earlier=earlier,
        start=start,
        is_first_scan=is_first_scan,
        include=INCLUDE,
    )


@pytest.mark.parametrize(
    ("look", "expected"),
    [
        (Look(KEY, 17, HEAD), True),
        (Look(KEY, 40, HEAD + b" and more"), True),
        (Look(KEY, 5, HEAD[:5]), False),
        (Look(KEY, 40, b"other line\nsecond"), False),
        (Look(KEY, 40, bytes(40)), False),
    ],
    ids=["same", "grown", "cut", "written anew", "cut under a writer that does not append"],
)
def test_content_is_recognised(look: Look, expected: bool) -> None:
    """A file is the one that was read while it is not shorter and begins as it did."""
    assert tail.is_same_content(_place(11), look) is expected


def test_reading_goes_on_at_the_checkpoint() -> None:
    """A known file goes on at its offset; one with other content under the same inode begins at 0."""
    earlier = Checkpoint(include=INCLUDE, places=(_place(11),))
    assert _first(Look(KEY, 40, HEAD + b"..."), earlier=earlier) == 11
    assert _first(Look(KEY, 40, b"something else, quite long"), earlier=earlier) == 0


def test_start_is_for_files_that_nobody_watched() -> None:
    """The setting counts on the very first scan only; a file that appears later is read whole."""
    look = Look(KEY, 40, HEAD)
    assert _first(look, earlier=None) == 40
    assert _first(look, earlier=None, start=Start.BEGINNING) == 0
    assert _first(look, earlier=None, is_first_scan=False) == 0


def test_file_that_appeared_between_runs_is_read_whole() -> None:
    """A file without checkpoint under a pattern of the last run is new since; under a new pattern it is not."""
    look = Look(KEY, 40, HEAD)
    assert _first(look, earlier=Checkpoint(include=INCLUDE, places=())) == 0
    assert _first(look, earlier=Checkpoint(include=("/srv/*.log",), places=())) == 40


@pytest.mark.parametrize(
    ("path", "pattern", "expected"),
    [
        ("/var/log/a.log", "/var/log/**/*.log", True),
        ("/var/log/b/c/a.log", "/var/log/**/*.log", True),
        ("/var/log/a.log.gz", "*.gz", True),
        ("/var/log/journal/x/system.journal", "*/journal/*", True),
        ("/var/log/a.log", "/srv/*.log", False),
    ],
)
def test_patterns_match(path: str, pattern: str, expected: bool) -> None:
    """Two stars stand for any folders, also none."""
    assert tail.matches(path, pattern) is expected


def test_text_is_told_from_binary() -> None:
    """A NUL makes a file binary, unless it is in a hole at the beginning."""
    assert tail.is_text(b"line\n")
    assert tail.is_text(b"")
    assert tail.is_text(bytes(100) + b"line\n")
    assert not tail.is_text(b"\x7fELF\0\0")
    assert tail.leading_hole(bytes(100) + b"line") == 100
    assert tail.leading_hole(b"\0line") == 0


def test_waiting_grows_while_nothing_comes() -> None:
    """A file that grows is looked at soon again, a quiet one less and less often, up to the most."""
    assert tail.next_wait_s(1.0, was_active=True, least_s=0.25, most_s=1.0) == 0.25
    assert tail.next_wait_s(0.4, was_active=False, least_s=0.25, most_s=1.0) == pytest.approx(0.6)
    assert tail.next_wait_s(0.9, was_active=False, least_s=0.25, most_s=1.0) == 1.0
