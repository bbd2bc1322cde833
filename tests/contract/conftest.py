"""The two buses that the contract suite runs on: memory, and a real nats-server on a free port."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from eddy_mesh.bus import BusState, ConnectOptions
from eddy_mesh.bus_memory import MemoryBroker
from eddy_mesh.bus_nats import connect
from eddy_mesh.server import EmbeddedServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from eddy_mesh.bus import Bus


class MemoryEnd:
    """The memory bus."""

    def __init__(self) -> None:
        self.broker = MemoryBroker()
        self.clients: list[Bus] = []

    async def connect(self) -> Bus:
        """Return a new client."""
        self.clients.append(self.broker.connect())
        return self.clients[-1]

    async def go_away(self) -> None:
        """Take the server away."""
        self.broker.disconnect()

    async def come_back(self) -> None:
        """Bring the server back."""
        self.broker.reconnect()

    async def close(self) -> None:
        """Close the clients."""
        for client in self.clients:
            await client.close()


class NatsEnd:
    """A nats-server."""

    def __init__(self, server: EmbeddedServer) -> None:
        self.server = server
        self.clients: list[Bus] = []

    async def connect(self) -> Bus:
        """Return a new client."""
        options = ConnectOptions(reconnect_wait_s=0.02, reconnect_wait_max_s=0.1)
        self.clients.append(await connect(self.server.url, name="contract", options=options))
        return self.clients[-1]

    async def go_away(self) -> None:
        """Take the server away."""
        gone = [_told(client, BusState.DISCONNECTED) for client in self.clients]
        await self.server.kill()
        await asyncio.gather(*gone)

    async def come_back(self) -> None:
        """Bring the server back."""
        back = [_told(client, BusState.CONNECTED) for client in self.clients]
        await self.server.restart()
        await asyncio.gather(*back)

    async def close(self) -> None:
        """Close the clients."""
        for client in self.clients:
            await client.close()


def _told(client: Bus, wanted: BusState) -> asyncio.Future[None]:
    told: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def listen(state: BusState, _text: str) -> None:
        if state is wanted and not told.done():
            told.set_result(None)

    client.on_state(listen)
    return told


@pytest.fixture(params=["memory", "nats"])
async def broker(request: pytest.FixtureRequest) -> AsyncIterator[MemoryEnd | NatsEnd]:
    """The other end of the bus."""
    if request.param == "memory":
        memory = MemoryEnd()
        yield memory
        await memory.close()
        return
    async with EmbeddedServer() as server:
        end = NatsEnd(server)
        yield end
        await end.close()


@pytest.fixture
async def bus(broker: MemoryEnd | NatsEnd) -> Bus:
    """A client."""
    return await broker.connect()
