"""Crypto-PAn: prefix-preserving encryption of IPv4 and IPv6 addresses, for whole columns at once.

Two addresses that share their first k bits, and no more, have results that share their first k bits, and no more.

What that means for who relies on it: the result is deterministic, so equal addresses stay equal and frequencies stay
visible; and the structure of the address space leaks. Whoever knows, or can plant, some pairs of address and result
learns a prefix of every neighbour. Where that is too much use the policy's ``hash`` or ``truncate``, and in any case
give each key a short epoch. IPv4 and IPv6 results are independent: a mapped IPv4 address is treated as IPv4.

What may live here: the cipher and its bounded cache of results.

Source: Xu, Fan, Ammar, Moon, "Prefix-Preserving IP Address Anonymization", ICNP 2002, section 3; the choice of AES and
of the pad is that of the authors' Crypto-PAn 1.0.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

from eddy_mesh.errors import SecurityError

KEY_BYTES = 32
CACHE_SLOTS = 1 << 16
"""Results remembered for each of IPv4 and IPv6; 32 bytes a slot at most."""

_BLOCKS_AT_ONCE = 1 << 16
"""AES blocks made in one call: 1 MiB, so that the working set stays in the processor's cache."""

_MIX = np.uint64(0x9E37_79B9_7F4A_7C15)

U4 = npt.NDArray[np.unsignedinteger]
U8 = npt.NDArray[np.unsignedinteger]


class CryptoPan:
    """The cipher under one key.

    Args:
        key: 32 bytes; the first 16 are the AES-128 key, the last 16 encrypted with it are the pad.

    Raises:
        SecurityError: the key does not have 32 bytes.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise SecurityError(
                f"a crypto-pan key has {KEY_BYTES} bytes, this one {len(key)}: make one of 32 random bytes"
            )
        # One block at a time is what the construction asks for: ECB is only the way to say "AES on each of these".
        self._aes = Cipher(AES(key[:16]), ECB())  # noqa: S305
        pad = self._encrypt(key[16:])
        self._v4 = _Prefixes(pad, 32)
        self._v6 = _Prefixes(pad, 128)
        self._v4_cache = _Cache(1)
        self._v6_cache = _Cache(2)

    def v4(self, addresses: U4) -> U4:
        """Return the encrypted addresses.

        Args:
            addresses: IPv4 addresses as numbers, shape (n,), any unsigned dtype.
        """
        found = self._through(self._v4, self._v4_cache, addresses.astype(np.uint64)[:, None])
        return found[:, 0].astype(">u4")

    def v6(self, addresses: U8) -> U8:
        """Return the encrypted addresses.

        Args:
            addresses: IPv6 addresses as upper and lower halves, shape (n, 2).
        """
        return self._through(self._v6, self._v6_cache, addresses.astype(np.uint64)).astype(">u8")

    def _through(self, prefixes: _Prefixes, cache: _Cache, addresses: U8) -> U8:
        results, missing = cache.look_up(addresses)
        if len(missing) == 0:
            return results
        rows, which = _distinct(addresses[missing])
        step = _BLOCKS_AT_ONCE // prefixes.bits
        made = [prefixes.encrypted(rows[start : start + step], self._encrypt) for start in range(0, len(rows), step)]
        fresh = np.concatenate(made)
        cache.store(rows, fresh)
        results[missing] = fresh[which]
        return results

    def _encrypt(self, blocks: bytes | memoryview) -> bytes:
        encryptor = self._aes.encryptor()
        return encryptor.update(blocks) + encryptor.finalize()


class _Prefixes:
    """The block of each prefix length: the address's first ``k`` bits, and the pad's bits from there on."""

    def __init__(self, pad: bytes, bits: int) -> None:
        self.bits = bits
        whole = (1 << 128) - 1
        masks = [whole ^ (whole >> length) for length in range(bits)]
        joined = b"".join(mask.to_bytes(16, "big") for mask in masks)
        self._masks = np.frombuffer(joined, ">u8").reshape(bits, 2).astype(np.uint64)
        self._rest = ~self._masks & np.frombuffer(pad, ">u8").astype(np.uint64)

    def encrypted(self, addresses: U8, encrypt: Callable[[memoryview], bytes]) -> U8:
        """Return the results for addresses of shape (n, 1) (IPv4 numbers) or (n, 2) (IPv6 halves)."""
        wide = addresses.shape[1] == 2
        blocks = np.empty((len(addresses), self.bits, 2), ">u8")
        top = addresses[:, 0] if wide else addresses[:, 0] << np.uint64(32)
        blocks[:, :, 0] = top[:, None] & self._masks[:, 0] | self._rest[:, 0]
        blocks[:, :, 1] = addresses[:, 1, None] & self._masks[:, 1] | self._rest[:, 1] if wide else self._rest[:, 1]
        enciphered = encrypt(blocks.data.cast("B"))
        first_bits = np.frombuffer(enciphered, np.uint8).reshape(len(addresses), self.bits, 16)[:, :, 0] >> 7
        flips = np.packbits(first_bits, axis=1).view(">u8" if wide else ">u4").astype(np.uint64)
        return addresses ^ flips


class _Cache:
    """A direct-mapped table: one place for each address, the later displaces the earlier.

    Bounded like a least-recently-used cache, and read and written by whole columns.
    """

    def __init__(self, halves: int) -> None:
        self._keys = np.zeros((CACHE_SLOTS, halves), np.uint64)
        self._values = np.zeros((CACHE_SLOTS, halves), np.uint64)
        self._used = np.zeros(CACHE_SLOTS, np.bool_)

    def look_up(self, addresses: U8) -> tuple[U8, npt.NDArray[np.intp]]:
        """Return the remembered results, and the rows that have none (their result is not meaningful)."""
        slots = _slots(addresses)
        hit = self._used[slots]
        for half in range(addresses.shape[1]):
            hit &= self._keys[slots, half] == addresses[:, half]
        return self._values[slots], np.flatnonzero(~hit)

    def store(self, addresses: U8, results: U8) -> None:
        """Remember results. Of two addresses with the same place, one of them stays, with its own result."""
        slots, rows = np.unique(_slots(addresses), return_index=True)
        self._keys[slots] = addresses[rows]
        self._values[slots] = results[rows]
        self._used[slots] = True


def _slots(addresses: U8) -> npt.NDArray[np.intp]:
    mixed = addresses[:, 0] * _MIX
    if addresses.shape[1] == 2:
        mixed = (mixed ^ addresses[:, 1]) * _MIX
    return (mixed >> np.uint64(48)).astype(np.intp)


def _distinct(addresses: U8) -> tuple[U8, npt.NDArray[np.intp]]:
    """Return each different row once, and for each row which of them it is."""
    if addresses.shape[1] == 1:
        values, which = np.unique(addresses[:, 0], return_inverse=True)
        return values[:, None], which
    order = np.lexsort((addresses[:, 1], addresses[:, 0]))
    ordered = addresses[order]
    begins = np.ones(len(ordered), np.bool_)
    begins[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    which = np.empty(len(ordered), np.intp)
    which[order] = np.cumsum(begins) - 1
    return ordered[begins], which
