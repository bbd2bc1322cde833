"""Keys of events: one 64-bit number for the values that an event has in some fields.

What may live here: `hashes` and looking keys up. Equal values have equal numbers whatever column holds them, in every
process and at every time; see `eddy_mesh.hashing`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from eddy_mesh.batch import Batch
from eddy_mesh.fields import type_of
from eddy_mesh.hashing import Hashes, column_hashes, mixed
from eddy_mesh.selection.lookup import field_column

FLOW: Final = ("source.ip", "destination.ip", "source.port", "destination.port", "network.iana_number")
"""The 5-tuple. Its two directions have different keys. Source: RFC 7011 section 2."""

_NULL: Final = np.uint64(0x6E75_6C6C)
_MASK: Final = (1 << 64) - 1


def hashes(batch: Batch, names: Sequence[str], seed: int = 0) -> Hashes:
    """Return one number for each event, equal where all the named fields are equal; no value equals no value.

    Args:
        batch: events.
        names: dotted field names, in order; ``id`` is the event's own.
        seed: another one gives numbers that have nothing to do with these.
    """
    found = np.full(batch.count, seed & _MASK, np.uint64)
    for name in names:
        values, missing = column_hashes(type_of(name), field_column(batch, name))
        found = mixed(found ^ np.where(missing, _NULL, values))
    return found


def among(keys: Hashes, others: Hashes) -> npt.NDArray[np.bool_]:
    """Return True for each key that is one of the others, which are ascending."""
    if not len(others):
        return np.zeros(len(keys), np.bool_)
    places = np.minimum(np.searchsorted(others, keys), len(others) - 1)
    found: npt.NDArray[np.bool_] = others[places] == keys
    return found
