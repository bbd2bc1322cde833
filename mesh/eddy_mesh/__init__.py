"""EDDY mesh: the runtime library of a diagnostic backplane over NATS.

For tool authors: ``from eddy_mesh import connect``, then ``mesh.tap``, ``mesh.query`` and ``mesh.control``.
For authors of agents: `eddy_mesh.agent`.
"""

from __future__ import annotations

__version__ = "0.1.0"
