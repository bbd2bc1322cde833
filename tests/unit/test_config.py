"""Configuration: every mistake at once, with the nearest right name."""

from __future__ import annotations

import pytest

from eddy_mesh.config import HostConfig, convert, mistakes_in, parse_toml
from eddy_mesh.errors import ConfigError

FIVE_MISTAKES = """
nmae = "edge1"
backplane = 5
[nats]
severs = ["nats://a:4222"]
[agents.a]
overload = "drop"
[agents.b]
type = "archive"
mailbox_events = "many"
"""


def test_five_mistakes_are_told_at_once() -> None:
    """Unknown keys with the nearest right one, wrong types, missing keys and wrong choices, each with its place."""
    mistakes = mistakes_in(parse_toml(FIVE_MISTAKES, "x.toml"), HostConfig, "x.toml")
    text = "\n".join(mistakes)
    assert len(mistakes) == 6
    assert "x.toml: unknown key 'nmae'; did you mean name?" in text
    assert "x.toml: backplane: 5 does not fit" in text
    assert "unknown key 'severs'; did you mean servers?" in text
    assert "agents.a: type is missing" in text
    assert "agents.a: overload: 'drop' does not fit" in text
    assert "agents.b: mailbox_events: 'many' does not fit" in text


def test_a_good_table_becomes_a_struct() -> None:
    """Defaults are filled in."""
    config = convert(parse_toml('[agents.a]\ntype = "archive"\n', "x"), HostConfig, "x")
    assert config.agents["a"].overload == "block"
    assert config.backplane == "eddy"


def test_text_that_is_no_toml_names_file_and_line() -> None:
    """The reader is told where."""
    with pytest.raises(ConfigError, match=r"x\.toml: .*line 2"):
        parse_toml("a = 1\nb = \n", "x.toml")
