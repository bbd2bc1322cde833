"""Anonymization of events: policy, keys, address encryption, tokens. Pure: no IO, no clock."""

from __future__ import annotations
