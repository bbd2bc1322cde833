"""The Common Event Record: the single definition of what an event is.

What may live here: the envelope, the three stages, the descriptor of each class, event ids, and the flat form
(one dict with dotted names) that a `Cer` has in columns and in JSON. A `Cer` is a row that somebody looks at;
what travels is a `eddy_mesh.batch.Batch`.

Source: Gettes et al., EDDY project description, 2005 (field names in brackets in ``docs/fields.md``).
"""

from __future__ import annotations

from enum import StrEnum
from hashlib import blake2b
from typing import NewType

import msgspec

EventId = NewType("EventId", bytes)
"""16 bytes in UUIDv7 layout; bytes order is time order."""

Value = bool | int | float | str | bytes | list[object] | dict[str, object] | None
"""What a field of one event can hold. Addresses are canonical text, times are int ns since 1970 UTC."""

VERSION = 1


class EventClass(StrEnum):
    """The kind of event; ``derived`` is for measurements of the mesh itself."""

    NETWORK = "network"
    SYSTEM = "system"
    SECURITY = "security"
    APPLICATION = "application"
    ENVIRONMENTAL = "environmental"
    DERIVED = "derived"


class Stage(StrEnum):
    """How far an event has come: payload untouched, payload parsed, or a diagnosis."""

    RAW = "raw"
    COOKED = "cooked"
    ANALYZED = "analyzed"


class Raw(msgspec.Struct, tag="raw", frozen=True):
    """Body of a raw event: the source bytes exactly (one datagram, one line, one record)."""

    payload: bytes
    media_type: str = "application/octet-stream"


class Cooked(msgspec.Struct, tag="cooked", frozen=True):
    """Body of a cooked event: ECS-named fields that are not part of the descriptor."""

    fields: dict[str, Value]


class Analyzed(msgspec.Struct, tag="analyzed", frozen=True):
    """Body of a diagnosis.

    Attributes:
        diagnosis: name of the diagnosis, for example ``port_scan``.
        hypothesis: what is believed to have happened, one sentence.
        evidence: ids of every event that contributed.
        expected: what was expected and did not appear.
        fields: further ECS-named fields.
    """

    diagnosis: str
    hypothesis: str
    evidence: list[EventId]
    expected: list[str] = []
    fields: dict[str, Value] = {}


_COMMON = ("user.name", "process.name", "process.pid", "service.name")
_ENDS = ("source.ip", "source.port", "destination.ip", "destination.port")
DESCRIPTORS: dict[EventClass, tuple[str, ...]] = {
    EventClass.NETWORK: (*_ENDS, "network.transport", "network.iana_number", "network.community_id", *_COMMON),
    EventClass.SYSTEM: (*_COMMON, "host.boot.id", "process.entity_id", "container.id"),
    EventClass.SECURITY: (*_ENDS, *_COMMON, "user.target.name", "process.entity_id"),
    EventClass.APPLICATION: (*_ENDS, *_COMMON, "email.message_id", "url.domain"),
    EventClass.ENVIRONMENTAL: ("sensor.quantity", "sensor.value", "sensor.unit"),
    EventClass.DERIVED: ("agent.name", "agent.type", "edge.name"),
}
"""The typed correlation part of each class. Any other name of a scheme to come goes to `Correlation.extra`."""


class Correlation(msgspec.Struct, frozen=True):
    """Correlation descriptor [correlationDescriptor] of one event.

    Attributes:
        values: fields named in `DESCRIPTORS` for the event's class.
        extra: fields of correlation schemes that this version does not know.
    """

    values: dict[str, Value] = {}
    extra: dict[str, Value] = {}


class Cer(msgspec.Struct, frozen=True, kw_only=True):
    """One Common Event Record, as a row.

    Attributes are those of the envelope table in the design; times are int ns since 1970 UTC, addresses canonical
    text, ``level`` 0 (emergency) to 7 (debug) or None where the source does not say.
    """

    id: EventId
    version: int = VERSION
    type: str
    event_class: EventClass
    stage: Stage
    occurred_ns: int
    observed_ns: int
    host: str | None = None
    host_address: str | None = None
    normalizer: str | None = None
    normalizer_address: str | None = None
    level: int | None = None
    correlation: Correlation = Correlation()
    tags: dict[str, str] = {}
    parents: list[EventId] = []
    body: Raw | Cooked | Analyzed

    def get(self, name: str, default: Value = None) -> Value:
        """Return the value of a dotted field name, or ``default`` where the event does not have it."""
        return self.flat().get(name, default)

    def flat(self) -> dict[str, Value]:
        """Return the event as one flat dict of dotted names without the fields that are None."""
        row: dict[str, Value] = {
            "id": self.id,
            "version": self.version,
            "type": self.type,
            "event_class": str(self.event_class),
            "stage": str(self.stage),
            "occurred": self.occurred_ns,
            "observed": self.observed_ns,
        }
        for name in ("host", "host_address", "normalizer", "normalizer_address", "level"):
            row[name] = getattr(self, name)
        row |= self.correlation.values
        row |= self.correlation.extra
        row |= {f"tags.{name}": value for name, value in self.tags.items()}
        row["parents"] = list(self.parents) or None
        row |= _flat_body(self.body)
        return {name: value for name, value in row.items() if value is not None}


def _flat_body(body: Raw | Cooked | Analyzed) -> dict[str, Value]:
    if isinstance(body, Raw):
        return {"event.original": body.payload, "raw.media_type": body.media_type}
    if isinstance(body, Cooked):
        return body.fields
    return {
        "diagnosis.id": body.diagnosis,
        "diagnosis.hypothesis": body.hypothesis,
        "diagnosis.evidence": list(body.evidence) or None,
        "diagnosis.expected": list(body.expected) or None,
        **body.fields,
    }


def from_flat(row: dict[str, Value]) -> Cer:
    """Make a `Cer` of its flat form. The inverse of `Cer.flat`.

    Args:
        row: dotted names to values, with at least id, type, event_class, stage, occurred and observed.
    """
    rest = dict(row)
    event_class = EventClass(str(rest.pop("event_class")))
    stage = Stage(str(rest.pop("stage")))
    envelope = {name: rest.pop(name, None) for name in _ENVELOPE}
    tags = {name[5:]: str(rest.pop(name)) for name in list(rest) if name.startswith("tags.")}
    correlation = Correlation({name: rest.pop(name) for name in DESCRIPTORS[event_class] if name in rest})
    parents = rest.pop("parents", None)
    return Cer(
        id=EventId(rest.pop("id")),  # type: ignore[arg-type]  # the registry says what the type of each of these is
        version=int(rest.pop("version", VERSION)),  # type: ignore[arg-type]  # as above
        type=str(rest.pop("type")),
        event_class=event_class,
        stage=stage,
        occurred_ns=rest.pop("occurred"),  # type: ignore[arg-type]  # as above
        observed_ns=rest.pop("observed"),  # type: ignore[arg-type]  # as above
        correlation=correlation,
        tags=tags,
        parents=list(parents) if isinstance(parents, list) else [],  # type: ignore[arg-type]  # as above
        body=_body(stage, rest),
        **envelope,  # type: ignore[arg-type]  # as above
    )


_ENVELOPE = ("host", "host_address", "normalizer", "normalizer_address", "level")


def _body(stage: Stage, rest: dict[str, Value]) -> Raw | Cooked | Analyzed:
    if stage is Stage.RAW:
        payload = rest.get("event.original")
        media_type = rest.get("raw.media_type", "application/octet-stream")
        return Raw(payload if isinstance(payload, bytes) else b"", str(media_type))
    if stage is Stage.COOKED:
        return Cooked(rest)
    evidence, expected = rest.pop("diagnosis.evidence", None), rest.pop("diagnosis.expected", None)
    diagnosis, hypothesis = rest.pop("diagnosis.id", ""), rest.pop("diagnosis.hypothesis", "")
    ids = (
        [EventId(identity) for identity in evidence if isinstance(identity, bytes)]
        if isinstance(evidence, list)
        else []
    )
    missing = [str(text) for text in expected] if isinstance(expected, list) else []
    return Analyzed(str(diagnosis), str(hypothesis), ids, missing, rest)


# --- ids -------------------------------------------------------------------------------------------------------

PRODUCER_BITS = 30
SEQUENCE_BITS = 32
_PRODUCER_MASK = (1 << PRODUCER_BITS) - 1
_SEQUENCE_MASK = (1 << SEQUENCE_BITS) - 1
_EPOCH_MASK = 0xFFF


def producer_number(name: str) -> int:
    """Return the 30-bit number of a producer: a hash of ``<backplane>/<host>/<agent>/<stage>.<class>.<type>``.

    Two producers with the same number still give different ids unless they also start in the same second modulo
    4096 and stamp the same sequence number in the same millisecond.
    """
    return int.from_bytes(blake2b(name.encode(), digest_size=4).digest(), "big") >> (32 - PRODUCER_BITS)


def id_high(stamp_ms: int, epoch: int) -> int:
    """Return the upper 64 bits of the ids of a batch: 48 bits of ms, version 7, 12 bits of epoch.

    Args:
        stamp_ms: ms since 1970 UTC at which the batch was made.
        epoch: second since 1970 UTC at which the producer started.

    Source: RFC 9562 section 5.7.
    """
    return (stamp_ms & 0xFFFF_FFFF_FFFF) << 16 | 0x7000 | epoch & _EPOCH_MASK


def id_low(producer: int, sequence: int) -> int:
    """Return the lower 64 bits of an id: variant 10, 30 bits of producer, 32 bits of sequence number.

    Source: RFC 9562 section 5.7.
    """
    return 1 << 63 | (producer & _PRODUCER_MASK) << SEQUENCE_BITS | sequence & _SEQUENCE_MASK


def producer_in(identity: bytes) -> int:
    """Return the number of the producer that an id tells."""
    return int.from_bytes(identity[8:], "big") >> SEQUENCE_BITS & _PRODUCER_MASK


def sequence_in(identity: bytes) -> int:
    """Return the sequence number that an id tells, modulo 2**32."""
    return int.from_bytes(identity[8:], "big") & _SEQUENCE_MASK


def epoch_in(identity: bytes) -> int:
    """Return the epoch that an id tells, s modulo 4096."""
    return int.from_bytes(identity[:8], "big") & _EPOCH_MASK


def stamp_in(identity: bytes) -> int:
    """Return when the batch of an event was made, as its id tells, ms since 1970 UTC."""
    return int.from_bytes(identity[:6], "big")


def event_id(high: int, low: int) -> EventId:
    """Return the 16 bytes of an id from its two halves."""
    return EventId(high.to_bytes(8, "big") + low.to_bytes(8, "big"))


def id_text(identity: bytes) -> str:
    """Return an id as UUID text (RFC 9562 section 4)."""
    digits = identity.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def id_from_text(text: str) -> EventId:
    """Return an id from UUID text.

    Raises:
        ValueError: ``text`` is not 32 hexadecimal digits.
    """
    identity = bytes.fromhex(text.replace("-", ""))
    if len(identity) != 16:
        raise ValueError(f"{text!r} is not an event id: give 32 hexadecimal digits as in a UUID")
    return EventId(identity)
