"""Settings of the store: what they refuse, and that they reach the files."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import duckdb
import msgspec
import numpy as np
import pytest

from eddy_mesh.batch import Batch, Kind, Producer
from eddy_mesh.cer import EventClass, Stage
from eddy_mesh.columns import Numbers
from eddy_mesh.store.archive_store import ArchiveStore, StoreConfig


@pytest.mark.parametrize("setting", StoreConfig.__struct_fields__)
def test_a_negative_setting_is_refused(setting: str) -> None:
    """A number that DuckDB would refuse at each seal, when events wait, is refused when the configuration is read."""
    assert msgspec.convert({setting: getattr(StoreConfig(), setting)}, StoreConfig) == StoreConfig()
    with pytest.raises(msgspec.ValidationError, match=rf">= .* at `\$\.{setting}`"):
        msgspec.convert({setting: -1}, StoreConfig)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("dictionary_values", 2**40), ("compression_level", 23), ("threads", 0), ("threads", 2**40), ("memory_bytes", 0)],
)
def test_what_takes_too_much_is_refused(setting: str, value: int) -> None:
    """Room for numbered values is taken before any is seen: with 2**40 of them no file could be written."""
    with pytest.raises(msgspec.ValidationError, match=setting):
        msgspec.convert({setting: value}, StoreConfig)


@pytest.mark.parametrize(("most", "is_numbered"), [(0, False), (6, False), (7, True), (250_000, True)])
def test_values_are_numbered_up_to_the_limit(tmp_path: Path, most: int, is_numbered: bool) -> None:
    """A column with more different values in a row group than ``dictionary_values`` is written without a dictionary."""
    column = Numbers(np.arange(7000, dtype=np.uint16) % 7)
    batch = Batch(
        Kind(Stage.COOKED, EventClass.NETWORK, "x"),
        "h",
        Producer(7, 1_789_999_999),
        0,
        1_790_000_000_000,
        len(column),
        {"source.port": column},
    )
    with closing(ArchiveStore(tmp_path, StoreConfig(threads=1, dictionary_values=most), 0)) as store:
        store.append([batch])
        assert store.seal(0, force=True) == 1
    (file,) = tmp_path.rglob("*.parquet")
    with closing(duckdb.connect()) as connection:
        statement = "SELECT encodings FROM parquet_metadata($1) WHERE path_in_schema = 'source.port'"
        (encodings,) = connection.execute(statement, [str(file)]).fetchone() or ("",)
    assert ("DICTIONARY" in encodings) is is_numbered
