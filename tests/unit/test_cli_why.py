"""Why a diagnosis was made, as `eddy why` shows it."""

from __future__ import annotations

import json

import pytest

from eddy_mesh.api import Event
from eddy_mesh.cer import Value, id_text
from eddy_mesh.cli.event_view import EventView
from eddy_mesh.cli.output import table_text
from eddy_mesh.cli.why import (
    CHOICE,
    Explanation,
    choice_cells,
    choice_columns,
    closing,
    evidence_ids,
    explanation_json,
    heading,
    named,
    several,
)
from eddy_mesh.errors import UsageError
from eddy_mesh.selection import compile_statement

NOW_NS = 1_795_295_801_000_000_000
IDS = [bytes([number]) * 16 for number in range(3)]
DIAGNOSIS: dict[str, Value] = {
    "id": IDS[2],
    "occurred": NOW_NS,
    "level": 4,
    "source.ip": "192.0.2.7",
    "event.type": "start",
    "diagnosis.id": "port_scan",
    "diagnosis.hypothesis": "192.0.2.7 tried 20 ports and completed no exchange",
    "diagnosis.expected": ["a completed exchange"],
    "diagnosis.start": NOW_NS - 2_000_000_000,
    "diagnosis.end": NOW_NS,
    "diagnosis.count": 2,
    "diagnosis.evidence": list(IDS[:2]),
}
SEEN = Event({"id": IDS[0], "occurred": NOW_NS, "message": "first"})
EXPLANATION = Explanation(Event(DIAGNOSIS), (SEEN,), (id_text(IDS[1]),))


def test_the_beginning_of_an_id_stands_for_all_that_begin_so() -> None:
    """Digits become a range of ids that compiles; dashes and capitals do not matter."""
    assert named("01A2002D-e4c7") == (
        "id BETWEEN '01a2002d-e4c7-0000-0000-000000000000' AND '01a2002d-e4c7-ffff-ffff-ffffffffffff'"
    )
    compile_statement(f"SELECT * WHERE {named(id_text(IDS[1]))}", now_ns=NOW_NS)


@pytest.mark.parametrize("text", ["", "01a2", "port_scan", "01a2002d' OR 1", "0" * 33])
def test_what_is_no_id_is_refused(text: str) -> None:
    """Too few digits, too many, and what is none are wrong usage."""
    with pytest.raises(UsageError, match="is no id"):
        named(text)


@pytest.mark.parametrize("held", [list(IDS[:2]), b"".join(IDS[:2]), [id_text(each) for each in [*IDS[:2], IDS[0]]]])
def test_evidence_is_read_in_every_form(held: Value) -> None:
    """Ids as bytes, packed, or as text give the same texts, each once."""
    assert evidence_ids({"diagnosis.evidence": held}) == [id_text(each) for each in IDS[:2]]
    assert evidence_ids({}) == []


def test_the_heading_says_what_is_believed() -> None:
    """Hypothesis with its phase, time, level by name, source, and what did not appear."""
    lines = heading(EXPLANATION, NOW_NS, 0)
    assert lines[0] == "began: 192.0.2.7 tried 20 ports and completed no exchange"
    assert " to " in lines[1]
    text = "\n".join(lines)
    for part in ("level           warning", "source.ip       192.0.2.7", id_text(IDS[2]), "  a completed exchange"):
        assert part in text
    assert all(len(line) <= 40 for line in heading(EXPLANATION, NOW_NS, 40) if "00-" not in line)


def test_the_end_says_what_is_not_shown_and_not_stored() -> None:
    """Counts of all, of the named and of the shown, and the ids that no archive holds."""
    assert closing(EXPLANATION, 1) == [
        "2 events contributed",
        f"1 of the named is not stored any more: {id_text(IDS[1])}",
    ]
    more = Explanation(Event(DIAGNOSIS | {"diagnosis.count": 900}), (SEEN,) * 30, ())
    (line,) = closing(more, 20)
    assert line == "900 events contributed; the diagnosis names 30 of them; the first 20 are shown, --all shows 30"


def test_as_json_it_is_one_object() -> None:
    """Diagnosis, evidence and missing ids, in the forms that events have everywhere."""
    told = json.loads(explanation_json(EXPLANATION))
    assert told["diagnosis"]["diagnosis.evidence"] == [id_text(each) for each in IDS[:2]]
    assert [event["message"] for event in told["evidence"]] == ["first"]
    assert told["not_stored"] == [id_text(IDS[1])]


DAY_NS = 86_400_000_000_000


@pytest.mark.parametrize("width", [40, 60, 80, 100, 132])
@pytest.mark.parametrize("days", [0, 3])
def test_ids_to_choose_from_are_whole_on_any_line(width: int, days: int) -> None:
    """Ids that begin alike can be told apart; of the time nothing is lost; the hypothesis goes on below itself."""
    ids = [id_text(bytes(14) + bytes([0, number])) for number in range(3)]
    rows = [choice_cells(Event(DIAGNOSIS | {"id": each}), NOW_NS + days * DAY_NS) for each in ids]
    shown = table_text(choice_columns(), rows, colour=False, width=width)
    assert [line.split()[0] for line in shown.splitlines() if line.startswith("0")] == ids
    for part in rows[0][1].text.split():
        assert shown.count(part) == 3
    if width >= 80:
        assert "…" not in shown
        assert max(map(len, shown.splitlines())) <= width


def test_times_of_evidence_lose_nothing_on_a_short_line() -> None:
    """Day and clock of an event of another day stand below each other where the line is short."""
    view = EventView(compile_statement("SELECT *", now_ns=NOW_NS))
    event: dict[str, Value] = {"occurred": NOW_NS, "host": "h" * 20, "type": "t" * 30, "message": "m " * 40}
    cells = view.cells(event, NOW_NS + 3 * DAY_NS)
    day, clock = cells[0].text.split()
    lines = table_text(view.columns, [cells], colour=False, width=80).splitlines()
    assert [line.split()[0] for line in lines[1:3]] == [day, clock]
    assert max(map(len, lines)) <= 80


def test_digits_of_several_are_answered_with_the_whole_ids() -> None:
    """At most ten, then how many more; where as many were found as are asked for, there may be more."""
    ids = [id_text(bytes(15) + bytes([number])) for number in range(CHOICE)]
    assert several("00000000", ids[:2]) == (
        f"2 diagnoses begin with 00000000: give more digits\n  {ids[0]}\n  {ids[1]}"
    )
    lines = several("00000000", ids).splitlines()
    assert lines[0].startswith(f"at least {CHOICE} diagnoses")
    assert [line.strip() for line in lines[1:]] == [*ids[:10], "and 10 more"]
