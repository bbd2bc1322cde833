"""Everything on one machine with no configuration: what `eddy-agent up` starts.

What may live here: the default topology and the embedded server around it.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import secrets
import tempfile
from contextlib import ExitStack
from pathlib import Path

import msgspec
import structlog

from eddy_mesh import discovery, local
from eddy_mesh.bus_nats import connect
from eddy_mesh.config import AgentConfig, HostConfig, NatsConfig
from eddy_mesh.errors import EddyError, UsageError
from eddy_mesh.local import Whereabouts
from eddy_mesh.runtime.host import Host
from eddy_mesh.runtime.process import named, running
from eddy_mesh.server import EmbeddedServer

SOURCES = ("syslog", "netflow", "sflow", "journald", "file", "host", "emit")
"""Sources that make sense on any machine without configuration."""


class UpOptions(msgspec.Struct, frozen=True):
    """What the command line of `up` says.

    Attributes:
        data: state directory; None is the user's.
        ephemeral: leave nothing behind.
        name: name of the host process; "" is the host name.
        backplane: name of the mesh.
    """

    data: Path | None = None
    ephemeral: bool = False
    name: str = ""
    backplane: str = "eddy"


def topology(backplane: str, state: Path) -> dict[str, AgentConfig]:
    """Return one agent of every kind that is installed, wired so that a newcomer sees everything.

    Args:
        backplane: name of the mesh.
        state: state directory; the anonymizer's key file is in it.
    """
    agents: dict[str, AgentConfig] = {}
    for kind, part in discovery.PARTS.items():
        for name in discovery.part_names(kind):
            if kind == "normalizer" and name not in SOURCES:
                continue
            if kind == "transformer" and not discovery.part_module(kind, name).INPUT:
                continue  # it takes what somebody's statement gives it
            prefix = {"normalizer": "in", "transformer": "cook", "analysis": "find"}[kind]
            agents[f"{prefix}-{name.replace('_', '-')}"] = msgspec.convert({"type": kind, part.key: name}, AgentConfig)
    for kind in discovery.agent_types():
        if kind in discovery.PARTS:
            continue
        settings: dict[str, object] = {"type": kind}
        if kind == "anonymizer":
            settings |= {"backplane": f"{backplane}-anonymized", "config": {"keys_file": str(_key_file(state))}}
        agents[kind.replace("_", "-")] = msgspec.convert(settings, AgentConfig)
    return agents


def _key_file(state: Path) -> Path:
    """Return the key file of the anonymizer, made with a new secret key where there is none."""
    path = state / "anonymizer-keys.toml"
    if not path.exists():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(f'[[key]]\nepoch = 1\nnot_before = 1970-01-01T00:00:00Z\nkey = "{secrets.token_hex(32)}"\n')
    return path


async def up(options: UpOptions) -> int:
    """Run everything until a signal or a manager ends it.

    Raises:
        UsageError: an `up` on the same state runs already.
    """
    with ExitStack() as stack:
        if options.ephemeral:
            state = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="eddy-", ignore_cleanup_errors=True)))
        else:
            state = (options.data or local.state_directory() / "up").absolute()
            state.mkdir(parents=True, exist_ok=True, mode=0o700)
        _refuse_second(state)
        config = named(HostConfig(name=options.name, backplane=options.backplane))
        config = msgspec.structs.replace(config, agents=topology(options.backplane, state))
        async with EmbeddedServer(state / "nats", name=f"eddy-{config.name}", authorization=True) as server:
            # For host processes below this one; this one is connected by itself.
            nats = NatsConfig(servers=(server.url,), token_file=str(state / "nats" / "token"))
            config = msgspec.structs.replace(config, nats=nats)
            place = Whereabouts((server.url,), server.options, options.backplane, os.getpid(), str(state))
            note = local.leave_note(place)
            stack.callback(note.unlink, missing_ok=True)
            bus = await connect(server.url, name=config.name, options=server.options)
            watcher = asyncio.create_task(_keep_server(server), name="nats-server")
            try:
                async with running(config, bus, state) as (host, ended):
                    print(ready_text(host, server), flush=True)  # noqa: T201  # the ready line
                    await ended.wait()
                    print("draining", flush=True)  # noqa: T201
            finally:
                watcher.cancel()
                await asyncio.gather(watcher, return_exceptions=True)
                await bus.close()
    return 0


def _refuse_second(state: Path) -> None:
    for place in local.running():
        # A crash may have left a note with the number that this process has now: in a container it is often the same.
        if place.state == str(state) and place.pid != os.getpid():
            raise UsageError(f"eddy-agent up runs already on {state} (process {place.pid}): use it, or give --data DIR")


async def _keep_server(server: EmbeddedServer) -> None:
    """Start the server again when it ends by itself; agents keep running and reconnect."""
    while True:
        status = await server.wait()
        structlog.get_logger().error("nats-server ended; starting it again", status=status, log=str(server.log_file))
        for wait_s in itertools.chain((1, 2, 5, 10), itertools.repeat(30)):
            await asyncio.sleep(wait_s)
            try:
                await server.restart()
            except EddyError as error:
                structlog.get_logger().error("nats-server does not start", reason=str(error))
            else:
                structlog.get_logger().warning("nats-server runs again", url=server.url)
                break


def ready_text(host: Host, server: EmbeddedServer) -> str:
    """Return the ready line and what to try next."""
    states = [cell.state_now for cell in host.cells.values()]
    running_now = sum(state == "running" for state in states)
    waiting = [
        f"  {cell.name}: {cell.state_now} {cell.reason}" for cell in host.cells.values() if cell.state_now != "running"
    ]
    lines = [
        f"ready: {running_now} agents of backplane {host.backplane} on {host.host}, NATS at {server.url}",
        *waiting,
    ]
    if host.began_with:
        lines.append(f"  they are those of revision {host.began_with} of the topology; see eddy topology show")
    lines += [f"  {agent}: {text}" for agent, text in host.recent_notices]
    lines += [
        "try, in another terminal:",
        "  eddy tap                               # every event of this machine, live",
        "  eddy top process.name --since -10m     # who made most of them",
        "  eddy agents                            # what runs, how fast, what was lost",
    ]
    return "\n".join(lines)
