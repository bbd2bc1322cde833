"""Sources that listen: real datagrams, connections and unix sockets; only what takes their events is in memory."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from eddy_agents.normalizers import netflow, sflow, syslog
from eddy_mesh import datagrams
from eddy_mesh.datagrams import DatagramReceiver
from eddy_mesh.errors import ConfigError
from eddy_mesh.listening import Binding, PortTaken, bind
from eddy_mesh.memory_outlet import MemoryOutlet, running

pytestmark = pytest.mark.e2e


@pytest.fixture
async def outlet(tmp_path: Path) -> MemoryOutlet:
    state = tmp_path / "state"
    state.mkdir()
    return MemoryOutlet(state)


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
async def test_datagram_is_one_raw_event(module: object, outlet: MemoryOutlet) -> None:
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
    listen: str, sender: str, one_at_a_time: bool, outlet: MemoryOutlet
) -> None:
    """One system call for many datagrams or one for each: payloads, addresses and ports are the same."""
    if ":" in sender and not socket.has_ipv6:
        pytest.skip("no IPv6 on this host; enable it to run this")
    receiver = DatagramReceiver(bind(listen, Binding("udp"), outlet), one_at_a_time=one_at_a_time)
    try:
        payloads = [b"%d" % number for number in range(datagrams.DRAIN_DATAGRAMS + 44)]
        port = send_udp(receiver.port, *payloads, address=sender)
        first, second = await receiver.receive(), await receiver.receive()
        assert receiver.take() is None
        assert [d.payloads.at(row) for d in (first, second) for row in range(len(d))] == payloads
        assert first.addresses is not None
        assert first.ports is not None
        assert (first.addresses.at(0), first.ports.at(datagrams.DRAIN_DATAGRAMS - 1)) == (sender, port)
        assert first.addresses.is_v4 is (sender == "127.0.0.1")
        assert receiver.buffer_bytes > 0
    finally:
        receiver.close()


async def test_loop_without_readers_is_pushed_to(outlet: MemoryOutlet, monkeypatch: pytest.MonkeyPatch) -> None:
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
    limit = 16 * datagrams.DRAIN_DATAGRAMS
    for number in range(limit + 904):
        receiver._reader.datagram_received(b"%d" % number, ("127.0.0.1", port))
    assert receiver.newly_dropped() == 904
    receiver.close()
    await asyncio.sleep(0)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what its kernel dropped")
async def test_kernel_drops_are_counted_while_an_edge_is_full(outlet: MemoryOutlet) -> None:
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


async def test_stop_takes_what_has_arrived(outlet: MemoryOutlet) -> None:
    """What is in the socket when the source is told to stop is emitted, and what an edge does not take is counted."""
    outlet.gate.clear()
    async with running(netflow.Source(netflow.Config(listen=("127.0.0.1:0",))), outlet):
        port = await outlet.port("udp")
        send_udp(port, b"held")
        await outlet.offered.wait()
        send_udp(port, *[b"waiting"] * 1000)
    assert len(outlet.rows) + outlet.losses["stopped"] == 1001


# --- ports -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_taken_port_is_a_warning_with_the_alternative(transport: str, outlet: MemoryOutlet) -> None:
    """A taken port gives a notice that names it and the one used instead; the fallback ports come first."""
    binding = Binding("udp" if transport == "udp" else "tcp")
    with bind("127.0.0.1:0", binding, outlet) as first:
        taken = first.getsockname()[1]
        with bind(f"127.0.0.1:{taken}", binding, outlet) as second:
            using = second.getsockname()[1]
        wanted = Binding(binding.transport, fallback_ports=(using,))
        with bind(f"127.0.0.1:{taken}", wanted, outlet) as third:
            assert third.getsockname()[1] == using
    assert outlet.told("port_taken") == [{"network.transport": transport, "port": taken, "using": using}] * 2


async def test_taken_port_is_a_failure_where_asked_for(outlet: MemoryOutlet) -> None:
    """With port_taken = fail the error names the port and says what to do."""
    with bind("127.0.0.1:0", Binding("udp"), outlet) as first:
        port = first.getsockname()[1]
        config = netflow.Config(listen=(f"127.0.0.1:{port}",), port_taken=PortTaken.FAIL)
        with pytest.raises(OSError, match=f"udp port {port} is taken: stop the program") as raised:
            await netflow.Source(config).run(outlet)
    assert raised.value.errno == errno.EADDRINUSE


@pytest.mark.parametrize("listen", ["2055", "host:2055", "127.0.0.1:99999", "127.0.0.1:", "192.0.2.1:0"])
async def test_impossible_endpoint_says_what_to_write(listen: str, outlet: MemoryOutlet) -> None:
    """An endpoint that can not be is a ConfigError, not a failure to be tried again."""
    with pytest.raises(ConfigError, match="listen: "):
        await netflow.Source(netflow.Config(listen=(listen,))).run(outlet)


# --- syslog ----------------------------------------------------------------------------------------------------


def syslog_source(**settings: object) -> syslog.Source:
    return syslog.Source(msgspec.convert({"listen_udp": [], "listen_tcp": []} | settings, syslog.Config))


async def test_syslog_over_udp_and_tcp(outlet: MemoryOutlet) -> None:
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


async def test_syslog_line_of_a_mebibyte(outlet: MemoryOutlet) -> None:
    """A line up to the limit is whole; of a longer one the beginning comes, with a notice."""
    most = 1024 * 1024
    async with running(syslog_source(listen_tcp=["127.0.0.1:0"]), outlet):
        port = await outlet.port("tcp")
        await send_tcp(port, b"x" * most + b"\n", b"y" * (most + 10) + b"\nz\n")
        await outlet.until(lambda: len(outlet.rows) == 3 and outlet.told("lines_cut"))
    assert outlet.payloads == [b"x" * most, b"y" * most, b"z"]
    assert outlet.told("line_too_long") == [{"source.ip": "127.0.0.1", "edge.count": 1}]
    assert outlet.told("lines_cut") == [{"source.ip": "127.0.0.1", "edge.count": 1, "skipped_bytes": 10}]


def certificate(folder: Path) -> Path:
    """Write a self-signed certificate for localhost and its key into one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path = folder / "server.pem"
    path.write_bytes(made.public_bytes(Encoding.PEM) + private)
    return path


async def test_syslog_over_tls(outlet: MemoryOutlet, tmp_path: Path) -> None:
    """TLS senders are read like others; one that speaks no TLS, or shows no certificate, harms nobody."""
    pem = str(certificate(tmp_path))
    trusting = ssl.create_default_context(cafile=pem)
    known = ssl.create_default_context(cafile=pem)
    known.load_cert_chain(pem)
    source = syslog_source(listen_tls=["127.0.0.1:0"], tls_certificate_file=pem, tls_ca_file=pem)
    async with running(source, outlet):
        port = await outlet.port("tcp")
        with suppress(ConnectionError):
            await send_tcp(port, b"<1>not encrypted\n" * 100)
        for context in (trusting, known):
            reader, writer = await asyncio.open_connection("localhost", port, ssl=context, family=socket.AF_INET)
            writer.write(b"9 <1>secret")
            writer.close()
            with suppress(ConnectionError, ssl.SSLError):
                await reader.read()
                await writer.wait_closed()
        await outlet.until(lambda: outlet.rows)
    assert outlet.payloads == [b"<1>secret"]


@pytest.mark.parametrize(
    "settings",
    [{"listen_tls": ["127.0.0.1:0"]}, {"tls_certificate_file": "/no/such/file"}, {"tls_key_file": "/no/such/file"}],
)
async def test_unusable_tls_says_what_is_missing(settings: dict[str, object], outlet: MemoryOutlet) -> None:
    """TLS files that are missing or can not be used are a ConfigError."""
    with pytest.raises(ConfigError, match="tls"):
        await syslog_source(**settings).run(outlet)


async def test_syslog_unix_sockets(outlet: MemoryOutlet, tmp_path: Path) -> None:
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


async def test_connections_are_bounded(outlet: MemoryOutlet) -> None:
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
        while len(outlet.rows) < 3:  # until the place of the closed connection is free
            with suppress(ConnectionError):
                await send_tcp(port, b"c\n")
            await asyncio.sleep(0)
    assert outlet.told("too_many_connections")[0] == {"refused": 1, "source.ip": "127.0.0.1", "limit": 1}
    assert outlet.losses["too_many_connections"] >= 1


async def test_stop_gives_what_connections_hold(outlet: MemoryOutlet) -> None:
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
