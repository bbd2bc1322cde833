"""Sources of JSON: files, named pipes, TCP and HTTP, all real."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import msgspec
import pytest

from eddy_agents.normalizers import http, json_lines
from eddy_mesh.errors import ConfigError
from eddy_mesh.memory_outlet import MemoryOutlet, running

pytestmark = pytest.mark.e2e


@pytest.fixture
async def outlet(tmp_path: Path) -> MemoryOutlet:
    state = tmp_path / "state"
    state.mkdir()
    return MemoryOutlet(state)


async def send_tcp(port: int, *parts: bytes) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    for part in parts:
        writer.write(part)
        await writer.drain()
    writer.close()
    await writer.wait_closed()


# --- json ------------------------------------------------------------------------------------------------------


async def test_json_lines_from_everywhere(outlet: MemoryOutlet, tmp_path: Path) -> None:
    """A file ends the source, a named pipe outlives its writers, and TCP clients come and go."""
    path = tmp_path / "events.json"
    path.write_bytes(b'{"a":1}\n{"a":2}')
    await json_lines.Source(json_lines.Config(path=str(path))).run(outlet)
    assert outlet.payloads == [b'{"a":1}', b'{"a":2}']
    assert outlet.told("input_ended") == [{"log.file.path": str(path)}]
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


async def test_json_lines_needs_an_input(outlet: MemoryOutlet) -> None:
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
async def test_posted_events_are_accepted(request_bytes: bytes, expected: list[bytes], outlet: MemoryOutlet) -> None:
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
async def test_bad_request_is_refused(request_bytes: bytes, status: int, outlet: MemoryOutlet) -> None:
    """A request that can not be taken gets its status and a text that says why, and gives no event."""
    async with running(http.Source(http.Config(listen=("127.0.0.1:0",), max_body_bytes=200)), outlet):
        answered, body = await ask(await outlet.port("tcp"), request_bytes)
    assert answered == status
    assert isinstance(body, dict)
    assert body["error"]
    assert outlet.rows == []


async def test_token_is_asked_for(outlet: MemoryOutlet, tmp_path: Path) -> None:
    """With a token file only a request that shows the token is taken."""
    token = tmp_path / "token"
    token.write_text("secret\n")
    async with running(http.Source(http.Config(listen=("127.0.0.1:0",), token_file=str(token))), outlet):
        port = await outlet.port("tcp")
        assert (await ask(port, post(b"[1]")))[0] == 401
        assert (await ask(port, post(b"[1]", "authorization: Bearer wrong")))[0] == 401
        assert (await ask(port, post(b"[1]", "authorization: bearer secret")))[0] == 200


async def test_connection_serves_one_request_after_the_other(outlet: MemoryOutlet) -> None:
    """A connection is kept, also for requests that were sent ahead."""
    async with running(http.Source(http.Config(listen=("127.0.0.1:0",))), outlet):
        reader, writer = await asyncio.open_connection("127.0.0.1", await outlet.port("tcp"))
        writer.write(post(b"[1]") + post(b"[2]") + post(b"[3]", "connection: close"))
        assert (await reader.read()).count(b'{"accepted":1}') == 3
        writer.close()
        await writer.wait_closed()
    assert outlet.payloads == [b"1", b"2", b"3"]


async def test_full_edge_makes_clients_wait_then_come_again(outlet: MemoryOutlet) -> None:
    """While an edge is full a request waits for its answer, and one beyond the limit is told to come again."""
    outlet.gate.clear()
    config = http.Config(listen=("127.0.0.1:0",), max_waiting_bytes=4)
    async with running(http.Source(config), outlet):
        port = await outlet.port("tcp")
        first = asyncio.create_task(ask(port, post(b"[1]")))
        await outlet.offered.wait()
        assert (await ask(port, post(b"[2]")))[0] == 503
        outlet.gate.set()
        assert (await first)[0] == 200
    assert outlet.payloads == [b"1"]
