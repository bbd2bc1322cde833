"""Record: the topology of record, as it lies under one key of the store.

What may live here: the structs and their encoding. Who may change it when is in `eddy_mesh.topology.transitions`.
"""

from __future__ import annotations

import zlib
from enum import StrEnum
from typing import Annotated

import msgspec

from eddy_mesh.errors import WireError
from eddy_mesh.topology.placement import Placement

KEY = "topology"
COMPRESS_BYTES = 262_144
"""Shorter records stay as text that people can read in the store."""
MAX_BYTES = 64 * 1024 * 1024
"""Longest record; placements of some 20,000 agents."""


class RecordState(StrEnum):
    """How far a topology is carried out."""

    APPLYING = "applying"
    APPLIED = "applied"
    ROLLING_BACK = "rolling-back"


class Ending(StrEnum):
    """How a change came to be of record, or what was there before it again."""

    APPLIED = "applied"
    REFUSED = "refused"
    ROLLED_BACK = "rolled_back"


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """Which manager carries a change out, ``<host>/<agent>``; until when is told by `eddy_mesh.topology.claims`."""

    manager: str


class Terms(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """How a change is to be carried out.

    Attributes:
        observe_s: how long the agents that were started or changed are observed, s; 0: not at all.
        watermark_s: how long a batch may wait for one of them meanwhile, s; shorter than the observation, or it is not
            seen.
        without: host processes that are left alone; they take the record up when they come.
    """

    observe_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 5.0
    watermark_s: Annotated[float, msgspec.Meta(gt=0)] = 3.0
    without: tuple[str, ...] = ()


class Source(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A manifest as it was given.

    Attributes:
        text: the TOML text with its comments; "" where only tables were given.
        tables: its tables.
    """

    text: str = ""
    tables: dict[str, object] = {}


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The topology of record.

    Attributes:
        revision: number of the placement.
        state: how far it is carried out.
        who: the person or program that wanted it.
        when_ns: when it began, ns since 1970 UTC.
        why: the reason given; for a rollback what was unhealthy.
        source: the manifest.
        placement: what is to run.
        before: what ran before, from which the steps are made.
        source_before: its manifest.
        claim: who carries it out; None when it is applied.
        settled_ns: when it was applied, 0 while it is not.
        terms: how it is to be carried out.
        strays: agents by host process that ran there before its first placement, and that it ends.
        ending: how it ended; None while it has not.
        labels: what host processes told of themselves when it was planned, by name: for a manager that starts.
    """

    revision: int
    state: RecordState
    who: str
    when_ns: int
    why: str
    source: Source
    placement: Placement
    before: Placement = Placement()
    source_before: Source = Source()
    claim: Claim | None = None
    settled_ns: int = 0
    ending: Ending | None = None
    terms: Terms = Terms()
    strays: dict[str, tuple[str, ...]] = {}
    labels: dict[str, dict[str, str]] = {}


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What is to become of record.

    Attributes:
        placement: made with the placement of record as the one before it.
        source: its manifest.
        terms: how it is to be carried out.
        strays: agents by host process that run there and that no placement names.
        labels: what host processes tell of themselves, by name.
    """

    placement: Placement
    source: Source
    terms: Terms = Terms()
    strays: dict[str, tuple[str, ...]] = {}
    labels: dict[str, dict[str, str]] = {}


def describe(record: Record) -> str:
    """Return in words what the record says: for whoever lost a race for it."""
    told = f"revision {record.revision} of {record.who or 'nobody named'}"
    if record.claim is None:
        return f"{told} is applied"
    return f"{told} is {record.state}, carried out by {record.claim.manager}"


def encode(record: Record) -> bytes:
    """Return the record as JSON, compressed where it is long: a store takes 1 MiB under one key."""
    data = msgspec.json.encode(record)
    return zlib.compress(data) if len(data) > COMPRESS_BYTES else data


def decode(data: bytes) -> Record:
    """Return the record of its JSON.

    Raises:
        WireError: it is none.
    """
    try:
        if data[:1] != b"{":
            data = zlib.decompressobj().decompress(data, MAX_BYTES)
        return msgspec.json.decode(data, type=Record)
    except (msgspec.MsgspecError, zlib.error, UnicodeDecodeError, RecursionError) as error:
        hint = f"delete the key {KEY} of the bucket, and apply again"
        raise WireError("topology", f"not a record of a topology ({error}): {hint}") from None
