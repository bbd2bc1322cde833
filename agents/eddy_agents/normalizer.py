"""Normalizer: takes events in from the outside world as raw events, untouched.

Out: ``<backplane>.event.raw.<class>.<type>.<origin>``. What it listens to is its *source*, one file each in
``eddy_agents/normalizers``. A raw event keeps the source's bytes exactly: one datagram, one line, one record.
"""

from __future__ import annotations

SCOPE = "host"
EMIT = "demand"
