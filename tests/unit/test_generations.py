"""Which generation of an edge an agent serves, and that no change falls into the middle of a batch."""

from __future__ import annotations

import asyncio

from eddy_mesh.config import Serving
from eddy_mesh.runtime.generations import Generations


async def test_an_agent_that_stays_serves_the_newest_only() -> None:
    """From the activation on it serves the generation that names it, and none where it is named no more."""
    served = Generations()
    await served.activate({"e": Serving(1, ("h/a", "h/b"))}, {"h/a", "h/b"})
    assert served.now.served("e", "h/a") == 1
    await served.activate({"e": Serving(2, ("h/a",))}, {"h/a", "h/b"})
    assert (served.now.served("e", "h/a"), served.now.served("e", "h/b")) == (2, 0)


async def test_an_agent_that_goes_serves_what_it_served() -> None:
    """What still waits in it leaves on the old edges, until the change is settled."""
    served = Generations()
    await served.activate({"e": Serving(1, ("h/a",)), "gone": Serving(1, ("h/a", "h/b"))}, {"h/a", "h/b"})
    after = {"e": Serving(2, ("other/a",))}
    await served.activate(after, {"h/b"})
    assert (served.now.served("e", "h/a"), served.now.served("e", "other/a")) == (1, 2)
    assert (served.now.served("gone", "h/a"), served.now.served("gone", "h/b")) == (1, 0)
    served.settle(after)
    assert (served.now.served("e", "h/a"), served.now.served("gone", "h/a")) == (0, 0)


async def test_the_same_again_changes_nothing() -> None:
    """An activation that is done a second time, by the manager that takes over, leaves the table as it is."""
    served = Generations()
    for _ in range(2):
        await served.activate({"e": Serving(1, ("h/a",))}, {"h/a"})
    for _ in range(2):
        await served.activate({"e": Serving(2, ("g/a",))}, set())
    assert served.now.edges == {"e": (Serving(2, ("g/a",)), Serving(1, ("h/a",)))}


async def test_a_batch_on_its_way_ends_it_by_the_table_it_began_with() -> None:
    """The activation returns only then: the positions of older generations are final."""
    served = Generations()
    await served.activate({"e": Serving(1, ("h/a",))}, {"h/a"})
    with served.routing() as table:
        changing = asyncio.create_task(served.activate({"e": Serving(2, ("h/a",))}, {"h/a"}))
        await asyncio.sleep(0)
        assert table.served("e", "h/a") == 1
        assert served.now.served("e", "h/a") == 2
        assert not changing.done()
    await changing
