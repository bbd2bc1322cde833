"""A recipient of anonymized events: its own backplane, nothing in the clear, nothing done while nobody listens."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from pathlib import Path

import pytest

from eddy_mesh.api import Mesh
from eddy_mesh.bus_memory import MemoryBroker
from eddy_mesh.config import HostConfig, convert
from eddy_mesh.errors import UsageError
from eddy_mesh.runtime.process import running

pytestmark = pytest.mark.e2e


def agents(keys: Path) -> dict[str, object]:
    """Return a topology with an anonymizer for the recipient ``out``."""
    return {
        "in-emit": {"type": "normalizer", "source": "emit"},
        "cook": {"type": "transformer", "cooking": "json"},
        "anonymizer": {"type": "anonymizer", "backplane": "out", "config": {"keys_file": str(keys)}},
    }


async def until(ready: Callable[[], bool]) -> None:
    """Wait until something is so."""
    while not ready():  # noqa: ASYNC110  # the condition is in another task's state
        await asyncio.sleep(0.02)


async def taken(mesh: Mesh, line: bytes) -> None:
    """Emit one event, as soon as somebody takes it."""
    while True:
        try:
            await mesh.emit("json", [line])
        except UsageError:
            await asyncio.sleep(0.02)
        else:
            return


async def test_a_recipient_gets_changed_events_and_only_while_it_listens(tmp_path: Path) -> None:
    """Addresses come out as others, the message does not come out, and before the tap nothing was anonymized."""
    keys = tmp_path / "keys.toml"
    keys.write_text(f'[[key]]\nepoch = 1\nnot_before = 1970-01-01T00:00:00Z\nkey = "{secrets.token_hex(32)}"\n')
    config = convert({"name": "h1", "agents": agents(keys)}, HostConfig, "test")
    broker = MemoryBroker()
    bus, tool = broker.connect(), broker.connect()
    async with running(config, bus, tmp_path) as (host, _):
        inside, outside = Mesh(tool, "eddy"), Mesh(tool, "out")
        line = b'{"source.ip": "10.1.2.3", "source.port": 4711, "message": "10.1.2.3 was here"}'
        async with asyncio.timeout(20):
            await taken(inside, line)
            tap = outside.tap("SELECT *")
            first = asyncio.ensure_future(anext(tap))
            await until(lambda: bool(host.demands["out"].flows))
            before = host.cells["anonymizer"].made
            await inside.emit("json", [line])
            event = await first
            await tap.aclose()
        assert before == 0
        assert event["source.port"] == 4711
        assert event["source.ip"] != "10.1.2.3"
        assert "message" not in event
        assert str(event["tags.anonymization"]).endswith("/1")
    await bus.close()
    await tool.close()
