"""The column of a field, and its integers, wherever a batch holds them."""

from __future__ import annotations

import numpy as np
import pytest

from eddy_mesh.batch import EXTRA, Batch, Kind, Producer
from eddy_mesh.cer import EventClass, Stage
from eddy_mesh.columnize import any_column
from eddy_mesh.columns import Column, Constant, Numbers, Text, pack
from eddy_mesh.selection.lookup import integers

KIND = Kind(Stage.COOKED, EventClass.NETWORK, "netflow.v9")
NAME = "network.packets"


def _batch(columns: dict[str, Column]) -> Batch:
    return Batch(KIND, "h", Producer(1, 1), 0, 1, 3, columns)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({}, [-1, -1, -1]),
        ({NAME: Constant(7, 3)}, [7, 7, 7]),
        ({NAME: Constant("7", 3)}, [-1, -1, -1]),
        ({NAME: Numbers(np.array([1, 2, 3], np.uint8), np.array([False, True, False]))}, [1, -1, 3]),
        ({NAME: Numbers(np.array([-9, 2**63 - 1, 3], np.int64))}, [-1, 2**62, 3]),
        ({NAME: Numbers(np.array([2**64 - 1, 0, 3], np.uint64))}, [2**62, 0, 3]),
        ({NAME: Numbers(np.array([True, False, True]))}, [-1, -1, -1]),
        ({NAME: any_column([1, -5, 2**64 - 1])}, [1, -1, 2**62]),
        ({NAME: any_column([1, "x", None])}, [1, -1, -1]),
        ({NAME: Text(*pack([b"1", b"2", b"3"]))}, [-1, -1, -1]),
        ({EXTRA: any_column([{NAME: 4}, None, {"message": "x"}])}, [4, -1, -1]),
        ({EXTRA: Constant({NAME: 4}, 3)}, [4, 4, 4]),
    ],
)
def test_integers_of_any_column(columns: dict[str, Column], expected: list[int]) -> None:
    """What is no integer counts as absent; none is negative or beyond 2**62."""
    assert integers(_batch(columns), NAME).tolist() == expected


def test_a_sparse_value_stands_beside_a_column() -> None:
    """A row that has the field only among its sparse ones has it; of two the column's counts."""
    dense = Numbers(np.array([1, 0, 3], np.uint8), np.array([False, True, False]))
    sparse = any_column([None, {NAME: 2}, {NAME: 9}])
    assert integers(_batch({NAME: dense, EXTRA: sparse}), NAME).tolist() == [1, 2, 3]
