"""Everything that one key can do: address columns as a whole, other values one by one.

What may live here: one function for each type of value, under one epoch's key and one policy's special addresses.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from eddy_agents.anonymization import ipcrypt
from eddy_agents.anonymization.crypto_pan import CryptoPan
from eddy_agents.anonymization.keys import Epoch
from eddy_agents.anonymization.policy import Method, Policy, Rule, Special
from eddy_agents.anonymization.scrub import scrub
from eddy_agents.anonymization.tokens import Tokens
from eddy_mesh.cer import Value
from eddy_mesh.columns import V4_MAPPED, Addresses, address_halves
from eddy_mesh.fields import FieldType, type_of

_MAX_DEPTH = 32
"""Nesting below which a value is dropped: no source means it, and each level costs a call."""

NUMBER_TYPES = frozenset({FieldType.BOOL, FieldType.INT, FieldType.FLOAT, FieldType.TIME, FieldType.LEVEL})

SHORT = 0xFFFF
"""Largest number that scrub leaves: a code or a VLAN, too short for an IPv4 address."""

_ID_BYTES = 16

Array = npt.NDArray[np.unsignedinteger]


def is_checked(kind: FieldType) -> bool:
    """Return whether a field of that type is kept only where its value fits: numbers, times and event ids."""
    return kind in NUMBER_TYPES or kind in {FieldType.ID, FieldType.IDS}


def fits(kind: FieldType, value: Value) -> bool:
    """Return whether a value is one that a field of that type can have; any is where the type is not checked."""
    if kind in NUMBER_TYPES:
        return isinstance(value, int | float)
    if kind is FieldType.ID:
        return isinstance(value, bytes) and len(value) == _ID_BYTES
    if kind is not FieldType.IDS:
        return True
    if isinstance(value, bytes):
        return len(value) % _ID_BYTES == 0
    return isinstance(value, list) and all(isinstance(one, bytes) and len(one) == _ID_BYTES for one in value)


class Keyed:
    """The policy's methods under one key.

    Args:
        epoch: key and its number.
        policy: rules, for the members of maps.
        special: addresses that stay as they are; None for none.
    """

    def __init__(self, epoch: Epoch, policy: Policy, special: Special | None) -> None:
        self._key = epoch.key
        self._policy = policy
        self._special = special
        self._pan = CryptoPan(epoch.key)
        self._tokens = Tokens(epoch.key)

    def addresses(self, column: Addresses, rule: Rule) -> Addresses:
        """Return the column with every address that is not special changed. The rule is neither keep nor drop."""
        if column.is_v4 and rule.method in {Method.CRYPTO_PAN, Method.TRUNCATE}:
            return Addresses(self._v4(column.values, rule), column.nulls)
        halves = column.wide().values.astype(np.uint64)
        is_v4 = (halves[:, 0] == 0) & (halves[:, 1] >> np.uint64(32) == 0xFFFF)
        changed = self._wide(halves, is_v4, rule)
        kept = self._kept(halves, is_v4)
        changed[kept] = halves[kept]
        return Addresses(changed.astype(">u8"), column.nulls)

    def _v4(self, values: Array, rule: Rule) -> Array:
        numbers = values.astype(np.uint32)
        if rule.method is Method.CRYPTO_PAN:
            changed = self._pan.v4(numbers)
        else:
            changed = (numbers & np.uint32(0xFFFF_FFFF << 32 - rule.ipv4_bits & 0xFFFF_FFFF)).astype(">u4")
        if self._special is not None:
            kept = self._special.v4(numbers)
            changed[kept] = numbers[kept]
        return changed

    def _wide(self, halves: Array, is_v4: npt.NDArray[np.bool_], rule: Rule) -> Array:
        if rule.method is Method.IPCRYPT_PFX:
            return ipcrypt.pfx(self._key, halves).astype(np.uint64)
        if rule.method is Method.IPCRYPT_DETERMINISTIC:
            return ipcrypt.deterministic(self._key[:16], halves).astype(np.uint64)
        if rule.method not in {Method.CRYPTO_PAN, Method.TRUNCATE}:
            return self._tokens.addresses(halves).astype(np.uint64)
        changed = np.zeros_like(halves)
        changed[is_v4, 1] = self._v4(halves[is_v4, 1] & np.uint64(0xFFFF_FFFF), rule).astype(np.uint64) + np.uint64(
            V4_MAPPED
        )
        others = halves[~is_v4]
        if rule.method is Method.CRYPTO_PAN:
            changed[~is_v4] = self._pan.v6(others)
        else:
            mask = (1 << 128) - (1 << 128 - rule.ipv6_bits)
            changed[~is_v4] = others & np.array([mask >> 64, mask & (1 << 64) - 1], np.uint64)
        return changed

    def _kept(self, halves: Array, is_v4: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        if self._special is None:
            return np.zeros(len(halves), np.bool_)
        as_v4 = is_v4 & self._special.v4((halves[:, 1] & np.uint64(0xFFFF_FFFF)).astype(np.uint32))
        return as_v4 | ~is_v4 & self._special.v6(halves)

    def address_text(self, text: str, rule: Rule) -> str:
        """Return the changed form of an address in text.

        Raises:
            ValueError: the text is not an address.
        """
        halves = Addresses(np.array([address_halves(text)], ">u8"))
        return str(self.addresses(halves, rule).at(0))

    def value(self, name: str, value: Value, rule: Rule, names: Sequence[str] = (), depth: int = 0) -> Value:
        """Return the changed value of one field, None where it is dropped.

        Args:
            name: field name; its type says whether a text is an address and a number a time.
            value: the value.
            rule: the field's rule.
            names: names that scrub looks for in text.
            depth: nesting so far.
        """
        if value is None or rule.method is Method.DROP or depth > _MAX_DEPTH:
            return None
        if rule.method is Method.KEEP:
            return value if fits(type_of(name), value) else None
        if isinstance(value, str):
            return self.text(name, value, rule, names)
        if isinstance(value, bytes):
            return self.data(value, rule, names)
        if isinstance(value, dict):
            members = ((self._member(name, key, rule, names), held) for key, held in value.items())
            return {key: self.value(name, held, rule, names, depth + 1) for key, held in members}  # type: ignore[arg-type]
        if isinstance(value, list):
            return [self.value(name, held, rule, names, depth + 1) for held in value]  # type: ignore[arg-type]
        return self.number(name, value, rule)

    def members(self, fields: dict[str, Value], names: Sequence[str]) -> dict[str, Value]:
        """Return a map of fields, each under its own rule, without those that are dropped."""
        changed: dict[str, Value] = {}
        for name, held in fields.items():
            value = self.value(name, held, self._policy.rule(name), names)
            if value is not None:
                changed[name] = value
        return changed

    def text(self, name: str, text: str, rule: Rule, names: Sequence[str] = ()) -> str:
        """Return the changed form of a text."""
        if rule.method is Method.SCRUB:
            return self._scrubbed(text, rule, names)
        if rule.method is not Method.HASH or type_of(name) is FieldType.ADDRESS:
            try:
                return self.address_text(text, rule)
            except ValueError:
                pass
        if rule.method is Method.TRUNCATE:
            return text[: rule.characters]
        return self._tokens.text(text, rule.prefix, rule.length)

    def data(self, data: bytes, rule: Rule, names: Sequence[str] = ()) -> bytes:
        """Return the changed form of a byte string; scrub takes it for UTF-8 and keeps what is not."""
        if rule.method is Method.SCRUB:
            text = data.decode("utf-8", "surrogateescape")
            return self._scrubbed(text, rule, names).encode("utf-8", "surrogateescape")
        if rule.method is Method.TRUNCATE:
            return data[: rule.characters]
        return self._tokens.data(data, rule.prefix, rule.length)

    def number(self, name: str, number: float, rule: Rule) -> float:
        """Return the changed form of a number: rounded towards zero, or its token; scrub leaves short ones."""
        if rule.method is Method.SCRUB and abs(number) <= SHORT:
            return number
        if rule.method is not Method.TRUNCATE:
            return self._tokens.number(number)
        size = rule.unit_ns if type_of(name) is FieldType.TIME else rule.step
        if not np.isfinite(number):
            return 0
        cut = abs(number) // size * size
        return -cut if number < 0 else cut

    def _scrubbed(self, text: str, rule: Rule, names: Sequence[str]) -> str:
        def token(found: str) -> str:
            return self._tokens.text(found, rule.prefix, rule.length)

        return scrub(text, names, lambda found: self.address_text(found, _PAN), token)

    def _member(self, name: str, key: str, rule: Rule, names: Sequence[str]) -> str:
        """Return the changed name of a member of a map.

        It says what the value is, and stays but for what scrub recognises in it. Where the field's type has no maps
        somebody made it up, and it is changed like a value.
        """
        if type_of(name) in {FieldType.ANY, FieldType.LIST}:
            return self._scrubbed(key, _PAN, names)
        return self.text(name, key, rule, names)


_PAN = Rule(method=Method.CRYPTO_PAN)
