"""Makes of one event several, one for each member of a list, or gives events types by the value of a field.

In: any cooked events: what ``subscribe`` selects. Out: ``cooked.<class>.<type>``: the type is that of `types` for the
event's value, else `as_type`, else as it came in.

* `members`: a field that holds a list, such as the answers of a DNS reply. Each of its members becomes an event with
  all the other fields, the member in `into`, and its place in ``rework.index``. A value that is no list is a list of
  one. An event without the field, or with an empty list, is passed on as it is, or left out with `unlisted`.
* `route`: a field, and `types` from its values to types of events, so that each kind has a subject of its own. A value
  that `types` does not name is passed on, or left out with `unrouted`.

Both may be given: events are routed by what they become. What is left out is counted as filtered. Of a list with more
than `max_members` the rest is told with a notice and not made events. State: none.

Source: the same steps elsewhere: Logstash's filter "split", Vector's transform "route".
"""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from eddy_agents.reworking.keys import hashes
from eddy_agents.reworking.passing import BY_STATEMENT, Bounds, Count, Rest, TypeName, admitted, passed
from eddy_mesh.agent import Example, Output, Result
from eddy_mesh.batch import Batch
from eddy_mesh.cer import Value
from eddy_mesh.columns import Column, Constant, Index
from eddy_mesh.errors import ConfigError
from eddy_mesh.fields import field, nearest
from eddy_mesh.rows import column_for
from eddy_mesh.selection.lookup import field_column

INPUT: Final = BY_STATEMENT

_ADVICE: Final = {"list_too_long": "members of long lists were not made events: raise max_members"}


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of splitting."""

    members: str = ""
    """Field with the list of which each member becomes an event; empty: no event is split."""
    into: str = "labels.member"
    """Field for the member."""
    unlisted: Rest = Rest.PASS
    """What becomes of an event without a member."""
    max_members: Count = 1000
    """Most events made of one."""
    route: str = ""
    """Field whose value decides the type; empty: none does."""
    types: dict[str, TypeName] = {}
    """Type for each value of `route`, written as text."""
    unrouted: Rest = Rest.PASS
    """What becomes of an event whose value has no type."""
    as_type: TypeName = ""
    """Type of what goes out where no other is named; empty: as it came in."""


class Cooking:
    """Events → one for each member, with types by value.

    Raises:
        ConfigError: `into` is no field.
    """

    def __init__(self, config: Config) -> None:
        if config.members and field(config.into) is None:
            hint = nearest(config.into) or "labels.member"
            raise ConfigError([f"split: into: there is no field {config.into!r}: write one such as {hint}"])
        self._config = config
        self._bounds = Bounds("split", _ADVICE)

    def on_batch(self, batch: Batch, now_ns: int) -> Result:  # noqa: ARG002  # the protocol's
        """Split and route every event of a batch."""
        taken, refusals = admitted(batch)
        index, changed = self._split(taken)
        names, chosen = self._types(taken)
        outputs: list[Output] = []
        sent = np.zeros(taken.count, np.bool_)
        for number, name in enumerate(names):
            rows = np.flatnonzero(chosen[index] == number)
            if len(rows):
                sent[index[rows]] = True
                columns = {of: column.take(rows) for of, column in changed.items()}
                outputs.append(passed(taken, index[rows], name, columns))
        return Result(outputs, refusals, taken.count - int(sent.sum()))

    def on_tick(self, now_ns: int) -> Result:  # noqa: ARG002  # the protocol's
        """Tell of lists that were too long."""
        return Result(self._bounds.notices())

    def _split(self, batch: Batch) -> tuple[Index, dict[str, Column]]:
        """Return for each event that goes out the row that it is made of, and the columns that are new."""
        config = self._config
        if not config.members:
            return np.arange(batch.count), {}
        column = field_column(batch, config.members)
        if isinstance(column, Constant) and column.value is None:
            return np.arange(batch.count if config.unlisted is Rest.PASS else 0), {}
        rows: list[int] = []
        members: list[Value] = []
        places: list[int | None] = []
        for row in range(batch.count):
            held = _listed(column.at(row))
            self._bounds.add("list_too_long", max(len(held) - config.max_members, 0))
            if held:
                part = held[: config.max_members]
                rows += [row] * len(part)
                members += part
                places += range(len(part))
            elif config.unlisted is Rest.PASS:
                rows.append(row)
                members.append(None)
                places.append(None)
        changed = {config.into: column_for(config.into, members), "rework.index": column_for("rework.index", places)}
        if config.into != config.members:
            changed[config.members] = Constant(None, len(rows))
        return np.array(rows, np.intp), changed

    def _types(self, batch: Batch) -> tuple[list[str], npt.NDArray[np.intp]]:
        """Return the types of what goes out, and for each event the number of its own; -1 where it is left out."""
        config = self._config
        if not config.route:
            return [config.as_type], np.zeros(batch.count, np.intp)
        names = list(dict.fromkeys([config.as_type, *config.types.values()]))
        number_of = {value: names.index(name) for value, name in config.types.items()}
        other = -1 if config.unrouted is Rest.DROP else 0
        _, firsts, which = np.unique(hashes(batch, (config.route,)), return_index=True, return_inverse=True)
        column = field_column(batch, config.route)
        numbers = [number_of.get(_written(column.at(row)), other) for row in firsts.tolist()]
        return names, np.array(numbers, np.intp)[which]


def _written(value: Value) -> str:
    """Return a value as `types` has it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _listed(value: Value) -> list[Value]:
    if isinstance(value, list):
        return [member for member in value if member is not None]  # type: ignore[misc]  # members of values are values
    return [] if value is None else [value]


EXAMPLES: tuple[Example, ...] = (
    Example(
        given=(
            {"message": "a", "syslog.repair": ["year", "timezone"]},
            {"message": "b"},
        ),
        expected=(
            {"message": "a", "labels.member": "year", "rework.index": 0, "syslog.repair": None},
            {"message": "a", "labels.member": "timezone", "rework.index": 1},
            {"message": "b", "labels.member": None},
        ),
        config={"members": "syslog.repair"},
    ),
    Example(
        given=(
            {"destination.port": 53, "message": "a"},
            {"destination.port": 80, "message": "b"},
            {"destination.port": 7, "message": "c"},
        ),
        expected=({"message": "b", "type": "flow.web"}, {"message": "a", "type": "flow.dns"}),
        config={
            "route": "destination.port",
            "types": {"80": "flow.web", "53": "flow.dns"},
            "unrouted": "drop",
        },
    ),
)
