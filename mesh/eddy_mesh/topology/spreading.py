"""Spreading: which host runs which instance of an agent.

What may live here: the choice among hosts that could all do it. The same question has always the same answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence


def spread(
    instances: Sequence[str], hosts: Sequence[str], before: Mapping[str, str], load: Mapping[str, int]
) -> dict[str, str]:
    """Return a host for each instance: within one of each other in number, with as few moves as that allows.

    Args:
        instances: names of the instances of one agent, in order.
        hosts: hosts that could run them; at least one.
        before: where instances ran before; one on a host that is not among ``hosts`` has to move.
        load: what else hosts run; between equals the one with less is taken, then the one whose name comes first.
    """
    kept: dict[str, list[str]] = {host: [] for host in hosts}
    for name in instances:
        if before.get(name) in kept:
            kept[before[name]].append(name)
    # A host that had most may keep one more than the others: every other choice would move one more.
    order = sorted(kept, key=lambda host: (-len(kept[host]), load.get(host, 0), host))
    least, more = divmod(len(instances), len(order))
    room = {host: least + (rank < more) for rank, host in enumerate(order)}
    placed = {name: host for host in order for name in kept[host][: room[host]]}
    used = Counter(placed.values())
    free = sorted((number, load.get(host, 0), host) for host in order for number in range(used[host], room[host]))
    moved = [name for name in instances if name not in placed]
    return placed | {name: host for name, (_, _, host) in zip(moved, free, strict=True)}
