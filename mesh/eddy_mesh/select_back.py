"""Select-back: whoever got a projected event, or only its id, fetches the rest of it.

What may live here: both ends. A host process answers ``fetch`` from its local store (`serve`); `fetch` finds out who
can have an event, asks those, and then the archives. An id holds the number of the agent that made the event, a hash of
its name (`eddy_mesh.cer.producer_number`): with the names that hosts and directory tell, most ids lead to one host; the
others are asked of every host.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import NamedTuple

from eddy_mesh import queries, subjects
from eddy_mesh.bus import Bus, Message, NoResponders, Subscription
from eddy_mesh.cer import EventId, Value, id_from_text, id_text, producer_in, producer_number
from eddy_mesh.errors import BusError, EddyError, UsageError, WireError
from eddy_mesh.receiving import ANSWER_IDLE_S
from eddy_mesh.rows import json_events, split_ids, time_ns, time_text, value_of_json
from eddy_mesh.store.local_store import Found, LocalStore
from eddy_mesh.task import Answer
from eddy_mesh.wire_json import decode_object

FETCH = "fetch"
GONE = "#gone"
"""Member of an answer's row in place of the event: when it expired, RFC 3339."""
IDS_OF_A_REQUEST = 5_000
"""36 characters each: well inside one message."""
IDS_AT_ONCE = 500
"""Ids that a host looks up before it sends what it has: memory stays bounded."""
ANSWER_S = 10.0

Row = dict[str, Value]


# --- the end that answers ----------------------------------------------------------------------------------------


async def serve(
    bus: Bus, backplane: str, host: str, store: LocalStore, spawn: Callable[[Coroutine[None, None, None]], object]
) -> Subscription:
    """Answer ``fetch`` for a host process until the subscription ends.

    Args:
        bus: connected bus.
        backplane: name of the mesh.
        host: name of the host process.
        store: what it has kept.
        spawn: runs the answer to one query in the background.
    """
    answering = _Answering(store)

    def receive(message: Message) -> None:
        if message.reply:
            spawn(queries.answer(bus, message, answering, FETCH))

    return await bus.subscribe(_subject(backplane, host), receive)


def _subject(backplane: str, host: str) -> str:
    return subjects.query(backplane, subjects.HOST, f"{host}/{subjects.HOST}", FETCH)


class _Answering:
    """Answers ``fetch`` from a local store."""

    def __init__(self, store: LocalStore) -> None:
        self._store = store

    async def query(self, verb: str, request: Mapping[str, object]) -> AsyncGenerator[Answer, None]:  # noqa: ARG002  # one verb
        """Yield the events with the given ``ids``, and for those that are gone ``id`` and `GONE`.

        Raises:
            UsageError: ``ids`` are no list of ids.
        """
        told = request.get("ids")
        if not isinstance(told, list):
            raise UsageError('fetch needs ids: {"ids": ["019a…", …]}')
        ids = identities(str(text) for text in told)
        for start in range(0, len(ids), IDS_AT_ONCE):
            found = await asyncio.to_thread(self._store.fetch, ids[start : start + IDS_AT_ONCE])
            for row in _rows(found):
                yield row


def _rows(found: Found) -> Iterable[Answer]:
    for batch in found.batches:
        yield from json_events(batch)
    for identity, expired_ns in found.gone.items():
        yield {"id": id_text(identity), GONE: time_text(expired_ns)}


# --- the end that asks -------------------------------------------------------------------------------------------


class Gone(NamedTuple):
    """An event that is not held any more: its id (UUID text), when it expired (ns since 1970 UTC), and where."""

    id: str
    expired_ns: int
    host: str

    def __str__(self) -> str:
        """Return it as a sentence."""
        return f"gone: expired at {time_text(self.expired_ns)} on {self.host}"


class Fetched(NamedTuple):
    """What was found out about ids.

    Attributes:
        rows: id (UUID text) → the event by dotted names, in the order in which they were asked for.
        gone: those that expired where they were made, and that no archive has.
        missing: ids that nobody who answered knows.
        silent: who was asked and did not answer: names of host processes, ``archive <host>/<agent>``.
        refused: who answered with an error, and which.
        absent: those of ``silent`` by whose name nobody is there.
    """

    rows: dict[str, Row]
    gone: dict[str, Gone]
    missing: tuple[str, ...]
    silent: tuple[str, ...]
    refused: dict[str, str]
    absent: tuple[str, ...] = ()

    def why_missing(self) -> str:
        """Return the sentence for the ids that are missing."""
        text = "not found: no host that answered has it"
        busy = [place for place in self.silent if place not in self.absent]
        if busy:
            text += f"; {', '.join(busy)} did not answer"
        if self.absent:
            text += (
                f"; not there: {', '.join(self.absent)}, which may come back unless a change of the topology ended it"
            )
        return text + "".join(f"; {place}: {reason}" for place, reason in self.refused.items())


class Known(NamedTuple):
    """Who is on a backplane.

    Attributes:
        hosts: name of each host process → whether it answers.
        makers: producer number → hosts with an agent of that number.
        archives: ``<host>/<agent>``.
    """

    hosts: dict[str, bool]
    makers: dict[int, set[str]]
    archives: list[str]


def identities(texts: Iterable[str]) -> list[EventId]:
    """Return ids from UUID texts, each once.

    Raises:
        UsageError: one of them is none.
    """
    found: dict[EventId, None] = {}
    for text in texts:
        try:
            found[id_from_text(text)] = None
        except ValueError:
            raise UsageError(f"{text!r} is not an event id: give 32 hexadecimal digits as in a UUID") from None
    return list(found)


async def fetch(
    bus: Bus, backplane: str, ids: Iterable[str], *, depth: int = 0, most: int = 10_000, timeout_s: float = ANSWER_S
) -> Fetched:
    """Return whole events by id: from the local stores of those who made them, else from archives.

    Args:
        bus: connected bus.
        backplane: name of the mesh.
        ids: UUID texts.
        depth: how many generations of events that these were made from are fetched as well.
        most: events at most; no further generation is fetched beyond it.
        timeout_s: longest wait for each part of an answer, s.

    Raises:
        UsageError: a text is no id.
        BusError: the server is away.
    """
    wanted = identities(ids)
    known = await who_is_there(bus, backplane, timeout_s=min(timeout_s, 2.0))
    fetched = await _once(bus, backplane, wanted, known, timeout_s)
    for _ in range(depth):
        seen = {*fetched.rows, *fetched.gone, *fetched.missing}
        parents = dict.fromkeys(parent for row in fetched.rows.values() for parent in made_from(row))
        further = [parent for parent in parents if parent not in seen][: max(most - len(seen), 0)]
        if not further:
            break
        fetched = _together(fetched, await _once(bus, backplane, identities(further), known, timeout_s))
    return fetched


def made_from(row: Mapping[str, Value]) -> list[str]:
    """Return the ids (UUID texts) of the events that an event was made from: its parents, a diagnosis's evidence."""
    ids: list[object] = []
    for name in ("parents", "diagnosis.evidence"):
        held = row.get(name)
        ids += split_ids(held) if isinstance(held, bytes) else held if isinstance(held, list) else []
    return list(dict.fromkeys(id_text(each) if isinstance(each, bytes) else str(each) for each in ids))


async def who_is_there(bus: Bus, backplane: str, *, timeout_s: float = 2.0) -> Known:
    """Return who answers on a backplane, and who else the directory has heard of.

    Raises:
        BusError: the server is away.
    """
    try:
        async with asyncio.TaskGroup() as group:
            statuses = group.create_task(_statuses(bus, backplane, timeout_s))
            entries = group.create_task(_entries(bus, backplane, timeout_s))
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return known_from(backplane, statuses.result(), entries.result())


async def _statuses(bus: Bus, backplane: str, timeout_s: float) -> list[dict[str, object]]:
    subject = subjects.control_all(backplane, "stats")
    statuses: list[dict[str, object]] = []
    for answer in await bus.gather(subject, b"{}", timeout_s=timeout_s, idle_s=ANSWER_IDLE_S):
        with suppress(WireError):  # something else is on this subject; the others are no worse for it
            statuses.append(decode_object(answer.data, "status"))
    return statuses


async def _entries(bus: Bus, backplane: str, timeout_s: float) -> list[Mapping[str, object]]:
    entries: list[Mapping[str, object]] = []
    with suppress(BusError, UsageError):  # no directory, or a slow one: those who answered are known
        asked = queries.ask(bus, subjects.query(backplane, "directory", "any", "types"), {}, timeout_s=timeout_s)
        async with aclosing(asked) as rows:
            entries = [row async for row in rows]
    return entries


def known_from(
    backplane: str, statuses: Sequence[Mapping[str, object]], entries: Sequence[Mapping[str, object]]
) -> Known:
    """Return who is there, out of the statuses of host processes and the entries of a directory."""
    hosts = {str(entry.get("host")): False for entry in entries}
    archives = dict.fromkeys(f"{e.get('host')}/{e.get('agent')}" for e in entries if e.get("holding") == "stored")
    made = [entry for entry in entries if entry.get("holding") == "live"]
    for status in statuses:
        host = str(status.get("host"))
        hosts[host] = True
        archives |= dict.fromkeys(
            f"{host}/{agent.get('agent')}" for agent in _tables(status, "agents") if agent.get("type") == "archive"
        )
        made += [{**kind, "host": host} for kind in _tables(status, "types")]
    makers: dict[int, set[str]] = {}
    for kind in made:
        host = str(kind.get("host"))
        name = f"{kind.get('stage')}.{kind.get('event_class')}.{kind.get('type')}"
        number = producer_number(f"{backplane}/{host}/{kind.get('agent')}/{name}")
        makers.setdefault(number, set()).add(host)
    return Known(hosts, makers, list(archives))


def _tables(status: Mapping[str, object], name: str) -> list[dict[str, object]]:
    held = status.get(name)
    return [row for row in held if isinstance(row, dict)] if isinstance(held, list) else []


def asked_of(ids: Sequence[EventId], known: Known) -> dict[str, list[EventId]]:
    """Return which ids each host process is asked for: those that it has made, and those whose maker is not known."""
    asked: dict[str, list[EventId]] = {}
    for identity in ids:
        for host in sorted(known.makers.get(producer_in(identity), known.hosts)):
            asked.setdefault(host, []).append(identity)
    return asked


class _Told:
    """What answers have said so far."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.gone: dict[str, Gone] = {}
        self.silent: list[str] = []
        self.absent: list[str] = []
        self.refused: dict[str, str] = {}

    def take(self, row: Answer, place: str) -> None:
        """Take one row of an answer."""
        identity = str(row.get("#id") or row.get("id") or "")
        if GONE not in row:
            event = {name: value_of_json(name, value) for name, value in row.items() if name != "#id"}
            self.rows.setdefault(identity, event)
            return
        with suppress(ValueError):  # a host that tells the time in another form: the id counts as missing
            self.gone.setdefault(identity, Gone(identity, time_ns(str(row[GONE])), place))


async def _once(bus: Bus, backplane: str, ids: Sequence[EventId], known: Known, timeout_s: float) -> Fetched:
    told = _Told()

    async def ask(subject: str, wanted: Sequence[EventId], place: str, *, answers: bool) -> None:
        try:
            for start in range(0, len(wanted), IDS_OF_A_REQUEST):
                request = {"ids": [id_text(identity) for identity in wanted[start : start + IDS_OF_A_REQUEST]]}
                async with aclosing(queries.ask(bus, subject, request, timeout_s=timeout_s)) as rows:
                    async for row in rows:
                        told.take(row, place)
        except NoResponders:
            if not answers:  # else it is there, and keeps nothing
                told.silent.append(place)
                told.absent.append(place)
        except BusError:
            told.silent.append(place)
        except EddyError as error:
            told.refused[place] = str(error)

    async with asyncio.TaskGroup() as group:
        for host, wanted in asked_of(ids, known).items():
            subject = _subject(backplane, host)
            group.create_task(ask(subject, wanted, host, answers=known.hosts.get(host, False)))
    rest = [identity for identity in ids if id_text(identity) not in told.rows]
    async with asyncio.TaskGroup() as group:
        for archive in known.archives if rest else ():
            subject = subjects.query(backplane, "archive", archive, FETCH)
            group.create_task(ask(subject, rest, f"archive {archive}", answers=False))
    return _sorted(ids, told)


def _sorted(ids: Sequence[EventId], told: _Told) -> Fetched:
    texts = [id_text(identity) for identity in ids]
    rows = {text: told.rows[text] for text in texts if text in told.rows}
    gone = {text: told.gone[text] for text in texts if text in told.gone and text not in rows}
    missing = tuple(text for text in texts if text not in rows and text not in gone)
    return Fetched(rows, gone, missing, tuple(sorted(told.silent)), told.refused, tuple(sorted(told.absent)))


def _together(first: Fetched, second: Fetched) -> Fetched:
    return Fetched(
        first.rows | second.rows,
        first.gone | second.gone,
        first.missing + second.missing,
        tuple(sorted({*first.silent, *second.silent})),
        first.refused | second.refused,
        tuple(sorted({*first.absent, *second.absent})),
    )
