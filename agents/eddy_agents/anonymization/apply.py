"""The anonymizer: a policy over the fields of batches.

Events in: any. Events out: the same events, with the same ids and parents, without what the policy takes away, and with
the tag ``tags.anonymization``, ``<policy>/<epoch>``. An event for which no key is in force is refused (``no_key``): it
never passes in the clear.

The key in force is that of the event's own time, so that stored and replayed events get the same results as live ones.
The name of the source's host, which is a part of the subject, is replaced as the policy says for ``host``. The number
of the producer stays: a hash of backplane, host and agent, which whoever knows all three can try out.

All methods but drop and truncate are deterministic while a key is in force: equal values stay recognisable as equal,
and Crypto-PAn also shows which addresses are neighbours. See `eddy_agents.anonymization.crypto_pan`.

What may live here: columns, and the agent's logic. One value is in `eddy_agents.anonymization.values`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import numpy.typing as npt

from eddy_agents.anonymization import ipcrypt
from eddy_agents.anonymization.keys import NO_KEY, KeyRing
from eddy_agents.anonymization.policy import Config, Method, Policy, Rule, Special
from eddy_agents.anonymization.values import NUMBER_TYPES, Keyed, fits, is_checked
from eddy_mesh.agent import Refusal, Result
from eddy_mesh.batch import EXTRA, Batch
from eddy_mesh.cer import Value
from eddy_mesh.columnize import any_column, column_of
from eddy_mesh.columns import Addresses, Bytes, Column, Constant, Ids, Maps, Numbers, Words, pack
from eddy_mesh.fields import FieldType, type_of

TAG = "tags.anonymization"

NO_ORIGIN = "anonymized"
"""Origin of events whose policy drops the host: a subject can not do without one."""

Names = Sequence[Sequence[str]] | None
"""Names to look for in the text of each row."""


class Anonymizer:
    """Applies a policy (form: `eddy_mesh.agent.Stateful`).

    Args:
        config: the policy.
        keys: secrets by epoch, see `eddy_agents.anonymization.keys.load_keys`.

    Raises:
        ConfigError: all mistakes in the policy.
        SecurityError: a key does not fit a method of the policy.
    """

    def __init__(self, config: Config, keys: KeyRing) -> None:
        self._config = config
        self._keys = keys
        self._policy = Policy(config)
        if self._policy.uses(Method.IPCRYPT_PFX):
            for epoch in keys.epochs:
                ipcrypt.check_pfx_key(epoch.key)
        self._special = Special(config.special) if config.keep_special else None
        self._keyed: dict[int, Keyed] = {}

    def on_batch(self, batch: Batch, now_ns: int) -> Result:
        """Return the events as the policy lets them through, one batch for each key in force.

        Args:
            batch: any events.
            now_ns: ns since 1970 UTC.
        """
        in_force = self._keys.in_force(self._times(batch, now_ns))
        present = [which for which in np.unique(in_force).tolist() if which != NO_KEY]
        outputs = [self._under(which, batch.filter(in_force == which)) for which in present]
        missing = np.flatnonzero(in_force == NO_KEY).tolist()
        if not missing:
            return Result(outputs)
        detail = "no key was in force at the time of the event: add one with an earlier not_before to the key file"
        return Result(outputs, [Refusal(missing, "no_key", detail)])

    def on_tick(self, now_ns: int) -> Result:  # noqa: ARG002  # the protocol's argument
        """Return nothing: an anonymizer keeps no events."""
        return Result()

    def _times(self, batch: Batch, now_ns: int) -> npt.NDArray[np.int64]:
        times = np.full(batch.count, now_ns, np.int64)
        if self._config.epoch_by == "now":
            return times
        for name in ("observed", "occurred"):
            column = batch.column(name)
            if isinstance(column, Constant) and type(column.value) is int:
                times[:] = min(max(column.value, -_LATEST), _LATEST)
            elif isinstance(column, Numbers) and column.values.dtype.kind in "iu":
                has = np.ones(batch.count, np.bool_) if column.nulls is None else ~column.nulls
                times[has] = _int64(column.values[has])
        return times

    def _under(self, which: int, batch: Batch) -> Batch:
        epoch = self._keys.epochs[which]
        keyed = self._keyed.get(which)
        if keyed is None:
            while len(self._keyed) >= _KEYS_AT_ONCE:
                self._keyed.pop(next(iter(self._keyed)))
            keyed = self._keyed[which] = Keyed(epoch, self._policy, self._special)
        names = self._names(batch)
        columns: dict[str, Column] = {}
        for name, column in batch.columns.items():
            changed = self._column(keyed, name, column, names)
            if changed is not None:
                columns[name] = changed
        columns[TAG] = Constant(f"{self._config.policy}/{epoch.number}", batch.count)
        return replace(batch, origin=self._origin(keyed, batch.origin), columns=columns)

    def _origin(self, keyed: Keyed, origin: str) -> str:
        """Return what stands for the source's host in subjects and headers: as the rule of ``host`` says."""
        rule = self._policy.rule("host")
        return str(keyed.value("host", origin, rule, (origin,)) or NO_ORIGIN)

    def _names(self, batch: Batch) -> Names:
        """Return what scrub has to look for in each row; None where no field is scrubbed."""
        scrubbed = any(self._policy.rule(name).method is Method.SCRUB for name in batch.columns)
        if not scrubbed and EXTRA not in batch.columns:
            return None
        held = [batch.columns[name] for name in self._config.names_in_text if name in batch.columns]
        extra = batch.columns.get(EXTRA)
        if extra is None and all(isinstance(column, Constant) for column in held):
            return [[*_texts([column.at(0) for column in held]), batch.origin]] * batch.count
        rows = []
        for row in range(batch.count):
            values = [column.at(row) for column in held]
            members = extra.at(row) if extra is not None else None
            if isinstance(members, dict):
                values += [cast("Value", members.get(name)) for name in self._config.names_in_text]
            rows.append([*_texts(values), batch.origin])
        return rows

    def _column(self, keyed: Keyed, name: str, column: Column, names: Names) -> Column | None:
        if name == EXTRA:
            return _members(keyed, column, names)
        rule = self._policy.rule(name)
        if rule.method is Method.DROP:
            return None
        return (
            kept_column(name, column)
            if rule.method is Method.KEEP
            else changed_column(keyed, name, column, rule, names)
        )


_KEYS_AT_ONCE = 4
"""Keys made ready and kept, with their caches of some megabytes each."""

_LATEST = 2**62
"""Later than any key's not_before; unsigned times beyond it would wrap."""


def _int64(times: npt.NDArray[np.generic]) -> npt.NDArray[np.int64]:
    if times.dtype == np.uint64:
        times = np.minimum(cast("npt.NDArray[np.uint64]", times), np.uint64(_LATEST))
    return times.astype(np.int64)


def _texts(values: Sequence[Value]) -> list[str]:
    """Return the texts among values, and in lists and maps of them."""
    texts: list[str] = []
    left: list[object] = list(values)
    while left:
        value = left.pop()
        if isinstance(value, str):
            texts.append(value)
        elif isinstance(value, bytes):
            texts.append(value.decode("utf-8", "surrogateescape"))
        elif isinstance(value, list):
            left += value
        elif isinstance(value, dict):
            left += [*value, *value.values()]
    return texts


def kept_column(name: str, column: Column) -> Column | None:
    """Return a column without the values that its field can not have; None where no other is left.

    Args:
        name: field name.
        column: the field's values, of any kind.
    """
    kind = type_of(name)
    if not is_checked(kind) or isinstance(column, Numbers if kind in NUMBER_TYPES else Ids):
        return column
    if isinstance(column, Constant):
        return column if fits(kind, column.value) else None
    values = [column.at(row) for row in range(len(column))]
    fitting = [value if fits(kind, value) else None for value in values]
    if all(value is None for value in fitting):
        return None
    if isinstance(column, Bytes):  # made again, so that nothing stays between its rows
        return column_of(FieldType.BYTES, fitting)
    return column if fitting == values else any_column(fitting)


def changed_column(keyed: Keyed, name: str, column: Column, rule: Rule, names: Names = None) -> Column | None:
    """Return a column with every value changed, or None where such values can only be dropped.

    Args:
        keyed: methods under the key in force.
        name: field name.
        column: the field's values, of any kind.
        rule: the field's rule; neither keep nor drop.
        names: for scrub, names to look for in each row's text.
    """
    if isinstance(column, Addresses):
        return keyed.addresses(column, rule)
    if isinstance(column, Ids):
        return None
    if rule.method is Method.SCRUB and names is not None and any(names):
        return _scrubbed(keyed, name, column, rule, names)
    if isinstance(column, Constant):
        return Constant(keyed.value(name, column.value, rule), column.count)
    if isinstance(column, Words):
        return replace(column, values=tuple(keyed.text(name, value, rule) for value in column.values))
    if isinstance(column, Numbers):
        return _numbers(keyed, name, column, rule)
    if isinstance(column, Maps):
        return any_column([keyed.value(name, column.at(row), rule) for row in range(len(column))])
    changed = [_changed_bytes(keyed, name, column.at(row), rule) for row in range(len(column))]
    return cast("Column", type(column)(*pack(changed), column.nulls))


def _scrubbed(keyed: Keyed, name: str, column: Column, rule: Rule, names: Sequence[Sequence[str]]) -> Column:
    """Return a column scrubbed of each row's names; what is there often, with the same names, is read once."""
    first = names[0]
    if isinstance(column, Constant | Words) and all(found is first for found in names):
        if isinstance(column, Constant):
            return Constant(keyed.value(name, column.value, rule, first), column.count)
        return replace(column, values=tuple(keyed.text(name, value, rule, first) for value in column.values))
    known: dict[tuple[str, tuple[str, ...]], Value] = {}
    values: list[Value] = []
    for row in range(len(column)):
        value, found = column.at(row), names[row]
        if not isinstance(value, str):
            values.append(keyed.value(name, value, rule, found))
            continue
        key = (value, tuple(found))
        if key not in known:
            known[key] = keyed.value(name, value, rule, found)
        values.append(known[key])
    return column_of(type_of(name), values)


def _numbers(keyed: Keyed, name: str, column: Numbers, rule: Rule) -> Numbers:
    distinct, which = np.unique(column.values, return_inverse=True)
    if rule.method is Method.TRUNCATE and column.values.dtype.kind in "iu":
        size = rule.unit_ns if type_of(name) is FieldType.TIME else rule.step
        values = cast("npt.NDArray[np.integer]", column.values)
        # A unit that is more than the column can hold rounds all that it holds to zero. Towards zero nothing wraps.
        rounded = values - np.fmod(values, size) if size <= np.iinfo(values.dtype).max else np.zeros_like(values)
        return Numbers(rounded, column.nulls)
    changed = [keyed.number(name, value, rule) for value in distinct.tolist()]
    is_float = rule.method is Method.TRUNCATE or any(isinstance(number, float) for number in changed)
    return Numbers(np.array(changed, np.float64 if is_float else np.int64)[which], column.nulls)


def _changed_bytes(keyed: Keyed, name: str, value: Value, rule: Rule) -> bytes:
    if isinstance(value, str):
        return keyed.text(name, value, rule).encode("utf-8", "surrogatepass")
    return keyed.data(value, rule) if isinstance(value, bytes) else b""


def _members(keyed: Keyed, column: Column, names: Names) -> Column | None:
    """Return the column of maps with each member under its own rule; None where nothing is left."""
    changed: list[Value] = []
    for row in range(len(column)):
        held = column.at(row)
        found = names[row] if names is not None else ()
        members = keyed.members(cast("dict[str, Value]", held), found) if isinstance(held, dict) else None
        changed.append(cast("Value", members or None))
    return any_column(changed) if any(value is not None for value in changed) else None
