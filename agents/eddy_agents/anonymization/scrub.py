"""Free text: what is recognised in it as personal is replaced by its token, the rest stays.

Recognised are IPv4, IPv6 and hardware addresses, e-mail addresses, and names that the caller knows from the event's
own fields; IPv4 addresses also as 0x0a010101 and, as in names of hosts, 10-1-1-1. A name that stands nowhere else, or
an address in another spelling, is not: the policy's ``drop`` is the safe choice for text, this is the useful one.

What may live here: the patterns, which need time linear in the length of the text, and the replacement.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address

_V4 = r"(?<![0-9])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![0-9])"
_V4_ONLY = re.compile(_V4, re.ASCII)

# Possessive repeats after a look-behind: each run of characters is read once, also in a line of a megabyte.
_RECOGNISED = rf"""
    (?P<mail> (?<![\w.%+-]) [\w.%+-]++ @ [\w-]++ (?:\.[\w-]++)*+ )
  | (?P<mac>  (?<![0-9A-Fa-f:-]) [0-9A-Fa-f]{{2}} (?:[:-][0-9A-Fa-f]{{2}}){{5}} (?![0-9A-Fa-f:-])
            | (?<![0-9A-Fa-f.]) [0-9A-Fa-f]{{4}} (?:\.[0-9A-Fa-f]{{4}}){{2}} (?![0-9A-Fa-f.]) )
  | (?P<arpa> (?<![0-9A-Za-z.]) (?:[0-9A-Fa-f]\.){{31}} [0-9A-Fa-f] (?![0-9A-Za-z]) )
  | (?P<v6>   (?<![0-9A-Za-z]) (?:[0-9A-Fa-f]{{0,4}}:){{2,8}}
              (?: (?:[0-9]{{1,3}}\.){{3}}[0-9]{{1,3}} | [0-9A-Fa-f]{{0,4}} )
              (?P<zone> %[0-9A-Za-z_.-]++ )? )
  | (?P<hex>  (?<![0-9A-Za-z]) 0[xX] [0-9A-Fa-f]{{8}} (?![0-9A-Za-z]) )
  | (?P<dash> (?<![0-9]) [0-9]{{1,3}} (?P<line>[-_]) (?:[0-9]{{1,3}} (?P=line)){{2}} [0-9]{{1,3}} (?![0-9]) )
  | (?P<v4>   {_V4} )
"""
"""Numbers of 8 hexadecimal digits are taken for IPv4 addresses, which some of them are; ``arpa`` is what stands
before ip6.arpa (RFC 3596 section 2.5)."""

_MAX_NAMES = 64
"""Names looked for in one text: more can only come from a list made to be long."""

AddressToken = Callable[[str], str]
TextToken = Callable[[str], str]


def scrub(text: str, names: Sequence[str], address_token: AddressToken, text_token: TextToken) -> str:
    """Return the text with everything recognised replaced.

    Args:
        text: any text.
        names: values to replace wherever they stand as whole words, in capitals or not; those of one character are
            left out, the longest 64 of those in the text count.
        address_token: gives the token of an IPv4 or IPv6 address in canonical text.
        text_token: gives the token of any other text.
    """
    known = _present(text, names)
    pattern = _pattern(tuple(known))

    def replaced(found: re.Match[str]) -> str:
        matched, group = found[0], found.lastgroup
        if group == "v6":
            return _v6(matched, found["zone"] or "", address_token, zoned)
        if group in {"v4", "hex", "dash"}:
            return _v4(matched, str(group), address_token)
        return text_token(known.get(matched.lower(), matched) if group == "name" else matched)

    def zoned(text: str) -> str:
        return pattern.sub(replaced, text)

    return zoned(text)


def _present(text: str, names: Sequence[str]) -> dict[str, str]:
    """Return the names that may stand in the text, by their lower-case form: a pattern costs more than a look."""
    lower = text.lower()
    present = {name.lower(): name for name in names if len(name) > 1 and name.lower() in lower}
    longest = sorted(present, key=lambda name: (-len(name), name))[:_MAX_NAMES]
    return {name: present[name] for name in longest}


@lru_cache(maxsize=1024)
def _pattern(names: tuple[str, ...]) -> re.Pattern[str]:
    if not names:
        return re.compile(_RECOGNISED, re.VERBOSE)
    either = "|".join(re.escape(name) for name in names)
    # Last, so that a name at the front of a mail address does not leave the rest of the address behind.
    return re.compile(rf"{_RECOGNISED} | (?P<name> (?<![^\W_]) (?i:{either}) (?![^\W_]) )", re.VERBOSE)


def _v4(text: str, form: str, address_token: AddressToken) -> str:
    """Return the token of an IPv4 address: ``v4`` 10.1.1.1, ``dash`` 10-1-1-1 or 10_1_1_1, ``hex`` 0x0a010101."""
    if form == "hex":
        return address_token(str(IPv4Address(int(text, 16))))
    line = text.strip("0123456789")[0]
    parts = [int(part) for part in text.split(line)]
    if max(parts) > 255:
        return text
    return address_token(".".join(map(str, parts))).replace(".", line)


def _v6(text: str, zone: str, address_token: AddressToken, scrubbed: Callable[[str], str]) -> str:
    """Return the token of an address, without its zone, which means nothing outside of its host.

    A colon of the sentence around an address may have been taken for a part of it.
    """
    text = text.removesuffix(zone)
    for start, stop in ((0, 0), (1, 0), (0, 1), (1, 1)):
        candidate = text[start : len(text) - stop]
        try:
            address = IPv6Address(candidate)
        except ValueError:
            continue
        mapped = address.ipv4_mapped
        token = address_token(str(mapped or address))
        return text[:start] + token + (text[len(text) - stop :] + scrubbed(zone) if stop else "")
    # A time before an IPv4 address, a name before a percent sign.
    return _V4_ONLY.sub(lambda found: _v4(found[0], "v4", address_token), text) + scrubbed(zone)
