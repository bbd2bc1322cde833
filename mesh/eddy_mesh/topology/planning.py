"""Planning: from what somebody asks of a backplane-manager to the change that is to be of record. Pure.

What may live here: the requests of its queries, what they lead to, and how that is told.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b

import msgspec

from eddy_mesh.config import unknown_name
from eddy_mesh.errors import ConfigError, UsageError
from eddy_mesh.topology.changes import AgentChange, Changes, compare
from eddy_mesh.topology.checks import checked
from eddy_mesh.topology.dry_edges import warnings
from eddy_mesh.topology.placement import Placement, place, renumbered
from eddy_mesh.topology.presence import Presence
from eddy_mesh.topology.record import Change, Record, RecordState, Source, Terms
from eddy_mesh.topology.steps import hosts_of, hosts_to_prepare, parent_of, part_of

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
        expected_placement: what the plan said of itself, see `Plan.digest`; "": any.
        who: the person or program that wants it.
        why: the reason.
        terms: how it is to be carried out.
    """

    manifest: dict[str, object] | None = None
    text: str = ""
    file: str = FILE
    revision: int = 0
    expected: int = -1
    expected_placement: str = ""
    who: str = ""
    why: str = ""
    terms: Terms = Terms()


def request_of(request: Mapping[str, object], verb: str = "plan") -> Request:
    """Return a request.

    Args:
        request: as it came.
        verb: ``plan``, which takes a manifest or a revision; ``apply``, which takes the one; ``rollback``: the other.

    Raises:
        UsageError: it is none, or not one for that verb.
    """
    try:
        asked = msgspec.convert(request, Request)
    except msgspec.ValidationError as error:
        raise UsageError(f"the request does not fit ({error}): give manifest, or revision, and how to apply") from None
    if verb == "apply" and asked.manifest is None:
        raise UsageError("apply without a manifest: give its tables, or ask rollback to go back to an earlier revision")
    if verb == "rollback" and asked.manifest is not None:
        raise UsageError("rollback with a manifest: give the revision to go back to, or ask apply for the manifest")
    return asked


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What would happen.

    Attributes:
        change: what would be of record.
        changes: what that does, for people and as JSON.
        missing: host processes whose part changes and that are not there, nor left alone.
        silent: host processes whose part stays as it is, and that are not there: they are left alone.
        warnings: what can be carried out, but is hardly meant.
    """

    change: Change
    changes: Changes
    missing: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """What would be of record, in 32 hexadecimal digits: other hosts that come or go may make another of it."""
        change = self.change
        told = msgspec.json.encode((change.placement, change.strays, change.terms), order="deterministic")
        return blake2b(told, digest_size=16).hexdigest()

    def row(self) -> dict[str, object]:
        """Return it as ``plan`` answers."""
        changes = msgspec.to_builtins(self.changes)
        lists = {"missing": list(self.missing), "silent": list(self.silent), "warnings": list(self.warnings)}
        return {**changes, "lines": self.changes.lines(), **lists, "placement": self.digest}

    def check(self, current: Record | None, expected: int, expected_placement: str = "") -> None:
        """Check that it can be carried out now.

        Args:
            current: record that there is, or None.
            expected: see `Request`.
            expected_placement: see `Request`.

        Raises:
            UsageError: a host process is not there, or somebody was shown another plan.
        """
        held = current.revision if current is not None else 0
        if expected not in {-1, held}:
            raise UsageError(f"revision {held} is of record, and the plan was made for {expected}: plan again")
        if expected_placement not in {"", self.digest}:
            raise UsageError("host processes came or went since the plan was made, and now it is another: plan again")
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
        UsageError: there is no such revision, or no such host to be left alone.
    """
    before = current.placement if current is not None else Placement()
    known = [before, current.before] if current is not None else [before]
    there = presence.there(now_ns, known)
    # Hosts may have seen more revisions than a record that was lost and begun anew.
    revision = 1 + max(before.revision, presence.revision)
    if request.manifest is None:
        old = earlier(history, current, request.revision)
        after, source = renumbered(old.placement, before, revision), old.source
    else:
        manifest = checked(request.manifest, request.file)
        after = place(manifest, there, before, revision, request.file)
        source = Source(text=request.text, tables=request.manifest)
    _check_managers(after, presence, request.file)
    _check_without(request.terms.without, {*before.hosts, *after.hosts, *(host.name for host in there)})
    strays = presence.strays(after, known)
    strays = {host: names for host, names in strays.items() if host not in request.terms.without}
    labels = {host.name: host.labels for host in there if host.labels}
    change = Change(placement=after, source=source, terms=request.terms, strays=strays, labels=labels)
    missing, silent = _away(before, change, presence, now_ns)
    changes = _with_stops(compare(before, after), strays)
    told = [*warnings(after), *_live_and_let_be(before, change, presence, now_ns)]
    return Plan(change=change, changes=changes, missing=missing, silent=silent, warnings=tuple(told))


def _check_managers(after: Placement, presence: Presence, file: str) -> None:
    """Check that no agent takes the name of one that manages its host, which would then be out of reach.

    Raises:
        ConfigError: every one that does.
    """
    managers = {host: presence.managers_of(host) for host in after.hosts}
    mistakes = [
        f"{file}: agents.{name}: on {host} that is the name of its {managers[host][name]}: rename the agent"
        for host, part in after.hosts.items()
        for name, agent in part.agents.items()
        if managers[host].get(name, agent.type) != agent.type
    ]
    if mistakes:
        raise ConfigError(mistakes)


def _check_without(without: Iterable[str], known: Collection[str]) -> None:
    unknown = [name for name in without if name not in known]
    if unknown:
        raise UsageError(unknown_name("without", "host", unknown[0], sorted(known) or ["none is there"]))


def _live_and_let_be(before: Placement, change: Change, presence: Presence, now_ns: int) -> Iterator[str]:
    for host in change.terms.without:
        if presence.is_there(host, now_ns) and part_of(before, host) != part_of(change.placement, host):
            yield f"{host} is there, and is let be: what live edges bring meanwhile is lost for it until it follows"


def _with_stops(changes: Changes, strays: Mapping[str, Iterable[str]]) -> Changes:
    stops = [
        AgentChange(verb="stop", agent=name, host=host, what="runs there, and no topology names it")
        for host, names in strays.items()
        for name in names
    ]
    return msgspec.structs.replace(changes, agents=(*changes.agents, *stops))


def _away(
    before: Placement, change: Change, presence: Presence, now_ns: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the hosts that are not there: those that have something to do, and those that have not.

    A child that is to change is its parent's business.
    """
    after = change.placement
    hosts, children = hosts_to_prepare(before, after)
    told = {*hosts, *(parent_of(before, after, child) for child in children)}
    away = {host for host in hosts_of(before, after) if not presence.is_there(host, now_ns)}
    away = {host for host in away - set(change.terms.without) if _matters(host, after)}
    return tuple(sorted(away & told)), tuple(sorted(away - told - set(children)))


def _matters(host: str, after: Placement) -> bool:
    """Whether a host is to run anything; one that was taken out of the manifest and is gone needs no farewell."""
    part = part_of(after, host)
    return bool(part.agents or part.children)


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
