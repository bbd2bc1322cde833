"""The select/project language: one plan, three back ends that agree on every statement and event.

* `compile_statement`: text → `Plan` (checked against the field registry).
* Live batches: `matcher`, `Index` (many statements at once), `project`, `LiveAggregate`.
* Stores: `to_sql`.
* NATS: `subjects`, `matches_kind`.

The language is described in ``docs/select-language.md``; its grammar is ``grammar.lark`` beside this file.
"""

from __future__ import annotations

from eddy_mesh.selection.aggregate import LiveAggregate
from eddy_mesh.selection.evaluate import Matcher, matcher
from eddy_mesh.selection.index import Index
from eddy_mesh.selection.parse import compile_statement
from eddy_mesh.selection.plan import Plan, needed_fields, row_names
from eddy_mesh.selection.prefilter import matches_kind, subject_matches, subjects
from eddy_mesh.selection.project import project
from eddy_mesh.selection.render import render
from eddy_mesh.selection.sql import DUCKDB, SQLITE, Dialect, Query, Stored, to_sql

__all__ = [
    "DUCKDB",
    "SQLITE",
    "Dialect",
    "Index",
    "LiveAggregate",
    "Matcher",
    "Plan",
    "Query",
    "Stored",
    "compile_statement",
    "matcher",
    "matches_kind",
    "needed_fields",
    "project",
    "render",
    "row_names",
    "subject_matches",
    "subjects",
    "to_sql",
]
