"""Directory: which events are where, since when and for how long, in what detail and at what rate.

In: the heartbeats of every host process (``<backplane>.status.*.host``), which tell what its agents make and what its
local store keeps, and what archives say that they hold.
Out: answers on ``<backplane>.query.directory.<agent>.locate|types``. The directory holds no event; it is rebuilt from
heartbeats in a few seconds wherever it is started.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping

import msgspec

from eddy_mesh import subjects
from eddy_mesh.agent import Result
from eddy_mesh.batch import Batch, Kind
from eddy_mesh.bus import Message, Subscription
from eddy_mesh.cer import EventClass, Stage
from eddy_mesh.errors import UsageError
from eddy_mesh.selection import compile_statement, matches_kind, needed_fields
from eddy_mesh.task import Answer, Context

SCOPE = "host"
EMIT = "demand"
INPUT: tuple[str, ...] = ()
NS = 1_000_000_000
KIND = ("stage", "event_class", "type")


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of a directory."""

    silent_after_s: float = 60.0
    """seconds after which a host process that was heard of counts as silent"""
    forget_after_s: float = 7 * 86400.0
    """seconds after which a silent host process is forgotten"""
    max_entries: int = 100_000
    """most entries held; further ones are refused and counted"""


class Entry(msgspec.Struct):
    """One line of the directory: one kind of event of one agent.

    Attributes:
        holding: ``live`` where the agent makes such events, ``stored`` where an archive holds them, ``local`` where the
            host process itself keeps what it made for some time, to be fetched by id.
        first_ns: when the first of them was seen; of those that are held, the oldest.
        until_ns: when the newest of those that are kept ``local`` will be too old, or earlier if there is no room for
            them; 0 for the others: an archive drops nothing by itself.
        rate: events/s between the last two heartbeats; for a store, 0.
    """

    host: str
    agent: str
    holding: str
    stage: Stage
    event_class: EventClass
    type: str
    count: int
    first_ns: int
    last_ns: int
    heard_ns: int
    until_ns: int = 0
    rate: float = 0.0
    fields: list[str] = []


class Agent:
    """The directory; see the module."""

    queries = frozenset({"locate", "types"})

    def __init__(self, config: Config) -> None:
        self._config = config
        self._entries: dict[tuple[str, str, str, str, str], Entry] = {}
        self._refused = 0
        self._context: Context | None = None
        self._subscription: Subscription | None = None

    async def start(self, context: Context) -> None:
        """Listen to heartbeats."""
        self._context = context
        self._subscription = await context.bus.subscribe(subjects.status_all(context.backplane), self._heard)

    async def stop(self) -> None:
        """Listen no more."""
        if self._subscription is not None:
            await self._subscription.unsubscribe()

    def _heard(self, message: Message) -> None:
        try:
            status = msgspec.json.decode(message.data, type=dict[str, object])
        except (msgspec.MsgspecError, RecursionError):
            return  # not a heartbeat; the next one tells the same
        now_ns = self._context.now_ns() if self._context else 0
        host = str(status.get("host"))
        for row in _rows(status.get("types")):
            self._enter(host, row, "live", now_ns)
        detail = status.get("detail")
        for row in _rows(detail.get("holdings") if isinstance(detail, dict) else None):
            self._enter(host, {**row, "agent": status.get("agent")}, "stored", now_ns)
        if isinstance(local := status.get("local_store"), dict):
            self._enter_local(host, _rows(local.get("holdings")), _rows(status.get("types")), now_ns)

    def _enter_local(
        self, host: str, holdings: list[dict[str, object]], types: list[dict[str, object]], now_ns: int
    ) -> None:
        """Enter what a host process keeps, and nothing else: a kind that it tells of no more has expired."""
        for row in holdings:
            fields: set[str] = set()
            for made in types:
                if all(made.get(name) == row.get(name) for name in KIND):
                    fields.update(map(str, _list(made.get("fields"))))
            self._enter(host, {**row, "agent": "host", "fields": sorted(fields)}, "local", now_ns)
        told = {tuple(str(row.get(name)) for name in KIND) for row in holdings}
        self._entries = {
            key: entry
            for key, entry in self._entries.items()
            if (entry.host, entry.holding) != (host, "local") or (entry.stage, entry.event_class, entry.type) in told
        }

    def _enter(self, host: str, row: Mapping[str, object], holding: str, now_ns: int) -> None:
        try:
            fresh = msgspec.convert({**row, "host": host, "holding": holding, "heard_ns": now_ns}, Entry)
        except msgspec.ValidationError:
            self._refused += 1
            return
        key = (host, fresh.agent, holding, f"{fresh.stage}.{fresh.event_class}", fresh.type)
        known = self._entries.get(key)
        if known is None and len(self._entries) >= self._config.max_entries:
            self._refused += 1
            return
        if known is not None and holding == "live" and now_ns > known.heard_ns:
            fresh.rate = max(fresh.count - known.count, 0) * NS / (now_ns - known.heard_ns)
            if now_ns - known.heard_ns < NS:  # two heartbeats close together: keep the steadier rate
                fresh.rate = known.rate
                fresh.heard_ns = known.heard_ns
                fresh.count = known.count
        self._entries[key] = fresh

    async def on_batch(self, batch: Batch, now_ns: int) -> Result:  # noqa: ARG002  # the protocol's
        """Take nothing: a directory has no edges unless somebody configures one."""
        return Result(filtered=batch.count)

    async def on_tick(self, now_ns: int) -> Result:
        """Forget host processes that were not heard of for long."""
        horizon = now_ns - int(self._config.forget_after_s * NS)
        self._entries = {key: entry for key, entry in self._entries.items() if entry.heard_ns > horizon}
        return Result()

    async def settle(self) -> None:
        """Nothing here needs to survive a crash."""

    def status(self) -> Answer:
        """Return how many entries there are."""
        return {"entries": len(self._entries), "refused": self._refused}

    async def query(self, verb: str, request: Mapping[str, object]) -> AsyncGenerator[Answer, None]:
        """Answer ``types`` with every entry, ``locate`` with those that a statement could match.

        Args:
            verb: ``types`` or ``locate``.
            request: for ``locate``: ``statement``.

        Raises:
            UsageError: ``locate`` without a statement, or one that can not be compiled.
        """
        now_ns = self._context.now_ns() if self._context else 0
        plan = None
        if verb == "locate":
            if not isinstance(request.get("statement"), str):
                raise UsageError('locate needs a statement, for example {"statement": "SELECT * FROM network.netflow"}')
            plan = compile_statement(str(request["statement"]), now_ns=now_ns)
        for entry in sorted(self._entries.values(), key=lambda held: (held.host, held.type, held.agent)):
            kind = Kind(entry.stage, entry.event_class, entry.type)
            if plan is not None and not matches_kind(plan, kind, entry.host):
                continue
            row: dict[str, object] = msgspec.to_builtins(entry)
            row["silent"] = now_ns - entry.heard_ns > self._config.silent_after_s * NS
            if plan is not None:
                row["missing_fields"] = sorted(needed_fields(plan) - set(entry.fields) - _IMPLIED)
            yield row


_IMPLIED = frozenset({"id", "version", "type", "event_class", "stage", "host"})


def _rows(value: object) -> list[dict[str, object]]:
    return [row for row in _list(value) if isinstance(row, dict)]


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
