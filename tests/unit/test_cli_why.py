"""Why a diagnosis was made, as `eddy why` shows it."""

from __future__ import annotations

import json

import pytest

from eddy_mesh.api import Event
from eddy_mesh.cer import Value, id_text
from eddy_mesh.cli.why import Explanation, closing, evidence_ids, explanation_json, heading, named
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
