"""Sources on real sockets, files and processes; only what takes their events is made for the test."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from eddy_agents.normalizers import file, http, journald, json_lines, netflow, sflow, syslog
from eddy_mesh import datagrams
from eddy_mesh.agent import Draft, Source
from eddy_mesh.cer import Value
from eddy_mesh.datagrams import DatagramReceiver
from eddy_mesh.errors import ConfigError
from eddy_mesh.listening import Binding, PortTaken, bind

pytestmark = pytest.mark.e2e


class Collector:
    """An outlet that keeps what it is given; `gate` closed is a full edge."""

    name = "collector"

    def __init__(self, state: Path) -> None:
        self.state = state
        self.rows: list[dict[str, Value]] = []
        self.drafts: list[Draft] = []
        self.losses: Counter[str] = Counter()
        self.notices: list[tuple[str, dict[str, Value]]] = []
        self.settlements = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self._changed = asyncio.Event()

    def now_ns(self) -> int:
        """The real clock."""
        return time.time_ns()

    async def emit(self, draft: Draft) -> None:
        """Keep a draft once the gate is open."""
        self._changed.set()
        await self.gate.wait()
        assert all(len(column) == draft.count for column in draft.columns.values())
        self.drafts.append(draft)
        self.rows += [{name: column.at(row) for name, column in draft.columns.items()} for row in range(draft.count)]
        self._changed.set()

    async def settled(self) -> None:
        """Wait for the gate."""
        await self.gate.wait()
        self.settlements += 1
        self._changed.set()

    def lost(self, reason: str, count: int) -> None:
        """Count."""
        self.losses[reason] += count
        self._changed.set()

    def notice(self, event: str, **fields: Value) -> None:
        """Keep."""
        self.notices.append((event, fields))
        self._changed.set()

    @property
    def payloads(self) -> list[Value]:
        """The payload of each event."""
        return [row["event.original"] for row in self.rows]

    def told(self, event: str) -> list[dict[str, Value]]:
        """The fields of each notice of a name."""
        return [fields for name, fields in self.notices if name == event]

    async def until(self, holds: Callable[[], object]) -> None:
        """Wait until a condition holds, looking at it after each change."""
        while not holds():
            self._changed.clear()
            await self._changed.wait()

    async def port(self, transport: str) -> int:
        """The port that was chosen for the first listener of a transport."""
        await self.until(lambda: [f for f in self.told("port_chosen") if f["transport"] == transport])
        return int(str(next(f["using"] for f in self.told("port_chosen") if f["transport"] == transport)))


@asynccontextmanager
async def running(source: Source, outlet: Collector) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(source.run(outlet))
    try:
        yield task
    finally:
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=5)
        assert done, "a source that is cancelled returns"
        if not task.cancelled() and (error := task.exception()):
            raise error


@pytest.fixture
async def outlet(tmp_path: Path) -> Collector:
    state = tmp_path / "state"
    state.mkdir()
    return Collector(state)


def send_udp(port: int, *payloads: bytes, address: str = "127.0.0.1") -> int:
    """Send datagrams, and return the port that they came from."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect((address, port))
        for payload in payloads:
            sender.send(payload)
        return int(sender.getsockname()[1])


async def send_tcp(port: int, *parts: bytes) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    for part in parts:
        writer.write(part)
        await writer.drain()
    writer.close()
    await writer.wait_closed()


# --- datagrams -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [netflow, sflow])
async def test_datagram_is_one_raw_event(module: object, outlet: Collector) -> None:
    """Each datagram is one event: its bytes exactly, an empty one too, with its sender."""
    assert module in {netflow, sflow}
    made = (
        netflow.Source(netflow.Config(listen=("*:0",)))
        if module is netflow
        else sflow.Source(sflow.Config(listen=("*:0",)))
    )
    payloads = [b"\0\x09data", b"", bytes(range(256)) * 200]
    async with running(made, outlet):
        sender = send_udp(await outlet.port("udp"), *payloads)
        await outlet.until(lambda: len(outlet.rows) == 3)
    assert outlet.payloads == payloads
    assert {(row["host_address"], row["source.port"]) for row in outlet.rows} == {("127.0.0.1", sender)}
    assert {draft.kind.type for draft in outlet.drafts} == {"netflow" if module is netflow else "sflow"}
    assert not outlet.losses


@pytest.mark.parametrize("one_at_a_time", [False, True], ids=["recvmmsg", "recvfrom"])
@pytest.mark.parametrize(("listen", "sender"), [("127.0.0.1:0", "127.0.0.1"), ("*:0", "127.0.0.1"), ("[::1]:0", "::1")])
async def test_both_readers_give_the_same_columns(
    listen: str, sender: str, one_at_a_time: bool, outlet: Collector
) -> None:
    """One system call for many datagrams or one for each: payloads, addresses and ports are the same."""
    if ":" in sender and not socket.has_ipv6:
        pytest.skip("no IPv6 on this host; enable it to run this")
    receiver = DatagramReceiver(bind(listen, Binding("udp"), outlet), one_at_a_time=one_at_a_time)
    try:
        payloads = [b"%d" % number for number in range(300)]
        port = send_udp(receiver.port, *payloads, address=sender)
        first, second = await receiver.receive(), await receiver.receive()
        assert receiver.take() is None
        assert [d.payloads.at(row) for d in (first, second) for row in range(len(d))] == payloads
        assert first.addresses is not None
        assert first.ports is not None
        assert (first.addresses.at(0), first.ports.at(255)) == (sender, port)
        assert first.addresses.is_v4 is (sender == "127.0.0.1")
        assert receiver.buffer_bytes > 0
    finally:
        receiver.close()


async def test_loop_without_readers_is_pushed_to(outlet: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the loop can not watch a socket, as on Windows, datagrams come through a queue, and its losses count."""

    def refuse(*_: object) -> None:
        raise NotImplementedError

    loop = asyncio.get_running_loop()
    receiver = DatagramReceiver(bind("127.0.0.1:0", Binding("udp"), outlet))
    with monkeypatch.context() as patched:
        add_reader = loop.add_reader
        patched.setattr(loop, "add_reader", refuse)
        pushed = asyncio.create_task(receiver.receive())
        await asyncio.sleep(0)
        patched.setattr(loop, "add_reader", add_reader)
        port = send_udp(receiver.port, b"one")
        taken = await pushed
    assert isinstance(receiver._reader, datagrams._QueueReader)
    assert (taken.payloads.at(0), taken.addresses and taken.addresses.at(0)) == (b"one", "127.0.0.1")
    for number in range(5000):
        receiver._reader.datagram_received(b"%d" % number, ("127.0.0.1", port))
    assert receiver.newly_dropped() == 5000 - 16 * datagrams.DRAIN_DATAGRAMS
    receiver.close()
    await asyncio.sleep(0)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what its kernel dropped")
async def test_kernel_drops_are_counted_while_an_edge_is_full(outlet: Collector) -> None:
    """While nothing is read the kernel drops; what was taken and what was lost add up to what was sent."""
    outlet.gate.clear()
    sent = 60_000
    async with running(netflow.Source(netflow.Config(listen=("127.0.0.1:0",))), outlet):
        port = await outlet.port("udp")
        await asyncio.to_thread(send_udp, port, *[b"x" * 1400] * sent)
        await outlet.until(lambda: outlet.losses["kernel_buffer"])
        outlet.gate.set()
        await outlet.until(lambda: len(outlet.rows) + outlet.losses["kernel_buffer"] >= sent)
    assert len(outlet.rows) + outlet.losses["kernel_buffer"] == sent
    assert len(outlet.rows) > 1000


async def test_stop_takes_what_has_arrived(outlet: Collector) -> None:
    """What is in the socket when the source is told to stop is emitted, and what an edge does not take is counted."""
    outlet.gate.clear()
    async with running(netflow.Source(netflow.Config(listen=("127.0.0.1:0",))), outlet):
        port = await outlet.port("udp")
        send_udp(port, b"held")
        await outlet.until(outlet._changed.is_set)
        send_udp(port, *[b"waiting"] * 1000)
    assert len(outlet.rows) + outlet.losses["stopped"] == 1001


# --- ports -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_taken_port_is_a_warning_with_the_alternative(transport: str, outlet: Collector) -> None:
    """A taken port gives a notice that names it and the one used instead; the fallback ports come first."""
    binding = Binding("udp" if transport == "udp" else "tcp")
    with bind("127.0.0.1:0", binding, outlet) as first:
        taken = first.getsockname()[1]
        with bind(f"127.0.0.1:{taken}", binding, outlet) as second:
            using = second.getsockname()[1]
        wanted = Binding(binding.transport, fallback_ports=(using,))
        with bind(f"127.0.0.1:{taken}", wanted, outlet) as third:
            assert third.getsockname()[1] == using
    assert outlet.told("port_taken") == [{"transport": transport, "port": taken, "using": using}] * 2


async def test_taken_port_is_a_failure_where_asked_for(outlet: Collector) -> None:
    """With port_taken = fail the error names the port and says what to do."""
    with bind("127.0.0.1:0", Binding("udp"), outlet) as first:
        port = first.getsockname()[1]
        config = netflow.Config(listen=(f"127.0.0.1:{port}",), port_taken=PortTaken.FAIL)
        with pytest.raises(OSError, match=f"udp port {port} is taken: stop the program") as raised:
            await netflow.Source(config).run(outlet)
    assert raised.value.errno == errno.EADDRINUSE


@pytest.mark.parametrize("listen", ["2055", "host:2055", "127.0.0.1:99999", "127.0.0.1:", "192.0.2.1:0"])
async def test_impossible_endpoint_says_what_to_write(listen: str, outlet: Collector) -> None:
    """An endpoint that can not be is a ConfigError, not a failure to be tried again."""
    with pytest.raises(ConfigError, match="listen: "):
        await netflow.Source(netflow.Config(listen=(listen,))).run(outlet)


# --- syslog ----------------------------------------------------------------------------------------------------


def syslog_source(**settings: object) -> syslog.Source:
    return syslog.Source(msgspec.convert({"listen_udp": [], "listen_tcp": []} | settings, syslog.Config))


async def test_syslog_over_udp_and_tcp(outlet: Collector) -> None:
    """A datagram, lines and counted messages are events alike; an unterminated last line counts."""
    async with running(syslog_source(listen_udp=["127.0.0.1:0"], listen_tcp=["127.0.0.1:0"]), outlet):
        send_udp(await outlet.port("udp"), b"<1>datagram\n")
        await outlet.until(lambda: len(outlet.rows) == 1)
        await send_tcp(await outlet.port("tcp"), b"<1>a\n<2>", b"b\r\n<3>c")
        await outlet.until(lambda: len(outlet.rows) == 4)
        await send_tcp(await outlet.port("tcp"), b"5 <1>d", b"\n5 <1>\ne")
        await outlet.until(lambda: len(outlet.rows) == 6)
    assert outlet.payloads == [b"<1>datagram\n", b"<1>a", b"<2>b", b"<3>c", b"<1>d\n"[:5], b"<1>\ne"]
    assert {row["host_address"] for row in outlet.rows} == {"127.0.0.1"}


async def test_syslog_line_of_a_mebibyte(outlet: Collector) -> None:
    """A line up to the limit is whole; of a longer one the beginning comes, with a notice."""
    most = 1024 * 1024
    async with running(syslog_source(listen_tcp=["127.0.0.1:0"]), outlet):
        port = await outlet.port("tcp")
        await send_tcp(port, b"x" * most + b"\n", b"y" * (most + 10) + b"\nz\n")
        await outlet.until(lambda: len(outlet.rows) == 3 and outlet.told("lines_cut"))
    assert outlet.payloads == [b"x" * most, b"y" * most, b"z"]
    assert outlet.told("line_too_long") == [{"source": "127.0.0.1", "lines": 1}]
    assert outlet.told("lines_cut") == [{"source": "127.0.0.1", "lines": 1, "skipped_bytes": 10}]


async def test_syslog_unix_sockets(outlet: Collector, tmp_path: Path) -> None:
    """Both kinds of unix socket take messages; a stale file is replaced, and none is left."""
    paths = [tmp_path / "datagram", tmp_path / "stream"]
    for path in paths:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stale:
            stale.bind(str(path))
    outlet.gate.clear()
    async with running(syslog_source(unix_datagram=str(paths[0]), unix_stream=str(paths[1])), outlet):
        outlet.gate.set()
        await asyncio.sleep(0)  # the sockets are made in the first step of the source
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.connect(str(paths[0]))
            sender.send(b"<1>datagram")
        _, writer = await asyncio.open_unix_connection(paths[1])
        writer.write(b"<1>stream\n")
        await outlet.until(lambda: len(outlet.rows) == 2)
        writer.close()
        await writer.wait_closed()
        with pytest.raises(ConfigError, match="held by a running program"):
            await syslog_source(unix_stream=str(paths[1])).run(outlet)
    assert set(outlet.payloads) == {b"<1>datagram", b"<1>stream"}
    assert not any(path.exists() for path in paths)


async def test_connections_are_bounded(outlet: Collector) -> None:
    """One connection too many is closed with a notice; when one ends, the next is taken."""
    async with running(syslog_source(listen_tcp=["127.0.0.1:0"], max_connections=1), outlet):
        port = await outlet.port("tcp")
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"a\n")
        await outlet.until(lambda: outlet.rows)
        reader, refused = await asyncio.open_connection("127.0.0.1", port)
        assert await reader.read() == b""
        refused.close()
        await refused.wait_closed()
        writer.write(b"b")
        writer.close()
        await writer.wait_closed()
        await outlet.until(lambda: len(outlet.rows) == 2)
        await asyncio.sleep(0.05)  # until the other side of the closed connection is gone
        await send_tcp(port, b"c\n")
        await outlet.until(lambda: len(outlet.rows) == 3)
    assert outlet.told("too_many_connections") == [{"limit": 1, "source": "127.0.0.1"}]


async def test_stop_gives_what_connections_hold(outlet: Collector) -> None:
    """A line without end, and lines behind a full edge, are emitted when the source is told to stop."""
    async with running(syslog_source(listen_tcp=["127.0.0.1:0"]), outlet):
        _, writer = await asyncio.open_connection("127.0.0.1", await outlet.port("tcp"))
        writer.write(b"first\nhalf a li")
        await outlet.until(lambda: outlet.rows)
        writer.write(b"ne\nanother half")
        await writer.drain()
    assert outlet.payloads == [b"first", b"half a line", b"another half"]
    writer.close()
    await writer.wait_closed()


# --- file ------------------------------------------------------------------------------------------------------


def file_source(folder: Path, **settings: object) -> file.Source:
    quick = {"include": [f"{folder}/*.log"], "start": "beginning", "poll_s": 0.01, "discover_s": 0.02}
    return file.Source(msgspec.convert(quick | settings, file.Config))


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as opened:
        opened.write(data)


async def test_file_is_followed_through_rotation(outlet: Collector, tmp_path: Path) -> None:
    """Lines come in order, with path and offset; a renamed file is read to its end before its successor."""
    log = tmp_path / "a.log"
    append(log, b"one\n\ntwo\nthr")
    async with running(file_source(tmp_path), outlet):
        await outlet.until(lambda: len(outlet.rows) == 2)
        append(log, b"ee\n")
        await outlet.until(lambda: len(outlet.rows) == 3)
        append(log, b"four\n")
        log.rename(tmp_path / "a.log.1")
        append(log, b"five\n")
        append(tmp_path / "a.log.1", b"still the old one\n")
        await outlet.until(lambda: len(outlet.rows) == 6)
        append(log, b"six\n")
        await outlet.until(lambda: len(outlet.rows) == 7)
    old = [b"one", b"two", b"three", b"four", b"still the old one"]
    assert [payload for payload in outlet.payloads if payload in old] == old
    assert outlet.payloads.index(b"four") < outlet.payloads.index(b"five") < outlet.payloads.index(b"six")
    assert [(row["log.file.path"], row["log.offset"]) for row in outlet.rows[:3]] == [
        (str(log), 0),
        (str(log), 5),
        (str(log), 9),
    ]


async def test_file_cut_in_place_begins_again(outlet: Collector, tmp_path: Path) -> None:
    """After copytruncate the new content is read from its beginning, also behind the hole of a stubborn writer."""
    log = tmp_path / "a.log"
    append(log, b"one\ntwo\n" * 10)
    async with running(file_source(tmp_path), outlet):
        await outlet.until(lambda: len(outlet.rows) == 20)
        log.write_bytes(b"new\n")
        await outlet.until(lambda: len(outlet.rows) == 21)
        with log.open("r+b") as stubborn:
            stubborn.truncate(0)
            stubborn.seek(1000)
            stubborn.write(b"behind a hole\n")
        await outlet.until(lambda: len(outlet.rows) == 22)
    assert outlet.payloads[20:] == [b"new", b"behind a hole"]
    assert outlet.rows[21]["log.offset"] == 1000
    assert len(outlet.told("file_truncated")) == 2


async def test_file_goes_on_where_the_last_run_ended(outlet: Collector, tmp_path: Path) -> None:
    """A new run reads what was added since, also to a file that was renamed and to one that is new."""
    log = tmp_path / "a.log"
    append(log, b"before\n")
    async with running(file_source(tmp_path, start="end"), outlet):
        await outlet.until(lambda: outlet.settlements)
        append(log, b"one\nhalf")
        await outlet.until(lambda: outlet.rows)
    append(log, b" a line\n")
    log.rename(tmp_path / "a.log.1")
    append(log, b"new\n")
    async with running(file_source(tmp_path, start="end"), outlet):
        await outlet.until(lambda: len(outlet.rows) == 3)
    assert outlet.payloads == [b"one", b"half a line", b"new"]
    assert {row["log.file.path"] for row in outlet.rows} == {str(log)}


async def test_checkpoint_waits_for_what_it_covers(outlet: Collector, tmp_path: Path) -> None:
    """A run whose events nobody took leaves no trace: the next one gives them again."""
    append(tmp_path / "a.log", b"one\n")
    outlet.gate.clear()
    async with running(file_source(tmp_path), outlet):
        await outlet.until(outlet._changed.is_set)
    assert outlet.rows == []
    outlet.gate.set()
    async with running(file_source(tmp_path), outlet):
        await outlet.until(lambda: outlet.rows)
    assert outlet.payloads == [b"one"]


async def test_file_rest_is_flushed_and_odd_files_are_named(outlet: Collector, tmp_path: Path) -> None:
    """A last line without end is given after a while; a binary file and a damaged checkpoint are said once."""
    (outlet.state / "checkpoint.json").write_bytes(b"{")
    append(tmp_path / "binary.log", b"\x7fELF\0\0\0\1")
    append(tmp_path / "a.log", b"no end")
    append(tmp_path / "long.log", b"x" * 100 + b"\nshort\n")
    async with running(file_source(tmp_path, flush_after_s=0.02, max_line_bytes=10), outlet):
        await outlet.until(lambda: len(outlet.rows) == 3)
    assert sorted(map(bytes, outlet.payloads)) == [b"no end", b"short", b"x" * 10]  # type: ignore[arg-type]
    assert len(outlet.told("checkpoint_unreadable")) == 1
    assert len(outlet.told("file_not_text")) == 1
    assert len(outlet.told("line_too_long")) == 1


FOLLOW = """
import asyncio, os, sys, time
from pathlib import Path
from eddy_agents.normalizers import file

class Outlet:
    name = "child"
    state = Path(sys.argv[2])
    now_ns = staticmethod(time.time_ns)
    async def emit(self, draft):
        lines = draft.columns["event.original"]
        data = b"".join(lines.bytes_at(row) + b"\\n" for row in range(draft.count))
        while data:
            data = data[os.write(1, data):]
    async def settled(self): pass
    def lost(self, reason, count): raise SystemExit(reason)
    def notice(self, event, **fields): pass

file.CHECKPOINT_S = 0.01
include = (sys.argv[1] + "/a.log*",)
settings = file.Config(include=include, start=file.Start.BEGINNING, poll_s=0.005, discover_s=0.01, read_bytes=4096)
asyncio.run(file.Source(settings).run(Outlet()))
"""


async def _follow(logs: Path, state: Path, repo: Path) -> asyncio.subprocess.Process:
    env = os.environ | {"PYTHONPATH": f"{repo / 'mesh'}{os.pathsep}{repo / 'agents'}"}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", FOLLOW, str(logs), str(state), env=env, stdout=asyncio.subprocess.PIPE
    )


async def test_no_line_is_lost_by_kill(tmp_path: Path, repo: Path) -> None:
    """A follower that is killed at random while files are written and rotated gives every line at least once."""
    chance = random.Random(7)
    logs, state = tmp_path / "logs", tmp_path / "state"
    logs.mkdir()
    state.mkdir()
    log = logs / "a.log"
    written = 0
    seen: set[bytes] = set()
    for _ in range(5):
        child = await _follow(logs, state, repo)
        assert child.stdout is not None
        for _ in range(chance.randrange(5, 60)):
            count = chance.randrange(1, 300)
            append(log, b"".join(b"line %d\n" % number for number in range(written, written + count)))
            written += count
            if chance.random() < 0.1:
                log.rename(logs / f"a.log.{written}")
            seen.add(await child.stdout.readline())
        child.kill()
        rest = await child.stdout.read()
        seen.update(rest[: rest.rfind(b"\n") + 1].splitlines(keepends=True))
        await child.wait()
    child = await _follow(logs, state, repo)
    assert child.stdout is not None
    append(log, b"the end\n")
    missing = {b"the end\n", *(b"line %d\n" % number for number in range(written))} - seen
    while missing:  # a lost line shows as a time-out
        missing.discard(await child.stdout.readline())
    child.kill()
    await child.communicate()
    assert not missing


# --- journald --------------------------------------------------------------------------------------------------

JOURNALCTL = """#!{python}
import json, sys, time
with open({log!r}, "a") as log:
    print(*sys.argv[1:], file=log)
if "--after-cursor=refused" in sys.argv:
    sys.exit("Failed to seek to cursor")
for number in (1, 2):
    entry = {{"__CURSOR": f"c{{number}}", "__REALTIME_TIMESTAMP": f"{{number}}000000", "MESSAGE": f"m{{number}}"}}
    print(json.dumps(entry), flush=True)
time.sleep(60)
"""


def journal(tmp_path: Path) -> tuple[journald.Config, Path]:
    command, log = tmp_path / "journalctl", tmp_path / "arguments"
    command.write_text(JOURNALCTL.format(python=sys.executable, log=str(log)))
    command.chmod(0o755)
    return journald.Config(command=str(command), retry_s=0.01), log


async def test_journal_goes_on_at_its_cursor(outlet: Collector, tmp_path: Path) -> None:
    """Entries come as journalctl writes them; the next run goes on after the last, and no process is left."""
    config, log = journal(tmp_path)
    async with running(journald.Source(config), outlet):
        await outlet.until(lambda: len(outlet.rows) == 2)
    async with running(journald.Source(config), outlet):
        await outlet.until(lambda: len(outlet.rows) == 4)
    first, second = log.read_text().splitlines()
    assert "--lines=0" in first
    assert "--after-cursor=c2" in second
    assert msgspec.json.decode(outlet.rows[0]["event.original"])["MESSAGE"] == "m1"  # type: ignore[arg-type]


async def test_journal_goes_on_by_time_when_its_cursor_is_refused(outlet: Collector, tmp_path: Path) -> None:
    """A cursor that the journal does not know any more is replaced by the time of the last entry."""
    config, log = journal(tmp_path)
    (outlet.state / "checkpoint.json").write_text('{"__CURSOR":"refused","__REALTIME_TIMESTAMP":"5000001"}')
    async with running(journald.Source(config), outlet):
        await outlet.until(lambda: len(outlet.rows) == 2)
    assert "--since=@5" in log.read_text().splitlines()[1]
    assert outlet.told("journal_unavailable") == [{"reason": "Failed to seek to cursor", "retry_s": 0.01}]


async def test_host_without_journal_is_no_failure(outlet: Collector) -> None:
    """Without journalctl the source says so once and stays."""
    config = journald.Config(command="no-such-journalctl", retry_s=0.001, max_retry_s=0.001)
    async with running(journald.Source(config), outlet) as task:
        await outlet.until(lambda: outlet.notices)
        await asyncio.sleep(0.02)  # several attempts later
        assert not task.done()
    assert len(outlet.notices) == 1
    assert "is not installed" in str(outlet.told("journal_unavailable")[0]["reason"])


# --- json ------------------------------------------------------------------------------------------------------


async def test_json_lines_from_everywhere(outlet: Collector, tmp_path: Path) -> None:
    """A file ends the source, a named pipe outlives its writers, and TCP clients come and go."""
    path = tmp_path / "events.json"
    path.write_bytes(b'{"a":1}\n{"a":2}')
    await json_lines.Source(json_lines.Config(path=str(path))).run(outlet)
    assert outlet.payloads == [b'{"a":1}', b'{"a":2}']
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    async with running(json_lines.Source(json_lines.Config(path=str(pipe), listen=("127.0.0.1:0",))), outlet):
        port = await outlet.port("tcp")
        await asyncio.to_thread(pipe.write_bytes, b'{"a":3}\n')
        await outlet.until(lambda: len(outlet.rows) == 3)
        await asyncio.to_thread(pipe.write_bytes, b'{"a":4}\n')
        await outlet.until(lambda: len(outlet.rows) == 4)
        await send_tcp(port, b'{"a":5}\n{"a"', b":6}")
        await outlet.until(lambda: len(outlet.rows) == 6)
    assert outlet.payloads[2:] == [b'{"a":%d}' % number for number in (3, 4, 5, 6)]
    assert outlet.rows[5]["host_address"] == "127.0.0.1"


async def test_json_lines_needs_an_input(outlet: Collector) -> None:
    """Nothing to read from, or something that is not there, is a ConfigError."""
    for config in (json_lines.Config(), json_lines.Config(path="/no/such/file")):
        with pytest.raises(ConfigError):
            await json_lines.Source(config).run(outlet)


# --- http ------------------------------------------------------------------------------------------------------


async def ask(port: int, *parts: bytes) -> tuple[int, object]:
    """Send raw bytes; return status and JSON of the answer. The connection is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for part in parts:
            writer.write(part)
        head = await reader.readuntil(b"\r\n\r\n")
        while head.startswith(b"HTTP/1.1 100"):
            head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return int(head.split()[1]), msgspec.json.decode(await reader.readexactly(length))
    finally:
        writer.close()
        await writer.wait_closed()


def post(body: bytes, *fields: str, path: str = "/events", method: str = "POST", sized: bool = True) -> bytes:
    length = [f"content-length: {len(body)}"] if sized else []
    return "\r\n".join([f"{method} {path} HTTP/1.1", "host: x", *length, *fields, "", ""]).encode() + body


ARRAY = b'[{"a": 1}, 2,\n"x"]'


@pytest.mark.parametrize(
    ("request_bytes", "expected"),
    [
        (post(ARRAY), [b'{"a": 1}', b"2", b'"x"']),
        (post(b'{"a":1}\n{"b":2}\n'), [b'{"a":1}', b'{"b":2}']),
        (post(b'{"a":\n 1}', "content-type: application/json; charset=utf-8"), [b'{"a":\n 1}']),
        (post(b"one\r\ntwo", "content-type: text/plain"), [b"one", b"two"]),
        (
            post(b"2;x=y\r\n[1\r\n3\r\n,2]\r\n0\r\nx: y\r\n\r\n", "transfer-encoding: chunked", sized=False),
            [b"1", b"2"],
        ),
        (post(b"[1]", "expect: 100-continue"), [b"1"]),
        (post(b""), []),
    ],
    ids=["array", "lines", "object", "text", "chunked", "continue", "empty"],
)
async def test_posted_events_are_accepted(request_bytes: bytes, expected: list[bytes], outlet: Collector) -> None:
    """Each form of body gives its events, bytes unchanged, and the answer says how many."""
    async with running(http.Source(http.Config(listen=("127.0.0.1:0",))), outlet):
        assert await ask(await outlet.port("tcp"), request_bytes) == (200, {"accepted": len(expected)})
    assert outlet.payloads == expected


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"POST /events HTTP/1.1\r\n\r\n", 400),
        (post(b"{"), 400),
        (post(b"[1", "content-type: application/json"), 400),
        (post(b"[1]", "transfer-encoding: chunked"), 400),
        (post(b"[1]", "content-length: 4"), 400),
        (post(b"zz\r\n", "transfer-encoding: chunked", sized=False), 400),
        (post(b"[1]", path="/other"), 404),
        (post(b"", method="GET"), 405),
        (post(b"[1]", sized=False), 411),
        (post(b"[1]" * 100), 413),
        (post(b"fff\r\n", "transfer-encoding: chunked", sized=False), 413),
        (post(b"[1]", "content-type: image/png"), 415),
        (post(b"[1]", "content-encoding: gzip"), 415),
        (post(b"[1]", "x: " + "y" * 20_000), 431),
        (post(b"[1]", "x: " + "y" * 600_000), 431),
        (post(b"[1]", "transfer-encoding: gzip", sized=False), 501),
        (post(b"[" * 200), 400),
    ],
)
async def test_bad_request_is_refused(request_bytes: bytes, status: int, outlet: Collector) -> None:
    """A request that can not be taken gets its status and a text that says why, and gives no event."""
    async with running(http.Source(http.Config(listen=("127.0.0.1:0",), max_body_bytes=200)), outlet):
        answered, body = await ask(await outlet.port("tcp"), request_bytes)
    assert answered == status
    assert isinstance(body, dict)
    assert body["error"]
    assert outlet.rows == []


async def test_token_is_asked_for(outlet: Collector, tmp_path: Path) -> None:
    """With a token file only a request that shows the token is taken."""
    token = tmp_path / "token"
    token.write_text("secret\n")
    async with running(http.Source(http.Config(listen=("127.0.0.1:0",), token_file=str(token))), outlet):
        port = await outlet.port("tcp")
        assert (await ask(port, post(b"[1]")))[0] == 401
        assert (await ask(port, post(b"[1]", "authorization: Bearer wrong")))[0] == 401
        assert (await ask(port, post(b"[1]", "authorization: bearer secret")))[0] == 200


async def test_connection_serves_one_request_after_the_other(outlet: Collector) -> None:
    """A connection is kept, also for requests that were sent ahead."""
    async with running(http.Source(http.Config(listen=("127.0.0.1:0",))), outlet):
        reader, writer = await asyncio.open_connection("127.0.0.1", await outlet.port("tcp"))
        writer.write(post(b"[1]") + post(b"[2]") + post(b"[3]", "connection: close"))
        assert (await reader.read()).count(b'{"accepted":1}') == 3
        writer.close()
        await writer.wait_closed()
    assert outlet.payloads == [b"1", b"2", b"3"]


async def test_full_edge_makes_clients_wait_then_come_again(outlet: Collector) -> None:
    """While an edge is full a request waits for its answer, and one beyond the limit is told to come again."""
    outlet.gate.clear()
    config = http.Config(listen=("127.0.0.1:0",), max_waiting_bytes=4)
    async with running(http.Source(config), outlet):
        port = await outlet.port("tcp")
        first = asyncio.create_task(ask(port, post(b"[1]")))
        outlet._changed.clear()
        await outlet._changed.wait()
        assert (await ask(port, post(b"[2]")))[0] == 503
        outlet.gate.set()
        assert (await first)[0] == 200
    assert outlet.payloads == [b"1"]
