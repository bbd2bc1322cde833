"""Planning: from what somebody asks of a backplane-manager to the change that is to be of record. Pure.

What may live here: the requests of its queries, what they lead to, and how that is told.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from eddy_mesh.errors import ConfigError, UsageError
from eddy_mesh.topology.changes import AgentChange, Changes, compare
from eddy_mesh.topology.checks import checked
from eddy_mesh.topology.placement import Placement, place, renumbered
from eddy_mesh.topology.presence import Presence
from eddy_mesh.topology.record import Change, Record, RecordState, Source, Terms
from eddy_mesh.topology.steps import hosts_to_prepare, parent_of

FILE = "topology"
"""How a manifest is called in messages where its file has no name."""


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What ``plan``, ``apply`` and ``rollback`` are asked with.

    Attributes:
        manifest: tables of the manifest; for ``rollback`` none.
        text: its TOML, with comments.
        file: its name, for messages.
        revision: for ``rollback``: the revision to go back to; 0: the one applied before.
        expected: number of the revision of record that the plan was made for; -1: any.
        who: the person or program that wants it.
        why: the reason.
        terms: how it is to be carried out.
    """

    manifest: dict[str, object] | None = None
    text: str = ""
    file: str = FILE
    revision: int = 0
    expected: int = -1
    who: str = ""
    why: str = ""
    terms: Terms = Terms()


def request_of(request: Mapping[str, object]) -> Request:
    """Return a request.

    Raises:
        UsageError: it is none.
    """
    try:
        return msgspec.convert(request, Request)
    except msgspec.ValidationError as error:
        raise UsageError(f"the request does not fit ({error}): give manifest, or revision, and how to apply") from None


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What would happen.

    Attributes:
        change: what would be of record.
        changes: what that does, for people and as JSON.
        missing: host processes whose part changes and that are not there, nor left alone.
    """

    change: Change
    changes: Changes
    missing: tuple[str, ...] = ()

    def row(self) -> dict[str, object]:
        """Return it as ``plan`` answers."""
        changes = msgspec.to_builtins(self.changes)
        return {**changes, "lines": self.changes.lines(), "missing": list(self.missing)}

    def check(self, current: Record | None, expected: int) -> None:
        """Check that it can be carried out now.

        Raises:
            UsageError: a host process is not there, or the plan was made for another revision.
        """
        held = current.revision if current is not None else 0
        if expected not in {-1, held}:
            raise UsageError(f"revision {held} is of record, and the plan was made for {expected}: plan again")
        if self.missing:
            names = ", ".join(self.missing)
            raise UsageError(
                f"not there: {names}: start it, or take it out of the manifest; with --without {self.missing[0]} it is"
                " let be, and takes up what is of record when it comes"
            )


def plan(request: Request, current: Record | None, history: Sequence[Record], presence: Presence, now_ns: int) -> Plan:
    """Return what a request would do.

    Args:
        request: with a manifest, or with a revision to go back to.
        current: record that there is, or None.
        history: earlier records, oldest first.
        presence: the host processes that there are.
        now_ns: ns since 1970 UTC.

    Raises:
        ConfigError: every mistake in the manifest, and what can not be placed.
        UsageError: there is no such revision.
    """
    before = current.placement if current is not None else Placement()
    known = [before, current.before] if current is not None else [before]
    if request.manifest is None:
        old = earlier(history, current, request.revision)
        after, source = renumbered(old.placement, before, before.revision + 1), old.source
    else:
        manifest = checked(request.manifest, request.file)
        after = place(manifest, presence.there(now_ns, known), before)
        source = Source(text=request.text, tables=request.manifest)
    strays = presence.strays(after, known)
    strays = {host: names for host, names in strays.items() if host not in request.terms.without}
    change = Change(placement=after, source=source, terms=request.terms, strays=strays)
    return Plan(change=change, changes=_with_stops(compare(before, after), strays), missing=_missing(
        before, change, presence, now_ns
    ))  # fmt: skip


def _with_stops(changes: Changes, strays: Mapping[str, Iterable[str]]) -> Changes:
    stops = [
        AgentChange(verb="stop", agent=name, host=host, what="runs there, and no topology names it")
        for host, names in strays.items()
        for name in names
    ]
    return msgspec.structs.replace(changes, agents=(*changes.agents, *stops))


def _missing(before: Placement, change: Change, presence: Presence, now_ns: int) -> tuple[str, ...]:
    """Return the hosts that are not there; a child is its parent's business."""
    hosts, children = hosts_to_prepare(before, change.placement)
    told = {*hosts, *(parent_of(before, change.placement, child) for child in children)} - set(change.terms.without)
    return tuple(sorted(host for host in told if not presence.is_there(host, now_ns) and _matters(host, change)))


def _matters(host: str, change: Change) -> bool:
    """Whether a host is to run anything; one that was taken out of the manifest and is gone needs no farewell."""
    part = change.placement.hosts.get(host)
    return part is not None and bool(part.agents or part.children)


def earlier(history: Sequence[Record], current: Record | None, revision: int) -> Record:
    """Return the record of an earlier revision.

    Args:
        history: records, oldest first.
        current: record that there is, or None.
        revision: its number; 0: the newest that was applied and is not what runs.

    Raises:
        UsageError: there is none.
    """
    if current is None:
        raise UsageError("no topology was applied on this backplane yet")
    applied = {record.revision: record for record in history if record.state is RecordState.APPLIED}
    if revision:
        if revision not in applied:
            known = ", ".join(map(str, applied)) or "none"
            raise UsageError(f"revision {revision} was never applied, or is forgotten; there are {known}")
        return applied[revision]
    for number in sorted(applied, reverse=True):
        old = applied[number]
        if number < current.revision and not compare(old.placement, current.placement).is_nothing:
            return old
    raise UsageError("there is no earlier revision to go back to: apply a manifest instead")


def for_backplane(request: Request, backplane: str) -> None:
    """Check that a manifest is for this backplane.

    Raises:
        ConfigError: it is for another one.
    """
    named = (request.manifest or {}).get("backplane", backplane)
    if named != backplane:
        raise ConfigError([f"{request.file}: it is for backplane {named!r}, this one is {backplane!r}"])
