"""Where a sealed file lies and what its name says.

What may live here: the partition of an event, and file names to and from what they say. The name of a file carries the
run of journal segments that it covers: every event of its partition in those segments is in the file, so after a crash
nobody has to compare ids. Runs of one partition never overlap; a file whose run lies inside another's was compacted.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import NamedTuple
from urllib.parse import quote, unquote

from eddy_mesh.batch import Batch, Kind
from eddy_mesh.cer import EventClass, Stage

HOUR_MS = 3_600_000
SUFFIX = ".parquet"

_NAME = re.compile(r"(?P<stamp>\d+)-(?P<first>\d+)-(?P<last>\d+)")


class Partition(NamedTuple):
    """Events that are stored together: one kind, one hour of stamps (``hour``: hours since 1970 UTC)."""

    kind: Kind
    hour: int

    @property
    def folder(self) -> PurePosixPath:
        """Folder below the root: ``<stage>/<class>/<type>/<YYYY-MM-DD>/<HH>``."""
        moment = datetime.fromtimestamp(self.hour * 3600, UTC)
        kind = self.kind
        return PurePosixPath(kind.stage, kind.event_class, _token(kind.type), f"{moment:%Y-%m-%d}", f"{moment:%H}")


class FileName(NamedTuple):
    """What the path of a sealed file says: its partition, the first stamp in it, and its run of journal segments."""

    partition: Partition
    stamp_ms: int
    first_segment: int
    last_segment: int

    @property
    def path(self) -> PurePosixPath:
        """Path below the root."""
        return self.partition.folder / f"{self.stamp_ms}-{self.first_segment:012d}-{self.last_segment:012d}{SUFFIX}"

    def covers(self, other: FileName) -> bool:
        """Return whether every event of ``other`` is in this file too."""
        inside = self.first_segment <= other.first_segment and other.last_segment <= self.last_segment
        longer = self.last_segment - self.first_segment > other.last_segment - other.first_segment
        return inside and longer and self.partition == other.partition


def partition_of(batch: Batch) -> Partition:
    """Return the partition of a batch: a batch is never split over two."""
    return Partition(batch.kind, min(batch.stamp_ms // HOUR_MS, _LAST_HOUR))


_LAST_HOUR = int(datetime(9999, 12, 31, 23, tzinfo=UTC).timestamp()) // 3600
"""A stamp beyond what a calendar can name, from a broken clock, is stored with the last hour of the calendar."""


def file_name(path: PurePosixPath) -> FileName | None:
    """Return what a path below the root says, or None when it is not that of a sealed file."""
    parts = path.parts
    matched = _NAME.fullmatch(path.stem)
    if len(parts) != 6 or matched is None or path.suffix != SUFFIX:
        return None
    stage, event_class, kind, day, hour, _ = parts
    try:
        moment = datetime.strptime(f"{day} {hour} +0000", "%Y-%m-%d %H %z")
        named = Kind(Stage(stage), EventClass(event_class), unquote(kind, errors="strict"))
    except ValueError:
        return None
    partition = Partition(named, int(moment.timestamp()) // 3600)
    return FileName(partition, int(matched["stamp"]), int(matched["first"]), int(matched["last"]))


def _token(text: str) -> str:
    """Return a type as the name of a folder, reversibly: no separator, no hidden or relative name."""
    escaped = quote(text, safe="")
    return escaped.replace(".", "%2E") if escaped.startswith(".") else escaped or "%"
