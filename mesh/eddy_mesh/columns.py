"""The kinds of column that a batch is made of.

What may live here: column classes and the operations that every kind has: length, one value, the rows kept by an
index, and concatenation. All are immutable; arrays may be views of received bytes and must not be written to.
``nulls`` is True where the event does not have the field, or None when every row has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address

import msgspec
import numpy as np
import numpy.typing as npt

from eddy_mesh.cer import Value, event_id

Nulls = npt.NDArray[np.bool_] | None
Index = npt.NDArray[np.intp]

V4_MAPPED = 0xFFFF_0000_0000
"""Lower half of ::ffff:0.0.0.0: how an IPv4 address is held where 16 bytes are (RFC 4291 section 2.5.5.2)."""


@dataclass(frozen=True, slots=True)
class Constant:
    """The same value in every row; None means that no row has the field. Addresses are canonical text."""

    value: Value
    count: int

    def __len__(self) -> int:
        return self.count

    def at(self, row: int) -> Value:  # noqa: ARG002  # every kind of column has it
        """Return the value of a row."""
        return self.value

    def take(self, index: Index) -> Constant:
        """Return the rows named by ``index``."""
        return Constant(self.value, len(index))


@dataclass(frozen=True, slots=True)
class Numbers:
    """Integers, floats or booleans: a 1-D array of dtype i1-i8, u1-u8, f4, f8 or bool."""

    values: npt.NDArray[np.generic]
    nulls: Nulls = None

    def __len__(self) -> int:
        return len(self.values)

    def at(self, row: int) -> Value:
        """Return the value of a row."""
        return None if _is_null(self.nulls, row) else self.values[row].item()

    def take(self, index: Index) -> Numbers:
        """Return the rows named by ``index``."""
        return Numbers(self.values[index], _take_nulls(self.nulls, index))


@dataclass(frozen=True, slots=True)
class Addresses:
    """IP addresses: dtype ``>u4`` of shape (n,) for IPv4 only, or ``>u8`` of shape (n, 2), IPv4 mapped."""

    values: npt.NDArray[np.unsignedinteger]
    nulls: Nulls = None

    def __len__(self) -> int:
        return len(self.values)

    @property
    def is_v4(self) -> bool:
        """Whether all rows are IPv4, held in 4 bytes."""
        return self.values.ndim == 1

    def at(self, row: int) -> Value:
        """Return the canonical text of a row."""
        if _is_null(self.nulls, row):
            return None
        if self.is_v4:
            return v4_text(int(self.values[row]))
        return address_text(int(self.values[row, 0]), int(self.values[row, 1]))

    def take(self, index: Index) -> Addresses:
        """Return the rows named by ``index``."""
        return Addresses(self.values[index], _take_nulls(self.nulls, index))

    def wide(self) -> Addresses:
        """Return the same addresses in 16 bytes."""
        if not self.is_v4:
            return self
        halves = np.zeros((len(self.values), 2), ">u8")
        halves[:, 1] = self.values.astype(np.uint64) + V4_MAPPED
        return Addresses(halves, self.nulls)


@dataclass(frozen=True, slots=True)
class Words:
    """Dictionary-coded text: ``values[codes[row]]``; codes are u1, u2 or u4."""

    codes: npt.NDArray[np.unsignedinteger]
    values: tuple[str, ...]
    nulls: Nulls = None

    def __len__(self) -> int:
        return len(self.codes)

    def at(self, row: int) -> Value:
        """Return the text of a row."""
        return None if _is_null(self.nulls, row) else self.values[int(self.codes[row])]

    def take(self, index: Index) -> Words:
        """Return the rows named by ``index``."""
        return Words(self.codes[index], self.values, _take_nulls(self.nulls, index))


@dataclass(frozen=True, slots=True)
class Packed:
    """Values of any length end to end: row i is ``data[offsets[i]:offsets[i + 1]]``; offsets are u4, n + 1 of them."""

    offsets: npt.NDArray[np.uint32]
    data: bytes | memoryview
    nulls: Nulls = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def bytes_at(self, row: int) -> bytes:
        """Return the bytes of a row, b"" where it is null."""
        return bytes(self.data[int(self.offsets[row]) : int(self.offsets[row + 1])])

    def at(self, row: int) -> Value:
        """Return the value of a row."""
        return None if _is_null(self.nulls, row) else self.bytes_at(row)

    def take(self, index: Index) -> Packed:
        """Return the rows named by ``index``."""
        starts, ends = self.offsets[:-1][index], self.offsets[1:][index]
        offsets = np.zeros(len(index) + 1, np.uint32)
        np.cumsum(ends - starts, out=offsets[1:])
        if len(index) and np.array_equal(starts[1:], ends[:-1]):  # one run: no copy of the rows
            data = memoryview(self.data)[int(starts[0]) : int(ends[-1])]
        else:
            view = memoryview(self.data)
            data = memoryview(b"".join([view[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]))
        return type(self)(offsets, data, _take_nulls(self.nulls, index))


class Bytes(Packed):
    """Byte strings: payloads."""

    __slots__ = ()


class Text(Packed):
    """Plain UTF-8 text."""

    __slots__ = ()

    def at(self, row: int) -> Value:
        """Return the text of a row."""
        return None if _is_null(self.nulls, row) else self.bytes_at(row).decode("utf-8", "replace")


class Maps(Packed):
    """Values of no fixed type, one msgpack value a row: sparse fields, or the value of an ANY or LIST field."""

    __slots__ = ()

    def at(self, row: int) -> Value:
        """Return the decoded value of a row; a value that does not decode is null."""
        if _is_null(self.nulls, row):
            return None
        try:
            value = msgspec.msgpack.decode(self.bytes_at(row))
        except (msgspec.DecodeError, ValueError, RecursionError):
            return None
        return value if is_value(value) else None


def is_value(value: object) -> bool:
    """Whether something decoded is a `Value` through and through: no msgpack extension, time, or map with odd keys."""
    if isinstance(value, list):
        return all(map(is_value, value))
    if isinstance(value, dict):
        return all(isinstance(name, str) and is_value(member) for name, member in value.items())
    return value is None or isinstance(value, bool | int | float | str | bytes)


@dataclass(frozen=True, slots=True)
class Ids:
    """One event id a row: upper halves (one for all rows, or u8 each) and lower halves (u8 each)."""

    high: int | npt.NDArray[np.uint64]
    low: npt.NDArray[np.uint64]
    nulls: Nulls = None

    def __len__(self) -> int:
        return len(self.low)

    def at(self, row: int) -> Value:
        """Return the 16 bytes of a row."""
        if _is_null(self.nulls, row):
            return None
        return event_id(self.high if isinstance(self.high, int) else int(self.high[row]), int(self.low[row]))

    def highs(self) -> npt.NDArray[np.uint64]:
        """Return the upper half of each row."""
        return np.full(len(self.low), self.high, np.uint64) if isinstance(self.high, int) else self.high

    def take(self, index: Index) -> Ids:
        """Return the rows named by ``index``."""
        high = self.high if isinstance(self.high, int) else self.high[index]
        return Ids(high, self.low[index], _take_nulls(self.nulls, index))


Column = Constant | Numbers | Addresses | Words | Packed | Ids


def _is_null(nulls: Nulls, row: int) -> bool:
    return nulls is not None and bool(nulls[row])


def _take_nulls(nulls: Nulls, index: Index) -> Nulls:
    if nulls is None:
        return None
    kept = nulls[index]
    return kept if kept.any() else None


def nulls_of(column: Column) -> npt.NDArray[np.bool_]:
    """Return True for each row that does not have the field."""
    if isinstance(column, Constant):
        return np.full(column.count, column.value is None)
    return np.zeros(len(column), np.bool_) if column.nulls is None else column.nulls


# --- addresses -------------------------------------------------------------------------------------------------


@lru_cache(maxsize=65536)
def v4_text(number: int) -> str:
    """Return the dotted text of an IPv4 address given as a 32-bit number."""
    return f"{number >> 24}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


@lru_cache(maxsize=65536)
def address_text(high: int, low: int) -> str:
    """Return the canonical text of an address given as two 64-bit halves; a mapped IPv4 address as IPv4.

    Source: RFC 5952 section 4.
    """
    if high == 0 and low >> 32 == 0xFFFF:
        return v4_text(low & 0xFFFF_FFFF)
    return str(IPv6Address(high << 64 | low))


@lru_cache(maxsize=65536)
def address_halves(text: str) -> tuple[int, int]:
    """Return the two 64-bit halves of an address, IPv4 mapped.

    Raises:
        ValueError: ``text`` is not an address.
    """
    address = ip_address(text)
    if isinstance(address, IPv4Address):
        return 0, V4_MAPPED + int(address)
    number = int(address)
    return number >> 64, number & 0xFFFF_FFFF_FFFF_FFFF


# --- making columns of values ------------------------------------------------------------------------------------


def pack(values: Sequence[bytes]) -> tuple[npt.NDArray[np.uint32], bytes]:
    """Return the offsets and the joined bytes of ``values``."""
    offsets = np.zeros(len(values) + 1, np.uint32)
    if values:
        np.cumsum(np.fromiter(map(len, values), np.uint32, len(values)), out=offsets[1:])
    return offsets, b"".join(values)
