"""Tags: which ones the events of a backplane may carry, and what becomes of the others where they come in.

What may live here: the declared names and the gate that new events pass. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from eddy_mesh.columns import Column, nulls_of

PREFIX = "tags."
OWN = frozenset({"anonymization"})
"""Tags that EDDY itself sets; nobody declares them."""

MAX_TOLD = 32
"""Undeclared names that are told one by one: they come from outside, any number of them."""

OTHERS = "others"
"""In place of the names beyond `MAX_TOLD`."""


class TagGate:
    """Takes undeclared tags from new events, and counts them; the events go on.

    Args:
        declared: names of the tags that events may carry, without ``tags.``.

    Attributes:
        removed: events by the name of the undeclared tag that was taken from them.
    """

    def __init__(self, declared: Iterable[str]) -> None:
        self._allowed = frozenset(PREFIX + name for name in {*declared, *OWN})
        self.removed: Counter[str] = Counter()

    def admit(self, columns: Mapping[str, Column]) -> tuple[Mapping[str, Column], list[str]]:
        """Return the columns without undeclared tags, and the names of those that were not met before.

        Args:
            columns: of new events, by field name; the same object comes back where nothing is taken away.
        """
        undeclared = [name for name in columns if name.startswith(PREFIX) and name not in self._allowed]
        if not undeclared:
            return columns, []
        fresh: list[str] = []
        for name in undeclared:
            count = len(columns[name]) - int(nulls_of(columns[name]).sum())
            if not count:
                continue
            tag = name.removeprefix(PREFIX)
            if tag not in self.removed:
                tag = tag if len(self.removed) < MAX_TOLD else OTHERS
                fresh += [tag] if tag not in self.removed else []
            self.removed[tag] += count
        return {name: column for name, column in columns.items() if name not in set(undeclared)}, fresh
