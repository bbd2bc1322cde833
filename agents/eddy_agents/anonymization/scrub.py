"""Free text: what is recognised in it as personal is replaced by its token, the rest stays.

Recognised are IPv4, IPv6 and hardware addresses, e-mail addresses, and names that the caller knows from the event's
own fields. A name that stands nowhere else, or an address in another spelling, is not: the policy's ``drop`` is the
safe choice for text, this is the useful one.

What may live here: the patterns, which need time linear in the length of the text, and the replacement.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from ipaddress import IPv6Address

_V4 = r"(?<![0-9])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![0-9])"
_V4_ONLY = re.compile(_V4, re.ASCII)

# Possessive repeats after a look-behind: each run of characters is read once, also in a line of a megabyte.
_RECOGNISED = rf"""
    (?P<mail> (?<![\w.%+-]) [\w.%+-]++ @ [\w-]++ (?:\.[\w-]++)*+ )
  | (?P<mac>  (?<![0-9A-Fa-f:-]) [0-9A-Fa-f]{{2}} (?:[:-][0-9A-Fa-f]{{2}}){{5}} (?![0-9A-Fa-f:-])
            | (?<![0-9A-Fa-f.]) [0-9A-Fa-f]{{4}} (?:\.[0-9A-Fa-f]{{4}}){{2}} (?![0-9A-Fa-f.]) )
  | (?P<v6>   (?<![0-9A-Za-z]) (?:[0-9A-Fa-f]{{0,4}}:){{2,8}}
              (?: (?:[0-9]{{1,3}}\.){{3}}[0-9]{{1,3}} | [0-9A-Fa-f]{{0,4}} ) )
  | (?P<v4>   {_V4} )
"""

_MAX_NAMES = 16
"""Names looked for in one text."""

AddressToken = Callable[[str], str]
TextToken = Callable[[str], str]


def scrub(text: str, names: Sequence[str], address_token: AddressToken, text_token: TextToken) -> str:
    """Return the text with everything recognised replaced.

    Args:
        text: any text.
        names: values to replace wherever they stand as whole words; those of one character are left out, the first
            16 count.
        address_token: gives the token of an IPv4 or IPv6 address in canonical text.
        text_token: gives the token of any other text.
    """
    known = tuple(sorted({name for name in names if len(name) > 1}, key=lambda name: (-len(name), name))[:_MAX_NAMES])

    def replaced(found: re.Match[str]) -> str:
        matched = found[0]
        if found.lastgroup == "v4":
            return _v4(matched, address_token)
        if found.lastgroup == "v6":
            return _v6(matched, address_token)
        return text_token(matched)

    return _pattern(known).sub(replaced, text)


@lru_cache(maxsize=1024)
def _pattern(names: tuple[str, ...]) -> re.Pattern[str]:
    if not names:
        return re.compile(_RECOGNISED, re.VERBOSE)
    either = "|".join(re.escape(name) for name in names)
    # Last, so that a name at the front of a mail address does not leave the rest of the address behind.
    return re.compile(rf"{_RECOGNISED} | (?P<name> (?<!\w) (?:{either}) (?!\w) )", re.VERBOSE)


def _v4(text: str, address_token: AddressToken) -> str:
    parts = [int(part) for part in text.split(".")]
    return text if max(parts) > 255 else address_token(".".join(map(str, parts)))


def _v6(text: str, address_token: AddressToken) -> str:
    """Return the token of an address; a colon of the sentence around it may have been taken for a part of it."""
    for start, stop in ((0, 0), (1, 0), (0, 1), (1, 1)):
        candidate = text[start : len(text) - stop]
        try:
            address = IPv6Address(candidate)
        except ValueError:
            continue
        mapped = address.ipv4_mapped
        token = address_token(str(mapped or address))
        return text[:start] + token + text[len(text) - stop :]
    return _V4_ONLY.sub(lambda found: _v4(found[0], address_token), text)  # a time before an IPv4 address
