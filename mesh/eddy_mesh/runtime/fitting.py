"""Fitting: what a host process tells of itself, cut down to what one message holds. Pure.

What may live here: what is left out first. Rather without the census than not at all: a host process whose heartbeats
do not arrive is taken for gone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec


def fitting(told: Mapping[str, object], limit: int) -> bytes:
    """Return as JSON what is told, with ``"truncated": true`` where something was left out.

    Args:
        told: status of a host process or of an agent, or the answer to a command.
        limit: octets that a message holds; what is longer without all that can be left out is returned as it is then.
    """
    data = msgspec.json.encode(told)
    cut = {**told, "truncated": True}
    for key, shorter in CUTS:
        if len(data) <= limit:
            break
        if cut.get(key):
            cut[key] = shorter(cut[key])
            data = msgspec.json.encode(cut)
    return data


def _without_fields(types: object) -> object:
    rows = types if isinstance(types, list) else []
    return [{**row, "fields": []} for row in rows if isinstance(row, dict)]


def _nothing(told: object) -> object:
    return {} if isinstance(told, dict) else []


CUTS: tuple[tuple[str, Callable[[object], object]], ...] = (
    ("types", _without_fields),
    ("types", _nothing),
    ("subscriptions", _nothing),
    ("local_store", _nothing),
    ("edges", _nothing),
    ("detail", _nothing),
)
"""What is left out, in this order, until the rest fits."""
