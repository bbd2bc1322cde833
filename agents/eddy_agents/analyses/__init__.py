"""Detectors: one module watches cooked events for one kind of trouble and points at its evidence."""

from __future__ import annotations
