"""The configuration that a child process gets of its parent."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eddy_mesh.config import HostConfig, convert, parse_toml
from eddy_mesh.errors import ConfigError
from eddy_mesh.runtime.child_config import child_config, toml_text

PARENT = convert(
    {
        "name": "edge",
        "backplane": "lab",
        "tags": ["site"],
        "state": "/var/lib/eddy",
        "nats": {"servers": ["nats://hub:4222"], "token_file": "/etc/eddy/token", "password_env": "SECRET"},
        "agents": {"in": {"type": "normalizer", "source": "syslog"}},
    },
    HostConfig,
    "test",
)
COOK: dict[str, object] = {"type": "transformer", "cooking": "syslog"}
JSON = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def test_a_child_has_its_way_to_the_backplane_from_its_parent() -> None:
    """Server, names of credentials, backplane and tags are the parent's; agents are its own, with an agent-manager."""
    child = child_config("edge.cook", {"agents": {"cook": COOK}}, PARENT, "/var/lib/eddy/children/edge.cook")
    assert (child.name, child.state) == ("edge.cook", "/var/lib/eddy/children/edge.cook")
    assert (child.nats, child.backplane, child.tags) == (PARENT.nats, "lab", ("site",))
    assert {name: agent.type for name, agent in child.agents.items()} == {
        "cook": "transformer",
        "agent-manager": "agent_manager",
    }


def test_a_manager_of_its_own_is_kept() -> None:
    """A child has one agent-manager, also when the topology names one."""
    manager = {"type": "agent_manager", "config": {"accept": False}}
    child = child_config("edge.cook", {"agents": {"m": manager}, "tags": ["room"]}, PARENT, "s")
    assert set(child.agents) == {"m"}
    assert child.tags == ("room",)


@pytest.mark.parametrize(
    ("name", "tables", "wanted"),
    [
        ("hub.cook", {}, "edge.<agent>"),
        ("edge.", {}, "name of an agent is missing"),
        ("edge.x", {"nats": {"servers": ["nats://elsewhere:4222"]}}, "nats: is that of the host process"),
        ("edge.x", {"state": "/"}, "state: is that of the host process"),
        ("edge.x", {"name": "edge.y"}, "'edge.y' does not fit"),
        ("edge.x", {"backplane": "other"}, "'other' does not fit"),
        ("edge.x", {"agent": {}}, "did you mean agents?"),
        ("edge.x", {"agents": {"a": {"type": "archive", "config": {"folder": None}}}}, "config: folder: null"),
        ("edge.x", {"agents": {"agent-manager": COOK}}, "is the name of the agent-manager"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, tables: Mapping[str, object], wanted: str) -> None:
    """Nobody leads a child to another server or another state, and each mistake names its place."""
    with pytest.raises(ConfigError) as refused:
        child_config(name, tables, PARENT, "s")
    assert wanted in str(refused.value)
    assert str(refused.value).startswith(f"children.{name}")


@given(st.dictionaries(st.text(), JSON))
def test_the_file_says_what_the_tables_say(settings: dict[str, object]) -> None:
    """Whatever settings came in JSON, the child reads the same from its file."""
    child = child_config("edge.a", {"agents": {'a "b"': {"type": "x", "config": settings}}}, PARENT, "s\x7f\\")
    text = toml_text(child)
    assert convert(parse_toml(text, "file"), HostConfig, "file") == child


def test_no_secret_is_in_the_file() -> None:
    """Credentials are passed on by the names of their files and variables."""
    nats = tomllib.loads(toml_text(child_config("edge.a", {}, PARENT, "s")))["nats"]
    assert nats["token_file"] == "/etc/eddy/token"
    assert nats["password_env"] == "SECRET"
    assert set(nats) == {field.encode_name for field in msgspec.structs.fields(type(PARENT.nats))}
