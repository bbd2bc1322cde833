"""Keys of the anonymizer: one secret for each epoch, and which of them is in force at a time.

A key file is TOML or JSON::

    [[key]]
    epoch = 7
    not_before = 2026-11-01T00:00:00Z
    key = "64 hexadecimal digits"

What may live here: reading the text of such a file, and the look-up by time. No error shows a key.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import msgspec
import numpy as np
import numpy.typing as npt

from eddy_mesh.errors import ConfigError, SecurityError
from eddy_mesh.rows import time_ns

KEY_BYTES = 32

NO_KEY = -1
"""Index of the epoch of an event that is older than the first key."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """One key and since when it is in force; it is until the next one is.

    Attributes:
        number: chosen by the operator; stands in the tag of each event.
        not_before_ns: ns since 1970 UTC.
        key: 32 secret bytes.
    """

    number: int
    not_before_ns: int
    key: bytes = field(repr=False)


class KeyRing:
    """All keys, by time.

    Args:
        epochs: in any order; their numbers and times differ.

    Raises:
        SecurityError: there is no key at all.
    """

    def __init__(self, epochs: Sequence[Epoch]) -> None:
        if not epochs:
            raise SecurityError(
                "no anonymization key: write one [[key]] with epoch, not_before and key to the key file"
            )
        self.epochs = tuple(sorted(epochs, key=lambda epoch: epoch.not_before_ns))
        self._begins = np.array([epoch.not_before_ns for epoch in self.epochs], np.int64)

    def in_force(self, times_ns: npt.NDArray[np.int64]) -> npt.NDArray[np.intp]:
        """Return for each time the offset in `epochs` of the key in force, `NO_KEY` where there was none yet."""
        return np.searchsorted(self._begins, times_ns, side="right") - 1


def load_keys(text: str) -> KeyRing:
    """Read the text of a key file.

    Args:
        text: TOML, or JSON where it starts with ``{``.

    Raises:
        ConfigError: all mistakes of the file.
        SecurityError: the file has no key.
    """
    entries = _entries(text)
    mistakes: list[str] = []
    epochs: list[Epoch] = []
    for place, entry in enumerate(entries, 1):
        made = _epoch(f"key {place}", entry, mistakes)
        if made is None:
            continue
        if any(made.number == known.number for known in epochs):
            mistakes.append(f"key {place}: epoch {made.number} is there twice: give each key its own number")
        if any(made.not_before_ns == known.not_before_ns for known in epochs):
            mistakes.append(f"key {place}: another key has the same not_before: only one can be in force")
        epochs.append(made)
    if mistakes:
        raise ConfigError(mistakes)
    return KeyRing(epochs)


def _entries(text: str) -> list[object]:
    try:
        content = msgspec.json.decode(text) if text.lstrip().startswith("{") else tomllib.loads(text)
    except (msgspec.DecodeError, tomllib.TOMLDecodeError):
        raise ConfigError(["key file: not TOML or JSON: write [[key]] with epoch, not_before and key"]) from None
    entries = content.get("key") if isinstance(content, dict) else None
    unknown = sorted(set(content) - {"key"}) if isinstance(content, dict) else []
    if unknown:
        raise ConfigError([f"key file: unknown name {name!r}: only [[key]] tables belong there" for name in unknown])
    if entries is None:
        return []
    if not isinstance(entries, list):
        raise ConfigError(["key file: key is not a list of tables: write [[key]], with two brackets"])
    return entries


def _epoch(where: str, entry: object, mistakes: list[str]) -> Epoch | None:
    if not isinstance(entry, Mapping):
        mistakes.append(f"{where}: not a table: write epoch, not_before and key below [[key]]")
        return None
    before = len(mistakes)
    mistakes += [f"{where}: unknown name {n!r}: known are epoch, not_before, key" for n in entry if n not in _NAMES]
    number, since, secret = entry.get("epoch"), _since(entry.get("not_before")), _secret(entry.get("key"))
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        mistakes.append(f"{where}: epoch is not a number from 0 on")
    if since is None:
        mistakes.append(f"{where}: not_before is not a time: write 2026-11-01T00:00:00Z")
    if isinstance(secret, str):
        mistakes.append(f"{where}: {secret}")
    if len(mistakes) > before or not isinstance(number, int) or since is None or isinstance(secret, str):
        return None
    return Epoch(number, since, secret)


_NAMES = frozenset({"epoch", "not_before", "key"})


def _since(value: object) -> int | None:
    if isinstance(value, datetime):
        moment = value if value.tzinfo else value.replace(tzinfo=UTC)
        return int(moment.timestamp()) * 1_000_000_000
    try:
        return time_ns(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _secret(value: object) -> bytes | str:
    """Return the key, or what is wrong with it."""
    try:
        key = bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        return f"the key is not hexadecimal: write {2 * KEY_BYTES} digits 0-9, a-f"
    if len(key) != KEY_BYTES:
        return f"the key has {len(key)} bytes instead of {KEY_BYTES}: write {2 * KEY_BYTES} hexadecimal digits"
    return key
