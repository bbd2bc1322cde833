"""Two ciphers of the ipcrypt family: deterministic (one AES block) and prefix-preserving (``pfx``).

Both leak what Crypto-PAn leaks of their kind: ``deterministic`` only equality, ``pfx`` equality and shared prefixes.
``pfx`` adds up two independently keyed permutations, which keeps it sound beyond the birthday bound of one.

What may live here: these two ciphers, for whole columns.

Source: draft-denis-ipcrypt, sections on ipcrypt-deterministic and ipcrypt-pfx.
"""

from __future__ import annotations

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

from eddy_agents.anonymization.crypto_pan import U8
from eddy_mesh.columns import V4_MAPPED
from eddy_mesh.errors import SecurityError


def deterministic(key: bytes, addresses: U8) -> U8:
    """Return each address, IPv4 mapped, enciphered as one AES-128 block; the result is an IPv6 address.

    Args:
        key: 16 bytes.
        addresses: upper and lower halves, shape (n, 2).

    Raises:
        SecurityError: the key does not have 16 bytes.
    """
    if len(key) != 16:
        raise SecurityError(f"an ipcrypt-deterministic key has 16 bytes, this one {len(key)}")
    return np.frombuffer(_aes(key, addresses.astype(">u8").tobytes()), ">u8").reshape(-1, 2)


def check_pfx_key(key: bytes) -> None:
    """Refuse a key that `pfx` can not use.

    Raises:
        SecurityError: the key does not have 32 bytes, or its halves are equal, which would cancel the cipher.
    """
    if len(key) != 32 or key[:16] == key[16:]:
        raise SecurityError(
            f"an ipcrypt-pfx key has two different halves of 16 bytes, this one {len(key)} bytes in all"
        )


def pfx(key: bytes, addresses: U8) -> U8:
    """Return each address enciphered bit by bit, shared prefixes preserved; IPv4 stays IPv4, mapped.

    Args:
        key: 32 bytes, two different halves.
        addresses: upper and lower halves, shape (n, 2).

    Raises:
        SecurityError: the key does not have 32 bytes, or its halves are equal, which would cancel the cipher.
    """
    check_pfx_key(key)
    plain = addresses.astype(np.uint64)
    is_v4 = (plain[:, 0] == 0) & (plain[:, 1] >> np.uint64(32) == 0xFFFF)
    result = np.empty_like(plain)
    result[~is_v4] = _enciphered(key, plain[~is_v4], 0)
    result[is_v4] = _enciphered(key, plain[is_v4], 96)
    return result.astype(">u8")


def _enciphered(key: bytes, plain: U8, kept_bits: int) -> U8:
    """Flip each bit after the first ``kept_bits`` by the last bit of two AES blocks over the bits before it."""
    result = plain.copy()
    prefix = np.zeros_like(plain)  # the bits so far, with a one before them, at the right end of 128
    prefix[:, 1] = V4_MAPPED >> 32 if kept_bits else 1
    prefix[:, 0] = 1 << 32 if kept_bits else 0
    for position in range(kept_bits, 128):
        blocks = prefix.astype(">u8").tobytes()
        first = np.frombuffer(_aes(key[:16], blocks), np.uint8)[15::16]
        second = np.frombuffer(_aes(key[16:], blocks), np.uint8)[15::16]
        half, shift = position >> 6, np.uint64(63 - (position & 63))
        result[:, half] ^= ((first ^ second) & 1).astype(np.uint64) << shift
        prefix[:, 0] = prefix[:, 0] << np.uint64(1) | prefix[:, 1] >> np.uint64(63)
        prefix[:, 1] = prefix[:, 1] << np.uint64(1) | plain[:, half] >> shift & np.uint64(1)
    return result


def _aes(key: bytes, blocks: bytes) -> bytes:
    encryptor = Cipher(AES(key), ECB()).encryptor()  # noqa: S305  # single blocks are what the draft asks for
    return encryptor.update(blocks) + encryptor.finalize()
