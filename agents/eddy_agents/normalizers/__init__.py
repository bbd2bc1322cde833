"""Sources: one module takes in one kind of outside event and makes raw Common Event Records of it."""

from __future__ import annotations
