"""What only a real server can show: refusals, permissions, log in, and the life of the embedded server."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from nats.js.errors import NoKeysError
from nats.js.kv import KeyValue as NatsBucket

from eddy_mesh.bus import BusState, ConnectOptions, NoResponders, RevisionConflict
from eddy_mesh.bus_nats import connect
from eddy_mesh.errors import BusError, ConfigError, SecurityError
from eddy_mesh.nats_servers import parse_servers
from eddy_mesh.nkeys import UserKey, credentials, user_key
from eddy_mesh.server import EmbeddedServer, find_binary

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from eddy_mesh.bus import Entry, Message
    from eddy_mesh.bus_nats import NatsBus

SEED = bytes(range(32))
HOLDER = """
import asyncio, pathlib, sys
from eddy_mesh.server import EmbeddedServer
async def main():
    server = EmbeddedServer(pathlib.Path(sys.argv[1]))
    await server.start()
    print(server.pid, flush=True)
    await server.wait()
asyncio.run(main())
"""


@pytest.fixture
async def server() -> AsyncIterator[EmbeddedServer]:
    """A server in a temporary folder."""
    async with EmbeddedServer() as running:
        yield running


# ---------------------------------------------------------------------------------------------- connecting


async def test_no_server_is_said_at_once(server: EmbeddedServer) -> None:
    """An address where nothing listens fails at once, with the address and what to do."""
    url = server.url
    await server.kill()
    with pytest.raises(BusError, match=rf"127.0.0.1:{server.port}: .*start nats-server"):
        await connect(url)


async def test_another_protocol_is_recognised(server: EmbeddedServer) -> None:
    """A port where something else answers is told apart from a server that is away."""

    async def greet(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-x\r\n")
        writer.close()
        await writer.wait_closed()

    other = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with other:
        port = other.sockets[0].getsockname()[1]
        with pytest.raises(BusError, match="SSH-2"):
            await connect(f"127.0.0.1:{port}")
        bus = await connect([f"127.0.0.1:{port}", server.url])  # the second one will do
        await bus.close()


async def test_silent_server_times_out() -> None:
    """A port that accepts and says nothing fails within the time given."""

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        await writer.wait_closed()

    silent = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    async with silent:
        with pytest.raises(BusError, match="no greeting within"):
            await connect(f"127.0.0.1:{silent.sockets[0].getsockname()[1]}", connect_timeout_s=0.1)


async def test_clear_text_is_refused_when_tls_was_asked_for(server: EmbeddedServer) -> None:
    """Credentials never go to a server in clear text when the address says tls."""
    with pytest.raises(BusError, match="clear text"):
        await connect(server.url.replace("nats://", "tls://secret@"))


def told_of(bus: NatsBus, wanted: BusState) -> asyncio.Future[str]:
    """Return what a listener is told with the next state of this kind."""
    told: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    bus.on_state(lambda state, text: told.set_result(text) if state is wanted and not told.done() else None)
    return told


QUICK = ConnectOptions(reconnect_wait_s=0.02, reconnect_wait_max_s=0.1)


async def test_a_closed_bus_tries_no_more_to_connect(server: EmbeddedServer) -> None:
    """Also where the library lost the cancellation of its attempt, because an answer came at the same moment."""
    bus = await connect(server.url, options=QUICK)
    cancelled = 0

    async def attempt() -> None:
        nonlocal cancelled
        while cancelled < 2:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled += 1

    bus._client._reconnection_task = attempting = asyncio.create_task(attempt())
    await asyncio.sleep(0)
    await bus.close()
    assert attempting.done()


async def test_a_bus_begins_without_a_server(server: EmbeddedServer) -> None:
    """It says why, keeps what is subscribed and published, refuses what would wait in vain, and connects by itself."""
    await server.kill()
    why: list[str] = []
    bus = await connect(["127.0.0.1:1", server.url], options=QUICK, away=why.append)
    assert all(f"127.0.0.1:{port}: " in why[0] for port in (1, server.port))
    assert not bus.connected
    inbox: asyncio.Queue[Message] = asyncio.Queue()
    await bus.subscribe("flow", inbox.put)
    gone = await bus.subscribe("gone", inbox.put)
    await gone.unsubscribe()
    await bus.publish("flow", b"kept", headers={"a": "b"})
    for refused in (bus.key_value("config"), bus.request("flow", b"", timeout_s=60), bus.flush()):
        with pytest.raises(BusError, match=r"the server is (back|away)") as caught:
            await refused
        assert caught.value.retryable
    assert await bus.gather("flow", b"", timeout_s=60) == []

    connected = told_of(bus, BusState.CONNECTED)
    await server.restart()
    assert str(server.port) in await connected
    assert (await inbox.get()).data == b"kept"
    other = await connect(server.url)
    await other.publish("flow", b"alive")
    assert (await inbox.get()).data == b"alive"
    await (await bus.key_value("config")).put("k", b"1")
    await server.kill()  # and it stays as any other
    connected = told_of(bus, BusState.CONNECTED)
    await server.restart()
    await connected
    await other.close()
    await bus.close()


async def test_a_bus_that_never_found_a_server_closes(server: EmbeddedServer) -> None:
    """Between two attempts, and with something published that nobody will get."""
    await server.kill()
    bus = await connect(server.url, options=QUICK, away=lambda _why: None)
    while not bus.stats.errors.get("connection"):  # noqa: ASYNC110  # nobody tells of an attempt
        await asyncio.sleep(0.01)
    await bus.publish("flow", b"")
    await bus.close()
    with pytest.raises(BusError, match="closed"):
        await bus.publish("flow", b"")


async def test_a_server_that_refuses_is_not_away(tmp_path: Path) -> None:
    """Wrong credentials are an error at once where a server is there, and told where it comes later."""
    async with EmbeddedServer(tmp_path, authorization=True) as server:
        with pytest.raises(BusError, match="refused the credentials"):
            await connect(server.url, away=lambda _why: pytest.fail("it is there"))
        await server.kill()
        bus = await connect(server.url, options=QUICK, away=lambda _why: None)
        told = told_of(bus, BusState.ERROR)
        await server.restart()
        assert "Authorization Violation" in await told
        assert not bus.connected
        await bus.close()


async def test_clear_text_is_refused_also_later(server: EmbeddedServer) -> None:
    """A server that comes up without TLS gets no credentials where TLS was asked for."""
    await server.kill()
    bus = await connect(server.url.replace("nats://", "tls://secret@"), options=QUICK, away=lambda _why: None)
    told = told_of(bus, BusState.ERROR)
    await server.restart()
    assert "clear text" in await told
    assert not bus.connected
    await bus.close()


async def test_a_server_begun_anew_has_the_port_of_the_last(tmp_path: Path) -> None:
    """Clients of an ``up`` that was stopped find the next one; where another program has the port, it takes another."""
    async with EmbeddedServer(tmp_path) as server:
        port = server.port
    async with EmbeddedServer(tmp_path) as server:
        assert server.port == port
    with socket.create_server(("127.0.0.1", port)):
        async with EmbeddedServer(tmp_path) as server:
            assert server.port != port
    (tmp_path / "nats-server.port").write_text("no port")
    async with EmbeddedServer(tmp_path) as server:
        assert server.port


async def test_what_is_on_its_way_is_not_taken_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library sees that nothing is pending before the first value has reached it, and says that there is none."""
    history, keys, hasty = NatsBucket.history, NatsBucket.keys, iter([True, False, True, False])

    async def hasty_history(bucket: NatsBucket, key: str) -> list[NatsBucket.Entry]:
        if next(hasty):
            raise NoKeysError
        return await history(bucket, key)

    async def hasty_keys(bucket: NatsBucket) -> list[str]:
        if next(hasty):
            raise NoKeysError
        return await keys(bucket)

    monkeypatch.setattr(NatsBucket, "history", hasty_history)
    monkeypatch.setattr(NatsBucket, "keys", hasty_keys)
    async with EmbeddedServer(tmp_path) as server:
        bus = await connect(server.url, options=QUICK)
        bucket = await bus.key_value("record", history=5)
        await bucket.put("k", b"1")
        assert [entry.value for entry in await bucket.history("k")] == [b"1"]
        assert await bucket.keys() == ["k"]
        await bus.close()


async def test_what_a_server_lost_is_made_anew(tmp_path: Path) -> None:
    """A server whose store was emptied: buckets and streams are there again with the next use, without a restart."""
    async with EmbeddedServer(tmp_path) as server:
        bus = await connect(server.url, options=QUICK)

        async def emptied() -> None:
            connected = told_of(bus, BusState.CONNECTED)
            await server.kill()
            shutil.rmtree(tmp_path / "jetstream")
            await server.restart()
            await connected

        bucket = await bus.key_value("record", history=5)
        seen: asyncio.Queue[Entry | None] = asyncio.Queue()
        await bucket.put("before", b"")
        await emptied()
        assert await bucket.get("before") is None
        assert await bucket.create("k", b"") == 1
        await emptied()
        assert await bucket.put("k", b"") == 1
        await emptied()
        assert await bucket.keys() == []
        await emptied()
        assert await bucket.history("k") == []
        await emptied()
        watch = await bucket.watch(seen.put)
        assert await seen.get() is None
        await emptied()
        await bucket.put("k", b"")
        assert await seen.get() is not None
        await watch.stop()
        held = await bucket.put("k", b"1")
        await emptied()
        with pytest.raises(RevisionConflict):  # what was read is there no more
            await bucket.update("k", b"2", held)
        for number in range(5):
            await bucket.put("k", b"%d" % number)
        assert len(await bucket.history("k")) == 5  # made anew as it was asked for

        for _ in range(2):
            await bus.ensure_stream("evidence", ["evidence.>"])
            assert await bus.publish_durable("evidence.1", b"", message_id="1") == 1
            await emptied()
            with pytest.raises(NoResponders):
                await bus.publish_durable("evidence.1", b"", message_id="1")
        await bus.close()


def test_addresses_are_checked_together() -> None:
    """All mistakes in addresses are reported at once, without their credentials."""
    with pytest.raises(ConfigError) as caught:
        parse_servers(["http://a", "nats://token@:4222", "nats://a:b", "good"])
    assert len(caught.value.mistakes) == 3
    assert "token" not in str(caught.value)
    with pytest.raises(ConfigError):
        parse_servers([])


async def test_token(tmp_path: Path) -> None:
    """A server with authorization takes its token, from options or address, and refuses others for good."""
    async with EmbeddedServer(tmp_path, authorization=True) as server:
        assert stat.S_IMODE((tmp_path / "token").stat().st_mode) == 0o600
        assert stat.S_IMODE((tmp_path / "nats-server.conf").stat().st_mode) == 0o600
        token = server.options.token
        for bus in (
            await connect(server.url, options=server.options),
            await connect(server.url.replace("//", f"//{token}@")),
        ):
            await bus.flush()
            await bus.close()
        for options in (ConnectOptions(), ConnectOptions(token="wrong")):
            with pytest.raises(BusError, match="refused the credentials") as caught:
                await connect(server.url, options=options)
            assert not caught.value.retryable


async def test_nkey_and_permissions(tmp_path: Path) -> None:
    """A user logs in with an nkey; what it may not do is told and counted instead of silently missing."""
    key = UserKey(SEED)
    seed_file = tmp_path / "user.nk"
    seed_file.write_text(key.seed + "\n")
    permissions = {"publish": ["allowed", "_INBOX.>"], "subscribe": ["allowed"]}
    users = json.dumps([{"nkey": key.public_key, "permissions": permissions}])
    async with EmbeddedServer(extra_config=f"authorization {{ users: {users} }}") as server:
        bus = await connect(server.url, options=ConnectOptions(nkey_seed_file=str(seed_file)))
        told: list[str] = []
        bus.on_state(lambda state, text: told.append(f"{state.value}: {text}"))
        await bus.publish("forbidden", b"")
        await bus.subscribe("secret.>", lambda _message: None)
        await bus.flush()
        assert bus.stats.errors == {"permission": 2}
        assert "forbidden" in told[0]
        assert "secret.>" in told[1]
        assert bus.connected
        await bus.close()


def test_nkeys_decode() -> None:
    """Seeds and credentials files are read back; damaged ones are refused without being shown."""
    key = UserKey(SEED)
    assert key.seed[:2] == "SU"
    assert key.public_key[0] == "U"
    assert user_key(f" {key.seed}\n").public_key == key.public_key
    text = (
        f"-----BEGIN NATS USER JWT-----\na.b.c\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{key.seed}\n------END USER NKEY SEED------\n"
    )
    jwt, found = credentials(text)
    assert (jwt, found.public_key) == ("a.b.c", key.public_key)
    for bad in ("", "SU1", key.seed[:-1] + "A", key.public_key):
        with pytest.raises(SecurityError) as caught:
            user_key(bad)
        assert key.seed not in str(caught.value)
    with pytest.raises(SecurityError):
        credentials(text.partition("-----BEGIN USER")[0])


async def test_unreadable_file_is_a_configuration_mistake(server: EmbeddedServer, tmp_path: Path) -> None:
    """A credentials file that is not there is named with its key."""
    with pytest.raises(ConfigError, match="creds_file="):
        await connect(server.url, options=ConnectOptions(creds_file=str(tmp_path / "none")))


async def test_cancelled_flush_leaves_the_bus_usable(server: EmbeddedServer) -> None:
    """The answer to a flush that nobody waits for any more does not make the connection deaf."""
    bus = await connect(server.url, name="test")
    flushing = asyncio.create_task(bus.flush())
    while not bus._client._pongs:  # noqa: ASYNC110  # the library tells nobody
        await asyncio.sleep(0)
    flushing.cancel()
    await asyncio.wait([flushing])
    await bus.flush(timeout_s=2.0)
    await bus.close()


async def test_cancelled_publish_ends(server: EmbeddedServer) -> None:
    """A task that is cancelled while its publish waits for room ends, and the bus stays usable."""
    bus = await connect(server.url, options=ConnectOptions(outbound_buffer_bytes=1))

    async def flood() -> None:
        while True:
            await bus.publish("flood", bytes(1000))

    flooding = asyncio.create_task(flood())
    await bus.flush()
    flooding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await flooding
    await bus.flush()
    await bus.close()


# ---------------------------------------------------------------------------------------------- embedded server


async def test_ephemeral_server_leaves_nothing() -> None:
    """A temporary server removes its folder; stopping twice is no error."""
    server = EmbeddedServer()
    await server.start()
    folder, pid = server.state_dir, server.pid
    assert folder.exists()
    await server.stop()
    await server.stop()
    assert not folder.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_crash_is_noticed_and_restart_keeps_the_port(server: EmbeddedServer) -> None:
    """A killed server is noticed by its status; restarted it has the same port and its streams."""
    bus = await connect(server.url, options=ConnectOptions(reconnect_wait_s=0.02))
    await (await bus.key_value("config")).put("k", b"v")
    port, monitor_url = server.port, server.monitor_url
    back = asyncio.Event()
    bus.on_state(lambda state, _text: back.set() if state is BusState.CONNECTED else None)
    os.kill(server.pid, signal.SIGKILL)
    assert await server.wait() == -signal.SIGKILL
    assert not server.running
    await server.restart()
    assert (server.port, server.monitor_url) == (port, monitor_url)
    await back.wait()
    found = await (await bus.key_value("config")).get("k")
    assert found is not None
    assert found.value == b"v"
    await bus.close()


async def test_second_server_on_one_folder_is_refused(tmp_path: Path) -> None:
    """A folder in use is refused with the process that uses it, and the first server goes on."""
    async with EmbeddedServer(tmp_path) as first:
        with pytest.raises(BusError, match=f"used by process {os.getpid()}"):
            await EmbeddedServer(tmp_path).start()
        assert first.running


async def test_bad_configuration_is_said(tmp_path: Path) -> None:
    """A server that does not start says why, in its own words."""
    with pytest.raises(BusError, match=r"ended with status 1: .*nats-server.conf:\d+"):
        await EmbeddedServer(tmp_path, extra_config="max_payload: nonsense").start()


@pytest.mark.skipif(sys.platform != "linux", reason="asks the Linux kernel for it")
async def test_server_dies_with_its_parent(tmp_path: Path) -> None:
    """When the host process is killed the server ends, and its folder can be used again."""
    source = str(Path(sys.modules[EmbeddedServer.__module__].__file__ or "").parents[1])
    holder = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", HOLDER, str(tmp_path)),
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": source},
    )
    assert holder.stdout is not None
    pid = int(await holder.stdout.readline())
    assert runs(pid)
    holder.kill()
    await holder.communicate()
    async with EmbeddedServer(tmp_path) as server:  # waits for the end of the other one
        assert server.pid != pid
        assert not runs(pid)


def runs(pid: int) -> bool:
    """Say whether a process is there and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_old_program_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that is too old or no nats-server is passed over for the next one; with none left all are named."""
    old = tmp_path / "nats-server"
    old.write_text("#!/bin/sh\necho nats-server: v2.9.10\n")
    old.chmod(0o755)
    odd = tmp_path / "odd"
    odd.write_text("#!/bin/sh\necho hello\n")
    odd.chmod(0o755)
    monkeypatch.setenv("EDDY_NATS_SERVER", str(odd))
    monkeypatch.setenv("PATH", str(tmp_path))
    path, version = await find_binary()
    assert Path(path).parent != tmp_path
    assert tuple(map(int, version.split("."))) >= (2, 10, 0)
    monkeypatch.setattr("sysconfig.get_path", lambda _name: str(tmp_path / "none"))
    with pytest.raises(ConfigError) as caught:
        await find_binary()
    assert f"EDDY_NATS_SERVER={odd}: is no nats-server" in caught.value.mistakes
    assert f"PATH={old}: version 2.9.10 is older than 2.10" in caught.value.mistakes
