"""XDR, the data representation that sFlow datagrams are written in.

What may live here: `XdrReader`. Every number is 4 octets, big-endian; opaque data is padded to a multiple of 4.

Source: RFC 4506.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from eddy_mesh.columns import address_text, v4_text
from eddy_mesh.errors import WireError

_SOURCE: Final = "sflow"
_V4, _V6 = 1, 2
MAX_LIST: Final = 1024
"""Longest list (AS path, communities, labels) that is believed; a record with a longer one is kept as text."""


class XdrReader:
    """Reads ``data`` from ``position`` to ``end``; each method raises `WireError` where it would read further."""

    __slots__ = ("data", "end", "position")

    def __init__(self, data: bytes, position: int, end: int) -> None:
        self.data = data
        self.position = position
        self.end = end

    def step(self, size: int) -> int:
        """Step over ``size`` octets; returns where they begin."""
        start = self.position
        if size > self.end - start:
            raise WireError(_SOURCE, f"{size} bytes expected, {self.end - start} are left; the datagram is cut", start)
        self.position = start + size
        return start

    def numbers(self, form: Struct) -> tuple[int, ...]:
        """Return the numbers that ``form`` lays out."""
        return form.unpack_from(self.data, self.step(form.size))

    def number(self) -> int:
        """Return an unsigned number of 4 octets."""
        start = self.step(4)
        return int.from_bytes(self.data[start : start + 4], "big")

    def opaque(self, size: int) -> bytes:
        """Return ``size`` octets and step over their padding."""
        start = self.step(size + -size % 4)
        return self.data[start : start + size]

    def text(self) -> str:
        """Return a string; octets that are not UTF-8 are replaced."""
        return self.opaque(self.number()).decode("utf-8", "replace")

    def listed(self) -> list[object]:
        """Return an array of numbers with its length in front, `MAX_LIST` at most."""
        count = self.number()
        if count > MAX_LIST:
            raise WireError(_SOURCE, f"a list of {count} members is not believed", self.position)
        return [self.number() for _ in range(count)]

    def address(self) -> str | None:
        """Return an address with its type in front, as canonical text; None for the unknown address."""
        kind = self.number()
        if kind == _V4:
            return v4_text(self.number())
        if kind == _V6:
            return self.v6()
        if kind == 0:
            return None
        raise WireError(_SOURCE, f"address of type {kind}, 1 or 2 expected", self.position - 4)

    def v6(self) -> str:
        """Return the canonical text of an IPv6 address."""
        whole = self.opaque(16)
        return address_text(int.from_bytes(whole[:8], "big"), int.from_bytes(whole[8:], "big"))
