"""Cooks JSON objects: flattened to dotted names, registered names typed.

In: ``eddy.event.raw.application.json.*``, one JSON text a raw event. Out: ``eddy.event.cooked.<class>.json.*``, one
event for each, in order; where the script that emitted it named a type (``labels.type``), that type instead of
``json``. A member whose dotted name is in the field registry is that field (a time may be RFC 3339
text, an address must be one); any other, and one whose value does not fit, is ``json.<name>``. ``@timestamp``,
``timestamp`` and ``time`` give ``occurred``, ``msg`` gives ``message``, ``severity`` and ``log.level`` give ``level``
as well. A text that is no JSON object is kept as ``message`` with ``error.message``.

Source: RFC 8259; Elastic Common Schema.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import msgspec

from eddy_agents.wire.log_columns import address_or_none
from eddy_agents.wire.log_rows import carried_columns, payload_bytes, storable
from eddy_agents.wire.syslog import decode
from eddy_mesh.agent import Draft, Example, Result
from eddy_mesh.batch import Batch, Kind
from eddy_mesh.cer import EventClass, Stage, Value
from eddy_mesh.columns import Constant
from eddy_mesh.fields import FieldType, field, level_number
from eddy_mesh.rows import columns_of, time_ns
from eddy_mesh.subjects import EMITTED_TYPE

INPUT: tuple[str, ...] = ("json",)

_TIMES = ("@timestamp", "timestamp", "time", "occurred")
_LEVELS = ("level", "log.level", "severity")
_ENVELOPE = frozenset(
    {"id", "version", "type", "event_class", "stage", "observed", "normalizer", "normalizer_address", "parents"}
)
"""Fields that the mesh sets; a member of that name is kept below ``json.``."""
_MAX_DEPTH = 32
_INT_LIMITS = (-(1 << 63), (1 << 64) - 1)
_SECOND_NS = 1_000_000_000
_UNITS = ((1e11, _SECOND_NS), (1e14, 1_000_000), (1e17, 1_000), (9.2e18, 1))
"""A number of up to so much is a time in s, ms, us, ns: each unit covers the years 1973 to 5138 at least."""


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the JSON cooking."""

    event_class: EventClass = EventClass.APPLICATION
    """Class of the cooked events."""


class Cooking:
    """Raw JSON texts → cooked events."""

    def __init__(self, config: Config) -> None:
        self._kind = Kind(Stage.COOKED, config.event_class, "json")

    def on_batch(self, batch: Batch, now_ns: int) -> Result:  # noqa: ARG002  # the protocol's
        """Cook every object of a batch."""
        if not batch.count:
            return Result()
        columns = columns_of([object_fields(payload) for payload in payload_bytes(batch)])
        named = batch.column("labels.type")
        kind = self._kind
        if isinstance(named, Constant) and isinstance(named.value, str) and EMITTED_TYPE.fullmatch(named.value):
            kind = kind._replace(type=named.value)
        return Result((Draft(kind, batch.count, {**columns, **carried_columns(batch)}),))

    def on_tick(self, now_ns: int) -> Result:  # noqa: ARG002  # the protocol's
        """Nothing is due by time."""
        return Result()


def object_fields(payload: bytes) -> dict[str, Value]:
    """Return the fields of one JSON object.

    Args:
        payload: a JSON text; anything else gives message and error.message.
    """
    try:
        held = msgspec.json.decode(payload, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return {"message": decode(payload), "error.message": f"not a JSON object: {error}"}
    row: dict[str, Value] = {}
    for name, value in _flat("", held, 0):
        known, typed = _typed(name, value)
        if typed is not None:
            row.setdefault(known, typed)
    return row


def _flat(prefix: str, members: dict[str, object], depth: int) -> Iterator[tuple[str, Value]]:
    for name, value in members.items():
        if isinstance(value, dict) and value and depth < _MAX_DEPTH:
            yield from _flat(f"{prefix}{name}.", value, depth + 1)
        else:
            yield f"{prefix}{name}", storable(value)


def _typed(name: str, value: Value) -> tuple[str, Value]:
    """Return the field that a member is, and its value as that field has it."""
    if name in _TIMES:
        occurred = _time(value)
        return ("occurred", occurred) if occurred is not None else (f"json.{name}", value)
    if name in {"message", "msg"} and isinstance(value, str):
        return "message", value
    if name in _LEVELS:
        level = level_number(str(value)) if isinstance(value, str | int) else None
        return ("level", level) if level is not None else (f"json.{name}", value)
    known = field(name)
    if known is None or name in _ENVELOPE:
        return f"json.{name}", value
    fitting = _fit(known.type, value)
    return (name, fitting) if fitting is not None else (f"json.{name}", value)


def _fit(kind: FieldType, value: Value) -> Value:
    """Return a value as a field of that type has it, or None where it does not fit."""
    if kind in {FieldType.ANY, FieldType.LIST}:
        return value
    if kind is FieldType.TIME:
        return _time(value)
    if kind is FieldType.ADDRESS:
        return address_or_none(value.encode("utf-8", "replace")) if isinstance(value, str) else None
    if kind is FieldType.BOOL:
        return value if isinstance(value, bool) else None
    if kind is FieldType.INT:
        return _integer(value)
    if kind is FieldType.FLOAT:
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
    if kind is FieldType.TEXT:
        return _text(value)
    return value.encode() if kind is FieldType.BYTES and isinstance(value, str) else None


def _integer(value: Value) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 18:
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if _INT_LIMITS[0] <= value <= _INT_LIMITS[1] else None


def _text(value: Value) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, str | int | float) else None


def _time(value: Value) -> int | None:
    """Return ns since 1970 UTC of RFC 3339 text or of a number of s, ms, us or ns."""
    if isinstance(value, str):
        try:
            when = time_ns(value)
        except (ValueError, OverflowError):
            return None
        return when if abs(when) < 1 << 63 else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        return None
    for most, unit_ns in _UNITS:
        if value < most:
            when = value * unit_ns if isinstance(value, int) else round(value * 1_000_000) * unit_ns // 1_000_000
            return when if when < 1 << 63 else None
    return None


EXAMPLES: tuple[Example, ...] = (
    Example(
        given=(
            (
                b'{"@timestamp":"2026-11-03T09:14:07.25Z","level":"warn","msg":"slow",'
                b'"source":{"ip":"192.0.2.7","port":"443"},"took":{"ms":1200}}'
            ),
            b"not JSON",
        ),
        expected=(
            {
                "occurred": 1793697247250000000,
                "level": 4,
                "message": "slow",
                "source.ip": "192.0.2.7",
                "source.port": 443,
                "json.took.ms": 1200,
            },
            {"message": "not JSON"},
        ),
    ),
)
