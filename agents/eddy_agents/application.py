"""Application: acts outside the mesh on what the mesh has found: calls a webhook, runs a command.

In: by default every diagnosis (stage ``analyzed``) of the backplane. Out: an HTTP POST of JSON, or a process that gets
the events as NDJSON on standard input. Repeats of the same diagnosis are held back, and a slow receiver never holds
up anybody else: what can not be delivered after the retries is refused and counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import msgspec

from eddy_mesh.agent import Refusal, Result
from eddy_mesh.batch import Batch
from eddy_mesh.errors import ConfigError, UsageError
from eddy_mesh.rows import flat_row, json_value
from eddy_mesh.task import Answer, Context

SCOPE = "backplane"
EMIT = "demand"
INPUT = ("SELECT * WHERE stage = 'analyzed'",)
NS = 1_000_000_000
_REPEAT_KEYS = ("diagnosis.id", "event.id", "event.type", "level", "source.ip", "destination.ip", "user.name")
"""What makes two diagnoses the same: a change of level or the end of an attack is news."""


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of an application."""

    webhook: str = ""
    """URL that gets a POST with a JSON array of events"""
    command: tuple[str, ...] = ()
    """program and arguments; it gets the events as NDJSON on standard input"""
    timeout_s: float = 10.0
    """longest time for one delivery, s"""
    attempts: int = 3
    """deliveries tried before the events are refused"""
    repeat_after_s: float = 300.0
    """seconds in which the same diagnosis of the same source is not delivered again; 0: always deliver"""
    max_remembered: int = 10_000
    """most diagnoses remembered for that"""


class Agent:
    """The application; see the module."""

    queries: frozenset[str] = frozenset()

    def __init__(self, config: Config) -> None:
        if config.webhook and urlsplit(config.webhook).scheme not in {"http", "https"}:
            raise ConfigError([f"application: webhook {config.webhook!r} is not an http or https URL"])
        self._config = config
        self._delivered: dict[tuple[str, ...], int] = {}
        self._counts = {"delivered": 0, "held_back": 0, "failed_attempts": 0}

    async def start(self, context: Context) -> None:
        """Nothing to open: each delivery stands for itself."""

    async def stop(self) -> None:
        """Nothing to close."""

    async def on_batch(self, batch: Batch, now_ns: int) -> Result:
        """Deliver the events that are no repeats."""
        if not self._config.webhook and not self._config.command:
            return Result(filtered=batch.count)
        rows = [(index, flat_row(batch, index)) for index in range(batch.count)]
        keys = [_key(row) for _, row in rows]
        fresh = [held for held, key in zip(rows, keys, strict=True) if not self._is_repeat(key, now_ns)]
        self._counts["held_back"] += batch.count - len(fresh)
        if not fresh:
            return Result(filtered=batch.count)
        events = [{name: json_value(name, value) for name, value in row.items()} for _, row in fresh]
        problem = await self._deliver(events)
        if problem:
            refusal = Refusal([index for index, _ in fresh], "not_delivered", problem)
            return Result(refusals=(refusal,), filtered=batch.count - len(fresh))
        for _, row in fresh:
            self._remember(_key(row), now_ns)
        self._counts["delivered"] += len(fresh)
        return Result(filtered=batch.count - len(fresh))

    def _is_repeat(self, key: tuple[str, ...], now_ns: int) -> bool:
        last_ns = self._delivered.get(key)
        return last_ns is not None and now_ns - last_ns < self._config.repeat_after_s * NS

    def _remember(self, key: tuple[str, ...], now_ns: int) -> None:
        """Remember what was delivered; what could not be is no repeat when it comes again."""
        if not key:
            return
        self._delivered.pop(key, None)
        while len(self._delivered) >= self._config.max_remembered:
            del self._delivered[next(iter(self._delivered))]
        self._delivered[key] = now_ns

    async def _deliver(self, events: list[dict[str, object]]) -> str:
        """Return "" when every receiver took the events, else what went wrong last."""
        problem = ""
        if self._config.webhook:
            problem = await self._repeatedly(lambda: asyncio.to_thread(self._post, msgspec.json.encode(events)))
        if self._config.command:
            lines = b"".join(msgspec.json.encode(event) + b"\n" for event in events)
            problem = await self._repeatedly(lambda: self._run(lines)) or problem
        return problem

    async def _repeatedly(self, attempt: Callable[[], Awaitable[str]]) -> str:
        problem = ""
        for number in range(max(self._config.attempts, 1)):
            if number:
                await asyncio.sleep(min(2.0**number / 4, 5.0))
            problem = await attempt()
            if not problem:
                return ""
            self._counts["failed_attempts"] += 1
        return problem

    def _post(self, body: bytes) -> str:
        request = Request(  # noqa: S310  # the scheme was checked at the start
            self._config.webhook, data=body, headers={"Content-Type": "application/json"}, method="POST"
        )
        try:
            with urlopen(request, timeout=self._config.timeout_s) as answer:  # noqa: S310
                return "" if answer.status < 400 else f"{self._config.webhook} answered {answer.status}"
        except HTTPError as error:
            return f"{self._config.webhook} answered {error.code}"
        except (URLError, OSError, ValueError) as error:
            return f"{self._config.webhook} can not be reached: {error}"

    async def _run(self, lines: bytes) -> str:
        program = self._config.command[0]
        try:
            process = await asyncio.create_subprocess_exec(
                *self._config.command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL
            )
        except OSError as error:
            return f"{program} can not be started: {error}"
        try:
            async with asyncio.timeout(self._config.timeout_s):
                await process.communicate(lines)
        except TimeoutError:
            return f"{program} took longer than {self._config.timeout_s:g} s"
        except (BrokenPipeError, ConnectionResetError):
            await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return "" if process.returncode == 0 else f"{program} ended with {process.returncode}"

    async def on_tick(self, now_ns: int) -> Result:  # noqa: ARG002
        """Nothing is due by time."""
        return Result()

    async def settle(self) -> None:
        """What was delivered is delivered."""

    def status(self) -> Answer:
        """Return how many events were delivered, held back as repeats, and how many attempts failed."""
        return dict(self._counts)

    async def query(self, verb: str, request: Mapping[str, object]) -> AsyncGenerator[Answer, None]:  # noqa: ARG002
        """Answer nothing.

        Raises:
            UsageError: always.
        """
        if verb not in self.queries:
            raise UsageError(f"an application has no query {verb!r}")
        yield {}


def _key(row: Mapping[str, object]) -> tuple[str, ...]:
    """Return what a diagnosis is known by; () for an event that is none, which is always delivered."""
    return tuple(str(row.get(name)) for name in _REPEAT_KEYS) if "diagnosis.id" in row else ()
