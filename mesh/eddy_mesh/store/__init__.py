"""The storage engine of the archive: a crash-safe journal in front, Parquet files at rest, DuckDB to read them.

Start at `eddy_mesh.store.archive_store`. Decisions: ``docs/decisions/0003-archive-storage.md``.
"""

from __future__ import annotations
