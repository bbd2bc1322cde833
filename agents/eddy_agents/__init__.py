"""The agents that come with EDDY: one module is one agent type, found by its name."""

from __future__ import annotations
