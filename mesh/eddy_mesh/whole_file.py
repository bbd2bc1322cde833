"""Files that are whole or not there: whoever reads one finds what was written last, or what was before.

What may live here: writing such a file, and making names durable.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

PARTIAL = ".part"
"""Suffix, in place of the file's own, of what is being written; a crash may leave one, and the next writing ends it."""


def write_whole(path: Path, data: bytes, *, synced: bool, mode: int = 0o666) -> None:
    """Write a file beside its place, then put it there.

    Args:
        path: the file; its folder must exist, and no other file in it may differ from this one by its suffix only.
        data: the content.
        synced: whether it must outlive a power failure: then this waits for the disk.
        mode: its rights, before the umask.

    Raises:
        OSError: it can not be written; what was there before still is.
    """
    partial = path.with_suffix(PARTIAL)
    partial.unlink(missing_ok=True)  # an older one may have other rights
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
            if synced:
                file.flush()
                os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)  # a full disk has no room for it
        raise
    if synced:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on disk; Windows has no such call and does it by itself.

    Raises:
        OSError: the disk has failed.
    """
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
