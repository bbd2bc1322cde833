"""Settings of the store, and the DuckDB connection that they ask for.

What may live here: `StoreConfig` and what is made of it at open.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import msgspec

from eddy_mesh.errors import StoreError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

Positive: TypeAlias = Annotated[int, msgspec.Meta(ge=1)]


class StoreConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of an archive's store."""

    max_rows: Positive = 1_000_000
    """Events of one kind and hour that are held before they are sealed into a file."""
    max_age_s: Annotated[float, msgspec.Meta(ge=0)] = 60.0
    """Longest time that an event is held before it is sealed, s."""
    max_held_rows: Positive = 8_000_000
    """Events held in memory at most, all kinds together; beyond it `append` refuses until `seal` has made room."""
    max_journal_bytes: Positive = 2 << 30
    """Size of the journal at which everything is sealed, whatever its age; bytes."""
    row_group_rows: Positive = 245_760
    """Events of one row group: more make files smaller and small queries slower."""
    dictionary_values: Annotated[int, msgspec.Meta(ge=0, le=250_000)] = 1_500
    """Most different values of a column in a row group that are written once and numbered; with 50,000 a seal takes
    half as long again, and files are a quarter smaller where such values come again (times in ms), else larger.
    Room for that many is taken beforehand, 32 octets each or more for every column and thread; 0: none is numbered."""
    compression_level: Annotated[int, msgspec.Meta(ge=1, le=22)] = 1
    """Level of zstd, 1 to 22; 3 saves one byte in a hundred and costs a tenth of the speed."""
    compact_rows: Annotated[int, msgspec.Meta(ge=0)] = 200_000
    """Files of one kind and hour with fewer events than this are put together when the hour is over."""
    threads: Annotated[int, msgspec.Meta(ge=1, le=256)] = 2
    """Most threads of a query, and of a seal."""
    memory_bytes: Annotated[int, msgspec.Meta(ge=16_000_000)] = 2 << 30
    """Most memory of DuckDB for queries, and as much again for a seal; a query that needs more goes to disk; bytes."""


def connect(path: Path, config: StoreConfig, *, is_writer: bool = False) -> DuckDBPyConnection:
    """Return DuckDB in memory, shut off from all files but those of the store, and from the network.

    Args:
        path: folder of the store.
        config: its settings.
        is_writer: whether it writes files, of which threads may then finish row groups in another order.

    Raises:
        StoreError: DuckDB does not start.
    """
    import duckdb  # noqa: PLC0415  # 65 MB that most processes never need

    settings: dict[str, str | bool | int | float | list[str]] = {
        "threads": config.threads,
        "memory_limit": f"{config.memory_bytes // 1_000_000}MB",
        "temp_directory": str(path / "tmp" / "duckdb"),
        "preserve_insertion_order": not is_writer,  # it takes twice as long
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "allow_community_extensions": False,
        "python_enable_replacements": False,
    }
    try:
        connection = duckdb.connect(config=settings)
        connection.execute("SET allowed_directories = [$1, $2]", [str(path), escaped(str(path))])
        connection.execute("SET parquet_metadata_cache = true")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
    except duckdb.Error as error:
        raise StoreError(f"duckdb can not be started for {path}: {error}", retryable=False) from error
    return connection


def copy_options(config: StoreConfig) -> dict[str, str]:
    """Return the options of COPY: version 2 has delta coding, without which an id takes a byte.

    Each thread holds a row group; of long texts it takes fewer events, or the seal would never find the memory.
    """
    return {
        "PARQUET_VERSION": "V2",
        "COMPRESSION": "zstd",
        "COMPRESSION_LEVEL": str(config.compression_level),
        "ROW_GROUP_SIZE": str(config.row_group_rows),
        "DICTIONARY_SIZE_LIMIT": str(config.dictionary_values),
        "ROW_GROUP_SIZE_BYTES": str(config.memory_bytes // (4 * config.threads)),
    }


def escaped(path: str) -> str:
    """Return a path in which DuckDB sees no pattern."""
    return path.replace("[", "[[]").replace("*", "[*]").replace("?", "[?]")
