"""What `eddy fetch` takes and shows."""

from __future__ import annotations

import io

import pytest

from eddy_mesh.api import Event, Fetched
from eddy_mesh.cli.fetch import failures, ids_of, lines_of, named
from eddy_mesh.errors import UsageError
from eddy_mesh.select_back import Gone

NOW_NS = 1_795_295_801_000_000_000
ID = "01a2002d-e4c7-7b1c-9a31-5f0e00000007"


def test_ids_come_from_arguments_and_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dash stands for standard input, whose lines are ids or events; each id counts once."""
    monkeypatch.setattr("sys.stdin", io.StringIO(f'a\n\n  {ID} \n{{"id": "b", "message": "x"}}\na\n'))
    assert named(["c", "-", "b"]) == ["c", "a", ID, "b"]


@pytest.mark.parametrize(("line", "said"), [("{nothing", "neither an id nor"), ('{"message": "x"}', "without id")])
def test_lines_without_an_id_are_pointed_at(line: str, said: str) -> None:
    """The number of the line and what would help are said."""
    with pytest.raises(UsageError, match=f"line 2 is .*{said}"):
        list(ids_of(["a", line]))


def test_an_event_is_shown_field_by_field() -> None:
    """Known fields first, values with units, long ones in several lines, and nothing that commands the terminal."""
    event = Event({"message": "\x1b[31mred " + "word " * 9, "level": 3, "source.bytes": 1500, "id": ID, "host": "db1"})
    assert lines_of(event, NOW_NS, 50) == [
        f"id            {ID}",
        "host          db1",
        r"message       \x1b[31mred word word word word word",
        "              word word word word",
        "level         error",
        "source.bytes  1.5 kB",
    ]


def test_an_empty_text_is_shown() -> None:
    """A field whose value is "" has a line."""
    assert lines_of(Event({"message": ""}), NOW_NS, 80) == ["message  "]


def test_what_was_not_fetched_is_said_for_each() -> None:
    """When and where it expired, or that nobody who answered has it and who did not answer."""
    gone = Gone("a", NOW_NS, "edge-7")
    found = Fetched([], [gone], ["b"], ["edge-8"], "not found: no host that answered has it; edge-8 did not answer")
    assert failures(found) == [
        "a: gone: expired at 2026-11-21T21:16:41.000000000Z on edge-7",
        "b: not found: no host that answered has it; edge-8 did not answer",
    ]
