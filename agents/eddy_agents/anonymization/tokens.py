"""Keyed tokens: what a value becomes under the policy's ``hash``.

Equal values have equal tokens while one key is in force, whatever field they stand in, so that events can still be
joined on them. Nothing of the value's structure stays; but whoever holds the key can try values until one fits.

What may live here: the keyed hash and the form of its result for each type of value.

Source: HMAC-SHA-256, RFC 2104; truncation, NIST SP 800-107 section 5.3.4.
"""

from __future__ import annotations

import hmac

import numpy as np
import numpy.typing as npt

_CACHE_MAX = 1 << 16


class Tokens:
    """The keyed hash under one key.

    Args:
        key: secret of an epoch, 32 bytes; the hash uses a key derived from it, never the key itself.
    """

    def __init__(self, key: bytes) -> None:
        self._key = hmac.digest(key, b"eddy anonymization hash", "sha256")
        self._texts: dict[str, str] = {}

    def text(self, value: str, prefix: str, length: int) -> str:
        """Return the token of a text.

        Args:
            value: the text.
            prefix: put before the token, so that a reader sees that it is one.
            length: hexadecimal digits, 8 to 64.
        """
        digits = self._texts.get(value)
        if digits is None:
            if len(self._texts) >= _CACHE_MAX:
                self._texts.clear()
            digits = self._digest(b"text", value.encode("utf-8", "surrogatepass")).hex()
            self._texts[value] = digits
        return prefix + digits[:length]

    def number(self, value: float) -> int:
        """Return the token of a number, 0 to 2**63 - 1."""
        return int.from_bytes(self._digest(b"number", repr(value).encode())[:8], "big") >> 1

    def data(self, value: bytes, prefix: str, length: int) -> bytes:
        """Return the token of a byte string, in the form of `text`."""
        return prefix.encode() + self._digest(b"bytes", value).hex()[:length].encode()

    def addresses(self, halves: npt.NDArray[np.unsignedinteger]) -> npt.NDArray[np.unsignedinteger]:
        """Return the token of each address: an address too, so that it still fits its field.

        A token lies in fd00::/8, unique local addresses, whose other 120 bits are meant to be pseudo-random
        (RFC 4193 section 3.2). IPv4 and IPv6 can not be told apart any more.

        Args:
            halves: upper and lower halves, IPv4 mapped, shape (n, 2).
        """
        joined = halves.astype(">u8").tobytes()
        cuts = range(0, len(joined), 16)
        made = b"".join([b"\xfd" + self._digest(b"address", joined[cut : cut + 16])[:15] for cut in cuts])
        return np.frombuffer(made, ">u8").reshape(-1, 2)

    def _digest(self, domain: bytes, value: bytes) -> bytes:
        return hmac.digest(self._key, domain + b"\0" + value, "sha256")
