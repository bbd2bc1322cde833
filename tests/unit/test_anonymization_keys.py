"""Key files: what is read, which key is in force, and how mistakes are told."""

from __future__ import annotations

import numpy as np
import pytest

from eddy_agents.anonymization.keys import NO_KEY, load_keys
from eddy_mesh.errors import ConfigError, SecurityError

SECRET = "0f" * 32
TOML = f"""
[[key]]
epoch = 2
not_before = 2026-11-02T00:00:00Z
key = "{"aa" * 32}"
[[key]]
epoch = 1
not_before = "2026-11-01T00:00:00Z"
key = "{SECRET}"
"""
NOV_1_NS = 1_793_491_200 * 10**9
DAY_NS = 86_400 * 10**9


def test_the_key_in_force_is_the_latest_that_has_begun() -> None:
    """Each time has the last key whose not_before has come, and none before the first."""
    ring = load_keys(TOML)
    times = np.array([NOV_1_NS - 1, NOV_1_NS, NOV_1_NS + DAY_NS - 1, NOV_1_NS + DAY_NS, NOV_1_NS + 99 * DAY_NS])
    assert [ring.epochs[w].number if w != NO_KEY else None for w in ring.in_force(times)] == [None, 1, 1, 2, 2]


def test_json_is_read_too() -> None:
    """A file that starts with a brace is JSON."""
    ring = load_keys(f'{{"key": [{{"epoch": 3, "not_before": "2026-11-01T00:00:00Z", "key": "{SECRET}"}}]}}')
    assert ring.epochs[0].key == bytes.fromhex(SECRET)


def test_all_mistakes_at_once_without_a_key() -> None:
    """Every mistake is told, and no error or repr shows a secret."""
    text = TOML + f'[[key]]\nepoch = 2\nnot_before = "soon"\nkey = "{SECRET}00"\nkee = 1\n'
    with pytest.raises(ConfigError) as caught:
        load_keys(text)
    assert len(caught.value.mistakes) == 3
    assert any("33 bytes instead of 32" in mistake for mistake in caught.value.mistakes)
    assert "0f0f" not in str(caught.value)
    assert "0f0f" not in repr(load_keys(TOML).epochs)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("key = 3", "not a list"),
        ("[[key", "not TOML or JSON"),
        ("colour = 1", "unknown name 'colour'"),
        ("key = [3]", "not a table"),
        (TOML + f'[[key]]\nepoch=1\nnot_before=2026-12-01T00:00:00Z\nkey="{SECRET}"', "epoch 1 is there twice"),
        (TOML + f'[[key]]\nepoch=9\nnot_before=2026-11-01T00:00:00Z\nkey="{SECRET}"', "same not_before"),
        (f'[[key]]\nepoch=1\nnot_before=2026-12-01T00:00:00Z\nkey="{"zz" * 32}"', "not hexadecimal"),
    ],
)
def test_a_mistake_is_explained(text: str, says: str) -> None:
    """Each kind of mistake has its own explanation."""
    with pytest.raises(ConfigError, match=says):
        load_keys(text)


def test_no_key_at_all() -> None:
    """An empty file is refused with what to write."""
    with pytest.raises(SecurityError, match="write one"):
        load_keys("")
