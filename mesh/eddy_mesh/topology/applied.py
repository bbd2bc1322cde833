"""What a host process was told to run last, as it is kept in its state directory.

What may live here: the form of that file. Who writes it is the agent-manager; a host process that starts reads it, so
that it begins with what it ended with, also while no manager and no server is there.
"""

from __future__ import annotations

import msgspec

from eddy_mesh.config import Serving

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


def decode(data: bytes) -> Applied | None:
    """Return what the file holds; None where it is damaged: then the configuration file stands."""
    try:
        return msgspec.json.decode(data, type=Applied)
    except msgspec.MsgspecError:
        return None
