"""The process around a host: connection, signals, orderly end.

What may live here: what `eddy-agent run` and `eddy-agent up` share.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import structlog

from eddy_mesh.bus import Bus, ConnectOptions
from eddy_mesh.bus_nats import connect
from eddy_mesh.config import HostConfig, NatsConfig
from eddy_mesh.errors import BusError, ConfigError, EddyError
from eddy_mesh.local import state_directory
from eddy_mesh.runtime.host import Host
from eddy_mesh.runtime.lanes import Lanes

READY_S = 5.0
"""Longest wait for the agents to start before the host process says that it is ready."""

SWITCH_S = 0.0002
"""Longest turn of another thread while the event loop waits for the interpreter; 5 ms in Python unless told."""

GC_THRESHOLDS = (2_000, 10, 1_000)
"""New objects before the young are looked at, such looks before the middle-aged are, and those before all are."""

STOP_S = 0.5
DRAIN_S = 3.0
"""Longest drain; what waits after it is counted as dropped. With the rest of the end it stays under 5 s."""


def run_loop(main: Coroutine[None, None, int]) -> int:
    """Run a coroutine in the fastest event loop that the platform has and return its exit status."""
    sys.setswitchinterval(SWITCH_S)
    if sys.platform == "win32":
        return asyncio.run(main)
    import uvloop  # noqa: PLC0415  # not on Windows

    return uvloop.run(main)


def named(config: HostConfig) -> HostConfig:
    """Return the configuration with the name of the host process filled in."""
    name = config.name or socket.gethostname().split(".")[0].lower()
    return msgspec.structs.replace(config, name=name)


def options_of(nats: NatsConfig) -> ConnectOptions:
    """Return how to log in, with the secrets that the configuration names read.

    Raises:
        ConfigError: a file or environment variable that it names is not there.
    """
    password = ""
    if nats.password_env:
        password = os.environ.get(nats.password_env, "")
        if not password:
            raise ConfigError([f"nats: password_env: the environment variable {nats.password_env} is not set"])
    token = ""
    if nats.token_file:
        try:
            token = Path(nats.token_file).read_text().strip()
        except OSError as error:
            raise ConfigError([f"nats: token_file: {error}"]) from None
    return ConnectOptions(
        token=token,
        user=nats.user,
        password=password,
        nkey_seed_file=nats.nkey_seed_file,
        creds_file=nats.creds_file,
        tls_ca_file=nats.tls_ca_file,
        tls_certificate_file=nats.tls_certificate_file,
        tls_key_file=nats.tls_key_file,
    )


def own_address() -> str | None:
    """Return the address with which this host reaches others, or None where it has no network; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # a documentation address (RFC 5737); UDP connect sends nothing
            return str(probe.getsockname()[0])
        except OSError:
            return None


def state_path(config: HostConfig) -> Path:
    """Return the state directory of a host process."""
    return Path(config.state) if config.state else state_directory() / config.name


async def run(config: HostConfig) -> int:
    """Run a host process until a signal or a manager ends it.

    One that no server can be reached from runs all the same, as in an outage: it takes in what comes.

    Args:
        config: checked configuration.

    Raises:
        ConfigError: an agent's configuration has mistakes.
        BusError: a server refuses at the start.
        EddyError: the host process failed.
    """
    config = named(config)
    why_away: list[str] = []
    nats = config.nats
    bus = await connect(list(nats.servers), name=config.name, options=options_of(nats), away=why_away.append)
    try:
        async with running(config, bus, state_path(config)) as (host, ended):
            agents = ", ".join(sorted(host.cells))
            print(f"ready: {config.name} runs {agents}", flush=True)  # noqa: T201  # the ready line
            if why_away and not bus.connected:
                text = f"{why_away[0]}; going on without, connecting as soon as one is there"
                print(f"eddy-agent: {text}", file=sys.stderr, flush=True)  # noqa: T201
            await ended.wait()
    finally:
        await bus.close()
    return 0


@asynccontextmanager
async def running(config: HostConfig, bus: Bus, state: Path) -> AsyncIterator[tuple[Host, asyncio.Event]]:
    """Start a host process and end it in order.

    Args:
        config: checked configuration with its name filled in.
        bus: the bus; its server may be away.
        state: directory for everything that survives a restart.

    Yields:
        The host process, and an event that is set when a signal or a manager asks it to end.
    """
    ended = asyncio.Event()
    host = Host(config, bus, state, address=own_address())
    lanes = Lanes(host, bus, ended)
    background: list[asyncio.Task[None]] = []
    with _signals(ended):
        try:
            await host.start()
            await lanes.start()
            for work in (host.run(), lanes.run()):
                background.append(asyncio.create_task(work))
                background[-1].add_done_callback(lambda _: ended.set())
            await _until_ready(host)
            await lanes.follow_agents()
            with contextlib.suppress(BusError):  # the server is away
                await bus.flush()
            _settle_memory()
            yield host, ended
        finally:
            await _end(host, lanes, background)


def _settle_memory() -> None:
    """Give back what only the start needed, and leave the rest out of garbage collection.

    Walking through what the start has made takes up to 0.2 s, at any time; so does, in a busy archive, walking through
    a million events that wait to be sealed, none of which is part of a cycle.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library than glibc has no such call
            ctypes.CDLL(None).malloc_trim(0)


async def _until_ready(host: Host) -> None:
    """Wait until every agent has started or failed, but not for ever: a slow one is no reason not to begin."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(READY_S):
            while not host.ready:
                host.status_changed.clear()
                await host.status_changed.wait()


async def _end(host: Host, lanes: Lanes, background: list[asyncio.Task[None]]) -> None:
    """End everything in order.

    Raises:
        EddyError: what the host process does beside its agents had failed.
    """
    log = structlog.get_logger()
    gc.unfreeze()
    try:
        async with asyncio.timeout(DRAIN_S):
            await host.drain()
    except TimeoutError:
        log.warning("drain took too long", seconds=DRAIN_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                await host.stop()
    for task in background:
        task.cancel()
    outcomes = await asyncio.gather(*background, return_exceptions=True)
    await lanes.stop()
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise EddyError(f"the host process failed: {type(outcome).__name__}: {outcome}") from outcome


class _signals:  # noqa: N801  # reads as a statement: with _signals(event)
    """Sets an event at SIGINT and SIGTERM."""

    def __init__(self, ended: asyncio.Event) -> None:
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._set: list[signal.Signals] = []

    def __enter__(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._loop.add_signal_handler(number, self._ended.set)
                self._set.append(number)
            except (NotImplementedError, RuntimeError, ValueError):
                continue  # Windows, or not the main thread: the caller's KeyboardInterrupt ends it

    def __exit__(self, *_: object) -> None:
        for number in self._set:
            self._loop.remove_signal_handler(number)
