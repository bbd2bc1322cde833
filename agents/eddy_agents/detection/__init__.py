"""What detectors share: how they read flows and packets, and how they remember within limits."""

from __future__ import annotations
