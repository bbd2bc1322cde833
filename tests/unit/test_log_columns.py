"""Fields of a chunk that are derived from others."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from eddy_agents.wire.log_columns import ALL, FieldSet
from eddy_mesh.cer import Value

SOURCE, TARGET = "log.syslog.appname", "process.name"
SOURCES: dict[str, list[bytes | None]] = {
    "all": [b"a", b"a", b"a"],
    "all, says nothing": [b"-", b"-", b"-"],
    "all but one": [b"a", None, b"a"],
    "one differs": [b"a", b"-", b"b"],
    "none": [None, None, None],
    "empty": [b"", b"", b""],
}
BEFORE: dict[str, list[bytes | None] | None] = {
    "nothing put": None,
    "in all": [b"x", b"x", b"x"],
    "in some": [None, b"x", b"y"],
}


@pytest.mark.parametrize("before", BEFORE.values(), ids=BEFORE.keys())
@pytest.mark.parametrize("sources", SOURCES.values(), ids=SOURCES.keys())
def test_a_field_is_derived_where_the_other_says_something(
    sources: list[bytes | None], before: list[bytes | None] | None
) -> None:
    """A row of which the source says nothing about the target keeps what it had; each text is looked at once."""
    fields, seen = FieldSet(3), list[bytes]()
    fields.put(SOURCE, ALL, sources)
    if before is not None:
        fields.put(TARGET, ALL, before)
    fields.derive(SOURCE, TARGET, _noted(seen))
    expected: list[Value] = []
    for source, held in zip(sources, before or [None] * 3, strict=True):
        value = source.upper() if source and source != b"-" else held
        expected.append(value.decode() if value else None)
    assert [row.get(TARGET) for row in fields.rows()] == expected
    column = fields.columns().get(TARGET)
    assert [None if column is None else column.at(row) for row in range(3)] == expected
    assert sorted(seen) == sorted({source for source in sources if source})


def test_what_is_derived_is_independent() -> None:
    """Changing a derived field leaves the one it came from as it was."""
    fields = FieldSet(2)
    fields.put(SOURCE, ALL, [b"a", b"a"])
    fields.derive(SOURCE, TARGET, bytes.upper)
    fields.codes(TARGET).put(slice(0, 1), [b"other"])
    assert [(row[SOURCE], row[TARGET]) for row in fields.rows()] == [("a", "other"), ("a", "A")]


def _noted(seen: list[bytes]) -> Callable[[bytes], bytes]:
    def function(text: bytes) -> bytes:
        seen.append(text)
        return b"" if text == b"-" else text.upper()

    return function
