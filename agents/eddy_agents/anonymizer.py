"""Anonymizer: applies a policy over fields, so that a recipient gets nothing that its policy does not name.

In: cooked and analyzed events. Out: the same events, changed, their host a token in the subject too, on the backplane
that the agent's ``backplane`` setting names (a recipient's: permissions are given on its first token); never on its
own. While no recipient listens nothing is done. The policy and its methods are in ``eddy_agents/anonymization``; the
keys are in a file of their own.
"""

from __future__ import annotations

from pathlib import Path

from eddy_agents.anonymization.apply import Anonymizer
from eddy_agents.anonymization.keys import load_keys
from eddy_agents.anonymization.policy import Config as PolicyConfig
from eddy_mesh.agent import Result
from eddy_mesh.batch import Batch
from eddy_mesh.errors import ConfigError

SCOPE = "host"
EMIT = "demand"
INPUT = ("SELECT *",)
KEY_HINT = 'write one: [[key]] with epoch = 1, not_before = 1970-01-01T00:00:00Z, key = "$(openssl rand -hex 32)"'


class Config(PolicyConfig, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of an anonymizer: the policy, and where the keys are."""

    keys_file: str = ""
    """TOML or JSON file with the keys and since when each is in force; keep it readable by its owner only"""


class Agent:
    """The anonymizer; see the module.

    Raises:
        ConfigError: the key file can not be read, or the policy or a key has mistakes.
    """

    def __init__(self, config: Config) -> None:
        if not config.keys_file:
            raise ConfigError([f"anonymizer: keys_file is missing; {KEY_HINT}"])
        try:
            text = Path(config.keys_file).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError([f"anonymizer: keys_file {config.keys_file}: {error}; {KEY_HINT}"]) from None
        self._anonymizer = Anonymizer(config, load_keys(text))

    def on_batch(self, batch: Batch, now_ns: int) -> Result:
        """Return the events as the policy lets them through."""
        return self._anonymizer.on_batch(batch, now_ns)

    def on_tick(self, now_ns: int) -> Result:
        """Return nothing: an anonymizer keeps no events."""
        return self._anonymizer.on_tick(now_ns)
