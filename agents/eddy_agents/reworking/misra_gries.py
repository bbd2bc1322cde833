"""Which keys weigh most, in bounded memory: a summary of weighted counts.

What may live here: `Summary`. It is Misra and Gries's, fed a batch at a time; Space-Saving with one counter more keeps
the same information (a Space-Saving counter is one of these plus `Summary.error`).

Bounds, for a total weight W and m counters, whatever the order in which the weights come:

* ``counter <= weight of its key <= counter + error``, and a key without counter weighs at most ``error``;
* ``error <= W / (m + 1)``, so every key that weighs more than that has a counter; and ``error`` is 0 while there are no
  more than m different keys.

Source: Misra, Gries, "Finding repeated elements" (1982); Metwally, Agrawal, El Abbadi, "Efficient computation of
frequent and top-k elements in data streams" (2005); Agarwal et al., "Mergeable summaries" (2012), sections 2 and 3
(batches, and that both are one).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from eddy_mesh.hashing import Hashes


class Summary:
    """Counters of the keys that weigh most.

    Args:
        capacity: most counters.

    Attributes:
        keys: those that have a counter, ascending.
        counters: of each of them, more than 0.
        error: by how much a counter may be too low.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self.keys: Hashes = np.zeros(0, np.uint64)
        self.counters: npt.NDArray[np.float64] = np.zeros(0, np.float64)
        self.error = 0.0

    def add(self, keys: Hashes, weights: npt.NDArray[np.float64]) -> None:
        """Take in keys, which may repeat, and what each weighs, 0 or more."""
        found, which = np.unique(np.concatenate((self.keys, keys)), return_inverse=True)
        counters = np.zeros(len(found), np.float64)
        np.add.at(counters, which, np.concatenate((self.counters, weights)))
        if len(found) > self._capacity:
            place = len(found) - self._capacity - 1
            cut = float(np.partition(counters, place)[place])  # the largest that gets no counter
            self.error += cut
            counters -= cut
        held = counters > 0
        self.keys, self.counters = found[held], counters[held]

    def top(self, count: int) -> Hashes:
        """Return so many keys that weigh most, ascending; all where there are fewer."""
        if len(self.keys) <= count:
            return self.keys
        return np.sort(self.keys[np.argsort(-self.counters, kind="stable")[:count]])
