"""EDDY mesh: the runtime library of a diagnostic backplane over NATS.

For tool authors: ``from eddy_mesh import connect``, then ``mesh.tap``, ``mesh.query`` and ``mesh.control``.
For authors of agents: `eddy_mesh.agent`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eddy_mesh.version import __version__

if TYPE_CHECKING:
    from eddy_mesh.api import Event, Mesh, connect


__all__ = ["Event", "Mesh", "__version__", "connect"]


def __getattr__(name: str) -> object:
    """Load the Event API when it is first used, so that a program that needs one module starts quickly."""
    if name in {"Event", "Mesh", "connect"}:
        from eddy_mesh import api  # noqa: PLC0415

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
