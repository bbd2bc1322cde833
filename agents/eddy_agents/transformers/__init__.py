"""Cookings: one module turns the raw events of one type into cooked ones with named fields."""

from __future__ import annotations
