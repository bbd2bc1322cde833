"""Single values in the two forms that selection knows: as an event holds them, and as they are compared.

What may live here: the conversion between both, for each type. It is the slow path of every back end and the
definition of what "a value of another type is NULL" means.
"""

from __future__ import annotations

from base64 import b64encode
from math import isnan

import msgspec

from eddy_mesh.cer import Value
from eddy_mesh.columns import address_halves, address_text
from eddy_mesh.fields import FieldType
from eddy_mesh.selection.plan import Literal

_INTEGERS = frozenset({FieldType.INT, FieldType.TIME, FieldType.LEVEL})


def comparable(kind: FieldType, value: Value) -> Literal | None:
    """Return a value as it is compared, or None where it is not of that type.

    Addresses and ids become 128-bit integers, lists their JSON text; a value read as ANY becomes its text: a text
    itself, anything else its JSON form.

    Args:
        kind: type that the statement reads the field as.
        value: what one event holds.
    """
    if value is None:
        return None
    if kind in _INTEGERS:
        return value if type(value) is int else None
    if kind is FieldType.FLOAT:
        return _double(value)
    if kind is FieldType.BOOL:
        return value if isinstance(value, bool) else None
    if kind is FieldType.TEXT:
        return value if isinstance(value, str) else None
    if kind is FieldType.ADDRESS:
        return _address(value)
    if kind is FieldType.ID:
        return int.from_bytes(value, "big") if isinstance(value, bytes) and len(value) == 16 else None
    if kind is FieldType.BYTES:
        return value if isinstance(value, bytes) else None
    if kind is FieldType.LIST:
        return _json(value) if isinstance(value, list) else None
    return any_text(value)


def public(kind: FieldType, value: Literal | None) -> Value:
    """Return a compared value as an event holds it: the inverse of `comparable`."""
    if value is None:
        return None
    if kind is FieldType.ADDRESS and isinstance(value, int):
        return address_text(value >> 64, value & 0xFFFF_FFFF_FFFF_FFFF)
    if kind is FieldType.ID and isinstance(value, int):
        return value.to_bytes(16, "big")
    return value


def any_text(value: Value) -> str | None:
    """Return the text of a value of any type: a text itself, anything else its JSON form; NaN is no value."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return b64encode(value).decode()
    return None if value is None or (isinstance(value, float) and isnan(value)) else _json(value)


def _json(value: Value) -> str | None:
    try:
        return msgspec.json.encode(value).decode()
    except (TypeError, ValueError, RecursionError):  # what msgpack from outside can hold and JSON can not
        return None


def _double(value: Value) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    number = float(value)
    return None if isnan(number) else number


def _address(value: Value) -> int | None:
    if not isinstance(value, str):
        return None
    try:
        high, low = address_halves(value)
    except ValueError:
        return None
    return high << 64 | low
