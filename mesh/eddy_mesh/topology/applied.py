"""What a host process was told to run last, as it is kept in its state directory.

What may live here: the form of that file, and how it is read and written. Who writes it is the agent-manager; a host
process that starts reads it, so that it begins with what it ended with, also while no manager and no server is there.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from eddy_mesh.config import Serving
from eddy_mesh.errors import StoreError
from eddy_mesh.whole_file import write_whole

FILE = "applied.json"
"""In the directory of the agent-manager."""

Tables = dict[str, dict[str, object]]
"""By name of the agent or child: its tables, as in a configuration file."""


class Applied(msgspec.Struct, frozen=True):
    """What was settled last.

    Attributes:
        revision: number of the placement; 0 for what nobody numbered.
        agents: tables of the agents.
        children: tables of the host processes below this one.
        edges: what is served of each edge of the topology.
        tags: names of the tags that events may carry; None: those of the configuration file.
    """

    revision: int
    agents: Tables
    children: Tables = {}
    edges: dict[str, Serving] = {}
    tags: tuple[str, ...] | None = None


def read(folder: Path) -> Applied | None:
    """Return what the file says; None where nothing was applied yet.

    Args:
        folder: the directory of the agent-manager.

    Raises:
        StoreError: it is damaged, or can not be read: then the configuration file stands.
    """
    path = folder / FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Applied)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        text = f"{path} can not be read: {error}: the configuration file counts; apply the topology again"
        raise StoreError(text, retryable=False) from None


def write(folder: Path, applied: Applied) -> None:
    """Write the file; it outlives a power failure.

    Args:
        folder: the directory of the agent-manager.
        applied: what was settled.

    Raises:
        StoreError: it can not be written; what it said before still stands.
    """
    path = folder / FILE
    try:
        write_whole(path, msgspec.json.encode(applied), synced=True)
    except OSError as error:
        raise StoreError(f"{path}: can not be written: {error}: make room, it is tried again") from None
