"""Values of information elements: how the octets of one field of many records become a column.

What may live here: the `Form` of a field (its data type at the length that the exporter sends) and one decoder for
each form. All work on whole arrays: a field of 5,000 records costs as many Python calls as one of 1.

Source: RFC 7011 section 6 (encodings, reduced size), RFC 6759 section 4 (application ids).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from eddy_mesh.cer import Value
from eddy_mesh.columnize import column_of
from eddy_mesh.columns import Addresses, Column, Constant, Numbers, Text, Words
from eddy_mesh.fields import FieldType, type_of
from eddy_mesh.registry.ipfix import IANA, DataType, Element

Array: TypeAlias = npt.NDArray[np.generic]

_APPLICATION_ID: Final = 95
_SECOND_NS: Final = 1_000_000_000
_LAST_MILLISECOND: Final = (2**63 - 1) // 1_000_000
_NTP_EPOCH_S: Final = 2_208_988_800
_NTP_ERA_S: Final = 1 << 32


class Form(Enum):
    """How the octets of a field are to be read."""

    UNSIGNED = auto()
    SIGNED = auto()
    ODD_UNSIGNED = auto()  # 3, 5, 6 or 7 octets: reduced-size encoding
    ODD_SIGNED = auto()
    FLOAT = auto()
    BOOLEAN = auto()
    IPV4 = auto()
    IPV6 = auto()
    MAC = auto()
    STRING = auto()
    SECONDS = auto()
    MILLISECONDS = auto()
    NTP_MICROSECONDS = auto()
    NTP_NANOSECONDS = auto()
    APPLICATION = auto()
    OCTETS = auto()  # anything else: hexadecimal text


_SIZED: Final = {
    (DataType.FLOAT32, 4): Form.FLOAT,
    (DataType.FLOAT64, 4): Form.FLOAT,
    (DataType.FLOAT64, 8): Form.FLOAT,
    (DataType.BOOLEAN, 1): Form.BOOLEAN,
    (DataType.IPV4_ADDRESS, 4): Form.IPV4,
    (DataType.IPV6_ADDRESS, 16): Form.IPV6,
    (DataType.MAC_ADDRESS, 6): Form.MAC,
    (DataType.DATE_TIME_SECONDS, 4): Form.SECONDS,
    (DataType.DATE_TIME_MILLISECONDS, 8): Form.MILLISECONDS,
    (DataType.DATE_TIME_MICROSECONDS, 8): Form.NTP_MICROSECONDS,
    (DataType.DATE_TIME_NANOSECONDS, 8): Form.NTP_NANOSECONDS,
}


def form_of(element: Element, length: int) -> Form:
    """Return how to read an element that is sent in ``length`` octets; total, because lengths come from the network."""
    if element.enterprise == IANA and element.id == _APPLICATION_ID and length > 1:
        return Form.APPLICATION
    if element.data_type is DataType.STRING:
        return Form.STRING
    if length <= 8 and element.data_type.startswith(("unsigned", "signed")):
        signed = element.data_type.startswith("signed")
        if length in {1, 2, 4, 8}:
            return Form.SIGNED if signed else Form.UNSIGNED
        return Form.ODD_SIGNED if signed else Form.ODD_UNSIGNED
    return _SIZED.get((element.data_type, length), Form.OCTETS)


def storage_of(form: Form, length: int) -> np.dtype[np.generic]:
    """Return the numpy type as which a field of that form and length lies in a record."""
    if form in {Form.UNSIGNED, Form.SECONDS, Form.MILLISECONDS, Form.BOOLEAN, Form.IPV4}:
        return np.dtype(f">u{length}")
    if form in {Form.NTP_MICROSECONDS, Form.NTP_NANOSECONDS}:
        return np.dtype((">u4", (2,)))
    if form is Form.SIGNED:
        return np.dtype(f">i{length}")
    if form is Form.FLOAT:
        return np.dtype(f">f{length}")
    if form is Form.IPV6:
        return np.dtype((">u8", (2,)))
    if form in {Form.STRING, Form.APPLICATION}:
        return np.dtype(f"V{length}")
    return np.dtype((np.uint8, (length,)))


def decode(form: Form, field: str, values: Array) -> Column:
    """Return the column of a field whose records all have the same length.

    Args:
        form: how to read it.
        field: name of the event field; a number in a field that is a text by the registry becomes text.
        values: one entry a record, of the type `storage_of` gives.
    """
    if form in {Form.UNSIGNED, Form.ODD_UNSIGNED} and type_of(field) is FieldType.TEXT:
        numbers = _odd_unsigned(values).values if form is Form.ODD_UNSIGNED else values
        return coded(numbers, str)
    return _DECODERS[form](values)


def decode_each(element: Element, field: str, values: Sequence[bytes]) -> Column:
    """Return the column of a field of variable length (RFC 7011 section 7); each different value is read once.

    A value without octets is an empty text where the element is a text, else the record does not have the field.
    """
    known: dict[bytes, Value] = {}
    for value in set(values):
        form = form_of(element, len(value))
        if value:
            storage = np.dtype([("value", storage_of(form, len(value)))])
            known[value] = decode(form, field, np.frombuffer(value, storage)["value"]).at(0)
        else:
            known[value] = "" if form is Form.STRING else None
    return column_of(type_of(field), [known[value] for value in values])


def coded(numbers: Array, text_of: Callable[[int], str]) -> Constant | Words:
    """Return numbers as text, coded by a dictionary of the few different ones.

    Args:
        numbers: unsigned, at least one.
        text_of: name of a number.
    """
    top = int(numbers.max())
    if top < 8 * len(numbers) + 1024:  # a table is several times faster than sorting
        index = numbers.astype(np.intp)
        seen = np.zeros(top + 1, np.bool_)
        seen[index] = True
        distinct = np.flatnonzero(seen)
        codes = (np.cumsum(seen) - 1).astype(np.min_scalar_type(len(distinct) - 1))[index]
    else:
        distinct, order = np.unique(numbers, return_inverse=True)
        codes = order.astype(np.min_scalar_type(len(distinct) - 1))
    texts = tuple(map(text_of, distinct.tolist()))
    return Constant(texts[0], len(numbers)) if len(texts) == 1 else Words(codes, texts)


def native(values: Array) -> Array:
    """Return numbers end to end in the byte order of this machine."""
    return values.astype(values.dtype.newbyteorder("="))


# --- one decoder for each form -----------------------------------------------------------------------------------

_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)
_HEX_PAIRS = np.stack([_HEX[np.arange(256) >> 4], _HEX[np.arange(256) & 15]], axis=1).reshape(-1).view(np.uint16)


def _numbers(values: Array) -> Numbers:
    return Numbers(native(values))


def _odd_unsigned(values: Array) -> Numbers:
    octets = np.zeros((len(values), 8), np.uint8)
    octets[:, 8 - values.shape[1] :] = values
    return Numbers(native(octets.view(">u8").reshape(-1)))


def _odd_signed(values: Array) -> Numbers:
    bits = np.int64(8 * (8 - values.shape[1]))
    moved = _odd_unsigned(values).values.astype(np.int64) << bits
    return Numbers(moved >> bits)  # an arithmetic shift repeats the sign bit


def _boolean(values: Array) -> Numbers:
    """1 is true, 2 is false; other values, which RFC 7011 section 6.1.5 does not know, are kept as numbers."""
    numbers = native(values)
    return Numbers(numbers == 1) if np.isin(numbers, (1, 2)).all() else Numbers(numbers)


def _ipv4(values: Array) -> Addresses:
    return Addresses(np.ascontiguousarray(values))


def _ipv6(values: Array) -> Addresses:
    return Addresses(np.ascontiguousarray(values))


def _mac(values: Array) -> Text:
    texts = np.full((len(values), 17), ord(":"), np.uint8)
    pairs = _HEX_PAIRS[values].view(np.uint8)
    texts[:, 0::3] = pairs[:, 0::2]
    texts[:, 1::3] = pairs[:, 1::2]
    return _fixed_text(texts)


def _octets(values: Array) -> Text:
    return _fixed_text(_HEX_PAIRS[values].view(np.uint8))


def _fixed_text(texts: npt.NDArray[np.uint8]) -> Text:
    """A column of ASCII texts that are all as long as the rows of ``texts``."""
    count, width = texts.shape
    return Text(np.arange(count + 1, dtype=np.uint32) * np.uint32(width), texts.tobytes())


def _strings(values: Array) -> Column:
    raw: list[bytes] = values.tolist()
    known = {value: value.rstrip(b"\0").decode("utf-8", "replace") for value in set(raw)}
    return column_of(FieldType.TEXT, [known[value] for value in raw])


def _applications(values: Array) -> Column:
    raw: list[bytes] = values.tolist()
    known = {value: application_text(value) for value in set(raw)}
    return column_of(FieldType.TEXT, [known[value] for value in raw])


def application_text(value: bytes) -> str:
    """Return an application id as ``engine:selector``, for example ``13:431``.

    Engine 20 is an enterprise's own list: its selector comes as ``20:enterprise:selector``.
    Source: RFC 6759 sections 4.1 and 4.2.
    """
    if value[0] == 20 and len(value) > 5:
        return f"20:{int.from_bytes(value[1:5], 'big')}:{int.from_bytes(value[5:], 'big')}"
    return f"{value[0]}:{int.from_bytes(value[1:], 'big')}"


def _seconds(values: Array) -> Numbers:
    return Numbers(native(values).astype(np.int64) * _SECOND_NS)


def _milliseconds(values: Array) -> Numbers:
    """A time after the year 2262 does not fit into 64 bits of ns and becomes the last instant that does."""
    capped = np.minimum(native(values), np.uint64(_LAST_MILLISECOND))
    return Numbers(capped.astype(np.int64) * 1_000_000)


def _ntp_microseconds(values: Array) -> Numbers:
    """The lower 11 bits of the fraction are below a µs (RFC 7011 section 6.1.9): round to the nearest."""
    seconds, fraction = _ntp_parts(values)
    microseconds = (fraction * np.uint64(1_000_000) + np.uint64(1 << 31)) >> np.uint64(32)
    return Numbers(seconds * _SECOND_NS + microseconds.astype(np.int64) * 1000)


def _ntp_nanoseconds(values: Array) -> Numbers:
    seconds, fraction = _ntp_parts(values)
    nanoseconds = (fraction * np.uint64(_SECOND_NS) + np.uint64(1 << 31)) >> np.uint64(32)
    return Numbers(seconds * _SECOND_NS + nanoseconds.astype(np.int64))


def _ntp_parts(values: Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint64]]:
    """Seconds since 1970 and the fraction in units of 2**-32 s; RFC 4330 section 3 tells the era."""
    seconds = values[:, 0].astype(np.int64)
    seconds = np.where(seconds < 1 << 31, seconds + _NTP_ERA_S, seconds) - _NTP_EPOCH_S
    return seconds, values[:, 1].astype(np.uint64)


_DECODERS: Final[dict[Form, Callable[[Array], Column]]] = {
    Form.UNSIGNED: _numbers,
    Form.SIGNED: _numbers,
    Form.ODD_UNSIGNED: _odd_unsigned,
    Form.ODD_SIGNED: _odd_signed,
    Form.FLOAT: _numbers,
    Form.BOOLEAN: _boolean,
    Form.IPV4: _ipv4,
    Form.IPV6: _ipv6,
    Form.MAC: _mac,
    Form.STRING: _strings,
    Form.SECONDS: _seconds,
    Form.MILLISECONDS: _milliseconds,
    Form.NTP_MICROSECONDS: _ntp_microseconds,
    Form.NTP_NANOSECONDS: _ntp_nanoseconds,
    Form.APPLICATION: _applications,
    Form.OCTETS: _octets,
}
