"""The policy: what is done with each field of an event.

What may live here: rules, the configuration that holds them, and which rule a field has. Doing it is in
`eddy_agents.anonymization.apply`.
"""

from __future__ import annotations

import re
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from eddy_mesh.errors import ConfigError
from eddy_mesh.fields import FieldType, type_of


class Method(StrEnum):
    """What can be done with a value."""

    KEEP = "keep"  # but for a value that its field can not have, such as a text where a number belongs
    DROP = "drop"
    CRYPTO_PAN = "crypto_pan"  # prefix-preserving; what is no address is hashed
    IPCRYPT_PFX = "ipcrypt_pfx"  # prefix-preserving, two keys
    IPCRYPT_DETERMINISTIC = "ipcrypt_deterministic"  # an IPv6 address without structure; can be undone with the key
    HASH = "hash"  # keyed token
    TRUNCATE = "truncate"  # networks, first characters, times and numbers rounded
    SCRUB = "scrub"  # free text: what is recognised in it is replaced by its token; the rest stays


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A method and its settings; a method alone may be written as its name."""

    method: Method
    """What is done with the value."""
    prefix: str = "h:"
    """Put before the token of a text (hash, scrub)."""
    length: int = 16
    """Hexadecimal digits of the token of a text, 8 to 64 (hash, scrub)."""
    ipv4_bits: int = 24
    """Bits of an IPv4 address that stay (truncate)."""
    ipv6_bits: int = 48
    """Bits of an IPv6 address that stay (truncate)."""
    characters: int = 8
    """Characters of a text that stay (truncate)."""
    unit: str = "1h"
    """Times are rounded to it, towards 1970: a number with ms, s, m, h or d (truncate)."""
    step: int = 1000
    """Other numbers are rounded to a multiple of it, towards zero (truncate)."""

    @property
    def unit_ns(self) -> int:
        """Length of `unit` in ns."""
        matched = _UNIT.fullmatch(self.unit)
        return int(matched[1]) * _UNIT_NS[matched[2]] if matched else 0


_UNIT = re.compile(r"(\d{1,9})(ms|s|m|h|d)", re.ASCII)
_UNIT_NS = {"ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9, "d": 86_400 * 10**9}

SPECIAL = (
    "0.0.0.0/32",  # unspecified
    "127.0.0.0/8",  # loopback
    "169.254.0.0/16",  # link-local
    "224.0.0.0/4",  # multicast
    "255.255.255.255/32",  # broadcast
    "::/128",
    "::1/128",
    "ff00::/8",
)
"""Addresses that name a function, not a host. Source: RFC 6890 section 2.2, RFC 4291 section 2.4.

IPv6 link-local ones are not among them: the lower half is often the hardware address (RFC 4291 appendix A)."""

USER_FIELDS = (
    "user.name",
    "user.effective.name",
    "user.target.name",
    "source.user.name",
    "process.user.name",
)

NAME_FIELDS = (
    *USER_FIELDS,
    "host",
    "log.syslog.hostname",
    "source.address",
    "destination.address",
    "source.domain",
    "destination.domain",
)
"""Fields that name a person or a host: what they hold is looked for in the same event's text."""

_MEASUREMENTS = (
    "event.start",
    "event.end",
    "event.duration",
    "event.sequence",
    "diagnosis.start",
    "diagnosis.end",
    "diagnosis.count",
    "diagnosis.evidence",
    *(f"{end}.{what}" for end in ("source", "destination") for what in ("port", "bytes", "packets", "as.number")),
    "network.bytes",
    "network.packets",
    "network.iana_number",
    "process.pid",
    "log.syslog.priority",
    "log.syslog.facility.code",
    "log.syslog.severity.code",
    "sensor.value",
    "netflow.version",
    "netflow.sequence",
    "netflow.expected_sequence",
    "netflow.lost",
    "netflow.domain",
    "netflow.template",
    "netflow.sampling_interval",
    "netflow.sampling_algorithm",
    "netflow.tcpControlBits",
)
"""Fields of numbers, times and event ids: a text in one of them is dropped."""

WORDS = (
    "event.action",
    "event.category",
    "event.code",
    "event.kind",
    "event.outcome",
    "event.type",
    "diagnosis.id",
    "network.direction",
    "network.protocol",
    "network.transport",
    "network.type",
    "network.vlan.id",
    "netflow.tcp_flags",
    "process.name",
    "service.name",
    "service.type",
    "service.state",
    "sensor.quantity",
    "sensor.unit",
    "socket.state",
    "log.syslog.appname",
    "log.syslog.facility.name",
    "log.syslog.severity.name",
)
"""Short texts that say what happened, not to whom. Senders write them (a Cisco line may have an address where others
have the program), so they are scrubbed all the same."""

DEFAULT_FIELDS: dict[str, Method | Rule] = {
    **dict.fromkeys(_MEASUREMENTS, Method.KEEP),
    **dict.fromkeys(WORDS, Method.SCRUB),
    **dict.fromkeys(NAME_FIELDS, Method.HASH),
    "source.address": Method.CRYPTO_PAN,
    "destination.address": Method.CRYPTO_PAN,
    "event.id": Method.HASH,
    "network.community_id": Method.HASH,  # a hash without a key of addresses and ports: it can be tried out
    "netflow.exporter": Method.HASH,
    # No rule names them either: written out since they are what one looks for here.
    "event.original": Method.DROP,
    "message": Method.DROP,
    "error.message": Method.DROP,
    "diagnosis.hypothesis": Method.DROP,  # a sentence may hold names that no field of the event has
    "diagnosis.expected": Method.DROP,
}
"""A policy for a start: addresses by Crypto-PAn, names as tokens, free text away, measurements kept.

It names every field and no name space: what a later source puts into one is dropped until a rule says otherwise.
"""

ENVELOPE = frozenset({"id", "version", "type", "event_class", "stage", "occurred", "observed", "level", "parents"})
"""Kept unless a rule names them: an event without them is none."""

_IMPLIED = frozenset({"version", "type", "event_class", "stage", "tags.anonymization"})
"""The batch says the first four, and this agent the tag: whatever an event brings in a column of that name goes."""


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of an anonymizer."""

    policy: str = "default"
    """Name of the policy; stands in the tag of each event."""
    default: Method = Method.DROP
    """What is done with a field that no rule names: drop or keep."""
    fields: dict[str, Method | Rule] = msgspec.field(default_factory=lambda: dict(DEFAULT_FIELDS))
    """Rule of each field; ``name.*`` is for all fields below a name, and the longest such name counts."""
    types: dict[FieldType, Method | Rule] = msgspec.field(
        default_factory=lambda: {FieldType.ADDRESS: Method.CRYPTO_PAN}
    )
    """Rule of each type of field that no rule in ``fields`` names."""
    keep_special: bool = True
    """Whether addresses in ``special`` stay as they are. The result of another address can lie there too."""
    special: tuple[str, ...] = SPECIAL
    """Networks that stay as they are: loopback, IPv4 link-local, multicast, unspecified and broadcast ones."""
    names_in_text: tuple[str, ...] = NAME_FIELDS
    """Fields whose value is replaced wherever scrub finds it in the same event's text."""
    epoch_by: Literal["occurred", "now"] = "occurred"
    """Which time chooses the key: occurred (the event's own), or now."""


class Policy:
    """Looks up the rule of a field.

    Args:
        config: settings.

    Raises:
        ConfigError: all mistakes in the settings.
    """

    def __init__(self, config: Config) -> None:
        mistakes = _mistakes(config)
        if mistakes:
            raise ConfigError(mistakes)
        self._default = Rule(method=config.default)
        self._exact = {name: _rule(given) for name, given in config.fields.items() if not name.endswith(".*")}
        below = {name[:-1]: _rule(given) for name, given in config.fields.items() if name.endswith(".*")}
        self._below = sorted(below.items(), key=lambda item: -len(item[0]))
        self._types = {kind: _rule(given) for kind, given in config.types.items()}
        self._known: dict[str, Rule] = {}

    def rule(self, name: str) -> Rule:
        """Return the rule of a field: its own, that of its name space, of its type, or the default."""
        known = self._known.get(name)
        if known is None:
            known = self._find(name)
            if len(self._known) < 10_000:  # names come from outside: json.<anything>
                self._known[name] = known
        return known

    def uses(self, method: Method) -> bool:
        """Return whether a rule has that method."""
        rules = [*self._exact.values(), *(rule for _, rule in self._below), *self._types.values()]
        return any(rule.method is method for rule in rules)

    def _find(self, name: str) -> Rule:
        if name == "origin":
            return self.rule("host")  # both hold the name of a host process's machine
        if name in _IMPLIED:
            return Rule(method=Method.DROP)
        own = self._exact.get(name)
        if own is not None:
            return own
        kind = type_of(name)
        if kind is FieldType.ADDRESS and kind in self._types:
            return self._types[kind]  # a name space that is kept does not let addresses through
        for start, rule in self._below:
            if name.startswith(start):
                return rule
        if kind in self._types:
            return self._types[kind]
        return Rule(method=Method.KEEP) if name in ENVELOPE else self._default


class Special:
    """Tells which addresses stay as they are.

    Args:
        networks: IPv4 and IPv6 networks as text.
    """

    def __init__(self, networks: tuple[str, ...]) -> None:
        parsed = [ip_network(text, strict=False) for text in networks]
        self._v4 = [(int(n.network_address), int(n.netmask)) for n in parsed if isinstance(n, IPv4Network)]
        self._v6 = [_halves(n) for n in parsed if isinstance(n, IPv6Network)]

    def v4(self, addresses: npt.NDArray[np.unsignedinteger]) -> npt.NDArray[np.bool_]:
        """Return True for each IPv4 address, given as a number, that stays."""
        found = np.zeros(len(addresses), np.bool_)
        for network, mask in self._v4:
            found |= addresses & np.uint32(mask) == network
        return found

    def v6(self, halves: npt.NDArray[np.unsignedinteger]) -> npt.NDArray[np.bool_]:
        """Return True for each IPv6 address, given as two halves, that stays."""
        found = np.zeros(len(halves), np.bool_)
        for (high, low), (high_mask, low_mask) in self._v6:
            found |= (halves[:, 0] & np.uint64(high_mask) == high) & (halves[:, 1] & np.uint64(low_mask) == low)
        return found


def _halves(network: IPv6Network) -> tuple[tuple[int, int], tuple[int, int]]:
    address, mask = int(network.network_address), int(network.netmask)
    low = (1 << 64) - 1
    return (address >> 64, address & low), (mask >> 64, mask & low)


def _rule(given: Method | Rule) -> Rule:
    return given if isinstance(given, Rule) else Rule(method=given)


def _mistakes(config: Config) -> list[str]:
    mistakes = []
    if config.default not in {Method.DROP, Method.KEEP}:
        mistakes.append(f"default: {config.default.value!r} can not be done with every field: write drop or keep")
    for text in config.special:
        try:
            ip_network(text, strict=False)
        except ValueError:
            mistakes.append(f"special: {text!r} is not a network: write 127.0.0.0/8")
    for name, given in [*config.fields.items(), *config.types.items()]:
        mistakes += [f"fields.{name}: {what}" for what in _rule_mistakes(name, _rule(given))]
    return mistakes


def _rule_mistakes(name: str, rule: Rule) -> list[str]:
    mistakes = []
    id_like = type_of(name) in {FieldType.ID, FieldType.IDS} or name in {FieldType.ID, FieldType.IDS}
    if id_like and rule.method not in {Method.KEEP, Method.DROP}:
        mistakes.append(f"ids can not be given to {rule.method.value}: write keep or drop")
    if name in {"id", "version", "type", "event_class", "stage"} and rule.method is not Method.KEEP:
        mistakes.append("this is part of every event and names no person: write keep")
    if not 8 <= rule.length <= 64:
        mistakes.append(f"length {rule.length} is not within 8 and 64")
    if not 0 <= rule.ipv4_bits <= 32:
        mistakes.append(f"ipv4_bits {rule.ipv4_bits} is not within 0 and 32")
    if not 0 <= rule.ipv6_bits <= 128:
        mistakes.append(f"ipv6_bits {rule.ipv6_bits} is not within 0 and 128")
    if rule.characters < 0:
        mistakes.append(f"characters {rule.characters} is less than 0")
    if rule.unit_ns <= 0:
        mistakes.append(f"unit {rule.unit!r} is not a length of time: write 10s, 5m, 1h or 1d")
    if rule.step < 1:
        mistakes.append(f"step {rule.step} is less than 1")
    return mistakes
