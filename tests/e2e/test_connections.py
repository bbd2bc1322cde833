"""Listeners under attack: connections that hold on, come in floods, or find no descriptor. Real sockets."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Self

import pytest

from eddy_agents.normalizers import http, syslog
from eddy_mesh import connections
from eddy_mesh.admission import Limits
from eddy_mesh.connections import Connection, StreamListener
from eddy_mesh.listening import Binding, bind
from eddy_mesh.memory_outlet import MemoryOutlet, running

pytestmark = pytest.mark.e2e
ONE_PEER = {"refused": 1, "source.ip": "127.0.0.1", "limit": 2}


@pytest.fixture
async def outlet(tmp_path: Path) -> MemoryOutlet:
    state = tmp_path / "state"
    state.mkdir()
    return MemoryOutlet(state)


class Client:
    """One connection to a listener of this machine; everything is closed at the end of the block."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()

    async def ended(self) -> bytes:
        """Return what the listener said before it closed."""
        with suppress(ConnectionError):
            return await self.reader.read()
        return b""


def syslog_source(**settings: float) -> syslog.Source:
    return syslog.Source(syslog.Config(listen_udp=(), listen_tcp=("127.0.0.1:0",), **settings))  # type: ignore[arg-type]


async def test_one_peer_is_bounded_and_counted(outlet: MemoryOutlet) -> None:
    """A peer's third connection is closed, counted as lost, and told; those that it has go on."""
    async with running(syslog_source(max_connections_per_peer=2), outlet):
        port = await outlet.port("tcp")
        async with Client(port) as first, Client(port), Client(port) as third:
            assert await third.ended() == b""
            first.writer.write(b"still here\n")
            await outlet.until(lambda: outlet.rows)
    assert outlet.told("too_many_connections_of_peer") == [ONE_PEER]
    assert outlet.losses == {"too_many_connections_of_peer": 1}


async def test_a_flood_is_told_in_two_lines(outlet: MemoryOutlet) -> None:
    """However many are turned away within the interval: one line for the first, one at the end for all others."""
    async with running(syslog_source(max_connections_per_peer=1), outlet):
        port = await outlet.port("tcp")
        async with Client(port) as first:
            first.writer.write(b"x\n")
            await outlet.until(lambda: outlet.rows)
            for _ in range(50):
                async with Client(port) as refused:
                    await refused.ended()
    told = outlet.told("too_many_connections_of_peer")
    assert [fields["refused"] for fields in told] == [1, 49]
    assert outlet.losses == {"too_many_connections_of_peer": 50}


async def test_quiet_before_the_first_message_is_cut_and_later_is_not(
    outlet: MemoryOutlet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What never sent a whole message is closed, and what it began is taken; after one, no time is measured."""
    seen: list[Connection] = []
    expect = Connection.expect

    def remember(connection: Connection, wait_s: float) -> None:
        seen.append(connection)
        expect(connection, wait_s if len(seen) > 1 else 3600)  # the first may take its time on a busy machine

    monkeypatch.setattr(Connection, "expect", remember)
    async with running(syslog_source(first_message_wait_s=0.05), outlet):
        port = await outlet.port("tcp")
        async with Client(port) as quiet:
            quiet.writer.write(b"first\n")
            await outlet.until(lambda: outlet.rows)
            assert seen[0]._first_wait is None
            async with Client(port) as silent, Client(port) as slow:
                slow.writer.write(b"half a li")
                await asyncio.gather(silent.ended(), slow.ended())
            quiet.writer.write(b"later\n")
            await outlet.until(lambda: len(outlet.rows) == 3)
    assert sorted(map(str, outlet.payloads)) == [str(b"first"), str(b"half a li"), str(b"later")]
    assert sum(int(str(fields["closed"])) for fields in outlet.told("idle_connections")) == 2
    assert not outlet.losses


@pytest.mark.parametrize(
    "sent", [b"", b"POST /events HT", b"POST /events HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n["]
)
async def test_a_request_that_never_ends_is_answered_and_cut(sent: bytes, outlet: MemoryOutlet) -> None:
    """A head or body that does not come gets 408, and the operator is told."""
    config = http.Config(listen=("127.0.0.1:0",), head_wait_s=0.1, body_wait_s=0.1)
    async with running(http.Source(config), outlet), Client(await outlet.port("tcp")) as slow:
        slow.writer.write(sent)
        assert (await slow.ended()).startswith(b"HTTP/1.1 408 ")
    assert outlet.told("idle_connections") == [{"closed": 1, "source.ip": "127.0.0.1"}]
    assert not outlet.rows


async def test_a_client_between_two_requests_is_closed_without_a_word(outlet: MemoryOutlet) -> None:
    """A kept connection that asks for no more is no attack: no 408, which would answer the next request; no notice."""
    source = http.Source(http.Config(listen=("127.0.0.1:0",), head_wait_s=0.5))
    async with running(source, outlet), Client(await outlet.port("tcp")) as client:
        client.writer.write(b"POST /events HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\n[1]")
        assert (await client.ended()).count(b"HTTP/1.1") == 1
    assert not outlet.told("idle_connections")


async def test_few_descriptors_are_shared(outlet: MemoryOutlet, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that may open few files holds fewer connections than configured, and says so: stores need files too."""
    monkeypatch.setattr(connections, "_allowed_files", lambda: 8)
    async with running(syslog_source(max_connections=3), outlet):
        port = await outlet.port("tcp")
        async with Client(port), Client(port), Client(port) as third:
            assert await third.ended() == b""
    assert outlet.told("connections_limited")[0] == {"limit": 2, "open_files": 8}
    assert outlet.told("too_many_connections")[0]["limit"] == 2


@pytest.mark.skipif(sys.platform == "win32", reason="no such limit there")
async def test_the_soft_limit_of_files_is_raised() -> None:
    """A process that was started with the usual 1,024 files or fewer takes what it may have."""
    program = (
        "import resource\n"
        "from eddy_mesh.connections import _allowed_files\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (128, 512))\n"
        "print(_allowed_files(), *resource.getrlimit(resource.RLIMIT_NOFILE))\n"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
    assert (await process.communicate())[0].split() == [b"512"] * 3


class Exhausted(socket.socket):
    """A listening socket of a process that has no descriptor left for some accepts."""

    refusals = 3

    def accept(self) -> tuple[socket.socket, object]:
        """Fail some times, then accept."""
        if self.refusals:
            self.refusals -= 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return super().accept()


async def test_want_of_descriptors_pauses_accepting(outlet: MemoryOutlet, monkeypatch: pytest.MonkeyPatch) -> None:
    """With no descriptor left the listener rests after each attempt, says so once, and then takes who waited."""
    waits: list[float] = []
    sleep = asyncio.sleep

    async def rest(wait_s: float) -> None:
        if wait_s == connections._OUT_OF_FILES_S:
            waits.append(wait_s)
            wait_s = 0
        await sleep(wait_s)

    taken = asyncio.Event()

    async def attend(connection: Connection) -> None:
        connection.heard()
        taken.set()

    monkeypatch.setattr("eddy_mesh.connections.asyncio.sleep", rest)
    listener = StreamListener(outlet, Limits(1024), attend)
    with Exhausted(fileno=bind("127.0.0.1:0", Binding("tcp"), outlet).detach()) as bound:
        bound.setblocking(False)
        serving = asyncio.create_task(listener.serve([(bound, None)]))
        async with Client(bound.getsockname()[1]):
            await taken.wait()
        serving.cancel()
        await asyncio.wait([serving])
    assert len(waits) == 3
    told = outlet.told("accepting_paused")
    assert told[0] == {"times": 1, "error.message": os.strerror(errno.EMFILE), "retry_s": 1.0}
    assert len(told) <= 2
    assert not outlet.losses


async def test_a_flood_leaves_others_their_turn(outlet: MemoryOutlet) -> None:
    """While connections come faster than they are accepted, every other task still gets its turn after each."""
    turns = 0

    class Flooded(socket.socket):
        left = 100

        def accept(self) -> tuple[socket.socket, object]:
            if not self.left:
                raise BlockingIOError
            self.left -= 1
            ours, theirs = socket.socketpair()
            theirs.close()
            return ours, ("127.0.0.1", 1)

    async def attend(connection: Connection) -> None:
        raise AssertionError(connection)

    listener = StreamListener(outlet, Limits(1024, max_connections=0), attend)
    with Flooded(fileno=bind("127.0.0.1:0", Binding("tcp"), outlet).detach()) as bound:
        bound.setblocking(False)
        serving = asyncio.create_task(listener.serve([(bound, None)]))
        while bound.left:
            turns += 1
            await asyncio.sleep(0)
        serving.cancel()
        await asyncio.wait([serving])
    assert turns >= 50
    assert outlet.losses == {"too_many_connections": 100}


async def test_a_peer_that_reads_nothing_is_not_kept(outlet: MemoryOutlet) -> None:
    """What can not be sent at the end of a connection does not keep it open beyond its place in the limits."""
    transports: list[asyncio.WriteTransport] = []

    async def attend(connection: Connection) -> None:
        connection.writer.write(bytes(32 * 1024 * 1024))
        transports.append(connection.writer.transport)

    listener = StreamListener(outlet, Limits(1024), attend)
    with bind("127.0.0.1:0", Binding("tcp"), outlet) as bound, socket.socket() as deaf:
        serving = asyncio.create_task(listener.serve([(bound, None)]))
        deaf.setblocking(False)
        await asyncio.get_running_loop().sock_connect(deaf, bound.getsockname())
        while not transports or listener._admission._open:  # noqa: ASYNC110  # the end of a task of the listener
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert transports[0].get_write_buffer_size() == 0
        serving.cancel()
        await asyncio.wait([serving])
