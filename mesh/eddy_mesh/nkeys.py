"""NATS nkeys: Ed25519 keys in the text form that NATS uses, with ``cryptography`` alone.

What may live here: decoding a user seed or credentials file to a key that signs. No IO beside what the caller read.

Source: https://docs.nats.io/running-a-nats-service/configuration/securing_nats/auth_intro/nkey_auth (seed:
base32 of two prefix bytes, 32 key bytes and a CRC-16/XMODEM, little-endian).
"""

from __future__ import annotations

import base64
import binascii
import re

from eddy_mesh.errors import SecurityError

PREFIX_SEED = 18 << 3  # "S"
PREFIX_USER = 20 << 3  # "U"

_ARMOUR = re.compile(r"-{3,}\s*BEGIN ([A-Z ]+?)\s*-{3,}\s*([A-Za-z0-9_.=-]+?)\s*-{3,}\s*END", re.DOTALL)


class UserKey:
    """A user's signing key.

    Attributes:
        public_key: the ``U...`` name by which a server knows it.
    """

    def __init__(self, seed: bytes) -> None:
        """Make it from 32 secret bytes."""
        # only who has a key pays for loading it at start
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415

        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        raw = bytes((PREFIX_USER,)) + self._key.public_key().public_bytes_raw()
        self.public_key = _base32(raw)
        self.seed = _base32(bytes((PREFIX_SEED | PREFIX_USER >> 5, (PREFIX_USER & 31) << 3)) + seed)

    def sign(self, nonce: str) -> bytes:
        """Return the base64 signature of a server's nonce."""
        return base64.b64encode(self._key.sign(nonce.encode()))


def user_key(seed: str) -> UserKey:
    """Decode a user seed.

    Args:
        seed: ``SU`` and 56 more base32 characters; white space around it is ignored.

    Raises:
        SecurityError: it is not a user seed. The text never shows the seed.
    """
    text = seed.strip()
    try:
        raw = base64.b32decode(text + "=" * (-len(text) % 8))
    except binascii.Error as error:
        raise SecurityError("the nkey seed is not base32; give the file that holds the SU... line") from error
    if len(raw) != 36 or int.from_bytes(raw[-2:], "little") != binascii.crc_hqx(raw[:-2], 0):
        raise SecurityError("the nkey seed is damaged: length or checksum is wrong; copy it again")
    kind = (raw[0] & 7) << 5 | raw[1] >> 3
    if raw[0] & 0xF8 != PREFIX_SEED or kind != PREFIX_USER:
        raise SecurityError(f"the nkey is no user seed: it begins with {text[:2]}, a user seed with SU")
    return UserKey(raw[2:-2])


def credentials(text: str) -> tuple[str, UserKey]:
    """Decode a credentials file.

    Args:
        text: the file, with its ``BEGIN NATS USER JWT`` and ``BEGIN USER NKEY SEED`` parts.

    Returns:
        The JWT and the key that goes with it.

    Raises:
        SecurityError: a part is missing or damaged.
    """
    parts = dict(_ARMOUR.findall(text))
    jwt, seed = parts.get("NATS USER JWT"), parts.get("USER NKEY SEED")
    if not jwt or not seed:
        raise SecurityError("the credentials file lacks its USER JWT or NKEY SEED part; write it again with nsc")
    return jwt, user_key(seed)


def _base32(raw: bytes) -> str:
    checked = raw + binascii.crc_hqx(raw, 0).to_bytes(2, "little")
    return base64.b32encode(checked).decode().rstrip("=")
