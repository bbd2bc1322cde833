"""Watching agents by name: which are meant, and how a tap stays with them when they move, are scaled or morphed.

What may live here: the meaning of ``AGENT:in`` and ``AGENT:out``, what has changed between two looks at the host
processes, and the receivers that follow it. What a new instance gave out before the next look finds it is not seen.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from typing import Generic, NamedTuple, Protocol, TypeAlias, TypeVar

from eddy_mesh.config import unknown_name
from eddy_mesh.errors import EddyError, UsageError
from eddy_mesh.flows import ALL, Of, Side

LOOK_S = 1.0
"""Pause between two looks, s."""
MOST_MISSES = 3
"""Looks without an agent after which it is gone: a busy host process misses one, and one that restarts is back soon."""
_INSTANCE = re.compile(r"\.\d+$")
Status: TypeAlias = Mapping[str, object]


class Watch(NamedTuple):
    """Whose events are watched.

    Attributes:
        name: AGENT or HOST/AGENT; an agent of the manifest stands for all its instances, AGENT.0, AGENT.1 ...
        side: what they take in, or what they give out.
    """

    name: str
    side: Side

    def means(self, path: str) -> bool:
        """Whether it means the agent ``<host>/<agent>``; one with a process of its own is on ``<host>.<agent>``."""
        host, _, agent = path.partition("/")
        manifest_name = _INSTANCE.sub("", agent)
        names = {agent, manifest_name}
        hosts = {host, host.removesuffix(f".{agent}")}
        return self.name in names | {f"{place}/{name}" for place in hosts for name in names}

    def found(self, statuses: Iterable[Status]) -> frozenset[str]:
        """Return the agents that it means, each ``<host>/<agent>``.

        Args:
            statuses: what host processes say of themselves.
        """
        return frozenset(path for path in paths(statuses) if self.means(path))


def watch_of(text: str) -> Watch:
    """Return what ``AGENT:in`` or ``AGENT:out`` means.

    Raises:
        UsageError: it is neither.
    """
    name, _, side = text.rpartition(":")
    if side not in {"in", "out"} or not name:
        raise UsageError(f"{text!r}: watch AGENT:in or AGENT:out")
    return Watch(name, "in" if side == "in" else "out")


def unknown_agent(watch: Watch, statuses: Iterable[Status]) -> UsageError:
    """Return the error of a watch that means nobody; it names what is similar."""
    names = sorted({path.partition("/")[2] for path in paths(statuses)})
    return UsageError(unknown_name(f"{watch.name}:{watch.side}", "agent", watch.name, names))


def paths(statuses: Iterable[Status]) -> list[str]:
    """Return every agent as ``<host>/<agent>``."""
    found = []
    for status in statuses:
        agents = status.get("agents")
        found += [
            f"{status.get('host')}/{agent.get('agent')}" for agent in (agents if isinstance(agents, list) else [])
        ]
    return found


class Change(NamedTuple):
    """What a look has found.

    Attributes:
        misses: agent → looks in a row without it.
        came: agents that were not there before.
        went: those that are gone.
    """

    misses: dict[str, int]
    came: frozenset[str]
    went: frozenset[str]

    def __str__(self) -> str:
        """Return it as a sentence."""
        parts = [f"{', '.join(sorted(self.came))} came"] if self.came else []
        parts += [f"{', '.join(sorted(self.went))} went"] if self.went else []
        left = ", ".join(sorted(self.misses)) or "nothing: waiting until it is back"
        return f"what is tapped has changed: {'; '.join(parts)}; now tapping {left}"


def look(before: Mapping[str, int], found: Iterable[str]) -> Change:
    """Return what has changed.

    Args:
        before: `Change.misses` of the look before.
        found: agents that are there now.
    """
    present = frozenset(found)
    missed = {path: 0 if path in present else count + 1 for path, count in before.items()}
    went = frozenset(path for path, count in missed.items() if count >= MOST_MISSES)
    misses = {path: count for path, count in missed.items() if path not in went} | dict.fromkeys(present, 0)
    return Change(misses, present - before.keys(), went)


class Receiver(Protocol):
    """What takes the events of some agents; `eddy_mesh.receiving.FlowReceiver`."""

    async def start(self) -> None:
        """Ask for them."""


R = TypeVar("R", bound=Receiver)


class Follower(Generic[R]):
    """Holds a receiver for every agent that a watch means, as they come and go.

    Args:
        watch: which agents; None for what all give out, which needs no following.
        looking: returns the statuses of all host processes.
        receiver: makes the receiver of some agents.
        end: stops a receiver.
        tell: is told in one sentence what has changed.
    """

    def __init__(
        self,
        watch: Watch | None,
        looking: Callable[[], Awaitable[Iterable[Status]]],
        receiver: Callable[[Of], R],
        end: Callable[[R], Awaitable[None]],
        tell: Callable[[str], None],
    ) -> None:
        self._watch = watch
        self._looking = looking
        self._receiver = receiver
        self._end = end
        self._tell = tell
        self._misses: dict[str, int] = {}
        self._receivers: dict[R, frozenset[str]] = {}
        self._task: asyncio.Task[None] | None = None
        self._is_over = False

    async def start(self) -> None:
        """Ask for the events of those that are there, and follow them from now on.

        Raises:
            UsageError: there is none.
            BusError: the server is away.
        """
        if self._watch is None:
            await self._ask(ALL)
            return
        statuses = list(await self._looking())
        found = self._watch.found(statuses)
        if not found:
            raise unknown_agent(self._watch, statuses)
        await self._ask(_of(found, self._watch))
        self._misses = dict.fromkeys(found, 0)
        name = f"watch {self._watch.name}"
        self._task = asyncio.get_running_loop().create_task(self._follow(self._watch), name=name)

    async def stop(self) -> None:
        """Ask for nothing more."""
        self._is_over = True  # nats-py swallows a cancellation now and then
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.gather(*(self._end(receiver) for receiver in self._receivers))

    async def _follow(self, watch: Watch) -> None:
        while not self._is_over:
            await asyncio.sleep(LOOK_S)
            with suppress(EddyError):  # the server is away: looked for again
                await self._look(watch)

    async def _look(self, watch: Watch) -> None:
        """Look who is there, and ask those that came; where the server is away, they are asked at the next look."""
        change = look(self._misses, watch.found(await self._looking()))
        # One that is back where it was is still asked for, together with those that stayed.
        came = change.came - frozenset().union(*self._receivers.values())
        if came:
            await self._ask(_of(came, watch))
        self._misses = change.misses
        if change.came or change.went:
            self._tell(str(change))
        for receiver, asked in list(self._receivers.items()):
            if not asked & change.misses.keys():
                del self._receivers[receiver]
                await self._end(receiver)

    async def _ask(self, of: Of) -> None:
        receiver = self._receiver(of)
        self._receivers[receiver] = frozenset(of.agents)  # first: what was asked for half is given back as well
        await receiver.start()


def _of(agents: Iterable[str], watch: Watch) -> Of:
    return Of(agents=tuple(sorted(agents)), side=watch.side)
