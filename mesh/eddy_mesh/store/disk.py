"""What the store asks of the file system: one owner for a folder, durable names, and errors that say what to do.

What may live here: the lock of a folder, making what is in it durable, and the map from `OSError` to `StoreError`.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
from pathlib import Path
from typing import IO

from eddy_mesh.errors import StoreError
from eddy_mesh.whole_file import sync_folder

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

if sys.platform == "win32":
    import msvcrt

    def _lock(file: IO[bytes]) -> None:
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(file: IO[bytes]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def lock_folder(folder: Path) -> IO[bytes]:
    """Take a folder for this process until the returned file is closed; the lock ends with the process.

    Raises:
        StoreError: another store has it, or the folder can not be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("ab")
    except OSError as error:
        raise store_error(error, folder) from error
    try:
        _lock(file)
    except OSError:
        file.close()
        message = f"{folder} is in use by another store: stop that agent, or give this one another folder"
        raise StoreError(message) from None
    return file


def sync_data(file: IO[bytes]) -> None:
    """Wait until the content of a file is on disk (its length included, its times not)."""
    if sys.platform == "linux":
        os.fdatasync(file.fileno())
    else:
        os.fsync(file.fileno())


def sync_file(path: Path) -> None:
    """Wait until the content of a file that is not open here is on disk."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, each name durable."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def store_error(error: OSError, path: Path) -> StoreError:
    """Return what to raise for an error of the operating system on ``path``."""
    if error.errno in _FULL:
        return full_error(path)
    return StoreError(f"{path}: {error.strerror or error}; check the disk and the rights of this user")


def full_error(path: Path) -> StoreError:
    """Return what to raise when there is no room for ``path``; names the bytes that are left."""
    free = f"{free_bytes(path):,} bytes are free"
    return StoreError(f"no room to write {path}: {free}; make room or move the archive, nothing taken is lost")


def free_bytes(path: Path) -> int:
    """Return the bytes that this user may still write on the disk that holds ``path``, or -1 where it can not tell."""
    existing = next((folder for folder in (path, *path.parents) if folder.exists()), None)
    try:
        return -1 if existing is None else shutil.disk_usage(existing).free
    except OSError:
        return -1
