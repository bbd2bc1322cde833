"""What to do with a file that is followed: the decisions, without touching one.

What may live here: what is remembered of a file, how it is recognised again, where reading begins, and the form of
the checkpoint. A file is known by device and inode, and by a digest of its first KiB: an inode is used again after a
file is deleted, and copytruncate keeps the inode while the content changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from hashlib import blake2b
from typing import NamedTuple

import msgspec

HEAD_BYTES = 1024
"""How much of the beginning of a file is part of its identity."""

_HOLE_BYTES = 16
"""So many NULs are a hole: copytruncate makes one under a writer that does not append."""


class Start(StrEnum):
    """Where a file that was never followed is read from."""

    END = "end"
    BEGINNING = "beginning"


class FileKey(NamedTuple):
    """What the file system knows a file by."""

    device: int
    inode: int


class Place(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far a file was read.

    Attributes:
        path: where it was seen last.
        device: of the file system.
        inode: of the file.
        offset: octets from its start that have been taken; the next line begins there.
        head_bytes: how many octets the digest covers, at most `HEAD_BYTES`.
        head_digest: of the first ``head_bytes`` octets.
    """

    path: str
    device: int
    inode: int
    offset: int
    head_bytes: int
    head_digest: str

    @property
    def key(self) -> FileKey:
        """What the file system knows the file by."""
        return FileKey(self.device, self.inode)


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What survives a restart.

    Attributes:
        include: patterns that were followed.
        places: one for each file that was followed.
    """

    include: tuple[str, ...]
    places: tuple[Place, ...]


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at a file shows: its identity, size in octets, and first octets (`HEAD_BYTES` at most)."""

    key: FileKey
    size: int
    head: bytes


def digest(head: bytes) -> str:
    """Return the digest of the first octets of a file."""
    return blake2b(head, digest_size=16).hexdigest()


def is_same_content(place: Place, look: Look) -> bool:
    """Return whether a file still is what was read: not shorter, and its beginning unchanged."""
    if look.size < place.offset or len(look.head) < place.head_bytes:
        return False
    return digest(look.head[: place.head_bytes]) == place.head_digest


def first_offset(
    path: str,
    look: Look,
    *,
    known: Mapping[FileKey, Place],
    earlier: Checkpoint | None,
    start: Start,
    is_first_scan: bool,
    include: Sequence[str],
) -> int:
    """Return the offset from which a file is read that was found just now.

    A file goes on where its checkpoint says. One that has none, or has other content now, is read from its beginning
    if it appeared under watch: after the first scan, or while the agent was down between two runs that follow the
    same patterns. Only a file that was there before anybody watched begins where ``start`` says.

    Args:
        path: of the file.
        look: what it shows.
        known: places of the checkpoint, by identity.
        earlier: the checkpoint of the last run, None when there is none.
        start: for files that nobody watched.
        is_first_scan: whether this is the first scan of this run.
        include: patterns of this run.
    """
    place = known.get(look.key)
    if place is not None:
        return place.offset if is_same_content(place, look) else 0
    was_watched = earlier is not None and any(matches(path, pattern) for pattern in set(earlier.include) & set(include))
    if not is_first_scan or was_watched or start == Start.BEGINNING:
        return 0
    return look.size


def matches(path: str, pattern: str) -> bool:
    """Return whether a glob pattern names a path; ``**/`` stands for any folders or none, and ``*`` crosses ``/``."""
    return fnmatchcase(path, pattern) or fnmatchcase(path, pattern.replace("**/", ""))


def is_text(head: bytes) -> bool:
    """Return whether a file that begins so holds lines: no NUL but in a leading hole."""
    return b"\0" not in head[leading_hole(head) :]


def leading_hole(chunk: bytes) -> int:
    """Return how many NULs a chunk begins with when they are a hole in the file, else 0."""
    if not chunk.startswith(b"\0" * _HOLE_BYTES):
        return 0
    return len(chunk) - len(chunk.lstrip(b"\0"))


def next_wait_s(wait_s: float, *, was_active: bool, least_s: float, most_s: float) -> float:
    """Return how long to wait before the next look: the least after growth, then by half longer each time."""
    return least_s if was_active else min(max(wait_s * 1.5, least_s), most_s)
