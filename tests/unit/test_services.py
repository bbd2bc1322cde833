"""Discovery and endpoints in the NATS micro-service convention, on the memory bus."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
import pytest
from nats.micro.service import ServiceInfo, ServicePing, ServiceStats

from eddy_mesh.bus_memory import MemoryBroker, MemoryBus
from eddy_mesh.errors import BusError, SecurityError, UsageError
from eddy_mesh.services import Endpoint, Service, ServiceError, checked

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from eddy_mesh.bus import Message

STARTED_NS = 1_700_000_000_123_456_789


async def echo(message: Message) -> bytes:
    if message.data == b"typo":
        raise UsageError("no field\ndestinaton.port; did you mean destination.port?")
    if message.data == b"secret":
        raise SecurityError("not allowed for you")
    if message.data == b"busy":
        raise ServiceError("429", "come back later")
    if message.data == b"bug":
        raise ValueError("password is hunter2")
    return b"re: " + message.data


def made(bus: MemoryBus, instance: str, *, queue: str = "") -> Service:
    return Service(
        bus,
        "eddy-archive",
        "0.1.0",
        instance=instance,
        description="keeps events",
        metadata={"host": "h1"},
        endpoints=[Endpoint(name="echo", subject="eddy.query.echo", answer=echo, queue=queue, metadata={"a": "b"})],
        clock_ns=lambda: STARTED_NS,
    )


@pytest.fixture
async def bus() -> AsyncIterator[MemoryBus]:
    client = MemoryBroker().connect()
    yield client
    await client.close()


@pytest.mark.parametrize("suffix", ["", ".eddy-archive", ".eddy-archive.one"])
async def test_discovery_subjects(bus: MemoryBus, suffix: str) -> None:
    """A service answers PING, INFO and STATS for all, for its name and for itself, in a form that NATS tools read."""
    async with made(bus, "one"):
        answers = {}
        for verb in ("PING", "INFO", "STATS"):
            answer = await bus.request(f"$SRV.{verb}{suffix}", b"", timeout_s=5)
            answers[verb] = msgspec.json.decode(answer.data)
    for verb, document in answers.items():
        assert document["type"] == f"io.nats.micro.v1.{verb.lower()}_response"
    ping = ServicePing.from_dict(answers["PING"])
    assert (ping.name, ping.id, ping.version, ping.metadata) == ("eddy-archive", "one", "0.1.0", {"host": "h1"})
    info = ServiceInfo.from_dict(answers["INFO"])
    assert info.description == "keeps events"
    assert [(e.name, e.subject, e.queue_group, e.metadata) for e in info.endpoints] == [
        ("echo", "eddy.query.echo", "", {"a": "b"})
    ]
    assert answers["STATS"]["started"] == "2023-11-14T22:13:20.123457Z"
    assert ServiceStats.from_dict(answers["STATS"]).endpoints[0].num_requests == 0


async def test_every_instance_is_found(bus: MemoryBus) -> None:
    """Discovery reaches every instance, and one of them by its id."""
    async with made(bus, "one"), made(bus, "two"):
        answers = await bus.gather("$SRV.PING.eddy-archive", b"", timeout_s=5, at_most=2)
        assert sorted(msgspec.json.decode(answer.data)["id"] for answer in answers) == ["one", "two"]
        alone = await bus.gather("$SRV.PING.eddy-archive.two", b"", timeout_s=5, at_most=1)
        assert msgspec.json.decode(alone[0].data)["id"] == "two"


@pytest.mark.parametrize(("queue", "expected"), [("", 2), ("q", 1)])
async def test_endpoint_reaches_all_or_one(bus: MemoryBus, queue: str, expected: int) -> None:
    """Without a queue group every instance answers a request, with one exactly one does."""
    async with made(bus, "one", queue=queue), made(bus, "two", queue=queue):
        answers = await bus.gather("eddy.query.echo", b"x", timeout_s=5, idle_s=0.02)
    assert [answer.data for answer in answers] == [b"re: x"] * expected


@pytest.mark.parametrize(
    ("request_data", "code", "description"),
    [
        (b"typo", "400", "no field destinaton.port; did you mean destination.port?"),
        (b"secret", "403", "not allowed for you"),
        (b"busy", "429", "come back later"),
        (b"bug", "500", "internal error (ValueError); see the log of the agent"),
    ],
)
async def test_errors_become_headers(bus: MemoryBus, request_data: bytes, code: str, description: str) -> None:
    """What an endpoint raises reaches the caller as a code and one line, an unforeseen exception without its text."""
    async with made(bus, "one") as service:
        answer = await bus.request("eddy.query.echo", request_data, timeout_s=5)
        with pytest.raises(ServiceError) as caught:
            checked(answer)
        assert (caught.value.code, caught.value.description) == (code, description)
        counted = service.stats().endpoints[0]
    assert (counted.num_requests, counted.num_errors, counted.last_error) == (1, 1, f"{code} {description}")


async def test_stats_count(bus: MemoryBus) -> None:
    """Requests, errors and time are counted for each endpoint; the average is their quotient."""
    async with made(bus, "one") as service:
        for data in (b"a", b"b", b"bug"):
            await bus.request("eddy.query.echo", data, timeout_s=5)
        counted = service.stats().endpoints[0]
    assert (counted.num_requests, counted.num_errors) == (3, 1)
    assert counted.average_processing_time == counted.processing_time // 3 > 0


async def test_stopped_service_is_gone(bus: MemoryBus) -> None:
    """A stopped service answers nothing, and stops twice without an error."""
    service = made(bus, "one")
    await service.start()
    await service.stop()
    await service.stop()
    assert await bus.gather("$SRV.PING", b"", timeout_s=5) == []
    assert await bus.gather("eddy.query.echo", b"", timeout_s=5) == []


@pytest.mark.parametrize("fails", ["subscribe", "flush"])
@pytest.mark.parametrize("error", [BusError, asyncio.CancelledError])
async def test_a_start_that_fails_leaves_nothing_behind(
    bus: MemoryBus, fails: str, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each further try would add one more that answers; the next one that goes well answers once."""
    service, last = made(bus, "one"), "$SRV.STATS.eddy-archive.one"
    call = getattr(bus, fails)

    async def refused(*arguments: object, **more: object) -> object:
        if fails == "flush" or arguments[0] == last:
            raise error("no server")
        return await call(*arguments, **more)

    monkeypatch.setattr(bus, fails, refused)
    with pytest.raises(error):
        await service.start()
    monkeypatch.undo()
    assert await bus.gather("$SRV.PING", b"", timeout_s=5) == []
    assert await bus.gather("eddy.query.echo", b"", timeout_s=5) == []
    async with service:
        assert len(await bus.gather("eddy.query.echo", b"", timeout_s=5, idle_s=0.02)) == 1


@pytest.mark.parametrize(
    ("name", "version", "instance"),
    [("a.b", "1.0.0", "i"), ("", "1.0.0", "i"), ("a", "1.0", "i"), ("a", "1.0.0", "i.j"), ("a b", "1.0.0", "i")],
)
async def test_names_that_tools_would_refuse(bus: MemoryBus, name: str, version: str, instance: str) -> None:
    """A name, version or instance outside the convention is refused before anything is announced."""
    with pytest.raises(UsageError):
        Service(bus, name, version, instance=instance)
