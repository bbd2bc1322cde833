"""Tags: declared by the backplane, and taken away where they come in undeclared."""

from __future__ import annotations

import numpy as np
import pytest

from eddy_mesh.columns import Column, Constant, Numbers
from eddy_mesh.config import HostConfig, convert, parse_toml
from eddy_mesh.errors import ConfigError
from eddy_mesh.tags import MAX_TOLD, OTHERS, TagGate

MESSAGE = Constant("x", 3)


def test_declared_tags_and_all_other_fields_pass() -> None:
    """Where there is nothing to take away the columns come back as they are, without a copy."""
    columns: dict[str, Column] = {"message": MESSAGE, "tags.site": MESSAGE, "tagsy": MESSAGE}
    admitted, fresh = TagGate(["site"]).admit(columns)
    assert admitted is columns
    assert fresh == []


def test_an_undeclared_tag_is_taken_from_its_events_and_counted() -> None:
    """The event goes on without it, those that had it are counted, and each name is told once."""
    gate = TagGate(["site"])
    sparse = Numbers(np.arange(3), np.array([True, False, False]))
    columns: dict[str, Column] = {"message": MESSAGE, "tags.site": MESSAGE, "tags.sit": sparse}
    admitted, fresh = gate.admit(columns)
    assert set(admitted) == {"message", "tags.site"}
    assert fresh == ["sit"]
    assert gate.admit(columns)[1] == []
    assert gate.removed == {"sit": 4}


def test_a_tag_that_no_event_has_is_no_complaint() -> None:
    """An empty column goes without a word."""
    gate = TagGate([])
    assert gate.admit({"message": MESSAGE, "tags.x": Constant(None, 3)}) == ({"message": MESSAGE}, [])
    assert not gate.removed


def test_the_mesh_s_own_tag_needs_no_declaration() -> None:
    """What the anonymizer says of an event passes."""
    columns = {"tags.anonymization": MESSAGE}
    assert TagGate([]).admit(columns) == (columns, [])


def test_any_number_of_names_takes_little_memory() -> None:
    """Names come from outside: from some number on they are counted together, and told as one."""
    gate = TagGate([])
    told: list[str] = []
    for number in range(MAX_TOLD * 3):
        told += gate.admit({f"tags.x{number}": MESSAGE})[1]
    assert len(gate.removed) == MAX_TOLD + 1
    assert gate.removed[OTHERS] == 3 * MAX_TOLD * 2
    assert told == [*(f"x{number}" for number in range(MAX_TOLD)), OTHERS]


@pytest.mark.parametrize("name", ["", "site room", "tags.site", "a,b", "1st", "a..b", "x" * 65])
def test_a_name_that_no_tag_can_have_is_refused(name: str) -> None:
    """A declaration that could never match is a mistake of the configuration, told with its place."""
    with pytest.raises(ConfigError, match=r"x\.toml: tags: .*does not fit: write the name as"):
        convert({"tags": ["site", name]}, HostConfig, "x.toml")


def test_names_that_a_statement_can_write_are_taken() -> None:
    """Words, also several with dots between them."""
    config = convert(parse_toml('tags = ["site", "room.number", "Rack_2"]', "x"), HostConfig, "x")
    assert config.tags == ("site", "room.number", "Rack_2")
