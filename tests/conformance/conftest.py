"""What the conformance suite is run on: every agent type, source, cooking and detector that discovery finds.

A test that asks for ``every``, ``configured``, ``agent_type``, ``agent``, ``source``, ``cooking``, ``reworking`` or
``detector`` gets the module of one of them, and runs once for each. They are loaded one by one: a broken one fails its
own tests only. A ``reworking`` is a cooking that takes cooked events, whatever its edge's statement selects.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

from eddy_agents.reworking.passing import BY_STATEMENT
from eddy_mesh import discovery
from eddy_mesh.bus_memory import MemoryBroker
from eddy_mesh.config import HostConfig, convert
from eddy_mesh.runtime.host import Host


class Found(NamedTuple):
    """One of them.

    Attributes:
        agent_type: ``normalizer``, ``archive`` ...
        part: name of the source, cooking or detector; "" for the agent type itself.
    """

    agent_type: str
    part: str = ""

    def __str__(self) -> str:
        return f"{self.agent_type}-{self.part}" if self.part else self.agent_type


def _parts(*agent_types: str) -> list[Found]:
    return [Found(agent_type, name) for agent_type in agent_types for name in discovery.part_names(agent_type)]


def _reworks(found: Found) -> bool:
    """Return whether a cooking takes cooked events and not the raw ones of a type."""
    try:
        module = discovery.part_module(found.agent_type, found.part)
    except Exception:  # noqa: BLE001  # a broken one fails its own tests
        return False
    return getattr(module, "INPUT", ()) == BY_STATEMENT


TYPES = [Found(name) for name in discovery.agent_types()]
AGENTS = [found for found in TYPES if found.agent_type not in discovery.PARTS]
"""Agent types that do their work themselves, without a part that the configuration names."""
ASKED = {
    "every": [*TYPES, *_parts(*discovery.PARTS)],
    "configured": [*AGENTS, *_parts(*discovery.PARTS)],
    "agent_type": TYPES,
    "agent": AGENTS,
    "source": _parts("normalizer"),
    "cooking": [found for found in _parts("transformer") if not _reworks(found)],
    "reworking": [found for found in _parts("transformer") if _reworks(found)],
    "detector": _parts("analysis"),
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test once for each of what it asks for."""
    for name in ASKED.keys() & set(metafunc.fixturenames):
        metafunc.parametrize(name, ASKED[name], ids=str, indirect=True)


def _loaded(request: pytest.FixtureRequest) -> ModuleType:
    found: Found = request.param
    if found.part:
        return discovery.part_module(found.agent_type, found.part)
    return discovery.type_module(found.agent_type)


every = pytest.fixture(_loaded)
configured = pytest.fixture(_loaded)
agent_type = pytest.fixture(_loaded)
agent = pytest.fixture(_loaded)
source = pytest.fixture(_loaded)
cooking = pytest.fixture(_loaded)
reworking = pytest.fixture(_loaded)
detector = pytest.fixture(_loaded)


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    """A host process on a memory bus, without agents."""
    bus = MemoryBroker().connect()
    held = Host(convert({"name": "conformance"}, HostConfig, "test"), bus, tmp_path)
    await held.start()
    yield held
    await held.stop()
    await bus.close()
